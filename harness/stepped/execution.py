"""Carrying out one schedule: a strategy chooses, a stage moves, and what happened is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from harness.history import Event, Invoke, Left
from harness.schedule.base import Choice, Strategy, View
from harness.stepped.base import Actor, Stage, State

STEPS_MAX: Final = 5_000
"""A schedule that is longer is continued by letting everybody take turns, and if it does not end within as many steps
again, it never will."""


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
    kills_max = stage.scenario.kills
    steps: list[Choice] = []
    kills: list[Kill] = []
    stuck = ""
    waiting: tuple[str, ...] = ()
    last = 0
    while enabled := _enabled(stage, actors):
        if len(steps) >= 2 * steps_max:
            stuck = "livelock"
            break
        stage.clock = len(steps) + 1
        mortal = _mortal(actors) if len(kills) < kills_max else ()
        if len(steps) < steps_max:
            choice = strategy.choose(View(len(steps), last, len(kills), enabled, mortal))
        else:
            following = next((actor for actor in enabled if actor.number > last), enabled[0])
            choice = Choice(following.number, following.point)
        actor = actors[choice.process - 1]
        steps.append(choice)
        if choice.kill:
            kills.append(_kill(stage, actors, actor, choice, len(steps)))
            for joiner in actors:
                if joiner.state is State.ABSENT and joiner.program.joins <= len(kills):
                    joiner.state = State.PARKED
        else:
            stage.step(actor)
            last = actor.number
    else:
        if any(actor.state is State.WAITING for actor in actors):
            stuck, waiting = "deadlock", tuple(_waiting(stage, actors))
    strategy.end(bool(stuck))
    return _ended(stage, actors, steps, kills, stuck, waiting)


def _enabled(stage: Stage, actors: Sequence[Actor]) -> list[Actor]:
    """Who can move: everybody who stands at a point, or waits for a lock that is free now."""
    return [
        actor
        for actor in actors
        if actor.state is State.PARKED or (actor.state is State.WAITING and stage.place.is_free(actor.waits))
    ]


def _mortal(actors: Sequence[Actor]) -> list[Actor]:
    return [
        actor
        for actor in actors
        if (actor.state is State.PARKED or actor.state is State.WAITING) and actor.point
    ]


def _kill(stage: Stage, actors: Sequence[Actor], victim: Actor, choice: Choice, step: int) -> Kill:
    others = tuple(
        (actor.number, actor.point, actor.waits, stage.holding(actor))
        for actor in actors
        if actor is not victim and actor.state in (State.PARKED, State.WAITING)
    )
    kill = Kill(step, victim.number, victim.point, choice.torn, stage.holding(victim), others)
    stage.kill(victim, choice.torn)
    return kill


def _waiting(stage: Stage, actors: Sequence[Actor]) -> list[str]:
    """Who waits for what, and who holds what, in words."""
    words = []
    for actor in actors:
        if actor.state is State.WAITING:
            holders = [
                str(other.number)
                for other in actors
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
    """The writes that were under way when their process was killed: at most one of each."""
    found = []
    for events in histories:
        last = events[-1] if events else None
        if isinstance(last, Invoke) and last.f == "write":
            found.append(last)
    return found
