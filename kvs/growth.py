"""The next generation of the index: built aside under COMMIT, made current by one store.

Nobody waits but writers: readers stay with the old generation until they see that it is retired. A death anywhere
leaves either a half-made file that nobody has heard of, or a generation that is current and whose intent says that
its predecessor is still to be retired, which whoever takes COMMIT next does (``generations.retire``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from kvs import files, generations, layout, placing, syncpoints
from kvs import index as index_module
from kvs.generations import Generations
from kvs.index import Index, Slots
from kvs.layout import E_TIME, ENTRY_WORDS, TOMBSTONE
from kvs.locks import COMMIT, Held, RangeLocks

_CHUNK: Final = 1 << 15  # entries copied together
_COPIED: Final = slice(layout.H_COMMITTED, layout.H_PLACES + 1)
"""The header's changing words; those that differ in the next generation are stored after."""


def grow(held: Held, view: Generations, locks: RangeLocks, wanted: int, timeout_s: float) -> Index:
    """Replace the current index by one with room for ``wanted`` more keys, and return it. Removed keys that nothing
    remembers any more are left out. D must have reached C.

    Raises:
        StorageFullError: the old index is still the current one.
        LockTimeoutError: somebody is stopped while raising D; the new index is the current one, and whoever takes
            COMMIT next goes on from there.
    """
    assert held.range is COMMIT
    old = view.index
    number = old.generation + 1
    path = generations.path_of(view.directory, number)
    temporary = path.with_name(f"{path.name}.new")
    syncpoints.reach("grow.before_build")
    files.unlink(temporary)
    try:
        _build(old, temporary, wanted)
    except OSError:
        files.unlink(temporary)
        raise
    syncpoints.reach("grow.after_build")
    files.publish(temporary, path)
    syncpoints.reach("grow.after_rename")
    old.words[layout.H_NEXT] = number + 1
    syncpoints.reach("grow.after_next")
    index = view.follow()
    generations.retire(held, index, locks, timeout_s)
    return index


def _build(old: Index, path: Path, wanted: int) -> None:
    """Write the next generation of ``old`` to ``path``, whole, with the intent that says that it is not finished."""
    chunks = _kept(old)
    kept = sum(map(len, chunks))
    room = max(kept + wanted, layout.INDEX_CAPACITY // 2)
    capacity = layout.slots_for(room * 3 // 2) * 7 // 10
    index_module.build(
        path,
        capacity=capacity,
        flags=old.flags,
        store_uuid=old.store_uuid,
        boot_id=bytes(old.map[layout.H_BOOT * 8 : layout.H_BOOT * 8 + 16]),
        writers_max=old.writers_max,
        generation=old.generation + 1,
    )
    new = Index(path, write=True)
    try:
        for slots in chunks:
            _copy(old, new, slots)
        new.flat[_COPIED] = old.flat[_COPIED]
        places = slice(layout.HEADER_WORDS, layout.writer_word(old.writers_max))
        new.flat[places] = old.flat[places]
        new.words[layout.H_NEXT] = 0
        new.words[layout.H_ENTRIES_USED] = kept
        new.words[layout.H_INTENT] = generations.UNFINISHED
    finally:
        new.close()


def _kept(index: Index) -> list[Slots]:
    """The slots of the entries that are in use and not forgotten, in chunks."""
    chunks: list[Slots] = []
    for first in range(0, index.slots, _CHUNK):
        slots = np.arange(first, min(first + _CHUNK, index.slots), dtype=np.int64)
        times = index.halves[2 * slots, E_TIME : E_TIME + layout.REVISIONS]
        slots = slots[times[:, 0] != 0]
        if slots.size:
            times = index.halves[2 * slots, E_TIME : E_TIME + layout.REVISIONS]
            newest = times.argmax(axis=1)
            places = index.halves[2 * slots + 1]
            rows = np.arange(slots.size)
            forgotten = (places[rows, 2 * newest] == 0) & (
                places[rows, 2 * newest + 1] == np.uint64(TOMBSTONE)
            )
            slots = slots[~forgotten]
        if slots.size:
            chunks.append(slots)
    return chunks


def _copy(old: Index, new: Index, slots: Slots) -> None:
    """Copy entries as they are to their new places: key words by ``place``, then everything behind them."""
    table = old.flat[old.first_word : old.first_word + old.slots * ENTRY_WORDS].reshape(-1, ENTRY_WORDS)
    entries = table.take(slots, axis=0)
    given = placing.place(new, entries[:, :2])
    target = new.flat[new.first_word : new.first_word + new.slots * ENTRY_WORDS].reshape(-1, ENTRY_WORDS)
    target[given] = entries
