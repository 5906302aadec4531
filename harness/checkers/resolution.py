"""Resolution: what became of every killed write."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from operator import attrgetter
from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.checkers.order import NEVER, Order
from harness.verdict import Verdict

NAME: Final = "resolution"


def check(order: Order) -> Verdict:
    """Every write of unknown outcome is settled by the unique ids in what was read later, if it can be.

    Definition: a killed write *committed* if any read shows its version. It did *not commit* if on one of
    its items every version that can come after its invocation is known to follow directly on another known
    one, up to the final snapshot: its writer read its predecessor, or no sequence number is free between.
    Otherwise it is *undeterminable*: it may have been overwritten before anybody looked. (Unique ids after
    a crash: Kingsbury, "Jepsen" and "Elle", 2020.) Impossible sightings are violations: a version of an
    operation that was never invoked or does not write that item, or one that was read before its writer was
    invoked. Complexity: O(n log n).

    Does not verify: the killed writes that it counts as undeterminable.
    """
    found = Findings(NAME)
    for by, read in order.unknown:
        found.violation(
            f"{read.item} in {by} shows {order.name(read.writer)}, a version that nobody wrote",
            by=by,
            item=read.item,
            expected="versions of operations that were invoked",
        )
    for by, read in order.early:
        found.violation(
            f"{read.item} in {by} shows {order.name(read.writer)}, which was invoked only after that",
            by=by,
            item=read.item,
            expected="no version before its writer",
        )
    committed, absent, hidden = settle(order)
    counts = {
        "killed": len(committed) + len(absent) + len(hidden),
        "committed": len(committed),
        "not_committed": len(absent),
        "undeterminable": len(hidden),
    }
    return found.verdict(counts)


def settle(order: Order) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """The killed writes that committed, those that did not, and those of which it cannot be known."""
    committed: list[Operation] = []
    absent: list[Operation] = []
    hidden: list[Operation] = []
    slots = _Slots(order)
    for op in order.writes.values():
        if op.outcome == "info":
            if op.id in order.placed or op.id in order.floating:
                committed.append(op)
            else:
                (hidden if slots.may_hide(op) else absent).append(op)
    return committed, absent, hidden


class _Slots:
    """Where an unseen version can hide: directly before a version whose writer did not read it."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._blind: dict[str, list[tuple[int, int]]] = {}
        """For each item ``(T, T of the predecessor)`` of its blind versions, by T."""
        finals = [op for op in order.operations if op.f == "final" and op.outcome == "ok"]
        self._final = max(finals, key=attrgetter("invoked")) if finals else None
        self._final_shows = {read.item: read.writer for read in self._final.reads} if self._final else {}
        acknowledged = sorted(
            (op for op in order.operations if op.outcome == "ok"), key=attrgetter("completed")
        )
        self._times = [op.completed or 0 for op in acknowledged]
        self._bounds = list(
            accumulate(
                (
                    (order.placed.get(op.id, 0) if op.f == "write" else op.sequence or 0)
                    for op in acknowledged
                ),
                max,
            )
        )

    def may_hide(self, op: Operation) -> bool:
        """Whether ``op`` may have committed although no read shows it: unseen on every one of its items."""
        if not self._order.revealed or self._final is None:
            return True
        index = bisect_left(self._times, op.invoked) - 1
        after = self._bounds[index] if index >= 0 else 0
        return all(
            self._may_hide_at(item, after, deletes=item in op.deletes) for item in op.writes + op.deletes
        )

    def _may_hide_at(self, item: str, after: int, *, deletes: bool) -> bool:
        chain = self._order.chain(item)
        writer = chain.at(NEVER)[1]
        if item not in self._final_shows:
            return True
        final = self._final_shows[item]
        if final != writer or (final is None and (deletes or self._order.may_be_deleted(item, None))):
            return True
        slots = self._blind_of(item)
        first = bisect_right(slots, (after, NEVER))
        return any(
            self._order.has_gap(max(before, after), sequence - 1)
            for sequence, before in slots[first : first + 2]
        )

    def _blind_of(self, item: str) -> list[tuple[int, int]]:
        slots = self._blind.get(item)
        if slots is None:
            chain = self._order.chain(item)
            slots, before = [], 0
            for sequence, identity in zip(chain.sequences, chain.committers, strict=True):
                op = self._order.writes[identity]
                read = op.outcome == "ok" and any(
                    read.item == item and read.writer in self._order.placed for read in op.reads
                )
                if not read and self._order.has_gap(before, sequence - 1):
                    slots.append((sequence, before))
                before = sequence
            self._blind[item] = slots
        return slots
