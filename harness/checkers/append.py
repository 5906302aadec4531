"""Append: lists hold exactly the committed appends, in commit order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from harness.checkers.findings import Findings
from harness.checkers.operation import Operation
from harness.checkers.order import Chain, Order
from harness.history import Read, describe_id
from harness.verdict import Verdict

NAME: Final = "append"
WORKLOAD: Final = "append"


def check(order: Order) -> Verdict:
    """Every list read is its predecessor and the elements committed since, each once, in the order of T.

    Definition: a write appends one unique element, its own id, to the list that it read, or begins a list
    where there is none; so a version holds its whole past (list-append histories: Kingsbury & Alvaro, "Elle:
    inferring isolation anomalies from experimental observations", 2020). Versions are compared in commit
    order: every version must have the earlier ones as a prefix, and then all elements that were committed
    since; only a deletion of the item lets a new list begin. Elements of killed writers whose T is unknown
    may stand between others, but then in every later version.
    Complexity: O(total length of the distinct lists read).

    Does not verify: lists whose last element has no known T; which elements a killed deletion of the item
    removed; elements that belong to a killed write whose version of another item is missing.
    """
    found = Findings(NAME)
    if not order.revealed:
        found.unknown("the engine reveals no commit order")
        return found.verdict({"lists": 0})
    versions = _versions(order, found)
    for item, lists in versions.items():
        _check_item(order, item, lists, found)
    count = sum(len(lists) for lists in versions.values())
    if not count and not found.any:
        found.unknown("no list was read")
    return found.verdict({"items": len(versions), "lists": count})


class _Version(NamedTuple):
    """A distinct version that was read: its T, its elements, and who read it."""

    sequence: int
    elements: Sequence[int]
    by: Operation


def _versions(order: Order, found: Findings) -> dict[str, list[_Version]]:
    """The distinct lists read of each item, by T; what one read alone shows wrong is reported."""
    versions: dict[str, dict[int, _Version]] = {}
    for op in order.operations:
        if op.outcome != "ok":
            continue
        for read in op.reads:
            elements = read.value
            if type(elements) is not list or read.writer is None:
                continue
            sequence = order.placed.get(read.writer)
            if sequence is None:
                continue
            of_item = versions.setdefault(read.item, {})
            known = of_item.get(sequence)
            if known is None:
                of_item[sequence] = _Version(sequence, elements, op)
                _check_alone(order, op, read, found)
            elif known.elements != elements:
                found.violation(
                    f"{read.item} by {order.name(read.writer)} holds {_shown(elements)} in {op}, but "
                    f"{_shown(known.elements)} in {known.by}",
                    by=op,
                    item=read.item,
                    expected="one content for each version",
                )
    return {item: [of_item[t] for t in sorted(of_item)] for item, of_item in versions.items()}


def _check_alone(order: Order, op: Operation, read: Read, found: Findings) -> None:
    """What a list must be by itself: unique elements of committed appends, the last one its writer's."""
    elements: list[int] = read.value
    if not elements or elements[-1] != read.writer:
        last = describe_id(elements[-1]) if elements else "nothing"
        found.violation(
            f"{read.item} in {op} ends in {last}, but {order.name(read.writer)} wrote it",
            by=op,
            item=read.item,
        )
    if len(set(elements)) != len(elements):
        twice = next(element for index, element in enumerate(elements) if element in elements[:index])
        found.violation(
            f"{read.item} in {op} holds the element of {order.name(twice)} twice",
            by=op,
            item=read.item,
            expected="every element once",
        )
    for element in elements:
        if element in order.placed:
            continue  # whether it belongs here, and where, is settled by the chain of commits
        writer = order.writes.get(element)
        if writer is None or writer.outcome == "fail" or read.item not in writer.writes:
            found.violation(
                f"{read.item} in {op} holds the element of {order.name(element)}, which is not a committed "
                "append to it (G1a)",
                by=op,
                item=read.item,
                expected="elements of committed appends only",
            )


def _check_item(order: Order, item: str, versions: list[_Version], found: Findings) -> None:
    """Walk the versions of one item in commit order."""
    previous = _Version(0, (), versions[0].by)
    for version in versions:
        problem = _compare(order, item, previous, version)
        if problem:
            found.violation(
                f"{item} in {version.by}: {problem}",
                by=version.by,
                item=item,
                expected="the committed elements, each once, in the order of T",
            )
        previous = version


def _compare(order: Order, item: str, previous: _Version, version: _Version) -> str:
    """Say what is wrong with ``version`` after ``previous``, or nothing."""
    chain, elements = order.chain(item), version.elements
    if not elements:
        return ""
    maybe_deleted = order.may_be_deleted(item, version.by.completed)
    deleted = chain.gone[bisect_right(chain.gone, previous.sequence) :]
    deleted = deleted[: bisect_right(deleted, version.sequence)]
    start = len(previous.elements)
    continues = start > 0 and elements[0] == previous.elements[0]
    if continues and list(elements[:start]) != list(previous.elements):
        return f"holds {_shown(elements)}, but {_before(previous)}: not a prefix"
    if continues and deleted:
        return f"continues a list that was deleted at T={deleted[0]}"
    if start and not (continues or deleted or maybe_deleted):
        return f"begins anew with {_shown(elements)}, but {_before(previous)}: lost"
    fresh = elements[start:] if continues else elements
    placed = [element for element in fresh if element in order.placed]
    committed = [
        chain.committers[index]
        for index in _between(chain, max([previous.sequence, *deleted]), version.sequence)
    ]
    if maybe_deleted and not continues:
        committed = committed[max(0, len(committed) - len(placed)) :]
    if placed == committed:
        return ""
    lost = [element for element in committed if element not in set(placed)]
    if lost:
        return f"the element of {order.name(lost[0])} is lost from {_shown(elements)}"
    wrong = next((p for p, c in zip(placed, committed, strict=False) if p != c), placed[-1])
    return f"the element of {order.name(wrong)} stands at a wrong place in {_shown(elements)}"


def _between(chain: Chain, after: int, until: int) -> range:
    """The indexes of the versions in ``(after, until]``."""
    return range(bisect_right(chain.sequences, after), bisect_right(chain.sequences, until))


def _before(previous: _Version) -> str:
    return f"at T={previous.sequence} the list was {_shown(previous.elements)}"


def _shown(elements: Sequence[int]) -> str:
    """A list in few words: its length and its last three elements."""
    tail = ", ".join(f"{element >> 32}.{element & 0xFFFFFFFF}" for element in elements[-3:])
    dots = "..., " if len(elements) > 3 else ""
    return f"{len(elements)} elements [{dots}{tail}]"
