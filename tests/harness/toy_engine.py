"""A small correct store with sync points, for the harness's own tests, and bugs that can be planted in it.

The whole state is one file; a commit writes the next state beside it and renames it, under ``flock(2)``. A
writer that dies in between leaves the file beside it, which the next writer finds and removes: that is its
repair.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness.engines.base import Hook, Revision, Value
from harness.errors import ConflictError, EngineDamagedError

POINTS = {
    "commit.before_lock": "the lock is not yet asked for",
    "commit.after_lock": "the lock is held",
    "commit.before_write": "the next state is about to be written beside the current one; may be torn",
    "commit.after_write": "the next state is complete beside the current one",
    "commit.after_rename": "the next state is the current one",
    "commit.after_unlock": "the lock is free",
    "repair.after_found": "a dead writer's next state was found",
    "repair.after_remove": "it is gone",
    "read.after_open": "the current state was opened and not yet read",
}
BUGS = ("no-lock", "two-halves", "lose-writes", "crash", "exit", "hang", "damage", "left-lock", "stranger")


class State(msgspec.Struct):
    sequence: int = 0
    data: dict[bytes, tuple[bytes, int]] = {}


_decoder = msgspec.msgpack.Decoder(State)


class ToyEngine:
    name = "toy"
    dense = True
    stall_s: float | None = None
    feeders: Mapping[str, Sequence[str]] = {}

    def __init__(self) -> None:
        self.hook: Hook = lambda *_: None
        self.bug = ""

    def points(self) -> Mapping[str, str]:
        return POINTS

    def required_points(self) -> frozenset[str]:
        return frozenset(point for point in POINTS if not point.startswith("read."))

    def install_hook(self, hook: Hook | None) -> None:
        self.hook = hook or (lambda *_: None)

    def bugs(self) -> Sequence[str]:
        return sorted(BUGS)

    def plant(self, bug: str) -> None:
        assert bug in BUGS, bug
        self.bug = bug

    def create(self, directory: Path, keys: int) -> None:
        (directory / "lock").touch()
        (directory / "state").write_bytes(msgspec.msgpack.encode(State()))

    def open(self, directory: Path, *, readonly: bool = False) -> ToySession:
        return ToySession(self, directory)

    def left_behind(self, directory: Path) -> list[str]:
        return []

    def versions(self) -> dict[str, str]:
        return {"toy": "1"}


class KeepingEngine(ToyEngine):
    """A toy with chores, and with an index (of nothing) that it makes again where it is lost."""

    lossy_points = frozenset({"rebuild.before_write", "rebuild.after_write"})
    milestones: Mapping[str, str] = {"compactions": "compact.after_lock", "rebuilds": "rebuild.after_write"}
    forgetful = False

    def points(self) -> Mapping[str, str]:
        return {**POINTS, **dict.fromkeys((*self.lossy_points, "compact.after_lock"), "a toy's chores")}

    def open(self, directory: Path, *, readonly: bool = False) -> ToySession:
        session = super().open(directory)
        if not (directory / "index").exists():
            self.hook("rebuild.before_write")
            if self.forgetful:
                state = session.load()
                state.data.pop(max(state.data), None)
                (directory / "state").write_bytes(msgspec.msgpack.encode(state))
            (directory / "index").touch()
            self.hook("rebuild.after_write")
        return session

    def create(self, directory: Path, keys: int) -> None:
        super().create(directory, keys)
        (directory / "index").touch()

    def lose_index(self, directory: Path) -> None:
        (directory / "index").unlink(missing_ok=True)

    def housekeep(self, session: ToySession, dead_min: float) -> int:
        assert 0 <= dead_min <= 1
        fcntl.flock(session.lock_fd, fcntl.LOCK_EX)  # it takes its turn, however busy the writers are
        try:
            self.hook("compact.after_lock")
            return (session.directory / "state").stat().st_size
        finally:
            fcntl.flock(session.lock_fd, fcntl.LOCK_UN)


class ForgetfulEngine(KeepingEngine):
    """The same, but whoever makes its index again loses a key."""

    forgetful = True


class TwoHalvesEngine(ToyEngine):
    """A toy whose transactions are not atomic."""

    def __init__(self) -> None:
        super().__init__()
        self.bug = "two-halves"


class LeavingEngine(ToyEngine):
    """A toy that ends its process at the first commit."""

    def install_hook(self, hook: Hook | None) -> None:
        super().install_hook(hook)
        self.bug = "exit"


class HangingEngine(ToyEngine):
    """A toy that never returns from a commit."""

    def install_hook(self, hook: Hook | None) -> None:
        super().install_hook(hook)
        self.bug = "hang"


class ToySession:
    def __init__(self, engine: ToyEngine, directory: Path) -> None:
        self.engine = engine
        self.directory = directory
        self.lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)

    def load(self) -> State:
        with (self.directory / "state").open("rb") as file:
            self.engine.hook("read.after_open")
            data = file.read()
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise EngineDamagedError(str(error)) from error

    def transaction(self) -> ToyTransaction:
        return ToyTransaction(self)

    def snapshot(self) -> ToySnapshot:
        return ToySnapshot(self.load())

    def get(self, key: bytes) -> Value | None:
        return self.snapshot().get(key)

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        transaction = ToyTransaction(self)
        for key, value in pairs:
            transaction.put(key, value)
        return transaction.commit()

    def settle(self) -> None:
        """A rename is the commit: the dead have made it or not."""

    def revisions(self, key: bytes) -> list[Revision]:
        value = self.get(key)
        return [Revision(None, None) if value is None else Revision(*value)]

    def keys(self) -> set[bytes]:
        return set(self.load().data)

    def verify(self, *, thorough: bool) -> list[str]:
        return []

    def close(self) -> None:
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


class ToySnapshot:
    def __init__(self, state: State) -> None:
        self._state = state
        self.sequence: int | None = state.sequence

    def get(self, key: bytes) -> Value | None:
        found = self._state.data.get(key)
        return None if found is None else Value(*found)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        data = self._state.data
        return [data[key][0] if key in data else None for key in keys]

    def close(self) -> None:
        pass


class ToyTransaction:
    """Optimistic: what was read is compared again under the lock."""

    def __init__(self, session: ToySession) -> None:
        self._session = session
        self._base = session.load()
        self._reads: set[bytes] = set()
        self._writes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> Value | None:
        self._reads.add(key)
        found = self._base.data.get(key)
        return None if found is None else Value(*found)

    def put(self, key: bytes, value: bytes) -> None:
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        self._writes[key] = None

    def abort(self) -> None:
        pass

    def commit(self) -> int | None:
        engine, session = self._session.engine, self._session
        misbehave(engine.bug, session)
        engine.hook("commit.before_lock")
        if engine.bug != "no-lock":
            fcntl.flock(session.lock_fd, fcntl.LOCK_EX)
        try:
            engine.hook("commit.after_lock")
            return self._commit_locked()
        finally:
            fcntl.flock(session.lock_fd, fcntl.LOCK_UN)
            engine.hook("commit.after_unlock")

    def _commit_locked(self) -> int:
        engine, directory = self._session.engine, self._session.directory
        aside = directory / (f"next-{os.getpid()}" if engine.bug == "no-lock" else "next")
        if aside.exists():
            engine.hook("repair.after_found")
            aside.unlink()
            engine.hook("repair.after_remove")
        state = self._session.load()
        if any(state.data.get(key) != self._base.data.get(key) for key in self._reads):
            raise ConflictError("what was read has changed")
        sequence = state.sequence + 1
        items = list(self._writes.items())
        halves = [items[: len(items) // 2], items] if engine.bug == "two-halves" else [items]
        if engine.bug == "lose-writes" and sequence % 50 == 0:
            halves = [[]]
        for half in halves:
            for key, value in half:
                if value is None:
                    state.data.pop(key, None)
                else:
                    state.data[key] = (value, sequence)
            data = msgspec.msgpack.encode(State(sequence, state.data))
            engine.hook("commit.before_write", functools.partial(tear, aside, data))
            aside.write_bytes(data)
            engine.hook("commit.after_write")
            aside.rename(directory / "state")
            engine.hook("commit.after_rename")
        return sequence


def tear(path: Path, data: bytes, part: float) -> None:
    path.write_bytes(data[: int(len(data) * part)])


def misbehave(bug: str, session: ToySession) -> None:
    """Bugs that are not about data, at the first commit of a process."""
    if bug == "crash":
        raise RuntimeError("the toy crashed on purpose")
    if bug == "exit":
        os._exit(0)
    if bug == "damage":
        raise EngineDamagedError("the toy says that it is damaged")
    if bug == "hang":
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(3600)
    if bug == "stranger":
        session.engine.bug = ""
        session.put_many([(b"nobody's own key", b"x")])
