"""Records in smallfiles: encoding them, appending them to one's own file, reading anybody's, scanning.

The smallfiles are the truth; the index is a cache of them.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128, xxh3_128_digest

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, StorageFullError
from kvs.files import Buffer

_PADDING: Final = [bytes(count) for count in range(layout.ALIGN)]
_NO_HASH: Final = bytes(layout.HASH_BYTES)
_VALUE_TAG: Final = layout.KIND_VALUE << layout.KIND_SHIFT
_REMOVAL_TAG: Final = layout.KIND_REMOVAL << layout.KIND_SHIFT
_JOIN_BYTES_MAX: Final = 16 << 20  # larger extents are written piece by piece instead of copied together
_GROWTH_BYTES_MIN: Final = 1 << 20
_MAPPED_STORE_BYTES_MAX: Final = 1 << 15
MAPPED_READ_BYTES_MAX: Final = 1 << 16
"""Longer values are read by a system call, which fails where a map would be SIGBUS."""
READ_SLACK_BYTES: Final = MAPPED_READ_BYTES_MAX + layout.PAGE
_GROWTH_BYTES_MAX: Final = 64 << 20
VECTOR_MIN: Final = 40
"""From this many keys on the vectorised paths are the faster ones: measured warm over 50,000 keys
of 16 bytes, reads and writes break even between 32 and 48 keys (at 64 keys a read takes 2.6 us against 1.6)."""

Words = npt.NDArray[np.uint64]
Integers = Sequence[int] | npt.NDArray[np.int64] | Words
"""Integers of either path: a list from the scalar one, an array from the vectorised one."""


Extent = tuple[list[Buffer], int, Integers, Integers, bytes]
"""Encoded records of one transaction, ready to append: the pieces in order, their size in bytes, the offset of
each record and its length (TOMBSTONE for a removal) in the order of the keys, and the xxh3-128 over all.
A plain tuple: a named one costs as much as hashing a small transaction."""


def encode(keys: Sequence[bytes], values: Sequence[bytes | None], *, integrity: bool) -> Extent:
    """Records for ``keys`` and ``values`` (``None`` removes), with per-value hashes where ``integrity``."""
    if len(keys) >= VECTOR_MIN:
        return _encode_many(keys, values, integrity=integrity)
    pack = layout.RECORD_TAIL.pack
    pieces: list[Buffer] = []
    offsets, lengths = [], []
    position = 0
    for i, key in enumerate(keys):
        value = values[i]
        if value is None:
            tail, value, size = pack(key, 0, _REMOVAL_TAG | i), b"", 0
            lengths.append(layout.TOMBSTONE)
        else:
            size = len(value)
            tail = pack(key, size, _VALUE_TAG | i)
            lengths.append(size)
        digest = xxh3_128_digest(value) if integrity else _NO_HASH
        offsets.append(position)
        position += (size + 111) & -64  # layout.record_bytes, inlined
        pieces += (digest, tail, value, _PADDING[-(48 + size) & 63])
    return _extent(pieces, position, offsets, lengths)


def _encode_many(keys: Sequence[bytes], values: Sequence[bytes | None], *, integrity: bool) -> Extent:
    """``encode`` with the headers built as one array, the hashes mapped, and the pieces placed by stride."""
    count = len(keys)
    contents = [b"" if value is None else value for value in values] if None in values else list(values)
    sizes = np.fromiter(map(len, contents), dtype=np.int64, count=count)  # type: ignore[arg-type]
    removed = np.array([value is None for value in values]) if contents != values else np.zeros(count, bool)
    headers = np.empty((count, 4), dtype=np.uint64)
    headers[:, :2] = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(count, 2)
    headers[:, 2] = sizes
    headers[:, 3] = np.where(removed, np.uint64(_REMOVAL_TAG), np.uint64(_VALUE_TAG))
    headers[:, 3] |= np.arange(count, dtype=np.uint64)
    tails: list[bytes] = headers.view("V32").reshape(-1).tolist()
    pieces: list[Buffer] = [b""] * (4 * count)
    if not integrity:
        pieces[0::4] = [_NO_HASH] * count
    else:
        pieces[0::4] = map(xxh3_128_digest, contents)  # type: ignore[arg-type]
    pieces[1::4] = tails
    pieces[2::4] = contents  # type: ignore[assignment]
    pieces[3::4] = map(_PADDING.__getitem__, (-(48 + sizes) & 63).tolist())
    steps = (sizes + 111) & -64  # layout.record_bytes
    ends = steps.cumsum()
    lengths = np.where(removed, np.uint64(layout.TOMBSTONE), sizes.astype(np.uint64))
    return _extent(pieces, int(ends[-1]), ends - steps, lengths)


def _extent(pieces: list[Buffer], size: int, offsets: Integers, lengths: Integers) -> Extent:
    """Join what is small enough to be copied once more, and hash the whole."""
    if size <= _JOIN_BYTES_MAX:
        joined = b"".join(pieces)
        return [joined], size, offsets, lengths, xxh3_128_digest(joined)
    state = xxh3_128()
    for piece in pieces:
        state.update(piece)
    return pieces, size, offsets, lengths, state.digest()


class Appender:
    """The one writer of one smallfile: appends at ``tail``, through a map or with positional writes.

    The file has real blocks for everything that is stored (``files.allocate``), so a full disk is an
    error of ``reserve`` and never a signal in the middle of a commit.
    """

    def __init__(self, path: Path, *, tail: int, mapped: bool) -> None:
        self.path = path
        self.fd = files.open_file(path, write=True, create=True)
        self._mapped = mapped
        self._map: mmap.mmap | None = None
        # Up to the tail the blocks are real; behind it a dead owner may have been promised what it never got.
        self.allocated = tail
        self.room = 0
        """Up to here there is nothing to reserve."""

    def reserve(self, end: int) -> None:
        """Make room up to byte ``end``. Raises StorageFullError, having changed nothing that matters.

        Blocks are given in steps, and ``READ_SLACK_BYTES`` more than asked for: a reader that loaded a location
        and a length which do not belong together may look so far behind the last record, and in a file without
        blocks that would be SIGBUS where the file system is full. The file's length doubles, so that readers
        have to map it again only now and then.
        """
        wanted = end + READ_SLACK_BYTES
        if wanted > layout.SMALLFILE_BYTES_MAX:
            raise StorageFullError(str(self.path), wanted - self.allocated, errno.EFBIG)
        begin = self.allocated & -layout.PAGE
        step = min(max(begin, _GROWTH_BYTES_MIN), _GROWTH_BYTES_MAX)
        size = (max(wanted, begin + step) + layout.PAGE - 1) & -layout.PAGE
        syncpoints.reach("prepare.before_extend")
        try:
            files.allocate(self.fd, begin, size - begin, self.path)
        except StorageFullError:
            size = (wanted + layout.PAGE - 1) & -layout.PAGE  # the last blocks of a nearly full disk
            files.allocate(self.fd, begin, size - begin, self.path)
        self.allocated = size
        self.room = size - READ_SLACK_BYTES
        length = max(_GROWTH_BYTES_MIN, 1 << (size - 1).bit_length())
        files.lengthen(self.fd, length)
        if self._mapped and (self._map is None or len(self._map) < size):
            self._map = files.map_file(self.fd, write=True)
        syncpoints.reach("prepare.after_extend")

    def store(self, offset: int, pieces: Sequence[Buffer]) -> None:
        """Write ``pieces`` at ``offset``, within what was reserved. What is long is written by a system call
        in any case: a map would take a fault for every new page of it.
        """
        if self._map is None or len(pieces[0]) > _MAPPED_STORE_BYTES_MAX:
            files.write_at(self.fd, offset, pieces, self.path)
            return
        for piece in pieces:
            end = offset + len(piece)
            self._map[offset:end] = piece
            offset = end

    def store_prefix(self, offset: int, pieces: Sequence[Buffer], count: int) -> None:
        """Only the first ``count`` bytes of a ``store``: what a death in the middle of one leaves."""
        for piece in pieces:
            part = memoryview(piece)[:count]
            self.store(offset, [part])
            offset += len(part)
            count -= len(part)

    def sync(self) -> None:
        """Put the file on the medium. Raises DurabilityError."""
        files.sync_data(self.fd, self.path)

    def close(self) -> None:
        """Drop the map and close the descriptor."""
        self._map = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)


class Smallfiles:
    """Everybody's smallfiles, for reading: mapped, or by positional reads where ``mapped`` is false.

    Maps grow by being replaced; an old one lives for as long as somebody looks at it.
    """

    def __init__(self, directory: Path, store_uuid: bytes, *, mapped: bool, integrity: bool) -> None:
        self.directory = directory
        self.store_uuid = store_uuid
        self.mapped = mapped
        self.integrity = integrity
        self._fds: dict[int, int] = {}
        self.maps: dict[int, mmap.mmap] = {}
        self._words: dict[int, tuple[mmap.mmap, Words]] = {}

    def path(self, file_id: int) -> Path:
        """Where the smallfile with that id is."""
        return self.directory / layout.smallfile_name(file_id)

    def read(self, file_id: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes of a smallfile, fewer where it ends. Raises CorruptedStoreError if it is
        not there or belongs to another store.
        """
        if self.mapped and length <= MAPPED_READ_BYTES_MAX + layout.RECORD_HEADER_BYTES:
            view = self.maps.get(file_id)
            if view is not None:
                data = view[offset : offset + length]
                if len(data) == length:
                    return data
            return self._remap(file_id)[offset : offset + length]
        fd = self._fds.get(file_id)
        return files.read_at(self._open(file_id) if fd is None else fd, offset, length)

    def value(self, key: bytes, location: int, length: int) -> bytes | None:
        """The value of the record at ``location``, or ``None`` if there is no whole record of ``key`` with
        that length (and, with integrity, that hash). The caller looks at the revision again and knows then
        whether it was overtaken or the file is damaged.
        """
        record = self.read(location >> layout.LOCATION_SHIFT, location & layout.LOCATION_MASK, length + 48)
        if len(record) != length + 48 or layout.RECORD_TAIL.unpack_from(record, 16)[:2] != (key, length):
            return None
        value = record[48:]
        if self.integrity and xxh3_128_digest(value) != record[:16]:
            return None
        return value

    def words(self, file_id: int, end: int) -> tuple[mmap.mmap, Words]:
        """A map of the smallfile that covers byte ``end``, and its 8-byte words. For vectorised reads;
        raises CorruptedStoreError if the file is shorter.
        """
        pair = self._words.get(file_id)
        if pair is None or len(pair[0]) < end:
            known = self.maps.get(file_id)
            view = known if known is not None and len(known) >= end else self._remap(file_id)
            if len(view) < end:
                raise CorruptedStoreError(
                    f"the smallfile ends at byte {len(view)}, before data that the index points to",
                    path=str(self.path(file_id)),
                    offset_bytes=end,
                )
            pair = view, np.frombuffer(view, dtype=np.uint64, count=len(view) // 8)
            self._words[file_id] = pair
        return pair

    def scan(self, file_id: int, start: int, end: int) -> Iterator[tuple[int, bytes, int, int]]:
        """Yield ``(offset, key, length, tag)`` of the records from ``start`` to ``end``, checking only that
        each one ends within. Raises CorruptedStoreError at the first that does not.
        """
        position = start
        while position < end:
            head = self.read(file_id, position, layout.RECORD_HEADER_BYTES)
            key, length, tag = layout.RECORD_TAIL.unpack_from(
                head.ljust(layout.RECORD_HEADER_BYTES, b"\0"), 16
            )
            following = position + layout.record_bytes(length)
            if not layout.KIND_VALUE <= tag >> layout.KIND_SHIFT <= layout.KIND_COMMIT or following > end:
                raise CorruptedStoreError(
                    "no record where one must begin", path=str(self.path(file_id)), offset_bytes=position
                )
            yield position, key, length, tag
            position = following

    def commit_record(self, file_id: int, offset: int) -> tuple[int, layout.Commit] | None:
        """``(T, commit)`` of the commit record at ``offset`` if it and every record that it covers are whole
        and of this store, else ``None``.
        """
        try:
            found = layout.unpack_commit(self.store_uuid, self.read(file_id, offset, layout.COMMIT_BYTES))
        except CorruptedStoreError:
            return None
        if found is None:
            return None
        commit = found[1]
        if commit.extent_offset + commit.extent_bytes != offset:
            return None
        state = xxh3_128()
        position, missing = commit.extent_offset, commit.extent_bytes
        while missing:
            part = self.read(file_id, position, min(missing, _JOIN_BYTES_MAX))
            if not part:
                return None
            state.update(part)
            position += len(part)
            missing -= len(part)
        return found if state.digest() == commit.records_hash else None

    def check(self, file_id: int, end: int) -> None:
        """Raise CorruptedStoreError unless the smallfile is there, is of this store and reaches byte ``end``."""
        fd = self._fds.get(file_id)
        actual = files.size(self._open(file_id) if fd is None else fd)
        if actual < end:
            raise CorruptedStoreError(
                f"the smallfile is truncated: {actual} bytes of at least {end}",
                path=str(self.path(file_id)),
                offset_bytes=actual,
            )

    def sync(self, file_id: int) -> None:
        """Put a smallfile (a dead writer's) on the medium. Raises DurabilityError."""
        fd = self._fds.get(file_id)
        files.sync_data(self._open(file_id) if fd is None else fd, self.path(file_id))

    def close(self) -> None:
        """Close the descriptors and drop the maps."""
        self.maps.clear()
        self._words.clear()
        while self._fds:
            files.close(self._fds.popitem()[1])

    def _open(self, file_id: int) -> int:
        path = self.path(file_id)
        try:
            fd = files.open_file(path, write=False)
        except FileNotFoundError:
            raise CorruptedStoreError(
                "a smallfile that the index points to is missing", path=str(path)
            ) from None
        header = files.read_at(fd, 0, layout.SMALLFILE_HEADER_BYTES)
        if header != layout.pack_smallfile_header(self.store_uuid, file_id):
            files.close(fd)
            raise CorruptedStoreError("not a smallfile of this store", path=str(path), offset_bytes=0)
        raced = self._fds.setdefault(file_id, fd)
        if raced != fd:  # another thread opened it meanwhile
            files.close(fd)
        return raced

    def _remap(self, file_id: int) -> mmap.mmap:
        fd = self._fds.get(file_id)
        view = files.map_file(self._open(file_id) if fd is None else fd, write=False)
        self.maps[file_id] = view
        return view
