"""The commit: eleven steps, in the order that makes repair possible."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kvs import durability, generations, growth, layout, repair, syncpoints
from kvs.errors import (
    ClosedStoreError,
    DurabilityError,
    IndexFullError,
    LockTimeoutError,
    TransactionAbortedError,
    TransactionLimitError,
)
from kvs.generations import Generations
from kvs.index import Index, Located
from kvs.layout import COMMIT_BYTES
from kvs.locks import COMMIT, DURABLE, Held, RangeLocks, sync_range, writer_range
from kvs.records import VECTOR_MIN, Extent, Integers, encode
from kvs.smallfile import Appender, Smallfiles, begin_smallfile


class Writer:
    """One handle's right to commit: a writer place, its smallfile, and the mutex in front of the locks.

    ``mutex`` protects the place, the smallfile and the range locks between the threads of the handle. The smallfile
    is opened or made at the first commit (``room``).
    """

    def __init__(
        self,
        view: Generations,
        smallfiles: Smallfiles,
        locks: RangeLocks,
        slot: int,
        *,
        pid: int,
        lock_timeout_s: float,
        smallfile_bytes: int,
        growth: bool,
    ) -> None:
        self.view = view
        self.smallfiles = smallfiles
        self.locks = locks
        self.slot = slot
        self.pid = pid
        self.lock_timeout_s = lock_timeout_s
        self.smallfile_bytes = smallfile_bytes
        self.growth = growth
        self.durable = view.index.durable
        self.integrity = smallfiles.integrity
        self.mutex = threading.RLock()
        self.appender: Appender | None = None
        self.file_id = -1
        self.place = layout.writer_word(slot)
        self.syncing: Held | None = None
        self.closed = False
        """Set under ``mutex``: what another thread begins after that must not touch the place any more."""
        self.failure: DurabilityError | None = None
        self.committed: Callable[[int], None] | None = None
        """Called with the bytes of every transaction, when it is acknowledged and the handle is free again."""

    def commit(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], expected: Mapping[bytes, int]
    ) -> int:
        """Write ``values`` (``None`` removes) to ``keys``, which differ, as one transaction, if every key of
        ``expected`` still has that base revision (0: never written). Returns its T; everything acknowledged is
        then visible to all.

        Raises:
            TransactionLimitError, TransactionAbortedError, IndexFullError, StorageFullError, LockTimeoutError:
                nothing was committed (but see ``LockTimeoutError.committed``).
            DurabilityError: not acknowledged; whether it happened is not known.
        """
        if len(keys) > layout.KEYS_MAX:
            raise TransactionLimitError(len(keys), layout.KEYS_MAX)
        reach = syncpoints.hook  # asked for, because calls of an empty function are a tenth of a small commit
        self._refuse_within()
        try:
            self._enter()
            extent, tail, appender = self._prepare(keys, values)  # 0
            if reach:
                reach("commit.before_lock")
            held = self.locks.acquire(COMMIT, self.lock_timeout_s)  # 1
            try:
                index = self._arrive(held)  # 2
                plan = self._validate(held, index, keys, values, expected)  # 3
                index, time, keys_live, entries_used, located = plan
                words, offset = index.words, tail + extent[1]
                if self.durable:
                    self._take_sync(held)
                if reach:
                    reach("commit.after_validate", self._place(index, offset))
                record = (tail, extent[1], len(keys), keys_live, entries_used, self.file_id, extent[4])
                self._intend(held, index, time, offset)  # 4
                self._record(held, index, appender, time, offset, record)  # 5
                self._publish(held, index, time, tail, keys, extent, located)  # 6
                if self.durable:
                    durability.mark(held, index, self.slot, time, self.file_id, offset)
                if reach:
                    reach("commit.before_visible")
                repair.show(held, index, time)  # 7
                repair.account(
                    held, index, self.slot, self.file_id, offset + COMMIT_BYTES, keys_live, entries_used
                )  # 8
                if reach:
                    reach("commit.after_account")
                words[layout.H_INTENT] = 0  # 9
                if reach:
                    reach("commit.after_clear")
            finally:
                self._leave(held)  # 10
            if reach:
                reach("commit.after_unlock")
            if self.durable:
                self._make_durable(index, appender, time)  # 11
        finally:
            try:
                self._exit()
            finally:
                self._exit()
        if self.committed is not None:
            self.committed(extent[1])
        return time

    def locked(self, work: Callable[[Held, Index], None]) -> None:
        """Run ``work`` under COMMIT, after any repair that is due. Raises LockTimeoutError."""
        self._refuse_within()
        try:
            self._enter()
            held = self.locks.acquire(COMMIT, self.lock_timeout_s)
            try:
                work(held, self._arrive(held))
            finally:
                self._leave(held)
        finally:
            try:
                self._exit()
            finally:
                self._exit()

    def await_durable(self, time: int) -> None:
        """Return when D has reached ``time``. Raises LockTimeoutError, DurabilityError."""
        self._refuse_within()
        try:
            self._enter()
            durability.await_durable(self.view, self.smallfiles, self.locks, time, self.lock_timeout_s)
        finally:
            try:
                self._exit()
            finally:
                self._exit()

    def _refuse_within(self) -> None:
        """A signal handler, or a function that was called from within, cannot commit in the middle of a commit."""
        if self.mutex._is_owned():  # type: ignore[attr-defined]
            raise LockTimeoutError("this handle (in the middle of a commit)", self.pid, "running", 0.0)

    def _enter(self) -> None:
        if not self.mutex.acquire(False) and not self.mutex.acquire(timeout=self.lock_timeout_s):
            raise LockTimeoutError(
                "this handle (by another thread)", self.pid, "running", self.lock_timeout_s
            )
        if self.closed:
            raise ClosedStoreError(str(self.smallfiles.directory))
        if self.failure is not None:
            raise self.failure

    def _exit(self) -> None:
        """Leave the handle to its other threads, if it is mine. An exception (a Ctrl-C) may have come between any two
        instructions, so no lock is believed to be held or not; a sync that it cut short is left to whoever needs it.
        Called twice, because another one may come in here.
        """
        if self.mutex._is_owned():  # type: ignore[attr-defined]
            try:
                if sys.exc_info()[0] is not None:
                    self.syncing = None
                    self.locks.release_above(
                        writer_range(self.slot), (COMMIT, sync_range(self.slot), DURABLE)
                    )
            finally:
                self.mutex.release()

    def _arrive(self, held: Held) -> Index:
        """Step 2: in the current generation, with everything that the dead left finished."""
        assert held.range is COMMIT
        view = self.view
        index = view.index
        if index.words[layout.H_NEXT]:
            index = view.follow()
        words = index.words
        words[layout.H_OWNER_PID] = self.pid
        if syncpoints.hook:
            syncpoints.hook("commit.after_lock")
        if words[layout.H_INTENT]:
            repair.finish(held, index, self.smallfiles, self.locks, self.lock_timeout_s)
        return index

    def _leave(self, held: Held) -> None:
        """Release COMMIT. An intent that still stands is that of a commit which an exception (a Ctrl-C) cut
        short: finish it here, because the next ``_prepare`` would overwrite the records that it points to.
        """
        try:
            index = self.view.index
            if index.words[layout.H_INTENT]:
                self.locks.release_above(COMMIT, (sync_range(self.slot), DURABLE))
                repair.finish(held, index, self.smallfiles, self.locks, self.lock_timeout_s)
        finally:
            self.locks.release(held)

    def _prepare(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> tuple[Extent, int, Appender]:
        """Step 0, without a lock: append the records behind the published tail of my smallfile, with room
        for the commit record. An extent that is not committed is overwritten by the next one.
        """
        reach, words, place = syncpoints.hook, self.view.index.words, self.place
        unfinished = words[layout.H_INTENT] and words[layout.H_INTENT_WRITER] == self.slot
        if unfinished or (self.durable and words[place + layout.W_LAGGING]):
            # My own commit was cut short, and so was finishing it: its records must not be overwritten.
            self._finish_own()
            words = self.view.index.words
        extent = encode(keys, values, integrity=self.integrity)
        tail, appender = words[place + layout.W_TAIL], self.appender
        end = tail + extent[1] + COMMIT_BYTES
        published = tail and words[place + layout.W_FILE] == self.file_id
        if appender is None or not published or end > self.smallfile_bytes:
            appender, tail = self.room(extent[1] + COMMIT_BYTES)
            end = tail + extent[1] + COMMIT_BYTES
        if end > appender.room:
            appender.reserve(end)
        if reach:
            reach("prepare.before_append", (appender.store_prefix, tail, extent[0]))
        appender.store(tail, extent[0])
        if reach:
            reach("prepare.after_append")
        return extent, tail, appender

    def _finish_own(self) -> None:
        with repair.holding(self.locks, self.view, self.smallfiles, self.lock_timeout_s) as (_, index):
            if self.durable:
                time = index.words[layout.H_COMMITTED]
                durability.catch_up(index, self.smallfiles, self.locks, time, self.lock_timeout_s)

    def room(self, wanted: int) -> tuple[Appender, int]:
        """My smallfile and its published tail. A file that ``wanted`` more bytes would make longer than
        ``smallfile_bytes`` is sealed, and another one begun; so is one that somebody sealed already.
        """
        words, place, appender = self.view.index.words, self.place, self.appender
        published, tail = words[place + layout.W_FILE], words[place + layout.W_TAIL]
        if appender is not None and not (tail and self.file_id == published):
            tail = layout.SMALLFILE_BEGIN  # begun, and nothing was committed in it yet
        elif appender is None and tail and not self.smallfiles.bound(published, layout.B_END):
            path, self.file_id = self.smallfiles.path(published), published
            appender = self.appender = Appender(path, tail=tail, mapped=self.smallfiles.mapped)
        if appender is None:
            following = published + layout.place_stride(self.view.index.writers_max) if tail else self.slot
            return self._begin(following), layout.SMALLFILE_BEGIN
        if tail + wanted > self.smallfile_bytes and tail > layout.SMALLFILE_BEGIN:
            self._seal(appender, tail)
            following = self.file_id + layout.place_stride(self.view.index.writers_max)
            return self._begin(following), layout.SMALLFILE_BEGIN
        return appender, tail

    def _seal(self, appender: Appender, end: int) -> None:
        """Nobody appends to my smallfile any more, and I forget it first: this may be cut short after the seal."""
        self.appender = None
        try:
            syncpoints.reach("smallfile.before_seal")
            self.smallfiles.store_bound(self.file_id, layout.B_END, end)
            syncpoints.reach("smallfile.after_seal")
            appender.trim(end)
        finally:
            appender.close()

    def _begin(self, file_id: int) -> Appender:
        try:
            appender = begin_smallfile(
                self.smallfiles,
                file_id,
                since=self.view.index.words[layout.H_COMMITTED],
            )
        except DurabilityError as failure:
            self.failure = failure
            raise
        self.file_id = file_id  # first: a Ctrl-C in between leaves no appender, and not that of another file
        self.appender = appender
        return appender

    def _validate(
        self,
        held: Held,
        index: Index,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        expected: Mapping[bytes, int],
    ) -> tuple[Index, int, int, int, Located | list[int]]:
        """Step 3: every fetched key still has its base revision, and the new keys have room, if need be in the next
        generation. Returns the index, T of the commit, the counters ``keys_live`` and ``entries_used`` after it, and
        where the keys' entries are.
        """
        assert held.range is COMMIT
        words = index.words
        if expected:
            check_bases(index, expected)
        located: Located | list[int]
        if len(keys) < VECTOR_MIN:
            added = live = 0
            located = []
            for i, key in enumerate(keys):
                word = index.probe(key)
                located.append(word)
                if word < 0:
                    added += 1
                elif index.newest(word)[1] != layout.TOMBSTONE:
                    live -= 1
                if values[i] is not None:
                    live += 1
        else:
            located = index.locate(keys)
            added = int((located[0] < 0).sum())
            live = len(values) - values.count(None)
            if added < len(keys):
                live -= int(index.newest_many(*located)[1].sum())
        used = words[layout.H_ENTRIES_USED]
        if added and used + added > index.capacity:
            if not self.growth:
                raise IndexFullError(index.capacity, used, added)
            return self._validate(held, self._grow(held, index, len(keys)), keys, values, {})
        if self.durable:
            needed = index.last_but_one(located)  # or no revision that readers may see would be left
            if needed > words[layout.H_DURABLE]:
                durability.catch_up(index, self.smallfiles, self.locks, needed, self.lock_timeout_s)
        live += words[layout.H_KEYS_LIVE]
        if live < 0:
            raise generations.impossible(index, "fewer keys are live than are removed", layout.H_KEYS_LIVE)
        return index, words[layout.H_COMMITTED] + 1, live, used + added, located

    def _grow(self, held: Held, index: Index, wanted: int) -> Index:
        """Move everybody to a larger generation of the index."""
        if self.durable:
            time = index.words[layout.H_COMMITTED]
            durability.catch_up(index, self.smallfiles, self.locks, time, self.lock_timeout_s)
        return growth.grow(held, self.view, self.locks, wanted, self.lock_timeout_s)

    def _place(self, index: Index, offset: int) -> object:
        """The intent's words but its T, as a write that a sync point carries; ``None`` where nobody listens."""
        if syncpoints.hook is None:
            return None
        words = (layout.H_INTENT_WRITER, layout.H_INTENT_FILE, layout.H_INTENT_OFFSET)
        return index.store_words, words, (self.slot, self.file_id, offset)

    def _intend(self, held: Held, index: Index, time: int, offset: int) -> None:
        """Step 4: say where the commit record will be, then that there is one to look for."""
        assert held.range is COMMIT
        words = index.words
        words[layout.H_INTENT_WRITER] = self.slot
        words[layout.H_INTENT_FILE] = self.file_id
        words[layout.H_INTENT_OFFSET] = offset
        if syncpoints.hook:
            syncpoints.hook("commit.after_place")
        words[layout.H_INTENT] = time
        if syncpoints.hook:
            syncpoints.hook("commit.after_intent")

    def _record(
        self,
        held: Held,
        index: Index,
        appender: Appender,
        time: int,
        offset: int,
        record: tuple[int, int, int, int, int, int, bytes],
    ) -> None:
        """Step 5: from the last byte of this record on, the transaction happens, whoever finishes it."""
        assert held.range is COMMIT
        pieces = [layout.pack_commit(index.store_uuid, time, *record)]
        reach = syncpoints.hook
        if reach:
            reach("record.before_append", (appender.store_prefix, offset, pieces))
        appender.store(offset, pieces)
        if reach:
            reach("record.after_append")

    def _publish(
        self,
        held: Held,
        index: Index,
        time: int,
        tail: int,
        keys: Sequence[bytes],
        extent: Extent,
        located: Located | list[int],
    ) -> None:
        """Step 6: store every revision. Nobody sees any of them before step 7."""
        base = layout.pack_location(self.file_id, tail)
        _, _, offsets, lengths, _ = extent
        locations: Integers = (
            offsets + base if isinstance(offsets, np.ndarray) else [base + offset for offset in offsets]
        )
        index.publish(held, time, keys, locations, lengths, located)

    def _take_sync(self, held: Held) -> None:
        """(Durable) take SYNC of my place while nothing has happened yet: from here to step 11 it says that I live."""
        assert held.range is COMMIT
        self.syncing = self.locks.acquire(sync_range(self.slot), self.lock_timeout_s)
        if syncpoints.hook:
            syncpoints.hook("durable.after_lock")

    def _make_durable(self, index: Index, appender: Appender, time: int) -> None:
        """Step 11, without COMMIT: sync my smallfile, and return when D has reached ``time``."""
        reach = syncpoints.hook
        if reach:
            reach("durable.before_sync")
        try:
            appender.sync()
        except DurabilityError as failure:
            self.failure = failure
            raise
        if reach:
            reach("durable.after_sync")
        durability.clear(index, self.slot)
        assert self.syncing is not None
        syncing, self.syncing = self.syncing, None
        self.locks.release(syncing)
        if reach:
            reach("durable.after_unlock")
        try:
            durability.await_durable(self.view, self.smallfiles, self.locks, time, self.lock_timeout_s)
        except LockTimeoutError as late:
            raise late.after_commit(time) from None

    def close(self) -> None:
        """Close the smallfile. The writer place is free once the range locks are closed."""
        self.closed = True
        appender, self.appender = self.appender, None
        if appender is not None:
            appender.close()


def check_bases(index: Index, expected: Mapping[bytes, int]) -> None:
    """Raise TransactionAbortedError for the first key of ``expected`` whose newest T is another one."""
    if len(expected) < VECTOR_MIN:
        for key, base in expected.items():
            word = index.probe(key)
            found = 0 if word < 0 else index.newest(word)[0]
            if found != base:
                raise TransactionAbortedError(key, base, found)
        return
    keys = list(expected)
    newest, _ = index.newest_many(*index.locate(keys))
    moved = np.flatnonzero(newest != np.fromiter(expected.values(), dtype=np.int64, count=len(keys)))
    if moved.size:
        first = int(moved[0])
        raise TransactionAbortedError(keys[first], expected[keys[first]], int(newest[first]))
