"""What can be said of an adapter: that a probe found nothing, what it found, or why it was not made."""

from __future__ import annotations

import shlex
from typing import Final, Literal, NamedTuple

import msgspec

from harness.verdict import Outcome

ADAPTER: Final = "the adapter"
EITHER: Final = "the adapter or the store"
STORE: Final = "the store, unless the adapter says so of a store that is sound"

Kind = Literal["conflict", "doubt", "damaged", "other"]


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong: what was asked, what came, whose fault that is likely to be, and what to do."""

    asked: str
    came: str
    whose: str
    then: str


class Report(msgspec.Struct, frozen=True):
    """What one probe found. ``reason``: why it was skipped, or the fault in short."""

    probe: str
    outcome: Literal["ok", "wrong", "skipped"]
    seconds: float = 0.0
    reason: str = ""
    fault: Fault | None = None


class Examination(msgspec.Struct, frozen=True):
    """All that was found out about one engine."""

    engine: str
    reports: list[Report]
    interrupted: bool = False

    @property
    def faults(self) -> list[Report]:
        """The probes that found something wrong."""
        return [report for report in self.reports if report.outcome == "wrong"]

    @property
    def outcome(self) -> Outcome:
        """VIOLATION if anything is wrong, UNKNOWN if the examination was cut short before, else OK."""
        if self.faults:
            return Outcome.VIOLATION
        return Outcome.UNKNOWN if self.interrupted else Outcome.OK


class Wrong(Exception):  # noqa: N818 - what is found, not what goes wrong here
    """A probe found something. ``came``: what came instead of what was asked; ``then``: what to do about it."""

    def __init__(self, came: str, then: str, whose: str = ADAPTER) -> None:
        super().__init__(came, then, whose)
        self.came = came
        self.then = then
        self.whose = whose


class Skipped(Exception):  # noqa: N818 - as above
    """A probe has nothing to ask of this engine, and says why."""


class Raised(NamedTuple):
    """An exception that came out of the adapter: ``where`` is the file and the line."""

    kind: Kind
    name: str
    message: str
    where: str


class FailedError(Exception):
    """A call of the adapter raised."""

    def __init__(self, call: str, raised: Raised) -> None:
        super().__init__(call, raised)
        self.call = call
        self.raised = raised


class RefusedError(FailedError):
    """A call of the adapter raised ``ConflictError``."""


class HungError(Exception):
    """A call of the adapter did not return in time; ``where`` it was then, if that is known."""

    def __init__(self, call: str, seconds: float, where: str) -> None:
        super().__init__(call, seconds, where)
        self.call = call
        self.seconds = seconds
        self.where = where


class DiedError(Exception):
    """A process died in a call of the adapter that should not have ended it."""

    def __init__(self, call: str, how: str, where: str = "") -> None:
        super().__init__(call, how, where)
        self.call = call
        self.how = how
        self.where = where


def next_step(engine: str) -> str:
    """What to do where a process of a campaign died in the adapter, and nobody had killed it."""
    return f"next: `harness doctor {shlex.quote(engine)}` tells whether the adapter is at fault"


def fault_of(asked: str, error: Exception) -> Fault:
    """What a probe says that ended by ``error``."""
    if isinstance(error, Wrong):
        return Fault(asked, error.came, error.whose, error.then)
    if isinstance(error, HungError):
        came = f"{error.call} did not return within {error.seconds:.0f} s{_at(error.where)}"
        then = (
            "Find out what it waits for. A lock that a dead process held must pass on to whoever asks next."
        )
        return Fault(asked, came, EITHER, then)
    if isinstance(error, DiedError):
        came = f"the process {error.how} in {error.call}{_at(error.where)}"
        then = (
            "An adapter reports by exceptions; a process that dies in it counts as a failure of the harness."
        )
        return Fault(asked, came, EITHER, then)
    assert isinstance(error, FailedError), error
    return _of_raised(asked, error.call, error.raised)


_RAW: Final = (
    "Raise harness.ConflictError instead if the store refused without any effect (busy, locked, conflict), or mend"
    " it: a campaign that meets this exception ends there, with exit code 4."
)
_BY_KIND: Final[dict[Kind, tuple[str, str]]] = {
    "conflict": (EITHER, "Refuse only where somebody else is at it; here a retry must succeed in the end."),
    "doubt": (EITHER, "Find out why the store cannot say whether the operation took effect."),
    "damaged": (STORE, "Look at what the store says is damaged: nobody touched its files but the adapter."),
    "other": (
        ADAPTER,
        _RAW,
    ),
}


def _of_raised(asked: str, call: str, raised: Raised) -> Fault:
    whose, then = _BY_KIND[raised.kind]
    message = f": {raised.message}" if raised.message else ""
    return Fault(asked, f"{call} raised {raised.name}{message}{_at(raised.where)}", whose, then)


def _at(where: str) -> str:
    return f" ({where})" if where else ""
