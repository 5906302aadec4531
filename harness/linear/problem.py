"""What is searched: calls with their intervals, which of them must take effect, and from which states on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.evidence import NEVER
from harness.linear.base import ANY, SAME, UNKNOWN, UNSEEN, Call, Sequential, State, System
from harness.recorded import Op


class Entry(NamedTuple):
    """One call and its interval in positions. ``optional``: it may as well never take effect (an info). ``deadline``:
    by when it takes effect if it does; of an optional call without a completion, ``useful_until``. ``op``: its origin.
    """

    op: Op
    call: Call
    invoked: int
    deadline: int
    optional: bool


class Problem(NamedTuple):
    """Is there a linearisation of ``entries`` that begins in one of ``starts``? ``end``: the position past which the
    answer is always yes, since everything left is possible in every state.
    """

    system: System
    starts: tuple[State, ...]
    entries: tuple[Entry, ...]
    end: int


def problem_of(model: Sequential, ops: Sequence[Op]) -> Problem:
    """The search problem of one object's operations. O(n log n).

    Raises:
        HistoryError: the model does not know an operation.
    """
    known = [(op, call) for op in ops if (call := model.call(op)) is not None]
    system = model.condense([call for _, call in known])
    entries = [
        Entry(op, call, op.invoked, op.completed, op.outcome == "info")
        for (op, _), call in zip(known, system.calls, strict=True)
    ]
    return narrowed(system, (system.initial,), entries)


def narrowed(system: System, starts: Iterable[State], entries: Iterable[Entry]) -> Problem:
    """The same problem without what cannot matter: the answer is the same, the search is shorter. In this order:

    An optional call that never changes a state asks nothing and gives nothing: dropped.

    A state that a blind write leaves and that no call needs becomes ``UNSEEN``: no call can tell such states apart
    (until the next blind write every call is refused in all of them alike), so one of them is enough.

    An optional call that leaves the state ``r`` need not take effect after the deadlines of all calls that ``r``
    allows and that are no blind writes: its deadline becomes the last of those (see ``useful_until``); with none it is
    dropped.

    After the last completion of a call that any state could refuse everything is possible: the history ends there.
    """
    kept = [each for each in entries if not (each.optional and each.call.leaves is SAME)]
    end = max(
        (each.deadline for each in kept if not each.optional and each.call.needs is not ANY), default=-1
    )
    kept = [each for each in kept if each.invoked < end]
    open_ended = any(is_open(each.call) for each in kept)
    if not open_ended:
        needed = {each.call.needs for each in kept} - {ANY}
        kept = [_unseen(each, needed) for each in kept]
    until = None if open_ended else useful_until(kept)
    result = []
    for each in kept:
        if not each.optional:
            result.append(each)
            continue
        last = end if until is None else until.get(each.call.leaves, -1)
        if last > each.invoked:
            result.append(each._replace(deadline=min(last, each.deadline)))
    return Problem(system, tuple(starts), tuple(result), end)


def any_start(system: System, entries: Sequence[Entry]) -> tuple[State, ...] | None:
    """States such that a search from them is one from every state there is; ``None`` if they cannot be told.

    They are the states that a call needs, the ``origins`` of those, and so on, and ``UNSEEN`` for all others: from
    those no call but a blind write leads to a state that a call needs.
    """
    starts = dict.fromkeys(each.call.needs for each in entries if each.call.needs is not ANY)
    unlisted = dict.fromkeys(each.call for each in entries if is_open(each.call))
    if UNKNOWN in starts or (unlisted and system.origins is None):
        return None
    queue = list(starts)
    for state in queue:
        for call in unlisted:
            for origin in system.origins(state, call) if system.origins else ():
                if origin not in starts:
                    starts[origin] = None
                    queue.append(origin)
    return (*starts, UNSEEN)


def is_open(call: Call) -> bool:
    """Whether the call could follow on states that cannot be listed: it is possible in every state and no blind write,
    or only ``step`` knows.
    """
    return call.needs is UNKNOWN or (call.needs is ANY and not call.overwrites)


def useful_until(entries: Sequence[Entry]) -> dict[State, int]:
    """Until when a state can be of use: the last deadline of a call that needs it, where an optional call without a
    deadline counts with that of the state that it leaves (the least fixed point). States of no use are not in it.

    Why a call that leaves ``r`` may be left out of a linearisation if it is optional and takes effect after that: take
    the last such call of the order. What follows it is nothing, or a blind write (then the state after that is the
    same without it), or a call that needs ``r``. That is not one that must take effect, for its deadline is past; and
    not an optional one, for that would be a later call that takes effect after its state was of use. So it can go, and
    then the one before it. No call may be open (``is_open``).
    """
    until: dict[State, int] = {}
    chains: list[tuple[State, State]] = []
    for each in entries:
        needs = each.call.needs
        if needs is ANY:
            continue
        if each.optional and each.deadline == NEVER:
            chains.append((needs, each.call.leaves))
        elif until.get(needs, -1) < each.deadline:
            until[needs] = each.deadline
    chains = list(dict.fromkeys(chains))
    changed = bool(chains)
    while changed:
        changed = False
        for needs, leaves in chains:
            later = until.get(leaves, -1)
            if later > until.get(needs, -1):
                until[needs] = later
                changed = True
    return until


def _unseen(entry: Entry, needed: set[State]) -> Entry:
    call = entry.call
    if call.overwrites and call.leaves is not UNSEEN and call.leaves not in needed:
        return entry._replace(call=Call(call.f, leaves=UNSEEN, needs=ANY))
    return entry
