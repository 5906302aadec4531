"""Carrying out one schedule: a strategy chooses, a stage moves, and what happened is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from harness.history import Event, Invoke, Left, Violation
from harness.schedule.base import Choice, Strategy, View
from harness.stepped.base import Actor, Stage, State

STEPS_MAX: Final = 5_000
"""A schedule that is longer is continued by letting everybody take turns, and if it does not end within as many steps
again, it never will."""
_ALIVE: Final = (State.PARKED, State.WAITING)


class Kill(NamedTuple):
    """One death: at which step, who, where, how much of a write it left, and where the others stood:
    ``(process, point, lock that it waits for, locks that it holds)`` of each one that is alive.
    """

    step: int
    process: int
    point: str
    torn: int
    holding: tuple[str, ...]
    others: tuple[tuple[int, str, str, tuple[str, ...]], ...]


class Execution(NamedTuple):
    """What one schedule did. ``stuck`` says why it did not end by itself ("" if it did): "deadlock" with who waits for
    what in ``waiting``, or "livelock". ``histories``: the events of each process, in the order of the programs;
    ``aftermath``: those of whoever looked at the store when everybody was gone, and what it found.
    """

    steps: list[Choice]
    kills: list[Kill]
    stuck: str
    waiting: tuple[str, ...]
    histories: list[list[Event]]
    aftermath: list[Event]
    left: list[Left]


def conduct(stage: Stage, strategy: Strategy, *, steps_max: int = STEPS_MAX) -> Execution:
    """Play the stage's scenario once, in the order that ``strategy`` (whose ``begin`` was called) chooses. Afterwards
    everybody is gone and the store was examined.
    """
    actors = stage.begin()
    living = [actor for actor in actors if actor.state in _ALIVE]
    kills_left = stage.scenario.kills
    steps: list[Choice] = []
    kills: list[Kill] = []
    stuck = ""
    waiting: tuple[str, ...] = ()
    view = View()
    view.mortal = living if kills_left else ()
    crowded = True
    while enabled := _enabled(stage, living) if crowded else living:
        if len(steps) >= 2 * steps_max:
            stuck = "livelock"
            break
        stage.clock = len(steps) + 1
        if len(steps) < steps_max:
            view.step, view.enabled = len(steps), enabled
            choice = strategy.choose(view)
        else:
            following = next((actor for actor in enabled if actor.number > view.last), enabled[0])
            choice = Choice(following.number, following.point)
        actor = actors[choice.process - 1]
        steps.append(choice)
        if choice.kill:
            kills.append(_kill(stage, living, actor, choice, len(steps)))
            kills_left -= 1
            view.deaths += 1
            _join(actors, len(kills))
        else:
            stage.step(actor)
            view.last, view.moved = actor.number, actor
        if actor.state is not State.PARKED:
            living = [one for one in actors if one.state in _ALIVE]
            view.mortal = living if kills_left else ()
            if actor is view.moved and actor not in living:
                view.moved = None
            crowded = any(one.waits for one in living)
        elif crowded:
            crowded = any(one.waits for one in living)
    else:
        if living:
            stuck, waiting = "deadlock", tuple(_waiting(stage, living))
    strategy.end(bool(stuck))
    return _ended(stage, actors, steps, kills, stuck, waiting)


def _enabled(stage: Stage, living: Sequence[Actor]) -> list[Actor]:
    """Who can move: everybody who stands at a point, unless it waits there for a lock that somebody holds."""
    return [actor for actor in living if not actor.waits or stage.place.is_free(actor.waits)]


def _join(actors: Sequence[Actor], deaths: int) -> None:
    """Let those in who join after so many deaths."""
    for actor in actors:
        if actor.state is State.ABSENT and actor.program.joins <= deaths:
            actor.state = State.PARKED


def _kill(stage: Stage, living: Sequence[Actor], victim: Actor, choice: Choice, step: int) -> Kill:
    others = tuple(
        (actor.number, actor.point, actor.waits, stage.holding(actor))
        for actor in living
        if actor is not victim
    )
    kill = Kill(step, victim.number, victim.point, choice.torn, stage.holding(victim), others)
    stage.kill(victim, choice.torn)
    return kill


def _waiting(stage: Stage, living: Sequence[Actor]) -> list[str]:
    """Who waits for what, and who holds what, in words."""
    words = []
    for actor in living:
        holders = [
            str(other.number)
            for other in living
            if other is not actor and actor.waits in stage.holding(other)
        ]
        held = f", held by process {', '.join(holders)}" if holders else ""
        words.append(f"process {actor.number} at {actor.point} waits for {actor.waits}{held}")
    return words


def _ended(
    stage: Stage,
    actors: Sequence[Actor],
    steps: list[Choice],
    kills: list[Kill],
    stuck: str,
    waiting: tuple[str, ...],
) -> Execution:
    stage.end()
    stage.clock = len(steps) + 2
    histories = [actor.events for actor in actors]
    aftermath = stage.place.examine(stage.clock, unfinished(histories))
    return Execution(steps, kills, stuck, waiting, histories, aftermath.events, aftermath.left)


def unfinished(histories: Sequence[Sequence[Event]]) -> list[Invoke]:
    """The writes that were under way when their process was killed, or ended otherwise: at most one of each."""
    found = []
    for events in histories:
        last = next((event for event in reversed(events) if not isinstance(event, Violation)), None)
        if isinstance(last, Invoke) and last.f == "write":
            found.append(last)
    return found
