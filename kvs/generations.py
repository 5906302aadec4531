"""Generations of the index: which one is current, moving over to it, and retiring its predecessor.

A store grows by building ``index.<g+1>`` beside ``index.<g>``. The one store that makes the new one current is that
of ``H_NEXT`` in the old one; so the current generation is found from the oldest one that is there by following
``H_NEXT``. A retired index shows C = D = 0, which is what tells a reader without locks to move over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError
from kvs.index import Index
from kvs.layout import BUSY
from kvs.locks import COMMIT, DURABLE, Held, RangeLocks
from kvs.smallfile import Smallfiles

UNFINISHED: Final = BUSY
"""The intent of an index whose predecessor may not be retired yet."""


class Generations:
    """The index of one handle, which moves over to the next generation whenever it looks for it.

    ``mutex`` protects moving over between the threads of the handle; ``changed`` is called after it.
    """

    def __init__(self, directory: Path, index: Index) -> None:
        self.directory = directory
        self.index = index
        self.changed: Callable[[], None] = lambda: None
        self.flat: tuple[Index, Callable[..., Any]] | None = None
        """The handle's flat ``get`` (``reading.getter``), and the generation that it is of."""
        self._mutex = threading.RLock()

    def current(self) -> Index:
        """The current generation, as far as anybody can tell without a lock."""
        index = self.index
        return self.follow() if index.words[layout.H_NEXT] else index

    def visible(self) -> int:
        """The newest transaction that readers see now."""
        while True:
            index = self.index
            time = index.words[index.visible_word]
            if time > layout.SEQUENCE_MASK:
                raise impossible(index, f"transaction {time} is visible", index.visible_word)
            if time or not index.words[layout.H_NEXT]:
                return time
            self.follow()

    def follow(self) -> Index:
        """Move over to the current generation and return it. Old ones stay mapped for whoever looks at them."""
        with self._mutex:
            index = self.index
            while following := index.words[layout.H_NEXT]:
                newer = open_generation(self.directory, following - 1, write=index.writable, after=index)
                index.close()
                index = newer
            if index is not self.index:
                self.index = index
                self.changed()
            return index

    def close(self) -> None:
        """Close the descriptor; the map goes when the last reader has looked away."""
        self.flat = None  # it refers to this view
        self.index.close()


def impossible(index: Index, what: str, word: int) -> CorruptedStoreError:
    """The error for a word of the index's header that nobody can have stored."""
    return CorruptedStoreError(
        f"the index says that {what}, which cannot be; the smallfiles, which hold the data, were not touched",
        path=str(index.path),
        offset_bytes=word * layout.WORD,
    )


class Region(NamedTuple):
    """The published part of a smallfile, in bytes; ``sealed``: nobody appends to it any more."""

    begin: int
    end: int
    sealed: bool


def published(index: Index, smallfiles: Smallfiles) -> dict[int, Region]:
    """Every smallfile that holds published data. Exact under COMMIT.

    Raises:
        CorruptedStoreError: a file's header is damaged or of another store.
    """
    places = index.places
    used = places[places[:, layout.W_TAIL] != 0]
    tails = dict(zip(used[:, layout.W_FILE].tolist(), used[:, layout.W_TAIL].tolist(), strict=True))
    regions: dict[int, Region] = {}
    for file_id in smallfiles.ids():
        try:
            region = _region(smallfiles, file_id, tails)
        except CorruptedStoreError:
            if smallfiles.stranger(file_id):
                continue
            # Its writer may have been giving it its header just then.
            region = _region(smallfiles, file_id, tails)
        if region is not None:
            regions[file_id] = region
    return regions


def _region(smallfiles: Smallfiles, file_id: int, tails: dict[int, int]) -> Region | None:
    """The published part; ``None`` if somebody has begun the file and not committed in it yet."""
    sealed_end = smallfiles.bound(file_id, layout.B_END)
    end = sealed_end or tails.get(file_id, 0)
    if end > layout.SMALLFILE_BYTES_MAX:
        raise CorruptedStoreError(
            "the index gives the smallfile an end that it cannot have",
            path=str(smallfiles.path(file_id)),
            offset_bytes=layout.SMALLFILE_BYTES_MAX,
        )
    return Region(smallfiles.begin(file_id), end, sealed_end > 0) if end else None


def numbers(directory: Path) -> list[int]:
    """The generations whose files are in the directory, oldest first: current, retired, or never made current."""
    names = (name.removeprefix("index.") for name in files.names(directory) if name.startswith("index."))
    return sorted(int(name) for name in names if name.isdecimal())


def path_of(directory: Path, generation: int) -> Path:
    """Where the index of a generation is."""
    return directory / layout.index_name(generation)


def open_generation(directory: Path, generation: int, *, write: bool, after: Index) -> Index:
    """The next generation of ``after``.

    Raises:
        CorruptedStoreError: it is not there, not of this store, or not newer.
    """
    if generation <= after.generation:
        raise impossible(after, f"generation {generation} has replaced it", layout.H_NEXT)
    path = path_of(directory, generation)
    try:
        index = Index(path, write=write)
    except FileNotFoundError:
        return _overtaken(directory, generation, write=write, after=after)
    if index.store_uuid != after.store_uuid or index.generation != generation:
        index.close()
        raise CorruptedStoreError("not the next generation of this store's index", path=str(path))
    return index


def _overtaken(directory: Path, generation: int, *, write: bool, after: Index) -> Index:
    """The oldest newer generation: the one that was asked for has been replaced and removed already."""
    while True:
        newer = next((number for number in numbers(directory) if number > generation), None)
        if newer is None:
            raise CorruptedStoreError(
                "the next generation of the index is missing; the smallfiles, which hold the data, were not touched",
                path=str(path_of(directory, generation)),
            )
        try:
            index = Index(path_of(directory, newer), write=write)
        except FileNotFoundError:
            continue
        if index.store_uuid == after.store_uuid:
            return index
        index.close()
        raise CorruptedStoreError("not an index of this store", path=str(path_of(directory, newer)))


def locate(directory: Path, *, write: bool) -> Index:
    """The current index of the store in ``directory``.

    Raises:
        FileNotFoundError: there is none.
        CorruptedStoreError, UnknownStoreError: as ``Index``.
    """
    while True:
        found = numbers(directory)
        if not found:
            raise FileNotFoundError(str(path_of(directory, 0)))
        try:
            index = Index(path_of(directory, found[0]), write=write)
        except FileNotFoundError:
            continue  # replaced and removed meanwhile
        while following := index.words[layout.H_NEXT]:
            try:
                newer = open_generation(directory, following - 1, write=write, after=index)
            finally:
                index.close()
            index = newer
        return index


def retire(held: Held, index: Index, locks: RangeLocks, timeout_s: float) -> None:
    """Finish the growth that made ``index``: its predecessor shows nothing any more and loses its name, and the
    intent is cleared. May be done again after a death at any store, by anyone who holds COMMIT.

    Raises:
        LockTimeoutError: somebody is stopped while raising D; the intent stands.
    """
    assert held.range is COMMIT
    path = path_of(index.path.parent, index.generation - 1)
    try:
        old = Index(path, write=True)
    except FileNotFoundError:
        pass  # its name goes last, so the rest is done
    else:
        raising = locks.acquire(DURABLE, timeout_s)  # nobody raises D there while it is taken back
        try:
            old.words[layout.H_DURABLE] = 0
            old.words[layout.H_COMMITTED] = 0
        finally:
            locks.release(raising)
            old.close()
        syncpoints.reach("grow.after_retire")
        files.unlink(path)
        syncpoints.reach("grow.after_unlink")
    index.words[layout.H_INTENT] = 0
    syncpoints.reach("grow.after_clear")


def tidy(held: Held, index: Index) -> None:
    """Remove what deaths left: indexes that never became current, and half-made ones. Under COMMIT nobody makes one."""
    assert held.range is COMMIT
    directory = index.path.parent
    for number in numbers(directory):
        if number != index.generation:
            files.unlink(path_of(directory, number))
    for name in files.names(directory):
        if name.startswith("index.") and name.endswith(".new"):
            files.unlink(directory / name)
