"""The elements of a set: what was tried to be added and how that ended, and what a read saw."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Final, NamedTuple

from harness.errors import HistoryError
from harness.evidence import Evidence, Shown
from harness.models.base import frozen, shown
from harness.recorded import Op

MEANINGS: Final = {
    "lost-add": "An element was added, or even seen, and later reads do not have it.",
    "stale-read": "A read does not have an element that was there before it began.",
    "duplicate-elements": "A read has an element more than once.",
    "aborted-read": "A read has an element although every attempt to add it failed.",
    "phantom-element": "A read has an element that nobody had tried to add by then.",
    "long-fork": "Two reads saw two adds in opposite orders.",
    "G-single-realtime": "A read saw one add without another that had completed before the first one began.",
}
SHOWN_MAX: Final = 8


class Adds(NamedTuple):
    """What was tried, by element: the first to be acknowledged; the first invoked that did not fail; one that failed.

    Adding an element again changes nothing, so that all attempts together are one add that begins with the first
    that did not fail, and is complete with the first that was acknowledged.
    """

    acknowledged: dict[Hashable, Op]
    possible: dict[Hashable, Op]
    failed: dict[Hashable, Op]

    def note(self, op: Op) -> None:
        """Take in one add. They come in the order of their completion."""
        element = frozen(op.argument)
        if op.outcome == "fail":
            self.failed.setdefault(element, op)
            return
        other = self.possible.get(element)
        if other is None or op.invoked < other.invoked:
            self.possible[element] = op
        if op.outcome == "ok":
            self.acknowledged.setdefault(element, op)

    def fault(self, element: Hashable, completed: int) -> str:
        """Which anomaly it is that a read which ended at ``completed`` has the element: empty if it is none."""
        possible = self.possible.get(element)
        if possible is not None and possible.invoked < completed:
            return ""
        return "aborted-read" if possible is None and element in self.failed else "phantom-element"

    def unfounded(self, anomaly: str, read: Shown, wrong: Sequence[Hashable]) -> Evidence:
        """The evidence for elements that ``fault`` objects to; ``read`` has the first of them."""
        element = wrong[0]
        attempt = (self.failed if anomaly == "aborted-read" else self.possible).get(element)
        if attempt is None:
            reason = f"{read.name} read {named(element)}, which nobody tried to add."
        elif anomaly == "aborted-read":
            reason = f"{read.name} read {named(element)}, but {attempt.name}, which was to add it, failed."
        else:
            reason = f"{read.name} read {named(element)} and completed before {attempt.name} began to add it."
        sentences = [reason]
        if len(wrong) > 1:
            sentences.append(f"In all there are {len(wrong)} such elements: {listed(wrong)}.")
        operations = [read, *([] if attempt is None else [shown(attempt, f"add {named(attempt.argument)}")])]
        return evidence(anomaly, operations, sentences)


def is_add(op: Op) -> bool:
    """Whether it is an add; else it is a read.

    Raises:
        HistoryError: it is neither.
    """
    if op.f not in ("add", "read"):
        raise HistoryError(f"a set has adds and reads, and no {op.f!r}", "", op.line)
    return op.f == "add"


def members(read: Op) -> tuple[Hashable, ...]:
    """The elements that an ok read saw, each of them hashable; null is the empty set.

    Raises:
        HistoryError: the read saw no collection.
    """
    value: Any = read.value
    if value is None:
        return ()
    if not isinstance(value, list | tuple | set | frozenset):
        raise HistoryError(
            f"a read of a set sees a collection of elements, and not {value!r:.60}", "", read.line
        )
    elements = tuple(value)
    try:
        hash(elements)
    except TypeError:
        return tuple(frozen(each) for each in elements)
    return elements


def named(element: Any) -> str:
    """An element as it is written in a sentence: lists as "[3 5]"."""
    if isinstance(element, list | tuple):
        return f"[{' '.join(map(named, element))}]"
    return str(element)


def listed(elements: Collection[Any]) -> str:
    """A few of the elements, in order where they have one: "3 5 8 ..."."""
    try:
        ordered = sorted(elements)
    except TypeError:
        ordered = list(elements)
    return " ".join(map(named, ordered[:SHOWN_MAX])) + (" ..." if len(ordered) > SHOWN_MAX else "")


def shown_read(read: Op, elements: Collection[Hashable], role: str = "") -> Shown:
    """A read as evidence shows it: its elements if they are few, else their number."""
    few = len(elements) <= SHOWN_MAX
    return shown(read, f"read {{{listed(elements)}}}" if few else f"read {len(elements)} elements", role)


def evidence(anomaly: str, operations: Sequence[Shown], sentences: Sequence[str]) -> Evidence:
    """Evidence without a cycle, its operations in order."""
    ordered = sorted({each.invoked: each for each in operations}.values(), key=lambda each: each.invoked)
    return Evidence(anomaly, MEANINGS[anomaly], tuple(ordered), tuple(sentences))
