"""List-append histories as columns: what was appended, and how much of each list was read.

A list only grows, so that a read of it says no more than a length, once some longer read of the key is known of which
it is the beginning. Only the longest list read of each key is kept, and the reads that are no beginning of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harness.budget import Budget
from harness.dependency.transactions import Codes, Integers, Recorder, Transactions
from harness.errors import HistoryError
from harness.recorded import Op

APPEND: Final = 0
READ: Final = 1
APART: Final = 2
"""A read of which the external version is no beginning of the longest list of its key, nor that of it."""
STRANGE: Final = 3
"""A read that shows a version of the common order, but not what its own transaction had appended before."""
_INTERNED: Final = -(1 << 63)
_CHECK_EVERY: Final = 1023

Micro = tuple[int, int, Any]
"""``APPEND`` or ``READ``, the code of a key, and the element, or the list that was read."""


@dataclass(frozen=True, slots=True)
class Lists:
    """A history of appends and reads. Columns ``tag``, ``key`` and ``value`` have a row for each micro-operation, those
    of one transaction side by side in its order: ``begin[t]`` to ``end[t]`` are those of row ``t`` of ``transactions``,
    and ``of[m]`` is the transaction of the micro-operation m. Reads of what is not ok are not among them. ``value`` is
    the code of the element appended; of a read the length of its *external version*, which is the list without the
    longest tail of elements that the transaction itself had appended before. ``apart``: the list itself, for each
    micro-operation that is a read ``APART`` or ``STRANGE``.

    ``longest[k]``: the longest external version of key k, of which every other one (but those ``APART``) is a
    beginning; ``reader[k]`` is the transaction that read it (-1: nobody read more than []). ``elements`` are their
    codes, one list after another, that of key k from ``start[k]`` to ``start[k + 1]``. ``keys``: the keys themselves.
    """

    transactions: Transactions
    begin: Codes
    end: Codes
    of: Codes
    tag: NDArray[np.uint8]
    key: Codes
    value: Integers
    keys: list[Any]
    longest: list[list[Any]]
    reader: Codes
    apart: dict[int, list[Any]]
    elements: Integers
    start: Integers
    names: Names

    def micros(self, transaction: int) -> list[Micro]:
        """What a transaction did, with the elements and lists themselves."""
        made: list[Micro] = []
        own: dict[int, list[Any]] = {}
        for place in range(self.begin[transaction], self.end[transaction]):
            tag, key, value = int(self.tag[place]), int(self.key[place]), int(self.value[place])
            if tag == APPEND:
                element = self.names.element(value)
                own.setdefault(key, []).append(element)
                made.append((APPEND, key, element))
            elif tag == READ:
                made.append((READ, key, self.longest[key][:value] + own.get(key, [])))
            else:
                made.append((READ, key, self.apart[place]))
        return made


class Names:
    """Codes for elements: a number that fits is its own code, all else gets one."""

    def __init__(self) -> None:
        self._codes: dict[Any, int] = {}
        self._named: list[Any] = []

    def code(self, element: Any) -> int:
        """The code of an element. Raises TypeError if it cannot be hashed."""
        if isinstance(element, int) and _INTERNED // 2 < element < 1 << 63:
            return int(element)
        known = self._codes.get(element)
        if known is None:
            known = self._codes[element] = _INTERNED + len(self._named)
            self._named.append(element)
        return known

    def element(self, code: int) -> Any:
        """The element of a code."""
        place = code - _INTERNED
        return self._named[place] if 0 <= place < len(self._named) else code

    def codes(self, lists: list[list[Any]], count: int) -> Integers:
        """The codes of all elements (``count`` of them) of ``lists``."""
        try:
            made = array("q", chain.from_iterable(lists))
        except (TypeError, OverflowError):
            made = array("q", [self.code(element) for each in lists for element in each])
        assert len(made) == count
        return np.array(made, dtype=np.int64)


def encode(ops: Iterable[Op], budget: Budget) -> Lists:
    """The history of ``ops``, each of which is looked at once and let go. About 2.5 us per transaction.

    Raises:
        HistoryError: an operation is no list of ["append", key, element] and ["r", key, list or null].
        OverBudgetError: a limit was reached.
    """
    recorder, names = Recorder(), Names()
    counts, tags, keys, values = array("i"), array("B"), array("i"), array("q")
    codes: dict[Any, int] = {}
    longest: list[list[Any]] = []
    reader: list[int] = []
    appender: list[int] = []  # of each key, the last operation that appended to it
    apart: dict[int, list[Any]] = {}
    for number, op in enumerate(ops):
        if not number & _CHECK_EVERY:
            budget.check()
        recorder.add(op)
        begin = len(tags)
        try:
            for function, name, value in op.value if op.outcome == "ok" else _attempted(op):
                key = codes.get(name)
                if key is None:
                    key = codes[name] = len(longest)
                    longest.append([])
                    reader.append(-1)
                    appender.append(-1)
                if function == "append":
                    try:
                        values.append(value)
                    except (TypeError, OverflowError):
                        values.append(names.code(value))
                    keys.append(key)
                    tags.append(APPEND)
                    appender[key] = number
                elif function == "r":
                    tag, seen = READ, _EMPTY if value is None else value
                    if type(seen) is not list:
                        raise _senseless(op)
                    whole = seen
                    if appender[key] == number:
                        mine = range(begin, len(tags))
                        own = [values[i] for i in mine if tags[i] == APPEND and keys[i] == key]
                        tag, seen = _external(whole, own, names)
                    length, known = len(seen), longest[key]
                    if length <= len(known):
                        if seen != known[:length]:
                            tag = APART
                    elif seen[: len(known)] == known:
                        longest[key] = seen
                        reader[key] = number
                    else:
                        tag = APART
                    if tag != READ:
                        apart[len(tags)] = whole
                    values.append(length)
                    keys.append(key)
                    tags.append(tag)
                else:
                    raise _senseless(op)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise _senseless(op) from error
        counts.append(len(tags) - begin)
    transactions, rows = recorder.finish()
    budget.check()
    return _finish(transactions, rows, counts, tags, keys, values, list(codes), longest, reader, apart, names)


_EMPTY: Final[list[Any]] = []


def _attempted(op: Op) -> list[Any]:
    """What an operation that is not ok may have appended. Its reads saw nothing that is known, and need not say so."""
    if any(micro[0] not in ("append", "r") for micro in op.value):
        raise _senseless(op)
    return [micro for micro in op.value if micro[0] == "append"]


def _external(value: list[Any], own: list[int], names: Names) -> tuple[int, list[Any]]:
    """What a read saw of others: the list without its longest tail of elements of ``own``, which its transaction had
    appended before (codes); and ``READ`` if that tail is all that it had appended, else ``STRANGE``.
    """
    base = len(value)
    while base and names.code(value[base - 1]) in own:
        base -= 1
    tail = [names.code(element) for element in value[base:]]
    return READ if tail == own else STRANGE, value[:base]


def _senseless(op: Op) -> HistoryError:
    return HistoryError(
        f"{op.name} is {op.value!r}, which is no list-append transaction: a list of "
        '["append", key, element] and ["r", key, list or null] was expected, with numbers or strings for keys and '
        "elements",
        "",
        op.line,
    )


def _finish(
    transactions: Transactions,
    rows: Codes,
    counts: array[int],
    tags: array[int],
    keys: array[int],
    values: array[int],
    names_of_keys: list[Any],
    longest: list[list[Any]],
    reader: list[int],
    apart: dict[int, list[Any]],
    names: Names,
) -> Lists:
    lengths = np.array(counts, dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    begin, end = np.empty_like(ends), np.empty_like(ends)
    begin[rows], end[rows] = ends - lengths, ends
    start = np.zeros(len(longest) + 1, dtype=np.int64)
    np.cumsum([len(each) for each in longest], out=start[1:])
    readers = np.array(reader, dtype=np.int32)
    readers[readers >= 0] = rows[readers[readers >= 0]]
    return Lists(
        transactions=transactions,
        begin=begin,
        end=end,
        of=np.repeat(rows, lengths),
        tag=np.array(tags, dtype=np.uint8),
        key=np.array(keys, dtype=np.int32),
        value=np.array(values, dtype=np.int64),
        keys=names_of_keys,
        longest=longest,
        reader=readers,
        apart=apart,
        elements=names.codes(longest, int(start[-1])),
        start=start,
        names=names,
    )
