"""LMDB behind the adapter: py-lmdb, one environment for all sessions of a process.

Keys are LMDB's own; before each value stands the number of the transaction that wrote it. LMDB numbers its write
transactions without a gap and one that is aborted leaves its number to the next, so histories carry the order of
commits and are judged by it.

Nothing is synced. A campaign kills processes, not machines, and the page cache survives a SIGKILL: syncs would cost
time and could not change what a survivor reads. The map is read-only memory (no ``writemap``), so that a stray write of
the process that is tortured cannot be taken for a fault of LMDB.

LMDB must not be opened twice in one process (http://www.lmdb.tech/doc/, "Caveats"): its locks are POSIX record locks,
and closing either one drops them. Sessions therefore share an environment, which is closed with the last of them.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.engines.base import Revision, Value
from harness.engines.simple import SimpleEngine
from harness.errors import ConflictError, EngineDamagedError, EngineMissingError

try:
    import lmdb
except ImportError as error:
    raise EngineMissingError(
        "the engine lmdb needs py-lmdb, which is not installed: python -m pip install 'kvs-torture[peers]'"
    ) from error

if TYPE_CHECKING:
    Environment = lmdb.Environment
    Txn = lmdb.Transaction[bytes]

BUGS: Final = {
    "commit-in-halves": "a transaction of several writes commits after the first of them, and again at its end",
    "read-outside-snapshot": "a snapshot's reads are of whatever is newest when each of them is made",
    "read-before-lock": "a transaction reads before it has the write lock, and does not look again when it has it",
}
"""The bugs that can be planted, with what each of them does wrong."""

MAP_BYTES: Final = 1 << 34
"""Addresses, not memory: the file grows only as far as it is written."""
READERS_MAX: Final = 1024
"""Places in the table of readers. The dead keep theirs until somebody looks, as every ``open`` here does."""
LOCK_FREE_S: Final = 5.0
"""After every process has gone the write lock must be had within this time."""

_FILES: Final = frozenset({"data.mdb", "lock.mdb"})
_NUMBER: Final = struct.Struct("<Q")
_LAST: Final = b"\0"
"""Written by a transaction that changes nothing: LMDB would give its number to the next one, too."""
_DAMAGED: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """LMDB's errors in the adapter's words: a full table of readers is a conflict, a broken file is damage."""
    try:
        yield
    except _DAMAGED as error:
        raise EngineDamagedError(f"LMDB: {error}") from error
    except lmdb.ReadersFullError as error:
        raise ConflictError(f"LMDB: {error}") from error


class _Shared:
    """The environment of one directory in one process, and how many sessions it serves."""

    def __init__(self, directory: Path) -> None:
        self.environment: Environment = lmdb.open(
            str(directory),
            create=False,
            map_size=MAP_BYTES,
            max_readers=READERS_MAX,
            sync=False,
            metasync=False,
        )
        self.session_count = 0
        self.is_writing = False


_open: Final[dict[tuple[int, Path], _Shared]] = {}
"""By process and directory: what a parent had open is of no use in its child, and is not touched there."""


def _take(directory: Path) -> _Shared:
    key = os.getpid(), directory.resolve()
    with _translated():
        shared = _open.get(key) or _Shared(key[1])
        shared.environment.reader_check()
    _open[key] = shared
    shared.session_count += 1
    return shared


def _give_back(directory: Path) -> None:
    key = os.getpid(), directory.resolve()
    shared = _open[key]
    shared.session_count -= 1
    if not shared.session_count:
        del _open[key]
        shared.environment.close()


class LmdbSnapshot:
    """A read transaction: its view is fixed when it begins."""

    def __init__(self, environment: Environment, *, fixed: bool) -> None:
        self._environment = environment
        self._fixed = fixed
        with _translated():
            self._txn: Txn | None = environment.begin()
        self.sequence: int | None = self._txn.id()

    def get(self, key: bytes) -> Value | None:
        """The value in this view, or ``None``."""
        with self._reading() as txn:
            return _value(txn.get(key))

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in this view, in the order of ``keys``."""
        with self._reading() as txn, txn.cursor() as cursor:
            found = dict(cursor.getmulti(keys))
        return [found[key][_NUMBER.size :] if key in found else None for key in keys]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Txn]:
        assert self._txn is not None, "the snapshot is closed"
        with _translated():
            if self._fixed:
                yield self._txn
            else:
                with self._environment.begin() as txn:
                    yield txn

    def close(self) -> None:
        """Let go of the view; harmless when repeated."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None


class LmdbTransaction:
    """A write transaction: there is one at a time, so what is read cannot change before the commit.

    Another process waits for it, however long. A second one in the same process would wait for itself: it is refused.
    """

    def __init__(self, shared: _Shared, bug: str) -> None:
        if shared.is_writing:
            raise ConflictError("LMDB: this process has a write transaction open already")
        self._shared = shared
        self._bug = bug
        self._has_changed = False
        self._stale: Txn | None = None
        self._txn: Txn | None = None
        with _translated():
            if bug == "read-before-lock":
                self._stale = shared.environment.begin()
            else:
                self._begin()

    def _begin(self) -> Txn:
        self._txn = self._shared.environment.begin(write=True)
        self._shared.is_writing = True
        return self._txn

    def _writing(self) -> Txn:
        """The write transaction, begun by now."""
        if self._txn is None:
            assert self._stale is not None, "the transaction has ended"
            return self._begin()
        return self._txn

    def get(self, key: bytes) -> Value | None:
        """The value as this transaction sees it."""
        with _translated():
            return _value((self._stale or self._writing()).get(key))

    def put(self, key: bytes, value: bytes) -> None:
        """Write at commit."""
        self.put_many(((key, value),))

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Write all ``pairs`` at commit."""
        with _translated():
            if self._has_changed and self._bug == "commit-in-halves":
                self._writing().commit()
                self._begin()
            txn = self._writing()
            number = _NUMBER.pack(txn.id())
            with txn.cursor() as cursor:
                cursor.putmulti([(key, number + value) for key, value in pairs])
        self._has_changed = self._has_changed or bool(pairs)

    def delete(self, key: bytes) -> None:
        """Remove at commit."""
        with _translated():
            self._has_changed |= self._writing().delete(key)

    def commit(self) -> int | None:
        """Make it so; the number of the transaction is its place in the order of commits."""
        with _translated():
            txn = self._writing()
            number = txn.id()
            if not self._has_changed:
                txn.put(_LAST, _NUMBER.pack(number))
            try:
                txn.commit()
            finally:
                self.abort()
        return number

    def abort(self) -> None:
        """Leave no effect. Harmless after ``commit``."""
        for txn in (self._txn, self._stale):
            if txn is not None:
                txn.abort()
        if self._txn is not None:
            self._shared.is_writing = False
        self._txn = self._stale = None


class LmdbSession:
    """One user of the process's environment. It closes what was left open in it, and nobody else's."""

    def __init__(self, directory: Path, *, readonly: bool, bug: str = "") -> None:
        self.bug = bug
        self._directory = directory
        self._readonly = readonly
        self._shared: _Shared | None = _take(directory)
        self._newest: LmdbTransaction | None = None

    def _used(self) -> _Shared:
        assert self._shared is not None, "the session is closed"
        return self._shared

    def transaction(self) -> LmdbTransaction:
        """Begin; waits for the write transaction of another process."""
        if self._readonly:
            raise lmdb.ReadonlyError("the session was opened for reading")
        self._newest = LmdbTransaction(self._used(), self.bug)
        return self._newest

    def snapshot(self) -> LmdbSnapshot:
        """A consistent view of now."""
        return LmdbSnapshot(self._used().environment, fixed=self.bug != "read-outside-snapshot")

    def get(self, key: bytes) -> Value | None:
        """One current value."""
        with _translated(), self._used().environment.begin() as txn:
            return _value(txn.get(key))

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        """One transaction of blind writes."""
        transaction = self.transaction()
        try:
            transaction.put_many(pairs)
            return transaction.commit()
        finally:
            transaction.abort()

    def settle(self) -> None:
        """Take the write lock once. A writer that died after its commit was in the file and before the others were told
        is seen by nobody; whoever takes the lock after the dead tells the others (``mdb_mutex_failed`` in mdb.c).
        """
        self.transaction().abort()

    def revisions(self, key: bytes) -> list[Revision]:
        """The current version: LMDB keeps no other."""
        value = self.get(key)
        return [Revision(None, None) if value is None else Revision(*value)]

    def keys(self) -> set[bytes]:
        """Every key that is present now."""
        with _translated(), self._used().environment.begin() as txn, txn.cursor() as cursor:
            return set(cursor.iternext(values=False)) - {_LAST}

    def verify(self, *, thorough: bool) -> list[str]:
        """Every key and value in one view: in order, as many as LMDB counts, none from the future. Thorough: besides, a
        compacting copy to nowhere, for which LMDB itself visits every page and says if one leaked.
        """
        environment = self._used().environment
        try:
            with _translated(), environment.begin() as txn:
                findings = _walk(txn)
            if thorough:
                self._copy_to_nowhere()
        except (EngineDamagedError, lmdb.Error) as error:
            return [str(error)]
        return findings

    def _copy_to_nowhere(self) -> None:
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._used().environment.copyfd(fd, compact=True)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Abort a transaction that is open and let go of the environment; harmless when repeated."""
        if self._shared is not None:
            if self._newest is not None:
                self._newest.abort()
            self._shared = None
            _give_back(self._directory)


class LmdbEngine(SimpleEngine):
    """LMDB has no sync points of ours: it is killed and stopped at random times only."""

    name = "lmdb"
    dense = True
    stall_s: float | None = 10.0
    """LMDB promises no bound. The lock of a dead writer passes on at once, but to anybody who waits: four writers on
    two cores were seen without a commit for half a second."""

    known_bugs = BUGS

    def create(self, directory: Path, keys: int) -> None:  # noqa: ARG002 - LMDB grows by itself
        """Make the two files of an empty environment."""
        with _translated():
            lmdb.open(str(directory), map_size=MAP_BYTES, max_readers=READERS_MAX, sync=False).close()

    def open(self, directory: Path, *, readonly: bool = False) -> LmdbSession:
        """Open the environment, or share this process's; the places of dead readers are freed.

        A session for reading refuses to write by itself, since it may share an environment with one that writes.
        """
        return LmdbSession(directory, readonly=readonly, bug=self.bug)

    def left_behind(self, directory: Path) -> list[str]:
        """Files that are not LMDB's, readers that are alive, and whether the write lock can be had."""
        left = [
            f"{path.name} is still there, and is none of LMDB's files"
            for path in sorted(directory.iterdir())
            if path.name not in _FILES
        ]
        environment = _take(directory).environment
        for pid in _readers(environment) - {os.getpid()}:
            left.append(f"process {pid} is alive and has a place among the readers")
        if _lock_is_free(environment):
            _give_back(directory)
        else:  # somebody in this process waits for the lock still: the environment cannot be closed
            left.append(f"the write lock was not to be had within {LOCK_FREE_S:.0f} s")
        return left

    def versions(self) -> dict[str, str]:
        """The library's version and that of its binding."""
        return {"lmdb": ".".join(map(str, lmdb.version())), "py-lmdb": lmdb.__version__}


def _value(found: bytes | None) -> Value | None:
    if found is None:
        return None
    return Value(found[_NUMBER.size :], _NUMBER.unpack_from(found)[0])


def _walk(txn: Txn) -> list[str]:
    """What is wrong with the keys and values that a view shows, in words."""
    count, before, newest = 0, b"", txn.id()
    with txn.cursor() as cursor:
        for key, found in cursor:
            if key <= before:
                return [f"key {key.hex()} comes after {before.hex()}"]
            if len(found) < _NUMBER.size:
                return [
                    f"the value of {key.hex()} has {len(found)} bytes, too few for a transaction's number"
                ]
            if _NUMBER.unpack_from(found)[0] > newest:
                return [f"the value of {key.hex()} is of a transaction after {newest}, the newest"]
            count, before = count + 1, key
    entries = txn.stat()["entries"]
    return [] if count == entries else [f"{count} keys were found where LMDB counts {entries}"]


def _readers(environment: Environment) -> set[int]:
    """The processes that have a place in the table of readers."""
    words = [line.split() for line in environment.readers().splitlines()]
    return {int(line[0]) for line in words if line and line[0].isdigit()}


def _lock_is_free(environment: Environment) -> bool:
    """Whether the write lock is had in time. A thread asks: LMDB waits without a limit and cannot be interrupted."""

    def ask() -> None:
        environment.begin(write=True).abort()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(LOCK_FREE_S)
    return not asking.is_alive()
