"""Both isolation checkers against the enumeration of all orders: every level, 20,000 tiny histories per model."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from brute_isolation import PROPERTIES, satisfied
from isolation_histories import random_history

from harness.budget import Budget
from harness.dependency import catalogue, rw_register
from harness.dependency.catalogue import implies
from harness.dependency.rw_versions import encode
from harness.evidence import NEVER, Evidence
from harness.models.base import Check
from harness.models.list_append import LIST_APPEND
from harness.models.rw_register import RW_REGISTER
from harness.recorded import Op
from harness.verdict import Outcome, Verdict

CHUNKS = 8
HISTORIES = 20_000 // CHUNKS


def weakest(violated: list[str], below: str) -> set[str]:
    """Of the violated properties that ``below`` implies, the weakest."""
    among = [each for each in violated if implies(below, each)]
    return {each for each in among if not any(other != each and implies(each, other) for other in among)}


def assert_explained(verdict: Verdict, violated: list[str], where: str) -> None:
    """The verdict names the weakest properties that were violated, and the evidence of each finding holds together."""
    said = {each for each in verdict.findings[0].details["rules_out"] if implies(verdict.property_name, each)}
    assert said == weakest(violated, verdict.property_name), where
    for finding in verdict.findings:
        evidence = finding.details["evidence"]
        assert isinstance(evidence, Evidence)
        assert_shown(evidence, where)


def assert_shown(evidence: Evidence, where: str) -> None:
    """The operations are in order, each once; the edges are one cycle among them."""
    names = [each.name for each in evidence.operations]
    assert len(set(names)) == len(names), where
    assert [each.invoked for each in evidence.operations] == sorted(
        each.invoked for each in evidence.operations
    )
    assert evidence.sentences, where
    for edge, following in zip(evidence.edges, evidence.edges[1:] + evidence.edges[:1], strict=True):
        assert edge.target == following.source, where
        assert edge.source in names, where
        assert edge.because.endswith("."), where


@pytest.mark.share(4)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_rw_register_agrees_with_all_orders_at_every_level(chunk: int) -> None:
    budget = Budget()
    seen: Counter[tuple[str, bool]] = Counter()
    for seed in range(chunk * HISTORIES, (chunk + 1) * HISTORIES):
        ops = random_history(random.Random(seed), "rw-register")
        want = satisfied("rw-register", ops)
        levels = rw_register.Levels(encode(ops, budget), budget)
        got = {name: rw_register.holds(levels, catalogue.PROPERTIES[name]) for name in PROPERTIES}
        assert got == want, f"seed {seed}: {ops}"
        seen.update(want.items())
        if seed % 10 == 0:
            assert_checked(RW_REGISTER.check, ops, want, f"seed {seed}: {ops}")
    assert_both_frequent(seen)


def assert_checked(check: Check, ops: list[Op], want: dict[str, bool], where: str) -> None:
    """The whole check says the same, and why."""
    violated = [name for name, holds in want.items() if not holds]
    for name, holds in want.items():
        verdict = check(ops, name, Budget())
        if not any(op.outcome == "ok" for op in ops):
            assert verdict.outcome is Outcome.UNKNOWN, where
        else:
            assert (verdict.outcome is Outcome.OK) == holds, f"{name}, {where}"
            assert (verdict.outcome is Outcome.VIOLATION) != holds, f"{name}, {where}"
            if not holds:
                assert_explained(verdict, violated, where)


def assert_both_frequent(seen: Counter[tuple[str, bool]]) -> None:
    for name in PROPERTIES:
        rare = 0.01 if name.endswith("read-uncommitted") else 0.1
        for verdict in (True, False):
            assert seen[name, verdict] >= rare * HISTORIES, f"{name} is {verdict} too seldom"


@pytest.mark.share(4)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_list_append_agrees_with_all_orders_at_every_level(chunk: int) -> None:
    """What satisfies a property is checked in one go, side by side: histories without common keys or processes, one
    after another, have it together if and only if each has it. What does not is checked one by one, at the weakest
    properties that it violates and at another one.
    """
    together: dict[str, list[tuple[int, list[Op]]]] = {name: [] for name in PROPERTIES}
    seen: Counter[tuple[str, bool]] = Counter()
    for seed in range(chunk * HISTORIES, (chunk + 1) * HISTORIES):
        rng = random.Random(seed)
        ops = random_history(rng, "list-append")
        want = satisfied("list-append", ops)
        seen.update(want.items())
        violated = [name for name, holds in want.items() if not holds]
        for name in set(PROPERTIES) - set(violated):
            together[name].append((seed, ops))
        if violated:
            tried = weakest(violated, "strict-serializable") | {rng.choice(violated)}
            for name in tried:
                verdict = LIST_APPEND.check(ops, name, Budget())
                assert verdict.outcome is Outcome.VIOLATION, f"{name}, seed {seed}: {ops}"
                for finding in verdict.findings:
                    assert_shown(finding.details["evidence"], f"{name}, seed {seed}: {ops}")
    for name, histories in together.items():
        assert_all_ok(name, histories)
    assert_both_frequent(seen)


def assert_all_ok(name: str, histories: list[tuple[int, list[Op]]]) -> None:
    if LIST_APPEND.check(side_by_side([ops for _, ops in histories]), name, Budget()).outcome is Outcome.OK:
        return
    for seed, ops in histories:
        verdict = LIST_APPEND.check(ops, name, Budget())
        assert verdict.outcome is not Outcome.VIOLATION, f"{name}, seed {seed}: {ops}"
    raise AssertionError(f"{name}: together they are no more satisfied, though each is")


def side_by_side(histories: list[list[Op]]) -> list[Op]:
    """All histories as one: one after another in real time, with keys and processes of their own."""
    joined: list[Op] = []
    for i, ops in enumerate(histories):
        shift = i * 100
        for op in ops:
            value = [[micro[0], f"{micro[1]}{i}", *micro[2:]] for micro in op.value]
            completed = op.completed if op.completed == NEVER else op.completed + shift
            process = int(op.process) + shift
            number = len(joined) + 1
            joined.append(Op(number, process, "txn", op.outcome, value, value, op.invoked + shift, completed))
    return joined


@pytest.mark.parametrize("model", ["rw-register", "list-append"])
def test_the_enumeration_takes_nothing_for_granted(model: str) -> None:
    """What satisfies a property is not looked at again for the weaker ones: looked at, they say the same."""
    for seed in range(1000):
        ops = random_history(random.Random(seed), model)
        assert satisfied(model, ops) == satisfied(model, ops, implied=False), f"seed {seed}"
