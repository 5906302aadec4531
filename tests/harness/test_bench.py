"""The benchmark: the same work for everybody, ratios per round, floors that can be missed, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import bench, bench_engines, bench_handoff, cli
from harness.errors import HarnessError, UsageError
from harness.verdict import Outcome
from tests.conftest import SHM

SMALL = bench.Settings(keys=2048, rounds=2, cell_seconds=0.01, seed=3)
ARGUMENTS = ["bench", "--keys", "2048", "--rounds", "2", "--seconds", "0.02"]


class Remembering(bench_engines.Engine):
    """An engine that keeps what it was asked."""

    name = "kvs"

    def __init__(self, *, forgets: bool = False) -> None:
        self.held: dict[bytes, bytes] = {}
        self.calls: list[tuple[str, Any]] = []
        self.forgets = forgets

    def gets(self, keys: Sequence[bytes]) -> bytes | None:
        self.calls.append(("gets", list(keys)))
        return self.held.get(keys[-1])

    def get_many(self, keys: Sequence[bytes]) -> Sequence[Any]:
        self.calls.append(("get_many", list(keys)))
        return [self.held.get(key) for key in keys]

    def puts(self, pairs: Sequence[bench_engines.Pair]) -> None:
        self.calls.append(("puts", list(pairs)))
        self.held.update(pairs[self.forgets :])

    def put_many(self, pairs: Sequence[bench_engines.Pair]) -> object:
        self.calls.append(("put_many", list(pairs)))
        self.held.update(pairs[self.forgets :])
        return None


class Peer(Remembering):
    name = "LMDB"


def run(*arguments: str) -> int:
    return cli._run(list(arguments))


def leftovers(directory: Path) -> list[Path]:
    return list(directory.glob("kvs-bench-*"))


def rates(kvs: float, lmdb: float, rounds: int = 3) -> dict[str, list[float]]:
    return {"kvs": [kvs] * rounds, "LMDB": [lmdb] * rounds}


@pytest.fixture
def one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-off with a single process, where it is not what the test is about."""
    monkeypatch.setattr(bench_handoff, "PROCESSES", 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, Any], Path]]:
    """One small run of the whole command: exit code, the JSON, and where the stores were."""
    with tempfile.TemporaryDirectory(prefix="bench-test-", dir=SHM if SHM.is_dir() else None) as place:
        out = tmp_path_factory.mktemp("bench") / "deep" / "bench.json"
        code = run(*ARGUMENTS, "--dir", place, "--out", str(out))
        yield code, json.loads(out.read_text()), Path(place)


def test_a_run_saves_every_round_and_what_it_was_measured_on(saved: tuple[int, dict[str, Any], Path]) -> None:
    _, result, place = saved
    assert result["settings"] == {"keys": 2048, "rounds": 2, "cell_seconds": 0.02, "seed": 1}
    assert set(result["machine"]) >= {"cpu", "cores", "kernel", "memory_bytes", "load_average_before"}
    assert set(result["versions"]) >= {"python", "SQLite", "numpy", "xxhash"}
    assert result["directory"] == str(place)
    assert result["file_system"] != "unknown"
    assert result["command"].startswith("harness")
    cells = {(row["cell"], row["value_bytes"]) for row in result["rows"]}
    assert cells == {(name, size) for name in ("load", *(c.name for c in bench.CELLS)) for size in (16, 1024)}
    for row in result["rows"]:
        assert set(row["rates"]) == set(result["engines"])
        for engine, each in row["rates"].items():
            assert all(rate > 0 for rate in each)
            assert len(each) == (20 if row["cell"] == "load" else 2), engine
    assert [(row["cell"], row["value_bytes"]) for row in result["rows"] if row["floor"]] == [
        (cell.name, size) for size in (16, 1024) for cell in bench.CELLS
    ]


def test_a_run_measures_the_lock_hand_off_of_eight_writers(saved: tuple[int, dict[str, Any], Path]) -> None:
    _, result, _ = saved
    assert [each["engine"] for each in result["handoff"]] == list(result["engines"])
    for each in result["handoff"]:
        assert each["processes"] == 8
        assert len(each["commits_of_each"]) == 8
        assert each["commits"] == sum(each["commits_of_each"]) > 0
        assert each["wait_longest_s"] >= each["wait_p99_s"] > 0


def test_the_exit_code_is_that_of_the_outcome(saved: tuple[int, dict[str, Any], Path]) -> None:
    code, result, _ = saved
    assert code == {"OK": 0, "VIOLATION": 1, "UNKNOWN": 3}[result["outcome"]]


def test_nothing_is_left_behind(saved: tuple[int, dict[str, Any], Path]) -> None:
    _, _, place = saved
    assert leftovers(place) == []


def test_without_lmdb_the_floors_are_unknown(
    one_writer: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench_engines, "installed", lambda: ([bench_engines.Kvs, bench_engines.Sqlite], ["LMDB"])
    )
    assert run(*ARGUMENTS, "--dir", str(tmp_path), "--out", str(tmp_path / "b.json")) == 3
    printed = capsys.readouterr().out
    assert "UNKNOWN" in printed
    assert "LMDB is not installed" in printed
    assert json.loads((tmp_path / "b.json").read_text())["missing"] == ["LMDB"]


def test_json_is_all_that_is_printed_when_asked_for(
    one_writer: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_engines, "installed", lambda: ([bench_engines.Kvs], ["LMDB"]))
    out = tmp_path / "b.json"
    assert run(*ARGUMENTS, "--rounds", "1", "--dir", str(tmp_path), "--out", str(out), "--json") == 3
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


@pytest.mark.parametrize(("cell", "value_bytes"), list(bench.FLOORS))
def test_a_floor_that_is_missed_is_a_violation(cell: str, value_bytes: int) -> None:
    floor = bench.FLOORS[cell, value_bytes]
    others = [bench.row(*which, rates(1e6, 1e6 / least)) for which, least in bench.FLOORS.items()]
    assert bench.judge(others) is Outcome.OK
    assert bench.judge([*others, bench.row(cell, value_bytes, rates(floor * 0.99, 1.0))]) is Outcome.VIOLATION


def test_a_floor_without_its_peer_is_unknown_and_never_ok() -> None:
    alone = bench.row("get", 16, {"kvs": [1.0], "SQLite": [0.1]})
    assert alone.met is None
    assert bench.judge([alone]) is Outcome.UNKNOWN
    assert bench.judge([alone, bench.row("put", 16, rates(1, 1))]) is Outcome.UNKNOWN
    assert bench.judge([]) is Outcome.UNKNOWN


def test_the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    row = bench.row("get", 16, {"kvs": [10.0, 2.0, 9.0], "LMDB": [20.0, 1.0, 3.0]})
    assert row.ratios["LMDB"] == [0.5, 2.0, 3.0]
    assert row.ratio_medians["LMDB"] == 2.0
    assert row.medians == {"kvs": 9.0, "LMDB": 3.0}


def test_every_engine_gets_the_same_work(tmp_path: Path) -> None:
    ours, peer = Remembering(), Peer()
    work = bench.Work(SMALL, 16)
    bench.load(work, [ours, peer], tmp_path, lambda _: None)
    assert ours.calls == peer.calls
    assert len(ours.held) == SMALL.keys
    ours.calls.clear()
    peer.calls.clear()
    rows = bench.populated(
        bench.Settings(keys=2048, rounds=1, cell_seconds=60), work, [ours, peer], tmp_path, lambda _: None
    )
    assert ours.calls == peer.calls
    assert [row.cell for row in rows] == [cell.name for cell in bench.CELLS]
    assert {name for name, _ in ours.calls} == {cell.method for cell in bench.CELLS}


def test_an_engine_that_forgets_stops_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="LMDB does not return what was put into it"):
        bench.load(bench.Work(SMALL, 16), [Remembering(), Peer(forgets=True)], tmp_path, lambda _: None)


def test_engines_take_turns_to_be_first() -> None:
    one, two, three = Remembering(), Peer(), Peer()
    orders = [bench.rotated([one, two, three], turn) for turn in range(4)]
    assert orders == [[one, two, three], [two, three, one], [three, one, two], [one, two, three]]


@pytest.mark.parametrize("engine", bench_engines.installed()[0])
@pytest.mark.parametrize("value_bytes", [0, 16, 1024])
def test_every_engine_returns_what_was_put(
    engine: type[bench_engines.Engine], value_bytes: int, tmp_path: Path
) -> None:
    each = engine(tmp_path / "s", keys=4096, value_bytes=value_bytes, create=True)
    pairs = [(bytes([i % 256, i // 256]) * 8, bytes([i % 256]) * value_bytes) for i in range(1500)]
    each.put_many(pairs[:1000])
    each.puts(pairs[1000:])
    each.put_many(pairs[:10])  # a second time: replaced
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    assert each.values(keys) == values
    assert each.values(keys[::-1]) == values[::-1]
    assert each.gets(keys) == values[-1]
    each.close()
    again = engine(tmp_path / "s", keys=4096, value_bytes=value_bytes, create=False)
    assert again.values(keys) == values
    again.close()


class Broken(bench_engines.Kvs):
    """Its writers fail."""

    name = "broken"


def test_a_writer_that_fails_is_named_and_none_is_left_running(one_writer: None, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="a writer process of broken failed: KeyError: 'Broken'"):
        bench_handoff.handoff(Broken, tmp_path / "h", 0.1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keys", "10"], "--keys"),
        (["--rounds", "0"], "--rounds"),
        (["--seconds", "0"], "--seconds"),
        (["--dir", "/no/such/place"], "/no/such/place"),
        (["--out", "/proc/bench.json"], "--out /proc/bench.json"),
        (["--keys", "200000000"], "fewer keys with --keys"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", "--out", str(tmp_path / "b.json"), *arguments) == 2
    assert words in capsys.readouterr().err


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_engines, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(UsageError, match="1 MiB free"), bench_engines.scratch(tmp_path, 1 << 30):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_run_that_is_ended_leaves_nothing_behind(number: int, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "bench", "--keys", "20000", "--rounds", "1000"]
    process = subprocess.Popen(
        [*command, "--dir", str(tmp_path), "--out", str(tmp_path / "b.json")], stderr=subprocess.PIPE
    )
    try:
        while not any(tmp_path.glob("kvs-bench-*/values-16/kvs/store/index.*")):
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert b"Traceback" not in said
    assert leftovers(tmp_path) == []
