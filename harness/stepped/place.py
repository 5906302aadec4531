"""The store that a scenario is played on: made once, put back byte for byte before every schedule."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import xxhash

import kvs
from harness.engines.kvs import KvsSession
from harness.errors import EngineDamagedError
from harness.history import Event, Invoke
from harness.scenario import Program, Scenario, Transaction
from harness.stepped import lost
from harness.stepped.medium import Medium, nothing_missing
from harness.stepped.program import Aftermath, Cast, Player, examine
from harness.workloads.base import VALUE_BYTES_MIN, key_of
from kvs import files, layout, locks, opening
from kvs import store as stores

_CAPACITY: Final = 40
_MARGIN_BYTES: Final = 4 * layout.PAGE
_IMAGE_BYTES: Final = 1 << 18
"""Of a file that a schedule made no more is looked at."""
_LOCK_FILES: Final = frozenset({opening.GATE, opening.RANGES})
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
    return _colliding(count, layout.slots_for(_capacity(scenario)))


def _capacity(scenario: Scenario) -> int:
    return scenario.capacity or max(_CAPACITY, len(scenario.revisions))


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


class SteppedSession(KvsSession):
    """A handle of a process of a scenario. Whoever dies or just ends does not close it: its stage does."""

    def __init__(self, directory: Path, *, readonly: bool, io: str, smallfile_bytes: int) -> None:
        super().__init__(
            directory,
            readonly=readonly,
            io=io,
            lock_timeout_s=_FOREVER_S,
            smallfile_bytes=smallfile_bytes,
        )
        self._store._finalizer.detach()

    def compact_once(self) -> None:
        """One pass over every smallfile in which anything is dead."""
        try:
            self._store.compact()
        except kvs.CorruptedStoreError as error:
            raise EngineDamagedError(str(error)) from error


class _Known:
    """A file that is there at the start: its length, and a copy of the first part of it, behind which it is empty."""

    def __init__(self, path: Path, size: int, data: bytes) -> None:
        self._path = path
        self._size = size
        self.data = data
        self._open()

    def _open(self) -> None:
        with self._path.open("r+b") as file:
            self._number = os.fstat(file.fileno()).st_ino
            self.view = mmap.mmap(file.fileno(), len(self.data))

    def put_back(self, status: os.stat_result) -> None:
        """Make the file, of which ``status`` tells, what it was."""
        if status.st_ino != self._number:
            self._path.unlink()
            self.make()
            return
        if status.st_size != self._size:
            os.truncate(self._path, self._size)
        self.view[:] = self.data

    def make(self) -> None:
        """Make the file anew, under the name that it has lost."""
        with self._path.open("xb") as file:
            file.write(self.data)
            file.truncate(self._size)
        self._open()


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
        self.medium = Medium()
        """What is on the medium, for a scenario whose store is durable."""
        self._make()
        self._ranges = os.open(self.store / opening.RANGES, os.O_RDWR | os.O_CLOEXEC)
        self._gate = os.open(self.store / opening.GATE, os.O_RDWR | os.O_CLOEXEC)
        self._known: dict[str, _Known] = {}
        self._remember()

    def _make(self) -> None:
        scenario, count = self.scenario, len(self.scenario.programs)
        kvs.open(self.store, "n", durable=scenario.durable, index_capacity=_capacity(scenario)).close()
        player = Player(count + 1, self.cast(lambda _: None, self.setup.append, lambda: 0))
        # One process for each writer that is there from the start, in turns, so that most of them have a smallfile.
        writers = sum(not program.joins for program in scenario.programs if program.role == "writer")
        sessions = [self.open("mmap") for _ in range(max(1, writers))]
        for round_ in range(max(scenario.revisions)):
            for turn, session in enumerate(sessions):
                written = tuple(
                    key
                    for key, revisions in enumerate(scenario.revisions)
                    if revisions > round_ and (key + round_) % len(sessions) == turn
                )
                if written:
                    player.perform(session, Transaction("put", writes=written))
        for session in sessions:
            session.close()

    def cast(
        self, pause: Callable[[str], None], emit: Callable[[Event], None], clock: Callable[[], int]
    ) -> Cast:
        """What a process of the scenario needs to play."""
        scenario = self.scenario
        missing = self.medium.oldest_missing if scenario.durable else nothing_missing
        return Cast(
            self.items, self.keys, pause, emit, clock, bytes(scenario.padding), scenario.durable, missing
        )

    def _remember(self) -> None:
        """Keep a copy of every byte that a schedule may change."""
        record_bytes = layout.record_bytes(VALUE_BYTES_MIN + self.scenario.padding)
        most = sum(
            sum(len(txn.writes) + len(txn.deletes) for txn in program.transactions) * 2 * record_bytes
            + (len(program.transactions) + 1) * layout.COMMIT_BYTES
            for program in self.scenario.programs
        )
        for path in (*sorted(self.store.glob("*.small")), self.store / layout.index_name(0)):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                kept = min(size, (self._end(path) + most + _MARGIN_BYTES) & -layout.PAGE)
                data = file.read(size if path.suffix != ".small" else kept)
            self._known[path.name] = _Known(path, size, data)

    def _end(self, path: Path) -> int:
        """Where the published part of a smallfile ends."""
        if path.suffix != ".small":
            return 0
        file_id = int(path.stem)
        with path.open("rb") as file:
            words = memoryview(file.read(layout.SMALLFILE_BEGIN)).cast("Q")
        sealed = layout.unpack_bound(file_id, layout.B_END, words[layout.B_END]) or 0
        data = (self.store / layout.index_name(0)).read_bytes()
        words = memoryview(data[: len(data) & -8]).cast("Q")
        places = map(layout.writer_word, range(layout.WRITERS_MAX))
        tails = [words[place + layout.W_TAIL] for place in places if words[place + layout.W_FILE] == file_id]
        return max([sealed, *tails])

    def restore(self) -> None:
        """Put every byte and every name back to what it was after ``__init__``."""
        there = set()
        with os.scandir(self.store) as entries:
            for entry in entries:
                known = self._known.get(entry.name)
                if known is not None:
                    known.put_back(entry.stat())
                    there.add(entry.name)
                elif entry.name not in _LOCK_FILES:
                    Path(entry.path).unlink()
        for name in self._known.keys() - there:
            self._known[name].make()
        self.medium.clear()

    @property
    def index(self) -> mmap.mmap:
        """The index that is there at the start."""
        return self._known[layout.index_name(0)].view

    def images(self) -> dict[str, bytes]:
        """Every file of the store as it is now, but for what nobody wrote to."""
        found = {}
        for path in sorted(self.store.iterdir()):
            if path.name not in _LOCK_FILES:
                known = self._known.get(path.name)
                with path.open("rb") as file:
                    found[path.name] = file.read(len(known.data) if known is not None else _IMAGE_BYTES)
        return found

    def open(self, io: str = "mmap", *, readonly: bool = False) -> SteppedSession:
        """A handle of a process of the scenario, or of whoever looks after it."""
        limit = self.scenario.smallfile_bytes or layout.SMALLFILE_BYTES
        return SteppedSession(self.store, readonly=readonly, io=io, smallfile_bytes=limit)

    def open_for(self, program: Program) -> SteppedSession:
        """The handle of a process that plays ``program``."""
        return self.open(program.io, readonly=program.role == "reader")

    def is_free(self, lock: str) -> bool:
        """Whether nobody holds ``lock`` (by its name in the store's waits) now: asked of the kernel."""
        if lock in self.taken:
            return False
        asked = _range_of(lock)
        free = self._gate_is_free() if asked is None else not locks.range_is_held(self._ranges, asked)
        if not free and self.told:
            self.taken.add(lock)
        return free

    def _gate_is_free(self) -> bool:
        """Whether nobody holds it exclusively. Who waits for all others to leave it is let try again and again."""
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return True

    def anything_held(self) -> bool:
        """Whether any range of the store is locked by anybody."""
        return locks.anything_held(self._ranges)

    def examine(self, clock: int, killed: list[Invoke]) -> Aftermath:
        """Look at the store after everybody has gone, and where the scenario says so once more when something is lost.
        Afterwards nobody has it open, whatever was found.
        """
        number = len(self.scenario.programs) + 2
        cast = self.cast(lambda _: None, lambda _: None, lambda: clock)
        if self.scenario.durable:
            self.medium.watch()
        with _leaving_nothing_open():
            aftermath = examine(number, cast, self.open, killed, history=bool(self.scenario.lost))
        if self.scenario.lost and aftermath.kept is not None:
            with _leaving_nothing_open():
                aftermath.left.extend(
                    lost.examine(self.store, self.scenario.lost, cast, self.open, aftermath.kept)
                )
        return aftermath

    def close(self) -> None:
        """Remove the store. Stages that share it may each call this."""
        self._known.clear()
        if self._ranges >= 0:
            os.close(self._ranges)
            os.close(self._gate)
            self._ranges = -1
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def disown(descriptors: Collection[int]) -> None:
    """Have every handle that opened one of ``descriptors`` forget all that it has: its stage closes them. In a process
    that is forked later each would else close their numbers, which are other files' by then.
    """
    locks.forget(descriptors)
    for handle in list(stores._stores.values()):
        attached = handle._attached
        if attached is not None and attached.view.index.fd in descriptors:
            handle._attached = None


@contextlib.contextmanager
def _leaving_nothing_open() -> Iterator[None]:
    """Close every file of the store that is opened meanwhile, and left open."""
    seam = files.opened, files.closing
    descriptors: set[int] = set()
    files.opened, files.closing = descriptors.add, descriptors.discard
    try:
        yield
    finally:
        files.opened, files.closing = seam
        disown(descriptors)
        for fd in descriptors:
            os.close(fd)


@functools.cache
def _range_of(lock: str) -> locks.Range | None:
    """The range of that name; ``None`` for the gate."""
    for fixed in (locks.COMPACT, locks.COMMIT, locks.DURABLE):
        if lock == fixed.name:
            return fixed
    if lock.startswith("WRITER["):
        return locks.writer_range(int(lock[7:-1]))
    if lock.startswith("SYNC["):
        return locks.sync_range(int(lock[5:-1]))
    return None
