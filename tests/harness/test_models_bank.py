"""Bank: each way in which a read can be wrong is named and shown; the recorded history of a real bank is fine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.budget import Budget
from harness.errors import HistoryError
from harness.evidence import Evidence
from harness.models.bank import BANK
from harness.models.base import Shape
from harness.recorded import NOTHING, Event, pair
from harness.synthetic.database import bank
from harness.verdict import Outcome, Verdict
from tests.harness.brute_models import alone, history

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "histories" / "jepsen" / "bank.json"
START = {"0": 10, "1": 0}


def check(operations: Any, property_name: str = "total-conserved") -> Verdict:
    return BANK.check(operations, property_name, Budget())


def reads(*balances: Any) -> Any:
    return alone(*(("read", None, each) for each in balances))


def evidence(verdict: Verdict) -> Evidence:
    assert verdict.outcome is Outcome.VIOLATION
    shown = verdict.findings[0].details["evidence"]
    assert isinstance(shown, Evidence)
    return shown


def test_a_read_that_adds_up_to_more_is_a_wrong_total_and_the_transfer_that_explains_it_is_shown() -> None:
    verdict = check(
        history(
            (0, "invoke", "read", None),
            (0, "ok", "read", START),
            (1, "invoke", "transfer", {"from": 0, "to": 1, "amount": 3}),
            (0, "invoke", "read", None),
            (2, "invoke", "transfer", {"from": 0, "to": 1, "amount": 4}),
            (0, "ok", "read", {"0": 10, "1": 3}),
            (1, "ok", "transfer", {"from": 0, "to": 1, "amount": 3}),
            (2, "ok", "transfer", {"from": 0, "to": 1, "amount": 4}),
        )
    )
    shown = evidence(verdict)
    assert shown.anomaly == "wrong-total"
    assert [each.name for each in shown.operations] == ["T1", "T2", "T3"]
    assert shown.sentences == (
        "T3 read 13 in all, but T1, the first read, had 10.",
        "Transfers only move money from one account to another: the total is the same at every moment.",
        "T2 moved 3 at that time: what is too much is what one half of it would leave.",
    )
    assert verdict.checked == {"reads": 2, "transfers": 2}


def test_all_wrong_reads_are_counted_and_the_first_is_shown() -> None:
    shown = evidence(check(reads(START, {"0": 9, "1": 0}, START, {"0": 8, "1": 0})))
    assert [each.name for each in shown.operations] == ["T1", "T2"]
    assert shown.sentences[-1] == "2 reads in all are wrong in this way; T2 is the first."


@pytest.mark.parametrize(
    ("balances", "anomaly"),
    [
        ({"0": 10}, "other-accounts"),
        ({"0": 10, "1": 0, "2": 0}, "other-accounts"),
        ({"0": 10, "1": None}, "null-balance"),
        ({"0": 9, "1": 0}, "wrong-total"),
        (None, "other-accounts"),
    ],
)
def test_a_wrong_read_is_named(balances: dict[str, Any] | None, anomaly: str) -> None:
    assert evidence(check(reads(START, balances))).anomaly == anomaly


def test_a_negative_balance_is_wrong_only_where_it_is_forbidden() -> None:
    operations = reads(START, {"0": 11, "1": -1})
    assert check(operations).outcome is Outcome.OK
    assert evidence(check(operations, "no-negative-balances")).anomaly == "negative-balance"


def test_a_read_that_failed_or_is_indeterminate_says_nothing() -> None:
    operations = history(
        (0, "invoke", "read", None),
        (0, "ok", "read", START),
        (0, "invoke", "read", None),
        (0, "fail", "read", {"0": 3}),
        (0, "invoke", "read", None),
        (0, "info", "read", {"0": 3}),
    )
    assert check(operations).outcome is Outcome.OK


def test_a_bank_that_was_never_read_is_unknown() -> None:
    verdict = check(alone(("transfer", {"from": 0, "to": 1, "amount": 1}, {"from": 0, "to": 1, "amount": 1})))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "never read" in verdict.findings[0].message


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (("deposit", 1, 1), "no 'deposit'"),
        (("read", None, [1, 2]), "a map"),
        (("read", None, {"0": "ten"}), "a map"),
    ],
)
def test_what_is_no_bank_is_an_error_with_its_line(operation: tuple[Any, ...], message: str) -> None:
    with pytest.raises(HistoryError, match=message) as raised:
        check(alone(("read", None, START), operation))
    assert raised.value.line == 3


def test_past_the_limit_what_adds_up_so_far_is_unknown() -> None:
    verdict = BANK.check(reads(START, START), "total-conserved", Budget(limit_s=0))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "the limit of 0 s was reached" in verdict.findings[0].message


def test_long_valid_histories_are_ok_and_one_coin_too_many_is_found() -> None:
    events = list(bank(20_000, 5, info=0.01, fail=0.1))
    assert check(pair(events), "no-negative-balances").outcome is Outcome.OK
    place = next(
        index for index in range(20_000, 40_000) if events[index].f == "read" and events[index].type == "ok"
    )
    events[place].value[3] += 1
    assert evidence(check(pair(events))).operations[-1].invoked < place


def test_only_banks_fit() -> None:
    assert BANK.fits(Shape(frozenset({"read", "transfer"}), frozenset(), False))
    assert not BANK.fits(Shape(frozenset({"read", "write"}), frozenset(), False, frozenset({"int"})))
    assert not BANK.fits(Shape(frozenset({"read"}), frozenset(), False, frozenset({"list"})))


def test_the_recorded_bank_is_ok() -> None:
    if not RECORDED.exists():
        pytest.skip("the recorded histories are not here")
    events = [
        Event(number, number + 1, each["process"], each["type"], each["f"], each.get("value"), NOTHING)
        for number, each in enumerate(msgspec.json.decode(RECORDED.read_bytes()))
    ]
    verdict = check(pair(events))
    assert verdict.outcome is Outcome.OK
    assert verdict.checked["reads"] > 100
