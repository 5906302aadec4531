"""Transactions as columns, the orders of processes and of real time, and what the properties rule out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.dependency.catalogue import (
    ALIASES,
    ANOMALIES,
    LEVELS,
    PROPERTIES,
    find_property,
    implies,
    ruled_out,
    weakest_ruled_out,
)
from harness.dependency.graph import PROCESS, REALTIME, VIA, Edges, components, cyclic, edges, join
from harness.dependency.realtime import process_edges, realtime_edges
from harness.dependency.transactions import FAIL, INFO, OK, Recorder, Transactions
from harness.errors import UsageError
from harness.evidence import NEVER
from harness.recorded import Op


def recorded(ops: list[Op]) -> Transactions:
    recorder = Recorder()
    for op in ops:
        recorder.add(op)
    return recorder.finish()[0]


def random_ops(rng: random.Random, count: int) -> list[Op]:
    """Operations of a few processes, each of which does one thing at a time, in the order of their completion."""
    ops = []
    for process in range(rng.randint(1, 4)):
        at = rng.random()
        for _ in range(count):
            begin, end = at, at + rng.random() * 3
            at = end + rng.random()
            ops.append((begin, end, process))
    moments = sorted(moment for begin, end, _ in ops for moment in (begin, end))
    made = []
    for number, (begin, end, process) in enumerate(sorted(ops), 1):
        outcome = rng.choice(("ok", "ok", "fail", "info"))
        completed = NEVER if outcome == "info" else moments.index(end)
        made.append(Op(number, process, "txn", outcome, None, None, moments.index(begin), completed))
    return sorted(made, key=lambda op: op.completed)


def reach(found: Edges, nodes: int, transactions: int) -> set[tuple[int, int]]:
    """Which transactions can be reached from which, by a brute force."""
    matrix = np.zeros((nodes, nodes), dtype=bool)
    matrix[found.source, found.target] = True
    for middle in range(nodes):
        matrix |= np.outer(matrix[:, middle], matrix[middle])
    return {(int(a), int(b)) for a, b in np.argwhere(matrix[:transactions, :transactions])}


def test_rows_are_in_the_order_of_invocation_and_say_where_each_operation_went() -> None:
    recorder = Recorder()
    recorder.add(Op(2, "b", "txn", "ok", None, None, 5, 6, 11, 12))
    recorder.add(Op(1, "a", "txn", "info", None, None, 3, NEVER, 9))
    transactions, rows = recorder.finish()
    assert rows.tolist() == [1, 0]
    assert transactions.outcome.tolist() == [INFO, OK]
    assert [transactions.name(row) for row in (0, 1)] == ["T1", "T2"]
    shown = transactions.shown(1, "did this", "culprit")
    assert (shown.process, shown.invoked, shown.completed, shown.line, shown.line_completed) == (
        "b",
        5,
        6,
        11,
        12,
    )
    assert (shown.outcome, shown.text, shown.role) == ("ok", "did this", "culprit")
    assert transactions.shown(0, "").completed == NEVER


@pytest.mark.parametrize("seed", range(200))
def test_paths_through_moments_are_real_time(seed: int) -> None:
    transactions = recorded(random_ops(random.Random(seed), 5))
    committed = transactions.outcome != FAIL
    found, moments = realtime_edges(transactions, committed, transactions.count)
    rows = np.flatnonzero(committed).tolist()
    wanted = {(a, b) for a in rows for b in rows if transactions.completed[a] < transactions.invoked[b]}
    assert reach(found, transactions.count + moments, transactions.count) == wanted, seed
    assert found.count <= 3 * len(rows)
    assert set(found.kind[found.source < transactions.count].tolist()) <= {REALTIME}
    assert set(found.kind[found.source >= transactions.count].tolist()) <= {VIA}


@pytest.mark.parametrize("seed", range(200))
def test_paths_of_process_edges_are_real_time_within_a_process(seed: int) -> None:
    transactions = recorded(random_ops(random.Random(seed), 5))
    committed = transactions.outcome != FAIL
    found = process_edges(transactions, committed)
    rows = np.flatnonzero(committed).tolist()
    wanted = {
        (a, b)
        for a in rows
        for b in rows
        if transactions.process[a] == transactions.process[b]
        and transactions.completed[a] < transactions.invoked[b]
    }
    assert reach(found, transactions.count, transactions.count) == wanted, seed
    assert set(found.kind.tolist()) <= {PROCESS}


def test_nothing_has_no_order() -> None:
    nothing = recorded([])
    committed = np.zeros(0, dtype=bool)
    assert process_edges(nothing, committed).count == 0
    found, moments = realtime_edges(nothing, committed, 0)
    assert (found.count, moments) == (0, 0)


def test_an_edge_from_a_node_to_itself_is_left_out() -> None:
    found = edges(np.array([0, 1]), np.array([1, 1]), PROCESS, np.array([7, 8]), 3)
    assert (found.source.tolist(), found.target.tolist(), found.key.tolist(), found.at.tolist()) == (
        [0],
        [1],
        [7],
        [3],
    )


@pytest.mark.parametrize("seed", range(50))
def test_components_are_what_can_be_reached_both_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = edges(rng.integers(0, 12, 18), rng.integers(0, 12, 18), PROCESS)
    found = join([found, found, found])  # the same edge several times is one
    pairs = reach(found, 12, 12)
    labels = components(12, found.source, found.target)
    for a in range(12):
        for b in range(a):
            assert (labels[a] == labels[b]) == ((a, b) in pairs and (b, a) in pairs), seed
    on_cycle = cyclic(12, found.source, found.target)
    ends = zip(found.source.tolist(), found.target.tolist(), strict=True)
    assert on_cycle.tolist() == [(b, a) in pairs for a, b in ends], seed


def test_a_thousand_equal_edges_are_no_overflow() -> None:
    source, target = np.array([0] * 1024 + [1]), np.array([1] * 1024 + [0])
    assert cyclic(2, source.astype(np.int32), target.astype(np.int32)).all()


def test_every_property_rules_out_what_weaker_ones_do() -> None:
    for one in PROPERTIES.values():
        for other in PROPERTIES.values():
            if implies(one.name, other.name):
                assert other.rules_out <= one.rules_out
    assert all(implies("strict-serializable", name) for name in PROPERTIES)
    assert not implies("snapshot-isolation", "repeatable-read")
    assert not implies("repeatable-read", "snapshot-isolation")
    assert not implies("serializable", "strong-session-read-uncommitted")
    assert len(PROPERTIES) == 3 * len(LEVELS)


def test_every_anomaly_is_ruled_out_by_strict_serializability_and_explained() -> None:
    assert PROPERTIES["strict-serializable"].rules_out == set(ANOMALIES)
    for name, anomaly in ANOMALIES.items():
        assert anomaly.name == name
        assert anomaly.meaning.endswith(".")
        assert anomaly.source
        assert "strict-serializable" in ruled_out([name])


@pytest.mark.parametrize(
    ("anomalies", "weakest"),
    [
        ([], ()),
        (["G0", "G2-item"], ("read-uncommitted",)),
        (["G1a"], ("read-committed",)),
        (["G-single"], ("repeatable-read", "snapshot-isolation")),
        (["G2-item"], ("repeatable-read",)),
        (["G2-item", "G-nonadjacent"], ("repeatable-read", "snapshot-isolation")),
        (["G-SI"], ("snapshot-isolation",)),
        (["G1c-realtime"], ("strong-read-committed",)),
        (["G1c-realtime", "G2-item"], ("repeatable-read", "strong-read-committed")),
        (["G0-process", "G1c"], ("read-committed", "strong-session-read-uncommitted")),
    ],
)
def test_the_weakest_properties_that_anomalies_rule_out(
    anomalies: list[str], weakest: tuple[str, ...]
) -> None:
    assert weakest_ruled_out(anomalies) == weakest


def test_properties_have_aliases_and_an_unknown_one_is_a_usage_error() -> None:
    for alias, name in ALIASES.items():
        assert find_property(alias) is PROPERTIES[name]
    with pytest.raises(UsageError, match="no isolation property; there are read-uncommitted"):
        find_property("acid")
