"""The operations of a history as columns of numbers: what agrees with the commit order is found for all reads at once.

Nothing is judged here. A read *agrees* that shows the version that is current at its operation's place in the order,
with its number, and not before its writer was invoked: there is nothing to be found in it alone. All others are *odd*;
they are few, and are looked at one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, count
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.checkers.operation import Operation
from harness.history import Read

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NONE: Final = int(np.iinfo(np.int64).min)
"""No number, no writer: below whatever a store can reveal."""

_BLOCK: Final = 4096
_SEARCHED: Final = 1 << 16
"""Operations, and reads, that are gone through together: few enough to stay in the processor's cache."""

_HUGE: Final = 1 << 62
"""Numbers from here on, which only a broken store reveals, are not told apart."""

WRITE, SNAPSHOT, GET, RESOLVE = range(4)
"""What an operation is here: it changes the state, or shows that of one moment, or something of it, or of its past."""

_KINDS: Final = {"write": WRITE, "read": SNAPSHOT, "final": SNAPSHOT, "get": GET, "resolve": RESOLVE}


class _Block(NamedTuple):
    """Columns: of operations, of their reads, of those that write, and of what these write and delete."""

    kind: npt.NDArray[np.int8]
    ok: Flags
    number: Numbers
    completed: Numbers
    lengths: Numbers
    item: Numbers
    writer: Numbers
    sequence: Numbers
    is_list: Flags
    invoked: Numbers
    written: Numbers
    written_lengths: Numbers
    deleted: Numbers
    deleted_lengths: Numbers


class Columns:
    """``operations``, column by column; ``None`` is ``NONE``, or ``_HUGE`` for a completion that never came.

    The reads of all operations stand one after another (``reads``), and beside each the index of its operation
    (``row``), its item as a number (``codes``), its writer and its sequence number. Likewise all changes, first the
    writes, then the deletes of the operations that write (``writes``): the item, and the index of the write. Made in
    about 1.3 us for each operation with two or three reads.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.reads: list[Read] = []
        self.writes: list[Operation] = []
        self.ids: list[int] = []
        codes: defaultdict[str, int] = defaultdict(count().__next__)
        blocks = [
            self._block(operations[first : first + _BLOCK], codes.__getitem__)
            for first in range(0, max(len(operations), 1), _BLOCK)
        ]
        whole = _Block._make(map(np.concatenate, zip(*blocks, strict=True)))
        self.codes: dict[str, int] = dict(codes)
        self.kind, self.ok, self.number = whole.kind, whole.ok, whole.number
        self.completed, self.lengths = whole.completed, whole.lengths
        self.item, self.writer, self.sequence = whole.item, whole.writer, whole.sequence
        self.is_list, self.invoked = whole.is_list, whole.invoked
        self.row = np.repeat(np.arange(len(operations)), self.lengths)
        self.write_row = np.flatnonzero(self.kind == WRITE)
        self.changed = np.concatenate((whole.written, whole.deleted))
        self.deletes_from = len(whole.written)
        by_write = np.concatenate((whole.written_lengths, whole.deleted_lengths))
        self.change_write = np.repeat(np.tile(np.arange(len(self.writes)), 2), by_write)

    def _block(self, operations: Sequence[Operation], code: Callable[[str], int]) -> _Block:
        """The columns of some operations. One list for each: several passes over few are quicker than one."""
        by_operation = [op.reads for op in operations]
        reads = list(chain.from_iterable(by_operation))
        writes = [op for op in operations if op.f == "write"]
        written, deleted = [op.writes for op in writes], [op.deletes for op in writes]
        self.reads += reads
        self.writes += writes
        self.ids += [op.id for op in writes]
        return _Block(
            kind=np.array([_KINDS[op.f] for op in operations], np.int8),
            ok=np.array([op.outcome == "ok" for op in operations], np.bool_),
            number=_column([NONE if (number := op.sequence) is None else number for op in operations]),
            completed=_column([_HUGE if (time := op.completed) is None else time for op in operations]),
            lengths=_column(list(map(len, by_operation))),
            item=_column([code(read.item) for read in reads]),
            writer=_column([NONE if (writer := read.writer) is None else writer for read in reads]),
            sequence=_column([NONE if (number := read.sequence) is None else number for read in reads]),
            is_list=np.array([type(read.value) is list for read in reads], np.bool_),
            invoked=_column([op.invoked for op in writes]),
            written=_column(list(map(code, chain.from_iterable(written)))),
            written_lengths=_column(list(map(len, written))),
            deleted=_column(list(map(code, chain.from_iterable(deleted)))),
            deleted_lengths=_column(list(map(len, deleted))),
        )

    @cached_property
    def identity(self) -> Numbers:
        """The ids of the writes."""
        return _column(self.ids)

    @cached_property
    def acknowledged(self) -> Flags:
        """Which writes were acknowledged with their number."""
        flags: Flags = (self.ok & (self.number != NONE))[self.write_row]
        return flags

    @cached_property
    def newest(self) -> Numbers:
        """The newest number that each operation saw (its snapshot's, or of the versions read), at least 0."""
        own = self.kind <= SNAPSHOT
        newest = np.where(own, np.maximum(self.number, 0), 0)
        if not own.all():
            np.maximum.at(newest, self.row[~own[self.row]], self.sequence[~own[self.row]])
        return newest

    def of_kind(self, kind: int) -> list[Operation]:
        """The operations of one kind, in their order."""
        return [self.operations[row] for row in np.flatnonzero(self.kind == kind).tolist()]

    def shown_of(self, writers: Iterable[int]) -> list[int]:
        """The indices of the reads that show a version of one of ``writers``, in their order."""
        wanted = np.sort(_column(list(writers)))
        if not len(wanted):
            return []
        where = np.minimum(np.searchsorted(wanted, self.writer), len(wanted) - 1)
        found: list[int] = np.flatnonzero(wanted[where] == self.writer).tolist()
        return found

    def odd(self, versions: Versions, before: tuple[Versions, Flags] | None = None) -> Flags:
        """For each read whether it is odd. ``before``: an earlier answer, for other ``versions``, of which what still
        holds is taken over.
        """
        if versions.strange:
            return np.ones(len(self.item), np.bool_)
        position = np.where(self.kind == SNAPSHOT, self.number, NONE)
        position[self.write_row] = np.where(versions.at == NONE, NONE, versions.at - 1)
        rank = versions.rank(position)
        if before is None or before[0].strange:
            odd, again = np.empty(len(self.item), np.bool_), np.arange(len(self.item))
        else:
            odd, again = before[1].copy(), self._touched(before[0].at != versions.at)
        for first in range(0, len(again), _SEARCHED):
            some = again[first : first + _SEARCHED]
            odd[some] = self._odd(versions, some, position, rank)
        return odd

    def _touched(self, moved: Flags) -> Numbers:
        """The reads of items that ``moved`` writes change, and those of these writes."""
        items = np.zeros(len(self.codes), np.bool_)
        items[self.changed[moved[self.change_write]]] = True
        rows = np.zeros(len(self.kind), np.bool_)
        rows[self.write_row[moved]] = True
        return np.flatnonzero(items[self.item] | rows[self.row])

    def _odd(self, versions: Versions, some: Numbers, position: Numbers, rank: Numbers) -> Flags:
        """Whether each of ``some`` reads is odd. ``position``: where each operation looks, and its ``rank``."""
        row, writer, sequence = self.row[some], self.writer[some], self.sequence[some]
        ranks = rank[row]
        nowhere = np.flatnonzero(position[row] == NONE)
        ranks[nowhere] = versions.rank(sequence[nowhere])
        index = versions.find(self.item[some], ranks)
        other = writer != versions.writer[index]
        misnumbered = (sequence != NONE) & (sequence != versions.sequence[index])
        early = versions.invoked[index] > self.completed[row]
        odd: Flags = other | (writer != NONE) & (misnumbered | early)
        return odd


class Versions:
    """The versions that the ``placed`` writes made, sorted by item and T; every item begins with its absence.

    ``at``: T of each write of ``columns``, or ``NONE``. ``sequence`` (T), ``writer`` (``NONE``: absent), ``committer``
    and ``invoked`` (of the operation that made it) stand beside one another. ``strange``: two commits share a T, or a
    commit makes two versions of one item, or a number is beyond reason; then no read is said to agree.
    """

    def __init__(self, columns: Columns, placed: Mapping[int, int]) -> None:
        self.at = at = np.where(columns.acknowledged, columns.number[columns.write_row], NONE)
        for index in np.flatnonzero(at == NONE).tolist():
            at[index] = min(placed.get(columns.ids[index], NONE), _HUGE)
        here = at != NONE
        numbers = np.sort(at[here])
        shared = bool((numbers[1:] == numbers[:-1]).any())
        self.numbers = np.unique(numbers) if shared else numbers
        made = np.flatnonzero(here[columns.change_write])
        by, items = columns.change_write[made], np.arange(len(columns.codes))
        keys = np.concatenate((self._key(items, 0), self._key(columns.changed[made], self.rank(at)[by])))
        order = np.argsort(keys)
        self._keys = keys[order]
        turn = self._turns(columns, placed)[by] if shared else by
        twice = bool((self._keys[1:] == self._keys[:-1]).any())
        if twice:
            order = np.lexsort((np.concatenate((items, turn)), keys))
        huge = len(self.numbers) > 0 and bool(self.numbers[-1] >= _HUGE)
        self.strange = twice or shared or huge

        absent = np.full(len(items), NONE)
        ids = columns.identity[by]
        self.committer = np.concatenate((absent, ids))[order]
        self.writer = np.concatenate((absent, np.where(made < columns.deletes_from, ids, NONE)))[order]
        self.invoked = np.concatenate((absent, columns.invoked[by]))[order]
        self.sequence = np.concatenate((absent, at[by]))[order]
        self._starts = np.append(np.searchsorted(self._keys, self._key(items, 0)), len(order))
        self._turn = np.concatenate((items, turn))[order]
        self._made = order

    @staticmethod
    def _turns(columns: Columns, placed: Mapping[int, int]) -> Numbers:
        """The place of each write in ``placed``, which decides between those that share a T."""
        turns = dict(zip(placed, count()))
        return np.fromiter([turns.get(identity, -1) for identity in columns.ids], np.int64, len(columns.ids))

    def _key(self, item: Numbers, rank: Numbers | int) -> Numbers:
        return item * (len(self.numbers) + 1) + rank

    def rank(self, positions: Numbers) -> Numbers:
        """How many of the numbers that are taken each of ``positions`` includes."""
        return np.searchsorted(self.numbers, positions, "right")

    def find(self, item: Numbers, rank: Numbers) -> Numbers:
        """The index of the version of each ``item`` that is current at the ``rank`` beside it (sorted, the search takes
        half the time).
        """
        keys = self._key(item, rank)
        order = np.argsort(keys)
        found = np.empty(len(keys), np.int64)
        found[order] = np.searchsorted(self._keys, keys[order], "right") - 1
        return found

    def span(self, code: int) -> slice:
        """Where the versions of one item stand, without its first absence."""
        return slice(int(self._starts[code]) + 1, int(self._starts[code + 1]))

    def by_first(self) -> list[int]:
        """The items that have versions, in the order of their first ones."""
        first = self._starts[:-1] + 1
        items = np.flatnonzero(first < self._starts[1:])
        first = first[items]
        order = np.lexsort((self._made[first], self._turn[first], self.sequence[first]))
        found: list[int] = items[order].tolist()
        return found


def _column(values: list[int]) -> Numbers:
    """``values`` as a column. What does not fit is ``_HUGE``, so that its place among the others is right."""
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return np.array(
            [value if value == NONE else max(-_HUGE, min(value, _HUGE)) for value in values], np.int64
        )
