"""The smallest part of a history that is still not linearizable: what came before is summed up in its last states."""

from __future__ import annotations

from typing import Final, NamedTuple

from harness.budget import Budget
from harness.linear.base import SAME
from harness.linear.problem import Entry, Problem, any_start, narrowed
from harness.linear.search import Moment, Search

SMALL: Final = 12
"""As many calls as can be shown."""

_ENTRIES_MAX: Final = 200
"""A window with more calls is not made smaller one by one: that would be as many searches."""


class Window(NamedTuple):
    """A problem without a linearisation, from which follows that another one has none. ``begins``: the position of the
    last event before it, -1 if it begins with the history. ``anything``: it begins in every state there is.
    """

    problem: Problem
    begins: int
    anything: bool


def smallest_window(search: Search, budget: Budget) -> Window:
    """A small window around the failure of ``search``, whose ``run`` returned ``False``.

    What is true of it: if it has no linearisation, the whole history has none. For it begins in every state there is
    (nothing is asked of what came before), or in all states that the search found possible there (what came before
    excludes the others); and it only takes away demands: a read is left out, a call that must take effect becomes one
    that may. A call that may, and whose effect nothing that is left could use, is left out (``narrowed``). The latest
    beginning that still shows the failure is taken, then calls are relaxed one by one, the earliest first. One that
    begins in every state is preferred where it is small, since it stands by itself.

    Raises:
        OverBudgetError: a limit was reached before a window was found.
    """
    assert search.failed is not None
    moments = list(search.recent)[::-1]
    found = []
    for begin in (_begun_anyhow, _begun_at):
        index = 0
        window = None
        while window is None and index < len(moments):
            window = begin(search, moments[index], budget)
            index += 1 + index // 8
        if window is not None:
            window = _relaxed(window, search.failed, budget)
            if len(window.problem.entries) <= SMALL:
                return window
            found.append(window)
    if not found:
        entries = _between(search, -1)
        problem = narrowed(search.problem.system, search.problem.starts, entries)
        found.append(_relaxed(Window(problem, -1, False), search.failed, budget))
    return min(found, key=lambda each: len(each.problem.entries))


def fails(problem: Problem, budget: Budget) -> bool:
    """Whether the problem has no linearisation."""
    return not Search(problem, budget).run()


def _begun_anyhow(search: Search, moment: Moment, budget: Budget) -> Window | None:
    """The window from ``moment`` to the failure, whatever came before, if it shows the failure so."""
    pending = [entry for _, entry in search.pending_at(moment.position)]
    if any(entry is search.failed for entry in pending):
        return None
    entries = [entry._replace(optional=True) for entry in pending]
    entries += _between(search, moment.position)
    starts = any_start(search.problem.system, entries)
    if starts is None:
        return None
    problem = narrowed(search.problem.system, starts, entries)
    return Window(problem, moment.position, True) if fails(problem, budget) else None


def _begun_at(search: Search, moment: Moment, budget: Budget) -> Window | None:
    """The window from ``moment`` to the failure, if it shows the failure by itself."""
    assert search.failed is not None
    in_all, in_some = -1, 0
    for parts in moment.frontier.values():
        for (surely, possibly), options in parts.items():
            for used, _ in options:
                in_all &= surely | used
                in_some |= possibly | used
    entries = []
    for bit, entry in search.pending_at(moment.position):
        if bit & in_some and entry is search.failed:
            return None
        if not bit & in_all:
            entries.append(entry._replace(optional=entry.optional or bool(bit & in_some)))
    entries = [_until(entry, search.failed.deadline) for entry in entries]
    entries += _between(search, moment.position)
    problem = narrowed(search.problem.system, moment.frontier, entries)
    return Window(problem, moment.position, False) if fails(problem, budget) else None


def _between(search: Search, position: int) -> list[Entry]:
    """What was invoked after ``position`` and before the failure."""
    assert search.failed is not None
    end = search.failed.deadline
    return [_until(each, end) for each in search.problem.entries if position < each.invoked < end]


def _until(entry: Entry, position: int) -> Entry:
    """As if the history ended at ``position``: what completes later may or may not have taken effect."""
    return entry if entry.deadline <= position else entry._replace(optional=True)


def _relaxed(window: Window, failed: Entry, budget: Budget) -> Window:
    problem = window.problem
    entries = list(problem.entries)
    if len(entries) > _ENTRIES_MAX:
        return window
    for entry in sorted(entries, key=lambda each: (each.call.leaves is not SAME, each.invoked)):
        if entry.op is failed.op or (entry.optional and entry.call.leaves is SAME):
            continue
        rest = [each for each in entries if each is not entry]
        if entry.call.leaves is not SAME:
            if entry.optional:
                continue
            rest.append(entry._replace(optional=True))
        if fails(narrowed(problem.system, problem.starts, rest), budget):
            entries = rest
    smaller = narrowed(problem.system, problem.starts, sorted(entries, key=lambda each: each.invoked))
    return window._replace(problem=smaller)
