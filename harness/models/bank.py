"""Bank: transfers between accounts must never make or lose money in any read (the "bank" test of Jepsen)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from harness.budget import Budget, OverBudgetError
from harness.errors import HistoryError
from harness.evidence import Evidence, Shown
from harness.models.base import Model, Shape, concluded, shown
from harness.recorded import Op
from harness.verdict import Verdict

TOTAL_CONSERVED: Final = "total-conserved"
NO_NEGATIVE_BALANCES: Final = "no-negative-balances"
MEANINGS: Final = {
    "wrong-total": "A read in which the balances add up to more or less than they did in the first read.",
    "negative-balance": "A read in which an account holds less than nothing.",
    "null-balance": "A read in which an account has no balance.",
    "other-accounts": "A read of other accounts than the first read had.",
}
_NEARBY: Final = 64
"""How many transfers before a wrong read are remembered, as many as there may be clients."""
_SHOWN: Final = 3


class _Wrong:
    """The first read that is wrong in one way, and what happened around it."""

    def __init__(
        self, read: Op, good: Op | None, sentences: list[str], excess: int, nearby: Iterable[Op]
    ) -> None:
        self.read = read
        self.good = good
        self.sentences = sentences
        self.excess = excess
        self.transfers: list[Op] = []
        self.count = 1
        for transfer in nearby:
            self.notice(transfer)

    def notice(self, transfer: Op) -> None:
        """Keep a transfer if it was under way during the read and may have been seen by half."""
        if transfer.invoked < self.read.completed and transfer.completed > self.read.invoked:
            self.transfers.append(transfer)
            if len(self.transfers) > _NEARBY:
                self.transfers.sort(key=lambda each: _amount(each) != abs(self.excess))
                self.transfers.pop()

    def evidence(self, anomaly: str) -> Evidence:
        """All of it, with the one transfer that explains the difference if there is just one such."""
        sentences = [*self.sentences]
        suspects = [each for each in self.transfers if self.excess and _amount(each) == abs(self.excess)]
        if len(suspects) == 1:
            sentences.append(
                f"{suspects[0].name} moved {abs(self.excess)} at that time: what is "
                f"{'missing' if self.excess < 0 else 'too much'} is what one half of it would leave."
            )
        if self.count > 1:
            sentences.append(
                f"{self.count} reads in all are wrong in this way; {self.read.name} is the first."
            )
        operations: list[Shown] = [shown(self.read, _balances(self.read.value or {}), "wrong")]
        if self.good is not None and self.good.number != self.read.number:
            operations.append(shown(self.good, _balances(self.good.value or {}), "the first read"))
        rest = suspects if len(suspects) == 1 else self.transfers[:_SHOWN]
        operations.extend(shown(each, _transfer(each.argument), "under way meanwhile") for each in rest)
        operations.sort(key=lambda each: each.invoked)
        return Evidence(anomaly, MEANINGS[anomaly], tuple(operations), tuple(sentences))


def check(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether every ok read of a bank adds up.

    Definition (``total-conserved``): every ok ``read``, a map from account to balance, has the same accounts as the
    first one to complete, no balance of it is null, and the sum of the balances is that of the first read.
    ``no-negative-balances`` is that, and no balance below zero. A history without an ok read is UNKNOWN. As
    ``jepsen.tests.bank``, which is told the accounts and the total, and to which a missing account is a wrong total.

    Complexity: O(balances read), in memory of one read.

    Does not verify: that any transfer took effect, or that a read is not stale: only that what is read adds up. A first
    read that is wrong itself makes those wrong that differ from it.
    """
    negatives = property_name == NO_NEGATIVE_BALANCES
    wrong: dict[str, _Wrong] = {}
    recent: deque[Op] = deque(maxlen=_NEARBY)
    first: Op | None = None
    transfers = reads = 0
    doubt = ""
    try:
        for op in budget.watch(operations):
            if op.f == "transfer":
                transfers += 1
                if op.outcome != "fail":
                    recent.append(op)
                    for each in wrong.values():
                        each.notice(op)
            elif op.f != "read":
                raise HistoryError(f"a bank has reads and transfers, and no {op.f!r}", "", op.line)
            elif op.outcome == "ok":
                reads += 1
                first = first or op
                for anomaly, sentences, excess in _faults(op, first, negatives):
                    if anomaly in wrong:
                        wrong[anomaly].count += 1
                    else:
                        wrong[anomaly] = _Wrong(op, first, sentences, excess, recent)
    except OverBudgetError as error:
        doubt = f"{error}: the first {reads} reads add up, the others were not looked at"
    if not reads and not doubt:
        doubt = "the bank was never read, so that nothing can be said; record reads of all accounts, too"
    found = [wrong[anomaly].evidence(anomaly) for anomaly in MEANINGS if anomaly in wrong]
    return concluded(property_name, found, {"reads": reads, "transfers": transfers}, doubt)


def _faults(read: Op, first: Op, negatives: bool) -> Iterable[tuple[str, list[str], int]]:
    """Anomalies of one read: name, sentences, and by how much the total is too high."""
    balances, before = _seen(read), {} if first.value is None else first.value
    for account in before.keys() ^ balances.keys():
        yield (
            "other-accounts",
            [
                f"{read.name} read {'an' if account in balances else 'no'} account {account}.",
                f"{first.name}, the first read, had {'none' if account in balances else 'one'} of that name.",
                "Transfers neither open nor close accounts.",
            ],
            0,
        )
        return
    null = [account for account, balance in balances.items() if balance is None]
    if null:
        yield "null-balance", [f"{read.name} read null as the balance of account {null[0]}."], 0
        return
    total, expected = sum(balances.values()), sum(each for each in before.values() if each is not None)
    if total != expected:
        yield (
            "wrong-total",
            [
                f"{read.name} read {total} in all, but {first.name}, the first read, had {expected}.",
                "Transfers only move money from one account to another: the total is the same at every moment.",
            ],
            total - expected,
        )
    below = [account for account, balance in balances.items() if balance < 0]
    if negatives and below:
        yield (
            "negative-balance",
            [f"{read.name} read {balances[below[0]]} as the balance of account {below[0]}."],
            0,
        )


def _seen(read: Op) -> Mapping[Any, Any]:
    """The balances that a read saw; null is no account at all."""
    balances = {} if read.value is None else read.value
    if not isinstance(balances, Mapping) or not all(
        each is None or isinstance(each, int | float) for each in balances.values()
    ):
        raise HistoryError(
            f"a read of a bank sees a map from account to balance, and not {balances!r:.60}", "", read.line
        )
    return balances


def _amount(transfer: Op) -> Any:
    return transfer.argument.get("amount") if isinstance(transfer.argument, Mapping) else None


def _transfer(argument: Any) -> str:
    if not isinstance(argument, Mapping):
        return f"transfer {argument}"
    return f"transfer {argument.get('amount')} from {argument.get('from')} to {argument.get('to')}"


def _balances(value: Mapping[Any, Any]) -> str:
    held = [f"{account}: {balance}" for account, balance in value.items() if balance != 0]
    total = sum(balance for balance in value.values() if balance is not None)
    return f"read {total} in all ({', '.join(held[:8])}{', ...' if len(held) > 8 else ''})"


def _fits(shape: Shape) -> bool:
    return shape.functions <= {"read", "transfer"} and (
        "transfer" in shape.functions or (bool(shape.reads) and shape.reads <= {"map"})
    )


BANK: Final = Model(
    "bank",
    "transfers between accounts and reads of all of them",
    (TOTAL_CONSERVED, NO_NEGATIVE_BALANCES),
    check,
    _fits,
    {"conserved": TOTAL_CONSERVED, "no-negative": NO_NEGATIVE_BALANCES},
)
