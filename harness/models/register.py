"""One register: read and write, and with cas (compare and set) the cas-register."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

from harness.linear.base import (
    ANY,
    REFUSED,
    SAME,
    UNKNOWN,
    Call,
    Sequential,
    State,
    freeze,
    malformed_operation,
    show,
    unknown_operation,
)
from harness.linear.check import checker
from harness.models.base import Model, Shape
from harness.recorded import Op

_PAIR: Final = 2
_REFUSED: Final = "refused"


class Register(Sequential):
    """A register that holds nil at first. ``read`` returns what it holds, ``write v`` makes it hold v; ``cas [old
    new]`` makes it hold new if it holds old. A cas that failed had no effect, and says nothing: stores also fail a cas
    for other reasons than its value. Only where the history says that it was *refused* (a field "refused", as the
    reader of etcd's logs adds it) did the register not hold old.

    Several registers are told apart by a field "key", or by values that are all ``[key value]`` as jepsen.independent
    records them: the reads are invoked with ``[key nil]``, and a cas with ``[key [old new]]``.
    """

    noun = "register"

    def __init__(self, name: str, has_cas: bool) -> None:
        self.name = name
        self.has_cas = has_cas

    def call(self, op: Op) -> Call | None:
        """See ``Sequential``. An ``info`` read is left out, a failed operation too."""
        if op.f == "write":
            value = freeze(op.argument)
            return None if op.outcome == "fail" else Call("write", value, needs=ANY, leaves=value)
        if op.f == "read":
            if op.outcome != "ok":
                return None
            value = freeze(op.value)
            return Call("read", seen=value, needs=value, leaves=SAME)
        if op.f == "cas" and self.has_cas:
            if not _is_pair(op.argument):
                raise malformed_operation(op, "[old new]")
            old, new = map(freeze, op.argument)
            if op.outcome == "fail":
                return Call("cas", (old, new), _REFUSED, UNKNOWN, SAME) if op.extra.get("refused") else None
            return Call("cas", (old, new), None, old, SAME if old == new else new)
        raise unknown_operation(self.name, "read, write and cas" if self.has_cas else "read and write", op)

    def step(self, state: State, call: Call) -> State:
        """See ``Sequential``: only what a refused cas can follow on must be asked."""
        assert call.seen == _REFUSED
        assert isinstance(call.argument, tuple)
        return REFUSED if state == call.argument[0] else state

    def partition(self, ops: Sequence[Op]) -> dict[Hashable, list[Op]]:
        """See ``Sequential`` and the class."""
        if any("key" in op.extra for op in ops) or not _is_independent(ops):
            return super().partition(ops)
        parts: dict[Hashable, list[Op]] = {}
        for op in ops:
            seen = op.value[1] if _is_pair(op.value) else op.value
            alone = Op(
                op.number,
                op.process,
                op.f,
                op.outcome,
                op.argument[1],
                seen,
                op.invoked,
                op.completed,
                op.line,
                op.line_completed,
                op.extra,
            )
            parts.setdefault(freeze(op.argument[0]), []).append(alone)
        return parts

    def says(self, call: Call) -> str:
        """See ``Sequential``."""
        if call.f == "read":
            return f"read {show(call.seen)}"
        if call.f == "cas" and isinstance(call.argument, tuple):
            refused = " (refused)" if call.seen == _REFUSED else ""
            return f"cas {show(call.argument[0])} to {show(call.argument[1])}{refused}"
        return f"write {show(call.argument)}"


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == _PAIR


def _is_independent(ops: Sequence[Op]) -> bool:
    """Whether all values can only be ``[key value]``: there is a read or a cas, and a plain one is not invoked so."""
    told = False
    for op in ops:
        if not _is_pair(op.argument):
            return False
        if op.f == "read":
            if op.argument[1] is not None:
                return False
            told = True
        elif op.f == "cas":
            if not _is_pair(op.argument[1]):
                return False
            told = True
    return told


def _fits(known: frozenset[str], needed: frozenset[str], shape: Shape) -> bool:
    return needed <= shape.functions <= known and not shape.micros


_REGISTER: Final = Register("register", False)
_CAS_REGISTER: Final = Register("cas-register", True)

REGISTER: Final = Model(
    "register",
    "one register, or one for each key: read, write",
    ("linearizable",),
    checker(_REGISTER),
    lambda shape: _fits(frozenset({"read", "write"}), frozenset({"write"}), shape),
)
CAS_REGISTER: Final = Model(
    "cas-register",
    "one register, or one for each key: read, write, cas [old new]",
    ("linearizable",),
    checker(_CAS_REGISTER),
    lambda shape: _fits(frozenset({"read", "write", "cas"}), frozenset({"cas"}), shape),
)
