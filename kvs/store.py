"""The store as its users see it: ``open``, a mapping of keys to values, transactions and snapshots."""

from __future__ import annotations

import contextlib
import os
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from xxhash import xxh3_128_digest

from kvs import check, layout, locks, opening, reading, syncpoints
from kvs.check import Finding
from kvs.errors import (
    ClosedStoreError,
    ContentAddressError,
    Error,
    ForkedStoreError,
    ReadOnlyError,
    SnapshotTooOldError,
    StoreOptionsError,
    TransactionAbortedError,
    TransactionLimitError,
)
from kvs.index import Index
from kvs.keys import Data, Item, Key, key_for, normalise, normalise_many
from kvs.locks import Held
from kvs.smallfile import Smallfiles
from kvs.snapshot import Snapshot
from kvs.transaction import Isolation, Transaction, Writer

_Result = TypeVar("_Result")
_EXAMINATIONS_MAX = 50


class Store(MutableMapping[Any, bytes]):
    """One open handle on a store. Any number of threads may use it at once; see ``open``."""

    def __init__(self, path: Path, options: opening.Options) -> None:
        self.path = path
        self._options = options
        self._gone: Callable[[], Error] | None = None
        locks.check_platform()
        index_path = opening.ensure(path, options)
        with locks.gate(path / opening.GATE, exclusive=False, timeout_s=options.lock_timeout_s):
            write = options.flag != "r"
            self._index: Index = Index(index_path, write=write)
            self._writer: Writer | None = None
            smallfiles: Smallfiles | None = None
            try:
                opening.check_options(self._index, options, path)
                opening.check_boot(self._index, index_path)
                self._integrity = bool(self._index.flags & layout.FLAG_INTEGRITY)
                self._content_addressed = bool(self._index.flags & layout.FLAG_CONTENT_ADDRESSED)
                smallfiles = Smallfiles(
                    path, self._index.store_uuid, mapped=options.mapped, integrity=self._integrity
                )
                self._smallfiles: Smallfiles = smallfiles
                if write:
                    self._writer = opening.claim(path, self._index, smallfiles, options)
            except BaseException:
                self._index.close()
                if smallfiles is not None:
                    smallfiles.close()
                raise
        _stores[id(self)] = self
        self._hot = _HotPath(self)
        self._hot.hook_changed()

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
            found = reading.read_revision(self._index, self._smallfiles, name, self._visible(), revision)
        else:
            found = reading.read_current(self._index, self._smallfiles, name)
        return None if found[1] is None else Item(name, found[1], found[0])

    def history(self, key: Key) -> list[tuple[int, bytes | None]]:
        """``(T, value)`` of every revision of ``key`` that is still kept, all of one moment, newest first; the
        value is ``None`` where it is a removal. The list ends in ``(0, None)`` if nothing was ever dropped from it:
        then there was no revision before.
        """
        name = normalise(key)
        self._check_usable()
        return reading.read_history(self._index, self._smallfiles, name)

    def last_updated(self, keys: Iterable[Key]) -> list[int]:
        """For each key the T of the transaction that wrote or removed it last, 0 where none ever did."""
        with self.snapshot() as snapshot:
            return [snapshot.find_time(key) for key in keys]

    def snapshot(self) -> Snapshot:
        """A consistent view of everything that is acknowledged by now."""
        self._check_usable()
        return Snapshot(self._index, self._smallfiles, self._check_usable)

    def __iter__(self) -> Iterator[bytes]:
        with self.snapshot() as snapshot:
            yield from snapshot

    def __len__(self) -> int:
        self._check_usable()
        return self._index.words[layout.H_KEYS_LIVE]

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
            self._index,
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
        findings: list[Finding] = []
        index, smallfiles = self._index, self._smallfiles

        def examine(_: Held | None) -> None:
            findings.extend(check.structure(index))
            if log:
                findings.extend(check.log(index, smallfiles))

        if self._writer is not None:
            self._writer.locked(examine)
        elif not self._examine_between_commits(findings, examine):
            time = index.words[layout.H_INTENT]
            message = (
                f"the commit of T={time} is under way or its writer died; the structure was not checked, because only"
                " a handle that may write can finish it"
            )
            findings.append(Finding("commit.intent_clear", message))
        return findings + check.contents(index, smallfiles, self._visible(), integrity=self._integrity)

    def _examine_between_commits(
        self, findings: list[Finding], examine: Callable[[Held | None], None]
    ) -> bool:
        """Run ``examine`` until no commit came in between; false if that never happened."""
        words = self._index.words
        for attempt in range(_EXAMINATIONS_MAX):
            before = words[layout.H_COMMITTED]
            if not words[layout.H_INTENT]:
                examine(None)
                if words[layout.H_COMMITTED] == before and not words[layout.H_INTENT]:
                    return True
                findings.clear()
            syncpoints.wait("VERIFY", attempt)
        return False

    def stat(self) -> dict[str, Any]:
        """Counters and properties, for people and machines: plain numbers, strings and booleans."""
        self._check_usable()
        index = self._index
        words = index.words
        tails = [words[layout.writer_word(i) + layout.W_TAIL] for i in range(index.writers_max)]
        return {
            "path": str(self.path),
            "format": layout.FORMAT_VERSION,
            "keys": words[layout.H_KEYS_LIVE],
            "transactions": self._visible(),
            "durable": index.durable,
            "integrity": self._integrity,
            "content_addressed": self._content_addressed,
            "index_capacity": index.capacity,
            "index_used": words[layout.H_ENTRIES_USED],
            "index_bytes": index.entries + index.slots * layout.ENTRY_BYTES,
            "writers_max": index.writers_max,
            "smallfiles": sum(1 for tail in tails if tail),
            "smallfile_bytes": sum(tails),
            "intent": words[layout.H_INTENT],
        }

    def close(self) -> None:
        """Close the handle; idempotent. The last writer to close syncs everything and marks the store clean.

        Raises:
            LockTimeoutError, DurabilityError: the clean mark could not be set. The handle is closed all the
                same, its locks are released, and nothing that was acknowledged is lost.
        """
        if self._gone is not None:
            return
        self._gone = lambda: ClosedStoreError(str(self.path))
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                opening.leave(self._index, self._smallfiles, writer)
        finally:
            self._let_go()

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
        raise TypeError("a kvs.Store cannot be pickled: it holds locks. Open it again in the other process")

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
        return self._index.words[self._index.visible_word]

    def _read_many(self, names: Sequence[bytes], snapshot: int) -> list[bytes | None]:
        return reading.read_many(self._index, self._smallfiles, names, snapshot)

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

    def _let_go(self) -> None:
        """Drop maps and descriptors. What another thread is reading stays mapped until it is done."""
        index, smallfiles = self._index, self._smallfiles
        self._install_get(self._refuse)
        del self._index, self._smallfiles
        index.close()
        smallfiles.close()

    def _abandon(self) -> None:
        """In a forked child: nothing of the parent's may be used, synced or unlocked."""
        if self._gone is not None:
            return
        self._gone = lambda: ForkedStoreError(str(self.path))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._let_go()


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
            store._install_get(reading.getter(store._index, store._smallfiles, normalise))


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
        index_capacity: keys that a new store has room for (128 bytes of index each, and slack).

    Raises:
        StoreNotFoundError, UnknownStoreError, CorruptedStoreError, StoreOptionsError, MaximumWritersError,
        LockTimeoutError, StorageFullError, UnsupportedPlatformError: nothing that was there was changed.
        OSError: the file system refuses, e.g. PermissionError.
    """
    if flag not in {"r", "w", "c", "n"}:
        raise StoreOptionsError(f"flag {flag!r}: one of r, w, c, n; nothing was touched")
    if io not in {"mmap", "append"}:
        raise StoreOptionsError(f"io {io!r}: 'mmap' or 'append'; nothing was touched")
    if not 1 <= index_capacity <= 1 << 33:
        raise StoreOptionsError(
            f"index_capacity {index_capacity}: from 1 to {1 << 33} keys; nothing was touched"
        )
    if not lock_timeout_s >= 0:
        raise StoreOptionsError(f"lock_timeout_s {lock_timeout_s}: zero or more seconds; nothing was touched")
    options = opening.Options(
        flag,
        durable,
        integrity,
        content_addressed,
        io == "mmap",
        lock_timeout_s,
        index_capacity,
        layout.WRITERS_MAX,
    )
    return Store(Path(path), options)


__all__ = ["Item", "Snapshot", "Store", "key_for", "open"]
