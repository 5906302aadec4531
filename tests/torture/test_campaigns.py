"""The campaign as a test: some seconds of ``kill -9`` against each engine; more is for the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("engine", "seconds"), [("kvs", 6), ("sqlite", 3)])
def test_processes_that_are_killed_while_they_write_break_no_promise(
    engine: str, seconds: int, tmp_path: Path, torture_seed: int
) -> None:
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "harness",
                "run",
                "--json",
                "--engine",
                engine,
                "--seconds",
                str(seconds),
            ),
            *("--seed", str(torture_seed)),
            # The other tests share the processors: a stall is judged by the command, on a machine of its own.
            *("--stall-s", "15"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # A few seconds are too few for three kills at every rare point: for those alone UNKNOWN will do.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    verdicts = json.loads(done.stdout)["judgement"]["verdicts"]
    undecided = {verdict["property"] for verdict in verdicts if verdict["outcome"] != "OK"}
    assert undecided <= {"traffic"}, done.stdout
    traffic = next(verdict for verdict in verdicts if verdict["property"] == "traffic")
    assert traffic["checked"]["kills"] >= 5 * seconds
    assert traffic["checked"]["operations"] >= 50 * seconds
