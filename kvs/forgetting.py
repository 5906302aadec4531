"""Forgetting what removed keys were: their older revisions first, the removal itself a pass later.

A revision without a record (location 0) is forgotten. A removal's own record must outlive every older
record of its key in any smallfile: an index that is rebuilt from the smallfiles would bring the key back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kvs import layout, syncpoints
from kvs.index import Index, Slots
from kvs.layout import E_PLACE, E_TIME, ENTRY_WORDS, REVISIONS, TOMBSTONE
from kvs.locks import COMMIT, Held

_CHUNK: Final = 1 << 15  # entries looked at together


class _Plan(NamedTuple):
    """For some entries: T of the newest revision and its place in the ring, which of the revisions are to be forgotten
    because they are older than a removal, and of which entries the removal itself.
    """

    times: npt.NDArray[np.int64]
    newest: npt.NDArray[np.int64]
    older: npt.NDArray[np.bool_]
    own: npt.NDArray[np.bool_]


class Forgetting(NamedTuple):
    """How far to forget: what was removed up to ``horizon`` nobody can want any more; and of keys removed up to
    ``swept`` no record is left that is older than the removal.
    """

    horizon: int
    swept: int

    def candidates(self, index: Index) -> Iterator[Slots]:
        """The slots of entries with something to forget, in chunks; without a lock, so to be looked at again."""
        for first in range(0, index.slots, _CHUNK):
            heads = index.halves[2 * first : 2 * min(first + _CHUNK, index.slots) : 2]
            slots = first + np.flatnonzero(heads[:, E_TIME])
            if slots.size:
                plan = self._plan(index, slots)
                found = slots[plan.older.any(axis=1) | plan.own]
                if found.size:
                    yield found

    def forget(self, held: Held, index: Index, slots: Slots) -> int:
        """Forget what there is to forget in these entries (negative ones are none). Returns how many removals went."""
        assert held.range is COMMIT
        slots = slots[slots >= 0]
        times, newest, older, own = self._plan(index, slots)
        affected = older.any(axis=1) | own
        if not affected.any():
            return 0
        words = index.words
        words[layout.H_FORGOTTEN] = max(words[layout.H_FORGOTTEN], int(times[affected].max()))
        firsts = index.first_word + slots * ENTRY_WORDS + E_PLACE
        row, ring = np.nonzero(older)
        places = firsts[row] + 2 * ring
        syncpoints.reach("compact.before_forget", (index.store_prefix, places, 0))
        # One store forgets: no record is at location 0. That it has a removal's length, too, only looks better.
        index.flat[places] = np.uint64(0)
        index.flat[places + 1] = np.uint64(TOMBSTONE)
        index.flat[(firsts + 2 * newest)[own]] = np.uint64(0)
        syncpoints.reach("compact.after_forget")
        return int(own.sum())

    def _plan(self, index: Index, slots: Slots) -> _Plan:
        heads = index.halves.take(slots << 1, axis=0)
        pairs = index.halves.take((slots << 1) + 1, axis=0)
        rings = heads[:, E_TIME : E_TIME + REVISIONS].view(np.int64)  # BUSY is -1
        rows = np.arange(len(slots))
        newest = rings.argmax(axis=1)
        times = rings[rows, newest]
        removed = (times > 0) & (times <= self.horizon)
        removed &= pairs[rows, 2 * newest + 1] == np.uint64(TOMBSTONE)
        older = (pairs[:, ::2] != 0) & (rings > 0) & removed[:, None]
        older[rows, newest] = False
        own = removed & (times <= self.swept) & (pairs[rows, 2 * newest] != 0)
        return _Plan(times, newest, older, own)
