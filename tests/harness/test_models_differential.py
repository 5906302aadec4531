"""The small models against their definitions, on 20,000 small random histories for each property of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from harness.budget import Budget
from harness.models.bank import BANK
from harness.models.base import Model
from harness.models.counter import COUNTER
from harness.models.long_fork import LONG_FORK
from harness.models.sets import SET, SET_FULL
from harness.recorded import Op
from harness.verdict import Outcome
from tests.harness import brute_models as brute

CHUNKS = 4
HISTORIES = 20_000 // CHUNKS

Definition = Callable[[Sequence[Op], str], Outcome]
MODELS: dict[str, tuple[Model, Definition, Callable[[int], list[Op]]]] = {
    "bank": (BANK, brute.bank, brute.random_bank),
    "set": (SET, brute.last_read, brute.random_set),
    "set-full": (SET_FULL, brute.set_full, brute.random_set),
    "counter": (COUNTER, brute.counter, brute.random_counter),
    "long-fork": (LONG_FORK, brute.long_fork, brute.random_long_fork),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", MODELS)
def test_a_model_agrees_with_its_definition_on_random_histories(name: str, chunk: int) -> None:
    model, definition, draw = MODELS[name]
    seen: Counter[tuple[str, Outcome]] = Counter()
    outcomes: Counter[str] = Counter()
    for seed in brute.seeds(chunk, HISTORIES):
        operations = draw(seed)
        outcomes.update(op.outcome for op in operations)
        for property_name in model.properties:
            expected = definition(operations, property_name)
            verdict = model.check(operations, property_name, Budget())
            assert verdict.outcome is expected, (seed, property_name, operations, verdict)
            seen[property_name, expected] += 1
    for property_name in model.properties:  # a run in which nothing, or everything, is wrong says little
        assert seen[property_name, Outcome.OK] > HISTORIES / 10, seen
        assert seen[property_name, Outcome.VIOLATION] > HISTORIES / 10, seen
    assert min(outcomes[each] for each in ("ok", "fail", "info")) > HISTORIES / 10, outcomes


def test_whatever_is_linearizable_is_within_the_bounds_of_a_counter() -> None:
    linearizable = 0
    for seed in range(4_000):
        operations = brute.random_counter(seed)
        if brute.linearizable_counter(operations):
            linearizable += 1
            assert COUNTER.check(operations, "bounds", Budget()).outcome is not Outcome.VIOLATION, seed
    assert 1_000 < linearizable < 3_500, linearizable
