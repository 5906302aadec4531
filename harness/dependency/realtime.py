"""Orders that hold without any data: a process does one thing at a time, and what had completed came first.

Real time is an interval order (Herlihy and Wing 1990): n transactions can be ordered by n * n / 2 pairs. It is kept
here as a chain of *moments*, one after each completion that some invocation follows: a transaction leads to the moment
after its completion, each moment to the next, and to what was invoked between it and the next. That is the whole order
by at most 3n edges, without any transitive reduction; Elle and Knossos keep a frontier for the same end, at a cost of
n times the concurrency.
"""

from __future__ import annotations

import numpy as np

from harness.dependency.graph import PROCESS, REALTIME, VIA, Edges, edges, join
from harness.dependency.transactions import INFO, Flags, Transactions


def process_edges(transactions: Transactions, committed: Flags) -> Edges:
    """An edge to each committed transaction from the last one before it, of the same process, that is committed and no
    info. ``committed`` has a flag for each transaction. No edge leaves an info: its process may go on, but never learnt
    that it had committed, and it may do so later. O(n log n).
    """
    rows = np.flatnonzero(committed)
    rows = rows[np.argsort(transactions.process[rows], kind="stable")]
    places = np.arange(len(rows))
    last = (
        np.maximum.accumulate(np.where(transactions.outcome[rows] != INFO, places, -1))
        if len(rows)
        else places
    )
    source, target = rows[last[:-1]], rows[1:]
    mask = (last[:-1] >= 0) & (transactions.process[source] == transactions.process[target])
    return edges(source[mask], target[mask], PROCESS)


def realtime_edges(transactions: Transactions, committed: Flags, first: int) -> tuple[Edges, int]:
    """Edges and how many moments they need, which are the nodes from ``first`` on: among committed transactions there
    is a path through moments from a to b if and only if a completed before b was invoked. An info never completes, so
    that nothing leaves it. At most 3n edges; O(n log n).
    """
    rows = np.flatnonzero(committed)
    done = rows[transactions.outcome[rows] != INFO]
    done = done[np.argsort(transactions.completed[done], kind="stable")]
    before = np.searchsorted(transactions.completed[done], transactions.invoked[rows])
    # Rows are in the order of invocation, so that this never decreases; moments are where it grows.
    late = before > 0
    grows = np.diff(before[late], prepend=0) > 0
    used, moment_of = before[late][grows], np.cumsum(grows) - 1
    count = len(used)
    # Moment j stands after the first used[j] completions. The i-th completion (from 0) comes before the first moment
    # that stands after more than i; the last completions may have none.
    next_moment = np.searchsorted(used, np.arange(len(done)), side="right")
    early = next_moment < count
    moments = np.arange(first, first + count)
    made = join(
        [
            edges(done[early], first + next_moment[early], REALTIME),
            edges(moments[:-1], moments[1:], VIA),
            edges(first + moment_of, rows[late], VIA),
        ]
    )
    return made, count
