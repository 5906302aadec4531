"""Records in smallfiles: encoding them, appending them to one's own file, reading anybody's, scanning.

The smallfiles are the truth; the index is a cache of them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

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
_CONCATENATE_BYTES_MAX: Final = 1 << 16  # larger values are hashed in two steps instead of copied
_GROWTH_BYTES_MIN: Final = 1 << 20
_GROWTH_BYTES_MAX: Final = 64 << 20
VECTOR_MIN: Final = 24
"""From this many keys on the vectorised paths are the faster ones (measured by ``harness bench``)."""

Words = npt.NDArray[np.uint64]


class Extent(NamedTuple):
    """Encoded records of one transaction, ready to append: ``pieces`` in order, ``offsets`` of each record
    and ``lengths`` (TOMBSTONE for a removal) in the order of the keys, ``size`` in bytes, ``digest`` over all.
    """

    pieces: list[Buffer]
    size: int
    offsets: Sequence[int]
    lengths: Sequence[int]
    digest: bytes


def encode(keys: Sequence[bytes], values: Sequence[bytes | None], *, integrity: bool) -> Extent:
    """Records for ``keys`` and ``values`` (``None`` removes), with per-value hashes where ``integrity``."""
    if len(keys) >= VECTOR_MIN:
        tails = _tails_vectorised(keys, values)
    else:
        pack = layout.RECORD_TAIL.pack
        tails = [
            pack(key, 0, _REMOVAL_TAG | i) if value is None else pack(key, len(value), _VALUE_TAG | i)
            for i, (key, value) in enumerate(zip(keys, values, strict=True))
        ]
    contents = [b"" if value is None else value for value in values]
    sizes = [len(content) for content in contents]
    count = len(keys)
    pieces: list[Buffer] = [b""] * (4 * count)
    pieces[0::4] = _hashes(tails, contents) if integrity else [_NO_HASH] * count
    pieces[1::4] = tails
    pieces[2::4] = contents
    pieces[3::4] = [_PADDING[-(layout.RECORD_HEADER_BYTES + size) & 63] for size in sizes]
    offsets = []
    position = 0
    for size in sizes:
        offsets.append(position)
        position += (size + 111) & -64  # layout.record_bytes, inlined: this loop runs for every key
    lengths = [layout.TOMBSTONE if value is None else size for value, size in zip(values, sizes, strict=True)]
    if position <= _JOIN_BYTES_MAX:
        joined = b"".join(pieces)
        return Extent([joined], position, offsets, lengths, xxh3_128_digest(joined))
    state = xxh3_128()
    for piece in pieces:
        state.update(piece)
    return Extent(pieces, position, offsets, lengths, state.digest())


def _tails_vectorised(keys: Sequence[bytes], values: Sequence[bytes | None]) -> list[bytes]:
    """Record headers without their hash, built as one array."""
    count = len(keys)
    tails = np.empty((count, 4), dtype=np.uint64)
    tails[:, :2] = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(count, 2)
    tails[:, 2] = [0 if value is None else len(value) for value in values]
    tails[:, 3] = np.arange(count, dtype=np.uint64)
    tails[:, 3] |= np.array([_REMOVAL_TAG if v is None else _VALUE_TAG for v in values], dtype=np.uint64)
    data = tails.tobytes()
    return [data[i : i + 32] for i in range(0, count * 32, 32)]


def _hashes(tails: Sequence[bytes], contents: Sequence[bytes]) -> list[bytes]:
    return [
        xxh3_128_digest(tail + content)
        if len(content) <= _CONCATENATE_BYTES_MAX
        else _hash_long(tail, content)
        for tail, content in zip(tails, contents, strict=True)
    ]


def _hash_long(tail: bytes, content: Buffer) -> bytes:
    state = xxh3_128(tail)
    state.update(content)
    return state.digest()


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
        self._allocated = tail

    def reserve(self, end: int) -> None:
        """Make room up to byte ``end``. Raises StorageFullError, having changed nothing that matters."""
        if end <= self._allocated:
            return
        begin = self._allocated & -layout.PAGE
        step = min(max(begin, _GROWTH_BYTES_MIN), _GROWTH_BYTES_MAX)
        size = (max(end, begin + step) + layout.PAGE - 1) & -layout.PAGE
        syncpoints.reach("prepare.before_extend")
        try:
            files.allocate(self.fd, begin, size - begin, self.path)
        except StorageFullError:
            size = (end + layout.PAGE - 1) & -layout.PAGE  # the last blocks of a nearly full disk
            files.allocate(self.fd, begin, size - begin, self.path)
        self._allocated = size
        if self._mapped:
            self._map = files.map_file(self.fd, write=True, length=size)
        syncpoints.reach("prepare.after_extend")

    def store(self, offset: int, pieces: Sequence[Buffer]) -> None:
        """Write ``pieces`` at ``offset``, within what was reserved."""
        if self._map is None:
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
        self._mapped = mapped
        self._integrity = integrity
        self._fds: dict[int, int] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._words: dict[int, tuple[mmap.mmap, Words]] = {}

    def path(self, file_id: int) -> Path:
        """Where the smallfile with that id is."""
        return self.directory / layout.smallfile_name(file_id)

    def read(self, file_id: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes of a smallfile, fewer where it ends. Raises CorruptedStoreError if it is
        not there or belongs to another store.
        """
        if self._mapped:
            view = self._maps.get(file_id)
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
        record = self.read(
            location >> layout.LOCATION_SHIFT, (location & layout.LOCATION_MASK) << 6, length + 48
        )
        if self._integrity:
            body = record[16:] if length < 4096 else memoryview(record)[16:]
            if xxh3_128_digest(body) != record[:16] or record[16:32] != key or len(record) != length + 48:
                return None
        elif len(record) != length + 48 or layout.RECORD_TAIL.unpack_from(record, 16)[:2] != (key, length):
            return None
        return record[48:]

    def words(self, file_id: int, end: int) -> tuple[mmap.mmap, Words]:
        """A map of the smallfile that covers byte ``end``, and its 8-byte words. For vectorised reads;
        raises CorruptedStoreError if the file is shorter.
        """
        pair = self._words.get(file_id)
        if pair is None or len(pair[0]) < end:
            view = self._remap(file_id)
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

    def sync(self, file_id: int) -> None:
        """Put a smallfile (a dead writer's) on the medium. Raises DurabilityError."""
        fd = self._fds.get(file_id)
        files.sync_data(self._open(file_id) if fd is None else fd, self.path(file_id))

    def close(self) -> None:
        """Close the descriptors and drop the maps."""
        self._maps.clear()
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
        self._maps[file_id] = view
        return view
