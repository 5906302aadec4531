"""The small stores that are damaged: what their files hold, what they held before, and what every read must give."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

import kvs
from kvs import files, syncpoints

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
"""Where stores are damaged: in memory, if there is such a place."""
ABSENT: Final = (0xFFFF).to_bytes(16, "big")
"""A key that no subject ever had."""

Ring = list[tuple[int, bytes | None]]
"""The revisions of a key, newest first: T, and the value or ``None`` for a removal."""


class Image(msgspec.Struct, frozen=True):
    """A file: its bytes without the zeros at its end, and how long it is."""

    data: bytes
    length: int


class Subject(msgspec.Struct, frozen=True):
    """A store as files, and what is right.

    ``rings`` are the revisions that a reader finds of each key, ``settled`` those that are there once somebody could
    finish what the dead left, ``ever`` everything that each key ever was, the oldest first, ``older`` the files at an
    earlier time.
    """

    name: str
    boot: bytes
    integrity: bool
    durable: bool
    images: dict[str, Image]
    older: dict[str, Image]
    rings: dict[bytes, Ring]
    settled: dict[bytes, Ring]
    ever: dict[bytes, Ring]

    @property
    def last(self) -> int:
        """The newest transaction."""
        return max(ring[0][0] for ring in self.settled.values() if ring)

    def had(self, key: bytes, value: bytes | None) -> bool:
        """Whether the key ever had this value, or may be absent. Without integrity nobody can tell."""
        return value is None or not self.integrity or any(value == each for _, each in self.ever.get(key, ()))

    def at(self, key: bytes, time: int) -> bytes | None:
        """The value of a key after transaction ``time``."""
        return next((value for when, value in reversed(self.ever[key]) if when <= time), None)


def newest(rings: Mapping[bytes, Ring]) -> dict[bytes, bytes]:
    """Key and value of everything that is in a store with these revisions."""
    return {key: ring[0][1] for key, ring in rings.items() if ring and ring[0][1] is not None}


def make(name: str) -> Subject:
    """The subject of that name."""
    with tempfile.TemporaryDirectory(
        prefix="harness-damage-", dir=MEMORY if MEMORY.is_dir() else None
    ) as scratch:
        return _Making(name, Path(scratch)).subject()


class _Making:
    """A store that is being made, and everything that was written to it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.path = directory / "store"
        self.older: dict[str, Image] = {}
        self.final: dict[str, Image] = {}
        self.ever: dict[bytes, Ring] = {}

    def subject(self) -> Subject:
        """Follow the recipe."""
        RECIPES[self.name](self)
        final = self.final or images(self.path)
        shutil.rmtree(self.path)
        write(self.path, final)
        with kvs.open(self.path, "r") as store:
            stat = store.stat()
            rings = self._rings(store)
        with kvs.open(self.path, "w") as store:
            settled = self._rings(store)
        return Subject(
            name=self.name,
            boot=files.boot_id(),
            integrity=stat["integrity"],
            durable=stat["durable"],
            images=final,
            older=self.older,
            rings=rings,
            settled=rings if settled == rings else settled,
            ever=self.ever,
        )

    def _rings(self, store: kvs.Store) -> dict[bytes, Ring]:
        rings = {key: [each for each in store.history(key) if each[0]] for key in self.ever}
        for key, ring in rings.items():
            assert set(ring) <= set(self.ever[key])
        return rings

    @contextmanager
    def open(self, **options: Any) -> Iterator[kvs.Store]:
        with kvs.open(self.path, "c", **{"index_capacity": 20} | options) as store:
            yield store

    def put(self, store: kvs.Store, pairs: Mapping[int | bytes, bytes | None]) -> None:
        """One transaction; ``None`` removes."""
        keys = {
            name.to_bytes(16, "big") if isinstance(name, int) else name: value
            for name, value in pairs.items()
        }
        with store.transaction() as txn:
            for key, value in keys.items():
                if value is None:
                    txn.remove_unsafe(key)
                else:
                    txn.update_unsafe(key, value)
        for key, value in keys.items():
            self.ever.setdefault(key, []).append((txn.transaction_counter or 0, value))

    def history(self, store: kvs.Store) -> None:
        """What most subjects hold: full rings, an empty value, a removal, long and short values."""
        self.put(store, {1: b"one", 2: b"two" * 30, 3: b""})
        self.put(store, {1: b"one again", 4: b"four", 5: b"five" * 100})
        self.older = images(self.path)
        self.put(store, {6: b"six", 7: b"seven", 3: b"three"})
        for number in range(5):
            self.put(store, {1: b"1.%d" % number, 5: b"%05d" % number * 20})
        self.put(store, {2: None, 7: b"seven too"})
        self.put(store, {8: b"the last one", 4: b"FOUR"})

    def plain(self) -> None:
        """Closed cleanly, as stores usually are."""
        with self.open() as store:
            self.history(store)

    def durable(self) -> None:
        """A durable store."""
        with self.open(durable=True) as store:
            self.history(store)

    def unhashed(self) -> None:
        """Without integrity: of values only the structure is known."""
        with self.open(integrity=False) as store:
            self.history(store)

    def addressed(self) -> None:
        """Content addressed: every key is its value's hash."""
        with self.open(content_addressed=True) as store:
            values = [b"value %d" % number * number for number in range(1, 9)]
            self.put(store, {kvs.key_for(value): value for value in values[:5]})
            self.older = images(self.path)
            self.put(store, {kvs.key_for(value): value for value in values[5:]})
            self.put(store, {kvs.key_for(values[0]): None})
            self.put(store, {kvs.key_for(values[0]): values[0]})

    def grown(self) -> None:
        """An index that grew."""
        with self.open(index_capacity=1) as store:
            self.put(store, {number: b"before %d" % number for number in range(40, 44)})
            self.older = images(self.path)
            self.history(store)

    def sealed(self) -> None:
        """Several smallfiles, all but the last one sealed, of two writers."""
        with self.open(smallfile_bytes=1500) as store, self.open(smallfile_bytes=1500) as other:
            self.history(store)
            self.put(other, {10: b"the other writer's", 1: b"one of both"})
            self.put(other, {11: b"its own" * 9})

    def compacted(self) -> None:
        """After compactions: moved records, moves, bounds, a file that is gone."""
        with self.open(smallfile_bytes=1500) as store:
            self.history(store)
            store.compact()
            self.older = images(self.path)
            self.put(store, {1: b"after", 9: b"nine" * 50})
            self.put(store, {1: b"after that", 6: None})
            store.compact()
            self.put(store, {9: b"the end", 3: b"3"})

    def removed(self) -> None:
        """Keys that were removed, some of them forgotten, some of them written again."""
        with self.open() as store:
            self.history(store)
            self.put(store, {1: None, 3: None, 5: None})
            self.older = images(self.path)
            self.put(store, {3: b"back again"})
            self.put(store, {6: None, 3: None, 8: None})

    def killed(self) -> None:
        """What a writer leaves that was killed while it published: an intent, and half of a transaction."""
        with self.open() as store:
            self.history(store)

            def hook(name: str, *_: object) -> None:
                if name == "publish.after_length" and not self.final:
                    self.final = images(self.path)

            syncpoints.install(hook)
            try:
                self.put(store, {1: b"the dead one's", 6: b"his too", 12: b"and this"})
            finally:
                syncpoints.install(None)

    def unclean(self) -> None:
        """A writer died: nothing is pending, and nobody marked the store clean."""
        with self.open() as store:
            self.history(store)
            self.final = images(self.path)


RECIPES: Final[dict[str, Callable[[_Making], None]]] = {
    name: getattr(_Making, name)
    for name in (
        "plain",
        "durable",
        "unhashed",
        "addressed",
        "grown",
        "sealed",
        "compacted",
        "removed",
        "killed",
        "unclean",
    )
}
"""How each subject is made, by its name."""


def images(directory: Path) -> dict[str, Image]:
    """The files of a directory."""
    found = {}
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        found[path.name] = Image(data.rstrip(b"\0"), len(data))
    return found


def write(directory: Path, contents: Mapping[str, Image]) -> None:
    """Make a directory with these files."""
    directory.mkdir()
    for name, image in contents.items():
        with (directory / name).open("wb") as file:
            file.write(image.data)
            file.truncate(image.length)
