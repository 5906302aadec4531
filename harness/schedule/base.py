"""What a schedule is made of, and the interface of everything that makes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from harness.history import Event
from harness.scenario import Scenario


class Choice(NamedTuple):
    """One step: ``process`` moves from where it stands to its next sync point, or dies where it stands (``kill``).
    ``torn``: how many units (8-byte words, or bytes of an append) of the write that it stands before are applied first.
    ``point`` is where it stands (for the reader of a schedule, and to see whether a replay still fits).
    """

    process: int
    point: str = ""
    kill: bool = False
    torn: int = 0


class Standing(Protocol):
    """A process as a strategy sees it."""

    number: int
    point: str
    """The sync point where it stands, "" once it has ended."""
    waits: str
    """The lock that it waits for there, if it does."""
    parts: int
    """Units of the write that it stands before, 0 if it stands before none."""
    hits: int
    """How many points it came to so far, this one included."""

    @property
    def events(self) -> Sequence[Event]:
        """Its history so far."""


class View:
    """What a strategy chooses from: ``enabled`` can move (in the order of their numbers, never empty); ``mortal`` may
    be killed now, waiting ones included (empty when the scenario allows no more kills). ``step`` counts from 0;
    ``last`` is the process that moved last (0: none), and ``moved`` the same as it stands now (``None``: it is gone);
    ``deaths`` is how many were killed. One object serves a schedule.
    """

    __slots__ = ("deaths", "enabled", "last", "mortal", "moved", "step")

    def __init__(self) -> None:
        self.step = 0
        self.last = 0
        self.moved: Standing | None = None
        self.deaths = 0
        self.enabled: Sequence[Standing] = ()
        self.mortal: Sequence[Standing] = ()


class Strategy(Protocol):
    """Makes schedules, one after another. The same strategy with the same seed makes the same ones."""

    def begin(self, scenario: Scenario, number: int) -> bool:
        """Prepare schedule ``number`` (from 0); false if there is none any more."""

    def choose(self, view: View) -> Choice:
        """The next step. Must name one of ``enabled``, or kill one of ``mortal``."""

    def end(self, stopped: bool) -> None:
        """The schedule ended, or was ``stopped`` because it did not."""
