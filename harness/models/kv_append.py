"""Strings by key: get, put and append."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from harness.linear.base import (
    ANY,
    SAME,
    UNKNOWN,
    UNSEEN,
    Call,
    Sequential,
    State,
    System,
    malformed_operation,
    show,
    unknown_operation,
)
from harness.linear.check import checker
from harness.models.base import Model, Shape
from harness.recorded import Op


class KvAppend(Sequential):
    """Per key (the field "key") a string, "" at first. ``get`` returns it, ``put s`` makes it s, ``append s`` adds s at
    its end. A get of nil is a get of "". What failed had no effect.
    """

    name = "kv-append"
    noun = "string"
    initial: State = ""

    def call(self, op: Op) -> Call | None:
        """See ``Sequential``. An ``info`` get is left out, a failed operation too."""
        if op.f == "get":
            if op.outcome != "ok":
                return None
            seen = _string(op, op.value)
            return Call("get", seen=seen, needs=seen, leaves=SAME)
        if op.f not in {"put", "append"}:
            raise unknown_operation(self.name, "get, put and append", op)
        text = _string(op, op.argument)
        if op.outcome == "fail" or (op.f == "append" and not text):
            return None
        return Call(op.f, text, needs=ANY, leaves=text if op.f == "put" else UNKNOWN)

    def step(self, state: State, call: Call) -> State:
        """Append: the only call that does not say what it leaves."""
        return UNSEEN if state is UNSEEN else f"{state}{call.argument}"

    def condense(self, calls: Sequence[Call]) -> System:
        """Strings become small numbers; all that no get saw, not even as the beginning of what it saw, become
        ``UNSEEN``: appended to, they stay so, and no get can tell them apart (see ``_Prefixes``).
        """
        prefixes = _Prefixes(sorted({str(call.seen) for call in calls if call.f == "get"}))
        numbered = {}
        for call in dict.fromkeys(calls):
            if call.f == "get":
                numbered[call] = Call("get", call.seen, None, prefixes.number(str(call.seen)), SAME)
            elif call.f == "put":
                numbered[call] = Call("put", leaves=prefixes.number(str(call.argument)), needs=ANY)
            else:
                numbered[call] = call
        return System(
            prefixes.number(""),
            [numbered[call] for call in calls],
            prefixes.step,
            prefixes.reveal,
            prefixes.origins,
        )

    def says(self, call: Call) -> str:
        """See ``Sequential``."""
        return f"get {show(call.seen)}" if call.f == "get" else f"{call.f} {show(call.argument)}"


class _Prefixes:
    """The beginnings of the strings that gets saw, as numbers: which string (the first of the sorted ones that begins
    so) and how long. So a step costs the length of what is appended, and 10,000 appends are not quadratic, as long as
    they follow what was seen; where they do not, one copy and one binary search.
    """

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    def number(self, text: str) -> State:
        """The number of ``text``, or ``UNSEEN`` if no string that was seen begins with it."""
        which = bisect_left(self._seen, text)
        if which == len(self._seen) or not self._seen[which].startswith(text):
            return UNSEEN
        return which << 40 | len(text)

    def step(self, state: State, call: Call) -> State:
        """The number of the string of ``state`` with the argument of ``call`` appended."""
        if not isinstance(state, int):
            return UNSEEN
        which, length = state >> 40, state & (1 << 40) - 1
        text, added = self._seen[which], str(call.argument)
        if text.startswith(added, length):
            return state + len(added)
        if which + 1 == len(self._seen):
            return UNSEEN
        return self.number(text[:length] + added)

    def origins(self, state: State, call: Call) -> Sequence[State]:
        """The string without the argument of ``call`` at its end, if it ends so."""
        text, added = self.reveal(state), str(call.argument)
        return [self.number(text[: -len(added)])] if isinstance(text, str) and text.endswith(added) else []

    def reveal(self, state: State) -> State:
        """The string that a number stands for."""
        return self._seen[state >> 40][: state & (1 << 40) - 1] if isinstance(state, int) else UNSEEN


def _string(op: Op, value: object) -> str:
    if value is None and op.f == "get":
        return ""
    if not isinstance(value, str):
        raise malformed_operation(op, "a string")
    return value


def _fits(shape: Shape) -> bool:
    functions = shape.functions
    return functions <= {"get", "put", "append"} and bool(functions & {"put", "append"}) and not shape.micros


KV_APPEND: Final = Model(
    "kv-append",
    "strings by key: get, put, append",
    ("linearizable",),
    checker(KvAppend()),
    _fits,
)
