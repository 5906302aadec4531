"""What would be left after a power cut, as far as acknowledging needs it: which transactions are not on the medium.

A SIGKILL leaves the page cache whole, so no process that dies shows a sync that was left out or came too late. But a
stage sees every commit record that is appended, and every sync; and whoever is told of a transaction that is not on
the medium was told too early. The words are shared, so that the processes of a real stage see the same.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Final

from kvs import files, layout

_TIMES_MAX: Final = 1 << 12
"""Transactions of a later T are not looked at; no scenario has as many."""
_sync_data: Final = files.sync_data


def nothing_missing(_: int) -> int:
    """What a store is asked in which nobody waits for the medium."""
    return 0


class Medium:
    """For each T the smallfile that its commit record is in, as long as that is not synced."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * _TIMES_MAX)
        self._words = memoryview(self._map).cast("Q")

    def clear(self) -> None:
        """Everything is on the medium."""
        self._map[:] = bytes(len(self._map))

    def appended(self, path: Path, time: int) -> None:
        """The commit record of ``time`` is being appended to the smallfile ``path``."""
        if time < _TIMES_MAX:
            self._words[time] = 1 + int(path.stem)

    def synced(self, path: Path) -> None:
        """All that is in ``path`` by now is on the medium."""
        if path.suffix == ".small":
            file = 1 + int(path.stem)
            for time, missing in enumerate(self._words):
                if missing == file:
                    self._words[time] = 0

    def oldest_missing(self, until: int) -> int:
        """The oldest transaction up to ``until`` that is not on the medium; 0 if there is none."""
        found = (time for time, missing in enumerate(self._words[: until + 1]) if missing)
        return next(found, 0)

    # -- the seams of the store ---------------------------------------------------------------------------

    def reached(self, point: str, write: Any) -> None:
        """Look at the write that ``point`` stands before, if it is that of a commit record."""
        if point == "record.before_append":
            store_prefix, _, pieces = write
            tag = pieces[0][layout.RECORD_HEADER_BYTES - layout.WORD : layout.RECORD_HEADER_BYTES]
            time = int.from_bytes(tag, "little") & layout.SEQUENCE_MASK
            self.appended(store_prefix.__self__.path, time)

    def watch(self) -> None:
        """See every sync of this process from now on."""
        files.sync_data = self._sync

    def _sync(self, fd: int, path: Path) -> None:
        _sync_data(fd, path)
        self.synced(path)


def unwatched() -> None:
    """Nobody looks at the syncs of this process any more."""
    files.sync_data = _sync_data
