"""Which revision of each key a recovery uses: the newest of whole transactions, and what damaged places have to add."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from kvs import layout
from kvs.errors import CorruptedStoreError
from kvs.fragments import Fragment
from kvs.layout import TOMBSTONE
from kvs.records import Words
from kvs.scanning import Log
from kvs.wreckage import Witness, Wreckage

Names = npt.NDArray[np.bytes_]


class Candidate(NamedTuple):
    """A fragment with what its place says of its age: T, or 0 and the first T behind it in its file (or 0).
    ``explained``: something else than keys is damaged there. ``alone``: it is the only record of its transaction.
    """

    fragment: Fragment
    time: int
    before: int
    explained: bool
    alone: bool


class Chosen:
    """The revision of each key that is used: names in rising order, T, packed locations, lengths; and beside them,
    by name, those of keys that only damaged places have.
    """

    def __init__(self, names: Names, times: Words, locations: Words, lengths: Words) -> None:
        self.names = names
        self.times = times
        self._locations = locations
        self._lengths = lengths
        self._added: dict[bytes, tuple[int, int, int]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._added or self._row(key) >= 0

    def find(self, key: bytes) -> tuple[int, int, int]:
        """T (0 if it is not known), location and length of the revision that is used; zeros if there is none."""
        row = self._row(key)
        if row < 0:
            return self._added.get(key, (0, 0, 0))
        return int(self.times[row]), int(self._locations[row]), int(self._lengths[row])

    def times_of(self, names: Names) -> Words:
        """T of the revisions that are used of many keys, 0 where there is none or it is not known."""
        found = np.zeros(len(names), dtype=np.uint64)
        if len(self.names):
            rows = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
            found = np.where(self.names[rows] == names, self.times[rows], found)
        if self._added:
            for i in range(len(names)):
                found[i] = max(int(found[i]), self._added.get(names[i : i + 1].tobytes(), (0, 0, 0))[0])
        return found

    def use(self, key: bytes, time: int, location: int, length: int) -> None:
        """Take this revision instead."""
        row = self._row(key)
        if row < 0:
            self._added[key] = time, location, length
        else:
            self.times[row], self._locations[row], self._lengths[row] = time, location, length

    def items(self, smallfiles: Wreckage) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, in the order of the files. Raises CorruptedStoreError where one changed meanwhile."""
        live = np.flatnonzero(self._lengths != np.uint64(TOMBSTONE))
        for row in live[np.argsort(self._locations[live])].tolist():
            key = self.names[row : row + 1].tobytes()
            yield key, _value(smallfiles, key, int(self._locations[row]), int(self._lengths[row]))
        for key, (_, location, length) in self._added.items():
            if length != TOMBSTONE:
                yield key, _value(smallfiles, key, location, length)

    def _row(self, key: bytes) -> int:
        name = np.frombuffer(key, dtype="S16")
        row = int(np.searchsorted(self.names, name)[0])
        return row if row < len(self.names) and self.names[row] == name[0] else -1


def _value(smallfiles: Wreckage, key: bytes, location: int, length: int) -> bytes:
    file_id, offset = layout.unpack_location(location)
    head = smallfiles.read(file_id, offset, layout.RECORD_HEADER_BYTES)
    value = smallfiles.read(file_id, offset + layout.RECORD_HEADER_BYTES, length)
    hashed = head[: layout.HASH_BYTES]
    same = layout.RECORD_TAIL.unpack_from(head.ljust(layout.RECORD_HEADER_BYTES, b"\0"), 16)[:2] == (
        key,
        length,
    )
    if not same or len(value) != length or (any(hashed) and xxh3_128_digest(value) != hashed):
        raise CorruptedStoreError(
            "a record that verified a moment ago does not any more: the device gives other bytes each time, or"
            " somebody writes to the store. Nothing was made; copy the store elsewhere first",
            path=str(smallfiles.path(file_id)),
            offset_bytes=offset,
        )
    return value


def newest(logs: Sequence[Log]) -> Chosen:
    """The newest revision of each key of whole transactions."""
    keys = np.concatenate([log.keys for log in logs] or [np.empty((0, 2), np.uint64)])
    times = np.concatenate([log.times for log in logs] or [np.empty(0, np.int64)]).astype(np.uint64)
    locations = np.concatenate([log.locations for log in logs] or [np.empty(0, np.uint64)])
    lengths = np.concatenate([log.lengths for log in logs] or [np.empty(0, np.uint64)])
    order = np.lexsort((times, keys[:, 1].byteswap(), keys[:, 0].byteswap()))  # as their bytes compare
    names = np.ascontiguousarray(keys[order]).view("S16").reshape(-1)
    last = np.ones(len(names), dtype=bool)
    last[:-1] = names[1:] != names[:-1]
    rows = order[last]
    return Chosen(names[last], times[rows], locations[rows], lengths[rows])


class Weighing:
    """What can be believed of fragments: the value by its own hash; the key by the index, by a whole transaction that
    has the same key, or (content addressed) by the value; T by the commit record. What is only likely is used where
    there is nothing better, and told.
    """

    def __init__(
        self,
        chosen: Chosen,
        witness: Witness | None,
        *,
        content_addressed: bool,
        uncertain: Callable[[Fragment, int], None],
    ) -> None:
        self._chosen = chosen
        self._witness = witness
        self._content_addressed = content_addressed
        self._uncertain = uncertain

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Use the fragments that are newer than what was chosen, in the order of their T, and then those of unknown
        age whose key has nothing else; the last one of a file, because a file is written in order.
        """
        known = {each.fragment.key for each in candidates if each.fragment.key in self._chosen}
        dated: list[tuple[int, bool, Fragment]] = []
        dateless: dict[bytes, Fragment] = {}
        for candidate in candidates:
            if self._usable(candidate, known):
                each, (time, sure) = candidate.fragment, self._age(candidate)
                if time:
                    dated.append((time, sure, each))
                else:
                    dateless[each.key] = each
        used: dict[bytes, tuple[int, bool, Fragment]] = {}
        for time, sure, each in sorted(dated, key=lambda found: found[0]):
            if time > self._chosen.find(each.key)[0]:
                self._chosen.use(each.key, time, each.location, each.length)
                used[each.key] = time, sure, each
        for key, each in dateless.items():
            if key not in self._chosen and each.length != TOMBSTONE:
                self._chosen.use(key, 0, each.location, each.length)
                used[key] = 0, False, each
        for time, sure, each in used.values():
            if not sure:
                self._uncertain(each, time)

    def _usable(self, candidate: Candidate, known: set[bytes]) -> bool:
        """Whether the value is right, and the key at least likely: damage that nothing else explains is in a key."""
        each = candidate.fragment
        if not each.whole:
            return False
        if self._content_addressed and each.length != TOMBSTONE:
            return each.addressed
        likely = candidate.explained or (each.key in known and not candidate.alone)
        return likely or self._witnessed(each) > 0

    def _age(self, candidate: Candidate) -> tuple[int, bool]:
        """T (0 if nothing says it), and whether both it and the key are sure."""
        each = candidate.fragment
        witnessed = self._witnessed(each)
        if candidate.time:
            sure = witnessed > 0 or (self._content_addressed and each.addressed)
            return candidate.time, sure
        return witnessed, False

    def _witnessed(self, each: Fragment) -> int:
        return 0 if self._witness is None else self._witness.time(each.key, each.location, each.length)
