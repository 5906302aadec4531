"""What a shell offers: the scripts are click's, the names are ours, and bash really takes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from harness.cli import cli as harness_cli
from harness.plan import FAULTS, WORKLOADS
from harness.planted import BUGS
from harness.scenarios import SCENARIOS
from kvs.cli import main as kvs_cli

ROOTS = {"harness": harness_cli, "kvs": kvs_cli}
BIN = Path(sys.executable).parent


def offered(line: str) -> list[str]:
    """What is offered after ``line``, whose last word is not complete; the first word is the program."""
    program, *words = line.split(" ")
    found = ShellComplete(ROOTS[program], {}, program, "_X").get_completions(words[:-1], words[-1])
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("harness ru", ["run"]),
        ("harness run --engine sql", ["sqlite"]),
        ("harness run --workloads ", list(WORKLOADS)),
        ("harness run --workloads bank,app", ["bank,append"]),
        ("harness run --workloads bank,ban", []),
        ("harness run --faults kill-", [name for name in FAULTS if name.startswith("kill-")]),
        ("harness run --engine sqlite --bug never", []),
        ("harness explore --scenario ", list(SCENARIOS)),
        ("harness explore --bug ", list(BUGS)),
        ("harness powerloss --scenario claims,li", ["claims,life"]),
        ("harness powerloss --engine sqlite-wal-f", ["sqlite-wal-full"]),
        ("harness badstorage --calls fsy", ["fsync"]),
        ("harness badstorage --variants mmap,app", ["mmap,append", "mmap,append-durable"]),
        ("harness damage --subjects pl", ["plain"]),
        ("harness selftest --only can", ["canary"]),
        ("harness check x --model list", ["list-append"]),
        ("harness check x --model bank --property tot", ["total-conserved"]),
        ("harness export x --model list", ["list-append"]),
        ("harness check x --format jepsen-e", ["jepsen-edn"]),
        ("kvs ver", ["verify"]),
        ("kvs completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_a_name_that_was_begun_is_offered(line: str, names: list[str]) -> None:
    assert offered(line) == names


def test_a_bug_is_offered_with_what_it_is() -> None:
    items = ShellComplete(harness_cli, {}, "harness", "_X").get_completions(["explore", "--bug"], "")
    assert {item.value: item.help for item in items} == {name: bug.meaning for name, bug in BUGS.items()}


def test_what_is_no_engine_of_ours_is_the_file_of_somebodys_own() -> None:
    items = ShellComplete(harness_cli, {}, "harness", "_X").get_completions(["run", "--engine"], "my/eng")
    assert [(item.value, item.type) for item in items] == [("my/eng", "file")]


def test_every_option_that_takes_a_name_completes_it() -> None:
    for name, command in harness_cli.commands.items():
        for option in command.params:
            takes = {"engine", "workloads", "faults", "bug", "scenarios", "scenario", "model"} & {option.name}
            if takes and not isinstance(option.type, click.Choice):
                found = option.shell_complete(click.Context(command), "")
                assert found, f"harness {name} --{option.name}"
                assert all(isinstance(item, CompletionItem) for item in found)


@pytest.mark.parametrize("program", ROOTS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_the_program(program: str, shell: str) -> None:
    result = CliRunner().invoke(ROOTS[program], ["completion", shell], prog_name=program)
    assert result.exit_code in (0, None)
    assert f"_{program.upper()}_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize("program", ROOTS)
def test_the_help_says_where_the_script_belongs(program: str) -> None:
    page = CliRunner().invoke(ROOTS[program], ["completion", "--help"], prog_name=program).stdout
    for place in (f"completions/{program}", f"_{program}", f"{program}.fish"):
        assert place in page


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["harness", "run", "--workloads", "bank,bun"], ["bank,bundle"]),
        (["kvs", "comp"], ["completion", "compact"]),
    ],
)
def test_bash_completes_once_it_has_read_the_script(words: list[str], expected: list[str]) -> None:
    program = words[0]
    script = CliRunner().invoke(ROOTS[program], ["completion", "bash"], prog_name=program).stdout
    ask = (
        f"{script}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        f"_{program}_completion {program}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    told = subprocess.run(
        ["bash", "--norc", "-euc", ask],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert sorted(told.stdout.split()) == sorted(expected)
