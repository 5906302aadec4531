"""A torture harness for embedded stores: real processes, real SIGKILL, and checkers that must convince."""

from harness.checking import check_history
from harness.errors import HarnessError, HistoryError, UsageError
from harness.evidence import Edge, Evidence, Shown
from harness.verdict import Finding, Outcome, Verdict

__all__ = [
    "Edge",
    "Evidence",
    "Finding",
    "HarnessError",
    "HistoryError",
    "Outcome",
    "Shown",
    "UsageError",
    "Verdict",
    "check_history",
]
