"""The canary: a checker that must fail, so that a run shows that a failure would be seen."""

from __future__ import annotations

from typing import Final

from harness.checkers.findings import Findings
from harness.verdict import Verdict

NAME: Final = "canary"


def check() -> Verdict:
    """Always a violation. A harness in which this ends in anything else would hide real ones.

    Does not verify: anything.
    """
    found = Findings(NAME)
    found.violation("the canary was asked for, and it always fails", expected="exactly this")
    return found.verdict({})
