"""Probes of what one user asks of a store: open, write, read, remove, close."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from harness.doctor import shape
from harness.doctor.actor import Remote
from harness.doctor.ward import Ward, number_of, patiently, shown, value_of
from harness.doctor.words import EITHER, FailedError, Wrong

KEY: Final = b"doctor/key/00001"
OTHER: Final = b"doctor/key/00002"
THIRD: Final = b"\0" * 15 + b"\xff"
"""Keys are 16 bytes of any value."""
_SIZES: Final = (0, 1, 255, 4_096, 65_536, 1 << 20)
_MANY: Final = 1_000
_CYCLES: Final = 6
_TRANSACTION: Final = "Keep a transaction's writes apart until commit(), and forget them in abort()."


def made(ward: Ward) -> None:
    """The engine's attributes, its methods and their arguments."""
    actor = ward.actor()
    actor.run("the engine's methods", shape.check_engine, actor.engine)


def created(ward: Ward) -> None:
    """A store is made in an empty directory."""
    ward.make("another")


def opened(ward: Ward) -> None:
    """Open, close, close again, and open once more."""
    actor = ward.actor()
    for _ in range(2):
        session = ward.opened(actor)
        session.close()
        session.close()


def handles(ward: Ward) -> None:
    """The methods of sessions, transactions and snapshots."""
    actor = ward.actor()
    actor.run("the session's methods", shape.check_handles, ward.opened(actor))


def written(ward: Ward) -> None:
    """What was written is read, in every way that there is; what was not is absent."""
    session = ward.opened()
    _expect(session, {}, absent=(KEY,))
    write(session, {KEY: b"one", OTHER: bytes(range(256))})
    _expect(session, {KEY: b"one", OTHER: bytes(range(256))}, absent=(THIRD,))
    write(session, {KEY: b"two", THIRD: b"\0"})
    _expect(session, {KEY: b"two", OTHER: bytes(range(256)), THIRD: b"\0"})


def sizes(ward: Ward) -> None:
    """Values from nothing to 1 MiB come back as they were."""
    session = ward.opened()
    for size in _SIZES:
        value = os.urandom(size)
        write(session, {KEY: value})
        _expect(session, {KEY: value})


def many(ward: Ward) -> None:
    """A thousand keys in one transaction."""
    session = ward.opened()
    pairs = {number.to_bytes(16, "big"): f"value {number}".encode() for number in range(_MANY)}
    write(session, pairs)
    _expect(session, dict(list(pairs.items())[:: _MANY // 10]), keys=set(pairs))
    snapshot = session.snapshot()
    wanted = [*reversed(pairs), KEY, next(iter(pairs))]
    got = snapshot.get_many(wanted)
    if got != [pairs.get(key) for key in wanted]:
        raise Wrong(
            f"snapshot.get_many() of {len(wanted):,} keys returned other values than were written, or in another"
            " order",
            "Return one value for each key that was asked for, in that order; None where it is absent.",
        )
    snapshot.close()


def committed(ward: Ward) -> None:
    """A transaction reads its own writes, and others see them when it has committed, not before."""
    session, other = ward.opened(), ward.opened()
    write(session, {KEY: b"before", THIRD: b"to go"})
    transaction = patiently(session.transaction)
    _read("transaction.get()", transaction.get(KEY), b"before")
    transaction.put(KEY, b"after")
    transaction.put(OTHER, b"new")
    transaction.delete(THIRD)
    for key, value in ((KEY, b"after"), (OTHER, b"new"), (THIRD, None)):
        got = value_of("transaction.get()", transaction.get(key))
        if (None if got is None else got.data) != value:
            raise Wrong(
                f"transaction.get() of a key that the transaction itself had set to {shown(value)} returned"
                f" {shown(None if got is None else got.data)}",
                "Look among the transaction's own writes before looking into the store.",
            )
    _unseen(other, "has not committed", {KEY: b"before", THIRD: b"to go"}, (OTHER,))
    number_of("transaction.commit()", transaction.commit())
    transaction.abort()
    for reader in (session, other):
        _expect(reader, {KEY: b"after", OTHER: b"new"}, absent=(THIRD,))


def aborted(ward: Ward) -> None:
    """A transaction that is aborted leaves nothing; to abort twice, or after a commit, does no harm."""
    session, other = ward.opened(), ward.opened()
    write(session, {KEY: b"before", THIRD: b"to stay"})
    transaction = patiently(session.transaction)
    transaction.put(KEY, b"after")
    transaction.put(OTHER, b"new")
    transaction.delete(THIRD)
    transaction.abort()
    transaction.abort()
    for reader in (session, other):
        _unseen(reader, "was aborted", {KEY: b"before", THIRD: b"to stay"}, (OTHER,))
    write(other, {OTHER: b"by somebody else"})
    _expect(session, {KEY: b"before", OTHER: b"by somebody else"})


def removed(ward: Ward) -> None:
    """What is removed is absent, may be absent already, and may come back."""
    session = ward.opened()
    write(session, {KEY: b"1", OTHER: b"2"})
    for _ in range(2):
        change(session, {KEY: None})
        _expect(session, {OTHER: b"2"}, absent=(KEY,), keys={OTHER})
    change(session, {KEY: b"3", OTHER: None})
    _expect(session, {KEY: b"3"}, absent=(OTHER,), keys={KEY})


def elsewhere(ward: Ward) -> None:
    """What is acknowledged is seen at once by other processes, and by a second session of the same."""
    actor = ward.actor()
    sessions = {
        "a process": ward.opened(actor),
        "a second session of that process": ward.opened(actor),
        "another process": ward.opened(),
    }
    for number in range(12):
        value = f"value {number}".encode()
        writer = list(sessions)[number % len(sessions)]
        write(sessions[writer], {KEY: value})
        for reader, session in sessions.items():
            got = value_of("session.get()", patiently(session.get, KEY))
            if got is None or got.data != value:
                raise Wrong(
                    f"{writer} wrote {shown(value)}, which was acknowledged, and {reader} sees"
                    f" {'nothing' if got is None else shown(got.data)}",
                    "Keep nothing in the memory of a process that others may have changed: look again at every read.",
                )


def kept(ward: Ward) -> None:
    """What was acknowledged is there after its process closed the store, or was killed without closing it."""
    for key, how in ((KEY, "closed the store and left"), (OTHER, "was killed")):
        actor = ward.actor()
        session = ward.opened(actor)
        write(session, {key: b"kept"})
        if key == KEY:
            session.close()
            actor.leave()
        actor.kill()
        reader = ward.actor()
        got = value_of("session.get()", patiently(ward.opened(reader).get, key))
        if got is None or got.data != b"kept":
            raise Wrong(
                f"a write that was acknowledged is gone after its process {how}",
                "Hand every write to the operating system before commit() or put_many() returns.",
                EITHER,
            )
        reader.leave()


def apart(ward: Ward) -> None:
    """Two stores in one process have nothing to do with each other."""
    actor, another = ward.actor(), ward.make("another")
    session = ward.opened(actor)
    other = patiently(actor.engine.open, another)
    write(session, {KEY: b"here"})
    write(other, {OTHER: b"there"})
    for reader, pairs in ((session, {KEY: b"here"}), (other, {OTHER: b"there"})):
        try:
            _expect(reader, pairs, keys=set(pairs))
        except Wrong as wrong:
            then = "Keep everything by directory: nothing of a store belongs into the module or the class."
            raise Wrong(f"two stores are open in one process, and {wrong.came}", then) from None


def readonly(ward: Ward) -> None:
    """A session that was opened for reading reads, and refuses to write."""
    session = ward.opened()
    write(session, {KEY: b"before"})
    engine = ward.actor().engine
    reader = patiently(engine.open, ward.directory, readonly=True)
    _expect(reader, {KEY: b"before"})
    try:
        reader.put_many([(KEY, b"after")])
    except (FailedError, Wrong):
        _expect(session, {KEY: b"before"})
    else:
        came = "a session that was opened with readonly=True wrote" if _holds(session, b"after") else ""
        came = (
            came or "put_many() of a session that was opened with readonly=True returned, and wrote nothing"
        )
        raise Wrong(came, "Raise where a session that is for reading only is asked to write.")
    reader.close()


def cleaned(ward: Ward) -> None:
    """Whoever closes a session, a snapshot or a transaction keeps no descriptor and no thread."""
    actor = ward.actor()
    actor.run("opening and closing", _cycles, actor.engine, ward.directory, within_s=2 * ward.patience_s)


def left(ward: Ward) -> None:
    """When everybody has gone, closing or killed, nothing is left behind."""
    first, second = ward.actor(), ward.actor()
    session, other = ward.opened(first), ward.opened(second)
    write(session, {KEY: b"1"})
    write(other, {KEY: b"2"})
    second.kill()
    write(session, {KEY: b"3"})
    session.close()
    first.leave()
    last = ward.actor()
    found = last.engine.left_behind(ward.directory)
    if found != []:
        raise Wrong(
            f"left_behind() says {shown(found)} although every process has gone",
            "Return a list of words about what the dead still hold; whoever opens the store after them must clear"
            " it.",
            EITHER,
        )


def write(session: Remote, pairs: dict[bytes, bytes]) -> int | None:
    """Write, again while it is refused."""
    return number_of("session.put_many()", patiently(session.put_many, list(pairs.items())))


def change(session: Remote, pairs: dict[bytes, bytes | None]) -> int | None:
    """Write and remove in one transaction, again while it is refused."""

    def once() -> Any:
        transaction = session.transaction()
        try:
            for key, value in pairs.items():
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
            return transaction.commit()
        finally:
            transaction.abort()

    return number_of("transaction.commit()", patiently(once))


def _expect(
    session: Remote,
    pairs: dict[bytes, bytes],
    *,
    absent: tuple[bytes, ...] = (),
    keys: set[bytes] | None = None,
) -> None:
    """That reads of all kinds return ``pairs`` and nothing for ``absent``; that there are no other ``keys``."""
    snapshot = patiently(session.snapshot)
    ways: dict[str, Callable[[bytes], Any]] = {
        "session.get()": lambda key: patiently(session.get, key),
        "snapshot.get()": lambda key: patiently(snapshot.get, key),
    }
    for call, way in ways.items():
        for key in (*pairs, *absent):
            _read(call, way(key), pairs.get(key))
    wanted = [*pairs, *absent]
    got = patiently(snapshot.get_many, wanted)
    if got != [pairs.get(key) for key in wanted]:
        raise Wrong(
            f"snapshot.get_many() returned {shown(got)}, and get() of the same keys the values that were written",
            "Return a list: one value (bytes) for each key that was asked for, in that order; None where it is"
            " absent.",
        )
    snapshot.close()
    _expect_keys(session, keys)


def _expect_keys(session: Remote, keys: set[bytes] | None) -> None:
    got = patiently(session.keys)
    if not isinstance(got, set):
        raise Wrong(f"session.keys() returned {shown(got)}, which is no set", "Return a set of bytes.")
    if keys is not None and got != keys:
        raise Wrong(
            f"session.keys() returned {len(got):,} keys where there are {len(keys):,}: {len(keys - got):,} are"
            f" missing and {len(got - keys):,} are not in the store",
            "Return exactly the keys that are present now.",
        )


def _read(call: str, got: Any, expected: bytes | None) -> None:
    value = value_of(call, got)
    data = None if value is None else value.data
    if data != expected:
        raise Wrong(
            f"{call} returned {shown(data)} where {shown(expected)} was written last",
            "Return what the newest commit wrote: b'' where it wrote nothing, None only where the key is absent.",
            EITHER,
        )


def _unseen(reader: Remote, why: str, pairs: dict[bytes, bytes], absent: tuple[bytes, ...]) -> None:
    for key in (*pairs, *absent):
        got = value_of("session.get()", patiently(reader.get, key))
        if (None if got is None else got.data) != pairs.get(key):
            raise Wrong(f"a write or removal of a transaction that {why} is seen", _TRANSACTION, EITHER)


def _holds(session: Remote, value: bytes) -> bool:
    got = value_of("session.get()", patiently(session.get, KEY))
    return got is not None and got.data == value


def _cycles(engine: Any, directory: Path) -> None:
    """In an actor: open, use and close a store some times; descriptors and threads must not become more."""

    def cycle() -> None:
        session = engine.open(directory)
        session.put_many([(KEY, b"1")])
        snapshot = session.snapshot()
        snapshot.get(KEY)
        snapshot.close()
        snapshot.close()
        transaction = session.transaction()
        transaction.put(KEY, b"2")
        transaction.abort()
        session.close()

    counts = []
    for _ in range(_CYCLES):
        cycle()
        counts.append((_open_files(), len(os.listdir("/proc/self/task"))))  # noqa: PTH208 - only how many
    (files_before, threads_before), (files, threads) = counts[0], counts[-1]
    times = f"after a session was opened and closed {_CYCLES - 1} more times"
    if len(files) > len(files_before):
        more = sorted(set(files) - set(files_before)) or files
        raise Wrong(
            f"{len(files) - len(files_before)} more descriptors are open {times}, e.g. of {Path(more[-1]).name}",
            "Close in close() whatever open(), snapshot() and transaction() opened.",
        )
    if threads > threads_before:
        raise Wrong(
            f"{threads - threads_before} more threads run {times}",
            "End in close() whatever threads were started.",
        )


def _open_files() -> list[str]:
    names = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(path.readlink()))
        except OSError:
            continue  # the one that this listing used
    return names
