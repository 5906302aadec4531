"""``harness doctor``: what is wrong with an adapter, in words, before any campaign blames the store."""

from __future__ import annotations

import textwrap
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import cli_completion
from harness.cli_base import Line, json_options, print_json
from harness.doctor.examine import PATIENCE_S, PROBES, examine
from harness.doctor.words import Examination, Report
from harness.errors import UsageError
from harness.verdict import EXIT_CODES

_STYLES: Final = {"ok": "green", "wrong": "bold red", "skipped": "yellow"}
_BESIDE_CELLS: Final = 26
"""What the names of the probes and their outcomes take."""


@click.command(epilog="\b\nExample:\n  harness doctor sqlite\n  harness doctor mystore/adapter.py:MyEngine")
@click.argument("engine", shell_complete=cli_completion.ENGINE)
@click.option(
    "--only", default="", help="Only these probes and those that they need, comma separated.  [default: all]"
)
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0, min_open=True),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds after which a call that has not returned is called hung.",
)
@json_options("what was found")
def doctor(engine: str, only: str, patience_s: float, as_json: bool) -> int:
    """Ask an adapter for all that a campaign will ask of it, and say what is wrong with it.

    ENGINE is kvs, sqlite, lmdb, or your own module:Class or path/to/file.py:Class. Its code runs in processes of its
    own, on new stores that are removed: it may hang, crash and be killed there. That takes some 15 seconds.

    Exit codes: 0 nothing is wrong, 1 something is, 2 there is no such engine, 3 interrupted before anything was found.
    """
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    known = [probe.name for probe in PROBES]
    for name in names:
        if name not in known:
            raise UsageError(f"no probe is called {name!r}; there are {', '.join(known)}")
    with Line() as line:
        found = examine(
            engine,
            only=names,
            patience_s=patience_s,
            show=lambda probe, number, count: line.show(
                f"probe {probe}", f"{number} of {count}", done=number / (count + 1)
            ),
        )
    if as_json:
        print_json({"outcome": found.outcome, **msgspec.structs.asdict(found)})
    else:
        _print(found)
    return EXIT_CODES[found.outcome]


def _print(found: Examination) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("probe", "", "what was asked, or why it was not"):
        table.add_column(heading, no_wrap=True)
    asked = {probe.name: probe.asks for probe in PROBES}
    for report in found.reports:
        told = Text(report.reason if report.outcome == "skipped" else asked.get(report.probe, ""))
        told.truncate(max(console.width - _BESIDE_CELLS, 20), overflow="ellipsis")
        table.add_row(report.probe, Text(report.outcome, _STYLES[report.outcome]), told)
    console.print(table)
    for report in found.faults:
        click.echo(_in_words(report, console.width))
    click.echo()
    click.echo(_verdict(found))


def _in_words(report: Report, width: int) -> str:
    """A fault: what was asked, what came, whose it is, what to do."""
    assert report.fault is not None, "a probe that found something says what"
    fault = report.fault
    lines = [f"\nWRONG  {report.probe}"]
    for what, text in (
        ("asked", fault.asked),
        ("came", fault.came),
        ("fault of", fault.whose),
        ("next", fault.then),
    ):
        lines += textwrap.wrap(
            f"  {what:<10}{' '.join(text.split())}",
            max(width, 60),
            subsequent_indent=" " * 12,
            drop_whitespace=True,
        )
    return "\n".join(lines)


def _verdict(found: Examination) -> str:
    count = {outcome: sum(each.outcome == outcome for each in found.reports) for outcome in _STYLES}
    asked = f"{count['ok']} of {len(found.reports)} probes found nothing, {count['skipped']} not made"
    if found.faults:
        what = "1 fault" if len(found.faults) == 1 else f"{len(found.faults)} faults"
        return f"{what}  in {found.engine}: {asked}; mend that first, a campaign would only meet it again"
    if found.interrupted:
        return f"UNKNOWN  {found.engine}: interrupted; {asked}"
    return f"OK  {found.engine}: {asked}"
