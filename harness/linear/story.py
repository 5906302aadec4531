"""How far a small problem without a linearisation can be taken: every way, in plain enumeration, with its order."""

from __future__ import annotations

from typing import Final, NamedTuple

from harness.linear.base import REFUSED, State, step_of
from harness.linear.problem import Problem

_WAYS_MAX: Final = 5000


class Way(NamedTuple):
    """One order that explains a window up to its failure. ``start``: the state that it begins in; ``order``: indexes of
    the problem's entries; ``state``: what it leads to.
    """

    start: State
    order: tuple[int, ...]
    state: State


class Story(NamedTuple):
    """``failed``: the entry at whose completion nothing is left. ``ways``: for each state that can be reached by then,
    without it, one shortest way. ``blocked``: where the failed call could take effect earlier, the way up to it that
    lasts longest, and the entry that then has no place; else ``None``.
    """

    failed: int
    ways: tuple[Way, ...]
    blocked: tuple[Way, int] | None


_Set = dict[tuple[State, frozenset[int]], Way]


def tell(problem: Problem) -> Story | None:
    """Enumerate: at each completion all orders of the calls in progress, without any of the search's savings. ``None``
    if there are more than 5000 ways, or (which would be an error of the search) one of them leads to the end.
    """
    entries = problem.entries
    events = sorted(
        [(each.invoked, 0, index) for index, each in enumerate(entries)]
        + [
            (each.deadline, 1 if each.deadline == each.op.completed else 2, index)
            for index, each in enumerate(entries)
            if each.deadline <= problem.end
        ]
    )
    ways: _Set = {(start, frozenset()): Way(start, (), start) for start in problem.starts}
    pending: set[int] = set()
    history: list[tuple[_Set, _Set, int]] = []
    for _, what, index in events:
        if what == 0:
            pending.add(index)
            continue
        grown = _grown(problem, ways, pending)
        if grown is None:
            return None
        after = {
            (state, taken - {index}): way
            for (state, taken), way in grown.items()
            if entries[index].optional or index in taken
        }
        history.append((grown, after, index))
        pending.discard(index)
        if not after:
            return _story(history)
        ways = after
    return None


def _grown(problem: Problem, ways: _Set, pending: set[int]) -> _Set | None:
    """The ways, and all that calls in progress make of them, the shorter first."""
    grown = dict(sorted(ways.items(), key=lambda item: len(item[1].order)))
    queue = list(grown.items())
    for (state, taken), way in queue:
        for index in pending - taken:
            then = step_of(problem.system, state, problem.entries[index].call)
            if then is REFUSED:
                continue
            key = then, taken | {index}
            if key not in grown:
                grown[key] = Way(way.start, (*way.order, index), then)
                queue.append((key, grown[key]))
        if len(grown) > _WAYS_MAX:
            return None
    return grown


def _story(history: list[tuple[_Set, _Set, int]]) -> Story:
    last, _, failed = history[-1]
    ways: dict[State, Way] = {}
    for way in sorted(last.values(), key=lambda each: len(each.order)):
        ways.setdefault(way.state, way)
    blocked = None
    for grown, after, index in reversed(history[:-1]):
        with_it = [way for way in grown.values() if failed in way.order]
        if with_it and not any(failed in way.order for way in after.values()):
            longest = max(with_it, key=lambda each: len(each.order))
            blocked = longest, index
            break
    return Story(failed, tuple(ways.values()), blocked)
