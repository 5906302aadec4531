"""The pytest plugin as its users meet it: each test has a directory, a pytest run, and nothing else of ours."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from pathlib import Path

import nested
import pytest
from campaigns import has_mark, is_alive, wait_for, worker_pids

from harness import torture
from harness.errors import HarnessError

BOTH = """
from log_engine import LogEngine
from naive_engine import NaiveEngine


def test_a_file_without_a_lock(torture):
    torture(NaiveEngine, seconds=8, workloads=["bank"])


def test_a_log_with_a_lock(torture):
    result = torture(LogEngine, seconds=2, workloads=["bank", "bundle"])
    assert result.counts["kills"] >= 5
"""


DIRECTORY = "test_verdicts.py-test_violation-[0-9a-f]{6}"


def test_an_engine_without_a_lock_fails_and_its_replay_line_reproduces_it_and_a_correct_one_passes(
    tmp_path: Path,
) -> None:
    directory = nested.with_engines(tmp_path)
    assert len(BOTH.splitlines()) < 20
    (directory / "test_my_stores.py").write_text(BOTH)
    done = nested.run(directory, "-n", 2)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "FAILED test_my_stores.py::test_a_file_without_a_lock" in done.stdout

    told = re.search(r"^VIOLATION  (\w+) +\S.*\n  \w", done.stdout, re.MULTILINE)
    assert told, done.stdout
    assert "Traceback" not in done.stdout
    found = re.search(r"^replay      (harness replay \S+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    name, *arguments = shlex.split(found[1])
    assert name == "harness"
    again = subprocess.run(
        [*nested.arguments()[:2], "harness", *arguments],
        cwd=directory,
        env=nested.environment(),
        capture_output=True,
        text=True,
        timeout=nested.PATIENCE_S,
        check=False,
    )
    assert again.returncode == 1, again.stdout + again.stderr
    verdict = json.loads((directory / arguments[1] / "verdict.json").read_text())
    violated = {each["property"] for each in verdict["verdicts"] if each["outcome"] == "VIOLATION"}
    assert told[1] in violated
    assert re.search(r"^  reproduced 1/\d+ runs$", again.stdout, re.MULTILINE), again.stdout
    assert again.stdout.splitlines()[-1].split()[0] == "VIOLATION"
    assert again.stdout.splitlines()[-1].split()[1] in violated

    seeds = re.findall(r"--torture-seed (\d+)", done.stdout)
    assert len(seeds) == 2, done.stdout
    assert len(set(seeds)) == 1, "a worker has drawn a seed of its own"
    rows = [json.loads(line) for line in (directory / ".torture" / "seeds.jsonl").read_text().splitlines()]
    assert {row["test"].partition("::")[2]: row["outcome"] for row in rows} == {
        "test_a_file_without_a_lock": "VIOLATION",
        "test_a_log_with_a_lock": "OK",
    }
    assert len({row["seed"] for row in rows}) == 2
    kept = sorted(path.parent.name for path in (directory / ".torture").glob("*/*/*/plan.json"))
    assert all("without_a_lock" in path.parts[-2] for path in (directory / ".torture").glob("*/*/*"))
    assert kept, "the failure's artefacts stay"


def test_the_plugin_costs_nothing_and_says_nothing_where_nothing_is_tortured(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n\ndef test_light():\n"
        "    heavy = {'numpy', 'harness.campaign', 'harness.torture', 'harness.judge', 'kvs', 'rich', 'click'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    done = nested.run(tmp_path, "--strict-markers", "--strict-config")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torture:" not in done.stdout
    assert "warning" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["test_light.py"]


def test_tests_that_use_the_fixture_are_selected_by_its_marker(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(
        "import pytest\n\ndef test_plain(): ...\n\ndef test_fixture(torture): ...\n\n"
        "@pytest.mark.torture(seconds=1)\ndef test_marked(): ...\n"
    )
    without = nested.run(tmp_path, "--collect-only", "-q", "--strict-markers", "-m", "not torture").stdout
    assert "test_plain" in without
    assert "test_fixture" not in without
    assert "test_marked" not in without


def test_every_test_and_parameter_has_its_own_seed_which_follows_from_that_of_the_session(
    tmp_path: Path,
) -> None:
    calls = nested.without_command(tmp_path, *[nested.ok()] * 4)
    (tmp_path / "test_seeds.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_one(torture, n):\n"
        "    torture('kvs')\n    torture('kvs')\n"
    )
    seeds = []
    for _ in range(2):
        calls.unlink(missing_ok=True)
        done = nested.run(tmp_path, "--torture-seed", 5)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "torture: 2 tests with --torture-seed 5" in done.stdout
        seeds.append([call["seed"] for call in nested.calls_in(calls)])
    assert len(set(seeds[0])) == 4
    assert seeds[0] == seeds[1]


def test_workers_that_run_the_same_tests_have_their_own_seeds_and_directories(tmp_path: Path) -> None:
    calls = nested.without_command(tmp_path, nested.ok())
    (tmp_path / "test_each.py").write_text("def test_one(torture): torture('kvs')\n")
    done = nested.run(tmp_path, "-n", 2, "--dist", "each")
    assert done.returncode == 0, done.stdout + done.stderr
    found = nested.calls_in(calls)
    assert len({call["seed"] for call in found}) == 2
    assert {Path(call["out"]).parts[1] for call in found} == {"gw0", "gw1"}


def test_markers_give_defaults_and_options_of_the_command_line_override_everything(tmp_path: Path) -> None:
    calls = nested.without_command(tmp_path, *[nested.ok()] * 2)
    (tmp_path / "test_marked.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.torture(writers=2, seconds=3)\n\n"
        "@pytest.mark.torture(seed=7, workloads=['bank', 'append'])\ndef test_one(torture):\n"
        "    torture('kvs')\n    torture('kvs', seconds=4, seed=8, faults=[], stall_s=None)\n"
    )
    assert nested.run(tmp_path, "--torture-out", "kept").returncode == 0
    one, other = nested.calls_in(calls)
    assert (one["command"], one["engine"]) == ("run", "kvs")
    assert (one["writers"], one["seconds"], one["seed"], one["workloads"]) == ("2", "3", "7", "bank,append")
    assert one["out"].startswith("kept/main/")
    assert (other["seconds"], other["seed"], other["faults"]) == ("4", "8", "none")
    assert (one["stall-s"], other.get("stall-s")) == ("15.0", None)
    calls.unlink()
    assert nested.run(tmp_path, "--torture-seconds", "0.5").returncode == 0
    assert [call["seconds"] for call in nested.calls_in(calls)] == ["0.5", "0.5"]


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_verdict_that_is_not_ok_fails_the_test_unless_it_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    unknown = (3, nested.judged("UNKNOWN", realtime=("UNKNOWN", "too large")), "")
    violation = (1, nested.judged("VIOLATION", bank=("VIOLATION", "91 appeared")), "")
    nested.without_command(
        tmp_path,
        *[unknown] * 3,
        *[violation] * 2,
        (2, None, "harness: no engine"),
        (4, None, "harness: no room"),
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = src\n")
    (tmp_path / "test_verdicts.py").write_text(
        "def test_unknown(torture): torture('kvs')\n"
        "def test_allowed(torture): assert not torture('kvs', unknown=['realtime'])\n"
        "def test_another(torture): torture('kvs', unknown=['bank'])\n"
        "def test_violation(torture): torture('kvs', unknown=['bank'])\n"
        "def test_unchecked(torture):\n"
        "    result = torture('kvs', check=False)\n"
        "    assert (result.outcome, result.properties) == ('VIOLATION', ('bank',))\n"
        "    assert result.findings[0].message == '91 appeared'\n"
        "def test_usage(torture): torture('nothing')\n"
        "def test_harness(torture): torture('kvs', check=False)\n"
    )
    done = nested.run(tmp_path)
    lines = done.stdout.splitlines()
    failed = {line.split()[1].partition("::")[2]: line for line in lines if line.startswith("FAILED")}
    assert set(failed) == {"test_unknown", "test_another", "test_violation", "test_usage", "test_harness"}
    if ci:
        assert failed["test_violation"].endswith("::test_violation - VIOLATION  bank: 7 operations, 3 kills")
    assert "UNKNOWN  realtime    too large" in lines
    assert "VIOLATION  bank        91 appeared" in lines
    (replay,) = [line for line in lines if line.startswith("replay")]
    assert re.fullmatch(rf"replay      PYTHONPATH=src harness replay \.torture/main/{DIRECTORY}/run", replay)
    assert f"  in        {tmp_path}" in lines
    assert "torture was used wrongly: no engine" in lines
    assert "torture failed by itself, no store is to blame: no room" in lines
    assert "Traceback" not in done.stdout


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    nested.with_engines(tmp_path)
    (tmp_path / "out").mkdir()
    line = ["run", "--engine", "log_engine.py:LogEngine", "--seconds", "60", "--out", "out", "--json"]
    with pytest.raises(
        HarnessError, match="did not end within 2 s and was killed, which says nothing about the store"
    ):
        torture.command(line, here=tmp_path, limit_s=2.0)
    assert not any(is_alive(pid) for run_dir in (tmp_path / "out").iterdir() for pid in worker_pids(run_dir))


def test_options_of_a_command_are_written_as_in_python() -> None:
    given = {
        "stall_s": 3,
        "workloads": ("bank", "append"),
        "faults": [],
        "simulated": True,
        "clean": False,
        "bug": None,
    }
    assert torture.options(given) == [
        *("--stall-s", "3", "--workloads", "bank,append", "--faults", "none", "--simulated"),
    ]


def test_an_engine_is_named_by_its_file_as_seen_from_where_pytest_was_started() -> None:
    here = Path(__file__).parent
    assert torture.reference(nested.Example, here) == "nested.py:Example"
    assert torture.reference(nested.Example.Inner, here / "data") == f"{here / 'nested.py'}:Example.Inner"
    assert torture.reference("kvs", here) == "kvs"


def test_an_engine_that_no_other_process_can_import_is_refused_in_words(tmp_path: Path) -> None:
    nested.without_command(tmp_path)
    (tmp_path / "test_local.py").write_text(
        "def test_local(torture):\n    class Mine: ...\n    torture(Mine)\n\n"
        "def test_object(torture): torture(object())\n"
    )
    done = nested.run(tmp_path)
    assert "2 failed" in done.stdout
    assert "is defined inside a function" in done.stdout
    assert "is no engine: give its class" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_run_that_is_interrupted_or_killed(number: int, tmp_path: Path) -> None:
    directory = nested.with_engines(tmp_path)
    (directory / "test_long.py").write_text(
        "from log_engine import LogEngine\n\ndef test_long(torture): torture(LogEngine, seconds=60)\n"
    )
    process = subprocess.Popen(
        nested.arguments("--torture-out", "out"),
        cwd=directory,
        env=nested.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        wait_for(lambda: any(has_mark(each, "start") for each in directory.glob("out/main/*")), "started")
        process.send_signal(number)
        output, _ = process.communicate(timeout=nested.PATIENCE_S)
    (run_dir,) = directory.glob("out/main/*/*")
    wait_for(lambda: not any(is_alive(pid) for pid in worker_pids(run_dir)), "all workers are gone")
    if number == signal.SIGINT:
        assert process.returncode == 2, output
        assert (run_dir / "verdict.json").is_file(), "what was seen is judged and kept"
    else:
        wait_for(lambda: has_mark(run_dir.parent, "interrupted"), "the campaign was told")
