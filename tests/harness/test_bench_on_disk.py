"""The parts of the benchmark that belong on a disk: durable puts, housekeeping, many keys; small, and their floors."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from harness import (
    bench_durable,
    bench_engines,
    bench_housekeeping,
    bench_large,
    bench_large_job,
    bench_report,
    cli,
)
from harness.bench_busy import Span, Window
from harness.bench_housekeeping import ALONE, GROWING, Compaction, Growth, Pause
from harness.bench_large_job import Done
from harness.errors import UsageError
from harness.verdict import EXIT_CODES, Outcome

SPAN = Span(2000, 1e-6, 2e-6, 3e-6)


def run(*arguments: object) -> int:
    return cli._run([str(each) for each in ("bench", *arguments)])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any directory counts as one on a disk."""
    monkeypatch.setattr(bench_report, "IN_MEMORY", frozenset[str]())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers instead of eight, and one size of values."""
    monkeypatch.setattr(bench_durable, "PROCESSES", (1, 2))
    monkeypatch.setattr(bench_durable, "FLOORS", {1: 1.5, 2: 4.0})
    monkeypatch.setattr(bench_durable, "VALUE_SIZES", (16,))


# Whole runs, through the command.


@pytest.mark.usefixtures("disk", "few")
def test_durable_puts_are_measured_of_every_engine_in_every_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "durable.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    code = run(
        *(
            "--durable",
            "--rounds",
            2,
            "--seconds",
            0.05,
            "--keys",
            1024,
            "--dir",
            stores,
            "--out",
            out,
            "--json",
        )
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == result
    assert code == EXIT_CODES[Outcome(result["outcome"])]
    assert [(row["value_bytes"], row["processes"]) for row in result["rows"]] == [(16, 1), (16, 2)]
    for row in result["rows"]:
        assert set(row["rates"]) == set(result["engines"]) >= {"kvs", "disk"}
        assert all(len(each) == 2 and min(each) > 0 for each in row["rates"].values())
        assert row["ratios"]["disk"] == [
            ours / theirs for ours, theirs in zip(row["rates"]["kvs"], row["rates"]["disk"], strict=True)
        ]
    assert len(result["floors"]) == 2
    assert list(stores.iterdir()) == []
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| 16 B, 2 processes, kvs / LMDB |" in page
    assert page.endswith("floors met\n")


def test_housekeeping_is_measured_beside_a_reader_and_beside_a_writer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "housekeeping.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    arguments = ("--rounds", 1, "--seconds", 0.05, "--keys", 25_600, "--dir", stores, "--out", out)
    code = run("--housekeeping", *arguments)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert code == EXIT_CODES[Outcome(result["outcome"])]
    (compaction,) = result["compactions"]
    # Four of the eight times that every key was written are dead; a tenth more is commit records and their like.
    assert compaction["dead_bytes"] == pytest.approx(compaction["live_bytes"], rel=0.1)
    assert compaction["returned"] > 0
    assert [each["keys"] for each in result["growths"]] == sorted(each["keys"] for each in result["growths"])
    modes = {each["mode"]: each for each in result["pauses"]}
    assert set(modes) == set(bench_housekeeping.MODES)
    assert modes[GROWING]["growths"] > 0
    assert [modes[mode]["growths"] for mode in bench_housekeeping.MODES[1:]] == [0, 0]
    assert all(each["puts"]["calls"] > 0 for each in result["pauses"])
    assert list(stores.iterdir()) == []
    assert "longest pause of a writer" in capsys.readouterr().out


def test_many_keys_go_through_every_step_and_few_prove_no_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "large.json"
    stores = tmp_path / "stores"
    stores.mkdir()
    code = run("--large", "--rounds", 1, "--keys", 2048, "--dir", stores, "--out", out)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [each["what"] for each in result["steps"]] == [*bench_large.STEPS, "verify, after the repairs"]
    assert [each["what"] for each in result["repairs"]] == [
        f"{point}, a {who}" for point in bench_large_job.KILLS for who in ("newcomer", "survivor")
    ]
    assert all(each["anonymous_bytes"] > 10 << 20 for each in (*result["steps"], *result["rebuilds"]))
    met = {floor["name"]: floor["met"] for floor in result["floors"]}
    assert met["rebuilding the index of 1,000,000 keys, at most"] is None
    assert code == EXIT_CODES[Outcome(result["outcome"])] != 0
    assert list(stores.iterdir()) == []
    assert "time to repair" in capsys.readouterr().out


@pytest.mark.parametrize("module", [bench_durable, bench_housekeeping, bench_large])
def test_the_progress_counts_what_is_measured(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only how often they step: what they measure is replaced by nothing."""
    shown: list[str] = []
    monkeypatch.setattr(bench_report, "IN_MEMORY", frozenset[str]())
    done = Done(what="compact", seconds=1.0)
    span = [SPAN, SPAN, SPAN]
    fakes: dict[Any, dict[str, Any]] = {
        bench_durable: {"_load": lambda *_: "it", "_rate": lambda *_: 1.0, "Crew": FakeCrew},
        bench_housekeeping: {
            "Crew": FakeCrew,
            "_growths": lambda *_: [],
            "_pause": lambda *_: PAUSE,
            "_quiet": lambda *_: Window(0, 1),
            "_Both": lambda _: FakeBoth(span),
        },
        bench_large: {
            "_conduct": lambda job, what, step, name="": (step(what), done)[1],
            "_repair": lambda job, survivor, step: (step("repair"), done)[1],
        },
    }
    for name, fake in fakes[module].items():
        monkeypatch.setattr(module, name, fake)
    module.measure(rounds=3, seconds=0.0, keys=1024, seed=1, directory=tmp_path, step=shown.append)
    assert len(shown) == module.steps(3)


class FakeCrew:
    """Processes that do nothing."""

    def __enter__(self) -> FakeCrew:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, *_: object) -> FakeCrew:
        return self

    def answer(self) -> None:
        pass

    def ask(self, _: object) -> None:
        pass

    def end(self) -> None:
        pass


class FakeBoth:
    """Two processes that answer at once."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans

    def keeper(self, method: str, path: Path | None = None, *_: object) -> Any:
        if method == "open" and path:
            path.mkdir()
        return {"usage": (1, 1, 1), "compact": Window(0, 1)}.get(method)

    def begin(self, *_: object) -> None:
        pass

    def end(self, *windows: Window) -> list[Span]:
        return self.spans[: len(windows)]


# Floors.


def durable_row(processes: int, ratio: float) -> bench_durable.Row:
    return bench_durable.row(16, processes, {"kvs": [ratio * 100] * 3, "LMDB": [100.0] * 3})


def test_durable_floors_are_met_by_what_is_just_good_enough_and_by_nothing_less() -> None:
    met = [floor.met for floor in bench_durable.judged([durable_row(1, 1.5), durable_row(8, 4.0)])]
    assert met == [True, True]
    missed = [floor.met for floor in bench_durable.judged([durable_row(1, 1.49), durable_row(8, 3.99)])]
    assert missed == [False, False]


def test_durable_puts_without_lmdb_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = bench_durable.row(16, 1, {"kvs": [1.0], "disk": [1.0]})
    assert bench_report.judge(bench_durable.judged([alone])) is Outcome.UNKNOWN


COMPACTION = Compaction(
    live_bytes=100,
    dead_bytes=100,
    disk_before_bytes=200,
    disk_after_bytes=110,
    returned=0.9,
    seconds=1.0,
    quiet=SPAN,
    meanwhile=SPAN,
    ratio=2.0,
)
GROWTH = Growth(keys=1000, seconds=0.1, quiet=SPAN, meanwhile=SPAN, after=SPAN, ratio=2.0)
PAUSE = Pause(
    mode=GROWING, puts=Span(9, 1e-6, 1e-6, 1.0), batch_median_s=0.1, growths=3, growth_s=1.0, load_s=9.0
)
NOBODY = msgspec.structs.replace(PAUSE, mode=ALONE, puts=Span(9, 1.0, 1.0, 7.0), growths=0)


def worse(thing: Any, **changes: object) -> Any:
    return msgspec.structs.replace(thing, **changes)


def test_housekeeping_floors_are_met_by_what_is_just_good_enough() -> None:
    early = worse(GROWTH, keys=10, ratio=9.0)
    floors = bench_housekeeping.judged([COMPACTION], [early, GROWTH], [PAUSE, NOBODY])
    assert [floor.met for floor in floors] == [True] * 4


@pytest.mark.parametrize(
    ("compactions", "growths", "pauses", "name"),
    [
        ([COMPACTION, worse(COMPACTION, returned=0.89)], [GROWTH], [PAUSE], "dead bytes returned"),
        ([worse(COMPACTION, ratio=2.1)], [GROWTH], [PAUSE], "get, compaction / quiet, at most"),
        ([COMPACTION], [worse(GROWTH, ratio=2.1)], [PAUSE], "get, growth / quiet, at most"),
        (
            [COMPACTION],
            [GROWTH],
            [PAUSE, worse(PAUSE, puts=Span(9, 0, 0, 1.1))],
            "longest pause of a writer, at most",
        ),
    ],
)
def test_each_housekeeping_floor_is_missed_by_what_is_a_little_worse(
    compactions: list[Compaction], growths: list[Growth], pauses: list[Pause], name: str
) -> None:
    floors = bench_housekeeping.judged(compactions, growths, pauses)
    assert [floor.name for floor in floors if not floor.met] == [name]


def done(what: str, seconds: float, *, count: int = 1, mebibytes: float = 256) -> Done:
    return Done(what=what, seconds=seconds, count=count, anonymous_bytes=int(mebibytes * (1 << 20)))


@pytest.mark.parametrize(
    ("steps", "rebuilds", "repairs", "missed"),
    [
        ([], [], [], []),
        ([done("load", 9, mebibytes=257)], [], [], ["memory outside of shared maps, at most"]),
        ([done("reopen", 0.051)] * 2, [], [], ["reopening after a clean close, at most"]),
        (
            [],
            [done("rebuild", 4.1, count=1_000_000)] * 2,
            [],
            ["rebuilding the index of 1,000,000 keys, at most"],
        ),
        ([], [], [done("x, a newcomer", 0.051)] * 2, ["repair after a kill, at most"]),
    ],
)
def test_each_floor_of_many_keys_is_missed_by_what_is_a_little_worse(
    steps: list[Done], rebuilds: list[Done], repairs: list[Done], missed: list[str]
) -> None:
    floors = bench_large.judged(
        [done("reopen", 0.05), *steps],
        [done("rebuild", 3.9, count=1_000_000), *rebuilds],
        [done("x, a newcomer", 0.05), done("x, a survivor", 0.01), *repairs],
    )
    assert [floor.name for floor in floors if not floor.met] == missed


def test_an_index_of_fewer_keys_proves_nothing_of_a_million() -> None:
    floors = bench_large.judged([], [done("rebuild", 0.1, count=999_999)], [])
    assert [floor.met for floor in floors] == [True, None, None, None]


# Bad input.


def test_durable_puts_are_not_measured_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_engines, "file_system", lambda _: "tmpfs")
    out = tmp_path / "b.json"
    assert run("--durable", "--dir", tmp_path, "--out", out) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} is in memory (tmpfs)" in said
    assert "--dir" in said
    assert not out.exists()


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("what", ["--durable", "--housekeeping", "--large"])
def test_too_little_room_is_one_clear_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_engines, "free_bytes", lambda _: 1 << 20)
    assert run(what, "--dir", tmp_path, "--out", tmp_path / "b.json") == 2
    said = capsys.readouterr().err
    assert "1 MiB free and about" in said
    assert len(said.splitlines()) == 1


def test_two_benchmarks_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--durable", "--large") == 2
    assert "--durable and --large measure different things: name one of them" in capsys.readouterr().err


def test_the_usual_place_is_made_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_report.place(None, disk=False) == bench_report.PLACE
    assert bench_report.PLACE.is_dir()
    bench_report.PLACE.rmdir()
    bench_report.PLACE.parent.rmdir()
    bench_report.PLACE.parent.write_bytes(b"")
    with pytest.raises(UsageError, match="name a directory with --dir"):
        bench_report.place(None, disk=False)


def test_a_report_says_the_same_on_the_terminal_and_on_the_page() -> None:
    floors = [bench_report.at_least("much", 2.0, 1.0, "s"), bench_report.at_most("little", None, 1.0)]
    report = bench_report.Report(
        outcome=bench_report.judge(floors),
        command="harness bench",
        started="2026-01-01",
        seconds=1.0,
        directory="/somewhere",
        file_system="ext4",
        machine={"cpu": "a processor", "cores_usable": 2, "kernel": "6"},
        versions={},
        settings={},
        floors=floors,
        missing=["a peer is not installed"],
    )
    grids = [bench_report.Grid(("what", "how much"), [("this", "7")])]
    console = Console(file=io.StringIO(), width=80)
    bench_report.print_result(console, report, grids)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    page = bench_report.page("A title", report, grids)
    for words in (
        "this",
        "7",
        "much",
        "little, at most",
        "not measured",
        "a peer is not installed",
        "1 of 2 floors met",
    ):
        assert words in printed
        assert words in page
    assert report.outcome is Outcome.UNKNOWN
