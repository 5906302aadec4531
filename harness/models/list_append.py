"""Lists that only grow: transactions of ["append", key, element] and ["r", key, list], checked for isolation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from harness.budget import Budget, OverBudgetError, uncollected
from harness.dependency import snapshot
from harness.dependency.catalogue import (
    ALIASES,
    ANOMALIES,
    ORDERS,
    PROPERTIES,
    VARIANTS,
    Order,
    Property,
    find_property,
    weakest_ruled_out,
)
from harness.dependency.cycles import find_cycles, with_order
from harness.dependency.explain import explain
from harness.dependency.graph import PROCESS, REALTIME, RW, UPDATE, VIA, WR, WW
from harness.dependency.list_append import AmbiguousError, Appends, Inferred, infer, match, reads_of
from harness.dependency.list_append_reads import ASSUMED, ListDescriber, read_anomalies
from harness.dependency.orders import Contradiction
from harness.dependency.transactions import INFO, Transactions
from harness.dependency.versions import Lists, encode
from harness.dependency.walks import Cycle, Step
from harness.evidence import Evidence, finding
from harness.models.base import Model, Shape
from harness.recorded import Op
from harness.verdict import Finding, Outcome, Verdict

FINDINGS_MAX: Final = 8


def check(ops: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether the history has an isolation property (``catalogue.PROPERTIES`` or ``ALIASES``), exactly.

    A history has it if and only if it shows no anomaly that the property rules out: none of single reads (an aborted,
    an intermediate, a contradictory read), and no cycle of what transactions wrote over and read from one another, of
    the kinds that the property forbids, with the order of processes (strong-session) or real time (strong, strict).
    Snapshot isolation further needs an order of the appends that nobody read, which is searched for (``orders``).
    Anomalies that it allows are counted in ``checked``. The findings are of different anomalies, the shortest first;
    their ``details["rules_out"]`` says which are the weakest properties that the history does not have.

    UNKNOWN: a limit was reached; two transactions appended the same element; nothing has committed.
    O(n log n) in the history's length; a million transactions of three micro-operations took 4.4 s and 660 MB
    (``harness bench --checkers``). The search for snapshots is exponential in the worst case.

    Sources: Adya 1999; Kingsbury and Alvaro 2020 (Elle); Cerone and Gotsman 2016.

    Raises:
        HistoryError: an operation is no list-append transaction.
        UsageError: there is no such property.

    Does not verify: predicates and deletions, which such a history cannot have; that an info which nobody saw had
    any effect, or none; wall-clock times.
    """
    asked = find_property(property_name)
    with uncollected():
        try:
            return _decide(encode(ops, budget), asked, budget)
        except OverBudgetError as error:
            message = (
                f"not decided: {error} before the history was wholly looked at; raise it, or check a part"
            )
            return Verdict(asked.name, Outcome.UNKNOWN, (Finding(asked.name, message),))


def _decide(lists: Lists, asked: Property, budget: Budget) -> Verdict:
    transactions = lists.transactions
    try:
        appends = match(lists)
    except AmbiguousError as error:
        return Verdict(asked.name, Outcome.UNKNOWN, (Finding(asked.name, _ambiguous(lists, error)),))
    budget.check()
    reads = reads_of(lists, appends)
    budget.check()
    inferred = infer(lists, appends, reads, asked.level == "read-uncommitted", budget)
    committed = int(np.count_nonzero(inferred.committed))
    checked = {
        "transactions": committed,
        "micro-operations": len(lists.tag),
        "keys": len(lists.keys),
        "dependencies": inferred.graph.edges.count,
    }
    describe = ListDescriber(lists, appends)
    found = [
        (evidence.anomaly, evidence) for evidence in read_anomalies(lists, appends, reads, inferred.committed)
    ]
    undecided = ""
    try:
        cycles = find_cycles(inferred.graph, transactions, inferred.committed, asked.order, budget)
        found += [(_implied(cycle, transactions), explain(cycle, transactions, describe)) for cycle in cycles]
        if asked.level == "snapshot-isolation" and cycles and not _excluded(found, asked):
            found += _snapshots(lists, appends, inferred, asked, budget)
    except OverBudgetError as error:
        undecided = f"not decided: {error} while looking for cycles; reads by themselves show nothing that is ruled out"
    return _verdict(asked, found, checked, undecided)


def _ambiguous(lists: Lists, error: AmbiguousError) -> str:
    one, other = (lists.transactions.name(row) for row in error.transactions)
    who = f"{one} and {other} both" if one != other else f"{one} twice"
    return (
        f"{who} appended {lists.names.element(error.element)} to key {lists.keys[error.key]}: nobody can say whose "
        "element was read. Each element must be appended to a key once"
    )


def _implied(cycle: Cycle, transactions: Transactions) -> str:
    """The anomaly that a cycle is for certain: if an info was in truth aborted, a G0 is no write cycle of committed
    transactions but an aborted read, so that it rules out what a G1c does.
    """
    info = any(transactions.outcome[step.source] == INFO for step in cycle.steps)
    return cycle.anomaly.replace("G0", "G1c") if info else cycle.anomaly


def _excluded(found: list[tuple[str, Evidence]], asked: Property) -> bool:
    return any(implied in asked.rules_out for implied, _ in found)


def _verdict(
    asked: Property, found: list[tuple[str, Evidence]], checked: dict[str, int], undecided: str
) -> Verdict:
    rank = {name: place for place, name in enumerate(ANOMALIES)}
    against = [(implied, evidence) for implied, evidence in found if implied in asked.rules_out]
    against.sort(key=lambda each: (len(each[1].operations), rank[each[1].anomaly]))
    for implied, evidence in found:
        if implied not in asked.rules_out:
            checked[f"not ruled out: {evidence.anomaly}"] = 1
    if against:
        weakest = weakest_ruled_out(implied for implied, _ in found)
        findings = []
        for _, evidence in against[:FINDINGS_MAX]:
            made = finding(asked.name, evidence)
            findings.append(
                msgspec.structs.replace(
                    made,
                    message=f"{made.message} [not {', not '.join(weakest)}]",
                    details={**made.details, "rules_out": list(weakest)},
                )
            )
        return Verdict(asked.name, Outcome.VIOLATION, tuple(findings), checked)
    if not undecided and not checked["transactions"]:
        undecided = "nothing to check: no transaction is known to have committed"
    if undecided:
        return Verdict(asked.name, Outcome.UNKNOWN, (Finding(asked.name, undecided),), checked)
    return Verdict(asked.name, Outcome.OK, (), checked)


def _snapshots(
    lists: Lists, appends: Appends, inferred: Inferred, asked: Property, budget: Budget
) -> list[tuple[str, Evidence]]:
    """The proof that no order of unread appends gives snapshots, if there is none; with no more of an order than it
    needs.
    """
    transactions = lists.transactions

    def proof(order: Order) -> Contradiction | None:
        graph = with_order(inferred.graph, transactions, inferred.committed, order)
        answer = snapshot.decide(graph, inferred.unordered, transactions, budget)
        return answer if isinstance(answer, Contradiction) else None

    strongest = proof(asked.order)
    if strongest is None:
        return []
    weaker = ORDERS[: ORDERS.index(asked.order)]
    order, found = next(
        ((each, shown) for each in weaker if (shown := proof(each))), (asked.order, strongest)
    )
    keys = {
        row: {int(lists.key[m]) for m in range(lists.begin[row], lists.end[row]) if appends.place[m] < 0}
        for group in inferred.unordered
        for row in group
    }
    ways = snapshot.cycle_edges(found, transactions.count)
    steps = tuple(_step(way, inferred, transactions, order, keys) for way in ways)
    name = "G-SI" + VARIANTS[order]
    return [(name, explain(Cycle(name, steps), transactions, ListDescriber(lists, appends)))]


def _step(
    way: snapshot.Way,
    inferred: Inferred,
    transactions: Transactions,
    order: Order,
    keys: dict[int, set[int]],
) -> Step:
    """What a way between two transactions rests on: an edge, an order, or an assumption on a key (of ``keys``, those to
    which each appended what nobody read).
    """
    source, target, anti = way
    edges = inferred.graph.edges
    direct = (edges.source == source) & np.isin(edges.kind, (RW,) if anti else (WW, WR, UPDATE))
    into = edges.target == target
    hubs = edges.source[into & (edges.kind == VIA)]
    rows = np.flatnonzero(direct & (into | np.isin(edges.target, hubs)))
    if len(rows):
        row = rows[0]
        return Step(source, target, int(edges.kind[row]), int(edges.key[row]), int(edges.at[row]))
    if order != "none" and transactions.completed[source] < transactions.invoked[target]:
        same = transactions.process[source] == transactions.process[target]
        return Step(source, target, PROCESS if same else REALTIME)
    return Step(source, target, WW, min(keys[source] & keys[target]), ASSUMED)


def _fits(shape: Shape) -> bool:
    return "append" in shape.micros and shape.micros <= {"append", "r"}


LIST_APPEND: Final = Model(
    name="list-append",
    summary="transactions that append to lists and read them, checked for isolation",
    properties=tuple(PROPERTIES),
    check=check,
    fits=_fits,
    aliases=ALIASES,
)
