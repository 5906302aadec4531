"""What one process of a scenario does between its steps: the same code in a greenlet and in a real process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from harness.engines.base import Revision, Session, Snapshot, Value
from harness.errors import ConflictError, EngineDamagedError
from harness.history import (
    Event,
    Fail,
    Info,
    Invoke,
    Kind,
    Left,
    Ok,
    Read,
    Violation,
    describe_id,
    operation_id,
)
from harness.scenario import Program, Transaction
from harness.stepped.medium import nothing_missing
from harness.workloads.base import Anomaly, Done, decode, encode, in_transaction

WORKLOAD: Final = "explore"
BEGIN: Final = "operation.begin"
"""Where a process stands before each of its transactions."""
OPEN: Final = "operation.open"
"""Where a process that joins later stands before it opens the store."""
CLOSE: Final = "operation.close"
"""Where a process stands before it closes the store."""
POINTS: Final[dict[str, str]] = {
    BEGIN: "the process is about to begin its next transaction",
    OPEN: "the process is about to open the store",
    CLOSE: "the process is about to close the store",
}
"""The harness's own sync points, beside the store's."""
_KINDS: Final[dict[str, Kind]] = {
    "put": "write",
    "update": "write",
    "read": "read",
    "get": "get",
    "history": "resolve",  # of no write in particular: what it lists is evidence all the same
    "hold": "read",
    "compact": "get",  # of nothing: nobody sees what it does
}
_OVERTAKING: Final = 3
ERROR: Final = "error"
"""The property that no operation ends in an error which its interface does not document."""


class Cast(NamedTuple):
    """What a process needs to play: the items' names and keys, and where its events go and the clock comes from; what
    every value has in it besides; whether the store is durable, and which transaction of those up to a T is not on the
    medium (0: none).
    """

    items: tuple[str, ...]
    keys: tuple[bytes, ...]
    pause: Callable[[str], None]
    emit: Callable[[Event], None]
    clock: Callable[[], int]
    padding: bytes = b""
    durable: bool = False
    oldest_missing: Callable[[int], int] = nothing_missing


def play(number: int, program: Program, cast: Cast, open_store: Callable[[], Session]) -> None:
    """Open the store and perform every transaction of ``program`` as process ``number``, pausing before each."""
    player = Player(number, cast)
    if program.joins:
        cast.pause(OPEN)
    try:
        session = open_store()
        for transaction in program.transactions:
            cast.pause(BEGIN)
            player.perform(session, transaction)
        player.release()
        if program.closes:
            cast.pause(CLOSE)
            session.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the store's answer
        player.report(error)
    finally:
        player.let_go()


class _Held(NamedTuple):
    """A snapshot that is held, and what it showed at first."""

    snapshot: Snapshot
    wanted: tuple[int, ...]
    reads: tuple[Read, ...]
    session: Session


class Player:
    """Performs transactions as one process, and says what it does in the words of a history."""

    def __init__(self, number: int, cast: Cast) -> None:
        self._number = number
        self._cast = cast
        self._index = 0
        self._held: list[_Held] = []

    def perform(self, session: Session, transaction: Transaction) -> None:
        """Do it as the next operation. Raises whatever the session raised, other than a conflict."""
        self._index += 1
        number, index, cast = self._number, self._index, self._cast
        items, emit = cast.items, cast.emit
        f: Kind = _KINDS[transaction.kind]
        writes = tuple([items[key] for key in transaction.writes])
        deletes = tuple([items[key] for key in transaction.deletes])
        emit(Invoke(number, index, cast.clock(), f, WORKLOAD, writes, deletes))
        try:
            done = self._do(session, transaction, operation_id(number, index))
        except ConflictError as error:
            emit(Fail(number, index, cast.clock(), str(error)))
            return
        except Anomaly as anomaly:
            if anomaly.reads and f == "read":
                emit(Ok(number, index, cast.clock(), anomaly.sequence, anomaly.reads))
            else:
                emit(Info(number, index, cast.clock(), str(anomaly)))
            emit(Violation(number, cast.clock(), anomaly.property_name, str(anomaly), index))
            return
        except Exception as error:
            emit(Info(number, index, cast.clock(), f"{type(error).__name__}: {error}"))
            raise
        emit(Ok(number, index, cast.clock(), done.sequence, done.reads))
        if done.sequence and (missing := cast.oldest_missing(done.sequence)):
            message = f"T={done.sequence} was told while T={missing} was not on the medium"
            emit(Violation(number, cast.clock(), "durability", message, index))

    def release(self) -> None:
        """Read the snapshots that are held once more, and close them. Raises Anomaly."""
        while self._held:
            held = self._held.pop(0)
            try:
                self._compare(held, self._view(held.snapshot, held.wanted))
            except ConflictError:
                self._check_overtaken(held)
            finally:
                held.snapshot.close()

    def let_go(self) -> None:
        """Close the snapshots that are still held."""
        while self._held:
            self._held.pop().snapshot.close()

    def _compare(self, held: _Held, again: tuple[Read, ...]) -> None:
        for one, other in zip(held.reads, again, strict=True):
            if one != other:
                seen, then = describe_id(one.writer), describe_id(other.writer)
                raise Anomaly(
                    "isolation", f"{one.item}: a snapshot that is held shows {seen} and then {then}"
                )

    def _check_overtaken(self, held: _Held) -> None:
        """A snapshot may be refused only if one of its keys was written four times since; the last of them may be under
        way still. (In a durable store more of them may not be visible yet.)
        """
        since = held.snapshot.sequence or 0
        newer = 0
        for key in held.wanted:
            revisions = held.session.revisions(self._cast.keys[key])
            newer = max(newer, sum((revision.sequence or 0) > since for revision in revisions))
        if newer < _OVERTAKING and not self._cast.durable:
            raise Anomaly("isolation", f"a snapshot that is held is refused after {newer} newer versions")

    def report(self, error: Exception) -> None:
        """Say that the store answered with an error that it must not answer with."""
        if isinstance(error, Anomaly):
            name, message = error.property_name, str(error)
        elif isinstance(error, EngineDamagedError):
            name, message = "structure", str(error)
        else:
            name, message = ERROR, f"{type(error).__name__}: {error}"
        self._cast.emit(Violation(self._number, self._cast.clock(), name, message, self._index))

    def _do(self, session: Session, transaction: Transaction, identity: int) -> Done:
        keys = self._cast.keys
        if transaction.kind == "put":
            pairs = [
                (keys[key], encode(identity, keys[key], self._cast.padding)) for key in transaction.writes
            ]
            return Done(session.put_many(pairs))
        if transaction.kind == "update":
            return in_transaction(session, lambda txn: self._update(txn, transaction, identity))
        if transaction.kind == "history":
            return Done(
                None, tuple(read for key in transaction.reads for read in self.versions(key, session))
            )
        if transaction.kind == "get":
            return Done(None, tuple([self._read(key, session.get(keys[key])) for key in transaction.reads]))
        if transaction.kind == "compact":
            session.compact_once()  # type: ignore[attr-defined]
            return Done(None)
        return self._look(session, transaction)

    def _look(self, session: Session, transaction: Transaction) -> Done:
        """Read in one snapshot, which stays open where it is to be held."""
        snapshot = session.snapshot()
        held = False
        try:
            reads = self._view(snapshot, transaction.reads)
            held = transaction.kind == "hold"
        except Anomaly as anomaly:
            anomaly.sequence = snapshot.sequence
            raise
        finally:
            if not held:
                snapshot.close()
        if held:
            self._held.append(_Held(snapshot, transaction.reads, reads, session))
        return Done(snapshot.sequence, reads)

    def _update(self, txn: object, transaction: Transaction, identity: int) -> Done:
        keys = self._cast.keys
        reads = tuple([self._read(key, txn.get(keys[key])) for key in transaction.reads])  # type: ignore[attr-defined]
        for key in transaction.writes:
            txn.put(keys[key], encode(identity, keys[key], self._cast.padding))  # type: ignore[attr-defined]
        for key in transaction.deletes:
            txn.delete(keys[key])  # type: ignore[attr-defined]
        return Done(None, reads)

    def _view(self, snapshot: Snapshot, wanted: tuple[int, ...]) -> tuple[Read, ...]:
        """Every key on its own, then all together, which must show the same."""
        reads = tuple([self._read(key, snapshot.get(self._cast.keys[key])) for key in wanted])
        again = snapshot.get_many([self._cast.keys[key] for key in wanted])
        for key, read, data in zip(wanted, reads, again, strict=True):
            other = self._read(key, None if data is None else Value(data, None))
            if other.writer != read.writer:
                seen, then = describe_id(read.writer), describe_id(other.writer)
                raise Anomaly("isolation", f"{read.item}: one snapshot shows {seen} and then {then}", reads)
        return reads

    def versions(self, key: int, session: Session) -> list[Read]:
        """Every version of the item that is kept, the newest first."""
        name = self._cast.keys[key]
        return [_version(self._cast.items[key], name, revision) for revision in session.revisions(name)]

    def _read(self, key: int, value: Value | None) -> Read:
        item = self._cast.items[key]
        if value is None:
            return Read(item, None)
        return Read(item, decode(item, self._cast.keys[key], value.data)[0], value.sequence)


class Aftermath(NamedTuple):
    """What is found when everybody has gone: events of the last process, what was left behind, and every version that
    is kept of each item, if that was asked for.
    """

    events: list[Event]
    left: list[Left]
    kept: dict[str, list[Read]] | None = None


def examine(
    number: int,
    cast: Cast,
    open_store: Callable[[], Session],
    killed: list[Invoke],
    *,
    history: bool = False,
) -> Aftermath:
    """As process ``number``, after everybody has gone: open the store (its last recovery), look for every write in
    ``killed`` among the versions that it keeps, run its own check, and read everything in one snapshot, and with
    ``history`` every version that is kept. The session is not closed: like everybody else, whoever examines just ends.
    """
    events: list[Event] = []
    left: list[Left] = []
    kept: dict[str, list[Read]] | None = None
    cast = cast._replace(emit=events.append)
    player = Player(number, cast)
    try:
        session = open_store()
        if cast.durable:
            session.settle()
        for index, write in enumerate(killed, 1):
            events += _resolve(number, index, write, cast, session)
        left += [Left(cast.clock(), "structure", finding) for finding in session.verify(thorough=True)]
        strangers = session.keys().difference(cast.keys)
        if strangers:
            left.append(Left(cast.clock(), "structure", f"a key that nobody wrote: {min(strangers).hex()}"))
        _final(number, len(killed) + 1, cast, session)
        if history:
            kept = {item: player.versions(key, session) for key, item in enumerate(cast.items)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the store's answer
        player.report(error)
    return Aftermath(events, left, kept)


def _resolve(number: int, index: int, write: Invoke, cast: Cast, session: Session) -> list[Event]:
    items = (*write.writes, *write.deletes)
    reads: list[Read] = []
    for item in items:
        key = cast.items.index(item)
        reads += [_version(item, cast.keys[key], revision) for revision in session.revisions(cast.keys[key])]
    now = cast.clock()
    resolves = operation_id(write.process, write.index)
    return [
        Invoke(number, index, now, "resolve", WORKLOAD, resolves=resolves),
        Ok(number, index, now, None, tuple(reads)),
    ]


def _version(item: str, key: bytes, revision: Revision) -> Read:
    data, sequence = revision
    return Read(item, None if data is None else decode(item, key, data)[0], sequence)


def _final(number: int, index: int, cast: Cast, session: Session) -> None:
    cast.emit(Invoke(number, index, cast.clock(), "final", WORKLOAD))
    snapshot = session.snapshot()
    reads: list[Read] = []
    for item, key in zip(cast.items, cast.keys, strict=True):
        value = snapshot.get(key)
        writer = None if value is None else decode(item, key, value.data)[0]
        reads.append(Read(item, writer, None if value is None else value.sequence))
    snapshot.close()
    cast.emit(Ok(number, index, cast.clock(), snapshot.sequence, tuple(reads)))
