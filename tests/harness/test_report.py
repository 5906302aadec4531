"""What a user sees of a judged run: on a terminal, in a pipe, and in the files."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from serial_database import make

from harness import judge, report
from harness.checkers.space import Sample
from harness.errors import HarnessError
from harness.history import Died, Hits, Paused, RunEvent, Violation
from harness.judge import Judgement, Run
from harness.plan import Limits, Plan

SENTENCE = "bundle/3: of 8 keys 6 are at process 2 operation 7, 2 are at process 4 operation 3"


def run_with(violations: list[Violation], events: list[RunEvent], environment: dict[str, str]) -> Run:
    db = make(2, kill=0)
    plan = Plan(7, limits=Limits(operations_min=0, kills_min=0, point_kills_min=0))
    return Run(plan, environment, judge.join(db.histories.values()), violations, [*db.run_events, *events])


@pytest.fixture
def good() -> Run:
    events: list[RunEvent] = [
        Died(3, 5000, 9, fault="kill-point", point="commit.after_lock", at_point=True),
        Hits(6000, {"commit.after_lock": 1234, "commit.never": 0}),
    ]
    return run_with(
        [], events, {"required_points": "commit.after_lock,repair.after_redo", "python": "3.11|x"}
    )


@pytest.fixture
def bad() -> Run:
    moment = 10_000_000
    events: list[RunEvent] = [
        Died(3, moment - 2_000_000, 9, fault="kill-point", point="publish.after_location", at_point=True),
        Died(4, moment + 1, 9, fault="kill-time"),
        Paused(5, moment - 10, moment + 10, "commit.after_lock", holder=True),
    ]
    return run_with([Violation(2, moment, "atomicity", SENTENCE, 9)] * 5, events, {})


def printed(run: Run, judgement: Judgement, width: int = 100, *, terminal: bool = False) -> list[str]:
    out = io.StringIO()
    colours = {"force_terminal": True, "color_system": "standard"} if terminal else {}
    console = Console(file=out, width=width, **colours)  # type: ignore[arg-type]
    report.print_summary(console, run, judgement, Path("results/runs/x"))
    return out.getvalue().splitlines()


def test_summary_counts_and_ends_in_the_verdict(good: Run) -> None:
    lines = printed(good, judge.judge(good))
    text = "\n".join(lines)
    assert lines[-1].startswith("OK  10 properties: ")
    assert "check   harness check results/runs/x" in lines
    for word in ("longest stall", "commits", "aborts", "bank", "register", "durability"):
        assert word in text
    assert max(map(len, lines)) <= 100


def test_points_are_listed_with_kills_and_hits(good: Run) -> None:
    rows = report.summarize(good, judge.judge(good)).points
    assert rows == [
        report.PointRow("commit.after_lock", 1, 1234, True),
        report.PointRow("repair.after_redo", 0, 0, True),
    ]


def test_pipe_gets_no_colour_and_a_terminal_does(good: Run) -> None:
    judgement = judge.judge(good)
    assert "\x1b" not in "\n".join(printed(good, judgement))
    assert "\x1b[1;32mOK\x1b[0m" in printed(good, judgement, terminal=True)[-1]


def test_violation_is_told_with_its_circumstances(bad: Run) -> None:
    lines = printed(bad, judge.judge(bad))
    start = lines.index(f"VIOLATION  atomicity   {SENTENCE}")
    assert lines[start + 1 : start + 5] == [
        "  killed      writer 3 at publish.after_location, 2.0 ms before",
        "  meanwhile   writer 5 at commit.after_lock stopped",
        "  replay      harness replay results/runs/x",
        "  check       harness check results/runs/x",
    ]
    assert "VIOLATION  atomicity   and 2 more; see verdict.json" in lines
    assert lines[-1].startswith("VIOLATION  atomicity: ")


def test_violation_of_a_checker_says_what_was_expected(good: Run) -> None:
    run = msgspec.structs.replace(good, plan=msgspec.structs.replace(good.plan, canary=True))
    assert "  expected    exactly this" in printed(run, judge.judge(run))


def test_unknown_says_why(good: Run) -> None:
    plan = msgspec.structs.replace(good.plan, limits=Limits())
    run = msgspec.structs.replace(good, plan=plan)
    text = "\n".join(printed(run, judge.judge(run)))
    assert "repair.after_redo (0)" in text
    assert text.splitlines()[-1].startswith("UNKNOWN  traffic: ")


def test_what_happened_to_the_files_and_what_they_took_is_told(good: Run) -> None:
    samples = [Sample(time, 20 << 20, 10 << 20, 5, 3, time == 9) for time in (1, 9)]
    environment = {**good.environment, "milestones": "growths=commit.after_lock"}
    run = msgspec.structs.replace(good, samples=samples, environment=environment)
    figures = dict(report.summarize(run, judge.judge(run)).figures)
    assert figures["growths"] == "1,234"
    assert figures["disk in the end"] == "21.0 MB"
    assert figures["  for each needed byte"] == "2.00"
    assert "disk in the end" not in dict(report.summarize(good, judge.judge(good)).figures)


def test_files_are_written(tmp_path: Path, bad: Run) -> None:
    judgement = judge.judge(bad)
    report.write_report(tmp_path, bad, judgement)
    assert msgspec.json.decode((tmp_path / "verdict.json").read_bytes(), type=Judgement) == judgement
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# VIOLATION: kvs, ")
    assert SENTENCE in page
    assert f"`harness check {tmp_path}`" in page
    assert "\n\n\n" not in page


def test_page_holds_plan_and_environment(tmp_path: Path, good: Run) -> None:
    report.write_report(tmp_path, good, judge.judge(good))
    page = (tmp_path / "report.md").read_text()
    for row in ("| seed | 7 |", "| python | 3.11\\|x |", "| `commit.after_lock` | 1 | 1,234 | yes |"):
        assert row in page
    assert "\n\n\n" not in page


def test_unwritable_directory_is_a_clear_error(tmp_path: Path, good: Run) -> None:
    with pytest.raises(HarnessError, match="cannot be written"):
        report.write_report(tmp_path / "absent", good, judge.judge(good))
