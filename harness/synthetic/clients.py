"""Concurrent clients of a store in memory: each of their operations takes effect at one moment while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, Protocol

from harness.recorded import NOTHING, Event, Type

REFUSED: Final = object()
"""What ``Store.apply`` returns for an operation that is impossible now, and had no effect: it fails."""

Chance = Callable[[], float]
"""A random number from 0 up to 1."""
_IDLE: Final = 0
_INVOKED: Final = 1
_APPLIED: Final = 2
_LATE: Final = 0.02
"""How likely it is, at each step, that an operation whose client has given up takes effect: after some 50 steps."""


class Store(Protocol):
    """What clients talk to. One object is one database, and is used by one history."""

    def call(self, process: int, /) -> tuple[str, Any, Any]:
        """What a client does next: the function, the value of the invocation, and a plan for ``apply``."""
        ...

    def apply(self, plan: Any, /) -> Any:
        """Let it take effect now, at once and wholly: the value of the completion, or ``REFUSED``."""
        ...


def record(
    make: Callable[[Chance], Store],
    operations: int,
    seed: int,
    *,
    processes: int = 10,
    info: float = 0.0,
    fail: float = 0.0,
    key: Callable[[Any], Any] | None = None,
    last: str = "",
) -> Iterator[Event]:
    """The history of ``operations`` operations of ``processes`` clients at a store, the same for the same ``seed``.

    At each step one client, drawn by lot, goes on: it invokes, or its operation takes effect, or completes. So every
    operation takes effect at one moment between its invocation and its completion, and the history is linearizable if
    ``Store.apply`` is a sequential specification. A share ``info`` of the operations ends indeterminate: of these a
    third took effect, a third never does, and a third may take effect at any later time; the client goes on as a new
    process, ``processes`` higher, as in Jepsen. A share ``fail`` fails without effect. ``key``: the field "key" of an
    operation, from its plan. ``last``: the function of one more operation, without a plan, when all are complete.

    Streams: memory for the clients and the store, whatever the number of operations.
    """
    chance = Random(seed).random
    store = make(chance)
    apply = store.apply
    state = [_IDLE] * processes
    names = list(range(processes))
    pending: list[Any] = [None] * processes
    late: list[Any] = []
    begun = busy = position = 0
    while begun < operations or busy:
        thread = int(chance() * processes)
        process = names[thread]
        if late and chance() < _LATE:
            apply(late.pop())
        if state[thread] == _IDLE:
            if begun == operations:
                continue
            begun, busy = begun + 1, busy + 1
            f, value, plan = store.call(process)
            extra = NOTHING if key is None else {"key": key(plan)}
            yield Event(position, 0, process, "invoke", f, value, extra)
            position += 1
            pending[thread] = f, value, plan, extra
            state[thread] = _INVOKED
        elif state[thread] == _INVOKED:
            f, value, plan, extra = pending[thread]
            fate = chance()
            outcome: Type = "ok"
            if fate < fail:
                outcome = "fail"
            elif fate < fail + info:
                outcome = "info"
                _give_up(chance, apply, plan, late)
            elif (result := apply(plan)) is REFUSED:
                outcome = "fail"
            else:
                value = result
            pending[thread] = outcome, f, value, extra
            state[thread] = _APPLIED
        else:
            outcome, f, value, extra = pending[thread]
            yield Event(position, 0, process, outcome, f, value, extra)
            position += 1
            if outcome == "info":
                names[thread] += processes
            state[thread], busy = _IDLE, busy - 1
    if last:
        yield Event(position, 0, names[0], "invoke", last, None, NOTHING)
        yield Event(position + 1, 0, names[0], "ok", last, apply(None), NOTHING)


def _give_up(chance: Chance, apply: Callable[[Any], Any], plan: Any, late: list[Any]) -> None:
    """The client hears nothing: a third took effect, a third goes to the ``late`` ones, a third is lost."""
    fate = chance()
    if fate < 1 / 3:
        apply(plan)
    elif fate < 2 / 3:
        late.append(plan)
