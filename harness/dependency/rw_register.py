"""Isolation of register histories: exact verdicts for every level, from read-uncommitted to strict-serializable.

Micro-operations are ``["w", k, v]``, ``["r", k, v or null]`` and ``["d", k]``, which writes null; null is also what a
key has before the first write. Elle (Kingsbury and Alvaro, VLDB 2020) finds cycles of what follows from unique values,
which is sound but not complete. Here a level is decided: OK rests on an order of the transactions that was
replayed and shows every read what it read; VIOLATION on a proof that there is no such order. Values need not be unique:
which of several writers a read saw is a choice like the others.

The definitions are those of ``catalogue``: with an order of the committed transactions in which

* read-uncommitted: anything may be read that somebody wrote. A register's reads alone never show in which order its
  versions were installed, so that G0 and cyclic versions cannot be told from the G1c that they come with;
* read-committed: who reads a version comes after one that finally wrote it (``rw_levels.read_committed``);
* repeatable-read and serializable: every read returns the latest state (``rw_levels.serializable``);
* snapshot-isolation: the same with a start and a commit for each (``rw_levels.snapshot_isolation``).

Indeterminate transactions may have committed. One that nobody needs is put at the end of the order, where nobody sees
it: what it read is unknown, and no order of processes or of real time leads out of it. So all of them are taken as
committed, except at read-uncommitted, where that plays no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from harness.budget import Budget, OverBudgetError, uncollected
from harness.dependency.catalogue import (
    ANOMALIES,
    ORDERS,
    PROPERTIES,
    Order,
    Property,
    find_property,
    implies,
    weakest_ruled_out,
)
from harness.dependency.cycles import find_cycles
from harness.dependency.orders import Contradiction, solve
from harness.dependency.rw_explain import contradiction, known_cycle, lost_update, odd
from harness.dependency.rw_levels import (
    Problem,
    known,
    read_committed,
    serializable,
    snapshot_isolation,
    sole_writer,
)
from harness.dependency.rw_versions import Access, Registers, encode
from harness.dependency.transactions import FAIL, INFO, OK
from harness.evidence import Evidence, finding
from harness.recorded import Op
from harness.verdict import Finding, Outcome, Verdict

FINDINGS_MAX: Final = 8
TRIAL_S: Final = 60.0
"""How long the strongest level is tried, in seconds, if there is no limit; else a quarter of what is left."""
WEAKEST_MAX: Final = 2_000
"""Past this many transactions weaker levels that are broken, too, are not looked for beyond what is certain: without
real time a search among that many blind writes may take minutes.
"""
_PROBLEMS: Final = {
    "read-committed": read_committed,
    "snapshot-isolation": snapshot_isolation,
    "serializable": serializable,
}


class Broken(NamedTuple):
    """A level that no order gives, and the proof."""

    level: str
    order: Order
    problem: Problem
    proof: Contradiction


class Levels:
    """Decides one history's levels, each at most once, and none that another one implies. Reads of what nobody else
    committed are left out: they break what they break in any order. ``certain`` is without reads that contradict their
    own transaction, too, which would be told as cycles.
    """

    def __init__(self, registers: Registers, budget: Budget) -> None:
        self.oddities = registers.oddities
        self.registers = _without(registers, internal=False)
        self.certain = _without(registers, internal=True)
        self.budget = budget
        self.decided: dict[tuple[str, Order], Broken | None] = {}
        self.tried = False

    def broken(self, level: str, order: Order) -> Broken | None:
        """The proof that no order has this level (of ``_PROBLEMS``), or None where there is one, which was replayed.
        The strongest level is tried first: it is the fastest to decide, and settles all others if it holds.

        Raises:
            OverBudgetError: undecided.
        """
        if level != "read-committed" and (level, order) != ("serializable", "realtime") and not self.tried:
            self.tried = True
            limit_s = self.budget.limit_s
            share = TRIAL_S if limit_s is None else max(0.0, limit_s - self.budget.spent_s) / 4
            try:
                self._decide("serializable", "realtime", Budget(share, self.budget.limit_mb))
            except OverBudgetError:
                self.budget.check()
        for (other, by), found in self.decided.items():
            if found is None and _at_least(other, by, level, order):
                return None
            if found is not None and _at_least(level, order, other, by):
                return found
        return self._decide(level, order, self.budget)

    def _decide(self, level: str, order: Order, budget: Budget) -> Broken | None:
        problem = _PROBLEMS[level](self.registers, order)
        result = solve(problem.successors, problem.due, problem.broken, budget)
        made = Broken(level, order, problem, result) if isinstance(result, Contradiction) else None
        self.decided[level, order] = made
        return made


def _without(registers: Registers, internal: bool) -> Registers:
    """The history without the reads of what nobody else committed, and without ``internal`` ones if that is true."""
    left_out = {
        (each.row, each.key, each.version)
        for each in registers.oddities
        if internal or each.anomaly != "internal"
    }
    if not left_out:
        return registers
    reads = [
        tuple(access for access in accesses if (row, *access) not in left_out)
        for row, accesses in enumerate(registers.reads)
    ]
    return registers._replace(reads=reads)


def _level(wanted: Property) -> str:
    return "serializable" if wanted.level == "repeatable-read" else wanted.level


def _at_least(level: str, order: Order, other: str, by: Order) -> bool:
    """Whether the first level implies the other one."""
    names = list(_PROBLEMS)
    return names.index(level) >= names.index(other) and ORDERS.index(order) >= ORDERS.index(by)


def lost_updates(registers: Registers) -> list[tuple[int, int, tuple[int, int]]]:
    """Key, version, and two transactions that read it and wrote the key: one for each version."""
    readers: dict[Access, int] = {}
    found: dict[Access, tuple[int, int]] = {}
    for row, accesses in enumerate(registers.reads):
        if not registers.writes[row] or not accesses:
            continue
        written = {key for key, _ in registers.writes[row]}
        for access in accesses:
            if access[0] in written and sole_writer(registers, row, access[1]) is not None:
                other = readers.setdefault(access, row)
                if other != row:
                    found.setdefault(access, (other, row))
    return [(*access, rows) for access, rows in found.items()]


def holds(levels: Levels, wanted: Property) -> bool:
    """Whether the history has the property ``wanted``. Exact.

    Raises:
        OverBudgetError: undecided.
    """
    if any(each.anomaly in wanted.rules_out for each in levels.oddities):
        return False
    return wanted.level == "read-uncommitted" or levels.broken(_level(wanted), wanted.order) is None


def anomalies(levels: Levels, wanted: Property) -> list[Evidence]:
    """The evidence of anomalies that ``wanted`` rules out, one of each name, the smallest first. Nothing if
    and only if the history has the property.

    Raises:
        OverBudgetError: undecided, and nothing was found.
    """
    found: dict[str, Evidence] = {}
    for oddity in levels.oddities:
        if oddity.anomaly in wanted.rules_out and oddity.anomaly not in found:
            found[oddity.anomaly] = odd(levels.registers, oddity)
    try:
        if wanted.level != "read-uncommitted":
            _orderless(levels, wanted, found)
    except OverBudgetError:
        if not found:
            raise
    ranked = [found[name] for name in ANOMALIES if name in found]
    return sorted(ranked, key=lambda each: len(each.operations))[:FINDINGS_MAX]


def _orderless(levels: Levels, wanted: Property, found: dict[str, Evidence]) -> None:
    """Find what no order allows: lost updates and the shortest cycles of what is certain; then, for each order from the
    strongest, at the weakest level that is broken and that these do not rule out, what the proof of that says.
    """
    latest = wanted.level != "read-committed"
    registers = levels.certain if latest else levels.registers
    if latest:
        for lost in lost_updates(registers)[:1]:
            found["lost-update"] = lost_update(registers, *lost)
    committed = registers.transactions.outcome != FAIL
    certain = known(registers, latest)
    for cycle in find_cycles(certain, registers.transactions, committed, wanted.order, levels.budget):
        if cycle.anomaly in wanted.rules_out:
            found[cycle.anomaly] = known_cycle(registers, cycle)
    small = registers.transactions.count <= WEAKEST_MAX
    for order in reversed(ORDERS[: ORDERS.index(wanted.order) + 1]):
        for level in _PROBLEMS:
            if not _at_least(_level(wanted), wanted.order, level, order):
                continue
            if not (
                small
                or level == "read-committed"
                or (order == wanted.order and (order == "realtime" or not found))
            ):
                continue
            if any(implies(_named(level, order), each) for each in weakest_ruled_out(found)):
                break
            broken = levels.broken(level, order)
            if broken is not None:
                made = contradiction(levels.registers, broken.problem, broken.proof, level, order)
                found.setdefault(made.anomaly, made)
                break


def _named(level: str, order: Order) -> str:
    return next(each.name for each in PROPERTIES.values() if (each.level, each.order) == (level, order))


def check(ops: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """The verdict of one property (``catalogue.PROPERTIES``, or an alias) over a register history.

    OK: there is an order of the committed transactions that has the property, and it was replayed. VIOLATION: there is
    none; a finding for each anomaly, whose evidence is a cycle. UNKNOWN: nothing committed, or past the budget.

    A version with more than some sixty possible writers (many deletes of one key) is looked at as far as it goes: what
    is said is sure, but where a proof would need all of them the verdict is UNKNOWN.

    O(n log n) for histories that are explained by nearly the order of completion, which valid ones are: 100,000
    transactions take seconds. NP-complete in general (Papadimitriou 1979), so that the budget matters: blind writes of
    one key by many transactions at once, and many deletes with reads of null, are what makes it hard.

    Raises:
        HistoryError: an operation is no list of micro-operations of this model. UsageError: there is no such property.

    Does not verify: predicates (repeatable-read and serializable agree here); what failed or indeterminate transactions
    read; at read-uncommitted, in which order versions were installed, which no read of a register shows.
    """
    wanted = find_property(property_name)
    checked: dict[str, int] = {}
    try:
        with uncollected():
            registers = encode(ops, budget)
        outcome = registers.transactions.outcome
        checked = {
            "transactions": len(outcome),
            "committed": int((outcome == OK).sum()),
            "indeterminate": int((outcome == INFO).sum()),
            "keys": len(registers.keys),
            "reads": sum(map(len, registers.reads)),
        }
        if not checked["committed"]:
            nothing = Finding(
                property_name, "No transaction is known to have committed, so there is nothing to check."
            )
            return Verdict(wanted.name, Outcome.UNKNOWN, (nothing,), checked)
        with uncollected():
            found = anomalies(Levels(registers, budget), wanted)
    except OverBudgetError as error:
        decided = f"{checked['transactions']} transactions were read" if checked else "not all was read"
        message = f"Undecided, since {error}: {decided}, no anomaly had been found, and no order either."
        return Verdict(wanted.name, Outcome.UNKNOWN, (Finding(wanted.name, message),), checked)
    if not found:
        return Verdict(wanted.name, Outcome.OK, (), checked)
    weakest = weakest_ruled_out(each.anomaly for each in found)
    return Verdict(
        wanted.name, Outcome.VIOLATION, tuple(_finding(wanted.name, each, weakest) for each in found), checked
    )


def _finding(property_name: str, evidence: Evidence, weakest: Sequence[str]) -> Finding:
    made = finding(property_name, evidence)
    return msgspec.structs.replace(
        made,
        message=f"{made.message} [not {', not '.join(weakest)}]",
        details={**made.details, "rules_out": list(weakest)},
    )
