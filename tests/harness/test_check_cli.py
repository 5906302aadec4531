"""``harness check`` and ``harness export`` as a user meets them: verdicts, evidence, exit codes, errors that help."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from campaigns import TOY, harness, only_run

from harness import HistoryError, Outcome, UsageError, check_history, checking, cli

SKEW = """\
{:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:append :y 1]]}
{:process 1, :type :invoke, :f :txn, :value [[:r :x nil] [:r :y nil]]}
{:process 0, :type :ok, :f :txn, :value [[:append :x 1] [:append :y 1]]}
{:process 1, :type :ok, :f :txn, :value [[:r :x [1]] [:r :y []]]}
"""
"""A reader sees half of a transaction."""
REGISTER = """\
{:process 0, :type :invoke, :f :write, :value 1}
{:process 0, :type :ok, :f :write, :value 1}
{:process 1, :type :invoke, :f :read, :value nil}
{:process 1, :type :ok, :f :read, :value 1}
"""


def saved(directory: Path, text: str, name: str = "history.edn") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_violation_names_the_anomaly_and_shows_operations_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, SKEW)
    assert cli._run(["check", str(path), "--property", "serializable"]) == 1
    out = capsys.readouterr().out
    assert "VIOLATION" in out.splitlines()[0]
    assert "G-single" in out.splitlines()[0]
    assert f"{path}:1, 3" in out
    assert f"{path}:2, 4" in out
    assert f"harness check {path} --model list-append --property serializable" in out
    assert out.splitlines()[-1] == "VIOLATION  serializable"


def test_a_weaker_property_holds_and_what_is_ruled_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, SKEW)
    assert cli._run(["check", str(path), "--property", "read-committed"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "OK  read-committed"
    assert cli._run(["check", str(path), "--property", "PL-3"]) == 1
    assert "snapshot-isolation" in capsys.readouterr().out, "the weakest that is ruled out"


def test_json_has_the_verdict_and_the_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, SKEW)
    svg = tmp_path / "picture.svg"
    assert cli._run(["check", str(path), "--property", "serializable", "--json", "--svg", str(svg)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["history"] == str(path)
    assert printed["svg"] == str(svg)
    assert printed["verdict"]["outcome"] == "VIOLATION"
    evidence = printed["verdict"]["findings"][0]["details"]["evidence"]
    assert [edge["kind"] for edge in evidence["edges"]] in (["wr", "rw"], ["rw", "wr"])
    assert [shown["line"] for shown in evidence["operations"]] == [1, 2]


def test_the_picture_is_drawn_only_where_there_is_a_violation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "picture.svg"
    arguments = ["check", str(saved(tmp_path, SKEW)), "--svg", str(svg), "--property"]
    assert cli._run([*arguments, "read-committed"]) == 0
    assert not svg.exists()
    assert "no violation to draw" in capsys.readouterr().err
    assert cli._run([*arguments, "serializable"]) == 1
    root = ElementTree.fromstring(svg.read_bytes())  # noqa: S314 - our own file
    assert root.tag.endswith("svg")
    assert (
        cli._run(["check", str(saved(tmp_path, SKEW)), "--property", "serializable", "--svg", "/proc/no.svg"])
        == 4
    )
    assert "the verdict is VIOLATION" in capsys.readouterr().err


def test_model_and_property_are_guessed_where_only_one_is_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._run(["check", str(saved(tmp_path, REGISTER))]) == 0
    out = capsys.readouterr().out
    assert "--model register --property linearizable" in out


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (SKEW, [], "strict-serializable; say which one with --property"),
        (SKEW, ["--property", "nice"], "cannot be checked for 'nice'"),
        (SKEW, ["--model", "nice"], "no model is called 'nice'; there are list-append"),
        (SKEW, ["--format", "nice", "--property", "serializable"], "jepsen-edn"),
        ("{:process 0, :type :invoke, :f :add, :value 1}\n", [], "--model"),
        ("{:process 0, :type :invoke, :f :fly, :value 1}\n", [], "no model has such operations (fly)"),
        ("", [], "empty"),
    ],
)
def test_what_cannot_be_guessed_is_a_usage_error_that_lists_what_there_is(
    text: str, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._run(["check", str(saved(tmp_path, text)), *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_a_file_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["check", "no/such/history.edn"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, SKEW + "{:process 1, :type :ok\n")
    assert cli._run(["check", str(path), "--model", "list-append", "--property", "serializable"]) == 2
    err = capsys.readouterr().err
    assert f"{path}:5" in err or f"{path}:6" in err


def test_an_operation_that_the_model_does_not_know_is_named_with_its_line(tmp_path: Path) -> None:
    path = saved(tmp_path, REGISTER.replace(":f :read", ":f :pop"))
    with pytest.raises(HistoryError, match=rf"{path}:3: .*pop"):
        check_history(path, model="register", property="linearizable")


def test_past_a_limit_the_verdict_is_unknown_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, REGISTER * 3000)
    assert cli._run(["check", str(path), "--limit-mb", "1"]) == 3
    out = capsys.readouterr().out
    assert "the limit of 1 MiB of memory was reached" in out
    assert out.splitlines()[-1] == "UNKNOWN  linearizable"
    assert cli._run(["check", str(path), "--limit-s", "1e-9"]) == 3


def test_three_lines_of_python_are_enough(tmp_path: Path) -> None:
    verdict = check_history(saved(tmp_path, SKEW), model="list-append", property="serializable")
    assert verdict.outcome is Outcome.VIOLATION
    assert verdict.findings[0].message.startswith("G-single")
    with pytest.raises(UsageError):
        check_history(tmp_path / "absent.edn")


def test_a_sqlite_run_can_be_exported_and_checked_elsewhere(tmp_path: Path) -> None:
    """Every workload of a real campaign with kills, in both formats, gets the verdict that the run had."""
    done = harness("run", "--engine", "sqlite", "--seconds", 0.8, "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode in (0, 3), (
        done.stdout + done.stderr
    )  # 3: the machine was too slow for enough operations
    assert "VIOLATION" not in done.stdout
    run_dir = only_run(tmp_path / "runs")
    for model, name, property_name in (
        ("list-append", "jepsen-edn", "strict-serializable"),
        ("rw-register", "jepsen-json", "strict-serializable"),
        ("bank", "edn-lines", "total-conserved"),
    ):
        out = tmp_path / f"{model}.{name}"
        done = harness("export", run_dir, "--model", model, "--format", name, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        again = harness("check", out, "--model", model, "--property", property_name, "--json", cwd=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        inside = harness(
            "check", run_dir, "--model", model, "--property", property_name, "--json", cwd=tmp_path
        )
        assert inside.returncode == 0, inside.stdout + inside.stderr
        assert json.loads(again.stdout)["verdict"] == json.loads(inside.stdout)["verdict"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--property", "serializable"], "need --model"),
        (["--model", "mutex"], "can be seen as list-append, rw-register, bank"),
        (["--model", "bank", "--format", "jepsen-edn"], "--format is for files"),
    ],
)
def test_a_run_is_judged_as_a_whole_or_as_one_model(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._run(["check", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_export_refuses_what_it_cannot_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["export", str(tmp_path), "--model", "mutex"]) == 2
    assert "can be seen as" in capsys.readouterr().err
    done = harness(
        *("run", "--engine", TOY, "--workloads", "bank", "--seconds", 0.3, "--writers", 1, "--readers", 0),
        *("--auditors", 0, "--out", tmp_path / "runs"),
        cwd=tmp_path,
    )
    assert done.returncode in (0, 3), done.stderr
    assert cli._run(["export", str(only_run(tmp_path / "runs")), "--model", "list-append"]) == 2
    assert "has no operation of list-append" in capsys.readouterr().err


@pytest.mark.parametrize("bug", ["commit-in-halves", "read-outside-snapshot"])
def test_an_isolation_bug_behind_sqlite_is_found_explained_and_drawn(bug: str, tmp_path: Path) -> None:
    """SQLite reveals no commit order: the reads alone give the bug away, and the page tells which ones."""
    for seconds in (
        2,
        4,
        8,
    ):  # the anomaly needs a reader between two halves: longer where the machine is slow
        out = tmp_path / str(seconds)
        done = harness(
            *("run", "--engine", "sqlite", "--bug", bug, "--workloads", "append,bank", "--seconds", seconds),
            *("--readers", 4, "--out", out),
            cwd=tmp_path,
        )
        if done.returncode != 3:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    run_dir = only_run(out)
    report = (run_dir / "report.md").read_text()
    isolation = json.loads((run_dir / "verdict.json").read_text())["verdicts"]
    findings = [
        finding
        for verdict in isolation
        if verdict["property"] in {"isolation", "realtime", "append"} and verdict["outcome"] == "VIOLATION"
        for finding in verdict["findings"]
    ]
    assert findings, report
    evidence = findings[0]["details"]["evidence"]
    for sentence in evidence["sentences"]:
        assert sentence in report
    pictures = sorted(run_dir.glob("*.svg"))
    assert pictures
    for picture in pictures:
        assert f"]({picture.name})" in report
        ElementTree.fromstring(picture.read_bytes())  # noqa: S314 - our own file
    shown = evidence["operations"][0]
    lines = (run_dir / "history" / f"{shown['process']}.jsonl").read_text().splitlines()
    line = json.loads(lines[shown["line"] - 1])
    assert line["type"] == "invoke"
    assert line["index"] * 2 - 1 == shown["line"]


def test_whoever_watches_is_told_how_far_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, REGISTER * 40_000)
    model, name = checking.choose(path)
    told: list[str] = []
    assert checking.check_with(path, model, name, show=told.append).outcome is Outcome.OK
    assert told == ["65,536 events read", "131,072 events read", "all events read, checking"]
