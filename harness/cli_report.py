"""The command about what a run left behind: ``harness report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from harness.cli_base import STYLES, Line, json_options, print_json
from harness.errors import HarnessError, UsageError
from harness.verdict import EXIT_CODES
from harness.viewer.facts import Facts

_STDOUT: Final = "-"


@click.command(
    epilog="\b\nExamples:\n  harness report results/runs/2026-03-01T12-00-00-9f3c\n"
    "  harness report results/reference/damage.json --html damage.html\n"
    "  harness report results/runs/2026-03-01T12-00-00-9f3c --markdown comment.md --junit junit.xml"
)
@click.argument("run", metavar="RUN_DIR_OR_FILE", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page there.")
@click.option("--markdown", metavar="FILE|-", help="Write it as a comment for a pull request.")
@click.option("--junit", metavar="FILE|-", help="Write it as JUnit XML: a case for each property.")
@json_options("it")
def report(run: Path, html: Path | None, markdown: str | None, junit: str | None, as_json: bool) -> int:
    """Tell what came of a run: as a page to look at, as Markdown, as JUnit XML.

    RUN_DIR_OR_FILE is a directory below results/runs, a record that a command wrote or printed with --json, or one
    failure. Without options report.html is written there: it holds all that it shows and needs no network. A campaign
    is judged again from its history.

    The exit code is that of the verdict: 0 OK, 1 violation, 3 unknown.
    """
    if str(html) == _STDOUT:
        raise UsageError("--html: the page is five megabytes, and is written to a file only")
    if [markdown, junit].count(_STDOUT) + as_json > 1:
        raise UsageError("--markdown -, --junit - and --json: standard output can have one of them")
    facts, written = _facts(run, html, pages_only=not (markdown or junit or as_json))
    wanted: list[tuple[str | None, Callable[[Facts], str]]] = [(markdown, _markdown), (junit, _junit)]
    for target, render in wanted:
        if target == _STDOUT:
            click.echo(render(facts), nl=False)
        elif target:
            _write(Path(target), render(facts))
            written.append(target)
    if as_json:
        print_json({"facts": facts, "written": written})
    apart = as_json or _STDOUT in (markdown, junit)
    console = Console(stderr=apart, soft_wrap=True, highlight=False, emoji=False, markup=False)
    for each in written:
        console.print(Text(f"{'written':<11} {each}"))
    console.print(Text.assemble((facts.outcome, STYLES[facts.outcome]), f"  {facts.sentence}"))
    return EXIT_CODES[facts.outcome]


def leave_page(facts: Facts) -> Path | None:
    """Write the page of a run that is over into its directory; where it is, or nothing. That it could not be written is
    said on standard error and changes no verdict.
    """
    from harness.viewer.of_record import PAGE, write_page_with_charts

    path = Path(facts.directory) / PAGE
    try:
        write_page_with_charts(path, facts)
    except HarnessError as error:
        click.echo(f"harness: {error}", err=True)
        return None
    return path


def _facts(run: Path, html: Path | None, *, pages_only: bool) -> tuple[Facts, list[str]]:
    """What is said of the run, and the files that were written: the page, if it is wanted or nothing else is."""
    from harness.viewer.of_record import facts_of, write_page_of

    with Line() as line:
        line.show("judging", str(run))
        if html is None and not pages_only:
            return facts_of(run), []
        page, facts = write_page_of(run, html)
        return facts, [str(page)]


def _markdown(facts: Facts) -> str:
    from harness.viewer.markdown import comment

    return comment(facts)


def _junit(facts: Facts) -> str:
    from harness.viewer.junit import junit

    return junit([facts])


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(
            f"{path} cannot be written: {error.strerror}; the run is as it was: name another file"
        ) from error
