"""PCT: priorities, and a few moments at which they change."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.scenario import Scenario
from harness.schedule.base import Choice, View
from harness.schedule.kills import Killer


class Pct:
    """Probabilistic concurrency testing: the enabled process of the highest priority runs; priorities are drawn at
    random, and at ``depth - 1`` random steps whoever would run is put below all others.

    A bug of depth d (d ordering constraints are enough to show it) among n processes and k steps is found by one
    schedule with probability at least 1 / (n * k ** (d - 1)). Source: Burckhardt, Kothari, Musuvathi and Nagarakatte,
    "A randomized scheduler with probabilistic guarantees of finding bugs" (ASPLOS 2010). It differs in that ``depth``
    is itself drawn from 1 to ``depth_max`` for each schedule (the bound for a fixed d is divided by ``depth_max``),
    that k is an estimate, so the bound holds as far as that is right, and that kills are drawn apart (``kills``): for a
    bug that also needs a kill, the bound is multiplied by the odds of that kill. Schedule ``number`` follows from
    ``seed`` and ``number`` alone.
    """

    def __init__(self, seed: int, steps: int, points: Sequence[str], depth_max: int = 4) -> None:
        self._seed = seed
        self._steps = max(steps, 1)
        self._points = points
        self._depth_max = depth_max

    def begin(self, scenario: Scenario, number: int) -> bool:
        """There is always another one."""
        text = f"{self._seed}/pct/{number}"
        random = Random(text)
        count = len(scenario.programs)
        depth = random.randint(1, self._depth_max)
        order = list(range(depth, depth + count))
        random.shuffle(order)
        self._priority = [0, *order]
        self._changes = sorted(
            ((random.randrange(self._steps), low) for low in range(depth - 1, 0, -1)), reverse=True
        )
        self._killer = Killer(Random(f"{text}/kills"), self._steps, self._points, torn=scenario.torn)
        return True

    def choose(self, view: View) -> Choice:
        """Whoever has the highest priority."""
        if view.mortal and (kill := self._killer.due(view)) is not None:
            return kill
        priority = self._priority
        best = max(view.enabled, key=lambda standing: priority[standing.number])
        while self._changes and view.step >= self._changes[-1][0]:
            priority[best.number] = self._changes.pop()[1]
            best = max(view.enabled, key=lambda standing: priority[standing.number])
        return Choice(best.number, best.point)

    def end(self, stopped: bool) -> None:
        """Nothing to remember."""
