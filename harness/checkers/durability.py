"""Durability: what was acknowledged is still there after the last recovery."""

from __future__ import annotations

from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.checkers.order import NEVER, Order
from harness.history import Read
from harness.verdict import Verdict

NAME: Final = "durability"


def check(order: Order) -> Verdict:
    """Every acknowledged write is in the final snapshot, or was overwritten by a committed one.

    Definition: an acknowledged transaction survives whatever happens later (Haerder & Reuter, "Principles of
    transaction-oriented database recovery", 1983). Where the store reveals its order, the final version of
    every item must be the newest placed one, killed writes that had been seen included: a version that a
    reader saw must not vanish either. Without the order (and besides it): the final version of an item
    must not have been complete before an acknowledged write of that item was invoked, since real time then
    orders the two. Complexity: O(writes log writes).

    Does not verify: power loss, since SIGKILL leaves the page cache whole; writes whose loss a killed and
    unseen write of the same item may explain; items that the final snapshot does not read (``UNKNOWN``).
    """
    found = Findings(NAME)
    finals = [op for op in order.operations if op.f == "final"]
    complete = [op for op in finals if op.outcome == "ok"]
    acknowledged = sum(1 for op in order.writes.values() if op.outcome == "ok")
    if not complete:
        why = "the final snapshot did not finish" if finals else "no final snapshot was taken"
        found.unknown(f"{why}: nobody knows what is still there")
        return found.verdict({"acknowledged": acknowledged, "items": 0})
    final = max(complete, key=lambda op: op.invoked)
    latest = _latest_acknowledged(order, final)
    deleted = _latest_deletes(order)
    shown = {read.item: read for read in final.reads}
    for item, op in latest.items():
        read = shown.get(item)
        if read is None:
            found.unknown(f"the final snapshot does not read {item}, written by {order.name(op.id)}")
        elif not _lost_by_order(order, final, read, found):
            _lost_by_time(order, final, read, op, deleted.get(item, 0), found)
    for item in order.chains:
        if item not in latest and item in shown:
            _lost_by_order(order, final, shown[item], found)
    return found.verdict({"acknowledged": acknowledged, "items": len(final.reads)})


def _latest_acknowledged(order: Order, final: Operation) -> dict[str, Operation]:
    """For each item the acknowledged write invoked last, of those complete before ``final`` began."""
    latest: dict[str, Operation] = {}
    for op in order.writes.values():
        if op.outcome != "ok" or op.completed is None or op.completed >= final.invoked:
            continue
        for item in (*op.writes, *op.deletes):
            if item not in latest or latest[item].invoked < op.invoked:
                latest[item] = op
    return latest


def _lost_by_order(order: Order, final: Operation, read: Read, found: Findings) -> bool:
    """Compare the final version with the newest placed one; return whether something is lost."""
    chain = order.chain(read.item)
    index = len(chain.sequences) - 1
    while index >= 0 and order.writes[chain.committers[index]].invoked > final.invoked:
        index -= 1
    if index < 0:
        return False
    sequence, writer = chain.sequences[index], chain.writer(index)
    if read.writer == writer:
        return False
    if read.writer is not None and order.placed.get(read.writer, -1) > sequence:
        return False
    unseen = (
        order.may_be_deleted(read.item, final.completed)
        if read.writer is None
        else read.writer in order.floating
    )
    if unseen and (final.sequence is None or order.has_gap(sequence, final.sequence)):
        return False
    lost = order.writes[chain.committers[index]]
    known = "was acknowledged" if lost.outcome == "ok" else "had been seen"
    found.violation(
        f"{read.item} in {final} shows {order.name(read.writer)}, but {order.name(lost.id)} {known} "
        "and is lost",
        by=final,
        item=read.item,
        lost=lost.id,
        expected=f"{read.item}: {'absent, by ' if writer is None else ''}{order.name(lost.id)}",
    )
    return True


def _latest_deletes(order: Order) -> dict[str, int]:
    """For each item the time until which a delete of it may have taken effect."""
    latest: dict[str, int] = {}
    for op in order.writes.values():
        if op.deletes and op.outcome != "fail":
            until = NEVER if op.completed is None else op.completed
            for item in op.deletes:
                latest[item] = max(latest.get(item, 0), until)
    return latest


def _lost_by_time(
    order: Order, final: Operation, read: Read, last: Operation, deleted_until: int, found: Findings
) -> None:
    """Whether the final version was complete before the last acknowledged write of the item was invoked."""
    if read.writer == last.id or (read.writer is None and read.item in last.deletes):
        return
    if read.writer is not None:
        writer = order.writes.get(read.writer)
        if writer is None or writer.completed is None or writer.completed >= last.invoked:
            return
    elif deleted_until >= last.invoked:
        return
    found.violation(
        f"{read.item} in {final} shows {order.name(read.writer)}, which was over before "
        f"{order.name(last.id)} was invoked, acknowledged and lost",
        by=final,
        item=read.item,
        lost=last.id,
        expected=f"{read.item}: {order.name(last.id)} or newer",
    )
