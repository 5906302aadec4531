"""A budget of wall time, spent on errands whose seeds are other ones every time.

Everything is kept in one directory: ``ci.json`` with every errand and its seed, whatever came of it, and of failures
what they left behind.
"""

from __future__ import annotations

import datetime
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import xxhash

from harness import errand, harvest
from harness.errand import EXPLORE, POWERLOSS, RUN, Errand, Result
from harness.errors import UsageError
from harness.explore import new_directory, versions, write
from harness.explore_jobs import asked_to_stop
from harness.harvest import Harvest
from harness.verdict import Outcome
from harness.viewer.words import seeded, settings

RECORD: Final = "ci.json"
WHAT: Final = "ci"
LEAST_S: Final = {RUN: 20.0, EXPLORE: 3.0, POWERLOSS: 20.0}
"""In less time an errand of this kind seldom sees enough for a verdict."""
_LOOK_EVERY_S: Final = 0.2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How the budget is spent: errands of ``each_s`` seconds, ``jobs`` at a time, of the kinds in turn."""

    seed: int
    minutes: float = 10.0
    kinds: tuple[str, ...] = errand.KINDS
    engine: str = "kvs"
    bug: str = ""
    scenario: str = ""
    each_s: float = 60.0
    jobs: int = 1


class Record(msgspec.Struct, kw_only=True):
    """``ci.json``: the plan, and every errand with its seed and what came of it."""

    plan: Plan
    command: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    seconds: float = 0.0
    interrupted: bool = False
    results: list[Result] = []
    versions: dict[str, str] = {}


class Status(NamedTuple):
    """How far it is; ``result`` is the errand that has just come to its end."""

    elapsed_s: float
    done: int
    running: tuple[str, ...]
    failures: int
    result: Result | None = None


Show = Callable[[Status], None]


def seed_of_today(environment: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """A seed that is another one every time, and where it is from. In GitHub's CI it is made of the day and the number
    of the run and the attempt; elsewhere it is drawn.
    """
    number, attempt = environment.get("GITHUB_RUN_NUMBER"), environment.get("GITHUB_RUN_ATTEMPT", "1")
    if not number:
        return secrets.randbits(32), "drawn"
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    words = f"of {day}, run {number}, attempt {attempt}"
    return xxhash.xxh32_intdigest(words.encode()), words


def spend(plan: Plan, *, out: Path, command: str = "", show: Show = lambda _: None) -> tuple[Record, Harvest]:
    """Carry errands out until the budget is used; what is under way then finishes its verdict. Afterwards no process is
    left. Ctrl-C ends it early, with a verdict over what there is.

    Raises:
        UsageError: the plan makes no sense, or a command says that of what it was given.
    """
    _check(plan)
    directory = new_directory(out, WHAT)
    job = _Job(plan, directory, command, show)
    try:
        with tempfile.TemporaryDirectory(prefix="harness-ci-") as scratch:
            job.run(Path(scratch))
    finally:
        job.save()
    return job.record, job.harvest()


def _check(plan: Plan) -> None:
    errand.check(plan.kinds, plan.engine, plan.bug, plan.scenario)
    for name, value in (("--minutes", plan.minutes), ("--each", plan.each_s)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{name}: a time that is greater than zero and ends")
    if plan.jobs < 1:
        raise UsageError("--jobs: at least one")


def errand_for(plan: Plan, number: int, left_s: float, without: str = "") -> Errand | None:
    """Errand ``number``, if there is time for it: the last is cut to fit, and is of a kind that can make use of what is
    left. The first one is always there. ``without``: a kind of which there are enough under way.
    """
    turns = [plan.kinds[(number + i) % len(plan.kinds)] for i in range(len(plan.kinds))]
    turns = [kind for kind in turns if kind != without]
    fitting = [kind for kind in turns if min(LEAST_S[kind], plan.each_s) <= left_s]
    if left_s <= 0 or not (fitting or number == 0):
        return None
    return Errand(
        number=number,
        kind=(fitting or turns)[0],
        seed=errand.seed_of(plan.seed, number),
        seconds=round(min(plan.each_s, left_s), 3) or 0.001,
        engine=plan.engine,
        bug=plan.bug,
        scenario=plan.scenario,
    )


class _Job:
    """The budget, and what is left of it."""

    def __init__(self, plan: Plan, directory: Path, command: str, show: Show) -> None:
        self.record = Record(plan=plan, command=command, versions=versions())
        self._plan = plan
        self._directory = directory
        self._show = show
        self._began = time.monotonic()
        self._next = 0
        self._asked = 0
        self._signatures: set[str] = set()

    def run(self, scratch: Path) -> None:
        """Spend it."""
        running: dict[Future[Result], Errand] = {}
        with asked_to_stop(self._interrupt), ThreadPoolExecutor(self._plan.jobs) as pool:
            self.save()
            try:
                while True:
                    while len(running) < self._plan.jobs and (following := self._following(running.values())):
                        future = pool.submit(errand.carry_out, following, parent=scratch, stop=self._asks)
                        running[future] = following
                    if not running:
                        return
                    done, _ = wait(running, _LOOK_EVERY_S, FIRST_COMPLETED)
                    for future in done:
                        del running[future]
                        self._add(future.result(), running)
                    self._tell(running)
            except BaseException:
                self._asked = max(self._asked, 2)  # those under way are ended before the pool is left
                raise

    def _interrupt(self) -> None:
        self._asked += 1
        self.record.interrupted = True

    def _asks(self) -> int:
        return self._asked

    def _following(self, running: Iterable[Errand]) -> Errand | None:
        """The next errand, if there is to be one."""
        if self._asked:
            return None
        full = sum(each.kind == RUN for each in running) >= errand.campaigns_at_once()
        left_s = self._plan.minutes * 60 - self._elapsed_s
        following = errand_for(self._plan, self._next, left_s, without=RUN if full else "")
        self._next += following is not None
        return following

    def _add(self, result: Result, running: Mapping[Future[Result], Errand]) -> None:
        if self._asked and result.outcome is Outcome.UNKNOWN:
            return  # it would have known more, had it been let
        if result.exit_code == UsageError.exit_code:
            raise UsageError(f"`{result.line}`: {result.reasons[-1].removeprefix('harness: ')}")
        harvest.keep(result, self._directory)
        self.record.results.append(harvest.without_files(result))
        self._signatures.update(shown.signature for shown in result.shown)
        self.save()
        self._tell(running, result)

    def _tell(self, running: Mapping[Future[Result], Errand], result: Result | None = None) -> None:
        kinds = tuple(each.kind for each in running.values())
        done = len(self.record.results)
        self._show(Status(self._elapsed_s, done, kinds, len(self._signatures), result))

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def harvest(self) -> Harvest:
        """All that came of it."""
        plan = self._plan
        interrupted = self.record.interrupted
        return Harvest(
            what=WHAT,
            engine=plan.engine,
            directory=self._directory,
            results=self.record.results,
            seconds=round(self._elapsed_s, 1),
            settings=settings(plan),
            environment=tuple(self.record.versions.items()),
            again=seeded(self.record.command, plan.seed),
            notes=("it was interrupted: these are the errands that had come to their end",)
            if interrupted
            else (),
        )

    def save(self) -> None:
        """Write the record."""
        self.record.seconds = round(self._elapsed_s, 1)
        self.record.outcome = self.harvest().outcome
        write(self._directory / RECORD, self.record)
