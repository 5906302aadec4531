"""Small histories written by hand, one line per operation, each complete before the next unless told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.checkers.operation import Operation
from harness.history import Read, operation_id
from harness.verdict import Verdict


class ByHand:
    """Collects operations. Every method returns the operation, whose ``id`` names the versions it wrote."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._now = 0

    def write(
        self,
        *items: str,
        t: int | None = None,
        deletes: Iterable[str] = (),
        reads: Iterable[Read] = (),
        values: dict[str, Any] | None = None,
        workload: str = "register",
        outcome: Any = "ok",
    ) -> Operation:
        return self._add(
            "write",
            workload,
            outcome,
            writes=items,
            deletes=tuple(deletes),
            values=values or {},
            sequence=t,
            reads=tuple(reads),
        )

    def killed(self, *items: str, deletes: Iterable[str] = (), workload: str = "register") -> Operation:
        return self.write(*items, deletes=deletes, workload=workload, outcome="info")

    def failed(self, *items: str) -> Operation:
        return self.write(*items, outcome="fail")

    def snapshot(self, s: int | None, *reads: Read, workload: str = "register") -> Operation:
        return self._add("read", workload, "ok", sequence=s, reads=reads)

    def get(self, read: Read) -> Operation:
        return self._add("get", "register", "ok", reads=(read,))

    def final(self, s: int | None, *reads: Read, outcome: Any = "ok") -> Operation:
        return self._add("final", "all", outcome, sequence=s, reads=reads)

    def resolve(self, killed: Operation, *versions: Read) -> Operation:
        return self._add("resolve", "register", "ok", reads=versions, resolves=killed.id)

    def _add(self, f: Any, workload: str, outcome: Any, **fields: Any) -> Operation:
        self._now += 20
        identity = operation_id(1 + len(self.operations) % 3, 1 + len(self.operations))
        completed = None if outcome == "info" else self._now + 10
        op = Operation(identity, self._now, completed, f, workload, outcome, **fields)
        self.operations.append(op)
        return op


def version(item: str, writer: Operation | None, t: int | None = None, value: Any = None) -> Read:
    """A read of ``item`` that shows the version of ``writer``, at ``t`` if not at its own T."""
    if writer is None:
        return Read(item, None, None, value)
    return Read(item, writer.id, writer.sequence if t is None else t, value)


def messages(verdict: Verdict) -> str:
    return "\n".join(finding.message for finding in verdict.findings)
