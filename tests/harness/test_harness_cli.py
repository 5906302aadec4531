"""The command: its pages, its words for bad input, and what reaches standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from harness import cli
from harness.engines.kvs import KvsEngine
from harness.errors import HarnessError


def run(*arguments: str) -> int:
    return cli._run(list(arguments))


def commands() -> list[str]:
    return sorted(cli.cli.list_commands(click.Context(cli.cli)))


@pytest.mark.parametrize("command", ["run", "check", "points"])
def test_every_command_has_a_page_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in commands()
    assert run(command, "--help") == 0
    page = capsys.readouterr().out
    assert "Example:" in page
    assert f"harness {command}" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--engine", "nothing"], "no engine is called 'nothing'"),
        (["run", "--engine", "sqlite", "--workloads", "bank,casino"], "no workload is called 'casino'"),
        (["run", "--engine", "sqlite", "--workloads", ""], "at least one"),
        (["run", "--engine", "sqlite", "--faults", "meteor"], "no fault is called 'meteor'"),
        (["run", "--engine", "sqlite", "--writers", "0"], "--writers"),
        (["run", "--engine", "sqlite", "--seconds", "0"], "--seconds"),
        (["run", "--engine", "sqlite", "--seconds", "nan"], "--seconds"),
        (["run", "--engine", "sqlite", "--store-dir", "/no/such/place"], "/no/such/place"),
        (["check", "no-such-run"], "no-such-run does not exist"),
        (["check", "."], "no plan.json"),
        (["points", "--engine", "no.such:Engine"], "cannot be imported"),
        (["dance"], "No such command"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    # What was refused leaves nothing behind.
    assert list(tmp_path.iterdir()) == []


def test_points_lists_every_point_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    engine = KvsEngine()
    assert run("points", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["point"]: row["meaning"] for row in listed} == dict(engine.points())
    assert {row["point"] for row in listed if row["required"]} == engine.required_points()
    assert run("points") == 0
    page = capsys.readouterr().out
    assert all(point in page for point in engine.points())


def test_an_engine_without_points_says_so_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("points", "--engine", "sqlite") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no sync points" in printed.err
    assert run("points", "--engine", "sqlite", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("error", "code"), [(HarnessError("no room"), 4), (KeyError("lost"), 4), (KeyboardInterrupt(), 130)]
)
def test_the_harness_own_failures_have_their_own_exit_codes(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.delenv("HARNESS_TRACEBACK", raising=False)
    monkeypatch.setattr(cli.engines, "load", fail)
    assert run("points") == code
    printed = capsys.readouterr()
    assert printed.err.strip().startswith("harness: ")
    assert "Traceback" not in printed.err


def test_main_exits_with_the_code_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "points", "--engine", "sqlite"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 0
