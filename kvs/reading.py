"""Reading without locks: choose a revision, copy its value, look again.

A publisher overwrites the oldest revision first and marks it BUSY before it touches anything else, so if
the chosen revision's T and location are the same after the copy, they belonged together before it. That
also shows that no newer revision <= S was missed: it would have been overwritten after the chosen one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xxhash import xxh3_128_digest

from kvs import layout, syncpoints
from kvs.errors import CorruptedStoreError, SnapshotTooOldError
from kvs.index import Index, Integers, Revision
from kvs.layout import E_TIME, RECORD_HEADER_BYTES, REVISIONS, TOMBSTONE
from kvs.smallfile import VECTOR_MIN, Smallfiles, Words


def read(index: Index, smallfiles: Smallfiles, key: bytes, snapshot: int) -> tuple[int, bytes | None]:
    """``(T, value)`` of the newest revision of ``key`` with T <= ``snapshot``; T is 0 where there never was
    one, and the value ``None`` where it is a removal.

    Raises:
        SnapshotTooOldError: it was overwritten.
        CorruptedStoreError: the record is damaged.
    """
    while True:
        revision = index.find(key, snapshot)
        if revision is None:
            return 0, None
        length = revision.length
        value = None if length == TOMBSTONE else _value(smallfiles, key, revision)
        syncpoints.reach("read.after_copy")
        if index.unchanged(revision):
            if value is None and length != TOMBSTONE:
                raise damaged(smallfiles, key, revision)
            return revision.time, value


def read_current(index: Index, smallfiles: Smallfiles, key: bytes) -> tuple[int, bytes | None]:
    """``read`` at whatever is the newest visible transaction."""
    while True:
        try:
            return read(index, smallfiles, key, index.words[index.visible_word])
        except SnapshotTooOldError:  # overtaken by four commits meanwhile: look again
            continue


def read_revision(
    index: Index, smallfiles: Smallfiles, key: bytes, snapshot: int, number: int
) -> tuple[int, bytes | None]:
    """``read`` of the ``number``-th newest revision (0: the newest); T is 0 where it is not kept."""
    while True:
        kept = index.revisions(key, snapshot)
        if len(kept) <= number:
            return 0, None
        revision = kept[number]
        value = None if revision.length == TOMBSTONE else _value(smallfiles, key, revision)
        syncpoints.reach("read.after_copy")
        if index.unchanged(revision):
            if value is None and revision.length != TOMBSTONE:
                raise damaged(smallfiles, key, revision)
            return revision.time, value


def _value(smallfiles: Smallfiles, key: bytes, revision: Revision) -> bytes | None:
    """The value; ``None`` if what is there is not it, whether overtaken or damaged: the caller looks again."""
    try:
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
    index: Index, smallfiles: Smallfiles, keys: Sequence[bytes], snapshot: int, *, integrity: bool
) -> list[bytes | None]:
    """The values of ``keys`` at ``snapshot``, ``None`` where absent; errors as ``read``."""
    if len(keys) < VECTOR_MIN:
        return [read(index, smallfiles, key, snapshot)[1] for key in keys]
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
    # A full ring without a revision <= S may have lost one, which only the careful path can tell.
    again = (chosen <= 0) & (slots >= 0) & (times[:, 3] != 0)
    wanted = np.flatnonzero(present & (lengths != np.uint64(TOMBSTONE)))
    values: list[bytes | None] = [None] * len(keys)
    suspect = _copy(smallfiles, keys, wanted, locations, lengths, values, integrity=integrity)
    syncpoints.reach("read.after_copy")
    words = index.first_word + entries * layout.ENTRY_WORDS
    again |= present & (index.flat[words + E_TIME + ring].view(np.int64) != chosen)
    again |= present & (index.flat[words + layout.E_PLACE + 2 * ring] != locations)
    again[suspect] = True
    for i in np.flatnonzero(again).tolist():
        values[i] = read(index, smallfiles, keys[i], snapshot)[1]
    return values


def _copy(
    smallfiles: Smallfiles,
    keys: Sequence[bytes],
    wanted: Integers,
    locations: Words,
    lengths: Words,
    values: list[bytes | None],
    *,
    integrity: bool,
) -> list[int]:
    """Copy the values of the rows ``wanted`` into ``values``; returns the rows whose record is not what it
    must be (overtaken, or damaged: the careful path finds out which).
    """
    suspect: list[int] = []
    if not wanted.size:
        return suspect
    shift = np.uint64(layout.LOCATION_SHIFT)
    file_ids = locations[wanted] >> shift
    for file_id in np.unique(file_ids):
        rows = wanted[file_ids == file_id]
        starts = ((locations[rows] & np.uint64(layout.LOCATION_MASK)) << np.uint64(6)).astype(np.int64)
        ends = starts + lengths[rows].astype(np.int64) + RECORD_HEADER_BYTES
        try:
            view, words = smallfiles.words(int(file_id), int(ends.max()))
        except (CorruptedStoreError, OverflowError):
            suspect.extend(rows.tolist())
            continue
        first = starts >> 3
        wanted_keys = np.frombuffer(b"".join([keys[i] for i in rows]), dtype=np.uint64).reshape(-1, 2)
        good = (words[first + 2] == wanted_keys[:, 0]) & (words[first + 3] == wanted_keys[:, 1])
        good &= words[first + 4] == lengths[rows]
        bodies = [view[a:b] for a, b in zip((starts + 16).tolist(), ends.tolist(), strict=True)]
        if integrity:
            digests = np.frombuffer(b"".join(map(xxh3_128_digest, bodies)), dtype=np.uint64).reshape(-1, 2)
            good &= (words[first] == digests[:, 0]) & (words[first + 1] == digests[:, 1])
        for row, body in zip(rows.tolist(), bodies, strict=True):
            values[row] = body[32:]
        if not good.all():
            suspect.extend(rows[~good].tolist())
    return suspect
