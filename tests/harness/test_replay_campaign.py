"""Replaying a campaign: its plan is run again until the same property is violated again, and it is said how often."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from campaigns import TOY, harness, has_mark, is_alive, start, wait_for, worker_pids

from harness import campaign, replay_campaign
from harness.campaign import Result
from harness.errors import UsageError
from harness.history import HistoryWriter, Mark, RunEvent
from harness.judge import Judgement, Run
from harness.plan import Limits, Plan
from harness.verdict import Finding, Outcome, Verdict

START_NS = 5_000_000_000


def saved(run_dir: Path, *findings: Finding, plan: Plan | None = None, lasted_s: float = 20.0) -> Path:
    """A run directory of which only the verdict is known."""
    run_dir.mkdir(parents=True)
    plan = plan or Plan(7, engine=TOY, workloads=("bank", "append"), seconds=60.0)
    outcome = Outcome.VIOLATION if findings else Outcome.OK
    verdicts = [Verdict("structure", Outcome.OK)]
    verdicts += [Verdict(finding.property_name, outcome, (finding,)) for finding in findings]
    judgement = Judgement(Verdict("run", outcome, findings), verdicts)
    (run_dir / "plan.json").write_bytes(msgspec.json.encode(plan))
    (run_dir / "verdict.json").write_bytes(msgspec.json.encode(judgement))
    log = HistoryWriter(run_dir / "supervisor.jsonl")
    log.append(Mark(START_NS, "start"))
    log.append(Mark(START_NS + int(lasted_s * 1e9), "stop"))
    log.close()
    return run_dir


def test_a_replay_lasts_some_times_as_long_as_the_violation_took(tmp_path: Path) -> None:
    early = Finding("bank", "91 appeared", {"time": START_NS + 2_000_000_000})
    undated = Finding("isolation", "lost-update")
    assert replay_campaign.load(saved(tmp_path / "a", early)).seconds == 8.0
    assert replay_campaign.load(saved(tmp_path / "b", undated)).seconds == 60.0
    assert replay_campaign.load(saved(tmp_path / "c", early, undated, lasted_s=10)).seconds == 40.0
    at_once = Finding("bank", "91 appeared", {"time": START_NS})
    assert replay_campaign.load(saved(tmp_path / "d", at_once)).seconds == 5.0
    short = Plan(7, engine=TOY, seconds=2.0)
    assert replay_campaign.load(saved(tmp_path / "e", at_once, plan=short)).seconds == 2.0


def test_what_was_violated_then_is_known_in_the_order_of_the_report(tmp_path: Path) -> None:
    recorded = replay_campaign.load(
        saved(tmp_path / "a", Finding("isolation", "lost-update"), Finding("bank", "91 appeared"))
    )
    assert recorded.properties == ("isolation", "bank")
    assert recorded.message.split() == ["isolation", "lost-update"]


def test_a_run_without_a_violation_and_what_is_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"ended in OK: there is nothing to reproduce; `harness run .* --seed 7`"
    ):
        replay_campaign.load(saved(tmp_path / "good"))
    with pytest.raises(UsageError, match="it has no plan"):
        replay_campaign.load(tmp_path)
    (tmp_path / "failure-2.json").touch()
    with pytest.raises(UsageError, match=r"name a failure in it: failure-2\.json"):
        replay_campaign.load(tmp_path)


def pretended(monkeypatch: pytest.MonkeyPatch, *violated: tuple[str, ...]) -> list[tuple[Plan, Path]]:
    """Runs that violate the properties ``violated``, one after another; returns what was asked to be run."""
    asked: list[tuple[Plan, Path]] = []

    def conduct(plan: Plan, *, out: Path, **_: object) -> Result:
        names = violated[len(asked)]
        asked.append((plan, out))
        run_dir = out / f"run-{len(asked)}"
        run_dir.mkdir(parents=True)
        findings = [Finding(name, f"of run {len(asked)}") for name in names]
        verdicts = [Verdict(each.property_name, Outcome.VIOLATION, (each,)) for each in findings]
        judgement = Judgement(Verdict("run", Outcome.VIOLATION if names else Outcome.OK), verdicts)
        events: list[RunEvent] = [Mark(0, "start"), Mark(2_000_000_000, "stop")]
        return Result(run_dir, Run(plan, {}, [], [], events), judgement, None, ())

    monkeypatch.setattr(campaign, "conduct", conduct)
    return asked


def test_only_the_same_property_ends_it_and_only_runs_that_show_something_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretended(monkeypatch, (), ("bank",), ("realtime", "isolation"), ("isolation",))
    old = saved(tmp_path / "runs" / "old", Finding("isolation", "lost-update"))
    replays = replay_campaign.replay(replay_campaign.load(old))
    assert [(run.properties, run.same) for run in replays.runs] == [
        ((), False),
        (("bank",), False),
        (("realtime", "isolation"), True),
    ]
    assert replays.reproduced == "1/3"
    assert replays.runs[-1].message.split() == ["isolation", "of", "run", "3"]
    assert {out for _, out in asked} == {tmp_path / "runs"}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["old", "run-2", "run-3"]
    lines = replay_campaign.describe(replays)
    assert lines[2:] == [
        "run 1: nothing in 2.0 s",
        f"run 2: another violation: bank ({tmp_path / 'runs' / 'run-2'}) in 2.0 s",
        f"run 3: realtime, isolation ({tmp_path / 'runs' / 'run-3'}) in 2.0 s",
        "reproduced 1/3 runs",
    ]


def test_another_violation_is_one_but_does_not_count_as_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended(monkeypatch, ("bank",), ("bank",))
    recorded = replay_campaign.load(saved(tmp_path / "runs" / "old", Finding("isolation", "lost-update")))
    replays = replay_campaign.replay(recorded, times=2)
    assert (replays.reproduced, replays.outcome) == ("0/2", Outcome.VIOLATION)


def replayed(cwd: Path, *arguments: object) -> tuple[int, Any]:
    """Run ``harness replay --json``: the exit code, and what was printed."""
    done = harness("replay", "--json", *arguments, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or "null")


def test_a_planted_bug_is_planted_again_and_shown_by_the_same_property(tmp_path: Path) -> None:
    done = harness(
        *("run", "--engine", TOY, "--bug", "two-halves", "--seed", 3, "--seconds", 4, "--out", "runs"),
        *("--workloads", "bank"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.search(r"^  replay      harness replay (runs/\S+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    recorded = replay_campaign.load(tmp_path / found[1])

    code, printed = replayed(tmp_path, found[1])
    assert (code, printed["outcome"]) == (1, "VIOLATION"), printed
    last = printed["runs"][-1]
    assert last["same"]
    assert set(last["properties"]) & set(recorded.properties)
    assert printed["reproduced"] == f"1/{len(printed['runs'])}"
    assert "a campaign runs freely" in "\n".join(printed["lines"])
    assert (tmp_path / last["run_dir"]).parent == tmp_path / "runs"
    plan = msgspec.json.decode((tmp_path / last["run_dir"] / "plan.json").read_bytes(), type=Plan)
    assert plan == msgspec.structs.replace(recorded.plan, seconds=recorded.seconds)


def test_without_its_bug_nothing_is_shown_and_nothing_is_left(tmp_path: Path) -> None:
    patient = Limits(stall_s=60)  # the other tests share the processors
    plan = Plan(3, engine=TOY, workloads=("bank",), seconds=0.5, bug="no-lock", limits=patient)
    saved(tmp_path / "runs" / "old", Finding("bank", "91 appeared"), plan=plan)
    done = harness("replay", "runs/old", "--clean", "--times", 1, "--out", "new", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "recorded   bank        91 appeared" in lines
    assert any(line.startswith("  run 1: nothing in ") for line in lines)
    assert "no-lock" not in done.stdout
    assert lines[-2:] == ["  reproduced 0/1 runs", "UNKNOWN  1 run showed nothing"]
    assert list((tmp_path / "new").iterdir()) == []


def test_an_adapter_that_fails_blames_no_store(tmp_path: Path) -> None:
    plan = Plan(3, engine=TOY, workloads=("bank",), seconds=2.0, bug="crash")
    saved(tmp_path / "old", Finding("bank", "91 appeared"), plan=plan)
    done = harness("replay", "old", cwd=tmp_path)
    assert done.returncode == 4
    assert "the engine's adapter failed, which says nothing about the store" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_replay_that_is_interrupted_says_what_it_saw_and_leaves_no_process(tmp_path: Path) -> None:
    plan = Plan(3, engine=TOY, workloads=("bank",), seconds=60.0)
    saved(tmp_path / "old", Finding("bank", "91 appeared"), plan=plan)
    process = start("replay", "old", "--out", "new", cwd=tmp_path)
    with process:
        wait_for(lambda: has_mark(tmp_path / "new", "start"), "started")
        (run_dir,) = (tmp_path / "new").iterdir()
        pids = worker_pids(run_dir)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3, out + err
    assert "  reproduced 0/1 runs (interrupted; at most 10 were asked for)" in out.splitlines()
    assert pids
    assert not any(is_alive(pid) for pid in pids)


def test_the_simulation_is_refused_for_a_campaign(tmp_path: Path) -> None:
    done = harness("replay", saved(tmp_path / "old", Finding("bank", "x")), "--simulated", cwd=tmp_path)
    assert done.returncode == 2
    assert "a campaign needs processes" in done.stderr
