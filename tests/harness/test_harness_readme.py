"""harness/README.md says what the code does: its tables are compared, and its example engine is tortured."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from campaigns import harness, only_run

import harness as package
from harness import campaign, cli, faults, history, judge, plan, planted, selftest, survey, workloads
from harness.checkers.space import Sample
from harness.engines import base
from harness.engines.kvs import KvsEngine
from harness.errors import HarnessError, UsageError
from harness.explore_job import STRATEGIES
from harness.powerloss import shrinking
from harness.powerloss import survey as cuts
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


def compare(rows: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """A table says the same as the code, in the same order; if not, the failure tells which rows are to be written."""
    wrong = [f"| `{name}` | {words} |" for name, words in wanted.items() if rows.get(name) != words]
    wrong += [f"no more: {name}" for name in rows if name not in wanted]
    assert wrong == [], "\n".join(["to be written:", *wrong])
    assert list(rows) == list(wanted), "the rows are in another order than in the code"


# The tables.


def test_the_properties_are_those_that_a_run_is_judged_by() -> None:
    rows = table("The properties")
    assert all(proves and not_verified for proves, not_verified in rows.values())
    compare(dict.fromkeys(rows, ""), dict.fromkeys(judge.PROPERTIES, ""))


def test_the_planted_bugs_are_those_that_can_be_planted() -> None:
    rows = {name: meaning for name, (meaning,) in table("Planted bugs and the selftest").items()}
    compare(rows, {name: bug.meaning for name, bug in planted.BUGS.items()})


def test_the_bugs_that_a_selftest_leaves_to_the_other_are_named() -> None:
    said = section("Planted bugs and the selftest")
    for pattern, tried in (
        (r"one trial for each of them but (.*?), which\s+campaigns hardly find", selftest.names()),
        (r"plants each of them but (.*?) and lets", survey.names()),
    ):
        left_out = re.search(pattern, said, re.DOTALL)
        assert left_out
        assert set(re.findall(r"`([\w-]+)`", left_out[1])) == planted.BUGS.keys() - set(tried)
    assert f"within {selftest.LIMIT_S:g} seconds" in said


def test_the_bugs_that_a_power_cut_must_show_are_named() -> None:
    said = re.sub(r"\s+", " ", section("Planted bugs and the selftest"))
    named = re.search(r"plants those that a power cut must show: (.*?)\. ", said)
    assert named
    assert re.findall(r"`([\w-]+)`", named[1]) == cuts.names()
    assert (cuts.LIMIT_S, cuts.OMITTED_MAX, shrinking.TIMES) == (60, 3, 10)
    assert "within a minute, shrunk to at most three things that did not reach the disk" in said


def test_roles_faults_and_workloads_are_those_of_a_plan() -> None:
    roles, kinds, loads = (table("What a campaign does", number) for number in range(3))
    default = plan.Plan(seed=0)
    counts = {name: int(row[0]) for name, row in roles.items()}
    assert counts == {
        "setup": 1,
        "writer": default.writers,
        "reader": default.readers,
        "auditor": default.auditors,
        "housekeeper": default.housekeepers,
        "final": 1,
    }
    compare(dict.fromkeys(kinds, ""), dict.fromkeys(plan.FAULTS, ""))
    compare(dict.fromkeys(loads, ""), dict.fromkeys(plan.WORKLOADS, ""))
    assert [made.name for made in workloads.make(tuple(loads), 1.0)] == list(loads)


def test_the_exit_codes_are_those_of_verdicts_and_errors() -> None:
    rows = {int(code): verdict.strip("`") for code, (verdict, _) in table("Verdicts and exit codes").items()}
    verdicts = {code: str(outcome) for outcome, code in EXIT_CODES.items()}
    errors = dict.fromkeys([UsageError.exit_code, HarnessError.exit_code, AbortedError.exit_code], "")
    assert rows == verdicts | errors


def test_the_floors_are_those_of_a_plan() -> None:
    limits = plan.Limits()
    said = re.sub(r"\s+", " ", section("Verdicts and exit codes"))
    assert f"{limits.operations_min:g} operations and {limits.kills_min:g} kill per second" in said
    assert f"{limits.point_kills_min} kills at every required sync point" in said
    assert f"{limits.events_min} of everything that the engine says must happen" in said
    assert f"a stall of at most {limits.stall_s:g} s" in said
    assert f"until a lost index is there again, which may take {limits.rebuild_s:g} s" in said
    assert f"less than {base.SLOW_SECONDS:g} s need not have killed" in said
    rows = table("The properties")
    assert f"was over within {limits.rebuild_s:g} s" in rows["rebuild"][0]
    assert f"at most {limits.space_ratio:g} times what it needs" in rows["space"][0]
    assert f"and {limits.space_slack_bytes >> 20} MiB" in rows["space"][0]


@pytest.mark.parametrize(("number", "title"), list(enumerate(EVENTS)))
def test_the_events_are_those_of_the_history(number: int, title: str) -> None:
    rows = table("The history of a process", number)
    for kind in EVENTS[title]:
        named = re.findall(r"`(\w+)`", rows[kind.__struct_config__.tag][0])
        assert named == [field.encode_name for field in msgspec.structs.fields(kind)]
    assert set(rows) == {kind.__struct_config__.tag for kind in EVENTS[title]}


def test_what_the_store_took_has_the_fields_of_a_sample() -> None:
    told = table("The run directory")["space.jsonl"][0]
    assert re.findall(r"`(\w+)`", told) == [field.name for field in msgspec.structs.fields(Sample)]


def test_the_subjects_of_points_that_may_hold_a_lock_are_those_of_the_code() -> None:
    told = re.search(r"has one of the subjects\s(.*?), and does not end", section("Sync points"), re.DOTALL)
    assert told
    subjects = re.findall(r"`(\w+)`", told[1])
    assert sorted(subjects) == sorted(name.removesuffix(".") for name in faults._HOLDING)


def test_the_commands_are_all_that_there_are() -> None:
    assert set(table("The commands")) == set(cli.cli.commands)
    (examples,) = (block for block in blocks("sh") if "harness points" in block)
    assert {shlex.split(line)[1] for line in examples.splitlines()} == set(cli.cli.commands)


def names_of(protocol: type) -> set[str]:
    """The methods and attributes that a protocol asks for."""
    methods = {
        name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_")
    }
    return methods | set(inspect.get_annotations(protocol))


def test_every_role_can_be_told_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of each as the command says are in the plan of the run; those that are always alone have no option."""
    plans: list[plan.Plan] = []

    def conduct(planned: plan.Plan, **_: object) -> None:
        plans.append(planned)
        raise UsageError("not now")

    monkeypatch.setattr(campaign, "conduct", conduct)
    roles = [role for role in table("What a campaign does") if role not in ("setup", "final")]
    options = [word for number, role in enumerate(roles, 3) for word in (f"--{role}s", str(number))]
    assert cli._run(["run", *options]) == UsageError.exit_code
    assert [getattr(plans[0], f"{role}s") for role in roles] == list(range(3, 3 + len(roles)))


def test_the_points_that_only_a_long_run_must_have_killed_at_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli._run(["points"]) == 0
    lines = capsys.readouterr().out.splitlines()
    mark = f"from {base.SLOW_SECONDS:g} s"
    assert mark in table("The commands")["points"][0]
    engine = KvsEngine()
    slow = engine.required_points() & engine.slow_points
    assert {line.split()[0] for line in lines if mark in line} == slow
    assert {line.split()[0] for line in lines if line.split()[1] == "yes"} == engine.required_points() - slow
    assert cli._run(["points", "--json"]) == 0
    assert {row["point"] for row in json.loads(capsys.readouterr().out) if row["slow"]} == engine.slow_points


@pytest.mark.parametrize("kind", [base.Engine, base.Session, base.Transaction, base.Snapshot])
def test_the_adapter_protocol_is_that_of_the_types(kind: type) -> None:
    assert set(table(f"The {kind.__name__.lower()}")) == names_of(kind)


def test_what_an_engine_may_have_besides_is_in_the_other_protocols() -> None:
    rows = table("What an engine may have besides")
    besides = (base.Compacting, base.Rebuilding, base.Eventful)
    compare(
        {name: protocol.strip("`") for name, (protocol, _) in rows.items()},
        {name: kind.__name__ for kind in besides for name in sorted(names_of(kind))},
    )
    assert f"a run of {base.SLOW_SECONDS:g} s or more" in rows["slow_points"][1]
    # "engines/kvs.py has all", and what "the complete engine below" has is seen in what is judged of it.
    assert all(isinstance(KvsEngine(), kind) for kind in besides)


def test_the_scenarios_and_the_strategies_are_all_that_there_are() -> None:
    scenarios, strategies = (table("Exploring schedules", number) for number in range(2))
    compare(dict.fromkeys(scenarios, ""), dict.fromkeys(SCENARIOS, ""))
    assert set(strategies) == set(STRATEGIES)
    told = re.search(r"takes those above `([\w-]+)` in turns", section("Exploring schedules"))
    assert told
    assert tuple(scenarios)[: list(scenarios).index(told[1])] == GENERAL


def test_every_file_has_a_place_in_the_order_of_a_run() -> None:
    here = Path(package.__file__).parent
    named = set(re.findall(r"`(\w+)(?:\.py|/)`", section("The source, in the order of a run")))
    there = {path.stem for path in here.glob("*.py") if not path.stem.startswith("__")}
    assert named == there | {path.parent.name for path in here.glob("*/__init__.py")}


# The example engine.


def test_the_example_engine_keeps_its_promises(tmp_path: Path) -> None:
    (tmp_path / "onelog.py").write_text(example())
    # How long nobody commits is up to whoever else is busy on this machine.
    done = harness(*command(), "--stall-s", 20, "--json", "--out", tmp_path / "runs", cwd=tmp_path)
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
        *("--stall-s", 20, "--out", tmp_path / "runs"),
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
