"""Tiny random histories for the differential tests: a small database at a random isolation, then perhaps one lie."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from harness.evidence import NEVER
from harness.recorded import Op

Micro = list[Any]


class _Running:
    """A transaction at work: its snapshot, what it wrote, and what it did so far."""

    def __init__(self, process: int, plan: list[Micro], invoked: int) -> None:
        self.process = process
        self.plan = plan
        self.invoked = invoked
        self.done: list[Micro] = []
        self.snapshot: dict[Any, Any] | None = None


def random_history(rng: random.Random, model: str) -> list[Op]:
    """2 to 4 transactions of 1 to 3 micro-operations on 1 or 2 keys by 1 to 3 processes: ok, failed and indeterminate
    ones, at an isolation between none and serializable; in two of three some read or write is then changed.
    """
    count = rng.choice((2, 3, 3, 3, 4, 4, 4, 4))
    keys = rng.choice(("x", "xy", "xy", "xy"))
    plans = _plans(rng, model, count, keys)
    mode = rng.choice(("dirty", "latest", "snapshot", "snapshot", "serial"))
    ops = _execute(rng, model, plans, mode)
    if rng.random() < 0.6:
        ops = _lie(rng, model, ops)
    return sorted(ops, key=lambda op: (op.completed, op.invoked))


def _plans(rng: random.Random, model: str, count: int, keys: str) -> list[list[Micro]]:
    value = 0
    again = rng.random() < 0.15
    deletes = rng.random() < 0.4
    plans = []
    for _ in range(count):
        plan: list[Micro] = []
        for _ in range(rng.choice((1, 2, 2, 3, 3))):
            key = rng.choice(keys)
            if rng.random() < 0.5:
                plan.append(["r", key, None])
            elif model == "list-append":
                value += 1
                plan.append(["append", key, value])
            elif deletes and rng.random() < 0.4:
                plan.append(["d", key])
            else:
                value += 1
                plan.append(["w", key, rng.randint(1, 2) if again else value])
        plans.append(plan)
    return plans


def _execute(rng: random.Random, model: str, plans: list[list[Micro]], mode: str) -> list[Op]:
    state: dict[Any, Any] = {}
    clock = 0
    idle = list(range(rng.choice((1, 2, 3, 3))))
    waiting = list(plans)
    running: list[_Running] = []
    ops: list[Op] = []
    while waiting or running:
        clock += 1
        if waiting and idle and (not running or rng.random() < 0.5):
            process = idle.pop(rng.randrange(len(idle)))
            running.append(_Running(process, waiting.pop(0), clock))
            continue
        work = running[0] if mode == "serial" else rng.choice(running)
        if len(work.done) < len(work.plan):
            steps = len(work.plan) if mode == "serial" else 1
            for _ in range(steps):
                _step(work, model, state, mode)
            continue
        running.remove(work)
        idle.append(work.process)
        ops.append(_finish(rng, work, state, mode, clock, len(ops)))
    ops.sort(key=lambda op: op.invoked)
    return [_renumbered(op, number) for number, op in enumerate(ops, 1)]


def _step(work: _Running, model: str, state: dict[Any, Any], mode: str) -> None:
    if work.snapshot is None:
        work.snapshot = state if mode in ("dirty", "serial") else dict(state)
    micro = list(work.plan[len(work.done)])
    key = micro[1]
    own = any(each[0] != "r" and each[1] == key for each in work.done)
    view = state if mode == "latest" and not own else work.snapshot
    if micro[0] == "r":
        micro[2] = list(view.get(key, ())) if model == "list-append" else view.get(key)
    else:
        work.snapshot[key] = _written(micro, view.get(key))
    work.done.append(micro)


def _written(micro: Micro, old: Any) -> Any:
    if micro[0] == "append":
        return [*(old or ()), micro[2]]
    return None if micro[0] == "d" else micro[2]


def _finish(
    rng: random.Random, work: _Running, state: dict[Any, Any], mode: str, clock: int, number: int
) -> Op:
    outcome = rng.choices(("ok", "info", "fail"), (8, 2, 1))[0]
    if mode not in ("dirty", "serial") and (outcome == "ok" or (outcome == "info" and rng.random() < 0.6)):
        for micro in work.done:
            if micro[0] != "r":
                state[micro[1]] = _written(micro, state.get(micro[1]))
    value = work.done
    if outcome != "ok":
        value = [["r", micro[1], None] if micro[0] == "r" else micro for micro in work.done]
    return _op(number, work.process, outcome, value, work.invoked, NEVER if outcome == "info" else clock)


def _op(number: int, process: int, outcome: Any, value: list[Micro], invoked: int, completed: int) -> Op:
    return Op(number, process, "txn", outcome, value, value, invoked, completed)


def _renumbered(op: Op, number: int) -> Op:
    return _op(number, int(op.process), op.outcome, op.value, op.invoked, op.completed)


def _lie(rng: random.Random, model: str, ops: list[Op]) -> list[Op]:
    """Change one read of an ok transaction, or swap the values of two writes, or fail somebody."""
    ops = [
        _op(op.number, int(op.process), op.outcome, [list(m) for m in op.value], op.invoked, op.completed)
        for op in ops
    ]
    reads = [micro for op in ops if op.outcome == "ok" for micro in op.value if micro[0] == "r"]
    if not reads or rng.random() < 0.1:
        i = rng.randrange(len(ops))
        op = ops[i]
        if op.outcome == "ok":
            ops[i] = _op(op.number, int(op.process), "fail", op.value, op.invoked, op.completed)
        return ops
    read = rng.choice(reads)
    values = [
        micro[2] for op in ops for micro in op.value if micro[0] in ("w", "append") and micro[1] == read[1]
    ]
    read[2] = _other_list(rng, values, read[2]) if model == "list-append" else rng.choice([*values, None])
    if rng.random() < 0.03:
        read[2] = [99] if model == "list-append" else 99
    return ops


def _other_list(rng: random.Random, values: list[Any], old: list[Any]) -> list[Any]:
    ways: list[Callable[[], list[Any]]] = [
        lambda: old[:-1],
        lambda: [*old, rng.choice(values)] if values else [],
        lambda: rng.sample(old, len(old)),
        lambda: sorted(rng.sample(values, rng.randint(0, len(values)))),
        lambda: sorted(values),
    ]
    return rng.choice(ways)()
