"""``harness bench --page``: it measures a page in a browser, and says so where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import browser
import pytest
from campaigns import harness

from harness import bench_page


@browser.needed
def test_a_page_is_opened_and_zoomed_and_everything_is_reported(tmp_path: Path) -> None:
    done = harness(
        "bench", "--page", "--keys", 5_000, "--rounds", 1, "--out", "page.json", "--json", cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stderr
    told = json.loads((tmp_path / "page.json").read_bytes())
    assert json.loads(done.stdout) == told
    assert [floor["name"] for floor in told["floors"]] == [
        "open the page, at most",
        "the slowest zoom, at most",
    ]
    (opened,) = told["rounds"]
    assert len(opened["zooms_s"]) == len(bench_page.ZOOMS)
    assert 0 < told["zoom_s"] <= told["zoom_most_s"] == max(opened["zooms_s"])
    assert told["load_s"] > 0 < told["load_cpu_s"]
    assert [path.name for path in tmp_path.iterdir()] == ["page.json"]


def test_without_a_browser_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = harness("bench", "--page", "--out", "page.json", cwd=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
    assert "apt-get install chromium" in done.stderr


def test_pictures_are_for_pages_only(tmp_path: Path) -> None:
    done = harness("bench", "--screenshots", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "--screenshots goes with --page" in done.stderr


def test_the_made_up_run_is_the_same_for_the_same_seed_and_is_at_fault_once() -> None:
    run, judgement = bench_page.made_up(3_000, 7)
    again, _ = bench_page.made_up(3_000, 7)
    assert run.operations == again.operations
    assert 2_500 < len(run.operations) < 3_500
    assert [op.id for op in run.operations if op.reads] == [
        judgement.overall.findings[0].details["operation"]
    ]
