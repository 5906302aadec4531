"""The measurements of the checkers: tiny ones, and what the floors make of figures."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness import bench_checkers, bench_checkers_job, cli
from harness.bench_checkers import Report, Row, judged
from harness.bench_checkers_job import INDETERMINATE, Job, Stopwatch, committed
from harness.checkers import atomicity, isolation, realtime
from harness.checkers.order import place
from harness.errors import HarnessError, UsageError
from harness.recorded import Op
from harness.verdict import Outcome

SIZES = (50, 200)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of recorded histories with one that is linearizable and one that is not."""
    directory = tmp_path_factory.mktemp("histories")
    (directory / "etcd").mkdir()
    (directory / "kv").mkdir()
    log = "INFO  jepsen.util - 0\t:invoke\t:write\t3\nINFO  jepsen.util - 0\t:ok\t:write\t3\n"
    read = "INFO  jepsen.util - 1\t:invoke\t:read\tnil\nINFO  jepsen.util - 1\t:ok\t:read\t{}\n"
    (directory / "etcd" / "good.log").write_text(log + read.format(3))
    (directory / "etcd" / "bad.log").write_text(log + read.format(4))
    put = '{:process 0, :type :invoke, :f :put, :key "0", :value "x"}\n'
    (directory / "kv" / "c10-ok.txt").write_text(put + put.replace(":invoke", ":ok"))
    (directory / "EXPECTED.tsv").write_text(
        "file\tformat\tmodel\tproperty\texpected\n"
        "etcd/good.log\tetcd-log\tcas-register\tlinearizable\ttrue\n"
        "etcd/bad.log\tetcd-log\tcas-register\tlinearizable\tfalse\n"
        "kv/c10-ok.txt\tedn-lines\tkv-append\tlinearizable\ttrue\n"
    )
    return directory


@pytest.fixture(scope="module")
def report(histories: Path) -> Report:
    """One round, tiny."""
    shown: list[str] = []
    made = bench_checkers.measure(sizes=SIZES, rounds=1, histories=histories, show=shown.append)
    assert len(shown) == bench_checkers.steps(SIZES, 1, histories) == len(made.rows)
    return made


def test_everything_is_measured_and_every_verdict_is_right(report: Report) -> None:
    assert [(row.what, row.size) for row in report.rows] == [
        *((what, size) for what in bench_checkers.GROWTH for size in SIZES),
        ("file", 200),
        ("indeterminate", bench_checkers.REGISTER),
        ("recorded", 2),
        ("recorded", 1),
    ]
    assert all(row.right for row in report.rows), [
        (row.name, row.outcomes) for row in report.rows if not row.right
    ]
    assert report.rows[-2].outcomes == ["VIOLATION", "OK"]
    assert all(row.seconds[0] > 0 and row.cpu_s[0] > 0 and row.peak_mb > 10 for row in report.rows)


def test_floors_that_were_not_measured_are_unknown_and_never_met(report: Report) -> None:
    met = {floor.name: floor.met for floor in report.floors}
    assert met["list-append at 10^6"] is None
    assert met["commit order, from 10^5"] is None
    assert met["etcd logs together, at most"] is True
    assert report.outcome is Outcome.UNKNOWN


def test_report_is_printed_saved_and_drawn(report: Report, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=140)
    bench_checkers.print_result(console, report)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "the 2 etcd logs" in said
    assert "UNKNOWN  3 of 7 floors met" in said
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    paths = tmp_path / "growth.svg", tmp_path / "again.svg"
    for path in paths:
        bench_checkers.draw_growth(report, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    texts = [each.text for each in ET.parse(paths[0]).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert bench_checkers.LEGEND.keys() == bench_checkers.GROWTH.keys()
    assert {*bench_checkers.LEGEND.values()} <= {*texts}


def row(
    what: str, size: int, seconds: float, *, peak_mb: float = 100, right: bool = True, name: str = ""
) -> Row:
    return Row(
        what=what,
        name=name or what,
        size=size,
        seconds=[seconds],
        cpu_s=[seconds],
        median_s=seconds,
        rate=size / seconds,
        each_us=seconds / size * 1e6,
        peak_mb=peak_mb,
        outcomes=["OK"],
        right=right,
    )


GOOD = (
    row("list_append", 100_000, 0.9),
    row("list_append", 1_000_000, 9.9, peak_mb=1999),
    row("commit_order", 100_000, 0.3),
    row("recorded", 15, 0.9, name="the 15 etcd logs"),
    row("recorded", 1, 1.9, name="kv/c10-ok.txt"),
)


def test_all_floors_are_met_by_what_is_just_good_enough() -> None:
    assert [floor.met for floor in judged(GOOD)] == [True] * 7


@pytest.mark.parametrize(
    ("index", "worse", "name"),
    [
        (1, row("list_append", 1_000_000, 10.1), "list-append at 10^6"),
        (1, row("list_append", 1_000_000, 9.9, peak_mb=2001), "list-append at 10^6, memory, at most"),
        (0, row("list_append", 100_000, 0.65), "list-append, cost of one at 10^6 / at 10^5, at most"),
        (2, row("commit_order", 100_000, 0.34), "commit order, from 10^5"),
        (3, row("recorded", 15, 1.1, name="the 15 etcd logs"), "etcd logs together, at most"),
        (4, row("recorded", 1, 2.1, name="kv/c10-bad.txt"), "kv/c10-*, each, at most"),
        (2, row("commit_order", 100_000, 0.3, right=False), "verdicts that are right"),
    ],
)
def test_each_floor_is_missed_by_what_is_a_little_worse(index: int, worse: Row, name: str) -> None:
    rows = [*GOOD[:index], worse, *GOOD[index + 1 :]]
    assert [floor.name for floor in judged(rows) if not floor.met] == [name]


def test_commit_order_histories_are_right_by_every_checker_and_hold_killed_writes() -> None:
    operations = committed(30_000, seed=3)
    order = place(operations, dense=True)
    assert [each.check(order).outcome for each in (isolation, atomicity, realtime)] == [Outcome.OK] * 3
    killed = [op for op in operations if op.outcome == "info"]
    assert 3 <= len(killed) <= 20
    assert 0 < len(order.placed.keys() & {op.id for op in killed}) < len(killed)
    assert order.sequences == list(range(1, len(order.sequences) + 1))


def test_register_has_exactly_as_many_indeterminate_operations_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[int] = []

    def check(operations: list[Op], *_: object, **__: object) -> str:
        kept.append(sum(op.outcome == "info" for op in operations))
        return "nothing"

    monkeypatch.setattr(bench_checkers_job, "check_operations", check)
    bench_checkers_job.indeterminate(Job("indeterminate", 500), Stopwatch())
    assert kept == [INDETERMINATE]


def test_clock_stands_still_while_operations_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def made() -> Iterator[int]:
        nonlocal now
        for number in range(25_000):
            now += 1.0
            yield number

    monkeypatch.setattr("time.perf_counter", lambda: now)
    watch = Stopwatch()
    with watch.running():
        for count, number in enumerate(watch.outside(made())):
            assert count == number
            now += 0.5
    assert watch.seconds == 12_500.0


def test_directory_without_verdicts_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no recorded histories with an EXPECTED\.tsv"):
        bench_checkers.steps(SIZES, 1, tmp_path)


def test_check_that_dies_is_no_measurement(histories: Path) -> None:
    gone = bench_checkers._Task(
        "gone", Job("recorded", 1, files=("nowhere.log",), model="cas-register"), ("OK",)
    )
    with pytest.raises(HarnessError, match=r"gone: the check died with status 1: .*nowhere\.log"):
        bench_checkers._conduct(gone)


def test_histories_that_are_not_there_are_a_usage_error_and_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert cli._run(["bench", "--checkers", "--histories", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "holds no recorded histories" in capsys.readouterr().err
    assert not out.exists()
    for arguments in (["--histories", str(tmp_path)], ["--harness", "--checkers"]):
        assert cli._run(["bench", *arguments]) == 2
