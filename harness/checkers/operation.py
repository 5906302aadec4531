"""An operation: an ``invoke`` joined with its completion, the unit that every checker works on."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from harness.history import PROCESS_SHIFT, Kind, Read, describe_id

OF_ONE_STATE: Final = frozenset({"write", "read", "final"})
"""The kinds of operation whose reads must all be of one moment."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation of one process, from ``invoked`` to ``completed`` (monotonic nanoseconds).

    ``outcome`` is ``"ok"``, ``"fail"`` (certainly no effect) or ``"info"`` (it may have happened, or may yet:
    a dead writer's commit is finished by a survivor), and ``completed`` is ``None`` for info, because its
    effect has no upper bound in time. ``values`` are those of the invocation, replaced item by item by those
    of the completion. ``sequence`` is T of a write and S of a snapshot, where the engine revealed one.
    """

    id: int
    invoked: int
    completed: int | None
    f: Kind
    workload: str
    outcome: Literal["ok", "fail", "info"]
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    values: dict[str, Any] = {}
    sequence: int | None = None
    reads: tuple[Read, ...] = ()
    resolves: int = 0

    @property
    def process(self) -> int:
        """The process that invoked it."""
        return self.id >> PROCESS_SHIFT

    def changes(self, item: str) -> bool:
        """Whether it writes or deletes ``item`` (if it commits)."""
        return item in self.writes or item in self.deletes

    def __str__(self) -> str:
        """The operation in words, with its place in the order where it has one."""
        name = describe_id(self.id)
        if self.f == "write":
            return f"{name} (T={self.sequence})" if self.sequence is not None else name
        if self.f == "get":
            return f"the get of {name}"
        if self.f == "resolve" and not self.resolves:
            return f"the history read by {name}"
        if self.f == "resolve":
            return f"the resolution of {describe_id(self.resolves)} by {name}"
        kind = "the final snapshot" if self.f == "final" else "the snapshot"
        where = f" at S={self.sequence}" if self.sequence is not None else ""
        return f"{kind} of {name}{where}"
