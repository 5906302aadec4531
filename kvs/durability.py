"""Durable commits in parallel: each writer syncs its own smallfile, and D follows.

A durable transaction T of place i is *lagging* from before it is visible to writers until its smallfile is synced.
Its writer holds ``SYNC[i]`` for as long, so a lagging place whose ``SYNC`` nobody holds has lost its writer, and
whoever needs D syncs for it. D rises to just below the oldest lagging T, under ``DURABLE``: two processes that raise it
at once could otherwise take it back. Readers of a durable store see D, so they see nothing that a power cut takes
back, and a commit is acknowledged when D has reached it.

C is loaded before the lagging words: whatever is visible and not synced was marked before C reached it.
"""

from __future__ import annotations

import errno
import os
import time as clock

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, DurabilityError, LockTimeoutError
from kvs.generations import Generations
from kvs.index import Index
from kvs.locks import COMMIT, DURABLE, Held, RangeLocks, sync_range
from kvs.smallfile import Smallfiles

_PIECE_BYTES = 16 << 20


def mark(held: Held, index: Index, slot: int, time: int, file_id: int, offset: int) -> None:
    """Say that ``time``, whose commit record is at ``offset``, is lagging. Before C reaches it."""
    assert held.range is COMMIT
    words, place = index.words, layout.writer_word(slot)
    words[place + layout.W_LAGGING_FILE] = file_id
    words[place + layout.W_LAGGING_OFFSET] = offset
    words[place + layout.W_LAGGING] = time
    if syncpoints.hook:
        syncpoints.hook("durable.after_mark")


def clear(index: Index, slot: int) -> None:
    """The place's transaction is on the medium. ``SYNC[slot]`` is held."""
    index.words[layout.writer_word(slot) + layout.W_LAGGING] = 0
    if syncpoints.hook:
        syncpoints.hook("durable.after_clear")


def await_durable(
    generations: Generations, smallfiles: Smallfiles, locks: RangeLocks, time: int, timeout_s: float
) -> None:
    """Return when D has reached ``time``, in whatever generation that is. No lock may be held but WRITER.

    Raises:
        LockTimeoutError: somebody is stopped in the middle of a sync; D will follow when it goes on or dies.
        DurabilityError: a dead writer's file could not be synced.
        CorruptedStoreError: the index or a dead writer's file is damaged.
    """
    index = generations.index
    while index.words[layout.H_DURABLE] < time:
        catch_up(index, smallfiles, locks, time, timeout_s)
        index = generations.current()


def catch_up(index: Index, smallfiles: Smallfiles, locks: RangeLocks, time: int, timeout_s: float) -> None:
    """Return when D has reached ``time`` or ``index`` is retired, syncing for the dead. COMMIT may be held.

    Raises: as ``await_durable``.
    """
    words = index.words
    started, attempt = 0.0, 0
    while words[layout.H_DURABLE] < time and not words[layout.H_NEXT]:
        reached, slot = _reach(index)
        if reached >= time:
            _raise(index, locks, reached, timeout_s)
            continue
        if slot < 0:
            if words[layout.H_NEXT]:
                break
            raise CorruptedStoreError(
                f"transaction {time} is waited for, and the index says that none after {reached} was committed",
                path=str(index.path),
                offset_bytes=layout.H_COMMITTED * layout.WORD,
            )
        started = started or clock.monotonic()
        wanted = sync_range(slot)
        if not locks.held_elsewhere(wanted) and (proof := locks.try_acquire(wanted)) is not None:
            try:
                sync_for(index, smallfiles, slot)
            finally:
                locks.release(proof)
            continue
        waited = clock.monotonic() - started
        if waited >= timeout_s:
            pid = words[layout.writer_word(slot) + layout.W_PID]
            raise LockTimeoutError(wanted.name, pid, files.process_state(pid), waited)
        syncpoints.wait(wanted.name, attempt)
        attempt += 1


def _reach(index: Index) -> tuple[int, int]:
    """How far D may rise now, and the place of the oldest lagging transaction (-1 if there is none)."""
    committed = index.words[layout.H_COMMITTED]
    lagging = index.lagging[: index.words[layout.H_PLACES]].tolist()
    oldest = min(filter(None, lagging), default=0)
    return (min(committed, oldest - 1), lagging.index(oldest)) if oldest else (committed, -1)


def _raise(index: Index, locks: RangeLocks, reached: int, timeout_s: float) -> None:
    """Raise D to ``reached``, up to which everything is synced, unless it is there already."""
    if syncpoints.hook:
        syncpoints.hook("durable.before_raise")
    held = locks.acquire(DURABLE, timeout_s)
    try:
        words = index.words
        if not words[layout.H_NEXT] and reached > words[layout.H_DURABLE]:
            words[layout.H_DURABLE] = reached
            if syncpoints.hook:
                syncpoints.hook("durable.after_raise")
    finally:
        locks.release(held)


def finish_dead(index: Index, smallfiles: Smallfiles, locks: RangeLocks, timeout_s: float) -> None:
    """Sync for every lagging writer that is dead, and raise D as far as it may go: what they had committed is seen."""
    for slot in [slot for slot, time in enumerate(index.lagging.tolist()) if time]:
        proof = locks.try_acquire(sync_range(slot))
        if proof is not None:
            try:
                sync_for(index, smallfiles, slot)
            finally:
                locks.release(proof)
    reached, _ = _reach(index)
    if reached > index.words[layout.H_DURABLE]:
        _raise(index, locks, reached, timeout_s)


def sync_for(index: Index, smallfiles: Smallfiles, slot: int) -> None:
    """Put a place's lagging transaction on the medium for its writer, which is dead, or whose own sync failed: while it
    lived it held ``SYNC[slot]``, which the caller holds now. Its bytes are written once more, because after a sync
    that failed the kernel takes them for clean.

    Raises:
        DurabilityError: the sync failed; the transaction is lagging still.
        CorruptedStoreError: its records are damaged.
    """
    words, place = index.words, layout.writer_word(slot)
    time = words[place + layout.W_LAGGING]
    if not time:
        return
    syncpoints.reach("laggard.after_lock")
    file_id, offset = words[place + layout.W_LAGGING_FILE], words[place + layout.W_LAGGING_OFFSET]
    path = smallfiles.path(file_id)
    found = smallfiles.commit_record(file_id, offset)
    if found is None or found[0] != time:
        raise CorruptedStoreError(
            f"transaction {time}, which is not synced yet, is damaged", path=str(path), offset_bytes=offset
        )
    try:
        fd = files.open_file(path, write=True)
        try:
            end = offset + layout.COMMIT_BYTES
            for position in range(found[1].extent_offset, end, _PIECE_BYTES):
                piece = files.read_at(fd, position, min(_PIECE_BYTES, end - position))
                files.write_at(fd, position, [piece], path)
            files.sync_data(fd, path)
            files.sync_directory(path.parent)
        finally:
            files.close(fd)
    except OSError as error:  # also StorageFullError, which would say that nothing was committed
        raise DurabilityError(str(path), os.strerror(error.errno or errno.EIO)) from error
    syncpoints.reach("laggard.after_sync")
    words[place + layout.W_LAGGING] = 0
    syncpoints.reach("laggard.after_clear")
