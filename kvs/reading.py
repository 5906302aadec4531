"""Reading without locks: choose a revision, copy its value, look again.

A publisher overwrites the oldest revision first and marks it BUSY before it touches anything else, so if
the chosen revision's T and location are the same after the copy, they belonged together before it. That
also shows that no newer revision <= S was missed: it would have been overwritten after the chosen one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from kvs import layout, syncpoints
from kvs.errors import CorruptedStoreError, SnapshotTooOldError
from kvs.generations import Generations
from kvs.index import Index, Revision, Slots
from kvs.layout import E_TIME, RECORD_HEADER_BYTES, REVISIONS, TOMBSTONE
from kvs.records import VECTOR_MIN, Words
from kvs.smallfile import MAPPED_READ_BYTES_MAX, Smallfiles

Get = Callable[..., Any]
"""``get(key, default=None)``."""
_FLAT_BYTES_MAX: Final = 1 << 13
_HASHES: Final = (xxh3_64_intdigest, xxh3_128_digest)


def read(
    view: Generations, smallfiles: Smallfiles, key: bytes, snapshot: int, *, pinned: bool = False
) -> tuple[int, bytes | None]:
    """``(T, value)`` of the newest revision of ``key`` with T <= ``snapshot``; T is 0 where there never was
    one, and the value ``None`` where it is a removal. What a ``pinned`` snapshot can see is never forgotten.

    Raises:
        SnapshotTooOldError: it was overwritten, or forgotten.
        CorruptedStoreError: the record is damaged.
    """
    while True:
        index = view.index
        try:
            revision = index.find(key, snapshot)
        except SnapshotTooOldError:
            _refuse_overtaken(view, index, key, snapshot)
            raise
        value = None
        if revision is not None:
            if not revision.removed:
                value = _value(smallfiles, key, revision)
            syncpoints.reach("read.after_copy")
        words = index.words
        if words[layout.H_NEXT]:
            # In a retired index nothing changes, so that the record may have been moved and its place punched.
            view.follow()
        elif revision is None or index.unchanged(revision):
            if value is not None:
                return revision.time, value  # type: ignore[union-attr]
            if revision is not None and not revision.removed:
                raise damaged(smallfiles, key, revision)
            if not pinned and words[layout.H_HORIZON] > snapshot:
                _refuse_overtaken(view, index, key, snapshot)
                raise SnapshotTooOldError(key, snapshot)  # what was removed since may have been forgotten
            return (0 if revision is None else revision.time), None


def _refuse_overtaken(view: Generations, index: Index, key: bytes, snapshot: int) -> None:
    """Raise CorruptedStoreError where ``snapshot`` cannot be too old for ``key``, because nothing newer is visible."""
    if view.visible() <= snapshot and view.index is index:
        raise CorruptedStoreError(
            f"the index has lost the revision of key {key.hex()} that transaction {snapshot}, the newest one, sees; the"
            " smallfiles, which hold the data, were not touched",
            path=str(index.path),
            offset_bytes=index.entries,
        )


def read_current(view: Generations, smallfiles: Smallfiles, key: bytes) -> tuple[int, bytes | None]:
    """``read`` at whatever is the newest visible transaction."""
    while True:
        try:
            return read(view, smallfiles, key, view.visible())
        except SnapshotTooOldError:  # overtaken by four commits meanwhile: look again
            continue


def getter(view: Generations, smallfiles: Smallfiles, normalise: Callable[[object], bytes]) -> Get:
    """``read_current(...)[1]`` as one flat function: a get is so short that calls and named tuples would be
    most of it. Whatever is out of the ordinary (a long value, a removal, a file not mapped yet, a revision
    that was overtaken, damage) is left to the careful path above, so this one only has to be right when it
    returns a value, or finds no entry in a generation that is not retired (S is 0 there). It is made anew when a hook
    is installed (``syncpoints.listeners``), so that its sync points cost nothing where nobody listens, and for the
    next generation.
    """
    reach, index = syncpoints.hook, view.index
    careful = _careful_getter(view, index, smallfiles, normalise)
    if not (smallfiles.mapped and smallfiles.integrity) or smallfiles.content_addressed:
        return careful
    words, maps, mask, visible = index.words, smallfiles.maps, index.mask << 7, index.visible_word
    # So that a masked hash is an offset in it, and its end that of the table.
    table = memoryview(index.map)[index.entries : index.entries + ((index.mask + 1) << 7)]
    time_words = table.cast("Q")[E_TIME:]  # and an entry's first word the index of its first T
    head, pair = layout.ENTRY_FIRST.unpack_from, layout.ENTRY_PLACE.unpack_from
    slot_hash, digest, location_mask, first_pair = *_HASHES, layout.LOCATION_MASK, 8 * layout.E_PLACE
    formats: dict[int, Callable[[Any, int], tuple[Any, ...]]] = {}  # by length: hash, key, value of a record

    def get(key: Any, default: Any = None) -> Any:
        snapshot = words[visible]
        try:
            entry = slot_hash(key) & mask
        except TypeError:
            return careful(key, default)  # an int or a UUID
        try:
            found, time, t1, t2, t3, location, length = head(table, entry)
            while found != key:
                if not time:
                    if snapshot and type(key) is bytes and len(key) == 16:
                        return default
                    return careful(key, default)
                entry += 128
                found, time, t1, t2, t3, location, length = head(table, entry)
        except struct.error:  # the end of the table: the probe goes on at its beginning
            return careful(key, default)
        ring = 0
        if t1:  # a ring is used from its first place on
            if not t2:
                time, ring = t1, 1
            elif not t3:
                time, ring = t2, 2
            else:
                times = (time, t1, t2, t3)
                time = max(times)
                ring = times.index(time)
        if time > snapshot:
            return careful(key, default)
        if reach is not None:
            reach("read.after_times")
        if ring or reach is not None:
            location, length = pair(table, entry + first_pair + (ring << 4))
        if reach is not None:
            reach("read.after_location")
        try:
            stored, owner, value = formats[length](maps[location >> 40], location & location_mask)
        except (KeyError, struct.error):
            # A new length, a long value or a removal; not mapped yet; beyond the map.
            if length <= _FLAT_BYTES_MAX and length not in formats:
                formats[length] = struct.Struct(f"@16s16s16x{length}s").unpack_from
            return careful(key, default)
        if stored != digest(value) or owner != key:
            return careful(key, default)
        if reach is not None:
            reach("read.after_copy")
        # T alone: while it stands the location is its own, or where the same record was moved to.
        return value if time_words[(entry >> 3) + ring] == time else careful(key, default)

    return get


def _careful_getter(
    view: Generations, index: Index, smallfiles: Smallfiles, normalise: Callable[[object], bytes]
) -> Get:
    def get(key: Any, default: Any = None) -> Any:
        if index.words[
            layout.H_NEXT
        ]:  # whoever kept this function goes on with that of the current generation
            view.current()
            if view.flat is not None and view.flat[0] is not index:
                return view.flat[1](key, default)
        value = read_current(view, smallfiles, normalise(key))[1]
        return default if value is None else value

    return get


def read_revision(
    view: Generations, smallfiles: Smallfiles, key: bytes, number: int
) -> tuple[int, bytes | None]:
    """``read_current`` of the ``number``-th newest revision (0: the newest); T is 0 where it is not kept."""
    while True:
        time = view.visible()
        index = view.index
        kept = index.revisions(key, time)
        revision = kept[number] if number < len(kept) else None
        value = None
        if revision is not None:
            if not revision.removed:
                value = _value(smallfiles, key, revision)
            syncpoints.reach("read.after_copy")
        if index.retired:
            view.follow()
        elif revision is None:
            return 0, None
        elif index.unchanged(revision):
            if value is None and not revision.removed:
                raise damaged(smallfiles, key, revision)
            return revision.time, value


def read_history(view: Generations, smallfiles: Smallfiles, key: bytes) -> list[tuple[int, bytes | None]]:
    """``(T, value)`` of every visible revision of ``key`` that is kept, all of one moment, newest first; the
    value is ``None`` where it is a removal. The last one is ``(0, None)`` if there never was an older one.

    Raises:
        CorruptedStoreError: one of the records is damaged.
    """
    while True:
        time = view.visible()
        index = view.index
        kept, since = index.history(key, time)
        values = [None if r.removed else _value(smallfiles, key, r) for r in kept]
        syncpoints.reach("read.after_copy")
        # Whoever overwrites one of them begins with its T, so if all stand they stood there together.
        if index.retired:
            view.follow()
        elif all(index.unchanged(revision) for revision in kept):
            found: list[tuple[int, bytes | None]] = []
            for revision, value in zip(kept, values, strict=True):
                if revision.forgotten and found:
                    return found  # it was a value once, and nobody knows which
                if value is None and not revision.removed:
                    raise damaged(smallfiles, key, revision)
                found.append((revision.time, value))
                if revision.forgotten:
                    return found
            return [*found, (0, None)] if since == 0 else found


def _value(smallfiles: Smallfiles, key: bytes, revision: Revision) -> bytes | None:
    """The value; ``None`` if what is there is not it, whether overtaken or damaged: the caller looks again."""
    try:
        if revision.length > MAPPED_READ_BYTES_MAX:  # damage may ask for more than there is memory
            file_id, offset = layout.unpack_location(revision.location)
            smallfiles.check(file_id, offset + revision.length)
        return smallfiles.value(key, revision.location, revision.length)
    except (CorruptedStoreError, OverflowError, MemoryError):
        # A location and a length that do not belong together may point anywhere.
        return None


def damaged(smallfiles: Smallfiles, key: bytes, revision: Revision) -> CorruptedStoreError:
    """The error for a revision that did not change while its record is not what it must be."""
    file_id, offset = layout.unpack_location(revision.location)
    return CorruptedStoreError(
        f"the record of key {key.hex()} (transaction {revision.time}, {revision.length} bytes) is damaged; nothing was"
        " changed by reading it. An older revision may still be whole: find(key, revision=1)",
        path=str(smallfiles.path(file_id)),
        offset_bytes=offset,
    )


def read_many(
    view: Generations, smallfiles: Smallfiles, keys: Sequence[bytes], snapshot: int, *, pinned: bool = False
) -> list[bytes | None]:
    """The values of ``keys`` at ``snapshot``, ``None`` where absent; errors as ``read``."""
    if len(keys) < VECTOR_MIN:
        return [read(view, smallfiles, key, snapshot, pinned=pinned)[1] for key in keys]
    while True:
        index = view.index
        values = _read_many(view, index, smallfiles, keys, snapshot, pinned=pinned)
        if not index.retired:
            break
        view.follow()
    if not pinned and index.words[layout.H_HORIZON] > snapshot and None in values:
        _refuse_overtaken(view, index, keys[values.index(None)], snapshot)
        raise SnapshotTooOldError(keys[values.index(None)], snapshot)
    return values


def _read_many(
    view: Generations,
    index: Index,
    smallfiles: Smallfiles,
    keys: Sequence[bytes],
    snapshot: int,
    *,
    pinned: bool,
) -> list[bytes | None]:
    slots, heads = index.locate(keys)
    times = heads[:, E_TIME : E_TIME + REVISIONS].view(np.int64)  # BUSY is -1
    visible = np.where(times <= snapshot, times, 0)
    ring = visible.argmax(axis=1)
    rows = np.arange(len(keys))
    chosen = visible[rows, ring]
    entries = np.where(slots < 0, 0, slots)
    syncpoints.reach("read.after_times")
    places = index.halves.take((entries << 1) + 1, axis=0)
    locations, lengths = places[rows, 2 * ring], places[rows, 2 * ring + 1]
    syncpoints.reach("read.after_location")
    present = (chosen > 0) & (slots >= 0)
    lengths = np.where(locations == 0, np.uint64(TOMBSTONE), lengths)  # forgotten
    # A full ring without a revision <= S may have lost one, which only the careful path can tell.
    again = (chosen <= 0) & (slots >= 0) & (times[:, 3] != 0)
    again |= present & (lengths > np.uint64(MAPPED_READ_BYTES_MAX)) & (lengths != np.uint64(TOMBSTONE))
    wanted = np.flatnonzero(present & (lengths <= np.uint64(MAPPED_READ_BYTES_MAX)))
    values: list[bytes | None] = [None] * len(keys)
    suspect = _copy(smallfiles, keys, wanted, locations, lengths, values)
    syncpoints.reach("read.after_copy")
    words = index.first_word + entries * layout.ENTRY_WORDS
    again |= present & (index.flat[words + E_TIME + ring].view(np.int64) != chosen)
    again |= present & (index.flat[words + layout.E_PLACE + 2 * ring] != locations)
    again[suspect] = True
    for i in np.flatnonzero(again).tolist():
        values[i] = read(view, smallfiles, keys[i], snapshot, pinned=pinned)[1]
    return values


def _copy(
    smallfiles: Smallfiles,
    keys: Sequence[bytes],
    wanted: Slots,
    locations: Words,
    lengths: Words,
    values: list[bytes | None],
) -> list[int]:
    """Copy the values of the rows ``wanted`` into ``values``; returns the rows whose record is not what it
    must be (overtaken, or damaged: the careful path finds out which).
    """
    suspect: list[int] = []
    if not wanted.size:
        return suspect
    file_ids = locations[wanted] >> np.uint64(layout.LOCATION_SHIFT)
    key_words = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)
    for file_id in [int(file_ids[0])] if (file_ids == file_ids[0]).all() else np.unique(file_ids).tolist():
        rows = wanted[file_ids == file_id]
        starts = (locations[rows] & np.uint64(layout.LOCATION_MASK)).astype(np.int64)
        ends = starts + lengths[rows].astype(np.int64) + RECORD_HEADER_BYTES
        try:
            view, words = smallfiles.words(file_id, int(ends.max()))
        except (CorruptedStoreError, OverflowError):
            suspect.extend(rows.tolist())
            continue
        # The header words first: one gather brings every record's first cache line in at once, where the
        # copies below would each wait for their own.
        heads = words.take((starts >> 3)[:, None] + np.arange(5))
        good = (heads[:, 2:4] == key_words[rows]).all(axis=1) & (heads[:, 4] == lengths[rows])
        copies = [view[a:b] for a, b in zip((starts + 48).tolist(), ends.tolist(), strict=True)]
        if smallfiles.integrity or smallfiles.content_addressed:
            digests = np.frombuffer(b"".join(map(xxh3_128_digest, copies)), dtype=np.uint64).reshape(-1, 2)
            if smallfiles.integrity:
                good &= (heads[:, :2] == digests).all(axis=1)
            if smallfiles.content_addressed:
                good &= (key_words[rows] == digests).all(axis=1)
        if len(rows) == len(values):
            values[:] = copies
        else:
            for row, value in zip(rows.tolist(), copies, strict=True):
                values[row] = value
        if not good.all():
            suspect.extend(rows[~good].tolist())
    return suspect
