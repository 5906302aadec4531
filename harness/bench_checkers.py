"""``harness bench --checkers``: how fast the checkers are, and how they grow from a thousand to a million transactions.

Every measurement is a process of its own, all of them on one core, the sizes in turns; the median of the rounds counts.
Rates are per second of processor time: a check is one thread that waits for nothing, so on a machine of its own that is
the same as wall time, which stands beside it, and on a shared one it is what the check itself took.
"""

from __future__ import annotations

import csv
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from harness.bench_checkers_job import Job, Measured
from harness.bench_report import Floor, at_least, at_most, judge
from harness.bench_schedules import machine, pinned, versions
from harness.errors import HarnessError, UsageError
from harness.verdict import Outcome

RESULTS: Final = Path("results/bench-checkers.json")
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
REGISTER: Final = 5_000
"""Operations of the register of which some never completed."""
_LIMIT_S: Final = 900.0
_FILE: Final = 100_000
"""The size at which the way from a file to the verdict is measured, or the largest below."""

GROWTH: Final = {"list_append": 1 << 62, "rw_register": 100_000, "commit_order": 1 << 62}
"""What is measured at every size, and up to which."""
NAMES: Final = {
    "list_append": "list-append",
    "rw_register": "rw-register",
    "commit_order": "commit order",
    "file": "list-append, EDN file",
    "indeterminate": "cas-register, 30 info",
}

LEGEND: Final = {
    "list_append": "list-append, strict-serializable",
    "rw_register": "rw-register, strict-serializable",
    "commit_order": "our store's commit order, isolation",
}

Step = Callable[[str], None]
"""Called before each measurement with its name."""


class Row(msgspec.Struct, kw_only=True):
    """One thing that was measured. ``size``: transactions, or files where there are ``files``. ``seconds`` and
    ``cpu_s`` of each round; ``rate`` and ``each_us``: transactions per second and microseconds for each, of the median
    processor time; ``peak_mb``: the most memory of any round, in 10^6 bytes; ``outcomes`` of the verdicts; ``right``:
    whether they are what is known to be true.
    """

    what: str
    name: str
    size: int
    seconds: list[float]
    cpu_s: list[float]
    median_s: float
    rate: float
    each_us: float
    peak_mb: float
    outcomes: list[str]
    right: bool


class Report(msgspec.Struct, kw_only=True):
    """One run of the benchmark; what the JSON file holds. ``missing``: what was not measured, and why."""

    outcome: Outcome
    command: str
    started: str
    seconds: float
    cpu: int
    machine: dict[str, Any]
    versions: dict[str, str]
    rounds: int
    rows: list[Row]
    floors: list[Floor]
    missing: list[str]


class _Task(NamedTuple):
    """A job, what it is called, and the outcomes that are right."""

    name: str
    job: Job
    expected: tuple[str, ...]


def measure(
    *, sizes: Sequence[int] = SIZES, rounds: int = 3, histories: Path | None = None, show: Step
) -> Report:
    """Measure everything ``rounds`` times. ``sizes`` in transactions; ``histories``: the directory with recorded
    histories (``etcd/*.log``, ``kv/c10-*`` and their verdicts in ``EXPECTED.tsv``), without which they are left out.

    Raises:
        UsageError: the histories are not there. HarnessError: a check died or did not end.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    tasks = _tasks(sizes, histories)
    found: list[list[Measured]] = [[] for _ in tasks]
    with pinned() as cpu:
        for number in range(rounds):
            for task, measured in zip(tasks, found, strict=True):
                show(f"round {number + 1}: {task.name}")
                measured.append(_conduct(task))
    rows = [_row(task, measured) for task, measured in zip(tasks, found, strict=True)]
    floors = judged(rows)
    missing = (
        [] if histories else ["the recorded histories were not measured: no directory of them was given"]
    )
    return Report(
        outcome=judge(floors),
        command=shlex.join(["harness", *sys.argv[1:]]),
        started=started,
        seconds=time.monotonic() - began,
        cpu=cpu,
        machine=machine(),
        versions=versions(),
        rounds=rounds,
        rows=rows,
        floors=floors,
        missing=missing,
    )


def steps(sizes: Sequence[int] = SIZES, rounds: int = 3, histories: Path | None = None) -> int:
    """How often ``measure`` calls its ``show``. Raises UsageError as it does."""
    return rounds * len(_tasks(sizes, histories))


def _tasks(sizes: Sequence[int], histories: Path | None) -> list[_Task]:
    """All that is measured in one round."""
    tasks = [
        _Task(f"{NAMES[what]}, {size:,}", Job(what, size), ("OK",))
        for what, most in GROWTH.items()
        for size in sizes
        if size <= most
    ]
    from_file = max((size for size in sizes if size <= _FILE), default=min(sizes))
    tasks.append(_Task(f"{NAMES['file']}, {from_file:,}", Job("file", from_file), ("OK",)))
    tasks.append(_Task(f"{NAMES['indeterminate']}, {REGISTER:,}", Job("indeterminate", REGISTER), ("OK",)))
    return tasks + (_recorded(histories) if histories else [])


def _recorded(histories: Path) -> list[_Task]:
    """The recorded histories: all etcd logs together, and the larger ones of the kv store one by one."""
    try:
        with (histories / "EXPECTED.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        expected = {row["file"]: "OK" if row["expected"] == "true" else "VIOLATION" for row in rows}
    except (OSError, KeyError) as error:
        raise UsageError(f"{histories} holds no recorded histories with an EXPECTED.tsv ({error})") from error
    etcd = sorted(name for name in expected if name.startswith("etcd/"))
    groups = [(f"the {len(etcd)} etcd logs", etcd, "cas-register")] if etcd else []
    groups += [(name, [name], "kv-append") for name in sorted(expected) if name.startswith("kv/c10-")]
    return [
        _Task(
            title,
            Job("recorded", len(names), files=tuple(str(histories / name) for name in names), model=model),
            tuple(expected[name] for name in names),
        )
        for title, names, model in groups
    ]


def _conduct(task: _Task) -> Measured:
    """The job in a process of its own."""
    command = [sys.executable, "-m", "harness.bench_checkers_job", msgspec.json.encode(task.job).decode()]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"{task.name}: no verdict after {_LIMIT_S:.0f} s") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [
            "killed, perhaps for its memory"
        ]
        raise HarnessError(f"{task.name}: the check died with status {done.returncode}: {words[0]}")
    return msgspec.json.decode(done.stdout, type=Measured)


def _row(task: _Task, measured: Sequence[Measured]) -> Row:
    """The medians of the rounds."""
    median = statistics.median(each.cpu_s for each in measured)
    return Row(
        what=task.job.what,
        name=task.name,
        size=task.job.size,
        seconds=[each.seconds for each in measured],
        cpu_s=[each.cpu_s for each in measured],
        median_s=median,
        rate=task.job.size / median,
        each_us=median / task.job.size * 1e6,
        peak_mb=max(each.peak_bytes for each in measured) / 1e6,
        outcomes=list(measured[-1].outcomes),
        right=all(each.outcomes == task.expected for each in measured),
    )


def judged(rows: Sequence[Row]) -> list[Floor]:
    """The floors, held against what was measured. A check that is fast and wrong is worth nothing: that is one, too."""
    by = {(row.what, row.size): row for row in rows}
    million, before = by.get(("list_append", 1_000_000)), by.get(("list_append", 100_000))
    order = [row for row in rows if row.what == "commit_order" and row.size >= 100_000]
    files = [row for row in rows if row.what == "recorded"]
    floors = [
        at_least("list-append at 10^6", million.rate if million else None, 100_000, "transactions/s"),
        at_most("list-append at 10^6, memory", million.peak_mb if million else None, 2_000, "MB"),
        at_most(
            "list-append, cost of one at 10^6 / at 10^5",
            million.each_us / before.each_us if million and before else None,
            1.5,
            "",
        ),
        at_least(
            "commit order, from 10^5",
            min(row.rate for row in order) if order else None,
            300_000,
            "transactions/s",
        ),
    ]
    etcd = [row.median_s for row in files if "etcd" in row.name]
    floors.append(at_most("etcd logs together", etcd[0] if etcd else None, 1.0, "s"))
    slowest = max((row.median_s for row in files if row.name.startswith("kv/")), default=None)
    floors.append(at_most("kv/c10-*, each", slowest, 2.0, "s"))
    right = sum(row.right for row in rows)
    return [*floors, at_least("verdicts that are right", right, len(rows), "")]


def draw_growth(report: Report, path: Path) -> None:
    """Plot the processor time of each check, and that of one transaction, against the transactions, into an SVG file;
    the same report always gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    looks = {
        "list_append": ("#0072b2", "o-"),
        "rw_register": ("#a0267e", "s--"),
        "commit_order": ("#d55e00", "^-."),
    }
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    whole, one = figure.subplots(1, 2)
    for what, (colour, style) in looks.items():
        rows = sorted((row for row in report.rows if row.what == what), key=lambda row: row.size)
        sizes = [row.size for row in rows]
        whole.loglog(sizes, [row.median_s for row in rows], style, color=colour, label=LEGEND[what])
        one.loglog(sizes, [row.each_us for row in rows], style, color=colour, label=LEGEND[what])
    whole.set(title="From operations to the verdict", xlabel="transactions", ylabel="seconds")
    one.set(title="Cost of one transaction", xlabel="transactions", ylabel="microseconds")
    limits = (
        ("list-append: 100,000/s", 10.0, "#0072b2", "bottom"),
        ("commit order: 300,000/s", 10 / 3, "#d55e00", "top"),
    )
    for name, limit, colour, side in limits:
        one.axhline(limit, color=colour, linewidth=0.8, linestyle=":")
        one.annotate(
            name,
            (1, limit),
            xycoords=("axes fraction", "data"),
            ha="right",
            va=side,
            size=7,
            color=colour,
        )
    one.set_ylim(bottom=0.5)
    for axes in (whole, one):
        axes.grid(visible=True, which="major", linewidth=0.4, color="#cccccc")
    whole.legend(frameon=False, fontsize=8)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def print_result(console: Console, report: Report) -> None:
    """What was measured, what is missing, the floors, then the verdict."""
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "per second", "us each", "seconds", "MB", "verdicts"):
        left = heading in ("check", "verdicts")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in report.rows:
        many = row.what == "recorded"
        rate, each = ("", "") if many else (f"{row.rate:,.0f}", f"{row.each_us:.2f}")
        said = "right" if row.right else f"[bold red]wrong: {' '.join(row.outcomes)}[/]"
        table.add_row(row.name, rate, each, f"{row.median_s:.3f}", f"{row.peak_mb:,.0f}", said)
    console.print(table)
    for words in report.missing:
        console.print(words)
    console.print()
    console.print(
        "list-append and rw-register: strict-serializable; commit order: isolation of our own histories\n"
    )
    floors = Table(box=None, pad_edge=False)
    for heading in ("floor", "limit", "measured", ""):
        floors.add_column(heading, justify="left" if heading in ("floor", "") else "right")
    for floor in report.floors:
        mark = {True: "[green]ok[/]", False: "[red]missed[/]", None: "[yellow]not measured[/]"}[floor.met]
        measured = "" if floor.measured is None else f"{floor.measured:,.6g}"
        floors.add_row(floor.name, f"{floor.limit:,.6g} {floor.unit}".strip(), measured, mark)
    console.print(floors)
    style = {Outcome.OK: "bold green", Outcome.VIOLATION: "bold red", Outcome.UNKNOWN: "bold yellow"}[
        report.outcome
    ]
    met = sum(floor.met is True for floor in report.floors)
    console.print(
        f"\n[{style}]{report.outcome.value}[/]  {met} of {len(report.floors)} floors met, on one core"
    )
