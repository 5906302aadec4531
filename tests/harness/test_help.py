"""Every command explains itself: what it does, with examples that the command line takes as they stand."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from command_lines import command_lines, commands, examples, parse

from harness.cli import cli as harness_cli
from kvs.cli import main as kvs_cli

ROOTS = {"harness": harness_cli, "kvs": kvs_cli}
ALL = [
    pytest.param(program, names, command, id=" ".join((program, *names)))
    for program, root in ROOTS.items()
    for names, command in commands(root)
]


@pytest.mark.parametrize(("program", "names", "command"), ALL)
def test_every_command_says_what_it_does_and_shows_an_example_that_is_taken(
    program: str,
    names: tuple[str, ...],
    command: click.Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.help, "it says nothing of what it does"
    shown = examples(command, program)
    assert shown, "its help shows no example"
    own = [program, *names]
    assert any([program, *line][: len(own)] == own for line in shown), "no example is of the command itself"
    for line in shown:
        parse(ROOTS[program], program, line, tmp_path)


@pytest.mark.parametrize(("program", "names", "command"), ALL)
def test_every_option_is_explained_or_speaks_for_itself(
    program: str, names: tuple[str, ...], command: click.Command
) -> None:
    for option in command.params:
        if isinstance(option, click.Option) and not option.help:
            assert option.show_default, f"{program} {' '.join(names)} {option.opts[0]}"


def test_an_example_with_an_option_that_is_not_there_would_be_seen(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="--no-such-option"):
        parse(harness_cli, "harness", ["run", "--no-such-option"], tmp_path)
    with pytest.raises(click.UsageError, match="dance"):
        parse(harness_cli, "harness", ["dance"], tmp_path)
    assert parse(harness_cli, "harness", ["run", "--seconds", "3"], tmp_path) == "harness run"


def test_command_lines_are_found_behind_pipes_and_paths() -> None:
    text = "a | kvs load copy && .venv/bin/kvs stat 'co py' > bin/kvs\nkvs dump \\\n  -o x\nharness run\n"
    assert command_lines(text, "kvs") == [["load", "copy"], ["stat", "co py"], ["dump", "-o", "x"]]
