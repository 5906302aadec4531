"""Structure: the store's own invariants hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.checkers.findings import Findings
from harness.history import Left, Mark, RunEvent
from harness.verdict import Verdict

NAME: Final = "structure"


def check(events: Sequence[RunEvent]) -> Verdict:
    """The store's own ``verify`` found nothing wrong after the run.

    Definition: whatever the engine calls its invariants. Damage that the engine reports during the run
    arrives as the workers' own violations of this property. Complexity: O(events).

    Does not verify: anything that the engine's ``verify`` does not look at.
    """
    found = Findings(NAME)
    for event in events:
        if isinstance(event, Left) and event.kind == "structure":
            found.violation(event.message, time=event.time, expected="no finding of the store's own verify")
    if not any(isinstance(event, Mark) and event.what == "end" for event in events):
        found.unknown("the run did not reach its end: the store was not verified")
    return found.verdict({})
