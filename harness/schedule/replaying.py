"""A schedule that was recorded, followed again as far as it fits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from harness.scenario import Scenario
from harness.schedule.base import Choice, Standing, View

_CATCH_UP_MAX = 12
"""So many points that the recording does not know are passed on the way to the one that it names."""
_DIVERGENCES_MAX = 100


class Replaying:
    """Follows ``choices``. When they are used up, whoever moved last goes on until it cannot, then the first who can:
    so a schedule may be cut short anywhere and still means one execution.

    Where the recording does not fit (a point was added or renamed, a process does something else), ``divergences`` says
    at which step and why. A process that stands elsewhere than recorded moves on until it comes to the recorded point;
    a choice that cannot be followed at all is left out; and once nothing fits any more, a stream seeded by ``seed``
    chooses. ``known``: the points that exist; a recorded name that does not is followed without looking.
    """

    def __init__(self, choices: Sequence[Choice], known: Collection[str], seed: int = 0) -> None:
        self._choices = choices
        self._known = frozenset(known)
        self._seed = seed

    def begin(self, scenario: Scenario, number: int) -> bool:  # noqa: ARG002
        """The same one every time."""
        self._position = 0
        self._passed = 0
        self._falling_back = False
        self._random = Random(f"{self._seed}/fallback")
        self.divergences: list[str] = []
        return True

    def choose(self, view: View) -> Choice:
        """The recorded step, if it fits."""
        while self._position < len(self._choices):
            wanted = self._choices[self._position]
            standing = _find(wanted, view)
            if standing is None:
                self._left_out(
                    view, f"process {wanted.process} cannot {'die' if wanted.kill else 'move'} now"
                )
                continue
            if standing.point == wanted.point or wanted.point not in self._known:
                if standing.point != wanted.point:
                    self._diverged(
                        view, f"there is no point {wanted.point or 'without a name'}; {_where(standing)}"
                    )
                self._position += 1
                self._passed = 0
                torn = max(0, min(wanted.torn, standing.parts))
                return Choice(wanted.process, standing.point, wanted.kill, torn)
            movable = _find(wanted._replace(kill=False), view)
            if movable is None:
                self._left_out(view, f"{_where(standing)}, not at {wanted.point}")
            elif self._passed < _CATCH_UP_MAX:
                if not self._passed:
                    self._diverged(
                        view, f"{_where(standing)}, not at {wanted.point}; it moves on until it is"
                    )
                self._passed += 1
                return Choice(movable.number, movable.point)
            else:
                self._left_out(view, f"{_where(standing)}, and still not at {wanted.point}")
        return self._beyond(view)

    def _beyond(self, view: View) -> Choice:
        """What comes after the recording."""
        if not self.divergences:
            chosen = next((s for s in view.enabled if s.number == view.last), view.enabled[0])
            return Choice(chosen.number, chosen.point)
        if not self._falling_back:
            self._falling_back = True
            self._diverged(
                view, f"the recording is used up; continued with the seeded fallback ({self._seed})"
            )
        chosen = view.enabled[self._random.randrange(len(view.enabled))]
        return Choice(chosen.number, chosen.point)

    def _left_out(self, view: View, why: str) -> None:
        self._diverged(view, f"{why}; that choice is left out")
        self._position += 1
        self._passed = 0

    def _diverged(self, view: View, why: str) -> None:
        if len(self.divergences) < _DIVERGENCES_MAX:
            self.divergences.append(f"step {view.step + 1}: {why}")

    def end(self, stopped: bool) -> None:
        """Note what was never come to."""
        rest = len(self._choices) - self._position
        if rest > 0 and not stopped:
            self.divergences.append(f"at the end: {rest} recorded steps were not come to")


def _find(wanted: Choice, view: View) -> Standing | None:
    candidates = view.mortal if wanted.kill else view.enabled
    return next((standing for standing in candidates if standing.number == wanted.process), None)


def _where(standing: Standing) -> str:
    return f"process {standing.number} stands at {standing.point or 'no point'}"
