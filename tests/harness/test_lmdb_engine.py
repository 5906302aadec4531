"""The LMDB adapter keeps what the protocol promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaigns import harness

from harness import engines
from harness.engines.base import Revision, Value
from harness.errors import ConflictError, EngineDamagedError

lmdb = pytest.importorskip("lmdb")
from harness.engines import lmdb as adapter  # noqa: E402 - it imports lmdb
from harness.engines.lmdb import LmdbEngine, LmdbSession  # noqa: E402

A, B, C = bytes(16), b"\xff" * 16, b"c" * 16


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    LmdbEngine().create(tmp_path, 100)
    return tmp_path


@pytest.fixture
def session(directory: Path) -> Iterator[LmdbSession]:
    session = LmdbEngine().open(directory)
    yield session
    session.close()


def planted(bug: str) -> LmdbEngine:
    engine = LmdbEngine()
    engine.plant(bug)
    return engine


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; the status that it ended with. The store must not be open here."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child says so by its status
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_commits_are_numbered_without_a_gap_and_values_tell_who_wrote_them(
    directory: Path, session: LmdbSession
) -> None:
    other = LmdbEngine().open(directory)
    assert [session.put_many([(A, b"1")]), other.put_many([(B, b"2")]), session.put_many([(A, b"3")])] == [
        1,
        2,
        3,
    ]
    assert session.get(A) == other.get(A) == Value(b"3", 3)
    assert session.get(B) == Value(b"2", 2)
    assert session.snapshot().sequence == 3
    other.close()
    assert session.get(A) == Value(b"3", 3), "the environment stays open for the others"


def test_an_aborted_transaction_leaves_nothing_and_its_number_to_the_next(session: LmdbSession) -> None:
    transaction = session.transaction()
    transaction.put(A, b"1")
    transaction.abort()
    transaction.abort()
    assert session.get(A) is None
    assert session.put_many([(A, b"2")]) == 1


def test_a_transaction_that_changes_nothing_has_a_number_of_its_own(session: LmdbSession) -> None:
    for expected in (1, 2):
        transaction = session.transaction()
        transaction.delete(A)
        assert transaction.commit() == expected
    assert session.put_many([(A, b"1")]) == 3
    assert session.keys() == {A}
    assert session.verify(thorough=True) == []


def test_a_transaction_reads_writes_and_deletes(session: LmdbSession) -> None:
    session.put_many([(A, b"1")])
    transaction = session.transaction()
    assert transaction.get(A) == Value(b"1", 1)
    transaction.delete(A)
    transaction.put(B, b"")
    assert transaction.get(A) is None
    assert transaction.get(B) == Value(b"", 2)
    assert transaction.commit() == 2
    transaction.abort()
    assert session.get(A) is None
    assert session.get(B) == Value(b"", 2)


def test_a_snapshot_does_not_move(session: LmdbSession) -> None:
    session.put_many([(A, b"old")])
    snapshot = session.snapshot()
    session.put_many([(A, b"new"), (B, b"new")])
    assert snapshot.sequence == 1
    assert snapshot.get(A) == Value(b"old", 1)
    assert snapshot.get_many([B, A]) == [None, b"old"]
    snapshot.close()
    snapshot.close()
    with session_snapshot(session) as values:
        assert values([B, A, C]) == [b"new", b"new", None]


class session_snapshot:  # noqa: N801 - reads as a function
    """``get_many`` of a snapshot that is closed at the end."""

    def __init__(self, session: LmdbSession) -> None:
        self.snapshot = session.snapshot()

    def __enter__(self) -> Callable[[list[bytes]], list[bytes | None]]:
        return self.snapshot.get_many

    def __exit__(self, *_: object) -> None:
        self.snapshot.close()


def test_many_keys_come_back_in_the_order_asked(session: LmdbSession) -> None:
    keys = [number.to_bytes(16, "big") for number in range(2500)]
    session.put_many([(key, key) for key in reversed(keys)])
    wanted = [*reversed(keys), A + b"absent", keys[7], keys[7]]
    with session_snapshot(session) as values:
        assert values(wanted) == [*reversed(keys), None, keys[7], keys[7]]
    assert session.keys() == set(keys)
    assert session.verify(thorough=False) == session.verify(thorough=True) == []


def test_a_second_write_transaction_of_one_process_is_refused_and_not_waited_for(
    directory: Path, session: LmdbSession
) -> None:
    first = session.transaction()
    other = LmdbEngine().open(directory)
    with pytest.raises(ConflictError, match="open already"):
        other.transaction()
    first.abort()
    assert other.put_many([(A, b"1")]) == 1
    other.close()


def test_closing_a_session_ends_its_transaction_and_the_last_one_the_environment(directory: Path) -> None:
    engine = LmdbEngine()
    first, second = engine.open(directory), engine.open(directory)
    transaction = first.transaction()
    transaction.put(A, b"lost")
    first.close()
    first.close()
    assert second.put_many([(B, b"1")]) == 1
    second.close()
    assert not [key for key in adapter._open if key[1] == directory.resolve()]
    again = engine.open(directory)
    assert again.keys() == {B}
    again.close()


def test_a_readonly_session_cannot_write(directory: Path, session: LmdbSession) -> None:
    session.put_many([(A, b"1")])
    readonly = LmdbEngine().open(directory, readonly=True)
    assert readonly.get(A) == Value(b"1", 1)
    with pytest.raises(lmdb.ReadonlyError, match="for reading"):
        readonly.put_many([(A, b"2")])
    readonly.close()


def test_the_lock_of_a_dead_writer_passes_on_and_its_writes_are_gone(directory: Path) -> None:
    def die_writing() -> None:
        transaction = LmdbEngine().open(directory).transaction()
        transaction.put(A, b"1")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die_writing) == -signal.SIGKILL
    session = LmdbEngine().open(directory)
    session.settle()
    assert session.put_many([(B, b"2")]) == 1
    assert session.keys() == {B}
    session.close()
    assert LmdbEngine().left_behind(directory) == []


def test_the_places_of_dead_readers_are_free_again(directory: Path, session: LmdbSession) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from harness.engines.lmdb import LmdbEngine
        session = LmdbEngine().open(Path({str(directory)!r}))
        held = [session.snapshot() for _ in range(3)]
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, cwd=directory)
    assert ran.returncode == -signal.SIGKILL
    environment = session._used().environment
    assert len(adapter._readers(environment) - {os.getpid()}) == 1
    LmdbEngine().open(directory).close()
    assert adapter._readers(environment) <= {os.getpid()}


def test_a_full_table_of_readers_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "READERS_MAX", 4)
    LmdbEngine().create(tmp_path, 100)
    session = LmdbEngine().open(tmp_path)
    held = [session.snapshot() for _ in range(4)]
    with pytest.raises(ConflictError, match="READERS_FULL"):
        session.snapshot()
    for snapshot in held:
        snapshot.close()
    assert session.get(A) is None
    session.close()


def test_what_is_left_behind_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "LOCK_FREE_S", 0.05)
    (directory / "stray").touch()
    told, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        session = LmdbEngine().open(directory)
        held = (session.snapshot(), session.transaction())
        os.write(told[1], b"x")
        os.read(go[0], 1)
        os._exit(0 if held else 1)
    try:
        os.read(told[0], 1)
        left = LmdbEngine().left_behind(directory)
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for fd in (*told, *go):
            os.close(fd)
    assert left[0] == "stray is still there, and is none of LMDB's files"
    assert left[1] == f"process {pid} is alive and has a place among the readers"
    assert left[2].startswith("the write lock was not to be had")
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join()


def test_a_broken_file_is_damage(directory: Path) -> None:
    session = LmdbEngine().open(directory)
    session.put_many([(number.to_bytes(16, "big"), b"x" * 100) for number in range(2000)])
    session.close()
    path = directory / "data.mdb"
    sound = path.read_bytes()
    path.write_bytes(b"this is no database at all" * 1000)
    with pytest.raises(EngineDamagedError):
        LmdbEngine().open(directory)
    path.write_bytes(sound)
    again = LmdbEngine().open(directory)
    assert len(again.keys()) == 2000
    again.close()


def test_values_that_no_adapter_wrote_are_found(directory: Path, session: LmdbSession) -> None:
    environment = session._used().environment
    with environment.begin(write=True) as txn:
        txn.put(A, (99).to_bytes(8, "little"))
    assert session.verify(thorough=False) == [
        f"the value of {A.hex()} is of a transaction after 1, the newest"
    ]
    with environment.begin(write=True) as txn:
        txn.put(A, b"short")
    (finding,) = session.verify(thorough=True)
    assert "too few" in finding


def test_commit_in_halves_shows_the_first_half_alone(directory: Path, session: LmdbSession) -> None:
    halving = planted("commit-in-halves").open(directory)
    transaction = halving.transaction()
    transaction.put(A, b"1")
    assert session.get(A) is None
    transaction.put(B, b"1")
    assert session.get(A) == Value(b"1", 1), "a sound engine shows both or none"
    assert session.get(B) is None
    transaction.commit()
    halving.close()


def test_read_outside_snapshot_sees_what_came_later(directory: Path, session: LmdbSession) -> None:
    moving = planted("read-outside-snapshot").open(directory)
    snapshot = moving.snapshot()
    session.put_many([(A, b"later")])
    assert snapshot.get(A) == Value(b"later", 1)
    assert snapshot.get_many([A]) == [b"later"]
    snapshot.close()
    moving.close()


def test_read_before_lock_loses_an_update(directory: Path, session: LmdbSession) -> None:
    session.put_many([(A, b"1")])
    late = planted("read-before-lock").open(directory)
    transaction = late.transaction()
    assert transaction.get(A) == Value(b"1", 1)
    session.put_many([(A, b"2")])
    assert transaction.get(A) == Value(b"1", 1)
    transaction.put(A, b"1+1")
    assert transaction.commit() == 3, "a sound engine lets nobody write in between"
    late.close()


def test_it_has_no_points_and_says_its_versions_and_its_bugs() -> None:
    engine = engines.load("lmdb")
    engine.install_hook(None)
    assert engine.name == "lmdb"
    assert dict(engine.points()) == {}
    assert engine.required_points() == frozenset()
    assert set(engine.versions()) == {"lmdb", "py-lmdb"}
    assert set(engine.bugs()) == {"commit-in-halves", "read-outside-snapshot", "read-before-lock"}
    with pytest.raises(ValueError, match="no bug"):
        engine.plant("no-lock")


def test_the_current_version_is_all_the_history_there_is(session: LmdbSession) -> None:
    assert session.revisions(A) == [Revision(None, None)]
    session.put_many([(A, b"1")])
    session.put_many([(A, b"2")])
    assert session.revisions(A) == [Revision(b"2", 2)]


def test_where_it_is_not_installed_it_says_what_to_install(tmp_path: Path) -> None:
    program = """
        import sys
        sys.modules["lmdb"] = None
        from harness import cli
        cli.main(["run", "--engine", "lmdb", "--seconds", "1"])
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "python -m pip install 'kvs-torture[peers]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(("bug", "code", "last"), [("", 0, "OK"), ("read-before-lock", 1, "VIOLATION")])
def test_a_campaign_against_it_ends_in_ok_and_with_a_bug_in_a_violation(
    bug: str, code: int, last: str, tmp_path: Path
) -> None:
    small = ["--workloads", "bank,append,register", "--writers", 3, "--readers", 1, "--seconds", 3]
    ran = harness("run", "--engine", "lmdb", *small, "--bug", bug, "--store-dir", tmp_path, cwd=tmp_path)
    assert ran.returncode == code, ran.stdout
    assert ran.stdout.splitlines()[-1].startswith(last)
