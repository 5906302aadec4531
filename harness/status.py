"""What a campaign tells whoever watches it: how far it is, who lives, who was killed where, what was seen."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from harness.engines.base import SLOW_SECONDS, Engine, Eventful
from harness.faults import HOUSEKEEPER
from harness.history import Died, Violation
from harness.plan import Plan

ROLES: Final = ("writer", "reader", "auditor", HOUSEKEEPER)
"""Those who play a campaign; setup and final are alone."""
_TAIL_BYTES: Final = 1 << 16


def points_asked(engine: Engine, plan: Plan) -> frozenset[str]:
    """The sync points at which this run must have killed: a short one need not at those that are seldom reached."""
    slow = engine.slow_points if isinstance(engine, Eventful) and plan.seconds < SLOW_SECONDS else frozenset()
    return frozenset(engine.required_points() - slow)


class Kill(NamedTuple):
    """The last kill: who, at which sync point ("" before its first), by which fault, after how many seconds."""

    who: str
    point: str
    fault: str
    elapsed_s: float


class Status(NamedTuple):
    """How far a campaign is. ``lacking`` are the sync points at which too few were killed so far; ``violation`` is the
    first one that a worker reported, "" if none did (the judge, who looks later, may find more). ``doing``
    is what is done when all have left, ``judged`` the share of that that is done.
    """

    phase: str
    elapsed_s: float
    seconds: float
    operations: int
    commits: int
    kills: int
    points_covered: int
    points_required: int
    lacking: tuple[str, ...] = ()
    alive: dict[str, int] = {}  # noqa: RUF012 - a default that nobody changes
    kills_by_fault: dict[str, int] = {}  # noqa: RUF012
    last_kill: Kill | None = None
    pauses: int = 0
    disk_bytes: int = 0
    violation: str = ""
    doing: str = ""
    judged: float = 0.0


class Tally:
    """What the supervisor counts for the coverage and for whoever watches."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.required = tuple(sorted(points_asked(engine, plan)))
        self.point_kills: Counter[str] = Counter()
        self.kills_by_fault: Counter[str] = Counter()
        self.pauses = 0
        """How often somebody really stopped."""
        self.last_kill: Kill | None = None
        self.violation = ""
        self._point_kills_min = plan.limits.point_kills_min

    def killed(self, role: str, died: Died, elapsed_s: float) -> None:
        """Somebody died of a fault."""
        self.point_kills[died.point] += died.at_point
        self.kills_by_fault[died.fault] += 1
        self.last_kill = Kill(f"{role} {died.process}", died.point, died.fault, elapsed_s)

    def reported(self, who: str, history: Path) -> None:
        """``who`` saw a violation, which its ``history`` holds, and left. The first one stays."""
        if not self.violation:
            self.violation = f"{who}: {_last_violation(history)}"

    def lacking(self) -> tuple[str, ...]:
        """The required sync points at which too few were killed so far."""
        return tuple(point for point in self.required if self.point_kills[point] < self._point_kills_min)


def _last_violation(history: Path) -> str:
    """The violation at the end of a worker's history, in words. Nobody writes there any more."""
    try:
        with history.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        lines = []
    for line in reversed(lines):
        try:
            found = msgspec.json.decode(line, type=Violation)
        except msgspec.DecodeError:
            continue
        return f"{found.property_name}: {found.message}"
    return "a violation"
