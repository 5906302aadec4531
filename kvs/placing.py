"""Giving many keys their entries at once, in a table that nobody looks at yet."""

from __future__ import annotations

from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from kvs.index import Index, Slots
from kvs.layout import BUSY, E_TIME, ENTRY_WORDS
from kvs.records import Words

_HASHED_AT_ONCE: Final = 1 << 16


def place(index: Index, keys: Words) -> Slots:
    """Give each of ``keys``, rows of two words, an empty entry by the rule of ``Index.probe``; returns their slots.

    The keys are distinct, none is in the table, and there is room for all. Afterwards the entries hold the keys, and
    BUSY as their first T: the caller stores the true one, the other T and the places. Nobody else may use the table.
    """
    homes = index.homes(hashes(keys))
    order = homes.argsort(kind="stable")
    slots = np.empty(len(keys), dtype=np.int64)
    flat = index.flat
    # In each round every key is offered the entry that it would get in an empty table, from where its probe is now,
    # if the others of the round were there too. Whatever is passed over on the way is used then: by one of them, or by
    # whoever kept that one from it. So the keys whose entry was used go on behind it, and no probe finds a gap.
    starts = homes[order]
    while order.size:
        places = np.arange(len(starts))
        places += np.maximum.accumulate(starts - places)
        inside = int(np.searchsorted(places, index.slots))
        tried = places[:inside]
        words = index.first_word + tried * ENTRY_WORDS
        free = flat[words + E_TIME] == 0
        given, words = order[:inside][free], words[free]
        slots[given] = tried[free]
        flat[words] = keys[given, 0]
        flat[words + 1] = keys[given, 1]
        flat[words + E_TIME] = np.uint64(BUSY)
        # The probe of those that came to the table's end goes on at its beginning; the order stays.
        again, outside = order[:inside][~free], order[inside:]
        following = tried[~free] + 1
        wrapped = int(np.searchsorted(following, index.slots))
        order = np.concatenate((outside, again[wrapped:], again[:wrapped]))
        starts = np.concatenate((np.zeros(len(order) - wrapped, dtype=np.int64), following[:wrapped]))
    return slots


def hashes(keys: Words) -> Words:
    """The xxh3-64 of each key, by which the index places it."""
    found = np.empty(len(keys), dtype=np.uint64)
    for first in range(0, len(keys), _HASHED_AT_ONCE):
        names = np.ascontiguousarray(keys[first : first + _HASHED_AT_ONCE]).view("V16").reshape(-1)
        found[first : first + len(names)] = np.fromiter(
            map(xxh3_64_intdigest, names.tolist()), dtype=np.uint64, count=len(names)
        )
    return found
