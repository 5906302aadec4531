"""Every anomaly of list-append histories is found, named, and ruled out by the right properties."""

from __future__ import annotations

import gc
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from list_append_histories import at_once, evidences, judge, one_after_another, sessions

from harness.budget import Budget
from harness.dependency.catalogue import ANOMALIES, PROPERTIES, implies
from harness.errors import HistoryError, UsageError
from harness.evidence import NEVER
from harness.models.base import Shape
from harness.models.list_append import LIST_APPEND, check
from harness.recorded import Event, Op, pair
from harness.verdict import Outcome

RR, SI = "repeatable-read", "snapshot-isolation"
LONG_FORK = ("x+1", "y+1", "x[1] y[]", "x[] y[1]")
PLANTED: dict[str, tuple[list[Op], tuple[str, ...]]] = {
    # anomaly: a history that shows it, and the weakest properties that it does not have
    "duplicate-elements": (at_once("x+1", "x[1,1]"), ("read-uncommitted",)),
    "phantom-element": (at_once("x+1", "x[1,9]"), ("read-uncommitted",)),
    "incompatible-order": (at_once("x+1", "x+2", "x[1,2]", "x[2]"), ("read-uncommitted",)),
    "G0": (at_once("x+1 y+1", "x+2 y+2", "x[1,2] y[2,1]"), ("read-uncommitted",)),
    "G1a": (at_once("fail: x+1", "x[1]"), ("read-committed",)),
    "G1b": (at_once("x+1 x+2", "x[1]"), ("read-committed",)),
    "G1c": (at_once("x+1 y[1]", "y+1 x[1]"), ("read-committed",)),
    "future-read": (at_once("x[1] x+1"), ("read-committed",)),
    "internal": (at_once("x+1 x[]"), (RR, SI)),
    "lost-update": (at_once("x[] x+1", "x[] x+2"), (RR, SI)),
    "G-single": (at_once("x+1 y+1", "x[1] y[]"), (RR, SI)),
    "G-nonadjacent": (at_once(*LONG_FORK), (RR, SI)),
    "G2-item": (at_once("x[] y+1", "y[] x+1"), (RR,)),
    "G-SI": (at_once("x[] y+1 z+1", "y[] x+1 z+2"), (RR, SI)),
    "G0-process": (
        [
            *one_after_another("x+1", "x+2", process=0),
            Op(3, 1, "txn", "ok", None, [["r", "x", [2, 1]]], 1, 99),
        ],
        ("strong-session-read-uncommitted",),
    ),
    "G1c-process": (one_after_another("x[1]", "x+1", process=0), ("strong-session-read-committed",)),
    "G-single-process": (
        one_after_another("x+1", "x[]", process=0),
        ("strong-session-" + RR, "strong-session-" + SI),
    ),
    "G-nonadjacent-process": (
        sessions(("x+1", "y[]"), ("y+1", "x[]")),
        ("strong-session-" + RR, "strong-session-" + SI),
    ),
    "G2-item-process": (
        [
            *one_after_another("y+1", "x[]", process=0),
            Op(3, 1, "txn", "ok", None, [["append", "x", 1], ["r", "y", []]], 1, 99),
        ],
        ("strong-session-" + RR,),
    ),
    "G-SI-process": (
        [
            *one_after_another("x+1", "y[] z+1", process=0),
            Op(3, 1, "txn", "ok", None, [["append", "y", 1], ["append", "z", 2], ["r", "x", []]], 1, 99),
        ],
        ("strong-session-" + RR, "strong-session-" + SI),
    ),
    "G0-realtime": (one_after_another("x+1", "x+2", "x[2,1]"), ("strong-read-uncommitted",)),
    "G1c-realtime": (one_after_another("x[1]", "x+1"), ("strong-read-committed",)),
    "G-single-realtime": (one_after_another("x+1", "x[]"), ("strong-" + RR, "strong-" + SI)),
    "G2-item-realtime": (
        [
            *one_after_another("y+1", "x[]"),
            Op(3, 9, "txn", "ok", None, [["append", "x", 1], ["r", "y", []]], 1, 99),
        ],
        ("strong-" + RR,),
    ),
}


@pytest.mark.parametrize("anomaly", PLANTED)
def test_an_anomaly_is_found_and_named_at_every_property_that_rules_it_out_and_at_no_other(
    anomaly: str,
) -> None:
    ops, weakest = PLANTED[anomaly]
    for name, asked in PROPERTIES.items():
        verdict = judge(ops, name)
        excluded = any(implies(name, each) for each in weakest)
        assert verdict.outcome is (Outcome.VIOLATION if excluded else Outcome.OK), name
        if excluded and anomaly in asked.rules_out and _looked_for(anomaly, name, evidences(verdict)):
            assert anomaly in evidences(verdict), name
        for finding in verdict.findings:
            assert (
                finding.details["evidence"].meaning == ANOMALIES[finding.details["evidence"].anomaly].meaning
            )


def _looked_for(anomaly: str, asked: str, found: Collection[str]) -> bool:
    """Not where real time closes a shorter cycle than the order of a process does. Snapshots are only looked for where
    snapshot isolation is asked for.
    """
    if anomaly.startswith("G-SI"):
        return asked.endswith("snapshot-isolation") and len(found) == 1
    return not (anomaly.endswith("-process") and anomaly.replace("-process", "-realtime") in found)


@pytest.mark.parametrize("anomaly", PLANTED)
def test_the_weakest_properties_ruled_out_are_named(anomaly: str) -> None:
    ops, weakest = PLANTED[anomaly]
    asked = (
        next(each for each in reversed(PROPERTIES) if implies(each, weakest[0]) and "-session" in each)
        if ("process" in anomaly)
        else "strict-serializable"
    )
    if "SI" in anomaly:
        asked = weakest[1]
    finding = judge(ops, asked).findings[0]
    assert set(weakest) <= set(finding.details["rules_out"])
    assert f"not {weakest[0]}" in finding.message


def test_a_write_skew_that_no_choice_of_snapshots_explains_is_g_si() -> None:
    ops, _ = PLANTED["G-SI"]
    found = evidences(judge(ops, SI))
    assert list(found) == ["G-SI"]
    assert any("suppose that" in sentence for sentence in found["G-SI"].sentences)


VALID = {
    "one reader": one_after_another("x+1", "x[1]"),
    "own appends are seen": at_once("x+1 x[1] x+2 x[1,2] x[1,2]", "x[]"),
    "null is empty": at_once("x?", "x+1"),
    "a failed append has no effect": one_after_another("x+1", "fail: x+2", "x[1]"),
    "an info that was seen": one_after_another("info: x+1", "x[1]"),
    "an info that was not seen": one_after_another("info: x+1", "x[]"),
    "an info may take effect at any later time": one_after_another(
        "info: x+1", "x[]", "x+2", "x[2]", "x[2,1]"
    ),
    "appends that nobody read": one_after_another("x+1", "x[1]", "x+2", "x+3"),
    "a process goes on after an info": one_after_another("info: x+1", "x[]", "x[1]", process=0),
    "elements of all kinds": one_after_another(
        'x+"a"',
        'x["a"] x+1.5',
        'x["a",1.5] x+36893488147419103232',
        "y+true",
        'x["a",1.5,36893488147419103232] y[true]',
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_history_has_every_property(name: str) -> None:
    for each in PROPERTIES:
        verdict = judge(VALID[name], each)
        assert verdict.outcome is Outcome.OK, verdict.findings
        assert verdict.checked["transactions"] > 0


def test_an_unread_append_comes_after_those_who_read_all_else() -> None:
    """What Elle's inference leaves open: T1's 2 was never read, so that T2, which read [1], came before T1; but T2 also
    read T1's append to y.
    """
    ops = at_once("x+2 y+1", "x[1] y[1]", "x+1")
    assert "G-single" in evidences(judge(ops, "serializable"))


def test_an_unread_append_of_an_info_that_committed_counts() -> None:
    ops = at_once("info: x+2 y+1", "x[1] y[1]", "x+1")
    assert "G-single" in evidences(judge(ops, "serializable"))


def test_many_readers_and_many_unread_appends_of_one_key_need_no_edge_for_each_pair() -> None:
    ops = at_once(*["x[]"] * 300, *[f"x+{number}" for number in range(300)])
    verdict = judge(ops)
    assert verdict.outcome is Outcome.OK
    assert verdict.checked["dependencies"] == 600
    ops.append(Op(601, 601, "txn", "ok", None, [["r", "x", []]], 1000, 1001))
    assert "G-single-realtime" in evidences(judge(ops))


def test_a_write_cycle_with_an_info_does_not_rule_out_read_uncommitted() -> None:
    """The info may have been aborted, and what was seen of it dirty: that is no worse than an aborted read."""
    ops = at_once("info: x+1 y+1", "x+2 y+2", "x[1,2] y[2,1]")
    assert judge(ops, "read-uncommitted").outcome is Outcome.OK
    verdict = judge(ops, "read-committed")
    assert list(evidences(verdict)) == ["G0"]
    assert verdict.findings[0].details["rules_out"] == ["read-committed"]


def test_no_transaction_that_committed_is_nothing_to_judge() -> None:
    for ops in ([], at_once("fail: x+1", "info: x+2")):
        verdict = judge(ops)
        assert verdict.outcome is Outcome.UNKNOWN
        assert "nothing to check" in verdict.findings[0].message


def test_two_transactions_that_append_the_same_element_are_undecidable_and_named() -> None:
    verdict = judge(at_once("x+1", "y+1", "x+1", "x[1]"))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "T1 and T3 both appended 1 to key x" in verdict.findings[0].message
    assert "T1 twice appended 1" in judge(at_once("x+1 x+1")).findings[0].message


def test_a_failed_attempt_to_append_the_same_element_leaves_no_doubt() -> None:
    assert judge(one_after_another("fail: x+1", "x+1", "x[1]")).outcome is Outcome.OK


def test_past_the_limit_nothing_is_concluded() -> None:
    verdict = check(iter(at_once("x+1", "x[1]")), "serializable", Budget(limit_s=0))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "the limit of 0 s was reached" in verdict.findings[0].message


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        [["r", "x"]],
        [["w", "x", 1]],
        [["r", "x", 3]],
        [["append", ["x"], 1]],
        [["append", "x", {}]],
        [[]],
    ],
)
def test_what_is_no_list_append_transaction_is_refused_with_its_line(value: Any) -> None:
    ops = [*at_once("x+1"), Op(2, 2, "txn", "ok", None, value, 7, 8, 17)]
    with pytest.raises(HistoryError, match=r"T2 is .* was expected") as caught:
        judge(ops)
    assert caught.value.line == 17


def test_a_read_that_did_not_return_needs_no_third_element() -> None:
    ops = [*at_once("x+1"), Op(2, 2, "txn", "info", None, [["r", "x"], ["append", "x", 2]], 7, NEVER)]
    assert judge(ops).outcome is Outcome.OK


def test_an_unknown_property_is_a_usage_error_that_lists_them() -> None:
    with pytest.raises(UsageError, match="strict-serializable"):
        judge(at_once("x+1"), "PL-7")


def test_aliases_are_the_same_properties() -> None:
    verdict = judge(PLANTED["G2-item"][0], "PL-2.99")
    assert verdict.property_name == "repeatable-read"
    assert verdict.outcome is Outcome.VIOLATION


def test_the_collector_of_cycles_is_as_it_was_before() -> None:
    assert gc.isenabled()
    judge(at_once("x+1"))
    assert gc.isenabled()
    with pytest.raises(HistoryError):
        judge([Op(1, 1, "txn", "ok", None, 5, 1, 2)])
    assert gc.isenabled()


def test_operations_may_come_from_a_generator_in_any_order() -> None:
    ops = one_after_another("x+1", "x[1] x+2", "x[1,2]")
    assert check((op for op in reversed(ops)), "strict-serializable", Budget()).outcome is Outcome.OK


def test_the_model_fits_appends_and_reads_only() -> None:
    assert LIST_APPEND.fits(Shape(frozenset({"txn"}), frozenset({"append", "r"}), False))
    assert not LIST_APPEND.fits(Shape(frozenset({"txn"}), frozenset({"w", "r"}), False))
    assert not LIST_APPEND.fits(Shape(frozenset({"txn"}), frozenset({"r"}), False))


def test_the_example_of_elles_paper_is_read_skew() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "histories" / "jepsen" / "paper-example.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: the recorded histories of others are kept apart")
    events = [
        Event(place, place + 1, each["process"], each["type"], "txn", each["value"], {})
        for place, each in enumerate(json.loads(path.read_text(encoding="utf-8")))
    ]
    verdict = judge(list(pair(events)))
    assert verdict.outcome is Outcome.VIOLATION
    assert "G-single" in evidences(verdict)
    assert set(verdict.findings[0].details["rules_out"]) == {RR, SI}


def test_a_key_that_changes_between_two_reads_of_a_transaction_is_internal_and_allowed_at_read_committed() -> (
    None
):
    ops = at_once("x[] x[1]", "x+1")
    assert {"internal", "G-single"} <= set(evidences(judge(ops, RR)))
    assert judge(ops, "read-committed").outcome is Outcome.OK


def test_an_element_without_one_that_its_transaction_appended_before_it_is_in_no_order() -> None:
    assert "incompatible-order" in evidences(judge(at_once("x+1 x+2", "x[2]"), "read-uncommitted"))
    assert "incompatible-order" in evidences(judge(at_once("x+1 x+2", "x[2,1]"), "read-uncommitted"))


def test_what_an_info_appended_may_be_out_of_order_where_it_may_have_been_aborted() -> None:
    ops = at_once("info: x+1 x+2", "x[2]")
    assert judge(ops, "read-uncommitted").outcome is Outcome.OK
    assert "incompatible-order" in evidences(judge(ops, "read-committed"))


def test_what_a_transaction_alone_saw_of_itself_is_no_order_for_others_at_read_committed() -> None:
    ops = at_once("x+1 x[1]", "x+2", "x[2]")
    assert judge(ops, "read-committed").outcome is Outcome.OK
    assert judge(ops, "serializable").outcome is Outcome.VIOLATION


def test_an_element_that_comes_again_later_is_a_duplicate_and_nothing_else() -> None:
    assert list(evidences(judge(at_once("x+1", "x+2", "x[1,2,1]")))) == ["duplicate-elements"]
    assert "duplicate-elements" in evidences(judge(at_once("x+1 x[1,2,1]", "x+2"), "read-uncommitted"))
    assert "duplicate-elements" in evidences(judge(at_once("x+1 x[1,1]"), "read-uncommitted"))


def test_lost_updates_that_nobody_read_are_a_cycle_too() -> None:
    ops = at_once("x[] x+1", "x[] x+2", "x[] x+3", "x[]")
    assert {"lost-update", "G2-item"} <= set(evidences(judge(ops, "serializable")))


def test_reads_that_are_no_beginning_of_one_another_are_looked_into() -> None:
    found = evidences(judge(at_once("x+1", "x+2", "fail: x+3", "x[1,2]", "x[3,1,9,1]"), "read-committed"))
    assert set(found) == {"incompatible-order", "G1a", "phantom-element", "duplicate-elements"}
    assert found["incompatible-order"].sentences[0] == "T5 read [3 1 9 1] of key x, but T4 read [1 2]."
    assert found["G1a"].sentences[0] == "T5 read [3 1 9 1] of key x, in which 3 is from T3, but T3 failed."


def test_at_most_eight_findings_are_shown_the_shortest_first() -> None:
    ops = []
    for place, (planted, _) in enumerate(PLANTED.values()):
        for op in planted:
            value = [[function, f"{key}{place}", *rest] for function, key, *rest in op.value]
            process, begin = op.process + 10 * place, 1000 * place
            end = NEVER if op.completed == NEVER else begin + op.completed
            ops.append(Op(len(ops) + 1, process, "txn", op.outcome, value, value, begin + op.invoked, end))
    verdict = judge(ops)
    lengths = [len(finding.details["evidence"].operations) for finding in verdict.findings]
    assert lengths == sorted(lengths)
    assert len(lengths) == 8
    assert verdict.findings[0].details["rules_out"] == ["read-uncommitted"]
