"""Structure, liveness and traffic: the checkers of what happened to the processes."""

from __future__ import annotations

import msgspec
import pytest
from by_hand import ByHand, messages

from harness.checkers import liveness, structure, traffic
from harness.checkers.operation import Operation
from harness.history import Died, Left, Mark, Paused, RunEvent, Spawned, Standstill
from harness.plan import Limits, Plan
from harness.verdict import Outcome

SECOND = 1_000_000_000
DONE: list[RunEvent] = [Mark(0, "start"), Mark(4 * SECOND, "stop"), Mark(5 * SECOND, "end")]


def commits(*seconds: float) -> list[Operation]:
    """Acknowledged writes that completed at these times."""
    h = ByHand()
    for moment in seconds:
        op = h.write("register/1")
        h.operations[-1] = msgspec.structs.replace(op, completed=int(moment * SECOND))
    return h.operations


STEADY = commits(0.5, 1, 1.5, 2, 2.5, 3, 3.5)


def test_finding_of_verify_is_a_violation() -> None:
    assert structure.check(DONE).outcome is Outcome.OK
    verdict = structure.check([*DONE, Left(9, "structure", "index.live_counts: 3, not 4")])
    assert verdict.outcome is Outcome.VIOLATION
    assert "index.live_counts" in messages(verdict)


def test_store_that_was_not_verified_is_unknown() -> None:
    assert structure.check(DONE[:2]).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("kind", ["lock", "process"])
def test_what_is_left_behind_is_a_violation(kind: str) -> None:
    assert liveness.check(STEADY, DONE, 1.0).outcome is Outcome.OK
    verdict = liveness.check(STEADY, [*DONE, Left(9, kind, "COMMIT is held by nobody")], 1.0)
    assert verdict.outcome is Outcome.VIOLATION


def test_stall_names_the_kill_before_it() -> None:
    died = Died(7, 2 * SECOND + 5, 9, fault="kill-point", point="commit.after_lock", at_point=True)
    events = [DONE[0], Spawned(7, 1, 4711, "writer"), died, *DONE[1:]]
    verdict = liveness.check(commits(0.5, 1, 1.5, 2, 3.5), events, 1.0)
    assert messages(verdict) == "no commit for 1.500 s after the kill of writer 7 at commit.after_lock"


def test_stall_counts_from_the_start_and_until_the_stop() -> None:
    assert liveness.check(commits(3, 3.5), DONE, 1.0).outcome is Outcome.VIOLATION
    assert liveness.check(commits(0.5, 1.2), DONE, 1.0).outcome is Outcome.VIOLATION
    assert liveness.check([], DONE, 1.0).outcome is Outcome.VIOLATION


@pytest.mark.parametrize(
    "excuse",
    [Standstill(2 * SECOND, 3 * SECOND), Paused(7, 2 * SECOND, 3 * SECOND, "commit.after_lock", holder=True)],
)
def test_stall_is_excused_while_the_machine_or_the_lock_holder_stands(excuse: RunEvent) -> None:
    gap = commits(0.5, 1, 1.5, 2, 3.5)
    assert liveness.check(gap, [*DONE, excuse, excuse], 1.0).outcome is Outcome.OK
    assert liveness.check(gap, [*DONE, excuse], 0.4).outcome is Outcome.VIOLATION


def test_stall_is_not_excused_by_the_pause_of_somebody_else() -> None:
    gap = commits(0.5, 1, 1.5, 2, 3.5)
    verdict = liveness.check(gap, [*DONE, Paused(7, 2 * SECOND, 3 * SECOND)], 1.0)
    assert verdict.outcome is Outcome.VIOLATION


def test_run_without_a_stop_has_no_measurable_stall() -> None:
    assert liveness.check(STEADY, DONE[:1], 1.0).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("died", "outcome"),
    [
        (Died(7, 1, 9, fault="kill-time"), Outcome.OK),
        (Died(7, 1, 0, status=0, fault="kill-point"), Outcome.OK),
        (Died(7, 1, 0), Outcome.OK),
        (Died(7, 1, 9), Outcome.UNKNOWN),
        (Died(7, 1, 11), Outcome.VIOLATION),
        (Died(7, 1, 7, fault="kill-time"), Outcome.VIOLATION),
        (Died(7, 1, 0, status=70), Outcome.UNKNOWN),
    ],
)
def test_death_that_nobody_meant(died: Died, outcome: Outcome) -> None:
    assert liveness.check(STEADY, [*DONE, died], 1.0).outcome is outcome


def test_process_that_reported_a_violation_may_end_itself() -> None:
    events = [*DONE, Died(7, 1, 0, status=65)]
    assert liveness.check(STEADY, events, 1.0, frozenset({7})).outcome is Outcome.OK


def plan(faults: tuple[str, ...] = ("kill-point",), **limits: float) -> Plan:
    floors = {"operations_min": 1.0, "kills_min": 0.0, "point_kills_min": 0}
    return Plan(1, faults=faults, limits=Limits(**{**floors, **limits}))  # type: ignore[arg-type]


def with_final(operations: list[Operation]) -> list[Operation]:
    h = ByHand()
    h.operations = list(operations)
    h.final(None)
    return h.operations


def test_enough_traffic_is_ok() -> None:
    assert traffic.check(with_final(STEADY), DONE, plan(), []).outcome is Outcome.OK


def test_too_few_operations_are_unknown() -> None:
    verdict = traffic.check(with_final(STEADY), DONE, plan(operations_min=10), [])
    assert verdict.outcome is Outcome.UNKNOWN
    assert messages(verdict) == "too few operations: 8 in 4.0 s, the floor is 10 per second"


def test_no_operations_are_unknown_whatever_the_floor() -> None:
    assert traffic.check([], DONE, plan(operations_min=0), []).outcome is Outcome.UNKNOWN


def test_too_few_kills_are_unknown_where_there_should_be_kills() -> None:
    kills = [Died(n, 1, 9, fault="kill-time") for n in range(3)]
    assert (
        traffic.check(with_final(STEADY), [*DONE, *kills], plan(kills_min=1), []).outcome is Outcome.UNKNOWN
    )
    more = [*kills, Died(9, 1, 9, fault="kill-point")]
    assert traffic.check(with_final(STEADY), [*DONE, *more], plan(kills_min=1), []).outcome is Outcome.OK
    pauses = plan(faults=("pause-time",), kills_min=1)
    assert traffic.check(with_final(STEADY), DONE, pauses, []).outcome is Outcome.OK


def test_required_point_that_was_not_killed_at_is_named() -> None:
    at = Died(1, 1, 9, fault="kill-point", point="commit.after_lock", at_point=True)
    after = msgspec.structs.replace(at, at_point=False)
    points = ["commit.after_lock", "repair.after_redo"]
    events = [*DONE, at, at, after]
    verdict = traffic.check(with_final(STEADY), events, plan(point_kills_min=2), points)
    assert messages(verdict) == (
        "1 of 2 required sync points were killed at less than 2 times: repair.after_redo (0)"
    )
    without = plan(faults=("kill-time",), point_kills_min=2)
    assert traffic.check(with_final(STEADY), events, without, points).outcome is Outcome.OK


def test_run_without_a_final_snapshot_is_unknown() -> None:
    assert "no final snapshot" in messages(traffic.check(STEADY, DONE, plan(), []))
