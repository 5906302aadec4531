"""Dependency graphs as arrays: who must have come before whom, of what kind, and what that rests on.

Adya ("Weak Consistency", 1999, section 4.4) calls it the direct serialization graph: a ww edge runs to the transaction
that installed the next version, a wr edge to one that read the version, a rw edge (an anti-dependency) from one that
read a version to the one that installed the next. Process and real-time edges are those of Elle (Kingsbury and
Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from harness.dependency.transactions import Codes, Flags

VIA: Final = 0
"""The kind of an edge that leaves an auxiliary node. The edge that entered the node says the kind of the whole way."""
WW: Final = 1
WR: Final = 2
RW: Final = 3
PROCESS: Final = 4
REALTIME: Final = 5
UPDATE: Final = 6
"""A rw edge from a transaction that itself wrote the key. Where no update is lost (repeatable-read, snapshot isolation
and whatever is stronger) it is a ww edge too, as the target's write came neither before nor concurrently.
"""
KINDS: Final = ("via", "ww", "wr", "rw", "process", "realtime", "ww")
NOWHERE: Final = -1

Rows = NDArray[np.intp]
"""Numbers of edges."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges as columns of equal length: ``source[i]`` must come before ``target[i]``, for a reason of ``kind[i]``.

    ``key[i]`` and ``at[i]`` say what that rests on, in the model's own numbers (the code of a key, and the place of a
    version in it), or are ``NOWHERE``.
    """

    source: Codes
    target: Codes
    kind: NDArray[np.uint8]
    key: Codes
    at: Codes

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.source)

    def where(self, mask: Flags) -> Edges:
        """Those for which ``mask`` is true."""
        return Edges(self.source[mask], self.target[mask], self.kind[mask], self.key[mask], self.at[mask])


def edges(
    source: NDArray[np.integer],
    target: NDArray[np.integer],
    kind: int,
    key: NDArray[np.integer] | int = NOWHERE,
    at: NDArray[np.integer] | int = NOWHERE,
) -> Edges:
    """Edges of one kind. An edge from a node to itself says nothing and is left out."""
    count = len(source)
    made = Edges(
        source.astype(np.int32, copy=False),
        target.astype(np.int32, copy=False),
        np.full(count, kind, dtype=np.uint8),
        _column(key, count),
        _column(at, count),
    )
    mask = made.source != made.target
    return made if mask.all() else made.where(mask)


def _column(values: NDArray[np.integer] | int, count: int) -> Codes:
    return (
        np.full(count, values, dtype=np.int32)
        if isinstance(values, int)
        else values.astype(np.int32, copy=False)
    )


def join(parts: Sequence[Edges]) -> Edges:
    """All edges of ``parts``, in their order. There must be one part at least."""
    return Edges(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.at for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes 0 to ``transactions`` - 1 are transactions. Those from there to ``nodes`` - 1 are auxiliary: a path
    through them stands for one edge between the transactions at its ends, whose kind is that of its first edge, and
    all further edges of which are ``VIA``. So n times m edges cost n + m. A node is entered by edges of one kind only
    (and by ``VIA`` from nodes of the same sort): by rw (a hub of one key), or by realtime (a moment).
    """

    transactions: int
    nodes: int
    edges: Edges


def components(nodes: int, source: Codes, target: Codes) -> Codes:
    """The strongly connected component of each node, as a code (Tarjan 1972, in scipy): two nodes have one code if and
    only if each can be reached from the other. O(nodes + edges): 0.4 s for 7 million edges.
    """
    ones = np.ones(len(source), dtype=np.int8)
    matrix = csr_array((ones, (source, target)), shape=(nodes, nodes))
    _, labels = connected_components(matrix, directed=True, connection="strong")
    return np.asarray(labels, dtype=np.int32)


def cyclic(nodes: int, source: Codes, target: Codes) -> Flags:
    """For each edge, whether it lies on some cycle: its ends are strongly connected. Edges from a node to itself must
    not be among them. O(nodes + edges).
    """
    if not len(source):
        return np.zeros(0, dtype=np.bool_)
    labels = components(nodes, source, target)
    same: Flags = labels[source] == labels[target]
    return same
