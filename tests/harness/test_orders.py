"""Orders with choices: a witness that keeps everything, or a proof that nothing does, as all permutations say."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations

import numpy as np
import pytest

from harness.budget import Budget, OverBudgetError
from harness.dependency import snapshot
from harness.dependency.graph import RW, VIA, WR, WW, Graph, edges, join
from harness.dependency.orders import Broken, Choice, Contradiction, Excluded, Refuted, Witness, solve
from harness.dependency.transactions import Recorder, Transactions
from harness.recorded import Op

Edge = tuple[int, int]


def listed(choices: Sequence[Choice]) -> Broken:
    """The choices of a list that an order breaks."""

    def broken(position: Sequence[int], moved: Collection[int] | None) -> list[Choice]:
        found = [choice for choice in choices if not kept(choice, position)]
        if moved is None:
            return found
        return [
            choice
            for choice in found
            if any(node in moved for atoms in choice.alternatives for node in sum(atoms, ()))
        ]

    return broken


def kept(choice: Choice, place: Mapping[int, int] | Sequence[int]) -> bool:
    return any(all(place[a] < place[b] for a, b in atoms) for atoms in choice.alternatives)


def successors(count: int, fixed: Sequence[Edge]) -> list[dict[int, int]]:
    made: list[dict[int, int]] = [{} for _ in range(count)]
    for a, b in fixed:
        made[a][b] = 0
    return made


def decide(count: int, fixed: Sequence[Edge], choices: Sequence[Choice]) -> Witness | Contradiction:
    return solve(successors(count, fixed), list(range(count)), listed(choices), Budget())


def possible(count: int, fixed: Sequence[Edge], choices: Sequence[Choice]) -> bool:
    for order in permutations(range(count)):
        place = {node: i for i, node in enumerate(order)}
        if all(place[a] < place[b] for a, b in fixed) and all(kept(choice, place) for choice in choices):
            return True
    return False


def random_choices(rng: random.Random, count: int) -> list[Choice]:
    def atom() -> Edge:
        a, b = rng.sample(range(count), 2)
        return a, b

    made = []
    for name in range(rng.randint(0, 9)):
        sizes = [rng.choice((1, 1, 2)) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
        made.append(Choice(name, tuple(tuple(atom() for _ in range(size)) for size in sizes)))
    return made


@pytest.mark.parametrize("chunk", range(4))
def test_an_order_is_found_if_and_only_if_a_permutation_keeps_everything(chunk: int) -> None:
    found = 0
    for seed in range(chunk * 500, chunk * 500 + 500):
        rng = random.Random(seed)
        count = rng.randint(3, 6)
        fixed = [tuple(rng.sample(range(count), 2)) for _ in range(rng.randint(0, 3))]
        choices = random_choices(rng, count)
        result = decide(count, fixed, choices)  # type: ignore[arg-type]
        assert isinstance(result, Witness) == possible(count, fixed, choices), f"seed {seed}"  # type: ignore[arg-type]
        if isinstance(result, Witness):
            found += 1
            place = {node: i for i, node in enumerate(result.order)}
            assert sorted(result.order) == list(range(count))
            assert all(place[a] < place[b] for a, b in fixed), f"seed {seed}"
            assert all(kept(choice, place) for choice in choices), f"seed {seed}"
        else:
            assert_proves(result.refuted, set(fixed), result.derived)  # type: ignore[arg-type]
    assert 100 < found < 400


def assert_proves(refuted: Refuted, fixed: set[Edge], derived: dict[Edge, Refuted]) -> None:
    """Each cycle has an edge of the alternative that it excludes; every alternative of a choice is excluded."""
    for excluded in refuted.excluded:
        assert_excluded(excluded, fixed, derived)
    if refuted.choice is not None:
        assert {each.alternative for each in refuted.excluded} == set(refuted.choice.alternatives)


def assert_excluded(excluded: Excluded, fixed: set[Edge], derived: dict[Edge, Refuted]) -> None:
    if excluded.deeper is not None:
        assert not excluded.cycle
        assert_proves(excluded.deeper, fixed | set(excluded.alternative), derived)
        return
    cycle = excluded.cycle
    edges = set(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    assert edges
    if excluded.alternative:
        assert edges & set(excluded.alternative)


def test_fixed_edges_in_a_cycle_are_the_whole_proof() -> None:
    result = decide(4, [(0, 1), (1, 2), (2, 1)], [])
    assert isinstance(result, Contradiction)
    assert result.refuted.choice is None
    assert set(result.refuted.excluded[0].cycle) == {1, 2}


def test_an_alternative_that_closes_a_cycle_forces_the_other() -> None:
    result = decide(3, [(2, 1)], [Choice("only", (((1, 2),), ((1, 0),)))])
    assert isinstance(result, Witness)
    assert result.order.index(1) < result.order.index(0)


def test_a_choice_that_fails_both_ways_is_proved_by_both_cycles() -> None:
    result = decide(3, [(0, 1), (1, 2)], [Choice("bad", (((2, 0),), ((1, 0),)))])
    assert isinstance(result, Contradiction)
    assert sorted(len(each.cycle) for each in result.refuted.excluded) == [2, 3]


def test_the_first_order_is_by_what_is_due_first() -> None:
    result = solve(successors(3, [(2, 0)]), [5, 6, 9], listed([]), Budget())
    assert isinstance(result, Witness)
    assert result.order == [2, 0, 1]


def test_none_of_some_alternatives_proves_nothing() -> None:
    choice = Choice("part", (((1, 0),),), whole=False)
    with pytest.raises(OverBudgetError):
        decide(2, [(0, 1)], [choice])


def test_past_the_budget_it_is_undecided() -> None:
    with pytest.raises(OverBudgetError):
        solve(successors(2, []), [0, 1], listed([Choice(0, (((1, 0),),))]), Budget(limit_s=0.0))


def test_ten_thousand_choices_of_which_the_first_order_keeps_nearly_all_take_no_search() -> None:
    rng = random.Random(1)
    count = 10_000
    fixed = [(i, i + 1) for i in range(0, count - 1, 2)]
    choices = [Choice("back", (((1001, 1000),), ((1002, 999),)))]
    for name in range(count):
        a, b = sorted(rng.sample(range(count), 2))
        choices.append(Choice(name, (((a, b),), ((b, a),))))
    result = decide(count, fixed, choices)
    assert isinstance(result, Witness)
    place = {node: i for i, node in enumerate(result.order)}
    assert all(kept(choice, place) for choice in choices)


def columns(count: int) -> Transactions:
    """Transactions that are all concurrent, each of a process of its own."""
    recorder = Recorder()
    for i in range(count):
        recorder.add(Op(i + 1, i, "txn", "ok", None, None, i, 100 + i))
    return recorder.finish()[0]


def graph(count: int, *edges_of: tuple[int, int, int]) -> Graph:
    """A graph of (source, target, kind)."""
    table = np.array(edges_of, dtype=np.int32).reshape(-1, 3)
    return Graph(
        count, count, join([edges(table[[i], 0], table[[i], 1], int(table[i, 2])) for i in range(len(table))])
    )


def test_two_rw_edges_in_a_row_are_no_contradiction_under_snapshot_isolation() -> None:
    skew = graph(2, (0, 1, RW), (1, 0, RW))
    result = snapshot.decide(skew, [], columns(2), Budget())
    assert isinstance(result, Witness)
    place = {node: i for i, node in enumerate(result.order)}
    for one, other in ((0, 1), (1, 0)):
        assert place[snapshot.start(one)] < place[snapshot.commit(other)]


def test_concurrent_writers_of_one_key_are_a_contradiction_under_snapshot_isolation() -> None:
    skew = graph(2, (0, 1, RW), (1, 0, RW))
    result = snapshot.decide(skew, [[0, 1]], columns(2), Budget())
    assert isinstance(result, Contradiction)
    assert {way[:2] for way in snapshot.cycle_edges(result, 2)} == {(0, 1), (1, 0)}


def test_a_cycle_with_one_rw_edge_is_a_contradiction_under_snapshot_isolation() -> None:
    result = snapshot.decide(graph(3, (0, 1, WR), (1, 2, WW), (2, 0, RW)), [], columns(3), Budget())
    assert isinstance(result, Contradiction)
    assert sorted(snapshot.cycle_edges(result, 3)) == [(0, 1, False), (1, 2, False), (2, 0, True)]


def test_a_hub_that_rw_edges_enter_leads_to_commits() -> None:
    hub = Graph(
        2,
        3,
        join(
            [
                edges(np.array([0]), np.array([2]), RW),
                edges(np.array([2]), np.array([1]), VIA),
                edges(np.array([1]), np.array([0]), RW),
            ]
        ),
    )
    assert isinstance(snapshot.decide(hub, [], columns(2), Budget()), Witness)
    assert isinstance(snapshot.decide(hub, [[1, 0]], columns(2), Budget()), Contradiction)
