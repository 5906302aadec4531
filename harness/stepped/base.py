"""Stages: where the processes of a scenario are stepped, and what a stage must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from harness.history import Event
from harness.scenario import Program, Scenario
from harness.stepped.place import Place


class State(StrEnum):
    """What a process is doing: ``absent`` (it joins after a death), ``parked`` at a point, ``waiting`` for a lock,
    ``ended`` by itself, ``dead`` (killed), ``crashed`` (ended by an error or a signal that nobody sent).
    """

    ABSENT = "absent"
    PARKED = "parked"
    WAITING = "waiting"
    ENDED = "ended"
    DEAD = "dead"
    CRASHED = "crashed"


class Actor:
    """One process on a stage, as its stage last saw it. See ``schedule.base.Standing`` for what strategies look at."""

    __slots__ = (
        "events",
        "hits",
        "number",
        "parts",
        "point",
        "program",
        "signal",
        "state",
        "waits",
        "within",
    )

    def __init__(self, number: int, program: Program) -> None:
        self.number = number
        self.program = program
        self.state = State.ABSENT if program.joins else State.PARKED
        self.point = ""
        self.waits = ""
        self.parts = 0
        self.hits = 0
        self.signal = 0
        """What it really died of, where it is a real process."""
        self.events: list[Event] = []
        """Its history so far."""
        self.within: Any = None
        """The stage's own."""


class Stage(Protocol):
    """Plays one scenario any number of times, one schedule after another."""

    scenario: Scenario
    place: Place
    clock: int
    """The number of the step under way: what the events take as their time."""

    def begin(self) -> Sequence[Actor]:
        """Put the store back and everybody at the start. Nobody who does not join has not opened the store."""

    def step(self, actor: Actor) -> None:
        """Let ``actor`` (parked, or waiting for a lock that is free) go on to its next point, wait or end."""

    def kill(self, actor: Actor, torn: int) -> None:
        """Kill ``actor`` where it stands, after ``torn`` units of the write that it stands before. Afterwards its locks
        are free, it is ``dead``, and nothing of it ever runs again.
        """

    def holding(self, actor: Actor) -> tuple[str, ...]:
        """The names of the locks that ``actor`` holds, as far as the stage knows."""

    def end(self) -> None:
        """Kill everybody who is left. Afterwards nobody has the store open, and it may be examined."""

    def close(self) -> None:
        """Leave nothing behind: no process, lock or file."""
