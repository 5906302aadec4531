"""When a process holds the lock that commits wait for, and when it repairs: told by the store's sync points.

An engine whose points are called ``commit.after_lock`` and ``commit.after_unlock`` is understood; in between, points
called ``repair.`` something are the work of the dead that is finished. Where a lock is given back without a point (by a
refused commit) it is taken to be held until the last point that was reached under it. Without such points nothing is
known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from harness.board import Slot
from harness.history import Span

SPANS: Final = ("lock", "repair")
"""What spans are of."""
LOCKED: Final = "commit.after_lock"
UNLOCKED: Final = "commit.after_unlock"
_BEFORE: Final = "commit.before_lock"
_REPAIR: Final = "repair."
_WITHIN: Final = ("commit.", "record.", "grow.", _REPAIR)
_KEPT_MAX: Final = 64
"""Spans of one operation; more are forgotten."""


class Holding:
    """What one process notes at its sync points; ``slot`` tells it to whoever finds the process dead."""

    def __init__(self, slot: Slot, points: Sequence[str]) -> None:
        self.notes: Final[dict[str, Callable[[], None]]] = {}
        """What to call at the points that tell something."""
        if LOCKED in points:
            within = {point for point in points if point.startswith(_WITHIN)} - {_BEFORE}
            self.notes.update(dict.fromkeys(within, self._under))
            self.notes.update({point: self._repairing for point in points if point.startswith(_REPAIR)})
            self.notes.update({LOCKED: self._locked, UNLOCKED: self._unlocked})
        self._slot = slot
        self._spans: list[Span] = []
        self._locked_at = 0
        self._last = 0
        self._repairing_since = 0
        self._repaired_at = 0

    def take(self) -> tuple[Span, ...]:
        """What was noted since the last time; an operation has ended, and whatever it held was given back."""
        self._close(self._last)
        if not self._spans:
            return ()
        taken = tuple(self._spans)
        self._spans.clear()
        return taken

    def _under(self) -> None:
        self._last = time.monotonic_ns()

    def _locked(self) -> None:
        self._close(self._last)
        self._locked_at = self._last = time.monotonic_ns()
        self._slot.set_locked_at(self._locked_at)

    def _unlocked(self) -> None:
        self._last = time.monotonic_ns()
        self._close(self._last)

    def _repairing(self) -> None:
        self._last = self._repaired_at = time.monotonic_ns()
        self._repairing_since = self._repairing_since or self._last

    def _close(self, at: int) -> None:
        """The lock is held no more since ``at``, and nothing is repaired."""
        if self._repairing_since:
            self._add("repair", self._repairing_since, self._repaired_at)
            self._repairing_since = 0
        if self._locked_at:
            self._add("lock", self._locked_at, at)
            self._locked_at = 0
            self._slot.set_locked_at(0)

    def _add(self, what: Literal["lock", "repair"], begin: int, end: int) -> None:
        if len(self._spans) < _KEPT_MAX:
            self._spans.append(Span(what, begin, end))
