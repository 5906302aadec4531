"""The commit order that a store revealed, rebuilt from a history: the ground that the checkers stand on.

Every committed write is *placed* at the sequence number T that its acknowledgement returned or, where its
process was killed, that a reader of its version saw, above all whoever resolved it (``kept``). A commit that
was seen without a number *floats*: it is placed only where exactly one unused number is left for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Final, NamedTuple

from harness.checkers.kept import Kept, Settled, collect, settle
from harness.checkers.operation import OF_ONE_STATE, Operation
from harness.history import Read, describe_id

SIGHTINGS_MAX: Final = 100
"""Impossible reads of one kind that are kept; a broken store makes millions."""

_FREE_MAX: Final = 1000
"""Numbers that nobody is known to have and that are looked at; a broken store leaves many."""

NEVER: Final = 1 << 62
"""Later than every sequence number and every time."""


class Sighting(NamedTuple):
    """A read, and the operation that made it."""

    by: Operation
    read: Read


class Chain:
    """The placed versions of one item, oldest first; the version before the first is absence, at T=0."""

    __slots__ = ("committers", "gone", "sequences")

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.committers: list[int] = []
        self.gone: list[int] = []

    def at(self, position: int) -> tuple[int, int | None]:
        """T and the writer of the version that is current at ``position``; the writer of absence is None."""
        index = bisect_right(self.sequences, position) - 1
        if index < 0:
            return 0, None
        return self.sequences[index], self.writer(index)

    def writer(self, index: int) -> int | None:
        """The writer of the ``index``-th version, ``None`` if it is a deletion."""
        sequence = self.sequences[index]
        where = bisect_left(self.gone, sequence)
        if where < len(self.gone) and self.gone[where] == sequence:
            return None
        return self.committers[index]

    def committer_after(self, sequence: int) -> int | None:
        """The operation that made the next version after ``sequence``, ``None`` if there is none."""
        index = bisect_right(self.sequences, sequence)
        return self.committers[index] if index < len(self.sequences) else None

    def until(self, sequence: int) -> int:
        """T of the next version after ``sequence``, or ``NEVER``."""
        index = bisect_right(self.sequences, sequence)
        return self.sequences[index] if index < len(self.sequences) else NEVER


class Order:
    """All committed writes of a history in the store's own order. Made by ``place``.

    ``placed``: T by operation id. ``floating``: commits that were seen, or acknowledged, without a number.
    ``unplaced_deleters``: for each item, the earliest invocation of a write that deletes it and may have
    committed but has no place. ``unknown``, ``aborted``, ``early``, ``misplaced``: impossible reads (of a
    version that nobody wrote, of one whose writer failed, of one seen before its writer was invoked, of one
    that carries another T than its writer's). ``kept``: the lists of versions that resolves found, and
    ``settled`` what follows from them. ``nobodys``: numbers that must be some operation's (in a dense order) and
    can be none's.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.writes: dict[int, Operation] = {}
        self.placed: dict[int, int] = {}
        self.chains: dict[str, Chain] = {}
        self.sequences: list[int] = []
        self.floating: dict[int, Operation] = {}
        self.listed: set[int] = set()
        self.unplaced_deleters: dict[str, int] = {}
        self.duplicates: list[tuple[Operation, Operation]] = []
        self.unknown: list[Sighting] = []
        self.aborted: list[Sighting] = []
        self.early: list[Sighting] = []
        self.misplaced: list[Sighting] = []
        self.kept: list[Kept] = collect(operations)
        self.settled = Settled({}, [], {})
        self.nobodys: list[int] = []

    @property
    def revealed(self) -> bool:
        """Whether the store told any commit sequence number at all."""
        return bool(self.placed)

    def chain(self, item: str) -> Chain:
        """The placed versions of ``item``, perhaps none."""
        return self.chains.get(item) or Chain()

    def known_before(self, time: int) -> int:
        """The newest T that an operation which was complete before ``time`` had written or seen."""
        times, bounds = self._known
        index = bisect_left(times, time) - 1
        return bounds[index] if index >= 0 else 0

    @cached_property
    def _known(self) -> tuple[list[int], list[int]]:
        """The times of completion, sorted, and the newest T known at each. Made once: it rests on what was
        acknowledged and read, not on what is placed later.
        """
        complete = sorted((op for op in self.operations if op.outcome == "ok"), key=attrgetter("completed"))
        return [op.completed or 0 for op in complete], list(accumulate(map(_newest_known, complete), max))

    def known_after(self, time: int) -> int:
        """The smallest T of the acknowledged writes that were invoked after ``time``, or ``NEVER``."""
        times, bounds = self._later
        index = bisect_right(times, time)
        return bounds[index] if index < len(bounds) else NEVER

    @cached_property
    def _later(self) -> tuple[list[int], list[int]]:
        """The times of invocation, sorted, and the smallest T from each on. Made once, like ``_known``."""
        later = sorted(
            (op for op in self.writes.values() if op.outcome == "ok" and op.sequence is not None),
            key=attrgetter("invoked"),
        )
        smallest = list(accumulate((op.sequence or 0 for op in reversed(later)), min))
        return [op.invoked for op in later], smallest[::-1]

    def has_gap(self, after: int, until: int) -> bool:
        """Whether some number in ``(after, until]`` is not taken by a placed write."""
        if until <= after:
            return False
        taken = bisect_right(self.sequences, until) - bisect_right(self.sequences, after)
        return taken < until - after

    def gaps(self, after: int, until: int, most: int) -> list[int]:
        """Up to ``most`` numbers in ``(after, until]`` that no placed write took."""
        found: list[int] = []
        while len(found) < most and self.has_gap(after, until):
            low, high = after + 1, until
            while low < high:
                middle = (low + high) // 2
                if self.has_gap(after, middle):
                    high = middle
                else:
                    low = middle + 1
            found.append(low)
            after = low
        return found

    def may_be_deleted(self, item: str, before: int | None) -> bool:
        """Whether an unplaced delete of ``item`` was invoked before the time ``before``."""
        return self.unplaced_deleters.get(item, NEVER) < (NEVER if before is None else before)

    def name(self, writer: int | None) -> str:
        """A version's writer in words, with its T or its fate."""
        text = describe_id(writer)
        if writer is None:
            return text
        operation = self.writes.get(writer)
        if operation is None:
            return f"{text} (which never wrote)"
        if operation.outcome == "fail":
            return f"{text} (which failed)"
        if writer in self.placed:
            return f"{text} (T={self.placed[writer]})"
        return f"{text} (T unknown)"


def _newest_known(op: Operation) -> int:
    if op.f in OF_ONE_STATE:
        return op.sequence or 0
    return max((read.sequence or 0 for read in op.reads), default=0)


def place(operations: Sequence[Operation], *, dense: bool = False) -> Order:
    """Place every committed write of ``operations``. One pass over all reads, then a sort: O(n log n).

    ``dense``: the engine promises that every number up to the newest belongs to a commit. Then a number that is free
    belongs to a killed write that nobody saw, and to which one if only one can have it.
    """
    order = Order(operations)
    order.writes = {op.id: op for op in operations if op.f == "write"}
    order.placed = {
        op.id: op.sequence for op in order.writes.values() if op.outcome == "ok" and op.sequence is not None
    }
    seen = _look(order)
    order.settled = settle(order.kept, order.writes, order.placed, order.known_before, order.known_after)
    order.sequences = sorted(set(order.placed.values()))
    order.floating = {w: op for w, op in order.writes.items() if op.outcome == "ok" and w not in order.placed}
    order.floating.update({w: order.writes[w] for w in (*seen, *order.listed) if w not in order.placed})
    _build_chains(order)
    if order.floating and order.placed and _settle(order, seen):
        order.sequences = sorted(set(order.placed.values()))
        _build_chains(order)
    if dense and order.placed and _fill(order):
        order.sequences = sorted(set(order.placed.values()))
        _build_chains(order)
    settled = order.placed.keys() | order.settled.absent.keys()
    for op in order.writes.values():
        if op.deletes and op.outcome != "fail" and op.id not in settled:
            for item in op.deletes:
                earliest = order.unplaced_deleters.get(item, NEVER)
                order.unplaced_deleters[item] = min(earliest, op.invoked)
    return order


def _look(order: Order) -> dict[int, list[Sighting]]:
    """Look at every read once: place what it places, keep what is impossible; return the unnumbered info
    writes that were seen, each with up to ``SIGHTINGS_MAX`` of its sightings.
    """
    writes, placed = order.writes, order.placed
    writes_get, placed_get = writes.get, placed.get
    seen: dict[int, list[Sighting]] = {}
    lists: dict[str, list[int]] = {}
    for op in order.operations:
        completed = op.completed
        if completed is None or not op.reads:
            continue
        for read in op.reads:
            identity = read.writer
            if identity is None:
                continue
            writer = writes_get(identity)
            if writer is None or read.item not in writer.writes:
                _keep(order.unknown, op, read)
                continue
            if writer.invoked > completed:
                _keep(order.early, op, read)
            sequence = placed_get(identity)
            if sequence is None or sequence != read.sequence:
                if writer.outcome == "fail":
                    _keep(order.aborted, op, read)
                elif read.sequence is None:
                    if sequence is None and writer.outcome == "info":
                        _keep(seen.setdefault(identity, []), op, read)
                elif sequence is None:
                    placed[identity] = read.sequence
                else:
                    _keep(order.misplaced, op, read)
            value = read.value
            if type(value) is list and lists.get(read.item) != value:
                lists[read.item] = value
                _list(order, value)
    return {identity: sightings for identity, sightings in seen.items() if identity not in placed}


def _keep(sightings: list[Sighting], op: Operation, read: Read) -> None:
    if len(sightings) < SIGHTINGS_MAX:
        sightings.append(Sighting(op, read))


def _list(order: Order, elements: list[int]) -> None:
    """Note the info writes whose elements stand in a list: they committed, whoever saw them."""
    for element in elements:
        if element not in order.placed and type(element) is int:
            writer = order.writes.get(element)
            if writer is not None and writer.outcome == "info":
                order.listed.add(element)


def _build_chains(order: Order) -> None:
    """Sort the placed writes and string each item's versions together."""
    order.chains = {}
    order.duplicates = []
    previous: Operation | None = None
    previous_sequence = -1
    placed = order.placed
    for identity in sorted(placed, key=placed.__getitem__):
        op, sequence = order.writes[identity], placed[identity]
        if sequence == previous_sequence and previous is not None:
            order.duplicates.append((previous, op))
        previous, previous_sequence = op, sequence
        for item in op.writes:
            _append(order.chains, item, sequence, identity)
        for item in op.deletes:
            _append(order.chains, item, sequence, identity).gone.append(sequence)


def _append(chains: dict[str, Chain], item: str, sequence: int, identity: int) -> Chain:
    chain = chains.get(item)
    if chain is None:
        chain = chains[item] = Chain()
    chain.sequences.append(sequence)
    chain.committers.append(identity)
    return chain


def _settle(order: Order, seen: dict[int, list[Sighting]]) -> bool:
    """Place what floats where exactly one number is left for it; return whether anything was placed.

    A version of an item that a snapshot at S shows was committed at most at S, and after the newest placed
    version of that item that S includes.
    """
    forced: dict[int, int] = {}
    for identity, sightings in seen.items():
        after, until = -1, NEVER
        for by, read in sightings:
            if by.f not in OF_ONE_STATE or (position := position_of(by, order)) is None:
                continue
            after = max(after, order.chain(read.item).at(position)[0])
            until = min(until, position)
        if until < NEVER and len(gaps := order.gaps(after, until, 2)) == 1:
            forced[identity] = gaps[0]
    _settle_lists(order, forced)
    taken: set[int] = set()
    for identity, sequence in forced.items():
        if sequence not in taken:
            taken.add(sequence)
            order.placed[identity] = sequence
            order.floating.pop(identity, None)
    return bool(taken)


def _settle_lists(order: Order, forced: dict[int, int]) -> None:
    """The elements of one list were committed in its order: k unplaced elements between two placed ones
    with k numbers free between them take those numbers.
    """
    if not order.listed:
        return
    longest: dict[tuple[str, int], list[int]] = {}
    for op in order.operations:
        for read in op.reads:
            if type(read.value) is list and read.value:
                key = (read.item, read.value[0])
                if len(read.value) > len(longest.get(key, ())):
                    longest[key] = read.value
    for elements in longest.values():
        anchors = [index for index, element in enumerate(elements) if element in order.placed]
        for left, right in pairwise(anchors):
            count = right - left - 1
            if not count:
                continue
            run = elements[left + 1 : right]
            gaps = order.gaps(order.placed[elements[left]], order.placed[elements[right]] - 1, count + 1)
            if len(gaps) == count and all(element in order.listed for element in run):
                forced.update(zip(run, gaps, strict=True))


def _fill(order: Order) -> bool:
    """Place the unseen writes in the numbers that nobody else can have; return whether anything was placed."""
    seen = max((_newest_known(op) for op in order.operations if op.outcome == "ok"), default=0)
    numbers = order.gaps(0, max(seen, order.sequences[-1]), _FREE_MAX)
    unseen = [
        (op, order.known_before(op.invoked), order.settled.unfound.get(op.id, NEVER))
        for op in order.writes.values()
        if op.id not in order.placed and op.id not in order.settled.absent and op.outcome != "fail"
    ]
    free = numbers
    while True:
        rest: list[int] = []
        order.nobodys = []
        for number in free:
            candidates = [
                op
                for op, since, until in unseen
                if since < number < until and op.id not in order.placed and _may_be_at(order, op, number)
            ]
            if len(candidates) == 1:
                order.placed[candidates[0].id] = number
                order.floating.pop(candidates[0].id, None)
            else:
                rest.append(number)
                order.nobodys += [] if candidates else [number]
        if len(rest) == len(free):
            return len(rest) < len(numbers)
        free = rest


def _may_be_at(order: Order, op: Operation, number: int) -> bool:
    """Whether the next version of each item that ``op`` writes does not follow directly on an older one."""
    for item in op.writes:
        following = order.writes.get(order.chain(item).committer_after(number) or 0)
        if following is not None and any(
            read.item == item and order.placed.get(read.writer or 0, number) < number
            for read in following.reads
        ):
            return False
    return True


def position_of(op: Operation, order: Order) -> int | None:
    """The position whose state ``op`` read: S of a snapshot, T - 1 of a write; ``None`` if not revealed."""
    if op.f == "write":
        sequence = order.placed.get(op.id)
        return None if sequence is None else sequence - 1
    return op.sequence if op.f in OF_ONE_STATE else None


def window(order: Order, reads: Iterable[Read]) -> tuple[int, int]:
    """The positions ``[first, end)`` at which all placed versions of ``reads`` were current together; empty
    (``first >= end``) if there is none. Absent versions and floating ones are not considered.
    """
    first, end = 0, NEVER
    for read in reads:
        sequence = None if read.writer is None else order.placed.get(read.writer)
        if sequence is not None:
            first = max(first, sequence)
            end = min(end, order.chain(read.item).until(sequence))
    return first, end
