"""harness/README.md says what the code does: its tables are compared, and its example engine is tortured."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from campaigns import harness, only_run

import harness as package
from harness import cli, history, judge, plan, planted, workloads
from harness.engines import base
from harness.errors import HarnessError, UsageError
from harness.explore_job import STRATEGIES
from harness.scenarios import GENERAL, SCENARIOS
from harness.supervisor import AbortedError
from harness.verdict import EXIT_CODES

PAGE = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")
EVENTS: dict[str, list[Any]] = {
    "The history of a process": [
        history.Invoke,
        history.Ok,
        history.Fail,
        history.Info,
        history.Violation,
    ],
    "The run directory": [
        history.Spawned,
        history.Died,
        history.Paused,
        history.Standstill,
        history.Mark,
        history.Left,
        history.Hits,
    ],
}


def section(title: str) -> str:
    """The text under the heading ``title``, up to the next heading; code is left out."""
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", prose, re.DOTALL | re.MULTILINE)
    assert found, f"harness/README.md has no section {title!r}"
    return found[1]


def table(title: str, number: int = 0) -> dict[str, list[str]]:
    """A table of a section: the cells after the first by the first, names without their backticks."""
    blocks = re.findall(r"(?:^\|.*\n)+", section(title), re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in blocks[number].splitlines()]
    assert len({len(row) for row in rows}) == 1, f"a row of {title!r} has another number of cells"
    assert all(any(row[1:]) for row in rows), f"a row of {title!r} says nothing"
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def example() -> str:
    """The source of the example engine."""
    (source,) = (block for block in blocks("python") if "class OneLog" in block)
    return source


def broken_example() -> str:
    """The example after the one change that the page shows as a diff."""
    (change,) = blocks("diff")
    before, after = (line[1:] for line in change.splitlines())
    assert (change[0], example().count(f"{before}\n")) == ("-", 1)
    return example().replace(f"{before}\n", f"{after}\n")


def command() -> list[str]:
    """What the page says to run the example with."""
    (line,) = (line for block in blocks("sh") for line in block.splitlines() if "onelog:" in line)
    name, *arguments = shlex.split(line)
    assert name == "harness"
    return arguments


# The tables.


def test_the_properties_are_those_that_a_run_is_judged_by() -> None:
    rows = table("The properties")
    assert tuple(rows) == judge.PROPERTIES
    assert all(proves and not_verified for proves, not_verified in rows.values())


def test_the_planted_bugs_are_those_that_can_be_planted() -> None:
    rows = table("Planted bugs and the selftest")
    assert {name: meaning for name, (meaning,) in rows.items()} == {
        name: bug.meaning for name, bug in planted.BUGS.items()
    }


def test_roles_faults_and_workloads_are_those_of_a_plan() -> None:
    roles, faults, loads = (table("What a campaign does", number) for number in range(3))
    default = plan.Plan(seed=0)
    counts = {name: int(row[0]) for name, row in roles.items()}
    assert counts == {
        "setup": 1,
        "writer": default.writers,
        "reader": default.readers,
        "auditor": default.auditors,
        "final": 1,
    }
    assert tuple(faults) == plan.FAULTS
    assert tuple(loads) == plan.WORKLOADS
    assert [made.name for made in workloads.make(tuple(loads), 1.0)] == list(loads)


def test_the_exit_codes_are_those_of_verdicts_and_errors() -> None:
    rows = {int(code): verdict.strip("`") for code, (verdict, _) in table("Verdicts and exit codes").items()}
    verdicts = {code: str(outcome) for outcome, code in EXIT_CODES.items()}
    errors = dict.fromkeys([UsageError.exit_code, HarnessError.exit_code, AbortedError.exit_code], "")
    assert rows == verdicts | errors


def test_the_floors_are_those_of_a_plan() -> None:
    limits = plan.Limits()
    said = section("Verdicts and exit codes")
    assert f"{limits.operations_min:g} operations and {limits.kills_min:g} kill per second" in said
    assert f"{limits.point_kills_min} kills at every required sync point" in said
    assert f"a stall of at most {limits.stall_s:g} s" in said


@pytest.mark.parametrize(("number", "title"), list(enumerate(EVENTS)))
def test_the_events_are_those_of_the_history(number: int, title: str) -> None:
    rows = table("The history of a process", number)
    for kind in EVENTS[title]:
        named = re.findall(r"`(\w+)`", rows[kind.__struct_config__.tag][0])
        assert named == [field.encode_name for field in msgspec.structs.fields(kind)]
    assert set(rows) == {kind.__struct_config__.tag for kind in EVENTS[title]}


def test_the_commands_are_all_that_there_are() -> None:
    assert set(table("The commands")) == set(cli.cli.commands)
    (examples,) = (block for block in blocks("sh") if "harness points" in block)
    assert {shlex.split(line)[1] for line in examples.splitlines()} == set(cli.cli.commands)


@pytest.mark.parametrize("kind", [base.Engine, base.Session, base.Transaction, base.Snapshot])
def test_the_adapter_protocol_is_that_of_the_types(kind: type) -> None:
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert set(table(f"The {kind.__name__.lower()}")) == methods | set(inspect.get_annotations(kind))


def test_the_scenarios_and_the_strategies_are_all_that_there_are() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", section("Exploring schedules"), re.MULTILINE)
    assert set(rows) == {*SCENARIOS, *STRATEGIES}
    assert tuple(rows[:9]) == GENERAL
    assert "takes the first nine in turns" in section("Exploring schedules")


def test_every_file_has_a_place_in_the_order_of_a_run() -> None:
    here = Path(package.__file__).parent
    named = set(re.findall(r"`(\w+)(?:\.py|/)`", section("The source, in the order of a run")))
    there = {path.stem for path in here.glob("*.py") if not path.stem.startswith("__")}
    assert named == there | {path.parent.name for path in here.glob("*/__init__.py")}


# The example engine.


def test_the_example_engine_keeps_its_promises(tmp_path: Path) -> None:
    (tmp_path / "onelog.py").write_text(example())
    done = harness(*command(), "--json", "--out", tmp_path / "runs", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 3), done.stdout + done.stderr
    verdicts = json.loads(done.stdout)["judgement"]["verdicts"]
    undecided = {verdict["property"] for verdict in verdicts if verdict["outcome"] != "OK"}
    assert undecided <= {"traffic"}, done.stdout

    run_dir = only_run(tmp_path / "runs")
    made = {path.name for path in run_dir.iterdir()}
    named = {re.split(r"[/\s]", name)[0] for name in table("The run directory")}
    assert made <= named
    assert named - made <= {"stderr", "store", "PROPERTY-N.svg"}
    assert harness("check", run_dir, cwd=tmp_path).returncode == done.returncode


def test_the_example_engine_without_its_lock_is_caught(tmp_path: Path) -> None:
    (tmp_path / "onelog.py").write_text(broken_example())
    done = harness(*command(), "--out", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\nVIOLATION  isolation " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("VIOLATION  ")


def test_an_engine_that_reveals_no_order_is_judged_by_inference(tmp_path: Path) -> None:
    """The page says which properties are inferred then; the same store without its numbers shows it."""
    (tmp_path / "onelog.py").write_text(example())
    (tmp_path / "mute.py").write_text(MUTE)
    done = harness(
        *("run", "--engine", "mute:MuteLog", "--seconds", 1, "--workloads", "bank,append,register", "--json"),
        *("--out", tmp_path / "runs"),
        cwd=tmp_path,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    verdicts = json.loads(done.stdout)["judgement"]["verdicts"]
    undecided = {verdict["property"] for verdict in verdicts if verdict["outcome"] != "OK"}
    assert undecided <= {"traffic"}, done.stdout
    told = re.search(r"Then (.*?) are inferred", section("What may be trivial"), re.DOTALL)
    assert told
    inferred = {verdict["property"] for verdict in verdicts if "micro-operations" in verdict["checked"]}
    assert inferred == set(re.findall(r"`(\w+)`", told[1]))


MUTE = '''
"""The log of the example without numbers, history or sync points."""

import onelog
from onelog import Log, Revision, Value, View


class MuteView(View):
    def __init__(self, log):
        super().__init__(log)
        self.sequence = None

    def get(self, key):
        value = super().get(key)
        return None if value is None else Value(value.data, None)

    def commit(self):
        super().commit()


class MuteSession(Log):
    def transaction(self):
        return MuteView(self)

    snapshot = transaction

    def get(self, key):
        return MuteView(self).get(key)

    def put_many(self, pairs):
        super().put_many(pairs)

    def revisions(self, key):
        return [Revision(super().revisions(key)[0].data, None)]


class MuteLog(onelog.OneLog):
    dense = False

    def points(self):
        return {}

    def install_hook(self, hook):
        pass

    def open(self, directory, *, readonly=False):
        return MuteSession(directory / "log", self.hook)
'''
