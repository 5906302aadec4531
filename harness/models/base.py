"""What a model is: a name, the properties that it can be checked for, and a check from operations to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.budget import Budget
from harness.evidence import Evidence, Shown, finding
from harness.recorded import Op
from harness.verdict import Finding, Outcome, Verdict

Check = Callable[[Iterable[Op], str, Budget], Verdict]
"""``check(operations, property, budget)``. The operations come as ``recorded.pair`` yields them and are looked at once,
so that a history larger than memory may be a generator. The verdict's ``property_name`` is the property. A violation's
findings carry an ``Evidence`` each (``evidence.finding``), the clearest first. Past the budget, or where it cannot be
decided, the outcome is UNKNOWN and a finding says what was decided so far. ``checked`` counts what was looked at.

Raises:
    HistoryError: an operation makes no sense in this model (what was expected, and the line); its ``path`` is left
        empty for the caller to fill in.
"""


class Shape(NamedTuple):
    """What can be seen of a history without knowing its model: the functions of its operations, and the names of the
    micro-operations in them where their values are lists of lists, as in ``[["append", 5, 1], ["r", 5, None]]``.
    """

    functions: frozenset[str]
    micros: frozenset[str]
    keyed: bool
    """Whether operations carry a field "key"."""
    reads: frozenset[str] = frozenset()
    """The kinds of what ok operations called "read" saw: "null", "int", "list" (sets, too), "map", "str" and so on."""
    apart: bool = False
    """Whether every transaction of micro-operations is one write and nothing else, or nothing but reads."""


class Model(NamedTuple):
    """One model. ``properties``: what it can be checked for, the strongest last; ``aliases``: other names of them.
    ``fits``: whether a history of this shape can be one of this model.
    """

    name: str
    summary: str
    properties: tuple[str, ...]
    check: Check
    fits: Callable[[Shape], bool]
    aliases: Mapping[str, str] = {}


def is_transaction(value: Any) -> bool:
    """Whether it is a list of micro-operations: ``[["append", 5, 1], ["r", 5, None]]``."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(
            isinstance(each, list | tuple) and len(each) > 1 and isinstance(each[0], str) for each in value
        )
    )


def frozen(value: Any) -> Hashable:
    """A value that can be a member of a set, equal for equal values: lists become tuples, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(frozen(each) for each in value)
    if isinstance(value, set | frozenset):
        return frozenset(frozen(each) for each in value)
    if isinstance(value, Mapping):
        return frozenset((frozen(key), frozen(each)) for key, each in value.items())
    return value  # type: ignore[no-any-return]


def shown(op: Op, text: str, role: str = "") -> Shown:
    """An operation as evidence shows it."""
    return Shown(
        op.name, str(op.process), op.outcome, text, op.invoked, op.completed, op.line, op.line_completed, role
    )


def concluded(
    property_name: str, found: Sequence[Evidence], checked: dict[str, int], doubt: str = ""
) -> Verdict:
    """The verdict over what was ``found``: a violation if anything was; else UNKNOWN if there is a ``doubt``, which is
    a sentence that says what could not be decided; else OK.
    """
    if found:
        findings = tuple(finding(property_name, evidence) for evidence in found)
        return Verdict(property_name, Outcome.VIOLATION, findings, checked)
    if doubt:
        return Verdict(property_name, Outcome.UNKNOWN, (Finding(property_name, doubt),), checked)
    return Verdict(property_name, Outcome.OK, (), checked)
