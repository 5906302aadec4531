"""A small sound engine whose whole state is one file, to be made wrong by others."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from harness.engines.base import Hook, Value
from harness.engines.simple import SimpleEngine, SimpleSession, SimpleSnapshot
from harness.errors import ConflictError

State = dict[bytes, tuple[bytes, int]]
_decoder = msgspec.msgpack.Decoder(tuple[int, State])


class SoundSession(SimpleSession):
    """Commits under flock(2): the next state is written beside the current one and renamed."""

    has_points = True

    def __init__(self, directory: Path, *, readonly: bool = False, hook: Hook | None = None) -> None:
        self.directory = directory
        self.readonly = readonly
        self.hook: Hook = hook or (lambda *_: None)
        self.lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.lock_fd, fcntl.LOCK_UN)

    def load(self) -> tuple[int, State]:
        try:
            return _decoder.decode((self.directory / "state").read_bytes())
        except FileNotFoundError:
            return 0, {}

    def save(self, sequence: int, state: State) -> None:
        (self.directory / "next").write_bytes(msgspec.msgpack.encode((sequence, state)))
        (self.directory / "next").rename(self.directory / "state")

    def snapshot(self) -> SimpleSnapshot:
        sequence, state = self.load()
        return SimpleSnapshot({key: Value(*found) for key, found in state.items()}, sequence)

    def commit(self, reads: Mapping[bytes, Value | None], writes: Mapping[bytes, bytes | None]) -> int | None:
        if self.readonly:
            raise PermissionError("the session is for reading")
        with self.locked():
            self.hook("commit.after_lock")
            sequence, state = self.load()
            self.check(reads, writes, state)
            sequence += 1
            for key, data in writes.items():
                state.pop(key, None)
                if data is not None:
                    state[key] = (data, sequence)
            self.save(sequence, state)
        return sequence

    def check(self, reads: Mapping[bytes, Value | None], writes: Mapping[bytes, Any], state: State) -> None:
        if any(state.get(key) != value for key, value in reads.items()):
            raise ConflictError("what was read has changed")

    def close(self) -> None:
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


class SoundEngine(SimpleEngine):
    """The engine in which nothing is wrong; the others say what their ``session`` is."""

    dense = True
    sync_points: Mapping[str, str] = {"commit.after_lock": "the lock is held"}
    session: ClassVar[type[SoundSession]] = SoundSession

    def create(self, directory: Path, keys: int) -> None:
        SoundSession(directory).close()

    def open(self, directory: Path, *, readonly: bool = False) -> Any:
        return self.session(directory, readonly=readonly, hook=self.hook)
