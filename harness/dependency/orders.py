"""Acyclicity with choices: an order that keeps all fixed edges and one alternative of every choice, or a proof of none.

This is the polygraph problem (Papadimitriou, "The Serializability of Concurrent Database Updates", JACM 1979), which is
NP-complete. As in Cobra (Tan et al., OSDI 2020) and PolySI (Huang et al., VLDB 2023) an alternative that would close a
cycle forces the others. What differs: nothing is saturated in advance. An order is built first; ``broken`` says which
choices it breaks; only those are settled, and the order is mended in place, by a search from both ends of each new edge
(as in Haeupler et al., "Incremental Cycle Detection, Topological Ordering, and Strong Component Maintenance", 2012).
Histories are nearly always explained by the order of completion, so nearly no choice is ever looked at. Where both
alternatives are possible one is assumed; every edge remembers which assumptions it rests on, and a contradiction takes
back the youngest of them and what rests on it, no more (Ginsberg, "Dynamic Backtracking", 1993).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple

from harness.budget import Budget, OverBudgetError

Atom = tuple[int, int]
"""``(source, target)``: the first is before the second."""

GAP = 1 << 40
"""How far apart neighbours in an order are at first, so that others can be put between them."""
STEPS = 1 << 12
"""After how many steps of a search the budget is asked."""
EXAMINED_MAX = 8
"""A choice with more alternatives than this is not searched for an only possible one before one is assumed."""


class Choice(NamedTuple):
    """At least one of the alternatives holds; an alternative holds if all its atoms do. ``name`` identifies it: equal
    names mean equal choices. ``whole``: whether these are all alternatives there are; if not, it proves nothing that
    none of them can hold.
    """

    name: Hashable
    alternatives: tuple[tuple[Atom, ...], ...]
    whole: bool = True


class Excluded(NamedTuple):
    """Why one alternative cannot hold: it closes ``cycle`` (nodes; the last is before the first), or, where that is
    empty, assuming it refutes ``deeper``.
    """

    alternative: tuple[Atom, ...]
    cycle: tuple[int, ...]
    deeper: Refuted | None = None


class Refuted(NamedTuple):
    """A choice none of whose alternatives can hold. ``choice`` is None where the fixed edges alone close a cycle."""

    choice: Choice | None
    excluded: tuple[Excluded, ...]


class Witness(NamedTuple):
    """An order of all nodes: no fixed edge points back in it, and ``broken`` found nothing."""

    order: list[int]


class Contradiction(NamedTuple):
    """There is no order. ``derived`` says of every edge that was forced on the way, without any assumption, by which
    choice and why that choice's other alternatives cannot hold.
    """

    refuted: Refuted
    derived: dict[Atom, Refuted]


Broken = Callable[[Sequence[int], Collection[int] | None], list[Choice]]
"""``broken(position, moved)``: choices that an order of all nodes breaks, given the position of each. It may leave out
choices of which all nodes are where they were, relative to one another, when it was last asked: only ``moved`` ones are
elsewhere (None: it must look at all). With None it finds none only if the order keeps them all.
"""


def solve(
    successors: list[dict[int, int]], due: Sequence[int], broken: Broken, budget: Budget
) -> Witness | Contradiction:
    """An order of the nodes 0..n-1, or the proof that there is none.

    ``successors[a]`` has every ``b`` that must come after ``a`` as a key, with value 0; it is changed. ``due``: by when
    a node should have come, for the first order, where every node comes by the earliest ``due`` of what is after it.

    Exact. Time is that of a topological sort and one call of ``broken`` where the first order will do; each edge added
    after that costs at most the part of the graph between its ends; exponential in the worst case.

    Raises:
        OverBudgetError: undecided; also where a proof would need all alternatives of a choice that is not ``whole``.

    Does not verify: that ``broken`` finds what the order breaks.
    """
    order = earliest_due(successors, due)
    if len(order) < len(successors):
        cycle = _cycle_among(successors, set(range(len(successors))).difference(order))
        return Contradiction(Refuted(None, (Excluded((), cycle),)), {})
    return _Search(successors, order, budget).run(broken)


def earliest_due(successors: list[dict[int, int]], due: Sequence[int]) -> list[int]:
    """A topological order by the earliest ``due`` of what must come after; shorter than the nodes if there is a cycle
    (what is on one, or after one, is left out).
    """
    waiting = [0] * len(successors)
    for after in successors:
        for b in after:
            waiting[b] += 1
    order = [a for a, count in enumerate(waiting) if not count]
    for a in order:
        for b in successors[a]:
            waiting[b] -= 1
            if not waiting[b]:
                order.append(b)
    by = list(due)
    for a in reversed(order):
        for b in successors[a]:
            if by[b] < by[a]:
                by[a] = by[b]
    return sorted(order, key=by.__getitem__)


def _cycle_among(successors: list[dict[int, int]], nodes: set[int]) -> tuple[int, ...]:
    """A cycle among nodes that a topological sort left over: the shortest through one that is on a cycle."""
    before: dict[int, int] = {}
    for a in nodes:
        for b in successors[a]:
            before[b] = a
    at = next(iter(nodes))
    for _ in nodes:
        at = before[at]
    came: dict[int, int] = {}
    queue = deque([at])
    while queue:
        a = queue.popleft()
        for b in successors[a]:
            if b == at:
                path = [a]
                while path[-1] != at:
                    path.append(came[path[-1]])
                return tuple(reversed(path))
            if b in nodes and b not in came:
                came[b] = a
                queue.append(b)
    raise AssertionError("walking backwards from a node that is left over ends on a cycle")


class _Search:
    """``position`` is a topological order at every moment, of the fixed edges and of those that were added.

    The value of an edge in ``successors`` is the set (bits) of the assumptions that it rests on. An edge is added once;
    if its assumptions fall it is found again when it is needed again.
    """

    def __init__(self, successors: list[dict[int, int]], order: list[int], budget: Budget) -> None:
        self.successors = successors
        self.predecessors: list[set[int]] = [set() for _ in successors]
        for a, after in enumerate(successors):
            for b in after:
                self.predecessors[b].add(a)
        self.position = [0] * len(order)
        self.next = [0] * (len(order) + 1)
        self.previous = [0] * (len(order) + 1)
        self._lay_out(order)
        self.budget = budget
        self.steps = 0
        self.assumed: dict[int, tuple[Choice, int]] = {}
        self.assumptions = 0
        self.added: dict[Atom, int] = {}
        self.eliminated: dict[Hashable, dict[int, tuple[int, Excluded]]] = {}
        self.derived: dict[Atom, Refuted] = {}
        self.partial = False
        self.moved: set[int] = set()

    def run(self, broken: Broken) -> Witness | Contradiction:
        """Settle what the order breaks until it breaks nothing."""
        moved: set[int] | None = None
        while True:
            self.budget.check()
            self.moved = set()
            work = deque(broken(self.position, moved))
            if not work and moved is None:
                return Witness(self._listed())
            moved = self.moved if work else None
            while work:
                choice = work.popleft()
                refuted = self.settle(choice)
                if refuted is None:
                    continue
                blame, proof = refuted
                if not blame and self.partial:
                    raise OverBudgetError(
                        "the limit of how many alternatives of one choice are tried was reached"
                    )
                if not blame:
                    return Contradiction(proof, self.derived)
                work.appendleft(choice)
                work.appendleft(self.take_back(blame, proof))

    def settle(self, choice: Choice) -> tuple[int, Refuted] | None:
        """Make the order keep a choice. Otherwise what is to blame (assumptions) and why no alternative can hold."""
        position = self.position
        if any(all(position[a] < position[b] for a, b in atoms) for atoms in choice.alternatives):
            return None
        eliminated = self.eliminated.setdefault(choice.name, {})
        possible: list[int] = []
        for i in self._by_distance(choice):
            if i in eliminated:
                continue
            excluded = self._excluded(choice.alternatives[i])
            if excluded is not None:
                eliminated[i] = excluded
                continue
            possible.append(i)
            if len(possible) == 2 or len(choice.alternatives) > EXAMINED_MAX:
                break
        if len(possible) < 2 and not choice.whole:
            self.partial = True
        blame = 0
        for mask, _ in eliminated.values():
            blame |= mask
        proof = Refuted(choice, tuple(excluded for _, excluded in eliminated.values()))
        if not possible:
            return blame, proof
        chosen = possible[0]
        forced = len(eliminated) == len(choice.alternatives) - 1
        if not forced:
            if not self.assumed:
                self.assumptions = 0
            blame = 1 << self.assumptions
            self.assumed[self.assumptions] = choice, chosen
            self.assumptions += 1
        for atom in choice.alternatives[chosen]:
            if forced and not blame and self.successors[atom[0]].get(atom[1], 1):
                self.derived[atom] = proof
            self._add(atom, blame)
        return None

    def take_back(self, blame: int, proof: Refuted) -> Choice:
        """Take back the youngest assumption to blame, and what rests on it. The others to blame exclude it."""
        youngest = blame.bit_length() - 1
        bit = 1 << youngest
        choice, chosen = self.assumed.pop(youngest)
        for atom in [atom for atom, mask in self.added.items() if mask & bit]:
            self._remove(atom)
        for known in self.eliminated.values():
            for i in [i for i, (mask, _) in known.items() if mask & bit]:
                del known[i]
        excluded = Excluded(choice.alternatives[chosen], (), proof)
        self.eliminated.setdefault(choice.name, {})[chosen] = blame & ~bit, excluded
        return choice

    def _by_distance(self, choice: Choice) -> list[int]:
        """The alternatives, those first that move least in the present order."""
        position = self.position
        distances = [
            sum(max(0, position[a] - position[b]) for a, b in atoms) for atoms in choice.alternatives
        ]
        return sorted(range(len(distances)), key=distances.__getitem__)

    def _excluded(self, atoms: tuple[Atom, ...]) -> tuple[int, Excluded] | None:
        """If the atoms close a cycle together: the assumptions that it rests on, and the cycle."""
        tried: list[Atom] = []
        found = None
        for atom in atoms:
            path = self._path(atom[1], atom[0])
            if path:
                mask = 0
                for a, b in pairwise(path):
                    mask |= self.successors[a][b]
                found = mask, Excluded(atoms, tuple(path))
                break
            if len(atoms) > 1 and atom[1] not in self.successors[atom[0]]:
                self._add(atom, 0)
                tried.append(atom)
        for atom in tried:
            self._remove(atom)
        return found

    def _path(self, start: int, end: int) -> list[int]:
        """A short path, or nothing if there is none."""
        if self.position[start] > self.position[end]:
            return []
        return self._meet(start, end)[0]

    def _meet(self, start: int, end: int) -> tuple[list[int], dict[int, int], dict[int, int]]:
        """Search from both ends, always at the smaller front, for a path; only nodes between the two in the order are
        on one. Without one, either all that can be reached from ``start`` between them, or all that leads to ``end``.
        """
        if start == end:
            return [start], {}, {}
        position, low, high = self.position, self.position[start], self.position[end]
        ahead, behind = {start: start}, {end: end}
        front, rear = [start], [end]
        while front and rear:
            self._spend(min(len(front), len(rear)))
            reached: list[int] = []
            if len(front) <= len(rear):
                for a in front:
                    for b in self.successors[a]:
                        if b not in ahead and position[b] <= high:
                            ahead[b] = a
                            if b in behind:
                                return _joined(ahead, behind, b), {}, {}
                            reached.append(b)
                front = reached
            else:
                for b in rear:
                    for a in self.predecessors[b]:
                        if a not in behind and position[a] >= low:
                            behind[a] = b
                            if a in ahead:
                                return _joined(ahead, behind, a), {}, {}
                            reached.append(a)
                rear = reached
        return ([], ahead, {}) if not front else ([], {}, behind)

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS:
            self.steps = 0
            self.budget.check()

    def _add(self, atom: Atom, mask: int) -> None:
        """Add an edge that closes no cycle. If it points back in the order, what leads to its source moves to before
        its target, or what its target leads to moves to after its source, whichever was found first.
        """
        a, b = atom
        after = self.successors[a]
        if b in after:
            if not mask and after[b]:
                after[b] = self.added[atom] = 0
            return
        if self.position[b] < self.position[a]:
            _, ahead, behind = self._meet(b, a)
            if behind:
                self._move(sorted(behind, key=self.position.__getitem__), self.previous[b])
            else:
                self._move(sorted(ahead, key=self.position.__getitem__), a)
        after[b] = self.added[atom] = mask
        self.predecessors[b].add(a)

    def _move(self, nodes: list[int], place: int) -> None:
        """Move nodes, in this order, to after the node ``place``, which is none of them."""
        following, preceding, position = self.next, self.previous, self.position
        self.moved.update(nodes)
        for node in nodes:
            following[preceding[node]] = following[node]
            preceding[following[node]] = preceding[node]
        end, last = len(position), following[place]
        low = position[place] if place != end else position[last] - GAP * (len(nodes) + 1)
        high = position[last] if last != end else low + GAP * (len(nodes) + 1)
        step = (high - low) // (len(nodes) + 1)
        for node in nodes:
            following[place], preceding[node] = node, place
            low += step
            position[node] = low
            place = node
        following[place], preceding[last] = last, place
        if not step:
            self._lay_out(self._listed())

    def _listed(self) -> list[int]:
        """All nodes in the order."""
        order = []
        node = self.next[-1]
        for _ in self.position:
            order.append(node)
            node = self.next[node]
        return order

    def _lay_out(self, order: list[int]) -> None:
        """Give every node a position far from the next, so that others fit in between; n is both ends of the list."""
        before = len(order)
        for i, node in enumerate(order):
            self.position[node] = i * GAP
            self.next[before], self.previous[node] = node, before
            before = node
        self.next[before], self.previous[len(order)] = len(order), before

    def _remove(self, atom: Atom) -> None:
        """Take an edge back. An order that kept it keeps what is left."""
        del self.added[atom]
        del self.successors[atom[0]][atom[1]]
        self.predecessors[atom[1]].discard(atom[0])


def _joined(ahead: dict[int, int], behind: dict[int, int], middle: int) -> list[int]:
    """The path through ``middle``: ``ahead`` says what came before a node, ``behind`` what comes after it."""
    path = [middle]
    while ahead[path[-1]] != path[-1]:
        path.append(ahead[path[-1]])
    path.reverse()
    while behind[path[-1]] != path[-1]:
        path.append(behind[path[-1]])
    return path
