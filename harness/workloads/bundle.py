"""Groups of 2 to 65,535 keys that are always written together and must always be read together."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final, NamedTuple

import xxhash

from harness.engines.base import Session, Snapshot, Value
from harness.history import Read, describe_id
from harness.workloads.base import RECORD_BYTES, Act, Anomaly, Done, in_snapshot, key_of, versions_of_key

_ID_BYTES: Final = 8


class _Kind(NamedTuple):
    """``groups`` groups of ``size`` keys, picked for a write with ``weight``."""

    size: int
    groups: int
    weight: float


_KINDS: Final = (
    _Kind(2, 8, 30.0),
    _Kind(3, 6, 25.0),
    _Kind(8, 6, 28.0),
    _Kind(64, 4, 12.0),
    _Kind(512, 2, 4.0),
    _Kind(4_096, 1, 0.8),
    _Kind(65_535, 1, 0.15),
)
"""Weighted so that a write averages 160 keys: the largest take most of the bytes and a sixth of a percent
of the operations."""
SIZES: Final = (8, 9, 16, 24, 40, 64, 100, 200, 400, 1000, 4000)
"""Bytes of a value in a group of less than ``_UNIFORM`` keys; one of them per write and key."""
_UNIFORM: Final = 512
"""From this size on every value is the writer's id and the number of its key: 16 bytes that can be made and
compared in bulk."""
VOLUME_FREE_BYTES: Final = 64 << 20
VOLUME_BYTES_PER_S: Final = 2 << 20
"""What all writers together may begin to write before the largest groups are left out (1.3 GB in ten
minutes); what a killed writer had begun counts, because a store may keep its space."""


class Group:
    """One item: its keys, and the values that a write of operation ``identity`` puts there. ``sizes``: how many bytes
    a value may have, in a group of less than ``_UNIFORM`` keys.
    """

    def __init__(
        self, size: int, number: int, workload: str = "bundle", sizes: Sequence[int] = SIZES
    ) -> None:
        self.item = f"{workload}/{size}-{number}"
        self.size = size
        self.byte_count = size * (RECORD_BYTES + (0 if size >= _UNIFORM else sum(sizes) // len(sizes)))
        self.keys = [key_of(workload, self.item, part) for part in range(size)]
        self._sizes = sizes
        self._parts = [part.to_bytes(8, "little") for part in range(size)]

    def values(self, identity: int) -> list[bytes]:
        """The values of all keys, in order; they follow from ``identity`` and the key alone."""
        head = identity.to_bytes(_ID_BYTES, "little")
        if self.size >= _UNIFORM:
            return [head + part for part in self._parts]
        return [_value(head, key, self._sizes) for key in self.keys]

    def writer_at(self, part: int, value: bytes) -> int:
        """The id that the value of the key number ``part`` carries.

        Raises:
            Anomaly: nobody wrote this value at this key.
        """
        head = value[:_ID_BYTES]
        whole = (
            head + self._parts[part] if self.size >= _UNIFORM else _value(head, self.keys[part], self._sizes)
        )
        if value != whole:
            raise Anomaly(
                "atomicity", f"{self.item}: {len(value)} bytes at key {part} that nobody wrote there"
            )
        return int.from_bytes(head, "little")

    def written_by(self, values: Sequence[bytes | None]) -> int | None:
        """The id that all ``values`` carry, ``None`` if all are absent.

        Raises:
            Anomaly: they are not all of one write, or a value is of none.
        """
        first = values[0]
        if first is None and not any(value is not None for value in values):
            return None
        if first is not None and len(first) >= _ID_BYTES:
            identity = int.from_bytes(first[:_ID_BYTES], "little")
            if self.values(identity) == values:
                return identity
        raise Anomaly("atomicity", self._difference(values))

    def read_at(self, part: int, value: Value) -> Read:
        """What the value of one key tells of the group. Raises Anomaly as ``writer_at``."""
        return Read(self.item, self.writer_at(part, value.data), value.sequence)

    def read(self, snapshot: Snapshot) -> Read:
        """All keys in one view, the first one twice. Raises Anomaly as ``written_by``, or if that one differs."""
        values = snapshot.get_many(self.keys)
        if len(values) != self.size:
            raise Anomaly("atomicity", f"{self.item}: {len(values)} values for {self.size} keys")
        identity = self.written_by(values)
        probe = snapshot.get(self.keys[0])
        if (None if probe is None else probe.data) != values[0]:
            raise Anomaly("snapshot", f"{self.item}: the same key of one snapshot was read twice and differs")
        return Read(self.item, identity, None if probe is None else probe.sequence)

    def versions(self, session: Session) -> tuple[Read, ...]:
        """The versions of the first key, newest first, which those of the last must not contradict."""
        first, last = (
            versions_of_key(session, self.item, self.keys[part], functools.partial(self.read_at, part))
            for part in (0, self.size - 1)
        )
        _compare(self.item, first, last)
        return first

    def _difference(self, values: Sequence[bytes | None]) -> str:
        marks = Counter(
            None if value is None else int.from_bytes(value[:_ID_BYTES].ljust(_ID_BYTES, b"\0"), "little")
            for value in values
        )
        if len(marks) > 1:
            shares = [f"{count} are at {describe_id(mark)}" for mark, count in marks.most_common(4)]
            more = f", and {len(marks) - 4} more ids" if len(marks) > 4 else ""
            return f"{self.item}: of {self.size} keys {', '.join(shares)}{more}"
        mark = next(iter(marks))
        assert mark is not None, "all absent is no anomaly"
        expected = self.values(mark)
        part, value = next((i, v) for i, v in enumerate(values) if v != expected[i])
        assert value is not None, "no value is absent"
        return (
            f"{self.item}: {len(value)} bytes at key {part} that nobody wrote there; "
            f"{describe_id(mark)} wrote {len(expected[part])} others"
        )


class Bundle:
    """The groups, an item each, absent at first. ``volume()`` says how many bytes may still be written."""

    name = "bundle"
    bulk = True

    def __init__(self, volume: Callable[[], float] | None = None) -> None:
        self._groups = [[Group(kind.size, number) for number in range(kind.groups)] for kind in _KINDS]
        self._volume = volume
        self._by_item = {group.item: group for groups in self._groups for group in groups}

    def keys_max(self) -> int:
        """All keys of all groups."""
        return sum(kind.size * kind.groups for kind in _KINDS)

    def keys(self) -> Iterable[bytes]:
        """All keys of all groups."""
        return (key for groups in self._groups for group in groups for key in group.keys)

    def setup(self) -> list[Act]:
        """Nothing."""
        return []

    def _pick(self, random: Random) -> Group:
        kind = random.choices(range(len(_KINDS)), [kind.weight for kind in _KINDS])[0]
        share = random.random()
        if _KINDS[kind].size >= _UNIFORM and self._volume is not None and self._volume() <= 0:
            kind = 0
        groups = self._groups[kind]
        return groups[int(share * len(groups))]

    def write(self, random: Random, session: Session) -> Act:  # noqa: ARG002
        """Write one group."""
        group = self._pick(random)

        def body(session: Session, identity: int) -> Done:
            return Done(session.put_many(list(zip(group.keys, group.values(identity), strict=True))))

        return Act("write", self.name, body, writes=(group.item,), byte_count=group.byte_count)

    def read(self, random: Random, session: Session) -> Act:  # noqa: ARG002
        """One group in one snapshot; a large one seldom."""
        group = self._pick(random)
        return in_snapshot(self.name, lambda snapshot: (group.read(snapshot),))

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """See the protocol."""
        return self._by_item[item].versions(session)

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:  # noqa: ARG002
        """Every group."""
        return tuple(group.read(snapshot) for groups in self._groups for group in groups)


def _compare(item: str, first: Sequence[Read], last: Sequence[Read]) -> None:
    """Hold the versions of two keys of a group against each other, where both lists reach.

    Raises:
        Anomaly: a write shows at one of them only.
    """
    one, other = ({read.sequence or 0: read.writer for read in versions} for versions in (first, last))
    if not (one and other) or any(read.sequence is None for read in (*first, *last)):
        return
    low, high = max(min(one), min(other)), min(max(one), max(other))
    for sequence in sorted({*one, *other}):
        if low <= sequence <= high and one.get(sequence, sequence) != other.get(sequence, sequence):
            writers = [describe_id(found.get(sequence)) for found in (one, other)]
            raise Anomaly(
                "atomicity",
                f"{item}: the version at T={sequence} is {writers[0]} at its first key and {writers[1]} at its last",
            )


def _value(head: bytes, key: bytes, sizes: Sequence[int]) -> bytes:
    unit = xxhash.xxh3_128_digest(head + key)
    byte_count = sizes[unit[0] % len(sizes)] - _ID_BYTES
    return head + (unit * (byte_count // len(unit) + 1))[:byte_count]
