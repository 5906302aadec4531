"""The harness's own test: every planted bug must be caught, the clean store must pass, the canary must fail.

A harness that has not been seen red proves nothing by being green.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from harness import campaign, planted
from harness.errors import UsageError
from harness.plan import FAULTS, RUNS, Plan
from harness.status import Status
from harness.verdict import Outcome

LIMIT_S: Final = 30.0
"""A planted bug that takes longer than this to catch has escaped."""
_BUG_SECONDS: Final = 6.0
"""A planted bug gets campaigns of this length, one after another, as long as one more can end within LIMIT_S:
some mistakes are seen by the judge only, which looks when the campaign is over."""
_BUG_FAULTS: Final = tuple(fault for fault in FAULTS if fault != "lose-index")
"""With the index goes what the dead left in it, which is what these bugs are about; none is about making it again."""
_JUDGE_S: Final = 3.0
_CANARY_SECONDS: Final = 1.0
CLEAN: Final = "clean"
CANARY: Final = "canary"


class Trial(msgspec.Struct, frozen=True):
    """One campaign of the selftest: what was expected, what came out, after how long, and who found it."""

    name: str
    meaning: str
    expected: Outcome
    outcome: Outcome
    seconds: float
    found_by: tuple[str, ...]
    evidence: str
    run_dir: str

    @property
    def passed(self) -> bool:
        """Whether the expected verdict came, and in time."""
        return self.outcome is self.expected and (self.name == CLEAN or self.seconds <= LIMIT_S)


def names() -> list[str]:
    """Every trial, in order: those of the planted bugs that campaigns are expected to find, between the two sides."""
    return [CANARY, *(name for name, bug in planted.BUGS.items() if bug.campaign), CLEAN]


def conduct(
    *,
    seed: int,
    only: tuple[str, ...] = (),
    blind: tuple[str, ...] = (),
    clean_seconds: float = 30.0,
    out: Path = RUNS,
    command: str = "",
    show: Callable[[str, Status], None] = lambda *_: None,
) -> Iterator[Trial]:
    """Run the trials one after another and yield each when it is judged. Runs that came out as expected are
    removed, the others are kept.

    ``blind`` names planted bugs whose every finding is ignored on purpose, to show that the selftest notices.

    Raises:
        UsageError: there is no trial of that name.
    """
    for name in (*only, *blind):
        if name not in names():
            others = ", ".join(sorted(planted.BUGS.keys() - set(names())))
            raise UsageError(
                f"no trial is called {name!r}; there are {', '.join(names())}. Campaigns are not expected to find"
                f" {others}: harness explore --bug is, or harness powerloss --bug"
            )
    for number, name in enumerate(names()):
        if only and name not in only:
            continue
        bug = planted.BUGS.get(name, planted.Bug("", ()))
        planted_here = name not in (CLEAN, CANARY)
        plan = Plan(
            seed=seed + number,
            faults=_BUG_FAULTS if planted_here else FAULTS,
            workloads=bug.workloads,
            readers=bug.readers,
            writers=bug.writers,
            seconds={CLEAN: clean_seconds, CANARY: _CANARY_SECONDS}.get(name, _BUG_SECONDS),
            bug=name if planted_here else "",
            canary=name == CANARY,
            blind=("*",) if name in blind else (),
        )
        trial = _trial(name, plan, out, command, show)
        if trial.passed:
            shutil.rmtree(trial.run_dir, ignore_errors=True)
        yield trial


def _trial(name: str, plan: Plan, out: Path, command: str, show: Callable[[str, Status], None]) -> Trial:
    began = time.monotonic()
    while True:
        result = campaign.conduct(plan, out=out, command=command, show=lambda status: show(name, status))
        seconds = time.monotonic() - began
        another = seconds + plan.seconds + _JUDGE_S < LIMIT_S
        if not plan.bug or result.judgement.overall.outcome is Outcome.VIOLATION or plan.blind or not another:
            break
        shutil.rmtree(result.run_dir, ignore_errors=True)
        plan = msgspec.structs.replace(plan, seed=plan.seed + 1000)
    verdicts = result.judgement.verdicts
    outcome = result.judgement.overall.outcome
    telling = [verdict for verdict in verdicts if verdict.outcome is outcome and outcome is not Outcome.OK]
    findings = [finding.message for verdict in telling for finding in verdict.findings]
    return Trial(
        name,
        {CLEAN: "the store as it is", CANARY: "a checker that always fails"}.get(name)
        or planted.BUGS[name].meaning,
        Outcome.OK if name == CLEAN else Outcome.VIOLATION,
        outcome,
        seconds,
        tuple(verdict.property_name for verdict in telling),
        findings[0] if findings else "",
        str(result.run_dir),
    )
