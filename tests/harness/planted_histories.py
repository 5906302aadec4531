"""Histories that are wrong in exactly one way: each planter changes one thing in a right one, or returns None
where the history offers no place for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from serial_database import ABSENT, SerialDatabase

from harness.checkers.operation import Operation
from harness.checkers.order import Order, place
from harness.history import Read, operation_id

Operations = list[Operation]
Planter = Callable[[SerialDatabase, Operations, Random], Operations | None]
PLANTED: dict[str, tuple[str, Planter]] = {}
"""Name of the anomaly: the property that must find it, and its planter."""


def plants(property_name: str) -> Callable[[Planter], Planter]:
    def register(planter: Planter) -> Planter:
        PLANTED[planter.__name__] = property_name, planter
        return planter

    return register


def changed(operations: Operations, old: Operation, **changes: Any) -> Operations:
    new = msgspec.structs.replace(old, **changes)
    return [new if op is old else op for op in operations]


def _reading(op: Operation, index: int, read: Read) -> tuple[Read, ...]:
    return (*op.reads[:index], read, *op.reads[index + 1 :])


def _older(order: Order, read: Read, position: int) -> Read | None:
    """A version of the item that was current some time before ``position`` and is not any more."""
    chain = order.chain(read.item)
    index = chain.sequences.index(chain.at(position)[0]) - 1 if chain.at(position)[0] else -1
    if index < 0 or read.item in order.unplaced_deleters or chain.writer(index) is None:
        return None
    return Read(read.item, chain.committers[index], chain.sequences[index])


def _any_read(
    operations: Operations, random: Random, *kinds: str, fits: Callable[[Operation, int, Read], Any]
) -> tuple[Operation, int, Any] | None:
    """A random read of operations of ``kinds`` for which ``fits`` returns something, and what it returns."""
    places = [
        (op, index, read)
        for op in operations
        if op.f in kinds and op.outcome == "ok"
        for index, read in enumerate(op.reads)
    ]
    random.shuffle(places)
    for op, index, read in places:
        found = fits(op, index, read)
        if found is not None:
            return op, index, found
    return None


def substitute(
    operations: Operations, random: Random, *kinds: str, fits: Callable[[Operation, int, Read], Read | None]
) -> Operations | None:
    where = _any_read(operations, random, *kinds, fits=fits)
    if where is None:
        return None
    op, index, read = where
    return changed(operations, op, reads=_reading(op, index, read))


@plants("isolation")
def stale_item_in_snapshot(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    return substitute(
        operations, random, "read", fits=lambda op, _, read: _older(order, read, op.sequence or 0)
    )


@plants("isolation")
def lost_update(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    return substitute(
        operations,
        random,
        "write",
        fits=lambda op, _, read: (
            _older(order, read, (op.sequence or 0) - 1) if read.item in op.writes else None
        ),
    )


@plants("isolation")
def write_skew(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    return substitute(
        operations,
        random,
        "write",
        fits=lambda op, _, read: (
            None if op.changes(read.item) else _older(order, read, (op.sequence or 0) - 1)
        ),
    )


@plants("isolation")
def snapshot_shows_the_future(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)

    def future(op: Operation, _: int, read: Read) -> Read | None:
        chain = order.chain(read.item)
        later = chain.until(op.sequence or 0)
        writer = chain.at(later)[1]
        return Read(read.item, writer, later) if writer != read.writer else None

    return substitute(operations, random, "read", "final", fits=future)


@plants("isolation")
def removed_item_is_back(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)

    def back(op: Operation, _: int, read: Read) -> Read | None:
        chain = order.chain(read.item)
        sequence, writer = chain.at(op.sequence or 0)
        if read.writer is not None or writer is not None or sequence == 0:
            return None
        index = chain.sequences.index(sequence) - 1
        if index < 0 or chain.writer(index) is None:
            return None
        return Read(read.item, chain.writer(index), chain.sequences[index])

    return substitute(operations, random, "read", fits=back)


@plants("isolation")
def item_vanishes(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    return substitute(
        operations,
        random,
        "read",
        "write",
        fits=lambda _, __, read: (
            Read(read.item, None)
            if read.writer is not None and read.item not in order.unplaced_deleters
            else None
        ),
    )


@plants("isolation")
def version_carries_another_number(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    placed = {op.id for op in operations if op.outcome == "ok"}
    return substitute(
        operations,
        random,
        "read",
        "get",
        fits=lambda _, __, read: (
            msgspec.structs.replace(read, sequence=read.sequence + 1)
            if read.sequence is not None and read.writer in placed
            else None
        ),
    )


@plants("isolation")
def two_commits_at_one_number(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    writes = [op for op in operations if op.f == "write" and op.outcome == "ok"]
    if len(writes) < 2:
        return None
    first, second = random.sample(writes, 2)
    return changed(operations, second, sequence=first.sequence)


@plants("realtime")
def commits_swap_their_numbers(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    writes = [op for op in operations if op.f == "write" and op.outcome == "ok" and op.sequence is not None]
    pairs = [(a, b) for a in writes for b in writes if (a.completed or 0) < b.invoked]
    if not pairs:
        return None
    first, second = random.choice(pairs)
    swapped = changed(operations, first, sequence=second.sequence)
    return changed(swapped, second, sequence=first.sequence)


@plants("realtime")
def whole_snapshot_of_the_past(
    db: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    acknowledged = [op for op in operations if op.f == "write" and op.outcome == "ok"]
    snapshots = [op for op in operations if op.f == "read" and op.outcome == "ok"]
    random.shuffle(snapshots)
    for op in snapshots:
        before = [w.sequence or 0 for w in acknowledged if (w.completed or 0) < op.invoked]
        if before and (past := max(before) - 1) > 0:
            state = db.states[past]
            reads = tuple(Read(read.item, *state.get(read.item, ABSENT)) for read in op.reads)
            return changed(operations, op, sequence=past, reads=reads)
    return None


@plants("realtime")
def stale_get(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    acknowledged = [op for op in operations if op.f == "write" and op.outcome == "ok" and op.writes]

    def stale(op: Operation, _: int, read: Read) -> Read | None:
        before = [
            w.sequence or 0 for w in acknowledged if read.item in w.writes and (w.completed or 0) < op.invoked
        ]
        return _older(order, read, max(before)) if before else None

    return substitute(operations, random, "get", fits=stale)


@plants("realtime")
def get_misses_what_a_snapshot_had(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)
    snapshots = [op for op in operations if op.f == "read" and op.outcome == "ok"]

    def stale(op: Operation, _: int, read: Read) -> Read | None:
        before = [s.sequence or 0 for s in snapshots if (s.completed or 0) < op.invoked]
        return _older(order, read, max(before)) if before else None

    return substitute(operations, random, "get", fits=stale)


@plants("durability")
def acknowledged_write_is_lost(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)
    return substitute(
        operations, random, "final", fits=lambda op, _, read: _older(order, read, op.sequence or 0)
    )


@plants("durability")
def deleted_item_is_in_the_end(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)

    def back(op: Operation, _: int, read: Read) -> Read | None:
        chain = order.chain(read.item)
        sequence, writer = chain.at(op.sequence or 0)
        if read.writer is not None or writer is not None or len(chain.sequences) < 2:
            return None
        older = [t for t in chain.sequences if t < sequence and chain.at(t)[1] is not None]
        return Read(read.item, chain.at(older[-1])[1], older[-1]) if older else None

    return substitute(operations, random, "final", fits=back)


@plants("atomicity")
def failed_write_is_seen(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    failed = [op for op in operations if op.outcome == "fail" and op.writes]

    def aborted(op: Operation, _: int, read: Read) -> Read | None:
        mine = [f for f in failed if read.item in f.writes and f.invoked < (op.completed or 0)]
        return Read(read.item, random.choice(mine).id) if mine else None

    return substitute(operations, random, "read", "get", "write", fits=aborted)


@plants("atomicity")
def transaction_is_half_there(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)

    def torn(op: Operation, index: int, read: Read) -> Read | None:
        writer = order.writes.get(read.writer or 0)
        others = [r for i, r in enumerate(op.reads) if i != index and r.writer == read.writer]
        if writer is None or not others or writer.id not in order.placed:
            return None
        return _older(order, read, order.placed[writer.id])

    return substitute(operations, random, "read", "final", fits=torn)


@plants("resolution")
def version_of_nobody(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    return substitute(
        operations, random, "read", "get", fits=lambda _, __, read: Read(read.item, operation_id(9999, 1), 3)
    )


@plants("resolution")
def version_of_a_write_of_other_items(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    writes = [op for op in operations if op.f == "write" and op.outcome == "ok"]

    def foreign(_: Operation, __: int, read: Read) -> Read | None:
        other = random.choice(writes)
        return None if other.changes(read.item) else Read(read.item, other.id, other.sequence)

    return substitute(operations, random, "read", "get", fits=foreign)


@plants("resolution")
def version_before_its_writer(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    writes = [op for op in operations if op.f == "write" and op.outcome == "ok"]

    def early(op: Operation, __: int, read: Read) -> Read | None:
        later = [w for w in writes if read.item in w.writes and w.invoked > (op.completed or 0)]
        return Read(read.item, later[0].id, later[0].sequence) if later else None

    return substitute(operations, random, "read", "get", "write", fits=early)


@plants("bank")
def money_appears(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    return substitute(
        operations,
        random,
        "read",
        "final",
        "write",
        fits=lambda _, __, read: (
            msgspec.structs.replace(read, value=read.value + 1) if read.item.startswith("bank/") else None
        ),
    )


@plants("bank")
def money_vanishes_in_a_transfer(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    """A killed transfer, whose balances nobody knows, wrote one too little."""
    order = place(operations)
    killed = {op.id for op in operations if op.outcome == "info" and op.workload == "bank"}
    for identity in killed & set(order.placed):
        item = order.writes[identity].writes[0]
        short = [
            msgspec.structs.replace(
                op,
                reads=tuple(
                    msgspec.structs.replace(read, value=read.value - 1)
                    if read.writer == identity and read.item == item
                    else read
                    for read in op.reads
                ),
            )
            for op in operations
        ]
        in_full = any(
            op.f in ("read", "final")
            and any(read.writer == identity and read.item == item for read in op.reads)
            and sum(read.item.startswith("bank/") for read in op.reads) == 5
            for op in operations
        )
        if in_full:
            return short
    return None


def _listchanged(
    operations: Operations, random: Random, change: Callable[[list[int]], list[int] | None]
) -> Operations | None:
    def changed(_: Operation, __: int, read: Read) -> Read | None:
        if type(read.value) is not list:
            return None
        value = change(list(read.value))
        return None if value is None else msgspec.structs.replace(read, value=value)

    return substitute(operations, random, "read", "final", "write", fits=changed)


@plants("append")
def element_is_lost(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    acknowledged = {op.id for op in operations if op.outcome == "ok"}

    def lose(elements: list[int]) -> list[int] | None:
        candidates = [e for e in elements[:-1] if e in acknowledged]
        if not candidates:
            return None
        elements.remove(random.choice(candidates))
        return elements

    return _listchanged(operations, random, lose)


@plants("append")
def element_is_there_twice(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    return _listchanged(operations, random, lambda elements: [elements[0], *elements])


@plants("append")
def elements_change_places(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    acknowledged = {op.id for op in operations if op.outcome == "ok"}

    def swap(elements: list[int]) -> list[int] | None:
        if len(elements) < 3 or not {elements[0], elements[1]} <= acknowledged:
            return None
        elements[0], elements[1] = elements[1], elements[0]
        return elements

    return _listchanged(operations, random, swap)


@plants("append")
def element_of_a_failed_append(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    failed = [op.id for op in operations if op.outcome == "fail" and op.workload == "append" and op.writes]
    if not failed:
        return None
    return _listchanged(operations, random, lambda elements: [random.choice(failed), *elements])


@plants("append")
def list_begins_anew(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    acknowledged = {op.id for op in operations if op.outcome == "ok"}

    def cut(_: Operation, __: int, read: Read) -> Read | None:
        if type(read.value) is not list or len(read.value) < 2 or read.item in order.unplaced_deleters:
            return None
        if not set(read.value) <= acknowledged:
            return None
        return msgspec.structs.replace(read, value=read.value[-1:])

    return substitute(operations, random, "read", "final", "write", fits=cut)
