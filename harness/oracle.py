"""The verdict over one schedule: the campaign's checkers, with the number of the step as the clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from harness.checkers import atomicity, durability, isolation, realtime, resolution
from harness.checkers.operation import Operation
from harness.checkers.order import place
from harness.history import Event, Invoke, Violation, operation_id
from harness.judge import join
from harness.stepped.execution import Execution
from harness.verdict import Finding, Outcome

LIVENESS: Final = "liveness"
_CHECKS: Final = (atomicity.check, isolation.check, realtime.check, durability.check, resolution.check)
_DECISIVE: Final = frozenset({durability.NAME, resolution.NAME})
"""The others are undecided only where a schedule held nothing for them to look at."""
_NAMES: Final = re.compile(
    r"\S*/harness-explore-\w+|\[[^]]*\]|\bprocess \d+ operation \d+( \(T=\d+\))?|\babsent\b|\b[0-9a-f]{8,}\b|\d+"
)
"""What differs between two messages about the same mistake: the store's path, lists, who wrote a version (or that
nobody did), keys, numbers."""


class Judge:
    """Judges executions of one scenario, whose ``setup`` history comes before all of them."""

    def __init__(self, setup: Sequence[Event]) -> None:
        self._setup: list[Operation] = join([setup])

    def findings(self, execution: Execution) -> tuple[list[Finding], int]:
        """Every violation, the most telling first, and how many of durability and resolution could not be decided."""
        found = _reported(execution)
        histories = [*execution.histories, execution.aftermath]
        if found:
            histories = [[event for event in events if type(event) is not Violation] for events in histories]
        order = place(self._setup + join(histories), dense=True)
        undecided = 0
        for check in _CHECKS:
            verdict = check(order)
            if verdict.outcome is Outcome.VIOLATION:
                found += verdict.findings
            elif verdict.outcome is Outcome.UNKNOWN and verdict.property_name in _DECISIVE:
                undecided += 1
        found += [Finding(left.kind, left.message) for left in execution.left]
        return found, undecided


def _reported(execution: Execution) -> list[Finding]:
    """What the processes saw with their own eyes, and why the schedule did not end."""
    found = []
    for events in (*execution.histories, execution.aftermath):
        for event in events:
            if isinstance(event, Violation):
                details = {"time": event.time, "process": event.process}
                if event.index:
                    details["operation"] = operation_id(event.process, event.index)
                found.append(Finding(event.property_name, event.message, details))
    if execution.stuck == "deadlock":
        found.append(Finding(LIVENESS, f"deadlock: {'; '.join(execution.waiting)}"))
    elif execution.stuck:
        running = [
            f"operation {events[-1].index} of process {events[-1].process}"
            for events in execution.histories
            if events and isinstance(events[-1], Invoke)
        ]
        found.append(
            Finding(LIVENESS, f"livelock: after {len(execution.steps)} steps {', '.join(running)} goes on")
        )
    return found


def kind_of(finding: Finding) -> str:
    """What makes two violations the same: the property and the words of the message without the names in it. Of a
    deadlock or a livelock that it is one.
    """
    if finding.property_name == LIVENESS:
        return f"{LIVENESS}: {finding.message.partition(':')[0]}"
    return f"{finding.property_name}: {_NAMES.sub('#', finding.message)}"
