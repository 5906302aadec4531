"""kvs behind the adapter: every call maps to one of the store's own.

The store is durable, so that the syncs and their sync points are part of what is tortured; on memory-backed
storage they cost nothing. Handles alternate between ``io="mmap"`` and ``io="append"`` with the process id,
so that one store serves both at once; some compact by themselves. The index begins with room for a few keys, and
smallfiles are short, so that growth, rollovers and compaction never end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import kvs
from harness.engines.base import Hook, InDoubtError, Revision, Session, Tear, Value
from harness.errors import ConflictError, EngineDamagedError
from kvs import files, generations, layout, locks, opening, syncpoints
from kvs.smallfile import Smallfiles

_REQUIRED: Final = (
    *("prepare.", "commit.", "record.", "publish.", "repair.", "durable.", "laggard."),
    *("smallfile.", "grow.", "compact.", "rebuild."),
)
_INDEX_CAPACITY: Final = 64
_SMALLFILE_BYTES: Final = 1 << 20
_COMPACT_AT: Final = 0.5
_COMPACTING_ONE_OF: Final = 5
"""So many of the handles, by the process id, compact by themselves."""
_IMPATIENT_S: Final = 0.05
"""How long a housekeeper waits now and then for another one, or for COMMIT, before it is refused."""
_IMPATIENT_EVERY: Final = 3
_SLOW: Final = ("compact.", "grow.", "rebuild.")


def _tear(store: Callable[[Any, Any, int], None], position: Any, data: Any) -> Tear:
    """A write that a sync point carries (``kvs.syncpoints``) as one that can be applied in part."""

    def tear(part: float) -> None:
        total = sum(map(len, data)) if isinstance(data, list) else len(position)
        store(position, data, int(part * total))

    return tear


class _Translated:
    """A ``with`` block in which the store's errors become the adapter protocol's. A generator would cost more than
    many a call that it surrounds.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, kvs.SnapshotTooOldError | kvs.TransactionAbortedError):
            raise ConflictError(str(error)) from error
        if isinstance(error, kvs.LockTimeoutError):
            in_doubt = error.committed is not None
            raise (InDoubtError if in_doubt else ConflictError)(str(error)) from error
        if isinstance(error, kvs.DurabilityError):
            raise InDoubtError(str(error)) from error
        if isinstance(error, kvs.CorruptedStoreError):
            raise EngineDamagedError(str(error)) from error


_translated: Final = _Translated()


class KvsSnapshot:
    """A kvs.Snapshot."""

    def __init__(self, store: kvs.Store) -> None:
        self._snapshot = store.snapshot()
        self.sequence: int | None = self._snapshot.transaction_counter

    def get(self, key: bytes) -> Value | None:
        """See the protocol. A revision that was overwritten meanwhile is a conflict."""
        with _translated:
            item = self._snapshot.find(key)
        return None if item is None else Value(item.value, item.transaction_counter)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See the protocol."""
        with _translated:
            return self._snapshot.get_many(keys)

    def close(self) -> None:
        """See the protocol."""
        self._snapshot.close()


class KvsTransaction:
    """A serializable kvs.Transaction."""

    def __init__(self, store: kvs.Store) -> None:
        self._txn = store.transaction()

    def get(self, key: bytes) -> Value | None:
        """See the protocol."""
        with _translated:
            time, data = self._txn.fetch_item(key)
        return None if data is None else Value(data, time)

    def put(self, key: bytes, value: bytes) -> None:
        """See the protocol."""
        self._txn.update_unsafe(key, value)

    def delete(self, key: bytes) -> None:
        """See the protocol."""
        self._txn.remove_unsafe(key)

    def commit(self) -> int | None:
        """See the protocol."""
        with _translated:
            return self._txn.commit()

    def abort(self) -> None:
        """See the protocol."""
        self._txn.abort()


class KvsSession:
    """One handle of a kvs store."""

    def __init__(
        self,
        directory: Path,
        *,
        readonly: bool,
        io: str = "",
        lock_timeout_s: float = 30.0,
        smallfile_bytes: int = layout.SMALLFILE_BYTES,
        compact_at: float | None = None,
    ) -> None:
        self.directory = directory
        self._flat = False
        self._rounds = 0
        io = io or ("append" if os.getpid() % 2 else "mmap")
        with _translated:
            self._store = kvs.open(
                directory,
                "r" if readonly else "w",
                io=io,
                lock_timeout_s=lock_timeout_s,
                smallfile_bytes=smallfile_bytes,
                compact_at=compact_at,
            )

    def transaction(self) -> KvsTransaction:
        """See the protocol."""
        return KvsTransaction(self._store)

    def snapshot(self) -> KvsSnapshot:
        """See the protocol."""
        return KvsSnapshot(self._store)

    def get(self, key: bytes) -> Value | None:
        """See the protocol. In turn by ``get``, the flat path, which does not tell the T, and by ``find``."""
        self._flat = not self._flat
        with _translated:
            if self._flat:
                data = self._store.get(key)
                return None if data is None else Value(data, None)
            item = self._store.find(key)
        return None if item is None else Value(item.value, item.transaction_counter)

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        """See the protocol."""
        with _translated:
            return self._store.put_many(pairs)

    def settle(self) -> None:
        """See the protocol: opening took COMMIT, and whoever takes it finishes or discards what the dead left. What
        they committed is visible as soon as it is on the medium, and so is everything before it.
        """
        writer, view = self._store._writer, self._store._view
        assert writer is not None, "the session is read-only"
        with _translated:
            while not (committed := view.current().words[layout.H_COMMITTED]) and view.visible():
                pass  # the index was replaced in between
            writer.await_durable(committed)

    def revisions(self, key: bytes) -> list[Revision]:
        """See the protocol: the newest four."""
        with _translated:
            return [Revision(value, time) for time, value in self._store.history(key)]

    def keys(self) -> set[bytes]:
        """See the protocol."""
        with _translated:
            return set(self._store)

    def verify(self, *, thorough: bool) -> list[str]:
        """See the protocol. Only the thorough check reads every smallfile: it holds COMMIT meanwhile."""
        try:
            findings = self._store.verify(log=thorough)
            return [f"{finding.invariant}: {finding.message}" for finding in findings]
        except kvs.CorruptedStoreError as error:
            return [f"damaged: {error}"]

    def compact(self, dead_min: float) -> int:
        """One pass, now and then by a handle that is soon refused; returns the bytes of the index and of the records
        that are kept.
        """
        self._rounds += 1
        with _translated:
            if self._rounds % _IMPATIENT_EVERY:
                self._store.compact(min_dead=dead_min)
            else:
                with kvs.open(self.directory, "w", lock_timeout_s=_IMPATIENT_S) as store:
                    store.compact(min_dead=dead_min)
            stat = self._store.stat()
        return int(stat["live_bytes"] + stat["index_bytes"])

    def close(self) -> None:
        """See the protocol."""
        with _translated:
            self._store.close()


class KvsEngine:
    """kvs."""

    name = "kvs"
    stall_s: float | None = None
    dense = True
    feeders: Mapping[str, Sequence[str]] = {
        "repair.before_discard": ("commit.after_intent", "record.before_append"),
        "repair.after_discard": ("commit.after_intent", "record.before_append"),
        "repair.before_redo": ("record.after_append", "publish.after_busy", "commit.before_visible"),
        "repair.after_redo": ("record.after_append", "publish.after_busy", "commit.before_visible"),
        "laggard.after_lock": ("durable.after_mark", "durable.before_sync"),
        "laggard.after_sync": ("durable.after_mark", "durable.before_sync"),
        "laggard.after_clear": ("durable.after_mark", "durable.before_sync"),
    }
    lossy_points = frozenset(name for name in syncpoints.POINTS if name.startswith("rebuild."))
    milestones: Mapping[str, str] = {
        "claims": "claim.after_owner",
        "rollovers": "smallfile.after_seal",
        "growths": "grow.after_next",
        "compactions": "compact.after_floor",
        "full compactions": "compact.after_swept",
        "rebuilds": "rebuild.after_publish",
    }

    slow_points = frozenset(name for name in syncpoints.POINTS if name.startswith(_SLOW))

    def points(self) -> Mapping[str, str]:
        """See the protocol."""
        return syncpoints.POINTS

    def required_points(self) -> frozenset[str]:
        """Every point of commit, repair, growth, compaction and rebuilding."""
        return frozenset(name for name in syncpoints.POINTS if name.startswith(_REQUIRED))

    def install_hook(self, hook: Hook | None) -> None:
        """See the protocol."""
        if hook is None:
            syncpoints.install(None)
        else:
            syncpoints.install(
                lambda name, write=None: hook(name) if write is None else hook(name, _tear(*write))
            )

    def bugs(self) -> Sequence[str]:
        """See the protocol."""
        from harness import planted  # the list of bugs imports the store, and nothing else needs it

        return tuple(planted.BUGS)

    def plant(self, bug: str) -> None:
        """See the protocol."""
        from harness import planted

        if bug not in planted.BUGS:
            raise ValueError(
                f"no bug called {bug!r} can be planted in kvs; there are {', '.join(planted.BUGS)}"
            )
        planted.BUGS[bug].plant()

    def create(self, directory: Path, keys: int) -> None:  # noqa: ARG002 - the index is to grow
        """See the protocol."""
        kvs.open(directory, "n", durable=True, index_capacity=_INDEX_CAPACITY).close()

    def open(self, directory: Path, *, readonly: bool = False) -> KvsSession:
        """See the protocol."""
        compact_at = _COMPACT_AT if os.getpid() % _COMPACTING_ONE_OF == 0 else None
        return KvsSession(
            directory, readonly=readonly, smallfile_bytes=_SMALLFILE_BYTES, compact_at=compact_at
        )

    def housekeep(self, session: Session, dead_min: float) -> int:
        """See the protocol."""
        assert isinstance(session, KvsSession)
        return session.compact(dead_min)

    def lose_index(self, directory: Path) -> None:
        """See the protocol: whatever generations there are, whole or half made."""
        for path in directory.glob("index.*"):
            path.unlink()

    def left_behind(self, directory: Path) -> list[str]:
        """See the protocol: ranges that are still locked, work that nobody finished, files that nobody needs."""
        with kvs.open(directory, "r") as store:
            stat = store.stat()
        left = [f"the intent of transaction {stat['intent']} stands"] if stat["intent"] else []
        left += [f"transaction {time} is not synced yet" for time in stat["lagging"]]
        fd = files.open_file(directory / opening.RANGES, write=True)
        try:
            places = range(stat["writers_max"])
            asked = [locks.COMPACT, locks.COMMIT, locks.DURABLE]
            asked += [*map(locks.writer_range, places), *map(locks.sync_range, places)]
            left += [f"{lock.name} is still held" for lock in asked if locks.range_is_held(fd, lock)]
            left += [f"transaction {time} is still pinned" for time in locks.pins(fd)]
        finally:
            files.close(fd)
        return left + _debris(directory, stat["generation"])

    def versions(self) -> dict[str, str]:
        """See the protocol."""
        names = ("kvs-torture", "numpy", "xxhash", "portalocker")
        return {name: metadata.version(name) for name in names}


def _debris(directory: Path, generation: int) -> list[str]:
    """Files of growths that died, and smallfiles of compactions that died before they published anything in them."""
    index = generations.locate(directory, write=False)
    try:
        smallfiles = Smallfiles(directory, index.store_uuid, index.traits, mapped=False)
        try:
            stride, published = index.writers_max + 1, generations.published(index, smallfiles)
            outputs = [file_id for file_id in smallfiles.ids() if file_id % stride == index.writers_max]
            left = [smallfiles.path(file_id).name for file_id in outputs if file_id not in published]
        finally:
            smallfiles.close()
    finally:
        index.close()
    current = layout.index_name(generation)
    left += sorted(path.name for path in directory.glob("index.*") if path.name != current)
    return [f"{name} is still there, and nobody needs it" for name in left]
