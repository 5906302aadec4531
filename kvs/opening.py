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

from kvs import durability, files, generations, layout, locks, rebuild, scanning, syncpoints
from kvs import index as index_module
from kvs.errors import (
    CorruptedStoreError,
    DurabilityError,
    LockTimeoutError,
    MaximumWritersError,
    StoreNotFoundError,
    StoreOptionsError,
    UnknownStoreError,
)
from kvs.generations import Generations
from kvs.index import Index
from kvs.locks import Held, Range, RangeLocks
from kvs.smallfile import Smallfiles
from kvs.writer import Writer

GATE: Final = "store.lock"
RANGES: Final = "ranges.lock"
_MADE_FIRST: Final = frozenset({GATE, RANGES, f"{layout.index_name(0)}.new"})
"""What somebody who died, or a power cut, may leave of a store that was being created: any of these."""


class Options(NamedTuple):
    """What ``open`` was asked for, by the names of its arguments."""

    flag: str
    durable: bool | None
    integrity: bool | None
    content_addressed: bool | None
    io: str
    lock_timeout_s: float
    index_capacity: int
    growth: bool = True
    smallfile_bytes: int = layout.SMALLFILE_BYTES
    compact_at: float | None = None
    writers_max: int = layout.WRITERS_MAX

    @property
    def mapped(self) -> bool:
        """Whether smallfiles are read and written through maps."""
        return self.io == "mmap"

    def check(self) -> Options:
        """The same options. Raises StoreOptionsError for one that makes no sense."""
        problems = {
            f"flag {self.flag!r}: one of r, w, c, n": self.flag not in {"r", "w", "c", "n"},
            f"io {self.io!r}: 'mmap' or 'append'": self.io not in {"mmap", "append"},
            f"index_capacity {self.index_capacity}: from 1 to {1 << 33} keys": not (
                1 <= self.index_capacity <= 1 << 33
            ),
            f"smallfile_bytes {self.smallfile_bytes}: at least 1": self.smallfile_bytes < 1,
            f"compact_at {self.compact_at}: between 0 and 1": self.compact_at is not None
            and not 0 < self.compact_at < 1,
            f"lock_timeout_s {self.lock_timeout_s}: zero or more seconds": not self.lock_timeout_s >= 0,
        }
        for problem, found in problems.items():
            if found:
                raise StoreOptionsError(f"{problem}; nothing was touched")
        return self


class Attached(NamedTuple):
    """What a handle works with; ``writer`` is ``None`` where it may only read."""

    view: Generations
    smallfiles: Smallfiles
    writer: Writer | None


def attach(directory: Path, options: Options) -> Attached:
    """Open the store in ``directory``, which is created, replaced or rebuilt first where that is due.

    Raises:
        StoreNotFoundError, UnknownStoreError, StoreOptionsError, StorageFullError, MaximumWritersError;
        CorruptedStoreError: a file is damaged in a way that no rebuilding mends.
        LockTimeoutError: another process is creating or rebuilding it, or (flag ``n``, or a rebuild) still has it open
            for writing.
    """
    ensure(directory, options)
    while True:
        attached = None
        try:
            with locks.gate(directory / GATE, exclusive=False, timeout_s=options.lock_timeout_s):
                index = _usable(directory, write=options.flag != "r")
                if index is not None:
                    attached = _attach(directory, index, options)
                    return attached  # noqa: RET504 - a Ctrl-C may still come on the way out of the gate
        except BaseException:
            if attached is not None:
                abandon(*attached)
            raise
        _rebuild(directory, options)


def _attach(directory: Path, index: Index, options: Options) -> Attached:
    view = Generations(directory, index)
    smallfiles = Smallfiles(directory, index.store_uuid, index.traits, mapped=options.mapped)
    writer = None
    try:
        check_options(index, options, directory)
        if options.flag != "r":
            writer = claim(directory, view, smallfiles, options)
        return Attached(view, smallfiles, writer)
    except BaseException:
        abandon(view, smallfiles, writer)
        raise


def _usable(directory: Path, *, write: bool) -> Index | None:
    """The current index, or ``None`` where it has to be rebuilt: missing, damaged, or of another boot and not closed
    cleanly. Under the gate, shared.
    """
    try:
        index = generations.locate(directory, write=write)
    except (FileNotFoundError, CorruptedStoreError):
        return None
    except UnknownStoreError as error:
        if error.other_format or not any(directory.glob("*.small")):
            raise
        return None
    if stored_boot(index) == files.boot_id() or is_clean(index):
        return index
    index.close()
    return None


def _rebuild(directory: Path, options: Options) -> None:
    """Make a new index from the smallfiles, unless somebody else was faster."""
    try:
        with locks.gate(directory / GATE, exclusive=True, timeout_s=options.lock_timeout_s):
            index = _usable(directory, write=False)
            if index is not None:
                index.close()
                return
            _refuse_writers(directory)
            rebuild.rebuild(directory, boot_id=files.boot_id())
    except PermissionError as error:
        raise CorruptedStoreError(
            "the index is missing, damaged, or of unknown age after a restart of the machine, and may not be rebuilt by"
            f" this user ({error.strerror}); nothing was changed. Open the store once as somebody who may write to it",
            path=str(directory),
        ) from error


def ensure(directory: Path, options: Options) -> None:
    """Make sure that a store is there to be opened, creating or replacing one as the flag says.

    Raises:
        StoreNotFoundError, UnknownStoreError, StorageFullError; LockTimeoutError if another process is
        creating it, or (flag ``n``) still has it open for writing.
    """
    if directory.exists() and not directory.is_dir():
        raise UnknownStoreError(
            "this is a file; a store is a directory. Nothing was touched", path=str(directory)
        )
    there = _holds_store(directory)
    if options.flag in "rw":
        if not there:
            raise _missing(directory)
        return
    if options.flag == "c" and there:
        return
    try:
        directory.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise StoreNotFoundError(str(directory.parent)) from None
    names = {entry.name for entry in directory.iterdir()}  # one look: another process may be creating it now
    if not there and GATE not in names and not names <= _MADE_FIRST:
        raise UnknownStoreError(
            "this directory holds other files and no store; nothing was touched. Choose an empty directory",
            path=str(directory),
        )
    with locks.gate(directory / GATE, exclusive=True, timeout_s=options.lock_timeout_s):
        if options.flag == "n" or not _holds_store(directory):  # or somebody else was faster
            _create(directory, options)


def _holds_store(directory: Path) -> bool:
    """Whether there is an index, or smallfiles to make one from."""
    return bool(generations.numbers(directory)) or any(
        name.endswith(".small") for name in files.names(directory)
    )


def _missing(directory: Path) -> Exception:
    if (
        directory.is_dir()
        and not (directory / GATE).exists()
        and not set(files.names(directory)) <= _MADE_FIRST
    ):
        return UnknownStoreError("this directory holds other files and no store", path=str(directory))
    return StoreNotFoundError(str(directory))


def _create(directory: Path, options: Options) -> None:
    """Under the exclusive gate: build the index aside, name it, then drop what a replaced store left.

    A death in between leaves either the old store or the new one: leftover smallfiles carry another uuid, and the
    oldest generation is the one that counts.
    """
    ranges = directory / RANGES
    files.close(files.open_file(ranges, write=True, create=True))
    files.sync_directory(directory.parent)  # a power cut leaves no index without what comes before it
    files.sync_directory(directory)
    _refuse_writers(directory)
    index_path = generations.path_of(directory, 0)
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
            capacity=options.index_capacity,
            flags=flags,
            store_uuid=secrets.token_bytes(16),
            boot_id=files.boot_id(),
            writers_max=options.writers_max,
            synced=True,
        )
    except (OSError, DurabilityError):
        files.unlink(temporary)
        raise
    syncpoints.reach("create.before_publish")
    files.publish(temporary, index_path)
    files.sync_directory(directory)
    syncpoints.reach("create.after_publish")
    for leftover in directory.glob("*.small"):
        files.unlink(leftover)
    for number in generations.numbers(directory):
        if number:
            files.unlink(generations.path_of(directory, number))


def _refuse_writers(directory: Path) -> None:
    """Replacing a store or its index under a live writer would lose what it writes from then on."""
    ranges = RangeLocks(directory / RANGES, lambda _: 0)
    try:
        slot = ranges.other_writer()
        if slot is not None:
            pid = _pid_of(directory, slot)
            raise LockTimeoutError(f"WRITER[{slot}]", pid, files.process_state(pid) if pid else "", 0.0)
    finally:
        ranges.close()


def _pid_of(directory: Path, slot: int) -> int:
    """The pid in a writer place, for messages; 0 where the index cannot tell."""
    try:
        index = generations.locate(directory, write=False)
    except (UnknownStoreError, CorruptedStoreError, OSError):
        return 0
    try:
        return index.words[layout.writer_word(slot) + layout.W_PID]
    finally:
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


def stored_boot(index: Index) -> bytes:
    """The boot id that the header names."""
    return bytes(index.map[layout.H_BOOT * 8 : layout.H_BOOT * 8 + 16])


def clean_hash(index: Index) -> bytes:
    """The hash of what a clean close vouches for: the header page but the owners' words and the mark itself."""
    rest = index.map[layout.H_FLOOR * 8 : layout.PAGE]
    return xxh3_128_digest(index.map[: layout.H_OWNER_PID * 8] + stored_boot(index) + rest)


def is_clean(index: Index) -> bool:
    """Whether the last writer left everything synced."""
    return _mark(index) == clean_hash(index)


def store_pair(index: Index, word: int, data: bytes) -> None:
    """Store 16 bytes in two words of the header, one after the other."""
    index.words[word], index.words[word + 1] = _pair(data)


def _pair(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def claim(directory: Path, view: Generations, smallfiles: Smallfiles, options: Options) -> Writer:
    """Take a free writer place, finish what its dead owner left, mark the store unclean.

    Raises:
        MaximumWritersError, LockTimeoutError, DurabilityError; CorruptedStoreError: the place's smallfile is
        not what it was. It was not touched.
    """
    ranges = RangeLocks(directory / RANGES, lambda asked: _owner(view.index, asked))
    try:
        places = range(view.index.writers_max)
        slot = next((i for i in places if ranges.try_acquire(locks.writer_range(i))), None)
        if slot is None:
            raise MaximumWritersError(str(directory), view.index.writers_max)
        syncpoints.reach("claim.after_lock")
        writer = Writer(
            view,
            smallfiles,
            ranges,
            slot,
            pid=os.getpid(),
            lock_timeout_s=options.lock_timeout_s,
            smallfile_bytes=options.smallfile_bytes,
            growth=options.growth,
        )
        writer.locked(lambda held, index: _take_over(held, index, smallfiles, writer))
        return writer
    except BaseException:
        ranges.close()
        raise


def _take_over(held: Held, index: Index, smallfiles: Smallfiles, writer: Writer) -> None:
    """Under COMMIT, with the dead owner's commit finished: sync what the dead had not, and make the place one's own."""
    place, committed = layout.writer_word(writer.slot), index.words[layout.H_COMMITTED]
    if committed >= layout.SEQUENCE_MASK:
        raise generations.impossible(index, f"transaction {committed} is committed", layout.H_COMMITTED)
    for word in (layout.H_KEYS_LIVE, layout.H_ENTRIES_USED):
        if index.words[word] > index.slots:
            raise generations.impossible(index, f"{index.words[word]} keys are in it", word)
    tail, file_id = index.words[place + layout.W_TAIL], index.words[place + layout.W_FILE]
    if tail and smallfiles.path(file_id).exists():
        # Or this writer would append behind a hole, or to another's file.
        smallfiles.check(file_id, max(tail, layout.PAGE))
        _check_tail(index, smallfiles, file_id, tail)
    elif tail:
        _check_gone(index, smallfiles, file_id)
    _mark_unclean(held, index)
    if index.durable:
        durability.finish_dead(index, smallfiles, writer.locks, writer.lock_timeout_s)
    index.words[layout.H_PLACES] = max(index.words[layout.H_PLACES], writer.slot + 1)
    index.words[place + layout.W_PID] = writer.pid
    syncpoints.reach("claim.after_owner")
    generations.tidy(held, index)


def _mark_unclean(held: Held, index: Index) -> None:
    """Take the mark of the clean close away, on the medium too, before anything else is stored: after a power cut it
    would be believed, beside pages that are newer. Whoever finds it taken away by somebody who died over it does not
    know whether the medium knows, and syncs again.
    """
    assert held.range is locks.COMMIT
    if _mark(index) != layout.UNCLEAN:
        store_pair(index, layout.H_CLEAN, bytes(16))
        store_pair(index, layout.H_BOOT, files.boot_id())
        files.sync_data(index.fd, index.path)
        store_pair(index, layout.H_CLEAN, layout.UNCLEAN)


def _mark(index: Index) -> bytes:
    return bytes(index.map[layout.H_CLEAN * 8 : layout.H_CLEAN * 8 + 16])


def _owner(index: Index, asked: Range) -> int:
    """The pid in the owner word beside a lock."""
    if asked in (locks.COMMIT, locks.COMPACT):
        return index.words[layout.H_OWNER_PID if asked is locks.COMMIT else layout.H_COMPACT_PID]
    for named in (locks.writer_range, locks.sync_range):
        slot = asked.start - named(0).start
        if 0 <= slot < index.writers_max:
            return index.words[layout.writer_word(slot) + layout.W_PID]
    return 0


def leave(smallfiles: Smallfiles, writer: Writer) -> None:
    """Close a writer: finish pending work and, if nobody else writes, sync all and mark the store clean.

    Raises LockTimeoutError; the handle's locks are released whatever happens.
    """

    def mark(held: Held, index: Index) -> None:
        if writer.locks.other_writer() is None and not writer.locks.held_elsewhere(locks.COMPACT):
            _mark_clean(held, index, smallfiles, writer)
        writer.closed = True  # or another thread could still write behind the mark

    try:
        if writer.failure is None and not writer.closed:
            writer.locked(mark)
    finally:
        writer.close()
        writer.locks.drop()
        writer.locks.close()


def abandon(view: Generations, smallfiles: Smallfiles, writer: Writer | None) -> None:
    """What the kernel does where a process dies: close everything, and finish nothing."""
    if writer is not None:
        writer.close()
        writer.locks.close()
    view.close()
    smallfiles.close()


def _mark_clean(held: Held, index: Index, smallfiles: Smallfiles, writer: Writer) -> None:
    """Put everything on the medium, then say so. A store that nothing was written to since is synced already."""
    if index.durable:
        committed = index.words[layout.H_COMMITTED]
        durability.catch_up(index, smallfiles, writer.locks, committed, writer.lock_timeout_s)
    for file_id in generations.published(index, smallfiles):
        smallfiles.sync(file_id)
    _append_floor(held, index, writer)
    files.sync_data(index.fd, index.path)
    files.sync_directory(smallfiles.directory)
    digest = clean_hash(index)
    pair = (layout.H_CLEAN, layout.H_CLEAN + 1)
    syncpoints.reach("close.before_clean", (index.store_words, pair, _pair(digest)))
    store_pair(index, layout.H_CLEAN, digest)
    files.sync_data(index.fd, index.path)
    syncpoints.reach("close.after_clean")


def _append_floor(held: Held, index: Index, writer: Writer) -> None:
    """Write down in my own smallfile that everything up to C is on the medium, so that a rebuild can tell damage from
    what a power cut took. Where the place has no file to append to it is left out.
    """
    assert held.range is locks.COMMIT
    words, place = index.words, layout.writer_word(writer.slot)
    floor, file_id = words[layout.H_COMMITTED], words[place + layout.W_FILE]
    if words[layout.H_FLOOR] == floor or not words[place + layout.W_TAIL]:
        return
    appender, tail = writer.room(layout.COMMIT_BYTES)
    if writer.file_id != file_id:
        return
    hashed = xxh3_128_digest(b"")
    record = layout.pack_commit(index.store_uuid, floor, tail, 0, 0, 0, 0, file_id, hashed, layout.KIND_MOVE)
    if tail + len(record) > appender.room:
        appender.reserve(tail + len(record))
    appender.store(tail, [record])
    appender.sync()
    words[place + layout.W_TAIL] = tail + len(record)
    words[layout.H_FLOOR] = floor


def _check_gone(index: Index, smallfiles: Smallfiles, file_id: int) -> None:
    """Raise CorruptedStoreError if the index points into a smallfile that is not there: no compaction removes such."""
    if index.points_into(file_id):
        raise CorruptedStoreError(
            "a smallfile that the index points to is missing", path=str(smallfiles.path(file_id))
        )


def _check_tail(index: Index, smallfiles: Smallfiles, file_id: int, tail: int) -> None:
    """Raise CorruptedStoreError if a transaction that is visible begins where this writer would append: it would be
    overwritten. So the tail in the index is older than the file.
    """
    if not any(smallfiles.read(file_id, tail, layout.ALIGN)) or smallfiles.bound(file_id, layout.B_END):
        return
    behind = next(scanning.scan(smallfiles, file_id, tail, tail + scanning.PIECE_BYTES))
    if behind.commits.size and behind.commits[0] <= index.words[layout.H_COMMITTED]:
        raise CorruptedStoreError(
            f"transaction {behind.commits[0]} is behind the end that the index gives the smallfile; without the file"
            f" {index.path.name} the index is made anew from the smallfiles, which hold the data and were not touched",
            path=str(smallfiles.path(file_id)),
            offset_bytes=tail,
        )
