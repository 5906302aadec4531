"""Register histories as versions: which transactions may have written what a read returned, and what no order allows.

A micro-operation is ``["w", k, v]``, ``["r", k, v or null]`` or ``["d", k]``, which writes null. A *version* is a key
and a value. Where several transactions wrote the same value (and for null: the initial version, and all deletes) a
version has several possible writers; which one a read saw is then a choice, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from harness.budget import Budget
from harness.dependency.transactions import FAIL, INFO, Recorder, Transactions
from harness.errors import HistoryError
from harness.recorded import Op

Access = tuple[int, int]
"""``(key, version)``, as codes."""


class Oddity(NamedTuple):
    """An anomaly that one read shows by itself. ``expected``: the version that its own transaction had read or written
    of the key (internal), else -1.
    """

    anomaly: str
    row: int
    key: int
    version: int
    expected: int = -1


class Registers(NamedTuple):
    """Columns by row (``Transactions``), and by version.

    ``reads``: of an ok transaction, what each read saw of others: without what its transaction had written before it,
    each once. ``writes``: of an ok or info transaction, what it finally wrote. ``micros``: the micro-operations, for
    evidence. ``finals[version]``: who finally wrote it; ``middles``: who wrote it and then wrote the key again;
    ``failed``: who wrote it and failed. ``nulls[key]`` is the version null of the key. ``initial`` are those.
    """

    transactions: Transactions
    reads: list[tuple[Access, ...]]
    writes: list[tuple[Access, ...]]
    micros: list[list[Any]]
    keys: list[Any]
    values: list[Any]
    key_of: list[int]
    finals: dict[int, list[int]]
    middles: dict[int, list[int]]
    failed: dict[int, list[int]]
    nulls: dict[int, int]
    initial: frozenset[int]
    oddities: list[Oddity]

    def writers(self, row: int, version: int) -> list[int]:
        """Who may have written what ``row`` read: every final writer but itself."""
        return [writer for writer in self.finals.get(version, ()) if writer != row]


class _Encoder:
    """Builds the columns, one operation at a time, in the order in which they come."""

    def __init__(self) -> None:
        self.keys: dict[Any, int] = {}
        self.versions: dict[tuple[int, Any], int] = {}
        self.key_of: list[int] = []
        self.reads: list[tuple[Access, ...]] = []
        self.writes: list[tuple[Access, ...]] = []
        self.middles: list[tuple[int, int]] = []
        self.internal: list[tuple[int, int, int, int]] = []
        self.later: list[tuple[int, int]] = []

    def add(self, number: int, op: Op) -> None:
        """Encode the operation of this number (from 0)."""
        ok = op.outcome == "ok"
        own: dict[int, int] = {}
        before: list[int] = []
        seen: dict[int, int] = {}
        saw: list[Access] = []
        for micro in op.value or ():
            key, version = self._access(micro, op)
            if micro[0] != "r":
                if key in own:
                    self.middles.append((own[key], number))
                own[key] = version
                before.append(version)
                continue
            if not ok:
                continue
            expected = own.get(key, seen.get(key, version))
            if version != expected:
                self.internal.append((number, key, version, expected))
            if version in before:
                continue
            seen.setdefault(key, version)
            if (key, version) not in saw:
                saw.append((key, version))
        self.reads.append(tuple(saw))
        self.writes.append(tuple(own.items()))

    def _access(self, micro: Any, op: Op) -> Access:
        try:
            name, key_name = micro[0], micro[1]
            value = None if name == "d" else micro[2]
            key = self.keys.get(key_name)
            if key is None:
                key = self.keys[key_name] = len(self.keys)
            version = self.versions.get((key, value))
            if version is None:
                version = self.versions[key, value] = len(self.versions)
                self.key_of.append(key)
            if name not in ("r", "w", "d") or type(micro) is str:
                raise ValueError(name)
        except (TypeError, ValueError, LookupError) as error:
            raise HistoryError(
                f'{op.name} does {micro!r}; an rw-register does ["r", key, value or null], ["w", key, value] or '
                '["d", key], with numbers or strings for keys and values',
                "",
                op.line,
            ) from error
        return key, version


def encode(ops: Iterable[Op], budget: Budget) -> Registers:
    """The history as columns. About 3 us for each transaction and 1 us for each micro-operation.

    Raises:
        HistoryError: a value is no list of micro-operations of this model. OverBudgetError.
    """
    encoder, recorder = _Encoder(), Recorder()
    micros: list[list[Any]] = []
    for number, op in enumerate(ops):
        if not number & 1023:
            budget.check()
        encoder.add(number, op)
        recorder.add(op)
        micros.append(op.value or [])
    transactions, rows = recorder.finish()
    return _columns(encoder, transactions, [int(row) for row in rows], micros)


def _columns(
    encoder: _Encoder, transactions: Transactions, rows: list[int], micros: list[list[Any]]
) -> Registers:
    """The columns in the order of rows; ``rows[number]`` is that of each operation."""
    finals: dict[int, list[int]] = {}
    middles: dict[int, list[int]] = {}
    failed: dict[int, list[int]] = {}
    count = len(rows)
    reads: list[tuple[Access, ...]] = [()] * count
    writes: list[tuple[Access, ...]] = [()] * count
    by_row: list[list[Any]] = [[]] * count
    outcome = transactions.outcome.tolist()
    for number, row in enumerate(rows):
        reads[row] = encoder.reads[number]
        by_row[row] = micros[number]
        if outcome[row] != FAIL:
            writes[row] = encoder.writes[number]
        to = failed if outcome[row] == FAIL else finals
        for _, version in encoder.writes[number]:
            to.setdefault(version, []).append(row)
    for version, number in encoder.middles:
        row = rows[number]
        (failed if outcome[row] == FAIL else middles).setdefault(version, []).append(row)
    nulls = {key: version for (key, value), version in encoder.versions.items() if value is None}
    made = Registers(
        transactions,
        reads,
        writes,
        by_row,
        list(encoder.keys),
        [value for _, value in encoder.versions],
        encoder.key_of,
        finals,
        middles,
        failed,
        nulls,
        frozenset(nulls.values()),
        [Oddity("internal", rows[number], *rest) for number, *rest in encoder.internal],
    )
    made.oddities.extend(_unwritten(made))
    return made


def _unwritten(registers: Registers) -> list[Oddity]:
    """Reads of what no other committed transaction finally wrote."""
    found = []
    finals, initial = registers.finals, registers.initial
    for row, accesses in enumerate(registers.reads):
        for key, version in accesses:
            writers = finals.get(version)
            if version in initial or (writers is not None and (len(writers) > 1 or writers[0] != row)):
                continue
            if any(other != row for other in registers.middles.get(version, ())):
                name = "G1b"
            elif version in registers.failed:
                name = "G1a"
            elif writers or version in registers.middles:
                name = "future-read"
            else:
                name = "phantom-value"
            found.append(Oddity(name, row, key, version))
    return found


def indeterminate(registers: Registers) -> int:
    """How many transactions may have committed or not."""
    return int((registers.transactions.outcome == INFO).sum())
