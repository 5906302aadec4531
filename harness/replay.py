"""Replaying a failure: the same schedule again, several times, over real processes with a real SIGKILL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from harness import planted
from harness.errors import UsageError
from harness.failure import Failure
from harness.oracle import Judge, kind_of
from harness.schedule.base import Strategy
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.stepped import program
from harness.stepped.execution import Execution, conduct
from harness.stepped.real import Real
from harness.stepped.simulated import Simulated
from harness.verdict import Finding
from kvs import syncpoints

EXIT_OK: Final = 0
EXIT_VIOLATION: Final = 1
EXIT_UNKNOWN: Final = 3
TIMES: Final = 10
_Value = TypeVar("_Value")
_STEPS: Final = 200
"""About how long a schedule is, for drawing one where none was recorded."""


class Death(NamedTuple):
    """Who was killed at which step and where, how many units of the write it stood before were applied first, and the
    signal that the kernel says it died of (0 in the simulation, which sends none).
    """

    step: int
    process: int
    point: str
    torn: int
    signal: int


class Run(NamedTuple):
    """One execution. ``same``: it shows the recorded kind of violation, perhaps among others. ``findings``: all
    violations. ``divergences``: at which step it left the recording, and why. ``undecided``: how many properties could
    not be decided.
    """

    same: bool
    findings: tuple[Finding, ...]
    divergences: tuple[str, ...]
    deaths: tuple[Death, ...]
    steps: int
    undecided: int


class Replays(NamedTuple):
    """What ``times`` executions of one failure showed; fewer if they were ``interrupted``. ``kind`` is what they were
    to show ("" where the recorded schedule was a clean one); ``notes`` are those of the failure's file.
    """

    kind: str
    times: int
    simulated: bool
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    interrupted: bool

    @property
    def reproduced(self) -> str:
        """How many executions showed the recorded kind of violation, "N/M"; of a clean schedule, how many none."""
        wanted = sum(run.same if self.kind else not run.findings for run in self.runs)
        return f"{wanted}/{len(self.runs)}"

    @property
    def exit_code(self) -> int:
        """1 if any execution showed any violation. 0 if all of them followed the recording and showed none. Otherwise
        3: what left its recording, was interrupted or could not be decided proves nothing.
        """
        if any(run.findings for run in self.runs):
            return EXIT_VIOLATION
        complete = len(self.runs) == self.times and not self.interrupted
        followed = not any(run.divergences or run.undecided for run in self.runs)
        return EXIT_OK if self.runs and complete and followed else EXIT_UNKNOWN


def replay(
    failure: Failure,
    notes: Sequence[str] = (),
    *,
    times: int = TIMES,
    simulated: bool = False,
    seed: int = 0,
    plant: bool = True,
    show: Callable[[Run], None] = lambda _: None,
) -> Replays:
    """Play the schedule of ``failure`` ``times`` times and judge each execution; ``show`` is told of each. Afterwards
    no process, lock or file is left. Ctrl-C ends it early: what was played until then is returned.

    ``failure.bug`` is planted in this process first, for good, unless it is there already (not ``plant``). Where the
    recording does not fit, each execution says where it left it and continues (``Replaying``); a failure without any
    choices is played by a random walk from ``seed``, another one each time.

    Raises:
        UsageError: ``times`` is not positive, or nobody knows the bug.
        HarnessError: the harness failed; nothing can be said about the store.
    """
    if times < 1:
        raise UsageError(f"{times} times: at least once")
    if failure.bug and failure.bug not in planted.BUGS:
        raise UsageError(
            f"the failure is of a planted bug that is not known: {failure.bug!r}; there are {', '.join(planted.BUGS)}"
        )
    if failure.bug and plant:
        planted.BUGS[failure.bug].plant()
    runs: list[Run] = []
    interrupted = False
    try:
        with Simulated(failure.scenario) if simulated else Real(failure.scenario) as stage:
            judge = Judge(stage.place.setup)
            for number in range(times):
                strategy = _strategy(failure, seed)
                strategy.begin(failure.scenario, number)
                execution = conduct(stage, strategy)
                runs.append(_run(failure.kind, strategy, execution, stage, judge))
                show(runs[-1])
    except KeyboardInterrupt:
        interrupted = True
    return Replays(failure.kind, times, simulated, tuple(runs), tuple(notes), interrupted)


def _strategy(failure: Failure, seed: int) -> Strategy:
    points = [*syncpoints.POINTS, *program.POINTS]
    if failure.choices:
        return Replaying(failure.choices, points, seed)
    return RandomWalk(seed, _STEPS, points)


def _run(kind: str, strategy: Strategy, execution: Execution, stage: Real | Simulated, judge: Judge) -> Run:
    findings, undecided = judge.findings(execution)
    signals = {actor.number: actor.signal for actor in stage.actors} if isinstance(stage, Real) else {}
    deaths = [
        Death(kill.step, kill.process, kill.point, kill.torn, signals.get(kill.process, 0))
        for kill in execution.kills
    ]
    divergences = (
        strategy.divergences if isinstance(strategy, Replaying) else ["step 1: no choices were recorded"]
    )
    same = bool(kind) and any(kind_of(finding) == kind for finding in findings)
    return Run(same, tuple(findings), tuple(divergences), tuple(deaths), len(execution.steps), undecided)


def describe(replays: Replays) -> list[str]:
    """All that ``replays`` holds, for people: notes, where the executions left the recording, who died how, what was
    seen instead of what was expected, and how often it reproduced, which is the last line.
    """
    lines = list(replays.notes)
    runs = list(enumerate(replays.runs, 1))
    for divergences, numbers in _grouped((run.divergences, number) for number, run in runs):
        lines += [f"{_which(numbers, replays)}{line}" for line in divergences]
    for deaths, numbers in _grouped((run.deaths, number) for number, run in runs):
        lines += [f"{_which(numbers, replays)}{_death(death)}" for death in deaths]
    others = (
        (tuple(map(kind_of, run.findings)), number) for number, run in runs if run.findings and not run.same
    )
    for kinds, numbers in _grouped(others):
        another = "another violation" if replays.kind else "a violation"
        lines.append(f"{_which(numbers, replays)}{another}: {'; '.join(kinds)}")
    return [*lines, _summary(replays)]


def _grouped(pairs: Iterable[tuple[_Value, int]]) -> list[tuple[_Value, list[int]]]:
    """The numbers of the runs that have each value, in the order of the first ones."""
    found: dict[_Value, list[int]] = {}
    for value, number in pairs:
        found.setdefault(value, []).append(number)
    return list(found.items())


def _which(numbers: Sequence[int], replays: Replays) -> str:
    """Which runs a line is about, in front of it; nothing where it is about all of them."""
    if len(numbers) == len(replays.runs):
        return ""
    return f"run{'s' if len(numbers) > 1 else ''} {_spans(numbers)}: "


def _spans(numbers: Sequence[int]) -> str:
    """``"1-3, 5"``."""
    spans = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        spans.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(spans)


def _death(death: Death) -> str:
    torn = f", after {death.torn} units of its write" if death.torn else ""
    signal = f"died of signal {death.signal}" if death.signal else "died in the simulation"
    return f"step {death.step}: process {death.process} {signal} at {death.point}{torn}"


def _summary(replays: Replays) -> str:
    cut = f" (interrupted; {replays.times} were asked for)" if replays.interrupted else ""
    if not replays.runs:
        return f"nothing was played{cut}"
    if not replays.kind:
        return f"no violation in {replays.reproduced}{cut}"
    missing = [number for number, run in enumerate(replays.runs, 1) if not run.same]
    why = ""
    if missing and len(missing) < len(replays.runs):
        why = f": not in run{'s' if len(missing) > 1 else ''} {_spans(missing)}, so not the schedule alone decides"
    return f"reproduced {replays.reproduced}{why}{cut}"
