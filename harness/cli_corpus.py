"""``harness corpus``: failures that are kept as tests."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from harness import corpus as kept
from harness.cli_base import STYLES, Line, json_options, print_json
from harness.corpus import Entry, Played
from harness.verdict import EXIT_CODES, Outcome

_DIRECTORY: Final = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=kept.DIRECTORY,
    show_default=True,
    help="Where they are kept.",
)


@click.group(
    epilog="\b\nExamples:\n  harness corpus add failure-1.json --story 'a reader did not look again'\n"
    "  harness corpus replay"
)
def corpus() -> None:
    """Keep failures as tests, each with the story of what it caught.

    A kept failure is an exact one, of `harness explore` or `harness powerloss`.
    """


@corpus.command(
    epilog="\b\nExample:\n  harness corpus add results/runs/2026-03-01T12-00-00-9f3c-explore/failure-1.json \\\n"
    "    --name torn-intent --story 'A writer that died in its intent left half of it, which was taken for whole.'"
)
@click.argument("source", metavar="FAILURE", type=click.Path(path_type=Path))
@click.option("--name", default="", help="[default: its planted bug, else its property and a number]")
@click.option("--story", default="", help="What it caught, in a sentence or two.")
@click.option("--unproven", is_flag=True, help="Keep it though it does not show its violation now.")
@_DIRECTORY
@json_options("what was kept")
def add(source: Path, name: str, story: str, unproven: bool, directory: Path, as_json: bool) -> int:
    """Keep the FAILURE in a file. It is replayed first, and must show its violation."""
    with Line() as line:
        entry = kept.add(source, directory, name=name, story=story, proven=not unproven, show=line.show)
    if as_json:
        print_json(_facts(entry))
    else:
        click.echo(f"{'kept':<11} {entry.path}")
    return 0


@corpus.command(name="list", epilog="\b\nExample:\n  harness corpus list")
@_DIRECTORY
@json_options("them")
def list_(directory: Path, as_json: bool) -> int:
    """List what is kept, each with its story."""
    entries = kept.entries(directory)
    if as_json:
        print_json([_facts(entry) for entry in entries])
        return 0
    for entry in entries:
        click.echo(_heading(entry))
        click.echo(_story(entry))
    return 0


@corpus.command(epilog="\b\nExample:\n  harness corpus replay --dir tests/schedules")
@_DIRECTORY
@json_options("what became of each")
def replay(directory: Path, as_json: bool) -> int:
    """Replay all that is kept: without its planted bug each must be clean, with it each must show it.

    Exit code 1 if the store breaks a promise, 3 if one does not show its bug any more or nothing could be replayed.
    """
    entries = kept.entries(directory)
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    done: list[Played] = []
    with Line() as line:
        for number, entry in enumerate(entries):
            line.show(f"replaying {entry.name}", done=number / len(entries))
            done.append(kept.play(entry))
    outcome = _outcome(done)
    if as_json:
        rows = [{**_facts(each.entry), "outcome": each.outcome, "words": each.words} for each in done]
        print_json({"outcome": outcome, "replayed": rows})
        return EXIT_CODES[outcome]
    for each in done:
        style = STYLES[each.outcome]
        console.print(Text.assemble((f"{each.outcome:<11} ", style), f"{_heading(each.entry)}: {each.words}"))
        if each.outcome is not Outcome.OK:
            console.print(Text(_story(each.entry)))
            console.print(Text(f"  replay    harness replay {each.entry.path}"))
    held = sum(each.outcome is Outcome.OK for each in done)
    console.print(Text.assemble((outcome, STYLES[outcome]), f"  {held} of {len(done)} kept failures"))
    return EXIT_CODES[outcome]


def _outcome(done: list[Played]) -> Outcome:
    outcomes = {each.outcome for each in done}
    worst = (Outcome.VIOLATION, Outcome.UNKNOWN, Outcome.OK)
    return next((outcome for outcome in worst if outcome in outcomes), Outcome.UNKNOWN)


def _heading(entry: Entry) -> str:
    bug = f", planted {entry.kept.bug}" if entry.kept.bug else ""
    return f"{entry.name} ({entry.kind}, {entry.kept.property_name}{bug})"


def _story(entry: Entry) -> str:
    return textwrap.fill(entry.kept.story or "(no story)", 100, initial_indent="  ", subsequent_indent="  ")


def _facts(entry: Entry) -> dict[str, str]:
    return {
        "name": entry.name,
        "file": str(entry.path),
        "kind": entry.kind,
        "property": entry.kept.property_name,
        "message": entry.kept.message,
        "bug": entry.kept.bug,
        "story": entry.kept.story,
    }
