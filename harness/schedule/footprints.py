"""What a step touches, and when two steps commute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from harness.schedule.base import Standing

DEATHS: Final = -3
"""The object that every death writes and that whoever joins after a death reads."""
NOTHING: Final[frozenset[int]] = frozenset()


class Footprint(NamedTuple):
    """One step: the shared objects, by number, that it read and wrote (a lock is written by whoever takes it or lets it
    go, and read by whoever finds it held), and whether an operation was invoked or completed in it.
    """

    reads: frozenset[int] = NOTHING
    writes: frozenset[int] = NOTHING
    invokes: bool = False
    completes: bool = False


def dependent(one: Footprint, other: Footprint) -> bool:
    """Whether the order of two steps of different processes matters: one writes what the other touches, or one
    completes an operation and the other invokes one, which is the real-time order that the checkers look at. Two steps
    that are not dependent commute: either order leads to the same state and is judged the same.
    """
    return not (
        one.writes.isdisjoint(other.writes)
        and one.writes.isdisjoint(other.reads)
        and one.reads.isdisjoint(other.writes)
        and not (one.invokes and other.completes)
        and not (one.completes and other.invokes)
    )


class Witness(Protocol):
    """Sees what the processes of a stage touch. ``locks``: all that a process may have to wait for."""

    locks: Sequence[str]

    def start(self) -> None:
        """A schedule begins: watch whatever is opened from now on."""

    def take(self, mover: Standing | None, point: str) -> Footprint:
        """What was touched since the last call, all of it by ``mover``, which stood at ``point`` (``None``: before the
        first step).
        """

    def wants(self, standing: Standing) -> str:
        """The lock that ``standing`` must have for its next step, "" if none."""

    def is_free(self, lock: str) -> bool:
        """Whether nobody holds that lock."""

    def held_by(self, standing: Standing) -> frozenset[int]:
        """The locks, as objects, that the death or the end of ``standing`` frees."""

    def stop(self) -> None:
        """The schedule ended: watch nothing any more."""
