"""What the processes saw: one append-only file each, written before and after every operation.

A file is JSON lines. A SIGKILL leaves at most a torn last line, which a reader drops. All times are
``time.monotonic_ns()``: one clock for all processes of a machine.

The unit of a history is the *item*: a string such as ``"bank/17"`` or ``"bundle/3"``. An item may stand
for many keys of the store (a whole bundle); the workload checks, at the read, that its keys agree.
Every version of an item is named by the id of the operation that wrote it, ``operation_id(process,
index)``, and that id is stored inside the value, so that a version that is read names its writer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.errors import HistoryError

PROCESS_SHIFT = 32
"""An operation id is ``process << 32 | index``; it fits in 64 bits and is never zero."""


def operation_id(process: int, index: int) -> int:
    """The id of the ``index``-th operation (from 1) of ``process`` (from 1)."""
    return process << PROCESS_SHIFT | index


def describe_id(identity: int | None) -> str:
    """``"process 3 operation 17"``: an operation id in words; ``None`` is the absent version."""
    if identity is None:
        return "absent"
    return f"process {identity >> PROCESS_SHIFT} operation {identity & ((1 << PROCESS_SHIFT) - 1)}"


Kind = Literal["write", "read", "get", "final", "resolve"]
"""What an operation does: ``write`` (a transaction that writes, and may read), ``read`` (one snapshot), ``get``
(one item without a snapshot), ``final`` (the snapshot after the last recovery) or ``resolve`` (after a recovery, the
versions that the store still keeps of the items of a killed write)."""


class Read(msgspec.Struct, array_like=True, frozen=True):
    """One version that was seen: the item, the id of its writer (``None``: the item was absent), the
    commit sequence number of that version where the engine tells it (else ``None``), and what the value
    held (a balance, a list of elements), ``None`` where the workload has nothing to add.

    In a ``resolve`` an item has several, newest first, with none left out between them: removals are absences with
    a sequence number, and an absence with the number 0 in the end says that there never was an older one.
    """

    item: str
    writer: int | None
    sequence: int | None = None
    value: Any = None


class Invoke(msgspec.Struct, tag="invoke", tag_field="type", omit_defaults=True, frozen=True):
    """An operation is about to begin.

    ``values`` are what a write means to write where that is known before (e.g. an appended element), by item;
    ``resolves`` is the id of the killed write that a ``resolve`` looks for.
    """

    process: int
    index: int
    time: int
    f: Kind
    workload: str
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    values: dict[str, Any] = {}
    resolves: int = 0


class Span(msgspec.Struct, array_like=True, frozen=True):
    """From ``begin`` to ``end`` the process held the lock that commits wait for (``lock``), or finished what a dead one
    had begun (``repair``), as far as the store's sync points tell.
    """

    what: Literal["lock", "repair"]
    begin: int
    end: int


class Ok(msgspec.Struct, tag="ok", tag_field="type", omit_defaults=True, frozen=True):
    """An operation took effect. ``sequence``: the commit sequence number of a write; for a read, the
    newest commit that its snapshot includes; ``None`` where the engine reveals none. ``spans``: of this operation, and
    of what came between the last one and this (of the opening, too); so with ``Fail`` and ``Info``.
    """

    process: int
    index: int
    time: int
    sequence: int | None = None
    reads: tuple[Read, ...] = ()
    values: dict[str, Any] = {}
    spans: tuple[Span, ...] = ()


class Fail(msgspec.Struct, tag="fail", tag_field="type", omit_defaults=True, frozen=True):
    """An operation certainly had no effect (a conflict, an abort, a busy store)."""

    process: int
    index: int
    time: int
    error: str = ""
    spans: tuple[Span, ...] = ()


class Info(msgspec.Struct, tag="info", tag_field="type", omit_defaults=True, frozen=True):
    """It is not known whether the operation took effect. An ``invoke`` with no completion means the same."""

    process: int
    index: int
    time: int
    error: str = ""
    spans: tuple[Span, ...] = ()


class Violation(msgspec.Struct, tag="violation", tag_field="type", omit_defaults=True, frozen=True):
    """A worker saw, while the campaign ran, what must never be seen; ``property_name`` as in a finding."""

    process: int
    time: int
    property_name: str = msgspec.field(name="property")
    message: str = ""
    index: int = 0


Event = Invoke | Ok | Fail | Info | Violation

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Spawned(msgspec.Struct, tag="spawned", tag_field="type", omit_defaults=True, frozen=True):
    """The supervisor forked ``process`` (``pid``) to play ``role`` ("writer", "reader", "auditor", "housekeeper",
    "setup", "final"); ``fault`` and ``point``, ``hit``: what it carries, e.g. kill-point at the 3rd hit of a point, or
    of the first of several, with spaces between their names, at the first hit of any other than the first named;
    ``torn``: how much of the write that the point stands before is applied first, if it stands before one.
    """

    process: int
    time: int
    pid: int
    role: str
    fault: str = ""
    point: str = ""
    hit: int = 0
    torn: float = 0.0


class Died(msgspec.Struct, tag="died", tag_field="type", omit_defaults=True, frozen=True):
    """``process`` was reaped. ``signal`` is what it died of (0: it exited, with ``status``). ``fault`` is
    the fault that the supervisor meant ("" if none), ``point`` the last sync point that it had reached and
    ``at_point`` whether it died standing there (kill-point) rather than somewhere after it; ``locked``: since when it
    held the lock that commits wait for, as far as the sync points tell, 0 if it did not.
    """

    process: int
    time: int
    signal: int
    status: int = 0
    fault: str = ""
    point: str = ""
    at_point: bool = False
    locked: int = 0


class Paused(msgspec.Struct, tag="paused", tag_field="type", omit_defaults=True, frozen=True):
    """``process`` was stopped from ``time`` to ``until`` (SIGSTOP to SIGCONT), at ``point`` if it was
    a pause-point; ``holder``: it held a lock that commits wait for, or may have (then survivors may wait for it).
    """

    process: int
    time: int
    until: int
    point: str = ""
    holder: bool = False


class Standstill(msgspec.Struct, tag="standstill", tag_field="type", frozen=True):
    """The supervisor itself, which wakes every few milliseconds, did not run from ``time`` to ``until``:
    the machine stood still, so a stall of the survivors in that interval is nobody's fault.
    """

    time: int
    until: int


class Mark(msgspec.Struct, tag="mark", tag_field="type", frozen=True):
    """A moment of the run: ``what`` is "start", "stop" (no new operations), "end" or "interrupted"; "lost" when
    everybody was dead and the store's index was removed, "found" when somebody had opened the store again, "rebuilt"
    when in the end the index was lost, made again, and the store compared with what it was before.
    """

    time: int
    what: str


class Left(msgspec.Struct, tag="left", tag_field="type", frozen=True):
    """After the run: one thing that the dead left behind (``kind`` is "lock", also where it is debris, or
    "process"), one finding of the store's own ``verify`` ("structure"), or one thing that was different when the
    store's index had been lost and made again ("rebuild").
    """

    time: int
    kind: str
    message: str


class Hits(msgspec.Struct, tag="hits", tag_field="type", frozen=True):
    """After the run: how often each sync point was reached, all processes together."""

    time: int
    hits: dict[str, int]


RunEvent = Spawned | Died | Paused | Standstill | Mark | Left | Hits
"""What the supervisor writes into ``supervisor.jsonl``."""

_run_decoder: msgspec.json.Decoder[RunEvent] = msgspec.json.Decoder(RunEvent)


class HistoryWriter:
    """Appends the events of one process, each with one ``write`` so that it survives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._encode = msgspec.json.Encoder().encode

    def append(self, event: Event | RunEvent) -> None:
        """Write one event; on return it is in the page cache and survives the death of this process."""
        os.write(self._fd, self._encode(event) + b"\n")

    def close(self) -> None:
        """Close the file; nothing is lost by not calling it."""
        os.close(self._fd)


def read_events(path: Path) -> Iterator[tuple[int, Event]]:
    """Yield ``(line number, event)`` of one process's file, in order, dropping a torn last line.

    Raises:
        HistoryError: a line other than a torn last one cannot be decoded.
    """
    yield from _read(path, _decoder)


def unfinished(path: Path) -> Invoke | None:
    """The operation in which the process that wrote this history died, ``None`` if it died in none (or before it
    had a history). Errors as ``read_events``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    end = data.rfind(b"\n")
    if end < 0:
        return None
    try:
        last = _decoder.decode(data[data.rfind(b"\n", 0, end) + 1 : end])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HistoryError(f"not an event: {error}", str(path), data.count(b"\n")) from error
    return last if isinstance(last, Invoke) else None


def read_run_events(path: Path) -> list[RunEvent]:
    """The supervisor's events, in order; errors as ``read_events``."""
    return [event for _, event in _read(path, _run_decoder)]


def _read(path: Path, decoder: msgspec.json.Decoder[Any]) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise HistoryError(f"not an event: {error}", str(path), number) from error
