"""The scenarios that ``harness explore`` knows by name."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from harness.errors import UsageError
from harness.scenario import Program, Scenario, Transaction

IO = Literal["mmap", "append"]


def put(*writes: int) -> Transaction:
    """Write ``writes`` blindly."""
    return Transaction("put", writes=writes)


def update(*keys: int) -> Transaction:
    """Fetch and write ``keys``."""
    return Transaction("update", reads=keys, writes=keys)


def derive(reads: tuple[int, ...], writes: tuple[int, ...]) -> Transaction:
    """Fetch ``reads``, write ``writes``."""
    return Transaction("update", reads=reads, writes=writes)


def remove(*keys: int) -> Transaction:
    """Fetch and remove ``keys``."""
    return Transaction("update", reads=keys, deletes=keys)


def read(*keys: int) -> Transaction:
    """Read ``keys`` in one snapshot."""
    return Transaction("read", reads=keys)


def get(*keys: int) -> Transaction:
    """Get ``keys`` one by one."""
    return Transaction("get", reads=keys)


def history(*keys: int) -> Transaction:
    """Read all versions that are kept of ``keys``."""
    return Transaction("history", reads=keys)


def hold(*keys: int) -> Transaction:
    """Read ``keys`` in one snapshot that stays open."""
    return Transaction("hold", reads=keys)


COMPACT: Final = Transaction("compact")
"""One pass of compaction."""
_WIDE: Final = tuple(range(48))
"""Enough keys for the vectorised paths."""


def writer(*transactions: Transaction, io: IO = "mmap", joins: int = 0, closes: bool = False) -> Program:
    """A process that writes."""
    return Program("writer", transactions, io, joins, closes)


def reader(*transactions: Transaction, io: IO = "mmap", joins: int = 0) -> Program:
    """A process that only reads."""
    return Program("reader", transactions, io, joins)


def _general() -> tuple[Scenario, ...]:
    """Those that are explored unless others are asked for: together they show every planted bug."""
    default = Scenario(
        "default",
        (
            writer(update(0, 1), put(1, 2), derive((0, 2), (3,))),
            writer(put(0, 1), update(1, 2), remove(2), io="append"),
            reader(read(0, 1), read(1, 2, 3), get(1, 2)),
            writer(update(0, 1), joins=1, closes=True),
        ),
        (4, 5, 1, 0),
        kills=2,
    )
    return (
        Scenario(
            "versions",
            (
                writer(update(0), remove(0), put(0)),
                writer(put(0), put(0), io="append"),
                reader(history(0), history(0), get(0)),
            ),
            (4,),
        ),
        default,
        msgspec.structs.replace(default, name="durable", durable=True),
        Scenario(
            "overtaken",
            (
                writer(put(0), put(0), put(0)),
                writer(put(0), put(0), put(0), io="append"),
                reader(get(0), read(0), get(0)),
            ),
            (4,),
        ),
        Scenario(
            "claims",
            (
                writer(put(0, 1), put(1)),
                writer(put(1), joins=1),
                writer(update(0, 1), put(0), joins=2, io="append"),
                reader(read(0, 1), read(0, 1)),
            ),
            (2, 1),
            kills=3,
        ),
        *_kinds(),
        *_housekeeping(),
        *_persisting(),
    )


def _kinds() -> tuple[Scenario, ...]:
    """General ones in which one kind of operation is at the centre."""
    return (
        Scenario(
            "removals",
            (
                writer(remove(0), put(0, 1), remove(1)),
                writer(update(0, 1), remove(0, 1), io="append"),
                reader(read(0, 1), get(0, 1)),
                writer(put(0), remove(1), joins=1),
            ),
            (1, 2),
            kills=2,
        ),
        Scenario(
            "skew",
            (
                writer(derive((0, 1), (0,)), derive((0, 1), (0,))),
                writer(derive((1, 0), (1,)), derive((0, 1), (1,)), io="append"),
                reader(read(0, 1), read(0, 1)),
            ),
            (1, 1),
        ),
        Scenario(
            "crowded",
            (
                writer(update(0, 1), put(2, 3)),
                writer(update(1, 0), update(3), io="append"),
                reader(get(0, 1), read(0, 1, 2, 3)),
                writer(put(0, 3), joins=1),
            ),
            (0, 0, 1, 0),
            collide=True,
        ),
        Scenario(
            "wide",
            (
                writer(Transaction("put", writes=_WIDE)),
                writer(Transaction("put", writes=_WIDE)),
                reader(read(*_WIDE)),
            ),
            (1,) * 24 + (0,) * 24,
            collide=True,
        ),
    )


def _housekeeping() -> tuple[Scenario, ...]:
    """General ones in which the files of the store change: growth, rollover, compaction, and an index that is lost."""
    return (
        Scenario(
            "growth",
            (
                writer(put(2), put(0, 3), update(1)),
                writer(put(0), remove(0), put(1, 4), io="append"),
                reader(hold(0), get(0, 1), get(0), read(0, 1, 2), get(1, 0)),
                writer(update(0, 4), joins=1, closes=True),
            ),
            (1, 1, 0, 0, 0),
            capacity=2,
            kills=2,
            lost="index",
        ),
        Scenario(
            "rollover",
            (
                writer(put(0), update(0, 1), put(1)),
                writer(put(1), remove(0), put(0), io="append"),
                reader(read(0, 1), get(0, 1)),
                writer(put(1), update(0, 1), joins=1),
            ),
            (2, 1),
            smallfile_bytes=704,
            kills=2,
            lost="index",
        ),
        Scenario(
            "compaction",
            (
                writer(COMPACT, put(0), COMPACT),
                writer(put(1, 2), update(0, 1), put(0), io="append"),
                reader(read(0, 1), get(0, 2), read(1, 2), get(0)),
                writer(COMPACT, update(1), joins=1),
            ),
            (3, 2, 1),
            smallfile_bytes=6_000,
            padding=1_400,
            lost="index",
        ),
        Scenario(
            "pinned",
            (
                writer(remove(0), COMPACT, put(0), COMPACT),
                writer(update(1), remove(1), put(0), io="append"),
                reader(hold(0, 1), read(0, 1), hold(0), history(0, 1)),
            ),
            (2, 1),
            smallfile_bytes=1_024,
        ),
        Scenario(
            "tombstones",
            (
                writer(remove(0), COMPACT, COMPACT),
                writer(remove(1), put(0, 1), io="append"),
                writer(put(1), joins=1),
            ),
            (2, 2),
            lost="index",
        ),
    )


def _persisting() -> tuple[Scenario, ...]:
    """General ones about what is on the medium: durable commits, and what a power cut leaves."""
    return (
        Scenario(
            "laggards",
            (
                writer(put(0), put(0), put(0), COMPACT),
                writer(put(0), update(1), put(2), io="append"),
                reader(read(0), read(1), read(0, 1), read(2), read(0), read(0)),
                writer(update(0, 1), joins=1),
            ),
            (4, 1, 0),
            durable=True,
            capacity=2,
            smallfile_bytes=1_024,
            kills=2,
            lost="index",
        ),
        Scenario(
            "syncing",
            (
                writer(put(0), put(0)),
                writer(put(1), put(1), io="append"),
                reader(read(0), read(1), read(0), read(1), read(0)),
            ),
            (1, 1),
            durable=True,
        ),
        Scenario(
            "power-cut",
            (
                writer(put(0), update(0), put(0, 1)),
                writer(update(0, 1), put(1), remove(0), io="append"),
                reader(read(0, 1)),
            ),
            (1, 1),
            lost="tail",
        ),
    )


def _others() -> tuple[Scenario, ...]:
    """What is measured with, and what is small enough for all its schedules."""
    return (
        Scenario(
            "speed",
            (
                writer(update(0, 1), put(0), update(1)),
                writer(update(1, 2), put(1), update(2), io="append"),
                reader(read(0, 1), get(1), get(2)),
            ),
            (1, 1, 1),
        ),
        Scenario("two-writers", (writer(put(0, 1)), writer(put(1, 2))), (1, 1, 1)),
        Scenario(
            "repairer-killed",
            (writer(put(0, 1)), writer(put(1, 2)), writer(put(1), joins=2)),
            (1, 1, 1),
            kills=2,
        ),
        Scenario("snapshots", (writer(put(0, 1)), reader(read(0, 1), read(0, 1))), (1, 1), kills=0),
        Scenario("collision", (writer(put(0)), writer(put(1))), (0, 0), collide=True),
        Scenario("growing", (writer(put(1)), writer(put(0))), (1, 0), capacity=1, torn=False),
        Scenario("compacting", (writer(COMPACT), writer(put(0))), (2,), torn=False),
        Scenario("holding", (writer(remove(0), COMPACT), reader(hold(0))), (1,), kills=0),
    )


SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario.check() for scenario in (*_general(), *_others())
}
"""By name."""

GENERAL: Final = tuple(scenario.name for scenario in _general())
"""What is explored, in turns, unless a scenario is named."""
EXHAUSTIVE: Final = (
    "two-writers",
    "repairer-killed",
    "snapshots",
    "collision",
    "growing",
    "compacting",
    "holding",
)
"""Small enough for all their schedules."""


def named(name: str) -> Scenario:
    """The scenario of that name. Raises UsageError."""
    if name not in SCENARIOS:
        raise UsageError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
