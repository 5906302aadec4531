"""A pytest run of its own, in a directory of its own, as a user of the plugin has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
PATIENCE_S = 120.0
NO_COMMAND = """
import json
import harness.torture
from harness.torture import Done

CALLS = {calls!r}
ANSWERS = {answers!r}


def command(arguments, *, here, limit_s, python_path=()):
    with open(CALLS, "a") as file:
        print(json.dumps([str(each) for each in arguments]), file=file)
    if "--out" in arguments:
        (here / arguments[arguments.index("--out") + 1] / "run").mkdir(exist_ok=True)
    code, printed, said = ANSWERS.pop(0)
    return Done(code, json.dumps(printed), said)


harness.torture.command = command
"""


class Example:
    """What an engine's class may be."""

    class Inner:
        """It may stand in another one."""


def environment() -> dict[str, str]:
    """The environment of a user who is not inside of a test; every warning is an error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "PYTHONWARNINGS": "error"}


def arguments(*given: object) -> list[str]:
    """How pytest is called."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *map(str, given)]


def run(directory: Path, *given: object) -> subprocess.CompletedProcess[str]:
    """Run pytest in ``directory`` to its end."""
    return subprocess.run(
        arguments(*given),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def with_engines(directory: Path) -> Path:
    """``directory`` with the example engines in it."""
    for path in DATA.glob("*_engine.py"):
        shutil.copy(path, directory)
    return directory


def without_command(directory: Path, *answers: tuple[int, Any, str]) -> Path:
    """``directory`` made one in which no command is run: each gets the next of ``answers``, which are exit codes,
    what would have been printed, and what would have been said on standard error. A run directory is made.
    Returns where the calls are noted.
    """
    calls = directory / "calls.jsonl"
    (directory / "conftest.py").write_text(NO_COMMAND.format(calls=str(calls), answers=list(answers)))
    return calls


def calls_in(path: Path) -> list[dict[str, str]]:
    """The commands that were asked for: their options by name, and the first argument as ``command``."""
    found = []
    for line in path.read_text().splitlines():
        command, *rest = json.loads(line)
        if rest and not rest[0].startswith("--"):
            rest = ["--path", *rest]
        names = [index for index, each in enumerate(rest) if each.startswith("--")]
        options = {
            rest[index][2:]: rest[index + 1] if index + 1 < len(rest) and index + 1 not in names else ""
            for index in names
        }
        found.append({"command": command, **options})
    return found


def ok() -> tuple[int, Any, str]:
    """The answer of a campaign that ended in OK."""
    return (0, judged("OK"), "")


def judged(outcome: str, **verdicts: tuple[str, str]) -> dict[str, Any]:
    """What ``harness run --json`` prints: ``verdicts`` by property, each an outcome and a message."""
    rows: list[dict[str, Any]] = [
        {
            "property": name,
            "outcome": each,
            "findings": [{"property": name, "message": message}],
            "checked": {},
        }
        for name, (each, message) in verdicts.items()
    ]
    rows.append(
        {"property": "traffic", "outcome": "OK", "findings": [], "checked": {"operations": 7, "kills": 3}}
    )
    findings = [finding for row in rows if row["outcome"] == outcome for finding in row["findings"]]
    overall = {"property": "run", "outcome": outcome, "findings": findings, "checked": {}}
    pages = [f"{outcome}  {finding['property']:<11} {finding['message']}" for finding in findings]
    return {"run_dir": "", "judgement": {"overall": overall, "verdicts": rows}, "pages": pages}
