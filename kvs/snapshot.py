"""A consistent view of the store, without locks."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kvs import layout, reading
from kvs.errors import ClosedStoreError
from kvs.index import Index
from kvs.keys import Item, Key, normalise, normalise_many
from kvs.smallfile import Smallfiles

_ITERATION_CHUNK = 1 << 12  # entries looked at together: bounds the memory of an iteration


class Snapshot:
    """Everything up to transaction ``transaction_counter`` and nothing after, for as long as the store keeps
    the revisions: a key that is written four times meanwhile is ``SnapshotTooOldError``.
    """

    def __init__(self, index: Index, smallfiles: Smallfiles, check_usable: Callable[[], None]) -> None:
        self._index = index
        self._smallfiles = smallfiles
        self._check_usable = check_usable
        self._open = True
        self.transaction_counter: int = index.words[index.visible_word]

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of ``key`` in this view, or ``default``. Raises SnapshotTooOldError."""
        value = self._read(normalise(key))[1]
        return default if value is None else value

    def __getitem__(self, key: Key) -> bytes:
        value = self._read(normalise(key))[1]
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: Key) -> bool:
        return self._read(normalise(key))[1] is not None

    def find(self, key: Key) -> Item | None:
        """The key, its value and the T that wrote it, in this view; ``None`` if absent."""
        name = normalise(key)
        time, value = self._read(name)
        return None if value is None else Item(name, value, time)

    def find_time(self, key: Key) -> int:
        """T of the transaction that wrote or removed ``key`` last, in this view; 0 where none did."""
        return self._read(normalise(key))[0]

    def get_many(self, keys: Iterable[Key]) -> list[bytes | None]:
        """The values of ``keys`` in this view, ``None`` where absent. Raises SnapshotTooOldError."""
        self._check_open()
        return self._read_many(normalise_many(keys))

    def __iter__(self) -> Iterator[bytes]:
        """The keys in this view, in no particular order, in bounded memory. Raises SnapshotTooOldError."""
        return (key for key, _ in self.items())

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values in this view. Raises SnapshotTooOldError."""
        self._check_open()
        index = self._index
        for first in range(0, index.slots, _ITERATION_CHUNK):
            self._check_open()
            heads = index.halves[2 * first : 2 * min(first + _ITERATION_CHUNK, index.slots) : 2]
            used = heads[heads[:, layout.E_TIME] != 0, :2]
            keys = [row.tobytes() for row in used]
            values = self._read_many(keys)
            yield from ((key, value) for key, value in zip(keys, values, strict=True) if value is not None)

    def close(self) -> None:
        """Let go of the view; idempotent."""
        self._open = False

    def __enter__(self) -> Snapshot:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def _read(self, name: bytes) -> tuple[int, bytes | None]:
        self._check_open()
        return reading.read(self._index, self._smallfiles, name, self.transaction_counter)

    def _read_many(self, names: list[bytes]) -> list[bytes | None]:
        return reading.read_many(self._index, self._smallfiles, names, self.transaction_counter)

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedStoreError("the snapshot")
        self._check_usable()
