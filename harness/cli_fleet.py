"""The command for many machines: ``harness fleet``."""

from __future__ import annotations

import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from harness import cli_completion, harvest
from harness.cli_base import Line, json_options, out_option, print_json
from harness.cli_ci import print_harvest, told
from harness.errand import KINDS, check, kinds_of
from harness.errors import UsageError
from harness.explore import new_directory, versions
from harness.fleet import drive, ledger
from harness.fleet.drive import Session, Status
from harness.fleet.ledger import Plan
from harness.plan import RUNS

ERRANDS = 40
_SESSION = ("workers", "scheduler", "minutes")


@click.command(
    epilog="\b\nExamples:\n  harness fleet --errands 40 --workers 2\n"
    "  harness fleet --scheduler tcp://10.0.0.5:8786 --kinds explore,powerloss --errands 5000 --seed 1\n"
    "  harness fleet --resume results/runs/2026-03-01T12-00-00-9f3c-fleet"
)
@click.option(
    "--kinds",
    shell_complete=cli_completion.KINDS,
    help=f"Comma separated, of {', '.join(KINDS)}.  [default: all that the engine has]",
)
@click.option(
    "--errands",
    type=click.IntRange(1),
    help=f"So many in all.  [default: {ERRANDS}, with --minutes no limit]",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Hand out nothing after so long.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 32) - 1), help="Decides every errand.  [default: random]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Processes of this machine, without --scheduler.",
)
@click.option("--scheduler", default="", metavar="ADDRESS", help="Use the workers of this dask scheduler.")
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path, file_okay=False),
    help="Go on in this directory, with its plan.",
)
@click.option(
    "--run-seconds",
    "run_s",
    type=click.FloatRange(0, min_open=True),
    help="Of one campaign.  [default: 60]",
)
@click.option("--schedules", type=click.IntRange(1), help="Of one errand that explores.  [default: 2000]")
@click.option("--images", type=click.IntRange(1), help="Of one errand that cuts the power.  [default: 1000]")
@click.option("--engine", shell_complete=cli_completion.ENGINE, help="As of `harness run`.  [default: kvs]")
@click.option(
    "--scenario",
    shell_complete=cli_completion.SCENARIOS,
    help="Comma separated; only of these explore and powerloss.",
)
@click.option(
    "--bug",
    shell_complete=cli_completion.BUG,
    help="Plant a known bug first, to see what a failure looks like.",
)
@click.option(
    "--deaths", type=click.IntRange(1), help="Give an errand up that so many workers died of.  [default: 5]"
)
@out_option(only_if_given=True)
@json_options("the verdict, the failures and every errand")
def fleet(resumed: Path | None, out: Path | None, as_json: bool, **given: Any) -> int:
    """Spread campaigns, schedules and power cuts over the workers of a dask cluster, and collect what they find.

    Every errand follows from the seed and its number. What came of it is recorded when it comes back, once: a worker
    that dies, or this command, costs only what was under way, and --resume does what is missing. Failures that are the
    same are told once and made smaller once; what they left behind comes back from wherever it is.

    Exit code 1 for a violation, 3 if an errand came to no verdict or is missing, 4 if one could not be carried out.
    """
    session = Session(**{name: given.pop(name) for name in _SESSION})
    changes = {name: value for name, value in given.items() if value is not None}
    if "kinds" in changes:
        changes["kinds"] = tuple(name.strip() for name in changes["kinds"].split(",") if name.strip())
    command = shlex.join(["harness", *sys.argv[1:]])
    if resumed is None:
        plan, directory = _begun(changes, session, out, command)
    else:
        plan, directory = _resumed(changes, resumed, out, command), resumed
    ledger.save(plan, directory)
    console = Console(stderr=as_json, soft_wrap=True, highlight=False, emoji=False, markup=False)
    console.print(f"fleet  seed {plan.seed}, {directory}")
    with Line() as line:
        brought = drive.drive(plan, directory, session, lambda status: _show(line, console, status))
    facts, lacking = harvest.write(brought)
    if as_json:
        found = {"directory": str(directory), "outcome": brought.outcome, "notes": brought.notes}
        groups = harvest.groups(brought.results, directory)
        print_json({**found, "reasons": brought.reasons, "failures": groups, "results": brought.results})
    else:
        print_harvest(brought, facts)
    for words in lacking:
        click.echo(f"harness: {words}", err=True)
    return brought.exit_code


def _begun(changes: dict[str, Any], session: Session, out: Path | None, command: str) -> tuple[Plan, Path]:
    """A new plan in a new directory."""
    defaults: dict[str, Any] = {"seed": secrets.randbits(32), "kinds": kinds_of(changes.get("engine", "kvs"))}
    if session.minutes is None:
        defaults["errands"] = ERRANDS
    plan = Plan(**defaults | changes, commands=(command,), versions=versions())
    check(plan.kinds, plan.engine, plan.bug, plan.scenario)
    return plan, new_directory(out or RUNS, drive.WHAT)


def _resumed(changes: dict[str, Any], directory: Path, out: Path | None, command: str) -> Plan:
    """The plan of ``directory``; that there are more errands is all that may be another."""
    if out is not None:
        raise UsageError("--out: what is resumed stays in its directory")
    plan = ledger.load(directory)
    for name, value in changes.items():
        if name not in ("errands", "deaths") and value != getattr(plan, name):
            flag = {"run_s": "run-seconds"}.get(name, name)
            raise UsageError(f"--{flag}: what was begun with another one cannot be resumed with this")
    if plan.errands is not None and changes.get("errands", plan.errands) < plan.errands:
        raise UsageError(f"--errands: {plan.errands} were planned; there can only be more of them")
    return msgspec.structs.replace(plan, **changes, commands=(*plan.commands, command))


def _show(line: Line, console: Console, status: Status) -> None:
    """A line for an errand and for what happened; how far it is."""
    if status.result is not None:
        line.say(told(status.result), console)
    if status.note:
        line.say(Text(status.note), console)
    of = f" of {status.planned:,}" if status.planned is not None else ""
    line.show(
        f"fleet {status.elapsed_s:,.0f} s",
        f"errands {status.done:,}{of}",
        f"{status.under_way} handed out to {status.workers} workers"
        if status.workers
        else "no worker is there",
        f"{status.again} begun again" if status.again else "",
        f"{status.failures} failures" if status.failures else "",
        done=status.done / status.planned if status.planned else None,
        facts=status._asdict() | {"result": None},
    )
