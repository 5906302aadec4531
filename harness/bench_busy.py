"""Two processes on one store, for ``harness bench``: one keeps house, the other gets or puts and times every call."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from xxhash import xxh3_128_digest

import kvs
from harness.errors import HarnessError

BATCH: Final = 1024
APART: Final = 1 << 40
"""The first number of the keys that a busy writer puts: nobody else's."""
_CALLS: Final = 256  # timed calls between two looks at the pipe
_SAMPLE: Final = 32_768

Call = Callable[[bytes], Any]


def key_of(number: int) -> bytes:
    """The key with that number."""
    return xxh3_128_digest(number.to_bytes(8, "little"))


def value_of(number: int, version: int, value_bytes: int) -> bytes:
    """What that key holds after it was written ``version`` times before; ``value_bytes`` is a multiple of 16."""
    return (number << 64 | version).to_bytes(16, "little") * (value_bytes // 16)


class Window(NamedTuple):
    """A stretch of time by the monotonic clock, in nanoseconds."""

    begin: int
    end: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.begin) / 1e9


class Span(msgspec.Struct, frozen=True):
    """The calls that overlap a window: how many, and how long they took."""

    calls: int
    median_s: float
    p99_s: float
    longest_s: float


class Order(NamedTuple):
    """What the busy process shall do until it is asked: ``get`` or ``put`` the ``keys`` keys from number ``first``."""

    path: Path
    what: str
    first: int
    keys: int


def busy(pipe: Any) -> None:
    """A process that, for every ``Order``, opens the store, answers that it has begun, and goes on until it is told
    ``None``; then it gets windows and answers with a ``Span`` for each. ``None`` instead of an order ends it.
    """
    for order in iter(pipe.recv, None):
        numbers = Random(order.keys).sample(range(order.keys), min(order.keys, _SAMPLE))
        keys = [key_of(order.first + number) for number in numbers]
        with kvs.open(order.path, "r" if order.what == "get" else "w") as store:
            bind = partial(getattr, store, "get") if order.what == "get" else partial(_putting, store)
            for key in keys:  # untimed: maps what is there
                bind()(key)
            pipe.send(None)
            stamps = _until_asked(pipe, bind, keys)
            pipe.recv()
            if None in store.get_many(keys):
                raise HarnessError(f"a key is missing in {order.path}: nothing here means anything")
        pipe.send(spans(stamps, pipe.recv()))


def _putting(store: kvs.Store) -> Call:
    """A single put of a short value."""
    value = value_of(0, 0, 16)

    def put(key: bytes) -> None:
        store[key] = value

    return put


def _until_asked(pipe: Any, bind: Callable[[], Call], keys: Sequence[bytes]) -> array[int]:
    """Call again and again with ``keys`` in turn; the moments between the calls, ``_CALLS`` + 1 for each look at the
    pipe. The call is bound anew each time, as a user's loop binds it: a store has another ``get`` after a growth.
    """
    clock, stamps, first = time.monotonic_ns, array("q"), 0
    append = stamps.append
    repeated = [*keys, *keys[:_CALLS]] if len(keys) >= _CALLS else [*keys] * (2 + _CALLS // len(keys))
    while not pipe.poll():
        call = bind()
        append(clock())
        for key in repeated[first : first + _CALLS]:
            call(key)
            append(clock())
        first = (first + _CALLS) % len(keys)
    return stamps


def spans(stamps: array[int], windows: Sequence[Window]) -> list[Span]:
    """For every window, how long the calls took that overlap it."""
    moments = np.frombuffer(stamps, dtype=np.int64).reshape(-1, _CALLS + 1)
    begins, ends = moments[:, :-1].ravel(), moments[:, 1:].ravel()
    found = []
    for begin, end in windows:
        took = (ends - begins)[(begins < end) & (ends > begin)] / 1e9
        if len(took):
            values = [float(each) for each in (np.median(took), np.quantile(took, 0.99), took.max())]
            found.append(Span(len(took), *values))
        else:
            found.append(Span(0, 0.0, 0.0, 0.0))
    return found


class Housekeeper:
    """One store open for writing, and what is done to it. Keys are numbered as they come."""

    def __init__(self, path: Path, value_bytes: int, capacity: int | None = None) -> None:
        made = {} if capacity is None else {"index_capacity": capacity}
        self.path = path
        self.store = kvs.open(path, "n", **made)  # type: ignore[arg-type]
        self.keys = self.version = 0
        self._value_bytes = value_bytes

    def insert(self, count: int) -> tuple[list[Window], list[Window]]:
        """So many new keys, in batches; when each batch was under way, and those during which the index grew."""
        batches, grew = [], []
        generation = self._generation()
        for first in range(self.keys, self.keys + count, BATCH):
            batches.append(self._put(range(first, min(first + BATCH, self.keys + count))))
            if (now := self._generation()) != generation:
                generation = now
                grew.append(batches[-1])
        self.keys += count
        return batches, grew

    def grow(self, limit: int) -> tuple[Window | None, int]:
        """New keys until the index grows; when the batch was under way that made it grow (``None``: it did not, with
        ``limit`` keys), and how many keys there are.
        """
        while self.keys < limit:
            _, grew = self.insert(BATCH)
            if grew:
                return grew[0], self.keys
        return None, self.keys

    def overwrite(self, times: int) -> None:
        """Write every key anew so many times, each time in another order."""
        for _ in range(times):
            self.version += 1
            numbers = Random(self.version).sample(range(self.keys), self.keys)
            for first in range(0, self.keys, BATCH):
                self._put(numbers[first : first + BATCH])

    def compact(self) -> Window:
        """One compaction; when it was under way."""
        begin = time.monotonic_ns()
        self.store.compact()
        return Window(begin, time.monotonic_ns())

    def usage(self) -> tuple[int, int, int]:
        """Bytes that are live and dead by the store's own account, and those that its files take on the medium."""
        told = self.store.stat()
        blocks = sum(file.stat().st_blocks for file in self.path.iterdir())
        return told["live_bytes"], told["dead_bytes"], blocks * 512

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _put(self, numbers: Sequence[int]) -> Window:
        pairs = [(key_of(each), value_of(each, self.version, self._value_bytes)) for each in numbers]
        begin = time.monotonic_ns()
        self.store.put_many(pairs)
        return Window(begin, time.monotonic_ns())

    def _generation(self) -> int:
        """Of the index, by its file's name: asking the store would cost it a count of all that it holds."""
        generations = (name.removeprefix("index.") for name in os.listdir(self.path))  # noqa: PTH208 - a hot path
        return max(int(each) for each in generations if each.isdigit())


def housekeeping(pipe: Any) -> None:
    """A process that does what it is told, ``(method of Housekeeper, arguments)``, and answers with what it returns;
    ``("open", arguments)`` makes the next one. ``None`` ends it.
    """
    keeper: Any = None
    for name, arguments in iter(pipe.recv, None):
        if name == "open":
            keeper = Housekeeper(*arguments)
            pipe.send(None)
        else:
            pipe.send(getattr(keeper, name)(*arguments))
