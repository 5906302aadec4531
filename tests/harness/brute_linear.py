"""Linearizability by its definition (all orders of all subsets of the indeterminate operations); random histories."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Iterator
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, cast

from harness.recorded import Event, Op, pair

Objects = dict[Any, Any]


class Spec(NamedTuple):
    """A sequential object, written down once more and plainly. ``invoke`` draws a function and an argument; ``do`` is
    ``(answer, state after)``, where the answer "fail" means that nothing happened.
    """

    initial: Any
    invoke: Callable[[Random], tuple[str, Any]]
    do: Callable[[Any, str, Any], tuple[Any, Any]]
    answers: list[Any]
    keys: list[Any]
    asking: str


def linearizable(spec: Spec, ops: list[Op]) -> bool:
    """Whether one order of all ok operations, of those that were refused for their value, and of any subset of the
    indeterminate ones explains every answer. All objects together: nothing is partitioned here.
    """
    certain = [op for op in ops if op.outcome == "ok" or op.extra.get("refused")]
    maybe = [op for op in ops if op.outcome == "info"]
    return any(
        _orders(spec, {}, certain + list(chosen))
        for count in range(len(maybe) + 1)
        for chosen in combinations(maybe, count)
    )


def _orders(spec: Spec, objects: Objects, left: list[Op]) -> bool:
    """Try each operation as the next one that no other precedes in real time."""
    if not left:
        return True
    for op in left:
        if any(other.completed < op.invoked for other in left):
            continue
        key = op.extra.get("key")
        answer, after = spec.do(objects.get(key, spec.initial), op.f, op.argument)
        if (answer == "fail") is not (op.outcome == "fail") or (op.outcome == "ok" and answer != op.value):
            continue
        if _orders(spec, {**objects, key: after}, [each for each in left if each is not op]):
            return True
    return False


def random_history(spec: Spec, random: Random) -> list[Op]:
    """3 to 7 operations of 2 to 4 processes against the real object, each taking effect at some time between its
    invocation and its completion, an indeterminate one even later or never; then, in most histories, lies.
    """
    return list(pair(_events(spec, random)))


def as_lines(ops: list[Op]) -> str:
    """The operations as one can read them in a failure."""
    return "\n".join(
        f"  {op.name} process {op.process} {op.outcome} {op.f} {op.argument!r} -> {op.value!r} "
        f"[{op.invoked}, {op.completed if op.outcome != 'info' else '...'}] {dict(op.extra)}"
        for op in sorted(ops, key=lambda op: op.number)
    )


def written(*lines: str) -> list[Op]:
    """Operations from lines like "0 invoke write 1", with their numbers as line numbers; " @x" at the end is a key."""
    events = []
    for number, line in enumerate(lines):
        text, _, key = line.partition(" @")
        process, kind, f, value = text.split(maxsplit=3)
        events.append(
            Event(
                number,
                number + 1,
                int(process),
                cast(Any, kind),
                f,
                literal_eval(value),
                {"key": key} if key else {},
            )
        )
    return list(pair(events))


def _events(spec: Spec, random: Random) -> Iterator[Event]:
    left = random.choice([3, 4, 5, 6, 6, 7, 7, 7])
    processes = list(range(random.randint(2, 4)))
    keys = spec.keys if random.random() < 0.3 else spec.keys[:1]
    lies = random.choice([0.0, 0.3, 0.6, 0.9])
    infos = random.choice([0.0, 0.2, 0.5])
    refuses = random.random() < 0.4
    objects: Objects = {}
    waiting: dict[int, list[Any]] = {}  # process: f, argument, key, done, answer
    late: list[list[Any]] = []
    position = 0

    def take_effect(doing: list[Any]) -> None:
        f, argument, key, done, _ = doing
        if not done:
            answer, objects[key] = spec.do(objects.get(key, spec.initial), f, argument)
            doing[3:] = [True, answer]

    while left or waiting:
        for doing in [*waiting.values(), *late]:
            if random.random() < 0.3:
                take_effect(doing)
        process = random.choice(processes)
        doing = waiting.pop(process, [])
        if not doing and not left:
            continue
        if not doing:
            left -= 1
            f, argument = spec.invoke(random)
            key = random.choice(keys)
            waiting[process] = [f, argument, key, False, None]
            yield Event(position, 0, process, "invoke", f, argument, {"key": key} if key is not None else {})
        elif random.random() < infos:
            late.append(doing)
            processes[processes.index(process)] = (
                max(processes) + 1
            )  # a process that timed out never comes back
            f, argument, key, _, _ = doing
            yield Event(position, 0, process, "info", f, argument, {"key": key} if key is not None else {})
        else:
            take_effect(doing)
            f, argument, key, _, answer = doing
            kind: Any = "fail" if answer == "fail" or random.random() < 0.05 else "ok"
            if kind == "ok" and f == spec.asking and random.random() < lies:
                answer = random.choice(spec.answers)
            if answer == "fail":
                answer = argument
                kind = "ok" if random.random() < lies else "fail"
            extra = {"key": key} if key is not None else {}
            if f == "cas" and kind == "fail" and refuses:
                extra["refused"] = True
            yield Event(position, 0, process, kind, f, answer, extra)
        position += 1


def _register(state: Any, f: str, argument: Any) -> tuple[Any, Any]:
    if f == "read":
        return state, state
    if f == "write":
        return argument, argument
    old, new = argument
    return (argument, new) if state == old else ("fail", state)


def _strings(state: Any, f: str, argument: Any) -> tuple[Any, Any]:
    if f == "get":
        return state, state
    return (argument, argument) if f == "put" else (argument, state + argument)


def _mutex(state: Any, f: str, argument: Any) -> tuple[Any, Any]:
    possible = state == ("free" if f == "acquire" else "held")
    return (argument, "held" if f == "acquire" else "free") if possible else ("fail", state)


def _read_write(random: Random) -> tuple[str, Any]:
    return random.choice([("read", None), ("write", random.randint(0, 3))])


def _read_write_cas(random: Random) -> tuple[str, Any]:
    cas = ("cas", [random.choice([None, 0, 1, 2]), random.randint(0, 2)])
    return random.choice([("read", None), ("write", random.randint(0, 2)), cas])


def _get_put_append(random: Random) -> tuple[str, Any]:
    f = random.choice(["get", "get", "put", "append", "append"])
    return f, None if f == "get" else random.choice(["x", "y", "xy", ""])


def _acquire_release(random: Random) -> tuple[str, Any]:
    return random.choice(["acquire", "release"]), None


SPECS = {
    "register": Spec(None, _read_write, _register, [None, 0, 1, 2, 3], [None, "b"], "read"),
    "cas-register": Spec(None, _read_write_cas, _register, [None, 0, 1, 2], [None, "b"], "read"),
    "kv-append": Spec(
        "", _get_put_append, _strings, ["", "x", "y", "xy", "xx", "xyx", "yx"], ["a", "b"], "get"
    ),
    "mutex": Spec("free", _acquire_release, _mutex, [None], [None, "b"], "none"),
}
