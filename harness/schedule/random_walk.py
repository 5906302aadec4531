"""The random walk: at every step any process that can move, with equal odds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.scenario import Scenario
from harness.schedule.base import Choice, View
from harness.schedule.kills import Killer


class RandomWalk:
    """Every schedule has a positive probability; long detours of one process have a very small one, which is what
    ``Pct`` is for. Schedule ``number`` follows from ``seed`` and ``number`` alone, so exploring can go on anywhere.

    Source: the "naive random walk" of Thomson, Donaldson and Betts, "Concurrency testing using controlled schedulers"
    (TOPC 2016), which finds most of the bugs of their study. It differs in that kills are drawn apart (``kills``).
    """

    def __init__(self, seed: int, steps: int, points: Sequence[str]) -> None:
        self._seed = seed
        self._steps = steps
        self._points = points

    def begin(self, scenario: Scenario, number: int) -> bool:
        """There is always another one."""
        text = f"{self._seed}/random/{number}"
        self._random = Random(text).random
        self._killer = Killer(Random(f"{text}/kills"), self._steps, self._points, torn=scenario.torn)
        return True

    def choose(self, view: View) -> Choice:
        """Whoever the stream says."""
        if view.mortal and (kill := self._killer.due(view)) is not None:
            return kill
        chosen = view.enabled[int(self._random() * len(view.enabled))]
        return Choice(chosen.number, chosen.point)

    def end(self, stopped: bool) -> None:
        """Nothing to remember."""
