"""The store as a dictionary: every revision of every key, in memory, obviously right."""

from __future__ import annotations

from collections.abc import Mapping

REVISIONS = 4


class TooOldError(Exception):
    """The model's SnapshotTooOldError."""


class Model:
    """Every T of every key. ``T`` counts commits; a removal is a revision whose value is ``None``."""

    def __init__(self) -> None:
        self.committed = 0
        self.revisions: dict[bytes, list[tuple[int, bytes | None]]] = {}

    def write(self, changes: Mapping[bytes, bytes | None]) -> int:
        """One transaction; returns its T."""
        self.committed += 1
        for key, value in changes.items():
            self.revisions.setdefault(key, []).append((self.committed, value))
        return self.committed

    def kept(self, key: bytes) -> list[tuple[int, bytes | None]]:
        """What the store keeps of a key, newest first."""
        return self.revisions.get(key, [])[: -REVISIONS - 1 : -1]

    def newest(self, key: bytes) -> tuple[int, bytes | None]:
        """T and value now; (0, None) where never written."""
        return next(iter(self.kept(key)), (0, None))

    def at(self, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
        """T and value as of ``snapshot``. Raises TooOldError where four later revisions took all places:
        the store cannot tell then whether there was one.
        """
        kept = self.kept(key)
        for time, value in kept:
            if time <= snapshot:
                return time, value
        if len(kept) == REVISIONS:
            raise TooOldError
        return 0, None

    def conflict(self, bases: Mapping[bytes, int]) -> set[bytes]:
        """The keys that are not any more at the revision that was fetched."""
        return {key for key, base in bases.items() if self.newest(key)[0] != base}

    def live(self) -> dict[bytes, bytes]:
        """Keys and values now."""
        found = {key: self.newest(key)[1] for key in self.revisions}
        return {key: value for key, value in found.items() if value is not None}
