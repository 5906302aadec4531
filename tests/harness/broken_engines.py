"""Engines that differ from a sound one in one fault each.

``FAULTS`` says which probe of the doctor must find each fault, and some words that it must say of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from sound_engine import SoundEngine, SoundSession, State

from harness.engines.base import Hook, Revision, Value
from harness.engines.simple import SimpleSnapshot, SimpleTransaction
from harness.engines.sqlite import SqliteEngine, SqliteSession
from harness.errors import ConflictError


def engine_of(session: type[SoundSession]) -> type[SoundEngine]:
    return type(session.__name__.replace("Session", ""), (SoundEngine,), {"session": session})


class NeedsArguments(SoundEngine):
    def __init__(self, path: Path) -> None:
        self.path = path


class StartsThread(SoundEngine):
    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


class NoReadonly(SoundEngine):
    def open(self, directory: Path) -> Any:  # type: ignore[override]
        return self.session(directory)


class HalfRebuilding(SoundEngine):
    def lose_index(self, directory: Path) -> None:
        pass


class NumbersItsVersions(SoundEngine):
    def versions(self) -> dict[str, str]:
        return {"sound": 1}  # type: ignore[dict-item]


class HangsInOpen(SoundEngine):
    def open(self, directory: Path, *, readonly: bool = False) -> Any:
        time.sleep(60)


class FailsToCreate(SoundEngine):
    def create(self, directory: Path, keys: int) -> None:
        raise ValueError(f"{directory.name} is full\nand more")


class NoSettleSession(SoundSession):
    settle = None  # type: ignore[assignment]


class ClosesOnceSession(SoundSession):
    def close(self) -> None:
        os.close(self.lock_fd)


class CrashesSession(SoundSession):
    def commit(self, reads: Any, writes: Any) -> int | None:
        os.kill(os.getpid(), signal.SIGSEGV)
        return None


class TuplesSession(SoundSession):
    def get(self, key: bytes) -> Any:
        found = super().get(key)
        return None if found is None else found.data


class SortsSession(SoundSession):
    def snapshot(self) -> SimpleSnapshot:
        class Sorting(SimpleSnapshot):
            def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
                return super().get_many(sorted(keys))

        return Sorting(super().snapshot().values)


class EmptyIsAbsentSession(SoundSession):
    def get(self, key: bytes) -> Value | None:
        found = super().get(key)
        return found if found is not None and found.data else None


class CutsSession(SoundSession):
    def commit(self, reads: Any, writes: Mapping[bytes, bytes | None]) -> int | None:
        return super().commit(reads, {key: data and data[:65_535] for key, data in writes.items()})


class ForgetsKeysSession(SoundSession):
    def keys(self) -> set[bytes]:
        return set(sorted(super().keys())[:500])


class RemembersKeysSession(SoundSession):
    def __init__(self, directory: Path, **keywords: Any) -> None:
        super().__init__(directory, **keywords)
        self.known: set[bytes] = set()

    def keys(self) -> set[bytes]:
        self.known.update(super().keys())
        return set(self.known)


class BlindTransaction(SimpleTransaction):
    def get(self, key: bytes) -> Value | None:
        return self.session.get(key)


class BlindSession(SoundSession):
    def transaction(self) -> Any:
        return BlindTransaction(self)


class EagerTransaction(SimpleTransaction):
    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value)
        self.session.commit({}, {key: value})


class EagerSession(SoundSession):
    def transaction(self) -> Any:
        return EagerTransaction(self)


class AbortCommitsTransaction(SimpleTransaction):
    def abort(self) -> None:
        super().abort()
        if self.writes:
            writes, self.writes = self.writes, {}
            self.session.commit({}, writes)


class AbortCommitsSession(SoundSession):
    def transaction(self) -> Any:
        return AbortCommitsTransaction(self)


class MemorySession(SoundSession):
    memory: ClassVar[dict[Path, tuple[int, State]]] = {}

    def load(self) -> tuple[int, State]:
        sequence, state = self.memory.get(self.directory, (0, {}))
        return sequence, dict(state)

    def save(self, sequence: int, state: State) -> None:
        self.memory[self.directory] = sequence, state


class OneForAllSession(SoundSession):
    where: ClassVar[list[Path]] = []

    def __init__(self, directory: Path, **keywords: Any) -> None:
        super().__init__(directory, **keywords)
        self.where[:] = [directory]

    def load(self) -> tuple[int, State]:
        self.directory = self.where[0]
        return super().load()


class LosesUnclosedSession(SoundSession):
    """Commits go to a file of the process, which others read too, and which its owner's successor throws away."""

    def save(self, sequence: int, state: State) -> None:
        super().save(sequence, state)
        (self.directory / "owner").write_text(str(os.getpid()))

    def load(self) -> tuple[int, State]:
        owner = self.directory / "owner"
        if owner.exists() and not Path("/proc", owner.read_text()).exists():
            owner.unlink()
            (self.directory / "state").unlink(missing_ok=True)
        return super().load()

    def close(self) -> None:
        super().close()
        (self.directory / "owner").unlink(missing_ok=True)


class WritesAnywaySession(SoundSession):
    def __init__(self, directory: Path, **keywords: Any) -> None:
        super().__init__(directory, **{**keywords, "readonly": False})


class LeaksSession(SoundSession):
    def close(self) -> None:
        pass


class MovingSession(SoundSession):
    def snapshot(self) -> SimpleSnapshot:
        session = self

        class Moving(SimpleSnapshot):
            def get(self, key: bytes) -> Value | None:
                return SoundSession.snapshot(session).get(key)

            def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
                return [None if value is None else value.data for value in map(super().get, keys)]

        sequence, state = self.load()
        return Moving({key: Value(*found) for key, found in state.items()}, sequence)


class PiecemealSession(SoundSession):
    def commit(self, reads: Any, writes: Mapping[bytes, bytes | None]) -> int | None:
        last = None if writes else super().commit(reads, writes)
        for key, data in writes.items():
            last = super().commit(reads, {key: data})
            reads = {}
        return last


class LosesUpdatesSession(SoundSession):
    def check(self, reads: Any, writes: Any, state: State) -> None:
        pass


class ChecksWrittenSession(SoundSession):
    def check(self, reads: Mapping[bytes, Value | None], writes: Any, state: State) -> None:
        super().check({key: value for key, value in reads.items() if key in writes}, writes, state)


class UnlockedSession(SoundSession):
    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def save(self, sequence: int, state: State) -> None:
        time.sleep(0.001)
        aside = self.directory / f"next-{os.getpid()}"
        aside.write_bytes(msgspec.msgpack.encode((sequence, state)))
        aside.rename(self.directory / "state")


class HoldingTransaction(SimpleTransaction):
    """Holds the lock from its beginning to its end, and so compares nothing."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        session.hold()

    def commit(self) -> int | None:
        self.reads.clear()
        return super().commit()

    def abort(self) -> None:
        super().abort()
        self.session.let_go()  # type: ignore[attr-defined]


class RecordLockSession(SoundSession):
    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def hold(self) -> None:
        fcntl.lockf(self.lock_fd, fcntl.LOCK_EX)

    def let_go(self) -> None:
        fcntl.lockf(self.lock_fd, fcntl.LOCK_UN)

    def transaction(self) -> Any:
        return HoldingTransaction(self)


class LockFileSession(RecordLockSession):
    is_holding = False

    def hold(self) -> None:
        try:
            os.close(os.open(self.directory / "taken", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise ConflictError("somebody else has the lock") from None
        self.is_holding = True

    def let_go(self) -> None:
        if self.is_holding:
            self.is_holding = False
            (self.directory / "taken").unlink()


class LeaseSession(LockFileSession):
    """Whoever finds the lock older than a second takes it."""

    def hold(self) -> None:
        taken = self.directory / "taken"
        with contextlib.suppress(FileNotFoundError):
            if time.time() - taken.stat().st_mtime > 1:
                taken.unlink()
        super().hold()

    def let_go(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            super().let_go()


class CommitLockFileSession(SoundSession):
    """Its lock is there only during a commit, and stays if that is not finished."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        try:
            os.close(os.open(self.directory / "taken", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise ConflictError("somebody else has the lock") from None
        time.sleep(0.001)
        try:
            yield
        finally:
            (self.directory / "taken").unlink()


class RawSqliteSession(SqliteSession):
    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        try:
            return super().put_many(pairs)
        except ConflictError as error:
            raise error.__cause__ or error from None


class RawSqlite(SqliteEngine):
    def open(self, directory: Path, *, readonly: bool = False) -> SqliteSession:
        return RawSqliteSession(directory / "store.sqlite", readonly=readonly)


class SkipsNumbersSession(SoundSession):
    def save(self, sequence: int, state: State) -> None:
        super().save(sequence + 1, state)


class RepeatsNumbersSession(SoundSession):
    def snapshot(self) -> SimpleSnapshot:
        found = super().snapshot().values
        return SimpleSnapshot({key: value and Value(value.data, None) for key, value in found.items()})

    def check(self, reads: Mapping[bytes, Value | None], writes: Any, state: State) -> None:
        for key, value in reads.items():
            if (value and value.data) != state.get(key, (None, 0))[0]:
                raise ConflictError("what was read has changed")

    def commit(self, reads: Any, writes: Any) -> int | None:
        return (super().commit(reads, writes) or 0) // 4


class InPlaceSession(SoundSession):
    """Writes over the current state, bit by bit; readers wait until it is all there. Whoever dies leaves a part."""

    def load(self) -> tuple[int, State]:
        sequence, state = super().load()
        for path in self.directory.glob("key-*"):
            data, number = msgspec.msgpack.decode(path.read_bytes(), type=tuple[bytes, int])
            if data != b"gone":
                state[bytes.fromhex(path.name[4:])] = data, number
            sequence = max(sequence, number)
        return sequence, state

    def snapshot(self) -> SimpleSnapshot:
        with self.locked():
            return super().snapshot()

    def save(self, sequence: int, state: State) -> None:
        before = self.load()[1]
        for key in sorted({*before, *state}):
            if state.get(key) != before.get(key):
                aside = self.directory / "aside"
                aside.write_bytes(msgspec.msgpack.encode(state.get(key, (b"gone", sequence))))
                aside.rename(self.directory / f"key-{key.hex()}")
                time.sleep(0.0005)
        super().save(sequence, {})


class SettlesLoudlySession(SoundSession):
    def settle(self) -> int:  # type: ignore[override]
        return 1


class NoVersionsSession(SoundSession):
    def revisions(self, key: bytes) -> list[Revision]:
        return super().revisions(key) if key in self.keys() else []


class AlarmingSession(SoundSession):
    def verify(self, *, thorough: bool) -> list[str]:
        return ["there are removed keys"] if len(self.keys()) > 100 else []


class UnlistedSession(SoundSession):
    def save(self, sequence: int, state: State) -> None:
        self.hook("commit.before_rename")
        super().save(sequence, state)


class DeafSession(SoundSession):
    def __init__(self, directory: Path, *, readonly: bool = False, hook: Hook | None = None) -> None:
        super().__init__(directory, readonly=readonly)


class PlantsAnything(SoundEngine):
    def plant(self, bug: str) -> None:
        pass


class Complains(SoundEngine):
    def left_behind(self, directory: Path) -> list[str]:
        return ["the file lock is there"]


class LosesInChores(SoundEngine):
    def housekeep(self, session: SoundSession, dead_min: float) -> int:
        session.put_many([(min(session.keys()), b"lost")])
        return 0


class ForgetsWithIndex(SoundEngine):
    lossy_points: frozenset[str] = frozenset()

    def lose_index(self, directory: Path) -> None:
        (directory / "state").unlink()


FAULTS: dict[str, tuple[str, str]] = {
    "NeedsArguments": ("loaded", "cannot be made without arguments"),
    "StartsThread": ("loaded", "the class starts threads when it is made"),
    "NoReadonly": ("made", "open() cannot be called as open(..., readonly=...)"),
    "HalfRebuilding": ("made", "the engine has lose_index and not lossy_points: it is half Rebuilding"),
    "NumbersItsVersions": ("made", "versions() is {'sound': 1}, not a dict of str to str"),
    "FailsToCreate": ("created", "create() raised ValueError: another is full (broken_engines.py:"),
    "HangsInOpen": ("opened", "open() did not return within 1 s (it was at broken_engines.py:"),
    "ClosesOnce": ("opened", "session.close() raised OSError"),
    "NoSettle": ("methods", "the session has no method settle()"),
    "Crashes": ("written", "the process died of SIGSEGV in session.put_many() (it was at broken_engines.py:"),
    "Tuples": ("written", "session.get() returned b'one', which is no Value"),
    "Sorts": ("written", "snapshot.get_many() returned"),
    "EmptyIsAbsent": ("sizes", "session.get() returned None where b'' was written last"),
    "Cuts": ("sizes", "session.get() returned 65,535 bytes where 65,536 bytes was written last"),
    "ForgetsKeys": ("many keys", "500 keys where there are 1,000: 500 are missing"),
    "RemembersKeys": ("removed", "1 are not in the store"),
    "Blind": ("transaction", "of a key that the transaction itself had set"),
    "Eager": ("transaction", "of a transaction that has not committed is seen"),
    "AbortCommits": ("abort", "of a transaction that was aborted is seen"),
    "Memory": ("elsewhere", "which was acknowledged, and another process sees nothing"),
    "LosesUnclosed": ("kept", "is gone after its process was killed"),
    "OneForAll": ("two stores", "two stores are open in one process"),
    "WritesAnyway": ("read-only", "a session that was opened with readonly=True wrote"),
    "Leaks": ("cleaned up", "5 more descriptors are open"),
    "Moving": ("snapshot", "a snapshot moved: by get()"),
    "Piecemeal": ("whole commits", "a snapshot shows part of a transaction"),
    "LosesUpdates": (
        "conflict",
        "one of the updates is lost: 2 commits were acknowledged and the count is 1",
    ),
    "ChecksWritten": ("write skew", "neither saw what the other wrote"),
    "RecordLock": ("second session", "one of the updates is lost"),
    "RawSqlite": ("busy", "raised sqlite3.OperationalError: database is locked"),
    "Lease": ("busy", "the lock was taken from a process that was only stopped"),
    "Unlocked": ("many writers", "updates are lost"),
    "SkipsNumbers": ("sequence", "dense is True, and 18 commits"),
    "RepeatsNumbers": ("sequence", "that does not grow"),
    "LockFile": ("killed holder", "the lock of a dead process stays taken"),
    "CommitLockFile": ("killed commits", "the lock of a dead process stays taken"),
    "InPlace": ("killed commits", "half a commit is there"),
    "SettlesLoudly": ("settle", "settle() returned 1"),
    "NoVersions": ("revisions", "revisions() returned an empty list"),
    "Alarming": ("verify", "verify() of a sound store, at rest, says 'there are removed keys'"),
    "Unlisted": ("sync points", "the hook was called at 'commit.before_rename'"),
    "Deaf": ("sync points", "none is come to in opening, reading and committing"),
    "PlantsAnything": ("bugs", "plant() of a bug that is not listed was accepted"),
    "Complains": ("left behind", "left_behind() says ['the file lock is there']"),
    "LosesInChores": ("chores", "after housekeep() 1 of"),
    "ForgetsWithIndex": ("lost index", "after lose_index()"),
}
"""By the name of an engine: the probe that finds its fault, and what it says of it."""

for _session in list(vars().values()):
    if isinstance(_session, type) and issubclass(_session, SoundSession) and _session is not SoundSession:
        vars()[_session.__name__.removesuffix("Session")] = engine_of(_session)
