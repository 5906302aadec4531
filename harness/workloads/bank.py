"""Transfers between accounts: the total is the same in every snapshot."""

from __future__ import annotations

import struct
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
    versions_of_key,
)

ACCOUNTS: Final = 48
HOT: Final = 6
"""Half of all transfers are among the first few accounts, which are overwritten while a slow reader looks."""
BALANCE: Final = 100
TOTAL: Final = ACCOUNTS * BALANCE

_BODY: Final = struct.Struct("<q")


class Bank:
    """``ACCOUNTS`` accounts of ``BALANCE``, an item each. A transfer moves money out of one of two to four of
    them and never below zero. Readers look at the whole bank and count.
    """

    name = "bank"
    bulk = False

    def __init__(self) -> None:
        self._items = tuple(f"bank/{number}" for number in range(ACCOUNTS))
        self._keys = {item: key_of(self.name, item) for item in self._items}

    def keys_max(self) -> int:
        """One key per account."""
        return ACCOUNTS

    def keys(self) -> Iterable[bytes]:
        """One key per account."""
        return self._keys.values()

    def setup(self) -> list[Act]:
        """Open every account in one transaction."""

        def body(session: Session, identity: int) -> Done:
            opening = _BODY.pack(BALANCE)
            pairs = [(key, encode(identity, key, opening)) for key in self._keys.values()]
            return Done(session.put_many(pairs), values=dict.fromkeys(self._items, BALANCE))

        values = dict.fromkeys(self._items, BALANCE)
        return [Act("write", self.name, body, writes=self._items, values=lambda _: values)]

    def write(self, random: Random, session: Session) -> Act:  # noqa: ARG002 - needs no look at the store
        """A transfer from one account to one, two or three others."""
        among = self._items[:HOT] if random.random() < 0.5 else self._items
        items = tuple(random.sample(among, random.choice((2, 2, 3, 4))))
        amounts = [random.randint(1, 20) for _ in items[1:]]

        def body(session: Session, identity: int) -> Done:
            return in_transaction(
                session, lambda transaction: self._transfer(transaction, identity, items, amounts)
            )

        return Act("write", self.name, body, writes=items, byte_count=len(items) * RECORD_BYTES)

    def _transfer(
        self, transaction: Transaction, identity: int, items: tuple[str, ...], amounts: list[int]
    ) -> Done:
        reads = tuple(self._account(item, transaction.get(self._keys[item])) for item in items)
        balances = [read.value for read in reads]
        for receiver, amount in enumerate(amounts, 1):
            moved = min(amount, balances[0])
            balances[0] -= moved
            balances[receiver] += moved
        for item, balance in zip(items, balances, strict=True):
            key = self._keys[item]
            transaction.put(key, encode(identity, key, _BODY.pack(balance)))
        return Done(None, reads, dict(zip(items, balances, strict=True)))

    def read(self, random: Random, session: Session) -> Act:  # noqa: ARG002
        """The whole bank in one snapshot; now and then one account without a snapshot."""
        if random.random() < 0.1:
            item = random.choice(self._items[:HOT] if random.random() < 0.5 else self._items)
            return Act(
                "get",
                self.name,
                lambda session, _: Done(None, (self._account(item, session.get(self._keys[item])),)),
            )
        return in_snapshot(self.name, lambda snapshot: self.everything(snapshot, retired=False))

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """See the protocol."""
        return versions_of_key(session, item, self._keys[item], lambda value: self._account(item, value))

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:  # noqa: ARG002
        """Every account, and their sum."""
        reads = tuple(self._account(item, snapshot.get(key)) for item, key in self._keys.items())
        total = sum(read.value for read in reads)
        if total != TOTAL:
            where = "" if snapshot.sequence is None else f" at {snapshot.sequence}"
            raise Anomaly(
                "bank",
                f"the {ACCOUNTS} accounts hold {total} in the snapshot{where}, and always held {TOTAL} together",
                reads,
            )
        return reads

    def _account(self, item: str, value: Value | None) -> Read:
        if value is None:
            raise Anomaly("bank", f"{item} is absent; no account is ever closed")
        writer, body = decode(item, self._keys[item], value.data)
        if len(body) != _BODY.size:
            raise Anomaly("atomicity", f"{item}: {len(body)} bytes instead of a balance")
        return Read(item, writer, value.sequence, _BODY.unpack(body)[0])
