"""``harness run`` as a user meets it: verdicts, exit codes, Ctrl-C, and no process left behind, ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from campaigns import (
    TOY,
    harness,
    has_mark,
    histories,
    is_alive,
    only_run,
    run_events,
    start,
    wait_for,
    worker_pids,
)

from harness.history import Died, Invoke, Mark, Spawned

SMALL = "bank,append,register"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """A directory for the store."""
    directory = tmp_path / "store"
    directory.mkdir()
    return directory


def test_a_campaign_against_sqlite_ends_in_ok_and_saves_everything(out: Path, store_dir: Path) -> None:
    done = harness(
        "run", "--engine", "sqlite", "--seconds", 3, "--out", out, "--store-dir", store_dir, cwd=out.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout
    run_dir = only_run(out)
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "plan.json",
        "environment.json",
        "history",
        "supervisor.jsonl",
        "space.jsonl",
        "verdict.json",
        "report.md",
        "report.html",
    }
    assert list(store_dir.iterdir()) == []
    facts = json.loads((run_dir / "environment.json").read_text())
    assert facts["engine"] == "sqlite"
    assert facts["threads_before_fork"] == "1"
    assert "version_sqlite" in facts
    assert "harness run --engine sqlite" in facts["command"]
    killed = [event for event in run_events(run_dir) if isinstance(event, Died) and event.fault]
    assert len(killed) >= 5
    assert {event.signal for event in killed} == {9}

    again = harness("check", run_dir, "--json", cwd=out.parent)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["judgement"]["overall"]["outcome"] == "OK"


def test_a_run_that_saw_too_little_is_unknown_and_keeps_its_store(out: Path) -> None:
    done = harness(
        # Three kills at each point of one writer that is forked anew after each: not in a hundredth of a second.
        *("run", "--engine", TOY, "--workloads", SMALL, "--seconds", 0.01, "--writers", 1, "--readers", 0),
        *("--auditors", 0, "--out", out, "--json"),
        cwd=out.parent,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["judgement"]["overall"]["outcome"] == "UNKNOWN"
    assert Path(verdict["run_dir"]) == only_run(out)
    assert (only_run(out) / "store" / "state").is_file()
    assert "the store was kept" in done.stderr


def test_the_plan_decides_the_first_operations_of_every_slot(out: Path) -> None:
    acts = []
    for number in range(2):
        parent = out / str(number)
        done = harness(
            *("run", "--engine", TOY, "--workloads", "bank", "--faults", "none", "--seed", 5),
            *("--seconds", 0.5, "--writers", 2, "--readers", 0, "--auditors", 0, "--out", parent),
            cwd=out.parent,
        )
        assert done.returncode in (0, 3), done.stderr
        run_dir = only_run(parent)
        roles = {e.process: e.role for e in run_events(run_dir) if isinstance(e, Spawned)}
        assert not any(e.signal for e in run_events(run_dir) if isinstance(e, Died))
        # A refused operation is tried again as a new one: the sequence of different ones is what was drawn.
        acts.append(
            {
                process: list(dict.fromkeys(e.writes for e in events if isinstance(e, Invoke)))[:10]
                for process, events in histories(run_dir).items()
                if roles[process] == "writer"
            }
        )
    assert acts[0] == acts[1]
    assert len(acts[0]) == 2


def test_ctrl_c_ends_a_run_early_with_a_verdict_and_leaves_no_process(out: Path) -> None:
    running = start(
        *("run", "--engine", TOY, "--workloads", SMALL, "--seconds", 600, "--out", out), cwd=out.parent
    )
    wait_for(lambda: has_mark(out, "start"), "started")
    run_dir = only_run(out)
    wait_for(lambda: sum(isinstance(e, Died) for e in run_events(run_dir)) >= 10, "ten deaths")
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode in (0, 3), stderr
    assert "traffic" in stdout
    assert "Traceback" not in stderr
    marks = [event.what for event in run_events(run_dir) if isinstance(event, Mark)]
    assert marks == ["start", "interrupted", "end"]
    assert not any(is_alive(pid) for pid in worker_pids(run_dir))


def test_housekeepers_die_in_the_middle_of_their_chores_and_nobody_else_is_told_to_wait_there(
    out: Path,
) -> None:
    """It is not said when: the run ends once it has happened."""
    engine = TOY.replace("ToyEngine", "KeepingEngine")
    running = start(
        *("run", "--engine", engine, "--workloads", SMALL, "--seconds", 600, "--out", out), cwd=out.parent
    )
    wait_for(lambda: has_mark(out, "start"), "started")
    run_dir = only_run(out)

    def died_at(point: str) -> list[str]:
        events = run_events(run_dir)
        roles = {event.process: event.role for event in events if isinstance(event, Spawned)}
        return [
            roles[event.process]
            for event in events
            if isinstance(event, Died) and event.at_point and event.point == point
        ]

    wait_for(lambda: len(died_at("compact.after_lock")) >= 2, "two deaths in the middle of a chore")
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode in (0, 3), stderr
    assert set(died_at("compact.after_lock")) == {"housekeeper"}
    events = [event for event in run_events(run_dir) if isinstance(event, Spawned)]
    assert {event.role for event in events if event.point == "compact.after_lock"} == {"housekeeper"}


def test_a_second_ctrl_c_ends_at_once_without_a_verdict_and_leaves_no_process(out: Path) -> None:
    """After the first, the run waits for workers that hang; a second Ctrl-C must not wait."""
    hanging = TOY.replace("ToyEngine", "HangingEngine")
    running = start(
        *("run", "--engine", hanging, "--workloads", "bank", "--seconds", 600, "--out", out), cwd=out.parent
    )
    wait_for(lambda: has_mark(out, "start"), "started")
    running.send_signal(signal.SIGINT)
    wait_for(lambda: has_mark(out, "interrupted"), "interrupted")
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stdout + stderr
    assert stdout == ""
    assert "interrupted twice" in stderr
    assert not any(is_alive(pid) for pid in worker_pids(only_run(out)))


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGKILL, (4,)), (signal.SIGSEGV, (1,))])
def test_a_death_that_the_harness_did_not_order_ends_the_run_and_is_no_success(
    number: signal.Signals, codes: tuple[int, ...], out: Path
) -> None:
    running = start(
        *("run", "--engine", TOY, "--workloads", SMALL, "--seconds", 600, "--faults", "none", "--out", out),
        cwd=out.parent,
    )
    wait_for(lambda: has_mark(out, "start"), "started")
    run_dir = only_run(out)
    wait_for(lambda: len(worker_pids(run_dir)) == 8, "everybody forked")
    victim = worker_pids(run_dir)[-1]
    os.kill(victim, number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode in codes, stdout + stderr
    assert f"died of signal {number.value}" in stdout + stderr
    assert not any(is_alive(pid) for pid in worker_pids(run_dir))


def test_no_worker_outlives_a_parent_that_was_killed(out: Path, store_dir: Path) -> None:
    """A parent that is killed cannot clean up: the kernel does (PR_SET_PDEATHSIG), also for the stopped."""
    running = start(
        *("run", "--engine", TOY, "--workloads", SMALL, "--seconds", 600, "--out", out),
        *("--store-dir", store_dir),
        cwd=out.parent,
    )
    wait_for(lambda: has_mark(out, "start"), "started")
    run_dir = only_run(out)
    wait_for(lambda: len(worker_pids(run_dir)) >= 12, "twelve processes")
    # One that has begun to write its history has tied its life to its parent's.
    begun = {int(path.stem) for path in (run_dir / "history").iterdir()}
    pids = {e.pid for e in run_events(run_dir) if isinstance(e, Spawned) and e.process in begun}
    with contextlib.suppress(ProcessLookupError):  # it is killed in this instant; the others are still a test
        os.kill(next(pid for pid in pids if is_alive(pid)), signal.SIGSTOP)
    running.kill()
    running.communicate(timeout=60)
    wait_for(lambda: not any(is_alive(pid) for pid in worker_pids(run_dir)), "everybody dead")


@pytest.mark.parametrize(
    ("engine", "code", "words"),
    [("TwoHalvesEngine", 1, "VIOLATION"), ("LeavingEngine", 4, "exited with status 0")],
)
def test_a_violation_exits_with_1_and_a_worker_that_vanishes_with_4(
    engine: str, code: int, words: str, out: Path
) -> None:
    engine = TOY.replace("ToyEngine", engine)
    done = harness(
        "run", "--engine", engine, "--workloads", SMALL, "--seconds", 60, "--out", out, cwd=out.parent
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert (only_run(out) / "store" / "state").is_file()
