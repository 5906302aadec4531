"""Every workload with every fault at every call, then with two faults at once; and one run again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.badstorage import trial
from harness.badstorage.faults import FAULTS, VARIANTS, Fault, Run, parse
from harness.badstorage.trial import Outcome
from harness.badstorage.workloads import WORKLOADS
from harness.errors import UsageError
from harness.verdict import EXIT_CODES
from harness.verdict import Outcome as Verdict

_SECOND_WITHIN: Final = 60
"""The second of two faults is at most so many calls behind the first: it is what is done about the first that it meets.
"""


class Finding(msgspec.Struct, frozen=True):
    """Something that must not be, ``times`` runs showed it. ``line`` is the first of them: ``replay`` takes it."""

    line: str
    property_name: str = msgspec.field(name="property")
    message: str = ""
    failed: tuple[str, ...] = ()
    """What was made to fail in that run, in words."""
    times: int = 1


class Report(msgspec.Struct, frozen=True):
    """What a campaign came to. ``calls``: those of each workload and variant; ``planned``: how many runs with one fault
    there are; ``singles``: how many of them were tried; ``pairs``: how many runs with two.
    """

    seed: int
    calls: dict[str, int]
    planned: int
    singles: int
    pairs: int
    findings: tuple[Finding, ...]
    seconds: float
    interrupted: bool = False

    @property
    def tried(self) -> int:
        """How many runs there were."""
        return self.singles + self.pairs

    @property
    def outcome(self) -> Verdict:
        """A violation if anything was found; OK if nothing was although everything that was planned was tried."""
        if self.findings:
            return Verdict.VIOLATION
        return Verdict.UNKNOWN if self.interrupted or not self.tried else Verdict.OK

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violation, 3 unknown."""
        return EXIT_CODES[self.outcome]


class Status(msgspec.Struct, frozen=True):
    """How far a campaign is. ``total`` is what it intends to try."""

    tried: int
    total: int
    findings: int
    line: str


Progress = Callable[[Status], None]


def campaign(
    seed: int,
    *,
    workloads: Sequence[str] = (),
    variants: Sequence[str] = VARIANTS,
    calls: Sequence[str] = (),
    limit: int | None = None,
    pairs: int = 1000,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Try every fault at every call of ``workloads`` (all), or only at ``calls``, or a seeded choice of ``limit``
    runs, then so many seeded ``pairs``. A Ctrl-C, or the end of ``seconds``, ends it with what was found by then
    (``interrupted``).

    Raises:
        UsageError: there is no workload, variant or call of that name.
    """
    known = {"workload": WORKLOADS, "variant": VARIANTS, "call": FAULTS}
    for kind, asked in (("workload", workloads), ("variant", variants), ("call", calls)):
        for name in asked:
            if name not in known[kind]:
                raise UsageError(f"no {kind} is called {name!r}; there are {', '.join(known[kind])}")
    work = _Campaign(
        seed, progress or (lambda _: None), None if seconds is None else time.monotonic() + seconds
    )
    with trial.scratch() as directory:
        try:
            planned = work.plan(directory, workloads or tuple(WORKLOADS), variants, calls or tuple(FAULTS))
            for run in work.chosen(planned, limit, pairs):
                work.single(run, directory)
            for _ in range(pairs):
                work.pair(planned, directory)
        except (KeyboardInterrupt, TimeoutError):
            work.interrupted = True
    return work.report()


def replay(line: str) -> tuple[Finding, ...]:
    """Do the run of a replay line again. Raises UsageError if it is none."""
    run = parse(line)
    with trial.scratch() as directory:
        outcome = trial.play(run, directory)
        if len(outcome.failed) < len(run.faults):
            raise UsageError(
                f"{line!r}: the run has only {len(outcome.calls)} calls; the store or the workload is another"
            )
    return tuple(Finding(line, name, message, _words(outcome)) for name, message in outcome.findings)


class _Campaign:
    """What is known so far."""

    def __init__(self, seed: int, progress: Progress, deadline: float | None) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._progress = progress
        self._deadline = deadline
        self._began = time.monotonic()
        self._calls: dict[str, int] = {}
        self._found: dict[tuple[str, ...], Finding] = {}
        self._planned = self._total = self._singles = self._pairs = 0
        self.interrupted = False

    def plan(
        self, directory: Path, workloads: Sequence[str], variants: Sequence[str], calls: Sequence[str]
    ) -> list[Run]:
        """The runs with one fault. What no fault makes fail must not fail: that is tried here."""
        runs = []
        for name in workloads:
            for variant in variants:
                run = Run(name, variant)
                outcome = self._play(run, directory)
                self._calls[str(run)] = len(outcome.calls)
                runs += [run._replace(faults=(fault,)) for fault in _singles(outcome, calls)]
        self._planned = len(runs)
        return runs

    def chosen(self, planned: list[Run], limit: int | None, pairs: int) -> list[Run]:
        """Those of the planned runs that are tried."""
        runs = planned if limit is None else self._random.sample(planned, min(limit, len(planned)))
        self._total = len(runs) + pairs
        return runs

    def single(self, run: Run, directory: Path) -> None:
        """Try one run."""
        self._play(run, directory)
        self._singles += 1

    def pair(self, planned: Sequence[Run], directory: Path) -> None:
        """Try a run with a second fault behind the first, at a call of what is done about the first."""
        if not planned:
            return
        run = self._random.choice(planned)
        first = run.faults[0]
        calls = trial.play(run, directory).calls
        numbers = range(first.call + 1, min(first.call + 1 + _SECOND_WITHIN, len(calls)))
        if numbers:
            number = self._random.choice(numbers)
            second = Fault(number, self._random.choice(calls[number].errors))
            self._play(run._replace(faults=(first, second)), directory)
        self._pairs += 1

    def report(self) -> Report:
        """What was found."""
        return Report(
            self._seed,
            self._calls,
            self._planned,
            self._singles,
            self._pairs,
            tuple(self._found.values()),
            round(time.monotonic() - self._began, 3),
            self.interrupted,
        )

    def _play(self, run: Run, directory: Path) -> Outcome:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError
        outcome = trial.play(run, directory)
        for name, message in outcome.findings:
            kind = (name, _kind(message), *sorted({call.name for call, _ in outcome.failed}))
            known = self._found.get(kind)
            self._found[kind] = (
                Finding(str(run), name, message, _words(outcome))
                if known is None
                else msgspec.structs.replace(known, times=known.times + 1)
            )
        self._progress(Status(self._singles + self._pairs, self._total, len(self._found), str(run)))
        return outcome


def _singles(outcome: Outcome, calls: Sequence[str]) -> Iterator[Fault]:
    for number, call in enumerate(outcome.calls):
        for error in call.errors if call.name in calls else ():
            yield Fault(number, error)


def _words(outcome: Outcome) -> tuple[str, ...]:
    return tuple(f"{call}: {error}" for call, error in outcome.failed)


def _kind(message: str) -> str:
    """The message without what differs from run to run."""
    return re.sub(r"\.[0-9a-f]{8}\.|\d+", "#", message)[:120]
