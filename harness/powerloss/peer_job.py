"""SQLite or LMDB at work, unmodified, as a program of its own: transactions that say what they are.

``python -m harness.powerloss.peer_job ENGINE OPTIONS DIRECTORY MARKS SEED COUNT`` opens a database that ``prepare``
made, commits ``COUNT`` transactions after the prepared ones, and says in the file ``MARKS`` when each is begun and
told; ``OPTIONS`` is a JSON object. A transaction that fails is rolled back and said to have failed, and the next one
follows on the same database, opened again only where it refuses everything else.

``python -m harness.powerloss.peer_job recover`` recovers databases: a directory per line of its input, an answer per
line of its output, each in a process of its own, because a broken LMDB file can kill whoever reads it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

Options = Mapping[str, str | int | bool]
Writes = tuple[tuple[bytes, bytes | None], ...]

PREPARED: Final = 3
"""Transactions that ``prepare`` makes; the job's first one has this number."""
IGNORED: Final = frozenset({"db-shm", "lock.mdb"})
"""Files that are made anew after a reboot: SQLite's index of the WAL, LMDB's table of readers."""
RECOVERY_S: Final = 20
"""A recovery that takes longer hangs."""

JOB_S = 30
"""A job that takes longer hangs, and is killed: where every call fails, an engine may try for ever."""

_KEYS: Final = tuple(b"key %d" % number for number in range(8))
_SIZES: Final = (12, 12, 300, 2000, 9000)
"""Bytes of values: some go into one page with others, some need pages of their own."""
_NEW: Final = b"a new writer's"
_LMDB_BYTES: Final = 1 << 22
_CACHE_PAGES: Final = 10
"""Of SQLite: so few that large transactions write some of their pages before they commit."""


def writes_of(seed: int, number: int) -> Writes:
    """What transaction ``number`` writes: a few keys, values that name it, and some removals."""
    drawn = random.Random(f"{seed} {number}")
    chosen = list(_KEYS) if number == 0 else drawn.sample(_KEYS, drawn.randint(1, 3))
    found: list[tuple[bytes, bytes | None]] = []
    for place, key in enumerate(chosen):
        value = b"%d %s " % (number, key)
        value += bytes([97 + number % 26]) * (drawn.choice(_SIZES) - len(value))
        found.append((key, None if place and number and drawn.random() < 0.4 else value))
    return tuple(found)


class Database(Protocol):
    """What is done to a database, of either engine."""

    def commit(self, writes: Writes) -> None:
        """One transaction. Raises what the engine raises, and has had no effect then as far as the engine knows."""

    def read(self) -> dict[bytes, bytes]:
        """Every key and its value."""

    def complaints(self) -> list[str]:
        """What the engine's own check finds."""

    def close(self) -> None:
        """Let go of it."""


class _Sqlite:
    def __init__(self, directory: Path, options: Options) -> None:
        self._connection = sqlite3.connect(directory / "db", timeout=0.0, isolation_level=None)
        try:
            self._connection.execute(f"PRAGMA cache_size = {_CACHE_PAGES}")
            self._connection.execute(f"PRAGMA synchronous = {options['synchronous']}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {options.get('checkpoint', 1000)}")
        except BaseException:
            self._connection.close()
            raise

    def create(self, options: Options) -> None:
        self._connection.execute(f"PRAGMA journal_mode = {options['journal']}")
        self._connection.execute("CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL)")

    def commit(self, writes: Writes) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for key, value in writes:
                if value is None:
                    self._connection.execute("DELETE FROM pairs WHERE key = ?", (key,))
                else:
                    self._connection.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key, value))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def read(self) -> dict[bytes, bytes]:
        return dict(self._connection.execute("SELECT key, value FROM pairs"))

    def complaints(self) -> list[str]:
        found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check(5)")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        self._connection.close()


class _Lmdb:
    def __init__(self, directory: Path, options: Options) -> None:
        import lmdb

        flags = {name: bool(options[name]) for name in ("sync", "metasync") if name in options}
        self._environment: Any = lmdb.open(str(directory), map_size=_LMDB_BYTES, **flags)

    def commit(self, writes: Writes) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, value in writes:
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)

    def read(self) -> dict[bytes, bytes]:
        with self._environment.begin() as transaction:
            return dict(transaction.cursor())

    def complaints(self) -> list[str]:
        return []

    def close(self) -> None:
        self._environment.close()


_ENGINES: Final[dict[str, type[_Sqlite] | type[_Lmdb]]] = {"sqlite": _Sqlite, "lmdb": _Lmdb}


def open_database(engine: str, options: Options, directory: Path) -> Database:
    """A database that is there, or a new one."""
    return _ENGINES[engine](directory, options)


def errors_of(engine: str) -> tuple[type[Exception], ...]:
    """What an engine raises when something is wrong with its files."""
    if engine == "sqlite":
        return (sqlite3.Error,)
    import lmdb

    return (lmdb.Error,)


def prepare(engine: str, options: Options, directory: Path, seed: int) -> list[Writes]:
    """Make a database in an empty directory, of ``PREPARED`` transactions, which are returned; it is closed again."""
    done = [writes_of(seed, number) for number in range(PREPARED)]
    with closing(open_database(engine, options, directory)) as database:
        if isinstance(database, _Sqlite):
            database.create(options)
        for writes in done:
            database.commit(writes)
    for name in IGNORED:
        (directory / name).unlink(missing_ok=True)
    return done


def work(engine: str, options: Options, directory: Path, marks: Path, seed: int, count: int) -> None:
    """Commit transactions, and say so."""
    signal.alarm(JOB_S)
    errors = errors_of(engine)
    said = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    database: Database | None = None
    for number in range(PREPARED, PREPARED + count):
        os.write(said, b"begin %d\n" % number)
        try:
            database = database or open_database(engine, options, directory)
            database.commit(writes_of(seed, number))
        except errors:
            os.write(said, b"failed %d\n" % number)
            database = _still_usable(database, errors)
        else:
            os.write(said, b"told %d\n" % number)
    if database is not None:
        with _ignoring(errors):
            database.close()
    os.close(said)


def _still_usable(database: Database | None, errors: tuple[type[Exception], ...]) -> Database | None:
    """The database after a failure, or ``None`` where it is no use any more: whoever cannot read must open it anew."""
    if database is not None:
        try:
            database.read()
        except errors:
            with _ignoring(errors):
                database.close()
            return None
    return database


@contextmanager
def _ignoring(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors:
        pass


class Recovered(msgspec.Struct, frozen=True):
    """What a database was after it was opened again. ``broken``: it could not be opened, read or written, and why."""

    state: dict[bytes, bytes] = {}
    broken: str = ""


def recover_here(engine: str, options: Options, directory: Path) -> Recovered:
    """Open a database, check it, read it all, and commit one more transaction. A broken one may kill this process."""
    harmless: Options = {
        "synchronous": "OFF",
        "sync": False,
    }  # recovery is not cut: what it syncs makes no difference
    try:
        with closing(open_database(engine, {**options, **harmless}, directory)) as database:
            found = database.complaints()
            state = database.read()
            if any(type(each) is not bytes for pair in state.items() for each in pair):
                return Recovered(broken="it shows something that is not bytes, which nobody wrote")
            if not found:
                database.commit(((_NEW, _NEW),))
                if database.read() != {**state, _NEW: _NEW}:
                    found = ["it took a new transaction, and does not show what it should then"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the engine's answer
        return Recovered(broken=f"{type(error).__name__}: {error}")
    return Recovered(state, "; ".join(found))


class Order(msgspec.Struct, frozen=True):
    """A line for ``serve``."""

    engine: str
    options: dict[str, str | int | bool]
    directory: str


def serve() -> None:
    """Recover what is asked for, until there is no more input."""
    errors_of("sqlite")
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _answer(order, write)
        os.close(write)
        with open(read, "rb") as answered:
            answer = answered.read()
        _, status = os.waitpid(child, 0)
        if status != 0:
            answer = msgspec.json.encode(Recovered(broken=_ended(status, answer.decode(errors="replace"))))
        sys.stdout.buffer.write(answer.splitlines()[-1] + b"\n")
        sys.stdout.buffer.flush()


def _answer(order: Order, write: int) -> None:
    """In the child; never returns."""
    status = 1
    try:
        os.dup2(write, 2)  # LMDB says there which of its assertions failed
        signal.alarm(RECOVERY_S)
        found = recover_here(order.engine, order.options, Path(order.directory))
        with open(write, "wb") as pipe:
            pipe.write(msgspec.json.encode(found))
        status = 0
    finally:
        os._exit(status)


def _ended(status: int, said: str) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"it was not open and read after {RECOVERY_S} s"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"reading it ended in {how}{': ' if said else ''}{' '.join(said.split())[-500:]}"


def main(arguments: list[str]) -> None:
    """What the module's own words say."""
    if arguments == ["recover"]:
        serve()
    else:
        engine, options, directory, marks, seed, count = arguments
        work(engine, json.loads(options), Path(directory), Path(marks), int(seed), int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
