"""Long fork: reads that saw two writes in opposite orders."""

from __future__ import annotations

from typing import Any

import pytest

from harness.budget import Budget
from harness.errors import HistoryError
from harness.evidence import Evidence
from harness.models.base import Shape
from harness.models.long_fork import LONG_FORK
from harness.recorded import pair
from harness.synthetic.database import long_fork
from harness.verdict import Outcome, Verdict
from tests.harness.brute_models import alone, history


def check(operations: Any) -> Verdict:
    return LONG_FORK.check(operations, "no-long-fork", Budget())


def write(key: Any) -> tuple[str, Any, Any]:
    return "txn", [["w", key, 1]], [["w", key, 1]]


def read(**seen: int | None) -> tuple[str, Any, Any]:
    return "txn", [["r", key, None] for key in seen], [["r", key, value] for key, value in seen.items()]


def test_two_reads_that_each_miss_what_the_other_saw_are_a_fork() -> None:
    verdict = check(alone(write("x"), write("y"), read(x=None, y=1), read(y=None, x=1)))
    shown = verdict.findings[0].details["evidence"]
    assert isinstance(shown, Evidence)
    assert shown.anomaly == "long-fork"
    assert shown.sentences[:2] == (
        "T3 saw the write of key y and not that of key x: key y was written first.",
        "T4 saw the write of key x and not that of key y: key x was written first.",
    )
    assert [(edge.source, edge.kind, edge.target) for edge in shown.edges] == [
        ("T3", "rw", "T1"),
        ("T1", "wr", "T4"),
        ("T4", "rw", "T2"),
        ("T2", "wr", "T3"),
    ]


def test_the_example_of_jepsen_in_which_no_write_was_recorded_is_a_fork() -> None:
    seen = [["r", 0, 1], ["r", 1, 1], ["r", 2, None]], [["r", 2, 1], ["r", 0, 1], ["r", 1, None]]
    verdict = check(alone(*(("read", each, each) for each in seen)))
    assert verdict.outcome is Outcome.VIOLATION
    assert verdict.findings[0].details["evidence"].edges == ()


def test_reads_one_of_which_saw_all_that_the_other_saw_are_ok() -> None:
    reads = read(x=None, y=None), read(x=1, y=None), read(y=1, x=1)
    assert check(alone(write("x"), write("y"), *reads)).outcome is Outcome.OK


def test_reads_of_other_keys_are_compared_on_those_that_both_read() -> None:
    assert check(alone(read(x=1, y=None, z=1), read(w=1, y=1, x=None))).outcome is Outcome.VIOLATION
    assert check(alone(read(x=1, y=None), read(y=1, z=None), read(z=1, x=None))).outcome is Outcome.OK


def test_a_read_that_is_indeterminate_says_nothing() -> None:
    one, other = read(x=None, y=1), read(x=1, y=None)
    operations = history(
        (0, "invoke", "txn", one[1]),
        (0, "ok", "txn", one[2]),
        (1, "invoke", "txn", other[1]),
        (1, "info", "txn", other[2]),
    )
    assert check(operations).outcome is Outcome.OK


def test_without_a_read_nothing_is_known() -> None:
    assert check(alone(write("x"))).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((write("x"), write("x")), "T1 and T2 both write key x"),
        ((write("x"), ("txn", [["r", "x", None]], [["r", "x", 2]])), "the value 1 in T1 and 2 in T2"),
        (
            (write("x"), ("txn", [["w", "y", 1], ["r", "x", 1]], [["w", "y", 1], ["r", "x", 1]])),
            "writes one key once",
        ),
        ((write("x"), ("read", None, 4)), "and not 4"),
    ],
)
def test_what_is_no_long_fork_history_is_an_error_with_its_line(operations: Any, message: str) -> None:
    with pytest.raises(HistoryError, match=message) as raised:
        check(alone(*operations))
    assert raised.value.line == 3


def test_past_the_limit_nothing_was_decided() -> None:
    operations = alone(read(x=1, y=None), read(x=None, y=1))
    assert LONG_FORK.check(operations, "no-long-fork", Budget(limit_s=0)).outcome is Outcome.UNKNOWN


def test_long_valid_histories_are_ok_and_one_fork_is_found() -> None:
    events = list(long_fork(20_000, 5, group=3, info=0.01, fail=0.1))
    assert check(pair(events)).outcome is Outcome.OK
    forks = [read(u=1, v=None), read(u=None, v=1)]
    operations = [*pair(events), *alone(*forks)]
    assert check(operations).outcome is Outcome.VIOLATION


def test_only_transactions_that_write_once_or_read_fit() -> None:
    assert LONG_FORK.fits(Shape(frozenset({"txn"}), frozenset({"r", "w"}), False, apart=True))
    assert not LONG_FORK.fits(Shape(frozenset({"txn"}), frozenset({"r", "w"}), False))
    assert not LONG_FORK.fits(Shape(frozenset({"txn"}), frozenset({"r", "append"}), False, apart=True))
