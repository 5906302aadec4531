"""``harness ci``: a budget of time is kept, failures are told where a CI looks, and every seed is recorded."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import PATIENCE_S, TOY, environment, harness, wait_for
from errands import below
from junitparser import Error, Failure, JUnitXml

from harness import ci, errand
from harness.ci import Plan, errand_for
from harness.errand import EXPLORE, POWERLOSS, RUN

BUG = "no-commit-lock"


def in_github(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``harness`` as a step of GitHub's CI."""
    github = {"GITHUB_ACTIONS": "true", "GITHUB_RUN_NUMBER": "7", "GITHUB_STEP_SUMMARY": str(cwd / "step.md")}
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=cwd,
        env=environment() | github,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )


def record_in(out: Path) -> ci.Record:
    """The record of the one job below ``out``."""
    import msgspec

    (path,) = out.glob(f"*/{ci.RECORD}")
    return msgspec.json.decode(path.read_bytes(), type=ci.Record)


def test_the_budget_is_never_exceeded_by_what_is_begun() -> None:
    plan = Plan(seed=1, minutes=10, each_s=60)
    left_s, spent, kinds = plan.minutes * 60, 0.0, []
    while (following := errand_for(plan, len(kinds), left_s)) is not None:
        assert following.seconds is not None
        spent += following.seconds
        left_s -= following.seconds + 7  # the verdict takes a while, too
        kinds.append(following.kind)
    assert spent <= 600
    assert kinds[:4] == [RUN, EXPLORE, POWERLOSS, RUN]
    assert left_s < ci.LEAST_S[EXPLORE]


@pytest.mark.parametrize(
    ("kinds", "number", "left_s", "expected"),
    [
        ((RUN, EXPLORE), 4, 100.0, (RUN, 60.0)),
        ((RUN, EXPLORE), 4, 30.0, (RUN, 30.0)),
        ((RUN, EXPLORE), 4, 5.0, (EXPLORE, 5.0)),
        ((RUN, EXPLORE), 4, 0.5, None),
        ((RUN,), 4, 5.0, None),
        ((RUN,), 0, 5.0, (RUN, 5.0)),
    ],
)
def test_the_last_errand_is_cut_to_fit_and_is_one_that_can_use_what_is_left(
    kinds: tuple[str, ...], number: int, left_s: float, expected: tuple[str, float] | None
) -> None:
    following = errand_for(Plan(seed=1, kinds=kinds), number, left_s)
    assert (following and (following.kind, following.seconds)) == expected


def test_a_campaign_is_not_begun_where_there_are_enough_of_them() -> None:
    following = errand_for(Plan(seed=1), 3, 100.0, without=RUN)
    assert following is not None
    assert following.kind == EXPLORE
    assert errand_for(Plan(seed=1, kinds=(RUN,)), 3, 100.0, without=RUN) is None


def test_the_seed_is_another_one_for_every_run_and_attempt_of_github() -> None:
    seeds = {
        ci.seed_of_today({"GITHUB_RUN_NUMBER": number, "GITHUB_RUN_ATTEMPT": attempt})[0]
        for number in ("1", "2", "3")
        for attempt in ("1", "2")
    }
    assert len(seeds) == 6
    assert ci.seed_of_today({})[0] != ci.seed_of_today({})[0]


def test_a_passing_job_records_every_seed_and_keeps_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = harness(
        *("ci", "--minutes", 0.05, "--each", 1, "--kinds", EXPLORE, "--scenario", "versions", "--seed", 9),
        *("--out", out, "--junit", tmp_path / "junit.xml", "--summary", tmp_path / "summary.md"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "seed 9 (given)"
    assert done.stdout.splitlines()[-1].startswith("OK  ")
    assert "::" not in done.stdout
    record = record_in(out)
    numbers = range(len(record.results))
    assert [result.number for result in record.results] == list(numbers)
    assert [result.seed for result in record.results] == [errand.seed_of(9, number) for number in numbers]
    assert {path.name for path in (next(out.iterdir())).iterdir()} == {
        *("ci.json", "facts.json", "report.html", "summary.md")
    }
    suites = list(JUnitXml.fromfile(str(tmp_path / "junit.xml")))
    assert len(suites) == len(record.results)
    assert sum(suite.failures + suite.errors for suite in suites) == 0
    assert "OK" in (tmp_path / "summary.md").read_text()


def test_a_planted_bug_ends_in_an_annotation_that_names_the_property_and_a_line_that_replays_it(
    tmp_path: Path,
) -> None:
    done = in_github(
        *("ci", "--minutes", 0.1, "--each", 4, "--kinds", EXPLORE, "--bug", BUG, "--scenario", "versions"),
        *("--out", "out", "--junit", "junit.xml"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("::group::")
    assert "run 7" in lines[0]
    assert "::endgroup::" in lines
    (annotation,) = (line for line in lines if line.startswith("::error "))
    assert "isolation violated" in annotation
    replay = annotation.partition("replay: ")[2].partition(" (")[0]
    assert f"  replay      {replay}" in done.stdout
    again = harness(*shlex.split(replay)[1:], "--times", 2, cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr
    cases = [case for suite in JUnitXml.fromfile(str(tmp_path / "junit.xml")) for case in suite]
    assert {case.name for case in cases} == {"isolation"}
    assert all(isinstance(result, Failure) for case in cases for result in case.result)
    assert "isolation" in (tmp_path / "step.md").read_text()


def test_too_little_is_unknown_and_an_error_in_junit(tmp_path: Path) -> None:
    done = harness(
        *("ci", "--minutes", 0.001, "--engine", TOY, "--json", "--junit", "junit.xml", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    told = json.loads(done.stdout)
    (result,) = told["record"]["results"]
    assert (result["kind"], result["outcome"]) == (RUN, "UNKNOWN")
    assert any("traffic" in reason for reason in result["reasons"])
    (suite,) = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert any(isinstance(each, Error) for case in suite for each in case.result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "nope"), "no engine is called 'nope'"),
        (("--kinds", "dance"), "no errand is called 'dance'"),
        (("--engine", TOY, "--kinds", EXPLORE), "for kvs only"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_before_anything_is_made(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = harness("ci", *arguments, "--out", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_a_job_with_a_verdict_over_what_there_is_and_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "ci", "--minutes", "10", "--each", "1", "--kinds", EXPLORE),
            *("--scenario", "versions", "--out", str(out)),
        ],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: any(record_in(out).results for _ in out.glob(f"*/{ci.RECORD}")), "an errand is done")
    wait_for(lambda: bool(list(below(running.pid))), "another one is under way")
    children = list(below(running.pid))
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stdout
    assert record_in(out).interrupted
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "nobody is left")
