"""Optimistic transactions, and the commit: eleven steps, in the order that makes repair possible."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from kvs import layout, reading, repair, syncpoints
from kvs.errors import (
    BadUpdateError,
    ClosedStoreError,
    DurabilityError,
    IndexFullError,
    LockTimeoutError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionLimitError,
)
from kvs.index import Index, Located
from kvs.layout import COMMIT_BYTES
from kvs.locks import COMMIT, Held, RangeLocks
from kvs.smallfile import VECTOR_MIN, Appender, Extent, Integers, Smallfiles, encode

Isolation = Literal["serializable", "snapshot"]
_ISOLATIONS: Final = ("serializable", "snapshot")
_COMMIT_TAIL_ZERO: Final = bytes(COMMIT_BYTES)


class Writer:
    """One handle's right to commit: a writer place, its smallfile, and the mutex in front of the locks.

    ``mutex`` protects ``tail`` and the range locks between the threads of the handle.
    """

    def __init__(
        self,
        index: Index,
        smallfiles: Smallfiles,
        locks: RangeLocks,
        slot: int,
        appender: Appender,
        *,
        pid: int,
        lock_timeout_s: float,
    ) -> None:
        self.index = index
        self.smallfiles = smallfiles
        self.locks = locks
        self.slot = slot
        self.appender = appender
        self.pid = pid
        self.lock_timeout_s = lock_timeout_s
        self.integrity = bool(index.flags & layout.FLAG_INTEGRITY)
        self.mutex = threading.Lock()
        self.file_id = index.words[layout.writer_word(slot) + layout.W_FILE]
        self.tail_word = layout.writer_word(slot) + layout.W_TAIL
        self.failure: DurabilityError | None = None

    def commit(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], expected: Mapping[bytes, int]
    ) -> int:
        """Write ``values`` (``None`` removes) to ``keys``, which differ, as one transaction, if every key of
        ``expected`` still has that base revision (0: never written). Returns its T; everything acknowledged is
        then visible to all.

        Raises:
            TransactionLimitError, TransactionAbortedError, IndexFullError, StorageFullError,
            LockTimeoutError, DurabilityError: nothing was committed.
        """
        if len(keys) > layout.KEYS_MAX:
            raise TransactionLimitError(len(keys), layout.KEYS_MAX)
        reach, index, words = syncpoints.reach, self.index, self.index.words
        self._enter()
        try:
            extent, tail = self._prepare(keys, values)  # 0
            reach("commit.before_lock")
            held = self.locks.acquire(COMMIT, self.lock_timeout_s)  # 1
            try:
                words[layout.H_OWNER_PID] = self.pid
                reach("commit.after_lock")
                if words[layout.H_INTENT]:
                    repair.finish(held, index, self.smallfiles)  # 2
                time, keys_live, entries_used, located = self._validate(held, keys, values, expected)  # 3
                offset = tail + extent[1]
                reach("commit.after_validate", self._place(offset))
                record = (tail, extent[1], len(keys), keys_live, entries_used, extent[4])
                self._intend(held, time, offset)  # 4
                self._record(held, time, offset, record)  # 5
                self._publish(held, time, tail, keys, extent, located)  # 6
                reach("commit.before_visible")
                repair.show(held, index, time)  # 7
                repair.account(held, index, self.slot, offset + COMMIT_BYTES, keys_live, entries_used)  # 8
                reach("commit.after_account")
                words[layout.H_INTENT] = 0  # 9
                reach("commit.after_clear")
            finally:
                self._leave(held)  # 10
            reach("commit.after_unlock")
        finally:
            self.mutex.release()
        return time  # 11: a durable transaction was synced within step 5, before it was shown

    def locked(self, work: Callable[[Held], None]) -> None:
        """Run ``work`` under COMMIT, after any repair that is due. Raises LockTimeoutError."""
        self._enter()
        try:
            held = self.locks.acquire(COMMIT, self.lock_timeout_s)
            try:
                self.index.words[layout.H_OWNER_PID] = self.pid
                repair.finish(held, self.index, self.smallfiles)
                work(held)
            finally:
                self._leave(held)
        finally:
            self.mutex.release()

    def _leave(self, held: Held) -> None:
        """Release COMMIT. An intent that still stands is that of a commit which an exception (a Ctrl-C) cut
        short: finish it here, because the next ``_prepare`` would overwrite the records that it points to.
        """
        try:
            if self.index.words[layout.H_INTENT]:
                repair.finish(held, self.index, self.smallfiles)
        finally:
            self.locks.release(held)

    def _enter(self) -> None:
        if not self.mutex.acquire(False) and not self.mutex.acquire(timeout=self.lock_timeout_s):
            raise LockTimeoutError(
                "this handle (by another thread)", self.pid, "running", self.lock_timeout_s
            )
        if self.failure is not None:
            self.mutex.release()
            raise self.failure

    def _prepare(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> tuple[Extent, int]:
        """Step 0, without a lock: append the records behind the published tail of my smallfile, with room
        for the commit record. An extent that is not committed is overwritten by the next one.
        """
        reach, words = syncpoints.reach, self.index.words
        if words[layout.H_INTENT] and words[layout.H_INTENT_WRITER] == self.slot:
            # My own commit was cut short, and so was finishing it: its records must not be overwritten.
            self._finish_own()
        extent = encode(keys, values, integrity=self.integrity)
        tail, appender = words[self.tail_word], self.appender
        end = tail + extent[1] + COMMIT_BYTES
        if end > appender.room:
            appender.reserve(end)
        reach("prepare.before_append", (appender.store_prefix, tail, extent[0]))
        appender.store(tail, extent[0])
        reach("prepare.after_append")
        return extent, tail

    def _finish_own(self) -> None:
        held = self.locks.acquire(COMMIT, self.lock_timeout_s)
        try:
            repair.finish(held, self.index, self.smallfiles)
        finally:
            self.locks.release(held)

    def _validate(
        self, held: Held, keys: Sequence[bytes], values: Sequence[bytes | None], expected: Mapping[bytes, int]
    ) -> tuple[int, int, int, Located | list[int]]:
        """Step 3: every fetched key still has its base revision, and the new keys have room. Returns T of
        the commit, the counters ``keys_live`` and ``entries_used`` after it, and where the keys' entries are.
        """
        assert held.range is COMMIT
        index, words = self.index, self.index.words
        if expected:
            check_bases(index, expected)
        located: Located | list[int]
        if len(keys) < VECTOR_MIN:
            added = live = 0
            located = [index.probe(key) for key in keys]
            for i, word in enumerate(located):
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
            raise IndexFullError(index.capacity, used, added)
        return words[layout.H_COMMITTED] + 1, words[layout.H_KEYS_LIVE] + live, used + added, located

    def _place(self, offset: int) -> object:
        """The intent's words but its T, as a write that a sync point carries; ``None`` where nobody listens."""
        if syncpoints.hook is None:
            return None
        words = (layout.H_INTENT_WRITER, layout.H_INTENT_FILE, layout.H_INTENT_OFFSET)
        return self.index.store_words, words, (self.slot, self.file_id, offset)

    def _intend(self, held: Held, time: int, offset: int) -> None:
        """Step 4: say where the commit record will be, then that there is one to look for."""
        assert held.range is COMMIT
        words = self.index.words
        words[layout.H_INTENT_WRITER] = self.slot
        words[layout.H_INTENT_FILE] = self.file_id
        words[layout.H_INTENT_OFFSET] = offset
        syncpoints.reach("commit.after_place")
        words[layout.H_INTENT] = time
        syncpoints.reach("commit.after_intent")

    def _record(
        self, held: Held, time: int, offset: int, record: tuple[int, int, int, int, int, bytes]
    ) -> None:
        """Step 5: from the last byte of this record on, the transaction happens, whoever finishes it."""
        assert held.range is COMMIT
        reach = syncpoints.reach
        pieces = [layout.pack_commit(self.index.store_uuid, time, *record)]
        reach("record.before_append", (self.appender.store_prefix, offset, pieces))
        self.appender.store(offset, pieces)
        reach("record.after_append")
        if self.index.durable:
            reach("record.before_sync")
            try:
                self.appender.sync()
            except DurabilityError as failure:
                # Not acknowledged and not published: take the record back, so that no survivor redoes it.
                self.failure = failure
                self.appender.store(offset, [_COMMIT_TAIL_ZERO])
                self.index.words[layout.H_INTENT] = 0
                raise
            reach("record.after_sync")

    def _publish(
        self,
        held: Held,
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
        self.index.publish(held, time, keys, locations, lengths, located)

    def close(self) -> None:
        """Close the smallfile. The writer place is free once the range locks are closed."""
        self.appender.close()


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


class Transaction:
    """Fetches from one snapshot, then writes that take effect together at ``commit``, or not at all.

    As a context manager it commits on leaving and aborts on an exception. ``transaction_counter`` is the T
    of the commit afterwards (``None`` where nothing was written). Not to be shared between threads.
    """

    def __init__(
        self,
        index: Index,
        smallfiles: Smallfiles,
        writer: Callable[[], Writer],
        check_usable: Callable[[], None],
        check_value: Callable[[bytes, bytes], None],
        normalise: Callable[[object], bytes],
        isolation: Isolation,
    ) -> None:
        if isolation not in _ISOLATIONS:
            raise ValueError(f"isolation {isolation!r}: one of {', '.join(_ISOLATIONS)}")
        self._index = index
        self._smallfiles = smallfiles
        self._writer = writer
        self._check_usable = check_usable
        self._check_value = check_value
        self._normalise = normalise
        self._isolation = isolation
        self._bases: dict[bytes, int] = {}
        self._changes: dict[bytes, bytes | None] = {}
        self._open = True
        self.snapshot: int = index.words[index.visible_word]
        """The newest transaction that fetches see."""
        self.transaction_counter: int | None = None

    def fetch(self, key: object) -> bytes | None:
        """The value of ``key`` (this transaction's own write, if it made one), ``None`` if absent.

        Raises:
            TransactionAbortedError: it was overwritten four times since the transaction began.
        """
        return self.fetch_item(key)[1]

    def fetch_item(self, key: object) -> tuple[int, bytes | None]:
        """``(T, value)`` of ``key``; T is 0 where it was never written. Errors as ``fetch``."""
        name = self._key(key)
        if name in self._changes:
            return self._bases.get(name, 0), self._changes[name]
        try:
            time, value = reading.read(self._index, self._smallfiles, name, self.snapshot)
        except SnapshotTooOldError:
            word = self._index.probe(name)
            raise TransactionAbortedError(name, self.snapshot, self._index.newest(word)[0]) from None
        self._bases[name] = time
        return time, value

    def update(self, key: object, value: bytes | bytearray | memoryview) -> None:
        """Write ``key`` at commit, if it is still as it was fetched. Raises BadUpdateError without a fetch, unless
        this transaction wrote the key before."""
        name = self._key(key)
        if name not in self._bases and name not in self._changes:
            raise BadUpdateError(name, "update")
        self._write(name, value)

    def remove(self, key: object) -> None:
        """Remove ``key`` at commit, if it is still as it was fetched. Raises BadUpdateError as ``update``.
        A key that is absent stays absent.
        """
        name = self._key(key)
        if name not in self._bases and name not in self._changes:
            raise BadUpdateError(name, "remove")
        self._changes[name] = None

    def update_unsafe(self, key: object, value: bytes | bytearray | memoryview) -> None:
        """Write ``key`` at commit whatever it holds then: the last writer wins."""
        self._write(self._key(key), value)

    def remove_unsafe(self, key: object) -> None:
        """Remove ``key`` at commit whatever it holds then."""
        self._changes[self._key(key)] = None

    def commit(self) -> int | None:
        """Make the writes take effect; returns their T, or ``None`` if there were none. The transaction is
        over, also when this raises.

        Raises:
            TransactionAbortedError: something that was fetched has changed (``serializable``), or something
                that was fetched and written has (``snapshot``). Nothing was written.
            TransactionLimitError, IndexFullError, StorageFullError, LockTimeoutError, DurabilityError:
                nothing was written.
        """
        self._check_open()
        self._open = False
        if not self._changes:
            return None
        if self._isolation == "serializable":
            expected = self._bases
        else:
            expected = {key: base for key, base in self._bases.items() if key in self._changes}
        self.transaction_counter = self._writer().commit(
            list(self._changes), list(self._changes.values()), expected
        )
        return self.transaction_counter

    def abort(self) -> None:
        """Forget the writes. Harmless when the transaction is over."""
        self._open = False
        self._changes.clear()

    def __enter__(self) -> Transaction:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.commit()

    def _write(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        data = value if type(value) is bytes else bytes(value)
        self._check_value(key, data)
        self._changes[key] = data

    def _key(self, key: object) -> bytes:
        self._check_open()
        return self._normalise(key)

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedStoreError("the transaction")
        self._check_usable()


__all__ = ["Isolation", "Transaction", "Writer"]
