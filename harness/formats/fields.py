"""From the fields of one event, as any format has them, to an ``Event``; and what to say where that cannot be."""

from __future__ import annotations

import sys
from typing import Any, Final

from harness.errors import HistoryError
from harness.formats.edn import Keyed
from harness.recorded import Event, Type

TYPES: Final[dict[str, Type]] = {
    "invoke": "invoke",
    "ok": "ok",
    "fail": "fail",
    "info": "info",
    ":invoke": "invoke",
    ":ok": "ok",
    ":fail": "fail",
    ":info": "info",
}
"""The four types, also with the colon that some exports of keywords leave in front."""
_NOBODY: Final = -1
"""The process of events that name none. No recorder numbers a client like this."""


def event_of(position: int, line: int, fields: Any, path: str) -> Event:
    """The event that has these ``fields``, which it keeps: what is no part of an event is its ``extra``.

    A missing ``f`` is "txn" where the value is a list of micro-operations (``[["append", 5, 1], ["r", 5, null]]``).
    A process is a number (also if it is written as a string), or the name of what is no client; events that name none
    are all of one client, -1, which does one thing at a time. Jepsen's independent tuple is taken apart: its key
    becomes ``extra["key"]``.

    Raises:
        HistoryError: these are no fields, or the type or the function is missing, or the process is none.
    """
    if type(fields) is not dict:
        raise HistoryError(
            f"an event is a map with the fields process, type, f and value, and this is {_shown(fields)}; remove it, "
            "or name the format of this file",
            path,
            line,
        )
    try:
        kind = TYPES[fields.pop("type")]
    except (KeyError, TypeError) as error:
        raise HistoryError(
            "an event has no type, or one that nobody knows; it has to be invoke, ok, fail or info",
            path,
            line,
        ) from error
    process = fields.pop("process", _NOBODY)
    value = fields.pop("value", None)
    f = fields.pop("f", None)
    if type(process) is not int:
        process = _process(process, path, line)
    f = sys.intern(f) if type(f) is str and f[:1] != ":" else _function(f, value, path, line)
    if type(value) is Keyed:
        fields.setdefault("key", value.key)
        value = value.value
    return Event(position, line, process, kind, f, value, fields)


def _process(process: Any, path: str, line: int) -> int | str:
    if isinstance(process, str):
        name = str(process).removeprefix(":")
        if name.isascii() and name.isdecimal() and len(name) < 19:
            return int(name)
        if name:
            return sys.intern(name)
    raise HistoryError(
        f"the process of an event is {_shown(process)}; it has to be a number, or a name such as nemesis",
        path,
        line,
    )


def _function(f: Any, value: Any, path: str, line: int) -> str:
    if isinstance(f, str):
        return sys.intern(str(f).removeprefix(":"))
    if f is None and _is_transaction(value):
        return "txn"
    if f is None:
        raise HistoryError(
            "an event has no f, and its value is no list of micro-operations; say in f what the operation does "
            "(read, write, cas, ...)",
            path,
            line,
        )
    raise HistoryError(f"the f of an event is {_shown(f)}; it has to be a name such as read", path, line)


def _is_transaction(value: Any) -> bool:
    return type(value) is list and all(
        type(each) is list and len(each) >= 2 and isinstance(each[0], str) for each in value
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
