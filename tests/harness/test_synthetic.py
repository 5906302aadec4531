"""The synthetic database makes histories that every checker finds valid, and the workload that it promises."""

from __future__ import annotations

import tracemalloc
from collections import Counter, deque
from itertools import islice

import pytest

from harness.budget import Budget
from harness.models.registry import MODELS
from harness.recorded import Event, pair
from harness.synthetic.clients import record
from harness.synthetic.database import HISTORIES, list_append, mutex
from harness.verdict import Outcome

OPERATIONS = {"set-full": 2_000, "register": 500, "cas-register": 500, "mutex": 500}
"""How many operations of each model are checked, where it is not 5,000: these checks take longest."""


def test_there_is_a_generator_for_every_model() -> None:
    assert set(HISTORIES) == set(MODELS)


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("trouble", [0.0, 0.02])
def test_a_valid_history_has_the_strongest_property_of_its_model(name: str, trouble: float) -> None:
    options = {"fail": trouble} if name == "mutex" else {"info": trouble, "fail": trouble}
    model = MODELS[name]
    for seed in range(3):
        events = HISTORIES[name](OPERATIONS.get(name, 5_000), seed, **options)
        verdict = model.check(pair(events), model.properties[-1], Budget())
        assert verdict.outcome is Outcome.OK, (seed, verdict)


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_is_that_of_its_seed(name: str) -> None:
    one, same, other = (list(HISTORIES[name](200, seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert [event.position for event in one] == list(range(len(one)))


def test_clients_overlap_and_each_does_one_thing_at_a_time() -> None:
    pending: dict[int | str, Event] = {}
    most = 0
    for event in list_append(1_000, processes=10):
        if event.type == "invoke":
            assert event.process not in pending
            pending[event.process] = event
        else:
            began = pending.pop(event.process)
            assert [micro[:2] for micro in began.value] == [micro[:2] for micro in event.value]
        most = max(most, len(pending))
    assert most == 10
    assert not pending


def test_the_workload_is_that_of_elles_measurements() -> None:
    operations = list(pair(list_append(20_000)))
    assert len(operations) == 20_000
    assert {op.process for op in operations} == set(range(10))
    lengths = Counter(len(op.value) for op in operations)
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert min(lengths.values()) > 3_700
    micros = [micro for op in operations for micro in op.value]
    reads = sum(micro[0] == "r" for micro in micros)
    assert 0.49 < reads / len(micros) < 0.51
    appended = Counter(micro[1] for micro in micros if micro[0] == "append")
    assert max(appended.values()) == 100
    used_up = sum(count == 100 for count in appended.values())
    assert used_up > 200
    assert used_up + 95 < max(micro[1] for micro in micros) < used_up + 100  # as many keys are active


def test_no_two_reads_share_a_list() -> None:
    lists = [
        micro[2]
        for op in pair(list_append(2_000))
        for micro in op.value
        if micro[0] == "r" and micro[2] is not None
    ]
    assert len({id(each) for each in lists}) == len(lists) > 2_000


def test_shares_of_failed_and_indeterminate_transactions_are_as_asked() -> None:
    operations = list(pair(list_append(20_000, info=0.1, fail=0.2)))
    outcomes = Counter(op.outcome for op in operations)
    assert 1_800 < outcomes["info"] < 2_200
    assert 3_700 < outcomes["fail"] < 4_300
    assert len({op.process for op in operations}) == 10 + outcomes["info"]


def test_of_indeterminate_transactions_some_take_effect_at_once_some_later_and_some_never() -> None:
    operations = list(pair(list_append(5_000, info=0.1, active=5, appends=30)))
    read_by: dict[tuple[int, int], int] = {}
    for op in operations:
        if op.outcome == "ok":
            for micro in op.value:
                for element in (micro[2] or []) if micro[0] == "r" else []:
                    read_by.setdefault((micro[1], element), op.invoked)
    given_up = [op for op in operations if op.outcome == "info"]
    appends = [
        (op, read_by.get((micro[1], micro[2])))
        for op in given_up
        for micro in op.value
        if micro[0] == "append"
    ]
    seen = [(op, first) for op, first in appends if first is not None]
    assert 0.4 < len(seen) / len(appends) < 0.8
    assert any(first - op.invoked > 60 for op, first in seen)


def test_a_history_streams() -> None:
    events = list_append(10**9)
    deque(islice(events, 2_000), maxlen=0)
    tracemalloc.start()
    try:
        deque(islice(events, 4_000), maxlen=0)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        deque(islice(events, 20_000), maxlen=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 100_000  # 40,000 bytes were measured, and with all keys kept 200,000


def test_a_mutex_is_held_by_one_process() -> None:
    held = 0
    for op in sorted(pair(mutex(500, fail=0.1)), key=lambda op: op.completed):
        if op.outcome == "ok":
            held += 1 if op.f == "acquire" else -1
        assert held in (-1, 0, 1, 2)  # completions of the two may change places, no more
    assert held in (0, 1)


def test_no_operation_at_all_is_an_empty_history() -> None:
    assert list(list_append(0)) == []


def test_a_store_that_lies_makes_a_violation() -> None:
    """The clients add nothing that would hide it: a counter that forgets its first add is out of bounds."""

    class Forgetful:
        def __init__(self, _chance: object) -> None:
            self._sum = -1

        def call(self, _process: int, /) -> tuple[str, int | None, int]:
            return ("read", None, 0) if self._sum > 20 else ("add", 1, 1)

        def apply(self, amount: int, /) -> int:
            self._sum += amount
            return amount or self._sum

    events = record(Forgetful, 100, 0, processes=3)
    assert MODELS["counter"].check(pair(events), "bounds", Budget()).outcome is Outcome.VIOLATION
