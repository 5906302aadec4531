"""Thousands of right histories, in which nothing may be found, and planted anomalies, which must be."""

from __future__ import annotations

from random import Random

import planted_resolves
import pytest
from planted_histories import PLANTED
from serial_database import SerialDatabase, make, make_any

from harness import judge
from harness.checkers import resolution
from harness.checkers.operation import Operation
from harness.checkers.order import place
from harness.judge import Judgement, Run
from harness.plan import Limits, Plan
from harness.verdict import Outcome


def judged(db: SerialDatabase, operations: list[Operation]) -> Judgement:
    """Judged with the floors of traffic at zero: these histories are short."""
    plan = Plan(1, limits=Limits(operations_min=0, kills_min=0, point_kills_min=0))
    environment = {"dense_sequences": "yes"} if db.settings.dense else {}
    return judge.judge(Run(plan, environment, operations, [], db.run_events))


def outcome_of(judgement: Judgement, property_name: str) -> Outcome:
    return next(v.outcome for v in judgement.verdicts if v.property_name == property_name)


def said(judgement: Judgement) -> str:
    return "\n".join(f.message for f in judgement.overall.findings)


@pytest.mark.parametrize("block", range(6))
def test_nothing_is_found_in_right_histories(block: int) -> None:
    for seed in range(block * 400, (block + 1) * 400):
        db = make_any(seed)
        judgement = judged(db, judge.join(db.histories.values()))
        wrong = [v for v in judgement.verdicts if v.outcome is Outcome.VIOLATION]
        assert not wrong, f"seed {seed}: {said(judgement)}"


def test_fate_of_killed_writes_is_never_told_wrongly() -> None:
    told = 0
    for seed in range(400):
        db = make_any(seed)
        order = place(judge.join(db.histories.values()), dense=db.settings.dense)
        committed, absent, hidden = resolution.settle(order)
        assert {op.id for op in committed} <= db.committed, f"seed {seed}"
        assert not {op.id for op in absent} & db.committed, f"seed {seed}"
        told += len(committed) > 0 and len(absent) > 0 and len(hidden) > 0
    assert told > 50, "too few histories in which each fate occurs"


assert planted_resolves.plants, "importing it registers its planters"


@pytest.mark.parametrize("name", PLANTED)
def test_planted_anomaly_is_found_by_its_checker(name: str) -> None:
    property_name, planter = PLANTED[name]
    planted_count = 0
    for seed in range(40):
        db = make(seed, steps=400, kill=0.05)
        operations = planter(db, judge.join(db.histories.values()), Random(seed))
        if operations is None:
            continue
        planted_count += 1
        judgement = judged(db, operations)
        assert outcome_of(judgement, property_name) is Outcome.VIOLATION, f"seed {seed}: {said(judgement)}"
        assert judgement.overall.outcome is Outcome.VIOLATION
    assert planted_count >= 5, "too few histories offered a place for it"


def test_same_history_gets_the_same_verdict() -> None:
    db = make(3)
    operations = judge.join(db.histories.values())
    assert judged(db, operations) == judged(db, list(operations))
