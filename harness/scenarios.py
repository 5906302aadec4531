"""The scenarios that ``harness explore`` knows by name."""

from __future__ import annotations

from typing import Final

from harness.errors import UsageError
from harness.scenario import Program, Scenario, Transaction


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


_WIDE: Final = tuple(range(48))
"""Enough keys for the vectorised paths."""


def _scenarios() -> tuple[Scenario, ...]:
    def writer(*transactions: Transaction, io: str = "mmap", joins: int = 0, closes: bool = False) -> Program:
        return Program("writer", transactions, io, joins, closes)  # type: ignore[arg-type]

    def reader(*transactions: Transaction, io: str = "mmap", joins: int = 0) -> Program:
        return Program("reader", transactions, io, joins)  # type: ignore[arg-type]

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
        default,
        _with_durable(default, "durable", durable=True),
        Scenario(
            "speed",
            (
                writer(update(0, 1), put(0, 1), derive((0, 1), (1,))),
                writer(update(1, 2), put(1, 2), derive((1, 2), (2,)), io="append"),
                reader(read(0, 1), read(1, 2), get(1)),
            ),
            (1, 1, 1),
        ),
        Scenario("two-writers", (writer(put(0, 1)), writer(put(1, 2))), (1, 1, 1)),
        Scenario(
            "repairer-killed",
            (writer(put(0, 1)), writer(put(1, 2)), writer(put(1), joins=1)),
            (1, 1, 1),
            kills=2,
        ),
        Scenario("snapshots", (writer(put(0, 1)), reader(read(0, 1), read(0, 1))), (1, 1), kills=0),
        Scenario("collision", (writer(put(0)), writer(put(1))), (0, 0), collide=True),
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


def _with_durable(scenario: Scenario, name: str, *, durable: bool) -> Scenario:
    """The same under another name, on a durable store or not."""
    return Scenario(
        name,
        scenario.programs,
        scenario.revisions,
        scenario.collide,
        durable,
        scenario.kills,
        scenario.torn,
    )


SCENARIOS: Final[dict[str, Scenario]] = {scenario.name: scenario.check() for scenario in _scenarios()}
"""By name."""


def named(name: str) -> Scenario:
    """The scenario of that name. Raises UsageError."""
    if name not in SCENARIOS:
        raise UsageError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
