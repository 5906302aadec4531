"""A schedule of a scenario that was made smaller since, followed where it still has a meaning."""

from __future__ import annotations

from collections.abc import Sequence

from harness.scenario import Scenario
from harness.schedule.base import Choice, Standing, View

_MOVES_MAX = 40
"""A process that has moved so often without coming to the recorded point never will."""


class Aligned:
    """Follows ``choices``, of which some belong to what is not there any more, while others that it takes are missing.

    A process that stands before the recorded point moves on until it comes there. One that has passed it (where it
    stands is recorded for it later in the same operation) stays, and the choice is left out; so is one of a process
    that cannot move, or die, now. When the choices are used up, whoever moved last goes on until it cannot, then the
    first who can. Nothing is drawn: the same choices always mean the same execution.
    """

    def __init__(self, choices: Sequence[Choice], begin: str) -> None:
        self._choices = choices
        self._later = _points_later(choices, begin)

    def begin(self, scenario: Scenario, number: int) -> bool:  # noqa: ARG002
        """The same one every time."""
        self._position = 0
        self._moves = 0
        return True

    def choose(self, view: View) -> Choice:
        """The next recorded step that can be done, or one on the way to it."""
        while self._position < len(self._choices):
            wanted = self._choices[self._position]
            standing = _find(wanted.process, view.mortal if wanted.kill else view.enabled)
            if standing is not None:
                if standing.point == wanted.point:
                    self._next()
                    return Choice(wanted.process, wanted.point, wanted.kill, min(wanted.torn, standing.parts))
                movable = _find(wanted.process, view.enabled)
                passed = standing.point in self._later[self._position]
                if movable is not None and not passed and self._moves < _MOVES_MAX:
                    self._moves += 1
                    return Choice(movable.number, movable.point)
            self._next()
        chosen = _find(view.last, view.enabled) or view.enabled[0]
        return Choice(chosen.number, chosen.point)

    def _next(self) -> None:
        self._position += 1
        self._moves = 0

    def end(self, stopped: bool) -> None:
        """Nothing to remember."""


def _find(process: int, among: Sequence[Standing]) -> Standing | None:
    return next((standing for standing in among if standing.number == process), None)


def _points_later(choices: Sequence[Choice], begin: str) -> list[frozenset[str]]:
    """For each choice the points that come after it in the same process up to ``begin``, where its next operation
    does.
    """
    later: dict[int, frozenset[str]] = {}
    found: list[frozenset[str]] = []
    for choice in reversed(choices):
        following = later.get(choice.process, frozenset())
        found.append(following)
        later[choice.process] = frozenset((begin,)) if choice.point == begin else following | {choice.point}
    return found[::-1]
