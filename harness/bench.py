"""``harness bench``: kvs beside SQLite and LMDB, in one run on one machine, so that the ratios mean something.

Every engine does the same work: the same keys in the same order, the same value bytes, through the calls that its
own users would make. What an API costs by design (kvs normalises keys and checks hashes, LMDB returns pairs) is
left in. Engines take turns within every round and begin in another order each time, so that a slow moment of the
machine hits all of them; a ratio is computed per round, and the median of the rounds is reported.

Not durable: no engine syncs. On a directory in memory this measures processors, not devices.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from harness import bench_engines as engines
from harness.bench_engines import Engine
from harness.bench_handoff import Handoff, handoff
from harness.errors import HarnessError
from harness.verdict import Outcome

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

RESULTS: Final = Path("results/bench.json")
BATCH: Final = 1024
VALUE_SIZES: Final = (16, 1024)
_SLICES: Final = 20  # of the load: every engine loads one before any loads the next


class Cell(NamedTuple):
    """One thing that is measured: the engine's method, how many keys it gets per call (the clock is looked at
    in between), and the most keys of one round.
    """

    name: str
    method: str
    chunk: int
    keys_max: int


CELLS: Final = (
    Cell("get", "gets", 2_000, 40_000),
    Cell("get_many", "get_many", BATCH, 64 * BATCH),
    Cell("batch put", "put_many", BATCH, 32 * BATCH),
    Cell("put", "puts", 500, 10_000),
)
"""Short ones and many rounds: on a shared machine the median of many ratios is steadier than that of few."""
LOAD: Final = Cell("load", "put_many", BATCH, 1 << 62)

FLOORS: Final = {
    ("get", 16): 1.0,
    ("get", 1024): 1.0,
    ("get_many", 16): 1.5,
    ("get_many", 1024): 1.5,
    ("batch put", 16): 0.9,
    ("batch put", 1024): 1.5,
    ("put", 16): 0.4,
    ("put", 1024): 0.4,
}
"""What kvs must reach, as a multiple of LMDB."""
FLOOR_PEER: Final = "LMDB"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    keys: int = 1_000_000
    rounds: int = 15
    cell_seconds: float = 0.25
    seed: int = 1


class Row(msgspec.Struct, kw_only=True):
    """One cell at one value size: keys per second of each engine in each round, the medians, kvs / peer in
    each round, its median, and the floor where there is one (``met`` is ``None`` where that is not known).
    """

    cell: str
    value_bytes: int
    rates: dict[str, list[float]]
    medians: dict[str, float]
    ratios: dict[str, list[float]]
    ratio_medians: dict[str, float]
    floor: float | None = None
    met: bool | None = None


class Result(msgspec.Struct, kw_only=True):
    """Everything about one run of the benchmark; what the JSON file holds."""

    outcome: Outcome
    command: str
    started: str
    seconds: float
    directory: str
    file_system: str
    versions: dict[str, str]
    engines: dict[str, str]
    missing: list[str]
    machine: dict[str, Any]
    settings: Settings
    rows: list[Row]
    handoff: list[Handoff]


_Contender = TypeVar("_Contender")
Step = Callable[[str], None]
"""Told what is done next, outside of every timed section."""


class Work:
    """Keys, samples of them and values, all from one seed: the same for every engine."""

    def __init__(self, settings: Settings, value_bytes: int) -> None:
        import numpy as np

        self._rng = np.random.default_rng((settings.seed, value_bytes))
        self._np = np
        self.value_bytes = value_bytes
        self.keys: npt.NDArray[np.void] = np.frombuffer(self._rng.bytes(16 * settings.keys), dtype="V16")

    def sample(self, count: int) -> list[bytes]:
        """``count`` different keys (all of them, where there are fewer) in random order, as fresh objects."""
        chosen: list[bytes] = self.keys[self._rng.permutation(len(self.keys))[:count]].tolist()
        return chosen

    def pairs(self, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Each key with a new random value."""
        data = self._rng.bytes(self.value_bytes * len(keys))
        values = self._np.frombuffer(data, dtype=f"V{self.value_bytes}").tolist()
        return list(zip(keys, values, strict=True))

    def chunks(self, cell: Cell, count: int) -> list[Any]:
        """A round's work of ``cell``: the arguments of its calls, ``count`` keys in all."""
        keys = self.sample(count)
        items: list[Any] = self.pairs(keys) if "put" in cell.name else keys
        return [items[i : i + cell.chunk] for i in range(0, len(items), cell.chunk)]


def timed(call: Callable[[Any], object], chunks: Sequence[Any], seconds: float) -> float:
    """Keys per second of ``call`` over ``chunks``, stopping after the first chunk that ends past ``seconds``.
    The collector runs before and not meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        done = 0
        started = now = time.perf_counter()
        end = started + seconds
        for chunk in chunks:
            call(chunk)
            done += len(chunk)
            now = time.perf_counter()
            if now >= end:
                break
        return done / (now - started)
    finally:
        gc.enable()


def rotated(contenders: Sequence[_Contender], turn: int) -> list[_Contender]:
    """The contenders in the order of this turn."""
    first = turn % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def row(cell: str, value_bytes: int, rates: Mapping[str, list[float]]) -> Row:
    """Medians and ratios of the rounds, judged by the floor where the cell has one."""
    ratios = {
        peer: [ours / theirs for ours, theirs in zip(rates["kvs"], rates[peer], strict=True)]
        for peer in rates
        if peer != "kvs"
    }
    medians = {peer: statistics.median(each) for peer, each in ratios.items()}
    floor = FLOORS.get((cell, value_bytes))
    known = floor is not None and FLOOR_PEER in medians
    return Row(
        cell=cell,
        value_bytes=value_bytes,
        rates=dict(rates),
        medians={name: statistics.median(each) for name, each in rates.items()},
        ratios=ratios,
        ratio_medians=medians,
        floor=floor,
        met=medians[FLOOR_PEER] >= floor if known and floor is not None else None,
    )


def judge(rows: Sequence[Row]) -> Outcome:
    """A missed floor is a violation; otherwise one that could not be compared, or none at all, is unknown."""
    met = [each.met for each in rows if each.floor is not None]
    if False in met:
        return Outcome.VIOLATION
    return Outcome.UNKNOWN if None in met or not met else Outcome.OK


def load(work: Work, contenders: Sequence[Engine], place: Path, step: Step) -> Row:
    """Put every key into the empty stores, slice by slice, and compare a sample of what is in them then."""
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    size = -(-len(work.keys) // _SLICES)
    for turn, first in enumerate(range(0, len(work.keys), size)):
        pairs = work.pairs(work.keys[first : first + size].tolist())
        chunks = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        for each in rotated(contenders, turn):
            engines.touch_memory(place, len(pairs) * (work.value_bytes + 192))
            rates[each.name].append(timed(each.put_many, chunks, float("inf")))
        _expect(contenders, chunks[0])
        step(f"load {work.value_bytes} B")
    return row(LOAD.name, work.value_bytes, rates)


def warm_up(work: Work, contenders: Sequence[Engine]) -> None:
    """Every cell of every engine once, untimed, with keys of its own; all must then hold the same."""
    for cell in CELLS:
        chunks = work.chunks(cell, 2 * BATCH)
        for each in contenders:
            for chunk in chunks:
                getattr(each, cell.method)(chunk)
        if "put" in cell.name:
            _expect(contenders, chunks[0])


def _expect(contenders: Sequence[Engine], pairs: list[tuple[bytes, bytes]]) -> None:
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    for each in contenders:
        if each.values(keys) != values or each.gets(keys) != values[-1]:
            raise HarnessError(
                f"{each.name} does not return what was put into it: nothing here means anything"
            )


def populated(
    settings: Settings, work: Work, contenders: Sequence[Engine], place: Path, step: Step
) -> list[Row]:
    """The interleaved rounds on the loaded stores."""
    warm_up(work, contenders)
    rates: dict[str, dict[str, list[float]]] = {
        cell.name: {each.name: [] for each in contenders} for cell in CELLS
    }
    for turn in range(settings.rounds):
        for cell in CELLS:
            chunks = work.chunks(cell, min(cell.keys_max, settings.keys))
            for each in rotated(contenders, turn):
                if "put" in cell.name:
                    engines.touch_memory(place, sum(map(len, chunks)) * (work.value_bytes + 192))
                rate = timed(getattr(each, cell.method), chunks, settings.cell_seconds)
                rates[cell.name][each.name].append(rate)
            step(f"{cell.name} {work.value_bytes} B")
    return [row(cell.name, work.value_bytes, rates[cell.name]) for cell in CELLS]


def bytes_needed(settings: Settings) -> int:
    """About what the stores take at most, all together, at the larger value size."""
    size = max(VALUE_SIZES)
    written = settings.rounds * sum(min(c.keys_max, settings.keys) for c in CELLS if "put" in c.name)
    return settings.keys * (4 * size + 700) + written * (size + 128) + (64 << 20)


def conduct(settings: Settings, directory: Path | None, step: Step) -> Result:
    """Run the whole benchmark. Nothing of it is left on any file system afterwards.

    Raises:
        UsageError: no room. HarnessError: an engine lost something, or a process of it died.
    """
    gc.freeze()  # what is there already is not collected again before every timed section
    try:
        return _conduct(settings, directory, step)
    finally:
        gc.unfreeze()


def _conduct(settings: Settings, directory: Path | None, step: Step) -> Result:
    started, clock = datetime.now(UTC), time.monotonic()
    present, missing = engines.installed()
    about = engines.machine() | {"load_average_before": os.getloadavg()}
    rows: list[Row] = []
    descriptions: dict[str, str] = {}
    with engines.scratch(directory, bytes_needed(settings)) as base:
        file_system = engines.file_system(base)
        for value_bytes in VALUE_SIZES:
            work = Work(settings, value_bytes)
            place = base / f"values-{value_bytes}"
            with contextlib.ExitStack() as stack:
                contenders: list[Engine] = []
                for engine in present:
                    each = engine(
                        place / engine.name, keys=settings.keys, value_bytes=value_bytes, create=True
                    )
                    stack.callback(each.close)
                    contenders.append(each)
                    descriptions[engine.name] = each.description
                rows.append(load(work, contenders, place, step))
                rows += populated(settings, work, contenders, place, step)
            shutil.rmtree(place)
        hand = []
        for engine in present:
            hand.append(
                handoff(engine, base / f"handoff-{engine.name}", 8 * settings.cell_seconds, settings.seed)
            )
            step(f"lock hand-off {engine.name}")
        where = str(base.parent)
    return Result(
        outcome=judge(rows),
        command=shlex.join(["harness", *sys.argv[1:]]),
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock,
        directory=where,
        file_system=file_system,
        versions=engines.versions(),
        engines=descriptions,
        missing=missing,
        machine=about | {"load_average_after": os.getloadavg()},
        settings=settings,
        rows=rows,
        handoff=hand,
    )


def steps(settings: Settings) -> int:
    """How many times ``conduct`` calls its ``step``."""
    slices = -(-settings.keys // -(-settings.keys // _SLICES))
    return len(VALUE_SIZES) * (slices + settings.rounds * len(CELLS)) + len(engines.installed()[0])


def print_result(console: Console, result: Result) -> None:
    """The tables, what is missing, and the verdict."""
    from rich.table import Table

    peers = [name for name in result.engines if name != "kvs"]
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("keys per second", no_wrap=True)
    for heading in ("value", "kvs", *peers, *(f"kvs/{peer}" for peer in peers), "floor"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for each in result.rows:
        mark = {True: "[green]pass", False: "[bold red]FAIL", None: "[yellow]unknown"}[each.met]
        table.add_row(
            each.cell,
            f"{each.value_bytes} B",
            *(_short(each.medians[name]) for name in ("kvs", *peers)),
            *(f"{each.ratio_medians[peer]:.2f}" for peer in peers),
            "" if each.floor is None else f"{each.floor:.1f}",
            "" if each.floor is None else mark,
        )
    console.print(table)
    hand = Table(box=None, pad_edge=False)
    hand.add_column("lock hand-off", no_wrap=True)
    for heading in ("processes", "commits/s", "fewest", "most", "p99 wait", "longest wait"):
        hand.add_column(heading, justify="right", no_wrap=True)
    for one in result.handoff:
        hand.add_row(
            one.engine,
            str(one.processes),
            _short(one.commits_per_s),
            str(min(one.commits_of_each)),
            str(max(one.commits_of_each)),
            _duration(one.wait_p99_s),
            _duration(one.wait_longest_s),
        )
    console.print()
    console.print(hand)
    style = {Outcome.OK: "bold green", Outcome.VIOLATION: "bold red", Outcome.UNKNOWN: "bold yellow"}
    console.print(f"\n[{style[result.outcome]}]{result.outcome.value}[/]  {_verdict(result)}")


def _verdict(result: Result) -> str:
    compared = [each for each in result.rows if each.floor is not None]
    if result.outcome is Outcome.UNKNOWN:
        return (
            f"{FLOOR_PEER} is not installed, so none of the {len(compared)} floors could be compared"
            " (python -m pip install lmdb)"
        )
    missed = sum(each.met is False for each in compared)
    scaled = (
        "" if result.settings.keys >= Settings().keys else " (scaled down: the floors are for a million keys)"
    )
    return f"{len(compared) - missed} of {len(compared)} floors met{scaled}"


def _short(rate: float) -> str:
    if rate >= 1e6:
        return f"{rate / 1e6:.2f}M"
    return f"{rate / 1e3:.0f}k" if rate >= 1e4 else f"{rate:,.0f}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.0f} us"
