"""``harness fleet`` over workers that die and drivers that are ended: every seed once, every mistake told once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from campaigns import PATIENCE_S, environment, harness, is_alive, wait_for
from errands import below, guards, kill_worker, recorded

from harness.errand import EXPLORE
from harness.fleet.ledger import PLAN, Ledger, Plan

BUG = "no-commit-lock"
SMALL = ("--kinds", EXPLORE, "--scenario", "versions", "--seed", "5")


@contextmanager
def driving(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A fleet that is being driven, in a session of its own, as on a terminal. Nobody is left afterwards."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "harness", "fleet", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.communicate(timeout=PATIENCE_S)


def ended(driver: subprocess.Popen[str], signals: signal.Signals) -> tuple[str, str]:
    """Send it a signal (Ctrl-C reaches everybody in front of the terminal); what it said. Nobody of it is left."""
    everybody = list(below(driver.pid))
    if signals is signal.SIGINT:
        os.killpg(driver.pid, signals)
    else:
        driver.send_signal(signals)
    said = driver.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not any(map(is_alive, everybody)), "everybody is dead")
    return said


def entries(out: Path) -> list[dict[str, Any]]:
    """What the ledger of the one fleet below ``out`` says."""
    return [json.loads(line) for line in recorded(out)]


def seeds(out: Path) -> Counter[str]:
    """How often the ledger has each seed."""
    return Counter(str(each["result"]["seed"]) for each in entries(out) if "shrunk" not in each)


def test_every_seed_is_accounted_for_once_and_the_bug_is_told_once_and_shrunk(tmp_path: Path) -> None:
    """A worker is killed in the middle, then the driver is interrupted, and another one resumes."""
    out = tmp_path / "out"
    with driving(*SMALL, "--errands", 5, "--bug", BUG, "--workers", 2, "--out", out, cwd=tmp_path) as driver:
        wait_for(lambda: bool(guards(driver.pid)), "an errand is under way")
        _, killed = kill_worker(driver.pid)
        wait_for(lambda: killed in seeds(out), "somebody else has done it")
        stdout, stderr = ended(driver, signal.SIGINT)
    assert driver.returncode == 1, stdout + stderr
    assert "Traceback" not in stderr
    assert stderr == ""
    (directory,) = out.iterdir()
    assert not (directory / "workers").exists()

    done = harness("fleet", "--resume", directory, "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert {each["outcome"] for each in told["results"]} == {"VIOLATION"}, told["results"]
    assert told["notes"] == ["errands 5 of 5, each once; 1 begun again after its worker died"]
    plan = Plan(seed=5, errands=5, kinds=(EXPLORE,))
    assert seeds(out) == Counter(str(plan.errand_at(number).seed) for number in range(5))
    attempts = {str(each["seed"]): each["attempts"] for each in told["results"]}
    assert attempts.pop(killed) == 2
    assert set(attempts.values()) == {1}

    (failure,) = told["failures"]
    assert (failure["property"], failure["found"]) == ("isolation", {EXPLORE: list(range(5))})
    assert failure["shrunk"]
    assert sum(each.get("shrunk") == failure["signature"] for each in entries(out)) == 1
    assert (stdout + done.stderr).count("made smaller") == 1
    home = Path(failure["example"]).parent
    assert {path.name for path in home.iterdir()} > {"failure.json", "failure.txt"}
    assert len([path for path in home.iterdir() if path.is_dir()]) == 3
    assert failure["replay"] in (home / "failure.txt").read_text()
    assert (directory / "report.html").is_file()
    again = harness(*shlex.split(failure["replay"])[1:], "--times", 2, cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr


def test_a_driver_that_is_killed_leaves_nobody_and_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = ("--errands", 2, "--schedules", 1_000_000, "--workers", 1, "--out", out)
    with driving(*SMALL, *long, cwd=tmp_path) as driver:
        wait_for(lambda: bool(guards(driver.pid)), "an errand is under way")
        ended(driver, signal.SIGKILL)
    (directory,) = out.iterdir()
    assert list(directory.rglob("harness-errand-*")) == []
    assert recorded(out) == []
    planned = (directory / PLAN).read_text().replace("1000000", "20")  # or it would take too long
    (directory / PLAN).write_text(planned)
    done = harness("fleet", "--resume", directory, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "errands 2 of 2, each once" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("OK  ")


def test_an_errand_of_which_every_worker_dies_is_unknown(tmp_path: Path) -> None:
    done = harness(
        *("fleet", "--engine", "killing_engine:KillingEngine", "--errands", 1, "--run-seconds", 1),
        *("--deaths", 2, "--workers", 1, "--out", "out", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["outcome"] == "UNKNOWN"
    assert "2 workers died of it" in result["reasons"][0]


@contextmanager
def part_of_dask(name: str, *arguments: object, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler, or a worker, as an operator starts one."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_the_workers_of_a_real_scheduler_do_the_errands_and_share_no_directory(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "scheduler.json", tmp_path / "elsewhere"
    elsewhere.mkdir()
    scheduler = ("--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
    worker = ("--scheduler-file", file, "--nthreads", 1, "--no-nanny", "--local-directory", elsewhere)
    with (
        part_of_dask("scheduler", *scheduler, cwd=elsewhere),
        part_of_dask("worker", *worker, cwd=elsewhere),
    ):
        wait_for(lambda: file.is_file() and file.read_text().rstrip().endswith("}"), "the scheduler is there")
        address = json.loads(file.read_text())["address"]
        done = harness(
            *(
                "fleet",
                *SMALL,
                "--errands",
                1,
                "--bug",
                BUG,
                "--scheduler",
                address,
                "--out",
                "out",
                "--json",
            ),
            cwd=tmp_path,
        )
    assert done.returncode == 1, done.stdout + done.stderr
    (failure,) = json.loads(done.stdout)["failures"]
    assert failure["shrunk"]
    assert (tmp_path / failure["example"]).is_file()
    assert str(elsewhere) not in (tmp_path / failure["example"]).read_text()
    assert list(elsewhere.rglob("harness-errand-*")) == []


def test_without_dask_it_is_said_which_extra_is_missing(tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('No module named distributed')\n")
    done = harness("fleet", *SMALL, "--errands", 1, "--out", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "pip install 'kvs-torture[fleet]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", "6"), "--seed: what was begun with another one"),
        (("--run-seconds", "6"), "--run-seconds: what was begun with another one"),
        (("--errands", "1"), "there can only be more of them"),
        (("--out", "elsewhere"), "stays in its directory"),
    ],
)
def test_a_plan_is_not_changed_by_who_resumes_it(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (tmp_path / PLAN).write_text('{"seed": 5, "errands": 2}')
    done = harness("fleet", "--resume", tmp_path, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    with Ledger(tmp_path) as book:
        assert book.results == {}


def test_without_an_end_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text('{"seed": 5}')
    done = harness("fleet", "--resume", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "--minutes" in done.stderr
