"""Resolution: what became of every killed write."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.kept import Kept
from harness.checkers.operation import Operation
from harness.checkers.order import NEVER, Order
from harness.verdict import Verdict

NAME: Final = "resolution"


def check(order: Order) -> Verdict:
    """Every write of unknown outcome is settled by the unique ids in what was read later, if it can be.

    Definition: after the recovery that follows on its process's death somebody reads, with history, the items
    of a killed write (unique ids after a crash: Kingsbury, "Jepsen" and "Elle", 2020). It *committed* if
    its version is there, or in any other read. It did *not commit* if it is missing although the versions kept
    reach back to before it was invoked; a delete shows as a removal that nobody else can have made. Where the
    store did not keep enough, a number that must be somebody's tells, if only one killed write can have it. And a
    write did not commit if no number is free for it, or if on one of its items every version that can come after
    its invocation is known to follow directly on another known one, up to the final snapshot: its writer read
    its predecessor, or no number is free between. Where the store tells no numbers, it did not commit if an item of
    it still had a version from before its invocation. Otherwise it is *undeterminable*: it may have been overwritten
    before anybody looked.

    Violations: a version of an operation that was never invoked or does not write that item; one that was
    read before its writer was invoked; a write that is seen although a resolve shows that it did not commit; a
    removal that nobody can have made; versions kept that are out of order, or that lack one that was committed in
    their midst. Complexity: O(n log n).

    Does not verify: the killed writes that it counts as undeterminable; which of several killed deletes of one item
    made a removal; deletes that had nothing to delete (they count as not committed).
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
    for kept, sequence in order.settled.strangers:
        found.violation(
            f"{kept.item} in {kept.by} was removed at T={sequence}, which no operation can have done",
            by=kept.by,
            item=kept.item,
            expected="removals by operations that were invoked",
        )
    for kept in order.kept:
        _check_target(order, kept, found)
        _check_kept(order, kept, found)
    committed, absent, hidden = settle(order)
    counts = {
        "killed": len(committed) + len(absent) + len(hidden),
        "committed": len(committed),
        "not_committed": len(absent),
        "undeterminable": len(hidden),
    }
    return found.verdict(counts)


def _check_target(order: Order, kept: Kept, found: Findings) -> None:
    """A killed write that was proven not to have committed must never show, neither before nor after."""
    op = order.writes.get(kept.by.resolves)
    if op is None or kept.item not in op.writes or not (op.id in order.placed or op.id in order.floating):
        return
    if order.revealed:
        absent = kept.lacks(op.id, order.placed.get(op.id, order.known_before(op.invoked)))
        shown = f"all versions from T={kept.oldest} on, and it is not among them"
    else:
        absent = _is_from_before(order, kept, op)
        shown = f"{order.name(kept.versions[0].writer)}, which was over before that was invoked"
    if absent:
        found.violation(
            f"{order.name(op.id)} is seen, but had not committed when it was killed: {kept.item} in {kept.by} "
            f"shows {shown}",
            by=kept.by,
            item=kept.item,
            killed=op.id,
            expected="a killed write that is there after recovery, or never",
        )


def _check_kept(order: Order, kept: Kept, found: Findings) -> None:
    """The versions kept are those of the commit order, from the oldest to the newest of them."""
    if not kept.numbered:
        return
    shown = {read.sequence or 0: read.writer for read in reversed(kept.versions)}
    times = list(shown)
    if len(times) < len(kept.versions) or times != sorted(times):
        found.violation(
            f"{kept.item} in {kept.by} shows versions out of order: T={times[::-1]}",
            by=kept.by,
            item=kept.item,
            expected="descending T, each once",
        )
        return
    chain = order.chain(kept.item)
    first, last = bisect_left(chain.sequences, times[0]), bisect_right(chain.sequences, times[-1])
    for index in range(first, last):
        sequence, writer = chain.sequences[index], chain.writer(index)
        if shown.get(sequence, sequence) == writer:
            continue
        before = shown[times[bisect_left(times, sequence) - 1]]
        if writer is None and before is None and sequence not in shown:
            continue  # a store need not keep the removal of what was not there
        if chain.committers[index] != kept.by.resolves:
            found.violation(
                f"{kept.item} in {kept.by} lacks {order.name(chain.committers[index])} among the versions "
                f"from T={times[0]} to T={times[-1]}",
                by=kept.by,
                item=kept.item,
                expected="every version between the oldest and the newest",
            )


def _is_from_before(order: Order, kept: Kept, op: Operation) -> bool:
    """Whether the version that a store without numbers shows was there before ``op``, which writes it, was invoked: had
    ``op`` committed, it would be gone.
    """
    shown = kept.versions[0].writer
    if shown is not None:
        writer = order.writes.get(shown)
        return writer is not None and writer.completed is not None and writer.completed < op.invoked
    return not order.may_be_deleted(kept.item, None)


def settle(order: Order) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """The killed writes that committed, those that did not, and those of which it cannot be known."""
    committed: list[Operation] = []
    absent: list[Operation] = []
    hidden: list[Operation] = []
    slots = _Slots(order)
    before: set[int] = set()
    if not order.revealed:
        before = {
            op.id
            for kept in order.kept
            if (op := order.writes.get(kept.by.resolves)) is not None
            and kept.item in op.writes
            and _is_from_before(order, kept, op)
        }
    for op in order.writes.values():
        if op.outcome == "info":
            if op.id in order.placed or op.id in order.floating:
                committed.append(op)
            elif op.id in order.settled.absent or op.id in before:
                absent.append(op)
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

    def may_hide(self, op: Operation) -> bool:
        """Whether ``op`` may have committed although no read shows it: unseen on every one of its items."""
        if not self._order.revealed:
            return True
        after = self._order.known_before(op.invoked)
        until = self._order.settled.unfound.get(op.id, NEVER)
        if not self._order.has_gap(after, until - 1):
            return False
        return self._final is None or all(
            self._may_hide_at(item, after, until, deletes=item in op.deletes)
            for item in op.writes + op.deletes
        )

    def _may_hide_at(self, item: str, after: int, until: int, *, deletes: bool) -> bool:
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
            self._order.has_gap(max(before, after), min(sequence, until) - 1)
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
