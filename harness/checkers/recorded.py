"""Our own histories in the words that other checkers know: as list-append, registers or a bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from harness.checkers.operation import OF_ONE_STATE, Operation
from harness.evidence import NEVER
from harness.history import PROCESS_SHIFT, Read
from harness.recorded import Event, Op

_INDEX_MASK: Final = (1 << PROCESS_SHIFT) - 1


def describe(identity: int) -> str:
    """The id of an operation as a value: ``"3.17"`` is operation 17 of process 3."""
    return f"{identity >> PROCESS_SHIFT}.{identity & _INDEX_MASK}"


class Said(NamedTuple):
    """What one operation says in a model: the function, the value of its invocation and that of its completion."""

    f: str
    argument: Any
    value: Any


Say = Callable[[Operation], Said | None]


def list_append(operations: Sequence[Operation]) -> list[Op]:
    """The lists as a list-append history: every transaction reads lists, then appends its own id to some of them."""
    lists = _lists(operations)

    def say(op: Operation) -> Said | None:
        appends = [["append", item, describe(op.id)] for item in op.writes if item in lists]
        reads = [["r", read.item, _elements(read)] for read in _reads(op) if read.item in lists]
        return _transaction(reads, appends)

    return record(operations, say)


def rw_register(operations: Sequence[Operation]) -> list[Op]:
    """All items but the lists as registers: a version is the id of its writer, absence is null, ``["d", item]``
    deletes.
    """
    lists = _lists(operations)

    def say(op: Operation) -> Said | None:
        writes = [["w", item, describe(op.id)] for item in op.writes if item not in lists]
        writes += [["d", item] for item in op.deletes if item not in lists]
        reads = [["r", read.item, _version(read)] for read in _reads(op) if read.item not in lists]
        return _transaction(reads, writes)

    return record(operations, say)


def bank(operations: Sequence[Operation]) -> list[Op]:
    """The snapshots that show every account of the workload ``bank``, as reads of a bank."""
    prefix = "bank/"
    accounts = {item for op in operations for item in op.writes if item.startswith(prefix)}

    def say(op: Operation) -> Said | None:
        if op.f not in {"read", "final"} or op.outcome != "ok":
            return None
        shown = {read.item: read.value for read in op.reads if read.item in accounts}
        return Said("read", None, shown) if shown.keys() == accounts else None

    return record(operations, say)


MODELS: Final[dict[str, Callable[[Sequence[Operation]], list[Op]]]] = {
    "list-append": list_append,
    "rw-register": rw_register,
    "bank": bank,
}
"""The models that a run can be seen as."""


def _lists(operations: Sequence[Operation]) -> frozenset[str]:
    """The items that hold lists of all their appends. One that somebody deletes begins anew, as a register does."""
    prefix = "append/"
    lists = {item for op in operations for item in op.writes if item.startswith(prefix)}
    lists |= {read.item for op in operations for read in op.reads if read.item.startswith(prefix)}
    return frozenset(lists - {item for op in operations for item in op.deletes})


def _elements(read: Read) -> list[str]:
    return [describe(element) for element in read.value or ()]


def _version(read: Read) -> str | None:
    return None if read.writer is None else describe(read.writer)


def _reads(op: Operation) -> Sequence[Read]:
    """What it read in one view. A ``resolve`` reads one key after another, so only the first is of one moment."""
    return op.reads if op.f in OF_ONE_STATE or op.f == "get" else op.reads[:1]


def _transaction(reads: list[Any], writes: list[Any]) -> Said | None:
    """What is asked for, and what is answered; nothing if nothing was done."""
    asked = [[name, item, None] for name, item, _ in reads]
    return Said("txn", asked + writes, reads + writes) if reads or writes else None


def record(operations: Sequence[Operation], say: Say) -> list[Op]:
    """``operations`` as ``say`` tells them, in the order of their completion, as ``recorded.pair`` would yield them.

    Lines are those of the file of each process (``history/PROCESS.jsonl``), which holds two for every operation.
    """
    chosen = [(op, said) for op in operations if (said := say(op)) is not None]
    times = np.array(
        [op.invoked for op, _ in chosen] + [op.completed or 0 for op, _ in chosen], dtype=np.int64
    )
    positions = np.empty(len(times), dtype=np.int64)
    # At the same nanosecond an invocation comes first: whoever may be concurrent is.
    positions[np.lexsort((np.arange(len(times)) >= len(chosen), times))] = np.arange(len(times))
    invoked, completed = positions[: len(chosen)].tolist(), positions[len(chosen) :].tolist()
    recorded = []
    for place, number in enumerate(np.argsort(positions[: len(chosen)], kind="stable").tolist(), 1):
        op, said = chosen[number]
        line = 2 * (op.id & _INDEX_MASK)
        done = op.outcome == "ok"
        recorded.append(
            Op(
                number=place,
                process=op.process,
                f=said.f,
                outcome=op.outcome,
                argument=said.argument,
                value=said.value if done else said.argument,
                invoked=invoked[number],
                completed=completed[number] if op.outcome != "info" else NEVER,
                line=line - 1,
                line_completed=line if op.outcome != "info" else 0,
            )
        )
    recorded.sort(key=lambda each: (each.completed, each.invoked))
    return recorded


def events(operations: Sequence[Op]) -> Iterator[Event]:
    """The invocations and completions of ``operations`` in the order in which they happened."""
    at: list[tuple[int, Literal["invoke", "ok", "fail", "info"], Op]] = []
    for op in operations:
        at.append((op.invoked, "invoke", op))
        if op.completed < NEVER:
            at.append((op.completed, op.outcome, op))
    at.sort(key=lambda each: each[0])
    for position, (_, kind, op) in enumerate(at):
        value = op.argument if kind != "ok" else op.value
        yield Event(position, 0, op.process, kind, op.f, value, {})
