"""Snapshot isolation as a graph of moments: transactions start and commit, and see what committed before they start.

Node ``2t`` is the start of transaction t and ``2t + 1`` its commit. A ww, wr, process or real-time edge from a to b
says that a commits before b starts; a rw edge that a starts before b commits, since a did not see b. A history has
snapshot isolation if and only if there is an order of all moments that keeps these and in which of two transactions
that write the same key one commits before the other starts (Cerone and Gotsman, "Analysing Snapshot Isolation", JACM
2018, where the same is said of cycles: none but those with two adjacent rw edges). Where the order of two writers is
not known that is a choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import numpy as np

from harness.budget import Budget
from harness.dependency.graph import RW, VIA, Graph
from harness.dependency.orders import Broken, Choice, Contradiction, Witness, solve
from harness.dependency.transactions import Transactions

Way = tuple[int, int, bool]
"""``(source, target, anti)``: between transactions; ``anti`` if the source started before the target committed."""


def start(transaction: int) -> int:
    """The moment at which it starts."""
    return 2 * transaction


def commit(transaction: int) -> int:
    """The moment at which it commits."""
    return 2 * transaction + 1


def moments(graph: Graph) -> list[dict[int, int]]:
    """The successors of every moment, and of the auxiliary nodes, which follow the moments in their order.

    ``graph`` has edges of any kind between transactions; an auxiliary node that a rw edge enters leads to commits, any
    other to starts. O(nodes + edges).
    """
    count, edges = graph.transactions, graph.edges
    source, target = edges.source.astype(np.int64), edges.target.astype(np.int64)
    anti = (edges.kind == RW) | ((edges.kind == VIA) & _hubs(graph)[source])
    source = np.where(source < count, 2 * source + (edges.kind != RW), source + count)
    target = np.where(target < count, 2 * target + anti, target + count)
    successors: list[dict[int, int]] = [{} for _ in range(graph.nodes + count)]
    for transaction in range(count):
        successors[2 * transaction][2 * transaction + 1] = 0
    for a, b in zip(source.tolist(), target.tolist(), strict=True):
        successors[a][b] = 0
    return successors


def _hubs(graph: Graph) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each node, whether it is auxiliary and entered by rw, itself or through others of its sort."""
    edges = graph.edges
    hub = np.zeros(graph.nodes, dtype=np.bool_)
    hub[edges.target[(edges.kind == RW) & (edges.target >= graph.transactions)]] = True
    inner = (edges.kind == VIA) & (edges.target >= graph.transactions)
    while True:
        more = edges.target[inner & hub[edges.source]]
        if hub[more].all():
            return hub
        hub[more] = True


def due(transactions: Transactions, nodes: int) -> list[int]:
    """By when each moment is expected, for ``orders.solve``: a start by the invocation, a commit by the completion."""
    made = np.full(nodes, np.iinfo(np.int64).max, dtype=np.int64)
    count = transactions.count
    made[: 2 * count : 2] = transactions.invoked
    made[1 : 2 * count : 2] = transactions.completed
    return [int(each) for each in made]


def concurrent_writers(groups: Iterable[Sequence[int]]) -> Broken:
    """What an order of moments breaks, for ``orders.solve``: of the transactions of a group (which write one key) each
    must commit before the next one starts. At most one choice for each neighbours in a group.
    """
    sets = [list(group) for group in groups]

    def broken(position: Sequence[int], _: Collection[int] | None) -> list[Choice]:
        found = []
        for group in sets:
            group.sort(key=lambda transaction: position[2 * transaction])
            for a, b in pairwise(group):
                if position[2 * a + 1] > position[2 * b]:
                    found.append(apart(a, b))
        return found

    return broken


def apart(a: int, b: int) -> Choice:
    """Of two transactions one commits before the other starts."""
    a, b = min(a, b), max(a, b)
    return Choice(("apart", a, b), (((commit(a), start(b)),), ((commit(b), start(a)),)))


def decide(
    graph: Graph, groups: Iterable[Sequence[int]], transactions: Transactions, budget: Budget
) -> Witness | Contradiction:
    """Whether there is an order of moments for these edges, if no two transactions of a group were concurrent.

    ``groups``: transactions that write one key, as far as the edges do not order them (others may be there too).
    Exact: the witness is an order of moments (and auxiliary nodes), the contradiction a proof that there is none.

    Raises:
        OverBudgetError: undecided.

    Does not verify: that the edges follow from the history.
    """
    successors = moments(graph)
    return solve(successors, due(transactions, len(successors)), concurrent_writers(groups), budget)


def ways(cycle: Sequence[int], count: int) -> list[Way]:
    """A cycle of moments (and auxiliary nodes) as one of transactions: no two of its ways that follow one another are
    anti. ``count``: how many transactions there are.
    """
    nodes = [node for node in cycle if node < 2 * count]
    found = []
    for a, b in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        if a // 2 != b // 2:
            found.append((a // 2, b // 2, a % 2 == 0))
    return found


def cycle_edges(contradiction: Contradiction, count: int) -> list[Way]:
    """The cycle of transactions that names the anomaly: that of the first alternative which has one."""
    refuted = contradiction.refuted
    while True:
        for excluded in refuted.excluded:
            if excluded.cycle:
                return ways(excluded.cycle, count)
        deeper = next(excluded.deeper for excluded in refuted.excluded if excluded.deeper is not None)
        refuted = deeper
