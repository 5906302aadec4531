"""``harness bench --durable``: puts that are on the medium when they return, beside LMDB, by one process and by eight.

Every put is a transaction of its own, of a key that the process owns, and every process reads back what it wrote last.
The engines take turns within every round, on the same disk; a ratio is computed per round, and the median of the rounds
counts. Beside them stands the disk itself: appends of the value alone, each with an fdatasync, one file per process.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from harness import bench_engines as engines
from harness import bench_report
from harness.bench import BATCH, Settings, Step, Work, rotated
from harness.bench_children import Child, Crew
from harness.bench_engines import Engine, Pair
from harness.bench_report import Beginning, Floor, Grid, Report, at_least
from harness.errors import HarnessError

RESULTS: Final = Path("results/bench-durable.json")
TITLE: Final = "Durable puts"
VALUE_SIZES: Final = (16, 1024)
PROCESSES: Final = (1, 8)
FLOORS: Final = {1: 1.5, 8: 4.0}
"""What kvs must reach with so many processes, as a multiple of LMDB."""
NEEDS_DISK: Final = True
ROUNDS: Final = 9
SECONDS: Final = 0.7
KEYS: Final = 100_000
_ROOM: Final = 64 << 20
"""Bytes of the bare file of a process, which are there before they are written, as those of the smallfiles are."""


class DurableKvs(engines.Kvs):
    """Our own."""

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        import kvs

        del value_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self.store = kvs.open(directory / "store", "n" if create else "w", durable=True, index_capacity=keys)
        self.description = f"durable, integrity on, index_capacity={keys}"


class SyncedLmdb(engines.Lmdb):
    """LMDB as it comes: every commit is synced."""

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        import lmdb

        directory.mkdir(parents=True, exist_ok=True)
        map_bytes = (1 << 28) + keys * (4 * value_bytes + 512)
        self.environment = lmdb.open(str(directory), map_size=map_bytes, create=create)
        self.description = "as it comes: sync=True, metasync=True, writemap=False"


class Disk(Engine):
    """No store: what a process can append and sync at most."""

    name: ClassVar[str] = "disk"

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        del keys, create
        directory.mkdir(parents=True, exist_ok=True)
        self.description = "pwrite and fdatasync of the value alone, a file for each process"
        self._fd = os.open(directory / f"{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self._fd, 0, _ROOM)
        os.fsync(self._fd)
        self._end, self._held = 0, dict[bytes, bytes]()
        self._value_bytes = value_bytes

    def puts(self, pairs: Sequence[Pair]) -> None:
        for key, value in pairs:
            self._end += os.pwrite(self._fd, value, self._end % _ROOM)
            os.fdatasync(self._fd)
            self._held[key] = value

    def put_many(self, pairs: Sequence[Pair]) -> None:
        """Nothing: only single puts are measured."""
        del pairs

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._held.get(key) for key in keys]

    def close(self) -> None:
        os.close(self._fd)


CONTENDERS: Final[dict[str, type[Engine]]] = {
    "kvs": DurableKvs,
    engines.Lmdb.name: SyncedLmdb,
    Disk.name: Disk,
}


class Row(msgspec.Struct, kw_only=True):
    """One value size with so many processes: puts per second of each engine in each round (of all processes together),
    the medians, kvs / the other in each round, and the medians of those.
    """

    value_bytes: int
    processes: int
    rates: dict[str, list[float]]
    medians: dict[str, float]
    ratios: dict[str, list[float]]
    ratio_medians: dict[str, float]


class Durable(Report, kw_only=True):
    """One run; what the JSON file holds."""

    engines: dict[str, str]
    rows: list[Row]


def measure(
    *, rounds: int, seconds: float, keys: int, seed: int, directory: Path | None, step: Step
) -> Durable:
    """Measure every value size with every number of processes, ``rounds`` times for ``seconds``, on stores of ``keys``
    keys in ``directory``. Nothing is left there afterwards.

    Raises:
        UsageError: the directory is in memory, or has no room. HarnessError: a process died, or lost something.
    """
    parent = bench_report.place(directory, disk=NEEDS_DISK)
    settings = {"rounds": rounds, "seconds": seconds, "keys": keys, "seed": seed}
    beginning = Beginning(settings)
    missing = engines.installed()[1]
    contenders = {name: engine for name, engine in CONTENDERS.items() if name not in missing}
    rows: list[Row] = []
    descriptions: dict[str, str] = {}
    with engines.scratch(parent, bytes_needed(rounds, seconds, keys)) as base:
        for value_bytes in VALUE_SIZES:
            work = Work(Settings(keys=keys, seed=seed), value_bytes)
            place = base / f"values-{value_bytes}"
            for name, engine in contenders.items():
                step(f"load {name}, {value_bytes} B")
                descriptions[name] = _load(engine, place / name, work)
            with Crew() as crew:
                children = {
                    name: [
                        crew.add(
                            f"process {i} of {name}", _put, name, place / name, keys, value_bytes, seed, i
                        )
                        for i in range(max(PROCESSES))
                    ]
                    for name in contenders
                }
                rows += _rounds(children, value_bytes, rounds, seconds, step)
        floors = judged(rows)
        fields = beginning.fields(base, floors)
    said = [f"{name} is not installed (python -m pip install lmdb)" for name in missing]
    return Durable(**fields, missing=said, engines=descriptions, rows=rows)


def steps(rounds: int) -> int:
    """How often ``measure`` calls its ``step``."""
    count = len(CONTENDERS) - len(engines.installed()[1])
    return len(VALUE_SIZES) * (count + rounds * len(PROCESSES))


def bytes_needed(rounds: int, seconds: float, keys: int) -> int:
    """About what all stores together take at most, at the larger value size."""
    size = max(VALUE_SIZES)
    written = int(rounds * seconds * 60_000) * (size + 320)
    return keys * (6 * size + 700) + written + (1 + max(PROCESSES)) * 2 * _ROOM


def _load(engine: type[Engine], directory: Path, work: Work) -> str:
    """A new store with all keys; what its engine is called."""
    store = engine(directory, keys=len(work.keys), value_bytes=work.value_bytes, create=True)
    pairs = work.pairs(work.keys.tolist())
    for first in range(0, len(pairs), BATCH):
        store.put_many(pairs[first : first + BATCH])
    store.close()
    return store.description


def _rounds(
    children: Mapping[str, Sequence[Child]], value_bytes: int, rounds: int, seconds: float, step: Step
) -> list[Row]:
    """The interleaved rounds, after one that does not count; then every process looks for what it wrote."""
    for each in children.values():
        for child in each:
            child.answer()  # it is ready
    rates: dict[int, dict[str, list[float]]] = {count: {name: [] for name in children} for count in PROCESSES}
    for turn in range(-1, rounds):
        for count in PROCESSES:
            if turn >= 0:
                step(f"{count} x put {value_bytes} B")
            for name in rotated(list(children), turn + 1):
                rate = _rate(children[name][:count], seconds if turn >= 0 else min(seconds, 0.2))
                if turn >= 0:
                    rates[count][name].append(rate)
    for each in children.values():
        for child in each:
            child.ask(None)
            child.end()
    return [row(value_bytes, count, rates[count]) for count in PROCESSES]


def _rate(children: Sequence[Child], seconds: float) -> float:
    """Puts per second of all these processes together."""
    begin = time.monotonic() + 0.02
    for child in children:
        child.send((begin, begin + seconds))
    return float(sum(child.answer() for child in children))


def row(value_bytes: int, processes: int, rates: Mapping[str, list[float]]) -> Row:
    """Medians and ratios of the rounds."""
    ratios = {
        other: [ours / theirs for ours, theirs in zip(rates["kvs"], rates[other], strict=True)]
        for other in rates
        if other != "kvs"
    }
    return Row(
        value_bytes=value_bytes,
        processes=processes,
        rates=dict(rates),
        medians={name: statistics.median(each) for name, each in rates.items()},
        ratios=ratios,
        ratio_medians={name: statistics.median(each) for name, each in ratios.items()},
    )


def judged(rows: Sequence[Row]) -> list[Floor]:
    """The floors, held against what was measured."""
    return [
        at_least(
            f"{each.value_bytes} B, {each.processes} process{'es' if each.processes > 1 else ''}, kvs / LMDB",
            each.ratio_medians.get(engines.Lmdb.name),
            FLOORS[each.processes],
        )
        for each in rows
    ]


def tables(report: Durable) -> list[Grid]:
    """Puts per second and ratios."""
    names = list(report.engines)
    others = [name for name in names if name != "kvs"]
    return [
        Grid(
            ("durable puts/s", "processes", *names, *(f"kvs/{other}" for other in others)),
            [
                (
                    f"{each.value_bytes} B",
                    str(each.processes),
                    *(f"{each.medians[name]:,.0f}" for name in names),
                    *(f"{each.ratio_medians[other]:.2f}" for other in others),
                )
                for each in report.rows
            ],
        )
    ]


def _put(pipe: Any, name: str, directory: Path, keys: int, value_bytes: int, seed: int, number: int) -> None:
    """One process: answers that it is ready, then, to every ``(begin, end)``, with its puts per second in between. To
    ``None`` it answers once it has found everything that it was told is written.
    """
    work = Work(Settings(keys=keys, seed=seed), value_bytes)
    own: list[bytes] = work.keys[number :: max(PROCESSES)].tolist()
    last: dict[bytes, bytes] = {}
    done = 0
    store = CONTENDERS[name](directory, keys=keys, value_bytes=value_bytes, create=False)
    with contextlib.closing(store):
        pipe.send(None)
        for begin, end in iter(pipe.recv, None):
            time.sleep(max(0.0, begin - time.monotonic()))
            first, now = done, begin
            while now < end:
                key, value = own[done * 7919 % len(own)], done.to_bytes(8, "little") * (value_bytes // 8)
                store.puts([(key, value)])
                now = time.monotonic()
                last[key] = value
                done += 1
            pipe.send((done - first) / (now - begin))
        if store.values(list(last)) != list(last.values()):
            raise HarnessError("it does not find what it was told is written: nothing here means anything")
    pipe.send(None)
