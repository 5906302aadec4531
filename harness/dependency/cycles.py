"""Cycles of dependencies: whether there are any, and the shortest of each kind.

Whether there is a cycle of a kind that a property rules out is decided by strongly connected components alone, in
linear time. Which one is shown is a breadth-first search from each telling edge back to itself, within a component and
within a bound of work (Elle searches likewise: Kingsbury and Alvaro 2020, section 6.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.budget import Budget
from harness.dependency.catalogue import ANOMALIES, CYCLES, ORDERS, Order
from harness.dependency.graph import (
    PROCESS,
    REALTIME,
    RW,
    UPDATE,
    VIA,
    WR,
    WW,
    Edges,
    Graph,
    Rows,
    cyclic,
    join,
)
from harness.dependency.graph import components as components_of
from harness.dependency.realtime import process_edges, realtime_edges
from harness.dependency.transactions import Codes, Flags, Transactions
from harness.dependency.walks import (
    ANY,
    ANY_NONADJACENT,
    NONADJACENT,
    PLAIN,
    Adjacency,
    Cycle,
    Step,
    Walk,
    shortest_walk,
)

__all__ = ["Cycle", "Step", "find_cycles", "with_order"]

_BOUNDS: Final = (300, 10_000, 500_000)
"""How many edges one search may look at, in one round after another: most cycles are near."""
_STEPS_MAX: Final = 500_000
"""How many edges the searches of one round may look at together, for one kind of cycle: 0.3 s."""
_SHORTEST: Final = 2
_ALLOWED: Final = {
    "G0": (WW,),
    "G1c": (WW, WR),
    "G-single": (WW, WR, UPDATE),
    "G-nonadjacent": (WW, WR, UPDATE, RW),
    "G2-item": (WW, WR, UPDATE, RW),
}
"""The kinds of edges that a cycle of each name may have besides its first one."""
_FIRST: Final = {
    "G0": (WW,),
    "G1c": (WR,),
    "G-single": (RW, UPDATE),
    "G-nonadjacent": (RW,),
    "G2-item": (RW, UPDATE),
}
"""The kinds of edges of which every cycle of that name has one, from which it is looked for."""
_OF_ORDER: Final[dict[Order, tuple[int, ...]]] = {
    "none": (VIA,),
    "process": (VIA, PROCESS),
    "realtime": (VIA, PROCESS, REALTIME),
}


def with_order(values: Graph, transactions: Transactions, committed: Flags, order: Order) -> Graph:
    """``values`` and the edges of ``order`` between ``committed`` transactions. Real time has the order of processes
    in it, whose edges are left out then.
    """
    added, nodes = _of_order(values, transactions, committed, order)
    return Graph(values.transactions, nodes, join([values.edges, *added]))


def _of_order(
    values: Graph, transactions: Transactions, committed: Flags, order: Order
) -> tuple[list[Edges], int]:
    """The edges of ``order``, and how many nodes there are with those that they need."""
    if order == "none":
        return [], values.nodes
    if order == "process":
        return [process_edges(transactions, committed)], values.nodes
    added, moments = realtime_edges(transactions, committed, values.nodes)
    return [added], values.nodes + moments


def find_cycles(
    values: Graph, transactions: Transactions, committed: Flags, order: Order, budget: Budget
) -> list[Cycle]:
    """The shortest cycle found of each anomaly, the worst anomaly first. ``values`` has ww, wr and rw edges between
    ``committed`` transactions; process edges ("process"), or process and real-time edges ("realtime") are added here.

    Exact in this: with O meaning the order's edges, there is a G0 (or variant) in the answer if and only if ww + O has
    a cycle; a G0 or G1c if and only if ww + wr + O has one; one of all but G2-item if and only if there is a cycle
    without two adjacent rw edges; and any if and only if there is any cycle. The others (a G-single beside a G1c) are
    looked for within a bound of work. A variant is only shown where it is shorter than any cycle of that name without.

    O(nodes + edges) where there is none. Raises ``OverBudgetError``.
    """
    added, nodes = _of_order(values, transactions, committed, order)
    budget.check()
    parts = [values.edges, *added]
    source, target = (
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
    )
    on_cycle = cyclic(nodes, source, target)
    budget.check()
    if not on_cycle.any():
        return []
    kept = join(parts).where(on_cycle)
    if order == "realtime":
        kept = join([kept, process_edges(transactions, committed)])
    search = _Search(_part(values.transactions, nodes, kept), transactions, budget)
    for layer in ORDERS[: ORDERS.index(order) + 1]:
        for name in CYCLES:
            search.look_for(name, layer)
    rank = {name: place for place, name in enumerate(ANOMALIES)}
    return sorted(search.found.values(), key=lambda cycle: rank[cycle.anomaly])


@dataclass(frozen=True, slots=True)
class _Part:
    """The edges that lie on cycles, between nodes numbered anew; ``original`` are their numbers in the whole graph."""

    nodes: int
    original: Codes
    is_transaction: Flags
    is_hub: Flags
    edges: Edges


def _part(transactions: int, nodes: int, kept: Edges) -> _Part:
    same = cyclic(nodes, kept.source, kept.target)
    kept = kept.where(same)
    original, ends = np.unique(np.concatenate([kept.source, kept.target]), return_inverse=True)
    source, target = ends[: kept.count].astype(np.int32), ends[kept.count :].astype(np.int32)
    is_transaction = original < transactions
    is_hub = np.zeros(len(original), dtype=np.bool_)
    is_hub[target[kept.kind == RW]] = True
    is_hub &= ~is_transaction
    return _Part(
        len(original),
        original,
        is_transaction,
        is_hub,
        Edges(source, target, kept.kind, kept.key, kept.at),
    )


class _Search:
    """Looks for one kind of cycle after another, the worst first. ``found``: the shortest of each anomaly so far."""

    def __init__(self, part: _Part, transactions: Transactions, budget: Budget) -> None:
        self.found: dict[str, Cycle] = {}
        self._part = part
        self._transactions = transactions
        self._budget = budget
        self._explained: set[int] = set()
        """Components of the whole layer in which a cycle was found that is worse than a G2-item."""
        self._labels: Codes = np.zeros(0, dtype=np.int32)

    def look_for(self, name: str, layer: Order) -> None:
        """Add the shortest cycle called ``name``, with no edges of an order beyond ``layer``, to ``found`` if there is
        one and none that needs less of an order is as short.
        """
        edges = self._part.edges
        if name == CYCLES[0]:
            self._begin(layer)
        if self._shortest(name) == _SHORTEST:
            return
        allowed = np.isin(edges.kind, (*_ALLOWED[name], *_OF_ORDER[layer]))
        first = np.isin(edges.kind, _FIRST[name])
        usable = np.flatnonzero(allowed | first)
        if name == "G-nonadjacent":
            on_cycle = self._nonadjacent(usable)
        else:
            on_cycle = _spread(
                cyclic(self._part.nodes, edges.source[usable], edges.target[usable]), usable, edges
            )
        starts = np.flatnonzero(first & on_cycle)
        if name == "G2-item":
            fresh = [int(self._labels[each]) not in self._explained for each in edges.source[starts].tolist()]
            starts = starts[np.array(fresh, dtype=np.bool_)]
        if not len(starts):
            return
        nearest = self._nearest_first(starts)
        adjacency = Adjacency(self._part.nodes, edges, np.flatnonzero(allowed))
        if name == "G-nonadjacent":
            if not self._explained:
                self._walk("", nearest[:1], adjacency, ANY_NONADJACENT, certain=True)
            self._walk(name, nearest, adjacency, NONADJACENT, certain=False)
        elif name == "G2-item":
            self._walk(name, nearest, adjacency, ANY, certain=True)
        else:
            self._walk(name, nearest, adjacency, PLAIN, certain=name != "G-single")

    def _shortest(self, base: str) -> int | None:
        """How long the shortest known cycle of this name is, with or without an order."""
        lengths = [len(cycle.steps) for name, cycle in self.found.items() if _base(name) == base]
        return min(lengths, default=None)

    def _begin(self, layer: Order) -> None:
        edges = self._part.edges
        rows = np.flatnonzero(np.isin(edges.kind, (*_ALLOWED["G2-item"], *_OF_ORDER[layer])))
        self._labels = components_of(self._part.nodes, edges.source[rows], edges.target[rows])
        known = {int(row) for cycle in self.found.values() for row in (step.source for step in cycle.steps)}
        nodes = np.flatnonzero(np.isin(self._part.original, np.array(sorted(known), dtype=np.int64)))
        self._explained = {int(label) for label in self._labels[nodes]}

    def _nonadjacent(self, rows: Rows) -> Flags:
        """Which of the edges ``rows`` lie on a closed walk without two adjacent rw edges: nodes are doubled, (v, 0)
        entered by whatever is not rw, (v, 1) by rw, and no rw edge leaves (v, 1).
        """
        edges, nodes = self._part.edges, self._part.nodes
        source, target, kind = edges.source[rows], edges.target[rows], edges.kind[rows]
        rw, leaves_hub = kind == RW, self._part.is_hub[source]
        other = ~rw & ~leaves_hub
        sources = np.concatenate(
            [source[other], source[other] + nodes, source[rw], source[leaves_hub] + nodes]
        )
        targets = np.concatenate(
            [target[other], target[other], target[rw] + nodes, target[leaves_hub] + nodes]
        )
        origin = np.concatenate([rows[other], rows[other], rows[rw], rows[leaves_hub]])
        marked = np.zeros(edges.count, dtype=np.bool_)
        marked[origin[cyclic(2 * nodes, sources, targets)]] = True
        return marked

    def _nearest_first(self, starts: Rows) -> list[int]:
        """Edges that go back in time first, as they close a cycle of two with real time; then by how near their ends
        are to one another.
        """
        part, transactions = self._part, self._transactions
        ends = [part.original[part.edges.source[starts]], part.original[part.edges.target[starts]]]
        source, target = (np.minimum(end, transactions.count - 1) for end in ends)
        forward = transactions.completed[target] >= transactions.invoked[source]
        order = np.lexsort((np.abs(source - target), forward))
        return [int(each) for each in starts[order]]

    def _walk(self, name: str, starts: list[int], adjacency: Adjacency, walk: Walk, certain: bool) -> None:
        """Look for the shortest cycle called ``name`` from each of ``starts``, within a bound of work; whatever is
        found is kept. ``certain``: the first search will end in a cycle, and has no bound.
        """
        if certain and self._shortest(name) is None:
            self._from(starts[0], name, adjacency, walk, None)
        for bound in _BOUNDS:
            left = _STEPS_MAX
            unfinished: list[int] = []
            for start in starts:
                self._budget.check()
                looked, finished = self._from(start, name, adjacency, walk, min(bound, left))
                left -= looked
                if self._shortest(name) == _SHORTEST:
                    return
                if not finished:
                    unfinished.append(start)
                if left <= 0:
                    break
            starts = unfinished

    def _from(
        self, start: int, name: str, adjacency: Adjacency, walk: Walk, bound: int | None
    ) -> tuple[int, bool]:
        """Look for a cycle through one edge that is shorter than those known. How many edges were looked at, and
        whether that was all.
        """
        part = self._part
        path, looked = shortest_walk(adjacency, part.edges, start, walk, bound, self._shortest(name))
        if path is not None:
            cycle = walk.cycle(_steps(part, [start, *path]))
            base = _base(cycle.anomaly)
            known = self._shortest(base)
            if known is None or len(cycle.steps) < known:
                self.found[cycle.anomaly] = cycle
            if base != "G2-item":
                self._explained.add(int(self._labels[part.edges.source[start]]))
        return looked, path is not None or bound is None or looked < bound


def _base(anomaly: str) -> str:
    return anomaly.removesuffix("-process").removesuffix("-realtime")


def _steps(part: _Part, path: list[int]) -> list[Step]:
    """Each way between two transactions as one step, of the kind (and the reason) of its first edge."""
    steps: list[Step] = []
    edges = part.edges
    begun: tuple[int, int, int, int] | None = None
    for edge in path:
        if begun is None:
            begun = (
                int(edges.source[edge]),
                int(edges.kind[edge]),
                int(edges.key[edge]),
                int(edges.at[edge]),
            )
        node = int(edges.target[edge])
        if part.is_transaction[node]:
            source, kind, key, at = begun
            steps.append(Step(int(part.original[source]), int(part.original[node]), kind, key, at))
            begun = None
    return steps


def _spread(flags: Flags, rows: Rows, edges: Edges) -> Flags:
    """``flags`` of the edges ``rows`` as flags of all edges."""
    spread = np.zeros(edges.count, dtype=np.bool_)
    spread[rows] = flags
    return spread
