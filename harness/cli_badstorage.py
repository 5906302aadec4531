"""The command about bad storage: ``harness badstorage``."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import cli_completion, cli_report
from harness.badstorage import campaign as campaigns
from harness.badstorage import engines
from harness.badstorage.campaign import Finding, Report, Status
from harness.badstorage.faults import FAULTS, VARIANTS
from harness.badstorage.session import PROPERTIES
from harness.badstorage.workloads import WORKLOADS
from harness.cli_base import STYLES, Line, json_options, out_option, print_json
from harness.explore import new_directory, versions, write
from harness.verdict import EXIT_CODES, Outcome
from harness.viewer import of_badstorage
from harness.viewer.of_badstorage import Record


@click.command(
    epilog="\b\nExamples:\n  harness badstorage --workloads writes,grows --limit 500\n"
    '  harness badstorage --replay "writes/mmap-durable 17:EIO 23:ENOSPC"'
)
@click.option(
    "--engine",
    shell_complete=cli_completion.CONFIGURATIONS,
    default="kvs",
    show_default=True,
    help="kvs, or (under strace) sqlite, lmdb, or configurations of these such as sqlite-wal-full; comma separated.",
)
@click.option(
    "--workloads",
    default="",
    shell_complete=cli_completion.BAD_WORKLOADS,
    help="Comma separated; see --list.  [default: all]",
)
@click.option(
    "--variants",
    default="",
    shell_complete=cli_completion.VARIANTS,
    help=f"Comma separated, of {', '.join(VARIANTS)}.  [default: all]",
)
@click.option(
    "--calls",
    default="",
    shell_complete=cli_completion.CALLS,
    help="Only faults of these system calls, comma separated.  [default: all]",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Decides the pairs, and what --limit takes.  [default: random]"
)
@click.option(
    "--limit", type=click.IntRange(1), help="At most so many runs with one fault.  [default: all of them]"
)
@click.option(
    "--pairs", type=click.IntRange(0), default=1000, show_default=True, help="Runs with two faults."
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="End after so long.  [default: no limit]"
)
@click.option("--replay", "line", default="", help="Do this one run again, as a finding's line has it.")
@click.option("--list", "listed", is_flag=True, help="List workloads, calls and faults, and do nothing else.")
@out_option()
@json_options("what came of it")
def badstorage(
    engine: str,
    workloads: str,
    variants: str,
    calls: str,
    seed: int | None,
    limit: int | None,
    pairs: int,
    seconds: float | None,
    line: str,
    listed: bool,
    out: Path,
    as_json: bool,
) -> int:
    """Let every system call of the store fail, one at a time and in pairs, and see whether it copes.

    Small workloads are run once for every call that they make and every error which that call can have: no room, I/O
    errors, calls that do only a part or fail having done their work. After each the store must have said what happened,
    hold what it acknowledged, be sound, and go on. Ctrl-C ends it early with what was found.

    Of other engines a few calls fail, injected by strace, and everything that was acknowledged must be there when the
    database is opened anew.
    """
    if engine != "kvs":
        drawn = secrets.randbits(16) if seed is None else seed
        return _others(_names(engine), drawn, _names(calls), limit, out, as_json=as_json)
    if listed:
        return _list(as_json)
    if line:
        return _replay(line, as_json)
    with _directory(out) as directory, Line() as shown:
        report = campaigns.campaign(
            secrets.randbits(32) if seed is None else seed,
            workloads=_names(workloads),
            variants=_names(variants) or VARIANTS,
            calls=_names(calls),
            limit=limit,
            pairs=pairs,
            seconds=seconds,
            progress=lambda status: _show(shown, status, seconds),
        )
    record = Record(
        outcome=report.outcome, command=_command(), versions=versions(), tried=report.tried, report=report
    )
    page = _keep(record, directory)
    if as_json:
        print_json(record)
    else:
        _print(report, directory, page)
    return report.exit_code


def _command() -> str:
    return shlex.join(["harness", *sys.argv[1:]])


@contextlib.contextmanager
def _directory(out: Path) -> Iterator[Path]:
    """A new directory for a run, which goes again if the run comes to nothing."""
    directory = new_directory(out, of_badstorage.WHAT)
    try:
        yield directory
    except BaseException:
        directory.rmdir()
        raise


def _keep(record: Record, directory: Path) -> Path | None:
    """Write the record and the page of it into the run's directory; where the page is."""
    write(directory / of_badstorage.RECORD, record)
    return cli_report.leave_page(of_badstorage.facts_of_report(record, directory))


def _others(
    names: tuple[str, ...],
    seed: int,
    calls: tuple[str, ...],
    limit: int | None,
    out: Path,
    *,
    as_json: bool,
) -> int:
    """Let calls of other engines fail; the findings, the counts, and the verdict in the last line."""
    done: list[engines.Failed] = []
    began = time.monotonic()
    interrupted = False
    with _directory(out) as directory, Line() as shown:
        try:
            for each in engines.fail(
                names,
                seed=seed,
                calls=calls,
                limit=limit,
                show=lambda text, share: shown.show(text, done=share),
            ):
                done.append(each)
        except KeyboardInterrupt:
            interrupted = True
    findings = [(run, finding) for run in done for finding in run.findings]
    complete = done and not interrupted
    outcome = Outcome.VIOLATION if findings else Outcome.OK if complete else Outcome.UNKNOWN
    record = Record(
        outcome=outcome,
        command=_command(),
        versions=versions(),
        seed=seed,
        seconds=round(time.monotonic() - began, 3),
        interrupted=interrupted,
        runs=done,
    )
    page = _keep(record, directory)
    if as_json:
        print_json(record)
        return EXIT_CODES[outcome]
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for run, finding in findings:
        where = f"{run.configuration}: {run.call} failed with {run.error} ({run.when})"
        console.print(f"{finding.property_name:<11} {where}: {finding.message}")
    _print_kept(console, directory, page)
    console.print(Text.assemble((outcome, STYLES[outcome]), f"  {of_badstorage.peers_sentence(record)}"))
    return EXIT_CODES[outcome]


def _show(line: Line, status: Status, seconds: float | None) -> None:
    found = f"{status.findings} findings" if status.findings else ""
    done = status.tried / status.total if status.total else 0.0
    if seconds is not None:
        done = max(done, line.elapsed_s / seconds)
    line.show(f"failing {status.tried:,} of {status.total:,}", found, status.line, done=done, facts=status)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _list(as_json: bool) -> int:
    meanings = {name: workload.meaning for name, workload in WORKLOADS.items()}
    if as_json:
        print_json({"workloads": meanings, "faults": FAULTS, "properties": PROPERTIES})
        return 0
    for heading, rows in (
        ("workload", meanings),
        ("call", {call: ", ".join(errors) for call, errors in FAULTS.items()}),
        ("property", PROPERTIES),
    ):
        table = Table(box=None, pad_edge=False)
        table.add_column(heading, no_wrap=True)
        table.add_column("")
        for name, text in rows.items():
            table.add_row(name, Text(text))
        Console().print(table, "")
    return 0


def _replay(line: str, as_json: bool) -> int:
    findings = campaigns.replay(line)
    outcome = Outcome.VIOLATION if findings else Outcome.OK
    if as_json:
        print_json({"outcome": outcome, "findings": findings})
    else:
        console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
        _print_findings(console, findings)
        console.print(Text.assemble((outcome, STYLES[outcome]), f"  {line}"))
    return EXIT_CODES[outcome]


def _print_kept(console: Console, directory: Path, page: Path | None) -> None:
    console.print(Text(f"run         {directory}"))
    if page is not None:
        console.print(Text(f"page        {page}"))


def _print(report: Report, directory: Path, page: Path | None) -> None:
    """The findings, the counts, and the verdict in the last line."""
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    _print_findings(console, report.findings)
    console.print(f"calls       {sum(report.calls.values()):,} in {len(report.calls)} workloads and variants")
    console.print(f"one fault   {report.singles:,} of {report.planned:,}")
    console.print(f"two faults  {report.pairs:,}, seed {report.seed}")
    _print_kept(console, directory, page)
    sentence = of_badstorage.sentence(report)
    console.print(Text.assemble((report.outcome, STYLES[report.outcome]), f"  {sentence}"))


def _print_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        console.print(f"{finding.property_name:<11} {finding.message}")
        for failed in finding.failed:
            console.print(f"{'':<11} failed: {failed}")
        more = f" ({finding.times:,} runs)" if finding.times > 1 else ""
        console.print(f"{'':<11} harness badstorage --replay '{finding.line}'{more}")
