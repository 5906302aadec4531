"""``harness bench --large``: ten million keys, from the first to the last step that a store goes through.

Every step is a process of its own, so that its memory is its own: what counts is the most that it was seen with outside
of files and shared maps. Beside them stand the openings that must be short, after a clean close and after a kill in the
middle of a commit, and the one that makes the index anew.
"""

from __future__ import annotations

import signal
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

import msgspec

from harness import bench_engines as engines
from harness import bench_report
from harness.bench import Step
from harness.bench_busy import BATCH
from harness.bench_children import Crew
from harness.bench_large_job import KILLS, Done, Job, die, run, survive
from harness.bench_report import Beginning, Floor, Grid, Report, at_most, duration
from harness.errors import HarnessError

RESULTS: Final = Path("results/bench-large.json")
TITLE: Final = "Many keys"
NEEDS_DISK: Final = False
ROUNDS: Final = 5
SECONDS: Final = 0.0
"""Nothing here goes on for a given time."""
KEYS: Final = 10_000_000
REBUILT: Final = 1_000_000
MEMORY_MIB: Final = 256
REOPEN_S: Final = 0.05
REPAIR_S: Final = 0.05
REBUILD_S: Final = 4.0
STEPS: Final = ("load", "get", "iterate", "overwrite", "compact", "reopen", "verify")
_LIMIT_S: Final = 1800.0
_SAMPLE_S: Final = 0.005
REBUILD: Final = "rebuild"
_REBUILDS: Final = {REBUILD: BATCH, "rebuild, a put each": 1}


class Large(Report, kw_only=True):
    """One run; what the JSON file holds: the steps on the large store, then the rebuilds of the smaller ones, and
    the repairs, each with all its rounds.
    """

    steps: list[Done]
    rebuilds: list[Done]
    repairs: list[Done]


def measure(
    *, rounds: int, seconds: float, keys: int, seed: int, directory: Path | None, step: Step
) -> Large:
    """Take ``keys`` keys through every step; what is short is measured ``rounds`` times. Nothing is left behind.

    Raises:
        UsageError: no room. HarnessError: a process died, or the store is not what it should be.
    """
    del seconds
    parent = bench_report.place(directory, disk=NEEDS_DISK)
    rebuilt = min(keys, REBUILT)
    beginning = Beginning({"rounds": rounds, "keys": keys, "rebuilt_keys": rebuilt, "seed": seed})
    with engines.scratch(parent, bytes_needed(keys)) as base:
        large = Job("", base / "large", keys, seed)
        done = [
            _conduct(large, what, step) for what in STEPS for _ in range(rounds if what == "reopen" else 1)
        ]
        small = Job("", base / "durable", rebuilt, seed, durable=True)
        _conduct(small, "load", step)
        repairs = [
            _repair(msgspec.structs.replace(job, point=point, version=number), survivor, step)
            for number, (point, survivor) in enumerate(product(KILLS, (False, True) * rounds), 1000)
            for job in (small if point.startswith("durable") else large,)
        ]
        done.append(_conduct(large, "verify", step, "verify, after the repairs"))
        rebuilds = []
        for name, batch in _REBUILDS.items():
            job = Job("", base / name, rebuilt, seed, batch=batch)
            _conduct(job, "load", step)
            rebuilds += [_conduct(job, "rebuild", step, name) for _ in range(rounds)]
        fields = beginning.fields(base, judged(done, rebuilds, repairs))
    return Large(**fields, steps=done, rebuilds=rebuilds, repairs=repairs)


def steps(rounds: int) -> int:
    """How often ``measure`` calls its ``step``."""
    once = len(STEPS) - 1 + 1 + 1 + len(_REBUILDS)
    return once + rounds * (1 + 2 * len(KILLS) + len(_REBUILDS))


def bytes_needed(keys: int) -> int:
    """About what the stores take at most: records, what is overwritten and moved, two generations of the index (the
    larger one has up to six places for a key), and the small stores.
    """
    return keys * 700 + 4 * min(keys, REBUILT) * 400 + (256 << 20)


def _conduct(job: Job, what: str, step: Step, name: str = "") -> Done:
    """A job in a process of its own, with the most memory that it was seen with; called ``name``, if it is."""
    step(name or what)
    with Crew() as crew:
        child = crew.add(f"the process of {what!r}", run, msgspec.structs.replace(job, what=what))
        done: Done = child.answer(_LIMIT_S, _SAMPLE_S)
        child.end()
    return msgspec.structs.replace(done, what=name or what, anonymous_bytes=child.anonymous_bytes)


def _repair(job: Job, survivor: bool, step: Step) -> Done:
    """Kill a writer inside a commit, then let one who had the store open, or one who opens it then, write."""
    with Crew() as crew:
        other = crew.add("the survivor", survive, job) if survivor else None
        if other:
            other.answer()
        dead = crew.add("the writer that is killed", die, job)
        if dead.end(_LIMIT_S) != -signal.SIGKILL:
            raise HarnessError(dead.answer() or "the writer was not killed")
        if other:
            step(f"repair after {job.point}")
            done: Done = other.ask(None)
            other.end()
            return done
    return _conduct(job, "repair", step, f"{job.point}, a newcomer")


def judged(done: Sequence[Done], rebuilds: Sequence[Done], repairs: Sequence[Done]) -> list[Floor]:
    """The floors: of memory the worst process counts, of times the median; of repairs that of the slowest kind."""
    memory = max((each.anonymous_bytes for each in (*done, *rebuilds)), default=0)
    reopened = medians([each for each in done if each.what == "reopen"]).values()
    rebuilt = medians([each for each in rebuilds if each.what == REBUILD and each.count >= REBUILT]).values()
    repaired = medians(repairs).values()
    return [
        at_most("memory outside of shared maps", memory / (1 << 20) if memory else None, MEMORY_MIB, "MiB"),
        at_most("reopening after a clean close", max(reopened, default=None), REOPEN_S, "s"),
        at_most(f"rebuilding the index of {REBUILT:,} keys", max(rebuilt, default=None), REBUILD_S, "s"),
        at_most("repair after a kill", max(repaired, default=None), REPAIR_S, "s"),
    ]


def medians(done: Sequence[Done]) -> dict[str, float]:
    """The median time of everything of the same name."""
    names = dict.fromkeys(each.what for each in done)
    return {name: statistics.median(each.seconds for each in done if each.what == name) for name in names}


def tables(report: Large) -> list[Grid]:
    """The steps with the memory of each, then the repairs."""
    every = [*report.steps, *report.rebuilds]
    rows = []
    for name, seconds in medians(every).items():
        same = [each for each in every if each.what == name]
        count = same[0].count
        rows.append(
            (
                name,
                f"{count:,}" if count > 1 else "",
                duration(seconds),
                f"{count / seconds:,.0f}" if count > 1 else "",
                f"{max(each.anonymous_bytes for each in same) / (1 << 20):.0f} MiB",
            )
        )
    (compacted,) = (each for each in report.steps if each.what == "compact")
    return [
        Grid(("step", "keys", "time", "keys/s", "memory"), rows),
        Grid(
            ("compaction", "MB"),
            [(name.removesuffix("_bytes"), f"{count / 1e6:,.1f}") for name, count in compacted.said.items()],
        ),
        Grid(
            ("killed at", "time to repair"),
            [(name, duration(seconds)) for name, seconds in medians(report.repairs).items()],
        ),
    ]
