"""Power-loss testing as a whole: runs, images, the verdict, and what is kept of it in one directory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from harness import planted
from harness.crew import Crew, Death
from harness.errors import HarnessError, UsageError
from harness.explore import new_directory, versions, write
from harness.explore_jobs import asked_to_stop
from harness.powerloss.job import CRASH, Found, Job, Options, Order, Tally, Trying, scenario_of, trace_path
from harness.powerloss.life import LIFE
from harness.powerloss.loss import Loss, save
from harness.powerloss.medium import MEDIA
from harness.powerloss.shrinking import TIMES, Bench, replay, shrink, words
from harness.powerloss.trace import Trace
from harness.scenarios import GENERAL, named
from harness.verdict import EXIT_CODES, Outcome

RECORD: Final = "powerloss.json"
IMAGES_MIN: Final = 1_000
"""Fewer images prove nothing."""
_FIRST: Final = (LIFE, "durable", "compaction", "laggards", "growth", "rollover")
SCENARIOS: Final = (*_FIRST, *(name for name in GENERAL if name not in _FIRST))
"""What is cut unless scenarios are named; those in which most happens to files come first."""
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one
_SAVED_EVERY_S: Final = 5.0


class Counts(msgspec.Struct):
    """What was done. ``images`` are different from each other; ``states`` were made; ``twice`` were cut again."""

    runs: int = 0
    whole_runs: int = 0
    events: int = 0
    cuts: int = 0
    states: int = 0
    images: int = 0
    twice: int = 0
    seconds: float = 0.0
    by_scenario: dict[str, int] = {}


class Record(msgspec.Struct, kw_only=True):
    """``powerloss.json``: what was asked for, what was done, and what was found."""

    outcome: Outcome = Outcome.UNKNOWN
    options: Options
    counts: Counts = msgspec.field(default_factory=Counts)
    rate: float = 0.0
    """Images (those of second cuts too) that were made, recovered and checked, per second and job."""
    found: list[Found] = []
    reasons: list[str] = []
    interrupted: bool = False
    command: str = ""
    versions: dict[str, str] = {}


class Status(NamedTuple):
    """How far it is, for whoever watches."""

    phase: str
    elapsed_s: float
    counts: Counts
    scenario: str
    failures: int
    note: str = ""


Show = Callable[[Status], None]


def checked(options: Options) -> Options:
    """``options`` with the scenarios filled in. Raises UsageError if they make no sense."""
    if options.bug and options.bug not in planted.BUGS:
        raise UsageError(f"no bug {options.bug!r} can be planted; there are {', '.join(planted.BUGS)}")
    if options.medium not in MEDIA:
        raise UsageError(f"no medium is called {options.medium!r}; there are {', '.join(MEDIA)}")
    if options.jobs < 1:
        raise UsageError("--jobs: at least one")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise UsageError("--seconds: a time that is greater than zero and ends")
    if options.images is not None and options.images < 1:
        raise UsageError("--images: at least one")
    names = options.scenarios or SCENARIOS
    for name in names:
        if name != LIFE:
            named(name)
    return msgspec.structs.replace(options, scenarios=tuple(names))


class Outage:
    """Makes and judges images until there are enough, the time is up, or a violation was found."""

    def __init__(self, options: Options, directory: Path, command: str, show: Show) -> None:
        self.record = Record(options=options, command=command, versions=versions())
        self._options = options
        self._directory = directory
        self._show = show
        self._digests: set[bytes] = set()
        self._found: dict[str, Found] = {}
        self._traces: dict[str, Trace] = {}
        self._began = time.monotonic()
        self._next_run = 0
        self._parent = directory

    def run(self) -> None:
        """Do it. Afterwards no process is left, and the record says what was done, however it ended."""
        with scratch() as directory:
            self._parent = directory
            self._run(Job(self._options, directory))

    def _run(self, job: Job) -> None:
        crew = Crew(job.perform, self._orders(), jobs=self._options.jobs, enter=job.enter)

        def interrupt() -> None:
            if self.record.interrupted:
                raise KeyboardInterrupt
            self.record.interrupted = True
            crew.stop()

        saved = self._began
        try:
            with asked_to_stop(interrupt):
                self.save()
                for told in crew.run():
                    if told is not None:
                        self._add(crew, *told)
                    if self._is_over():
                        crew.stop()
                    self._tell("cutting")
                    if time.monotonic() > saved + _SAVED_EVERY_S:
                        saved = time.monotonic()
                        self.save()
        finally:
            self._settle()

    def _orders(self) -> Iterator[bytes]:
        for run in count():
            self._next_run = run + 1
            yield msgspec.msgpack.encode(Order(run))

    def _is_over(self) -> bool:
        options = self._options
        return (
            (options.images is not None and len(self._digests) >= options.images)
            or (options.seconds is not None and time.monotonic() - self._began >= options.seconds)
            or (bool(self._found) and not options.keep_going)
        )

    def _add(self, crew: Crew, order: bytes, answer: bytes | Death) -> None:
        if isinstance(answer, Death):
            self._bury(crew, msgspec.msgpack.decode(order, type=Order), answer)
            return
        tally = msgspec.msgpack.decode(answer, type=Tally)
        counts = self.record.counts
        counts.runs += 1
        counts.whole_runs += tally.complete
        counts.events += tally.events
        counts.cuts += tally.cuts
        counts.states += tally.states
        counts.twice += tally.twice
        before = len(self._digests)
        self._digests.update(tally.digests[at : at + 8] for at in range(0, len(tally.digests), 8))
        counts.images = len(self._digests)
        names = counts.by_scenario
        names[tally.scenario] = names.get(tally.scenario, 0) + counts.images - before
        for found in tally.found:
            if self._note(found) and tally.trace is not None:
                self._traces[found.kind] = tally.trace

    def _bury(self, crew: Crew, order: Order, death: Death) -> None:
        """A recovery ended its process: that is a finding, and the rest of the run is made by another one."""
        if not death.note:
            raise HarnessError(f"a job {death.how} outside of any recovery")
        trying = msgspec.msgpack.decode(death.note, type=Trying)
        found = Found(
            run=order.run,
            scenario=scenario_of(self._options, order.run),
            cut=trying.cut,
            choice=trying.choice,
            property_name=CRASH,
            message=f"recovering it {death.how}",
        )
        if self._note(found):
            self._traces[found.kind] = Trace.load(trace_path(self._parent, order.run))
        crew.again.append(msgspec.msgpack.encode(Order(order.run, trying.number + 1)))

    def _note(self, found: Found) -> bool:
        """Take it in; whether it is the first of its kind."""
        known = self._found.get(found.kind)
        if known is not None:
            known.count += found.count
            return False
        found.after_images = self.record.counts.states
        found.after_s = round(time.monotonic() - self._began, 3)
        self._found[found.kind] = found
        return True

    def _tell(self, phase: str, note: str = "") -> None:
        elapsed = time.monotonic() - self._began
        scenario = scenario_of(self._options, max(self._next_run - 1, 0))
        self._show(Status(phase, elapsed, self.record.counts, scenario, len(self._found), note))

    def _settle(self) -> None:
        result, counts = self.record, self.record.counts
        counts.seconds = round(time.monotonic() - self._began, 3)
        result.rate = round(
            (counts.states + counts.twice) / max(counts.seconds, 1e-3) / self._options.jobs, 1
        )
        result.found = list(self._found.values())
        result.reasons = [] if result.found else list(self._lacking())
        result.outcome = Outcome.UNKNOWN if result.reasons else Outcome.OK
        if result.found:
            result.outcome = Outcome.VIOLATION

    def _lacking(self) -> Iterator[str]:
        options, counts = self._options, self.record.counts
        if counts.images < (options.images or IMAGES_MIN):
            yield f"{counts.images:,} different images, not {options.images or IMAGES_MIN:,}"
        missing = [name for name in options.scenarios if name not in counts.by_scenario]
        if missing:
            yield f"no run of {', '.join(missing)}"

    def finish(self) -> None:
        """Make every failure small and certain, and write it to a file of its own."""
        for number, found in enumerate(self.record.found, 1):
            loss = Loss(
                trace=self._traces[found.kind],
                medium=self._options.medium,
                cut=found.cut,
                choice=found.choice,
                again=found.again,
                property_name=found.property_name,
                message=found.message,
                bug=self._options.bug,
                versions=versions(),
                found={"scenario": found.scenario, "seed": self._options.seed, "run": found.run},
            )
            path = self._directory / f"failure-{number}.json"
            if self._options.shrink:
                settle(loss, path, lambda text: self._tell("shrinking", text))
            else:
                keep(msgspec.structs.replace(loss, words=tuple(words(loss))), path)
            found.file = path.name
            self.save()

    def save(self) -> None:
        """Write the record."""
        write(self._directory / RECORD, self.record)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, where there is such a thing, that goes afterwards."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="harness-powerloss-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def settle(loss: Loss, path: Path, show: Callable[[str], None], *, limit_s: float = 60.0) -> Loss:
    """Shrink ``loss``, replay it, write its page and save it to ``path``."""
    with scratch() as directory:
        bench = Bench(loss.bug, directory)
        smaller = shrink(loss, bench, limit_s=limit_s, show=show)
        same, _ = replay(smaller, bench)
    smaller = msgspec.structs.replace(smaller, reproduced=f"{same}/{TIMES}")
    return keep(smaller, path)


def keep(loss: Loss, path: Path) -> Loss:
    """Write the page of ``loss``, and save it to ``path``."""
    loss = msgspec.structs.replace(loss, page=page(loss, path))
    save(loss, path)
    path.with_suffix(".txt").write_text(loss.page, encoding="utf-8")
    return loss


def page(loss: Loss, path: Path) -> str:
    """The failure for people."""
    options = ", ".join(f"{name}={value}" for name, value in loss.trace.options.items())
    lines = [f"VIOLATION  {loss.property_name}   {loss.message}"]
    lines += [f"  {'cut' if not number else '':<11} {line}" for number, line in enumerate(loss.words)]
    lines += [
        f"  {'medium':<11} {loss.medium}: {MEDIA[loss.medium].meaning}",
        f"  {'store':<11} {loss.trace.engine} ({options})",
        f"  {'replay':<11} harness replay {path}" + f"     ({loss.reproduced})" * bool(loss.reproduced),
    ]
    return "\n".join(lines) + "\n"


def cut(
    options: Options, *, out: Path, command: str = "", show: Show = lambda _: None
) -> tuple[Record, Path]:
    """Test with ``options`` in a new directory under ``out``. Afterwards no process and nothing in memory is left.
    Ctrl-C ends it early, with a verdict over what there is.

    Raises:
        UsageError: the options make no sense.
        HarnessError: the harness could not do its work; what was done until then is kept in the directory.
    """
    options = checked(options)
    directory = new_directory(out, "powerloss")
    outage = Outage(options, directory, command, show)
    try:
        outage.run()
    finally:
        outage.save()
    outage.finish()
    outage.save()
    return outage.record, directory


def exit_code(record: Record) -> int:
    """0 ok, 1 violation, 3 unknown."""
    return EXIT_CODES[record.outcome]
