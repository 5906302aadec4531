"""What every workload is made of: keys, values that name their writer, and acts.

An *act* is one operation before it is performed: what the history's ``invoke`` will say, and a body that
does it through a session. The worker numbers it, records it and runs it; a body that sees on the spot what
must never be seen raises ``Anomaly``.

Every value is ``writer id (8) + xxh3-64 of id, key and body (8) + body``. A value that is cut short, mixed
of two writes or returned for another key fails the hash: nobody wrote it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, Literal, NamedTuple, Protocol

import xxhash

from harness.engines.base import Session, Snapshot, Transaction, Value
from harness.history import Kind, Read, describe_id

_HEAD: Final = struct.Struct("<QQ")
KEY_BYTES: Final = 16
VALUE_BYTES_MIN: Final = _HEAD.size
RECORD_BYTES: Final = 64
"""About what a store needs for one small value."""


class Anomaly(Exception):  # noqa: N818 - the field's word: what must never be seen
    """A body saw, on the spot, what must never be seen. ``reads``: all that the act was to read, if it got
    so far; ``sequence``: of the snapshot that it used.
    """

    def __init__(self, property_name: str, message: str, reads: tuple[Read, ...] = ()) -> None:
        super().__init__(message)
        self.property_name = property_name
        self.reads = reads
        self.sequence: int | None = None


class Done(NamedTuple):
    """What an act did, for the history's ``ok``."""

    sequence: int | None
    reads: tuple[Read, ...] = ()
    values: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Act(NamedTuple):
    """One operation before it is performed. ``body(session, identity)`` does it as operation ``identity``;
    ``values(identity)`` are the values that it means to write where they are known before, ``byte_count`` is
    about how much room they take.
    """

    f: Kind
    workload: str
    body: Callable[[Session, int], Done]
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    values: Callable[[int], dict[str, Any]] | None = None
    byte_count: int = 0
    resolves: int = 0


class Workload(Protocol):
    """One kind of traffic, with its own items and the checks that its readers make on the spot.

    A workload draws at random only from the stream that it is given, and draws the same whatever the store
    answers, so that one seed makes one sequence of acts.
    """

    name: str
    bulk: bool
    """Whether reading all of it takes long; whoever reads everything in one snapshot reads it last, while
    the versions of what is overwritten all the time are still there."""

    def keys_max(self) -> int:
        """Upper bound of the keys that it ever has in the store."""

    def keys(self) -> Iterable[bytes]:
        """Every key that it may have in the store."""

    def setup(self) -> list[Act]:
        """Writes that come before everything else."""

    def write(self, random: Random, session: Session) -> Act:
        """A writer's next operation (now and then one that only reads). May look into ``session`` first."""

    def read(self, random: Random, session: Session) -> Act:
        """A reader's next operation."""

    def versions(self, session: Session, item: str) -> tuple[Read, ...]:
        """Every version of ``item`` that the store still keeps, newest first, as in a ``resolve``."""

    def everything(self, snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:
        """Read and check every item in one snapshot; those that are no longer written only if ``retired``."""


def key_of(workload: str, item: str, part: int = 0) -> bytes:
    """The 16-byte key of part ``part`` of an item: xxh3-128 of the three."""
    return xxhash.xxh3_128_digest(f"{workload}\0{item}\0{part}".encode())


def encode(identity: int, key: bytes, body: bytes) -> bytes:
    """The value that operation ``identity`` stores at ``key`` to say ``body``."""
    return _HEAD.pack(identity, _hash(identity, key, body)) + body


def decode(item: str, key: bytes, data: bytes) -> tuple[int, bytes]:
    """``(writer's id, body)`` of a value.

    Raises:
        Anomaly: nobody wrote this value at this key.
    """
    if len(data) >= VALUE_BYTES_MIN:
        identity, hashed = _HEAD.unpack_from(data)
        body = data[VALUE_BYTES_MIN:]
        if hashed == _hash(identity, key, body):
            return identity, body
        claim = f"claims to be of {describe_id(identity)}"
    else:
        claim = "is too short to name its writer"
    raise Anomaly("atomicity", f"{item}: a value of {len(data)} bytes that nobody wrote there; it {claim}")


def pattern(identity: int, byte_count: int) -> bytes:
    """``byte_count`` bytes that follow from ``identity`` alone."""
    unit = xxhash.xxh3_128_digest(identity.to_bytes(8, "little"))
    return (unit * (byte_count // len(unit) + 1))[:byte_count]


def _hash(identity: int, key: bytes, body: bytes) -> int:
    return xxhash.xxh3_64_intdigest(b"".join((identity.to_bytes(8, "little"), key, body)))


def versions_of_key(
    session: Session, item: str, key: bytes, read: Callable[[Value], Read]
) -> tuple[Read, ...]:
    """The versions of an item of one key, values read by ``read``; for ``Workload.versions``."""
    return tuple(
        Read(item, None, sequence) if data is None else read(Value(data, sequence))
        for data, sequence in session.revisions(key)
    )


def in_snapshot(
    workload: str, read: Callable[[Snapshot], tuple[Read, ...]], f: Literal["read", "final"] = "read"
) -> Act:
    """An act that opens one snapshot, runs ``read`` on it and closes it."""

    def body(session: Session, _: int) -> Done:
        snapshot = session.snapshot()
        try:
            return Done(snapshot.sequence, read(snapshot))
        except Anomaly as anomaly:
            anomaly.sequence = snapshot.sequence
            raise
        finally:
            snapshot.close()

    return Act(f, workload, body)


def in_transaction(session: Session, work: Callable[[Transaction], Done]) -> Done:
    """Run ``work`` in one transaction and commit it; aborted if ``work`` raises."""
    transaction = session.transaction()
    try:
        done = work(transaction)
        return done._replace(sequence=transaction.commit())
    finally:
        transaction.abort()
