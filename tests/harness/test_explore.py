"""Exploring from inside: orders and tallies, verdicts, and schedules that end or hang their process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from campaigns import HERE, environment

from harness import explore, explore_job
from harness.explore_job import BLOCK, POINTS, Found, Job, Notes, Options, Order, Tally, aims
from harness.explore_jobs import Counts, Position, Record
from harness.failure import load
from harness.scenarios import SCENARIOS
from harness.schedule.base import Choice
from harness.verdict import Outcome
from kvs import syncpoints

KILLED = {"meetings": [], "deaths": {"commit.after_lock": 3}}


def mistaken(mistake: str, out: Path) -> subprocess.CompletedProcess[str]:
    """Explore with a mistake that is fatal (``explorations``)."""
    return subprocess.run(
        [sys.executable, str(HERE / "explorations.py"), mistake, str(out)],
        cwd=out,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("mistake", "words"), [("crash", "ended in SIGSEGV"), ("hang", "did not end within 1 s")]
)
def test_a_schedule_that_ends_or_hangs_its_process_is_a_finding_and_the_rest_is_played(
    mistake: str, words: str, tmp_path: Path
) -> None:
    done = mistaken(mistake, tmp_path)
    assert done.returncode == 0, done.stderr
    explored = json.loads(done.stdout)
    assert explored["outcome"] == "VIOLATION"
    record = explored["record"]
    assert record["position"] == {"next": 12, "pending": []}
    assert record["counts"]["schedules"] == 12
    (found,) = record["found"]
    assert found["property_name"] == "crash"
    assert words in found["message"]
    assert found["choices"][-1][1] == "commit.after_visible", "the step that did it is the last one"
    (path,) = explored["failures"].values()
    failure, notes = load(Path(path))
    assert notes == []
    assert failure.kind == found["kind"]
    assert [list(choice) for choice in failure.choices] == found["choices"]
    assert failure.page.startswith("VIOLATION  crash ")
    # The schedules themselves are those of a store without the mistake.
    clean = Options(scenarios=("overtaken",), seed=3)
    assert record["counts"]["digest"] == f"{digest(clean, 12, but=found):016x}"


def test_a_crash_that_the_schedule_decides_happens_every_time_with_real_processes(tmp_path: Path) -> None:
    done = mistaken("collapse", tmp_path)
    assert done.returncode == 0, done.stderr
    explored = json.loads(done.stdout)
    (found,) = explored["record"]["found"]
    assert found["choices"][-1][1] == "commit.after_tail"
    assert found["count"] == explored["record"]["counts"]["schedules"] == 12
    (path,) = explored["failures"].values()
    failure, _ = load(Path(path))
    assert failure.reproduced == "10/10"
    assert "SIGSEGV" in failure.message or "signal 11" in failure.message
    assert failure.message in failure.page.splitlines()[0]
    assert "(10/10)" in failure.page
    assert "operation 1: write key/0" in failure.page


def digest(options: Options, count: int, *, but: dict[str, Any]) -> int:
    """The digest of ``count`` schedules, one of which went no further than ``but``."""
    notes = Notes(1)
    total = 0
    with Job(options, notes.of(0), notes) as job:
        for number in range(count):
            tally = job.play(Order(number, number + 1))
            if number == but["number"]:
                steps = [Choice(*choice) for choice in but["choices"]]
                total += explore_job.digest_of(number, steps)
            else:
                total += tally.digest
    return total & (1 << 64) - 1


def test_a_job_that_somebody_else_ends_is_no_violation_and_its_schedules_are_not_counted(
    tmp_path: Path,
) -> None:
    done = mistaken("end", tmp_path)
    assert "HarnessError" in done.stderr
    assert "SIGKILL" in done.stderr
    assert "can be resumed" in done.stderr
    (run,) = tmp_path.glob("*-explore")
    record = explore.load(run)
    assert record.counts.schedules == 0
    assert record.position == Position(12, [(0, 12)])
    assert record.found == []


def test_steps_are_noted_before_they_are_taken() -> None:
    notes = Notes(2)
    words = notes.of(1)

    class Always:
        def choose(self, view: Any) -> Choice:
            return chosen[view.step]

        def begin(self, *_: Any) -> bool:
            return True

        def end(self, stopped: bool) -> None:
            pass

    class View:
        step = 0

    chosen = [
        Choice(3, "commit.after_lock"),
        Choice(16, "publish.before_busy", kill=True, torn=70_000),
        Choice(1, POINTS[-1]),
        Choice(2, ""),
    ]
    noting = explore_job.Noting(Always(), words)
    for step in range(len(chosen)):
        view = View()
        view.step = step
        assert noting.choose(view) == chosen[step]  # type: ignore[arg-type]
        assert notes.choices(1) == tuple(chosen[: step + 1])
    assert notes.choices(0) == ()
    words[0] = 8
    assert (notes.under_way(0), notes.under_way(1)) == (None, 7)
    assert not notes.is_over(1)
    noting.end(False)
    assert notes.is_over(1)
    assert notes.under_way(1) == 7


def test_a_job_stops_after_the_schedule_under_way_when_it_is_told() -> None:
    notes = Notes(1)
    with Job(Options(scenarios=("snapshots",), seed=1), notes.of(0), notes) as job:
        assert (tally := job.play(Order(0, 3))).end == 3 == tally.schedules
        notes.stop()
        assert job.play(Order(3, 9)) == Tally(
            first=3, end=3, scenario="snapshots", coverage={"meetings": [], "deaths": {}}
        )


def test_scenarios_take_turns_by_blocks() -> None:
    options = Options(scenarios=("wide", "claims"), strategy="mixed")
    assert [options.scenario_of(BLOCK * block) for block in range(3)] == ["wide", "claims", "wide"]
    assert options.scenario_of(BLOCK - 1) == "wide"
    assert [options.strategy_of(number) for number in range(3)] == ["random", "pct", "random"]
    assert Options(strategy="pct").strategy_of(0) == "pct"


def test_no_kill_waits_at_a_point_that_nobody_comes_to() -> None:
    every = {point for scenario in SCENARIOS.values() for point in aims(scenario)}
    assert not any(point.startswith(("create.", "rebuild.")) for point in every)
    assert {point.partition(".")[0] for point in every} >= {
        "durable",
        "laggard",
        "grow",
        "compact",
        "smallfile",
    }
    plain = {point.partition(".")[0] for point in aims(SCENARIOS["two-writers"])}
    assert not plain & {"durable", "laggard", "grow", "compact", "close"}
    assert set(aims(SCENARIOS["durable"])) - set(aims(SCENARIOS["default"])) == {
        point for point in syncpoints.POINTS if point.startswith(("durable.", "laggard."))
    }


def record(scenario: str = "overtaken", **counts: Any) -> Record:
    played = {"schedules": 9, "kills": 3, "by_scenario": {scenario: 9}}
    return Record(Options(scenarios=(scenario,)), counts=Counts(**played | counts), coverage=KILLED)


@pytest.mark.parametrize(
    ("done", "outcome", "lacks"),
    [
        (record(), Outcome.OK, ""),
        (record(schedules=0, by_scenario={}), Outcome.UNKNOWN, "no schedule was played"),
        (record(kills=0), Outcome.UNKNOWN, "nobody was killed"),
        (record("snapshots", kills=0), Outcome.OK, ""),
        (record(undecided=2), Outcome.UNKNOWN, "2 times durability or resolution"),
    ],
)
def test_ignorance_is_no_success(done: Record, outcome: Outcome, lacks: str, tmp_path: Path) -> None:
    verdict = explore.judged(done, tmp_path)
    assert verdict.outcome is outcome
    assert lacks in "; ".join(verdict.reasons)
    assert bool(lacks) == bool(verdict.reasons)
    assert "commit.after_lock" not in verdict.never_killed_at or not done.counts.kills
    done.found = [
        Found(
            number=1, scenario="overtaken", strategy="pct", kind="k", property_name="isolation", message="m"
        )
    ]
    assert explore.judged(done, tmp_path).outcome is Outcome.VIOLATION
