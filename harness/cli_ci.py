"""The command for continuous integration: ``harness ci``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from harness import ci as spending
from harness import cli_completion, harvest
from harness.ci import Plan, Status
from harness.cli_base import STYLES, Line, json_options, out_option, print_json
from harness.errand import KINDS, Result, kinds_of
from harness.errors import HarnessError
from harness.harvest import Harvest
from harness.viewer.facts import Facts


@click.command(
    epilog="\b\nExamples:\n  harness ci --minutes 10\n"
    "  harness ci --minutes 10 --engine path/to/engine.py:MyEngine --junit torture.xml"
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="What may be spent.",
)
@click.option(
    "--kinds",
    default="",
    shell_complete=cli_completion.KINDS,
    help=f"Comma separated, of {', '.join(KINDS)}.  [default: all that the engine has]",
)
@cli_completion.engine_option
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 32) - 1),
    help="Decides the seed of every errand.  [default: another one every time]",
)
@click.option(
    "--each",
    "each_s",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds of one errand.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Errands at the same time."
)
@click.option(
    "--scenario",
    default="",
    shell_complete=cli_completion.SCENARIOS,
    help="Comma separated; only of these explore and powerloss.",
)
@click.option(
    "--bug",
    default="",
    shell_complete=cli_completion.BUG,
    help="Plant a known bug first, to see what a failure looks like.",
)
@out_option()
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML, a suite an errand."
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the summary in Markdown.  [default: what GITHUB_STEP_SUMMARY names]",
)
@json_options("the verdict, the failures and every errand")
def ci(
    seed: int | None,
    kinds: str,
    out: Path,
    junit: Path | None,
    summary: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Spend a budget of time on campaigns, schedules and power cuts, with other seeds every time.

    Each errand is one `harness` command with a seed of its own; the last is cut to fit. Failures that are the same are
    told once, with the line that replays them; what they left behind is kept, and of every errand the seed.

    In GitHub's CI the failures are annotations, and the summary is the job's. Exit code 1 for a violation, 3 if too
    little was seen, 4 if an errand could not be carried out. Ctrl-C ends it early.
    """
    drawn, source = spending.seed_of_today() if seed is None else (seed, "given")
    names = tuple(name.strip() for name in kinds.split(",") if name.strip())
    plan = Plan(seed=drawn, kinds=names or kinds_of(given["engine"]), **given)
    speaker = _Speaker(plan, as_json=as_json)
    command = shlex.join(["harness", *(each for each in sys.argv[1:])])
    with Line() as line:
        speaker.begin(f"seed {drawn} ({source})")
        try:
            record, brought = spending.spend(
                plan, out=out, command=command, show=lambda status: speaker.show(line, status)
            )
        finally:
            speaker.end()
    facts, lacking = harvest.write(brought)
    lacking += _hand_out(brought, facts, junit, summary)
    if as_json:
        groups = harvest.groups(brought.results, brought.directory)
        print_json({"directory": str(brought.directory), "failures": groups, "record": record})
    else:
        print_harvest(brought, facts)
        for annotation in _annotations(facts):
            click.echo(annotation)
    for words in lacking:
        click.echo(f"harness: {words}", err=True)
    return brought.exit_code


class _Speaker:
    """Says a line for every errand: above the progress on a terminal, in a group where GitHub reads it."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._budget_s = plan.minutes * 60
        self._console = Console(stderr=as_json, soft_wrap=True, highlight=False, emoji=False, markup=False)
        self._group = _in_github() and not as_json

    def begin(self, words: str) -> None:
        """Say what decides everything."""
        if self._group:
            self._console.print(f"::group::harness ci: errands, {words}")
        self._console.print(words)

    def show(self, line: Line, status: Status) -> None:
        """Say what an errand came to; draw how far it is."""
        if status.result is not None:
            line.say(told(status.result), self._console)
        line.show(
            f"ci {status.elapsed_s:,.0f} of {self._budget_s:,.0f} s",
            f"errands {status.done:,}",
            f"under way: {', '.join(status.running)}" if status.running else "",
            f"{status.failures} failures" if status.failures else "",
            done=status.elapsed_s / self._budget_s,
            facts=status._asdict() | {"result": None},
        )

    def end(self) -> None:
        """What follows is the verdict."""
        if self._group:
            self._console.print("::endgroup::")


def told(result: Result) -> Text:
    """An errand in one line."""
    counts = ", ".join(f"{count:,.0f} {name}" for name, count in result.counts.items())
    said = "; ".join(
        [*(f"{shown.property_name}: {shown.message}" for shown in result.shown), *result.reasons]
    ).replace("\n", " ")
    return Text.assemble(
        (f"{result.outcome:<9}", STYLES[result.outcome]),
        f" {result.number:>4} {result.kind:<9} seed {result.seed:<10} {result.seconds:6.1f} s  {counts}",
        f"  {said[:200]}" if said else "",
    )


def print_harvest(brought: Harvest, facts: Facts) -> None:
    """The failures, each once, and the verdict in the last line."""
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    for failed in facts.failures:
        console.print(
            Text.assemble(
                (facts.outcome, STYLES[facts.outcome]), f"  {failed.property_name:<11} {failed.message}"
            )
        )
        for name, text in failed.words:
            console.print(Text(f"  {name:<11} {text}"))
        if failed.replay:
            again = f"     ({failed.reproduced})" if failed.reproduced else ""
            console.print(Text(f"  {'replay':<11} {failed.replay}{again}"))
    for note in brought.notes:
        console.print(Text(f"{'note':<11} {note}"))
    console.print(Text(f"{'page':<11} {brought.directory / harvest.PAGE}"))
    console.print(Text.assemble((facts.outcome, STYLES[facts.outcome]), f"  {facts.sentence}"))


def _in_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _annotations(facts: Facts) -> list[str]:
    from harness.viewer.annotations import annotations

    return annotations(facts) if _in_github() else []


def _hand_out(brought: Harvest, facts: Facts, junit: Path | None, summary: Path | None) -> list[str]:
    """Write what others read: JUnit XML, the job's summary. What could not be written."""
    from harness.viewer.junit import junit as xml_of
    from harness.viewer.markdown import comment

    lacking = []
    if summary is None and _in_github() and (named := os.environ.get("GITHUB_STEP_SUMMARY")):
        summary = Path(named)
    try:
        if junit is not None:
            suites = [harvest.of_errand(result, brought) for result in brought.results]
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.write_text(xml_of(suites or [facts]), encoding="utf-8")
        if summary is not None:
            with summary.open("a", encoding="utf-8") as file:
                file.write(comment(facts) + "\n")
    except (OSError, HarnessError) as error:
        lacking.append(f"{error}; the verdict stands")
    return lacking
