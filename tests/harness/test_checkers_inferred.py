"""Stores that reveal no commit order: what the reads alone give away, in right histories and in planted ones."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from planted_histories import PLANTED
from serial_database import SerialDatabase, make_any

from harness import judge
from harness.checkers import inferred, recorded
from harness.checkers.operation import Operation
from harness.evidence import NEVER, Evidence
from harness.history import Read, operation_id
from harness.judge import Run
from harness.plan import Limits, Plan
from harness.verdict import Outcome


def unnumbered(operations: list[Operation]) -> list[Operation]:
    """The same history of a store that tells no sequence numbers."""
    return [
        msgspec.structs.replace(
            op, sequence=None, reads=tuple(msgspec.structs.replace(read, sequence=None) for read in op.reads)
        )
        for op in operations
    ]


def any_history(seed: int) -> tuple[SerialDatabase, list[Operation]]:
    db = make_any(seed)
    return db, judge.join(db.histories.values())


def write(process: int, index: int, times: tuple[int, int | None], *items: str, **more: object) -> Operation:
    outcome = "info" if times[1] is None else "ok"
    return Operation(
        operation_id(process, index), times[0], times[1], "write", "register", outcome, tuple(items), **more
    )


def look(process: int, index: int, times: tuple[int, int], *reads: Read, f: str = "read") -> Operation:
    return Operation(operation_id(process, index), *times, f, "register", "ok", reads=reads)


@pytest.mark.parametrize("block", range(4))
def test_nothing_is_found_in_right_histories(block: int) -> None:
    for seed in range(block * 150, (block + 1) * 150):
        _, operations = any_history(seed)
        verdicts = inferred.check(unnumbered(operations))
        assert {verdict.property_name for verdict in verdicts} >= {"isolation", "realtime"}
        for verdict in verdicts:
            assert verdict.outcome is Outcome.OK, f"seed {seed}: {verdict}"


FOUND = {
    "stale_item_in_snapshot": 0.9,
    "lost_update": 1.0,
    "write_skew": 0.75,
    "snapshot_shows_the_future": 0.9,
    "removed_item_is_back": 1.0,
    "item_vanishes": 1.0,
    "whole_snapshot_of_the_past": 0.75,
    "stale_get": 1.0,
    "get_misses_what_a_snapshot_had": 1.0,
    "acknowledged_write_is_lost": 1.0,
    "deleted_item_is_in_the_end": 1.0,
    "failed_write_is_seen": 0.9,
    "transaction_is_half_there": 1.0,
    "version_of_nobody": 1.0,
}
"""The share of the planted anomalies that the reads must give away: some are explained by another serial order than
the one that the database had, and then nobody can know.
"""


@pytest.mark.parametrize("name", FOUND)
def test_planted_anomaly_is_inferred_from_the_reads(name: str) -> None:
    planter = PLANTED[name][1]
    planted = found = 0
    for seed in range(40):
        db, operations = any_history(seed)
        wrong = planter(db, operations, Random(seed))
        if wrong is None:
            continue
        planted += 1
        outcomes = {verdict.outcome for verdict in inferred.check(unnumbered(wrong))}
        found += Outcome.VIOLATION in outcomes
    assert planted >= 15, "too few histories offered a place for it"
    assert found >= FOUND[name] * planted, f"{found} of {planted}"


def test_a_run_without_an_order_is_judged_by_inference_and_says_why() -> None:
    operations = [
        write(1, 1, (10, 20), "register/1", "register/2"),
        look(
            2, 1, (30, 40), Read("register/1", operation_id(1, 1)), Read("register/2", None)
        ),  # half of it is there
    ]
    plan = Plan(1, engine="sqlite", limits=Limits(operations_min=0, kills_min=0, point_kills_min=0))
    judgement = judge.judge(Run(plan, {}, operations, [], []))
    isolation = next(v for v in judgement.verdicts if v.property_name == "isolation")
    assert isolation.outcome is Outcome.VIOLATION
    evidence = isolation.findings[0].details["evidence"]
    assert isinstance(evidence, Evidence)
    assert evidence.anomaly == "G-single"
    assert [(shown.process, shown.line, shown.line_completed) for shown in evidence.operations] == [
        ("1", 1, 2),
        ("2", 1, 2),
    ]
    assert any("register/2" in sentence for sentence in evidence.sentences)


def test_a_stale_snapshot_is_an_anomaly_of_real_time_only() -> None:
    old, new = operation_id(1, 1), operation_id(1, 2)
    operations = [
        write(1, 1, (10, 20), "register/1"),
        write(1, 2, (30, 40), "register/1", reads=(Read("register/1", old),)),
        look(2, 1, (50, 60), Read("register/1", old)),
        look(3, 1, (70, 80), Read("register/1", new)),
    ]
    outcomes = {verdict.property_name: verdict.outcome for verdict in inferred.check(operations)}
    assert outcomes == {"isolation": Outcome.UNKNOWN, "realtime": Outcome.VIOLATION}


def test_no_transaction_is_not_a_pass() -> None:
    assert [verdict.outcome for verdict in inferred.check([])] == [Outcome.UNKNOWN]
    failed = msgspec.structs.replace(write(1, 1, (1, 2), "register/1"), outcome="fail")
    assert Outcome.OK not in {verdict.outcome for verdict in inferred.check([failed])}


def test_a_killed_write_stays_open_for_ever_and_equal_times_are_concurrent() -> None:
    operations = [
        write(1, 1, (10, 20), "register/1"),
        look(2, 1, (20, 30), Read("register/1", None)),
        write(3, 1, (15, None), "register/1"),
    ]
    one, snapshot, killed = sorted(recorded.rw_register(operations), key=lambda op: op.number)[::2] + [
        op for op in recorded.rw_register(operations) if op.number == 2
    ]
    assert (one.process, snapshot.process, killed.process) == (1, 2, 3)
    assert killed.completed == NEVER
    assert killed.line_completed == 0
    assert snapshot.invoked < one.completed, "at the same nanosecond nobody can know"
    assert one.value == [["w", "register/1", "1.1"]]
    assert snapshot.value == [["r", "register/1", None]]


def test_lists_are_lists_until_somebody_deletes_one() -> None:
    _, operations = any_history(1)
    appended = {item for op in operations for item in op.writes if item.startswith("append/")}
    gone = {item for op in operations for item in op.deletes}
    keys = {micro[1] for op in recorded.list_append(operations) for micro in op.value}
    assert keys == appended - gone
    registers = {micro[1] for op in recorded.rw_register(operations) for micro in op.value}
    assert not registers & keys


def test_events_of_a_history_join_to_the_same_operations() -> None:
    from harness.recorded import pair

    _, operations = any_history(2)
    ours = recorded.rw_register(operations)
    again = list(pair(recorded.events(ours)))
    told = [(op.number, op.process, op.outcome, op.value) for op in ours]
    assert [(op.number, op.process, op.outcome, op.value) for op in again] == told


def killed_and_resolved(shown: Read, *after: Operation) -> judge.Judgement:
    """Process 1 writes, process 2 is killed while it overwrites, process 3 looks what became of that."""
    operations = [
        write(1, 1, (10, 20), "register/1"),
        write(2, 1, (30, None), "register/1"),
        msgspec.structs.replace(
            look(3, 1, (50, 60), shown, f="resolve"), resolves=operation_id(2, 1), workload="register"
        ),
        *after,
    ]
    plan = Plan(1, engine="sqlite", limits=Limits(operations_min=0, kills_min=0, point_kills_min=0))
    return judge.judge(Run(plan, {}, operations, [], []))


def test_a_killed_write_whose_item_still_has_an_older_version_did_not_commit() -> None:
    judgement = killed_and_resolved(Read("register/1", operation_id(1, 1)))
    resolution = next(v for v in judgement.verdicts if v.property_name == "resolution")
    assert resolution.outcome is Outcome.OK
    assert resolution.checked == {"killed": 1, "committed": 0, "not_committed": 1, "undeterminable": 0}


def test_a_killed_write_that_is_seen_after_it_was_found_missing_is_a_violation() -> None:
    back = look(4, 1, (70, 80), Read("register/1", operation_id(2, 1)))
    judgement = killed_and_resolved(Read("register/1", operation_id(1, 1)), back)
    resolution = next(v for v in judgement.verdicts if v.property_name == "resolution")
    assert resolution.outcome is Outcome.VIOLATION
    assert "had not committed when it was killed" in resolution.findings[0].message
