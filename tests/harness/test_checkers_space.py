"""Space, rebuild, what must have happened in a run, and the loss of an index that no stall is blamed for."""

from __future__ import annotations

import pytest
from by_hand import messages

from harness.checkers import liveness, rebuild, space, traffic
from harness.checkers.space import Sample
from harness.history import Hits, Left, Mark, Read, RunEvent
from harness.plan import Limits, Plan
from harness.verdict import Outcome

SECOND = 1_000_000_000
MIB = 1 << 20
RUN: list[RunEvent] = [Mark(0, "start"), Mark(9 * SECOND, "stop"), Mark(10 * SECOND, "end")]
REBUILT = Mark(9 * SECOND + 5, rebuild.REBUILT)


def sample(seconds: float, disk: int, needed: int, *, final: bool = False) -> Sample:
    return Sample(int(seconds * SECOND), disk * MIB, needed * MIB, 300 * MIB, 7, final)


@pytest.mark.parametrize(
    ("disk", "outcome"), [(33, Outcome.OK), (34, Outcome.VIOLATION)], ids=["all that is allowed", "more"]
)
def test_a_store_may_take_so_much_more_than_it_needs_in_the_end(disk: int, outcome: Outcome) -> None:
    verdict = space.check([sample(5, 500, 10), sample(11, disk, 10, final=True)], Limits())
    assert verdict.outcome is outcome
    if outcome is Outcome.VIOLATION:
        assert "takes 35,651,584 bytes in 7 files and needs 10,485,760" in messages(verdict)


def test_a_store_that_nobody_measured_is_unknown() -> None:
    assert space.check([sample(5, 10, 10)], Limits()).outcome is Outcome.UNKNOWN


def test_the_ratios_are_those_of_the_steady_part_of_the_run() -> None:
    samples = [
        *(sample(1, 900, 10), sample(4, 20, 10), sample(5, 30, 0), sample(6, 40, 10), sample(8, 30, 10)),
        *(sample(9.5, 700, 10), sample(11, 15, 10, final=True)),
    ]
    assert space.ratios(samples, RUN) == (3.0, 4.0, 1.5, 30.0)
    assert space.ratios([], RUN) == (0.0, 0.0, 0.0, 0.0)


def test_what_is_needed_changes_evenly_between_two_that_found_out() -> None:
    """A store that grows would else seem to waste what nobody has counted yet."""
    samples = [sample(3, 20, 10), sample(5, 40, 10), sample(7, 45, 30), sample(8, 60, 30)]
    assert space.ratios(samples, RUN)[:2] == (2.0, 2.0)


def test_a_rebuilt_store_that_differs_is_a_violation() -> None:
    assert rebuild.check([*RUN, REBUILT], 10).outcome is Outcome.OK
    verdict = rebuild.check([*RUN, Left(9, "rebuild", "bank/1 was 3 and is absent"), REBUILT], 10)
    assert verdict.outcome is Outcome.VIOLATION
    assert messages(verdict) == "bank/1 was 3 and is absent"


def test_a_store_that_was_not_rebuilt_is_unknown() -> None:
    assert rebuild.check(RUN, 10).outcome is Outcome.UNKNOWN


def test_two_snapshots_differ_in_versions_numbers_values_and_absence() -> None:
    before = (Read("a", 1, 5, 100), Read("b", 2, 6), Read("c", None), Read("d", 4, 7))
    assert rebuild.differences(before, before) == []
    after = (Read("a", 1, 5, 90), Read("b", 2, 7), Read("c", 3, 1))
    assert rebuild.differences(before, after) == [
        "a was process 0 operation 1 (T=5), 100 and is process 0 operation 1 (T=5), 90",
        "b was process 0 operation 2 (T=6) and is process 0 operation 2 (T=7)",
        "c was absent and is process 0 operation 3 (T=1)",
        "d was process 0 operation 4 (T=7) and is not read",
    ]
    many = tuple(Read(f"x{number}", 1, 2) for number in range(9))
    assert rebuild.differences(many, ())[-1] == "and 4 more items differ"


def lost(begin: float, end: float) -> list[RunEvent]:
    marks = (Mark(int(begin * SECOND), rebuild.LOST), Mark(int(end * SECOND), rebuild.FOUND))
    return [RUN[0], *marks, *RUN[1:]]


def test_the_time_without_an_index_is_no_stall_and_has_a_limit_of_its_own() -> None:
    assert liveness.check([], RUN, 5.0).outcome is Outcome.VIOLATION
    assert liveness.check([], lost(2, 7), 5.0).outcome is Outcome.OK
    assert liveness.check([], lost(2, 5), 5.0).outcome is Outcome.VIOLATION
    verdict = rebuild.check([*lost(2, 5), REBUILT], 2.5)
    assert messages(verdict) == "3.000 s went by before anybody had opened the store whose index was lost"
    assert rebuild.check([*lost(2, 5), REBUILT], 3.5).checked == {"losses": 1, "longest_ms": 3000}


def test_an_index_that_never_came_back_was_missing_until_the_end_of_the_run() -> None:
    events: list[RunEvent] = [RUN[0], Mark(SECOND, rebuild.LOST), *RUN[1:]]
    assert rebuild.intervals(events) == [(SECOND, 9 * SECOND)]


def test_what_the_engine_says_must_happen_and_did_not_makes_a_run_unknown() -> None:
    milestones = {"growths": "grow.after_next", "rollovers": "smallfile.after_seal"}
    events = [
        *RUN,
        Hits(11, {"grow.after_next": 2, "smallfile.before_seal": 5}),
        Hits(12, {"grow.after_next": 1}),
    ]
    assert traffic.happened(events, milestones) == {"growths": 3, "rollovers": 0}
    plan = Plan(1, faults=(), limits=Limits(operations_min=0, events_min=3))
    verdict = traffic.check([], events, plan, [], milestones)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "too few rollovers: 0, the floor is 3" in messages(verdict)
    assert "growths" not in messages(verdict)
    assert "rollovers" not in messages(traffic.check([], events, plan, []))
