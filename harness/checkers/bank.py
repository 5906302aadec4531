"""Bank: money is neither made nor lost."""

from __future__ import annotations

from typing import Final

from harness.checkers.findings import Findings
from harness.checkers.operation import OF_ONE_STATE, Operation
from harness.checkers.order import Order
from harness.verdict import Verdict

NAME: Final = "bank"
WORKLOAD: Final = "bank"


def check(order: Order) -> Verdict:
    """The total of all accounts is the same in every complete snapshot, and a balance is its writer's.

    Definition: transfers move money between accounts, so the sum over all accounts is an invariant that
    every serializable execution keeps (the "bank" test of Jepsen, after Berenson et al., "A critique of ANSI
    SQL isolation levels", 1995). The expected total is that of the first acknowledged balance of each
    account. A version read with another value than its writer wrote is an intermediate read (G1b, Adya
    1999) or damage; for a killed writer all readers of one version must agree. Complexity: O(reads).

    Does not verify: snapshots that do not cover every account; errors that cancel out in the sum and whose
    writers were all killed.
    """
    found = Findings(NAME)
    accounts = _accounts(order)
    total = sum(accounts.values())
    agreed: dict[tuple[str, int], object] = {}
    snapshots = balances = 0
    for op in order.operations:
        if op.outcome != "ok" or not op.reads:
            continue
        sum_read = covered = 0
        for read in op.reads:
            identity = read.writer
            if read.item not in accounts or identity is None:
                continue
            covered += 1
            if type(read.value) is int:
                sum_read += read.value
            writer = order.writes.get(identity)
            if writer is None:
                continue
            wrote = writer.values.get(read.item)
            if wrote is None:
                wrote = agreed.setdefault((read.item, identity), read.value)
            if read.value != wrote:
                found.violation(
                    f"{read.item} in {op} holds {read.value}, but {order.name(identity)} wrote {wrote} (G1b)",
                    by=op,
                    item=read.item,
                    expected=f"{read.item} = {wrote}",
                )
        balances += covered
        if op.f in OF_ONE_STATE and covered == len(accounts) and covered:
            snapshots += 1
            if sum_read != total:
                _report_total(op, sum_read, total, found)
    if not snapshots and not found.any:
        found.unknown("no snapshot covers all accounts")
    return found.verdict({"accounts": len(accounts), "snapshots": snapshots, "balances": balances})


def _accounts(order: Order) -> dict[str, int]:
    """The first acknowledged balance of every account, in the order of invocation."""
    accounts: dict[str, tuple[int, int]] = {}
    for op in order.writes.values():
        if op.workload == WORKLOAD and op.outcome == "ok":
            for item, balance in op.values.items():
                if type(balance) is int and (item not in accounts or op.invoked < accounts[item][0]):
                    accounts[item] = op.invoked, balance
    return {item: balance for item, (_, balance) in accounts.items()}


def _report_total(op: Operation, sum_read: int, total: int, found: Findings) -> None:
    difference = sum_read - total
    verb = "appeared" if difference > 0 else "vanished"
    found.violation(
        f"all accounts in {op} hold {sum_read:,} together: {abs(difference):,} {verb}",
        by=op,
        total=sum_read,
        expected=f"{total:,} together, as at the beginning",
    )
