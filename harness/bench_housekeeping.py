"""``harness bench --housekeeping``: what compaction gives back, and what others notice of it and of growth.

* Compaction: every key is written anew until most of the store is dead, then one compaction; the file system's blocks
  before and after, against the dead bytes by the store's own account.
* Readers: another process gets keys all the time; the median latency in the windows of compaction and of growth, over
  that of a quiet moment on the same store right beside.
* Writers: another process puts single keys all the time while a fresh store takes its keys in batches; the longest time
  between two acknowledgements. The same in a store that has room from the start, and with nobody else there, says what
  of it is the batches and the machine.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import bench_engines as engines
from harness import bench_report
from harness.bench import Step
from harness.bench_busy import APART, Order, Span, Window, busy, housekeeping
from harness.bench_children import Crew
from harness.bench_report import Beginning, Floor, Grid, Report, at_least, at_most, duration
from harness.errors import HarnessError

RESULTS: Final = Path("results/bench-housekeeping.json")
TITLE: Final = "Housekeeping"
NEEDS_DISK: Final = False
ROUNDS: Final = 5
SECONDS: Final = 0.5
KEYS: Final = 1_000_000
RETURNED: Final = 0.9
SLOWDOWN: Final = 2.0
PAUSE_S: Final = 1.0
GROWING: Final = "growing"
ALONE: Final = "nobody else"
MODES: Final = (GROWING, "room from the start", ALONE)
_VALUE_BYTES: Final = 1024
_CHURNED: Final = 25
"""The store that is compacted has a key for so many of the others: its values are longer."""
_OVERWRITES: Final = 4
_CALLS_MIN: Final = 1_000
"""A growth that met fewer gets is too short to say anything by itself."""
_LIMIT_S: Final = 600.0


class Compaction(msgspec.Struct, kw_only=True):
    """One compaction: bytes by the store's account and on the medium, and a reader before and meanwhile."""

    live_bytes: int
    dead_bytes: int
    disk_before_bytes: int
    disk_after_bytes: int
    returned: float
    seconds: float
    quiet: Span
    meanwhile: Span
    ratio: float


class Growth(msgspec.Struct, kw_only=True):
    """One growth from ``keys`` keys: how long the commit took that did it, and a reader before, meanwhile and after."""

    keys: int
    seconds: float
    quiet: Span
    meanwhile: Span
    after: Span
    ratio: float


class Pause(msgspec.Struct, kw_only=True):
    """A writer of single keys beside one of batches: how long its puts took, and the time that went into growth."""

    mode: str
    puts: Span
    batch_median_s: float
    growths: int
    growth_s: float
    load_s: float


class Housekeeping(Report, kw_only=True):
    """One run; what the JSON file holds."""

    compactions: list[Compaction]
    growths: list[Growth]
    pauses: list[Pause]


class _Both:
    """The two processes, on one store after another."""

    def __init__(self, crew: Crew) -> None:
        self._keeper = crew.add("the housekeeper", housekeeping)
        self._other = crew.add("the other process", busy)

    def keeper(self, method: str, *arguments: Any) -> Any:
        """Have a method of ``Housekeeper`` called (``open`` makes another one)."""
        return self._keeper.ask((method, arguments), _LIMIT_S)

    def begin(self, path: Path, what: str, first: int, count: int) -> None:
        """The other process begins to get or to put."""
        self._other.ask(Order(path, what, first, count))

    def end(self, *windows: Window) -> list[Span]:
        """It stops, and says how long its calls took in these windows."""
        self._other.send(None)
        spans: list[Span] = self._other.ask(windows)
        if not all(span.calls for span in spans):
            raise HarnessError("the other process came to nothing in one of the windows; it has no processor")
        return spans


def measure(
    *, rounds: int, seconds: float, keys: int, seed: int, directory: Path | None, step: Step
) -> Housekeeping:
    """Measure everything ``rounds`` times, with ``keys`` keys and quiet moments of ``seconds``. Nothing is left behind.

    Raises:
        UsageError: no room. HarnessError: a process died, or something was lost.
    """
    parent = bench_report.place(directory, disk=NEEDS_DISK)
    beginning = Beginning({"rounds": rounds, "seconds": seconds, "keys": keys, "seed": seed})
    growths: list[Growth] = []
    pauses: list[Pause] = []
    with engines.scratch(parent, bytes_needed(keys)) as base, Crew() as crew:
        both = _Both(crew)
        compactions = _compactions(both, base / "churned", rounds, seconds, keys // _CHURNED, step)
        shutil.rmtree(base / "churned")
        for number in range(rounds):
            step("growth beside a reader")
            growths += _growths(both, base / "grown", seconds, keys)
            for turn in range(len(MODES)):
                mode = MODES[(number + turn) % len(MODES)]
                step(f"a writer, {mode}")
                pauses.append(_pause(both, base / "grown", mode, seconds, keys))
        fields = beginning.fields(base, judged(compactions, growths, pauses))
    return Housekeeping(**fields, compactions=compactions, growths=growths, pauses=pauses)


def steps(rounds: int) -> int:
    """How often ``measure`` calls its ``step``."""
    return rounds * (2 + len(MODES))


def bytes_needed(keys: int) -> int:
    """About what the largest of the stores takes at most."""
    churned = keys // _CHURNED * (_VALUE_BYTES + 64) * (4 + 2 * _OVERWRITES)
    return max(churned, keys * 640) + (256 << 20)


def _compactions(
    both: _Both, path: Path, rounds: int, seconds: float, keys: int, step: Step
) -> list[Compaction]:
    """Overwrite everything and compact, again and again, beside a reader."""
    both.keeper("open", path, _VALUE_BYTES)
    both.keeper("insert", keys)
    both.keeper("overwrite", 3)  # every key has all the revisions that are kept: each one more makes one dead
    found = []
    for _ in range(rounds):
        step("compaction beside a reader")
        both.keeper("overwrite", _OVERWRITES)
        live, dead, before = both.keeper("usage")
        both.begin(path, "get", 0, keys)
        quiet = _quiet(seconds)
        during = both.keeper("compact")
        before_it, meanwhile = both.end(quiet, during)
        _, _, after = both.keeper("usage")
        found.append(
            Compaction(
                live_bytes=live,
                dead_bytes=dead,
                disk_before_bytes=before,
                disk_after_bytes=after,
                returned=(before - after) / dead,
                seconds=during.seconds,
                quiet=before_it,
                meanwhile=meanwhile,
                ratio=meanwhile.median_s / before_it.median_s,
            )
        )
    both.keeper("close")
    return found


def _growths(both: _Both, path: Path, seconds: float, keys: int) -> list[Growth]:
    """A fresh store takes its keys beside a reader, with a quiet moment before and after every growth."""
    both.keeper("open", path, 16)
    both.keeper("insert", 1024)
    found: list[Growth] = []
    there, during = 1024, None
    while True:
        both.begin(path, "get", 0, there)
        windows = [_quiet(seconds / 2)]
        during, there = both.keeper("grow", keys)
        windows += [during or windows[0], _quiet(seconds / 2)]
        quiet, meanwhile, after = both.end(*windows)
        if during is None:
            break
        if meanwhile.calls >= _CALLS_MIN:
            ratio = meanwhile.median_s / quiet.median_s
            found.append(
                Growth(
                    keys=there,
                    seconds=during.seconds,
                    quiet=quiet,
                    meanwhile=meanwhile,
                    after=after,
                    ratio=ratio,
                )
            )
    both.keeper("close")
    return found


def _pause(both: _Both, path: Path, mode: str, seconds: float, keys: int) -> Pause:
    """A writer of single keys while a fresh store takes its keys, or while nobody else is there."""
    both.keeper("open", path, 16, None if mode == GROWING else keys + _CALLS_MIN)
    both.begin(path, "put", APART, _CALLS_MIN)
    if mode == ALONE:
        batches, grew = [_quiet(4 * seconds)], []
    else:
        batches, grew = both.keeper("insert", keys)
    whole = Window(batches[0].begin, batches[-1].end)
    (puts,) = both.end(whole)
    both.keeper("close")
    median = statistics.median(each.seconds for each in batches)
    return Pause(
        mode=mode,
        puts=puts,
        batch_median_s=median,
        growths=len(grew),
        growth_s=sum(each.seconds - median for each in grew),
        load_s=whole.seconds,
    )


def _quiet(seconds: float) -> Window:
    """A moment in which only the other process does anything."""
    begin = time.monotonic_ns()
    time.sleep(seconds)
    return Window(begin, time.monotonic_ns())


def judged(
    compactions: Sequence[Compaction], growths: Sequence[Growth], pauses: Sequence[Pause]
) -> list[Floor]:
    """The floors: of what is given back and of the writers' pauses the worst round counts, of ratios the median, and of
    growths the one from most keys, which lasts longest.
    """
    most = max((each.keys for each in growths), default=0)
    grown = [each for each in pauses if each.mode == GROWING and each.growths]
    return [
        at_least("dead bytes returned", min((each.returned for each in compactions), default=None), RETURNED),
        at_most("get, compaction / quiet", _median([each.ratio for each in compactions]), SLOWDOWN),
        at_most(
            "get, growth / quiet", _median([each.ratio for each in growths if each.keys == most]), SLOWDOWN
        ),
        at_most(
            "longest pause of a writer", max((p.puts.longest_s for p in grown), default=None), PAUSE_S, "s"
        ),
    ]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def tables(report: Housekeeping) -> list[Grid]:
    """One table for each question; latencies are medians."""
    return [
        Grid(
            ("compaction", "live MB", "dead MB", "returned", "time", "get", "quiet", "ratio"),
            [
                (
                    f"round {number}",
                    f"{each.live_bytes / 1e6:,.1f}",
                    f"{each.dead_bytes / 1e6:,.1f}",
                    f"{each.returned:.1%}",
                    duration(each.seconds),
                    duration(each.meanwhile.median_s),
                    duration(each.quiet.median_s),
                    f"{each.ratio:.2f}",
                )
                for number, each in enumerate(report.compactions, 1)
            ],
        ),
        Grid(
            ("growth, from", "time", "get", "before", "after", "ratio"),
            [
                (
                    f"{each.keys:,} keys",
                    duration(each.seconds),
                    duration(each.meanwhile.median_s),
                    duration(each.quiet.median_s),
                    duration(each.after.median_s),
                    f"{each.ratio:.2f}",
                )
                for each in sorted(report.growths, key=lambda each: each.keys)
            ],
        ),
        Grid(
            ("single puts", "median", "p99", "longest", "growths", "in growth", "load"),
            [_pause_row(mode, [p for p in report.pauses if p.mode == mode]) for mode in MODES],
        ),
    ]


def _pause_row(mode: str, pauses: Sequence[Pause]) -> tuple[str, ...]:
    """One mode: the medians of its rounds, but the longest of all."""

    def median(values: Iterable[float]) -> str:
        return duration(statistics.median(values))

    alone = mode == ALONE
    return (
        mode,
        median(each.puts.median_s for each in pauses),
        median(each.puts.p99_s for each in pauses),
        duration(max(each.puts.longest_s for each in pauses)),
        "" if alone else str(pauses[0].growths),
        median(each.growth_s for each in pauses) if mode == GROWING else "",
        "" if alone else median(each.load_s for each in pauses),
    )
