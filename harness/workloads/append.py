"""List-append: transactions that read some lists and append one unique element to one or two of them.

The value of a list is its whole history, so one read tells the order of all its writers (Kingsbury and
Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020). Lists are kept
short: a full one is retired and the next number of its lane begins.
"""

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

LANES: Final = 8
"""Lists that are written at one time: the last one of each lane."""
ELEMENTS_MAX: Final = 24
"""A list with this many is retired. Writers that had not noticed may still make it a little longer."""
_LISTS_PER_SECOND: Final = 120
"""Room for ~2,900 appends a second; a lane that runs out of lists is only read from then on."""


class Append:
    """``LANES`` lanes of lists, an item each; an element is the id of the operation that appended it."""

    name = "append"
    bulk = False

    def __init__(self, seconds: float) -> None:
        self._per_lane = 16 + int(seconds * _LISTS_PER_SECOND / LANES)
        self._current = [-1] * LANES

    def _item(self, lane: int, number: int) -> str:
        return f"append/{lane}-{number}"

    def _key(self, item: str) -> bytes:
        return key_of(self.name, item)

    def keys_max(self) -> int:
        """One key per list of every lane."""
        return LANES * self._per_lane

    def keys(self) -> Iterable[bytes]:
        """One key per list of every lane."""
        return (
            self._key(self._item(lane, number)) for lane in range(LANES) for number in range(self._per_lane)
        )

    def setup(self) -> list[Act]:
        """Nothing."""
        return []

    def write(self, random: Random, session: Session) -> Act:
        """Read one to four lists, append to one or two of them."""
        lanes = random.sample(range(LANES), random.randint(1, 4))
        append_count = min(len(lanes), random.choice((1, 1, 2)))
        items = tuple(self._live(lane, session) for lane in lanes)
        written = tuple(item for item in items[:append_count] if not self._is_last(item))
        if not written:
            return self._look(items)

        def body(session: Session, identity: int) -> Done:
            return in_transaction(
                session, lambda transaction: self._append(transaction, identity, items, written)
            )

        return Act(
            "write",
            self.name,
            body,
            writes=written,
            values=lambda identity: dict.fromkeys(written, identity),
            byte_count=len(written) * (RECORD_BYTES + 8 * ELEMENTS_MAX // 2),
        )

    def _append(
        self, transaction: Transaction, identity: int, items: Iterable[str], written: tuple[str, ...]
    ) -> Done:
        reads = tuple(self._read(item, transaction.get(self._key(item))) for item in items)
        for read in reads:
            if read.item in written:
                key = self._key(read.item)
                transaction.put(key, encode(identity, key, _pack([*read.value, identity])))
        return Done(None, reads, dict.fromkeys(written, identity))

    def read(self, random: Random, session: Session) -> Act:
        """Some of the live lists in one snapshot."""
        lanes = random.sample(range(LANES), random.randint(1, LANES))
        return self._look(tuple(self._live(lane, session) for lane in lanes))

    def _look(self, items: tuple[str, ...]) -> Act:
        return in_snapshot(
            self.name,
            lambda snapshot: tuple(self._read(item, snapshot.get(self._key(item))) for item in items),
        )

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """See the protocol."""
        return versions_of_key(session, item, self._key(item), lambda value: self._read(item, value))

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:
        """The live lists, or every list that may ever have been written."""
        if retired:
            items = [self._item(lane, number) for lane in range(LANES) for number in range(self._per_lane)]
        else:
            items = [self._live(lane, snapshot) for lane in range(LANES)]
        return tuple(self._read(item, snapshot.get(self._key(item))) for item in items)

    def _live(self, lane: int, store: Session | Snapshot) -> str:
        """The list of ``lane`` that is written now. A list begins only after the one before it was full, so
        the first absent one can be searched by halves; after that this process notices by itself.
        """
        if self._current[lane] < 0:
            present, absent = -1, self._per_lane
            while absent - present > 1:
                middle = (present + absent) // 2
                if store.get(self._key(self._item(lane, middle))) is None:
                    absent = middle
                else:
                    present = middle
            self._current[lane] = max(present, 0)
        return self._item(lane, self._current[lane])

    def _notice(self, item: str, element_count: int) -> None:
        lane, number = _numbers(item)
        if element_count >= ELEMENTS_MAX and number + 1 < self._per_lane:
            self._current[lane] = max(self._current[lane], number + 1)

    def _is_last(self, item: str) -> bool:
        return _numbers(item)[1] == self._per_lane - 1

    def _read(self, item: str, value: Value | None) -> Read:
        if value is None:
            return Read(item, None, None, [])
        writer, body = decode(item, self._key(item), value.data)
        if not body or len(body) % 8:
            raise Anomaly("atomicity", f"{item}: {len(body)} bytes are no list of elements")
        elements = list(struct.unpack(f"<{len(body) // 8}Q", body))
        if elements[-1] != writer or len(set(elements)) != len(elements):
            raise Anomaly("atomicity", f"{item}: its last element is not its writer's, or one is there twice")
        self._notice(item, len(elements))
        return Read(item, writer, value.sequence, elements)


def _pack(elements: list[int]) -> bytes:
    return struct.pack(f"<{len(elements)}Q", *elements)


def _numbers(item: str) -> tuple[int, int]:
    lane, number = item.removeprefix("append/").split("-")
    return int(lane), int(number)
