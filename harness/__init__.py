"""A torture harness for embedded stores: real processes, real SIGKILL, and checkers that must convince."""

from harness.checking import check_history
from harness.engines.base import Value
from harness.engines.simple import SimpleEngine, SimpleSession, SimpleSnapshot, SimpleTransaction
from harness.errors import ConflictError, EngineDamagedError, HarnessError, HistoryError, UsageError
from harness.evidence import Edge, Evidence, Shown
from harness.verdict import Finding, Outcome, Verdict

__all__ = [
    "ConflictError",
    "Edge",
    "EngineDamagedError",
    "Evidence",
    "Finding",
    "HarnessError",
    "HistoryError",
    "Outcome",
    "Shown",
    "SimpleEngine",
    "SimpleSession",
    "SimpleSnapshot",
    "SimpleTransaction",
    "UsageError",
    "Value",
    "Verdict",
    "check_history",
]
