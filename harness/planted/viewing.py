"""Mistakes of readers and in the isolation of transactions."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from kvs import index, reading, snapshot, transaction, writer

_WRITER: Final = writer.Writer
_INDEX: Final = index.Index
_NOW: Final = "self._view.visible()"

BUGS: Final[dict[str, Bug]] = {
    "base-not-validated": Bug(
        "a commit does not look whether what it fetched has changed",
        (Mutation(_WRITER, "_validate", "if expected:", "if False:"),),
    ),
    "reader-does-not-recheck": Bug(
        "a reader does not look at the revision again after it copied the value",
        (
            Mutation(
                _INDEX, "unchanged", "return words[revision.time_word] == revision.time and", "return True or"
            ),
            Mutation(
                reading, "getter", "if time_words[(entry >> 3) + ring] == time else careful(key, default)", ""
            ),
            Mutation(reading, "_read_many", "for i in np.flatnonzero(again).tolist():", "for i in suspect:"),
        ),
        workloads=("bank", "register"),
        readers=4,
    ),
    "snapshot-ignored": Bug(
        "a reader takes the newest revision whether its snapshot includes it or not",
        (
            Mutation(_INDEX, "find", "if time > snapshot:", "if time == BUSY:"),
            Mutation(_INDEX, "find", "t for t in times if t <= snapshot", "t for t in times if t != BUSY"),
            Mutation(
                reading,
                "_read_many",
                "np.where(times <= snapshot, times, 0)",
                "np.where(times > 0, times, 0)",
            ),
        ),
    ),
    "snapshot-not-fixed": Bug(
        "a snapshot looks at C again for every key",
        (
            Mutation(snapshot.Snapshot, "_read", "self.transaction_counter", _NOW),
            Mutation(snapshot.Snapshot, "_read_many", "self.transaction_counter", _NOW),
        ),
    ),
    "reads-not-validated": Bug(
        "a serializable transaction validates only what it writes (write skew)",
        (Mutation(transaction.Transaction, "commit", 'if self._isolation == "serializable":', "if False:"),),
    ),
    "absent-not-validated": Bug(
        "a key that was absent when it was fetched is not validated",
        (Mutation(writer, "check_bases", "if found != base:", "if base and found != base:"),),
    ),
    "validated-before-lock": Bug(
        "the fetched keys are validated before COMMIT is held",
        (
            Mutation(_WRITER, "_validate", "if expected:", "if False:"),
            Mutation(
                _WRITER,
                "commit",
                'reach("commit.before_lock")',
                'check_bases(self.view.current(), expected); reach("commit.before_lock")',
            ),
        ),
    ),
}
