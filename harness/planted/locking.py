"""Mistakes with the locks, and with what may be done without them."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from harness.planted.steps import BEFORE_LOCK, SHOW, VALIDATED, bare
from kvs import locks, writer

_WRITER: Final = writer.Writer

BUGS: Final[dict[str, Bug]] = {
    "no-commit-lock": Bug(
        "COMMIT is not taken: two writers publish at once",
        (
            Mutation(
                locks.RangeLocks,
                "try_acquire",
                "fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
                "wanted is COMMIT or fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
            ),
        ),
    ),
    "posix-locks": Bug(
        "POSIX record locks instead of open-file-description locks",
        (
            Mutation(locks.RangeLocks, "try_acquire", "fcntl.F_OFD_SETLK", "fcntl.F_SETLK"),
            Mutation(locks.RangeLocks, "release", "fcntl.F_OFD_SETLK", "fcntl.F_SETLK"),
        ),
        explored=False,
    ),
    "no-writer-lock": Bug(
        "WRITER[i] is not taken: two writers own one place and one smallfile",
        (
            Mutation(
                locks.RangeLocks,
                "try_acquire",
                "fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
                "wanted.rank == 1 or fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
            ),
        ),
    ),
    "unlocked-before-account": Bug(
        "COMMIT is free as soon as C is T: the tail, the counters and the intent are stored without it",
        (
            Mutation(_WRITER, "commit", SHOW, f"{bare(SHOW)}; self.locks.release(held)"),
            Mutation(
                _WRITER, "commit", "self._leave(held)  # 10", "held in self.locks._held and self._leave(held)"
            ),
        ),
    ),
    "time-before-lock": Bug(
        "T is chosen before COMMIT is held",
        (
            Mutation(
                _WRITER,
                "commit",
                BEFORE_LOCK,
                f"early = self.view.current().words[layout.H_COMMITTED] + 1; {BEFORE_LOCK}",
            ),
            Mutation(
                _WRITER,
                "commit",
                VALIDATED,
                f"time = early; {VALIDATED}",
            ),
        ),
    ),
    "conflict-keeps-lock": Bug(
        "COMMIT stays locked after a transaction that was refused",
        (
            Mutation(
                _WRITER,
                "commit",
                "finally:\n            self._leave(held)  # 10",
                "finally:\n            pass\n        self._leave(held)",
            ),
            Mutation(_WRITER, "_exit", "if sys.exc_info()[0] is not None:", "if False:"),
        ),
        campaign=False,  # a campaign ends at the error that follows, as one of the harness
    ),
}
