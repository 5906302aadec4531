"""Collecting findings: capped, counted, and turned into a verdict of three values."""

from __future__ import annotations

from typing import Any, Final

from harness.checkers.operation import Operation
from harness.verdict import Finding, Outcome, Verdict

FINDINGS_MAX: Final = 20
"""Findings kept per property and kind; the rest are counted."""


class Findings:
    """What one checker found: violations, and reasons why it could not decide."""

    def __init__(self, property_name: str) -> None:
        self.property_name = property_name
        self._violations: list[Finding] = []
        self._violation_count = 0
        self._unknowns: list[Finding] = []
        self._unknown_count = 0

    def violation(self, message: str, *, by: Operation | None = None, **details: Any) -> None:
        """Something that must never be. ``by``: the operation that saw or did it."""
        self._violation_count += 1
        if len(self._violations) >= FINDINGS_MAX:
            return
        if by is not None:
            details.setdefault("operation", by.id)
            details.setdefault("time", by.invoked if by.completed is None else by.completed)
        self._violations.append(Finding(self.property_name, message, details))

    def unknown(self, message: str, **details: Any) -> None:
        """Something that could not be decided."""
        self._unknown_count += 1
        if len(self._unknowns) < FINDINGS_MAX:
            self._unknowns.append(Finding(self.property_name, message, details))

    @property
    def any(self) -> bool:
        """Whether there is a violation."""
        return bool(self._violations)

    def verdict(self, checked: dict[str, int]) -> Verdict:
        """``VIOLATION`` if there is any, else ``UNKNOWN`` if there is any, else ``OK``."""
        if self._violations:
            return self._verdict(Outcome.VIOLATION, self._violations, self._violation_count, checked)
        if self._unknowns:
            return self._verdict(Outcome.UNKNOWN, self._unknowns, self._unknown_count, checked)
        return Verdict(self.property_name, Outcome.OK, (), checked)

    def _verdict(
        self, outcome: Outcome, findings: list[Finding], count: int, checked: dict[str, int]
    ) -> Verdict:
        kept = list(findings)
        if count > len(kept):
            rest = count - len(kept)
            kept.append(
                Finding(self.property_name, f"and {rest:,} more of the same property", {"more": rest})
            )
        return Verdict(self.property_name, outcome, tuple(kept), checked)
