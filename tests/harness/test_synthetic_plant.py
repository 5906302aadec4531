"""Each planted anomaly is found under its own name, and nothing else is, in short and in long histories."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from harness.checking import check_operations
from harness.dependency.catalogue import ANOMALIES, CYCLES, ORDERS
from harness.errors import UsageError
from harness.models.base import Model
from harness.models.list_append import LIST_APPEND
from harness.models.rw_register import RW_REGISTER
from harness.recorded import Event, pair
from harness.synthetic.database import HISTORIES
from harness.synthetic.plant import PLANTS, REGISTER_PLANTS, Plant, planted
from harness.verdict import Outcome

MODELS: dict[str, tuple[Model, Mapping[str, Plant]]] = {
    "list-append": (LIST_APPEND, PLANTS),
    "rw-register": (RW_REGISTER, REGISTER_PLANTS),
}
CASES = pytest.mark.parametrize(
    ("name", "anomaly"), [(name, anomaly) for name, (_, plants) in MODELS.items() for anomaly in plants]
)
STRONGEST = "strict-serializable"


@cache
def valid(name: str, transactions: int, seed: int) -> list[Event]:
    return list(HISTORIES[name](transactions, seed, info=0.01, fail=0.05))


def found(name: str, events: list[Event], property_name: str = STRONGEST) -> set[str]:
    """The names of all anomalies found."""
    verdict = check_operations(pair(events), MODELS[name][0], property_name)
    assert (verdict.outcome is Outcome.VIOLATION) == bool(verdict.findings), verdict
    return {finding.details["evidence"].anomaly for finding in verdict.findings}


def expected(name: str, anomaly: str) -> set[str]:
    return {anomaly, *MODELS[name][1][anomaly].comes_with}


@CASES
def test_a_planted_anomaly_is_found_among_100_transactions_and_nothing_else(name: str, anomaly: str) -> None:
    plants = MODELS[name][1]
    for seed in range(20):
        events = planted(valid(name, 100, seed), anomaly, seed, plants)
        assert found(name, events) == expected(name, anomaly), seed


@pytest.mark.share(4)
@CASES
def test_a_planted_anomaly_is_found_among_100_000_transactions_and_nothing_else(
    name: str, anomaly: str
) -> None:
    events = planted(valid(name, 100_000, 1), anomaly, 7, MODELS[name][1])
    assert found(name, events) == expected(name, anomaly)


@pytest.mark.parametrize("anomaly", ["G0-process", "G0-realtime"])
def test_no_path_through_the_rest_gives_a_cycle_another_name(anomaly: str) -> None:
    """The first plants left up to three events between two transactions that follow one another. In one place of
    hundreds a read of a third transaction's append fitted in between, and the cycle around it was a G1c-realtime.
    """
    base = valid("list-append", 100, 1)
    for seed in range(300):
        assert found("list-append", planted(base, anomaly, seed)) == {anomaly}, seed


@pytest.mark.parametrize("name", MODELS)
def test_without_a_plant_100_000_transactions_are_valid(name: str) -> None:
    assert found(name, valid(name, 100_000, 1)) == set()


@CASES
def test_a_plant_needs_no_more_of_the_order_than_its_name_says(name: str, anomaly: str) -> None:
    """Without the order of processes, or real time, a variant that needs it is no anomaly."""
    events = planted(valid(name, 30, 3), anomaly, 3, MODELS[name][1])
    weaker = {"-process": "serializable", "-realtime": "strong-session-serializable"}
    for suffix, property_name in weaker.items():
        if anomaly.endswith(suffix):
            assert found(name, events, property_name) == set()
            return
    assert found(name, events, "serializable") == expected(name, anomaly)


@CASES
def test_a_plant_leaves_the_rest_as_it_was(name: str, anomaly: str) -> None:
    base = valid(name, 50, 5)
    events = planted(base, anomaly, 11, MODELS[name][1])
    assert [event.position for event in events] == list(range(len(events)))
    before = {event.process for event in base}
    rest = [event for event in events if event.process in before]
    assert [(event.process, event.type, event.value) for event in rest] == [
        (event.process, event.type, event.value) for event in base
    ]
    keys = {micro[1] for event in base for micro in event.value}
    added = [event for event in events if event.process not in before]
    assert added
    assert not keys & {micro[1] for event in added for micro in event.value}
    assert planted(base, anomaly, 11, MODELS[name][1]) == events


def test_plants_stand_at_different_places_and_their_keys_are_new() -> None:
    base = valid("list-append", 50, 5)
    places = {
        next(event.position for event in planted(base, "G1c", seed) if event.value[0][1] in ("x", "y"))
        for seed in range(30)
    }
    assert len(places) > 15
    twice = planted(planted(base, "G0", 1), "G2-item", 2)
    assert found("list-append", twice) == {"G0", "G2-item"}


def test_nearly_every_anomaly_of_the_catalogue_has_a_plant() -> None:
    cycles = {each + order for order in ("", "-process", "-realtime") for each in CYCLES}
    assert len(ORDERS) == 3
    assert cycles <= set(PLANTS)
    assert set(PLANTS) | set(REGISTER_PLANTS) <= set(ANOMALIES)
    assert set(ANOMALIES) - set(PLANTS) - set(REGISTER_PLANTS) <= {
        "G-SI",
        "G-SI-process",
        "G-SI-realtime",
    }


def test_an_anomaly_without_a_plant_is_a_usage_error_that_lists_them() -> None:
    with pytest.raises(UsageError, match="there are G0, G0-process"):
        planted([], "G3", 0)
