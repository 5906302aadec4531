"""The ``harness`` command. Data goes to standard output, everything else to standard error.

Exit codes: 0 OK, 1 violation, 2 usage, 3 unknown, 4 the harness itself failed, 130 interrupted twice.
"""

from __future__ import annotations

import os

# Before numpy is imported by anything: its threads would make every fork one of a multi-threaded process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import secrets
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import (
    cli_badstorage,
    cli_bench,
    cli_check,
    cli_ci,
    cli_completion,
    cli_corpus,
    cli_damage,
    cli_doctor,
    cli_explore,
    cli_fleet,
    cli_powerloss,
    cli_replay,
    cli_report,
    engines,
)
from harness.cli_base import json_options, out_option, print_json
from harness.engines.base import SLOW_SECONDS, Eventful
from harness.errors import HarnessError, UsageError
from harness.live import CampaignLine
from harness.plan import FAULTS, RUNS, WORKLOADS, Limits, Plan
from harness.verdict import Outcome
from kvs.cli_completion import completion_of

_INTERRUPTED: Final = 130
_FAILED: Final = HarnessError.exit_code
_MISSED: Final = {
    (Outcome.VIOLATION, Outcome.OK): "ESCAPED",
    (Outcome.VIOLATION, Outcome.UNKNOWN): "ESCAPED",
    (Outcome.VIOLATION, Outcome.VIOLATION): "TOO LATE",
    (Outcome.OK, Outcome.VIOLATION): "BLAMED",
    (Outcome.OK, Outcome.UNKNOWN): "NOT SHOWN",
}
"""What a trial of the selftest is called that did not end as it must, by what was expected and what came."""


def _example(command: str) -> str:
    return f"\b\nExample:\n  {command}"


class _Commands(click.Group):
    """Takes note that whoever read the output went away: click would exit with 1, which is a violation."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes stdout once more at exit: give it somewhere to flush to (library/signal).
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(_FAILED)
        return result


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_example("harness run --seconds 30"),
)
def cli() -> None:
    """Torture an embedded store: many processes, kill -9, and checkers that must be convinced.

    Exit codes: 0 OK, 1 violation, 2 usage, 3 unknown (too little was seen to say), 4 the harness failed.
    """


@cli.command(epilog=_example("harness run --engine sqlite --workloads bank,append --seconds 20"))
@cli_completion.engine_option
@click.option(
    "--workloads",
    default=",".join(WORKLOADS),
    show_default=True,
    shell_complete=cli_completion.WORKLOADS,
    help="Comma separated.",
)
@click.option("--writers", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--readers", type=click.IntRange(0, 64), default=2, show_default=True)
@click.option("--auditors", type=click.IntRange(0, 8), default=1, show_default=True)
@click.option(
    "--housekeepers",
    type=click.IntRange(0, 8),
    default=2,
    show_default=True,
    help="Only where the engine has chores for them (kvs: compaction).",
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0), help="Decides workloads, faults and victims.  [default: random]"
)
@click.option(
    "--faults",
    default=",".join(FAULTS),
    show_default=True,
    shell_complete=cli_completion.FAULTS,
    help="Comma separated, or none.",
)
@out_option()
@click.option(
    "--store-dir", type=click.Path(path_type=Path, file_okay=False), help="Parent of the store's directory."
)
@click.option(
    "--stall-s",
    type=click.FloatRange(0, min_open=True),
    envvar="HARNESS_STALL_S",
    help="Longest time that survivors may go without a commit; on a machine that others use too, more. HARNESS_STALL_S "
    "says it for every campaign.  [default: what the engine promises, else 1]",
)
@click.option(
    "--bug",
    default="",
    shell_complete=cli_completion.BUG,
    help="Plant a known bug in the engine first, to see what a failure looks like.",
)
@json_options("the verdict")
def run(
    engine: str,
    workloads: str,
    writers: int,
    readers: int,
    auditors: int,
    housekeepers: int,
    seconds: float,
    seed: int | None,
    faults: str,
    out: Path,
    store_dir: Path | None,
    stall_s: float | None,
    bug: str,
    as_json: bool,
) -> int:
    """Run a campaign: free-running processes that are killed and stopped while they work, then the verdict.

    Everything is saved under results/runs/ (or --out) and can be judged again with `harness check`. Ctrl-C
    ends the run early, with a verdict over what there is; a second one ends it at once, without.
    """
    from harness import campaign, report
    from harness.doctor.words import next_step

    if bug and bug not in (known := engines.load(engine).bugs()):
        raise UsageError(f"no bug {bug!r} can be planted in {engine}; it knows {', '.join(known) or 'none'}")
    plan = Plan(
        seed=secrets.randbits(32) if seed is None else seed,
        engine=engine,
        workloads=_names(workloads),
        faults=() if faults == "none" else _names(faults),
        writers=writers,
        readers=readers,
        auditors=auditors,
        housekeepers=housekeepers,
        seconds=seconds,
        limits=Limits() if stall_s is None else Limits(stall_s=stall_s),
        bug=bug,
    )
    with CampaignLine() as progress:
        result = campaign.conduct(
            plan,
            out=out,
            store_dir=store_dir,
            command=shlex.join(["harness", *sys.argv[1:]]),
            show=progress.show_campaign,
        )
    if as_json:
        pages = report.blocks(result.run, result.judgement, result.run_dir)
        print_json({"run_dir": str(result.run_dir), "judgement": result.judgement, "pages": pages})
    else:
        report.print_summary(Console(), result.run, result.judgement, result.run_dir)
    for crash in result.crashed:
        click.echo(f"harness: {crash}", err=True)
    if result.crashed:
        click.echo(f"harness: {next_step(engine)}", err=True)
    if result.store is not None:
        click.echo(f"harness: the store was kept in {result.store}", err=True)
    code = result.judgement.overall.exit_code
    return _FAILED if result.crashed and code != 1 else code


@cli.command(epilog=_example("harness points --engine kvs"))
@cli_completion.engine_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def points(engine: str, as_json: bool) -> int:
    """List every sync point of an engine with its meaning; those that a campaign must kill at are marked.

    Some are reached so seldom that only a run of two minutes or more must have killed at each of them.
    """
    loaded = engines.load(engine)
    required = loaded.required_points()
    slow = loaded.slow_points if isinstance(loaded, Eventful) else frozenset[str]()
    marks = dict.fromkeys(required, "yes") | dict.fromkeys(required & slow, f"from {SLOW_SECONDS:.0f} s")
    if as_json:
        print_json(
            [
                {"point": point, "meaning": meaning, "required": point in required, "slow": point in slow}
                for point, meaning in loaded.points().items()
            ]
        )
        return 0
    if not loaded.points():
        click.echo(f"harness: {engine} has no sync points; it is killed at random times only", err=True)
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("point", "required", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for point, meaning in loaded.points().items():
        table.add_row(point, marks.get(point, ""), Text(meaning))
    Console().print(table)
    return 0


@cli.command(epilog=_example("harness selftest --only no-commit-lock,clean"))
@click.option(
    "--only",
    default="",
    shell_complete=cli_completion.TRIALS,
    help="Only these trials, comma separated.  [default: all]",
)
@click.option(
    "--blind",
    default="",
    shell_complete=cli_completion.TRIALS,
    help="Ignore every finding of these planted bugs, to see this fail.",
)
@click.option("--clean-seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@out_option(only_if_given=True)
@click.option(
    "--explore", "explored", is_flag=True, help="Find the bugs with `harness explore`, not with campaigns."
)
@click.option(
    "--powerloss", "cut", is_flag=True, help="Find the bugs of power cuts, with `harness powerloss`."
)
@json_options("the trials")
def selftest(
    only: str,
    blind: str,
    clean_seconds: float,
    seed: int,
    out: Path | None,
    explored: bool,
    cut: bool,
    as_json: bool,
) -> int:
    """Plant known bugs in the store and see each of them caught, and the clean store pass.

    With --explore each bug must be found by exploring schedules, one job, within a minute, be shrunk to at most three
    processes and four transactions, and fail the same way 10 times of 10 over real processes.

    With --powerloss each bug must be shown by a power cut, one job, within a minute, be shrunk to at most three things
    that did not reach the disk, and show again 10 times of 10.

    Exit code 0 if every trial ended as it must, 1 if a bug escaped or the clean store was blamed.
    """
    if explored or cut:
        if blind or out or (explored and cut):
            raise UsageError(
                "--explore, or --powerloss, goes with --only, --seed and --json; --blind and --out are for campaigns"
            )
        survey = cli_explore.survey_bugs if explored else cli_powerloss.survey_bugs
        return survey(_names(only), seed, as_json=as_json)
    from harness import selftest as trials

    done: list[trials.Trial] = []
    chosen = _names(only) or trials.names()
    with CampaignLine() as progress:
        for trial in trials.conduct(
            seed=seed,
            only=_names(only),
            blind=_names(blind),
            clean_seconds=clean_seconds,
            out=out or RUNS,
            command=shlex.join(["harness", *sys.argv[1:]]),
            show=lambda name, status: progress.show_trial(name, status, len(done) / len(chosen)),
        ):
            done.append(trial)
    passed = all(trial.passed for trial in done)
    if as_json:
        print_json({"passed": passed, "trials": done})
        return 0 if passed else 1
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "verdict", "seconds", "found by", ""):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for trial in done:
        mark = Text("ok", "green") if trial.passed else Text(_MISSED[trial.expected, trial.outcome], "red")
        found_by = ", ".join(trial.found_by) if trial.name != "clean" or not trial.passed else ""
        table.add_row(trial.name, str(trial.outcome), f"{trial.seconds:.1f}", found_by, mark)
    Console().print(table)
    for trial in done:
        if not trial.passed:
            click.echo(
                f"harness: {trial.name}: expected {trial.expected}, got {trial.outcome}: {trial.run_dir}",
                err=True,
            )
    click.echo(
        f"selftest {'OK' if passed else 'FAILED'}: {sum(t.passed for t in done)} of {len(done)} trials as expected"
    )
    return 0 if passed else 1


cli.add_command(cli_bench.bench)
for _command in (
    cli_check.check,
    cli_check.export,
    cli_explore.explore,
    cli_replay.replay,
    cli_corpus.corpus,
    cli_explore.shrink,
    cli_powerloss.powerloss,
    cli_badstorage.badstorage,
    cli_damage.damage,
    cli_doctor.doctor,
    cli_report.report,
    cli_ci.ci,
    cli_fleet.fleet,
    completion_of("harness"),
):
    cli.add_command(_command)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(arguments: list[str] | None = None) -> None:
    """The entry point: run the command and exit with its code; no traceback reaches the user."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        return int(cli.main(arguments, prog_name="harness", standalone_mode=False) or 0)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("harness: interrupted", err=True)
        return _INTERRUPTED
    except HarnessError as error:
        click.echo(f"harness: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if os.environ.get("HARNESS_TRACEBACK"):
            raise
        click.echo(
            f"harness: failed by itself, no store is to blame: {type(error).__name__}: {error} "
            "(set HARNESS_TRACEBACK=1 to see where)",
            err=True,
        )
        return _FAILED
