"""What a check concludes: three values, and the findings behind them. Ignorance is never success."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Outcome(StrEnum):
    """``OK``, ``VIOLATION`` or ``UNKNOWN``, from best known to least."""

    OK = "OK"
    VIOLATION = "VIOLATION"
    UNKNOWN = "UNKNOWN"


EXIT_CODES = {Outcome.OK: 0, Outcome.VIOLATION: 1, Outcome.UNKNOWN: 3}
"""The exit code of a command that ends in a verdict; 2 is usage, 4 the harness's own failure."""


class Finding(msgspec.Struct, omit_defaults=True, frozen=True):
    """One thing that must never be, or (in an ``UNKNOWN``) one thing that could not be decided.

    ``details`` hold the values behind the sentence (operations, items, sequences), for machines.
    """

    property_name: str = msgspec.field(name="property")
    message: str = ""
    details: dict[str, Any] = {}


class Verdict(msgspec.Struct, frozen=True):
    """The conclusion of one checker, or of a whole run: an outcome, the property, findings and counts."""

    property_name: str = msgspec.field(name="property")
    outcome: Outcome = Outcome.UNKNOWN
    findings: tuple[Finding, ...] = ()
    checked: dict[str, int] = {}

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violation, 3 unknown."""
        return EXIT_CODES[self.outcome]


def combine(name: str, verdicts: list[Verdict]) -> Verdict:
    """One verdict over many: a violation anywhere is a violation; else an unknown anywhere, or nothing
    checked at all, is unknown; else ok. Findings are kept in order.
    """
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.VIOLATION in outcomes:
        outcome = Outcome.VIOLATION
    elif Outcome.UNKNOWN in outcomes or not verdicts:
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.OK
    findings = tuple(f for v in verdicts if v.outcome is outcome for f in v.findings)
    return Verdict(name, outcome, findings)
