"""How much of the smallfiles the index still refers to, and what the store takes on the medium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from kvs import files, layout
from kvs.generations import published
from kvs.index import Index
from kvs.layout import BUSY, E_TIME, RECORD_HEADER_BYTES, REVISIONS, TOMBSTONE
from kvs.records import Words
from kvs.smallfile import Smallfiles

_CHUNK: Final = 1 << 15  # entries looked at together: 4 MiB of the table


class Usage(NamedTuple):
    """Bytes of a store. ``live_bytes`` are the records that the index refers to, all four revisions of a key;
    ``dead_bytes`` the rest of what was published; ``disk_bytes`` the blocks of all its files.
    """

    live_bytes: int
    dead_bytes: int
    disk_bytes: int


def usage(index: Index, smallfiles: Smallfiles) -> Usage:
    """What the store takes now; while others write, about now. Raises CorruptedStoreError."""
    live = sum(live_by_file(index).values())
    total = sum(region.end - region.begin for region in published(index, smallfiles).values())
    disk = sum(files.blocks_bytes(path) for path in smallfiles.directory.iterdir())
    return Usage(live, max(0, total - live), disk)


def live_by_file(index: Index) -> dict[int, int]:
    """By smallfile, the bytes of the records in it that the index refers to."""
    live: dict[int, int] = {}
    for locations, lengths in references(index):
        file_ids = (locations >> np.uint64(layout.LOCATION_SHIFT)).astype(np.int64)
        totals = np.bincount(file_ids, weights=record_sizes(lengths))
        for file_id in np.flatnonzero(totals).tolist():
            live[file_id] = live.get(file_id, 0) + int(totals[file_id])
    return live


def references(index: Index) -> Iterator[tuple[Words, Words]]:
    """Location and length of every revision that has a record, those of some thousand entries at a time.

    No lock is needed: a revision that is being overwritten meanwhile is left out, because its T changes first.
    """
    for first in range(0, index.slots, _CHUNK):
        rows = index.halves[2 * first : 2 * min(first + _CHUNK, index.slots)]
        heads, places = rows[::2], rows[1::2]
        used = np.flatnonzero(heads[:, E_TIME])
        times = heads[used, E_TIME : E_TIME + REVISIONS]
        pairs = places[used]
        stands = heads[used, E_TIME : E_TIME + REVISIONS] == times
        stands &= (times != 0) & (times != np.uint64(BUSY)) & (pairs[:, ::2] != 0)
        if stands.any():
            yield pairs[:, ::2][stands], pairs[:, 1::2][stands]


def record_sizes(lengths: Words) -> Words:
    """Bytes that the records with these lengths (TOMBSTONE for removals) take; see ``layout.record_bytes``."""
    padded = np.where(lengths == np.uint64(TOMBSTONE), np.uint64(0), lengths)
    padded += np.uint64(RECORD_HEADER_BYTES + layout.ALIGN - 1)
    return padded & np.uint64(~(layout.ALIGN - 1) & (1 << 64) - 1)
