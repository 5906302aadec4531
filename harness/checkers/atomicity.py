"""Atomicity: a transaction shows with all of its writes, or not at all."""

from __future__ import annotations

from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import OF_ONE_STATE, Operation
from harness.checkers.order import Order
from harness.history import Read
from harness.verdict import Verdict

NAME: Final = "atomicity"


def check(order: Order) -> Verdict:
    """All or nothing, for acknowledged, failed and killed transactions alike.

    Definition: no version of a failed operation is ever seen (G1a, Adya, "Weak consistency", 1999), and no
    snapshot or transaction has *fractured reads* (Bailis et al., "Scalable atomic visibility with RAMP
    transactions", 2014): if it shows X's version of one item, it shows X's or a newer version of every
    other item of X that it reads. A killed transaction that was seen anywhere must, in the final snapshot,
    be there or be overwritten on each of its items. (Workers compare the keys inside one item of many keys
    at every read and report what disagrees.) Complexity: O(reads x items per writer).

    Does not verify: that versions are the newest ones (isolation, realtime); pairs whose order is neither
    revealed nor fixed by real time; an item that a killed delete may have removed.
    """
    found = Findings(NAME)
    for by, read in order.aborted:
        found.violation(
            f"{read.item} in {by} shows {order.name(read.writer)} (G1a, aborted read)",
            by=by,
            item=read.item,
            expected="no trace of a failed operation",
        )
    views = 0
    for op in order.operations:
        if op.outcome == "ok" and op.f in OF_ONE_STATE and len(op.reads) > 1:
            views += 1
            _check_view(order, op, found)
        if op.outcome == "ok" and op.f == "final":
            _check_final(order, op, found)
    if not views and not found.any:
        found.unknown("no snapshot and no transaction read more than one item")
    return found.verdict({"views": views})


def _check_view(order: Order, op: Operation, found: Findings) -> None:
    """Look for fractured reads in one snapshot or transaction."""
    writes, placed_get = order.writes, order.placed.get
    by_item: dict[str, Read] | None = None
    done: set[int] = set()
    for read in op.reads:
        identity = read.writer
        if identity is None:
            continue
        writer = writes.get(identity)
        if writer is None or len(writer.writes) + len(writer.deletes) < 2:
            continue
        if by_item is None:
            by_item = {other.item: other for other in op.reads}
        if identity in done:
            continue
        done.add(identity)
        sequence = placed_get(identity)
        for item in writer.writes if not writer.deletes else (*writer.writes, *writer.deletes):
            other = by_item.get(item)
            if other is None or (shown := other.writer) == identity:
                continue
            if shown is not None and sequence is not None:
                shown_sequence = placed_get(shown)
                if shown_sequence is not None and shown_sequence >= sequence:
                    continue
            if _is_older(order, other, writer, op):
                found.violation(
                    f"{op} shows {order.name(identity)} at {read.item} but at {item}, which it also wrote, "
                    f"still {order.name(shown)} (fractured read)",
                    by=op,
                    item=item,
                    shown=shown,
                    expected=f"{item}: {order.name(identity)} or newer",
                )


def _is_older(order: Order, shown: Read, writer: Operation, by: Operation) -> bool:
    """Whether the version shown is certainly from before ``writer``, which changes that item too."""
    sequence = order.placed.get(writer.id)
    if shown.writer is None:
        if shown.item in writer.deletes or order.may_be_deleted(shown.item, by.completed):
            return False
        if sequence is None:
            return False
        gone = order.chain(shown.item).gone
        return not gone or gone[-1] < sequence
    other = order.writes.get(shown.writer)
    if other is None:
        return False
    other_sequence = order.placed.get(shown.writer)
    if sequence is not None and other_sequence is not None:
        return other_sequence < sequence
    return other.completed is not None and other.completed < writer.invoked


def _check_final(order: Order, final: Operation, found: Findings) -> None:
    """Killed writes that were seen somewhere and placed, but are missing on an item at the end."""
    for read in final.reads:
        if read.writer is None or read.writer not in order.placed:
            continue
        sequence = order.placed[read.writer]
        chain = order.chain(read.item)
        if not chain.sequences or chain.sequences[-1] <= sequence:
            continue
        for index in range(len(chain.sequences) - 1, -1, -1):
            if chain.sequences[index] <= sequence:
                break
            missing = order.writes[chain.committers[index]]
            if missing.outcome == "info" and missing.invoked < (final.completed or 0):
                found.violation(
                    f"{read.item} in {final} shows {order.name(read.writer)}, but {order.name(missing.id)}, "
                    "which was killed and has been seen elsewhere, committed after that",
                    by=final,
                    item=read.item,
                    expected=f"{read.item}: {order.name(missing.id)} or newer",
                )
                break
