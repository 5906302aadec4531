"""A consistent view of the store, without locks."""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import numpy as np

from kvs import layout, reading, syncpoints
from kvs.errors import ClosedStoreError, CorruptedStoreError
from kvs.generations import Generations
from kvs.keys import Item, Key, normalise, normalise_many
from kvs.locks import Pin, Pins
from kvs.records import Words
from kvs.smallfile import Smallfiles

_ITERATION_CHUNK = 1 << 12  # entries looked at together, and
_ITERATION_BYTES = 4 << 20  # of values: they bound the memory of an iteration


class Snapshot:
    """Everything up to transaction ``transaction_counter`` and nothing after, for as long as the store keeps
    the revisions: a key that is written four times meanwhile is ``SnapshotTooOldError``.

    Until it is closed its T is pinned: no compaction forgets what it may still read. Growth and compaction go on, and
    it does not notice. Left open it warns (``ResourceWarning``) when it is collected.
    """

    def __init__(
        self, view: Generations, smallfiles: Smallfiles, pins: Pins, check_usable: Callable[[], None]
    ) -> None:
        self._view = view
        self._smallfiles = smallfiles
        self._check_usable = check_usable
        self._closed = False
        self._pins, self._pin = pins, Pin()
        self._finalizer = weakref.finalize(self, _left_open, pins, self._pin)
        self._finalizer.atexit = False
        try:
            self.transaction_counter: int = self._pinned()
        except BaseException:
            self.close()
            raise

    def _pinned(self) -> int:
        """Pin what is visible now; its T."""
        while True:
            time = self._view.visible()
            syncpoints.reach("snapshot.before_pin")
            self._pins.pin(self._pin, time)
            syncpoints.reach("snapshot.after_pin")
            # Whoever forgets says first how far it will, and looks for pins then: one of us sees the other.
            index = self._view.current()
            horizon = index.words[layout.H_HORIZON]
            if horizon <= time:
                return time
            self._pins.unpin(self._pin)
            if self._view.visible() < horizon:
                raise CorruptedStoreError(
                    f"the index says that transaction {horizon} was visible, which never happened",
                    path=str(index.path),
                    offset_bytes=layout.H_HORIZON * layout.WORD,
                )

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
        index = self._view.current()  # its keys are all that this view can have, also after it is retired
        for first in range(0, index.slots, _ITERATION_CHUNK):
            self._check_open()
            slots = slice(first, min(first + _ITERATION_CHUNK, index.slots))
            heads, places = index.halves[::2][slots], index.halves[1::2][slots]
            used = heads[:, layout.E_TIME] != 0
            keys = [row.tobytes() for row in heads[used, :2]]
            for group in _groups(keys, places[used, 1::2]):
                values = self._read_many(group)
                for key in group:
                    value = values.pop(0)
                    if value is not None:
                        yield key, value
                    del value

    def close(self) -> None:
        """Let go of the view and its pin; idempotent."""
        self._closed = True
        self._pins.unpin(self._pin)
        self._finalizer.detach()  # last: where a Ctrl-C came before, it is done again

    def __enter__(self) -> Snapshot:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def _read(self, name: bytes) -> tuple[int, bytes | None]:
        self._check_open()
        found = reading.read(self._view, self._smallfiles, name, self.transaction_counter, pinned=True)
        self._check_open()  # or it may have been forgotten while another thread closed this
        return found

    def _read_many(self, names: list[bytes]) -> list[bytes | None]:
        found = reading.read_many(self._view, self._smallfiles, names, self.transaction_counter, pinned=True)
        self._check_open()
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedStoreError("the snapshot")
        self._check_usable()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a kvs.Snapshot cannot be pickled or copied: it holds a lock. Take one in the other process"
        )


def _left_open(pins: Pins, pin: Pin) -> None:
    """What happens to a snapshot that nobody closed, unless its store is closed or its process was forked."""
    if pins.fd >= 0 and pin.time >= 0:
        pins.unpin(pin)
        warnings.warn(
            f"a kvs.Snapshot of transaction {pin.time} was not closed", ResourceWarning, stacklevel=2
        )


def _groups(keys: list[bytes], lengths: Words) -> Iterator[list[bytes]]:
    """The keys in groups whose values, of whichever revision, are of ``_ITERATION_BYTES`` together, or of one key."""
    longest = np.where(lengths > layout.VALUE_BYTES_MAX, 0, lengths).max(axis=1, initial=0)  # no removals
    group: list[bytes] = []
    room = _ITERATION_BYTES
    for key, length in zip(keys, longest.tolist(), strict=True):
        if group and length > room:
            yield group
            group, room = [], _ITERATION_BYTES
        group.append(key)
        room -= length
    if group:
        yield group
