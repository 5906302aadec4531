"""Shrinking, piece by piece: what a smaller scenario's schedule is, and how it is followed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from harness import shrink_passes
from harness.scenario import Program, Scenario
from harness.scenarios import SCENARIOS, get, put, read, update
from harness.schedule.aligned import Aligned
from harness.schedule.base import Choice, View
from harness.schedule.random_walk import RandomWalk
from harness.shrink_passes import PASSES, Candidate, preemptions
from harness.stepped.execution import conduct
from harness.stepped.program import BEGIN
from harness.stepped.simulated import Simulated
from kvs import syncpoints

# -- following a schedule that is about something larger --------------------------------------------------


class Stand:
    """A process at a point."""

    def __init__(self, number: int, point: str, parts: int = 0) -> None:
        self.number, self.point, self.parts = number, point, parts
        self.waits, self.hits = "", 0


def view(last: int, *enabled: Stand, mortal: Sequence[Stand] | None = None) -> View:
    """What a strategy sees; everybody may die, unless told otherwise."""
    seen = View()
    seen.last, seen.enabled, seen.mortal = last, enabled, enabled if mortal is None else mortal
    return seen


def aligned(*choices: Choice) -> Aligned:
    """Ready to choose."""
    strategy = Aligned(choices, BEGIN)
    assert strategy.begin(SCENARIOS["speed"], 0)
    return strategy


def test_who_stands_before_the_recorded_point_moves_on_until_it_is_there() -> None:
    strategy = aligned(Choice(1, "c", kill=True, torn=9))
    assert strategy.choose(view(0, Stand(1, "a"))) == Choice(1, "a")
    assert strategy.choose(view(1, Stand(1, "b"))) == Choice(1, "b")
    assert strategy.choose(view(1, Stand(1, "c", parts=4))) == Choice(1, "c", kill=True, torn=4)


def test_who_has_passed_the_recorded_point_stays() -> None:
    strategy = aligned(Choice(1, "a"), Choice(2, "x"), Choice(1, "b"))
    assert strategy.choose(view(0, Stand(1, "b"), Stand(2, "x"))) == Choice(2, "x")
    assert strategy.choose(view(2, Stand(1, "b"), Stand(2, "y"))) == Choice(1, "b")


def test_a_point_of_the_next_operation_was_not_passed() -> None:
    strategy = aligned(Choice(1, "b"), Choice(1, BEGIN), Choice(1, "a"))
    assert strategy.choose(view(0, Stand(1, "a"))) == Choice(1, "a")
    assert strategy.choose(view(1, Stand(1, "b"))) == Choice(1, "b")


def test_who_cannot_move_or_die_is_left_out_and_the_last_one_goes_on_when_nothing_is_left() -> None:
    strategy = aligned(Choice(3, "a"), Choice(1, "a", kill=True), Choice(2, "a"))
    assert strategy.choose(view(1, Stand(1, "a"), Stand(2, "a"), mortal=())) == Choice(2, "a")
    assert strategy.choose(view(2, Stand(1, "a"), Stand(2, "b"))) == Choice(2, "b")
    assert strategy.choose(view(2, Stand(1, "a"))) == Choice(1, "a")


def test_who_never_comes_to_the_recorded_point_does_not_keep_the_others_waiting() -> None:
    strategy = aligned(Choice(1, "never"), Choice(2, "x"))
    chosen = [strategy.choose(view(1, Stand(1, "a"), Stand(2, "x"))) for _ in range(100)]
    assert Choice(2, "x") in chosen


# -- the passes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    """A schedule with two kills and who joined after them."""
    scenario = SCENARIOS["default"]
    strategy = RandomWalk(3, 150, list(syncpoints.POINTS))
    with Simulated(scenario) as stage:
        for number in itertools.count():
            strategy.begin(scenario, number)
            execution = conduct(stage, strategy)
            if len(execution.kills) == 2:
                return Candidate(scenario, tuple(execution.steps))
    raise AssertionError


@pytest.mark.parametrize("each", PASSES, ids=[each.name for each in PASSES])
def test_nothing_changes_where_all_parts_are_kept(each: shrink_passes.Pass, candidate: Candidate) -> None:
    assert each.only(candidate, each.parts(candidate)) == candidate


@pytest.mark.parametrize("each", PASSES, ids=[each.name for each in PASSES])
@hypothesis.given(data=strategies.data())
@hypothesis.settings(
    max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_whatever_is_left_out_the_rest_makes_sense_or_is_refused(
    each: shrink_passes.Pass, data: strategies.DataObject, candidate: Candidate
) -> None:
    parts = each.parts(candidate)
    kept = [part for part in parts if data.draw(strategies.booleans())]
    left = each.only(candidate, kept)
    if left is not None:
        assert left.scenario.check()
        assert {choice.process for choice in left.choices} <= set(range(1, len(left.scenario.programs) + 1))
        assert len(left.choices) <= len(candidate.choices)


WORLD = Scenario(
    "world",
    (
        Program("writer", (put(0), update(0, 2))),
        Program("reader", (read(0), get(2))),
        Program("writer", (put(2),), joins=1),
    ),
    (1, 3, 0),
)
STEPS = tuple(
    Choice(process, point)
    for process, point in [
        (1, BEGIN), (2, BEGIN), (1, "a"), (2, "r"), (1, BEGIN), (2, BEGIN), (1, "b"), (2, "s"), (3, BEGIN),
    ]
)  # fmt: skip


def only(name: str, kept: Callable[[Any], bool]) -> Candidate:
    """``WORLD`` with the parts of that pass which ``kept`` says."""
    each = next(each for each in PASSES if each.name == name)
    of = Candidate(WORLD, STEPS)
    left = each.only(of, [part for part in each.parts(of) if kept(part)])
    assert left is not None
    return left


def test_without_a_process_the_others_have_new_numbers() -> None:
    left = only("processes", lambda number: number != 2)
    assert left.scenario.programs == (WORLD.programs[0], WORLD.programs[2])
    assert [tuple(choice[:2]) for choice in left.choices] == [
        (1, BEGIN), (1, "a"), (1, BEGIN), (1, "b"), (2, BEGIN),
    ]  # fmt: skip


def test_without_a_transaction_its_steps_are_gone_too() -> None:
    left = only("transactions", lambda one: one != (1, 0))
    assert left.scenario.programs[0].transactions == (update(0, 2),)
    assert [choice.point for choice in left.choices if choice.process == 1] == [BEGIN, "b"]
    assert [choice for choice in left.choices if choice.process != 1] == [
        choice for choice in STEPS if choice.process != 1
    ]


def test_gets_are_joined_to_the_gets_before_them_and_nothing_else_is() -> None:
    gets = Scenario("gets", (Program("reader", (get(0), get(0, 1), read(0))),), (1, 1))
    of = Candidate(gets, (Choice(1, BEGIN), Choice(1, "a"), Choice(1, BEGIN), Choice(1, "b")))
    each = next(each for each in PASSES if each.name == "joining")
    left = each.only(of, [(1, 0), (1, 2)])
    assert left is not None
    assert left.scenario.programs[0].transactions == (get(0, 0, 1), read(0))
    assert left.choices == (Choice(1, BEGIN), Choice(1, "a"), Choice(1, "b"))
    assert each.only(of, [(1, 0), (1, 1)]) is None
    assert each.only(of, [(1, 1), (1, 2)]) is None


def test_a_process_that_is_merged_does_its_transactions_within_the_other() -> None:
    left = only("merging", lambda number: number != 3)
    assert left.scenario.programs == (
        Program("writer", (put(0), update(0, 2), put(2))),
        WORLD.programs[1],
    )
    assert left.choices == (*STEPS[:-1], Choice(1, BEGIN))


def test_a_transaction_that_would_do_nothing_is_refused() -> None:
    each = next(each for each in PASSES if each.name == "uses of keys")
    of = Candidate(WORLD, STEPS)
    assert each.only(of, [use for use in each.parts(of) if use[:2] != (3, 0)]) is None


def test_without_an_unused_key_the_others_have_new_numbers() -> None:
    left = only("keys", lambda _: False)
    assert left.scenario.revisions == (1, 0)
    assert left.scenario.programs[0].transactions == (put(0), update(0, 1))


def test_without_a_preemption_the_process_goes_on() -> None:
    of = Candidate(WORLD, STEPS)
    assert preemptions(of) == [0, 1, 2, 3, 4, 5]
    left = only("preemptions", lambda where: where != 0)
    assert [tuple(choice[:2]) for choice in left.choices[:4]] == [
        (1, BEGIN), (1, "a"), (2, BEGIN), (2, "r"),
    ]  # fmt: skip
    assert sorted(left.choices) == sorted(STEPS)
    assert preemptions(only("preemptions", lambda _: False)) == []
