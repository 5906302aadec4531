"""``harness bench --harness``: what it measures is complete, and its floors can be missed."""

from __future__ import annotations

import json
import os
from importlib import util
from pathlib import Path

import pytest

from harness import bench_schedules, cli
from harness.errors import HarnessError
from harness.verdict import Finding, Outcome


@pytest.fixture
def without_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_schedules, "PEER", "no_such_peer")


@pytest.mark.usefixtures("without_the_peer")
def test_both_stages_are_measured_and_a_missing_peer_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    arguments = ["bench", "--harness", "--rounds", "1", "--seconds", "0.1", "--out", str(out), "--json"]
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in result["rows"]] == ["simulated", "real processes", "crash images"]
    assert all(row["median"] > 0 for row in result["rows"])
    assert all(row["kills"] > 0 and row["steps"] > 20 for row in result["rows"][:2])
    assert "frontrun is not installed" in result["missing"]
    # How fast this machine is now is not for a test to judge, but the exit code must follow from the floors.
    assert leaving.value.code == (0 if all(row["met"] for row in result["rows"]) else 1)


@pytest.mark.usefixtures("without_the_peer")
def test_a_floor_that_is_missed_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench_schedules, "FLOORS", {"simulated": 1e9, "real processes": 0.0, "crash images": 0.0}
    )
    result = bench_schedules.measure(rounds=1, seconds=0.05, seed=1, step=lambda _: None)
    assert result.outcome is Outcome.VIOLATION
    assert [row.met for row in result.rows] == [False, True, True]


@pytest.mark.usefixtures("without_the_peer")
def test_a_broken_store_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, execution: object) -> object:
        return [Finding("atomicity", "planted")], 0

    monkeypatch.setattr(bench_schedules.Judge, "findings", broken)
    with pytest.raises(HarnessError, match="planted"):
        bench_schedules.measure(rounds=1, seconds=0.05, seed=1, step=lambda _: None)


def test_pinning_ends_with_the_measurement() -> None:
    allowed = os.sched_getaffinity(0)
    with bench_schedules.pinned() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
    assert os.sched_getaffinity(0) == allowed


def test_the_peer_is_measured_where_it_is_installed() -> None:
    if util.find_spec("frontrun") is None:
        pytest.skip("frontrun is not installed (it is in the extra 'peers')")
    assert bench_schedules.peer_rate() > 0
