"""The command about bad storage: ``harness badstorage``."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.badstorage import campaign as campaigns
from harness.badstorage import engines
from harness.badstorage.campaign import Finding, Report, Status
from harness.badstorage.faults import FAULTS, VARIANTS
from harness.badstorage.session import PROPERTIES
from harness.badstorage.workloads import WORKLOADS
from harness.cli_base import STYLES, Line, print_json
from harness.explore import versions
from harness.verdict import EXIT_CODES, Outcome


@click.command(
    epilog="\b\nExamples:\n  harness badstorage --workloads writes,grows --limit 500\n"
    '  harness badstorage --replay "writes/mmap-durable 17:EIO 23:ENOSPC"'
)
@click.option(
    "--engine",
    default="kvs",
    show_default=True,
    help="kvs, or (under strace) sqlite, lmdb, or configurations of these such as sqlite-wal-full; comma separated.",
)
@click.option("--workloads", default="", help="Comma separated; see --list.  [default: all]")
@click.option("--variants", default="", help=f"Comma separated, of {', '.join(VARIANTS)}.  [default: all]")
@click.option(
    "--calls", default="", help="Only faults of these system calls, comma separated.  [default: all]"
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
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
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
        return _others(_names(engine), drawn, _names(calls), limit, as_json=as_json)
    if listed:
        return _list(as_json)
    if line:
        return _replay(line, as_json)
    with Line() as shown:
        report = campaigns.campaign(
            secrets.randbits(32) if seed is None else seed,
            workloads=_names(workloads),
            variants=_names(variants) or VARIANTS,
            calls=_names(calls),
            limit=limit,
            pairs=pairs,
            seconds=seconds,
            progress=lambda status: _show(shown, status),
        )
    if as_json:
        print_json(
            {
                "outcome": report.outcome,
                "command": shlex.join(["harness", *sys.argv[1:]]),
                "versions": versions(),
                "tried": report.tried,
                "report": report,
            }
        )
    else:
        _print(report)
    return report.exit_code


def _others(
    names: tuple[str, ...], seed: int, calls: tuple[str, ...], limit: int | None, *, as_json: bool
) -> int:
    """Let calls of other engines fail; the findings, the counts, and the verdict in the last line."""
    done: list[engines.Failed] = []
    complete = False
    with Line() as shown, contextlib.suppress(KeyboardInterrupt):
        for each in engines.fail(names, seed=seed, calls=calls, limit=limit, show=shown.show):
            done.append(each)
        complete = bool(done)
    findings = [(run, finding) for run in done for finding in run.findings]
    outcome = Outcome.VIOLATION if findings else Outcome.OK if complete else Outcome.UNKNOWN
    if as_json:
        facts = {"command": shlex.join(["harness", *sys.argv[1:]]), "versions": versions()}
        print_json({"outcome": outcome, **facts, "seed": seed, "runs": done})
        return EXIT_CODES[outcome]
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for run, finding in findings:
        where = f"{run.configuration}: {run.call} failed with {run.error} ({run.when})"
        console.print(f"{finding.property_name:<11} {where}: {finding.message}")
    failed = sum(run.failed for run in done)
    count = len({run.configuration for run in done})
    sentence = f"{len(done):,} runs of {count} configurations, {failed:,} failed calls"
    console.print(Text.assemble((outcome, STYLES[outcome]), f"  {sentence}"))
    return EXIT_CODES[outcome]


def _show(line: Line, status: Status) -> None:
    done = status.tried / status.total if status.total else 0.0
    found = f"{status.findings} findings" if status.findings else ""
    line.show(f"bad storage  {status.tried:,} of {status.total:,} ({done:.0%})", found, status.line)


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


def _print(report: Report) -> None:
    """The findings, the counts, and the verdict in the last line."""
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    _print_findings(console, report.findings)
    console.print(f"calls       {sum(report.calls.values()):,} in {len(report.calls)} workloads and variants")
    console.print(f"one fault   {report.singles:,} of {report.planned:,}")
    console.print(f"two faults  {report.pairs:,}, seed {report.seed}")
    sentence = f"{report.tried:,} runs in {report.seconds:.1f} s"
    if kinds := len(report.findings):
        sentence += f", {kinds} kind{'s' * (kinds != 1)} of violation"
    if report.interrupted:
        sentence += ", interrupted"
    console.print(Text.assemble((report.outcome, STYLES[report.outcome]), f"  {sentence}"))


def _print_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        console.print(f"{finding.property_name:<11} {finding.message}")
        for failed in finding.failed:
            console.print(f"{'':<11} failed: {failed}")
        more = f" ({finding.times:,} runs)" if finding.times > 1 else ""
        console.print(f"{'':<11} harness badstorage --replay '{finding.line}'{more}")
