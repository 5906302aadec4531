"""Liveness: the dead leave nothing behind, and the survivors go on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from harness.checkers import rebuild
from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.history import Died, Left, Mark, Paused, RunEvent, Spawned, Standstill
from harness.verdict import Verdict

NAME: Final = "liveness"
SIGKILL: Final = 9


class Stall(NamedTuple):
    """A time without any commit, from ``start`` to ``end``, ``excused_ns`` of it nobody's fault."""

    start: int
    end: int
    excused_ns: int

    @property
    def seconds(self) -> float:
        """What counts."""
        return (self.end - self.start - self.excused_ns) / 1e9


def check(
    operations: Sequence[Operation],
    events: Sequence[RunEvent],
    stall_s: float,
    reporters: frozenset[int] = frozenset(),
) -> Verdict:
    """No lock, no process is left behind; nobody dies by accident; survivors commit within ``stall_s``.
    ``reporters``: processes that reported a violation, and then ended themselves.

    Definition: after a process crashes, the operations of the others still complete (progress despite
    crashes: Herlihy & Shavit, "On the nature of progress", 2011, here with a bound in seconds). The stall is
    the longest time between two acknowledged writes of anybody, from the start of the run until its stop,
    less the time in which the machine stood still, a fault had stopped one who held a lock that commits wait for, or
    the index was lost and not there again. Complexity: O(n log n).

    Does not verify: that every single survivor makes progress (one may starve); anything after the stop but
    what was found to be left behind.
    """
    found = Findings(NAME)
    for event in events:
        if isinstance(event, Left) and event.kind in ("lock", "process"):
            found.violation(event.message, time=event.time, expected=f"no {event.kind} left behind")
        elif isinstance(event, Died):
            _check_death(event, reporters, found)
    longest = longest_stall(operations, events)
    if longest is None:
        found.unknown("the run has no start or no stop: stalls cannot be measured")
        return found.verdict({})
    if longest.seconds > stall_s:
        found.violation(
            f"no commit for {longest.seconds:.3f} s{_after_whom(longest, events)}",
            time=longest.start,
            seconds=longest.seconds,
            expected=f"a commit within {stall_s:g} s",
        )
    deaths = sum(1 for event in events if isinstance(event, Died) and event.fault)
    return found.verdict({"deaths": deaths, "longest_stall_ms": round(longest.seconds * 1e3)})


def _check_death(event: Died, reporters: frozenset[int], found: Findings) -> None:
    """Whether somebody meant it."""
    name = f"process {event.process}"
    where = f" after {event.point}" if event.point else ""
    if event.signal == SIGKILL and event.fault:
        return
    if event.signal == SIGKILL:
        found.unknown(f"{name} died of signal 9{where}, which the harness did not send (out of memory?)")
    elif event.signal:
        found.violation(
            f"{name} died of signal {event.signal}{where}, which nobody sent",
            time=event.time,
            process=event.process,
            expected="death by SIGKILL only",
        )
    elif event.status and event.process not in reporters:
        found.unknown(
            f"{name} ended by itself with status {event.status}{where}: an exception that neither the adapter nor"
            " the harness expects, see its stderr in the run directory"
        )


def longest_stall(operations: Sequence[Operation], events: Sequence[RunEvent]) -> Stall | None:
    """The longest time without a commit between start and stop, or ``None`` if either is unknown."""
    moments = _moments(operations, events)
    if not moments:
        return None
    excuses = _union(events)
    longest = Stall(moments[0], moments[0], 0)
    for before, after in pairwise(moments):
        if after - before > longest.seconds * 1e9:
            stall = _stall(before, after, excuses)
            if stall.seconds > longest.seconds:
                longest = stall
    return longest


def stalls(operations: Sequence[Operation], events: Sequence[RunEvent], seconds_min: float) -> list[Stall]:
    """The times of at least ``seconds_min`` without a commit, excused or not, in their order; none if start or stop
    is unknown.
    """
    excuses = _union(events)
    return [
        _stall(before, after, excuses)
        for before, after in pairwise(_moments(operations, events))
        if after - before >= seconds_min * 1e9
    ]


def _moments(operations: Sequence[Operation], events: Sequence[RunEvent]) -> list[int]:
    """The start, every commit, and the stop; nothing if start or stop is unknown."""
    marks = [event for event in events if isinstance(event, Mark)]
    start = next((mark.time for mark in marks if mark.what == "start"), None)
    stop = next((mark.time for mark in marks if mark.what in ("stop", "interrupted", "end")), None)
    if start is None or stop is None or stop < start:
        return []
    commits = sorted(
        op.completed
        for op in operations
        if op.f == "write" and op.outcome == "ok" and op.completed is not None and start < op.completed < stop
    )
    return [start, *commits, stop]


def _stall(before: int, after: int, excuses: list[tuple[int, int]]) -> Stall:
    """The time between two commits, and what of it is excused."""
    excused = 0
    for begin, end in excuses[bisect_left(excuses, before, key=lambda excuse: excuse[1]) :]:
        if begin >= after:
            break
        excused += max(0, min(end, after) - max(begin, before))
    return Stall(before, after, excused)


def _union(events: Sequence[RunEvent]) -> list[tuple[int, int]]:
    """The intervals that are not to be counted, disjoint and in order."""
    merged: list[tuple[int, int]] = []
    stopped = [
        (event.time, event.until)
        for event in events
        if isinstance(event, Standstill) or (isinstance(event, Paused) and event.holder)
    ]
    for begin, end in sorted(stopped + rebuild.intervals(events)):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _after_whom(stall: Stall, events: Sequence[RunEvent]) -> str:
    """The kills within the stall, or the last one before it."""
    kills = [event for event in events if isinstance(event, Died) and event.fault and event.signal]
    times = [event.time for event in kills]
    first, last = bisect_left(times, stall.start), bisect_right(times, stall.end)
    chosen = kills[first:last] or kills[max(0, first - 1) : first]
    if not chosen:
        return "; nobody had been killed"
    roles = {event.process: event.role for event in events if isinstance(event, Spawned)}
    said = [
        f"{roles.get(event.process, 'process')} {event.process}"
        + (f" at {event.point}" if event.point else "")
        for event in chosen[:3]
    ]
    more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
    return f" after the kill of {', '.join(said)}{more}"
