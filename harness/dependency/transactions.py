"""Transactions as columns: what isolation needs to know of a million of them fits in some tens of megabytes.

A checker looks at each operation once, encodes it, and lets it go. Node ``t`` of a dependency graph is row ``t`` here.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.evidence import Shown
from harness.recorded import Op

OK: Final = 0
FAIL: Final = 1
INFO: Final = 2
OUTCOMES: Final = ("ok", "fail", "info")
_CODES: Final = {name: code for code, name in enumerate(OUTCOMES)}

Integers = NDArray[np.int64]
Codes = NDArray[np.int32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Transactions:
    """Columns of equal length, one row for each transaction, in the order of their invocation.

    ``number``: T``number`` is its name (``Op.number``). ``process``: a code; ``processes[code]`` is the process.
    ``outcome``: ``OK``, ``FAIL`` or ``INFO``. ``invoked`` and ``completed``: positions in the history, ``completed`` is
    ``evidence.NEVER`` for an info. ``line`` and ``line_completed``: lines of the file, 0 for none.
    """

    number: Integers
    process: Codes
    outcome: NDArray[np.uint8]
    invoked: Integers
    completed: Integers
    line: Integers
    line_completed: Integers
    processes: tuple[int | str, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.number)

    def name(self, transaction: int) -> str:
        """What row ``transaction`` is called in evidence: "T7"."""
        return f"T{self.number[transaction]}"

    def shown(self, transaction: int, text: str, role: str = "") -> Shown:
        """Row ``transaction`` as evidence shows it, with ``text`` for what it did."""
        return Shown(
            name=self.name(transaction),
            process=str(self.processes[self.process[transaction]]),
            outcome=OUTCOMES[self.outcome[transaction]],
            text=text,
            invoked=int(self.invoked[transaction]),
            completed=int(self.completed[transaction]),
            line=int(self.line[transaction]),
            line_completed=int(self.line_completed[transaction]),
            role=role,
        )


class Recorder:
    """Builds ``Transactions`` from operations in any order, one ``add`` each: about 0.4 us and 45 bytes."""

    def __init__(self) -> None:
        self._number = array("q")
        self._process = array("i")
        self._outcome = array("B")
        self._invoked = array("q")
        self._completed = array("q")
        self._line = array("q")
        self._line_completed = array("q")
        self._processes: dict[int | str, int] = {}

    def add(self, op: Op) -> None:
        """Note ``op`` as the next operation: the i-th to be added, from 0."""
        process = self._processes.get(op.process)
        if process is None:
            process = self._processes[op.process] = len(self._processes)
        self._number.append(op.number)
        self._process.append(process)
        self._outcome.append(_CODES[op.outcome])
        self._invoked.append(op.invoked)
        self._completed.append(op.completed)
        self._line.append(op.line)
        self._line_completed.append(op.line_completed)

    def finish(self) -> tuple[Transactions, Codes]:
        """The transactions, and the row of each operation: ``rows[i]`` is that of the i-th that was added."""
        invoked = np.array(self._invoked, dtype=np.int64)
        order = np.argsort(invoked, kind="stable")
        rows = np.empty(len(order), dtype=np.int32)
        rows[order] = np.arange(len(order), dtype=np.int32)
        transactions = Transactions(
            number=np.array(self._number, dtype=np.int64)[order],
            process=np.array(self._process, dtype=np.int32)[order],
            outcome=np.array(self._outcome, dtype=np.uint8)[order],
            invoked=invoked[order],
            completed=np.array(self._completed, dtype=np.int64)[order],
            line=np.array(self._line, dtype=np.int64)[order],
            line_completed=np.array(self._line_completed, dtype=np.int64)[order],
            processes=tuple(self._processes),
        )
        return transactions, rows
