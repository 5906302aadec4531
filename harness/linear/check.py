"""The check of a whole history: each object alone, within the budget, and why not where it is not linearizable."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final

from harness.budget import Budget, OverBudgetError
from harness.evidence import finding
from harness.linear.base import Sequential, show
from harness.linear.explain import explain
from harness.linear.problem import problem_of
from harness.linear.search import CONFIGURATIONS_MAX, Search
from harness.recorded import Op
from harness.verdict import Finding, Outcome, Verdict

EXPLAINED_MAX: Final = 5
"""Objects that are explained at length; of further ones that are not linearizable only the number is told."""

PROPERTY: Final = "linearizable"


def check(
    model: Sequential,
    operations: Iterable[Op],
    budget: Budget | None = None,
    configurations_max: int = CONFIGURATIONS_MAX,
) -> Verdict:
    """Whether ``operations`` are linearizable as ``model``.

    Each object (``model.partition``) is checked alone, the shortest first: a history is linearizable if and only if
    that of each object is (Herlihy and Wing 1990; as an optimisation Horn and Kroening, "Faster linearizability
    checking via P-compositionality", 2015). OK: all objects are. VIOLATION: one is not; the findings explain up to
    ``EXPLAINED_MAX`` of them. UNKNOWN: a limit was reached before either, or no operation succeeded; the findings say
    what was decided.
    ``checked`` counts operations, objects, and configurations that were looked at.

    Does not verify: see ``Search``, and that operations with different keys do not touch each other.

    Raises:
        HistoryError: an operation is none of this model's.
    """
    budget = budget or Budget()
    ops = list(operations)
    parts = sorted(model.partition(ops).items(), key=lambda part: len(part[1]))
    searches = [(key, part, problem_of(model, part)) for key, part in parts]
    violations: list[Finding] = []
    unknown: list[Finding] = []
    counts = {"operations": len(ops), "objects": len(parts), "configurations": 0}
    not_linearizable = decided = 0
    for key, part, problem in searches:
        search = Search(problem, budget, configurations_max)
        try:
            linearizable = search.run()
        except OverBudgetError as limit:
            unknown.append(_undecided(key, part, search, limit, decided, len(parts)))
            continue
        finally:
            counts["configurations"] += search.explored
        decided += 1
        if linearizable:
            continue
        not_linearizable += 1
        if not_linearizable <= EXPLAINED_MAX:
            shown, simpler = _without_failed(model, part, search, budget)
            violations.append(finding(PROPERTY, explain(model, key, shown, simpler, budget)))
    if violations:
        if not_linearizable > EXPLAINED_MAX:
            rest = not_linearizable - EXPLAINED_MAX
            violations.append(Finding(PROPERTY, f"{rest} more objects are not linearizable", {"more": rest}))
        return Verdict(PROPERTY, Outcome.VIOLATION, tuple(violations), counts)
    if not unknown and not any(op.outcome == "ok" for op in ops):
        unknown.append(
            Finding(PROPERTY, "no operation succeeded, so nothing was answered that could be wrong")
        )
    return Verdict(PROPERTY, Outcome.UNKNOWN if unknown else Outcome.OK, tuple(unknown), counts)


def _without_failed(
    model: Sequential, part: list[Op], search: Search, budget: Budget
) -> tuple[list[Op], Search]:
    """The same violation without the failed operations, if it shows without them: what failed had no effect, and where
    nobody has to ask what it may have followed on the explanation is shorter.
    """
    effective = [op for op in part if op.outcome != "fail"]
    easier = Search(problem_of(model, effective), budget)
    if len(search.problem.entries) == len(easier.problem.entries):
        return part, search
    try:
        return (part, search) if easier.run() else (effective, easier)
    except OverBudgetError:
        return part, search


def checker(model: Sequential) -> Callable[[Iterable[Op], str, Budget], Verdict]:
    """``check`` in the form that a ``Model`` holds."""

    def checks(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
        assert property_name == PROPERTY, property_name
        return check(model, operations, budget)

    return checks


def _undecided(
    key: Hashable, part: list[Op], search: Search, limit: OverBudgetError, decided: int, objects: int
) -> Finding:
    done = sum(op.completed <= search.position for op in part)
    last = max(
        (op for op in part if op.completed <= search.position), key=lambda op: op.completed, default=None
    )
    where = f" (up to line {last.line_completed})" if last is not None and last.line_completed else ""
    whole = f"key {show(key)}: " if objects > 1 or key is not None else ""
    return Finding(
        PROPERTY,
        f"{whole}{limit} before this was decided; the first {done} of {len(part)} operations to complete can be "
        f"linearised{where}. {decided} of {objects} objects were decided before. Raise the limit, or check a part of "
        "the history",
        {"key": show(key), "linearised": done, "operations": len(part), "explored": search.explored},
    )
