"""Single keys: blind writes of many sizes, read-modify-writes, deletes, and reads without a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final

from harness.engines.base import Session, Snapshot, Transaction, Value
from harness.history import Read
from harness.workloads.base import (
    RECORD_BYTES,
    Act,
    Anomaly,
    Done,
    decode,
    encode,
    in_snapshot,
    in_transaction,
    key_of,
    pattern,
    versions_of_key,
)

REGISTERS: Final = 64
HOT: Final = 3
BODY_BYTES_MAX: Final = 64 * 1024
_LARGE: Final = 0.01
"""Share of the writes that are larger than a few hundred bytes."""


class Register:
    """``REGISTERS`` single keys, an item each, absent at first."""

    name = "register"
    bulk = False

    def __init__(self) -> None:
        self._items = tuple(f"register/{number}" for number in range(REGISTERS))
        self._keys = {item: key_of(self.name, item) for item in self._items}

    def _pick(self, random: Random) -> str:
        """Half of all choices fall on a few registers, which are overwritten while a slow reader looks."""
        return random.choice(self._items[:HOT] if random.random() < 0.5 else self._items)

    def keys_max(self) -> int:
        """One key per register."""
        return REGISTERS

    def keys(self) -> Iterable[bytes]:
        """One key per register."""
        return self._keys.values()

    def setup(self) -> list[Act]:
        """Nothing."""
        return []

    def write(self, random: Random, session: Session) -> Act:  # noqa: ARG002
        """A blind write, a read-modify-write, or a delete with or without a read before it."""
        item = self._pick(random)
        body_bytes = random.randint(0, 256)
        if random.random() < _LARGE:
            body_bytes = random.randint(257, BODY_BYTES_MAX)
        kind = random.random()
        if kind < 0.55:
            return self._blind(item, body_bytes)
        if kind < 0.85:
            return self._modify(item, body_bytes)
        return self._delete(item, reads=kind < 0.92)

    def _blind(self, item: str, body_bytes: int) -> Act:
        def body(session: Session, identity: int) -> Done:
            key = self._keys[item]
            value = encode(identity, key, pattern(identity, body_bytes))
            return Done(session.put_many([(key, value)]))

        return Act("write", self.name, body, writes=(item,), byte_count=RECORD_BYTES + body_bytes)

    def _modify(self, item: str, body_bytes: int) -> Act:
        key = self._keys[item]

        def body(session: Session, identity: int) -> Done:
            def work(transaction: Transaction) -> Done:
                read = self._read(item, transaction.get(key))
                transaction.put(key, encode(identity, key, pattern(identity, body_bytes)))
                return Done(None, (read,))

            return in_transaction(session, work)

        return Act("write", self.name, body, writes=(item,), byte_count=RECORD_BYTES + body_bytes)

    def _delete(self, item: str, *, reads: bool) -> Act:
        key = self._keys[item]

        def body(session: Session, _: int) -> Done:
            def work(transaction: Transaction) -> Done:
                seen = (self._read(item, transaction.get(key)),) if reads else ()
                transaction.delete(key)
                return Done(None, seen)

            return in_transaction(session, work)

        return Act("write", self.name, body, deletes=(item,))

    def read(self, random: Random, session: Session) -> Act:  # noqa: ARG002
        """One register without a snapshot, or a few of them in one snapshot."""
        if random.random() < 0.7:
            item = self._pick(random)
            return Act(
                "get",
                self.name,
                lambda session, _: Done(None, (self._read(item, session.get(self._keys[item])),)),
            )
        items = random.sample(self._items, random.randint(2, 8))
        return in_snapshot(self.name, lambda snapshot: self._some(snapshot, items))

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """See the protocol."""
        return versions_of_key(session, item, self._keys[item], lambda value: self._read(item, value))

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:  # noqa: ARG002
        """Every register."""
        return self._some(snapshot, self._items)

    def _some(self, snapshot: Snapshot, items: Iterable[str]) -> tuple[Read, ...]:
        return tuple(self._read(item, snapshot.get(self._keys[item])) for item in items)

    def _read(self, item: str, value: Value | None) -> Read:
        if value is None:
            return Read(item, None)
        writer, body = decode(item, self._keys[item], value.data)
        if body != pattern(writer, len(body)):
            raise Anomaly("atomicity", f"{item}: {len(body)} bytes that do not follow from their writer's id")
        return Read(item, writer, value.sequence)
