"""Mistakes that only a power cut shows: what is not on the medium although the store goes on as if it were."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from kvs import compaction, moving, opening, scanning, smallfile, writer

_WRITER: Final = writer.Writer


def _bug(meaning: str, *mutations: Mutation) -> Bug:
    return Bug(meaning, mutations, campaign=False, explored=False, powerloss=True)


BUGS: Final[dict[str, Bug]] = {
    "directory-not-synced": _bug(
        "the name of a new smallfile is not put on the medium before what is in it is acknowledged",
        Mutation(smallfile, "begin_smallfile", "files.sync_directory(path.parent)", "pass"),
    ),
    "wrong-file-synced": _bug(
        "a durable commit syncs the index instead of its smallfile",
        Mutation(
            _WRITER,
            "_make_durable",
            "appender.sync()",
            "durability.files.sync_data(index.fd, index.path)",
        ),
    ),
    "commit-unchecked": _bug(
        "a transaction counts whose records are not what its commit record says",
        Mutation(
            scanning,
            "_verified",
            "right &= (extents == bodies[:good, _RECORDS_HASH : _RECORDS_HASH + 2]).all(axis=1)",
            "pass",
        ),
    ),
    "index-trusted-after-reboot": _bug(
        "an index of another boot is used although the store was not closed cleanly",
        Mutation(
            opening, "_usable", "if stored_boot(index) == files.boot_id() or is_clean(index):", "if True:"
        ),
    ),
    "clean-mark-kept": _bug(
        "the mark of the clean close is not taken from the medium before the index is stored to",
        Mutation(opening, "_mark_unclean", "files.sync_data(index.fd, index.path)", "pass"),
    ),
    "made-before-sync": _bug(
        "a new store is there before its index is on the medium, which alone tells what it is",
        Mutation(opening, "_create", "synced=True", "synced=False"),
    ),
    "floor-before-sync": _bug(
        "a compaction says that everything up to its floor is on the medium, which it is not",
        Mutation(
            compaction._Pass,
            "begin_output",
            "self._smallfiles.sync(file_id)",
            "pass",
        ),
    ),
    "punch-before-floor-synced": _bug(
        "a compaction gives space back before its copies, and the floor with them, are on the medium",
        Mutation(moving.Output, "_publish", "appender.sync()", "pass"),
        Mutation(moving.Output, "_publish", "self._tail, sync=True", "self._tail"),
    ),
}
