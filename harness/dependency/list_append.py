"""Dependencies of list-append histories: a read of a list shows the order in which its elements were installed.

Elle's inference (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020,
section 5), for arrays. Beyond it, committed appends that nobody read have their place too: after the last element of
the longest list that was read, and after all who read that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.budget import Budget
from harness.dependency.graph import RW, UPDATE, VIA, WR, WW, Edges, Graph, Rows, edges, join
from harness.dependency.transactions import FAIL, INFO, OK, Codes, Flags, Integers
from harness.dependency.versions import APART, APPEND, READ, STRANGE, Lists

NOBODY = -1


class AmbiguousError(Exception):
    """Two transactions that may both have committed appended the same element to the same key, so that nobody can say
    whose was read. ``key`` is a code; ``transactions`` are the two rows (or one twice).
    """

    def __init__(self, key: int, element: int, transactions: tuple[int, int]) -> None:
        super().__init__(f"an element of key {key} was appended twice")
        self.key = key
        self.element = element
        self.transactions = transactions


@dataclass(frozen=True, slots=True)
class Appends:
    """Who appended what, and where it was read. Appends are rows of ``Lists`` (its micro-operations).

    ``rows``: the micro-operations that are appends. ``place``: for each micro-operation that is one, where its element
    stands in ``Lists.elements``, else -1. ``writer``: for each of ``Lists.elements``, the append (a micro-operation)
    that it is of; ``NOBODY`` for a phantom.
    """

    rows: Rows
    place: Integers
    writer: Integers


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads that show a version of the common order: ``rows`` are their micro-operations, ``base`` how many
    elements the external version had. ``order``: the micro-operations of transactions that have several on one key, by
    transaction and key. ``suspects``: (first, last) places in ``order`` of those that may contradict one another.
    ``final``: for each micro-operation that is an append, whether its transaction appended nothing to the key after it.
    ``updates``: places in ``rows`` of reads by transactions that also append to the key.
    """

    rows: Rows
    base: Integers
    suspects: list[tuple[int, int]]
    order: Rows
    final: Flags
    updates: Rows


@dataclass(frozen=True, slots=True)
class Inferred:
    """What follows from the lists. ``graph`` has ww, wr and rw edges between ``committed`` transactions; an edge's
    ``key`` is a code and its ``at`` a place in the key's longest list: of the first element that the target appended
    (ww; the length where it was never read), or how many elements were read (wr, rw). ``unordered``: for each key with
    several committed transactions whose appends nobody read, those transactions.
    """

    graph: Graph
    committed: Flags
    unordered: list[list[int]]


def match(lists: Lists) -> Appends:
    """Find for each element that was read the append that it is of. O(n log n).

    Raises:
        AmbiguousError: two appends of what did not fail are of the same element and key.
    """
    rows = np.flatnonzero(lists.tag == APPEND)
    element_key = np.repeat(np.arange(len(lists.keys), dtype=np.int64), np.diff(lists.start))
    appended, read = _joint(lists.key[rows], lists.value[rows], element_key, lists.elements)
    order = np.argsort(appended)
    by_code = appended[order]
    if (by_code[1:] == by_code[:-1]).any():
        order = _surviving(lists, rows, appended)
        by_code = appended[order]
    writer = np.full(len(read), NOBODY, dtype=np.int64)
    place = np.full(len(lists.tag), -1, dtype=np.int64)
    if len(by_code):
        found = np.minimum(np.searchsorted(by_code, read), len(by_code) - 1)
        known = by_code[found] == read
        writer[known] = rows[order[found[known]]]
        place[writer[known][::-1]] = np.flatnonzero(known)[::-1]
    return Appends(rows, place, writer)


def _joint(
    append_key: Codes, append_value: Integers, element_key: Integers, element_value: Integers
) -> tuple[Integers, Integers]:
    """One number for each pair of key and value, equal if and only if the pairs are, in both columns."""
    columns = [column for column in (append_value, element_value) if len(column)]
    low = min((int(column.min()) for column in columns), default=0)
    high = max((int(column.max()) for column in columns), default=0)
    keys = int(max(append_key.max(initial=0), element_key.max(initial=0))) + 1
    if (high - low + 1) * keys >= 1 << 62:
        distinct, values = np.unique(np.concatenate([append_value, element_value]), return_inverse=True)
        append_value, element_value = values[: len(append_value)], values[len(append_value) :]
        low, high = 0, len(distinct)

    def joint(key: NDArray[np.integer], value: Integers) -> Integers:
        made = key.astype(np.int64)
        made *= high - low + 1
        made += value
        made -= low
        return made

    return joint(append_key, append_value), joint(element_key, element_value)


def _surviving(lists: Lists, rows: Rows, appended: Integers) -> Rows:
    """The order by code, without what failed where another append is of the same element."""
    outcome = lists.transactions.outcome[lists.of[rows]]
    order = np.lexsort((outcome == FAIL, appended))
    same = appended[order[1:]] == appended[order[:-1]]
    twice = np.flatnonzero(same & (outcome[order[1:]] != FAIL))
    if len(twice):
        one, other = rows[order[twice[0]]], rows[order[twice[0] + 1]]
        of = lists.of
        raise AmbiguousError(int(lists.key[one]), int(lists.value[one]), (int(of[one]), int(of[other])))
    kept: Rows = order[np.concatenate([[True], ~same])]
    return kept


def committed_of(lists: Lists, appends: Appends, dirty: bool) -> Flags:
    """Which transactions have committed: what is ok, and each info of which an element was read, unless ``dirty``: that
    may have been a dirty read (read-uncommitted).
    """
    outcome = lists.transactions.outcome
    committed: Flags = outcome == OK
    if not dirty:
        seen = lists.of[np.flatnonzero(appends.place >= 0)]
        committed[seen[outcome[seen] == INFO]] = True
    return committed


def reads_of(lists: Lists, appends: Appends) -> Reads:
    """All reads but those ``APART``, and which transactions may contradict themselves: they read two versions of one
    key, or not what they had appended, or what they appended later. O(n log n).
    """
    rows = np.flatnonzero((lists.tag == READ) | (lists.tag == STRANGE))
    order = _repeated(lists)
    tag, value = lists.tag[order], lists.value[order]
    of, key = lists.of[order], lists.key[order]
    fresh = np.ones(len(order), dtype=np.bool_)
    fresh[1:] = (of[1:] != of[:-1]) | (key[1:] != key[:-1])
    group = np.cumsum(fresh) - 1
    begin = np.flatnonzero(fresh)
    groups = len(begin)
    # Where an index appears several times in an assignment, the last value assigned stays.
    appended = np.flatnonzero(tag == APPEND)
    last = np.full(groups, -1, dtype=np.int64)
    last[group[appended]] = appended
    final = np.ones(len(lists.tag), dtype=np.bool_)
    final[order[appended]] = False
    final[order[last[last >= 0]]] = True
    read = np.flatnonzero((tag == READ) | (tag == STRANGE))
    version = np.full(groups, -1, dtype=np.int64)
    version[group[read]] = value[read]
    suspect = np.zeros(groups, dtype=np.bool_)
    suspect[group[read[value[read] != version[group[read]]]]] = True
    suspect[group[tag >= APART]] = True
    place = appends.place[order[appended]]
    own = place - lists.start[key[appended]]
    suspect[group[appended[(place >= 0) & (own < version[group[appended]])]]] = True
    ends = np.append(begin[1:], len(order))
    return Reads(
        rows=rows,
        base=lists.value[rows],
        suspects=[(int(begin[each]), int(ends[each])) for each in np.flatnonzero(suspect)],
        order=order,
        final=final,
        updates=np.searchsorted(rows, order[read[last[group[read]] >= 0]]),
    )


def _repeated(lists: Lists) -> Rows:
    """The micro-operations of transactions that have several on one key, by transaction and key."""
    # Transactions are numbered as they stand here, so that what is to be sorted is nearly sorted.
    transaction = np.cumsum(np.diff(lists.of, prepend=-1) != 0)
    transaction *= max(len(lists.keys), 1)
    transaction += lists.key
    order = np.argsort(transaction, kind="stable")
    joint = transaction[order]
    several = np.zeros(len(order), dtype=np.bool_)
    several[1:] = joint[1:] == joint[:-1]
    several[:-1] |= several[1:]
    return order[several]


def infer(lists: Lists, appends: Appends, reads: Reads, dirty: bool, budget: Budget) -> Inferred:
    """All ww, wr and rw edges that the history implies, and no other: without anomalies of single reads, it is
    serializable if and only if these (with O for the order of processes or real time) are acyclic.

    Each key's elements that committed transactions appended, in the order read, give ww edges; each read a wr edge from
    the last of them that it shows, and a rw edge to the next. Appends of committed transactions that were never read
    come last (if they stood before what was read, that read would show them), in any order among themselves: their
    transactions follow the last element's and whoever read the whole list. O(n log n).

    Does not verify: reads ``APART``, of which nothing follows here: they are an anomaly of their own.
    """
    committed = committed_of(lists, appends, dirty)
    of, key = lists.of, lists.key
    known = np.flatnonzero(appends.writer >= 0)
    # Only the first time that an element appears counts, and only what committed is a version.
    known = known[appends.place[appends.writer[known]] == known]
    author = of[appends.writer[known]]
    known, author = known[committed[author]], author[committed[author]]
    author_key = key[appends.writer[known]]
    start = lists.start
    upto = np.searchsorted(known, start)  # how many committed elements stand before each key's list
    parts = [_ww(known, author, author_key, start)]
    budget.check()
    read_key = key[reads.rows]
    before = np.searchsorted(known, start[read_key] + reads.base)
    shown = before > upto[read_key]
    reader = of[reads.rows]
    parts.append(edges(author[before[shown] - 1], reader[shown], WR, read_key[shown], reads.base[shown]))
    missed = before < upto[read_key + 1]
    parts.append(edges(reader[missed], author[before[missed]], RW, read_key[missed], reads.base[missed]))
    budget.check()
    unseen_key, unseen = _unseen(lists, appends, committed)
    last = upto[unseen_key + 1] - 1
    some = last >= upto[unseen_key]
    full = np.diff(start)
    parts.append(edges(author[last[some]], unseen[some], WW, unseen_key[some], full[unseen_key[some]]))
    whole = np.flatnonzero(~missed)
    added, hubs = _unread(
        read_key[whole], reader[whole], reads.base[whole], unseen_key, unseen, len(committed)
    )
    parts.extend(added)
    graph = Graph(len(committed), len(committed) + hubs, join(parts))
    bounds = np.flatnonzero(np.diff(unseen_key, prepend=-1, append=-1))
    groups = [unseen[a:b].tolist() for a, b in pairwise(bounds.tolist()) if b - a > 1]
    return Inferred(graph, committed, groups)


def _ww(known: Rows, author: Codes, author_key: Codes, start: Integers) -> Edges:
    same = author_key[1:] == author_key[:-1]
    source, target = author[:-1][same], author[1:][same]
    at = (known - start[author_key])[1:][same]
    return edges(source, target, WW, author_key[1:][same], at)


def _unseen(lists: Lists, appends: Appends, committed: Flags) -> tuple[Codes, Codes]:
    """Keys and transactions of committed appends that nobody read, each pair once, by key."""
    rows = appends.rows[appends.place[appends.rows] < 0]
    rows = rows[committed[lists.of[rows]]]
    count = max(len(committed), 1)
    pairs = np.unique(lists.key[rows].astype(np.int64) * count + lists.of[rows])
    return (pairs // count).astype(np.int32), (pairs % count).astype(np.int32)


def _unread(
    read_key: Codes, reader: Codes, base: Integers, unseen_key: Codes, unseen: Codes, first: int
) -> tuple[list[Edges], int]:
    """rw edges from those who read a whole list to those whose appends to it nobody read: by a hub for each key, whose
    node is ``first`` or later; and how many hubs there are. Those who did both are linked by themselves.
    """
    count = max(first, 1)
    wanted = np.isin(read_key, unseen_key)
    pairs, place = np.unique(read_key[wanted].astype(np.int64) * count + reader[wanted], return_index=True)
    at = base[wanted][place]
    key, reader = (pairs // count).astype(np.int32), (pairs % count).astype(np.int32)
    both = np.isin(pairs, unseen_key.astype(np.int64) * count + unseen)
    hub_keys = np.unique(key[~both])
    hub = first + np.searchsorted(hub_keys, key[~both])
    out = np.isin(unseen_key, hub_keys)
    made = [
        edges(reader[~both], hub, RW, key[~both], at[~both]),
        edges(first + np.searchsorted(hub_keys, unseen_key[out]), unseen[out], VIA, unseen_key[out]),
    ]
    made.extend(_updating(key[both], reader[both], at[both], unseen_key, unseen))
    return made, len(hub_keys)


def _updating(key: Codes, reader: Codes, at: Integers, unseen_key: Codes, unseen: Codes) -> list[Edges]:
    """``UPDATE`` and rw edges from those who read a whole list and whose own append to it nobody
    read. If it is one, it is before all others whose appends nobody read. If there are several they have lost an
    update, in whatever order: the first is linked with each other one, which is a cycle already.
    """
    keys, first, count = np.unique(key, return_index=True, return_counts=True)
    alone = first[count == 1]
    begin = np.searchsorted(unseen_key, key[alone])
    lengths = np.searchsorted(unseen_key, key[alone], side="right") - begin
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target = unseen[np.repeat(begin, lengths) + offsets]
    leader = reader[first[np.searchsorted(keys, key)]]
    return [
        edges(
            np.repeat(reader[alone], lengths),
            target,
            UPDATE,
            np.repeat(key[alone], lengths),
            np.repeat(at[alone], lengths),
        ),
        edges(leader, reader, RW, key, at),
        edges(reader, leader, RW, key, at),
    ]
