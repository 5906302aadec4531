"""Sets: lost, stale, aborted, phantom and duplicate elements, and reads that agree on no order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from harness.budget import Budget
from harness.errors import HistoryError
from harness.evidence import Evidence
from harness.models.base import Model, Shape
from harness.models.sets import SET, SET_FULL
from harness.recorded import Op, pair
from harness.synthetic.database import set_, set_full
from harness.verdict import Outcome, Verdict
from tests.harness.brute_models import alone, history


def check(model: Model, operations: Iterable[Op], property_name: str = "no-lost-adds") -> Verdict:
    return model.check(operations, property_name, Budget())


def evidence(verdict: Verdict, place: int = 0) -> Evidence:
    assert verdict.outcome is Outcome.VIOLATION
    shown = verdict.findings[place].details["evidence"]
    assert isinstance(shown, Evidence)
    return shown


BOTH = pytest.mark.parametrize("model", [SET, SET_FULL])


@BOTH
def test_a_set_that_keeps_everything_is_ok(model: Model) -> None:
    operations = alone(("add", 0, 0), ("add", 1, 1), ("read", None, [0, 1]))
    for property_name in model.properties:
        assert check(model, operations, property_name).outcome is Outcome.OK


@BOTH
def test_an_acknowledged_element_that_is_not_read_is_lost(model: Model) -> None:
    shown = evidence(check(model, alone(("add", 0, 0), ("add", 1, 1), ("read", None, [1]))))
    assert shown.anomaly == "lost-add"
    assert shown.sentences[0] == "T1 added 0 and was acknowledged before T3 began."
    assert {each.name for each in shown.operations} == {"T1", "T3"}


@BOTH
def test_an_indeterminate_element_may_be_there_or_not(model: Model) -> None:
    for seen in ([1], [0, 1]):
        operations = history(
            (0, "invoke", "add", 0),
            (0, "info", "add", 0),
            (1, "invoke", "add", 1),
            (1, "ok", "add", 1),
            (1, "invoke", "read", None),
            (1, "ok", "read", seen),
        )
        assert check(model, operations, model.properties[-1]).outcome is Outcome.OK


@BOTH
def test_a_failed_element_that_is_read_is_an_aborted_read(model: Model) -> None:
    operations = history(
        (0, "invoke", "add", 0),
        (0, "fail", "add", 0),
        (1, "invoke", "read", None),
        (1, "ok", "read", [0]),
    )
    shown = evidence(check(model, operations))
    assert shown.anomaly == "aborted-read"
    assert shown.sentences == ("T2 read 0, but T1, which was to add it, failed.",)


@BOTH
def test_an_element_that_nobody_tried_to_add_is_a_phantom(model: Model) -> None:
    shown = evidence(check(model, alone(("add", 0, 0), ("read", None, [0, 7, 8]))))
    assert shown.anomaly == "phantom-element"
    assert shown.sentences[-1] == "In all there are 2 such elements: 7 8."


@BOTH
def test_an_element_that_is_read_before_it_is_added_is_a_phantom(model: Model) -> None:
    shown = evidence(check(model, alone(("read", None, [0]), ("add", 0, 0))))
    assert shown.sentences == ("T1 read 0 and completed before T2 began to add it.",)


@BOTH
def test_a_set_that_was_never_read_is_unknown(model: Model) -> None:
    verdict = check(model, alone(("add", 0, 0)))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "never read" in verdict.findings[0].message


@BOTH
def test_elements_may_be_lists(model: Model) -> None:
    assert check(model, alone(("add", [0, 1], [0, 1]), ("read", None, [[0, 1]]))).outcome is Outcome.OK
    assert check(model, alone(("add", [0, 1], [0, 1]), ("read", None, [0, 1]))).outcome is Outcome.VIOLATION


@BOTH
@pytest.mark.parametrize("operation", [("remove", 1, 1), ("read", None, 7)])
def test_what_is_no_set_is_an_error_with_its_line(model: Model, operation: tuple[Any, ...]) -> None:
    with pytest.raises(HistoryError) as raised:
        check(model, alone(("add", 0, 0), operation))
    assert raised.value.line == 3


@BOTH
def test_past_the_limit_nothing_was_decided(model: Model) -> None:
    verdict = model.check(alone(("add", 0, 0), ("read", None, [])), "no-lost-adds", Budget(limit_s=0))
    assert verdict.outcome is Outcome.UNKNOWN


def test_a_last_read_that_began_too_early_proves_nothing_by_what_it_lacks() -> None:
    operations = history(
        (0, "invoke", "add", 0),
        (1, "invoke", "read", None),
        (0, "ok", "add", 0),
        (1, "ok", "read", []),
    )
    verdict = check(SET, operations)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "read again" in verdict.findings[0].message


def test_only_the_last_read_of_a_set_counts_but_every_read_of_a_full_one() -> None:
    operations = alone(("add", 0, 0), ("read", None, []), ("read", None, [0]))
    assert check(SET, operations).outcome is Outcome.OK
    assert check(SET_FULL, operations).outcome is Outcome.OK
    shown = evidence(check(SET_FULL, operations, "linearizable"))
    assert shown.anomaly == "stale-read"
    assert shown.sentences == (
        "T1 added 0 and was acknowledged before T2 began.",
        "T2 does not have 0.",
        "It was not lost: T3 has it.",
    )


def test_an_element_that_was_seen_once_may_not_vanish() -> None:
    operations = history(
        (0, "invoke", "add", 0),
        (1, "invoke", "read", None),
        (1, "ok", "read", [0]),
        (1, "invoke", "read", None),
        (1, "ok", "read", []),
        (0, "info", "add", 0),
    )
    shown = evidence(check(SET_FULL, operations))
    assert shown.anomaly == "lost-add"
    assert shown.sentences[0] == "T2 read 0, which T1 adds, and completed before T3 began."


def test_an_element_twice_in_one_read_is_a_duplicate() -> None:
    shown = evidence(check(SET_FULL, alone(("add", 0, 0), ("read", None, [0, 0]))))
    assert shown.anomaly == "duplicate-elements"


def test_no_element_that_a_last_read_saw_is_unknown() -> None:
    assert check(SET_FULL, alone(("read", None, []))).outcome is Outcome.UNKNOWN


def test_two_reads_that_saw_two_adds_in_opposite_orders_are_not_linearizable() -> None:
    operations = history(
        (0, "invoke", "add", 0),
        (1, "invoke", "add", 1),
        (2, "invoke", "read", None),
        (3, "invoke", "read", None),
        (2, "ok", "read", [0]),
        (3, "ok", "read", [1]),
        (0, "ok", "add", 0),
        (1, "ok", "add", 1),
        (2, "invoke", "read", None),
        (2, "ok", "read", [0, 1]),
    )
    assert check(SET_FULL, operations).outcome is Outcome.OK
    shown = evidence(check(SET_FULL, operations, "linearizable"))
    assert shown.anomaly == "long-fork"
    assert [(edge.source, edge.kind, edge.target) for edge in shown.edges] == [
        ("T3", "rw", "T2"),
        ("T2", "wr", "T4"),
        ("T4", "rw", "T1"),
        ("T1", "wr", "T3"),
    ]


def test_a_read_with_the_later_of_two_adds_alone_is_not_linearizable() -> None:
    operations = history(
        (2, "invoke", "read", None),
        (0, "invoke", "add", 0),
        (0, "ok", "add", 0),
        (0, "invoke", "add", 1),
        (2, "ok", "read", [1]),
        (0, "ok", "add", 1),
        (2, "invoke", "read", None),
        (2, "ok", "read", [0, 1]),
    )
    assert check(SET_FULL, operations).outcome is Outcome.OK
    shown = evidence(check(SET_FULL, operations, "linearizable"))
    assert shown.anomaly == "G-single-realtime"
    assert [(edge.source, edge.kind, edge.target) for edge in shown.edges] == [
        ("T2", "realtime", "T3"),
        ("T3", "wr", "T1"),
        ("T1", "rw", "T2"),
    ]


def test_an_element_that_is_added_again_is_there_from_the_first_time() -> None:
    operations = alone(("add", 0, 0), ("read", None, []), ("add", 0, 0), ("read", None, [0]))
    assert evidence(check(SET_FULL, operations, "linearizable")).anomaly == "stale-read"


def test_long_valid_histories_are_ok_and_a_lost_element_is_found() -> None:
    events = list(set_full(3_000, 5, info=0.01, fail=0.1))
    verdict = check(SET_FULL, pair(events), "linearizable")
    assert verdict.outcome is Outcome.OK
    assert verdict.checked["stable"] > 2_000
    del events[-1].value[1_000]
    assert evidence(check(SET_FULL, pair(events))).anomaly == "lost-add"


def test_a_long_valid_set_is_ok() -> None:
    assert check(SET, pair(set_(20_000, 5, info=0.01, fail=0.1))).outcome is Outcome.OK


@BOTH
def test_only_sets_fit(model: Model) -> None:
    assert model.fits(Shape(frozenset({"add", "read"}), frozenset(), False, frozenset({"list"})))
    assert not model.fits(Shape(frozenset({"add", "read"}), frozenset(), False, frozenset({"int"})))
    assert not model.fits(Shape(frozenset({"read", "write"}), frozenset(), False, frozenset({"list"})))
