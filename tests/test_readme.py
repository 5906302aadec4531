"""README.md is the front door: its commands exist, its examples run, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from harness import judge
from harness.cli import cli as harness_command
from harness.plan import Plan
from harness.scenarios import EXHAUSTIVE
from harness.verdict import EXIT_CODES
from kvs import syncpoints
from kvs.cli import main as kvs_command

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "harness/README.md",
    "kvs/README.md",
    "kvs/FORMAT.md",
    "harness/POWERLOSS.md",
    "harness/TUTORIAL.md",
    "harness/FAILURES.md",
    "harness/VERDICTS.md",
    "results/README.md",
)
COMMANDS: dict[str, click.Group] = {"harness": harness_command, "kvs": kvs_command}


def text(page: str = "README.md") -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)


def commands(page: str) -> Iterator[list[str]]:
    """Every command of ours that a page names, in a block or in its text: ``["harness", "run", ...]``."""
    lines = [
        line for language in ("sh", "text") for block in blocks(language, page) for line in block.splitlines()
    ]
    for code in [*lines, *re.findall(r"`([^`\n]+)`", prose(page))]:
        for found in re.finditer(r"(?:^|[\s/])((?:harness|kvs) [a-z]+(?: [^&|>#]*)?)", code):
            yield shlex.split(found[1].split("  ")[0])  # a told failure says more behind its command


def violations(page: str) -> list[list[str]]:
    """The told violations of a page, each as its lines."""
    told = [block for block in blocks("text", page) if block.startswith("VIOLATION")]
    return [
        one.splitlines()
        for block in told
        for one in block.strip().split("\n\n")
        if one.startswith("VIOLATION")
    ]


def test_the_first_command_sets_up_and_tortures_for_30_seconds() -> None:
    steps = [shlex.split(step) for step in blocks("sh")[0].split("&&")]
    assert steps == [
        ["python3", "-m", "venv", ".venv"],
        [".venv/bin/python", "-m", "pip", "install", "--quiet", "--editable", "."],
        [".venv/bin/harness", "run", "--seconds", "30"],
    ]


def test_the_second_command_sets_up_and_runs_the_tests_in_parallel() -> None:
    steps = [shlex.split(step) for step in blocks("sh")[1].split("&&")]
    assert steps == [
        ["python3", "-m", "venv", ".venv"],
        [".venv/bin/python", "-m", "pip", "install", "--quiet", "--editable", ".[test]"],
        [".venv/bin/python", "-m", "pytest", "-n", "auto"],
    ]


def test_ci_runs_the_second_command() -> None:
    script = text(".ci/run")
    found = re.search(r"^tests=\$\((awk .*)\)$", script, re.MULTILINE)
    assert found
    done = subprocess.run(["bash", "-euc", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == blocks("sh")[1]
    assert script.rstrip().endswith('exec bash -euc "$tests"')


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_and_takes_these_options(page: str) -> None:
    named = {(name, command, *rest) for name, command, *rest in commands(page)}
    assert named
    for name, command, *arguments in named:
        assert command in COMMANDS[name].commands, f"{page}: {name} {command}"
        known = COMMANDS[name].commands[command]
        if arguments:
            # Raises click's UsageError for an option or a value that the command would not take.
            known.make_context(f"{name} {command}", list(arguments))
        shown = CliRunner().invoke(COMMANDS[name], [command, "--help"])
        assert shown.exit_code == 0, shown.output


def options(command: click.Command) -> set[str]:
    """Every option of a command and of those below it."""
    found = {name for parameter in command.params for name in parameter.opts}
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*map(options, below))


OTHERS = {
    "--editable",
    "--quiet",
    "--help",
    "--torture-out",
    "--torture-seconds",
    "--torture-seed",
    "--thorough",
}
"""Of pip, of click, and of pytest."""


@pytest.mark.parametrize("page", [*PAGES, "harness/CHECKING.md"])
def test_every_option_that_a_page_names_is_one(page: str) -> None:
    known = OTHERS.union(*map(options, COMMANDS.values()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text(page))) <= known


def test_the_python_example_runs_and_the_commands_after_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = [block for block in blocks("python") if "import kvs" in block]
    assert ours
    for block in ours:
        namespace: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102 - the example itself
    assert capsys.readouterr().out.startswith("b'30' ")
    shell = [arguments for name, *arguments in commands("README.md") if name == "kvs"]
    assert shell
    for arguments in shell:
        done = CliRunner().invoke(kvs_command, arguments)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    dead = [
        target
        for target in re.findall(r"\]\(([^)]+)\)", prose(page))
        if not target.startswith(("http://", "https://"))
        and not (
            target[1:] in anchors
            if target.startswith("#")
            else ((ROOT / page).parent / target.partition("#")[0]).exists()
        )
    ]
    assert dead == [], page


@pytest.mark.parametrize("page", ["README.md", "harness/README.md"])
def test_a_caught_failure_looks_like_what_the_harness_prints(page: str) -> None:
    told = violations(page)
    assert told, "the page shows no violation"
    # Those of kvs, and of an engine that the page itself has.
    known = {*syncpoints.POINTS, *re.findall(r'"(\w+\.\w+)":', "".join(blocks("python", page)))}
    for first, *lines in told:
        points = [
            found[1]
            for line in lines
            if (found := re.search(r"^  killed .* (?:at|after) ([a-z]+\.\w+)", line))
        ]
        assert set(points) <= known, "the page tells of sync points that are no more"
        found = re.match(r"VIOLATION  (\w+) +\S", first)
        assert found
        assert found[1] in judge.PROPERTIES
        names = [line.split()[0] for line in lines if line.startswith("  ")]
        if "check" in names:  # of a campaign
            assert set(names) <= {"killed", "meanwhile", "expected", "replay", "check"}
            assert re.fullmatch(
                r"  replay      harness replay results/runs/\S+", lines[names.index("replay")]
            )
            assert re.fullmatch(r"  check       harness check results/runs/\S+", lines[names.index("check")])
        else:
            assert set(names) <= {"killed", "meanwhile", "expected", "process", "planted"}


def test_the_processes_of_a_campaign_are_those_of_a_plan() -> None:
    told = re.search(r"A campaign forks (.*?), which", text(), re.DOTALL)
    assert told
    numbers = {"an": 1, "two": 2, "four": 4}
    default = Plan(seed=0)
    assert {role: numbers[word] for word, role in re.findall(r"(an|two|four) ([a-z]+?)s?\b", told[1])} == {
        "writer": default.writers,
        "reader": default.readers,
        "auditor": default.auditors,
        "housekeeper": default.housekeepers,
    }


def test_the_results_are_made_with_every_scenario_that_is_small_enough() -> None:
    (asked,) = re.findall(
        r"harness explore --strategy exhaustive --scenario (\S+)", text("results/README.md")
    )
    assert tuple(asked.split(",")) == EXHAUSTIVE


def test_the_exit_codes_are_those_of_the_verdicts() -> None:
    rows = re.findall(r"^\| (\d+) \| *(?:`(\w+)`)? *\|", text(), re.MULTILINE)
    assert {int(code): verdict for code, verdict in rows} == {
        **{code: str(outcome) for outcome, code in EXIT_CODES.items()},
        2: "",
        4: "",
    }
