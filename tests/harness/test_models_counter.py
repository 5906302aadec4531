"""Counter: the bounds of a read, in real time, with adds that may or may not have happened."""

from __future__ import annotations

from typing import Any

import pytest

from harness.budget import Budget
from harness.errors import HistoryError
from harness.evidence import Evidence
from harness.models.base import Shape
from harness.models.counter import COUNTER
from harness.recorded import pair
from harness.synthetic.database import counter
from harness.verdict import Outcome, Verdict
from tests.harness.brute_models import alone, history


def check(operations: Any) -> Verdict:
    return COUNTER.check(operations, "bounds", Budget())


def test_a_read_below_what_had_been_acknowledged_is_out_of_bounds() -> None:
    verdict = check(alone(("add", 2, 2), ("add", 3, 3), ("read", None, 4)))
    shown = verdict.findings[0].details["evidence"]
    assert isinstance(shown, Evidence)
    assert shown.anomaly == "out-of-bounds"
    assert shown.sentences[0] == "T3 read 4, but it must be at least 5 and at most 5."
    assert [each.name for each in shown.operations] == ["T2", "T3"]


def test_a_read_above_all_that_was_attempted_is_out_of_bounds() -> None:
    assert check(alone(("add", 2, 2), ("read", None, 3))).outcome is Outcome.VIOLATION


@pytest.mark.parametrize(("value", "outcome"), [(0, "OK"), (3, "OK"), (4, "VIOLATION"), (-1, "VIOLATION")])
def test_an_add_that_is_under_way_may_have_happened(value: int, outcome: str) -> None:
    operations = history(
        (0, "invoke", "add", 3),
        (1, "invoke", "read", None),
        (1, "ok", "read", value),
        (0, "ok", "add", 3),
    )
    assert check(operations).outcome == outcome


@pytest.mark.parametrize(
    ("ending", "value", "outcome"),
    [("info", 0, "OK"), ("info", 3, "OK"), ("fail", 0, "OK"), ("fail", 3, "VIOLATION")],
)
def test_an_indeterminate_add_may_have_happened_and_a_failed_one_not(
    ending: str, value: int, outcome: str
) -> None:
    operations = history(
        (0, "invoke", "add", 3),
        (0, ending, "add", 3),
        (1, "invoke", "read", None),
        (1, "ok", "read", value),
    )
    assert check(operations).outcome == outcome


@pytest.mark.parametrize(("value", "outcome"), [(2, "OK"), (5, "OK"), (1, "VIOLATION"), (6, "VIOLATION")])
def test_a_negative_add_lowers_the_lowest_value(value: int, outcome: str) -> None:
    operations = history(
        (0, "invoke", "add", 5),
        (0, "ok", "add", 5),
        (0, "invoke", "add", -3),
        (1, "invoke", "read", None),
        (1, "ok", "read", value),
        (0, "ok", "add", -3),
    )
    assert check(operations).outcome == outcome


def test_adds_alone_are_ok_and_nothing_at_all_is_unknown() -> None:
    verdict = check(alone(("add", 1, 1)))
    assert verdict.outcome is Outcome.OK
    assert verdict.checked == {"reads": 0, "adds": 1}
    assert check(history((0, "invoke", "add", 1))).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "operation", [("add", 1.5, 1.5), ("read", None, None), ("read", None, True), ("set", 1, 1)]
)
def test_what_is_no_counter_is_an_error_with_its_line(operation: tuple[Any, ...]) -> None:
    with pytest.raises(HistoryError) as raised:
        check(alone(("add", 1, 1), operation))
    assert raised.value.line == 3


def test_past_the_limit_nothing_was_decided() -> None:
    verdict = COUNTER.check(alone(("add", 1, 1), ("read", None, 7)), "bounds", Budget(limit_s=0))
    assert verdict.outcome is Outcome.UNKNOWN


def test_long_valid_histories_are_ok_and_one_read_that_is_too_high_is_found() -> None:
    events = list(counter(20_000, 5, negative=True, info=0.001, fail=0.1))
    assert check(pair(events)).outcome is Outcome.OK
    place = next(
        index for index in range(20_000, 40_000) if events[index].f == "read" and events[index].type == "ok"
    )
    events[place].value += 500
    shown = check(pair(events)).findings[0].details["evidence"]
    assert any(each.role == "out of bounds" and each.completed == place for each in shown.operations)


def test_only_counters_fit() -> None:
    assert COUNTER.fits(Shape(frozenset({"add", "read"}), frozenset(), False, frozenset({"int"})))
    assert not COUNTER.fits(Shape(frozenset({"add", "read"}), frozenset(), False, frozenset({"list"})))
    assert not COUNTER.fits(Shape(frozenset({"read"}), frozenset(), False, frozenset({"int"})))
