"""Making the index anew from the smallfiles, which are the truth.

All transactions up to a floor were on the medium once. What is missing of them up to the floor of a compaction was
compacted away; up to any other floor nothing may be missing. Those after it count up to the first that is missing. So
a durable store loses nothing that was acknowledged, and any other comes back as an exact prefix of its history. What
is cut stays behind the sealed ends of its files, where nobody looks.

Nothing is cut that is known to be older than the last transaction that counts: that is damage, and an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from kvs import files, layout, placing, scanning, syncpoints
from kvs import index as index_module
from kvs.errors import CorruptedStoreError, DurabilityError, UnknownStoreError
from kvs.index import Index
from kvs.layout import ALIGN, COMMIT_BYTES, ENTRY_WORDS, REVISIONS, SMALLFILE_BEGIN
from kvs.records import Words
from kvs.scanning import PIECE_BYTES, Log, Times
from kvs.smallfile import Smallfiles

_ADVICE: Final = (
    "nothing was changed. `kvs recover` copies what verifies into a new store and lists what is lost"
)


class _Store(NamedTuple):
    """What is known of the store before its smallfiles are read."""

    uuid: bytes
    traits: int
    capacity: int
    headers: dict[int, layout.SmallfileHeader | None]
    """Of every smallfile in the directory; ``None`` where it is damaged."""

    @property
    def flags(self) -> int:
        return self.traits & 0xFFFFFFFF

    @property
    def writers_max(self) -> int:
        return self.traits >> 32

    def ids(self) -> list[int]:
        """Its smallfiles in rising order: those with a damaged header, too, which can only be its own."""
        return sorted(
            i for i, header in self.headers.items() if header is None or header.store_uuid == self.uuid
        )


class _Chain(NamedTuple):
    """What verifies of one smallfile: from ``begin`` to ``end``; ``sealed`` is its stored end bound, 0 for none."""

    file_id: int
    headed: bool
    begin: int
    end: int
    sealed: int
    pieces: list[Log]
    commits: Times
    offsets: Times
    floor: int

    def end_at(self, last: int) -> int:
        """Where the transactions up to ``last`` end."""
        count = int(self.commits.searchsorted(last, side="right"))
        if count == len(self.commits):
            return self.end
        return int(self.offsets[count - 1]) + COMMIT_BYTES if count else self.begin


class _Rings(NamedTuple):
    """The newest revisions of ``n`` keys: ``r`` revisions, each with the row of its key and its place in the ring."""

    keys: Words
    owners: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    times: Times
    locations: Words
    lengths: Words
    live: int


def rebuild(directory: Path, *, boot_id: bytes) -> None:
    """Make a new index from the smallfiles in ``directory``. The caller holds the gate exclusively, and nobody writes.

    A death at any point leaves smallfiles from which the same is rebuilt again.

    Raises:
        CorruptedStoreError: a smallfile is damaged where nothing may be cut, or nothing tells whose the smallfiles
            are. Nothing was changed.
        UnknownStoreError: they are of a newer format. Nothing was changed.
        StorageFullError: no room for the index; the smallfiles hold what they held.
    """
    store = _identify(directory)
    smallfiles = Smallfiles(directory, store.uuid, store.traits, mapped=False)
    try:
        chains = [_read(smallfiles, file_id, store.headers[file_id] is not None) for file_id in store.ids()]
        floor = max((chain.floor for chain in chains), default=0)
        outputs = [
            c for c in chains if c.file_id % layout.place_stride(store.writers_max) == store.writers_max
        ]
        compacted = max((chain.floor for chain in outputs), default=0)
        last = _last(smallfiles, chains, floor, compacted)
        for chain in chains:
            _refuse_damage(smallfiles, store, chains, chain, last)
        rings = _rings(_gathered(chains), last, compacted)
        syncpoints.reach("rebuild.before_seal")
        for chain in chains:
            _seal(smallfiles, chain, chain.end_at(last))
        syncpoints.reach("rebuild.after_seal")
        old = _indexes(directory)
        generation = max(old.values(), default=-1) + 1
        temporary = directory / f"{layout.index_name(generation)}.new"
        syncpoints.reach("rebuild.before_index")
        try:
            _build(temporary, store, rings, boot_id, generation)
            _fill(temporary, store, chains, rings, floor, last)
        except (OSError, DurabilityError):
            files.unlink(temporary)
            raise
        syncpoints.reach("rebuild.after_index")
        for file_id in sorted(store.headers.keys() - store.ids()):
            files.unlink(smallfiles.path(file_id))  # a replaced store's; the old index may be what tells
        syncpoints.reach("rebuild.before_publish")
        files.publish(temporary, directory / layout.index_name(generation))
        files.sync_directory(directory)  # or a power cut could leave no index, of a store without smallfiles
        for path in old:
            if path != temporary:
                files.unlink(path)
        files.sync_directory(directory)
        syncpoints.reach("rebuild.after_publish")
    finally:
        smallfiles.close()


# -- whose smallfiles they are ----------------------------------------------------------------------------


def _indexes(directory: Path) -> dict[Path, int]:
    """The files of the index, half-made ones too, with their generations."""
    names = {
        path: path.name.removeprefix("index.").removesuffix(".new") for path in directory.glob("index.*")
    }
    return {path: int(name) for path, name in names.items() if name.isdecimal()}


def _identify(directory: Path) -> _Store:
    """Which store it is, and with which properties: as its index says, if that much of it can be read, else as its
    smallfiles do.
    """
    headers: dict[int, layout.SmallfileHeader | None] = {}
    for path in directory.glob("*.small"):
        if path.stem.isdecimal() and path.name == layout.smallfile_name(int(path.stem)):
            header = layout.unpack_smallfile_header(_start(path, layout.SMALLFILE_HEADER_BYTES))
            if header is not None and header.version > layout.FORMAT_VERSION:
                raise UnknownStoreError(
                    f"written in format {header.version}, newer than {layout.FORMAT_VERSION}, the newest that this"
                    " version of kvs knows; nothing was touched. Upgrade kvs",
                    path=str(path),
                )
            if header is not None and header.file_id != int(path.stem):
                named = layout.smallfile_name(header.file_id)
                raise _damaged(f"it was {named} and has another name now", path, 0)
            headers[int(path.stem)] = header
    for number in sorted(_indexes(directory).values()):
        words = _index_header(directory / layout.index_name(number))
        if words is not None:
            uuid = words[layout.H_UUID : layout.H_UUID + 2].tobytes()
            traits = layout.pack_traits(int(words[layout.H_FLAGS]), int(words[layout.H_WRITERS_MAX]))
            return _Store(uuid, traits, int(words[layout.H_CAPACITY]), headers)
    known = {header.store_uuid: header for header in headers.values() if header is not None}
    if len(known) != 1:
        names = ", ".join(layout.smallfile_name(file_id) for file_id in sorted(headers)) or "none"
        raise CorruptedStoreError(
            f"no index can be read, and the smallfiles ({names}) are of {len(known)} stores, not one, so nothing tells"
            f" which of them to rebuild; {_ADVICE}",
            path=str(directory),
        )
    [(uuid, header)] = known.items()
    traits = layout.pack_traits(header.flags, header.writers_max)
    return _Store(uuid, traits, layout.INDEX_CAPACITY, headers)


def _start(path: Path, length: int) -> bytes:
    """The first bytes of a file; none if it is not there."""
    try:
        fd = files.open_file(path, write=False)
    except FileNotFoundError:
        return b""
    try:
        return files.read_at(fd, 0, length)
    finally:
        files.close(fd)


def _index_header(path: Path) -> Words | None:
    """The words of an index's header that never change, or ``None`` if they are damaged."""
    page = _start(path, layout.PAGE)
    static = page[: layout.STATIC_WORDS * layout.WORD]
    if xxh3_128_digest(static) != page[layout.H_STATIC_HASH * 8 : layout.H_STATIC_HASH * 8 + 16]:
        return None
    words = np.frombuffer(static, dtype=np.uint64)
    right = words[layout.H_MAGIC] == layout.INDEX_MAGIC and words[layout.H_VERSION] <= layout.FORMAT_VERSION
    return words if right else None


# -- what of them counts ----------------------------------------------------------------------------------


def _read(smallfiles: Smallfiles, file_id: int, headed: bool) -> _Chain:
    """Everything that verifies of a smallfile up to its end bound, or to its end if it was never sealed."""
    path = smallfiles.path(file_id)
    none = np.empty(0, dtype=np.int64)
    if not headed:  # its bounds cannot be trusted either, and no chain begins without a header
        return _Chain(file_id, False, SMALLFILE_BEGIN, SMALLFILE_BEGIN, 0, [], none, none, 0)
    try:
        begin, sealed = smallfiles.begin(file_id), smallfiles.bound(file_id, layout.B_END)
    except CorruptedStoreError as error:
        what = "its header says other things than those of its neighbours, or has a damaged bound"
        raise _damaged(what, path, error.offset_bytes) from error
    size = path.stat().st_size
    if begin > max(size, SMALLFILE_BEGIN):
        raise _damaged(f"truncated: {size} bytes of at least {begin}", path, size)
    pieces = list(scanning.scan(smallfiles, file_id, begin, sealed or size))
    smallfiles.close()  # a store may have more smallfiles than a process may have open
    commits = np.concatenate([none, *(piece.commits for piece in pieces)])
    offsets = np.concatenate([none, *(piece.offsets for piece in pieces)])
    falling = np.flatnonzero(np.diff(commits) <= 0)
    if falling.size:
        raise _damaged(
            "a transaction that is older than the one before it", path, int(offsets[falling[0] + 1])
        )
    end = pieces[-1].end if pieces else begin
    floor = max((piece.floor for piece in pieces), default=0)
    return _Chain(file_id, True, begin, end, sealed, pieces, commits, offsets, floor)


def _last(smallfiles: Smallfiles, chains: list[_Chain], floor: int, compacted: int) -> int:
    """The newest transaction that counts: from the floor of the compactions on, none is missing before it."""
    every = np.concatenate([np.empty(0, dtype=np.int64), *(chain.commits for chain in chains)])
    every.sort()
    twice = np.flatnonzero(np.diff(every) == 0)
    if twice.size:
        time = int(every[twice[0]])
        chain = [chain for chain in chains if time in chain.commits][-1]
        offset = int(chain.offsets[chain.commits.searchsorted(time)])
        raise _damaged(f"transaction {time} is there twice", smallfiles.path(chain.file_id), offset)
    newer = every[every > compacted]
    missing = np.flatnonzero(newer != compacted + 1 + np.arange(len(newer)))
    last = compacted + (int(missing[0]) if missing.size else len(newer))
    if last < floor:
        directory = smallfiles.directory
        raise _damaged(
            f"transaction {last + 1} is missing, and all up to {floor} were on the medium", directory, -1
        )
    return last


def _refuse_damage(
    smallfiles: Smallfiles, store: _Store, chains: list[_Chain], chain: _Chain, last: int
) -> None:
    """Raise CorruptedStoreError if what is missing behind the end of ``chain`` must be there: everything up to ``last``
    that was not compacted away, and in a durable store whatever is older than a whole transaction.
    """
    path = smallfiles.path(chain.file_id)
    if 0 < chain.sealed <= chain.end:
        return
    stride = layout.place_stride(store.writers_max)
    if chain.sealed:
        later = [c for c in chains if c.file_id > chain.file_id and (c.file_id - chain.file_id) % stride == 0]
        following = min((int(c.commits[0]) for c in later if len(c.commits)), default=last + 2)
        # A compaction bounds what is on the medium. A writer bounds what it wrote, all of which is older than the first
        # transaction of its place's next smallfile.
        if chain.file_id % stride == store.writers_max or following <= last + 1:
            raise _damaged("records up to the sealed end are missing or damaged", path, chain.end)
    elif not chain.headed and chain.file_id % stride == store.writers_max and _holds_records(path):
        raise _damaged("the header of a compaction's file, which may hold anything of any age", path, 0)
    durable = bool(store.flags & layout.FLAG_DURABLE)
    for offset, time, commit in _behind(path, store.uuid, chain):
        if commit is None:
            raise _damaged(
                f"what is in front of it was on the medium when floor {time} was written down",
                path,
                chain.end,
            )
        older = time <= last + (commit.extent_offset > chain.end)
        synced = durable and (not chain.headed or smallfiles.commit_record(chain.file_id, offset) is not None)
        if older or synced:
            raise _damaged(
                f"what is in front of transaction {time}, or a part of it, is missing or damaged",
                path,
                chain.end,
            )


def _holds_records(path: Path) -> bool:
    """Whether there is anything in a compaction's file behind what it begins with: its header and first move are on the
    medium before anything else is.
    """
    fd = files.open_file(path, write=False)
    try:
        beginning = SMALLFILE_BEGIN + COMMIT_BYTES
        return any(
            any(files.read_at(fd, at, PIECE_BYTES)) for at in range(beginning, files.size(fd), PIECE_BYTES)
        )
    finally:
        files.close(fd)


def _behind(path: Path, uuid: bytes, chain: _Chain) -> Iterator[tuple[int, int, layout.Commit | None]]:
    """Yield ``(offset, T, commit)`` of the commit records of this file that are whole themselves, behind the end of the
    chain, wherever they stand; and ``(offset, floor, None)`` of its moves.
    """
    wanted = np.frombuffer(uuid, dtype=np.uint64)
    fd = files.open_file(path, write=False)
    try:
        until = min(chain.sealed or files.size(fd), files.size(fd))
        for position in range(chain.end, until, PIECE_BYTES):
            data = files.read_at(fd, position, min(PIECE_BYTES + ALIGN, until - position))
            rows = np.frombuffer(data, dtype=np.uint64, count=len(data) // ALIGN * 8).reshape(-1, 8)
            likely = rows[:, 4] == np.uint64(layout.COMMIT_VALUE_BYTES)
            likely &= (rows[:, 2] == wanted[0]) & (rows[:, 3] == wanted[1])
            for slot in np.flatnonzero(likely).tolist():
                record = data[slot * ALIGN : slot * ALIGN + COMMIT_BYTES]
                found = layout.unpack_commit(uuid, record)
                moved = layout.unpack_commit(uuid, record, layout.KIND_MOVE)
                offset = position + slot * ALIGN
                if moved is not None and moved[1].file_id == chain.file_id:
                    if moved[1].extent_offset + moved[1].extent_bytes == offset:
                        yield offset, moved[0], None
                    continue
                if found is None or found[1].file_id != chain.file_id:
                    continue
                if found[1].extent_offset + found[1].extent_bytes == offset:  # or it is a part of some value
                    yield offset, *found
    finally:
        files.close(fd)


def _damaged(what: str, path: Path, offset: int) -> CorruptedStoreError:
    return CorruptedStoreError(
        f"the smallfile cannot be what was written: {what}, so the index cannot be rebuilt; {_ADVICE}",
        path=str(path),
        offset_bytes=offset,
    )


# -- the new index ----------------------------------------------------------------------------------------


def _gathered(chains: list[_Chain]) -> tuple[Times, Words, Words, Words]:
    """T, keys, locations and lengths of all records. The chains let go of theirs, so that they are not there twice."""
    pieces = [piece for chain in chains for piece in chain.pieces]
    for chain in chains:
        chain.pieces.clear()
    none = np.empty(0, dtype=np.uint64)
    return (
        np.concatenate([none.view(np.int64), *(piece.times for piece in pieces)]),
        np.concatenate([none.reshape(0, 2), *(piece.keys for piece in pieces)]),
        np.concatenate([none, *(piece.locations for piece in pieces)]),
        np.concatenate([none, *(piece.lengths for piece in pieces)]),
    )


def _rings(records: tuple[Times, Words, Words, Words], last: int, compacted: int) -> _Rings:
    """The four newest revisions of each key among the records of transactions up to ``last``, the oldest first. What is
    older than a removal up to the floor ``compacted`` is forgotten: some of it may be, and a history has no holes.
    """
    times, keys, locations, lengths = records
    del records  # what is sorted replaces it, column by column
    order = np.lexsort((times, keys[:, 1], keys[:, 0]))
    order = order[times[order] <= last]
    times, keys = times[order], keys[order]
    fresh = np.ones(len(order), dtype=np.bool_)
    fresh[1:] = (keys[1:, 0] != keys[:-1, 0]) | (keys[1:, 1] != keys[:-1, 1])
    once = fresh.copy()
    once[1:] |= times[1:] != times[:-1]
    if not once.all():  # of a record that was moved both copies are there
        order, times, keys, fresh = order[once], times[once], keys[once], fresh[once]
    begins = np.flatnonzero(fresh)
    ends = np.append(begins, len(order))[1:]
    owners = np.repeat(np.arange(len(begins)), ends - begins)
    locations, lengths = locations[order], lengths[order]
    rows = np.arange(len(order))
    cuts = np.where((lengths == np.uint64(layout.TOMBSTONE)) & (times <= compacted), rows, 0)
    firsts = np.maximum(begins, np.maximum.reduceat(cuts, begins)) if len(begins) else begins
    places = rows - np.maximum(firsts, ends - REVISIONS)[owners]
    newest = places >= 0
    names = keys[begins]
    live = int((lengths[ends - 1] != np.uint64(layout.TOMBSTONE)).sum())
    return _Rings(
        names, owners[newest], places[newest], times[newest], locations[newest], lengths[newest], live
    )


def _build(path: Path, store: _Store, rings: _Rings, boot_id: bytes, generation: int) -> None:
    """An empty index with room for twice as many keys."""
    files.unlink(path)
    index_module.build(
        path,
        capacity=max(len(rings.keys) * 3 // 2, store.capacity),
        flags=store.flags,
        store_uuid=store.uuid,
        boot_id=boot_id,
        writers_max=store.writers_max,
        generation=generation,
    )


def _fill(path: Path, store: _Store, chains: list[_Chain], rings: _Rings, floor: int, last: int) -> None:
    """Store the entries, the header's words, and for each writer place its newest smallfile, which is sealed."""
    index = Index(path, write=True)
    try:
        words = index.first_word + placing.place(index, rings.keys)[rings.owners] * ENTRY_WORDS
        index.flat[words + layout.E_TIME + rings.places] = rings.times.view(np.uint64)
        index.flat[words + layout.E_PLACE + 2 * rings.places] = rings.locations
        index.flat[words + layout.E_PLACE + 1 + 2 * rings.places] = rings.lengths
        ends = {chain.file_id: chain.end_at(last) for chain in chains}
        newest = {file_id % layout.place_stride(store.writers_max): file_id for file_id in store.ids()}
        outputs = newest.pop(store.writers_max, 0)
        for place, file_id in newest.items():
            index.places[place, layout.W_FILE] = file_id
            index.places[place, layout.W_TAIL] = ends[file_id]
        for word, value in (
            (layout.H_KEYS_LIVE, rings.live),
            (layout.H_ENTRIES_USED, len(rings.keys)),
            (layout.H_FLOOR, floor),
            (layout.H_HORIZON, last),  # no snapshot is open,
            (layout.H_FORGOTTEN, last),  # and nobody knows what a compaction has left out
            (layout.H_OUTPUT_FILE, outputs),
            (layout.H_DURABLE, last),
            (layout.H_COMMITTED, last),
        ):
            index.words[word] = value
        if not store.ids():
            files.sync_data(index.fd, path)  # nothing else tells which store it is
    finally:
        index.close()


def _seal(smallfiles: Smallfiles, chain: _Chain, end: int) -> None:
    """Put the smallfile on the medium with its end bound. One without a header holds nothing that counts, and gets one:
    its id must not be used again.
    """
    path = smallfiles.path(chain.file_id)
    fd = files.open_file(path, write=True)
    try:
        files.allocate(fd, 0, layout.PAGE, path)  # the bounds' page must be there to be stored to
        if not chain.headed:
            head = layout.pack_smallfile_header(smallfiles.store_uuid, chain.file_id, smallfiles.traits)
            files.write_at(fd, 0, [head.ljust(SMALLFILE_BEGIN, b"\0")], path)
    finally:
        files.close(fd)
    smallfiles.store_bound(chain.file_id, layout.B_END, end, sync=True)
