"""``harness replay``: what was found once, again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from harness import replay as schedules
from harness import replay_campaign as campaigns
from harness.cli_base import STYLES, Line, json_options, print_json
from harness.errors import UsageError
from harness.failure import load
from harness.live import CampaignLine
from harness.powerloss import outage, shrinking
from harness.powerloss.loss import is_loss
from harness.powerloss.loss import load as load_loss
from harness.status import Status
from harness.verdict import EXIT_CODES, Finding, Outcome

TIMES: Final = 10
_EXAMPLES: Final = (
    "\b\nExamples:\n  harness replay results/runs/2026-03-01T12-00-00-9f3c-explore/failure-1.json\n"
    "  harness replay results/runs/2026-03-01T12-00-00-9f3c"
)


@click.command(epilog=_EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--times", type=click.IntRange(1), default=TIMES, show_default=True, help="For a run directory: at most."
)
@click.option("--simulated", is_flag=True, help="Greenlets in one process, instead of processes and SIGKILL.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="For where a schedule does not fit."
)
@click.option("--clean", is_flag=True, help="Leave out the bug that was planted.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of a run directory: where the new ones go.  [default: beside it]",
)
@json_options("what was seen")
def replay(
    path: Path, times: int, simulated: bool, seed: int, clean: bool, out: Path | None, as_json: bool
) -> int:
    """Show a violation again: PATH is the file of a failure, or the run directory of a campaign.

    Of a failure of `harness explore` the schedule is played over real processes, with a real SIGKILL at the chosen
    point. If it does not fit the store any more, it is said where and why, and a seeded fallback goes on.
    Of a failure of `harness powerloss` the image is made again, recovered and judged, in a process of its own.

    A campaign runs freely: of its run directory the plan is run again, until the same property is violated again.

    Exit code 1 if any violation was seen, 3 if something else than the recording was played and nothing was seen, or if
    no run of a campaign showed it.
    """
    if path.is_dir():
        if simulated:
            raise UsageError(
                "--simulated is for the schedule of a failure's file; a campaign needs processes"
            )
        return _campaign(path, times, out, plant=not clean, as_json=as_json)
    if is_loss(path):
        return _loss(path, times, plant=not clean, as_json=as_json)
    return _schedule(path, times, seed, simulated=simulated, plant=not clean, as_json=as_json)


def _schedule(path: Path, times: int, seed: int, *, simulated: bool, plant: bool, as_json: bool) -> int:
    failure, notes = load(path)
    if not plant:
        failure = msgspec.structs.replace(failure, bug="")
    done = 0
    with Line() as line:

        def show(_: schedules.Run) -> None:
            nonlocal done
            done += 1
            line.show(f"replaying {done} of {times}", done=done / times)

        replays = schedules.replay(failure, notes, times=times, simulated=simulated, seed=seed, show=show)
    outcome = next(outcome for outcome, code in EXIT_CODES.items() if code == replays.exit_code)
    findings = [finding for run in replays.runs for finding in run.findings]
    lines = schedules.describe(replays)
    if as_json:
        runs = [run._asdict() for run in replays.runs]
        facts = {**replays._asdict(), "runs": runs, "reproduced": replays.reproduced}
        _print_json(facts, outcome, findings, lines)
        return replays.exit_code
    console = _console()
    if failure.message:
        console.print(Text(f"recorded   {failure.property_name:<11} {failure.message}"))
    for text in lines:
        console.print(Text(f"  {text}"))
    sentence = (
        f"{findings[0].property_name:<11} {findings[0].message}" if findings else f"{len(replays.runs)} times"
    )
    console.print(Text.assemble((outcome, STYLES[outcome]), f"  {sentence}"))
    return replays.exit_code


def _loss(path: Path, times: int, *, plant: bool, as_json: bool) -> int:
    """Make the image of a power cut again, recover it ``times`` times, and say what it shows."""
    loss = load_loss(path)
    with outage.scratch() as directory:
        same, findings = shrinking.replay(loss, shrinking.Bench(loss.bug if plant else "", directory), times)
    outcome = Outcome.VIOLATION if findings else Outcome.OK
    lines = [f"{finding.property_name}: {finding.message}" for finding in findings]
    lines += loss.words
    lines.append(
        f"reproduced {same}/{times}" if loss.property_name else f"no violation in {times - same}/{times}"
    )
    if as_json:
        facts = {"times": times, "same": same, "reproduced": f"{same}/{times}"}
        _print_json(facts, outcome, findings, lines)
    else:
        for text in lines:
            click.echo(text)
    return EXIT_CODES[outcome]


def _campaign(path: Path, times: int, out: Path | None, *, plant: bool, as_json: bool) -> int:
    recorded = campaigns.load(path)
    with CampaignLine() as line:

        def show(number: int, status: Status) -> None:
            line.show_trial(f"run {number} of {times} at most:", status, (number - 1) / times)

        command = shlex.join(["harness", *sys.argv[1:]])
        replays = campaigns.replay(recorded, times=times, out=out, plant=plant, command=command, show=show)
    seen = next((run for run in reversed(replays.runs) if run.properties), None)
    findings = [Finding(name, run.message) for run in replays.runs for name in run.properties]
    lines = campaigns.describe(replays)
    if as_json:
        facts = {
            "recorded": {
                "properties": recorded.properties,
                "message": recorded.message,
                "plan": recorded.plan,
            },
            "times": times,
            "reproduced": replays.reproduced,
            "interrupted": replays.interrupted,
            "runs": [{**run._asdict(), "run_dir": str(run.run_dir)} for run in replays.runs],
        }
        _print_json(facts, replays.outcome, findings, lines)
        return EXIT_CODES[replays.outcome]
    console = _console()
    console.print(Text(f"recorded   {recorded.message}"))
    for text in lines:
        console.print(Text(f"  {text}"))
    if seen:
        console.print(Text(f"{'check':<10} harness check {shlex.quote(str(seen.run_dir))}"))
    sentence = (
        seen.message if seen else f"{len(replays.runs)} run{'s' * (len(replays.runs) != 1)} showed nothing"
    )
    console.print(Text.assemble((replays.outcome, STYLES[replays.outcome]), f"  {sentence}"))
    return EXIT_CODES[replays.outcome]


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, emoji=False, markup=False)


def _print_json(facts: dict[str, Any], outcome: Outcome, findings: list[Finding], lines: list[str]) -> None:
    """``facts``, and what every kind of replay has besides "reproduced"."""
    print_json({**facts, "outcome": outcome, "findings": findings, "lines": lines})
