"""Shrinking: what is left shows the same violation, nothing more can go, and Ctrl-C loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from harness import planted
from harness.errors import HarnessError, UsageError
from harness.failure import Failure
from harness.oracle import Judge, kind_of
from harness.scenarios import SCENARIOS
from harness.schedule.base import Choice
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.shrink import INTERRUPTED, OUT_OF_TIME, Progress, _Shrinking, _Trials, fewest, shrink, sizes
from harness.shrink_passes import PASSES, Candidate
from harness.stepped import place
from harness.stepped.execution import conduct
from harness.stepped.program import POINTS
from harness.stepped.simulated import Simulated
from harness.verdict import Finding
from kvs import syncpoints
from tests.harness.aside import aside

# -- the fewest parts -------------------------------------------------------------------------------------

Holds = Callable[[Sequence[int]], bool]


def assert_minimal(parts: Sequence[int], result: Sequence[int], holds: Holds) -> None:
    """``result`` is some of ``parts`` in their order, still holds, and loses nothing without ceasing to."""
    assert list(result) == [part for part in parts if part in set(result)]
    assert holds(result)
    for part in result:
        assert not holds([other for other in result if other != part])


@strategies.composite
def alternatives(draw: strategies.DrawFn) -> tuple[list[int], list[set[int]]]:
    """Parts, and sets of which one must be there as a whole."""
    count = draw(strategies.integers(0, 30))
    some = strategies.sets(strategies.integers(0, max(count - 1, 0)), max_size=min(count, 6))
    return list(range(count)), draw(strategies.lists(some if count else strategies.just(set()), min_size=1))


@hypothesis.given(alternatives())
@hypothesis.settings(max_examples=300, deadline=None)
def test_the_fewest_parts_hold_and_none_of_them_can_be_taken_away(
    given: tuple[list[int], list[set[int]]],
) -> None:
    parts, needed = given

    def holds(left: Sequence[int]) -> bool:
        return any(one <= set(left) for one in needed)

    assert_minimal(parts, fewest(parts, holds), holds)


def test_few_of_many_parts_are_found_with_few_questions() -> None:
    asked = 0

    def holds(left: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        return {17, 801} <= set(left)

    assert fewest(range(1000), holds) == [17, 801]
    assert asked < 100


@pytest.mark.parametrize(
    "broken",
    [
        lambda parts, holds: list(parts),
        lambda parts, holds: fewest(parts, holds)[1:],
        lambda parts, holds: fewest(parts, holds)[::-1],
        lambda parts, holds: [*fewest(parts, holds), 999],
    ],
    ids=["keeps too much", "loses the violation", "changes the order", "makes parts up"],
)
def test_a_shrinker_that_does_it_wrong_is_seen(broken: Callable[..., list[int]]) -> None:
    def holds(left: Sequence[int]) -> bool:
        return {3, 5} <= set(left)

    assert_minimal(range(10), fewest(range(10), holds), holds)
    with pytest.raises(AssertionError):
        assert_minimal(range(10), broken(range(10), holds), holds)


# -- failures ---------------------------------------------------------------------------------------------


def found(scenario: str = "default", bug: str = "") -> Failure:
    """The first failure of a random walk in this process."""
    world = SCENARIOS[scenario]
    strategy = RandomWalk(1, 150, list(syncpoints.POINTS))
    with Simulated(world) as stage:
        judge = Judge(stage.place.setup)
        for number in range(1000):
            strategy.begin(world, number)
            execution = conduct(stage, strategy)
            if findings := judge.findings(execution)[0]:
                one = findings[0]
                return Failure(
                    world, tuple(execution.steps), one.property_name, kind_of(one), one.message, bug
                )
    raise AssertionError


def shown(failure: Failure) -> tuple[list[str], list[str]]:
    """The kinds of violation that its schedule ends in, and where it diverges."""
    strategy = Replaying(failure.choices, [*syncpoints.POINTS, *POINTS])
    strategy.begin(failure.scenario, 0)
    with Simulated(failure.scenario) as stage:
        execution = conduct(stage, strategy)
        findings, _ = Judge(stage.place.setup).findings(execution)
    return [kind_of(finding) for finding in findings], strategy.divergences


def with_bug(bug: str, work: Callable[[Failure], Any], scenario: str = "default") -> Any:
    """What ``work`` returns for the first failure with ``bug``, in a process of its own."""

    def planting() -> Any:
        planted.BUGS[bug].plant()
        return work(found(scenario, bug))

    return aside(planting)


@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        ("no-commit-lock", "default"),
        ("record-not-checked", "default"),
        ("repair-stops-short", "default"),
        ("claim-remembers-tail", "default"),
        ("snapshot-not-fixed", "default"),
        ("reads-not-validated", "skew"),
        ("entry-taken-twice", "crowded"),
        ("repair-forgets-removal", "removals"),
    ],
)
def test_a_planted_bug_is_shrunk_to_three_processes_and_four_transactions(bug: str, scenario: str) -> None:
    def work(failure: Failure) -> tuple[bytes, bytes, tuple[list[str], list[str]]]:
        small = shrink(failure)
        return msgspec.json.encode(failure), msgspec.json.encode(small), shown(small)

    before, after, (kinds, divergences) = with_bug(bug, work, scenario)
    large, small = msgspec.json.decode(before, type=Failure), msgspec.json.decode(after, type=Failure)
    assert kinds[0] == small.kind == large.kind
    assert divergences == []
    assert small.shrunk["before"] == sizes(Candidate(large.scenario, large.choices))
    assert small.shrunk["after"] == sizes(Candidate(small.scenario, small.choices))
    assert small.shrunk["after"]["processes"] <= 3
    assert small.shrunk["after"]["transactions"] <= 4
    assert small.shrunk["stopped"] == ""
    assert 0 < small.shrunk["seconds"] < 30
    assert small.bug == bug


def test_of_a_shrunk_failure_no_transaction_kill_or_preemption_can_be_taken_away() -> None:
    def work(failure: Failure) -> list[str]:
        small = shrink(failure)
        of = Candidate(small.scenario, small.choices)
        too_much = []
        with _Trials(small.kind) as trials:
            for each in PASSES:
                if each.name not in {"transactions", "kills", "preemptions"}:
                    continue
                parts = each.parts(of)
                for part in parts:
                    less = each.only(of, [other for other in parts if other != part])
                    again = None if less is None else trials.play(less)
                    if again is not None and sizes(again)[each.name] < len(parts):
                        too_much.append(f"{each.name}: {part}")
        return too_much

    assert with_bug("repair-stops-short", work) == []


def test_a_ctrl_c_keeps_the_best_so_far_and_leaves_no_store_behind(tmp_path: Path) -> None:
    told: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 5:
            signal.raise_signal(signal.SIGINT)

    def work(failure: Failure) -> tuple[dict[str, Any], tuple[list[str], list[str]], str, int]:
        place.parent_by_default = tmp_path
        small = shrink(failure, show=interrupt)
        assert list(tmp_path.iterdir()) == []
        return small.shrunk, shown(small), small.kind, len(told)

    shrunk, (kinds, divergences), kind, count = with_bug("snapshot-not-fixed", work)
    assert shrunk["stopped"] == INTERRUPTED
    assert count == 5 == shrunk["tried"]
    assert shrunk["after"]["transactions"] < shrunk["before"]["transactions"]
    assert kinds[0] == kind
    assert divergences == []


def test_a_ctrl_c_in_the_middle_of_a_candidate_waits_until_it_was_judged() -> None:
    def work(failure: Failure) -> tuple[dict[str, Any], int]:
        plays, finished = 0, 0
        play = _Trials.play

        def interrupted(self: _Trials, candidate: Candidate, *, exactly: bool = False) -> Candidate | None:
            nonlocal plays, finished
            plays += 1
            if plays == 3:
                os.kill(os.getpid(), signal.SIGINT)
            result = play(self, candidate, exactly=exactly)
            finished += plays == 3
            return result

        _Trials.play = interrupted  # type: ignore[method-assign]
        return shrink(failure).shrunk, finished

    shrunk, finished = with_bug("snapshot-not-fixed", work)
    assert finished == 1
    assert (shrunk["stopped"], shrunk["tried"]) == (INTERRUPTED, 2)


def test_without_time_the_failure_stays_as_it_was() -> None:
    def work(failure: Failure) -> tuple[bool, dict[str, Any]]:
        small = shrink(failure, limit_s=0.0)
        return small.choices == failure.choices, small.shrunk

    same, shrunk = with_bug("no-commit-lock", work)
    assert same
    assert shrunk["stopped"] == OUT_OF_TIME
    assert shrunk["after"] == shrunk["before"]


def test_a_recording_that_does_not_quite_fit_any_more_is_shrunk_if_it_still_shows_the_violation() -> None:
    def work(failure: Failure) -> tuple[list[str], list[str], int, int]:
        known = failure.choices
        renamed = [choice._replace(point="commit.before_rename") for choice in known[5:6]]
        older = msgspec.structs.replace(failure, choices=(*known[:5], *renamed, *known[6:]))
        before = shown(older)
        small = shrink(older)
        after = shown(small)
        assert after[0][0] == small.kind
        return before[1], after[1], small.shrunk["before"]["steps"], len(known)

    before, after, steps, known = with_bug("snapshot-not-fixed", work)
    assert len(before) == 1
    assert after == []
    assert steps == known


class Pretended(_Trials):
    """Trials that play nothing: what ``shows`` says of a candidate is what comes of it."""

    def __init__(self, shows: Callable[[Candidate], bool]) -> None:
        super().__init__("made up")
        self.finding = Finding("made up", "made up")
        self._shows = shows

    def play(self, candidate: Candidate, *, exactly: bool = False) -> Candidate | None:
        return candidate if self._shows(candidate) else None


def test_what_can_go_only_after_something_else_has_gone_goes_in_a_later_round() -> None:
    steps = tuple(Choice(1 + number % 3, "somewhere") for number in range(30))
    failure = Failure(SCENARIOS["speed"], steps, kind="made up")
    transactions = sizes(Candidate(failure.scenario, steps))["transactions"]

    def shows(one: Candidate) -> bool:
        size = sizes(one)
        in_turn = size["preemptions"] == 0
        return size["processes"] == 3 and (in_turn or size["transactions"] == transactions)

    small = _Shrinking(failure, Pretended(shows), lambda _: None, 60.0).run()
    wanted = {"processes": 3, "transactions": 0, "keys": 1, "kills": 0, "preemptions": 0, "steps": 0}
    assert small.shrunk["after"] == wanted


def test_a_schedule_that_shows_no_violation_cannot_be_shrunk() -> None:
    with pytest.raises(UsageError, match=r"does not end in its violation .* nothing to shrink"):
        shrink(Failure(SCENARIOS["speed"], (), "isolation", "isolation: made up"))


def test_a_violation_that_does_not_come_again_is_a_mistake_of_the_harness() -> None:
    def work(failure: Failure) -> str:
        play = _Trials.play
        exact = 0

        def forgetful(self: _Trials, candidate: Candidate, *, exactly: bool = False) -> Candidate | None:
            nonlocal exact
            exact += exactly
            return None if exact == 3 else play(self, candidate, exactly=exactly)

        _Trials.play = forgetful  # type: ignore[method-assign]
        with pytest.raises(HarnessError) as caught:
            shrink(failure)
        return str(caught.value)

    assert "does not always end in the same violation" in with_bug("no-commit-lock", work)


# -- what is the same violation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "no record where one must begin (/dev/shm/harness-explore-wf01gdk_/store/00000.small at byte 960)",
            "no record where one must begin (/tmp/x/harness-explore-9n_/store/00001.small at byte 64)",
            True,
        ),
        ("versions out of order: T=[8, 0]", "versions out of order: T=[10, 9, 8]", True),
        ("key/0 shows absent but ...", "key/3 shows process 5 operation 4 (T=4) but ...", True),
        ("key/0 shows absent but ... (lost update)", "key/0 shows absent but ... (write skew)", False),
        ("key 38c9cf01519f9481 has T=4", "key ace38cb036eeb56f has T=12", True),
        ("3 keys are live", "3 keys are dead", False),
    ],
)
def test_two_violations_are_the_same_if_they_differ_in_names_only(one: str, other: str, same: bool) -> None:
    kinds = {kind_of(Finding("structure", message)) for message in (one, other)}
    assert len(kinds) == 1 + (not same)
    assert kind_of(Finding("isolation", one)) not in kinds


def test_of_a_deadlock_it_does_not_matter_who_waits_where() -> None:
    one = Finding("liveness", "deadlock: process 1 at commit.before_lock waits for COMMIT, held by process 2")
    other = Finding("liveness", "deadlock: process 3 at claim.after_owner waits for COMMIT")
    assert kind_of(one) == kind_of(other) != kind_of(Finding("liveness", "livelock: after 10000 steps"))
