"""Loading a saved run, and judging it: always the same, with clear errors, and blind only where told."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serial_database import SerialDatabase, make

from harness import judge
from harness.checkers.space import Sample
from harness.errors import HarnessError, HistoryError, UsageError
from harness.history import HistoryWriter, Info, Invoke, Ok, Read, Violation
from harness.judge import Judgement, Run
from harness.plan import Limits, Plan
from harness.verdict import Outcome

NO_FLOORS = Limits(operations_min=0, kills_min=0, point_kills_min=0)


def save(directory: Path, db: SerialDatabase, plan: Plan, **environment: str) -> Path:
    """A run directory as the supervisor and the workers leave it."""
    (directory / "history").mkdir(parents=True)
    (directory / "plan.json").write_bytes(msgspec.json.encode(plan))
    (directory / "environment.json").write_bytes(msgspec.json.encode(environment))
    for process, events in db.histories.items():
        writer = HistoryWriter(directory / "history" / f"{process}.jsonl")
        for event in events:
            writer.append(event)
        writer.close()
    writer = HistoryWriter(directory / "supervisor.jsonl")
    for event in db.run_events:
        writer.append(event)
    writer.close()
    return directory


def run_of(db: SerialDatabase, violations: tuple[Violation, ...] = (), **plan: Any) -> Run:
    settings = {"limits": NO_FLOORS, **plan}
    return Run(Plan(1, **settings), {}, judge.join(db.histories.values()), list(violations), db.run_events)


def named(judgement: Judgement, name: str) -> Outcome:
    return next(v.outcome for v in judgement.verdicts if v.property_name == name)


def test_saved_run_is_judged_like_the_one_in_memory(tmp_path: Path) -> None:
    db = make(1)
    run = judge.load(save(tmp_path / "run", db, Plan(1, limits=NO_FLOORS)))
    assert run.operations == run_of(db).operations
    judgement = judge.judge(run)
    assert judgement == judge.judge(run_of(db))
    assert judgement.overall.outcome is Outcome.OK
    assert judgement.exit_code == 0


def test_killed_process_leaves_an_operation_of_unknown_outcome() -> None:
    invoke = Invoke(1, 1, 10, "write", "register", ("register/1",))
    second = Invoke(1, 2, 30, "write", "register", ("register/1",), values={"register/1": 1})
    history = [invoke, Info(1, 1, 20, "cut off"), second]
    operations = judge.join([history])
    assert [(op.outcome, op.completed) for op in operations] == [("info", None), ("info", None)]
    assert operations[1].values == {"register/1": 1}


def test_values_of_the_completion_replace_those_of_the_invocation() -> None:
    invoke = Invoke(1, 1, 10, "write", "bank", ("bank/1", "bank/2"), values={"bank/1": 1, "bank/2": 2})
    operation = judge.join([[invoke, Ok(1, 1, 20, 5, (), {"bank/2": 3})]])[0]
    assert operation.values == {"bank/1": 1, "bank/2": 3}


def test_equal_reads_are_kept_once() -> None:
    def snapshot(index: int, read: Read) -> list[Any]:
        return [Invoke(1, index, index * 10, "read", "append"), Ok(1, index, index * 10 + 5, 9, (read,))]

    def read(elements: list[int]) -> Read:
        return Read("append/1", elements[-1], 7, elements)

    same = judge.join([[*snapshot(1, read([8, 9])), *snapshot(2, read([8, 9])), *snapshot(3, read([7, 9]))]])
    assert same[0].reads[0] is same[1].reads[0]
    assert same[2].reads[0].value == [7, 9]


def test_torn_last_line_is_dropped(tmp_path: Path) -> None:
    directory = save(tmp_path / "run", make(1), Plan(1, limits=NO_FLOORS))
    with (directory / "history" / "2.jsonl").open("ab") as file:
        file.write(b'{"type":"invoke","process":2,')
    assert judge.judge(judge.load(directory)).overall.outcome is Outcome.OK


def test_directory_without_a_plan_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        judge.load(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "environment.json"])
def test_spoilt_file_is_named(tmp_path: Path, name: str) -> None:
    directory = save(tmp_path / "run", make(1), Plan(1))
    (directory / name).write_text("[1, 2")
    with pytest.raises(HistoryError, match=name):
        judge.load(directory)


def test_spoilt_line_is_named(tmp_path: Path) -> None:
    directory = save(tmp_path / "run", make(1), Plan(1))
    (directory / "history" / "3.jsonl").write_text('{"type":"ok","process":3,"index":1,"time":5}\n')
    with pytest.raises(
        HistoryError, match=r"3\.jsonl:1: operation 1 completes without being invoked"
    ) as error:
        judge.load(directory)
    assert error.value.exit_code == 4


def test_invocations_out_of_order_are_refused() -> None:
    invoke = Invoke(1, 1, 10, "get", "register")
    with pytest.raises(HistoryError, match="is invoked after"):
        judge.join([[invoke, invoke]])


def test_stall_limit_of_the_engine_replaces_that_of_the_plan() -> None:
    run = run_of(make(1))
    assert judge.stall_limit_s(run) == 1.0
    assert judge.stall_limit_s(msgspec.structs.replace(run, environment={"stall_s": "2.5"})) == 2.5
    with pytest.raises(HarnessError, match="not a number"):
        judge.stall_limit_s(msgspec.structs.replace(run, environment={"stall_s": "soon"}))


def test_required_points_come_from_the_environment() -> None:
    run = run_of(make(1), limits=Limits(operations_min=0, kills_min=0))
    run = msgspec.structs.replace(run, environment={"required_points": "commit.after_lock, x.y"})
    judgement = judge.judge(run)
    assert judgement.overall.outcome is Outcome.UNKNOWN
    assert judgement.exit_code == 3
    assert "commit.after_lock (0), x.y (0)" in judgement.overall.findings[0].message


def test_what_a_worker_reports_is_a_finding_of_its_property() -> None:
    seen = Violation(2, 77, "atomicity", "bundle/3: 2 of 8 keys are older", 5)
    judgement = judge.judge(run_of(make(1), (seen,)))
    assert named(judgement, "atomicity") is Outcome.VIOLATION
    assert judgement.exit_code == 1
    assert judgement.overall.findings[0].message == seen.message


def test_what_a_worker_reports_of_an_unknown_property_counts_too() -> None:
    judgement = judge.judge(run_of(make(1), (Violation(2, 77, "snapshot", "read twice, differs"),)))
    assert named(judgement, "snapshot") is Outcome.VIOLATION


def test_blind_judgement_sees_nothing_of_the_named_property_only() -> None:
    seen = (Violation(2, 77, "atomicity", "half"), Violation(2, 78, "structure", "damaged"))
    one = judge.judge(run_of(make(1), seen, blind=("atomicity",)))
    assert (named(one, "atomicity"), named(one, "structure")) == (Outcome.OK, Outcome.VIOLATION)
    both = judge.judge(run_of(make(1), seen, blind=("atomicity", "structure")))
    assert both.overall.outcome is Outcome.OK


def test_blindness_does_not_make_the_unknown_known() -> None:
    run = run_of(
        make(1), blind=("traffic",), limits=Limits(operations_min=1e9, kills_min=0, point_kills_min=0)
    )
    assert judge.judge(run).overall.outcome is Outcome.UNKNOWN


def test_canary_fails_a_right_run() -> None:
    judgement = judge.judge(run_of(make(1), canary=True))
    assert judgement.overall.outcome is Outcome.VIOLATION
    assert [v.property_name for v in judgement.verdicts if v.outcome is Outcome.VIOLATION] == ["canary"]


def test_checkers_of_absent_workloads_are_left_out() -> None:
    names = {v.property_name for v in judge.judge(run_of(make(1), workloads=("register",))).verdicts}
    assert not names & {"bank", "append"}
    assert set(judge.PROPERTIES) == names | {"bank", "append", "rebuild", "space"}


def test_what_the_engine_can_do_decides_what_is_judged(tmp_path: Path) -> None:
    facts = {
        "rebuilds": "yes",
        "compacts": "yes",
        "milestones": "growths=grow.after_next,claims=claim.after_owner",
    }
    directory = save(tmp_path / "run", make(1), Plan(1, limits=NO_FLOORS), **facts)
    final = Sample(9, 100 << 20, 1 << 20, 5, final=True)
    (directory / "space.jsonl").write_bytes(msgspec.json.encode(final) + b'\n{"time":10,"dis')
    run = judge.load(directory)
    assert run.samples == [final]
    assert judge.milestones(run) == {"growths": "grow.after_next", "claims": "claim.after_owner"}
    judgement = judge.judge(run)
    assert named(judgement, "space") is Outcome.VIOLATION
    assert named(judgement, "rebuild") is Outcome.UNKNOWN
    assert judge.milestones(run_of(make(1))) == {}


def test_a_sample_that_cannot_be_read_is_an_error_with_its_line(tmp_path: Path) -> None:
    directory = save(tmp_path / "run", make(1), Plan(1))
    (directory / "space.jsonl").write_bytes(b'{"time":1}\n')
    with pytest.raises(HistoryError, match=r"space\.jsonl"):
        judge.load(directory)


def test_judging_leaves_the_collector_as_it_was() -> None:
    assert gc.isenabled()
    judge.judge(run_of(make(1)))
    assert gc.isenabled()
