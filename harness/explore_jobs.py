"""The jobs of exploring, seen from the process that hands the schedules out and adds up what comes back.

Nothing that a schedule does (a planted bug, a crash, an endless loop) can hurt this process: it plays none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from harness.coverage import Coverage, Meeting
from harness.crew import CRASHES, HANG_S
from harness.errors import HarnessError
from harness.explore_job import BLOCK, Found, Notes, Options, Order, Tally, aims, digest_of, live
from harness.oracle import kind_of
from harness.scenarios import named
from harness.verdict import Finding
from kvs import syncpoints

CRASH: Final = "crash"
"""The property that no process ends by a signal that nobody sent."""
_SAVED_EVERY_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.2
_MASK: Final = (1 << 64) - 1


class Position(msgspec.Struct):
    """Which schedules were played: all before ``next`` but those of the ranges in ``pending`` (first, end)."""

    next: int = 0
    pending: list[tuple[int, int]] = []


class Counts(msgspec.Struct):
    """What was done, all sessions together. ``digest`` stands for every step of every schedule (``Tally``)."""

    schedules: int = 0
    steps: int = 0
    kills: int = 0
    undecided: int = 0
    seconds: float = 0.0
    digest: str = "0" * 16
    by_scenario: dict[str, int] = {}
    redundant: int = 0


class Record(msgspec.Struct):
    """``explore.json``: everything that is needed to go on, and what came of it so far."""

    options: Options
    position: Position = msgspec.field(default_factory=Position)
    counts: Counts = msgspec.field(default_factory=Counts)
    coverage: dict[str, Any] = {}
    searches: dict[str, Any] = {}
    reachable: list[Meeting] = []
    complete: bool = False
    found: list[Found] = []
    versions: dict[str, str] = {}
    commands: list[str] = []


class Status(NamedTuple):
    """How far it is, for whoever watches. ``phase`` is "exploring", "shrinking" or "replaying"."""

    phase: str
    elapsed_s: float
    counts: Counts
    scenario: str
    coverage: float
    failures: int
    note: str = ""


Show = Callable[[Status], None]


class _Hand:
    """A job, seen from here: what it was told to play, and when it was last seen to move."""

    def __init__(self, number: int, process: Any, here: connection.Connection) -> None:
        self.number = number
        self.process = process
        self.connection = here
        self.order = Order(0, 0)
        self.progress = (0, 0)
        self.moved = 0.0
        self.hung = False


class Exploration:
    """Plays the schedules of ``record`` from its position on. ``run`` may be called once."""

    def __init__(self, record: Record, directory: Path, stderr_fd: int, show: Show) -> None:
        self.interrupted = False
        self._record = record
        self._options = record.options
        self._directory = directory
        self._stderr_fd = stderr_fd
        self._show = show
        self._notes = Notes(self._options.jobs)
        self._hands: dict[int, _Hand] = {}
        self._next_number = record.position.next
        self._pending = sorted(record.position.pending, reverse=True)
        self.coverage = Coverage.from_data(record.coverage) if record.coverage else Coverage()
        self._reachable = set(record.reachable)
        self._broken = False
        self._found = {found.kind: found for found in record.found}
        self._new = 0
        self._before_s = record.counts.seconds
        self._began = self._save_at = time.monotonic()
        self._scenario = self._options.scenarios[0]

    def run(self, save: Callable[[], None]) -> None:
        """Explore. Afterwards no job is left, and the record says what was done, however it ended."""
        with asked_to_stop(self._interrupt):
            try:
                for number in range(self._options.jobs):
                    self._start(number)
                while self._hands:
                    self._look()
                    if time.monotonic() >= self._save_at and self._record.counts.schedules:
                        self._settle()
                        save()
                        self._save_at = time.monotonic() + _SAVED_EVERY_S
            finally:
                self._settle()
                for hand in self._hands.values():
                    hand.process.kill()
                    hand.process.join()
                    hand.connection.close()
                self._hands.clear()

    def _interrupt(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._notes.stop()

    def _is_over(self) -> bool:
        options, elapsed = self._options, time.monotonic() - self._began
        return (
            self.interrupted
            or self._broken
            or self._record.complete
            or (options.seconds is not None and elapsed >= options.seconds)
            or (self._new > 0 and not options.keep_going)
            or (options.until_coverage is not None and self._coverage() >= options.until_coverage)
        )

    # -- orders -------------------------------------------------------------------------------------------

    def _following(self) -> Order | None:
        """The schedules that nobody has played yet and that come first, ``None`` if there are to be no more."""
        if self._is_over():
            return None
        if self._pending:
            return Order(*self._pending.pop())
        limit = self._options.schedules
        first = self._next_number
        end = (first // BLOCK + 1) * BLOCK
        if limit is not None:
            end = min(end, limit)
        if end <= first:
            return None
        self._next_number = end
        return Order(first, end)

    def _put_back(self, first: int, end: int) -> None:
        if first < end:
            self._pending.append((first, end))
            self._pending.sort(reverse=True)

    # -- the jobs -----------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        """Fork job ``number`` and give it its first order, if there is anything left to play."""
        order = self._following()
        if order is None:
            return
        here, there = connection.Pipe()
        shared = (self._notes, self._options, self._directory, self._stderr_fd, os.getpid())
        arguments = (number, there, *shared, self._record.searches)
        process = get_context("fork").Process(target=live, args=arguments, daemon=True)
        process.start()
        there.close()
        self._hands[number] = hand = _Hand(number, process, here)
        self._give(hand, order)

    def _give(self, hand: _Hand, order: Order) -> None:
        hand.order = order
        hand.moved = time.monotonic()
        if self._options.strategy != "exhaustive":
            self._scenario = self._options.scenario_of(order.first)
        with contextlib.suppress(OSError):  # if it is dead, its end of the pipe will say so
            hand.connection.send_bytes(msgspec.msgpack.encode(order))

    def _look(self) -> None:
        """Wait for the jobs a little, and take in what they say."""
        if self._is_over():
            self._notes.stop()
        ready = connection.wait([hand.connection for hand in self._hands.values()], _LOOK_EVERY_S)
        for hand in list(self._hands.values()):
            if hand.connection in ready:
                self._hear(hand)
            else:
                self._watch(hand)
        self._record.counts.seconds = self._before_s + time.monotonic() - self._began
        self._show(
            Status(
                "exploring",
                time.monotonic() - self._began,
                self._record.counts,
                self._scenario,
                self._coverage(),
                len(self._found),
            )
        )

    def _hear(self, hand: _Hand) -> None:
        try:
            tally = msgspec.msgpack.decode(hand.connection.recv_bytes(), type=Tally)
        except (EOFError, ConnectionError):
            self._bury(hand)
            return
        if tally.error:
            raise HarnessError(
                f"exploring failed by itself in the schedules from {tally.first}: {tally.error}"
            )
        self._add(tally)
        self._scenario = tally.scenario
        self._put_back(tally.end, hand.order.end)
        hand.order = Order(0, 0)
        order = self._following()
        if order is not None:
            self._give(hand, order)
            return
        # Told that there is nothing more to play, it closes its stages and leaves.
        self._give(hand, Order(0, 0))
        hand.process.join()
        hand.connection.close()
        del self._hands[hand.number]

    def _watch(self, hand: _Hand) -> None:
        """End a job whose step does not end."""
        progress = self._notes.progress(hand.number)
        if progress != hand.progress:
            hand.progress, hand.moved = progress, time.monotonic()
        elif time.monotonic() - hand.moved > HANG_S and not hand.hung:
            hand.hung = True
            hand.process.kill()

    def _bury(self, hand: _Hand) -> None:
        """A job died by itself: that is a finding with its schedule, and somebody else plays the rest."""
        hand.process.join()
        hand.connection.close()
        del self._hands[hand.number]
        number, code = self._notes.under_way(hand.number), hand.process.exitcode
        choices, examined = self._notes.choices(hand.number), self._notes.is_over(hand.number)
        self._notes.of(hand.number)[0] = 0
        if number is None or not (hand.hung or -code in CRASHES):
            self._put_back(hand.order.first, hand.order.end)
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise HarnessError(
                f"a job was ended from outside by {name} in the schedules from {hand.order.first}: nothing of these is"
                " counted, and exploring can be resumed"
            )
        what = f"did not end within {HANG_S:g} s" if hand.hung else f"ended in {signal.Signals(-code).name}"
        step = "it"
        if examined:
            step = "when everybody was gone, whoever opened the store"
        elif choices:
            step = f"process {choices[-1].process} went on from {choices[-1].point}, and that"
        exhaustive = self._options.strategy == "exhaustive"
        scenario = self._scenario if exhaustive else self._options.scenario_of(number)
        finding = Finding(CRASH, f"{step} {what}")
        self._add(
            Tally(
                scenario=scenario,
                schedules=1,
                steps=len(choices),
                kills=sum(choice.kill for choice in choices),
                digest=digest_of(number, choices),
                found=[
                    Found(
                        number=number,
                        scenario=scenario,
                        strategy=self._options.strategy_of(number),
                        kind=kind_of(finding),
                        property_name=CRASH,
                        message=finding.message,
                        choices=choices,
                    )
                ],
                first=number,
                end=number + 1,
            )
        )
        self._broken = exhaustive  # it would come there again
        # What it had played of its order before is not known any more and is played again.
        self._put_back(hand.order.first, number)
        self._put_back(number + 1, hand.order.end)
        self._start(hand.number)

    # -- what there is so far -----------------------------------------------------------------------------

    def _add(self, tally: Tally) -> None:
        counts = self._record.counts
        counts.schedules += tally.schedules
        counts.steps += tally.steps
        counts.kills += tally.kills
        counts.undecided += tally.undecided
        counts.redundant += tally.redundant
        counts.digest = f"{int(counts.digest, 16) + tally.digest & _MASK:016x}"
        name = tally.scenario
        counts.by_scenario[name] = counts.by_scenario.get(name, 0) + tally.schedules
        if tally.coverage:
            self.coverage.merge(Coverage.from_data(tally.coverage))
        self._reachable.update(tally.reachable)
        self._record.searches = tally.searches or self._record.searches
        self._record.complete = tally.complete
        for found in tally.found:
            known = self._found.get(found.kind)
            if known is None:
                found.after_schedules = counts.schedules
                found.after_s = round(self._before_s + time.monotonic() - self._began, 3)
                self._found[found.kind] = found
                self._new += 1
            else:
                known.count += found.count

    def _coverage(self) -> float:
        return covered(self._record, self.coverage)

    def _settle(self) -> None:
        """Bring the record up to date: what is under way now counts as not played."""
        under_way = [
            (hand.order.first, hand.order.end)
            for hand in self._hands.values()
            if hand.order.end > hand.order.first
        ]
        self._record.position = Position(self._next_number, sorted([*self._pending, *under_way]))
        self._record.coverage = self.coverage.to_data()
        self._record.reachable = sorted(self._reachable)
        self._record.found = list(self._found.values())
        self._record.counts.seconds = self._before_s + time.monotonic() - self._began


def covered(record: Record, coverage: Coverage) -> float:
    """The share of the sync points at which somebody can be killed that somebody was killed at; of an exhaustive search
    the share of the meetings that it saw to be reachable.
    """
    if record.reachable:
        return coverage.share(record.reachable)
    points = mortal_points(record)
    return 1 - len(coverage.never(points)) / len(points)


def mortal_points(record: Record) -> list[str]:
    """The sync points at which somebody can be killed in the scenarios of ``record``."""
    aimed = {point for name in record.options.scenarios for point in aims(named(name))}
    return [point for point in syncpoints.POINTS if point in aimed]


@contextlib.contextmanager
def asked_to_stop(call: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, Ctrl-C and SIGTERM call ``call`` instead of ending this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: call())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
