"""What the parts of ``harness bench`` have in common: floors, tables, and what every result begins with."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from harness import bench_engines as engines
from harness.errors import UsageError
from harness.verdict import Outcome

PLACE: Final = Path("results/runs")
"""Where stores are measured that belong on a disk, unless another directory is named."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Floor(msgspec.Struct, kw_only=True):
    """What was asked for in words, what was measured, the limit, and whether it was kept (``None``: not measured)."""

    name: str
    measured: float | None
    limit: float
    unit: str
    met: bool | None


def at_least(name: str, measured: float | None, limit: float, unit: str = "") -> Floor:
    """A floor that is met by ``limit`` and by more."""
    met = None if measured is None else measured >= limit
    return Floor(name=name, measured=measured, limit=limit, unit=unit, met=met)


def at_most(name: str, measured: float | None, limit: float, unit: str = "") -> Floor:
    """A floor that is met by ``limit`` and by less."""
    met = None if measured is None else measured <= limit
    return Floor(name=f"{name}, at most", measured=measured, limit=limit, unit=unit, met=met)


def judge(floors: Sequence[Floor]) -> Outcome:
    """A missed floor is a violation; otherwise one that was not measured, or none at all, is unknown."""
    met = [each.met for each in floors]
    if False in met:
        return Outcome.VIOLATION
    return Outcome.UNKNOWN if None in met or not met else Outcome.OK


class Report(msgspec.Struct, kw_only=True):
    """What every JSON file of a benchmark on a disk begins with. ``missing``: what was not measured, and why."""

    outcome: Outcome
    command: str
    started: str
    seconds: float
    directory: str
    file_system: str
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, float]
    floors: list[Floor]
    missing: list[str] = []


class Beginning:
    """What is known of a measurement when it starts; ``fields`` are what a ``Report`` wants when it is over."""

    def __init__(self, settings: dict[str, float]) -> None:
        self._settings = settings
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._machine = engines.machine() | {"load_average_before": os.getloadavg()}

    def fields(self, base: Path, floors: list[Floor]) -> dict[str, Any]:
        """The fields of ``Report``, for stores that were in ``base``."""
        return {
            "outcome": judge(floors),
            "command": shlex.join(["harness", *sys.argv[1:]]),
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": time.monotonic() - self._clock,
            "directory": str(base.parent),
            "file_system": engines.file_system(base),
            "machine": self._machine | {"load_average_after": os.getloadavg()},
            "versions": engines.versions(),
            "settings": self._settings,
            "floors": floors,
        }


def place(directory: Path | None, *, disk: bool) -> Path:
    """``directory``, or the usual one, which is made where it is missing.

    Raises:
        UsageError: it cannot be made; or ``disk`` is asked for and it is in memory.
    """
    if directory is None:
        directory = PLACE
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{directory}: {error.strerror}; name a directory with --dir") from error
    kind = engines.file_system(directory)
    if disk and kind in IN_MEMORY:
        raise UsageError(
            f"{directory} is in memory ({kind}): a sync costs nothing there and keeps nothing;"
            " name a directory on a disk with --dir"
        )
    return directory


class Grid(NamedTuple):
    """A table of texts. The first column is on the left, the others hold numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def floors_grid(floors: Sequence[Floor]) -> Grid:
    """The floors as a table."""
    said = {True: "ok", False: "missed", None: "not measured"}
    return Grid(
        ("floor", "limit", "measured", ""),
        [
            (
                each.name,
                f"{each.limit:,.6g} {each.unit}".strip(),
                "" if each.measured is None else f"{each.measured:,.4g}",
                said[each.met],
            )
            for each in floors
        ],
    )


def verdict(report: Report) -> str:
    """How many floors were met."""
    met = sum(floor.met is True for floor in report.floors)
    return f"{met} of {len(report.floors)} floors met"


def print_result(console: Console, report: Report, grids: Sequence[Grid]) -> None:
    """The tables, what is missing, the floors, then the verdict."""
    for grid in (*grids, floors_grid(report.floors)):
        table = Table(box=None, pad_edge=False)
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=True)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    for words in report.missing:
        console.print(words)
    style = {Outcome.OK: "bold green", Outcome.VIOLATION: "bold red", Outcome.UNKNOWN: "bold yellow"}
    console.print(f"[{style[report.outcome]}]{report.outcome.value}[/]  {verdict(report)}")


def page(title: str, report: Report, grids: Sequence[Grid]) -> str:
    """The same as a page of Markdown."""
    machine = report.machine
    where = (
        f"{machine['cpu']}, {machine['cores_usable']} cores, Linux {machine['kernel']}, {report.file_system}"
    )
    lines = [f"# {title}", "", f"`{report.command}`", ""]
    lines += [f"{report.started}, {report.seconds:.0f} s, on {where}.", ""]
    for grid in (*grids, floors_grid(report.floors)):
        lines.append(_line(grid.headings))
        lines.append(_line(["---", *("---:" for _ in grid.headings[1:])]))
        lines += [*map(_line, grid.rows), ""]
    lines += [f"{words}\n" for words in report.missing]
    return "\n".join([*lines, f"{report.outcome.value}: {verdict(report)}", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} us"
