"""Which trial has which number: everything systematic in an order that a seed shuffles, and as much at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from harness.damage.asking import PHASES
from harness.damage.damages import Catalogue, Damage
from harness.damage.subjects import Subject

_SHARES: Final = (9, 3, 2, 1, 1)
"""Of 16 trials, how many are of each of ``PHASES``."""
_DECK: Final = [phase for phase, share in zip(PHASES, _SHARES, strict=True) for _ in range(share)]


class Trial(NamedTuple):
    """What is done to which subject, what it is asked then, and with which ``io``."""

    subject: int
    damage: Damage
    phase: str
    io: str


class Trials:
    """All trials of a seed, by number. The even ones go through all systematic damages once, then at random."""

    def __init__(self, subjects: Sequence[Subject], seed: int) -> None:
        self._catalogues = [Catalogue(subject) for subject in subjects]
        self._seed = seed
        self.systematic = sum(catalogue.count for catalogue in self._catalogues)
        random = Random(f"order {seed}")
        self._step = next(
            step
            for step in iter(lambda: random.randrange(1, self.systematic + 1), 0)
            if math.gcd(step, self.systematic) == 1
        )
        self._first = random.randrange(self.systematic)

    def __getitem__(self, number: int) -> Trial:
        random = Random(f"{self._seed} {number}")
        phase, io = random.choice(_DECK), random.choice(("mmap", "mmap", "append"))
        if number % 2 == 0 and number // 2 < self.systematic:
            subject, damage = self._ordered((self._first + number // 2 * self._step) % self.systematic)
        else:
            subject = random.randrange(len(self._catalogues))
            damage = self._catalogues[subject].random(random)
        if phase == "held" and not damage.in_place:
            phase = "read"  # under a map that is the file system taking pages away: SIGBUS for anybody
        return Trial(subject, damage, phase, io)

    def systematic_within(self, count: int) -> int:
        """How many of the systematic damages are among the first ``count`` trials."""
        return min((count + 1) // 2, self.systematic)

    def _ordered(self, number: int) -> tuple[int, Damage]:
        for subject, catalogue in enumerate(self._catalogues):
            if number < catalogue.count:
                return subject, catalogue.systematic(number)
            number -= catalogue.count
        raise IndexError(number)
