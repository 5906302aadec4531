"""Mistakes in taking over a dead writer's place and smallfile."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from harness.planted.steps import ACCOUNT
from kvs import opening, writer

_WRITER: Final = writer.Writer
_TAKE_OVER: Final = "writer.locked(lambda held, index: _take_over(held, index, smallfiles, writer))"
_TAIL: Final = "words[place + layout.W_TAIL]"

BUGS: Final[dict[str, Bug]] = {
    "claim-remembers-tail": Bug(
        "whoever claims a dead writer's smallfile takes its tail before the dead one's commit is finished",
        (
            Mutation(
                _WRITER,
                "__init__",
                "self.failure: DurabilityError | None = None",
                "self.failure = None; self.known_tail = view.index.words[self.place + layout.W_TAIL]",
            ),
            Mutation(_WRITER, "_prepare", f"{_TAIL}, self.appender", "self.known_tail, self.appender"),
            Mutation(_WRITER, "room", _TAIL, "self.known_tail"),
            Mutation(_WRITER, "commit", ACCOUNT, f"self.known_tail = offset + COMMIT_BYTES; {ACCOUNT}"),
        ),
        writers=1,  # nobody else finishes what it left before its place is claimed
    ),
    "claim-skips-repair": Bug(
        "whoever claims a dead writer's smallfile appends to it before the dead one's commit is finished",
        (
            Mutation(
                opening,
                "claim",
                _TAKE_OVER,
                "_take_over(Held(locks.COMMIT), view.current(), smallfiles, writer)",
            ),
            Mutation(_WRITER, "_prepare", "self._finish_own()", "pass"),
        ),
    ),
}
