"""The search against the definition, on 20,000 random small histories of each model: no disagreement."""

from __future__ import annotations

from random import Random

import pytest
from brute_linear import SPECS, as_lines, linearizable, random_history

from harness.budget import Budget
from harness.linear import search
from harness.models.base import Model
from harness.models.kv_append import KV_APPEND
from harness.models.mutex import MUTEX
from harness.models.register import CAS_REGISTER, REGISTER
from harness.verdict import Outcome

SEED = 20260301
CHUNKS = 4
HISTORIES = 20_000 // CHUNKS
MODELS = [REGISTER, CAS_REGISTER, KV_APPEND, MUTEX]


@pytest.mark.share(4)
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_search_agrees_with_the_definition(
    model: Model, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk % 2:  # every second chunk so narrow that walks leave something out even in small histories
        monkeypatch.setattr(search, "WIDTHS", (1, 2, None))
        monkeypatch.setattr(search, "_QUEUE_PER_WIDTH", 1)
    spec = SPECS[model.name]
    seen = {True: 0, False: 0}
    indeterminate = failed = refused = 0
    for number in range(chunk * HISTORIES, (chunk + 1) * HISTORIES):
        seed = f"{SEED}/{model.name}/{number}"
        ops = random_history(spec, Random(seed))
        expected = linearizable(spec, ops)
        verdict = model.check(iter(ops), "linearizable", Budget())
        outcome = Outcome.OK if expected else Outcome.VIOLATION
        if expected and not any(op.outcome == "ok" for op in ops):
            outcome = Outcome.UNKNOWN  # nothing was answered that could be wrong
        assert verdict.outcome is outcome, f"seed {seed!r}: expected {outcome}\n{as_lines(ops)}"
        seen[expected] += 1
        indeterminate += any(op.outcome == "info" for op in ops)
        failed += any(op.outcome == "fail" for op in ops)
        refused += any("refused" in op.extra for op in ops)
    assert min(seen.values()) > HISTORIES // 4, seen
    assert min(indeterminate, failed) > HISTORIES // 10
    assert refused > HISTORIES // 10 or model is not CAS_REGISTER
