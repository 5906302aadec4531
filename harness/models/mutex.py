"""A mutex: acquire and release."""

from __future__ import annotations

from typing import Final

from harness.linear.base import Call, Sequential, State, unknown_operation
from harness.linear.check import checker
from harness.models.base import Model
from harness.recorded import Op

_FREE: Final = "free"
_HELD: Final = "held"


class Mutex(Sequential):
    """A lock that is free at first. ``acquire`` is possible while it is free, ``release`` while it is held, by
    whichever process: it is a plain mutex without owners. What failed had no effect. Values are ignored. A field "key"
    tells several locks apart.
    """

    name = "mutex"
    noun = "lock"
    initial: State = _FREE

    def call(self, op: Op) -> Call | None:
        """See ``Sequential``."""
        if op.f not in {"acquire", "release"}:
            raise unknown_operation(self.name, "acquire and release", op)
        if op.outcome == "fail":
            return None
        before, after = (_FREE, _HELD) if op.f == "acquire" else (_HELD, _FREE)
        return Call(op.f, needs=before, leaves=after)

    def says(self, call: Call) -> str:
        """See ``Sequential``."""
        return call.f

    def holds(self, state: State) -> str:
        """See ``Sequential``."""
        return str(state)


MUTEX: Final = Model(
    "mutex",
    "a lock, or one for each key: acquire, release",
    ("linearizable",),
    checker(Mutex()),
    lambda shape: bool(shape.functions) and shape.functions <= {"acquire", "release"} and not shape.micros,
)
