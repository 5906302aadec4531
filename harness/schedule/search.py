"""What an exhaustive search remembers: the states on its way, the moves between them, and both as plain data."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from harness.schedule.footprints import Footprint

STEP: Final = -1
"""The way of a process to go on; the others are the torn units of a death."""
Move = tuple[int, int]
"""``(process, way)``: the way is ``STEP``, or a death after so many units of the write that it stands before."""


class Event(NamedTuple):
    """One move that was made. ``number``: its place among the moves of its process, from 1. ``clock``: for each
    process, how many of its moves happened before this one, itself included. ``wanted``: the lock that going on needs
    there; ``held``: the locks that anybody held afterwards.
    """

    process: int
    way: int
    point: str
    footprint: Footprint
    number: int
    clock: tuple[int, ...]
    wanted: str
    held: frozenset[str]


class Node:
    """One state on the way of the search, and what was and is still to be tried from there."""

    __slots__ = (
        "backtrack",
        "done",
        "event",
        "held",
        "last",
        "move",
        "preemptions",
        "sleep",
        "steppable",
        "ways",
    )

    def __init__(self) -> None:
        self.ways: dict[int, list[int]] = {}
        """What each process that is there can do."""
        self.steppable: frozenset[int] = frozenset()
        """Who can go on: who is there and does not wait for a lock that is held."""
        self.held: frozenset[str] = frozenset()
        """The locks that somebody holds."""
        self.last = 0
        """Who went on last."""
        self.sleep: dict[Move, Footprint] = {}
        self.done: dict[Move, Footprint] = {}
        self.backtrack: set[int] = set()
        self.move: Move = (0, 0)
        self.event: Event | None = None
        self.preemptions = 0


def _footprint_out(footprint: Footprint) -> list[Any]:
    return [sorted(footprint.reads), sorted(footprint.writes), footprint.invokes, footprint.completes]


def _footprint_in(data: list[Any]) -> Footprint:
    return Footprint(frozenset(data[0]), frozenset(data[1]), data[2], data[3])


def node_out(node: Node) -> dict[str, Any]:
    """As plain data."""
    event = node.event
    return {
        "ways": [[number, ways] for number, ways in node.ways.items()],
        "steppable": sorted(node.steppable),
        "held": sorted(node.held),
        "last": node.last,
        "sleep": [[*move, _footprint_out(footprint)] for move, footprint in node.sleep.items()],
        "done": [[*move, _footprint_out(footprint)] for move, footprint in node.done.items()],
        "backtrack": sorted(node.backtrack),
        "move": list(node.move),
        "event": None
        if event is None
        else [
            *event[:3],
            _footprint_out(event[3]),
            event.number,
            [*event.clock],
            event.wanted,
            sorted(event.held),
        ],
        "preemptions": node.preemptions,
    }


def node_in(data: dict[str, Any]) -> Node:
    """What ``node_out`` gave."""
    node = Node()
    node.ways = {number: list(ways) for number, ways in data["ways"]}
    node.steppable = frozenset(data["steppable"])
    node.held = frozenset(data["held"])
    node.last = data["last"]
    node.sleep = {(number, way): _footprint_in(footprint) for number, way, footprint in data["sleep"]}
    node.done = {(number, way): _footprint_in(footprint) for number, way, footprint in data["done"]}
    node.backtrack = set(data["backtrack"])
    node.move = (data["move"][0], data["move"][1])
    event = data["event"]
    if event is not None:
        process, way, point, footprint, index, clock, wanted, held = event
        node.event = Event(
            process, way, point, _footprint_in(footprint), index, tuple(clock), wanted, frozenset(held)
        )
    node.preemptions = data["preemptions"]
    return node
