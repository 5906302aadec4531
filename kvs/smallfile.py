"""Smallfiles: beginning one, appending to one's own, reading anybody's, the bounds in their headers.

The smallfiles are the truth; the index is a cache of them.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from xxhash import xxh3_128, xxh3_128_digest

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, StorageFullError, UnsupportedPlatformError
from kvs.files import Buffer
from kvs.records import Words

_GROWTH_BYTES_MIN: Final = 1 << 16
_LENGTH_BYTES_MIN: Final = 1 << 20
_READ_BYTES_MAX: Final = 16 << 20
_MAPPED_STORE_BYTES_MAX: Final = 1 << 15
MAPPED_READ_BYTES_MAX: Final = 1 << 16
"""Longer values are read by a system call, which fails where a map would be SIGBUS."""
READ_SLACK_BYTES: Final = MAPPED_READ_BYTES_MAX + layout.PAGE
_GROWTH_BYTES_MAX: Final = 64 << 20


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
        length = max(_LENGTH_BYTES_MIN, 1 << (size - 1).bit_length())
        files.lengthen(self.fd, length)
        if self._mapped and (self._map is None or len(self._map) < size):
            self._map = files.map_file(self.fd, write=True)
        self.room = size - READ_SLACK_BYTES  # not before the map reaches so far: mapping may fail
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

    def trim(self, end: int) -> None:
        """Give back the blocks behind byte ``end`` and what readers may touch behind it. No more will be stored."""
        begin = (end + READ_SLACK_BYTES + layout.PAGE - 1) & -layout.PAGE
        if begin < self.allocated:
            with contextlib.suppress(
                OSError, UnsupportedPlatformError
            ):  # where it cannot be, it is only not saved
                files.punch(self.fd, begin, self.allocated - begin, self.path)

    def close(self) -> None:
        """Drop the map and close the descriptor."""
        self._map = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)


class Smallfiles:
    """Everybody's smallfiles, for reading: mapped, or by positional reads where ``mapped`` is false.

    ``traits`` is what every one of them says of the store (``layout.pack_traits``). Maps grow by being replaced; an
    old one lives for as long as somebody looks at it.
    """

    def __init__(self, directory: Path, store_uuid: bytes, traits: int, *, mapped: bool) -> None:
        self.directory = directory
        self.store_uuid = store_uuid
        self.traits = traits
        self.mapped = mapped
        self.integrity = bool(traits & layout.FLAG_INTEGRITY)
        self.content_addressed = bool(traits & layout.FLAG_CONTENT_ADDRESSED)
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
        if self.content_addressed and xxh3_128_digest(value) != key:
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
            if not layout.KIND_VALUE <= tag >> layout.KIND_SHIFT <= layout.KIND_MOVE or following > end:
                raise CorruptedStoreError(
                    "no record where one must begin", path=str(self.path(file_id)), offset_bytes=position
                )
            yield position, key, length, tag
            position = following

    def commit_record(
        self, file_id: int, offset: int, kind: int = layout.KIND_COMMIT
    ) -> tuple[int, layout.Commit] | None:
        """``(T, commit)`` of the commit record (or move) at ``offset`` if it and every record that it covers are whole
        and of this store, else ``None``.
        """
        try:
            data = self.read(file_id, offset, layout.COMMIT_BYTES)
        except CorruptedStoreError:
            return None
        found = layout.unpack_commit(self.store_uuid, data, kind)
        if found is None:
            return None
        commit = found[1]
        if commit.file_id != file_id or commit.extent_offset + commit.extent_bytes != offset:
            return None
        state = xxh3_128()
        position, missing = commit.extent_offset, commit.extent_bytes
        while missing:
            part = self.read(file_id, position, min(missing, _READ_BYTES_MAX))
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

    def ids(self) -> list[int]:
        """The ids of the smallfiles in the directory now, whoever's they are."""
        names = files.names(self.directory)
        stems = (name.removesuffix(".small") for name in names if name.endswith(".small"))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def stranger(self, file_id: int) -> bool:
        """Whether the smallfile is none of this store: gone by now, what a replaced store left, or what somebody died
        over before it had a header.
        """
        try:
            fd = files.open_file(self.path(file_id), write=False)
        except FileNotFoundError:
            return True
        try:
            data = files.read_at(fd, 0, layout.SMALLFILE_BEGIN + layout.RECORD_HEADER_BYTES)
        finally:
            files.close(fd)
        header = layout.unpack_smallfile_header(data)
        if header is None:
            return not any(data[layout.SMALLFILE_BEGIN :])
        return header.store_uuid != self.store_uuid

    def bound(self, file_id: int, word: int) -> int:
        """A bound of the smallfile (``layout.B_BEGIN``, ``B_END``) as an offset, 0 if it was never stored.

        Raises:
            CorruptedStoreError: the bound is damaged, or the file is not there or not of this store.
        """
        fd = self._fds.get(file_id)
        data = files.read_at(self._open(file_id) if fd is None else fd, word * layout.WORD, layout.WORD)
        offset = layout.unpack_bound(file_id, word, int.from_bytes(data, "little"))
        if offset is None:
            raise CorruptedStoreError(
                "a bound in the smallfile's header does not match its checksum",
                path=str(self.path(file_id)),
                offset_bytes=word * layout.WORD,
            )
        return offset

    def since(self, file_id: int) -> int:
        """The T up to which removals of keys are newer than all of the live part; 0 where that is not known."""
        try:
            return self.bound(file_id, layout.B_SINCE)
        except CorruptedStoreError:
            return 0

    def begin(self, file_id: int) -> int:
        """Where the live part of the smallfile begins. Raises CorruptedStoreError as ``bound``."""
        return self.bound(file_id, layout.B_BEGIN) or layout.SMALLFILE_BEGIN

    def store_word(self, file_id: int, word: int, value: int, *, sync: bool = False) -> None:
        """Store one word of the smallfile's header with a single store, and with ``sync`` put it on the medium."""
        fd = files.open_file(self.path(file_id), write=True)
        try:
            memoryview(files.map_file(fd, write=True, length=layout.PAGE)).cast("Q")[word] = value
            if sync:
                files.sync_data(fd, self.path(file_id))
        finally:
            files.close(fd)

    def store_bound(self, file_id: int, word: int, offset: int, *, sync: bool = False) -> None:
        """Move a bound to ``offset``; see ``store_word``."""
        self.store_word(file_id, word, layout.pack_bound(file_id, word, offset), sync=sync)

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
        try:
            header = files.read_at(fd, 0, layout.SMALLFILE_HEADER_BYTES)
            if header != layout.pack_smallfile_header(self.store_uuid, file_id, self.traits):
                raise CorruptedStoreError("not a smallfile of this store", path=str(path), offset_bytes=0)
            self._drop_unlinked()
        except BaseException:
            files.close(fd)
            raise
        raced = self._fds.setdefault(file_id, fd)
        if raced != fd:  # another thread opened it meanwhile
            files.close(fd)
        return raced

    def _remap(self, file_id: int) -> mmap.mmap:
        fd = self._fds.get(file_id)
        view = files.map_file(self._open(file_id) if fd is None else fd, write=False)
        self.maps[file_id] = view
        return view

    def _drop_unlinked(self) -> None:
        """Let go of smallfiles that a compaction has removed: whoever opens a new one has time for it."""
        for file_id, fd in list(self._fds.items()):
            if not files.linked(fd) and self._fds.pop(file_id, None) is not None:
                self.maps.pop(file_id, None)
                self._words.pop(file_id, None)
                files.close(fd)


def begin_smallfile(smallfiles: Smallfiles, file_id: int, *, since: int) -> Appender:
    """Make the smallfile ``file_id``, which only the caller may write to, with its header. Nothing that it will hold is
    older than the removal of a key up to T ``since``. A file of that id was never
    published in, so one that is there is what a dead predecessor began, and is written over. It must stay the same
    file: a survivor who looked for the predecessor's commit in it has it open. Header and name are on the medium
    afterwards, of a store that is not durable, too: where a power cut takes the index, they tell which store it was.

    Raises:
        StorageFullError, DurabilityError: the file may be there, and is nobody's.
    """
    path = smallfiles.path(file_id)
    head = layout.pack_smallfile_header(smallfiles.store_uuid, file_id, smallfiles.traits)
    if not _starts_with(path, head):
        files.unlink(path)  # nobody has such a one open
    appender = Appender(path, tail=0, mapped=smallfiles.mapped)
    try:
        known = layout.pack_bound(file_id, layout.B_SINCE, since & layout.LOCATION_MASK) if since else 0
        words = bytes(layout.B_SINCE * layout.WORD - len(head)) + known.to_bytes(layout.WORD, "little")
        pieces = [head, words.ljust(layout.SMALLFILE_BEGIN - len(head), b"\0")]
        appender.reserve(layout.SMALLFILE_BEGIN)
        syncpoints.reach("smallfile.before_header", (appender.store_prefix, 0, pieces))
        appender.store(0, pieces)
        syncpoints.reach("smallfile.after_header")
        appender.sync()
        files.sync_directory(path.parent)
    except BaseException:
        appender.close()
        raise
    return appender


def _starts_with(path: Path, head: bytes) -> bool:
    try:
        fd = files.open_file(path, write=False)
    except FileNotFoundError:
        return False
    try:
        return files.read_at(fd, 0, len(head)) == head
    finally:
        files.close(fd)
