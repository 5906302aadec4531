"""kvs/README.md says what the code does: every table and name on that page is compared, every example is run."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kvs
from kvs import cli, cli_base, errors, layout
from tests.kvs.pages import Page, play

PAGE = Page("README.md")
PROSE = {"What is guaranteed"}
"""Tables of sentences, which no program can compare."""
SESSIONS = [
    (title, "\n".join(re.findall(r"^```pycon\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)))
    for title, text in re.findall(r"^#+ ([^\n]*)\n(.*?)(?=^#+ |\Z)", PAGE.text, re.DOTALL | re.MULTILINE)
    if "```pycon" in text
]
"""The sessions of each section, which go on where the one before ended."""
_OWN_PROCESS = (
    "import sys; sys.path.insert(0, sys.argv[1]); import kvs; from tests.kvs.pages import play;"
    " sys.exit(play(sys.stdin.read(), {'kvs': kvs}, 'page') or None)"
)


@pytest.mark.parametrize(("title", "session"), SESSIONS, ids=[title for title, _ in SESSIONS])
def test_every_session_goes_as_it_says(
    title: str, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "os.fork()" not in session:
        assert play(session, {"kvs": kvs}, title) == ""
        return
    # A process that forks should have no threads but its own.
    root = str(Path(kvs.__file__).parent.parent)
    command = [sys.executable, "-W", "error", "-c", _OWN_PROCESS, root]
    done = subprocess.run(command, input=session, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_session_that_goes_otherwise_is_told() -> None:
    assert "Expected" in play(">>> kvs.REVISIONS\n4\n", {"kvs": layout}, "wrong") + play(
        ">>> kvs.REVISIONS\n5\n", {"kvs": layout}, "wrong"
    )
    assert play(">>> kvs.REVISIONS\n4\n", {"kvs": layout}, "right") == ""


def test_the_example_in_the_package_goes_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kvs.__doc__
    assert ">>>" in kvs.__doc__
    assert play(kvs.__doc__, {}, "kvs") == ""


@pytest.mark.parametrize("number", range(len(PAGE.blocks("python"))))
def test_every_program_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(PAGE.blocks("python")[number], PAGE.name, "exec"), namespace)  # noqa: S102


def test_every_line_of_the_shell_example_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in PAGE.blocks("sh") for line in block.splitlines()]
    used = set()
    for line in lines:
        data = b""
        for stage in line.split(" | "):
            name, *arguments = shlex.split(stage)
            if name == "kvs":
                result = CliRunner().invoke(cli.main, arguments, input=data)
                assert result.exit_code == 0, f"{line}: {result.output}"
                data = result.stdout_bytes
                used.add(arguments[0])
            else:
                data = subprocess.run([name, *arguments], input=data, capture_output=True, check=True).stdout
        if "get" in line:
            assert data == (b"12" if "--revision" in line else b"13"), line
    assert used == set(cli.main.commands)


@pytest.mark.parametrize("kind", [kvs.Store, kvs.Snapshot, kvs.Transaction])
def test_every_method_has_an_example(kind: type) -> None:
    own = {name for name in vars(kind) if not name.startswith("_")}
    inherited = {"keys", "values", "items", "update", "popitem", "clear"} if kind is kvs.Store else set()
    examples = "".join([*PAGE.blocks("python"), *PAGE.blocks("pycon")])
    missing = {name for name in own | inherited if not re.search(rf"\.{name}\b", examples)}
    assert not missing, f"no example of {kind.__name__} shows {missing}"


def test_every_option_and_flag_of_open_has_an_example() -> None:
    examples = "".join([*PAGE.blocks("python"), *PAGE.blocks("pycon")])
    options = list(inspect.signature(kvs.open).parameters)
    missing = [name for name in options[1:] if f"{name}=" not in examples]
    assert not missing, f"no example of open shows {missing}"
    assert re.search(r'kvs\.open\("\w+"\)', examples)  # "c" is left out
    for flag in "rwn":
        assert re.search(rf'kvs\.open\("\w+", "{flag}"', examples), flag


def test_the_options_are_those_of_open_with_their_defaults(store_dir: Path) -> None:
    rows = {name: default.strip("`") for name, default, _ in PAGE.table("What is yours to decide")}
    parameters = inspect.signature(kvs.open).parameters
    with kvs.open(store_dir) as store:
        created = store.stat()
    expected = {
        name: repr(created[name] if name in created and parameter.default is None else parameter.default)
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert rows == expected


def test_the_names_in_stat_are_these(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        names = list(store.stat())
    assert [name for row in PAGE.table("Looking at a store") for name in re.findall(r"\w+", row[0])] == names


def test_the_exit_codes_are_those_of_the_command() -> None:
    codes = {
        value for name, value in vars(cli_base).items() if re.fullmatch(r"EXIT_[A-Z_]+", name) and value != ""
    }
    assert {int(code) for code, _ in PAGE.table("From a shell")} == {
        code for code in codes if isinstance(code, int)
    }


def test_the_limits_are_those_of_the_layout() -> None:
    rows = PAGE.table("Limits")
    for name, value, _ in rows:
        assert getattr(layout, name) == int(value.replace(",", "")), name
    limits = {name for name in vars(layout) if re.fullmatch(r"[A-Z]{2,}_([A-Z]+_)*MAX", name)}
    assert limits <= {name for name, _, _ in rows}


def test_the_errors_are_all_that_there_are() -> None:
    rows = PAGE.table("Errors")
    known = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.Error)
    }
    assert sorted(row[0] for row in rows) == sorted(known)
    assert all(getattr(kvs, name) is getattr(errors, name) for name in known)
    for name, when, _ in rows:
        for builtin in (FileNotFoundError, ValueError, OSError):
            said = f"`{builtin.__name__}`" in when
            assert not said or issubclass(getattr(errors, name), builtin), name


def test_the_errors_that_an_example_can_show_are_shown() -> None:
    shown = set(re.findall(r"\b(\w+Error)\b", "".join(PAGE.blocks("pycon"))))
    hard = {
        "Error",  # never itself
        "StorageFullError",  # wants a full disk,
        "DurabilityError",  # a failing one,
        "MaximumWritersError",  # 128 handles,
        "DamagedDumpError",  # a dump, which the command reads,
        "UnsupportedPlatformError",  # another machine
    }
    known = {row[0] for row in PAGE.table("Errors")}
    assert known - shown == hard


def test_nothing_is_promised_about_modules_that_are_not_there() -> None:
    here = {path.name for path in Path(kvs.__file__).parent.glob("*.py")}
    named = set(re.findall(r"`([a-z_]+\.py)`", PAGE.text))
    assert named - here == set(), "modules that are not there"
    assert here - named == {"__init__.py", "__main__.py"}, "modules that the page leaves out"


def test_the_pages_go_with_the_package() -> None:
    package = Path(kvs.__file__).parent
    with (package.parent / "pyproject.toml").open("rb") as file:
        packaged = tomllib.load(file)["tool"]["setuptools"]["package-data"]["kvs"]
    assert {path.name for path in package.glob("*.md")} <= set(packaged)


def test_there_is_a_test_for_every_section_with_a_table() -> None:
    assert PAGE.titles_with_tables() - PROSE == {
        "Looking at a store",
        "From a shell",
        "What is yours to decide",
        "Limits",
        "Errors",
    }
