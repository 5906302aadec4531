"""A history that anybody recorded: events in the order in which they were seen, and operations joined from them.

The words and the shape are Jepsen's: an event has a process, a type (invoke, ok, fail, info), a function and a value.
Real time is the order of the events: one operation precedes another if its completion stands before the other's
invocation (Herlihy and Wing, "Linearizability", 1990). Wall-clock times are kept, and not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from harness.errors import HistoryError
from harness.evidence import NEVER

Type = Literal["invoke", "ok", "fail", "info"]
NOTHING: Final[dict[str, Any]] = {}
"""The extra fields of an event that has none. Never changed."""


class Event(msgspec.Struct, gc=False):
    """One line of a recorded history.

    ``position``: its place among all events of the history, from 0; ``line``: the line of the file that it begins on,
    from 1 (0: there is no file). ``process``: a number, or the name of something that is no client ("nemesis").
    ``f`` and keywords inside ``value`` are plain strings. ``extra``: every other field ("time", "index", "key", "error"
    and whatever a tool adds), kept for an export.
    """

    position: int
    line: int
    process: int | str
    type: Type
    f: str
    value: Any
    extra: dict[str, Any]


class Op(msgspec.Struct, frozen=True, gc=False):
    """One operation of a client, from ``invoked`` to ``completed`` (positions; ``NEVER`` for an info).

    ``number``: its place among all operations in the order of their invocation, from 1; it is called T``number``.
    ``outcome``: "ok"; "fail": it certainly had no effect; "info": it may have taken effect at any time after its
    invocation, or never. ``argument`` is the value of the invocation, ``value`` that of the completion (that of the
    invocation if there is none): what an ok read saw. ``extra``: fields of both events, the completion's win.
    """

    number: int
    process: int | str
    f: str
    outcome: Literal["ok", "fail", "info"]
    argument: Any
    value: Any
    invoked: int
    completed: int
    line: int = 0
    line_completed: int = 0
    extra: dict[str, Any] = NOTHING

    @property
    def name(self) -> str:
        """What it is called in evidence: "T7" was invoked seventh."""
        return f"T{self.number}"


def pair(events: Iterable[Event], path: str = "history") -> Iterator[Op]:
    """Join invocations with their completions. Operations come in the order of their completion, those that never
    completed (or ended in info) last, in the order of their invocation. Events of what is no client are left out.

    Raises:
        HistoryError: a client completes what it did not invoke, or invokes while it waits; with ``path`` and the line.
    """
    pending: dict[int | str, tuple[int, Event]] = {}
    open_ended: list[tuple[int, Event, Event | None]] = []
    number = 0
    for event in events:
        process = event.process
        if type(process) is not int:
            continue
        if event.type == "invoke":
            number += 1
            if process in pending:
                other = pending[process][1]
                raise HistoryError(
                    f"process {process} invokes {event.f!r} while its {other.f!r} of line {other.line} is not "
                    "complete; a process does one thing at a time",
                    path,
                    event.line,
                )
            pending[process] = number, event
            continue
        began = pending.pop(process, None)
        if began is None:
            raise HistoryError(
                f"process {process} completes {event.f!r} ({event.type}) without having invoked it",
                path,
                event.line,
            )
        if event.type == "info":
            open_ended.append((*began, event))
        else:
            yield _join(*began, event)
    open_ended.extend((*began, None) for began in pending.values())
    for begun, invoked, completed in sorted(open_ended, key=lambda each: each[0]):
        yield _join(begun, invoked, completed)


def _join(number: int, invoked: Event, completed: Event | None) -> Op:
    extra = invoked.extra
    if completed is None:
        return Op(
            number,
            invoked.process,
            invoked.f,
            "info",
            invoked.value,
            invoked.value,
            invoked.position,
            NEVER,
            invoked.line,
            0,
            extra,
        )
    if completed.extra:
        extra = {**extra, **completed.extra} if extra else completed.extra
    outcome: Any = completed.type
    return Op(
        number,
        invoked.process,
        invoked.f,
        outcome,
        invoked.value,
        completed.value if outcome == "ok" else invoked.value,
        invoked.position,
        completed.position if outcome != "info" else NEVER,
        invoked.line,
        completed.line,
        extra,
    )
