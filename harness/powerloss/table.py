"""Other engines under power cuts: for each configuration what its documentation promises, and what was found."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.errors import UsageError
from harness.explore import new_directory, versions, write
from harness.explore_jobs import asked_to_stop
from harness.powerloss import outage, peers
from harness.powerloss.loss import Loss
from harness.powerloss.peers import CONFIGURATIONS, Configuration, Surveyed
from harness.verdict import Outcome

RECORD: Final = "powerloss.json"
PAGE: Final = "powerloss.md"
IMAGES: Final = 500
"""Different images of each configuration, unless another number is asked for."""
_COUNT: Final = 12
"""Transactions of one run."""
_PER_RUN: Final = 500


class Row(msgspec.Struct, kw_only=True):
    """One configuration. ``promised`` holds according to ``sentence``, which is at ``address``; ``found`` counts the
    findings by property, and ``explained`` says of the first of each what was missing and what came of it.
    """

    configuration: str
    promised: tuple[str, ...]
    sentence: str
    address: str
    images: int = 0
    runs: int = 0
    found: dict[str, int] = {}
    explained: dict[str, str] = {}
    files: dict[str, str] = {}
    outcome: Outcome = Outcome.UNKNOWN
    expected: bool = False
    """Nothing was found that is promised not to be; and of one that promises nothing a loss was found."""


class Table(msgspec.Struct, kw_only=True):
    """``powerloss.json`` of other engines."""

    outcome: Outcome = Outcome.UNKNOWN
    rows: list[Row] = []
    seed: int = 0
    medium: str = ""
    interrupted: bool = False
    command: str = ""
    versions: dict[str, str] = {}


def configurations(engine: str) -> list[Configuration]:
    """Those that ``engine`` names: all of an engine, or one. Raises UsageError."""
    found = [each for name, each in CONFIGURATIONS.items() if engine in (name, each.engine)]
    if not found:
        raise UsageError(
            f"power cuts of {engine!r} cannot be tried; of kvs they can, of sqlite and lmdb, and of these as"
            f" {', '.join(CONFIGURATIONS)}"
        )
    return found


def survey(
    engines: Sequence[str],
    *,
    images: int,
    seed: int,
    medium: str,
    out: Path,
    command: str = "",
    show: Callable[[str, str], None] = lambda *_: None,
) -> tuple[Table, Path]:
    """Judge ``images`` different images of every configuration that ``engines`` name, in a new directory under ``out``.
    Ctrl-C ends it early, with what there is.

    Raises:
        UsageError: there is no such engine.
        HarnessError: strace, or an engine, is not installed, or a trace cannot be understood.
    """
    wanted = list({each.name: each for engine in engines for each in configurations(engine)}.values())
    for each in wanted:
        peers.available(each)
    directory = new_directory(out, "powerloss")
    table = Table(seed=seed, medium=medium, command=command, versions=_versions())
    try:
        with asked_to_stop(_interrupt), outage.scratch() as scratch:
            for configuration in wanted:
                _fill(table, configuration, images, scratch, directory, show)
                _save(table, directory)
    except KeyboardInterrupt:
        table.interrupted = True
    _conclude(table, len(wanted))
    _save(table, directory)
    (directory / PAGE).write_text(page(table) + "\n", encoding="utf-8")
    return table, directory


def _interrupt() -> None:
    raise KeyboardInterrupt


def _fill(
    table: Table,
    configuration: Configuration,
    images: int,
    scratch: Path,
    directory: Path,
    show: Callable[[str, str], None],
) -> None:
    promise = configuration.promise
    row = Row(
        configuration=configuration.name,
        promised=tuple(sorted(promise.holds)),
        sentence=promise.sentence,
        address=promise.address,
    )
    table.rows.append(row)
    first: dict[str, Loss] = {}
    while row.images < images:
        before = row.images
        surveyed = peers.survey(
            configuration,
            seed=table.seed + row.runs,
            count=_COUNT,
            images=min(_PER_RUN, images - before),
            medium=table.medium,
            scratch=scratch,
            show=lambda so_far, before=before: show(configuration.name, f"{before + so_far.images:,} images"),  # type: ignore[misc]
        )
        row.runs += 1
        row.images += surveyed.images
        for name, found in surveyed.found.items():
            row.found[name] = row.found.get(name, 0) + found
        for name, loss in _losses(surveyed, table.medium):
            first.setdefault(name, loss)
    for name, loss in first.items():
        path = directory / f"{configuration.name}-{name}.json"
        settled = outage.settle(loss, path, lambda text: show(configuration.name, f"shrinking {text}"))
        row.files[name] = path.name
        row.explained[name] = " ".join(f"{settled.message}; {'; '.join(settled.words)}".split())
    _judge(row)


def _losses(surveyed: Surveyed, medium: str) -> Iterator[tuple[str, Loss]]:
    for name, (cut, choice, finding) in surveyed.first.items():
        yield (
            name,
            Loss(
                trace=surveyed.trace,
                medium=medium,
                cut=cut,
                choice=choice,
                property_name=name,
                message=finding.message,
                versions=_versions(),
            ),
        )


def _judge(row: Row) -> None:
    broken = set(row.promised) & set(row.found)
    row.outcome = Outcome.VIOLATION if broken else Outcome.OK
    shown = bool(row.found) or set(row.promised) == set(peers.PROPERTIES)
    row.expected = not broken and shown


def _conclude(table: Table, wanted: int) -> None:
    if any(row.outcome is Outcome.VIOLATION for row in table.rows):
        table.outcome = Outcome.VIOLATION
    elif len(table.rows) == wanted and all(row.outcome is Outcome.OK for row in table.rows):
        table.outcome = Outcome.OK if all(row.expected for row in table.rows) else Outcome.UNKNOWN


def _versions() -> dict[str, str]:
    found: dict[str, Any] = versions() | {"sqlite": sqlite3.sqlite_version}
    try:
        import lmdb
    except ImportError:
        pass
    else:
        found["lmdb"] = ".".join(map(str, lmdb.version()))
    if strace := shutil.which("strace"):
        said = subprocess.run([strace, "-V"], capture_output=True, text=True, check=False)  # noqa: S603 - found by name
        found["strace"] = said.stdout.partition("\n")[0]
    return found


def _save(table: Table, directory: Path) -> None:
    write(directory / RECORD, table)


def page(table: Table) -> str:
    """The table for people, as Markdown: what is promised, what was found, and of each kind of loss one, in words."""
    lines = [
        "# Other engines after a power cut",
        "",
        f"`{table.command}`: seed {table.seed}, medium {table.medium}; "
        + ", ".join(f"{name} {value}" for name, value in table.versions.items()),
        "",
        "| configuration | promised | images | found | as documented |",
        "|---|---|--:|---|---|",
    ]
    for row in table.rows:
        found = ", ".join(f"{name} {count:,}" for name, count in row.found.items()) or "nothing"
        promised = ", ".join(row.promised) or "nothing"
        lines.append(
            f"| {row.configuration} | {promised} | {row.images:,} | {found} | {'yes' if row.expected else 'NO'} |"
        )
    lines += [
        "",
        "`damaged`: it does not open, its own check complains, or it cannot be read or written; `prefix`: it shows",
        "a state that never was; `durability`: it shows an earlier state than was acknowledged. Findings are counted",
        "at every cut that leaves the image.",
        "",
    ]
    for row in table.rows:
        lines += [f"## {row.configuration}", "", f'"{row.sentence}" ({row.address})', ""]
        lines += [f"* **{name}**: {text}" for name, text in row.explained.items()] or ["Nothing was found."]
        lines.append("")
    return "\n".join(lines)
