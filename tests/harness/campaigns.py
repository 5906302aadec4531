"""Campaigns for the harness's own tests: each in a process of its own, with the toy engine within reach.

``python campaigns.py PLAN_JSON OUT`` carries a plan out and judges it without a report, so that a test can
ask for what the command line does not offer (planted bugs).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from harness.history import Event, Mark, RunEvent, Spawned, read_events, read_run_events

HERE = Path(__file__).parent
TOY = "toy_engine:ToyEngine"
SMALL = ("bank", "append", "register")
"""The toy writes its whole state at every commit: without the bundles that is little."""
PATIENCE_S = 60.0


class Outcome(msgspec.Struct):
    """What a driven campaign ended in."""

    run_dir: str
    outcome: str
    findings: list[tuple[str, str]]
    crashed: list[str]
    store: str


def environment() -> dict[str, str]:
    """The environment of a subprocess that finds the toy engine."""
    return {**os.environ, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "error"}


def harness(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the ``harness`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the ``harness`` command."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def drive(out: Path, **plan: Any) -> Outcome:
    """Carry out a plan with the toy engine and judge it."""
    settings = {"seed": 7, "engine": TOY, "workloads": SMALL, "seconds": 2.0, **plan}
    done = subprocess.run(
        [sys.executable, __file__, msgspec.json.encode(settings).decode(), str(out)],
        cwd=out,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Outcome)


def only_run(out: Path) -> Path:
    """The one run directory under ``out``."""
    (run_dir,) = out.iterdir()
    return run_dir


def run_events(run_dir: Path) -> list[RunEvent]:
    """What the supervisor wrote."""
    return read_run_events(run_dir / "supervisor.jsonl")


def histories(run_dir: Path) -> dict[int, list[Event]]:
    """What every process wrote."""
    paths = (run_dir / "history").glob("*.jsonl")
    return {int(path.stem): [event for _, event in read_events(path)] for path in paths}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds; fail after ``PATIENCE_S``."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def has_mark(out: Path, what: str) -> bool:
    """Whether the one run under ``out`` has come to the mark ``what``."""
    paths = list(out.glob("*/supervisor.jsonl"))
    return bool(paths) and any(
        isinstance(event, Mark) and event.what == what for event in read_run_events(paths[0])
    )


def worker_pids(run_dir: Path) -> list[int]:
    """The process ids of everybody that was ever spawned."""
    return [event.pid for event in run_events(run_dir) if isinstance(event, Spawned)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def main() -> None:
    """Carry out the plan of the command line and print its outcome."""
    from harness import campaign, judge, supervisor
    from harness.plan import Plan

    supervisor._LEAVE_S = 1.0  # type: ignore[misc]
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    ran = campaign.carry_out(plan, out=Path(sys.argv[2]))
    judgement = judge.judge(judge.load(ran.run_dir))
    outcome = Outcome(
        str(ran.run_dir),
        str(judgement.overall.outcome),
        [(finding.property_name, finding.message) for finding in judgement.overall.findings],
        list(ran.crashed),
        str(ran.store),
    )
    import shutil

    shutil.rmtree(ran.store)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
