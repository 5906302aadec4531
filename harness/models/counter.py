"""Counter: what a read may see, given the adds that must and those that may have happened by then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from harness.budget import Budget, OverBudgetError
from harness.errors import HistoryError
from harness.evidence import Evidence
from harness.models.base import Model, Shape, concluded, shown
from harness.recorded import Op
from harness.verdict import Verdict

BOUNDS: Final = "bounds"
MEANING: Final = "A read of the counter that no order of the adds explains: it is too low or too high."
_SHOWN: Final = 8


class _Sums:
    """The sum of the amounts that stand before a position."""

    def __init__(self, amounts: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(amounts)
        self._positions = np.array([position for position, _ in ordered], dtype=np.int64)
        self._sums = [0, *accumulate(amount for _, amount in ordered)]

    def before(self, positions: Sequence[int]) -> list[int]:
        """One sum for each position."""
        return [self._sums[place] for place in np.searchsorted(self._positions, positions).tolist()]


def check(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether every ok read of a counter, which begins at zero, is within bounds.

    Definition (``bounds``): before an ok read began the ok adds that had completed had happened; of the other adds that
    were invoked before it completed, and that did not fail, any may have happened. The read must be at least the lowest
    and at most the highest sum that these allow: the positive adds that had happened and all negative ones that may
    have, to the negative adds that had happened and all positive ones that may have. As ``jepsen.checker/counter``,
    which allows no negative adds; like there a history of adds alone, with no read that could be wrong, is OK. A
    history in which nothing succeeded is UNKNOWN.

    Complexity: O(n log n) for n operations, which are kept.

    Does not verify: that a sum within the bounds can be made of the adds (2 lies between 0 and 5), nor that reads go
    together (that a later one does not go back): it is weaker than linearizability.
    """
    adds: list[Op] = []
    reads: list[Op] = []
    succeeded = 0
    doubt = ""
    found: list[Evidence] = []
    try:
        for op in budget.watch(operations):
            if op.f not in ("add", "read"):
                raise HistoryError(f"a counter has adds and reads, and no {op.f!r}", "", op.line)
            succeeded += op.outcome == "ok"
            if op.f == "add" and op.outcome != "fail":
                _whole(op, op.argument)
                adds.append(op)
            elif op.f == "read" and op.outcome == "ok":
                _whole(op, op.value)
                reads.append(op)
        budget.check()
        found = _outside(adds, reads)
    except OverBudgetError as error:
        doubt = f"{error}: none of the {len(reads)} reads seen so far was compared with its bounds"
    if not succeeded and not doubt:
        doubt = "no operation on the counter succeeded, so that nothing can be said"
    return concluded(property_name, found, {"reads": len(reads), "adds": len(adds)}, doubt)


def _whole(op: Op, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise HistoryError(f"a counter adds and reads whole numbers, and not {value!r:.60}", "", op.line)


def _outside(adds: Sequence[Op], reads: Sequence[Op]) -> list[Evidence]:
    began, ended = [read.invoked for read in reads], [read.completed for read in reads]
    up_done = _Sums((op.completed, max(op.argument, 0)) for op in adds).before(began)
    down_done = _Sums((op.completed, min(op.argument, 0)) for op in adds).before(began)
    up_tried = _Sums((op.invoked, max(op.argument, 0)) for op in adds).before(ended)
    down_tried = _Sums((op.invoked, min(op.argument, 0)) for op in adds).before(ended)
    outside = [
        (read, up + all_down, down + all_up)
        for read, up, down, all_up, all_down in zip(
            reads, up_done, down_done, up_tried, down_tried, strict=True
        )
        if not up + all_down <= read.value <= down + all_up
    ]
    return [_evidence(*outside[0], adds, len(outside))] if outside else []


def _evidence(read: Op, low: int, high: int, adds: Sequence[Op], count: int) -> Evidence:
    had = [op for op in adds if op.completed < read.invoked]
    may = [op for op in adds if op.completed > read.invoked and op.invoked < read.completed]
    sentences = [
        f"{read.name} read {read.value}, but it must be at least {low} and at most {high}.",
        f"{len(had)} adds had completed before {read.name} began; they make {sum(op.argument for op in had)}.",
        f"{len(may)} more had begun before {read.name} completed and were under way, or never completed.",
        f"Each of these may have happened or not, which leaves from {low} to {high}.",
    ]
    if count > 1:
        sentences.append(f"{count} reads in all are out of bounds; {read.name} is the first.")
    last = sorted(had, key=lambda op: op.completed)[-1:]
    operations = [
        shown(read, f"read {read.value}", "out of bounds"),
        *(shown(op, f"add {op.argument}", "the last that had completed") for op in last),
        *(shown(op, f"add {op.argument}", "may have happened") for op in may[-_SHOWN:]),
    ]
    operations.sort(key=lambda each: each.invoked)
    return Evidence("out-of-bounds", MEANING, tuple(operations), tuple(sentences))


def _fits(shape: Shape) -> bool:
    return shape.functions <= {"add", "read"} and "add" in shape.functions and shape.reads <= {"int"}


COUNTER: Final = Model(
    "counter", "adds to a number and reads of it", (BOUNDS,), check, _fits, {"within-bounds": BOUNDS}
)
