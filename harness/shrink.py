"""Making a failure smaller: what is not needed for the violation is removed, piece by piece.

Every pass takes the failure apart in one way (processes, transactions, uses of keys, preemptions, ...) and asks a
delta debugger for the fewest parts with which the simulated stage still shows the same violation. The passes are
repeated until none of them removes anything. Source: Zeller and Hildebrandt, "Simplifying and isolating
failure-inducing input" (TSE 2002), as implemented in Lithium; for schedules, Choi and Zeller, "Isolating
failure-inducing thread schedules" (ISSTA 2002).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
from lithium.strategies import Minimize, ReductionIterator
from lithium.testcases import TestcaseLine

from harness.errors import HarnessError, UsageError
from harness.failure import Failure
from harness.oracle import LIVENESS, Judge, kind_of
from harness.scenario import Scenario
from harness.schedule.aligned import Aligned
from harness.schedule.base import Strategy
from harness.schedule.replaying import Replaying
from harness.shrink_passes import PASSES, Candidate, preemptions
from harness.stepped.execution import STEPS_MAX, Execution, conduct
from harness.stepped.nursery import uninterrupted
from harness.stepped.program import BEGIN, POINTS
from harness.stepped.simulated import Simulated
from harness.verdict import Finding
from kvs import syncpoints

LIMIT_S: Final = 60.0
CONFIRMATIONS: Final = 3
INTERRUPTED: Final = "interrupted"
OUT_OF_TIME: Final = "out of time"


class Progress(NamedTuple):
    """How far shrinking is: the pass under way, how many candidates were tried, and the sizes (``sizes``) so far."""

    doing: str
    tried: int
    sizes: dict[str, int]


Show = Callable[[Progress], None]


class _OutOfTimeError(Exception):
    """The time is up."""


def shrink(failure: Failure, *, show: Show = lambda _: None, limit_s: float = LIMIT_S) -> Failure:
    """``failure`` with as little in it as still ends in the same violation (``kind``) on the simulated stage; the bug
    that it names must have been planted in this process. ``shrunk`` of the result: sizes ``before`` and ``after``,
    candidates ``tried``, ``seconds``, and why it ``stopped`` before nothing more could be removed ("" if it did not):
    ``limit_s`` was over, or a Ctrl-C came, which is heeded between two candidates. Then the result is the best so far.
    The result was played ``CONFIRMATIONS`` times more and ended in the same violation every time.

    Raises:
        UsageError: replaying the failure as it is does not end in its violation.
        HarnessError: the same schedule does not always end in the same violation.
    """
    with _Trials(failure.kind) as trials:
        return _Shrinking(failure, trials, show, limit_s).run()


class _Shrinking:
    """One failure on its way."""

    def __init__(self, failure: Failure, trials: _Trials, show: Show, limit_s: float) -> None:
        self._failure = failure
        self._trials = trials
        self._show = show
        self._began = time.monotonic()
        self._limit_s = limit_s
        self._doing = ""
        self._tried: set[Candidate] = set()

    def run(self) -> Failure:
        first = self._trials.play(Candidate(self._failure.scenario, self._failure.choices), exactly=True)
        if first is None:
            raise UsageError(
                f"the schedule does not end in its violation ({self._failure.kind}), so there is nothing to shrink;"
                " harness replay says where it diverges"
            )
        before, self._best = first, first
        stopped = ""
        try:
            while self._round():
                pass
        except KeyboardInterrupt:
            stopped = INTERRUPTED
        except _OutOfTimeError:
            stopped = OUT_OF_TIME
        return self._confirmed(before, stopped)

    def _round(self) -> bool:
        """Every pass once; whether one of them removed anything."""
        smaller = False
        for name, parts_of, only in PASSES:
            self._doing = name
            base = self._best
            parts = list(parts_of(base))
            fewest(parts, lambda kept, base=base, only=only: self._holds(only(base, kept)))  # type: ignore[misc]
            smaller = smaller or self._best is not base
        return smaller

    def _holds(self, candidate: Candidate | None) -> bool:
        """Whether ``candidate`` is smaller than the best so far and still shows the violation: then it is the best."""
        if time.monotonic() - self._began > self._limit_s:
            raise _OutOfTimeError
        if candidate is None or candidate in self._tried:
            return False
        self._tried.add(candidate)
        with uninterrupted():
            played = self._trials.play(candidate)
            smaller = played is not None and _weight(played) < _weight(self._best)
            if played is not None and smaller:
                self._best = played
        self._show(Progress(self._doing, len(self._tried), sizes(self._best)))
        return smaller

    def _confirmed(self, before: Candidate, stopped: str) -> Failure:
        best = self._best
        with uninterrupted():
            for _ in range(CONFIRMATIONS):
                if self._trials.play(best, exactly=True) != best:
                    raise HarnessError(
                        "the same schedule does not always end in the same violation; this is a mistake of the harness"
                    )
            finding = self._trials.finding
        return msgspec.structs.replace(
            self._failure,
            scenario=best.scenario,
            choices=best.choices,
            message=finding.message,
            reproduced="",
            page="",
            shrunk={
                "before": sizes(before),
                "after": sizes(best),
                "tried": len(self._tried),
                "seconds": round(time.monotonic() - self._began, 1),
                "stopped": stopped,
            },
        )


class _Trials:
    """Plays candidates on simulated stages, of which the one used last is kept."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._stage: Simulated | None = None
        self._judge: Judge
        self.finding: Finding
        """The violation that was shown last."""

    def play(self, candidate: Candidate, *, exactly: bool = False) -> Candidate | None:
        """What ``candidate`` really did, if that ended in the violation. ``exactly``: as a recording, which a replay
        follows as far as it fits.
        """
        strategy: Aligned | Replaying
        if exactly:
            strategy = Replaying(candidate.choices, [*syncpoints.POINTS, *POINTS])
        else:
            strategy = Aligned(candidate.choices, BEGIN)
        execution = self._execution(candidate.scenario, strategy, len(candidate.choices))
        findings, _ = self._judge.findings(execution)
        if not findings or kind_of(findings[0]) != self._kind:
            return None
        self.finding = findings[0]
        kills = sum(choice.kill for choice in execution.steps)
        torn = any(choice.torn for choice in execution.steps)
        scenario = msgspec.structs.replace(candidate.scenario, kills=kills, torn=torn)
        return Candidate(scenario, tuple(execution.steps))

    def _execution(self, scenario: Scenario, strategy: Strategy, steps: int) -> Execution:
        if self._stage is None or self._stage.scenario != scenario:
            self.close()
            self._stage = Simulated(scenario)
            self._judge = Judge(self._stage.place.setup)
        strategy.begin(scenario, 0)
        endless = self._kind.startswith(LIVENESS)
        steps_max = STEPS_MAX if endless else min(STEPS_MAX, 2 * steps + 500)
        return conduct(self._stage, strategy, steps_max=steps_max)

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def __enter__(self) -> _Trials:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def fewest(parts: Sequence[Hashable], holds: Callable[[list[Any]], bool]) -> list[Any]:
    """The parts that are left when none of them can be taken away without ``holds(those left)`` becoming false, in
    their order; ``holds(parts)`` is taken to be true. At most quadratic in the number of parts, and about logarithmic
    where few are needed.
    """
    testcase = TestcaseLine()
    testcase.parts = [b"%d," % number for number in range(len(parts))]
    testcase.reducible = [True] * len(parts)
    reduction = cast(ReductionIterator, Minimize().reduce(testcase))
    for attempt in reduction:
        reduction.feedback(holds(_named(parts, attempt.parts)))
    return _named(parts, reduction.testcase.parts)


def _named(parts: Sequence[Any], tokens: Sequence[bytes]) -> list[Any]:
    return [parts[int(token[:-1])] for token in tokens]


def sizes(of: Candidate) -> dict[str, int]:
    """How large a failure is."""
    return {
        "processes": len(of.scenario.programs),
        "transactions": sum(len(program.transactions) for program in of.scenario.programs),
        "keys": len(of.scenario.revisions),
        "kills": sum(choice.kill for choice in of.choices),
        "preemptions": len(preemptions(of)),
        "steps": len(of.choices),
    }


def _weight(of: Candidate) -> tuple[int, ...]:
    """What is to become smaller, the most important first."""
    scenario, size = of.scenario, sizes(of)
    uses = traits = 0
    for program in scenario.programs:
        traits += (program.io == "append") + program.closes + program.joins
        for txn in program.transactions:
            uses += len(txn.reads) + len(txn.writes) + len(txn.deletes)
    traits += scenario.durable + scenario.collide + any(choice.torn for choice in of.choices)
    return (
        size["processes"],
        size["transactions"],
        size["kills"],
        uses,
        size["keys"],
        sum(scenario.revisions),
        traits,
        size["preemptions"],
        size["steps"],
    )
