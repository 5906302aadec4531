"""Playing a scenario with a recorder behind the store: what comes of it is a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.explore_job import POINTS, aims
from harness.history import Event as Said
from harness.history import Invoke
from harness.powerloss.recorder import Recorder, starts
from harness.powerloss.teller import Teller
from harness.powerloss.trace import Died, Event, Trace
from harness.scenario import Scenario
from harness.schedule.base import Strategy
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.stepped.base import Actor, State
from harness.stepped.execution import Execution, conduct
from harness.stepped.place import Place
from harness.stepped.program import Aftermath, Cast
from harness.stepped.simulated import Simulated

ENGINE = "kvs"
_ALIVE = (State.PARKED, State.WAITING)


def _ignored(_: Said) -> None:
    """What is said while nobody records."""


class _Place(Place):
    """A place that tells when it was put back, what everybody says, and when all is over and it is looked at."""

    restored: Callable[[], None] | None = None
    over: Callable[[], None] | None = None
    said: Callable[[Said], None] = staticmethod(_ignored)

    def restore(self) -> None:
        super().restore()
        if self.restored is not None:
            self.restored()

    def cast(
        self, pause: Callable[[str], None], emit: Callable[[Said], None], clock: Callable[[], int]
    ) -> Cast:
        def emitting(event: Said) -> None:
            emit(event)
            self.said(event)

        return super().cast(pause, emitting, clock)

    def examine(self, clock: int, killed: list[Invoke]) -> Aftermath:
        if self.over is not None:
            self.over()
        return super().examine(clock, killed)


class _Stage(Simulated):
    """A stage of greenlets on which everything is noted by ``recorder``, while there is one."""

    def __init__(self, place: _Place) -> None:
        super().__init__(place.scenario, place)
        self.recorder: Recorder | None = None
        self.teller = Teller(place)

    def who(self) -> int:
        """The process that acts at this moment."""
        return 0 if self._current is None else self._current.number

    def said(self, event: Said) -> None:
        """A process says something."""
        if self.recorder is not None and (events := self.teller.said(event)):
            self.recorder.note(*events)

    def _reached(self, point: str, write: Any = None) -> None:
        actor = self._current
        if self.recorder is not None and actor is not None:
            self.recorder.note(*self.teller.reached(actor.number, point, write))
        super()._reached(point, write)

    def _waits(self, lock: str, attempt: int) -> None:
        if self.recorder is not None:
            self.recorder.note()
        super()._waits(lock, attempt)

    def _live(self, actor: Actor, cast: Cast) -> None:
        super()._live(actor, cast)
        if self.recorder is not None and actor.state is State.ENDED:
            self.recorder.note(*self.teller.ended(actor.number))

    def kill(self, actor: Actor, torn: int) -> None:
        """See ``Stage``."""
        alive, current = actor.state in _ALIVE, self._current
        self._current = actor  # what is left of its write is its own
        super().kill(actor, torn)
        if self.recorder is not None and alive:
            self.recorder.note(Died(actor.number))
        self._current = current


class Recording:
    """One scenario, to be played and recorded any number of times. Use as a context manager: its store goes."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.place = _Place(scenario)
        self._stage = _Stage(self.place)
        self._starts = starts(self.place.store)
        self._events: list[Event] = []
        self._committed = Teller(self.place).committed(self.place.setup)
        alone = Replaying((), POINTS)
        alone.begin(scenario, 0)
        steps = len(conduct(self._stage, alone).steps)
        points = aims(scenario)
        self._strategies: tuple[Strategy, ...] = (RandomWalk(0, steps, points), Pct(0, steps, points))
        self.place.restored, self.place.over, self.place.said = self._attach, self._detach, self._stage.said

    def play(self, seed: int) -> Trace:
        """Play the schedule of the number ``seed`` of those by which the scenario is explored with seed 0."""
        return self.played(seed)[0]

    def played(self, seed: int) -> tuple[Trace, Execution]:
        """The trace, and what the schedule did. The trace ends where everybody was gone and the store is examined."""
        strategy = self._strategies[seed % 2]
        strategy.begin(self.scenario, seed)
        try:
            execution = conduct(self._stage, strategy)
        finally:
            self._detach()
        return Trace(
            ENGINE, options(self.scenario, seed), self._starts, self._events, self._committed
        ), execution

    def _attach(self) -> None:
        self._stage.teller.begin()
        recorder = Recorder(self.place.store, who=self._stage.who)
        self._events = recorder.events
        recorder.attach()
        self._stage.recorder = recorder

    def _detach(self) -> None:
        recorder, self._stage.recorder = self._stage.recorder, None
        if recorder is not None:
            recorder.note_stores()
            recorder.detach()

    def close(self) -> None:
        """Remove the store."""
        self._stage.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def options(scenario: Scenario, seed: int) -> dict[str, str | int | bool]:
    """What whoever recovers the store of a run must know, and what says which run it was."""
    return {
        "durable": scenario.durable,
        "smallfile_bytes": scenario.smallfile_bytes,
        "capacity": scenario.capacity,
        "scenario": scenario.name,
        "seed": seed,
    }


def record(scenario: Scenario, seed: int) -> Trace:
    """The trace of one random schedule, with kills, of ``scenario``; see ``Recording.play``."""
    with Recording(scenario) as recording:
        return recording.play(seed)
