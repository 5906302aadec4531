"""``harness powerloss``: crash images of recorded runs, recovered and judged."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import cli_completion, cli_report
from harness.cli_base import STYLES, Line, json_options, out_option, print_json
from harness.errors import UsageError
from harness.explore import versions
from harness.powerloss import outage, shrinking, table
from harness.powerloss.job import Options
from harness.powerloss.loss import Loss, load
from harness.powerloss.medium import MEDIA
from harness.powerloss.outage import Record, Status
from harness.verdict import EXIT_CODES, Outcome
from harness.viewer import of_powerloss

SECONDS: Final = 30.0
_EXAMPLE: Final = (
    "\b\nExamples:\n  harness powerloss --seconds 60\n"
    "  harness powerloss --scenario compaction,laggards --images 10000 --seed 3"
)


@click.command(epilog=_EXAMPLE)
@click.option(
    "--engine",
    shell_complete=cli_completion.CONFIGURATIONS,
    default="kvs",
    show_default=True,
    help="kvs, or (under strace) sqlite, lmdb, or configurations of these such as sqlite-wal-full; comma separated.",
)
@click.option(
    "--scenario",
    shell_complete=cli_completion.SCENARIOS_AND_LIFE,
    default="",
    help="Comma separated; see `harness explore --list`; and life.  [default: all general]",
)
@click.option("--seed", type=click.IntRange(0), help="Decides schedules and images.  [default: random]")
@click.option("--images", type=click.IntRange(1), help="End when so many different images were judged.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="End after so long.  [default: 30, with --images no limit]",
)
@click.option(
    "--medium",
    type=click.Choice(list(MEDIA)),
    default=next(iter(MEDIA)),
    show_default=True,
    help="What a disk may do.",
)
@click.option(
    "--cuts",
    "per_run",
    type=click.IntRange(0),
    default=250,
    show_default=True,
    help="States that are made of one run; 0: all of them.",
)
@click.option(
    "--twice-every",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Of one image in so many the recovery is cut, too; 0: of none.",
)
@click.option(
    "--real", is_flag=True, help="Record real processes that run freely, instead of ones that are stepped."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--bug",
    default="",
    shell_complete=cli_completion.PLANTED,
    help="Plant a known bug in the store first, to see what a failure looks like.",
)
@click.option("--no-shrink", is_flag=True, help="Leave a failure as it was found.")
@click.option("--keep-going", is_flag=True, help="Do not end at the first violation.")
@out_option()
@json_options("the record")
def powerloss(
    engine: str,
    scenario: str,
    seed: int | None,
    images: int | None,
    seconds: float | None,
    medium: str,
    per_run: int,
    twice_every: int,
    real: bool,
    jobs: int,
    bug: str,
    no_shrink: bool,
    keep_going: bool,
    out: Path,
    as_json: bool,
) -> int:
    """Cut the power in recorded runs: make what the disk may be left with, recover it, and judge it.

    Every run plays a scenario of several processes (some of them killed) and records what it does to the files. After
    every event the power may go: what was synced is there then, and of the rest any part. The boot id changes.

    Other engines are recorded unmodified, by their system calls, and every configuration is compared with what its
    documentation promises; --images counts for each of them.

    A failure is kept in a file that `harness replay` makes again and `harness shrink` makes smaller. Ctrl-C ends it
    early, with a verdict over what there is.
    """
    if engine != "kvs":
        others = tuple(name.strip() for name in engine.split(",") if name.strip())
        return _others(others, images, seed, medium, out, as_json=as_json)
    options = Options(
        scenarios=tuple(name.strip() for name in scenario.split(",") if name.strip()),
        seed=secrets.randbits(32) if seed is None else seed,
        images=images,
        seconds=SECONDS if seconds is None and images is None else seconds,
        medium=medium,
        jobs=jobs,
        per_run=per_run,
        twice_every=twice_every,
        real=real,
        bug=bug,
        keep_going=keep_going,
        shrink=not no_shrink,
    )
    with Line() as line:

        def show(status: Status) -> None:
            counts = status.counts
            line.show(
                f"{status.phase} {status.elapsed_s:5.1f} s",
                f"{counts.images:,} images",
                f"{counts.runs:,} runs",
                status.scenario,
                status.note,
                f"{status.failures} failures" if status.failures else "",
                done=_share(options, status),
                facts=status,
            )

        command = shlex.join(["harness", *sys.argv[1:]])
        record, directory = outage.cut(options, out=out, command=command, show=show)
    page = cli_report.leave_page(of_powerloss.facts_of_cuts(record, directory))
    if as_json:
        print_json(record)
    else:
        _print(record, directory, page)
    return outage.exit_code(record)


def _share(options: Options, status: Status) -> float | None:
    """The part of what was asked for that is done; none while what was found is shrunk."""
    if status.phase != "cutting":
        return None
    shares = [status.elapsed_s / options.seconds] if options.seconds else []
    return max([*shares, status.counts.images / options.images] if options.images else shares, default=None)


def _others(
    engines: Sequence[str], images: int | None, seed: int | None, medium: str, out: Path, *, as_json: bool
) -> int:
    """Cut other engines, and print what they promise beside what was found."""
    names = [each.name for engine in engines for each in table.configurations(engine)]
    with Line() as line:
        found, directory = table.survey(
            engines,
            images=images or table.IMAGES,
            seed=secrets.randbits(16) if seed is None else seed,
            medium=medium,
            out=out,
            command=shlex.join(["harness", *sys.argv[1:]]),
            show=lambda name, text: line.show(name, text, done=names.index(name) / len(names)),
        )
    page = cli_report.leave_page(of_powerloss.facts_of_table(found, directory))
    if as_json:
        print_json(found)
        return EXIT_CODES[found.outcome]
    shown = Table(box=None, pad_edge=False)
    for heading in ("configuration", "promised", "images", "found", "as documented"):
        shown.add_column(heading, justify="right" if heading == "images" else "left")
    for row in found.rows:
        counts = ", ".join(f"{name} {count:,}" for name, count in row.found.items())
        word = Text("yes", "green") if row.expected else Text("NO", "red")
        shown.add_row(
            row.configuration, ", ".join(row.promised) or "-", f"{row.images:,}", counts or "nothing", word
        )
    Console(width=None if Console().is_terminal else 120).print(shown)
    for path in filter(None, (directory / table.PAGE, page)):
        click.echo(f"{'page':<11} {path}")
    sentence = of_powerloss.table_sentence(found)
    Console(soft_wrap=True).print(Text.assemble((found.outcome, STYLES[found.outcome]), f"  {sentence}"))
    return EXIT_CODES[found.outcome]


def _print(record: Record, directory: Path, page: Path | None) -> None:
    """The pages, the counts, and the verdict in the last line."""
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for found in record.found:
        console.print(Text((directory / found.file).with_suffix(".txt").read_text(encoding="utf-8")))
    counts, options = record.counts, record.options
    scenarios = ", ".join(f"{name} {images:,}" for name, images in counts.by_scenario.items())
    whole = f", {counts.whole_runs:,} of them in every way that is enumerated"
    rows = [
        (
            "images",
            f"{counts.images:,} different ones in {counts.seconds:.1f} s ({record.rate:,.0f}/s and job): {scenarios}",
        ),
        ("runs", f"{counts.runs:,} with {counts.events:,} events, cut at {counts.cuts:,} places{whole}"),
        ("twice", f"{counts.twice:,} cuts of a recovery"),
        ("medium", f"{options.medium}: {MEDIA[options.medium].meaning}"),
        ("seed", f"{options.seed}"),
        ("run", str(directory)),
        ("page", str(page or "")),
    ]
    for name, text in rows:
        if text:
            console.print(Text(f"{name:<11} {text}"))
    for reason in record.reasons:
        console.print(Text(f"{'lacks':<11} {reason}"))
    sentence = of_powerloss.sentence(record)
    console.print(Text.assemble((record.outcome, STYLES[record.outcome]), f"  {sentence}"))


def shrink(file: Path, out: Path | None, limit_s: float, *, as_json: bool) -> int:
    """Make a failure smaller: fewer things that did not reach the medium."""
    loss = load(file)
    with outage.scratch() as directory:
        findings = shrinking.Bench(loss.bug, directory).shows(loss)
    if not any(each.property_name == loss.property_name for each in findings):
        raise UsageError(f"{file} does not show its violation of {loss.property_name!r} (any more)")
    with Line() as line:
        smaller: Loss = outage.settle(
            loss,
            out or file,
            lambda text: line.show("shrinking", text, done=line.elapsed_s / limit_s),
            limit_s=limit_s,
        )
    if as_json:
        print_json(msgspec.structs.replace(smaller, trace=msgspec.structs.replace(smaller.trace, events=[])))
    else:
        click.echo(smaller.page, nl=False)
    return EXIT_CODES[Outcome.VIOLATION]


def survey_bugs(only: Sequence[str], seed: int, *, as_json: bool) -> int:
    """Cut the power with each planted bug in turn and print the table; 0 if every one passed, 1 if one did not."""
    from harness.powerloss import survey

    rows: list[survey.Row] = []
    with Line() as line:
        wanted = only or survey.names()

        def show(name: str, status: Status) -> None:
            line.show(name, status.phase, done=len(rows) / len(wanted), facts=status)

        for row in survey.survey(only, seed=seed, show=show):
            rows.append(row)
    passed = len(rows) == len(only or survey.names()) and all(row.passed for row in rows)
    if as_json:
        facts = {"command": shlex.join(["harness", *sys.argv[1:]]), "versions": versions()}
        print_json({"passed": passed, **facts, "rows": rows})
        return 0 if passed else 1
    table = Table(box=None, pad_edge=False)
    for heading in ("bug", "images", "seconds", "property", "missing", "replayed", ""):
        table.add_column(heading, justify="left" if heading in ("bug", "property", "") else "right")
    for row in rows:
        word = Text("ok", "green") if row.passed else Text("NOT SHOWN" if row.found else "ESCAPED", "red")
        sizes = f"{row.before} to {row.after}"
        cells = (row.bug, f"{row.images:,}", f"{row.seconds:.1f}", row.property_name, sizes, row.reproduced)
        table.add_row(*cells, word)
    Console(width=None if Console().is_terminal else 120).print(table)
    passing = sum(row.passed for row in rows)
    click.echo(f"selftest {'OK' if passed else 'FAILED'}: {passing} of {len(rows)} bugs")
    return 0 if passed else 1
