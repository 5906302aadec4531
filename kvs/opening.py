"""Opening a store: create it if need be, check it, claim a writer place, and leave it clean.

``store.lock`` (whole file) is held exclusively while a store is created or replaced, and shared while one
is opened, so nobody opens what is half made. An index gets its name in one rename, complete.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_128_digest

from kvs import files, layout, locks, syncpoints
from kvs import index as index_module
from kvs.errors import (
    CorruptedStoreError,
    LockTimeoutError,
    MaximumWritersError,
    StorageFullError,
    StoreNotFoundError,
    StoreOptionsError,
    UnknownStoreError,
)
from kvs.index import Index
from kvs.locks import Held, Range, RangeLocks
from kvs.smallfile import Appender, Smallfiles
from kvs.transaction import Writer

GATE: Final = "store.lock"
RANGES: Final = "ranges.lock"
GENERATION: Final = 0
_NO_CLEAN: Final = bytes(16)


class Options(NamedTuple):
    """What ``open`` was asked for, checked."""

    flag: str
    durable: bool | None
    integrity: bool | None
    content_addressed: bool | None
    mapped: bool
    lock_timeout_s: float
    capacity: int
    writers_max: int


def ensure(directory: Path, options: Options) -> Path:
    """Make sure that a store is there to be opened, creating or replacing one as the flag says; returns the path of
    its index.

    Raises:
        StoreNotFoundError, UnknownStoreError, StorageFullError; LockTimeoutError if another process is
        creating it, or (flag ``n``) still has it open for writing.
    """
    index_path = directory / layout.index_name(GENERATION)
    there = index_path.exists()
    if not there and directory.exists() and not directory.is_dir():
        raise UnknownStoreError(
            "this is a file; a store is a directory. Nothing was touched", path=str(directory)
        )
    if options.flag in "rw":
        if not there:
            raise _missing(directory)
        return index_path
    if options.flag == "c" and there:
        return index_path
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise StoreNotFoundError(str(directory.parent)) from None
    names = {entry.name for entry in directory.iterdir()}  # one look: another process may be creating it now
    if names and not names & {index_path.name, GATE}:
        raise UnknownStoreError(
            "this directory holds other files and no store; nothing was touched. Choose an empty directory",
            path=str(directory),
        )
    with locks.gate(directory / GATE, exclusive=True, timeout_s=options.lock_timeout_s):
        if options.flag == "n" or not index_path.exists():  # or somebody else was faster
            _create(directory, index_path, options)
    return index_path


def _missing(directory: Path) -> Exception:
    if directory.is_dir() and any(directory.glob("*.small")):
        return CorruptedStoreError(
            "the index is missing; the smallfiles, which hold the data, are there and were not touched",
            path=str(directory / layout.index_name(GENERATION)),
        )
    if directory.is_dir() and any(directory.iterdir()) and not (directory / GATE).exists():
        return UnknownStoreError("this directory holds other files and no store", path=str(directory))
    return StoreNotFoundError(str(directory))


def _create(directory: Path, index_path: Path, options: Options) -> None:
    """Under the exclusive gate: build the index aside, name it, then drop what a replaced store left.

    A death in between leaves either the old store or the new one: leftover smallfiles carry another uuid.
    """
    ranges = directory / RANGES
    files.close(files.open_file(ranges, write=True, create=True))
    if index_path.exists():
        _refuse_writers(directory, index_path)
    elif any(directory.glob("*.small")) and options.flag != "n":
        raise _missing(directory)
    flags = (
        (layout.FLAG_DURABLE if options.durable else 0)
        | (layout.FLAG_INTEGRITY if options.integrity is not False else 0)
        | (layout.FLAG_CONTENT_ADDRESSED if options.content_addressed else 0)
    )
    temporary = directory / f"{index_path.name}.new"
    syncpoints.reach("create.before_index")
    files.unlink(temporary)
    try:
        index_module.build(
            temporary,
            capacity=options.capacity,
            flags=flags,
            store_uuid=secrets.token_bytes(16),
            boot_id=files.boot_id(),
            writers_max=options.writers_max,
        )
    except StorageFullError:
        files.unlink(temporary)
        raise
    syncpoints.reach("create.before_publish")
    files.publish(temporary, index_path)
    files.sync_directory(directory)
    syncpoints.reach("create.after_publish")
    for leftover in directory.glob("*.small"):
        files.unlink(leftover)


def _refuse_writers(directory: Path, index_path: Path) -> None:
    """Replacing a store under a live writer would lose what it writes from then on."""
    try:
        index = Index(index_path, write=False)
    except (UnknownStoreError, CorruptedStoreError):
        return  # flag n replaces what cannot be read, too
    ranges = RangeLocks(directory / RANGES, lambda _: 0)
    try:
        for slot in range(index.writers_max):
            if ranges.held_elsewhere(locks.writer_range(slot)):
                pid = index.words[layout.writer_word(slot) + layout.W_PID]
                raise LockTimeoutError(f"WRITER[{slot}]", pid, files.process_state(pid), 0.0)
    finally:
        ranges.close()
        index.close()


def check_options(index: Index, options: Options, path: Path) -> None:
    """Raise StoreOptionsError if a property that was asked for is not the stored one."""
    for name, flag in (
        ("durable", layout.FLAG_DURABLE),
        ("integrity", layout.FLAG_INTEGRITY),
        ("content_addressed", layout.FLAG_CONTENT_ADDRESSED),
    ):
        asked, stored = getattr(options, name), bool(index.flags & flag)
        if asked is not None and asked != stored:
            raise StoreOptionsError(
                f"{path} was created with {name}={stored} and cannot be opened with {name}={asked}: this is fixed at"
                " creation. Nothing was touched; leave the option out to take it as stored"
            )


def check_boot(index: Index, path: Path) -> None:
    """Raise CorruptedStoreError if the machine was restarted since and the store was not closed cleanly."""
    if stored_boot(index) == files.boot_id() or is_clean(index):
        return
    raise CorruptedStoreError(
        "the machine was restarted while the store was open for writing, so this index is of unknown age. The"
        " smallfiles, which hold the data, were not touched; this version cannot rebuild the index from them yet",
        path=str(path),
    )


def stored_boot(index: Index) -> bytes:
    """The boot id that the header names."""
    return bytes(index.map[layout.H_BOOT * 8 : layout.H_BOOT * 8 + 16])


def clean_hash(index: Index) -> bytes:
    """The hash of what a clean close vouches for: everything in the header page up to the owner's word."""
    return xxh3_128_digest(index.map[: layout.H_OWNER_PID * 8] + stored_boot(index))


def is_clean(index: Index) -> bool:
    """Whether the last writer left everything synced."""
    return bytes(index.map[layout.H_CLEAN * 8 : layout.H_CLEAN * 8 + 16]) == clean_hash(index)


def _store_pair(index: Index, word: int, data: bytes) -> None:
    index.words[word], index.words[word + 1] = _pair(data)


def _pair(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def claim(directory: Path, index: Index, smallfiles: Smallfiles, options: Options) -> Writer:
    """Take a free writer place and its smallfile, finish what its dead owner left, mark the store unclean.

    Raises:
        MaximumWritersError, LockTimeoutError, StorageFullError; CorruptedStoreError: the place's smallfile is
        not what it was. It was not touched.
    """
    ranges = RangeLocks(directory / RANGES, lambda asked: _owner(index, asked))
    try:
        slot = next((i for i in range(index.writers_max) if ranges.try_acquire(locks.writer_range(i))), None)
        if slot is None:
            raise MaximumWritersError(str(directory), index.writers_max)
        syncpoints.reach("claim.after_lock")
        appender = _smallfile(index, smallfiles, slot, options)
        index.words[layout.writer_word(slot) + layout.W_PID] = os.getpid()
        syncpoints.reach("claim.after_owner")
        writer = Writer(
            index, smallfiles, ranges, slot, appender, pid=os.getpid(), lock_timeout_s=options.lock_timeout_s
        )

        def unclean(_: Held) -> None:
            _store_pair(index, layout.H_CLEAN, _NO_CLEAN)
            _store_pair(index, layout.H_BOOT, files.boot_id())

        try:
            writer.locked(unclean)
        except BaseException:
            writer.close()
            raise
    except BaseException:
        ranges.close()
        raise
    return writer


def _owner(index: Index, asked: Range) -> int:
    """The pid in the owner word beside a lock."""
    if asked is locks.COMMIT:
        return index.words[layout.H_OWNER_PID]
    slot = asked.start - locks.writer_range(0).start
    return index.words[layout.writer_word(slot) + layout.W_PID] if 0 <= slot < index.writers_max else 0


def _smallfile(index: Index, smallfiles: Smallfiles, slot: int, options: Options) -> Appender:
    """The appender of the place's smallfile, made new where nothing was ever published in it."""
    place = layout.writer_word(slot)
    tail = index.words[place + layout.W_TAIL]
    file_id = index.words[place + layout.W_FILE] if tail else slot
    path = smallfiles.path(file_id)
    if tail:
        smallfiles.check(file_id, tail)  # or this writer would append behind a hole, or to another's file
        return Appender(path, tail=tail, mapped=options.mapped)
    files.unlink(path)  # a replaced store's, or one that died before it had a header
    appender = Appender(path, tail=0, mapped=options.mapped)
    try:
        pieces = [layout.pack_smallfile_header(index.store_uuid, file_id)]
        appender.reserve(layout.SMALLFILE_HEADER_BYTES)
        syncpoints.reach("claim.before_header", (appender.store_prefix, 0, pieces))
        appender.store(0, pieces)
        named = (place + layout.W_FILE, place + layout.W_TAIL)
        values = (file_id, layout.SMALLFILE_HEADER_BYTES)
        syncpoints.reach("claim.after_header", (index.store_words, named, values))
        if index.durable:
            appender.sync()
            files.sync_directory(path.parent)
        index.words[place + layout.W_FILE] = file_id
        index.words[place + layout.W_TAIL] = layout.SMALLFILE_HEADER_BYTES
    except BaseException:
        appender.close()
        raise
    return appender


def leave(index: Index, smallfiles: Smallfiles, writer: Writer) -> None:
    """Close a writer: finish pending work and, if nobody else writes, sync all and mark the store clean.

    Raises LockTimeoutError; the handle's locks are released whatever happens.
    """

    def mark(_: Held) -> None:
        others = any(
            slot != writer.slot and writer.locks.held_elsewhere(locks.writer_range(slot))
            for slot in range(index.writers_max)
        )
        if others or writer.failure is not None:
            return
        for slot in range(index.writers_max):
            place = layout.writer_word(slot)
            if index.words[place + layout.W_TAIL] > layout.SMALLFILE_HEADER_BYTES:
                smallfiles.sync(index.words[place + layout.W_FILE])
        files.sync_data(index.fd, index.path)
        files.sync_directory(smallfiles.directory)
        digest = clean_hash(index)
        pair = (layout.H_CLEAN, layout.H_CLEAN + 1)
        syncpoints.reach("close.before_clean", (index.store_words, pair, _pair(digest)))
        _store_pair(index, layout.H_CLEAN, digest)
        files.sync_data(index.fd, index.path)
        syncpoints.reach("close.after_clean")

    try:
        if writer.failure is None:
            writer.locked(mark)
    finally:
        writer.close()
        writer.locks.close()
