"""Traffic: whether the run was enough of a torture to say anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.history import Died, Hits, Mark, RunEvent
from harness.plan import Plan
from harness.verdict import Verdict

NAME: Final = "traffic"

_NAMED_MAX = 8


def check(
    operations: Sequence[Operation],
    events: Sequence[RunEvent],
    plan: Plan,
    required_points: Iterable[str],
    milestones: Mapping[str, str] = MappingProxyType({}),
) -> Verdict:
    """The floors: enough operations, enough kills, every required point killed at, everything happened that the
    engine says must (``milestones``: what, and the sync point that counts it), and a final snapshot.

    Below any of them the verdict is ``UNKNOWN`` and says which. Rates are over the time from start to stop,
    so a run that was ended early is measured by what it did. Complexity: O(events).

    Does not verify: the store. It never ends in ``VIOLATION``.
    """
    found = Findings(NAME)
    limits = plan.limits
    seconds = run_seconds(events)
    acknowledged = sum(1 for op in operations if op.outcome == "ok")
    kills = sum(1 for event in events if is_kill(event))
    if seconds is None:
        found.unknown("the run has no start or no stop")
    else:
        if acknowledged < limits.operations_min * seconds or not acknowledged:
            found.unknown(
                f"too few operations: {acknowledged:,} in {seconds:.1f} s, the floor is "
                f"{limits.operations_min:g} per second"
            )
        if any(fault.startswith("kill") for fault in plan.faults) and kills < limits.kills_min * seconds:
            found.unknown(
                f"too few kills: {kills:,} in {seconds:.1f} s, the floor is {limits.kills_min:g} per second"
            )
    if "kill-point" in plan.faults:
        at_points = kills_by_point(events)
        required = sorted(required_points)
        missed = {point: at_points[point] for point in required if at_points[point] < limits.point_kills_min}
        if missed:
            found.unknown(
                f"{len(missed)} of {len(required)} required sync points were killed at less than "
                f"{limits.point_kills_min} times: "
                + ", ".join(f"{point} ({count})" for point, count in list(missed.items())[:_NAMED_MAX])
                + (f" and {len(missed) - _NAMED_MAX} more" if len(missed) > _NAMED_MAX else ""),
                points=missed,
            )
    for what, count in happened(events, milestones).items():
        if count < limits.events_min:
            found.unknown(f"too few {what}: {count}, the floor is {limits.events_min}")
    if not any(op.f == "final" and op.outcome == "ok" for op in operations):
        found.unknown("no final snapshot was completed")
    return found.verdict({"operations": acknowledged, "kills": kills})


def happened(events: Sequence[RunEvent], milestones: Mapping[str, str]) -> dict[str, int]:
    """How often everything happened that the engine counts by its sync points, all processes together."""
    hits: Counter[str] = Counter()
    for event in events:
        if isinstance(event, Hits):
            hits.update(event.hits)
    return {what: hits[point] for what, point in milestones.items()}


def is_kill(event: RunEvent) -> bool:
    """Whether the event is the death of a process by the SIGKILL that was meant for it."""
    return isinstance(event, Died) and event.signal == 9 and event.fault.startswith("kill")


def kills_by_point(events: Sequence[RunEvent]) -> Counter[str]:
    """How many processes died standing at each sync point."""
    return Counter(
        event.point for event in events if isinstance(event, Died) and is_kill(event) and event.at_point
    )


def run_seconds(events: Sequence[RunEvent]) -> float | None:
    """From the start mark to the stop mark, or ``None`` if either is missing."""
    marks = [event for event in events if isinstance(event, Mark)]
    start = next((mark.time for mark in marks if mark.what == "start"), None)
    stop = next((mark.time for mark in marks if mark.what in ("stop", "interrupted", "end")), None)
    return None if start is None or stop is None else (stop - start) / 1e9
