"""What can still be read where a smallfile is damaged: commit records on the grid, and single records.

Commit records and moves say where their records begin and vouch for themselves, so they are found anywhere on the
64-byte grid. Single records are followed from a place where one must begin, as far as each one fits the one before;
behind a break the next one that fits and matches its own hash is looked for. A record's hash covers its value only:
whoever uses a fragment needs something else that vouches for its key.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from xxhash import xxh3_128, xxh3_128_digest

from kvs import layout
from kvs.layout import ALIGN, KIND_SHIFT, RECORD_HEADER_BYTES, SEQUENCE_MASK
from kvs.records import Words
from kvs.smallfile import Smallfiles

_WINDOW_BYTES: Final = 8 << 20
_MOVED: Final = frozenset({layout.KIND_MOVED_VALUE, layout.KIND_MOVED_REMOVAL})
_REMOVED: Final = frozenset({layout.KIND_REMOVAL, layout.KIND_MOVED_REMOVAL})
_KINDS: Final = _MOVED | _REMOVED | {layout.KIND_VALUE}
_ENDS: Final = (layout.KIND_COMMIT, layout.KIND_MOVE)
_NOTHING_HASH: Final = xxh3_128_digest(b"")
_SEARCH_BYTES_MIN: Final = 64 << 20
_SEARCH_FACTOR: Final = (
    4  # hashes over at most so many times the damaged bytes: garbage must not cost the square
)


class Mark(NamedTuple):
    """A commit record (or move) that is whole itself, whatever the records are that it covers. Offsets in bytes."""

    offset: int
    begin: int
    time: int
    moved: bool
    records: int

    @property
    def end(self) -> int:
        """Where the next transaction begins."""
        return self.offset + layout.COMMIT_BYTES


class Fragment(NamedTuple):
    """A record in a damaged place. ``length`` is TOMBSTONE for a removal; ``whole`` if the value matches its hash;
    ``addressed`` if that hash is also the key; ``moved`` if a compaction wrote it.
    """

    key: bytes
    location: int
    length: int
    whole: bool
    addressed: bool
    moved: bool


class Fragments(NamedTuple):
    """The records of a damaged range; ``explained`` if something other than the keys was seen to be damaged."""

    records: list[Fragment]
    explained: bool


def marks(smallfiles: Smallfiles, file_id: int, begin: int, end: int) -> list[Mark]:
    """Every commit record and move between two offsets that is whole itself, in the order of the file."""
    uuid = np.frombuffer(smallfiles.store_uuid, dtype=np.uint64)
    found = []
    for start in range(begin, end, _WINDOW_BYTES):
        rows = _rows(smallfiles, file_id, start, min(_WINDOW_BYTES, end - start))
        kinds = rows[:, 5] >> np.uint64(KIND_SHIFT)
        likely = (rows[:, 2] == uuid[0]) & (rows[:, 3] == uuid[1])
        likely &= (kinds == np.uint64(_ENDS[0])) | (kinds == np.uint64(_ENDS[1]))
        for row in np.flatnonzero(likely).tolist():
            mark = _mark(smallfiles, file_id, start + row * ALIGN, int(kinds[row]))
            if mark is not None and mark.begin >= begin and mark.end <= end:
                found.append(mark)
    return found


def _mark(smallfiles: Smallfiles, file_id: int, offset: int, kind: int) -> Mark | None:
    data = smallfiles.read(file_id, offset, layout.COMMIT_BYTES)
    unpacked = layout.unpack_commit(smallfiles.store_uuid, data, kind)
    if unpacked is None:
        return None
    time, commit = unpacked
    if commit.file_id != file_id or commit.extent_offset + commit.extent_bytes != offset:
        return None  # a copy of one, within somebody's value
    return Mark(offset, commit.extent_offset, time, kind == layout.KIND_MOVE, commit.records)


def _rows(smallfiles: Smallfiles, file_id: int, start: int, length: int) -> Words:
    """The 8 words of every 64 bytes; fewer where the file ends."""
    data = smallfiles.read(file_id, start, length)
    return np.frombuffer(data, dtype=np.uint64, count=len(data) // ALIGN * 8).reshape(-1, 8)


def fragments(smallfiles: Smallfiles, file_id: int, begin: int, end: int, *, marked: bool) -> Fragments:
    """The records from ``begin``, where one must begin, to ``end``. ``marked``: all are of one transaction (or batch)
    whose mark, at ``end``, is whole.
    """
    walk = _Walk(smallfiles, file_id, begin, end)
    found: list[Fragment] = []
    explained = not marked
    position: int | None = begin
    expected = 0
    while position is not None and position < end:
        head = walk.head(position)
        if head is None or not head.fits(expected):
            explained = True
            position, expected = walk.search(position, expected, marked=marked)
            continue
        following = position + layout.record_bytes(head.value_bytes)
        whole = walk.whole(head)
        if whole or following == end or walk.fits(following, expected + 1):
            found.append(walk.fragment(head, whole=whole))
            explained |= not whole or walk.padding_damaged(head)
            position, expected = following, expected + 1
        else:
            explained = True
            found.append(walk.fragment(head, whole=False))
            position, expected = walk.search(position, expected, marked=marked)
    return Fragments(found, explained)


class _Head(NamedTuple):
    """The header of something that may be a record."""

    offset: int
    hash: bytes
    key: bytes
    value_bytes: int
    kind: int
    sequence: int

    def fits(self, expected: int) -> bool:
        """Whether it may be the record at that place of a transaction. Moved records do not say their place."""
        return self.kind in _MOVED or self.sequence == expected


class _Walk:
    """One damaged range, read record by record."""

    def __init__(self, smallfiles: Smallfiles, file_id: int, begin: int, end: int) -> None:
        self._smallfiles = smallfiles
        self._file_id = file_id
        self._begin = begin
        self._end = end
        self._likely: list[int] | None = None
        self._next = 0
        self._search_bytes = max(_SEARCH_BYTES_MIN, _SEARCH_FACTOR * (end - begin))

    def head(self, offset: int) -> _Head | None:
        """The header at ``offset`` if a record of the range may have it."""
        data = self._smallfiles.read(self._file_id, offset, RECORD_HEADER_BYTES)
        if len(data) < RECORD_HEADER_BYTES:
            return None
        digest, key, length, tag = layout.RECORD_HEADER.unpack(data)
        kind = tag >> KIND_SHIFT
        if kind not in _KINDS or length > layout.VALUE_BYTES_MAX or (kind in _REMOVED and length):
            return None
        if offset + layout.record_bytes(length) > self._end:
            return None
        return _Head(offset, digest, key, length, kind, tag & SEQUENCE_MASK)

    def fits(self, offset: int, expected: int) -> bool:
        """Whether the next record of the transaction begins at ``offset``."""
        head = self.head(offset)
        return head is not None and head.fits(expected)

    def whole(self, head: _Head) -> bool:
        """Whether the value matches its hash. Without integrity there is none, and so nothing to go by."""
        if not head.value_bytes:
            return head.hash == _NOTHING_HASH
        state = xxh3_128()
        position = head.offset + RECORD_HEADER_BYTES
        missing = head.value_bytes
        while missing:
            part = self._smallfiles.read(self._file_id, position, min(missing, _WINDOW_BYTES))
            if not part:
                return False
            state.update(part)
            position += len(part)
            missing -= len(part)
        return state.digest() == head.hash

    def padding_damaged(self, head: _Head) -> bool:
        """Whether what fills a record up to the grid is not zero."""
        used = RECORD_HEADER_BYTES + head.value_bytes
        size = layout.record_bytes(head.value_bytes)
        return any(self._smallfiles.read(self._file_id, head.offset + used, size - used))

    def fragment(self, head: _Head, *, whole: bool) -> Fragment:
        """What is known of a record."""
        length = layout.TOMBSTONE if head.kind in _REMOVED else head.value_bytes
        location = layout.pack_location(self._file_id, head.offset)
        return Fragment(head.key, location, length, whole, head.hash == head.key, head.kind in _MOVED)

    def search(self, broken: int, expected: int, *, marked: bool) -> tuple[int | None, int]:
        """The next record behind ``broken`` that matches its hash and may be the one that the place allows, and its
        place in its transaction; ``None`` where there is none.
        """
        if self._likely is None:
            self._likely = self._candidates()
        while self._next < len(self._likely) and self._search_bytes > 0:
            offset = self._likely[self._next]
            self._next += 1
            head = self.head(offset) if offset > broken else None
            if head is None:
                continue
            if head.kind not in _MOVED and marked:
                skipped = head.sequence - expected
                if not 0 < skipped <= (offset - broken) // ALIGN:
                    continue  # a copy of some record, within a value
            self._search_bytes -= head.value_bytes + RECORD_HEADER_BYTES
            if self.whole(head):
                return offset, head.sequence if head.kind not in _MOVED else expected
        return None, 0

    def _candidates(self) -> list[int]:
        """Where on the grid a record may begin, by kind and length."""
        offsets: list[int] = []
        for start in range(self._begin, self._end, _WINDOW_BYTES):
            rows = _rows(self._smallfiles, self._file_id, start, min(_WINDOW_BYTES, self._end - start))
            likely = np.isin(rows[:, 5] >> np.uint64(KIND_SHIFT), np.array(sorted(_KINDS), dtype=np.uint64))
            likely &= rows[:, 4] <= np.uint64(self._end - self._begin)
            likely &= (rows[:, 0] != 0) | (rows[:, 1] != 0)
            offsets += (start + np.flatnonzero(likely) * ALIGN).tolist()
        return offsets
