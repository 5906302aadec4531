"""Register histories: each anomaly planted, found and named, at the properties that rule it out and at no others."""

from __future__ import annotations

from typing import Any

import pytest

from harness.budget import Budget
from harness.dependency.catalogue import PROPERTIES, implies
from harness.errors import HistoryError, UsageError
from harness.evidence import NEVER, Evidence
from harness.models.base import Shape
from harness.models.rw_register import RW_REGISTER
from harness.recorded import Op
from harness.verdict import Outcome, Verdict

Micro = list[Any]


def w(key: str, value: Any) -> Micro:
    return ["w", key, value]


def r(key: str, value: Any) -> Micro:
    return ["r", key, value]


def d(key: str) -> Micro:
    return ["d", key]


def op(process: int, micros: list[Micro], began: int, ended: int, outcome: Any = "ok") -> Op:
    """One transaction; numbers and positions are settled by ``history``."""
    return Op(0, process, "txn", outcome, micros, micros, began, ended if outcome != "info" else NEVER, began)


def history(*ops: Op) -> list[Op]:
    """Operations numbered by invocation, in the order of completion."""
    numbered = [
        Op(
            i,
            each.process,
            each.f,
            each.outcome,
            each.value,
            each.value,
            each.invoked,
            each.completed,
            each.line,
        )
        for i, each in enumerate(sorted(ops, key=lambda each: each.invoked), 1)
    ]
    return sorted(numbered, key=lambda each: (each.completed, each.invoked))


def together(*transactions: list[Micro]) -> list[Op]:
    """Concurrent transactions of a process each."""
    return history(*(op(i, micros, i, 100 + i) for i, micros in enumerate(transactions)))


def apart(*transactions: list[Micro]) -> list[Op]:
    """Transactions one after another, of a process each."""
    return history(*(op(i, micros, 2 * i, 2 * i + 1) for i, micros in enumerate(transactions)))


def check(ops: list[Op], name: str = "strict-serializable") -> Verdict:
    return RW_REGISTER.check(ops, name, Budget())


def evidence(verdict: Verdict) -> list[Evidence]:
    return [finding.details["evidence"] for finding in verdict.findings]


G1A = history(op(0, [w("x", 1)], 0, 3, "fail"), op(1, [r("x", 1)], 1, 2))
G1B = together([w("x", 1), w("x", 2)], [r("x", 1)])
G1C = together([w("x", 1), r("y", 2)], [w("y", 2), r("x", 1)])
G1C_PROCESS = history(op(0, [r("x", 1)], 0, 1), op(0, [w("x", 1)], 2, 3))
G1C_REALTIME = apart([r("x", 1)], [w("x", 1)])
READ_SKEW = together([w("x", 1), w("y", 1)], [r("x", 1), r("y", None)])
STALE_PROCESS = history(op(0, [w("x", 1)], 0, 1), op(0, [r("x", None)], 2, 3))
STALE_REALTIME = apart([w("x", 1)], [r("x", None)])
LONG_FORK = together([w("x", 1)], [w("y", 1)], [r("x", 1), r("y", None)], [r("x", None), r("y", 1)])
WRITE_SKEW = together([r("x", None), w("y", 1)], [r("y", None), w("x", 1)])
LOST_UPDATE = together([w("x", 0)], [r("x", 0), w("x", 1)], [r("x", 0), w("x", 2)])
INTERNAL = together([w("x", 1), r("x", 2)], [w("x", 2)])
UNREPEATABLE = together([r("x", 1), r("x", 2)], [w("x", 1)], [w("x", 2)])
FUTURE = together([r("x", 1), w("x", 1)])
PHANTOM = together([w("x", 1)], [r("x", 9)])
BOTH_WAYS = together([w("x", 1), w("y", 1)], [w("x", 2), w("y", 2)], [r("x", 1), r("y", 2)])
DELETED_LATE = apart([w("x", 1)], [d("x")], [w("x", 2)], [r("x", None)])

PLANTED = [
    ("G1a", G1A, {"read-committed"}),
    ("G1b", G1B, {"read-committed"}),
    ("G1c", G1C, {"read-committed"}),
    ("G1c-process", G1C_PROCESS, {"strong-session-read-committed"}),
    ("G1c-realtime", G1C_REALTIME, {"strong-read-committed"}),
    ("G-single", READ_SKEW, {"repeatable-read", "snapshot-isolation"}),
    ("G-single", BOTH_WAYS, {"repeatable-read", "snapshot-isolation"}),
    (
        "G-single-process",
        STALE_PROCESS,
        {"strong-session-repeatable-read", "strong-session-snapshot-isolation"},
    ),
    ("G-single-realtime", STALE_REALTIME, {"strong-repeatable-read", "strong-snapshot-isolation"}),
    ("G-single-realtime", DELETED_LATE, {"strong-repeatable-read", "strong-snapshot-isolation"}),
    ("G-nonadjacent", LONG_FORK, {"repeatable-read", "snapshot-isolation"}),
    ("G2-item", WRITE_SKEW, {"repeatable-read"}),
    ("lost-update", LOST_UPDATE, {"repeatable-read", "snapshot-isolation"}),
    ("internal", INTERNAL, {"repeatable-read", "snapshot-isolation"}),
    ("internal", UNREPEATABLE, {"repeatable-read", "snapshot-isolation"}),
    ("future-read", FUTURE, {"read-committed"}),
    ("phantom-value", PHANTOM, {"read-uncommitted"}),
]


@pytest.mark.parametrize(("anomaly", "ops", "weakest"), PLANTED)
def test_each_anomaly_is_found_named_and_ruled_out_where_it_should_be(
    anomaly: str, ops: list[Op], weakest: set[str]
) -> None:
    for name in PROPERTIES:
        verdict = check(ops, name)
        if any(implies(name, each) for each in weakest):
            assert verdict.outcome is Outcome.VIOLATION, name
            assert anomaly in {each.anomaly for each in evidence(verdict)}, name
            assert set(verdict.findings[0].details["rules_out"]) <= weakest, name
        else:
            assert (verdict.outcome, verdict.findings) == (Outcome.OK, ()), name


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize(
    "ops",
    [
        pytest.param(apart([r("x", None)], [w("x", 1)], [r("x", 1), w("x", 2)], [r("x", 2)]), id="in turn"),
        pytest.param(together([r("x", 2)], [w("x", 1)], [w("x", 2)], [r("x", 1)]), id="blind writes"),
        pytest.param(apart([w("x", 1)], [d("x")], [r("x", None)], [w("x", 1)], [r("x", 1)]), id="deleted"),
        pytest.param(together([w("x", 1), r("x", 1), d("x"), r("x", None)], [r("x", None)]), id="own writes"),
        pytest.param(apart([w("x", 1)], [w("x", 2)], [w("x", 1)], [r("x", 1)]), id="the same value twice"),
        pytest.param(
            history(
                op(0, [w("x", 1)], 0, 1),
                op(1, [d("x"), w("y", 1)], 2, 0, "info"),
                op(2, [r("x", 1), r("y", None)], 3, 4),
                op(3, [r("x", None)], 5, 6),
            ),
            id="an indeterminate delete took effect in between",
        ),
        pytest.param(
            history(
                op(0, [w("x", 1), w("y", 1)], 0, 0, "info"),
                op(1, [r("x", None), r("y", None)], 1, 2),
                op(0, [r("y", None)], 3, 4),
            ),
            id="an indeterminate one never took effect",
        ),
        pytest.param(history(op(0, [w("x", 1)], 0, 3, "fail"), op(1, [r("x", None)], 1, 2)), id="failed"),
    ],
)
def test_valid_histories_are_ok_at_every_level(ops: list[Op], name: str) -> None:
    assert check(ops, name).outcome is Outcome.OK


def test_the_second_delete_is_as_good_as_the_first() -> None:
    deleted = [[w("x", 1)], [d("x")], [w("x", 2)], [d("x")], [r("x", None)]]
    assert check(apart(*deleted)).outcome is Outcome.OK
    assert check(apart(*deleted[:3], deleted[4])).outcome is Outcome.VIOLATION


def test_a_choice_that_fails_both_ways_shows_both_reasons() -> None:
    verdict = check(BOTH_WAYS, "serializable")
    (shown,) = evidence(verdict)
    assert [each.name for each in shown.operations] == ["T1", "T2", "T3"]
    told = " ".join(shown.sentences)
    assert "T3 read 1 of key x, and T2 wrote 2 to it (1 is by T1)" in told
    assert "T3 read 2 of key y, which T2 wrote" in told
    assert shown.sentences[-1].endswith("which no order of these transactions allows.")


def test_a_stale_read_is_told_with_what_it_missed() -> None:
    verdict = check(apart([w("x", 1)], [w("x", 2)], [r("x", 1)]))
    (shown,) = evidence(verdict)
    assert shown.anomaly == "G-single-realtime"
    assert {(edge.source, edge.target, edge.kind) for edge in shown.edges} == {
        ("T3", "T2", "rw"),
        ("T2", "T3", "realtime"),
    }
    assert (
        "T2 did not come before T1 (T1 had finished before T2 began), so T3 came before T2"
        in shown.sentences[0]
    )
    assert "not strong-snapshot-isolation" in verdict.findings[0].message


def test_a_lost_update_names_the_two_and_what_both_had_read() -> None:
    shown = evidence(check(LOST_UPDATE, "snapshot-isolation"))[0]
    assert [each.name for each in shown.operations] == ["T2", "T3"]
    assert shown.sentences[0].startswith(
        "T2 read 0 of key x, and T3 wrote 2 after it had read the same version, so T2 did not see what T3 wrote"
    )


def test_lines_and_texts_of_the_operations_are_shown() -> None:
    shown = evidence(check(READ_SKEW, "serializable"))[0]
    assert [each.text for each in shown.operations] == ["write x 1, write y 1", "read x -> 1, read y -> null"]
    assert [each.process for each in shown.operations] == ["0", "1"]


def test_what_an_indeterminate_transaction_read_says_nothing() -> None:
    ops = history(op(0, [r("x", 5)], 0, 0, "info"), op(1, [r("x", None)], 1, 2))
    assert check(ops).outcome is Outcome.OK


def test_a_value_that_was_read_shows_that_an_indeterminate_write_took_effect() -> None:
    ops = history(op(0, [w("x", 1)], 0, 0, "info"), op(1, [r("x", 1)], 1, 2), op(2, [r("x", None)], 3, 4))
    assert [each.anomaly for each in evidence(check(ops))] == ["G-single-realtime"]
    assert check(ops, "serializable").outcome is Outcome.OK


def test_the_order_of_a_process_goes_on_past_an_indeterminate_transaction() -> None:
    ops = history(op(0, [w("x", 1)], 0, 1), op(0, [r("y", None)], 2, 0, "info"), op(0, [r("x", None)], 3, 4))
    assert check(ops, "strong-session-serializable").outcome is Outcome.VIOLATION
    assert check(ops, "serializable").outcome is Outcome.OK


def test_nothing_committed_is_unknown() -> None:
    verdict = check(history(op(0, [w("x", 1)], 0, 1, "fail"), op(1, [w("x", 2)], 2, 0, "info")))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "No transaction is known to have committed" in verdict.findings[0].message


def test_past_the_budget_is_unknown_and_says_what_was_decided() -> None:
    verdict = RW_REGISTER.check(WRITE_SKEW, "serializable", Budget(limit_s=0.0))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "the limit of 0 s was reached" in verdict.findings[0].message


@pytest.mark.parametrize("micro", [["append", "x", 1], ["w", "x"], ["r", ["x"], 1], "wx1", ["w", "x", [1]]])
def test_what_is_no_register_operation_is_an_error_with_its_line(micro: Any) -> None:
    with pytest.raises(HistoryError) as caught:
        check(history(op(0, [micro], 7, 8)))
    assert caught.value.line == 7
    assert "T1" in str(caught.value)


def test_an_unknown_property_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        check(WRITE_SKEW, "nice")


def test_other_names_of_properties_are_understood() -> None:
    assert check(WRITE_SKEW, "PL-3").property_name == "serializable"
    assert check(WRITE_SKEW, "SI").outcome is Outcome.OK


def test_the_model_fits_reads_writes_and_deletes_only() -> None:
    assert RW_REGISTER.fits(Shape(frozenset({"txn"}), frozenset({"r", "w"}), False))
    assert RW_REGISTER.fits(Shape(frozenset({"txn"}), frozenset({"d", "w"}), False))
    assert not RW_REGISTER.fits(Shape(frozenset({"txn"}), frozenset({"r"}), False))
    assert not RW_REGISTER.fits(Shape(frozenset({"txn"}), frozenset({"r", "append"}), False))


@pytest.mark.parametrize("deletes", [False, True])
def test_a_few_thousand_transactions_of_a_serial_store_are_ok_and_one_stale_read_is_found(
    deletes: bool,
) -> None:
    ops = serial_store(4000, deletes)
    assert check(ops).outcome is Outcome.OK
    assert check(ops, "snapshot-isolation").outcome is Outcome.OK
    at = next(i for i in range(3000, 4000) if ops[i].value[0][0] == "r" and ops[i].value[0][2] is not None)
    stale = next(each.value[1] for each in ops[2000:] if each.value[1][:2] == ["w", ops[at].value[0][1]])
    ops[at].value[0][2] = stale[2]
    verdict = check(ops)
    assert verdict.outcome is Outcome.VIOLATION
    assert {each.anomaly for each in evidence(verdict)} <= {
        "G-single",
        "G-single-realtime",
        "G2-item-realtime",
        "G2-item",
        "lost-update",
    }


def serial_store(count: int, deletes: bool) -> list[Op]:
    """Five processes that overlap, over a store that does one transaction at a time: each reads a key and writes one.
    A transaction takes effect between its invocation and its completion, not always in the order of completion.
    """
    state: dict[str, Any] = {}
    made = []
    for i in range(count):
        read, written = f"k{i * 7 % 10}", f"k{i * 3 % 11}"
        micros = [r(read, state.get(read)), d(written) if deletes and i % 5 == 0 else w(written, i)]
        state[written] = None if micros[1][0] == "d" else i
        made.append(op(i % 5, micros, 10 * i - i % 3, 10 * i + 11 + 7 * (i % 3)))
    return history(*made)
