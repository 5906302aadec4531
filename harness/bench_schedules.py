"""``harness bench --harness``: complete schedules, and crash images, a second on one core, in one run.

A schedule is complete when the store was put back, every process opened it, ran and ended or was killed, the store was
examined and the history judged. The stages take turns, so that a slow moment of the machine hits all of them, and the
median of the rounds counts. Everything is pinned to one core, children included.

An image is complete when it was made, recovered by the store, read, checked, written to, closed and opened again; the
recording of the runs that the images are of is in the time.

The peer is frontrun (its exploration over processes, of two that increment a counter in SQLite), where it is installed:
what its users get, not the same work. It is measured from its first schedule to its last, without its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from harness.crew import Note
from harness.errors import HarnessError
from harness.oracle import Judge
from harness.powerloss.job import Job, Options, Order
from harness.powerloss.outage import SCENARIOS, scratch
from harness.scenarios import named
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.stepped.base import Stage
from harness.stepped.execution import conduct
from harness.stepped.real import Real
from harness.stepped.simulated import Simulated
from harness.verdict import Outcome
from kvs import syncpoints

RESULTS: Final = Path("results/bench-harness.json")
SCENARIO: Final = "speed"
"""Two writers and a reader, three transactions each, one kill."""
SIMULATED: Final = "simulated"
REAL: Final = "real processes"
PEER: Final = "frontrun"
IMAGES: Final = "crash images"
FLOORS: Final = {SIMULATED: 500.0, REAL: 150.0, IMAGES: 200.0}
"""Schedules per second on one core that each stage must reach, and images."""
_PER_RUN: Final = 250
_STEPS: Final = 160
_PEER_SCHEDULES: Final = 70
_PEER_LIMIT_S: Final = 120.0

Step = Callable[[str], None]
"""Called before each measurement with its name."""


class Row(msgspec.Struct, kw_only=True):
    """One contender: schedules per second of each round, their median, the floor where there is one, and what the
    schedules held on average.
    """

    name: str
    rates: list[float]
    median: float
    floor: float | None = None
    met: bool | None = None
    steps: float = 0.0
    kills: float = 0.0


class Result(msgspec.Struct, kw_only=True):
    """One run of the benchmark; what the JSON file holds. ``missing``: why the peer was not measured, if it was not."""

    outcome: Outcome
    command: str
    started: str
    seconds: float
    cpu: int
    machine: dict[str, Any]
    versions: dict[str, str]
    scenario: str
    seed: int
    rows: list[Row]
    missing: str = ""


class _Contender:
    """One stage with its strategies, alternating between the random walk and PCT, every schedule judged."""

    def __init__(self, name: str, stage: Stage, seed: int) -> None:
        self.name = name
        self.rates: list[float] = []
        self.steps = self.kills = self.count = 0
        self._stage = stage
        self._judge = Judge(stage.place.setup)
        points = list(syncpoints.POINTS)
        self._strategies = (RandomWalk(seed, _STEPS, points), Pct(seed, _STEPS, points))

    def run(self, seconds: float) -> None:
        """Schedules for ``seconds``, then the rate. Raises HarnessError if one of them found anything."""
        began = time.perf_counter()
        first = self.count
        while (elapsed := time.perf_counter() - began) < seconds or self.count == first:
            strategy = self._strategies[self.count % 2]
            strategy.begin(self._stage.scenario, self.count)
            execution = conduct(self._stage, strategy)
            findings, _ = self._judge.findings(execution)
            if findings:
                raise HarnessError(f"schedule {self.count} of the benchmark found: {findings[0].message}")
            self.count += 1
            self.steps += len(execution.steps)
            self.kills += len(execution.kills)
        self.rates.append((self.count - first) / elapsed)

    def row(self) -> Row:
        """What was measured."""
        median = statistics.median(self.rates)
        floor = FLOORS[self.name]
        return Row(
            name=self.name,
            rates=self.rates,
            median=median,
            floor=floor,
            met=median >= floor,
            steps=self.steps / self.count,
            kills=self.kills / self.count,
        )


class _Images:
    """Cuts of runs of all general scenarios in turns, as ``harness powerloss`` makes them, but for second cuts."""

    name = IMAGES

    def __init__(self, directory: Path, seed: int) -> None:
        self.rates: list[float] = []
        self._orders = 0
        options = Options(scenarios=SCENARIOS, seed=seed, per_run=_PER_RUN, twice_every=0)
        self.job = Job(options, directory)

    def run(self, seconds: float) -> None:
        """Images for ``seconds``, then the rate. Raises HarnessError if one of them was not right."""
        began, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds or not done:
            tally = self.job.work(Order(self._orders), Note())
            self._orders += 1
            if tally.found:
                raise HarnessError(f"an image of the benchmark was not right: {tally.found[0].message}")
            done += tally.states
        self.rates.append(done / elapsed)

    def row(self) -> Row:
        """What was measured."""
        median, floor = statistics.median(self.rates), FLOORS[IMAGES]
        return Row(name=IMAGES, rates=self.rates, median=median, floor=floor, met=median >= floor)


def measure(*, rounds: int, seconds: float, seed: int, step: Step) -> Result:
    """Measure both stages, the images and the peer in ``rounds`` rounds of ``seconds`` each.

    Raises:
        HarnessError: a schedule found something: the store is broken, and its speed is of no interest.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    missing = (
        ""
        if util.find_spec(PEER)
        else "frontrun is not installed (python -m pip install 'kvs-torture[peers]')"
    )
    peer: list[float] = []
    with pinned() as cpu, contextlib.ExitStack() as stack:
        contenders: list[_Contender | _Images] = []
        for name, kind in ((SIMULATED, Simulated), (REAL, Real)):
            stage: Stage = kind(named(SCENARIO))
            stack.callback(stage.close)
            contenders.append(_Contender(name, stage, seed))
        images = _Images(stack.enter_context(scratch()), seed)
        stack.callback(images.job.close)
        contenders.append(images)
        for number in range(rounds):
            for contender in contenders if number % 2 else contenders[::-1]:
                step(f"round {number + 1}: {contender.name}")
                contender.run(seconds)
            if not missing:
                step(f"round {number + 1}: {PEER}")
                peer.append(peer_rate())
    rows = [contender.row() for contender in contenders]
    if peer:
        rows.append(Row(name=PEER, rates=peer, median=statistics.median(peer)))
    return Result(
        outcome=Outcome.OK if all(row.met is not False for row in rows) else Outcome.VIOLATION,
        command=shlex.join(["harness", *sys.argv[1:]]),
        started=started,
        seconds=time.monotonic() - began,
        cpu=cpu,
        machine=machine(),
        versions=versions(),
        scenario=SCENARIO,
        seed=seed,
        rows=rows,
        missing=missing,
    )


@contextlib.contextmanager
def pinned() -> Iterator[int]:
    """This process and its children on one core; yields which. Afterwards on all that it had before."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": os.uname().release}


def versions() -> dict[str, str]:
    """The software that was measured."""
    found = {"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version}
    for name in ("kvs-torture", "greenlet", PEER):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def peer_rate() -> float:
    """frontrun's schedules per second, in a process of its own (it patches what it imports).

    Raises:
        HarnessError: it failed; its last words are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as directory:
        command = [
            sys.executable,
            "-m",
            "harness.bench_peer",
            str(Path(directory) / "counter.db"),
            str(_PEER_SCHEDULES),
        ]
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, timeout=_PEER_LIMIT_S, check=False
        )
    if done.returncode:
        raise HarnessError(f"frontrun failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["per_second"])


def print_result(console: Console, result: Result) -> None:
    """The table, then the verdict."""
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "a second", "floor", "", "steps", "kills"):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for row in result.rows:
        floor = f"{row.floor:.0f}" if row.floor is not None else ""
        mark = {True: "[green]ok[/]", False: "[red]missed[/]", None: "the peer"}[row.met]
        held = (f"{row.steps:.0f}", f"{row.kills:.2f}") if row.steps else ("", "")
        table.add_row(row.name, f"{row.median:,.0f}", floor, mark, *held)
    console.print(table)
    if result.missing:
        console.print(result.missing)
    met = sum(row.met is True for row in result.rows)
    style = "bold green" if result.outcome is Outcome.OK else "bold red"
    console.print(f"[{style}]{result.outcome.value}[/]  {met} of {len(FLOORS)} floors met, on one core")


def steps(rounds: int) -> int:
    """How often ``measure`` calls its ``step``."""
    return rounds * (len(FLOORS) + (util.find_spec(PEER) is not None))
