"""One job of exploring: a process that plays schedules by their numbers and says what came of them.

Whatever a schedule does follows from the options and its number alone, so it does not matter which job plays it, when,
or how often it was interrupted.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import xxhash

from harness import planted
from harness.coverage import Coverage, Meeting, reachable
from harness.oracle import Judge, kind_of
from harness.scenario import Scenario
from harness.scenarios import named
from harness.schedule.base import Choice, Strategy, View
from harness.schedule.exhaustive import Exhaustive, Redundant
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.stepped import place
from harness.stepped.execution import STEPS_MAX, Execution, conduct
from harness.stepped.program import POINTS as OWN_POINTS
from harness.stepped.simulated import Simulated
from harness.stepped.watch import Watch
from harness.verdict import Finding
from harness.worker import enter
from kvs import syncpoints

STRATEGIES: Final = ("mixed", "random", "pct", "exhaustive")
BLOCK: Final = 25
"""So many schedules of one scenario come one after another; they are what a job is told to play."""
POINTS: Final = (*OWN_POINTS, *syncpoints.POINTS)
"""Where a process may stand, the harness's own points first."""

_CODES: Final = {point: code for code, point in enumerate(POINTS)}
_NOTED_MAX: Final = 2 * STEPS_MAX
_WORDS: Final = _NOTED_MAX + 2
_MASK: Final = (1 << 64) - 1
_OVER: Final = 1 << 62
_RARE: Final = ("grow.", "compact.", "smallfile.")
_RARE_WEIGHT: Final = 2


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is explored. ``strategy``, ``scenarios``, ``seed``, ``bug`` and ``preemptions`` (the bound of an
    exhaustive search, ``None``: without) decide every schedule; the others only how
    many of them are played (``schedules`` in all, and ``seconds`` this time; ``None``: no limit), by how many ``jobs``,
    whether exploring ends at the share of pairs ``until_coverage``, what is done with a failure (``shrink``), and
    whether it goes on after the first (``keep_going``).
    """

    strategy: Literal["mixed", "random", "pct", "exhaustive"] = "mixed"
    scenarios: tuple[str, ...] = ()
    seed: int = 0
    seconds: float | None = 30.0
    schedules: int | None = None
    jobs: int = 1
    until_coverage: float | None = None
    bug: str = ""
    preemptions: int | None = None
    shrink: bool = True
    keep_going: bool = False

    def scenario_of(self, number: int) -> str:
        """The scenario of schedule ``number``: ``BLOCK`` of one, then ``BLOCK`` of the next."""
        return self.scenarios[number // BLOCK % len(self.scenarios)]

    def strategy_of(self, number: int) -> str:
        """The strategy of schedule ``number``: the mixed one alternates."""
        return ("random", "pct")[number % 2] if self.strategy == "mixed" else self.strategy


class Found(msgspec.Struct, kw_only=True):
    """The first schedule that ended in a violation of its ``kind``, of ``count`` that did. ``after_schedules`` and
    ``after_s``: how much all jobs together had done when it was known. ``file``: where its failure was saved.
    """

    number: int
    scenario: str
    strategy: str
    kind: str
    property_name: str
    message: str
    details: dict[str, Any] = {}
    choices: tuple[Choice, ...] = ()
    count: int = 1
    after_schedules: int = 0
    after_s: float = 0.0
    file: str = ""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Play the schedules from ``first`` to before ``end``, which are all of one scenario."""

    first: int
    end: int


class Tally(msgspec.Struct, kw_only=True):
    """What came of schedules ``first`` to before ``end``. ``digest`` is a sum over schedules, so that it is the same in
    whichever order they were played: equal digests of equal counts mean equal schedules. ``coverage``: what was
    killed where (``Coverage``). ``error``: the harness's own. Of an exhaustive search also: ``redundant`` schedules
    that were given up, where each scenario's search is (``searches``), the meetings that were seen to be
    ``reachable``, and whether everything is ``complete``.
    """

    first: int = 0
    end: int = 0
    schedules: int = 0
    steps: int = 0
    kills: int = 0
    undecided: int = 0
    digest: int = 0
    redundant: int = 0
    scenario: str = ""
    coverage: dict[str, Any] = {}
    searches: dict[str, Any] = {}
    reachable: list[Meeting] = []
    complete: bool = False
    found: list[Found] = []
    error: str = ""


class Notes:
    """Shared memory in which each job notes the schedule under way and its steps, before it takes them: whoever
    survives it can tell what it died of. The first word tells all jobs to stop after the schedule under way.
    """

    def __init__(self, jobs: int) -> None:
        self._map = mmap.mmap(-1, 8 * (1 + jobs * _WORDS))
        self.words = memoryview(self._map).cast("Q")

    def stop(self) -> None:
        """Tell every job to stop after the schedule under way."""
        self.words[0] = 1

    @property
    def stopping(self) -> bool:
        """Whether the jobs were told to stop."""
        return bool(self.words[0])

    def of(self, job: int) -> memoryview:
        """The words of ``job``: the schedule under way + 1 (0: none), how many steps, the steps."""
        return self.words[1 + job * _WORDS : 1 + (job + 1) * _WORDS]

    def under_way(self, job: int) -> int | None:
        """The number of the schedule that ``job`` is playing."""
        return number - 1 if (number := self.of(job)[0] & ~_OVER) else None

    def is_over(self, job: int) -> bool:
        """Whether the schedule under way has ended, and the store is being examined."""
        return bool(self.of(job)[0] & _OVER)

    def progress(self, job: int) -> tuple[int, int]:
        """Something that changes with every step of ``job``."""
        words = self.of(job)
        return words[0], words[1]

    def choices(self, job: int) -> tuple[Choice, ...]:
        """The steps of the schedule under way, the last of which may not have ended."""
        words = self.of(job)
        return tuple(_decoded(word) for word in words[2 : 2 + words[1]])


class Noting:
    """A strategy whose every choice is noted before it is carried out."""

    def __init__(self, strategy: Strategy, words: memoryview) -> None:
        self._choose = strategy.choose
        self._words = words
        self._count = 0
        self._end = strategy.end

    def begin(self, scenario: object, number: int) -> bool:  # noqa: ARG002 - a strategy's method
        """The strategy inside was begun already."""
        return True

    def choose(self, view: View) -> Choice:
        """What the strategy inside chooses."""
        choice = self._choose(view)
        words, step = self._words, view.step
        if step < _NOTED_MAX:
            words[step + 2] = (
                choice.process
                | choice.kill << 8
                | _CODES.get(choice.point, 0xFFFF) << 16
                | (choice.torn & 0xFFFFFFFF) << 32
            )
            words[1] = step + 1
        return choice

    def end(self, stopped: bool) -> None:
        """Note that it is over, and what comes now is the examination."""
        self._words[0] |= _OVER
        self._end(stopped)


def _decoded(word: int) -> Choice:
    code = word >> 16 & 0xFFFF
    point = POINTS[code] if code < len(POINTS) else ""
    return Choice(word & 0xFF, point, bool(word >> 8 & 1), word >> 32)


class _Table(NamedTuple):
    """Everything to play one scenario with."""

    stage: Simulated
    judge: Judge
    strategies: dict[str, Strategy]


class _Accounts:
    """What is counted of every schedule, into a tally."""

    def __init__(self, options: Options, words: memoryview, notes: Notes) -> None:
        self._options = options
        self._words = words
        self._notes = notes
        self._coverage = Coverage()

    def _begun(self, order: Order, scenario: str) -> Tally:
        self._coverage = Coverage()
        return Tally(first=order.first, end=order.first, scenario=scenario)

    def _count(self, tally: Tally, number: int, execution: Execution, judge: Judge) -> None:
        findings, undecided = judge.findings(execution)
        tally.schedules += 1
        tally.steps += len(execution.steps)
        tally.kills += len(execution.kills)
        tally.undecided += undecided
        tally.digest = (tally.digest + digest_of(number, execution.steps)) & _MASK
        self._coverage.add(execution.kills)
        if findings:
            self._note(tally, number, execution, findings[0])

    def _note(self, tally: Tally, number: int, execution: Execution, finding: Finding) -> None:
        kind = kind_of(finding)
        known = next((found for found in tally.found if found.kind == kind), None)
        if known is not None:
            known.count += 1
            return
        tally.found.append(
            Found(
                number=number,
                scenario=tally.scenario,
                strategy=self._options.strategy_of(number),
                kind=kind,
                property_name=finding.property_name,
                message=finding.message,
                details=finding.details,
                choices=tuple(execution.steps),
            )
        )

    def _is_over(self, tally: Tally) -> bool:
        return self._notes.stopping or (bool(tally.found) and not self._options.keep_going)


class Job(_Accounts):
    """Plays orders. Several scenarios may be open at once; use as a context manager, which closes them."""

    def __init__(self, options: Options, words: memoryview, notes: Notes) -> None:
        super().__init__(options, words, notes)
        self._tables: dict[str, _Table] = {}

    def play(self, order: Order) -> Tally:
        """Play the schedules of ``order`` until it ends, a violation is found, or all jobs are to stop."""
        name = self._options.scenario_of(order.first)
        tally = self._begun(order, name)
        for number in range(order.first, order.end):
            if self._is_over(tally):
                break
            self._words[1] = 0
            self._words[0] = number + 1
            table = self._table(name)
            self._words[1] = 0
            strategy = table.strategies[self._options.strategy_of(number)]
            strategy.begin(table.stage.scenario, number)
            self._count(tally, number, conduct(table.stage, Noting(strategy, self._words)), table.judge)
            self._words[0] = 0
            tally.end = number + 1
        tally.coverage = self._coverage.to_data()
        return tally

    def _table(self, name: str) -> _Table:
        """The scenario's stage, made when it is first asked for."""
        if name not in self._tables:
            stage = Simulated(named(name))
            steps = _length(stage, self._words)
            seed, points = self._options.seed, aims(stage.scenario)
            strategies: dict[str, Strategy] = {
                "random": RandomWalk(seed, steps, points),
                "pct": Pct(seed, steps, points),
            }
            self._tables[name] = _Table(stage, Judge(stage.place.setup), strategies)
        return self._tables[name]

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for table in self._tables.values():
            table.stage.close()
        self._tables.clear()


class Search(_Accounts):
    """Plays every schedule of one scenario after another, each search going on from where ``searches`` says it is. The
    numbers of an order only count.
    """

    def __init__(self, options: Options, words: memoryview, notes: Notes, searches: dict[str, Any]) -> None:
        super().__init__(options, words, notes)
        self._searches = dict(searches)
        self._open: tuple[str, Simulated, Watch, Exhaustive, Judge] | None = None

    def play(self, order: Order) -> Tally:
        """Go on with the search under way, until the order or that search ends, a violation is found, or all jobs are
        to stop.
        """
        unfinished = [name for name in self._options.scenarios if not _is_complete(self._searches.get(name))]
        tally = self._begun(order, unfinished[0] if unfinished else self._options.scenarios[-1])
        if unfinished:
            self._go_on(order, tally)
        tally.complete = all(_is_complete(self._searches.get(name)) for name in self._options.scenarios)
        tally.searches = self._searches
        tally.coverage = self._coverage.to_data()
        return tally

    def _go_on(self, order: Order, tally: Tally) -> None:
        _, stage, watch, search, judge = self._opened(tally.scenario)
        joins = [program.joins for program in stage.scenario.programs]
        met: set[Meeting] = set()
        with watch:
            for number in range(order.first, order.end):
                if self._is_over(tally) or not search.begin(stage.scenario, number):
                    break
                self._words[1] = 0
                self._words[0] = number + 1
                try:
                    execution = conduct(stage, Noting(search, self._words))
                except Redundant:
                    stage.end()
                    search.give_up()
                    tally.redundant += 1
                else:
                    met |= reachable(search.trace(), joins)
                    self._count(tally, number, execution, judge)
                self._words[0] = 0
                tally.end = number + 1
        tally.reachable = sorted(met)
        self._searches[tally.scenario] = search.state()

    def _opened(self, name: str) -> tuple[str, Simulated, Watch, Exhaustive, Judge]:
        if self._open is None or self._open[0] != name:
            self.__exit__()
            stage = Simulated(named(name))
            watch = Watch(stage)
            search = Exhaustive(
                watch,
                syncpoints.APPENDS,
                preemptions=self._options.preemptions,
                state=self._searches.get(name),
            )
            self._open = (name, stage, watch, search, Judge(stage.place.setup))
        return self._open

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _is_complete(state: dict[str, Any] | None) -> bool:
    return state is not None and bool(state["complete"])


def _length(stage: Simulated, words: memoryview) -> int:
    """About how many steps a schedule has: those of everybody after one another, whatever was played before."""
    alone = Replaying((), POINTS)
    alone.begin(stage.scenario, 0)
    steps = len(conduct(stage, Noting(alone, words)).steps)
    words[0] &= ~_OVER
    return steps


def aims(scenario: Scenario) -> list[str]:
    """The points at which a kill may wait for a process: not those that nobody comes to in ``scenario``; several times
    those that a process comes to once in a long time.
    """
    kinds = {transaction.kind for program in scenario.programs for transaction in program.transactions}
    never = ["create.", "rebuild."]
    never += [] if scenario.durable else ["durable.", "laggard."]
    never += [] if scenario.capacity else ["grow."]
    never += [] if scenario.smallfile_bytes else ["smallfile.before_seal", "smallfile.after_seal"]
    never += [] if "compact" in kinds else ["compact."]
    never += [] if any(program.closes for program in scenario.programs) else ["close."]
    points = [point for point in syncpoints.POINTS if not point.startswith(tuple(never))]
    return points + _RARE_WEIGHT * [point for point in points if point.startswith(_RARE)]


def digest_of(number: int, steps: Sequence[Choice]) -> int:
    """64 bits that stand for the steps of schedule ``number``."""
    return xxhash.xxh3_64_intdigest(msgspec.msgpack.encode((number, steps)))


def live(
    job: int,
    connection: Connection,
    notes: Notes,
    options: Options,
    directory: Path,
    stderr_fd: int,
    parent_pid: int,
    searches: dict[str, Any],
) -> None:
    """The whole life of a job: orders come through ``connection`` and tallies go back, until there are no more."""
    enter(stderr_fd, parent_pid)
    place.parent_by_default = directory
    encode = msgspec.msgpack.Encoder().encode
    order = Order(0, 0)
    try:
        if options.bug:
            planted.BUGS[options.bug].plant()
        words = notes.of(job)
        player: Job | Search
        if options.strategy == "exhaustive":
            player = Search(options, words, notes, searches)
        else:
            player = Job(options, words, notes)
        with player, contextlib.suppress(EOFError):
            while True:
                order = msgspec.msgpack.decode(connection.recv_bytes(), type=Order)
                if order.end <= order.first:
                    return
                connection.send_bytes(encode(player.play(order)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever gave the order
        os.write(2, traceback.format_exc().encode())
        told = Tally(first=order.first, end=order.first, error=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            connection.send_bytes(encode(told))
