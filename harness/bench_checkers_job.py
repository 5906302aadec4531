"""One measurement of one checker, in a process of its own: ``python -m harness.bench_checkers_job JOB``.

A process of its own, because what the kernel tells of memory is the most that a process ever had, and because nobody
who checks a history has checked another one before. What is imported is imported before the clock starts.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count, islice
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import msgspec

from harness.budget import Budget
from harness.checkers import isolation
from harness.checkers.operation import Operation
from harness.checkers.order import place
from harness.checking import check_history, check_operations
from harness.formats.writing import write
from harness.history import Read, operation_id
from harness.models.list_append import LIST_APPEND
from harness.models.register import CAS_REGISTER
from harness.models.rw_register import RW_REGISTER
from harness.recorded import pair
from harness.synthetic import database
from harness.verdict import Verdict

INDETERMINATE: Final = 30
"""Operations of the register's history that never completed."""
LIMIT_S: Final = 120.0
LIMIT_MB: Final = 4096.0
"""What the check of that history may spend before it says UNKNOWN."""
PROPERTY: Final = "strict-serializable"
FILE_FORMAT: Final = "jepsen-edn"
_CHUNK: Final = 10_000
_ITEMS: Final = 256
_PROCESSES: Final = 10


_Any = TypeVar("_Any")


class Job(msgspec.Struct, frozen=True):
    """What to measure (a key of ``JOBS``): on how many operations, or which files, as which model."""

    what: str
    size: int = 0
    seed: int = 1
    files: tuple[str, ...] = ()
    model: str = ""


class Measured(msgspec.Struct, frozen=True):
    """What was measured: wall and processor time of the check alone, in seconds, the most memory that the process ever
    had, in bytes, and the outcome of each verdict.
    """

    seconds: float
    cpu_s: float
    peak_bytes: int
    outcomes: tuple[str, ...]


class Stopwatch:
    """Wall and processor time, of what is ``running`` and not ``paused``."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time what is inside."""
        self._add(-1)
        try:
            yield
        finally:
            self._add(1)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not time what is inside."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def _add(self, sign: int) -> None:
        self.seconds += sign * time.perf_counter()
        self.cpu_s += sign * time.process_time()

    def outside(self, source: Iterable[_Any]) -> Iterator[_Any]:
        """``source``, made in chunks while the watch is paused."""
        source = iter(source)
        while True:
            with self.paused():
                chunk = list(islice(source, _CHUNK))
            if not chunk:
                return
            yield from chunk


def committed(operations: int, seed: int = 1) -> list[Operation]:
    """A history of our own store, as ``judge.join`` gives it: ten processes; half of the operations read two of 256
    items and write them, the others are snapshots of three; one write in 2,000 is killed, before or after it took
    effect, and another process goes on. Every number belongs to a commit.
    """
    random = Random(seed)
    chance, sample = random.random, random.sample
    items = [f"register/{number}" for number in range(_ITEMS)]
    state = {item: Read(item, None) for item in items}
    names, free = list(range(1, _PROCESSES + 1)), [0] * _PROCESSES
    made: list[Operation] = []
    now = newest = 0
    for index in range(1, operations + 1):
        slot = int(chance() * _PROCESSES)
        now = max(now, free[slot]) + 100
        invoked, completed = max(free[slot] + 1, now - int(chance() * 500)), now + int(chance() * 500) + 1
        free[slot] = completed
        identity = operation_id(names[slot], index)
        if chance() < 0.5:
            seen = tuple([state[item] for item in sample(items, 3)])
            made.append(
                Operation(identity, invoked, completed, "read", "register", "ok", sequence=newest, reads=seen)
            )
            continue
        changed = tuple(sample(items, 2))
        seen = tuple([state[item] for item in changed])
        killed = chance() < 1 / 2000
        if not killed or chance() < 0.5:
            newest += 1
            state.update([(item, Read(item, identity, newest)) for item in changed])
        if killed:
            names[slot] = max(names) + 1
            made.append(Operation(identity, invoked, None, "write", "register", "info", changed))
        else:
            made.append(
                Operation(
                    identity,
                    invoked,
                    completed,
                    "write",
                    "register",
                    "ok",
                    changed,
                    sequence=newest,
                    reads=seen,
                )
            )
    made.sort(key=attrgetter("invoked"))
    return made


def commit_order(job: Job, watch: Stopwatch) -> list[Verdict]:
    """From operations in memory to the verdict on isolation, without the collector of cycles, as a campaign does it."""
    operations = committed(job.size, job.seed)
    gc.collect()
    gc.disable()
    with watch.running():
        return [isolation.check(place(operations, dense=True))]


def list_append(job: Job, watch: Stopwatch) -> list[Verdict]:
    """Operations that are made while the watch stands still, in chunks."""
    operations = pair(database.list_append(job.size, job.seed))
    with watch.running():
        return [check_operations(watch.outside(operations), LIST_APPEND, PROPERTY)]


def rw_register(job: Job, watch: Stopwatch) -> list[Verdict]:
    """The same of registers."""
    operations = pair(database.rw_register(job.size, job.seed))
    with watch.running():
        return [check_operations(watch.outside(operations), RW_REGISTER, PROPERTY)]


def file(job: Job, watch: Stopwatch) -> list[Verdict]:
    """From a file to the verdict on a list-append history."""
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as directory:
        path = Path(directory) / "history.edn"
        with path.open("wb") as out:
            write(database.list_append(job.size, job.seed), out, FILE_FORMAT)
        with watch.running():
            return [check_history(path, model=LIST_APPEND.name, property=PROPERTY)]


def indeterminate(job: Job, watch: Stopwatch) -> list[Verdict]:
    """A register of which exactly ``INDETERMINATE`` operations never completed: the first such history."""
    for seed in count(job.seed):
        share = INDETERMINATE / job.size
        operations = list(pair(database.cas_register(job.size, seed, info=share)))
        if sum(op.outcome == "info" for op in operations) == INDETERMINATE:
            break
    with watch.running():
        return [check_operations(operations, CAS_REGISTER, "linearizable", budget=Budget(LIMIT_S, LIMIT_MB))]


def recorded(job: Job, watch: Stopwatch) -> list[Verdict]:
    """The files of the job, one after another."""
    with watch.running():
        return [check_history(path, model=job.model) for path in job.files]


JOBS: Final = {
    each.__name__: each for each in (list_append, rw_register, commit_order, file, indeterminate, recorded)
}


def run(job: Job) -> Measured:
    """Do it, in this process.

    Raises:
        HarnessError: as the checks do.
    """
    watch = Stopwatch()
    outcomes = tuple(verdict.outcome.value for verdict in JOBS[job.what](job, watch))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(watch.seconds, watch.cpu_s, peak_kb * 1024, outcomes)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(run(msgspec.json.decode(sys.argv[1], type=Job))))
