"""What a model is: a name, the properties that it can be checked for, and a check from operations to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from harness.budget import Budget
from harness.recorded import Op
from harness.verdict import Verdict

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
