"""Schedules that once ended in a violation: each is played on the store as it is, which must keep every promise.

``tests/schedules/NAME.json`` is a failure as ``harness explore`` wrote it. Its name says what went wrong then. One that
names a planted bug must end in that violation with the bug and in none without: so it is known to play what it played.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.failure import load
from harness.replay import replay

SCHEDULES = sorted((Path(__file__).parent.parent / "schedules").glob("*.json"))


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_the_store_keeps_its_promises_on_a_schedule_that_once_broke_one(path: Path) -> None:
    failure, notes = load(path)
    assert notes == [], "it was written for another format"
    clean = msgspec.structs.replace(failure, bug="")
    replays = replay(clean, simulated=True, times=2)
    assert [run.findings for run in replays.runs] == [()] * 2
    assert not any(run.undecided for run in replays.runs)


@pytest.mark.parametrize(
    "path", [path for path in SCHEDULES if load(path)[0].bug], ids=lambda path: path.stem
)
def test_a_schedule_of_a_planted_bug_still_shows_it_with_real_processes(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "replay", str(path), "--times", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "reproduced 2/2" in done.stdout
    assert load(path)[0].property_name == done.stdout.splitlines()[-1].split()[1]
