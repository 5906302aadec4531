"""Finishing a dead writer's commit. Whoever holds COMMIT and finds an intent knows that its owner died.

There is no undo: a commit record that is whole means that the transaction happens, one that is not means
that nothing was published. Every step may be redone any number of times, so repair may itself be killed at
any store, by anyone.
"""

from __future__ import annotations

from kvs import layout, syncpoints
from kvs.errors import CorruptedStoreError
from kvs.index import Index
from kvs.layout import Commit
from kvs.locks import COMMIT, Held
from kvs.smallfile import Smallfiles


def finish(held: Held, index: Index, smallfiles: Smallfiles) -> None:
    """Finish or discard the commit that the intent names, if there is one. Afterwards ``intent.T`` is zero
    and every revision is whole.

    Raises:
        DurabilityError: (durable stores) the dead writer's file could not be synced; the intent stands.
        CorruptedStoreError: the intent or the extent makes no sense; the intent stands.
    """
    words = index.words
    time = words[layout.H_INTENT]
    if not time:
        return
    reach = syncpoints.reach
    reach("repair.after_found")
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
    if index.durable and words[layout.H_DURABLE] < time:
        smallfiles.sync(file_id)
    show(held, index, time)
    reach("repair.after_visible")
    account(
        held,
        index,
        words[layout.H_INTENT_WRITER],
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
    """Make transaction ``time`` visible: C (and D in a durable store, where C alone shows nothing) = T."""
    assert held.range is COMMIT
    words = index.words
    words[layout.H_COMMITTED] = time
    syncpoints.reach("commit.after_visible")
    if index.durable:
        words[layout.H_DURABLE] = time
        syncpoints.reach("commit.after_durable")


def account(held: Held, index: Index, slot: int, tail: int, keys_live: int, entries_used: int) -> None:
    """Store the writer's tail and the counters, all absolute, so that this too may be done again."""
    assert held.range is COMMIT
    words = index.words
    words[layout.writer_word(slot) + layout.W_TAIL] = tail
    if syncpoints.hook is not None:
        counters = (layout.H_KEYS_LIVE, layout.H_ENTRIES_USED)
        syncpoints.reach("commit.after_tail", (index.store_words, counters, (keys_live, entries_used)))
    words[layout.H_KEYS_LIVE] = keys_live
    words[layout.H_ENTRIES_USED] = entries_used
