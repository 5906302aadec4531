"""Plants one anomaly of a named kind into a valid history: a few transactions on new keys, woven in at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

from harness.errors import UsageError
from harness.recorded import NOTHING, Event

Micro = tuple[str, str, Any]


class Plant(NamedTuple):
    """Transactions that show one anomaly.

    ``transactions``: the micro-operations of each, the first one being number 1, with keys as letters.
    ``schedule``: their numbers in the order of events, each twice, for its invocation and its completion; where it is
    empty all are concurrent with all, in an order drawn by lot. ``processes``: a letter for each transaction, the same
    for the same process; where it is empty each has a process of its own. ``failed``: numbers of those that fail.
    ``comes_with``: anomalies that by definition every such history has as well.
    """

    transactions: tuple[tuple[Micro, ...], ...]
    schedule: str = ""
    processes: str = ""
    failed: frozenset[int] = frozenset()
    comes_with: frozenset[str] = frozenset()


def _append(key: str, element: int) -> Micro:
    return "append", key, element


def _write(key: str, value: int) -> Micro:
    return "w", key, value


def _read(key: str, value: Any = None) -> Micro:
    return "r", key, value


def _cycles(write: Any, first: Any) -> dict[str, Plant]:
    """Cycles of reads and first writes, which look alike in lists and registers: ``write(key)`` is the first write of a
    key, and ``first`` what a read sees of it.
    """
    skew = ((_read("x"), _read("y", first)), (write("x"), write("y")))
    stale = ((write("x"),), (_read("x"),))
    future = ((_read("x", first),), (write("x"),))
    missed = ((_read("x"),), (write("x"), _read("y")), (write("y"),))
    forked = (
        (_read("x"),),
        (write("x"), write("z")),
        (_read("z", first), _read("y")),
        (write("y"),),
    )
    return {
        "G1c": Plant(((write("x"), _read("y", first)), (write("y"), _read("x", first)))),
        "G-single": Plant(skew),
        "G-nonadjacent": Plant(
            ((_read("x"), _read("y", first)), (write("x"),), (_read("x", first), _read("y")), (write("y"),))
        ),
        "G2-item": Plant(((_read("x"), write("y")), (_read("y"), write("x")))),
        "G1c-process": Plant(future, "1122", "pp"),
        "G-single-process": Plant(stale, "1122", "pp"),
        "G-nonadjacent-process": Plant(forked, "23441123", "pqrp"),
        "G2-item-process": Plant(missed, "233112", "pqp"),
        "G1c-realtime": Plant(future, "1122"),
        "G-single-realtime": Plant(stale, "1122"),
        "G-nonadjacent-realtime": Plant(forked, "23441123"),
        "G2-item-realtime": Plant(missed, "233112"),
    }


PLANTS: Final[dict[str, Plant]] = {
    "G0": Plant(
        (
            (_append("x", 1), _append("y", 1)),
            (_append("x", 2), _append("y", 2)),
            (_read("x", [1, 2]), _read("y", [2, 1])),
        )
    ),
    "G0-process": Plant(((_append("x", 1),), (_append("x", 2),), (_read("x", [2, 1]),)), "311223", "ppq"),
    "G0-realtime": Plant(((_append("x", 1),), (_append("x", 2),), (_read("x", [2, 1]),)), "311223"),
    "G1a": Plant(((_append("x", 1),), (_read("x", [1]),)), failed=frozenset({1})),
    "G1b": Plant(
        ((_append("x", 1), _append("x", 2)), (_read("x", [1]),)),
        comes_with=frozenset({"G-single"}),  # the reader follows the first append, and precedes the second
    ),
    **_cycles(lambda key: _append(key, 1), [1]),
    "lost-update": Plant(
        ((_read("x"), _append("x", 1)), (_read("x"), _append("x", 2)), (_read("x", [1, 2]),)),
        comes_with=frozenset({"G-single"}),
    ),
    "duplicate-elements": Plant(((_append("x", 1),), (_read("x", [1, 1]),))),
    "phantom-element": Plant(((_append("x", 1),), (_read("x", [1, 2]),))),
    "incompatible-order": Plant(
        ((_append("x", 1),), (_append("x", 2),), (_read("x", [1, 2]),), (_read("x", [2, 1]),))
    ),
    "internal": Plant(((_append("x", 1), _read("x")),)),
    "future-read": Plant(((_read("x", [1]), _append("x", 1)),)),
}
"""Anomalies of list-append histories."""

REGISTER_PLANTS: Final[dict[str, Plant]] = {
    "G1a": Plant(((_write("x", 1),), (_read("x", 1),)), failed=frozenset({1})),
    "G1b": Plant(((_write("x", 1), _write("x", 2)), (_read("x", 1),))),
    **_cycles(lambda key: _write(key, 1), 1),
    "lost-update": Plant(
        ((_read("x"), _write("x", 1)), (_read("x"), _write("x", 2))),
        comes_with=frozenset({"G2-item"}),
    ),
    "phantom-value": Plant(((_read("x", 1),),)),
    "internal": Plant(((_write("x", 1), _read("x")),)),
    "future-read": Plant(((_read("x", 1), _write("x", 1)),)),
}
"""Anomalies of rw-register histories."""


def planted(
    history: Iterable[Event], name: str, seed: int, plants: Mapping[str, Plant] = PLANTS
) -> list[Event]:
    """The events of ``history`` and, from a random place on, those of the plant called ``name``, up to three others
    between two of them; with new positions.

    In a strictly serializable history that is the only anomaly: the plant has keys and processes of its own, so that
    real time alone links it to the rest, and a path through the rest leads from one of its transactions to another one
    only where the first had completed before the other began, as the effects along that path are in order. Then at most
    one event of the rest stands between, so that no other kind of edge lies on such a path, which would give the cycle
    another name.

    Raises:
        UsageError: no plant has that name; it lists them.
    """
    if name not in plants:
        raise UsageError(f"no plant is called {name!r}; there are {', '.join(plants)}")
    random = Random(seed)
    events = list(history)
    added = _events(plants[name], _fresh_keys(events), _fresh_process(events), random)
    place = random.randrange(len(events) + 1)
    woven = events[:place]
    for event, following in pairwise([*added, added[0]]):
        woven.append(event)
        in_turn = event.type != "invoke" and following.type == "invoke"
        until = min(place + random.randrange(2 if in_turn else 4), len(events))
        woven.extend(events[place:until])
        place = until
    woven.extend(events[place:])
    return [
        Event(position, event.line, event.process, event.type, event.f, event.value, event.extra)
        for position, event in enumerate(woven)
    ]


def _fresh_keys(events: Iterable[Event]) -> dict[str, str]:
    """A name for each letter that is no key of the history."""
    used = {micro[1] for event in events if event.value is not None for micro in event.value}
    names = {}
    for letter in "xyz":
        name = letter
        while name in used:
            name += "'"
        names[letter] = name
    return names


def _fresh_process(events: Iterable[Event]) -> int:
    return 1 + max((event.process for event in events if isinstance(event.process, int)), default=-1)


def _events(plant: Plant, keys: dict[str, str], process: int, random: Random) -> list[Event]:
    numbers = list(range(1, len(plant.transactions) + 1))
    schedule = [int(digit) for digit in plant.schedule]
    if not schedule:
        schedule = random.sample(numbers, len(numbers)) + random.sample(numbers, len(numbers))
    letters = plant.processes or "".join(map(chr, numbers))
    events = []
    begun: set[int] = set()
    for number in schedule:
        micros = plant.transactions[number - 1]
        invocation = [[f, keys[key], None if f == "r" else value] for f, key, value in micros]
        own = process + sorted(set(letters)).index(letters[number - 1])
        if number not in begun:
            begun.add(number)
            events.append(Event(0, 0, own, "invoke", "txn", invocation, NOTHING))
        elif number in plant.failed:
            events.append(Event(0, 0, own, "fail", "txn", invocation, NOTHING))
        else:
            result = [[f, keys[key], list(v) if isinstance(v, list) else v] for f, key, v in micros]
            events.append(Event(0, 0, own, "ok", "txn", result, NOTHING))
    return events
