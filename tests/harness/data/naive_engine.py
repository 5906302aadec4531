"""A store as one might write it first: a file to which every process appends a record for each key, with no lock."""

from collections.abc import Mapping
from pathlib import Path
from struct import Struct

from harness import ConflictError, SimpleEngine, SimpleSession, SimpleSnapshot, Value

HEAD = Struct("<16sq")  # a key and how many bytes follow, which are its value; -1 where the key is removed


class NaiveSession(SimpleSession):
    """Keeps in memory what it has read so far; whoever has to know more reads on."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "a+b", buffering=0)
        self.values: dict[bytes, Value] = {}
        self.end = 0

    def catch_up(self) -> None:
        """Take in what was appended since, up to the first record that is not all there yet."""
        self.file.seek(self.end)
        rest = memoryview(self.file.read())
        while len(rest) >= HEAD.size:
            key, length = HEAD.unpack_from(rest)
            size = HEAD.size + max(length, 0)
            if len(rest) < size:
                break
            self.values.pop(key, None)
            if length >= 0:
                self.values[key] = Value(bytes(rest[HEAD.size : size]), None)
            rest = rest[size:]
            self.end += size

    def snapshot(self) -> SimpleSnapshot:
        self.catch_up()
        return SimpleSnapshot(dict(self.values))

    def commit(self, reads: Mapping[bytes, Value | None], writes: Mapping[bytes, bytes | None]) -> None:
        self.catch_up()
        if any(self.values.get(key) != value for key, value in reads.items()):
            raise ConflictError("what was read has changed")
        for key, data in writes.items():  # others may come in between, and who is killed here leaves a part
            self.file.write(HEAD.pack(key, -1) if data is None else HEAD.pack(key, len(data)) + data)

    def close(self) -> None:
        self.file.close()


class NaiveEngine(SimpleEngine):
    """No lock, no hash, no transaction: what could go wrong?"""

    def open(self, directory: Path, *, readonly: bool = False) -> NaiveSession:
        return NaiveSession(directory / "naive")
