"""The store that a scenario is played on: made once, put back byte for byte before every schedule."""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import xxhash

import kvs
from harness.engines.kvs import KvsSession
from harness.history import Event, Invoke
from harness.scenario import Program, Scenario, Transaction
from harness.stepped.program import Aftermath, Cast, Player, examine
from harness.workloads.base import key_of
from kvs import files, layout, locks, opening

_CAPACITY: Final = 40
_RECORD_BYTES: Final = 64
_MARGIN_BYTES: Final = 4 * layout.PAGE
_FOREVER_S: Final = 1e9
"""A lock timeout that never comes: who waits for whom is the scheduler's business."""
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one
parent_by_default: Path | None = None
"""Where stores are made, for a process whose parent looks after that directory; ``None``: in memory."""


def item_keys(scenario: Scenario) -> tuple[bytes, ...]:
    """The 16-byte keys of a scenario; where they are to collide, all probes begin at the same entry."""
    count = len(scenario.revisions)
    if not scenario.collide:
        return tuple(key_of("explore", scenario.item(key)) for key in range(count))
    return _colliding(count, layout.slots_for(max(_CAPACITY, count)))


@functools.cache
def _colliding(count: int, slots: int) -> tuple[bytes, ...]:
    found: list[bytes] = []
    home, part = -1, 0
    while len(found) < count:
        key = key_of("explore", "collide", part)
        slot = home_of(key, slots)
        if home < 0:
            home = slot
        if slot == home:
            found.append(key)
        part += 1
    return tuple(found)


def home_of(key: bytes, slots: int) -> int:
    """The entry of an index of ``slots`` entries where the probe for ``key`` begins."""
    return (xxhash.xxh3_64_intdigest(key) >> 7) & (slots - 1)


class Place:
    """One kvs store in memory-backed storage, with the scenario's first revisions in it.

    ``restore`` puts every byte back, so that each schedule begins in the same state: then the same schedule has the
    same effects. It may be called only when nobody has the store open. Use as a context manager: the directory goes.
    """

    def __init__(self, scenario: Scenario, parent: Path | None = None) -> None:
        self.scenario = scenario
        root = parent or parent_by_default or (_MEMORY if os.access(_MEMORY, os.W_OK) else None)
        self.directory = Path(tempfile.mkdtemp(prefix="harness-explore-", dir=root))
        self.store = self.directory / "store"
        self.items = tuple(scenario.item(key) for key in range(len(scenario.revisions)))
        self.keys = item_keys(scenario)
        self.told = False
        """Whoever steps the processes clears ``taken`` whenever a lock may have become free."""
        self.taken: set[str] = set()
        """Locks that the kernel said were held, and nobody has let go of any since."""
        self.setup: list[Event] = []
        """The history of whoever wrote the first revisions, process number ``len(programs) + 1``."""
        self._make()
        self._ranges = files.open_file(self.store / opening.RANGES, write=True)
        self._maps: list[tuple[mmap.mmap, bytes]] = []
        self._remember()

    def _make(self) -> None:
        count = len(self.scenario.revisions)
        kvs.open(self.store, "n", durable=self.scenario.durable, index_capacity=max(_CAPACITY, count)).close()
        cast = Cast(self.items, self.keys, lambda _: None, self.setup.append, lambda: 0)
        player = Player(len(self.scenario.programs) + 1, cast)
        # One process for each writer that is there from the start: then every smallfile exists, with real blocks.
        writers = sum(not program.joins for program in self.scenario.programs if program.role == "writer")
        sessions = [self.open("mmap") for _ in range(max(1, writers))]
        for round_ in range(max(self.scenario.revisions)):
            written = tuple(key for key, count in enumerate(self.scenario.revisions) if count > round_)
            player.perform(sessions[round_ % len(sessions)], Transaction("put", writes=written))
        for session in sessions:
            session.close()

    def _remember(self) -> None:
        """Keep a copy of every byte that a schedule may change."""
        most = sum(
            sum(len(txn.writes) + len(txn.deletes) for txn in program.transactions) * 2 * _RECORD_BYTES
            + len(program.transactions) * layout.COMMIT_BYTES
            for program in self.scenario.programs
        )
        paths = sorted(path for path in self.store.iterdir() if path.suffix == ".small")
        self._known = {path.name for path in paths} | {"store.lock", "ranges.lock", layout.index_name(0)}
        tails = {path: self._tail(path) for path in paths}
        for path in (*paths, self.store / layout.index_name(0)):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                if path in tails:
                    size = min(size, (tails[path] + most + _MARGIN_BYTES) & -layout.PAGE)
                view = mmap.mmap(fd, size)
            finally:
                os.close(fd)
            self._maps.append((view, view[:]))
        self.index = self._maps[-1][0]

    def _tail(self, path: Path) -> int:
        data = (self.store / layout.index_name(0)).read_bytes()
        words = memoryview(data[: len(data) & -8]).cast("Q")
        for slot in range(layout.WRITERS_MAX):
            place = layout.writer_word(slot)
            if (
                layout.smallfile_name(words[place + layout.W_FILE]) == path.name
                and words[place + layout.W_TAIL]
            ):
                return words[place + layout.W_TAIL]
        return 0

    def restore(self) -> None:
        """Put every byte back to what it was after ``__init__``."""
        for view, data in self._maps:
            view[:] = data
        with os.scandir(self.store) as entries:
            strangers = [entry.path for entry in entries if entry.name not in self._known]
        for path in strangers:
            Path(path).unlink()

    def open(self, io: str = "mmap", *, readonly: bool = False) -> KvsSession:
        """A handle of a process of the scenario, or of whoever looks after it."""
        return KvsSession(self.store, readonly=readonly, io=io, lock_timeout_s=_FOREVER_S)

    def open_for(self, program: Program) -> KvsSession:
        """The handle of a process that plays ``program``."""
        return self.open(program.io, readonly=program.role == "reader")

    def is_free(self, lock: str) -> bool:
        """Whether nobody holds ``lock`` (by its name in the store's waits) now: asked of the kernel."""
        if lock in self.taken:
            return False
        asked = _range_of(lock)
        free = asked is None or not locks.range_is_held(self._ranges, asked)
        if not free and self.told:
            self.taken.add(lock)
        return free

    def anything_held(self) -> bool:
        """Whether any range of the store is locked by anybody."""
        return locks.anything_held(self._ranges)

    def examine(self, clock: int, killed: list[Invoke]) -> Aftermath:
        """Look at the store after everybody has gone. Afterwards nobody has it open, whatever was found."""
        cast = Cast(self.items, self.keys, lambda _: None, lambda _: None, lambda: clock)
        seam = files.opened, files.closing
        descriptors: set[int] = set()
        files.opened, files.closing = descriptors.add, descriptors.discard
        try:
            return examine(len(self.scenario.programs) + 2, cast, self.open, killed)
        finally:
            files.opened, files.closing = seam
            for fd in descriptors:
                os.close(fd)

    def close(self) -> None:
        """Remove the store. Stages that share it may each call this."""
        self._maps.clear()
        if self._ranges >= 0:
            files.close(self._ranges)
            self._ranges = -1
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def _range_of(lock: str) -> locks.Range | None:
    if lock == locks.COMMIT.name:
        return locks.COMMIT
    if lock == locks.COMPACT.name:
        return locks.COMPACT
    if lock.startswith("WRITER["):
        return locks.writer_range(int(lock[7:-1]))
    return None
