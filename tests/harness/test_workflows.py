"""What CI is told to do: well-formed, bounded, with few rights, and every command of ours in it is taken."""

from __future__ import annotations

import re
import string
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_lines import command_lines, parse
from ruamel.yaml import YAML

from harness.cli import cli as harness_cli

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RECIPE = ROOT / "harness" / "templates" / "workflow.yml"
ALL = [*OURS, RECIPE]
TORTURE = [path for path in ALL if path.stem != "tests"]


def read(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def calls(path: Path) -> list[list[str]]:
    """Every call of harness in a workflow, with the variables that the workflow sets put in."""
    found = []
    for job in read(path)["jobs"].values():
        set_to = {name: default(str(text)) for name, text in job.get("env", {}).items()}
        for kind in job.get("strategy", {}).get("matrix", {}).get("kind", [""]):
            values = {name: text or kind for name, text in set_to.items()}
            for step in job["steps"]:
                text = re.sub(r"\$\{\w+:\+[^}]*\}", "", step.get("run", ""))  # an option that was not given
                found += command_lines(string.Template(text).substitute(values), "harness")
    return found


def default(text: str) -> str:
    """What an expression is where nothing was given: the last literal in it."""
    literals = re.findall(r"'([^']*)'", text)
    return literals[-1] if text.startswith("${{") and literals else "" if text.startswith("${{") else text


def test_there_are_the_three_workflows() -> None:
    assert [path.stem for path in OURS] == ["nightly", "tests", "torture"]


def test_github_would_take_them() -> None:
    command = [
        str(Path(sys.executable).parent / "check-jsonschema"),
        "--builtin-schema",
        "vendor.github-workflows",
    ]
    done = subprocess.run([*command, *map(str, ALL)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_they_may_only_read_and_end_in_time(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert all(0 < job["timeout-minutes"] <= 360 for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_actions_are_githubs_own_in_one_major_version(path: Path) -> None:
    used = {step["uses"] for step in steps(path) if "uses" in step}
    assert used <= {"actions/checkout@v6", "actions/setup-python@v6", "actions/upload-artifact@v7"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_expression_is_pasted_into_a_shell(path: Path) -> None:
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


@pytest.mark.parametrize("path", TORTURE, ids=lambda path: path.stem)
def test_every_call_of_the_harness_is_one_that_it_takes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = calls(path)
    assert found
    for arguments in found:
        parse(harness_cli, "harness", arguments, tmp_path)


@pytest.mark.parametrize("path", TORTURE, ids=lambda path: path.stem)
def test_what_failed_is_uploaded_from_where_it_was_put(path: Path) -> None:
    for job in read(path)["jobs"].values():
        upload = job["steps"][-1]
        assert upload["uses"].startswith("actions/upload-artifact@")
        assert upload["if"] == "failure()"
        run = " ".join(step.get("run", "") for step in job["steps"])
        assert all(place in run or place == "results/damage" for place in upload["with"]["path"].split())


def test_a_pull_request_is_tortured_for_ten_minutes_and_a_night_for_hours() -> None:
    assert "pull_request" in read(ROOT / ".github/workflows/torture.yml")["on"]
    minutes = [call[call.index("--minutes") + 1] for call in calls(ROOT / ".github/workflows/torture.yml")]
    assert minutes == ["10"]
    nightly = read(ROOT / ".github/workflows/nightly.yml")
    assert nightly["on"].keys() == {"schedule", "workflow_dispatch"}
    long = [call for call in calls(ROOT / ".github/workflows/nightly.yml") if call[0] == "ci"]
    assert {call[call.index("--minutes") + 1] for call in long} == {"330"}
    assert {call[call.index("--kinds") + 1] for call in long} == {"run", "explore", "powerloss"}
    assert all("--seed" not in call for call in long), "another one every night"


def test_every_python_that_is_supported_is_tested_by_the_readmes_own_command() -> None:
    tests = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]
    pythons = tests["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={pythons[0]}"
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks[1].strip() in [step.get("run", "").strip() for step in tests["steps"]]


def test_lint_in_ci_is_lint_at_home() -> None:
    home = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lint = " ".join(
        step.get("run", "") for step in read(ROOT / ".github/workflows/tests.yml")["jobs"]["lint"]["steps"]
    )
    for command in re.findall(r"^\.venv/bin/((?:ruff|mypy).*)$", home, re.M):
        assert command.split()[0] in lint
        assert command.replace("ruff check", "ruff check --output-format=github") in lint or command in lint


def test_the_recipe_names_what_its_reader_must_change() -> None:
    text = RECIPE.read_text(encoding="utf-8")
    assert "OWNER/kvs-torture # where the harness is" in text
    assert "log_engine.py:LogEngine # your adapter" in text
