"""Every schedule of a scenario, one of each kind: depth-first search with dynamic partial-order reduction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from harness.errors import HarnessError, UsageError
from harness.history import Fail, Info, Invoke, Ok
from harness.scenario import Scenario
from harness.schedule.base import Choice, Standing, View
from harness.schedule.footprints import DEATHS, Footprint, Witness, dependent
from harness.schedule.search import STEP, Event, Move, Node, node_in, node_out

FORMAT: Final = 1


class Redundant(Exception):  # noqa: N818 - it is no error
    """Whatever this schedule does next, a schedule before it did the same in another order. Nothing went wrong."""


class Exhaustive:
    """All schedules of a scenario up to the order of steps that commute, each with every death that ``kills`` allows.

    A depth-first search that keeps no states: each schedule is played from the start. After each, the races in it
    (neighbouring steps that do not commute and could have come the other way round) say where another process must
    be tried first; sleep sets keep it from ending in the same state twice. Happens-before is kept in vector clocks.

    Sources: Flanagan and Godefroid, "Dynamic partial-order reduction for model checking software" (POPL 2005); source
    sets and the initials of a reversed race: Abdulla, Aronis, Jonsson and Sagonas, "Optimal dynamic partial order
    reduction" (POPL 2014), algorithm 1; sleep sets: Godefroid's thesis (1996). It differs as follows. *Deaths* are
    moves of the victim: whenever a process is tried, all its ways are, that is to go on and to die after each part of
    the write that it stands before; when it dies relative to what the others do is the reduction's business, by
    what the death touches (the locks that it frees, the torn write). How many processes die is the same for every order
    of the same moves, so a bound on kills takes nothing from the reduction. But where one way of a process sleeps and
    another is tried, everybody else must be tried too. *Locks*: a process before a lock that is held cannot move until
    it is free (finding it held changes nothing), so two takers race, and not a taker with whoever lets go. If everybody
    stands so, everybody tries and waits: that deadlock is a schedule too.

    ``preemptions`` bounds how often the process that moves is changed though it could go on (Musuvathi and Qadeer,
    "Iterative context bounding", PLDI 2007). A bound is not the same for every order of the same moves, so a reduction
    may drop the only one within it (Coons, Musuvathi and McKinley, "Bounded partial-order reduction", OOPSLA 2013);
    with a bound, therefore, nothing is reduced: every schedule within it is played. A kill is no preemption.

    ``state()`` after any schedule is plain data; given as ``state`` to a new search of the same scenario, that goes on
    exactly there. ``runs`` counts schedules that ended, ``redundant`` those that were given up.
    """

    def __init__(
        self,
        witness: Witness,
        appends: Iterable[str],
        *,
        preemptions: int | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._witness = witness
        self._appends = frozenset(appends)
        self._preemptions = preemptions
        self._nodes: list[Node] = []
        self._depth = 0
        self._fixed = 0
        self._mover: Standing | None = None
        self._clocks: list[list[int]] = []
        self._told = 0
        self._joining = False
        self.runs = 0
        self.redundant = 0
        self.complete = False
        self.playing = False
        """Whether a schedule was begun that neither ended nor was given up."""
        self._started = self._again = False
        if state is not None:
            self._restore(state)

    # -- the strategy -------------------------------------------------------------------------------------------

    def begin(self, scenario: Scenario, number: int) -> bool:  # noqa: ARG002
        """Go back to the last state from which something is still to be tried; false if there is none."""
        if self._started and not self.complete and not self._again:
            self.complete = not self._advance()
        if self.complete:
            return False
        self._started, self._again = True, False
        self._counts = self.runs, self.redundant
        self.playing = True
        self._fixed = len(self._nodes)
        self._depth = 0
        self._mover = None
        self._joining = any(program.joins for program in scenario.programs)
        count = len(scenario.programs) + 1
        self._clocks = [[0] * count for _ in range(count)]
        self._joiners = {n for n, program in enumerate(scenario.programs, 1) if program.joins}
        self._torn = scenario.torn
        self._witness.start()
        return True

    def choose(self, view: View) -> Choice:
        """The next move. Raises Redundant where every one was made before."""
        self._harvest()
        if self._depth < len(self._nodes):
            node = self._nodes[self._depth]
        else:
            node = self._arrive(view)
            self._nodes.append(node)
        number, way = node.move
        standing = next((s for s in (*view.enabled, *view.mortal) if s.number == number), None)
        if standing is None:
            raise HarnessError(
                f"process {number} cannot move where it could before: the schedule is not exact"
            )
        self._depth += 1
        self._mover = standing
        self._point = standing.point
        self._wanted = self._witness.wants(standing)
        self._lock = self._wanted if way == STEP else ""
        self._freed = self._witness.held_by(standing)
        self._told = len(standing.events)
        return Choice(number, standing.point, way != STEP, max(way, 0))

    def end(self, stopped: bool) -> None:  # noqa: ARG002
        """Look for the races of the schedule that ended."""
        self._harvest()
        self._witness.stop()
        self.runs += 1
        self.playing = False

    def give_up(self) -> None:
        """The schedule was ended by ``Redundant``."""
        self._witness.stop()
        self.redundant += 1
        self.playing = False

    def take_back(self) -> None:
        """The schedule was ended by something else (a Ctrl-C), or what it showed was lost: play it again next time."""
        self._witness.stop()
        self.runs, self.redundant = self._counts
        self.playing = False
        self._mover = None
        del self._nodes[self._fixed :]
        if self._nodes:
            self._nodes[-1].event = None
        self._started = bool(self._nodes)
        self._again = True

    def trace(self) -> list[Event]:
        """The moves of the last schedule."""
        return [node.event for node in self._nodes if node.event is not None]

    @property
    def nodes(self) -> Sequence[Node]:
        """The states that the last schedule passed."""
        return self._nodes

    # -- one schedule -------------------------------------------------------------------------------------------

    def _arrive(self, view: View) -> Node:
        """A state that was never seen: who can do what, and what to do first."""
        node = Node()
        before = self._nodes[-1] if self._nodes else None
        node.held = before.event.held if before and before.event else self._held_now()
        mortal = {standing.number for standing in view.mortal}
        steppable = set()
        for standing in {s.number: s for s in (*view.enabled, *view.mortal)}.values():
            goes = self._witness.wants(standing) not in node.held
            if goes:
                steppable.add(standing.number)
            deaths = self._deaths(standing) if standing.number in mortal and standing.point else []
            node.ways[standing.number] = [STEP, *deaths] if goes else deaths
        if not steppable:  # a deadlock, unless somebody dies: let them all try and wait
            for standing in view.enabled:
                node.ways[standing.number].insert(0, STEP)
                steppable.add(standing.number)
            node.backtrack = set(node.ways)
        node.steppable = frozenset(steppable)
        node.last = last = view.last
        if before:
            self._inherit(node, before)
        order = sorted(
            node.ways,
            key=lambda number: (number not in steppable, self._dozes(node, number), number != last, number),
        )
        if self._preemptions is not None:
            node.backtrack = set(node.ways)
        for number in order:
            for way in node.ways[number]:
                if self._allowed(node, (number, way)):
                    node.backtrack.add(number)
                    self._make(node, (number, way))
                    return node
        raise Redundant

    def _held_now(self) -> frozenset[str]:
        return frozenset([lock for lock in self._witness.locks if not self._witness.is_free(lock)])

    def _inherit(self, node: Node, before: Node) -> None:
        event = before.event
        assert event is not None
        node.preemptions = before.preemptions + _preempts(before, before.move)
        if self._preemptions is None:
            for source in (before.sleep, before.done):
                for move, footprint in source.items():
                    if move[0] != event.process and not dependent(footprint, event.footprint):
                        node.sleep[move] = footprint

    def _deaths(self, standing: Standing) -> list[int]:
        """The ways to die: before the write that it stands before, if it does, and after each part of it."""
        if not self._torn or standing.parts < 2:
            return [0]
        if standing.point in self._appends:
            total = standing.parts
            return [0, *sorted({1, 8, total // 2, total - 8, total - 1} & set(range(1, total)))]
        return list(range(standing.parts))

    def _dozes(self, node: Node, number: int) -> bool:
        """Whether some way of a process sleeps at ``node``."""
        return any((number, way) in node.sleep for way in node.ways[number])

    def _make(self, node: Node, move: Move) -> None:
        """Decide for ``move``. Where another way of the same process sleeps, the races that it would show are not seen
        here, so everybody else must be tried too.
        """
        node.move = move
        if self._dozes(node, move[0]):
            node.backtrack.update(node.ways)

    def _allowed(self, node: Node, move: Move) -> bool:
        if move in node.sleep or move in node.done:
            return False
        if self._preemptions is None:
            return True
        return node.preemptions + _preempts(node, move) <= self._preemptions

    def _advance(self) -> bool:
        """Take back moves until another one can be made; false if there is none."""
        nodes = self._nodes
        while nodes:
            node = nodes[-1]
            if node.event is not None:
                node.done[node.move] = node.event.footprint
                number = node.move[0]
                node.event = None
                for other in sorted(node.backtrack, key=lambda one: (one != number, one)):
                    for way in node.ways.get(other, ()):
                        if self._allowed(node, (other, way)):
                            self._make(node, (other, way))
                            return True
            nodes.pop()
        return False

    # -- races --------------------------------------------------------------------------------------------------

    def _harvest(self) -> None:
        """Take in what the last move touched, and find the moves that it races with."""
        mover = self._mover
        if mover is None:
            self._witness.take(None, "")
            return
        self._mover = None
        position = self._depth - 1
        node = self._nodes[position]
        number, way = node.move
        footprint = self._footprint(mover, number, way)
        known = node.event
        clock = self._clocks[number]
        if known is not None:
            if known.footprint != footprint:
                raise HarnessError(
                    f"step {position + 1} (process {number} from {self._point}) did not touch what it touched before,"
                    " after the same steps: a schedule is not exact, so not all of them would be seen"
                )
            self._clocks[number] = list(known.clock)
            return
        clock[number] += 1
        index = clock[number]
        races = self._races(position, number, footprint, clock)
        event = Event(
            number, way, self._point, footprint, index, tuple(clock), self._wanted, self._held_now()
        )
        node.event = event
        if self._preemptions is None:
            for race in races:
                self._reverse(race, position, event)

    def _footprint(self, mover: Standing, number: int, way: int) -> Footprint:
        reads, writes, _, _ = self._witness.take(mover, self._point)
        if way != STEP or not mover.point:  # it died, or ended
            writes |= self._freed
        if way != STEP and self._joining:
            writes |= {DEATHS}
        elif number in self._joiners and self._clocks[number][number] == 0:
            reads |= {DEATHS}
        told = mover.events[self._told :]
        invokes = any(isinstance(event, Invoke) for event in told)
        completes = any(isinstance(event, Ok | Fail | Info) for event in told)
        return Footprint(reads, writes, invokes, completes)

    def _races(self, position: int, number: int, footprint: Footprint, clock: list[int]) -> list[int]:
        """Join ``clock`` with everything that the move of ``number`` at ``position`` depends on; returns the positions
        of the moves that it could have come before, with nothing between that had to come between.
        """
        raced = list(clock)
        races = []
        for earlier in range(position - 1, -1, -1):
            node = self._nodes[earlier]
            event = node.event
            assert event is not None
            if event.process == number or event.number <= raced[event.process]:
                continue
            if not dependent(event.footprint, footprint):
                continue
            _join(clock, event.clock)
            if self._reversible(earlier, position, number):
                _join(raced, event.clock)
                races.append(earlier)
        return races

    def _reversible(self, race: int, position: int, number: int) -> bool:
        """Whether the move of ``number`` at ``position`` can come before the one at ``race``: without that one and all
        that happened after it, ``number`` must still be there, and the lock that it waited for free.
        """
        nodes = self._nodes
        first = nodes[race].event
        assert first is not None
        if number not in nodes[race].ways and first.way != STEP:
            return False  # the death that it joined after
        if not self._lock:
            return True
        for at in range(race, position):
            event = nodes[at].event
            assert event is not None
            held = self._lock in nodes[at].held
            if held != (self._lock in event.held) and event.clock[first.process] >= first.number:
                return not held
        return True

    def _reverse(self, race: int, position: int, event: Event) -> None:
        """See to it that at ``race`` a process is tried with which ``event`` can come before the move made there."""
        nodes = self._nodes
        node = nodes[race]
        first = node.event
        assert first is not None
        begun: dict[int, int] = {}
        initials = set()
        for later in [*(node.event for node in nodes[race + 1 : position]), event]:
            assert later is not None
            if later is not event and later.clock[first.process] >= first.number:
                continue
            process = later.process
            if process not in begun:
                if later.way in node.ways.get(process, ()) and not any(
                    later.clock[other] >= index for other, index in begun.items()
                ):
                    initials.add(process)
                begun[process] = later.number
        if initials & node.backtrack:
            return
        if event.process in initials:
            node.backtrack.add(event.process)
        elif initials:
            node.backtrack.add(min(initials))
        else:
            node.backtrack |= node.ways.keys()

    # -- as data ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the search is, between two schedules, as plain data."""
        return {
            "format": FORMAT,
            "preemptions": self._preemptions,
            "started": self._started,
            "again": self._again,
            "complete": self.complete,
            "runs": self.runs,
            "redundant": self.redundant,
            "nodes": [node_out(node) for node in self._nodes],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("format") != FORMAT or state.get("preemptions") != self._preemptions:
            raise UsageError(
                f"the search that is to go on is of format {state.get('format')} with preemption bound"
                f" {state.get('preemptions')}, not {FORMAT} with {self._preemptions}; begin a new one"
            )
        self._started, self._again, self.complete = state["started"], state["again"], state["complete"]
        self.runs, self.redundant = state["runs"], state["redundant"]
        self._nodes = [node_in(data) for data in state["nodes"]]


def _preempts(node: Node, move: Move) -> bool:
    """Whether ``move`` takes the turn from a process that could go on."""
    return move[1] == STEP and node.last != move[0] and node.last in node.steppable


def _join(clock: list[int], other: Sequence[int]) -> None:
    for i, count in enumerate(other):
        if count > clock[i]:
            clock[i] = count
