"""The commands that look at histories: ``check`` judges one, ``export`` writes a run's for other tools."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from harness import cli_completion
from harness.cli_base import Line, json_options, print_json
from harness.errors import HarnessError, HistoryError, UsageError
from harness.evidence import Evidence, Shown, lines_of, tell
from harness.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.budget import Budget

_LIMIT_S: Final = 600.0
"""Deciding a history may take exponential time: without any limit a command might never end."""
_STYLES: Final = {Outcome.OK: "bold green", Outcome.VIOLATION: "bold red", Outcome.UNKNOWN: "bold yellow"}
EXPORTS: Final = ("jepsen-edn", "jepsen-json", "edn-lines", "json-lines")


@click.command(
    epilog="\b\nExample:\n  harness check history.edn --model list-append --property serializable\n"
    "  harness check results/runs/2026-03-01T12-00-00-9f3c"
)
@click.argument("history", metavar="FILE_OR_RUN", type=click.Path(path_type=Path))
@click.option(
    "--model",
    shell_complete=cli_completion.MODEL,
    help="What the operations mean.  [default: guessed from them]",
)
@click.option(
    "--property",
    "property_name",
    shell_complete=cli_completion.PROPERTY,
    help="What they are checked for.  [default: the model's only one]",
)
@click.option(
    "--format",
    "format_name",
    shell_complete=cli_completion.FORMAT,
    help="How the file is written.  [default: guessed from it]",
)
@click.option(
    "--limit-s",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds after which it is UNKNOWN.  [default: {_LIMIT_S:g}]",
)
@click.option(
    "--limit-mb", type=click.FloatRange(0, min_open=True), help="MiB of memory after which it is UNKNOWN."
)
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the first violation there."
)
@json_options("the verdict")
def check(
    history: Path,
    model: str | None,
    property_name: str | None,
    format_name: str | None,
    limit_s: float | None,
    limit_mb: float | None,
    svg: Path | None,
    as_json: bool,
) -> int:
    """Judge a recorded history: a file that any tool recorded, or the directory of a run.

    The verdict is OK, VIOLATION (with the anomaly, and the few operations that show it) or UNKNOWN. A run is judged
    by all of its properties unless a model is named; then it is judged as a history of that model. Nothing is changed.
    """
    from harness.budget import Budget

    if not history.exists():
        raise UsageError(f"{history} does not exist; name a file with a history, or the directory of a run")
    budget = Budget(limit_s or _LIMIT_S, limit_mb)
    if not history.is_dir():
        verdict, check_line = _check_file(history, model, property_name, format_name, budget)
        return _finish(
            verdict,
            check_line,
            svg,
            lambda shown: lines_of(str(history), shown),
            str(history),
            as_json=as_json,
        )
    if format_name is not None:
        raise UsageError(f"{history} is the directory of a run: --format is for files")
    if model is None:
        if property_name or svg or limit_s or limit_mb:
            raise UsageError("a run is judged as a whole; --property, --svg and the limits need --model")
        return _check_run(history, as_json=as_json)
    verdict, check_line = _check_run_as(history, model, property_name, budget)

    def where(shown: Shown) -> str:
        return lines_of(str(history / "history" / f"{shown.process}.jsonl"), shown)

    return _finish(verdict, check_line, svg, where, str(history), as_json=as_json)


def _check_file(
    path: Path, model: str | None, property_name: str | None, format_name: str | None, budget: Budget
) -> tuple[Verdict, str]:
    from harness import checking

    try:
        with Line() as line:
            line.show("looking at the operations" if model is None else "")
            chosen, name = checking.choose(path, model=model, property=property_name, format=format_name)
            verdict = checking.check_with(
                path,
                chosen,
                name,
                format=format_name,
                budget=budget,
                show=line.show if line.watched else None,
            )
    except HistoryError as error:  # the harness is well: the file is not what it is said to be
        raise UsageError(str(error)) from error
    words = ["harness", "check", str(path), "--model", chosen.name, "--property", name]
    return verdict, shlex.join(words + (["--format", format_name] if format_name else []))


def _check_run(run_dir: Path, *, as_json: bool) -> int:
    """Judge a saved run by all of its properties."""
    from rich.console import Console

    from harness import judge, report

    with Line() as line:
        line.show("reading the histories")
        loaded = judge.load(run_dir)
        count = f"{len(loaded.operations):,} operations"
        judgement = judge.judge(loaded, lambda what, done: line.show("judging", count, what, done=done))
    if as_json:
        print_json({"run_dir": str(run_dir), "judgement": judgement})
    else:
        report.print_summary(Console(), loaded, judgement, run_dir)
    return judgement.overall.exit_code


def _check_run_as(
    run_dir: Path, model: str, property_name: str | None, budget: Budget
) -> tuple[Verdict, str]:
    """Judge a saved run as a history of one model."""
    from harness import checking, judge
    from harness.checkers import recorded
    from harness.models import registry

    chosen = registry.find(model)
    if chosen.name not in recorded.MODELS:
        raise UsageError(f"a run is no {model} history; it can be seen as {', '.join(recorded.MODELS)}")
    name = registry.property_of(chosen, property_name)
    operations = recorded.MODELS[chosen.name](judge.load(run_dir).operations)
    verdict = checking.check_operations(operations, chosen, name, path=str(run_dir), budget=budget)
    return verdict, shlex.join(["harness", "check", str(run_dir), "--model", chosen.name, "--property", name])


def _finish(
    verdict: Verdict,
    check_line: str,
    svg: Path | None,
    where: Callable[[Shown], str],
    history: str,
    *,
    as_json: bool,
) -> int:
    """Draw and print; the exit code."""
    drawn = _draw(verdict, svg) if svg is not None else False
    if as_json:
        print_json({"history": history, "verdict": verdict, "svg": str(svg) if drawn else None})
    else:
        _print(verdict, check_line, where)
    if drawn:
        click.echo(f"harness: the first violation is drawn in {svg}", err=True)
    elif svg is not None:
        click.echo("harness: there is no violation to draw", err=True)
    return verdict.exit_code


def _draw(verdict: Verdict, svg: Path) -> bool:
    from harness import timeline

    for finding in verdict.findings:
        evidence = finding.details.get("evidence")
        if isinstance(evidence, Evidence):
            try:
                timeline.draw(evidence, svg)
            except OSError as error:
                raise HarnessError(
                    f"{svg} cannot be written: {error}; the verdict is {verdict.outcome}"
                ) from error
            return True
    return False


def _print(verdict: Verdict, check_line: str, where: Callable[[Shown], str]) -> None:
    """Each finding with its evidence, what was looked at, and the verdict last."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for finding in verdict.findings:
        lines = [f"{verdict.outcome!s:<10} {verdict.property_name}  {finding.message}"]
        evidence = finding.details.get("evidence")
        if isinstance(evidence, Evidence):
            lines += [f"  {heading:<10} {text}" for heading, text in tell(evidence, where)]
        text = Text("\n".join(lines))
        text.stylize(_STYLES[verdict.outcome], 0, len(verdict.outcome))
        console.print(text, soft_wrap=True)
        console.print()
    looked = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in verdict.checked.items())
    console.print(Text(f"looked at  {looked or 'nothing'}"), soft_wrap=True)
    console.print(Text(f"check      {check_line}"), soft_wrap=True)
    console.print(
        Text(f"{verdict.outcome}  {verdict.property_name}", _STYLES[verdict.outcome]), soft_wrap=True
    )


@click.command(
    epilog="\b\nExample:\n  harness export results/runs/2026-03-01T12-00-00-9f3c --model list-append --out history.edn"
)
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--model",
    required=True,
    shell_complete=cli_completion.RECORDED,
    help="list-append, rw-register or bank: which workloads, in which words.",
)
@click.option("--format", "format_name", default="jepsen-edn", show_default=True, type=click.Choice(EXPORTS))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: standard output]"
)
def export(run_dir: Path, model: str, format_name: str, out: Path | None) -> int:
    """Write the history of a run so that other checkers can check ours (Jepsen's formats).

    Nothing in RUN_DIR is changed. Deletions are written as the micro-operation d, which Jepsen does not know.
    """
    from harness import judge
    from harness.checkers import recorded
    from harness.formats.writing import write

    if model not in recorded.MODELS:
        raise UsageError(f"a run is no {model} history; it can be seen as {', '.join(recorded.MODELS)}")
    operations = recorded.MODELS[model](judge.load(run_dir).operations)
    if not operations:
        raise UsageError(f"{run_dir} has no operation of {model}: its workloads were others")
    events = recorded.events(operations)
    if out is None:
        write(events, sys.stdout.buffer, format_name)
        sys.stdout.buffer.flush()
        return 0
    try:
        with out.open("wb") as file:
            write(events, file, format_name)
    except OSError as error:
        raise HarnessError(f"{out} cannot be written: {error}; write it somewhere else with --out") from error
    click.echo(f"harness: {len(operations):,} operations are in {out}", err=True)
    return 0
