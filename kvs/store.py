"""The store as its users see it: ``open``, a mapping of keys to values, transactions and snapshots."""

from __future__ import annotations

import contextlib
import os
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from xxhash import xxh3_128_digest

from kvs import backup, inspection, layout, locks, opening, reading, syncpoints
from kvs.check import Finding
from kvs.compaction import Compacted, Progress
from kvs.errors import (
    ClosedStoreError,
    ContentAddressError,
    Error,
    ForkedStoreError,
    ReadOnlyError,
    SnapshotTooOldError,
    TransactionAbortedError,
    TransactionLimitError,
)
from kvs.generations import Generations
from kvs.keys import Data, Item, Key, key_for, normalise, normalise_many
from kvs.locks import Pins
from kvs.smallfile import Smallfiles
from kvs.snapshot import Snapshot
from kvs.transaction import Isolation, Transaction
from kvs.upkeep import Upkeep
from kvs.writer import Writer

_Result = TypeVar("_Result")


class Store(MutableMapping[Any, bytes]):
    """One open handle on a store. Any number of threads may use it at once; see ``open``.

    A handle that is collected while it is open warns (``ResourceWarning``), and lets go of its locks as a process that
    dies does: nothing that was acknowledged is lost, and the store is not marked as closed cleanly.
    """

    def __init__(self, path: Path, options: opening.Options) -> None:
        self.path = path
        self._options = options
        self._gone: Callable[[], Error] | None = None
        locks.check_platform()
        self._attached: opening.Attached | None = None
        self._closing = threading.RLock()
        attached = opening.attach(path, options)
        try:
            self._view, self._smallfiles, self._writer = attached
            self._pins = Pins(path / opening.RANGES)
            self._upkeep = Upkeep(
                path,
                self._view,
                self._smallfiles,
                lock_timeout_s=options.lock_timeout_s,
                smallfile_bytes=options.smallfile_bytes,
                compact_at=options.compact_at,
            )
            if self._writer is not None and options.compact_at is not None:
                self._writer.committed = self._upkeep.written
            self._integrity = self._smallfiles.integrity
            self._content_addressed = self._smallfiles.content_addressed
            _stores[id(self)] = self
            self._hot = _HotPath(self)
            self._view.changed = self._hot.hook_changed
            self._hot.hook_changed()
            self._finalizer = weakref.finalize(self, _left_open, str(path), self._pins, *attached)
            self._attached = attached
        except BaseException:
            opening.abandon(*attached)
            raise
        self._finalizer.atexit = False

    # -- reading ------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key`` now, or ``default``.

        Raises:
            CorruptedStoreError: its record is damaged. (So do all the reading calls below.)
        """
        return self._get(key, default)

    def __getitem__(self, key: Any) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    def get_many(self, keys: Iterable[Key]) -> list[bytes | None]:
        """The values of ``keys``, all from one snapshot, ``None`` where absent."""
        names = normalise_many(keys)
        while True:
            self._check_usable()
            try:
                return self._read_many(names, self._visible())
            except SnapshotTooOldError:
                continue

    def find(self, key: Key, revision: int = 0) -> Item | None:
        """The ``revision``-th newest revision of ``key`` (0 to 3; 0 is the newest), or ``None`` where it is a
        removal or not kept.
        """
        if not 0 <= revision < layout.REVISIONS:
            raise ValueError(f"revision {revision}: the store keeps revisions 0 to {layout.REVISIONS - 1}")
        name = normalise(key)
        self._check_usable()
        if revision:
            found = reading.read_revision(self._view, self._smallfiles, name, revision)
        else:
            found = reading.read_current(self._view, self._smallfiles, name)
        return None if found[1] is None else Item(name, found[1], found[0])

    def history(self, key: Key) -> list[tuple[int, bytes | None]]:
        """``(T, value)`` of every revision of ``key`` that is still kept, all of one moment, newest first; the
        value is ``None`` where it is a removal. The list ends in ``(0, None)`` if nothing was ever dropped from it:
        then there was no revision before.
        """
        name = normalise(key)
        self._check_usable()
        return reading.read_history(self._view, self._smallfiles, name)

    def last_updated(self, keys: Iterable[Key]) -> list[int]:
        """For each key the T of the transaction that wrote or removed it last, 0 where none ever did."""
        with self.snapshot() as snapshot:
            return [snapshot.find_time(key) for key in keys]

    def snapshot(self) -> Snapshot:
        """A consistent view of everything that is acknowledged by now."""
        self._check_usable()
        return Snapshot(self._view, self._smallfiles, self._pins, self._check_usable)

    def __iter__(self) -> Iterator[bytes]:
        with self.snapshot() as snapshot:
            yield from snapshot

    def __len__(self) -> int:
        self._check_usable()
        return inspection.count(self._view.current())

    # -- writing ------------------------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Data) -> None:
        name = key if type(key) is bytes and len(key) == 16 else normalise(key)
        data = value if type(value) is bytes else bytes(value)
        if len(data) > layout.VALUE_BYTES_MAX or self._content_addressed:
            self._check_value(name, data)
        writer = self._writer or self._usable_writer()
        writer.commit([name], [data], {})

    def __delitem__(self, key: Any) -> None:
        name = normalise(key)

        def remove(txn: Transaction) -> None:
            if txn.fetch(name) is None:
                raise KeyError(key)
            txn.remove(name)

        self.transact(remove)

    def put_many(self, pairs: Mapping[Any, Data] | Iterable[tuple[Key, Data]]) -> int | None:
        """Write all pairs in one atomic transaction, the last one of equal keys; returns its T, or ``None``
        where there were none. Errors as ``Transaction.commit``; nothing was written then.
        """
        pairs = dict(pairs)
        names = normalise_many(pairs)
        contents = list(pairs.values())
        if set(map(type, contents)) - {bytes}:
            contents = [bytes(value) for value in contents]
        changes: dict[bytes, bytes | None] = dict(zip(names, contents, strict=True))
        if len(changes) > layout.KEYS_MAX:
            raise TransactionLimitError(len(changes), layout.KEYS_MAX)
        if self._content_addressed or max(map(len, contents), default=0) > layout.VALUE_BYTES_MAX:
            for name, data in zip(names, contents, strict=True):
                self._check_value(name, data)
        writer = self._usable_writer()
        return writer.commit(list(changes), list(changes.values()), {}) if changes else None

    def transaction(self, isolation: Isolation = "serializable") -> Transaction:
        """Begin an optimistic transaction. ``serializable`` validates everything that was fetched,
        ``snapshot`` only what is written. A transaction that writes nothing never aborts for conflicts.
        """
        self._check_usable()
        return Transaction(
            self._view,
            self._smallfiles,
            self._usable_writer,
            self._check_usable,
            self._check_value,
            normalise,
            isolation,
        )

    def transact(
        self, fn: Callable[[Transaction], _Result], isolation: Isolation = "serializable"
    ) -> _Result:
        """Run ``fn(txn)`` and commit, again and again until nobody else came first. Returns what ``fn``
        returned. An exception from ``fn`` aborts and is passed on.
        """
        while True:
            try:
                with self.transaction(isolation) as txn:
                    return fn(txn)
            except TransactionAbortedError:
                continue  # somebody else committed: there is progress, and nothing to wait for

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove ``key`` and return its value, in one transaction."""
        name = normalise(key)

        def remove(txn: Transaction) -> bytes | None:
            value = txn.fetch(name)
            if value is not None:
                txn.remove(name)
            return value

        value = self.transact(remove)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def setdefault(self, key: Any, default: Any = b"") -> bytes:
        """The value of ``key``, after writing ``default`` if it was absent, in one transaction."""
        name = normalise(key)

        def place(txn: Transaction) -> bytes:
            value = txn.fetch(name)
            if value is None:
                value = bytes(default)
                txn.update(name, value)
            return value

        return self.transact(place)

    # -- the whole store ----------------------------------------------------------------------------------

    def verify(self, *, log: bool = True) -> list[Finding]:
        """Check every invariant (``kvs.check.INVARIANTS``) and return the findings: none means sound.

        The index is checked under COMMIT, which writers wait for meanwhile; records and (with ``log``) the
        whole of every smallfile are checked after. A read-only handle takes no lock: it checks the structure
        between two commits, and says so (``commit.intent_clear``) if it does not find such a moment.
        """
        self._check_usable()
        return inspection.verify(self._view, self._smallfiles, self._writer, log=log)

    def compact(self, *, min_dead: float = 0.0, progress: Progress | None = None) -> Compacted:
        """Give the room of what nobody can read any more back to the file system, while everybody goes on.

        What is still referenced in smallfiles of which at least ``min_dead`` (0 to 1) is dead is copied together, holes
        are punched where it was, wholly dead files are removed. Removed keys are forgotten, with their older revisions,
        once no snapshot can see them. One process compacts at a time. ``progress`` is told (done, total) bytes.

        Raises:
            ReadOnlyError; LockTimeoutError: another process compacts. StorageFullError: no room for the copies;
            nothing is lost. CorruptedStoreError: a record is damaged; its place was left as it is.
        """
        if not 0 <= min_dead <= 1:
            raise ValueError(f"min_dead {min_dead}: from 0 to 1; nothing was done")
        self._usable_writer()
        return self._upkeep.compact(min_dead, progress=progress)

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Write everything that is acknowledged by now as a new store at ``path``, while everybody goes on. Returns the
        number of keys. The new store has this one's properties, and one revision of each key.

        Raises:
            StoreOptionsError: there is something at ``path`` already. SnapshotTooOldError: a key was written four
            times before it was copied; try again. StorageFullError. Nothing is left at ``path`` then.
        """
        with self.snapshot() as snapshot:
            return backup.backup(snapshot, Path(path), self._create_like)

    def stat(self) -> dict[str, Any]:
        """Counters and properties, for people and machines: numbers, strings, booleans, and lists of them.

        ``live_bytes`` are those of the records that are kept, up to four for each key; ``dead_bytes`` the rest of the
        published smallfiles; ``disk_bytes`` the blocks of all files. They are counted by looking at the whole index.
        """
        self._check_usable()
        return inspection.stat(self.path, self.path / opening.RANGES, self._view, self._smallfiles)

    def close(self) -> None:
        """Close the handle; idempotent, also where a Ctrl-C cut it short. The last writer to close syncs everything and
        marks the store clean.

        Raises:
            LockTimeoutError, DurabilityError: the clean mark could not be set. The handle is closed all the
                same, its locks are released, and nothing that was acknowledged is lost.
        """
        if self._attached is None:  # also in a forked child, where nobody would release the lock
            return
        with self._closing:  # a thread that comes second waits for the first
            attached = self._attached
            if attached is None:
                return
            self._gone = lambda: ClosedStoreError(str(self.path))
            self._writer = None
            try:
                if attached.writer is not None:
                    opening.leave(attached.smallfiles, attached.writer)
            except Exception:
                self._let_go(attached)
                raise
            self._let_go(attached)

    def __enter__(self) -> Store:
        self._check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._gone is None else " (closed)"
        return f"<kvs.Store {str(self.path)!r} flag={self._options.flag!r}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a kvs.Store cannot be pickled or copied: it holds locks. Open it again in the other process"
        )

    # -- within -------------------------------------------------------------------------------------------

    def _install_get(self, get: reading.Get) -> None:
        """Shadow the method with the flat function, which saves its callers one call of two."""
        self._get = get
        self.get = get  # type: ignore[method-assign]

    def _refuse(self, *_: object) -> NoReturn:
        """What stands in the place of ``get`` once the handle is unusable."""
        assert self._gone is not None
        raise self._gone()

    def _visible(self) -> int:
        return self._view.visible()

    def _read_many(self, names: Sequence[bytes], snapshot: int) -> list[bytes | None]:
        return reading.read_many(self._view, self._smallfiles, names, snapshot)

    def _create_like(self, path: Path) -> Store:
        """A new store with the properties of this one."""
        flags = self._view.index.flags
        wanted = self._options._replace(
            flag="n",
            durable=bool(flags & layout.FLAG_DURABLE),
            integrity=self._integrity,
            content_addressed=self._content_addressed,
            index_capacity=max(layout.INDEX_CAPACITY, len(self)),
        )
        return Store(path, wanted)

    def _check_value(self, key: bytes, value: bytes) -> None:
        if len(value) > layout.VALUE_BYTES_MAX:
            raise ValueError(
                f"a value of {len(value)} bytes: at most {layout.VALUE_BYTES_MAX} fit; nothing was written"
            )
        if self._content_addressed and (expected := xxh3_128_digest(value)) != key:
            raise ContentAddressError(key, expected)

    def _usable_writer(self) -> Writer:
        writer = self._writer
        if writer is None:
            self._check_usable()
            raise ReadOnlyError(str(self.path))
        return writer

    def _check_usable(self) -> None:
        if self._gone is not None:
            raise self._gone()

    def _let_go(self, attached: opening.Attached) -> None:
        """Drop maps and descriptors. What another thread is reading stays mapped until it is done."""
        self._install_get(self._refuse)
        for name in ("_view", "_smallfiles", "_upkeep"):
            vars(self).pop(name, None)
        self._pins.close()
        attached.view.close()
        attached.smallfiles.close()
        self._finalizer.detach()
        self._attached = None

    def _abandon(self) -> None:
        """In a forked child: nothing of the parent's may be used, synced or unlocked."""
        attached = self._attached
        if attached is None:
            return
        self._gone = lambda: ForkedStoreError(str(self.path))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._let_go(attached)


def _left_open(
    path: str, pins: Pins, view: Generations, smallfiles: Smallfiles, writer: Writer | None
) -> None:
    """What happens to a handle that nobody closed: a warning, and what the kernel does where a process dies."""
    pins.close()
    opening.abandon(view, smallfiles, writer)
    warnings.warn(f"the kvs.Store at {path} was not closed", ResourceWarning, stacklevel=2)


class _HotPath:
    """Builds a store's ``get`` anew whenever a hook is installed. (A store itself cannot be in a weak set: it is
    a mapping, which compares by content.)
    """

    def __init__(self, store: Store) -> None:
        self._store = weakref.ref(store)
        syncpoints.listeners.add(self)

    def hook_changed(self) -> None:
        store = self._store()
        if store is not None and store._gone is None:
            index, get = store._view.index, reading.getter(store._view, store._smallfiles, normalise)
            store._view.flat = index, get
            store._install_get(get)


_stores: weakref.WeakValueDictionary[int, Store] = weakref.WeakValueDictionary()


def _abandon_all() -> None:
    for store in list(_stores.values()):
        with contextlib.suppress(OSError):
            store._abandon()


os.register_at_fork(after_in_child=_abandon_all)


def open(  # noqa: A001 - as in dbm, shelve and lmdb
    path: str | os.PathLike[str],
    flag: str = "c",
    *,
    durable: bool | None = None,
    integrity: bool | None = None,
    content_addressed: bool | None = None,
    io: str = "mmap",
    lock_timeout_s: float = 30.0,
    index_capacity: int = layout.INDEX_CAPACITY,
    growth: bool = True,
    smallfile_bytes: int = layout.SMALLFILE_BYTES,
    compact_at: float | None = None,
) -> Store:
    """Open the store in the directory ``path``.

    Args:
        flag: ``r`` read only, ``w`` read and write, ``c`` the same and create it if it is not there, ``n``
            always a new, empty one.
        durable: an acknowledged commit survives power loss. Fixed at creation, like the next two; ``None``
            means as stored (at creation: ``False``, ``True``, ``False``).
        integrity: every value carries its xxh3-128, which every read checks.
        content_addressed: every key must be the xxh3-128 of its value.
        io: ``mmap``, or ``append`` for positional reads and gathered appends; chosen per handle.
        lock_timeout_s: how long a commit waits for another process before LockTimeoutError.
        index_capacity: keys that a new store has room for before its index grows (128 bytes of index each, and slack).
        growth: whether this handle may make the index larger; IndexFullError where it may not.
        smallfile_bytes: a smallfile of this handle that would become longer is sealed, and another one begun.
        compact_at: compact by itself, after a commit of this handle, when more than this share (0 to 1) of the
            smallfiles is dead. ``None``: only ``compact`` does.

    Raises:
        StoreNotFoundError, UnknownStoreError, CorruptedStoreError, StoreOptionsError, MaximumWritersError,
        LockTimeoutError, StorageFullError, UnsupportedPlatformError: nothing that was there was changed.
        OSError: the file system refuses, e.g. PermissionError.
    """
    options = opening.Options(
        flag,
        durable,
        integrity,
        content_addressed,
        io,
        lock_timeout_s,
        index_capacity,
        growth=growth,
        smallfile_bytes=smallfile_bytes,
        compact_at=compact_at,
    )
    return Store(Path(path), options.check())


__all__ = ["Item", "Snapshot", "Store", "key_for", "open"]
