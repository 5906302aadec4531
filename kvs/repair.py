"""Finishing a dead writer's commit. Whoever holds COMMIT and finds an intent knows that its owner died.

There is no undo: a commit record that is whole means that the transaction happens, one that is not means
that nothing was published. Every step may be redone any number of times, so repair may itself be killed at
any store, by anyone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kvs import durability, generations, layout, syncpoints
from kvs.errors import CorruptedStoreError
from kvs.generations import Generations
from kvs.index import Index
from kvs.layout import Commit
from kvs.locks import COMMIT, Held, RangeLocks
from kvs.smallfile import Smallfiles


@contextlib.contextmanager
def holding(
    locks: RangeLocks, view: Generations, smallfiles: Smallfiles, timeout_s: float
) -> Iterator[tuple[Held, Index]]:
    """Hold COMMIT, with the current generation and everything of the dead finished.

    Raises:
        LockTimeoutError: COMMIT was not had; nothing was done. Otherwise as ``finish``.
    """
    held = locks.acquire(COMMIT, timeout_s)
    try:
        index = view.current()
        index.words[layout.H_OWNER_PID] = os.getpid()
        finish(held, index, smallfiles, locks, timeout_s)
        yield held, index
    finally:
        locks.release(held)


def finish(held: Held, index: Index, smallfiles: Smallfiles, locks: RangeLocks, timeout_s: float) -> None:
    """Finish or discard the commit that the intent names, or finish the growth that made the index, if there is one.
    Afterwards ``intent.T`` is zero and every revision is whole.

    Raises:
        CorruptedStoreError: the intent or the extent makes no sense; the intent stands.
        LockTimeoutError: as ``generations.retire``.
    """
    words = index.words
    time = words[layout.H_INTENT]
    if not time:
        return
    if time == generations.UNFINISHED:
        generations.retire(held, index, locks, timeout_s)
        return
    reach = syncpoints.reach
    reach("repair.after_found")
    if words[layout.H_INTENT_WRITER] >= index.writers_max:
        raise CorruptedStoreError(
            f"transaction {time} is said to be of writer place {words[layout.H_INTENT_WRITER]}, and there are only"
            f" {index.writers_max}; the smallfiles, which hold the data, were not touched",
            path=str(index.path),
            offset_bytes=layout.H_INTENT_WRITER * layout.WORD,
        )
    file_id, offset = words[layout.H_INTENT_FILE], words[layout.H_INTENT_OFFSET]
    committed = words[layout.H_COMMITTED]
    found = smallfiles.commit_record(file_id, offset)
    reach("repair.after_read")
    if found is None or found[0] != time:
        if time <= committed:
            raise CorruptedStoreError(
                f"the commit record of the visible transaction {time} is damaged",
                path=str(smallfiles.path(file_id)),
                offset_bytes=offset,
            )
        reach("repair.before_discard")
        words[layout.H_INTENT] = 0
        reach("repair.after_discard")
        return
    commit = found[1]
    if time > committed:
        reach("repair.before_redo")
        _redo(held, index, smallfiles, time, file_id, commit)
        reach("repair.after_redo")
        if index.durable:
            durability.mark(held, index, words[layout.H_INTENT_WRITER], time, file_id, offset)
    show(held, index, time)
    reach("repair.after_visible")
    account(
        held,
        index,
        words[layout.H_INTENT_WRITER],
        file_id,
        offset + layout.COMMIT_BYTES,
        commit.keys_live,
        commit.entries_used,
    )
    reach("repair.after_account")
    words[layout.H_INTENT] = 0
    reach("repair.after_clear")


def _redo(held: Held, index: Index, smallfiles: Smallfiles, time: int, file_id: int, commit: Commit) -> None:
    keys, locations, lengths = extent(smallfiles, file_id, commit)
    index.publish(held, time, keys, locations, lengths)


def extent(smallfiles: Smallfiles, file_id: int, commit: Commit) -> tuple[list[bytes], list[int], list[int]]:
    """Keys, packed locations and lengths (TOMBSTONE for removals) of a transaction's records.

    Raises:
        CorruptedStoreError: the extent does not hold ``commit.records`` records.
    """
    keys: list[bytes] = []
    locations: list[int] = []
    lengths: list[int] = []
    end = commit.extent_offset + commit.extent_bytes
    for offset, key, length, tag in smallfiles.scan(file_id, commit.extent_offset, end):
        keys.append(key)
        locations.append(layout.pack_location(file_id, offset))
        lengths.append(layout.TOMBSTONE if tag >> layout.KIND_SHIFT == layout.KIND_REMOVAL else length)
    if len(keys) != commit.records:
        raise CorruptedStoreError(
            f"a transaction of {commit.records} records holds {len(keys)}",
            path=str(smallfiles.path(file_id)),
            offset_bytes=commit.extent_offset,
        )
    return keys, locations, lengths


def show(held: Held, index: Index, time: int) -> None:
    """Make transaction ``time`` visible: C = T. Readers of a durable store see it when D has followed."""
    assert held.range is COMMIT
    index.words[layout.H_COMMITTED] = time
    if syncpoints.hook:
        syncpoints.hook("commit.after_visible")


def account(
    held: Held, index: Index, slot: int, file_id: int, tail: int, keys_live: int, entries_used: int
) -> None:
    """Store the writer's smallfile and tail and the counters, all absolute, so that this too may be done again."""
    assert held.range is COMMIT
    words = index.words
    place = layout.writer_word(slot)
    words[place + layout.W_FILE] = file_id
    words[place + layout.W_TAIL] = tail
    if syncpoints.hook is not None:
        counters = (layout.H_KEYS_LIVE, layout.H_ENTRIES_USED)
        syncpoints.reach("commit.after_tail", (index.store_words, counters, (keys_live, entries_used)))
    words[layout.H_KEYS_LIVE] = keys_live
    words[layout.H_ENTRIES_USED] = entries_used
