"""Replaying a campaign: its plan is run again, until a property is violated again that was violated then.

A campaign runs freely. The same plan makes the same choices, and what they meet depends on time: so it is run several
times, and it is said how often it was shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from harness import campaign, judge
from harness.checkers import traffic
from harness.errors import HarnessError, UsageError
from harness.history import Mark, RunEvent, read_run_events
from harness.judge import Judgement
from harness.plan import Plan
from harness.status import Status
from harness.verdict import Outcome

TIMES: Final = 10
_LONGER: Final = 4.0
"""A run lasts at most this many times as long as it took then until something was seen..."""
_SECONDS_MIN: Final = 5.0
"""...but this long in any case, if its plan did."""


class Recorded(NamedTuple):
    """A campaign that ended in a violation: of which properties, and what the first finding said. ``seconds``: how long
    it takes at most to know that another run of its plan does not show it.
    """

    run_dir: Path
    plan: Plan
    properties: tuple[str, ...]
    message: str
    seconds: float


class Again(NamedTuple):
    """One more run of its plan, and which of all properties it violated. ``run_dir`` is there only where it did."""

    run_dir: Path
    properties: tuple[str, ...]
    message: str
    seconds: float
    same: bool


class Replays(NamedTuple):
    """What the runs showed; the last one that was asked for, or the first that violated the same property."""

    recorded: Recorded
    times: int
    runs: tuple[Again, ...]
    interrupted: bool

    @property
    def reproduced(self) -> str:
        """How many of the runs violated a property that was violated then, "N/M"."""
        return f"{sum(run.same for run in self.runs)}/{len(self.runs)}"

    @property
    def outcome(self) -> Outcome:
        """A violation if any run showed any; else unknown, because runs that show nothing prove nothing."""
        return Outcome.VIOLATION if any(run.properties for run in self.runs) else Outcome.UNKNOWN


def load(run_dir: Path) -> Recorded:
    """The campaign of a run directory. Its verdict is read, or found again where it was lost.

    Raises:
        UsageError: it is not a campaign's, or there is nothing to reproduce.
        HarnessError: what is in it cannot be read.
    """
    if not (run_dir / "plan.json").is_file():
        files = sorted(path.name for path in run_dir.glob("failure-*.json"))
        what = (
            f"name a failure in it: {', '.join(files)}"
            if files
            else "name a file, or a directory of harness run"
        )
        raise UsageError(f"{run_dir} is not the run directory of a campaign, it has no plan.json; {what}")
    run = None
    try:
        plan = msgspec.json.decode((run_dir / "plan.json").read_bytes(), type=Plan)
        judgement = msgspec.json.decode((run_dir / "verdict.json").read_bytes(), type=Judgement)
        events = read_run_events(run_dir / "supervisor.jsonl")
    except (OSError, msgspec.DecodeError):
        run = judge.load(run_dir)
        plan, judgement, events = run.plan, judge.judge(run), run.events
    violated = [each for each in judgement.verdicts if each.outcome is Outcome.VIOLATION]
    if not violated:
        raise UsageError(
            f"{run_dir} ended in {judgement.overall.outcome}: there is nothing to reproduce;"
            f" `harness run --engine {plan.engine} --seed {plan.seed}` runs it again"
        )
    first = violated[0].findings[0]
    message = f"{first.property_name:<11} {first.message}"
    return Recorded(
        run_dir,
        plan,
        tuple(each.property_name for each in violated),
        message,
        _seconds(plan, judgement, events),
    )


def _seconds(plan: Plan, judgement: Judgement, events: list[RunEvent]) -> float:
    """How long another run may take: some times as long as the violation did, where it is known when it was."""
    lasted = traffic.run_seconds(events) or plan.seconds
    start = next((event.time for event in events if isinstance(event, Mark) and event.what == "start"), None)
    times = [finding.details.get("time") for finding in judgement.overall.findings]
    known = [time for time in times if isinstance(time, int)]
    if start is not None and known and len(known) == len(times):
        lasted = min(lasted, max(0.0, (min(known) - start) / 1e9))
    return min(plan.seconds, max(_SECONDS_MIN, lasted * _LONGER))


def replay(
    recorded: Recorded,
    *,
    times: int = TIMES,
    out: Path | None = None,
    plant: bool = True,
    command: str = "",
    show: Callable[[int, Status], None] = lambda *_: None,
) -> Replays:
    """Run the plan of ``recorded`` again, at most ``times`` times, until a property of it is violated again; a planted
    bug is planted again (unless not ``plant``). ``show`` is told the number of the run and where it is.

    New run directories go to ``out`` (default: beside the old one); those of runs without any violation are removed.
    Ctrl-C ends it early: what was seen until then is returned.

    Raises:
        HarnessError: a run could not be carried out, or the adapter failed; nothing can be said about the store.
    """
    if not plant:
        recorded = recorded._replace(plan=msgspec.structs.replace(recorded.plan, bug=""))
    plan = msgspec.structs.replace(recorded.plan, seconds=recorded.seconds)
    runs: list[Again] = []
    interrupted = False
    try:
        while len(runs) < times and not interrupted and not (runs and runs[-1].same):
            number = len(runs) + 1
            result = campaign.conduct(
                plan,
                out=out or recorded.run_dir.parent,
                command=command,
                show=lambda status, number=number: show(number, status),  # type: ignore[misc]
            )
            runs.append(_again(result, recorded))
            interrupted = any(
                isinstance(each, Mark) and each.what == "interrupted" for each in result.run.events
            )
            if not runs[-1].properties:
                if result.crashed:
                    raise HarnessError(
                        f"the engine's adapter failed, which says nothing about the store: {result.crashed[0]}"
                    )
                shutil.rmtree(result.run_dir, ignore_errors=True)
    except KeyboardInterrupt:
        interrupted = True
    return Replays(recorded, times, tuple(runs), interrupted)


def _again(result: campaign.Result, recorded: Recorded) -> Again:
    violated = [each for each in result.judgement.verdicts if each.outcome is Outcome.VIOLATION]
    same = [each for each in violated if each.property_name in recorded.properties]
    told = next((finding for each in (*same, *violated) for finding in each.findings), None)
    return Again(
        result.run_dir,
        tuple(each.property_name for each in violated),
        f"{told.property_name:<11} {told.message}" if told else "",
        traffic.run_seconds(result.run.events) or 0.0,
        bool(same),
    )


def describe(replays: Replays) -> list[str]:
    """What the runs showed, for people; how often it was reproduced is the last line."""
    recorded, plan = replays.recorded, replays.recorded.plan
    bug = f", planted {plan.bug}" if plan.bug else ""
    lines = [
        f"the plan again: engine {plan.engine}, seed {plan.seed}{bug}, {recorded.seconds:.3g} s for each run",
        "a campaign runs freely: the same plan makes the same choices, but not the same interleaving",
    ]
    for number, run in enumerate(replays.runs, 1):
        if run.properties:
            other = "" if run.same else "another violation: "
            shown = f"{other}{', '.join(run.properties)} ({run.run_dir})"
        else:
            shown = "nothing"
        lines.append(f"run {number}: {shown} in {run.seconds:.1f} s")
    if not replays.runs:
        lines.append("nothing was run")
    cut = f" (interrupted; at most {replays.times} were asked for)" if replays.interrupted else ""
    return [*lines, f"reproduced {replays.reproduced} runs{cut}"]
