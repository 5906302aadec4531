"""Sets: adds of single elements and reads of them all; nothing that was added may be lost ("set" and "set-full")."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

from harness.budget import Budget, OverBudgetError
from harness.evidence import Evidence
from harness.models import set_full
from harness.models.base import Model, Shape, concluded, shown
from harness.models.elements import SHOWN_MAX, Adds, evidence, is_add, listed, members, named, shown_read
from harness.recorded import Op
from harness.verdict import Verdict


def check(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether the last read of a set has what was added.

    Definition (``no-lost-adds``): the last ok read to complete has every element that an add which was acknowledged
    before that read began has added (else: lost), and no element of which every add failed (aborted read), or that
    nobody had tried to add before the read completed (phantom). An element whose add is indeterminate may be there or
    not. Where an acknowledged element is absent, and its add was acknowledged only after the last read began, that
    read is no final one and the absence proves nothing: UNKNOWN, if nothing else is wrong. So is a set that was never
    read. As ``jepsen.checker/set``, which takes for granted that the final read is alone, and does not look at failed
    adds.

    Complexity: O(adds + elements of the last read).

    Does not verify: any read but the last; that an element is there only once; what ``set-full`` does.
    """
    adds = Adds({}, {}, {})
    last: Op | None = None
    reads = tried = 0
    doubt = ""
    try:
        for op in budget.watch(operations):
            if is_add(op):
                tried += 1
                adds.note(op)
            elif op.outcome == "ok":
                reads += 1
                last = op
    except OverBudgetError as error:
        doubt = f"{error} before the last read was reached: nothing was decided"
    found: list[Evidence] = []
    if not doubt and (last is None or last.value is None):
        doubt = "the set was never read, so that nothing can be said; end the history with a read of the whole set"
    elif last is not None and not doubt:
        elements = set(members(last))
        found = _lost(last, elements, adds) + _unfounded(last, elements, adds)
        late = [op for element, op in adds.acknowledged.items() if element not in elements]
        if late and not found:
            doubt = (
                f"{last.name}, the last read, began before {late[0].name} was acknowledged and does not have its "
                f"element {named(late[0].argument)}: that proves nothing; read again when all adds are complete, or "
                "check set-full"
            )
    return concluded(property_name, found, {"adds": tried, "reads": reads}, doubt)


def _lost(last: Op, elements: set[Hashable], adds: Adds) -> list[Evidence]:
    lost = [
        op
        for element, op in adds.acknowledged.items()
        if element not in elements and op.completed < last.invoked
    ]
    if not lost:
        return []
    add = lost[0]
    sentences = [
        f"{add.name} added {named(add.argument)} and was acknowledged before {last.name} began.",
        f"{last.name}, the last read, has {len(elements)} elements, and {named(add.argument)} is not one of them.",
    ]
    if len(lost) > 1:
        sentences.append(f"In all {len(lost)} are lost: {listed([op.argument for op in lost])}.")
    operations = [shown(op, f"add {named(op.argument)}", "lost") for op in lost[:SHOWN_MAX]]
    return [evidence("lost-add", [*operations, shown_read(last, elements, "the last read")], sentences)]


def _unfounded(last: Op, elements: set[Hashable], adds: Adds) -> list[Evidence]:
    wrong: dict[str, list[Hashable]] = {}
    for element in elements:
        if anomaly := adds.fault(element, last.completed):
            wrong.setdefault(anomaly, []).append(element)
    read = shown_read(last, elements, "the last read")
    return [adds.unfounded(anomaly, read, wrong[anomaly]) for anomaly in sorted(wrong)]


def _fits(shape: Shape) -> bool:
    return shape.functions <= {"add", "read"} and "add" in shape.functions and shape.reads <= {"list", "null"}


SET: Final = Model("set", "adds to a set and a last read of it", ("no-lost-adds",), check, _fits)
SET_FULL: Final = Model(
    "set-full",
    "adds to a set and reads of it at any time",
    (set_full.NO_LOST_ADDS, set_full.LINEARIZABLE),
    set_full.check,
    _fits,
)
