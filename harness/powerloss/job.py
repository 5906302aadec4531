"""One job of power-loss testing: record a run, make the images of its cuts, recover and judge each of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from harness import planted
from harness.crew import Note
from harness.powerloss import choices
from harness.powerloss.judge import Expected, judge, seen_by_readers
from harness.powerloss.life import LIFE, record_life
from harness.powerloss.medium import ALL, MEDIA, Choice, Disk, Image
from harness.powerloss.processes import record_processes
from harness.powerloss.recorded import Recording
from harness.powerloss.trace import Trace
from harness.powerloss.twice import cut_again
from harness.scenarios import named
from harness.stepped import place
from harness.verdict import Finding
from kvs import syncpoints

CRASH: Final = "crash"
"""The property that no recovery ends its process, or never ends."""


class Options(msgspec.Struct, frozen=True):
    """What is cut. ``images``: how many different ones in all; ``seconds``: or until the time is up. ``per_run``: of a
    run that can be cut in more ways these many are drawn, 0 for all. ``twice_every``: of one image in so many the
    recovery is cut, too. ``bug``: a planted one. Without ``shrink`` a failure is left as it was found.
    """

    scenarios: tuple[str, ...] = ()
    seed: int = 0
    images: int | None = None
    seconds: float | None = 30.0
    medium: str = next(iter(MEDIA))
    jobs: int = 1
    per_run: int = 250
    twice_every: int = 100
    real: bool = False
    """Record real processes that run freely; the system decides how they meet, so the seed alone repeats nothing."""
    bug: str = ""
    keep_going: bool = False
    shrink: bool = True


class Order(msgspec.Struct, frozen=True):
    """Make the states of run number ``run`` from number ``first`` on."""

    run: int
    first: int = 0


class Trying(msgspec.Struct, frozen=True):
    """The state that is being recovered: its number in the run, the cut, and what is not there."""

    number: int
    cut: int
    choice: Choice


class Found(msgspec.Struct, kw_only=True):
    """The first state that ended in a violation of this kind, of ``count`` that did."""

    run: int
    scenario: str
    cut: int
    choice: Choice
    property_name: str
    message: str
    again: tuple[int, Choice] | None = None
    count: int = 1
    after_images: int = 0
    after_s: float = 0.0
    file: str = ""

    @property
    def kind(self) -> str:
        """What findings are counted together by."""
        return self.property_name


class Tally(msgspec.Struct, kw_only=True):
    """What came of an order: how many events the run had, at how many places it was cut, how many states were made of
    it, their images' digests (8 bytes each), and how often a recovery was cut, too.
    """

    run: int
    scenario: str
    events: int = 0
    cuts: int = 0
    states: int = 0
    digests: bytes = b""
    twice: int = 0
    complete: bool = False
    """All of the run's states were made, not only those that were drawn."""
    found: list[Found] = []
    trace: Trace | None = None
    """The run, where something was found."""


def scenario_of(options: Options, run: int) -> str:
    """The scenario of run number ``run``: in turns."""
    return options.scenarios[run % len(options.scenarios)]


def trace_path(parent: Path, run: int) -> Path:
    """Where the trace of run number ``run`` is as long as somebody works on it."""
    return parent / f"run-{run}.trace"


def seed_of(options: Options, run: int) -> int:
    """What decides the schedule of run number ``run``, and which of its states are made."""
    return options.seed * 1_000_003 + run


_Sighting = tuple[tuple[int, Choice] | None, Finding]
"""Which second cut it was, if it was one, and what was found."""


class Job:
    """Does orders, in a directory in memory that its parent removes."""

    def __init__(self, options: Options, parent: Path) -> None:
        self._options = options
        self._parent = parent
        self._medium = MEDIA[options.medium]
        self._recordings: dict[str, Recording] = {}

    def enter(self) -> None:
        """Become a process that has the bug planted, if there is to be one."""
        place.parent_by_default = self._parent  # what a process that dies has in memory goes with it
        if self._options.bug:
            planted.BUGS[self._options.bug].plant()

    def _record(self, name: str, seed: int) -> Trace:
        if name == LIFE:
            with _unhooked():
                return record_life(seed)
        if self._options.real:
            return record_processes(named(name), seed)
        if name not in self._recordings:
            self._recordings[name] = Recording(named(name))
        return self._recordings[name].play(seed)

    def close(self) -> None:
        """Remove the stores that were played on."""
        while self._recordings:
            self._recordings.popitem()[1].close()

    def perform(self, data: bytes, note: Note) -> bytes:
        """Do the order in ``data``; the tally of it."""
        return msgspec.msgpack.encode(self.work(msgspec.msgpack.decode(data, type=Order), note))

    def work(self, order: Order, note: Note) -> Tally:
        """Do the order. What is tried is noted first."""
        directory = Path(tempfile.mkdtemp(prefix="images-", dir=self._parent))
        try:
            return self._play(order, note, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _play(self, order: Order, note: Note, directory: Path) -> Tally:
        options = self._options
        name, seed = scenario_of(options, order.run), seed_of(options, order.run)
        kept = trace_path(self._parent, order.run)
        if order.first:  # whoever began with it died
            trace = Trace.load(kept)
        else:
            trace = self._record(name, seed)
            trace.save(kept)
        tally = Tally(run=order.run, scenario=name, events=len(trace.events))
        seen: set[int] = set()
        known: set[tuple[int, int, int, bool]] = set()
        cuts: set[int] = set()
        kinds: dict[str, Found] = {}
        at, expected = 0, Expected.at(trace, 0)
        states = choices.drawn(trace, self._medium, seed, options.per_run)
        tally.complete = not options.per_run or len(states) < options.per_run
        disk = Disk(trace, self._medium)
        for number, cut, choice in states:
            if number < order.first:
                continue
            if note.stopping:
                break
            disk.go_to(cut)
            if disk.at != at:
                at, expected = disk.at, Expected.at(trace, disk.at, seen_by_readers(disk.image(ALL)))
            image = disk.image(choice)
            digest = digest_of(image)
            # What is right before somebody is told of a transaction is wrong after it.
            if (judged := (digest, expected.told, len(expected.begun), expected.made)) in known:
                continue
            known.add(judged)
            seen.add(digest)
            cuts.add(disk.at)
            tally.states += 1
            note.write(msgspec.msgpack.encode(Trying(number, disk.at, choice)))
            again = options.twice_every and tally.states % options.twice_every == 0
            findings, cuts_again = self._judged(
                trace, expected, image, directory / "store", seed + number if again else None
            )
            tally.twice += cuts_again
            for second, finding in findings:
                if first := kinds.get(finding.property_name):
                    first.count += 1
                    continue
                kinds[finding.property_name] = Found(
                    run=order.run,
                    scenario=name,
                    cut=disk.at,
                    choice=choice,
                    again=second,
                    property_name=finding.property_name,
                    message=finding.message,
                    after_images=tally.states,
                )
            if kinds and not options.keep_going:
                break
        kept.unlink()
        tally.cuts = len(cuts)
        tally.digests = b"".join(each.to_bytes(8, "little") for each in sorted(seen))
        tally.found = list(kinds.values())
        tally.trace = trace if kinds else None
        return tally

    def _judged(
        self, trace: Trace, expected: Expected, image: Image, directory: Path, again: int | None
    ) -> tuple[list[_Sighting], int]:
        """What is wrong with an image, and if nothing is, and a seed for it is given, with cuts of its recovery; and
        how many of these there were.
        """
        with _unhooked():
            findings: list[_Sighting] = [(None, each) for each in judge(trace, expected, image, directory)]
            if findings or again is None:
                return findings, 0
            count = 0
            for cut, missing, found in cut_again(trace, expected, image, directory, self._medium, again):
                count += 1
                findings += [((cut, missing), each) for each in found]
            return findings, count


@contextmanager
def _unhooked() -> Iterator[None]:
    """Nobody listens at the sync points meanwhile."""
    before = syncpoints.hook, syncpoints.wait, syncpoints.freed
    syncpoints.install(None)
    try:
        yield
    finally:
        syncpoints.install(*before)


def digest_of(image: Image) -> int:
    """64 bits that stand for an image: names, lengths and bytes."""
    state = xxhash.xxh3_64()
    for name in sorted(image):
        length, data = image[name]
        state.update(f"{name} {length} {len(data)} ".encode())
        state.update(data)
    return state.intdigest()
