"""The exhaustive search sees one schedule of every kind, no more and no fewer, and finds what is planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.schedule import exhaustive
from harness.schedule.exhaustive import Exhaustive, Redundant
from harness.schedule.footprints import Footprint, dependent
from harness.stepped.execution import conduct
from tests.harness.toy_programs import Move, Toy, ToyStage, World, schedules

BRUTE_MAX = 3_000
"""Toys with more schedules than this are left out."""


def kind(toy: Toy, moves: list[Move]) -> frozenset[Any]:
    """The Mazurkiewicz trace of a schedule: its moves, and the order of those that do not commute."""
    world = World(toy)
    done: list[tuple[Move, int, Footprint]] = []
    counts: dict[int, int] = {}
    order: set[Any] = set()
    for move in moves:
        footprint = world.move(move)
        number = counts[move[0]] = counts.get(move[0], 0) + 1
        order.add((move, number))
        for earlier, index, other in done:
            if earlier[0] != move[0] and dependent(other, footprint):
                order.add((earlier, index, move, number))
        done.append((move, number, footprint))
    return frozenset(order)


def outcome(toy: Toy, moves: list[Move]) -> tuple[Any, ...]:
    return World.of(toy, moves).outcome()


def search(
    toy: Toy, preemptions: int | None = None, after: Callable[[Exhaustive], Exhaustive | None] | None = None
) -> tuple[list[list[Move]], Exhaustive]:
    """Every schedule that the search plays. ``after`` each one may put another search in its place."""
    stage = ToyStage(toy)
    strategy = Exhaustive(stage, (), preemptions=preemptions)
    played = []
    while strategy.begin(stage.scenario, 0):
        try:
            conduct(stage, strategy)
        except Redundant:
            stage.end()
            strategy.give_up()
        else:
            played.append(stage.moves)
        strategy = (after and after(strategy)) or strategy
    return played, strategy


OPS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 2)),
    st.tuples(st.just("set"), st.integers(0, 2), st.integers(3, 4)),
    st.tuples(st.just("add"), st.integers(0, 2)),
    st.tuples(st.just("get"), st.integers(0, 4)),
    st.tuples(st.just("lock"), st.integers(0, 1)),
    st.tuples(st.just("unlock"), st.integers(0, 1)),
)
LOCKED = st.lists(OPS.filter(lambda op: "lock" not in op[0]), min_size=1, max_size=2).map(
    lambda ops: [("lock", 0), *ops, ("unlock", 0)]
)
BODY = st.one_of(
    st.lists(OPS, min_size=1, max_size=4),
    LOCKED,
    st.lists(OPS, min_size=1, max_size=2).map(lambda ops: [("invoke",), *ops, ("ok",)]),
)


def _well_formed(body: list[Any]) -> tuple[Any, ...]:
    """No process asks for a lock that it holds."""
    held: set[int] = set()
    kept = []
    for op in body:
        if op[0] == "lock" and op[1] in held:
            continue
        if op[0] == "lock":
            held.add(op[1])
        if op[0] == "unlock":
            held.discard(op[1])
        kept.append(op)
    return tuple(kept)


@st.composite
def toys(draw: Any) -> Toy:
    count = draw(st.integers(2, 3))
    programs = tuple(_well_formed(draw(BODY)) for _ in range(count))
    joins = (0, *(draw(st.sampled_from((0, 0, 0, 1, 2))) for _ in range(count - 1)))
    return Toy(programs, joins, draw(st.integers(0, 2)))


def brute(toy: Toy, preemptions: int | None = None) -> list[list[Move]] | None:
    found = []
    for moves in schedules(toy, preemptions):
        found.append(moves)
        if len(found) > BRUTE_MAX:
            return None
    return found


@settings(max_examples=100, deadline=None)
@given(toys())
def test_every_kind_of_schedule_is_played_exactly_once(toy: Toy) -> None:
    listed = brute(toy)
    if listed is None:
        return
    played, strategy = search(toy)
    kinds = [kind(toy, moves) for moves in played]
    assert set(kinds) == {kind(toy, moves) for moves in listed}
    if not any(
        World.of(toy, moves).waiting() for moves in played
    ):  # tries that fail before a deadlock do count
        assert len(kinds) == len(set(kinds)), "two schedules of one kind"
    assert {outcome(toy, moves) for moves in played} == {outcome(toy, moves) for moves in listed}
    assert strategy.complete
    assert strategy.runs == len(played)


@settings(max_examples=60, deadline=None)
@given(toys(), st.integers(0, 2))
def test_every_schedule_within_a_preemption_bound_is_played(toy: Toy, preemptions: int) -> None:
    listed = brute(toy, preemptions)
    if listed is None or len(listed) > BRUTE_MAX // 3:
        return
    played, _ = search(toy, preemptions)
    assert sorted(set(map(tuple, played))) == sorted(map(tuple, listed))


@settings(max_examples=40, deadline=None)
@given(toys(), st.sets(st.integers(1, 60)))
def test_a_search_goes_on_where_it_was_interrupted(toy: Toy, stops: set[int]) -> None:
    if brute(toy) is None:
        return
    whole, _ = search(toy)
    stage_of: list[Any] = []

    def interrupt(strategy: Exhaustive) -> Exhaustive | None:
        if strategy.runs + strategy.redundant not in stops:
            return None
        stage_of.append(1)
        return Exhaustive(strategy._witness, (), state=json.loads(json.dumps(strategy.state())))

    pieces, last = search(toy, after=interrupt)
    assert pieces == whole
    assert last.complete


ABBA = Toy(
    (
        (("lock", 0), ("lock", 1), ("unlock", 1), ("unlock", 0)),
        (("lock", 1), ("lock", 0), ("unlock", 0), ("unlock", 1)),
    ),
    (0, 0),
    0,
)


def test_a_deadlock_is_a_schedule_too() -> None:
    stage = ToyStage(ABBA)
    strategy = Exhaustive(stage, ())
    stuck = []
    while strategy.begin(stage.scenario, 0):
        try:
            stuck.append(conduct(stage, strategy).stuck)
        except Redundant:
            strategy.give_up()
    assert "deadlock" in stuck
    assert "" in stuck


def test_a_way_that_sleeps_hides_nothing_behind_the_others() -> None:
    """Regression. A process holds a lock at the end and may go on or die; its death slept while its step was tried, so
    the race of that death with the other's was never seen there, and two kinds of schedules were missing.
    """
    operation = (("invoke",), ("lock", 0), ("ok",))
    toy = Toy((operation, operation, (("set", 0),)), (0, 0, 1), 2)
    played, _ = search(toy)
    assert {kind(toy, moves) for moves in played} == {kind(toy, moves) for moves in schedules(toy)}


def test_whoever_joins_may_come_before_those_who_were_there() -> None:
    """Regression. The joiner's race for a lock was dropped because it was not there when the other took it."""
    locked = (("lock", 0), ("set", 0), ("unlock", 0))
    toy = Toy((locked, (("set", 0),), locked), (0, 0, 1), 1)
    played, _ = search(toy)
    assert {kind(toy, moves) for moves in played} == {kind(toy, moves) for moves in schedules(toy)}


@pytest.mark.parametrize(
    "blind",
    [
        lambda a, b: not a.writes.isdisjoint(b.writes),
        lambda a, b: not (a.writes.isdisjoint(b.reads) and a.reads.isdisjoint(b.writes)),
        lambda a, b: False,
    ],
)
def test_a_dependency_that_is_overlooked_loses_schedules(blind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the comparison with brute force notices a relation that calls too much independent."""
    toy = Toy(
        ((("get", 0), ("set", 0), ("get", 1)), (("get", 0), ("set", 0), ("set", 1)), (("set", 0),)),
        (0, 0, 0),
        0,
    )
    listed = {outcome(toy, moves) for moves in schedules(toy)}
    assert {outcome(toy, moves) for moves in search(toy)[0]} == listed
    monkeypatch.setattr(exhaustive, "dependent", blind)
    assert {outcome(toy, moves) for moves in search(toy)[0]} < listed
