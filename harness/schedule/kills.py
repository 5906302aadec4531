"""When to kill, for the strategies that draw at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.schedule.base import Choice, Standing, View

_POINT_SHARE = 0.7
"""Kills that wait for a point by name; the others come at a step drawn from all steps. Otherwise the points that are
passed all the time (those of publishing a key) would take nearly every kill."""
_TORN_SHARE = 0.6
_FOLLOW_SHARE = 0.6
"""After a first kill, the share of the next ones that wait for a process in the middle of a recovery or of a claim."""
_RECOVERIES = ("repair.", "claim.", "laggard.", "grow.")
_LATE = 0.8
_NEVER = 1 << 60


class Killer:
    """Draws the kills of one schedule. ``steps``: about how long it is; ``points``: where a process may stand."""

    def __init__(self, random: Random, steps: int, points: Sequence[str], *, torn: bool) -> None:
        self._random = random
        self._steps = max(steps, 1)
        self._points = points
        self._torn = torn
        self._deaths = -1
        self._step = _NEVER
        self._point = ""
        self._hits = 0

    def due(self, view: View) -> Choice | None:
        """The kill that comes now, if one does."""
        if view.deaths != self._deaths:
            self._aim(view)
        if view.step >= self._step:
            return self._kill(self._random.choice(view.mortal))
        if view.moved is not None and view.moved.point == self._point:
            self._hits -= 1
            if self._hits <= 0:
                return self._kill(view.moved)
        return None

    def _aim(self, view: View) -> None:
        """Draw where the next victim dies."""
        random, points = self._random, self._points
        self._deaths = view.deaths
        self._step, self._point = _NEVER, ""
        # Whoever has not come to the point by then dies where it is: there is a kill in nearly every schedule.
        late = view.step + int(_LATE * max(0, self._steps - view.step))
        if view.deaths and random.random() < _FOLLOW_SHARE:
            points = [point for point in points if point.startswith(_RECOVERIES)]
            self._point, self._hits, self._step = random.choice(points), 1, late
        elif random.random() < _POINT_SHARE:
            self._point, self._hits, self._step = random.choice(points), random.choice((1, 1, 2, 3, 5)), late
        else:
            self._step = view.step + random.randrange(max(1, self._steps - view.step))

    def _kill(self, victim: Standing) -> Choice:
        torn = 0
        if self._torn and victim.parts and self._random.random() < _TORN_SHARE:
            torn = self._random.randint(1, victim.parts)
        return Choice(victim.number, victim.point, kill=True, torn=torn)
