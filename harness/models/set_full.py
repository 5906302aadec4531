"""Every read of a set against every element: stable, lost or never read; stale reads; and linearizability."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.budget import Budget, OverBudgetError
from harness.evidence import NEVER, Edge, Evidence, Shown
from harness.models.base import concluded, shown
from harness.models.elements import MEANINGS, Adds, evidence, is_add, listed, members, named, shown_read
from harness.recorded import Op
from harness.verdict import Verdict

NO_LOST_ADDS: Final = "no-lost-adds"
LINEARIZABLE: Final = "linearizable"

Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class _Numbers(dict[Hashable, int]):
    """Elements numbered from 0 as they are met."""

    def __missing__(self, element: Hashable) -> int:
        number = self[element] = len(self)
        return number


class _Read(NamedTuple):
    """An ok read: the numbers of its elements, each once, and how it is shown."""

    members: npt.NDArray[np.int32]
    shown: Shown


class _Timelines(NamedTuple):
    """For every element (by number) what reads say of it. Reads are indices in the order of their invocation, -1 if
    there is none: the last that has it, the last that has it not, the first to complete that has it. ``known``: the
    position from which it is certainly there.
    """

    present: Positions
    absent: Positions
    first: Positions
    known: Positions
    possible: Flags
    stable: Flags
    lost: Flags
    stale: Flags


class _History(NamedTuple):
    """Everything that was recorded. ``reads`` in the order of their invocation."""

    adds: Adds
    numbers: _Numbers
    reads: list[_Read]
    duplicates: list[tuple[_Read, list[Hashable]]]


def check(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether a set keeps what is added to it, by every ok read that there is.

    Definitions. An element is *known* from the completion of the first add of it that was acknowledged, or of the first
    read that has it, whichever is earlier. It is *stable* if a read has it and no read that began later has it not;
    *lost* if it is known, and a read that began after that has it not, and no read that began later has it; else it
    was *never read*. A read that began when an element was known, and has it not, is *stale*. ``no-lost-adds``: no
    element is lost, no read has an element twice, nor one of which every add failed (aborted read), nor one that
    nobody had tried to add before the read completed (phantom). ``linearizable``: there is an order of all operations,
    each at one moment between its invocation and its completion, in which every read has exactly the elements added
    before it. Without an ok read, or if no element is stable, UNKNOWN. As ``jepsen.checker/set-full``, which does not
    look at phantoms and aborted reads, counts stale reads by the clock from 1 ms on, and takes for linearizable what
    has none; that is not enough, as two reads may see two adds in opposite orders.

    Linearizable means no lost element, no stale read and none of the above; the reads, by size, a chain of inclusions;
    and no element first seen in a later read of the chain whose add completed before the add of one first seen
    earlier began. This is exact: an element is in a read or is not, so that each pair of an add and a read is ordered;
    these edges make stages (reads of the same elements; the elements that the next larger read has beyond them) that
    are totally ordered, and a cycle needs an edge of real time that leads back. Read to read or read to add that is a
    lost element or a stale read, add to read a phantom, add to add the last condition.

    Complexity: O(adds log adds + all elements of all reads).

    Does not verify: that elements can be removed; with ``no-lost-adds`` that reads agree with each other on an order.
    """
    history = _History(Adds({}, {}, {}), _Numbers(), [], [])
    found: list[Evidence] = []
    doubt = ""
    counts: dict[str, int] = {}
    try:
        _take_in(operations, history, budget)
        lines = _timelines(history, budget)
        counts = {
            "stable": int(lines.stable.sum()),
            "lost": int(lines.lost.sum()),
            "stale": int(lines.stale.sum()),
            "never-read": int((lines.possible & ~lines.stable & ~lines.lost).sum()),
        }
        found = _evidence(history, lines, property_name, budget)
        if not history.reads:
            doubt = "the set was never read, so that nothing can be said; record reads of the whole set, too"
        elif not lines.stable.any():
            doubt = "no element was seen by a read that began last: nothing shows that adds have any effect"
    except OverBudgetError as error:
        doubt = f"{error} when {len(history.reads)} reads were recorded: nothing was decided"
    checked = {"adds": len(history.adds.possible), "reads": len(history.reads), **counts}
    return concluded(property_name, found, checked, doubt)


def _take_in(operations: Iterable[Op], history: _History, budget: Budget) -> None:
    for op in budget.watch(operations):
        if is_add(op):
            history.adds.note(op)
        elif op.outcome == "ok":
            budget.check()  # a read may be long
            elements = members(op)
            distinct = set(elements)
            numbers = np.fromiter(map(history.numbers.__getitem__, elements), np.int32, len(elements))
            read = _Read(numbers, shown_read(op, elements))
            if len(distinct) < len(elements):
                twice = [each for each in distinct if elements.count(each) > 1]
                read = _Read(np.unique(numbers), read.shown)
                history.duplicates.append((read, twice))
            history.reads.append(read)
    for element in history.adds.possible:
        history.numbers[element]  # every element gets a number
    history.reads.sort(key=lambda read: read.shown.invoked)


def _timelines(history: _History, budget: Budget) -> _Timelines:
    count, reads = len(history.numbers), history.reads
    present, absent, first = (np.full(count, -1, np.int64) for _ in range(3))
    for index, read in enumerate(reads):
        present[read.members] = index
    for index in sorted(range(len(reads)), key=lambda index: -reads[index].shown.completed):
        first[reads[index].members] = index
    held, everywhere = np.zeros(count, np.bool_), np.arange(count)
    for index in range(len(reads) - 1, -1, -1):
        if index % 256 == 0:
            budget.check()
        held[reads[index].members] = True
        kept = held[everywhere]
        absent[everywhere[~kept]] = index
        everywhere = everywhere[kept]
        held[reads[index].members] = False
    invoked = np.array([*(read.shown.invoked for read in reads), -1], np.int64)
    completed = np.array([*(read.shown.completed for read in reads), NEVER], np.int64)
    known = completed[first]
    possible = np.zeros(count, np.bool_)
    for element, op in history.adds.acknowledged.items():
        number = history.numbers[element]
        known[number] = min(known[number], op.completed)
    possible[[history.numbers[element] for element in history.adds.possible]] = True
    after = invoked[absent] > known
    stable = possible & (present >= 0) & (invoked[absent] < invoked[present])
    lost = possible & after & (invoked[absent] > invoked[present])
    return _Timelines(present, absent, first, known, possible, stable, lost, stable & after)


def _evidence(history: _History, lines: _Timelines, property_name: str, budget: Budget) -> list[Evidence]:
    elements = list(history.numbers)
    found = [_missing("lost-add", history, lines, lines.lost, elements)] if lines.lost.any() else []
    if property_name == LINEARIZABLE and lines.stale.any():
        found.append(_missing("stale-read", history, lines, lines.stale, elements))
    if history.duplicates:
        read, twice = history.duplicates[0]
        sentences = [f"{read.shown.name} read {listed(twice)} more than once."]
        if len(history.duplicates) > 1:
            sentences.append(f"{len(history.duplicates)} reads have such elements.")
        found.append(evidence("duplicate-elements", [read.shown], sentences))
    wrong: dict[str, list[Hashable]] = {}
    for element, index in zip(elements, lines.first.tolist(), strict=True):
        if index >= 0 and (anomaly := history.adds.fault(element, history.reads[index].shown.completed)):
            wrong.setdefault(anomaly, []).append(element)
    for anomaly in sorted(wrong):
        index = int(lines.first[history.numbers[wrong[anomaly][0]]])
        found.append(history.adds.unfounded(anomaly, history.reads[index].shown, wrong[anomaly]))
    if property_name == LINEARIZABLE and not found:
        found = _misordered(history, elements, budget)
    return found


def _missing(
    anomaly: str, history: _History, lines: _Timelines, which: Flags, elements: list[Hashable]
) -> Evidence:
    """Of elements that are lost or stale: the one that was known first."""
    numbers = np.flatnonzero(which)
    number = int(numbers[np.argmin(lines.known[numbers])])
    element = elements[number]
    read = history.reads[int(lines.absent[number])].shown
    add = history.adds.possible[element]
    acknowledged = history.adds.acknowledged.get(element)
    operations = [read, shown(add, f"add {named(add.argument)}")]
    if acknowledged is not None and acknowledged.completed == lines.known[number]:
        operations[1] = shown(acknowledged, f"add {named(acknowledged.argument)}")
        sentences = [
            f"{acknowledged.name} added {named(element)} and was acknowledged before {read.name} began."
        ]
    else:
        seen = history.reads[int(lines.first[number])].shown
        operations.append(seen)
        sentences = [
            f"{seen.name} read {named(element)}, which {add.name} adds, and completed before {read.name} began."
        ]
    sentences.append(f"{read.name} does not have {named(element)}.")
    if lines.present[number] < 0:
        sentences.append("No read has it.")
    else:
        last = history.reads[int(lines.present[number])].shown
        operations.append(last)
        sentences.append(
            f"Nor has any read that began later than {last.name}, the last to have it."
            if anomaly == "lost-add"
            else f"It was not lost: {last.name} has it."
        )
    if len(numbers) > 1:
        every = listed([elements[each] for each in numbers.tolist()])
        sentences.append(f"In all there are {len(numbers)} such elements: {every}.")
    return evidence(anomaly, operations, sentences)


def _misordered(history: _History, elements: list[Hashable], budget: Budget) -> list[Evidence]:
    """What is not linearizable although every element alone is: the reads are no chain, or the adds stand in no order
    that agrees with real time.
    """
    stage = np.full(len(elements), -1, np.int64)
    chain: list[_Read] = []
    for step, read in enumerate(sorted(history.reads, key=lambda read: len(read.members))):
        if step % 256 == 0:
            budget.check()
        fresh = read.members[stage[read.members] < 0]
        before = len(chain[-1].members) if chain else 0
        if before + len(fresh) != len(read.members):
            here, there = set(read.members.tolist()), set(chain[-1].members.tolist())
            return [_fork(history, elements, (chain[-1], min(there - here)), (read, min(here - there)))]
        stage[fresh] = len(chain)
        if len(fresh) or not chain:
            chain.append(read)
    invoked = np.full(len(elements), -1, np.int64)
    completed = np.full(len(elements), NEVER, np.int64)
    for element, op in history.adds.possible.items():
        invoked[history.numbers[element]] = op.invoked
    for element, op in history.adds.acknowledged.items():
        completed[history.numbers[element]] = op.completed
    unseen = (stage < 0) & (completed < NEVER)
    stage[unseen] = len(chain)
    order = np.argsort(stage, kind="stable")
    order = order[stage[order] >= 0]
    latest = np.maximum.accumulate(invoked[order])
    earlier = np.searchsorted(stage[order], stage[order]) - 1
    overtaken = (earlier >= 0) & (latest[earlier] > completed[order])
    if not overtaken.any():
        return []
    place = int(np.argmax(overtaken))
    early = order[place]
    late = order[int(np.argmax(invoked[order[: earlier[place] + 1]]))]
    return [_overtaken(history, elements, chain[int(stage[late])], int(early), int(late))]


def _fork(
    history: _History, elements: list[Hashable], one: tuple[_Read, int], other: tuple[_Read, int]
) -> Evidence:
    """Two reads, and the element that each of them alone has."""
    left, right = one[0].shown, other[0].shown
    add_a, add_b = (history.adds.possible[elements[number]] for number in (one[1], other[1]))
    a, b = named(add_a.argument), named(add_b.argument)
    edges = (
        Edge(left.name, add_b.name, "rw", f"{left.name} read the set without {b}, which {add_b.name} added."),
        Edge(add_b.name, right.name, "wr", f"{right.name} read {b}, which {add_b.name} added."),
        Edge(
            right.name, add_a.name, "rw", f"{right.name} read the set without {a}, which {add_a.name} added."
        ),
        Edge(add_a.name, left.name, "wr", f"{left.name} read {a}, which {add_a.name} added."),
    )
    sentences = (
        f"{left.name} read {a} but not {b}, so that {a} was added first.",
        f"{right.name} read {b} but not {a}, so that {b} was added first.",
        "Both cannot be.",
    )
    operations: list[Any] = [left, right, shown(add_a, f"add {a}"), shown(add_b, f"add {b}")]
    operations.sort(key=lambda each: each.invoked)
    return Evidence("long-fork", MEANINGS["long-fork"], tuple(operations), sentences, edges)


def _overtaken(history: _History, elements: list[Hashable], read: _Read, early: int, late: int) -> Evidence:
    """A read that has the element added late, and not the one whose add had completed before."""
    first, second = history.adds.acknowledged[elements[early]], history.adds.possible[elements[late]]
    missing, seen, by = named(first.argument), named(second.argument), read.shown.name
    edges = (
        Edge(first.name, second.name, "realtime", f"{first.name} completed before {second.name} began."),
        Edge(second.name, by, "wr", f"{by} read {seen}, which {second.name} added."),
        Edge(by, first.name, "rw", f"{by} read the set without {missing}, which {first.name} added."),
    )
    sentences = (
        f"{first.name} added {missing} and completed before {second.name} began to add {seen}.",
        f"{by} read {seen} but not {missing}.",
        "Whoever sees the second must see the first.",
    )
    operations: list[Any] = [read.shown, shown(first, f"add {missing}"), shown(second, f"add {seen}")]
    operations.sort(key=lambda each: each.invoked)
    return Evidence("G-single-realtime", MEANINGS["G-single-realtime"], tuple(operations), sentences, edges)
