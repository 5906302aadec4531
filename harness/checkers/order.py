"""The commit order that a store revealed, rebuilt from a history: the ground that the checkers stand on.

Every committed write is *placed* at the sequence number T that its acknowledgement returned or, where its
process was killed, that a reader of its version saw, above all whoever resolved it (``kept``). A commit that
was seen without a number *floats*: it is placed only where exactly one unused number is left for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, compress, pairwise
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from harness.checkers.columns import NONE, RESOLVE, Columns, Flags, Versions
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

    def __init__(self, sequences: list[int], committers: list[int], gone: list[int]) -> None:
        self.sequences = sequences
        self.committers = committers
        self.gone = gone

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

    ``columns``: the operations as numbers. ``placed``: T by operation id. ``floating``: commits that were seen, or
    acknowledged, without a number. ``unplaced_deleters``: for each item, the earliest invocation of a write that
    deletes it and may have committed but has no place. ``unknown``, ``aborted``, ``early``, ``misplaced``: impossible
    reads (of a version that nobody wrote, of one whose writer failed, of one seen before its writer was invoked, of
    one that carries another T than its writer's). ``kept``: the lists of versions that resolves found, and
    ``settled`` what follows from them. ``nobodys``: numbers that must be some operation's (in a dense order) and
    can be none's.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.columns = columns = Columns(operations)
        self.writes: dict[int, Operation] = dict(zip(columns.ids, columns.writes, strict=True))
        acknowledged = columns.acknowledged.tolist()
        numbers = [op.sequence or 0 for op in columns.writes]
        self.placed: dict[int, int] = dict(
            zip(compress(columns.ids, acknowledged), compress(numbers, acknowledged), strict=True)
        )
        self._unplaced = [
            op for op in compress(columns.writes, (~columns.acknowledged).tolist()) if op.outcome != "fail"
        ]
        self._versions: Versions | None = None
        self._chains: dict[str, Chain] = {}
        self._odd: tuple[Versions, Flags] | None = None
        self.floating: dict[int, Operation] = {}
        self.listed: set[int] = set()
        self.unplaced_deleters: dict[str, int] = {}
        self.unknown: list[Sighting] = []
        self.aborted: list[Sighting] = []
        self.early: list[Sighting] = []
        self.misplaced: list[Sighting] = []
        self.kept: list[Kept] = collect(columns.of_kind(RESOLVE))
        self.settled = Settled({}, [], {})
        self.nobodys: list[int] = []

    def arrange(self) -> None:
        """Call it when ``placed`` has changed; until then everything else here is as it was before."""
        self._versions = None
        self._chains = {}
        self.__dict__.pop("sequences", None)

    @property
    def versions(self) -> Versions:
        """All placed versions, sorted. Made when first asked for."""
        if self._versions is None:
            self._versions = Versions(self.columns, self.placed)
        return self._versions

    @cached_property
    def sequences(self) -> list[int]:
        """All T, sorted."""
        return sorted(set(self.placed.values()))

    @property
    def unplaced(self) -> list[Operation]:
        """The writes that may have committed and have no place."""
        self._unplaced = [op for op in self._unplaced if op.id not in self.placed]
        return self._unplaced

    @property
    def revealed(self) -> bool:
        """Whether the store told any commit sequence number at all."""
        return bool(self.placed)

    @property
    def duplicates(self) -> list[tuple[Operation, Operation]]:
        """Writes that share a T, each with the one before it."""
        if len(self.sequences) == len(self.placed):
            return []
        by_sequence = sorted(self.placed, key=self.placed.__getitem__)
        return [
            (self.writes[first], self.writes[second])
            for first, second in pairwise(by_sequence)
            if self.placed[first] == self.placed[second]
        ]

    @property
    def odd(self) -> Flags:
        """For each read of ``columns`` whether it shows anything but the version that is placed where it looks."""
        if self._odd is None or self._odd[0] is not self.versions:
            self._odd = self.versions, self.columns.odd(self.versions, self._odd)
        return self._odd[1]

    @property
    def chains(self) -> dict[str, Chain]:
        """The placed versions of all items that have any, by item, in the order of their first versions."""
        names = list(self.columns.codes)
        return {names[code]: self.chain(names[code]) for code in self.versions.by_first()}

    def chain(self, item: str) -> Chain:
        """The placed versions of ``item``, perhaps none."""
        chain = self._chains.get(item)
        if chain is None:
            code, versions = self.columns.codes.get(item), self.versions
            span = slice(0) if code is None else versions.span(code)
            sequence = versions.sequence[span]
            gone = sequence[versions.writer[span] == NONE]
            chain = Chain(sequence.tolist(), versions.committer[span].tolist(), gone.tolist())
            self._chains[item] = chain
        return chain

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
        ok, completed = np.flatnonzero(self.columns.ok), self.columns.completed
        complete = ok[np.argsort(completed[ok])]
        newest = np.maximum.accumulate(self.columns.newest[complete])
        return completed[complete].tolist(), newest.tolist()

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


def place(operations: Sequence[Operation], *, dense: bool = False) -> Order:
    """Place every committed write of ``operations``. One pass over all reads, then a sort: O(n log n).

    ``dense``: the engine promises that every number up to the newest belongs to a commit. Then a number that is free
    belongs to a killed write that nobody saw, and to which one if only one can have it.
    """
    order = Order(operations)
    _place_seen(order)
    order.arrange()
    seen = _look(order)
    count = len(order.placed)
    order.settled = settle(order.kept, order.writes, order.placed, order.known_before, order.known_after)
    if len(order.placed) > count:
        order.arrange()
    order.floating = {op.id: op for op in order.unplaced if op.outcome == "ok"}
    order.floating.update({w: order.writes[w] for w in (*seen, *order.listed) if w not in order.placed})
    if order.floating and order.placed and _settle(order, seen):
        order.arrange()
    if dense and order.placed and _fill(order):
        order.arrange()
    for op in order.unplaced:
        if op.deletes and op.id not in order.settled.absent:
            for item in op.deletes:
                earliest = order.unplaced_deleters.get(item, NEVER)
                order.unplaced_deleters[item] = min(earliest, op.invoked)
    return order


def _place_seen(order: Order) -> None:
    """Place the writes whose T only a reader of their versions was told."""
    columns = order.columns
    for index in columns.shown_of(op.id for op in order.unplaced):
        by, read = columns.operations[columns.row[index]], columns.reads[index]
        writer = order.writes[read.writer or 0]
        if by.completed is not None and read.sequence is not None and read.item in writer.writes:
            order.placed.setdefault(writer.id, read.sequence)


def _look(order: Order) -> dict[int, list[Sighting]]:
    """Look at every odd read once: keep what is impossible; return the unnumbered info writes that were seen, each
    with up to ``SIGHTINGS_MAX`` of its sightings.
    """
    columns, placed = order.columns, order.placed
    seen: dict[int, list[Sighting]] = {}
    for index in np.flatnonzero(order.odd).tolist():
        op, read = columns.operations[columns.row[index]], columns.reads[index]
        identity, completed = read.writer, op.completed
        if identity is None or completed is None:
            continue
        writer = order.writes.get(identity)
        if writer is None or read.item not in writer.writes:
            _keep(order.unknown, op, read)
            continue
        if writer.invoked > completed:
            _keep(order.early, op, read)
        sequence = placed.get(identity)
        if writer.outcome == "fail":
            _keep(order.aborted, op, read)
        elif read.sequence is None:
            if sequence is None and writer.outcome == "info":
                _keep(seen.setdefault(identity, []), op, read)
        elif sequence != read.sequence:
            _keep(order.misplaced, op, read)
    _look_into_lists(order)
    return seen


def _keep(sightings: list[Sighting], op: Operation, read: Read) -> None:
    if len(sightings) < SIGHTINGS_MAX:
        sightings.append(Sighting(op, read))


def _look_into_lists(order: Order) -> None:
    """Note the info writes whose elements stand in a list: they committed, whoever saw them."""
    unseen = {op.id for op in order.unplaced if op.outcome == "info"}
    if not unseen:
        return
    columns = order.columns
    longest: dict[str, list[int]] = {}
    for index in np.flatnonzero(columns.is_list).tolist():
        read = columns.reads[index]
        known, elements = longest.get(read.item, []), read.value
        extends = elements[: len(known)] == known
        new = elements[len(known) :] if extends else elements
        if not unseen.isdisjoint(new):
            writer, by = order.writes.get(read.writer or 0), columns.operations[columns.row[index]]
            if writer is None or read.item not in writer.writes or by.completed is None:
                continue
            order.listed.update(e for e in unseen.intersection(new) if type(e) is int)
        if extends:
            longest[read.item] = elements


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
    seen = order.columns.newest[order.columns.ok].max(initial=0)
    numbers = order.gaps(0, max(int(seen), order.sequences[-1]), _FREE_MAX)
    unseen = [
        (op, order.known_before(op.invoked), order.settled.unfound.get(op.id, NEVER))
        for op in order.unplaced
        if op.id not in order.settled.absent
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
