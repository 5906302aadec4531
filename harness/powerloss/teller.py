"""What the processes of a scenario mean by what they do: which transaction is written, and who is told what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.history import Event as Said
from harness.history import Invoke, Ok, operation_id
from harness.powerloss.trace import Begun, Event, Stood, Told
from harness.stepped.place import Place
from harness.workloads.base import encode
from kvs import layout

_SEES = ("read", "get", "resolve")
"""The kinds of operations that only look."""


class Teller:
    """Puts the histories of a scenario's processes, and the points that they come to, in the words of a trace."""

    def __init__(self, place: Place) -> None:
        self._scenario = place.scenario
        self._keys = dict(zip(place.items, place.keys, strict=True))
        self._invoked: dict[int, Invoke] = {}
        self._closing: dict[int, int] = {}

    def begin(self) -> None:
        """Nobody has said anything yet."""
        self._invoked.clear()
        self._closing.clear()

    def reached(self, process: int, point: str, write: Any) -> list[Event]:
        """What it means that ``process`` has come to ``point``, which carries ``write``."""
        events: list[Event] = [Stood(process, point)]
        if point == "record.before_append":
            tag = write[2][0][layout.RECORD_HEADER_BYTES - layout.WORD : layout.RECORD_HEADER_BYTES]
            time = int.from_bytes(tag, "little") & layout.SEQUENCE_MASK
            events.append(Begun(process, time, self._writes(self._invoked[process])))
        elif point == "close.before_clean":
            self._closing[process] = write[0].__self__.words[layout.H_COMMITTED]
        return events

    def said(self, event: Said) -> list[Event]:
        """What it means that a process says ``event``."""
        if isinstance(event, Invoke):
            self._invoked[event.process] = event
        elif isinstance(event, Ok):
            process = event.process
            f = self._invoked[process].f
            seen = [read.sequence for read in event.reads] if f in _SEES else []
            newest = max(filter(None, [event.sequence, *seen]), default=0)
            if newest and (f in _SEES or f == "write"):
                return [Told(process, newest, "commit" if f == "write" else "read")]
        return []

    def ended(self, process: int) -> list[Event]:
        """What it means that ``process`` has done everything: if it closed the store as the last writer, all of it is
        on the medium.
        """
        time = self._closing.pop(process, 0)
        return [Told(process, time, "close")] if time else []

    def committed(self, setup: Sequence[Said]) -> list[Begun]:
        """The transactions of a history in which one process did one thing after another."""
        found = []
        for event in setup:
            if isinstance(event, Invoke):
                self._invoked[event.process] = event
            elif isinstance(event, Ok) and event.sequence:
                found.append(Begun(0, event.sequence, self._writes(self._invoked[event.process])))
        return sorted(found, key=lambda begun: begun.sequence)

    def _writes(self, invoke: Invoke) -> tuple[tuple[bytes, bytes | None], ...]:
        identity, padding = operation_id(invoke.process, invoke.index), bytes(self._scenario.padding)
        written = [(key := self._keys[item], encode(identity, key, padding)) for item in invoke.writes]
        return (*written, *[(self._keys[item], None) for item in invoke.deletes])
