"""Keys that come and go all the time: what makes a store grow, forget, compact and give space back.

The items of a size stand in a circle. A window goes around it as the run gets on: items at its front are inserted,
those in its middle are written again, those at its end are removed. So keys are always new to the store (or long
forgotten by it), and whoever holds a snapshot at the end of the window sees values that others remove meanwhile. When
the window comes by again, a removed item that shows an old value has risen from the dead: the history tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from random import Random
from typing import Final, NamedTuple

from harness.engines.base import Session, Snapshot, Transaction, Value
from harness.history import Read, describe_id
from harness.workloads.base import RECORD_BYTES, Act, Anomaly, Done, in_snapshot, in_transaction, key_of
from harness.workloads.bundle import Group

_HOLD_S: Final = 0.5
"""A held snapshot waits at most so long for the others..."""
_HOLD_COMMITS: Final = (20, 400)
"""...to commit so often."""
_LOOK_S: Final = 0.004

_END, _MIDDLE, _FRONT = 0, 2, 3
"""Where the parts of a window begin, in units of ``reach``."""


class _Kind(NamedTuple):
    """A circle of ``items`` items of ``size`` keys each, picked with ``weight``. The window is 4 * ``reach`` items long
    and takes a step every ``commits`` commits of the run; ``sizes``: bytes of a value.
    """

    size: int
    items: int
    weight: float
    reach: int
    commits: int
    sizes: tuple[int, ...]


_KINDS: Final = (
    _Kind(1, 2_000, 46.0, 12, 27, (8, 16, 40, 100, 400, 1_000, 4_000, 16_000, 64_000)),
    _Kind(6, 1_200, 32.0, 8, 39, (8, 20, 48, 64, 200, 1_000, 5_000)),
    _Kind(50, 600, 16.0, 4, 80, (8, 16, 17, 40, 100, 600)),
    _Kind(400, 300, 5.0, 3, 260, (8, 9, 16, 24)),
    _Kind(1_500, 120, 1.0, 2, 1_280, (16,)),
)
"""About 370,000 keys in all, of which some thousand are there at one time; a window steps on about twice while a
writer picks each of its items once."""
_LARGE: Final = _Kind(2, 3_000, 20.0, 150, 75, (32_000, 64_000, 100_000))
"""Only in long runs: most of what the store keeps then are long values, as in most stores, and not its index."""


class Churn:
    """The circles, with long values too where the run is ``long``. ``commits()`` says how far it is; without it every
    look is one step further.
    """

    name = "churn"
    bulk = True

    def __init__(self, commits: Callable[[], int] | None = None, *, long: bool = False) -> None:
        steps = count()
        self._kinds = (*_KINDS, _LARGE) if long else _KINDS
        self._commits = commits or (lambda: next(steps))

    def keys_max(self) -> int:
        """All keys of all circles."""
        return sum(kind.size * kind.items for kind in self._kinds)

    def keys(self) -> Iterable[bytes]:
        """All keys of all circles."""
        return (key for group in self._all() for key in group.keys)

    def setup(self) -> list[Act]:
        """Nothing."""
        return []

    def write(self, random: Random, session: Session) -> Act:
        """Insert at the front of a window, remove what is there at its end, or write again what is in the middle."""
        (kind,) = random.choices(self._kinds, [kind.weight for kind in self._kinds])
        share, place = random.random(), random.random()
        if share < 0.4:
            return self._insert(self._pick(kind, _FRONT, place))
        if share < 0.9:
            return self._remove(self._present(kind, place, session), reads=share > 0.75)
        return self._update(self._pick(kind, _MIDDLE, place))

    def _number(self, kind: _Kind, part: int, place: float) -> int:
        """The number of the item at ``place`` (0 to 1) of a part of the window."""
        return (self._commits() // kind.commits + int((part + place) * kind.reach)) % kind.items

    def _pick(self, kind: _Kind, part: int, place: float) -> Group:
        return _group(kind, self._number(kind, part, place))

    def _present(self, kind: _Kind, place: float, session: Session) -> Group:
        """The first item from ``place`` on that is there at the window's end, which is twice as long as its other
        parts; the one at ``place`` if none is. Without the look every third item would be left behind.
        """
        steps = 2 * kind.reach
        numbers = [self._number(kind, _END, (2 * place + step / kind.reach) % 2) for step in range(steps)]
        there = (number for number in numbers if session.get(_first_key(kind, number)) is not None)
        return _group(kind, next(there, numbers[0]))

    def _insert(self, group: Group) -> Act:
        def body(session: Session, identity: int) -> Done:
            return Done(session.put_many(list(zip(group.keys, group.values(identity), strict=True))))

        return Act("write", self.name, body, writes=(group.item,), byte_count=group.byte_count)

    def _remove(self, group: Group, *, reads: bool) -> Act:
        def work(transaction: Transaction) -> Done:
            seen = (self._first(group, transaction),) if reads else ()
            for key in group.keys:
                transaction.delete(key)
            return Done(None, seen)

        return Act(
            "write",
            self.name,
            lambda session, _: in_transaction(session, work),
            deletes=(group.item,),
            byte_count=RECORD_BYTES * group.size,
        )

    def _update(self, group: Group) -> Act:
        def body(session: Session, identity: int) -> Done:
            def work(transaction: Transaction) -> Done:
                seen = self._first(group, transaction)
                for key, value in zip(group.keys, group.values(identity), strict=True):
                    transaction.put(key, value)
                return Done(None, (seen,))

            return in_transaction(session, work)

        return Act("write", self.name, body, writes=(group.item,), byte_count=group.byte_count)

    def _first(self, group: Group, transaction: Transaction) -> Read:
        """What a transaction sees of an item by its first key: all of them were always written together."""
        value = transaction.get(group.keys[0])
        return Read(group.item, None) if value is None else group.read_at(0, Value(*value))

    def read(self, random: Random, session: Session) -> Act:
        """Some items in one snapshot; half of the time it is held while others go on, and then read again."""
        kinds = random.sample(self._kinds, random.randint(1, 3))
        groups = [self._pick(kind, random.choice((_END, _MIDDLE, _FRONT)), random.random()) for kind in kinds]
        if random.random() < 0.5:
            return in_snapshot(self.name, lambda snapshot: tuple(group.read(snapshot) for group in groups))
        ending = [self._present(kind, random.random(), session) for kind in kinds]
        wanted = random.randint(*_HOLD_COMMITS)
        return in_snapshot(self.name, lambda snapshot: self._held(snapshot, ending, wanted))

    def _held(self, snapshot: Snapshot, groups: list[Group], wanted: int) -> tuple[Read, ...]:
        """Read, let others commit ``wanted`` times, and read again. Whatever they removed, compacted or replaced
        meanwhile: the view is the same, or the snapshot is refused.
        """
        before = tuple(group.read(snapshot) for group in groups)
        until, deadline = self._commits() + wanted, time.monotonic() + _HOLD_S
        while self._commits() < until and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        after = tuple(group.read(snapshot) for group in groups)
        for first, second in zip(before, after, strict=True):
            if first != second:
                raise Anomaly(
                    "snapshot",
                    f"{first.item}: a snapshot that was held while others went on shows {_told(first)} and"
                    f" then {_told(second)}",
                )
        return after

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """See the protocol."""
        size, number = map(int, item.removeprefix("churn/").split("-"))
        (kind,) = (kind for kind in self._kinds if kind.size == size)
        return _group(kind, number).versions(session)

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:
        """Every item, or those that the windows are over now."""
        return tuple(group.read(snapshot) for group in (self._all() if retired else self._current()))

    def _all(self) -> Iterator[Group]:
        return (_group(kind, number) for kind in self._kinds for number in range(kind.items))

    def _current(self) -> Iterator[Group]:
        for kind in self._kinds:
            first = self._commits() // kind.commits
            for number in range(first, first + 4 * kind.reach):
                yield _group(kind, number % kind.items)


def _first_key(kind: _Kind, number: int) -> bytes:
    return key_of(Churn.name, f"{Churn.name}/{kind.size}-{number}")


def _group(kind: _Kind, number: int) -> Group:
    return Group(kind.size, number, Churn.name, kind.sizes)


def _told(read: Read) -> str:
    return describe_id(read.writer) + ("" if read.sequence is None else f" (T={read.sequence})")
