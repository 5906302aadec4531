"""Replaying: the same failure ten times out of ten over real processes, and files that no longer fit."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import planted
from harness.errors import UsageError
from harness.failure import Failure, load, save
from harness.oracle import Judge, kind_of
from harness.replay import EXIT_OK, EXIT_UNKNOWN, EXIT_VIOLATION, Replays, Run, describe, replay
from harness.scenarios import SCENARIOS
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.stepped.execution import conduct
from harness.stepped.simulated import Simulated
from harness.verdict import Finding
from kvs import syncpoints
from tests.harness.aside import aside

SPEED = SCENARIOS["speed"]
SCHEDULES_MAX = 3000


def find(bug: str, scenario: str) -> Failure:
    """The first failure of a random walk over simulated processes, in this process, where the bug is planted first."""
    planted.BUGS[bug].plant()
    world = SCENARIOS[scenario]
    points = list(syncpoints.POINTS)
    strategies = itertools.cycle((RandomWalk(1, 150, points), Pct(1, 150, points)))
    with Simulated(world) as stage:
        judge = Judge(stage.place.setup)
        for number, strategy in zip(range(SCHEDULES_MAX), strategies, strict=False):
            strategy.begin(world, number)
            execution = conduct(stage, strategy)
            found, _ = judge.findings(execution)
            if found and execution.kills:
                name = found[0].property_name
                return Failure(world, tuple(execution.steps), name, kind_of(found[0]), found[0].message, bug)
    raise AssertionError("not found")


@pytest.fixture(scope="module")
def clean() -> Failure:
    """A schedule of the clean store with a kill in it."""
    strategy = RandomWalk(5, 150, list(syncpoints.POINTS))
    with Simulated(SPEED) as stage:
        for number in range(SCHEDULES_MAX):
            strategy.begin(SPEED, number)
            execution = conduct(stage, strategy)
            if execution.kills and len(execution.steps) > 60:
                return Failure(SPEED, tuple(execution.steps))
    raise AssertionError("not found")


def edited(
    failure: Failure, tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> tuple[Failure, list[str]]:
    """The failure, saved, edited and loaded again."""
    path = tmp_path / "failure.json"
    save(failure, path)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return load(path)


# -- planted bugs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        ("reader-does-not-recheck", "overtaken"),
        ("record-after-publish", "two-writers"),
        ("intent-ignored", "default"),
    ],
)
def test_a_planted_bug_reproduces_ten_times_out_of_ten_over_real_processes(bug: str, scenario: str) -> None:
    def work() -> Replays:
        return replay(find(bug, scenario), plant=False)

    replays = aside(work)
    assert replays.reproduced == "10/10", describe(replays)
    assert replays.exit_code == EXIT_VIOLATION
    assert describe(replays)[-1] == "reproduced 10/10"
    for run in replays.runs:
        assert run.deaths
        assert {death.signal for death in run.deaths} == {signal.SIGKILL}
        assert run.divergences == ()


def test_the_bug_that_a_failure_names_is_planted_for_the_replay() -> None:
    failure = aside(lambda: find("record-after-publish", "two-writers"))
    assert replay(without_bug(failure)).reproduced == "0/10"
    assert aside(lambda: replay(failure, simulated=True)).reproduced == "10/10"
    replays = aside(lambda: replay(failure, times=3))
    assert (replays.reproduced, replays.exit_code) == ("3/3", EXIT_VIOLATION)


def without_bug(failure: Failure) -> Failure:
    return Failure(failure.scenario, failure.choices, failure.property_name, failure.kind, failure.message)


# -- clean schedules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulated", [True, False])
def test_a_clean_schedule_stays_clean(clean: Failure, simulated: bool) -> None:
    replays = replay(clean, simulated=simulated, times=4)
    assert (replays.reproduced, replays.exit_code) == ("4/4", EXIT_OK)
    (death,) = replays.runs[0].deaths
    assert death.signal == (0 if simulated else signal.SIGKILL)
    how = "died in the simulation" if simulated else "died of signal 9"
    assert describe(replays) == [
        f"step {death.step}: process {death.process} {how} at {death.point}"
        + (f", after {death.torn} units of its write" if death.torn else ""),
        "no violation in 4/4",
    ]


# -- files that no longer fit ------------------------------------------------------------------------------


def test_a_renamed_and_an_unknown_field_are_noted_and_the_rest_is_played(
    clean: Failure, tmp_path: Path
) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["why"] = data.pop("choices")
        data["colour"] = "blue"

    failure, notes = edited(clean, tmp_path, edit)
    replays = replay(failure, notes, times=2)
    lines = describe(replays)
    assert 'the field "colour" is not known and was left out' in lines
    assert 'the field "choices" is missing: the schedule is drawn by a seeded fallback' in lines
    assert "step 1: no choices were recorded" in lines
    assert lines[-1] == "no violation in 2/2"
    assert replays.exit_code == EXIT_UNKNOWN
    assert replay(failure, notes, times=2).runs == replays.runs
    assert replay(failure, notes, times=2, seed=1).runs != replays.runs


def test_a_renamed_point_is_followed_without_its_name(clean: Failure, tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        for choice in data["choices"]:
            if choice[1] == "commit.after_validate":
                choice[1] = "commit.once_validated"

    failure, notes = edited(clean, tmp_path, edit)
    replays = replay(failure, notes, times=2)
    original = replay(clean, times=2)
    assert [run.deaths for run in replays.runs] == [run.deaths for run in original.runs]
    assert replays.runs[0].divergences
    for line in replays.runs[0].divergences:
        assert "there is no point commit.once_validated; process" in line
        assert line.endswith("stands at commit.after_validate")
    assert replays.exit_code == EXIT_UNKNOWN


def test_points_that_the_recording_does_not_know_are_passed(clean: Failure, tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["choices"] = [choice for choice in data["choices"] if choice[1] != "commit.after_validate"]

    failure, notes = edited(clean, tmp_path, edit)
    replays = replay(failure, notes, times=2)
    original = replay(clean, times=1)
    assert replays.runs[0].divergences
    for line in replays.runs[0].divergences:
        assert "stands at commit.after_validate, not at commit.after_place; it moves on until it is" in line
    assert [death[1:] for death in replays.runs[0].deaths] == [death[1:] for death in original.runs[0].deaths]


def test_nonsense_is_left_out_and_a_seeded_stream_goes_on(tmp_path: Path, clean: Failure) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["choices"] = [
            [7, "commit.after_lock"],
            [1, "repair.after_clear", True, -4],
            [3, "read.after_copy", True, 99],
            [-2, ""],
            [1, "operation.begin", False, 12],
        ]

    failure, notes = edited(clean, tmp_path, edit)
    replays = replay(failure, notes, times=3)
    lines = describe(replays)
    assert lines[0] == "step 1: process 7 cannot move now; that choice is left out"
    assert (
        lines[1]
        == "step 1: process 1 stands at operation.begin, not at repair.after_clear; it moves on until it is"
    )
    assert any(line.endswith("continued with the seeded fallback (0)") for line in lines)
    assert len(set(replays.runs)) == 1
    assert replay(failure, notes, times=1, seed=5).runs[0] != replays.runs[0]


def test_an_unknown_bug_and_zero_times_are_the_callers_mistake(clean: Failure) -> None:
    with pytest.raises(
        UsageError, match="planted bug that is not known: 'no-such-bug'; there are no-commit-lock"
    ):
        replay(Failure(SPEED, clean.choices, bug="no-such-bug"))
    with pytest.raises(UsageError, match="0 times"):
        replay(clean, times=0)


# -- what it says ------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_played(clean: Failure) -> None:
    shown: list[Run] = []

    def show(run: Run) -> None:
        shown.append(run)
        if len(shown) == 3:
            signal.raise_signal(signal.SIGINT)

    replays = replay(clean, times=10, show=show)
    assert replays.runs == tuple(shown)
    assert len(shown) == 3
    assert (replays.interrupted, replays.exit_code) == (True, EXIT_UNKNOWN)
    assert describe(replays)[-1] == "no violation in 3/3 (interrupted; 10 were asked for)"


SAME = Run(True, (Finding("order", "x"),), (), (), 5, 0)
OTHER = Run(False, (Finding("error", "y 12"),), (), (), 5, 0)
NONE = Run(False, (), (), (), 5, 0)


def played(*runs: Run, kind: str = "order: x", times: int = 0, interrupted: bool = False) -> Replays:
    return Replays(kind, times or len(runs), False, runs, (), interrupted)


@pytest.mark.parametrize(
    ("replays", "code", "last"),
    [
        (played(SAME, SAME), EXIT_VIOLATION, "reproduced 2/2"),
        (played(NONE, NONE), EXIT_OK, "reproduced 0/2"),
        (played(NONE._replace(undecided=1)), EXIT_UNKNOWN, "reproduced 0/1"),
        (played(NONE._replace(divergences=("step 1: so",))), EXIT_UNKNOWN, "reproduced 0/1"),
        (
            played(NONE, times=2, interrupted=True),
            EXIT_UNKNOWN,
            "reproduced 0/1 (interrupted; 2 were asked for)",
        ),
        (
            played(times=2, interrupted=True),
            EXIT_UNKNOWN,
            "nothing was played (interrupted; 2 were asked for)",
        ),
        (played(NONE, kind=""), EXIT_OK, "no violation in 1/1"),
        (played(NONE, OTHER, kind=""), EXIT_VIOLATION, "no violation in 1/2"),
        (
            played(SAME, NONE, OTHER, SAME, NONE),
            EXIT_VIOLATION,
            "reproduced 2/5: not in runs 2-3, 5, so not the schedule alone decides",
        ),
    ],
)
def test_the_exit_code_and_the_last_line_say_the_same(replays: Replays, code: int, last: str) -> None:
    assert replays.exit_code == code
    assert describe(replays)[-1] == last


def test_another_violation_is_named_with_its_runs() -> None:
    assert describe(played(SAME, OTHER, OTHER))[0] == "runs 2-3: another violation: error: y #"
