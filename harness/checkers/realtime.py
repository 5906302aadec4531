"""Real-time order: what was complete before an operation began comes before it in the commit order."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.checkers.order import Order
from harness.history import Read
from harness.verdict import Verdict

NAME: Final = "realtime"


def check(order: Order) -> Verdict:
    """Strict serializability of the revealed order, and linearizability of reads without a snapshot.

    Definition: if A completed before B was invoked, A is before B in the serial order (strictness:
    Papadimitriou 1979; linearizability: Herlihy & Wing, "Linearizability: a correctness condition for
    concurrent objects", 1990). With the order known it is enough to sweep once over time with lower bounds:
    at its invocation a write's T must exceed every T acknowledged, every S of a snapshot completed and every
    version read before; a snapshot's S must reach them; a ``get`` of an item must not show a version that
    was already overwritten in the writes of that item completed, the versions of it that were read, or the
    snapshots completed before, and neither must the newest version that a resolve finds. Killed writes have a
    lower bound but no upper one: a survivor may finish them any time later. Complexity: O(n log n).

    Does not verify: versions whose T is not revealed; that a ``get`` which finds nothing is fresh where a
    killed delete of that item has no place in the order; whether the order explains the values (isolation).
    """
    found = Findings(NAME)
    if not order.revealed:
        found.unknown("the engine reveals no commit order")
        return found.verdict({"operations": 0})
    sweep = _Sweep(order, found)
    sweep.run()
    if sweep.unnumbered:
        found.unknown(f"{sweep.unnumbered:,} snapshots carry no sequence number")
    if not sweep.checked:
        found.unknown("no operation was there to check")
    return found.verdict({"operations": sweep.checked, "gets": sweep.gets})


class _Sweep:
    """The lower bounds, as they rise over time, each with the operation that raised it."""

    def __init__(self, order: Order, found: Findings) -> None:
        self._order = order
        self._found = found
        self._newest = 0
        self._newest_by: Operation | None = None
        self._snapshot = 0
        self._snapshot_by: Operation | None = None
        self._items: dict[str, tuple[int, Operation]] = {}
        self.checked = 0
        self.gets = 0
        self.unnumbered = 0

    def run(self) -> None:
        """Meet invocations and completions in the order of time."""
        placed = self._order.placed
        invoked = [op for op in self._order.operations if op.outcome == "ok" or op.id in placed]
        completed = [op for op in invoked if op.completed is not None]
        invoked.sort(key=attrgetter("invoked"))
        completed.sort(key=attrgetter("completed"))
        nexts = iter(completed)
        upcoming = next(nexts, None)
        for op in invoked:
            while upcoming is not None and (upcoming.completed or 0) < op.invoked:
                self._complete(upcoming)
                upcoming = next(nexts, None)
            self._invoke(op)

    def _complete(self, op: Operation) -> None:
        """Raise the bounds by what is now certain."""
        if op.f == "write":
            sequence = self._order.placed.get(op.id)
            if sequence is not None:
                bound = (sequence, op)
                for item in op.writes:
                    if item not in self._items or self._items[item][0] < sequence:
                        self._items[item] = bound
                for item in op.deletes:
                    if item not in self._items or self._items[item][0] < sequence:
                        self._items[item] = bound
                if sequence > self._newest:
                    self._newest, self._newest_by = bound
        elif op.f in ("get", "resolve"):
            for read in op.reads:
                sequence = self._sequence(read)
                if sequence is not None:
                    if read.item not in self._items or self._items[read.item][0] < sequence:
                        self._items[read.item] = sequence, op
                    if sequence > self._newest:
                        self._newest, self._newest_by = sequence, op
        elif op.sequence is not None:
            if op.sequence > self._newest:
                self._newest, self._newest_by = op.sequence, op
            if op.sequence > self._snapshot:
                self._snapshot, self._snapshot_by = op.sequence, op

    def _invoke(self, op: Operation) -> None:
        """Hold the operation against the bounds at its invocation."""
        self.checked += 1
        if op.f in ("get", "resolve"):
            self.gets += 1
            for read in {read.item: read for read in reversed(op.reads)}.values():
                self._check_get(op, read)
        elif op.f == "write":
            sequence = self._order.placed.get(op.id)
            if sequence is not None and sequence <= self._newest:
                self._late(op, f"{self._order.name(op.id)} committed", f"T > {self._newest}")
        elif op.sequence is None:
            self.unnumbered += 1
        elif op.sequence < self._newest:
            self._late(op, f"{op} was taken", f"S >= {self._newest}")

    def _late(self, op: Operation, what: str, expected: str) -> None:
        before = self._newest_by
        if before is None:
            self._found.violation(f"{what} at a number below the first, which is 1", by=op, expected=expected)
            return
        took = {"write": "committed it", "get": "had read it", "resolve": "had read it"}.get(
            before.f, "had included it"
        )
        name = self._order.name(before.id) if before.f == "write" else str(before)
        self._found.violation(
            f"{what} below T={self._newest}, though {name} {took} and was complete before it was invoked",
            by=op,
            expected=expected,
        )

    def _check_get(self, op: Operation, read: Read) -> None:
        bound, by = self._items.get(read.item, (0, None))
        if self._snapshot > bound:
            bound, by = self._snapshot, self._snapshot_by
        if by is None:
            return
        chain = self._order.chain(read.item)
        sequence = self._sequence(read)
        if read.writer is None and chain.at(bound)[1] is None:
            return
        if sequence is not None:
            if sequence >= bound or chain.until(sequence) > bound:
                return
        elif (
            read.writer is not None
            or self._order.may_be_deleted(read.item, op.completed)
            or bisect_right(chain.gone, bound) < len(chain.gone)
        ):
            return
        newer = chain.at(bound)
        name = self._order.name(by.id) if by.f == "write" else str(by)
        self._found.violation(
            f"{read.item} in {op} shows {self._order.name(read.writer)}, stale: T={newer[0]} was known of it "
            f"when {name} completed, before this read was invoked",
            by=op,
            item=read.item,
            expected=f"{read.item}: {self._order.name(newer[1])}",
        )

    def _sequence(self, read: Read) -> int | None:
        if read.sequence is not None or read.writer is None:
            return read.sequence
        return self._order.placed.get(read.writer)
