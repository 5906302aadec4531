"""The commands about schedules: ``harness explore``, ``replay`` and ``shrink``."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import cli_completion, cli_powerloss, cli_report, planted
from harness import explore as exploring
from harness import explore_finish as finishing
from harness import shrink as shrinking
from harness.cli_base import STYLES, Line, json_options, out_option, print_json
from harness.errors import UsageError
from harness.explore_finish import Workshop, memory
from harness.explore_job import STRATEGIES, Options
from harness.explore_jobs import Status
from harness.failure import load
from harness.plan import RUNS
from harness.powerloss.loss import is_loss
from harness.scenario import Scenario
from harness.scenarios import EXHAUSTIVE, GENERAL, SCENARIOS
from harness.verdict import EXIT_CODES, Outcome
from harness.viewer import of_explore

SECONDS: Final = 30.0


def _showing(line: Line, changes: dict[str, Any]) -> Callable[[Status], None]:
    """What draws on ``line`` how far exploring is, of what ``changes`` of the options ask for."""

    def show(status: Status) -> None:
        counts = status.counts
        if status.phase != "exploring":
            words = f"{status.phase} {status.elapsed_s:5.1f} s", status.scenario, status.note
            line.show(*words, facts=status)
            return
        line.show(
            f"{status.phase} {status.elapsed_s:5.1f} s",
            f"{counts.schedules:,} schedules",
            f"{counts.schedules / max(counts.seconds, 0.001):6,.0f}/s",
            f"{counts.steps:,} steps",
            f"{counts.kills:,} kills",
            f"coverage {status.coverage:.1%}",
            f"{status.failures} failures" if status.failures else "",
            status.scenario,
            done=_share(changes, status),
            facts=status,
        )

    return show


def _share(asked: dict[str, Any], status: Status) -> float | None:
    """The part of what was asked for that is done, by whichever limit is nearest; none without a limit."""
    reached = {
        "seconds": status.elapsed_s,
        "schedules": status.counts.schedules,
        "until_coverage": status.coverage,
    }
    return max((reached[name] / asked[name] for name in reached if asked.get(name)), default=None)


@click.command(
    epilog="\b\nExamples:\n  harness explore --seconds 60 --jobs 2\n  harness explore --bug intent-ignored\n"
    "  harness explore --strategy pct --scenario claims --schedules 5000 --seed 7"
)
@click.option("--strategy", type=click.Choice(STRATEGIES), help="[default: mixed: random and pct in turn]")
@click.option(
    "--scenario",
    "scenarios",
    default="",
    shell_complete=cli_completion.SCENARIOS,
    help="Comma separated; see --list.  [default: all general ones]",
)
@click.option("--list", "listed", is_flag=True, help="List the scenarios and do nothing else.")
@click.option("--seconds", type=float, help="[default: 30, without a limit where another one is given]")
@click.option("--schedules", type=int, help="So many in all, and no more.")
@click.option("--seed", type=click.IntRange(0), help="Decides every schedule.  [default: random]")
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Processes that explore at the same time.  [default: 1]"
)
@click.option(
    "--until-coverage", type=float, help="End when kills came at this share (0 to 1) of the sync points."
)
@click.option("--preemptions", type=click.IntRange(0), help="Bound of an exhaustive search.  [default: none]")
@out_option(only_if_given=True)
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path, file_okay=False),
    help="Go on in this run directory, with its options.",
)
@click.option(
    "--bug",
    default="",
    shell_complete=cli_completion.PLANTED,
    help="Plant a known bug in kvs first, to see what a failure looks like.",
)
@click.option("--no-shrink", is_flag=True, help="Leave a failure as it was found.")
@click.option("--keep-going", is_flag=True, help="Do not end at the first violation; keep one of each kind.")
@json_options("what came of it")
def explore(listed: bool, as_json: bool, out: Path | None, resumed: Path | None, **given: Any) -> int:
    """Explore schedules: which process moves when, and who is killed where, until a violation is found.

    Every process of a small scenario is a greenlet with its own handle; a strategy decides every step. What is found is
    made smaller, told on a page, and repeated with real processes and a real SIGKILL. Everything is kept under
    results/runs/ (or --out). Ctrl-C ends it early, with a verdict over what there is; a second one at once, without.
    """
    if listed:
        return _list(as_json)
    changes = _changes(given)
    command = shlex.join(["harness", *sys.argv[1:]])
    with Line() as line:
        if resumed is not None:
            if out is not None:
                raise UsageError("--out: what is resumed stays in its directory")
            if changes.keys() & {"schedules", "until_coverage"}:
                changes.setdefault("seconds", None)
            explored = exploring.resume(resumed, changes, command=command, show=_showing(line, changes))
        else:
            unlimited = changes.keys() & {"schedules", "until_coverage"}
            defaults = {"seed": secrets.randbits(32), "seconds": None if unlimited else SECONDS}
            options, show = Options(**defaults | changes), _showing(line, defaults | changes)
            explored = exploring.explore(options, out=out or RUNS, command=command, show=show)
    page = cli_report.leave_page(of_explore.facts_of_explored(explored))
    if as_json:
        print_json({**msgspec.to_builtins(explored), "pages": _pages(explored)})
    else:
        _print(explored, page)
    return explored.exit_code


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the names of ``Options``."""
    changes = {
        name: value
        for name, value in given.items()
        if not (value is None or value is False or value == "") and name not in ("scenarios", "no_shrink")
    }
    names = tuple(name.strip() for name in given["scenarios"].split(",") if name.strip())
    if names:
        changes["scenarios"] = names
    if given["no_shrink"]:
        changes["shrink"] = False
    return changes


def _list(as_json: bool) -> int:
    if as_json:
        print_json(list(SCENARIOS.values()))
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("scenario", "used by", "what it is"):
        table.add_column(heading, no_wrap=heading != "what it is")
    for name, scenario in SCENARIOS.items():
        used = [label for label, group in (("default", GENERAL), ("exhaustive", EXHAUSTIVE)) if name in group]
        table.add_row(name, ", ".join(used), describe(scenario))
    Console().print(table)
    return 0


def describe(scenario: Scenario) -> str:
    """A scenario in one line."""
    programs = scenario.programs
    writers = sum(program.role == "writer" for program in programs)
    joining = sum(program.joins > 0 for program in programs)
    parts = [f"{writers} writers" if writers != 1 else "1 writer"]
    if readers := len(programs) - writers:
        parts.append(f"{readers} readers" if readers != 1 else "1 reader")
    if joining:
        parts.append(f"({joining} join after a death)")
    parts.append(f"on {len(scenario.revisions)} keys" + (" that collide" if scenario.collide else ""))
    words = " ".join(parts)
    words += f", {sum(len(program.transactions) for program in programs)} transactions"
    words += (
        f", at most {scenario.kills} kill{'s' * (scenario.kills != 1)}" if scenario.kills else ", no kill"
    )
    words += ", durable" if scenario.durable else ""
    words += ", the index grows" if scenario.capacity else ""
    words += ", short smallfiles" if scenario.smallfile_bytes else ""
    return words + (f", and the {scenario.lost} is lost in the end" if scenario.lost else "")


@click.command(epilog="\b\nExample:\n  harness shrink failure-1.json --out smaller.json")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: FILE itself]")
@click.option(
    "--limit-s", type=click.FloatRange(0, min_open=True), default=shrinking.LIMIT_S, show_default=True
)
@json_options("the smaller failure")
def shrink(file: Path, out: Path | None, limit_s: float, as_json: bool) -> int:
    """Make a failure smaller: fewer processes, transactions, keys, kills and steps with the same violation; of a
    failure of `harness powerloss`, fewer things that did not reach the disk.

    Ctrl-C keeps the smallest so far. Exit code 1, as the failure that is left is one; 2 if FILE does not show its
    violation (any more).
    """
    if is_loss(file):
        return cli_powerloss.shrink(file, out, limit_s, as_json=as_json)
    failure, notes = load(file)
    if failure.bug and failure.bug not in planted.BUGS:
        raise UsageError(f"{file} is of a planted bug that is not known: {failure.bug!r}")
    for note in notes:
        click.echo(f"harness: {file}: {note}", err=True)
    errors = os.memfd_create("harness-errors")
    with Line() as line, memory() as stages:

        def show(*parts: str) -> None:
            line.show(*parts, done=line.elapsed_s / limit_s if parts[0] == "shrinking" else None)

        workshop = Workshop(stages, errors, show)
        smaller = finishing.settle(finishing.smaller(failure, workshop, limit_s), out or file, workshop)
    os.close(errors)
    if as_json:
        print_json(smaller)
    else:
        click.echo(smaller.page)
    return EXIT_CODES[Outcome.VIOLATION]


def _pages(explored: exploring.Explored) -> list[str]:
    return [Path(path).with_suffix(".txt").read_text(encoding="utf-8") for path in explored.failures.values()]


def survey_bugs(only: Sequence[str], seed: int, *, as_json: bool) -> int:
    """Explore with each planted bug in turn and print the table; 0 if every one passed, 1 if one did not."""
    from harness import survey

    rows: list[survey.Row] = []
    with Line() as line:
        wanted = only or survey.names()

        def show(name: str, status: Status) -> None:
            line.show(name, status.phase, done=len(rows) / len(wanted), facts=status)

        for row in survey.survey(only, seed=seed, show=show):
            rows.append(row)
    passed = len(rows) == len(only or survey.names()) and all(row.passed for row in rows)
    if as_json:
        facts = {"command": shlex.join(["harness", *sys.argv[1:]]), "versions": exploring.versions()}
        print_json({"passed": passed, **facts, "rows": rows})
        return 0 if passed else 1
    table = Table(box=None, pad_edge=False)
    for heading in (
        "bug",
        "schedules",
        "seconds",
        "property",
        "steps",
        "processes",
        "transactions",
        "replayed",
        "",
    ):
        table.add_column(heading, justify="left" if heading in ("bug", "property", "") else "right")
    for row in rows:
        sizes = (
            f"{row.before.get(name, 0)} to {row.after.get(name, 0)}"
            for name in ("steps", "processes", "transactions")
        )
        table.add_row(
            row.bug,
            f"{row.schedules:,}",
            f"{row.seconds:.2f}",
            row.property_name,
            *sizes,
            row.reproduced,
            Text("ok", "green") if row.passed else Text("ESCAPED" if not row.found else "NOT SHOWN", "red"),
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    click.echo(
        f"selftest {'OK' if passed else 'FAILED'}: {sum(row.passed for row in rows)} of {len(rows)} bugs"
    )
    return 0 if passed else 1


def _print(explored: exploring.Explored, page: Path | None) -> None:
    """The pages, the counts, and the verdict in the last line."""
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for text in _pages(explored):
        console.print(Text(text))
    record = explored.record
    counts = record.counts
    options = record.options
    rate = counts.schedules / max(counts.seconds, 0.001)
    scenarios = ", ".join(
        f"{name} {counts.by_scenario[name]:,}" for name in options.scenarios if name in counts.by_scenario
    )
    missed = explored.never_killed_at
    meetings = record.coverage.get("meetings", [])
    searched = options.strategy == "exhaustive"
    bound = "no bound" if options.preemptions is None else f"at most {options.preemptions}"
    rows = [
        ("schedules", f"{counts.schedules:,} in {counts.seconds:.1f} s ({rate:,.0f}/s): {scenarios}"),
        ("steps", f"{counts.steps:,}, {counts.kills:,} kills"),
        ("searched", f"{'all' if record.complete else 'not all'}; preemptions: {bound}" if searched else ""),
        ("redundant", f"{counts.redundant:,} schedules were given up" if counts.redundant else ""),
        ("coverage", _coverage(explored, len(meetings))),
        ("not killed", f"at {', '.join(missed)}" if missed and not record.found and not searched else ""),
        ("strategy", f"{options.strategy}, seed {options.seed}, digest {counts.digest}"),
        ("run", explored.directory),
        ("page", str(page or "")),
        ("resume", f"harness explore --resume {shlex.quote(explored.directory)}"),
    ]
    for name, text in rows:
        if text:
            console.print(Text(f"{name:<11} {text}"))
    for reason in explored.reasons:
        console.print(Text(f"{'lacks':<11} {reason}"))
    sentence = of_explore.sentence(explored)
    console.print(Text.assemble((explored.outcome, STYLES[explored.outcome]), f"  {sentence}"))


def _coverage(explored: exploring.Explored, met: int) -> str:
    reachable = len(explored.record.reachable)
    of = (
        f"{explored.coverage:.1%} of the {reachable:,} that were seen to be reachable"
        if reachable
        else (f"kills at {explored.coverage:.1%} of the sync points")
    )
    return f"{met:,} meetings (who was killed where, and where a peer stood), {of}"
