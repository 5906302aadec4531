"""The small models by their definitions, as naively as can be, and small random histories that often break them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations
from random import Random
from typing import Any

from harness.evidence import NEVER
from harness.recorded import NOTHING, Event, Op, pair
from harness.synthetic.clients import Chance, record
from harness.synthetic.database import HISTORIES
from harness.verdict import Outcome

OK, VIOLATION, UNKNOWN = Outcome.OK, Outcome.VIOLATION, Outcome.UNKNOWN


def history(*events: tuple[Any, ...]) -> list[Op]:
    """Operations from ``(process, type, function, value)`` of each event in turn."""
    made = [
        Event(number, number + 1, process, type_, f, value, NOTHING)
        for number, (process, type_, f, value) in enumerate(events)
    ]
    return list(pair(made))


def alone(*operations: tuple[Any, ...]) -> list[Op]:
    """Operations of one process, one after another, from ``(function, argument, value)``; all are ok."""
    return history(
        *chain.from_iterable(
            ((0, "invoke", f, argument), (0, "ok", f, value)) for f, argument, value in operations
        )
    )


def mutated(model: str, seed: int, change: Callable[[Random, Any], Any], read: str = "read") -> list[Op]:
    """A small random history of ``model`` with failed and indeterminate operations; in three of four some reads have
    been changed.
    """
    random = Random(seed)
    options = {} if model == "mutex" else {"info": random.choice([0, 0.2, 0.4])}
    events = HISTORIES[model](
        random.randrange(1, 9),
        seed,
        processes=random.randrange(1, 5),
        fail=random.choice([0, 0.2]),
        **options,
    )
    wrong = random.choice([0, 0.2, 0.5, 0.9])
    made = []
    for event in events:
        if event.type == "ok" and event.f == read and random.random() < wrong:
            value = change(random, event.value)
            event = Event(event.position, 0, event.process, "ok", event.f, value, NOTHING)  # noqa: PLW2901
        made.append(event)
    return list(pair(made))


def orders(operations: Sequence[Op], step: Callable[[Any, Op], Any], state: Any) -> bool:
    """Whether there is an order of all ok operations and some indeterminate ones, one before another if it completed
    before that one was invoked, such that ``step`` never says None.
    """
    if all(op.outcome != "ok" for op in operations):
        return True
    for op in operations:
        if any(other.completed < op.invoked for other in operations):
            continue
        after = step(state, op)
        if after is not None and orders([other for other in operations if other is not op], step, after):
            return True
    return False


def ok_reads(operations: Iterable[Op]) -> list[Op]:
    return [op for op in operations if op.f == "read" and op.outcome == "ok"]


# ---------------------------------------------------------------- bank


def bank(operations: Sequence[Op], property_name: str) -> Outcome:
    reads = ok_reads(operations)
    if not reads:
        return UNKNOWN
    first = reads[0].value
    for read in reads:
        if set(read.value) != set(first) or None in read.value.values():
            return VIOLATION
        if sum(read.value.values()) != sum(first.values()):
            return VIOLATION
        if property_name == "no-negative-balances" and min(read.value.values()) < 0:
            return VIOLATION
    return OK


def random_bank(seed: int) -> list[Op]:
    def change(random: Random, balances: dict[int, Any]) -> dict[int, Any]:
        account, other = random.sample(sorted(balances), 2)
        how = random.randrange(6)
        if how == 0:
            return {key: value for key, value in balances.items() if key != account}
        if how == 1:
            return {**balances, account: None}
        if how == 2:
            return {**balances, 99: 0}
        amount = random.randrange(1, 4)
        taken = {**balances, account: balances[account] - amount}
        return taken if how == 3 else {**taken, other: taken[other] + amount}

    return mutated("bank", seed, change)


# ---------------------------------------------------------------- sets


def last_read(operations: Sequence[Op], property_name: str) -> Outcome:
    reads = ok_reads(operations)
    if not reads:
        return UNKNOWN
    last = reads[-1]
    adds = [op for op in operations if op.f == "add"]
    for element in last.value:
        if not any(
            op.argument == element and op.outcome != "fail" and op.invoked < last.completed for op in adds
        ):
            return VIOLATION
    absent = [op for op in adds if op.outcome == "ok" and op.argument not in last.value]
    if any(op.completed < last.invoked for op in absent):
        return VIOLATION
    return UNKNOWN if absent else OK


def set_full(operations: Sequence[Op], property_name: str) -> Outcome:
    reads = ok_reads(operations)
    adds = [op for op in operations if op.f == "add" and op.outcome != "fail"]
    if not reads:
        return UNKNOWN
    last = max(reads, key=lambda read: read.invoked)
    stable = [op for op in adds if op.argument in last.value]
    if property_name == "linearizable":
        good = all(len(set(read.value)) == len(read.value) for read in reads) and orders(
            [*adds, *reads], _step_set, frozenset()
        )
    else:
        good = not any(_wrong(read, adds) for read in reads) and not any(
            _known(op.argument, adds, reads) < last.invoked and op.argument not in last.value for op in adds
        )
    if not good:
        return VIOLATION
    return OK if stable else UNKNOWN


def _step_set(state: frozenset[int], op: Op) -> frozenset[int] | None:
    if op.f == "add":
        return state | {op.argument}
    return state if state == set(op.value) else None


def _wrong(read: Op, adds: Sequence[Op]) -> bool:
    return any(
        read.value.count(element) > 1
        or not any(op.argument == element and op.invoked < read.completed for op in adds)
        for element in read.value
    )


def _known(element: int, adds: Sequence[Op], reads: Sequence[Op]) -> int:
    acknowledged = [op.completed for op in adds if op.outcome == "ok" and op.argument == element]
    return min([*acknowledged, *(read.completed for read in reads if element in read.value), 1 << 62])


def _overlapping(seed: int) -> list[Op]:
    """A few adds and reads that overlap at random, and a last read that has all that was acknowledged."""
    random = Random(seed)
    adds, reads = random.randrange(2, 4), random.randrange(2, 4)
    moments = random.sample(range(16), 2 * (adds + reads))
    made = []
    for element in range(adds):
        invoked, completed = sorted((moments.pop(), moments.pop()))
        outcome: Any = random.choice(["ok", "ok", "ok", "info"])
        completed = completed if outcome == "ok" else NEVER
        made.append(Op(0, element, "add", outcome, element, element, invoked, completed))
    for reader in range(reads):
        invoked, completed = sorted((moments.pop(), moments.pop()))
        seen = [
            op.argument
            for op in made
            if op.f == "add"
            and op.invoked < completed
            and (op.completed < invoked or random.randrange(2))
            and random.random() < 0.9
        ]
        made.append(Op(0, adds + reader, "read", "ok", None, seen, invoked, completed))
    seen = [op.argument for op in made if op.f == "add" and (op.outcome == "ok" or random.randrange(2))]
    made.append(Op(0, 9, "read", "ok", None, seen, 16, 17))
    numbers = {op.invoked: number + 1 for number, op in enumerate(sorted(made, key=lambda op: op.invoked))}
    return [
        Op(numbers[op.invoked], op.process, op.f, op.outcome, op.argument, op.value, op.invoked, op.completed)
        for op in sorted(made, key=lambda op: op.completed)
    ]


def random_set(seed: int) -> list[Op]:
    def change(random: Random, elements: list[int]) -> list[int]:
        how = random.randrange(8)
        if how < 6 and elements:
            gone = random.choice(elements)
            return [each for each in elements if each != gone]
        return [*elements, random.choice(elements) if how == 6 and elements else random.randrange(8)]

    model = "set-full" if seed % 3 == 1 else "set"
    operations = mutated(model, seed, change) if seed % 3 else _overlapping(seed)
    if Random(f"shorter {seed}").randrange(3) == 0:  # without the last read, so that others are the last
        last = max(operations, key=lambda op: op.invoked)
        operations = [op for op in operations if op is not last]
    return again(operations, seed)


def again(operations: list[Op], seed: int) -> list[Op]:
    """In one of four histories two elements become the same, so that one is added twice."""
    random = Random(f"again {seed}")
    if random.randrange(4):
        return operations
    one, other = random.randrange(5), random.randrange(5)

    def renamed(element: Any) -> Any:
        if isinstance(element, list):
            named = [renamed(each) for each in element]
            return list(dict.fromkeys(named)) if len(set(element)) == len(element) else named
        return other if element == one else element

    return [
        Op(
            op.number,
            op.process,
            op.f,
            op.outcome,
            renamed(op.argument),
            renamed(op.value),
            op.invoked,
            op.completed,
        )
        for op in operations
    ]


# ---------------------------------------------------------------- counter


def counter(operations: Sequence[Op], property_name: str) -> Outcome:
    if all(op.outcome != "ok" for op in operations):
        return UNKNOWN
    adds = [op for op in operations if op.f == "add" and op.outcome != "fail"]
    for read in ok_reads(operations):
        sure = [op.argument for op in adds if op.completed < read.invoked]
        perhaps = [
            op.argument for op in adds if op.invoked < read.completed and not op.completed < read.invoked
        ]
        sums = [
            sum(sure) + sum(some)
            for count in range(len(perhaps) + 1)
            for some in combinations(perhaps, count)
        ]
        if not min(sums) <= read.value <= max(sums):
            return VIOLATION
    return OK


def step_counter(state: int, op: Op) -> int | None:
    if op.f == "add":
        return state + int(op.argument)
    return state if op.value == state else None


def random_counter(seed: int) -> list[Op]:
    def change(random: Random, value: int) -> int:
        return value + random.randrange(-6, 7)

    random = Random(seed)
    if random.randrange(2):
        return mutated("counter", seed, change)
    return [
        op if op.f == "read" or random.randrange(2) else _negated(op)
        for op in mutated("counter", seed, change)
    ]


def _negated(op: Op) -> Op:
    return Op(op.number, op.process, op.f, op.outcome, -op.argument, -op.value, op.invoked, op.completed)


# ---------------------------------------------------------------- long fork


def long_fork(operations: Sequence[Op], property_name: str) -> Outcome:
    reads = [
        {key: value for _, key, value in op.value}
        for op in operations
        if op.outcome == "ok" and op.value[0][0] == "r"
    ]
    if not reads:
        return UNKNOWN
    for one in reads:
        for other in reads:
            both = set(one) & set(other)
            ahead = any(one[key] is not None and other[key] is None for key in both)
            behind = any(one[key] is None and other[key] is not None for key in both)
            if ahead and behind:
                return VIOLATION
    return OK


class _Forking:
    """Writes of few keys, and reads of some of them that see any of the writes."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._random = Random(int(chance() * (1 << 30)))
        self._next = 0
        self._share = chance()
        self._groups = chance() < 0.5

    def call(self, _process: int, /) -> tuple[str, Any, Any]:
        if self._chance() < 0.2:
            self._next += 1
            micros = [["w", self._next, 1]]
        else:
            keys = (
                range(1, 4)
                if self._groups
                else self._random.sample(range(1, 6), self._random.randrange(1, 4))
            )
            micros = [["r", key, None] for key in keys]
        return "txn", micros, micros

    def apply(self, micros: Any, /) -> Any:
        if micros[0][0] == "w":
            return micros
        return [["r", key, 1 if self._chance() < self._share else None] for _, key, _ in micros]


def random_long_fork(seed: int) -> list[Op]:
    random = Random(seed)
    options: dict[str, Any] = {"info": random.choice([0, 0.2]), "fail": random.choice([0, 0.2])}
    if seed % 4 == 0:
        return list(pair(HISTORIES["long-fork"](random.randrange(1, 9), seed, group=2, **options)))
    return list(
        pair(record(_Forking, random.randrange(2, 9), seed, processes=random.randrange(1, 5), **options))
    )


def linearizable_counter(operations: Sequence[Op]) -> bool:
    """By all orders of the operations."""
    kept = [op for op in operations if op.outcome == "ok" or (op.outcome == "info" and op.f == "add")]
    return orders(kept, step_counter, 0)


def seeds(chunk: int, count: int) -> Iterator[int]:
    """Seeds of the ``chunk``-th part of many histories."""
    return iter(range(chunk * count, (chunk + 1) * count))
