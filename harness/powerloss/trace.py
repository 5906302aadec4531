"""A recorded run: what its processes did to the files of one directory, in one order, as plain data.

A file is a number, given when it is first seen; a name leads to one. What a shared map was stored to is a ``Write``
like any other: whoever records compares the map with what it last saw. Events count from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec


class _Event(msgspec.Struct, frozen=True, tag=True, array_like=True):
    process: int
    """Who did it, by its number in the run; 0: nobody knows."""


class Make(_Event, frozen=True):
    """A new, empty file, and its name."""

    name: str
    file: int


class Rename(_Event, frozen=True):
    """A file lost one name and got another, over whatever had that."""

    old: str
    new: str


class Unlink(_Event, frozen=True):
    """A name went."""

    name: str


class Write(_Event, frozen=True):
    """Bytes were stored, by a system call or through a map; behind the file's end they lengthen it."""

    file: int
    offset: int
    data: bytes


class Length(_Event, frozen=True):
    """ftruncate(2): what is cut off is gone, what is new reads as zeros."""

    file: int
    length: int


class Allocate(_Event, frozen=True):
    """posix_fallocate(3): the file is at least ``offset + length`` bytes long, its content is as it was."""

    file: int
    offset: int
    length: int


class Punch(_Event, frozen=True):
    """The bytes of the range read as zeros from then on, as far as the file goes; its length stays."""

    file: int
    offset: int
    length: int


class Sync(_Event, frozen=True):
    """fsync(2) or fdatasync(2) of a file has returned well. Everything that had happened to it before event ``since``
    (when it was called) is on the medium.
    """

    file: int
    since: int


class SyncNames(_Event, frozen=True):
    """fsync(2) of the directory has returned well: every name is on the medium as it was at event ``since``."""

    since: int


class Begun(_Event, frozen=True):
    """The transaction ``sequence`` is about to be written down: keys and their new values, ``None`` removes. Where it
    is begun twice the second counts from then on: the first had come to nothing.
    """

    sequence: int
    writes: tuple[tuple[bytes, bytes | None], ...]


class Told(_Event, frozen=True):
    """Somebody was told of transaction ``sequence``: its commit was acknowledged, a reader saw it, or a close that
    syncs everything has returned. Whether that is a promise depends on the store.
    """

    sequence: int
    how: str
    """"commit", "read" or "close"."""


class Stood(_Event, frozen=True):
    """The process reached a named point."""

    point: str


class Died(_Event, frozen=True):
    """The process was killed."""


Event = (
    Make
    | Rename
    | Unlink
    | Write
    | Length
    | Allocate
    | Punch
    | Sync
    | SyncNames
    | Begun
    | Told
    | Stood
    | Died
)


class Start(msgspec.Struct, frozen=True):
    """A file at the start of the run, all of it on the medium: ``data``, and zeros behind that up to ``length``."""

    name: str
    file: int
    length: int
    data: bytes


class Trace(msgspec.Struct, frozen=True):
    """A whole run. ``committed``: what was in the store at the start, by transaction, the oldest first."""

    engine: str
    options: dict[str, str | int | bool]
    """What whoever recovers the store and judges it must know, by name: ``durable`` and what else the engine needs."""
    starts: list[Start]
    events: list[Event]
    committed: list[Begun] = []

    def names(self) -> dict[int, str]:
        """The name that each file had first, for people: a name such as ``index.1.new`` gives way to its last one."""
        found = {start.file: start.name for start in self.starts}
        current = {start.name: start.file for start in self.starts}
        for event in self.events:
            match event:
                case Make(name=name, file=file):
                    current[name] = file
                    found[file] = name
                case Rename(old=old, new=new):
                    file = current.pop(old)
                    current[new] = file
                    found[file] = new
                case Unlink(name=name):
                    current.pop(name, None)
        return found

    def save(self, path: Path) -> None:
        """Write it to a file of its own (MessagePack)."""
        path.write_bytes(msgspec.msgpack.encode(self))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what ``save`` wrote. Raises ``msgspec.DecodeError``, ``OSError``."""
        return msgspec.msgpack.decode(path.read_bytes(), type=cls)


PAGE: Final = 4096
"""Bytes of a page of the page cache."""
SECTOR: Final = 512
"""Bytes that a medium writes wholly or not at all."""
