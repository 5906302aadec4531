"""A store that is one append-only file, and its adapter: a commit is one record, with its length and its hash."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from struct import Struct

import msgspec
from xxhash import xxh3_64_intdigest

from harness import ConflictError, SimpleEngine, SimpleSession, SimpleSnapshot, Value

HEAD = Struct("<QQ")  # the length and the hash of what follows: the writes of one commit


class LogSession(SimpleSession):
    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.file = open(path, "rb" if readonly else "a+b", buffering=0)
        self.values: dict[bytes, Value | None] = {}  # of all that was read so far; None: removed
        self.end = self.sequence = 0

    def catch_up(self) -> None:
        self.file.seek(self.end)
        rest = memoryview(self.file.read())
        while len(rest) >= HEAD.size:
            length, digest = HEAD.unpack_from(rest)
            body, rest = rest[HEAD.size :][:length], rest[HEAD.size + length :]
            if len(body) < length or xxh3_64_intdigest(body) != digest:
                break  # it is being written, or its writer is dead
            self.end, self.sequence = self.end + HEAD.size + length, self.sequence + 1
            for key, data in msgspec.msgpack.decode(body, type=dict[bytes, bytes | None]).items():
                self.values[key] = None if data is None else Value(data, self.sequence)

    def snapshot(self) -> SimpleSnapshot:
        self.catch_up()
        return SimpleSnapshot(dict(self.values), self.sequence)

    def commit(self, reads: Mapping[bytes, Value | None], writes: Mapping[bytes, bytes | None]) -> int:
        fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            self.catch_up()
            if any(self.values.get(key) != value for key, value in reads.items()):
                raise ConflictError("what was read has changed")
            self.file.truncate(self.end)  # half a record of a dead writer, or nothing
            body = msgspec.msgpack.encode(writes)
            self.file.write(HEAD.pack(len(body), xxh3_64_intdigest(body)) + body)
            self.catch_up()
            return self.sequence
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def close(self) -> None:
        self.file.close()


class LogEngine(SimpleEngine):
    dense = True  # every number up to the newest is that of a commit

    def open(self, directory: Path, *, readonly: bool = False) -> LogSession:
        return LogSession(directory / "log", readonly=readonly)
