"""Isolation: the history replayed in the store's own commit order."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.checkers.columns import NONE, SNAPSHOT, Flags, Numbers
from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.checkers.order import NEVER, Order, window
from harness.history import Read, describe_id
from harness.verdict import Verdict

NAME: Final = "isolation"


def check(order: Order) -> Verdict:
    """Serializability by witness: the order that the store revealed must explain every read.

    Definition: a history is serializable if it equals some serial execution of its committed transactions
    (Papadimitriou, "The serializability of concurrent database updates", 1979). Finding that order is hard
    in general; here the store names it (T of each commit, S of each snapshot), so it is enough to execute
    the writes in the order of T and to compare: a write transaction must have read the state just before
    its T, a snapshot at S the state after S, and a version must carry the T of its writer. Anomalies are
    named as in Adya, "Weak consistency" (1999): G1a, lost update, G-single (read skew), G2-item (write skew).

    Killed writes: one that was seen with its T is replayed there. One that was seen without a number is
    taken up at the first read that shows it, if a number is free for it there, and must then also show on
    its other items.

    Only a floating write that was taken up on its item speaks against a read that shows the version placed where it
    looks. So all such reads are found at once (``columns``), and what is replayed are the items of which anything else
    was read, with those that a floating write changes together with them. Complexity: O(n log n) for n reads and
    writes; with the placing, 1.8 us for each transaction of a million (10 processes, 256 items).

    Does not verify: anything where the store reveals no commit order (then ``UNKNOWN``); reads without a
    snapshot (``get``) beyond the T that they carry (realtime does); which one of several killed deletes made
    an item absent, nor that such a delete removed all of its items: an absence that nothing else explains is
    put down to any killed delete of that item that was invoked before the read completed, as long as a
    sequence number is free; predicate reads (G2 with phantoms), since workloads name the items they read.
    """
    found = Findings(NAME)
    if not order.revealed:
        found.unknown("the engine reveals no commit order")
        return found.verdict({"reads": 0})
    _check_order(order, found)
    replay = _Replay(order, found)
    replay.run()
    if not replay.reads and not found.any:
        found.unknown("no read of a snapshot or of a write transaction was there to check")
    return found.verdict({"writes": len(order.placed), "snapshots": replay.snapshots, "reads": replay.reads})


def _check_order(order: Order, found: Findings) -> None:
    """What must hold of the numbers themselves."""
    for first, second in order.duplicates:
        sequence = order.placed[second.id]
        found.violation(
            f"{describe_id(first.id)} and {describe_id(second.id)} both committed at T={sequence}",
            by=second,
            expected="one commit for each T",
        )
    for sequence in order.nobodys:
        found.violation(
            f"no operation can have committed T={sequence}, though the engine gives every number to a commit",
            sequence=sequence,
            expected="an acknowledged or a killed write at each T",
        )
    for by, read in order.misplaced:
        found.violation(
            f"{read.item} in {by} carries T={read.sequence}, but its writer {order.name(read.writer)} is at "
            "another place",
            by=by,
            item=read.item,
            expected="a version carries the T of its writer",
        )
    for op in order.floating.values():
        if op.outcome == "ok" and op.writes:
            found.unknown(f"{describe_id(op.id)} was acknowledged without a commit sequence number")


class _Replay:
    """The state item by item, walked upwards in T."""

    def __init__(self, order: Order, found: Findings) -> None:
        self._order = order
        self._found = found
        self._state: dict[str, int | None] = {}
        self._adopted: dict[int, tuple[int, int]] = {}
        """The floating writes that were taken up, each with bounds of its T: ``(after, until]``."""
        self._absent_since: dict[str, int] = {}
        """T of the deletions that made items absent, or a lower bound for those in the next set."""
        self._absent_somewhen: set[str] = set()
        """Items that a killed delete of unknown T made absent."""
        self.reads = 0
        self.snapshots = 0

    def run(self) -> None:
        """Count all reads, and replay what the placed versions alone do not explain."""
        columns = self._order.columns
        at = self._order.versions.at
        numbered = columns.number != NONE
        snapshots = columns.ok & (columns.kind == SNAPSHOT)
        replayed = snapshots & numbered
        replayed[columns.write_row] = at != NONE
        self.snapshots = int(np.count_nonzero(snapshots))
        self.reads = int(columns.lengths[replayed | snapshots].sum())
        for row in np.flatnonzero(snapshots & ~numbered).tolist():
            self._check_unnumbered(columns.operations[row])
        odd = self._order.odd & replayed[columns.row]
        if odd.any():
            items = self._closed(columns.item[odd])
            self._replay(self._touching(items, replayed), items)

    def _closed(self, odd: Numbers) -> Flags:
        """Which items are replayed: those of ``odd`` reads, and where a floating write changes one of them, all that
        it changes, because it is taken up as a whole.
        """
        codes = self._order.columns.codes
        items = np.zeros(len(codes), np.bool_)
        items[odd] = True
        groups = [[codes[item] for item in (*op.writes, *op.deletes)] for op in self._order.floating.values()]
        while len(rest := [group for group in groups if not items[group].any()]) < len(groups):
            for group in groups:
                if items[group].any():
                    items[group] = True
            groups = rest
        return items

    def _touching(self, items: Flags, replayed: Flags) -> list[Operation]:
        """The operations to be replayed that read or change any of ``items``: writes by T, each followed by the
        snapshots at S=T.
        """
        columns = self._order.columns
        touching = np.zeros(len(replayed), np.bool_)
        touching[columns.row[items[columns.item]]] = True
        touching[columns.write_row[columns.change_write[items[columns.changed]]]] = True
        events = [columns.operations[row] for row in np.flatnonzero(touching & replayed).tolist()]
        placed = self._order.placed
        events.sort(key=lambda op: 2 * placed[op.id] if op.f == "write" else 2 * (op.sequence or 0) + 1)
        return events

    def _replay(self, events: list[Operation], items: Flags) -> None:
        """Replay ``events`` as far as they touch ``items``."""
        state, placed = self._state, self._order.placed
        here = {item for item, code in self._order.columns.codes.items() if items[code]}
        for op in events:
            position = placed[op.id] - 1 if op.f == "write" else op.sequence or 0
            for read in op.reads:
                if read.item in here and state.get(read.item) != read.writer:
                    self._explain(op, read, position)
            if op.f == "write":
                for item in op.writes:
                    state[item] = op.id
                for item in op.deletes:
                    state[item] = None
                    self._absent_since[item] = position + 1
                    self._absent_somewhen.discard(item)

    def _check_unnumbered(self, op: Operation) -> None:
        """A snapshot whose S is not revealed must at least equal the state at some S."""
        first, end = window(self._order, op.reads)
        if first >= end:
            self._found.violation(
                f"{op} mixes versions: the newest is of T={first}, but another was overwritten at T={end} "
                "(G-single, read skew)",
                by=op,
                expected="all versions of one moment",
            )

    def _explain(self, op: Operation, read: Read, position: int) -> None:
        """A read differs from the placed state: a killed write may explain it, else it is an anomaly."""
        if op.f == "write" and read.writer == op.id and read.item in op.writes:
            return
        item = read.item
        since = self._version_since(item)
        if read.writer is None:
            if self._order.may_be_deleted(item, op.completed) and self._order.has_gap(since, position):
                self._state[item] = None
                self._absent_since[item] = since
                self._absent_somewhen.add(item)
                return
        elif read.writer in self._order.floating and self._take_up(read.writer, item, since, position):
            return
        self._found.violation(
            self._describe(op, read, position),
            by=op,
            item=item,
            shown=read.writer,
            expected=f"{item}: {self._order.name(self._state.get(item))}",
        )

    def _version_since(self, item: str) -> int:
        """T of the current version of ``item``, or a number that it is certainly above."""
        writer = self._state.get(item)
        if writer is None:
            return self._absent_since.get(item, 0)
        if writer in self._adopted:
            return self._adopted[writer][0]
        return self._order.placed[writer]

    def _take_up(self, writer: int, item: str, since: int, position: int) -> bool:
        """Replay a floating write where it is first seen, if it can be there: then it is above ``since``,
        and so above the current version of every other item of its own whose T is known and not higher.
        """
        op = self._order.writes[writer]
        first_time = writer not in self._adopted
        after, until = self._adopted.get(writer, (0, NEVER))
        after, until = max(after, since), min(until, position)
        if not op.changes(item) or not self._order.has_gap(after, until):
            return False
        self._adopted[writer] = after, until
        self._state[item] = writer
        if first_time:
            for other in (*op.writes, *op.deletes):
                if other != item and self._is_placed(other) and self._version_since(other) <= after:
                    self._state[other] = writer if other in op.writes else None
                    if other in op.deletes:
                        self._absent_since[other] = after
                        self._absent_somewhen.add(other)
        return True

    def _is_placed(self, item: str) -> bool:
        """Whether the T of the current version of ``item`` is known, not only bounded."""
        writer = self._state.get(item)
        return item not in self._absent_somewhen if writer is None else writer not in self._adopted

    def _describe(self, op: Operation, read: Read, position: int) -> str:
        name = self._order.name
        who = name(op.id) if op.f == "write" else str(op)
        what = f"{read.item} in {who} shows {name(read.writer)}"
        current = self._state.get(read.item)
        anomaly = self._anomaly(op, read, position)
        if current is None:
            return f"{what} but nothing was there then ({anomaly})"
        return f"{what} but {name(current)} committed it ({anomaly})"

    def _anomaly(self, op: Operation, read: Read, position: int) -> str:
        """Adya's name for a read of something other than the current version."""
        writer = None if read.writer is None else self._order.writes.get(read.writer)
        if read.writer is not None and (writer is None or read.item not in writer.writes):
            return "dirty read of a version that nobody wrote"
        if writer is not None and writer.outcome == "fail":
            return "G1a, aborted read"
        if read.writer is not None and self._order.placed.get(read.writer, 0) > position:
            return "a version from the future"
        if op.f == "write" and op.changes(read.item):
            return "lost update"
        if self._mixes(op):
            return "G-single, read skew"
        return "G2-item, write skew" if op.f == "write" else "a stale snapshot"

    def _mixes(self, op: Operation) -> bool:
        """Whether the reads of ``op`` are of no single moment."""
        first, end = window(self._order, op.reads)
        if first >= end:
            return True
        for read in op.reads:
            if read.writer is None:
                chain = self._order.chain(read.item)
                absent_later = any(first < gone < end for gone in chain.gone)
                if chain.at(first)[1] is not None and not absent_later:
                    return True
        return False
