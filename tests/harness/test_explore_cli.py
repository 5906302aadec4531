"""``harness explore``, ``replay`` and ``shrink`` as a user meets them: pages, verdicts, Ctrl-C, nothing left."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import click
import pytest
from campaigns import harness, is_alive, only_run, start, wait_for

from harness import cli
from harness.failure import load
from harness.scenarios import GENERAL, SCENARIOS


def explore(cwd: Path, *arguments: object) -> tuple[int, Any]:
    """Run ``harness explore --json``: the exit code, and what was printed."""
    done = harness("explore", "--json", *arguments, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or "null")


def children_of(pid: int) -> list[int]:
    """The processes that ``pid`` forked."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stages_of(pid: int) -> set[Path]:
    """The directories of stores that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(found) for found in re.findall(r"\s(/\S*?/harness-explore-[^/\s]+)/", maps)}


def test_a_planted_bug_is_found_told_on_a_page_and_fails_the_same_way_when_its_replay_line_is_run(
    tmp_path: Path,
) -> None:
    done = harness("explore", "--bug", "intent-ignored", "--seed", 2, "--schedules", 400, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    page = done.stdout
    assert page.startswith("VIOLATION  ")
    assert re.search(r"^  killed      writer \d at [a-z.]+_\w+ \(hit \d+\)", page, re.MULTILINE)
    assert re.search(r"^ +step writer \d", page, re.MULTILINE)
    trace = re.split(r"^ +step |^afterwards|^  replay", page, flags=re.MULTILINE)[1]
    assert max(map(len, trace.splitlines())) <= 120

    found = re.search(r"^  replay      (harness replay \S+) +\((\d+)/(\d+)\)$", page, re.MULTILINE)
    assert found, page
    assert found[2] == found[3] == "10"
    name, *arguments = shlex.split(found[1])
    assert name == "harness"
    again = harness(*arguments, "--times", 2, "--json", cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr
    replays = json.loads(again.stdout)
    failure, notes = load(tmp_path / arguments[1])
    assert notes == []
    assert replays["kind"] == failure.kind
    assert [run["same"] for run in replays["runs"]] == [True, True]
    assert all(death[-1] == signal.SIGKILL for run in replays["runs"] for death in run["deaths"])
    assert failure.property_name == page.split()[1]
    assert failure.page in page

    simulated = harness(*arguments, "--times", 1, "--simulated", cwd=tmp_path)
    assert simulated.returncode == 1
    assert "reproduced 1/1" in simulated.stdout
    assert simulated.stdout.splitlines()[-1].startswith(f"VIOLATION  {failure.property_name} ")


def test_a_failure_that_was_left_as_it_was_found_can_be_shrunk_later(tmp_path: Path) -> None:
    code, explored = explore(
        tmp_path, *("--bug", "intent-ignored", "--seed", 2, "--schedules", 400, "--no-shrink")
    )
    assert code == 1
    (path,) = explored["failures"].values()
    failure, _ = load(tmp_path / path)
    assert failure.shrunk == {}
    done = harness("shrink", path, "--out", "small.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    smaller, _ = load(tmp_path / "small.json")
    assert smaller.kind == failure.kind
    assert smaller.shrunk["after"]["steps"] < smaller.shrunk["before"]["steps"] == len(failure.choices)
    assert done.stdout.startswith(f"VIOLATION  {failure.property_name}")
    assert (tmp_path / "small.txt").read_text() == smaller.page
    assert "  replay      harness replay small.json     (10/10)\n" in smaller.page
    assert load(tmp_path / path)[0] == failure, "what was shrunk is not touched"


def test_the_same_seed_means_the_same_schedules_however_they_are_divided(tmp_path: Path) -> None:
    seed = ("--seed", 5, "--schedules")
    once, shared = explore(tmp_path, *seed, 160)[1], explore(tmp_path, *seed, 160, "--jobs", 2)[1]
    begun = explore(tmp_path, *seed, 61, "--jobs", 2)[1]
    assert begun["record"]["position"] == {"next": 61, "pending": []}
    code, resumed = explore(tmp_path, "--resume", begun["directory"], "--schedules", 160)
    assert code == 0
    counts = [each["record"]["counts"] for each in (once, shared, resumed)]
    assert counts[0]["schedules"] == 160
    assert sum(counts[0]["by_scenario"].values()) == 160
    assert list(counts[0]["by_scenario"]) == list(GENERAL[:7])
    for each in counts:
        each.pop("seconds")
    assert counts[1:] == [counts[0]] * 2
    other = explore(tmp_path, "--seed", 6, "--schedules", 160)[1]
    assert other["record"]["counts"]["digest"] != counts[0]["digest"]
    assert len(resumed["record"]["commands"]) == 2


def test_ctrl_c_ends_with_a_verdict_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    arguments = ("explore", "--json", "--seed", 9, "--jobs", 2)
    with start(*arguments, "--seconds", 100, "--out", "runs", cwd=tmp_path) as process:
        wait_for(lambda: list(tmp_path.glob("runs/*/explore.json")) != [], "a first schedule")
        jobs = children_of(process.pid)
        stages = set().union(*map(stages_of, jobs))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 3), err
    assert "Traceback" not in err
    explored = json.loads(out)
    assert explored["interrupted"]
    assert len(jobs) == 2
    assert not any(map(is_alive, jobs))
    assert len(stages) == 1
    assert not any(stage.exists() for stage in stages)

    run = only_run(tmp_path / "runs")
    record = json.loads((run / "explore.json").read_text())
    position, played = record["position"], record["counts"]["schedules"]
    assert 0 < played == position["next"] - sum(end - first for first, end in position["pending"])
    whole = explore(tmp_path, "--seed", 9, "--schedules", position["next"])[1]
    resumed = explore(tmp_path, "--resume", run, "--schedules", position["next"])[1]
    assert resumed["record"]["counts"]["digest"] == whole["record"]["counts"]["digest"]
    assert resumed["record"]["counts"]["schedules"] == position["next"]


def test_a_terminated_exploration_ends_as_with_ctrl_c(tmp_path: Path) -> None:
    with start("explore", "--seed", 9, "--seconds", 100, cwd=tmp_path) as process:
        wait_for(lambda: list(tmp_path.glob("results/runs/*/explore.json")) != [], "a first schedule")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 3)
    assert out.splitlines()[-1].endswith("interrupted")


def test_too_little_is_unknown_and_says_what_it_lacks(tmp_path: Path) -> None:
    code, explored = explore(tmp_path, "--seed", 1, "--schedules", 2, "--until-coverage", 0.99)
    assert code == 3
    assert explored["outcome"] == "UNKNOWN"
    assert any("coverage" in reason for reason in explored["reasons"])
    assert explored["failures"] == {}
    assert explored["never_killed_at"] != []


def test_a_scenario_without_kills_needs_none(tmp_path: Path) -> None:
    code, explored = explore(tmp_path, "--scenario", "snapshots", "--schedules", 20)
    assert code == 0
    assert explored["record"]["counts"]["kills"] == 0


def test_going_on_keeps_one_failure_of_each_kind(tmp_path: Path) -> None:
    code, explored = explore(
        tmp_path,
        *("--bug", "intent-ignored", "--seed", 2, "--schedules", 150, "--scenario", "default"),
        *("--keep-going", "--no-shrink", "--jobs", 2),
    )
    assert code == 1
    assert explored["record"]["counts"]["schedules"] == 150
    found = explored["record"]["found"]
    assert len(found) > 1
    assert len({each["kind"] for each in found}) == len(found) == len(explored["failures"])
    assert sum(each["count"] for each in found) > len(found)
    assert {load(tmp_path / path)[0].kind for path in explored["failures"].values()} == set(
        explored["failures"]
    )


def test_the_scenarios_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["explore", "--list"]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in SCENARIOS)
    assert cli._run(["explore", "--list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(SCENARIOS)


@pytest.mark.parametrize("command", ["explore", "replay", "shrink"])
def test_the_commands_have_a_page_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in cli.cli.list_commands(click.Context(cli.cli))
    assert cli._run([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "Example" in page
    assert f"harness {command} " in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explore", "--strategy", "dance"], "--strategy"),
        (["explore", "--scenario", "default,nothing"], "no scenario is called 'nothing'"),
        (["explore", "--bug", "nothing"], "no bug 'nothing' can be planted"),
        (["explore", "--seconds", "0"], "--seconds"),
        (["explore", "--seconds", "nan"], "--seconds"),
        (["explore", "--schedules", "0"], "--schedules"),
        (["explore", "--jobs", "0"], "--jobs"),
        (["explore", "--until-coverage", "1.5"], "--until-coverage"),
        (["explore", "--strategy", "exhaustive", "--jobs", "2"], "one job"),
        (["explore", "--resume", "no-such-run"], "explore.json cannot be read"),
        (["explore", "--resume", "no-such-run", "--out", "there"], "--out"),
        (["replay", "nothing.json"], "nothing.json cannot be read"),
        (["replay", "nothing.json", "--times", "0"], "--times"),
        (["shrink", "nothing.json"], "nothing.json cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._run(arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_what_decides_the_schedules_cannot_change_when_exploring_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / explore(tmp_path, "--seed", 5, "--schedules", 3)[1]["directory"]
    for change in (
        ("--seed", "6"),
        ("--bug", "intent-ignored"),
        ("--scenario", "wide"),
        ("--strategy", "pct"),
    ):
        assert cli._run(["explore", "--resume", str(run), *change]) == 2
        assert change[0] in capsys.readouterr().err
    (run / "explore.json").write_text('{"options": 7}')
    assert cli._run(["explore", "--resume", str(run)]) == 2
    assert "makes no sense" in capsys.readouterr().err


def test_an_exhaustive_search_ends_when_it_has_seen_everything_and_can_be_interrupted(tmp_path: Path) -> None:
    search = ("--strategy", "exhaustive", "--scenario", "two-writers,collision", "--preemptions", 0)
    whole = explore(tmp_path, *search)
    assert whole[0] == 0
    assert whole[1]["record"]["complete"]
    assert set(whole[1]["record"]["counts"]["by_scenario"]) == {"two-writers", "collision"}
    code, begun = explore(tmp_path, *search, "--schedules", 40)
    assert code == 3
    assert begun["reasons"][-1] == "the search of two-writers, collision is not complete"
    code, resumed = explore(tmp_path, "--resume", begun["directory"], "--schedules", 1_000_000)
    assert code == 0
    for each in (whole[1], resumed):
        each["record"]["counts"].pop("seconds")
    assert resumed["record"]["counts"] == whole[1]["record"]["counts"]
    assert resumed["record"]["reachable"] == whole[1]["record"]["reachable"] != []


def test_coverage_is_a_share_of_what_a_search_saw_to_be_reachable(tmp_path: Path) -> None:
    code, explored = explore(
        tmp_path,
        *("--scenario", "two-writers", "--strategy", "random", "--seed", 1, "--until-coverage", 0.05),
    )
    assert code == 0, explored["reasons"]
    reachable, met = explored["record"]["reachable"], explored["record"]["coverage"]["meetings"]
    assert len(reachable) > 100
    assert {tuple(each[:3]) for each in met} <= {tuple(each) for each in reachable}
    assert 0.05 <= explored["coverage"] == len(met) / len(reachable) < 0.5
