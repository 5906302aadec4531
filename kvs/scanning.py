"""Scanning smallfiles: everything that verifies between two offsets, many transactions at a time.

Where a record ends is known from its own header only, so their chain is followed one by one, but over arrays that
hold the header words of a whole piece of file; all else is arithmetic on arrays. Pieces are read by a system
call, also where smallfiles are mapped: one copy costs less than 2 % of the scan, and a hole or the end of the file
cannot become a signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from kvs import layout
from kvs.layout import ALIGN, COMMIT_BYTES, HASH_BYTES, KIND_COMMIT, KIND_MOVE, KIND_SHIFT, SEQUENCE_MASK
from kvs.records import Words
from kvs.smallfile import Smallfiles

PIECE_BYTES: Final = 8 << 20
"""So much of a smallfile is read at a time."""

Times = npt.NDArray[np.int64]
_STOP: Final = 1 << 50  # slots to the next record of what is none: further than any piece goes
_COMMIT_SLOTS: Final = COMMIT_BYTES // ALIGN
# Words of a record's first 64 bytes, and for a commit record those of its second 64.
_KEY, _LENGTH, _TAG, _EXTENT_OFFSET, _EXTENT_BYTES = 2, 4, 5, 6, 7
_COUNT, _FILE_ID, _RECORDS_HASH = 0, 3, 4


class Log(NamedTuple):
    """Whole transactions and batches of moved records, as they follow each other in a smallfile.

    ``n`` records without the commit records and moves, and ``m`` commit records without the moves.
    """

    keys: Words
    """(n, 2) key words."""
    times: Times
    """(n,) T of the transaction that wrote each record, also of a moved one."""
    locations: Words
    """(n,) packed locations."""
    lengths: Words
    """(n,) bytes of the values, TOMBSTONE for removals."""
    commits: Times
    """(m,) T of every commit record."""
    offsets: Times
    """(m,) where each commit record is, in bytes."""
    floor: int
    """The greatest floor of a move, 0 for none."""
    end: int
    """Where the verified chain ends, in bytes."""


class _Piece(NamedTuple):
    """Records that follow each other: the first 64 bytes of each as words, where each begins (in slots of
    64 bytes), where the one behind them would begin, and whether there is none.
    """

    rows: Words
    heads: Words
    starts: Times
    following: int
    stopped: bool


def scan(smallfiles: Smallfiles, file_id: int, begin: int, end: int) -> Iterator[Log]:
    """Yield the whole transactions and moves between two offsets, in pieces of about ``PIECE_BYTES`` (or one
    transaction, if that is longer). All of it verifies: commit records, extents, and that each extent begins where the
    one before it ended.

    The chain has ended early if the last piece's ``end`` is less than the end that was asked for; unless the range
    is empty there is at least one piece, though maybe without any records.

    Raises:
        CorruptedStoreError: the smallfile is not there, or not of this store.
    """
    position, log = begin, None
    while position < end:
        data = smallfiles.read(file_id, position, min(PIECE_BYTES, end - position))
        piece = _follow(data)
        log, broken = _verified(smallfiles.store_uuid, file_id, position, data, piece)
        if log.end == position and not broken and len(data) == PIECE_BYTES:
            log = _long(smallfiles, file_id, position, end) or log
        if log.end > position or position == begin:
            yield log
        if log.end == position or broken:
            return
        position = log.end


def _follow(data: bytes) -> _Piece:
    """The chain of records from the first byte of ``data``, as far as they begin within it."""
    rows = np.frombuffer(data, dtype=np.uint64, count=len(data) // ALIGN * 8).reshape(-1, 8)
    lengths = rows[:, _LENGTH]
    kinds = rows[:, _TAG] >> np.uint64(KIND_SHIFT)
    whole = (kinds - np.uint64(1) < np.uint64(KIND_MOVE)) & (lengths <= np.uint64(layout.VALUE_BYTES_MAX))
    sizes = (lengths + np.uint64(layout.RECORD_HEADER_BYTES + ALIGN - 1)) // np.uint64(ALIGN)
    steps: list[int] = np.where(whole, sizes, np.uint64(_STOP)).tolist()
    starts = []
    slot, count = 0, len(steps)
    while slot < count:
        starts.append(slot)
        slot += steps[slot]
    stopped = slot >= _STOP
    if stopped:
        slot = starts.pop()
    found = np.array(starts, dtype=np.int64)
    return _Piece(rows, rows[found], found, slot, stopped)


def _verified(store_uuid: bytes, file_id: int, position: int, data: bytes, piece: _Piece) -> tuple[Log, bool]:
    """What of a piece at byte ``position`` is whole transactions and moves that verify, and whether the chain
    breaks behind them (rather than going on behind the piece).
    """
    ends = np.flatnonzero(_ends(piece.heads))
    ends = ends[piece.starts[ends] + _COMMIT_SLOTS <= len(piece.rows)]
    slots = piece.starts[ends]
    begins = np.concatenate(([0], slots[:-1] + _COMMIT_SLOTS))[: len(ends)]
    counts = np.diff(ends, prepend=-1) - 1
    heads, bodies = piece.rows[slots], piece.rows[slots + 1]
    right = (heads[:, _KEY : _KEY + 2] == np.frombuffer(store_uuid, dtype=np.uint64)).all(axis=1)
    right &= heads[:, _LENGTH] == np.uint64(layout.COMMIT_VALUE_BYTES)
    right &= heads[:, _EXTENT_OFFSET].view(np.int64) == position + begins * ALIGN
    right &= heads[:, _EXTENT_BYTES].view(np.int64) == (slots - begins) * ALIGN
    right &= bodies[:, _COUNT].view(np.int64) == counts
    right &= bodies[:, _FILE_ID] == np.uint64(file_id)
    good = _prefix(right)
    at = slots[:good] * ALIGN
    own = _digests(data, at + HASH_BYTES, at + COMMIT_BYTES)
    right = (own == heads[:good, :2]).all(axis=1)
    extents = _digests(data, begins[:good] * ALIGN, at)
    right &= (extents == bodies[:good, _RECORDS_HASH : _RECORDS_HASH + 2]).all(axis=1)
    good = _prefix(right)
    until = int(slots[good - 1]) + _COMMIT_SLOTS if good else 0
    records = int(ends[good - 1]) + 1 if good else 0
    offsets = position + piece.starts[:records] * ALIGN
    log = _log(file_id, piece.heads[:records], offsets, position + until * ALIGN)
    return log, good < len(ends) or piece.stopped


def _long(smallfiles: Smallfiles, file_id: int, position: int, end: int) -> Log | None:
    """The one transaction at ``position``, which is longer than a piece, or ``None`` if there is none."""
    heads, offsets, count = [], [], 0
    reached, ended = position, False
    while not ended and reached < end and count <= layout.KEYS_MAX:
        piece = _follow(smallfiles.read(file_id, reached, min(PIECE_BYTES, end - reached)))
        marks = np.flatnonzero(_ends(piece.heads))
        ended = bool(marks.size)
        kept = int(marks[0]) + 1 if ended else len(piece.starts)
        heads.append(piece.heads[:kept])
        offsets.append(reached + piece.starts[:kept] * ALIGN)
        if not ended and (piece.stopped or not kept):
            return None
        count += kept
        reached += piece.following * ALIGN
    if not ended or int(offsets[-1][-1]) + COMMIT_BYTES > end:
        return None
    every, offset = np.concatenate(heads), int(offsets[-1][-1])
    found = smallfiles.commit_record(file_id, offset, int(every[-1, _TAG]) >> KIND_SHIFT)
    if found is None or (found[1].extent_offset, found[1].records) != (position, count - 1):
        return None
    return _log(file_id, every, np.concatenate(offsets), offset + COMMIT_BYTES)


def _ends(heads: Words) -> npt.NDArray[np.bool_]:
    """Which records end a transaction or a batch."""
    kinds = heads[:, _TAG] >> np.uint64(KIND_SHIFT)
    ends: npt.NDArray[np.bool_] = (kinds == np.uint64(KIND_COMMIT)) | (kinds == np.uint64(KIND_MOVE))
    return ends


def _prefix(right: npt.NDArray[np.bool_]) -> int:
    """How many are right before the first that is not."""
    return len(right) if right.all() else int(right.argmin())


def _digests(data: bytes, begins: Times, ends: Times) -> Words:
    """The xxh3-128 of each of these ranges, as rows of two words."""
    ranges = map(slice, begins.tolist(), ends.tolist())
    joined = b"".join(map(xxh3_128_digest, map(memoryview(data).__getitem__, ranges)))
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def _log(file_id: int, heads: Words, offsets: Times, end: int) -> Log:
    """The log of verified records, commit records and moves, the last of which ends at byte ``end``."""
    kinds = heads[:, _TAG] >> np.uint64(KIND_SHIFT)
    sequences = (heads[:, _TAG] & np.uint64(SEQUENCE_MASK)).view(np.int64)
    ended = _ends(heads)
    ends, records = np.flatnonzero(ended), np.flatnonzero(~ended)
    written = np.repeat(sequences[ends], np.diff(ends, prepend=-1) - 1)
    moved = kinds[records] >= np.uint64(layout.KIND_MOVED_VALUE)
    removed = kinds[records] == np.uint64(layout.KIND_REMOVAL)
    removed |= kinds[records] == np.uint64(layout.KIND_MOVED_REMOVAL)
    lengths = heads[records, _LENGTH]
    lengths[removed] = np.uint64(layout.TOMBSTONE)
    locations = offsets[records].view(np.uint64) | np.uint64(file_id << layout.LOCATION_SHIFT)
    commits = ends[kinds[ends] == np.uint64(KIND_COMMIT)]
    floors = sequences[ends[kinds[ends] == np.uint64(KIND_MOVE)]]
    return Log(
        keys=heads[records, _KEY : _KEY + 2],
        times=np.where(moved, sequences[records], written),
        locations=locations,
        lengths=lengths,
        commits=sequences[commits],
        offsets=offsets[commits],
        floor=int(floors.max(initial=0)),
        end=end,
    )
