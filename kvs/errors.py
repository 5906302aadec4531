"""The whole error family. A message says what happened, whose fault it is, what is now true of the data
and what to do next; the values are attributes too.
"""

from __future__ import annotations


class Error(Exception):
    """Anything that kvs raises on purpose."""


class CorruptedStoreError(Error):
    """A file of the store does not hold what it must. ``path`` and ``offset_bytes`` say where.

    Whoever damaged the file is at fault; nothing was changed by finding it.
    """

    def __init__(self, message: str, *, path: str = "", offset_bytes: int = -1) -> None:
        where = f" ({path}" + (f" at byte {offset_bytes}" if offset_bytes >= 0 else "") + ")" if path else ""
        super().__init__(message + where)
        self.path = path
        self.offset_bytes = offset_bytes


class UnknownStoreError(Error):
    """The path holds something else than a store, or a store of another format. Nothing was touched."""

    def __init__(self, message: str, *, path: str, other_format: bool = False) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.other_format = other_format


class StoreNotFoundError(Error, FileNotFoundError):
    """There is no store at the path, and the flag does not ask for one to be made."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: there is no store here; nothing was created. Open it with flag='c' to create one"
        )
        self.path = path


class StoreOptionsError(Error, ValueError):
    """An option of ``open`` makes no sense, or contradicts what the store was created with."""


class StorageFullError(Error, OSError):
    """The file system has no room. Nothing of the transaction was committed; the store stays readable."""

    def __init__(self, path: str, wanted_bytes: int, errno: int) -> None:
        super().__init__(
            errno,
            f"no room for {wanted_bytes} more bytes in {path}: nothing of this operation was committed and all"
            " that was acknowledged is still there. Make room on the file system and try again",
        )
        self.path = path
        self.wanted_bytes = wanted_bytes

    def __str__(self) -> str:
        return str(self.args[1])


class MaximumWritersError(Error):
    """Every writer place is held by a live handle. ``writers_max`` was fixed when the store was created."""

    def __init__(self, path: str, writers_max: int) -> None:
        super().__init__(
            f"{path}: all {writers_max} writer places are held by live processes; nothing was changed."
            " Close one of them, or open with flag='r': readers are not limited"
        )
        self.path = path
        self.writers_max = writers_max


class TransactionLimitError(Error):
    """A transaction may write at most 65,535 keys; nothing was written."""

    def __init__(self, count: int, count_max: int) -> None:
        super().__init__(
            f"a transaction of {count} keys: at most {count_max} fit in one; nothing was written."
            " Split it into several transactions"
        )
        self.count = count
        self.count_max = count_max


class BadUpdateError(Error):
    """``update`` or ``remove`` of a key that the transaction did not ``fetch``; nothing was written."""

    def __init__(self, key: bytes, action: str) -> None:
        super().__init__(
            f"{action} of key {key.hex()} without a fetch of it first in the same transaction, so there is no"
            f" base revision to validate; nothing was written. Fetch it first, or use {action}_unsafe"
        )
        self.key = key


class ContentAddressError(Error, ValueError):
    """The store is content addressed and the key is not the xxh3-128 of the value; nothing was written."""

    def __init__(self, key: bytes, expected: bytes) -> None:
        super().__init__(
            f"this store is content addressed: key {key.hex()} is not its value's hash, which is"
            f" {expected.hex()}; nothing was written. Use kvs.key_for(value) as the key"
        )
        self.key = key
        self.expected = expected


class IndexFullError(Error):
    """The index has no place for another key; nothing was written."""

    def __init__(self, capacity: int, used: int, wanted: int) -> None:
        super().__init__(
            f"the index holds {used} of at most {capacity} keys and {wanted} more were to be added; nothing was"
            " written. Open the store with growth=True"
        )
        self.capacity = capacity
        self.used = used
        self.wanted = wanted


class TransactionAbortedError(Error):
    """Somebody else changed ``key`` after this transaction fetched it. Nothing was written; try again."""

    def __init__(self, key: bytes, base: int, found: int) -> None:
        super().__init__(
            f"key {key.hex()} was at transaction {base} when it was fetched and is now at {found}: another writer"
            " came first. Nothing of this transaction was written; run it again (store.transact does)"
        )
        self.key = key
        self.base = base
        self.found = found


class SnapshotTooOldError(Error):
    """The revision that this snapshot needs was overwritten: only four are kept. Take a new snapshot."""

    def __init__(self, key: bytes, snapshot: int) -> None:
        super().__init__(
            f"key {key.hex()} was written four or more times since this snapshot (transaction {snapshot}) was taken,"
            " so the revision that it needs is gone. The data is unharmed; take a new snapshot"
        )
        self.key = key
        self.snapshot = snapshot


class LockTimeoutError(Error):
    """A lock was not had within ``waited_s`` seconds. ``holder_pid`` is 0 where it is not known; ``committed`` is the T
    of a durable transaction that was committed and synced before the wait, and ``None`` where nothing was written.
    """

    def __init__(
        self, lock: str, holder_pid: int, holder_state: str, waited_s: float, committed: int | None = None
    ) -> None:
        holder = f"pid {holder_pid} ({holder_state})" if holder_pid else "an unknown process"
        outcome = (
            "nothing was written"
            if committed is None
            else f"transaction {committed} is committed and synced, and is seen when that process has synced its own"
        )
        super().__init__(
            f"{lock} held by {holder} for {waited_s:.1f} s; {outcome}."
            " Continue or end that process, or raise lock_timeout_s"
        )
        self.committed = committed
        self.lock = lock
        self.holder_pid = holder_pid
        self.holder_state = holder_state
        self.waited_s = waited_s

    def after_commit(self, time: int) -> LockTimeoutError:
        """The same, where transaction ``time`` was committed before the wait."""
        return LockTimeoutError(self.lock, self.holder_pid, self.holder_state, self.waited_s, time)


class ReadOnlyError(Error):
    """A write through a handle that was opened with flag='r'; nothing was written."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was opened with flag='r'; nothing was written. Open it with flag='w' to write"
        )
        self.path = path


class ClosedStoreError(Error):
    """The handle, snapshot or transaction was closed before; nothing was done."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed; nothing was done. Open or begin a new one")
        self.what = what


class ForkedStoreError(Error):
    """The handle was opened before a fork and used in the child. The parent's handle is unharmed."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was opened before this process was forked; the child has no part in its locks. The parent's"
            " handle is unharmed and nothing was done. Open the store again in the child"
        )
        self.path = path


class DamagedDumpError(Error):
    """A dump does not hold what it must. ``block`` and ``offset_bytes`` say where (block -1: its header).

    Whoever damaged it or cut it off is at fault.
    """

    def __init__(self, problem: str, *, block: int, offset_bytes: int) -> None:
        where = "its header" if block < 0 else f"block {block}"
        super().__init__(
            f"the dump is damaged or cut off: {where} at byte {offset_bytes} {problem}. Make it or copy it again"
        )
        self.block = block
        self.offset_bytes = offset_bytes


class DurabilityError(Error):
    """A sync failed. The transaction was not acknowledged, and this handle refuses further commits."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"syncing {path} failed ({reason}): the medium may have lost what was written last. The transaction was"
            " not acknowledged: it becomes visible if another process can still put it on the medium, whole or not at"
            " all. Everything acknowledged before was synced. This handle refuses further commits: check the device,"
            " then open the store again"
        )
        self.path = path
        self.reason = reason


class UnsupportedPlatformError(Error):
    """This platform lacks what the store's promises rest on. Nothing was touched."""
