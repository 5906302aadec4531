"""Moving records: the smallfiles that a compaction writes.

A batch of moved records is followed by a move, which covers it as a commit record covers a transaction, and says the
floor of its pass: everything up to that transaction was on the medium before, so what is missing below it was dead.
Each smallfile begins with a move of nothing. Its end bound is stored only when what is before it is on the medium:
below the floor a chain that breaks before the bound is damage, also after a power cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128, xxh3_128_digest

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, StorageFullError
from kvs.files import Buffer
from kvs.layout import ALIGN, COMMIT_BYTES, KIND_SHIFT, LOCATION_MASK, RECORD_HEADER_BYTES, TOMBSTONE
from kvs.records import Words
from kvs.smallfile import READ_SLACK_BYTES, Appender, Smallfiles, begin_smallfile
from kvs.usage import record_sizes

BATCH_RECORDS = 1_024
"""At most so many records are moved together: their swing holds COMMIT for a fraction of a millisecond."""
_BATCH_BYTES: Final = 4 << 20  # or so many bytes, or one record that is longer
_PIECE_BYTES: Final = 16 << 20
_TAG_WORD: Final = 5  # of the words of a record's header; the key are words 2 and 3, the length is word 4
_HEAD_BYTES: Final = RECORD_HEADER_BYTES - layout.WORD  # a header without its tag


class Rows(NamedTuple):
    """Records of one smallfile, in the order in which they stand there: keys (n, 2), the T that wrote each, packed
    locations, and lengths (TOMBSTONE for a removal).
    """

    keys: Words
    times: npt.NDArray[np.int64]
    locations: Words
    lengths: Words

    def part(self, which: slice | npt.NDArray[np.bool_]) -> Rows:
        """Some of them."""
        return Rows(self.keys[which], self.times[which], self.locations[which], self.lengths[which])


class Output:
    """What one pass moves records to: a smallfile, and another one when it would become longer than
    ``smallfile_bytes``. ``new_id`` gives the ids. Nobody else appends to them, now or later.

    Raises on making, as ``move``:
        StorageFullError, DurabilityError: what was not settled is in no published part of any smallfile.
        UnsupportedPlatformError: (on making) no hole can be punched here; nothing was moved.
    """

    def __init__(
        self,
        smallfiles: Smallfiles,
        floor: int,
        horizon: int,
        new_id: Callable[[], int],
        smallfile_bytes: int,
    ) -> None:
        self._smallfiles = smallfiles
        self._floor = floor
        self._horizon = horizon
        self._new_id = new_id
        self._smallfile_bytes = smallfile_bytes
        self.file_ids: list[int] = []
        """The ids of the smallfiles that were made, the current one last."""
        self._appender: Appender = self._begin()
        unused = self._appender.allocated
        try:
            files.punch(self._appender.fd, unused, layout.PAGE, self._appender.path)
        except BaseException:
            self._appender.close()
            raise

    def move(self, rows: Rows) -> Words:
        """Append copies of ``rows``, and return where they are. They are not published before ``settle``.

        Raises:
            CorruptedStoreError: a record is not what the log and the index say; it was not moved.
            StorageFullError, DurabilityError: see the class.
        """
        sizes = record_sizes(rows.lengths).astype(np.int64)
        moved = np.empty_like(rows.locations)
        for batch in _batches(sizes, min(_BATCH_BYTES, self._smallfile_bytes)):
            part, steps = rows.part(batch), sizes[batch]
            size = int(steps.sum())
            appender = self._room(size + COMMIT_BYTES)
            begin = layout.pack_location(self.file_ids[-1], self._tail)
            moved[batch] = (begin + steps.cumsum() - steps).astype(np.uint64)
            if size > _BATCH_BYTES:
                digest = self._copy_long(appender, part, size)
                pieces: list[Buffer] = []
            else:
                copied = memoryview(_copied(self._smallfiles, part, steps))
                digest, pieces = xxh3_128_digest(copied), [copied]
            self._append(appender, pieces, size, len(steps), digest)
        return moved

    def settle(self) -> None:
        """Put everything that was moved on the medium, and publish it. Raises DurabilityError."""
        if self._settled == self._tail:
            return
        self._publish(self._appender)
        syncpoints.reach("compact.after_end")

    def close(self) -> None:
        """Close the smallfile. What was not settled is dead; blocks that were for more are given back."""
        fd = self._appender.fd
        if fd >= 0:
            try:
                trim(self._appender.path, fd, self._settled)
            finally:
                self._appender.close()

    def _begin(self) -> Appender:
        syncpoints.reach("compact.before_output")
        file_id = self._new_id()
        try:
            appender = begin_smallfile(self._smallfiles, file_id, since=self._horizon)
        except StorageFullError:
            files.unlink(self._smallfiles.path(file_id))
            raise
        try:
            self.file_ids.append(file_id)
            self._tail = self._settled = layout.SMALLFILE_BEGIN
            self._record_bytes = 0
            appender.store(self._tail, [self._move_record(0, 0, xxh3_128_digest(b""))])
            self._tail += COMMIT_BYTES
            self._publish(appender)
        except BaseException:
            appender.close()
            raise
        return appender

    def _room(self, wanted: int) -> Appender:
        """A smallfile with room for ``wanted`` more bytes."""
        if self._tail + wanted > self._smallfile_bytes and self._record_bytes:
            self.settle()
            self.close()
            self._appender = self._begin()
        if self._tail + wanted > self._appender.room:
            self._appender.reserve(self._tail + wanted)
        return self._appender

    def _append(self, appender: Appender, pieces: list[Buffer], size: int, count: int, digest: bytes) -> None:
        """Append a batch (all of it, or of a long record, which is there already, nothing) and its move."""
        pieces.append(self._move_record(size, count, digest))
        begin = self._tail + size + COMMIT_BYTES - sum(map(len, pieces))
        syncpoints.reach("compact.before_append", (appender.store_prefix, begin, pieces))
        appender.store(begin, pieces)
        syncpoints.reach("compact.after_append")
        self._tail += size + COMMIT_BYTES
        self._record_bytes += size

    def _move_record(self, size: int, count: int, digest: bytes) -> bytes:
        uuid, kind = self._smallfiles.store_uuid, layout.KIND_MOVE
        return layout.pack_commit(
            uuid, self._floor, self._tail, size, count, 0, 0, self.file_ids[-1], digest, kind
        )

    def _publish(self, appender: Appender) -> None:
        appender.sync()
        file_id = self.file_ids[-1]
        self._smallfiles.store_word(file_id, layout.B_RECORDS, self._record_bytes)
        self._smallfiles.store_bound(file_id, layout.B_END, self._tail, sync=True)
        self._settled = self._tail

    def _copy_long(self, appender: Appender, row: Rows, size: int) -> bytes:
        """Copy one long record to the tail, in pieces; returns its xxh3-128 as an extent."""
        location, length = int(row.locations[0]), int(row.lengths[0])
        file_id, offset = layout.unpack_location(location)
        head = self._smallfiles.read(file_id, offset, RECORD_HEADER_BYTES)
        wanted = row.keys[0].tobytes() + length.to_bytes(8, "little")
        if head[layout.HASH_BYTES : _HEAD_BYTES] != wanted:
            raise _damaged(self._smallfiles, location)
        head = head[:_HEAD_BYTES] + int(_tags(row)[0]).to_bytes(8, "little")
        extent, value = xxh3_128(head), xxh3_128()
        position = self._tail
        appender.store(position, [head])
        position += len(head)
        for first in range(0, length, _PIECE_BYTES):
            wanted_bytes = min(_PIECE_BYTES, length - first)
            piece = self._smallfiles.read(file_id, offset + RECORD_HEADER_BYTES + first, wanted_bytes)
            if len(piece) != wanted_bytes:
                raise _damaged(self._smallfiles, location)
            appender.store(position, [piece])
            position += wanted_bytes
            extent.update(piece)
            value.update(piece)
        padding = bytes(self._tail + size - position)
        appender.store(position, [padding])
        extent.update(padding)
        if self._smallfiles.integrity and value.digest() != head[: layout.HASH_BYTES]:
            raise _damaged(self._smallfiles, location)
        return extent.digest()


def trim(path: Path, fd: int, end: int) -> None:
    """Give back the blocks behind byte ``end`` of a smallfile that nobody appends to, but for what readers may see."""
    end = (end + READ_SLACK_BYTES + layout.PAGE - 1) & -layout.PAGE
    size = files.size(fd)
    if end < size:
        files.punch(fd, end, size - end, path)


def _batches(sizes: npt.NDArray[np.int64], size_max: int) -> Iterator[slice]:
    """Consecutive records that are moved together: of at most ``size_max`` bytes, or one."""
    ends = sizes.cumsum()
    first = 0
    while first < len(sizes):
        limit = int(ends[first] - sizes[first]) + size_max
        last = min(first + BATCH_RECORDS, int(np.searchsorted(ends, limit, side="right")))
        last = max(last, first + 1)
        yield slice(first, last)
        first = last


def _copied(smallfiles: Smallfiles, rows: Rows, sizes: npt.NDArray[np.int64]) -> bytearray:
    """Copies of whole records, one behind the other, as moved ones. Raises CorruptedStoreError."""
    file_id = int(rows.locations[0]) >> layout.LOCATION_SHIFT
    offsets = (rows.locations & np.uint64(LOCATION_MASK)).view(np.int64)
    # What stands together is read together.
    apart = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
    begins = offsets[np.concatenate(([0], apart))]
    ends = (offsets + sizes)[np.concatenate((apart - 1, [len(offsets) - 1]))]
    pieces = [
        smallfiles.read(file_id, begin, end - begin)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    data = bytearray().join(pieces)
    if len(data) != int(sizes.sum()):
        raise _damaged(smallfiles, int(rows.locations[-1]))
    words = np.frombuffer(data, dtype=np.uint64).reshape(-1, ALIGN // layout.WORD)
    positions = sizes.cumsum() - sizes
    heads = words[positions // ALIGN]
    lengths = np.where(rows.lengths == np.uint64(TOMBSTONE), np.uint64(0), rows.lengths)
    good = (heads[:, 2:4] == rows.keys).all(axis=1) & (heads[:, 4] == lengths)
    if smallfiles.integrity and good.all():
        begins = positions + RECORD_HEADER_BYTES
        view = memoryview(data)
        values = map(slice, begins.tolist(), (begins + lengths.view(np.int64)).tolist())
        digests = b"".join(map(xxh3_128_digest, map(view.__getitem__, values)))
        good &= (heads[:, :2] == np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)).all(axis=1)
    if not good.all():
        raise _damaged(smallfiles, int(rows.locations[int(good.argmin())]))
    words[positions // ALIGN, _TAG_WORD] = _tags(rows)
    return data


def _tags(rows: Rows) -> Words:
    """What the headers of moved records say of their kind, and of the transaction that wrote them."""
    removed = rows.lengths == np.uint64(TOMBSTONE)
    kinds = np.where(removed, layout.KIND_MOVED_REMOVAL, layout.KIND_MOVED_VALUE).astype(np.uint64)
    return kinds << np.uint64(KIND_SHIFT) | rows.times.astype(np.uint64)


def _damaged(smallfiles: Smallfiles, location: int) -> CorruptedStoreError:
    file_id, offset = layout.unpack_location(location)
    return CorruptedStoreError(
        "a record that is still needed is damaged, so it was not moved and nothing of this smallfile was given back;"
        " all else is as it was. `kvs recover` saves what is whole into a new store",
        path=str(smallfiles.path(file_id)),
        offset_bytes=offset,
    )
