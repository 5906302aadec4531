"""Linearizability by search: the set of all configurations that explain a history so far, from event to event."""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import nsmallest
from typing import Final, NamedTuple

from harness.budget import Budget, OverBudgetError
from harness.linear.base import ANY, REFUSED, SAME, Call, State, step_of
from harness.linear.problem import Entry, Problem

CONFIGURATIONS_MAX: Final = 500_000
"""Configurations that are kept at one time. Measured: 450 MB in all where each of them has a state of its own."""

WIDTHS: Final[tuple[int | None, ...]] = (4, 16, 256, None)
"""How many configurations are kept after each event: in the first walk through the history, the next, the last.
Measured on linearizable cas-registers of 5 values, 5,000 operations and 300 to 1,500 without an outcome: 4 are enough
(4 s; all configurations at once: undecided after 15 s); 10 processes and 100 without an outcome need 16.
"""

_RECENT: Final = 256
_REMEMBERED_MAX: Final = 10_000
_STEPS_PER_CHECK: Final = 1000
_QUEUE_PER_WIDTH: Final = 16
_INVOKED, _COMPLETED, _RETIRED = range(3)

Trail = tuple["Trail | None", Entry, int] | None
"""The calls that were linearised one by one: all before the last, the last, and the position at which it was."""

Frontier = dict[State, dict[tuple[int, int], list[tuple[int, Trail]]]]
"""Configurations by state, then by ``(surely, possibly)`` of the calls that must take effect, then the bits of the
optional ones that are surely linearised: see ``Search``.
"""


class Moment(NamedTuple):
    """All configurations right after the event at ``position``."""

    position: int
    frontier: Frontier


class _Owed(NamedTuple):
    """A call that must take effect and has begun, with its bit. Sorts by deadline."""

    deadline: int
    bit: int
    kind: int


class _Look(NamedTuple):
    """What the pending calls could do in one state. ``same``: those that leave it as it is; ``asks``: of them those
    that are no blind writes; ``changes``: those that do not, and are none. ``moves``: bits to choose from (one call
    that must take effect, or all equal optional ones), bits of equal calls with earlier deadlines, the state after it,
    whether it is a blind write.
    """

    same: int
    asks: int
    changes: int
    moves: list[tuple[int, int, State, bool]]


class Search:
    """Decides one ``Problem``.

    Definition: a history is linearizable if its calls can be put into one order, in which each is possible in the state
    that the ones before it leave, that keeps the order of calls of which one ended before the other began; calls
    without a completion may be left out (Herlihy and Wing, "Linearizability", 1990).

    The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) in the just-in-time form of Lowe
    ("Testing for linearizability", 2017): events are taken in order; a *configuration* is a state and the set of
    pending calls that were linearised; at a call's completion each configuration in which it was not is followed
    through the orders of pending calls that end in it. Lowe remembers configurations so that none is met twice. What
    differs: the configurations of one event are kept together (breadth first), so that the past can be forgotten and
    memory is bounded by the widest event, and one configuration stands for many:

    1. It is ``(state, surely, possibly)`` with ``surely <= possibly``, two sets of pending calls; it stands for every
       set between them: each of those is reachable in this state. A call is possibly linearised if it is optional; if
       it is possible in the state and leaves it as it is (it may take effect now, or later); and if it is possible in
       every state and pending when a blind write is linearised (right before that it leaves no trace).
    2. Of two configurations of one state, the one whose interval of sets contains the other's can do whatever the
       other can: the other is dropped. So of two that differ in optional calls only the one that used fewer is kept.
    3. Of equal pending calls the one with the earliest deadline goes first: in any linearisation that takes the later
       one first, the two can be exchanged. (A possibly linearised one and one that was not are both tried.) So equal
       optional calls are counted, not named.
    4. A blind write, or a call that is possibly linearised already, is tried before the completing call only if a
       pending call could make use of its state at once. (Else a blind write comes next, and without the call the
       outcome is a configuration that can do more.)

    Where an event has many configurations, a first walk through the history keeps only the few that used the fewest
    optional calls, the next one more (``WIDTHS``): if such a walk comes to the end, there is a linearisation. If it
    does not, and left something out, the next one decides.

    Complexity: the general problem is NP-complete (Gibbons and Korach, 1997). Here O(n c k) for n calls, k pending at a
    time, c configurations at the widest event, which is at worst exponential in k and usually below a hundred.

    Does not verify: that the model is the right one; anything about calls that failed; orders of wall clocks. It takes
    "ok" and the order of the events by their word.
    """

    def __init__(
        self, problem: Problem, budget: Budget, configurations_max: int = CONFIGURATIONS_MAX
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.configurations_max = configurations_max
        self.frontier: Frontier = {}
        self.position = -1
        self.explored = 0
        self.widest = 0
        self.failed: Entry | None = None
        self.recent: deque[Moment] = deque(maxlen=_RECENT)
        self.bits: dict[int, int] = {}
        self._events = _events_of(problem)
        self._kinds: dict[Call, int] = {}
        self._calls: list[Call] = []
        self._steps: list[dict[State, State]] = []
        self._looks: dict[State, _Look] = {}
        self._entry_of: dict[int, Entry] = {}
        self._owed: list[_Owed] = []
        self._options: dict[tuple[int, int], int] = {}
        self._total = self._optional = 0
        self._width: int | None = None
        self._complete_so_far = True
        self._to_check = _STEPS_PER_CHECK

    def run(self) -> bool:
        """Whether there is a linearisation. If not, ``failed`` is the call whose completion none explains, and
        ``frontier`` are all configurations right before it.

        Raises:
            OverBudgetError: a limit was reached. The history is linearizable up to ``position``.
        """
        for width in WIDTHS:
            self._width = width
            self._complete_so_far = True
            if self._walk():
                return True
            if self._complete_so_far:
                return False
        raise AssertionError("the last walk leaves nothing out")

    def pending_at(self, position: int) -> list[tuple[int, Entry]]:
        """The calls in progress right after ``position``, one that was walked over, with their bits."""
        entries = self.problem.entries
        return [
            (bit, entries[number])
            for number, bit in self.bits.items()
            if entries[number].invoked <= position < entries[number].deadline
        ]

    def _walk(self) -> bool:
        """Take the events in order, to the end or until no configuration is left."""
        self.frontier = {start: {(0, 0): [(0, None)]} for start in self.problem.starts}
        self.recent.clear()
        self.recent.append(Moment(-1, self.frontier))
        self.bits = {}
        self._owed = []
        self._options = {}
        self._total = self._optional = 0
        entries = self.problem.entries
        free: list[int] = []
        slots = options = 0
        for position, what, number in self._events:
            entry = entries[number]
            if what == _INVOKED:
                if entry.optional:
                    # Odd bits, never used again: so equal ones are taken in the order of their invocation.
                    bit = 2 << (2 * options)
                    options += 1
                else:
                    if not free:
                        free.append(1 << (2 * slots))
                        slots += 1
                    bit = free.pop()
                self._begin(entry, number, bit)
                continue
            bit = self.bits[number]
            if what == _COMPLETED:
                if not self._complete(entry, bit, position):
                    self.failed = entry
                    return False
            else:
                self._retire(bit)
            self._end(entry, bit)
            if not entry.optional:
                free.append(bit)
            self.position = max(self.position, position)
            self.recent.append(Moment(position, self.frontier))
        return True

    def _begin(self, entry: Entry, number: int, bit: int) -> None:
        self.bits[number] = bit
        kind = self._kinds.setdefault(entry.call, len(self._kinds))
        if kind == len(self._calls):
            self._calls.append(entry.call)
            self._steps.append({})
        if entry.call.needs is ANY:
            self._total |= bit
        if entry.optional:
            self._optional |= bit
            equal = kind, entry.deadline
            self._options[equal] = self._options.get(equal, 0) | bit
        else:
            insort(self._owed, _Owed(entry.deadline, bit, kind))
        self._entry_of[bit] = entry

    def _end(self, entry: Entry, bit: int) -> None:
        self._total &= ~bit
        self._optional &= ~bit
        if not entry.optional:
            self._owed = [each for each in self._owed if each.bit != bit]
            return
        equal = self._kinds[entry.call], entry.deadline
        self._options[equal] &= ~bit
        if not self._options[equal]:
            del self._options[equal]

    def _after(self, kind: int, state: State) -> State:
        steps = self._steps[kind]
        if state not in steps:
            steps[state] = step_of(self.problem.system, state, self._calls[kind])
        return steps[state]

    def _look(self, state: State) -> _Look:
        """What each pending call would do in ``state``; remembered until the set of pending calls changes."""
        found = self._looks.get(state)
        if found is not None:
            return found
        same = asks = changes = 0
        moves = []
        equal: dict[int, list[_Owed]] = {}
        pending = [(bit, kind, deadline, False) for deadline, bit, kind in self._owed]
        pending += [(bits, kind, deadline, True) for (kind, deadline), bits in self._options.items()]
        for bits, kind, deadline, optional in pending:
            after = self._after(kind, state)
            if after is REFUSED:
                continue
            overwrites = self._calls[kind].overwrites
            if after == state:
                # A blind write of what is there is a move all the same: others can leave no trace right before it.
                same |= bits
                if not overwrites:
                    asks |= bits
                    continue
            elif not overwrites:
                changes |= bits
            # One that must take effect goes before its equals that may, unless those have to be earlier: once it is
            # taken, an optional call with an earlier deadline cannot stand in for it later.
            twins = equal.setdefault(kind, [])
            earlier = sum(each.bit for each in twins if each.deadline <= deadline)
            if not optional:
                twins.append(_Owed(deadline, bits, kind))
            moves.append((bits, earlier, after, overwrites))
        found = self._looks[state] = _Look(same, asks, changes, moves)
        return found

    def _complete(self, entry: Entry, bit: int, position: int) -> bool:
        """Move the frontier past the completion of a call; ``False``, and nothing moved, if no configuration can."""
        self._looks = {}
        asks_only = entry.call.leaves is SAME
        survivors: Frontier = {}
        queue: list[tuple[State, int, int, Trail, bool]] = []
        for state, parts in self.frontier.items():
            always = self._look(state).same | self._optional
            for (owed_surely, owed_possibly), options in parts.items():
                possibly = owed_possibly | always
                for used, trail in options:
                    surely = owed_surely | used
                    if possibly & bit:
                        self._insert(survivors, state, surely & ~bit, possibly & ~bit, trail)
                    if not surely & bit and not (asks_only and possibly & bit):
                        queue.append((state, surely, possibly, trail, not possibly & bit))
        if queue:
            self._follow(queue, bit, position, survivors)
        if not survivors:
            return False
        size = _size(survivors)
        if self._width is not None and size > self._width:
            survivors = _best(survivors, self._width)
            self._complete_so_far = False
        self.frontier = survivors
        self.widest = max(self.widest, size)
        return True

    def _follow(
        self,
        queue: list[tuple[State, int, int, Trail, bool]],
        goal: int,
        position: int,
        survivors: Frontier,
    ) -> None:
        """Add to ``survivors`` what the orders of pending calls that end in ``goal`` lead to. The last member of what
        is queued: whether that call was not even possibly linearised before this event.
        """
        met: Frontier = {}
        queue_max = None if self._width is None else _QUEUE_PER_WIDTH * self._width
        for state, surely, possibly, trail, owed in queue:
            look = self._look(state)
            self._spend(len(look.moves) + 1, met, survivors)
            for bits, earlier, after, overwrites in look.moves:
                bit = bits & ~surely
                if not bit:
                    continue
                bit &= -bit
                twins = earlier & ~surely
                if twins and (twins & ~possibly or possibly & bit):
                    continue
                then = self._look(after)
                if bit != goal and (overwrites or possibly & bit):
                    useful = (then.asks & ~possibly) | (then.changes & ~surely & ~bit)
                    if not useful:
                        continue
                now_surely = surely | bit
                now_possibly = possibly | bit | then.same
                if overwrites:
                    now_possibly |= self._total
                step: Trail = (trail, self._entry_of[bit], position)
                if bit == goal:
                    self._insert(survivors, after, now_surely & ~goal, now_possibly & ~goal, step)
                    continue
                if owed and then.same & goal and not look.same & goal:
                    self._insert(survivors, after, now_surely & ~goal, now_possibly & ~goal, step)
                if queue_max is not None and len(queue) > queue_max:
                    self._complete_so_far = False
                elif self._insert(met, after, now_surely, now_possibly, step):
                    queue.append((after, now_surely, now_possibly, step, owed))

    def _retire(self, bit: int) -> None:
        """Forget an optional call that is of no more use."""
        self._looks = {}
        keep = ~bit
        frontier: Frontier = {}
        for state, parts in self.frontier.items():
            for (surely, possibly), options in parts.items():
                for used, trail in options:
                    self._insert(frontier, state, surely | used & keep, possibly, trail)
        self.frontier = frontier

    def _spend(self, steps: int, met: Frontier, survivors: Frontier) -> None:
        """Count ``steps``; now and then look whether a limit is reached, and forget what can be worked out again."""
        self.explored += 1
        self._to_check -= steps
        if self._to_check > 0:
            return
        self._to_check = _STEPS_PER_CHECK
        self.budget.check()
        if len(self._looks) > _REMEMBERED_MAX:
            self._looks = {}
        for remembered in self._steps:
            if len(remembered) > _REMEMBERED_MAX:
                remembered.clear()
        kept = _size(met) + _size(survivors)
        if kept > self.configurations_max:
            raise OverBudgetError(
                f"the limit of {self.configurations_max} configurations at one time was reached"
            )

    def _insert(self, frontier: Frontier, state: State, surely: int, possibly: int, trail: Trail) -> bool:
        """Add a configuration unless one that is there can do whatever it can; drop those for which it can. Whether it
        was added.
        """
        optional = self._optional
        used = surely & optional
        surely &= ~optional
        possibly &= ~optional
        parts = frontier.get(state)
        if parts is None:
            frontier[state] = {(surely, possibly): [(used, trail)]}
            return True
        weaker = []
        for owed, options in parts.items():
            other_surely, other_possibly = owed
            if not other_surely & ~surely and not possibly & ~other_possibly:
                for other, _ in options:
                    if not other & ~used:
                        return False
            if not surely & ~other_surely and not other_possibly & ~possibly:
                weaker.append(owed)
        for owed in weaker:
            options = [option for option in parts[owed] if used & ~option[0]]
            if options:
                parts[owed] = options
            else:
                del parts[owed]
        parts.setdefault((surely, possibly), []).append((used, trail))
        return True


def _events_of(problem: Problem) -> list[tuple[int, int, int]]:
    """``(position, what, number of the entry)`` in order; a deadline that is no completion of its own falls on that of
    another call, and comes after it.
    """
    events = []
    for number, entry in enumerate(problem.entries):
        events.append((entry.invoked, _INVOKED, number))
        if entry.deadline <= problem.end:
            events.append(
                (entry.deadline, _COMPLETED if entry.deadline == entry.op.completed else _RETIRED, number)
            )
    return sorted(events)


def _best(frontier: Frontier, count: int) -> Frontier:
    """``count`` configurations: of each state and set of calls the one that used the fewest optional calls, then the
    next of each.
    """
    every: list[tuple[int, int, int, State, tuple[int, int], tuple[int, Trail]]] = []
    for state, parts in frontier.items():
        for owed, options in parts.items():
            ranked = sorted(options, key=lambda option: option[0].bit_count())
            for rank, option in enumerate(ranked):
                every.append((rank, option[0].bit_count(), len(every), state, owed, option))
    best: Frontier = {}
    for *_, state, owed, option in nsmallest(count, every, key=lambda each: each[:3]):
        best.setdefault(state, {}).setdefault(owed, []).append(option)
    return best


def _size(frontier: Frontier) -> int:
    return sum(len(options) for parts in frontier.values() for options in parts.values())
