"""Histories that are wrong in what somebody found who looked for a killed write; see ``planted_histories``."""

from __future__ import annotations

from random import Random

from planted_histories import Operations, changed, plants, substitute
from serial_database import SerialDatabase

from harness.checkers.kept import Kept
from harness.checkers.operation import Operation
from harness.checkers.order import Order, place
from harness.history import Read


def _resolves(order: Order, random: Random) -> list[Kept]:
    kept = [found for found in order.kept if found.numbered and found.by.resolves in order.writes]
    random.shuffle(kept)
    return kept


def _with_versions(operations: Operations, found: Kept, versions: list[Read]) -> Operations:
    others = [read for read in found.by.reads if read.item != found.item]
    return changed(operations, found.by, reads=(*versions, *others))


@plants("isolation")
def resolve_finds_a_write_that_its_items_lack(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    """A killed write of several items never committed, but the list of one of them shows it."""
    order = place(operations)
    views = [op for op in operations if op.f in ("read", "final") and op.outcome == "ok"]
    for found in _resolves(order, random):
        killed = order.writes[found.by.resolves]
        free = order.gaps(order.known_before(killed.invoked), order.sequences[-1], 1)
        if killed.id not in order.settled.absent or found.item not in killed.writes or not free:
            continue
        older = any(
            read.item in killed.writes
            and order.chain(read.item).at(view.sequence or 0)[0] < free[0] <= (view.sequence or 0)
            for view in views
            for read in view.reads
        )
        if older and found.by.invoked < order.operations[-1].invoked:
            versions = [*found.versions, Read(found.item, killed.id, free[0])]
            versions.sort(key=lambda read: -(read.sequence or 0))
            return _with_versions(operations, found, versions)
    return None


@plants("resolution")
def resolve_misses_a_write_that_is_seen(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)
    for found in _resolves(order, random):
        versions = [read for read in found.versions if read.writer != found.by.resolves]
        gone = order.placed.get(found.by.resolves, 0)
        elsewhere = any(
            read.writer == found.by.resolves and op is not found.by for op in operations for read in op.reads
        )
        if elsewhere and 0 < len(versions) < len(found.versions) and (versions[-1].sequence or 0) < gone:
            return _with_versions(operations, found, versions)
    return None


@plants("resolution")
def write_that_did_not_commit_is_seen_later(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    settled = place(operations).settled

    def risen(op: Operation, _: int, read: Read) -> Read | None:
        risen = [
            identity
            for identity, found in settled.absent.items()
            if found.item == read.item and (found.by.completed or 0) < op.invoked
        ]
        writers = {op.id: op for op in operations if op.id in risen and read.item in op.writes}
        return Read(read.item, random.choice(list(writers))) if writers else None

    return substitute(operations, random, "read", "get", "write", fits=risen)


@plants("resolution")
def item_was_removed_by_nobody(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)
    for found in _resolves(order, random):
        never_deleted = not any(found.item in op.deletes for op in operations)
        free = order.gaps(found.oldest or 0, found.versions[0].sequence or 0, 1)
        if never_deleted and free:
            versions = [*found.versions, Read(found.item, None, free[0])]
            versions.sort(key=lambda read: -(read.sequence or 0))
            return _with_versions(operations, found, versions)
    return None


@plants("resolution")
def kept_versions_lack_one(_: SerialDatabase, operations: Operations, random: Random) -> Operations | None:
    order = place(operations)
    for found in _resolves(order, random):
        for index, read in enumerate(found.versions[1:-1], 1):
            if read.writer in order.writes and order.writes[read.writer].outcome == "ok":
                return _with_versions(
                    operations, found, [*found.versions[:index], *found.versions[index + 1 :]]
                )
    return None


@plants("resolution")
def kept_versions_change_places(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    for found in _resolves(place(operations), random):
        if len(found.versions) > 2:
            return _with_versions(operations, found, [*found.versions[1:], found.versions[0]])
    return None


@plants("realtime")
def resolve_finds_old_versions_only(
    _: SerialDatabase, operations: Operations, random: Random
) -> Operations | None:
    order = place(operations)
    for found in _resolves(order, random):
        newest = found.versions[0].writer
        if len(found.versions) > 1 and newest in order.writes:
            overwritten = order.writes[newest]
            if overwritten.completed is not None and overwritten.completed < found.by.invoked:
                return _with_versions(operations, found, list(found.versions[1:]))
    return None
