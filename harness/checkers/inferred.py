"""What a store that reveals no commit order must still obey: inferred from what was read, by the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.budget import Budget
from harness.checkers import append, isolation, realtime, recorded
from harness.checkers.operation import Operation
from harness.evidence import Evidence
from harness.models.list_append import LIST_APPEND
from harness.models.rw_register import RW_REGISTER
from harness.verdict import Finding, Outcome, Verdict

PROPERTY: Final = "strict-serializable"
"""What every engine is held to; what real time alone forbids is reported as ``realtime``."""
LIMIT_S: Final = 600.0
"""Seconds for one model."""
_OF_LISTS: Final = frozenset({"duplicate-elements", "phantom-element", "incompatible-order", "internal"})
"""Anomalies of lists themselves: the property ``append``."""


def check(operations: Sequence[Operation], limit_s: float = LIMIT_S) -> list[Verdict]:
    """Strict serializability of all workloads, as verdicts of the properties isolation, realtime and append.

    Definition: there is a serial order of the committed transactions, in agreement with real time, in which every read
    is of the version before it (Papadimitriou, "The serializability of concurrent database updates", 1979; Kingsbury
    and Alvaro, "Elle", 2020). Lists of appended elements tell the order of their versions; elsewhere it is inferred
    from versions that are unique. A killed write is taken up once it was seen. The workload ``append`` is one history,
    all others together are another one. Complexity: that of the two models.

    Does not verify: orders between transactions of ``append`` and of the others, which share no items; what a
    ``resolve`` found beyond its first version; where a violation was found, whether there are others of another kind.
    """
    results: list[tuple[str, Verdict]] = []
    for model, say in ((LIST_APPEND, recorded.list_append), (RW_REGISTER, recorded.rw_register)):
        history = say(operations)
        if history:
            results.append((model.name, model.check(history, PROPERTY, Budget(limit_s))))
    if not results:
        nothing = Finding(isolation.NAME, "no transaction was there to check")
        return [Verdict(isolation.NAME, Outcome.UNKNOWN, (nothing,))]
    names = [isolation.NAME, realtime.NAME]
    if any(model == LIST_APPEND.name for model, _ in results):
        names.append(append.NAME)
    return [_of_property(name, results) for name in names]


def _of_property(name: str, results: Sequence[tuple[str, Verdict]]) -> Verdict:
    """The part of the models' verdicts that is about ``name``."""
    of_name = [
        (model, verdict) for model, verdict in results if name != append.NAME or model == LIST_APPEND.name
    ]
    findings = tuple(
        Finding(name, finding.message, finding.details)
        for _, verdict in of_name
        if verdict.outcome is Outcome.VIOLATION
        for finding in verdict.findings
        if _property_of(finding) == name
    )
    checked: dict[str, int] = {}
    for _, verdict in of_name:
        for what, count in verdict.checked.items():
            checked[what] = checked.get(what, 0) + count
    if findings:
        return Verdict(name, Outcome.VIOLATION, findings, checked)
    open_questions = tuple(
        Finding(name, f"as {model}: {_why_open(verdict)}")
        for model, verdict in of_name
        if verdict.outcome is not Outcome.OK
    )
    return Verdict(name, Outcome.UNKNOWN if open_questions else Outcome.OK, open_questions, checked)


def _why_open(verdict: Verdict) -> str:
    if verdict.outcome is Outcome.VIOLATION:
        return "not decided, since another property is violated"
    return "; ".join(finding.message for finding in verdict.findings) or "nothing could be decided"


def _property_of(finding: Finding) -> str:
    """The property that an anomaly violates first."""
    evidence = finding.details.get("evidence")
    anomaly = evidence.anomaly if isinstance(evidence, Evidence) else ""
    if anomaly in _OF_LISTS:
        return append.NAME
    return realtime.NAME if anomaly.endswith("-realtime") else isolation.NAME
