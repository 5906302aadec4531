"""Mistakes in taking over a dead writer's place and smallfile."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from kvs import opening, transaction

_WRITER: Final = transaction.Writer
_ACCOUNT_STEP: Final = (
    "repair.account(held, index, self.slot, offset + COMMIT_BYTES, keys_live, entries_used)  # 8"
)

BUGS: Final[dict[str, Bug]] = {
    "claim-remembers-tail": Bug(
        "whoever claims a dead writer's smallfile takes its tail before the dead one's commit is finished",
        (
            Mutation(
                _WRITER,
                "__init__",
                "self.failure: DurabilityError | None = None",
                "self.failure = None; self.known_tail = index.words[self.tail_word]",
            ),
            Mutation(
                _WRITER, "_prepare", "words[self.tail_word], self.appender", "self.known_tail, self.appender"
            ),
            Mutation(
                _WRITER, "commit", _ACCOUNT_STEP, f"self.known_tail = offset + COMMIT_BYTES; {_ACCOUNT_STEP}"
            ),
        ),
    ),
    "claim-skips-repair": Bug(
        "whoever claims a dead writer's smallfile appends to it before the dead one's commit is finished",
        (
            Mutation(opening, "claim", "writer.locked(unclean)", "unclean(None)"),
            Mutation(_WRITER, "_prepare", "self._finish_own()", "pass"),
        ),
    ),
}
