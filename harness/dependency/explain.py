"""Say why: a cycle of dependencies as evidence, in sentences that need no knowledge of the field."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from harness.dependency.catalogue import ANOMALIES
from harness.dependency.cycles import Cycle, Step
from harness.dependency.graph import KINDS, PROCESS, REALTIME, RW, WR
from harness.dependency.transactions import Transactions
from harness.dependency.walks import labels
from harness.evidence import Edge, Evidence

_TELLING: Final = {RW: 0, WR: 1}
SHOWN_MAX: Final = 12
"""How many elements of a list, and how many of a transaction's micro-operations, are shown in full."""


class Describer(Protocol):
    """What a model knows of its transactions and edges."""

    def text(self, transaction: int, keys: Collection[int]) -> str:
        """What the transaction did, in a few words, with what concerns ``keys`` (codes) first."""

    def because(self, step: Step) -> str:
        """Why ``step.source`` came before ``step.target``: one whole sentence, for ww, wr and rw."""


def explain(cycle: Cycle, transactions: Transactions, model: Describer) -> Evidence:
    """The evidence of ``cycle``: its transactions in the order of invocation, its edges from the first of them around,
    and the sentences, which begin with the most telling edge (what was not seen, else what was) and end in why no order
    can have them all.
    """
    steps = cycle.steps
    keys = {step.key for step in steps if step.key >= 0}
    reasons = [reason(step, transactions, model) for step in steps]
    first = min(range(len(steps)), key=lambda each: steps[each].source)
    kinds = labels(steps)
    telling = min(range(len(steps)), key=lambda each: _TELLING.get(kinds[each], 2))
    made = [
        Edge(transactions.name(step.source), transactions.name(step.target), KINDS[kind], because)
        for step, kind, because in zip(steps, kinds, reasons, strict=True)
    ]
    return Evidence(
        anomaly=cycle.anomaly,
        meaning=ANOMALIES[cycle.anomaly].meaning,
        operations=tuple(
            transactions.shown(row, model.text(row, keys)) for row in sorted(step.source for step in steps)
        ),
        sentences=(*_told([*reasons[telling:], *reasons[:telling]]), _impossible(cycle, transactions)),
        edges=(*made[first:], *made[:first]),
    )


def _told(reasons: list[str]) -> list[str]:
    """Two reasons make one sentence, which says all: it stands for the whole in a line of its own."""
    if len(reasons) != 2:
        return reasons
    one, other = reasons
    return [f"{one.removesuffix('.')}; but {other.replace('Process ', 'process ', 1)}"]


def reason(step: Step, transactions: Transactions, model: Describer) -> str:
    """One whole sentence: why ``step.source`` came before ``step.target``."""
    if step.kind not in (PROCESS, REALTIME):
        return model.because(step)
    one, other = transactions.name(step.source), transactions.name(step.target)
    at = ""
    if transactions.line_completed[step.source] and transactions.line[step.target]:
        at = f" (line {transactions.line_completed[step.source]} stands before {transactions.line[step.target]})"
    if step.kind == PROCESS:
        process = transactions.processes[transactions.process[step.source]]
        return f"Process {process} had finished {one} before it began {other}{at}."
    return f"{one} had finished before {other} began{at}."


def _impossible(cycle: Cycle, transactions: Transactions) -> str:
    names = [transactions.name(step.source) for step in cycle.steps]
    chain = ", ".join(
        f"{one} before {other}" for one, other in zip(names, names[1:] + names[:1], strict=True)
    )
    return f"So {chain}: {names[0]} would have to come before itself, which no order of these transactions allows."


def listed(elements: list[object] | tuple[object, ...]) -> str:
    """A list as sentences show it: "[1 3]"; of a long one only the end, "[... 97 98 99]"."""
    if len(elements) <= SHOWN_MAX:
        return f"[{' '.join(map(str, elements))}]"
    return f"[... {' '.join(map(str, elements[-3:]))}]"
