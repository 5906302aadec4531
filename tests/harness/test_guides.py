"""The guides are gone through as a reader would: every file written, every command run, in an empty directory.

A block of ``sh`` is run as it stands; the comment below it says its exit code (that of its last line) and what its
output shows. Without one, every line must succeed. A block of ``python`` below a file's name is that file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import harness

HERE = Path(harness.__file__).parent
ROOT = HERE.parent
DATA = Path(__file__).parent / "data"
_BLOCK = re.compile(
    r"(?:^`(?P<name>[\w./]+)`:\n\n)?^```(?P<kind>sh|python)\n(?P<text>.*?)^```\n"
    r"(?:<!-- exit (?P<exit>\d), shows: (?P<shows>.*?) -->\n)?",
    re.DOTALL | re.MULTILINE,
)


class Step(NamedTuple):
    """A file to be written (``name``), or lines to be run."""

    name: str
    text: str
    exit: int
    shows: str


def steps(page: str) -> list[Step]:
    found = []
    for block in _BLOCK.finditer(page):
        if block["kind"] == "sh" or block["name"]:
            found.append(
                Step(block["name"] or "", block["text"], int(block["exit"] or 0), block["shows"] or "")
            )
    return found


def page(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def walk(page: str, directory: Path, path: str) -> None:
    """Do all that ``page`` says, in ``directory``, with ``path`` in front of where commands are looked for."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "GITHUB", "PYTHONPATH", "VIRTUAL_ENV"))
    }
    environment["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}"
    environment["HARNESS_STALL_S"] = "15"  # the other tests share the processors
    for step in steps(page):
        if step.name:
            (directory / step.name).write_text(step.text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-c", ("" if step.exit else "set -e\n") + step.text],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        told = f"{step.text}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == step.exit, told
        assert step.shows in done.stdout, f"it does not show {step.shows!r}: {told}"
        if "venv" in step.text:
            environment["PATH"] = f"{directory}/.venv/bin{os.pathsep}{environment['PATH']}"


@pytest.mark.parametrize("name", ["VERDICTS.md", "FAILURES.md"])
def test_every_command_of_a_guide_does_what_the_guide_says(name: str, tmp_path: Path) -> None:
    walk(page(name), tmp_path, str(Path(sys.executable).parent))


def test_a_new_user_comes_from_an_empty_directory_to_a_verdict_on_an_engine_of_his_own(
    tmp_path: Path,
) -> None:
    """With an environment of its own, in which nothing but the package and pytest is."""
    clone = tmp_path / "kvs-torture"
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "runs")
    for each in ("kvs", "harness"):
        shutil.copytree(ROOT / each, clone / each, ignore=left_out)
    for each in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / each, clone)
    empty = tmp_path / "empty"
    empty.mkdir()
    walk(page("TUTORIAL.md"), empty, "/usr/bin")


def test_the_engines_of_the_tutorial_are_those_that_our_tests_know() -> None:
    files = {step.name: step.text for step in steps(page("TUTORIAL.md")) if step.name}
    for each in ("naive_engine.py", "log_engine.py"):
        assert files[each] == (DATA / each).read_text(encoding="utf-8")
    assert len(files["log_engine.py"].splitlines()) <= 60
    assert len(files["test_store.py"].splitlines()) < 20


# The walk itself can fail.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```sh\nfalse\ntrue\n```\n", "returncode"),
        ("```sh\ntrue\n```\n<!-- exit 1, shows: x -->\n", "returncode"),
        ("```sh\necho y\n```\n<!-- exit 0, shows: x -->\n", "does not show 'x'"),
    ],
)
def test_a_guide_that_is_wrong_fails(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=told):
        walk(text, tmp_path, "")


def test_a_guide_writes_its_files_first(tmp_path: Path) -> None:
    walk(
        "`a.py`:\n\n```python\nprint(7)\n```\n\n```sh\npython3 a.py\n```\n<!-- exit 0, shows: 7 -->\n",
        tmp_path,
        "",
    )
    assert (tmp_path / "a.py").exists()
