"""The shortest closed walk through one edge, where only some successions of edges are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from harness.dependency.catalogue import Order, cycle_name
from harness.dependency.graph import NOWHERE, PROCESS, REALTIME, RW, UPDATE, VIA, WR, WW, Edges, Rows

_NO: Final = -1


class Step(NamedTuple):
    """One edge of a cycle, between transactions (rows). ``key`` and ``at`` are those of the edge (``Edges``)."""

    source: int
    target: int
    kind: int
    key: int = NOWHERE
    at: int = NOWHERE


class Cycle(NamedTuple):
    """Steps of which each begins where the one before it ends, the first where the last does. No transaction is met
    twice. ``anomaly``: its standard name ("G-single-realtime").
    """

    anomaly: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk may look like after its first edge, as an automaton. It begins in state 0; ``on_rw[state]`` and
    ``on_other[state]`` are the states after an edge, -1 where there must be none; it must end in ``accepting``.
    ``nonadjacent``: no two rw edges follow one another in it.
    """

    on_rw: tuple[int, ...]
    on_other: tuple[int, ...]
    accepting: int
    nonadjacent: bool

    def cycle(self, steps: Sequence[Step]) -> Cycle:
        """The closed walk of ``steps`` as a cycle: where it meets a transaction twice it is cut there, and the part is
        kept that has the property of the walk (one of the two always is ``nonadjacent`` if the whole is), else the one
        with more rw edges.
        """
        while (parts := _cut(steps)) is not None:
            if self.nonadjacent:
                steps = min((part for part in parts if not _adjacent(part)), key=len)
            else:
                steps = max(parts, key=lambda part: sum(step.kind == RW for step in part))
        return Cycle(name_of(steps), tuple(steps))


PLAIN: Final = Walk((_NO,), (0,), 0, False)
"""No rw edge after the first one."""
NONADJACENT: Final = Walk((_NO, 2, _NO, 2), (1, 1, 3, 3), 3, True)
"""A further rw edge, and no two adjacent. States: the last edge was the first one; it was another than rw; it was a
further rw edge; there was one, and the last edge is another than rw.
"""
ANY: Final = Walk((0,), (0,), 0, False)
"""Whatever there is."""
ANY_NONADJACENT: Final = Walk((_NO, 0), (1, 1), 1, True)
"""Whatever has no two adjacent rw edges."""


def name_of(steps: Sequence[Step]) -> str:
    """The anomaly that a cycle of these steps is."""
    kinds = labels(steps)
    order: Order = "realtime" if REALTIME in kinds else "process" if PROCESS in kinds else "none"
    return cycle_name(kinds.count(RW), _adjacent(steps), kinds.count(WR), order)


def labels(steps: Sequence[Step]) -> list[int]:
    """The kinds of the steps as the cycle's name counts them: an ``UPDATE`` is a ww edge, but a cycle that has no other
    rw edge is none of those that read-committed rules out, so that the first ``UPDATE`` is its rw edge.
    """
    kinds = [step.kind for step in steps]
    if UPDATE in kinds and RW not in kinds:
        kinds[kinds.index(UPDATE)] = RW
    return [WW if kind == UPDATE else kind for kind in kinds]


def _adjacent(steps: Sequence[Step]) -> bool:
    return (
        any(steps[place - 1].kind == RW and steps[place].kind == RW for place in range(len(steps)))
        and len(steps) > 1
    )


def _cut(steps: Sequence[Step]) -> tuple[list[Step], list[Step]] | None:
    """The two closed walks that meet at the first transaction that is met twice."""
    seen: dict[int, int] = {}
    for place, step in enumerate(steps):
        before = seen.setdefault(step.source, place)
        if before != place:
            return list(steps[before:place]), [*steps[:before], *steps[place:]]
    return None


class Adjacency:
    """The edges ``rows`` of ``edges``, by the node that they leave."""

    def __init__(self, nodes: int, edges: Edges, rows: Rows) -> None:
        order = rows[np.argsort(edges.source[rows], kind="stable")]
        self.begins: list[int] = np.searchsorted(edges.source[order], np.arange(nodes + 1)).tolist()
        self.edge: list[int] = order.tolist()
        self.target: list[int] = edges.target[order].tolist()
        self.kind: list[int] = edges.kind[order].tolist()
        via = np.zeros(nodes, dtype=np.bool_)
        via[edges.source[rows[edges.kind[rows] == VIA]]] = True
        self.auxiliary: list[bool] = via.tolist()


def shortest_walk(
    adjacency: Adjacency, edges: Edges, start: int, walk: Walk, bound: int | None, below: int | None
) -> tuple[list[int] | None, int]:
    """The shortest walk that ``walk`` allows from the end of the edge ``start`` back to its beginning, as edges, and
    how many edges were looked at. ``None`` for the walk: there is none, or none of fewer than ``below`` edges with
    ``start``, or ``bound`` edges were looked at. ``VIA`` edges count nothing.
    """
    states = len(walk.on_rw)
    begin = int(edges.target[start]) * states
    end = int(edges.source[start]) * states + walk.accepting
    farthest = None if below is None else below - 2
    came: dict[int, tuple[int, int]] = {begin: (_NO, _NO)}
    begins, kinds, targets = adjacency.begins, adjacency.kind, adjacency.target
    layer, cost, looked = [begin], 0, 0
    while layer:
        further: list[int] = []
        # Nothing but VIA edges leaves an auxiliary node: those are followed first, as they do not lengthen the walk.
        via = [here for here in layer if adjacency.auxiliary[here // states]]
        here_on = [here for here in layer if not adjacency.auxiliary[here // states]]
        while via:
            here = via.pop()
            node, state = divmod(here, states)
            for place in range(begins[node], begins[node + 1]):
                looked += 1
                there = targets[place] * states + state
                if there not in came:
                    came[there] = (here, adjacency.edge[place])
                    if there == end:
                        return _path(came, end), looked
                    (via if adjacency.auxiliary[targets[place]] else here_on).append(there)
        if (farthest is not None and cost >= farthest) or (bound is not None and looked >= bound):
            return None, looked
        for here in here_on:
            node, state = divmod(here, states)
            looked += begins[node + 1] - begins[node]
            for place in range(begins[node], begins[node + 1]):
                after = walk.on_rw[state] if kinds[place] == RW else walk.on_other[state]
                there = targets[place] * states + after
                if after >= 0 and there not in came:
                    came[there] = (here, adjacency.edge[place])
                    if there == end:
                        return _path(came, end), looked
                    further.append(there)
        layer, cost = further, cost + 1
    return None, looked


def _path(came: dict[int, tuple[int, int]], end: int) -> list[int]:
    path: list[int] = []
    here = end
    while True:
        here, edge = came[here]
        if edge < 0:
            return path[::-1]
        path.append(edge)
