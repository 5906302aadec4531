"""What the sync points declare about the steps between them is what the store does, and what commutes does commute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from harness.history import Fail, Info, Invoke, Ok
from harness.scenario import Scenario
from harness.scenarios import SCENARIOS
from harness.schedule.base import Choice, View
from harness.schedule.footprints import DEATHS, Footprint, dependent
from harness.schedule.random_walk import RandomWalk
from harness.stepped import watch as watch_module
from harness.stepped.execution import conduct
from harness.stepped.program import OPEN, POINTS
from harness.stepped.simulated import Simulated
from harness.stepped.watch import DECLARED, Watch, lock_object
from kvs import syncpoints
from kvs.syncpoints import Touches

EVERY_POINT = [*syncpoints.POINTS, *POINTS]
SCHEDULES = 40
PLAYED = ("default", "durable", "claims", "wide", "crowded", "overtaken")
FILES = ("growth", "rollover", "laggards", "compaction", "pinned", "tombstones")


def test_every_point_declares_what_the_step_behind_it_touches() -> None:
    assert set(syncpoints.FOOTPRINTS) == set(syncpoints.POINTS)
    assert set(DECLARED) == set(EVERY_POINT)
    kinds = {kind for touches in DECLARED.values() for part in touches for kind in part}
    assert kinds <= set(syncpoints.SHARED)
    assert set(syncpoints.SHARED) - kinds == set(), "a kind of thing that nobody touches"
    assert set(syncpoints.ACQUIRES) | syncpoints.APPENDS <= set(syncpoints.POINTS)
    for point, lock in syncpoints.ACQUIRES.items():
        assert lock.lower() in syncpoints.FOOTPRINTS[point].writes


class Moved(NamedTuple):
    """One step, what it touched, and what really changed."""

    choice: Choice
    footprint: Footprint
    changed: set[int]


class Spy:
    """Follows another strategy, or exact ``choices``, and looks at every byte and lock before and after each step."""

    def __init__(self, stage: Simulated, watch: Watch, strategy: Any) -> None:
        self.stage = stage
        self.watch = watch
        self.strategy = strategy
        self.moved: list[Moved] = []
        self.joining = any(program.joins for program in stage.scenario.programs)

    def begin(self, scenario: Scenario, number: int) -> bool:
        self.moved = []
        self._choice: Choice | None = None
        self.watch.start()
        return bool(self.strategy.begin(scenario, number))

    def choose(self, view: View) -> Choice:
        self._look()
        choice: Choice = self.strategy.choose(view)
        mover = next(s for s in (*view.enabled, *view.mortal) if s.number == choice.process)
        self._choice, self._mover, self._told = choice, mover, len(mover.events)
        self._freed = self.watch.held_by(mover)
        self._before, self._locked = self.image(), self._locks()
        return choice

    def end(self, stopped: bool) -> None:
        self._look()
        self.watch.stop()
        self.final = self.image()
        self.strategy.end(stopped)

    def _look(self) -> None:
        if self._choice is None:
            self.watch.take(None, "")
            return
        choice, mover = self._choice, self._mover
        reads, writes, _, _ = self.watch.take(mover, choice.point)
        changed = set(self._changes()) | (self._locked ^ self._locks())
        if choice.kill or not mover.point:
            writes |= self._freed
        if self.joining:
            writes |= {DEATHS} if choice.kill else frozenset()
            reads |= {DEATHS} if choice.point == OPEN else frozenset()
        told = mover.events[self._told :]
        invokes = any(isinstance(event, Invoke) for event in told)
        completes = any(isinstance(event, Ok | Fail | Info) for event in told)
        self.moved.append(Moved(choice, Footprint(reads, writes, invokes, completes), changed))

    def image(self) -> dict[str, bytes]:
        """Every byte of the store's files."""
        return self.stage.place.images()

    def _locks(self) -> set[int]:
        return {lock_object(name) for actor in self.stage._actors for name in self.stage.holding(actor)}

    def _changes(self) -> Iterator[int]:
        """What changed, as objects. Words of all generations have one number, as in the watch; that an index comes or
        goes is a change of the directory.
        """
        now = self.image()
        for name in self._before.keys() | now.keys():
            before, after = self._before.get(name, b""), now.get(name, b"")
            size = max(len(before), len(after)) + 7 & -8
            unit = np.uint8 if name.endswith(".small") else np.uint64
            one, other = (np.frombuffer(data.ljust(size, b"\0"), unit) for data in (before, after))
            differs = np.flatnonzero(one != other).tolist()
            if name.endswith(".small"):
                yield from {watch_module._blocks(int(name[:-6]), byte, byte + 1)[0] for byte in differs}
            elif before and after:
                yield from differs
            else:
                yield watch_module._DIRECTORY


class Exact:
    """Follows choices, every one of which must be possible as it stands."""

    def __init__(self, choices: list[Choice]) -> None:
        self.choices = choices

    def begin(self, scenario: Scenario, number: int) -> bool:
        self.position = 0
        return True

    def choose(self, view: View) -> Choice:
        assert self.position < len(self.choices), "it goes on beyond its end"
        choice = self.choices[self.position]
        self.position += 1
        standing = next(
            (s for s in (view.mortal if choice.kill else view.enabled) if s.number == choice.process), None
        )
        assert standing is not None, f"{choice} is not possible any more"
        assert standing.point == choice.point, f"{choice} stands at {standing.point}"
        return choice

    def end(self, stopped: bool) -> None:
        assert self.position == len(self.choices), "it ended early"


def told(execution: Any) -> list[list[Any]]:
    """The histories without their times."""
    return [[msgspec.structs.replace(e, time=0) for e in events] for events in execution.histories]


@pytest.mark.parametrize("name", [*PLAYED, *FILES])
def test_a_step_changes_only_what_was_seen_and_declared(name: str) -> None:
    schedules = SCHEDULES if name in PLAYED else SCHEDULES // 4
    assert unseen(SCENARIOS[name], schedules) > schedules


def unseen(scenario: Scenario, schedules: int) -> int:
    """How many steps of random schedules changed anything, all of it watched; what is watched is also declared."""
    changes = 0
    with Simulated(scenario) as stage, Watch(stage) as watch:
        spy = Spy(stage, watch, RandomWalk(7, 120, EVERY_POINT))
        for number in range(schedules):
            spy.begin(scenario, number)
            conduct(stage, spy)
            for moved in spy.moved:
                assert moved.changed <= moved.footprint.writes, moved.choice
                changes += bool(moved.changed)
        assert watch.undeclared == set()
    return changes


@pytest.mark.parametrize("point", ["publish.after_busy", "prepare.before_append", "commit.after_clear"])
def test_a_write_that_a_point_does_not_declare_is_noticed(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DECLARED, point, Touches(DECLARED[point].reads, frozenset()))
    with pytest.raises(AssertionError, match=f"the step from {point} writes"):
        unseen(SCENARIOS["default"], 5)


def test_a_read_that_a_point_does_not_declare_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECLARED, "read.after_times", Touches(frozenset(), frozenset()))
    with pytest.raises(AssertionError, match=r"the step from read.after_times reads locations"):
        unseen(SCENARIOS["default"], 5)


def test_a_write_that_the_watch_overlooks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module._Words, "__setitem__", _store)
    with pytest.raises(AssertionError):
        unseen(SCENARIOS["default"], 5)


def _store(words: Any, word: int, value: int) -> None:
    words._words[word] = value


def swapped(scenario: Scenario, schedules: int, commute: Any) -> int:
    """Swap neighbours that commute in random schedules, one pair at a time, and play those again: they must pass the
    same points, tell the same histories and leave the same bytes. Returns how many pairs were swapped.
    """
    count = 0
    with Simulated(scenario) as stage, Watch(stage) as watch:
        for number in range(schedules):
            spy = Spy(stage, watch, RandomWalk(11, 120, EVERY_POINT))
            spy.begin(scenario, number)
            first = conduct(stage, spy)
            pairs = [
                i
                for i, (a, b) in enumerate(zip(spy.moved, spy.moved[1:], strict=False))
                if a.choice.process != b.choice.process and commute(a.footprint, b.footprint)
            ]
            for position in pairs[number % 7 :: 7]:
                choices = list(first.steps)
                choices[position : position + 2] = reversed(choices[position : position + 2])
                again = Spy(stage, watch, Exact(choices))
                again.begin(scenario, 0)
                second = conduct(stage, again)
                assert second.steps == choices
                assert told(second) == told(first), (position, choices[position : position + 2])
                assert again.final == spy.final, (position, choices[position : position + 2])
                footprints = [moved.footprint for moved in again.moved]
                footprints[position : position + 2] = reversed(footprints[position : position + 2])
                assert footprints == [moved.footprint for moved in spy.moved]
                count += 1
    return count


@pytest.mark.parametrize("name", [*PLAYED, *FILES])
def test_steps_that_commute_may_be_swapped(name: str) -> None:
    schedules = 1 if name in FILES else 3 if name == "wide" else 10
    assert swapped(SCENARIOS[name], schedules, lambda a, b: not dependent(a, b)) > schedules


@pytest.mark.parametrize(
    "blind",
    [
        lambda a, b: True,
        lambda a, b: a.writes.isdisjoint(b.writes),  # a reader and a writer of one word
        lambda a, b: a.writes.isdisjoint(b.reads) and a.reads.isdisjoint(b.writes),  # two writers of one word
    ],
)
def test_steps_that_do_not_commute_are_noticed_when_swapped(blind: Any) -> None:
    with pytest.raises(AssertionError):
        swapped(SCENARIOS["default"], 40, lambda a, b: dependent(a, b) and blind(a, b))
