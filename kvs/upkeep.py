"""Compaction on behalf of a handle: when its user asks for it, and by itself when too much is dead."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from kvs import compaction, usage
from kvs.compaction import Compacted, Progress
from kvs.errors import Error
from kvs.generations import Generations
from kvs.smallfile import Smallfiles

_LOOK_EVERY_BYTES: Final = 4 << 20
"""A handle that compacts by itself looks at the whole index after so many bytes, or as many as were live at the last
look: looking must not cost more than writing."""


class Upkeep:
    """Compacts the store of one handle. ``compact_at``: past which dead share by itself, ``None`` for never."""

    def __init__(
        self,
        directory: Path,
        view: Generations,
        smallfiles: Smallfiles,
        *,
        lock_timeout_s: float,
        smallfile_bytes: int,
        compact_at: float | None,
    ) -> None:
        self._directory = directory
        self._view = view
        self._smallfiles = smallfiles
        self._lock_timeout_s = lock_timeout_s
        self._smallfile_bytes = smallfile_bytes
        self._compact_at = compact_at
        self._pending_bytes = _LOOK_EVERY_BYTES

    def compact(
        self, min_dead: float, *, turn_timeout_s: float | None = None, progress: Progress | None = None
    ) -> Compacted:
        """One pass; see ``compaction.compact``."""
        return compaction.compact(
            self._directory,
            self._view,
            self._smallfiles,
            lock_timeout_s=self._lock_timeout_s,
            turn_timeout_s=turn_timeout_s,
            min_dead=min_dead,
            smallfile_bytes=self._smallfile_bytes,
            progress=progress,
        )

    def written(self, byte_count: int) -> None:
        """After a commit of ``byte_count`` bytes: look now and then whether a compaction is due, and do it then."""
        self._pending_bytes -= byte_count
        if self._compact_at is None or self._pending_bytes > 0:
            return
        used = usage.usage(self._view.current(), self._smallfiles)
        self._pending_bytes = max(_LOOK_EVERY_BYTES, used.live_bytes // 4)
        if used.dead_bytes > self._compact_at * (used.live_bytes + used.dead_bytes):
            # Another does it, or there is no room, or what is wrong is met by whoever needs it: the commit that this
            # comes after has happened.
            with contextlib.suppress(Error, OSError):
                self.compact(self._compact_at / 2, turn_timeout_s=0.0)
