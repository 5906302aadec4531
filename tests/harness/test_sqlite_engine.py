"""The SQLite adapter keeps what the protocol promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from harness import engines
from harness.engines import sqlite
from harness.engines.base import Revision, Value
from harness.engines.sqlite import SqliteEngine, SqliteSession
from harness.errors import ConflictError, EngineDamagedError, EngineMissingError

A, B = bytes(16), b"\xff" * 16


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    SqliteEngine().create(tmp_path, 100)
    return tmp_path


@pytest.fixture
def session(directory: Path) -> SqliteSession:
    return SqliteEngine().open(directory)


def test_sessions_see_each_others_commits_and_no_commit_tells_its_place(
    directory: Path, session: SqliteSession
) -> None:
    other = SqliteEngine().open(directory)
    told = [session.put_many([(A, b"1")]), other.put_many([(B, b"2")]), session.put_many([(A, b"3")])]
    assert told == [None, None, None]
    assert session.get(A) == other.get(A) == Value(b"3", None)
    assert session.get(B) == Value(b"2", None)
    other.close()


def test_commit_in_halves_shows_the_first_half_alone(directory: Path) -> None:
    engine = SqliteEngine()
    engine.plant("commit-in-halves")
    session = engine.open(directory)
    transaction = session.transaction()
    transaction.put(A, b"1")
    assert SqliteEngine().open(directory).get(A) is None
    transaction.put(B, b"1")
    assert SqliteEngine().open(directory).get(A) == Value(b"1", None), "a sound engine shows both or none"
    assert SqliteEngine().open(directory).get(B) is None
    transaction.commit()


def test_read_outside_snapshot_sees_what_came_later(directory: Path) -> None:
    engine = SqliteEngine()
    engine.plant("read-outside-snapshot")
    snapshot = engine.open(directory).snapshot()
    SqliteEngine().open(directory).put_many([(A, b"later")])
    assert snapshot.get(A) == Value(b"later", None)
    snapshot.close()


def test_a_snapshot_does_not_move(session: SqliteSession) -> None:
    session.put_many([(A, b"old")])
    snapshot = session.snapshot()
    session.put_many([(A, b"new"), (B, b"new")])
    assert snapshot.sequence is None
    assert snapshot.get(A) == Value(b"old", None)
    assert snapshot.get_many([B, A]) == [None, b"old"]
    snapshot.close()
    snapshot.close()
    assert session.snapshot().get_many([B, A]) == [b"new", b"new"]


def test_many_keys_come_back_in_the_order_asked(session: SqliteSession) -> None:
    keys = [number.to_bytes(16, "big") for number in range(2500)]
    session.put_many([(key, key) for key in keys])
    wanted = [*reversed(keys), A + b"absent", keys[7]]
    assert session.snapshot().get_many(wanted) == [*reversed(keys), None, keys[7]]
    assert session.keys() == set(keys)


def test_a_transaction_reads_writes_and_deletes(session: SqliteSession) -> None:
    session.put_many([(A, b"1")])
    transaction = session.transaction()
    assert transaction.get(A) == Value(b"1", None)
    transaction.delete(A)
    transaction.put(B, b"2")
    transaction.commit()
    transaction.abort()
    assert session.get(A) is None
    assert session.get(B) == Value(b"2", None)


def test_an_aborted_transaction_leaves_nothing(session: SqliteSession) -> None:
    transaction = session.transaction()
    transaction.put(A, b"1")
    transaction.abort()
    assert session.get(A) is None
    session.put_many([(A, b"2")])
    assert session.get(A) == Value(b"2", None)


def test_a_busy_store_is_a_conflict_and_not_an_error(
    directory: Path, session: SqliteSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    holder = session.transaction()
    other = SqliteEngine().open(directory)
    with pytest.raises(ConflictError, match="locked"):
        other.transaction()
    assert SqliteEngine().left_behind(directory) != []
    holder.abort()
    other.put_many([(A, b"1")])
    assert session.get(A) == Value(b"1", None)
    assert SqliteEngine().left_behind(directory) == []


def test_a_broken_file_is_damage(directory: Path) -> None:
    session = SqliteEngine().open(directory)
    session.put_many([(number.to_bytes(16, "big"), b"x" * 100) for number in range(2000)])
    assert session.verify(thorough=True) == []
    session.close()
    session.close()
    path = directory / "store.sqlite"
    data = bytearray(path.read_bytes())
    data[5000:60000] = b"\xa5" * 55000
    path.write_bytes(data)
    damaged = SqliteEngine().open(directory)
    assert damaged.verify(thorough=True) != []
    with pytest.raises(EngineDamagedError):
        damaged.keys()
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(EngineDamagedError):
        SqliteEngine().open(directory).get(A)


def test_a_readonly_session_cannot_write(directory: Path, session: SqliteSession) -> None:
    session.put_many([(A, b"1")])
    readonly = SqliteEngine().open(directory, readonly=True)
    assert readonly.get(A) == Value(b"1", None)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        readonly.put_many([(A, b"2")])


def test_it_has_no_points_and_says_its_version_and_its_bugs() -> None:
    engine = SqliteEngine()
    engine.install_hook(None)
    assert dict(engine.points()) == {}
    assert engine.required_points() == frozenset()
    assert engine.versions() == {"sqlite": sqlite3.sqlite_version}
    assert set(engine.bugs()) == {"commit-in-halves", "read-outside-snapshot"}
    with pytest.raises(ValueError, match="no bug"):
        engine.plant("no-lock")


def test_engines_are_loaded_by_name_or_by_module_and_class() -> None:
    assert engines.load("sqlite").name == "sqlite"
    assert engines.load("harness.engines.sqlite:SqliteEngine").name == "sqlite"


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "no.such.module:Engine",
        "harness.engines.sqlite:Nothing",
        "harness.engines.sqlite:SqliteSession",
        ":",
        "harness.engines.sqlite:",
    ],
)
def test_an_engine_that_cannot_be_loaded_is_a_usage_error(name: str) -> None:
    with pytest.raises(EngineMissingError):
        engines.load(name)


def test_the_current_version_is_all_the_history_there_is(session: SqliteSession) -> None:
    assert session.revisions(A) == [Revision(None, None)]
    session.put_many([(A, b"1")])
    session.put_many([(A, b"2")])
    assert session.revisions(A) == [Revision(b"2", None)]


def test_settling_writes_to_the_log_and_changes_no_key(directory: Path, session: SqliteSession) -> None:
    session.put_many([(A, b"1")])
    before = (directory / "store.sqlite-wal").stat().st_size
    session.settle()
    assert (directory / "store.sqlite-wal").stat().st_size > before
    assert session.keys() == {A}
    assert session.get(A) == Value(b"1", None)
