"""The command about damaged files: ``harness damage``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import bench_engines, cli_completion
from harness.cli_base import Line, json_options, print_json
from harness.damage import campaign as damaging
from harness.damage import fuzz, subjects
from harness.damage.campaign import Report, Row, Status
from harness.errors import UsageError
from harness.verdict import EXIT_CODES, Outcome

OUT: Final = Path("results") / "damage.json"
SECONDS: Final = 60.0
_STYLES: Final = {Outcome.OK: "green", Outcome.VIOLATION: "red", Outcome.UNKNOWN: "yellow"}


@click.command(
    epilog="\b\nExamples:\n  harness damage --seconds 60\n  harness damage --count 1000000 --seed 1\n"
    "  harness damage --replay results/damage/damage-17-1.json"
)
@click.option("--count", type=click.IntRange(1), help="So many trials.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="[default: 60, without a limit with --count]"
)
@click.option("--seed", type=click.IntRange(0), help="Decides every trial.  [default: random]")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=2, show_default=True, help="Processes that damage."
)
@click.option(
    "--subjects",
    "names",
    shell_complete=cli_completion.SUBJECTS,
    default="",
    help="Comma separated.  [default: all: " + ", ".join(subjects.RECIPES) + "]",
)
@click.option("--fuzz", "fuzzing", is_flag=True, help="Let atheris (extra fuzz) think of the damage instead.")
@click.option(
    "--replay",
    "again",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Do the trial of a finding again, and nothing else.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=OUT,
    show_default=True,
    help="JSON; findings are put into a directory of that name.",
)
@json_options("what came of it")
def damage(
    count: int | None,
    seconds: float | None,
    seed: int | None,
    jobs: int,
    names: str,
    fuzzing: bool,
    again: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Damage the files of small stores in every way: nothing but right values and clean errors may come out.

    Bits are flipped, bytes and blocks zeroed, overwritten, swapped and put back from an earlier time, files cut,
    removed and renamed; then the store is read in every way, verified, written to, rebuilt and recovered. Each trial is
    done in a process that may die of it. No file is cut under a handle that has it mapped: no map survives that.

    Exit code 1 if any answer was wrong, 3 if there were too few trials to say. Ctrl-C keeps what was found.
    """
    if again is not None:
        return _replay(again, as_json=as_json)
    chosen = tuple(name.strip() for name in names.split(",") if name.strip()) or tuple(subjects.RECIPES)
    if unknown := [name for name in chosen if name not in subjects.RECIPES]:
        raise UsageError(f"no subject is called {unknown[0]!r}; there are {', '.join(subjects.RECIPES)}")
    seed = secrets.randbits(31) if seed is None else seed
    if fuzzing:
        if count is not None or as_json:
            raise UsageError("--fuzz goes with --seconds, --seed, --subjects and --out only")
        whole = fuzz.fuzz(seconds or SECONDS, seed, out.with_suffix(""), chosen)
        kept = out.with_suffix("")
        found = f"VIOLATION  harness damage --replay {kept / fuzz.FOUND}, or the file crash- or timeout- beside it"
        click.echo("OK  nothing was found" if whole else found)
        return EXIT_CODES[Outcome.OK if whole else Outcome.VIOLATION]
    if seconds is None and count is None:
        seconds = SECONDS
    with Line() as line:
        report = damaging.campaign(
            seed=seed,
            count=count,
            seconds=seconds,
            workers=jobs,
            out=out.with_suffix(""),
            names=chosen,
            show=lambda status: _show(line, status, seconds),
        )
    report.machine = bench_engines.machine() | {"load_average_after": os.getloadavg()}
    report.versions = bench_engines.versions()
    data = msgspec.json.format(msgspec.json.encode(report), indent=1)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data + b"\n")
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}; name another file with --out") from error
    if as_json:
        print_json(report)
    else:
        _print(report, out)
    return report.exit_code


def _show(line: Line, status: Status, seconds: float | None) -> None:
    """Draw how far it is."""
    shares = [status.trials / status.count if status.count is not None else 0.0]
    if seconds is not None:
        shares.append(status.seconds / seconds)
    line.show(
        f"damaging {status.trials:,} trials",
        f"{status.trials / max(status.seconds, 0.001):,.0f}/s",
        f"{status.findings} findings" if status.findings else "",
        done=max(shares),
        facts=status,
    )


def _replay(path: Path, *, as_json: bool) -> int:
    finding = damaging.load(path)
    problems = damaging.replay(finding)
    outcome = Outcome.VIOLATION if problems else Outcome.OK
    if as_json:
        answer = {
            "outcome": outcome,
            "damage": finding.words,
            "problems": [each._asdict() for each in problems],
        }
        print_json(answer)
        return EXIT_CODES[outcome]
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    console.print(Text(f"{finding.subject.name}, {finding.phase} ({finding.io}): {finding.words}"))
    for problem in problems:
        console.print(Text(f"  {problem.kind}: {problem.message}"))
    console.print(Text.assemble((outcome, _STYLES[outcome]), f"  {len(problems)} wrong answers"))
    return EXIT_CODES[outcome]


def _print(report: Report, out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("", "trials", "right", "refused", "said", "violations"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in (*report.subjects, None, *report.phases, None, report.total):
        table.add_row(*(_cells(row) if row is not None else [""] * 6))
    Console(width=None if Console().is_terminal else 120).print(table)
    console.print()
    for kind, number in sorted(report.kinds.items(), key=lambda each: -each[1]):
        console.print(Text(f"{number:>6}  {kind}"))
    for path in report.files:
        console.print(Text(f"replay      harness damage --replay {path}"))
    systematic = f"{report.systematic:,} of {report.systematic_of:,} systematic damages"
    console.print(Text(f"seed        {report.seed}; {systematic}"))
    console.print(Text(f"written     {out}"))
    rate = report.trials / max(report.seconds, 0.001)
    sentence = f"{report.trials:,} damaged inputs in {report.seconds:,.0f} s ({rate:,.0f}/s)"
    if report.total.violations:
        sentence += f", {report.total.violations:,} wrong answers"
    if report.interrupted:
        sentence += ", interrupted"
    console.print(Text.assemble((report.outcome, _STYLES[report.outcome]), f"  {sentence}"))


def _cells(row: Row) -> list[str]:
    numbers = (row.trials, row.right, row.refused, row.said, row.violations)
    return [row.name, *(f"{number:,}" for number in numbers)]
