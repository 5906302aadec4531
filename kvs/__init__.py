"""An embedded ACID key-value store that many processes read and write at once.

>>> import kvs
>>> with kvs.open("path") as store:
...     store[kvs.key_for("answer")] = b"42"
...     print(store.get(kvs.key_for("answer")), store.get(0))
b'42' None

README.md beside this file has every feature by example, limits and errors; FORMAT.md has every byte on disk and the
protocols.
"""

from kvs.check import Finding
from kvs.compaction import Compacted
from kvs.errors import (
    BadUpdateError,
    ClosedStoreError,
    ContentAddressError,
    CorruptedStoreError,
    DamagedDumpError,
    DurabilityError,
    Error,
    ForkedStoreError,
    IndexFullError,
    LockTimeoutError,
    MaximumWritersError,
    ReadOnlyError,
    SnapshotTooOldError,
    StorageFullError,
    StoreNotFoundError,
    StoreOptionsError,
    TransactionAbortedError,
    TransactionLimitError,
    UnknownStoreError,
    UnsupportedPlatformError,
)
from kvs.keys import Item, key_for
from kvs.snapshot import Snapshot
from kvs.store import Store, open  # noqa: A004 - as in dbm and shelve
from kvs.transaction import Transaction

__all__ = [
    "BadUpdateError",
    "ClosedStoreError",
    "Compacted",
    "ContentAddressError",
    "CorruptedStoreError",
    "DamagedDumpError",
    "DurabilityError",
    "Error",
    "Finding",
    "ForkedStoreError",
    "IndexFullError",
    "Item",
    "LockTimeoutError",
    "MaximumWritersError",
    "ReadOnlyError",
    "Snapshot",
    "SnapshotTooOldError",
    "StorageFullError",
    "Store",
    "StoreNotFoundError",
    "StoreOptionsError",
    "Transaction",
    "TransactionAbortedError",
    "TransactionLimitError",
    "UnknownStoreError",
    "UnsupportedPlatformError",
    "key_for",
    "open",
]
