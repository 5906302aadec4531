"""SQLite behind the adapter: the standard library's ``sqlite3``, in WAL mode.

It is used as everybody uses it: one table holds the keys, and nothing tells in which order transactions committed.
What the histories must obey is therefore inferred from what was read (``harness.checkers.inferred``).

``synchronous`` is OFF. A campaign kills processes, not machines, and the page cache survives a SIGKILL:
syncs would cost time and could not change what a survivor reads
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from harness.engines.base import Revision, Value
from harness.engines.simple import SimpleEngine
from harness.errors import ConflictError, EngineDamagedError

BUGS: Final = {
    "commit-in-halves": "a transaction of several writes commits after the first of them, and again at its end",
    "read-outside-snapshot": "a snapshot's reads are of whatever is newest when each of them is made",
}
"""The bugs that can be planted, with what each of them does wrong."""

BUSY_TIMEOUT_S: Final = 2.0
"""How long one transaction waits for the write lock before it is refused."""

_FILE_NAME: Final = "store.sqlite"
_SELECT_MANY: Final = 1000
"""Keys per SELECT; the oldest limit on host parameters is 999 + 1, and more gained nothing."""

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY_CODE: Final = 0xFF
"""The low byte of an extended result code is its primary code (https://sqlite.org/rescode.html)."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors in the adapter's words: busy is a conflict, a broken file is damage."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code in _BUSY:
            raise ConflictError(f"SQLite: {error}") from error
        if code in _DAMAGED:
            raise EngineDamagedError(f"SQLite: {error}") from error
        raise


def _connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    mode = "ro" if readonly else "rw"
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    connection.execute("PRAGMA synchronous = OFF")
    return connection


class SqliteSnapshot:
    """A deferred transaction whose first read, of no key, fixes the view."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session
        self.sequence: int | None = None
        self._connection: sqlite3.Connection | None = session.take()
        if session.bug == "read-outside-snapshot":
            return
        with _translated(), session.giving_back_on_error(self._connection):
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT settled FROM meta").fetchone()

    def get(self, key: bytes) -> Value | None:
        """The value in this view, or ``None``."""
        assert self._connection is not None, "the snapshot is closed"
        with _translated():
            return _get(self._connection, key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in this view, in the order of ``keys``."""
        assert self._connection is not None, "the snapshot is closed"
        found: dict[bytes, bytes] = {}
        with _translated():
            for start in range(0, len(keys), _SELECT_MANY):
                chunk = keys[start : start + _SELECT_MANY]
                marks = ",".join("?" * len(chunk))
                sql = f"SELECT key, value FROM kv WHERE key IN ({marks})"  # noqa: S608 - only question marks
                found.update(self._connection.execute(sql, chunk))
        return [found.get(key) for key in keys]

    def close(self) -> None:
        """Let go of the view; harmless when repeated."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._session.give_back(connection)


class SqliteTransaction:
    """BEGIN IMMEDIATE takes the write lock at once, so what is read cannot change before the commit."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session
        self._connection: sqlite3.Connection | None = session.take()
        with _translated(), session.giving_back_on_error(self._connection):
            self._connection.execute("BEGIN IMMEDIATE")
        self._has_written = False

    def get(self, key: bytes) -> Value | None:
        """The value as this transaction sees it."""
        assert self._connection is not None, "the transaction has ended"
        with _translated():
            return _get(self._connection, key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write at commit."""
        self.put_many(((key, value),))

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Write all ``pairs`` at commit."""
        assert self._connection is not None, "the transaction has ended"
        with _translated():
            if self._has_written and self._session.bug == "commit-in-halves":
                self._connection.execute("COMMIT")
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", pairs)
        self._has_written = True

    def delete(self, key: bytes) -> None:
        """Remove at commit."""
        assert self._connection is not None, "the transaction has ended"
        with _translated():
            self._connection.execute("DELETE FROM kv WHERE key = ?", (key,))

    def commit(self) -> None:
        """Make it so. SQLite does not tell where in the order of commits it stands."""
        assert self._connection is not None, "the transaction has ended"
        connection, self._connection = self._connection, None
        try:
            with _translated():
                connection.execute("COMMIT")
        finally:
            self._session.give_back(connection)

    def abort(self) -> None:
        """Leave no effect. Harmless after ``commit``."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._session.give_back(connection)


class SqliteSession:
    """Connections to one file: one is enough until a snapshot and a transaction are open together."""

    def __init__(self, path: Path, *, readonly: bool, bug: str = "") -> None:
        self.bug = bug
        self._path = path
        self._readonly = readonly
        self._all: list[sqlite3.Connection] = []
        self._idle: list[sqlite3.Connection] = []
        with _translated():
            self.give_back(self.take())

    def take(self) -> sqlite3.Connection:
        """A connection with no transaction open, for the caller alone until it is given back."""
        if self._idle:
            return self._idle.pop()
        connection = _connect(self._path, readonly=self._readonly)
        self._all.append(connection)
        return connection

    def give_back(self, connection: sqlite3.Connection) -> None:
        """End whatever transaction is still open in ``connection``, with no effect, and keep it for later."""
        with _translated():
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self._idle.append(connection)

    @contextlib.contextmanager
    def giving_back_on_error(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Give ``connection`` back if the block raises."""
        try:
            yield
        except BaseException:
            self.give_back(connection)
            raise

    def transaction(self) -> SqliteTransaction:
        """Begin; raises ``ConflictError`` if the write lock stays taken for ``BUSY_TIMEOUT_S``."""
        return SqliteTransaction(self)

    def snapshot(self) -> SqliteSnapshot:
        """A consistent view of now."""
        return SqliteSnapshot(self)

    def get(self, key: bytes) -> Value | None:
        """One current value; a statement outside a transaction reads the newest commit."""
        connection = self.take()
        try:
            with _translated():
                return _get(connection, key)
        finally:
            self.give_back(connection)

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        """One transaction of blind writes."""
        transaction = self.transaction()
        try:
            transaction.put_many(pairs)
            transaction.commit()
        finally:
            transaction.abort()
        return None

    def settle(self) -> None:
        """Commit something. A writer that died after its last frame reached the log and before the log's index
        says so is invisible, but would come back if everybody died and the log was recovered; the frames of
        the next commit overwrite its own (https://sqlite.org/walformat.html).
        """
        connection = self.take()
        try:
            with _translated():
                connection.execute("UPDATE meta SET settled = settled + 1")
        finally:
            self.give_back(connection)

    def revisions(self, key: bytes) -> list[Revision]:
        """The current version: SQLite keeps no other. A killed commit that was overwritten before its successor
        looked is resolved only if somebody else had seen it.
        """
        value = self.get(key)
        return [Revision(None, None) if value is None else Revision(*value)]

    def keys(self) -> set[bytes]:
        """Every key that is present now."""
        connection = self.take()
        try:
            with _translated():
                return {row[0] for row in connection.execute("SELECT key FROM kv")}
        finally:
            self.give_back(connection)

    def verify(self, *, thorough: bool) -> list[str]:
        """PRAGMA integrity_check: every page, every index, in one read transaction; beside live writers the
        quick_check, which leaves out whether indexes and tables agree.
        """
        connection = self.take()
        try:
            pragma = "PRAGMA integrity_check" if thorough else "PRAGMA quick_check"
            with _translated():
                lines = [str(row[0]) for row in connection.execute(pragma)]
        except EngineDamagedError as error:
            return [str(error)]
        finally:
            self.give_back(connection)
        return [] if lines == ["ok"] else lines

    def close(self) -> None:
        """Close every connection; the last process to do so checkpoints and removes the log."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._idle.clear()


class SqliteEngine(SimpleEngine):
    """SQLite has no sync points of ours: it is killed and stopped at random times only."""

    name = "sqlite"
    dense = False
    stall_s: float | None = 10.0
    """SQLite promises no bound; its busy handler sleeps in steps of up to 100 ms and is not fair, so that
    four writers were seen waiting for more than a second on two cores."""

    known_bugs = BUGS

    def create(self, directory: Path, keys: int) -> None:  # noqa: ARG002 - SQLite grows by itself
        """Make the two tables; the journal mode is kept in the file."""
        with _translated(), contextlib.closing(sqlite3.connect(directory / _FILE_NAME)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            with connection:
                connection.execute(
                    "CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
                )
                connection.execute("CREATE TABLE meta (settled INTEGER NOT NULL)")
                connection.execute("INSERT INTO meta VALUES (0)")

    def open(self, directory: Path, *, readonly: bool = False) -> SqliteSession:
        """Open the file; a log that dead processes left behind is recovered by the first read."""
        return SqliteSession(directory / _FILE_NAME, readonly=readonly, bug=self.bug)

    def left_behind(self, directory: Path) -> list[str]:
        """Whether the write lock can be had at once."""
        with contextlib.closing(sqlite3.connect(directory / _FILE_NAME, timeout=0)) as connection:
            try:
                with _translated():
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            except ConflictError as error:
                return [f"the write lock is still held: {error}"]
        return []

    def versions(self) -> dict[str, str]:
        """The library's version; before 3.51.3 it has a rare race when the log is reset."""
        return {"sqlite": sqlite3.sqlite_version}


def _get(connection: sqlite3.Connection, key: bytes) -> Value | None:
    row = connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()
    return None if row is None else Value(row[0], None)
