"""What was killed where, and where the others stood: how much of what can be met was met.

A meeting is a victim's sync point together with the sync point of one peer, and the lock that the peer waits for
there, if it does. (What a peer holds besides follows from where it stands.) Counting the meetings of an exploration
says little without knowing how many there are; an exhaustive search of a scenario knows.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from harness.errors import UsageError
from harness.oracle import Judge, kind_of
from harness.scenario import Scenario
from harness.schedule.base import Choice
from harness.schedule.exhaustive import Exhaustive, Redundant
from harness.schedule.search import STEP, Event
from harness.stepped.execution import Kill, conduct
from harness.stepped.simulated import Simulated
from harness.stepped.watch import Watch
from harness.verdict import Outcome
from kvs import syncpoints


class Meeting(NamedTuple):
    """A kill at ``victim`` while a peer stood at ``peer``, waiting there for the lock ``waits`` ("" if for none)."""

    victim: str
    peer: str
    waits: str = ""


class Coverage:
    """Counts of meetings, and of deaths by sync point. Those of several jobs can be merged."""

    def __init__(self) -> None:
        self.meetings: Counter[Meeting] = Counter()
        self.deaths: Counter[str] = Counter()

    def add(self, kills: Iterable[Kill]) -> None:
        """Count what one schedule showed."""
        for kill in kills:
            self.deaths[kill.point] += 1
            self.meetings.update(
                {Meeting(kill.point, point, waits) for _, point, waits, _ in kill.others if point}
            )

    def merge(self, other: Coverage) -> None:
        """Add what another job counted."""
        self.meetings.update(other.meetings)
        self.deaths.update(other.deaths)

    def share(self, universe: Iterable[Meeting]) -> float:
        """The part of ``universe`` that was met, from 0 to 1; 1 of an empty one."""
        wanted = set(universe)
        return len(wanted & self.meetings.keys()) / len(wanted) if wanted else 1.0

    def missing(self, universe: Iterable[Meeting]) -> list[Meeting]:
        """What of ``universe`` was not met, in order."""
        return sorted(set(universe) - self.meetings.keys())

    def never(self, points: Iterable[str]) -> list[str]:
        """The sync points of ``points`` at which nobody was killed, in their order."""
        return [point for point in points if not self.deaths[point]]

    def to_data(self) -> dict[str, Any]:
        """As plain data, for a file or another process."""
        return {
            "meetings": [[*meeting, count] for meeting, count in sorted(self.meetings.items())],
            "deaths": dict(sorted(self.deaths.items())),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Coverage:
        """What ``to_data`` gave. Raises UsageError if it did not."""
        coverage = cls()
        try:
            for victim, peer, waits, count in data["meetings"]:
                coverage.meetings[Meeting(victim, peer, waits)] = count
            coverage.deaths.update(data["deaths"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is no coverage that was saved: {error!r}; explore anew") from error
        return coverage


# -- what can be met ----------------------------------------------------------------------------------------------


def reachable(trace: Sequence[Event], joins: Sequence[int] = ()) -> set[Meeting]:
    """Every meeting that some order of the moves in ``trace`` shows which differs from it only in steps that commute.

    A victim dies at a cut of the trace that includes all that happened before its death, and not the death. A peer may
    stand after any of its moves such that such a cut exists (consistent cuts and vector clocks: Mattern, "Virtual time
    and global states of distributed systems", 1989). It may be waiting if somebody held the lock while it stood there.
    ``joins``: after how many deaths each process joins.
    """
    lives: dict[int, list[Event]] = {}
    for event in trace:
        lives.setdefault(event.process, []).append(event)
    holds = list(_holds(trace))
    deadly = [event for event in trace if event.way != STEP]
    found: set[Meeting] = set()
    deaths = 0
    for death in deadly:
        for number, life in lives.items():
            if number == death.process:
                continue
            after = bisect_left(life, death.number, key=lambda event, who=death.process: event.clock[who])  # type: ignore[misc]
            needs = joins[number - 1] if joins else 0
            for made in range(death.clock[number], min(after, len(life) - 1) + 1):
                if not made and needs > deaths:
                    continue
                stands = life[made]
                came = life[made - 1] if made else deadly[needs - 1] if needs else None
                found.add(Meeting(death.point, stands.point))
                if any(_meanwhile(hold, came, stands, death) for hold in holds if hold.lock == stands.wanted):
                    found.add(Meeting(death.point, stands.point, stands.wanted))
        deaths += 1
    return found


class _Hold(NamedTuple):
    """From ``taken`` to ``freed`` (``None``: to the end) a process held ``lock``."""

    lock: str
    taken: Event
    freed: Event | None


def _holds(trace: Sequence[Event]) -> Iterator[_Hold]:
    """Who held a lock, from when to when. A step that takes a lock and frees it again holds it at no point."""
    held: frozenset[str] = frozenset()
    for position, event in enumerate(trace):
        for lock in event.held - held:
            freed = next((later for later in trace[position + 1 :] if lock not in later.held), None)
            yield _Hold(lock, event, freed)
        held = event.held


def _meanwhile(hold: _Hold, came: Event | None, leaves: Event, death: Event) -> bool:
    """Whether the lock can have been held while a process stood where the move ``leaves`` begins, before ``death``.

    ``came`` is what brought it there: its move before, the death that it joined after, or nothing: it began there.
    """
    taken, freed = hold.taken, hold.freed
    owner, number = taken.process, leaves.process
    if owner == number or taken.clock[number] >= leaves.number or taken.clock[death.process] >= death.number:
        return False
    return freed is None or came is None or came.clock[owner] < freed.number


# -- all schedules ------------------------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True):
    """One kind of violation, where it showed first: the schedule's number and its choices."""

    kind: str
    property_name: str
    message: str
    number: int
    choices: tuple[Choice, ...]


class Exhausted(msgspec.Struct):
    """What a search of all schedules saw. ``schedules`` were played to the end and judged, one of each kind;
    ``redundant`` were given up as orders of what was seen. ``complete``: there is no other schedule within the bounds,
    which are ``kills``, ``torn`` and ``preemptions`` (``None``: any number of them). ``reachable``: every meeting that
    those schedules, and all the others of their kinds, can show. ``undecided``: judgements that could not be made.
    ``undeclared``: what a step touched that its sync point does not declare. ``state``: where the search stands, to go
    on from it (``None`` once it is complete).
    """

    scenario: str
    kills: int
    torn: bool
    preemptions: int | None
    schedules: int = 0
    redundant: int = 0
    steps: int = 0
    deaths: dict[str, int] = {}
    findings: list[Found] = []
    undecided: int = 0
    undeclared: set[str] = set()
    seconds: float = 0.0
    complete: bool = False
    reachable: set[tuple[str, str, str]] = set()
    state: dict[str, Any] | None = None

    @property
    def outcome(self) -> Outcome:
        """A violation if one was found, else OK if all schedules were seen and judged (and the sync points declare all
        that was touched), else UNKNOWN.
        """
        if self.findings:
            return Outcome.VIOLATION
        judged = self.complete and self.schedules and not self.undecided and not self.undeclared
        return Outcome.OK if judged else Outcome.UNKNOWN

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        kills = {0: "no kill", 1: "one kill anywhere"}.get(self.kills, f"{self.kills} kills anywhere")
        torn = " and after any part of a write" if self.torn and self.kills else ""
        if self.preemptions is None:
            return f"{kills}{torn}, any number of preemptions"
        return f"{kills}{torn}, at most {self.preemptions} preemptions"

    def to_data(self) -> dict[str, Any]:
        """As plain data, in an order that does not change from run to run."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        data["reachable"], data["undeclared"] = sorted(data["reachable"]), sorted(data["undeclared"])
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Exhausted:
        """What ``to_data`` gave. Raises UsageError if it did not."""
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"this is no search that was saved: {error}; begin a new one") from error


def exhaust(
    scenario: Scenario,
    *,
    preemptions: int | None = None,
    limit_s: float | None = None,
    limit_schedules: int | None = None,
    earlier: Exhausted | None = None,
    findings_max: int | None = None,
    show: Callable[[Exhausted], None] | None = None,
) -> Exhausted:
    """Play every schedule of ``scenario``, up to the order of steps that commute, and judge each one.

    It ends when there is none left, at a limit (of this call's seconds, of schedules in all), after ``findings_max``
    kinds of violations, or at a Ctrl-C, which loses nothing: what it returns can be given back as ``earlier``, and the
    search goes on exactly there. ``show`` is called after every schedule. Nothing is left behind.

    Raises:
        UsageError: ``earlier`` is of another scenario or other bounds.
        HarnessError: a schedule was not exact: played again, it did something else.
    """
    seen = earlier or Exhausted(scenario.name, scenario.kills, scenario.torn, preemptions)
    if (seen.scenario, seen.kills, seen.torn, seen.preemptions) != (
        scenario.name,
        scenario.kills,
        scenario.torn,
        preemptions,
    ):
        raise UsageError(
            f"the search that is to go on is of {seen.scenario} ({seen.bounds}); begin a new one"
        )
    began, before_s = time.monotonic(), seen.seconds
    with Simulated(scenario) as stage, Watch(stage) as watch:
        search = Exhaustive(watch, syncpoints.APPENDS, preemptions=preemptions, state=seen.state)
        judge = Judge(stage.place.setup)
        joins = [program.joins for program in scenario.programs]
        while not (
            (limit_s is not None and time.monotonic() - began >= limit_s)
            or (limit_schedules is not None and seen.schedules >= limit_schedules)
            or (findings_max is not None and len(seen.findings) >= findings_max)
        ):
            try:
                if not search.begin(scenario, seen.schedules):
                    break
                seen = _look(seen, stage, search, judge, joins)
                seen.seconds = before_s + time.monotonic() - began
                if show is not None:
                    show(seen)
            except KeyboardInterrupt:
                if (search.runs, search.redundant) != (seen.schedules, seen.redundant) or search.playing:
                    stage.end()
                    search.take_back()
                break
        seen.undeclared |= watch.undeclared
        seen.complete = search.complete
        seen.state = None if search.complete else search.state()
    return seen


def _look(
    seen: Exhausted, stage: Simulated, search: Exhaustive, judge: Judge, joins: Sequence[int]
) -> Exhausted:
    """Play the next schedule; returns ``seen`` with what it shows."""
    try:
        execution = conduct(stage, search)
    except Redundant:
        stage.end()
        search.give_up()
        return msgspec.structs.replace(seen, redundant=search.redundant)
    findings, undecided = judge.findings(execution)
    deaths = Counter(seen.deaths)
    deaths.update(kill.point for kill in execution.kills)
    found = list(seen.findings)
    if findings and kind_of(findings[0]) not in {known.kind for known in found}:
        kind, first = kind_of(findings[0]), findings[0]
        number = seen.schedules + 1
        found.append(Found(kind, first.property_name, first.message, number, tuple(execution.steps)))
    return msgspec.structs.replace(
        seen,
        schedules=search.runs,
        steps=seen.steps + len(execution.steps),
        deaths=dict(sorted(deaths.items())),
        findings=found,
        undecided=seen.undecided + undecided,
        reachable=seen.reachable | (reachable(search.trace(), joins) if execution.kills else set()),
    )
