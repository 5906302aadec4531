"""Probes of what several processes ask of a store at one time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from harness.doctor.actor import Pending, Remote
from harness.doctor.basics import KEY, OTHER, THIRD, change, write
from harness.doctor.ward import Ward, number_of, patiently, shown, value_of
from harness.doctor.words import EITHER, FailedError, RefusedError, Skipped, Wrong
from harness.engines.base import InDoubtError
from harness.errors import ConflictError

_HOLD_S: Final = 6.0
"""Longer than stores wait for a lock by default before they say that they are busy (Python's sqlite3: 5 s)."""
_MEANWHILE_S: Final = 0.5
"""So long one waits for another who may have to wait for it."""
_CROWD: Final = 3
_CROWDED_S: Final = 1.0
_GROUP: Final = tuple(number.to_bytes(16, "little") for number in range(1, 41))
_LOST: Final = (
    "Hold a lock from the first read to the end of the commit, or compare under the lock what was read with what is"
    " there now, and raise harness.ConflictError, having done nothing, if it differs."
)


def conflict(ward: Ward) -> None:
    """Two processes read, change and write the same key: one of them waits, or is refused with ``ConflictError``."""
    _two_increments(ward, ward.opened(), lambda: None, "two processes read, changed and wrote one key")


def second(ward: Ward) -> None:
    """To close a second session of the same process does not take away the lock of the first."""
    actor = ward.actor()
    session, beside = ward.opened(actor), ward.opened(actor)
    what = (
        "two processes read, changed and wrote one key, and one of them closed a second session in the midst"
    )
    try:
        _two_increments(ward, session, beside.close, what)
    except Wrong as wrong:
        then = "POSIX record locks vanish when any descriptor of the file is closed (fcntl(2)): use flock(2)."
        raise Wrong(wrong.came, then, wrong.whose) from None


def _two_increments(ward: Ward, session: Remote, meanwhile: Callable[[], object], what: str) -> None:
    """One begins to count up a key, another counts it up (or waits), the first goes on: no count may be lost."""
    rival = ward.actor()
    other = ward.opened(rival)
    write(session, {KEY: b"0"})
    transaction = patiently(session.transaction)
    seen = _number(transaction.get(KEY))
    meanwhile()
    going = rival.run_later("an increment by another process", _increment, other, KEY)
    going.is_done(_MEANWHILE_S)
    done = 0
    try:
        transaction.put(KEY, str(seen + 1).encode())
        transaction.commit()
        done += 1
    except RefusedError:
        transaction.abort()
    try:
        going.answer(ward.patience_s + ward.stall_s)
        done += 1
    except RefusedError:
        pass
    count = _number(patiently(ward.opened().get, KEY))
    if count != done:
        lost = f"one of the updates is lost: {done} commits were acknowledged and the count is {count}"
        raise Wrong(f"{what}: {lost}", _LOST, EITHER)


def skew(ward: Ward) -> None:
    """Two transactions read two keys and write one each: they cannot both commit on what they read."""
    rival = ward.actor()
    session, other = ward.opened(), ward.opened(rival)
    write(session, {KEY: b"0", OTHER: b"0"})
    transaction = patiently(session.transaction)
    transaction.get(KEY)
    transaction.get(OTHER)
    going = rival.run_later("a transaction of another process", _read_two_write_one, other)
    going.is_done(_MEANWHILE_S)
    refused = 0
    try:
        transaction.put(KEY, b"1")
        transaction.commit()
    except RefusedError:
        transaction.abort()
        refused += 1
    shown_there = None
    try:
        shown_there = going.answer(ward.patience_s + ward.stall_s)
    except RefusedError:
        refused += 1
    if not refused and shown_there == b"0":
        raise Wrong(
            "two transactions read the same two keys, each wrote another one of them, and both committed: neither"
            " saw what the other wrote (write skew)",
            "commit() must look again at every key that the transaction read, not only at those that it writes.",
            EITHER,
        )


def busy(ward: Ward) -> None:
    """While one that has a transaction open is stopped, others read; their writes wait, or raise ``ConflictError``."""
    holder, writer, reader = ward.actor(), ward.actor(), ward.actor()
    session, other, looking = ward.opened(holder), ward.opened(writer), ward.opened(reader)
    write(session, {KEY: b"before"})
    transaction = patiently(session.transaction)
    transaction.get(KEY)
    transaction.put(KEY, b"after")
    holder.stop()
    until = time.monotonic() + _HOLD_S
    going = writer.run_later("session.put_many()", _insist, other, _HOLD_S)
    look = reader.later(looking, "get", KEY)
    going.is_done(_HOLD_S)
    was_early = going.is_done(0)
    has_read = look.is_done(max(until - time.monotonic(), _MEANWHILE_S))
    holder.resume()
    has_committed = _commits(transaction)
    wrote = _busy_answer(going, ward)
    _busy_answer(look, ward)
    if was_early and wrote and has_committed:
        raise Wrong(
            "the lock was taken from a process that was only stopped (SIGSTOP): another one wrote the key that it"
            " had read, and when it went on, its commit was acknowledged, too",
            "Never take a lock from a holder that is alive, however long it takes; refuse, or wait.",
            EITHER,
        )
    if not has_read:
        raise Skipped("a read waited for the transaction of another process: that is slow, and not wrong")


def _commits(transaction: Remote) -> bool:
    try:
        transaction.commit()
    except RefusedError:
        transaction.abort()
        return False
    return True


def _busy_answer(pending: Pending, ward: Ward) -> Any:
    """What came of a call that was made while another process had a transaction open; ``None`` if it was refused."""
    try:
        return pending.answer(_HOLD_S + ward.patience_s + ward.stall_s)
    except RefusedError:
        return None
    except FailedError as error:
        raise Wrong(
            f"{pending.call} raised {error.raised.name}: {error.raised.message} ({error.raised.where}) while another"
            " process had a transaction open",
            "Translate the store's own exception: who comes while it is busy is refused by harness.ConflictError.",
        ) from None


def still(ward: Ward) -> None:
    """A snapshot stays as it was while another process writes, removes and inserts; a new one shows that."""
    session, other = ward.opened(), ward.opened()
    write(session, {KEY: b"old", OTHER: b"old"})
    snapshot = patiently(session.snapshot)
    change(other, {KEY: b"new", OTHER: None, THIRD: b"new"})
    try:
        got = [value_of("snapshot.get()", snapshot.get(key)) for key in (KEY, OTHER, THIRD)]
        alone = [None if value is None else value.data for value in got]
        together = snapshot.get_many([KEY, OTHER, THIRD])
    except RefusedError:
        raise Skipped(
            "the snapshot was refused after one commit of another process: allowed, but odd"
        ) from None
    for call, values in (("get()", alone), ("get_many()", together)):
        if values != [b"old", b"old", None]:
            raise Wrong(
                f"a snapshot moved: by {call} it shows {shown(values)} after another process committed, and it was"
                f" {shown([b'old', b'old', None])} when it was taken",
                "Fix in snapshot() what it will show: a read transaction, a copy, or the number of a version.",
                EITHER,
            )
    snapshot.close()
    snapshot.close()
    newer = patiently(session.snapshot)
    if (values := newer.get_many([KEY, OTHER, THIRD])) != [b"new", None, b"new"]:
        raise Wrong(
            f"a new snapshot shows {shown(values)}, and not what another process had committed before it was taken",
            "Everything that was acknowledged before snapshot() is called must be in it.",
            EITHER,
        )
    newer.close()


def whole(ward: Ward) -> None:
    """What is committed together is seen together, while it happens."""
    writer, reader = ward.actor(), ward.actor()
    session, looking = ward.opened(writer), ward.opened(reader)
    write(session, dict.fromkeys(_GROUP, b"0"))
    writing = writer.run_later("writes in transactions", _write_groups, session)
    try:
        reader.run("reads in snapshots", _look_at_groups, looking, within_s=_CROWDED_S + ward.patience_s)
    finally:
        writing.is_done(0)
    writing.answer(_CROWDED_S + ward.patience_s)


def numbers(ward: Ward) -> None:
    """Sequence numbers, where they are revealed, grow from commit to commit and are those of the versions read."""
    session, other = ward.opened(), ward.opened()
    told: list[int | None] = []
    for number in range(6):
        value = str(number).encode()
        told.append(write((session, other)[number % 2], {KEY: value}))
        _abandon(session)
        told.append(change(other, {OTHER: value}))
        _check_seen(session, told)
        nothing = change(session, {})  # a commit that changes nothing may have a number, or none
        told += [] if nothing is None else [nothing]
    order = [number for number in told if number is not None]
    if not order:
        if ward.engine.dense:
            then = "Set dense = False, or return the numbers from commit() and put_many()."
            raise Wrong("dense is True, and no commit returns a number", then)
        raise Skipped("the store reveals no order of its commits: it will be inferred from what is read")
    if len(order) < len(told):
        then = "Return a number from every commit that changes something, or from none."
        raise Wrong(f"some commits return a number and some do not: {shown(told)}", then)
    if any(late <= early for early, late in pairwise(order)):
        raise Wrong(
            f"commits that came one after another returned {shown(order)}: that does not grow",
            "Return the place of the commit in the order of all commits of all processes.",
        )
    if ward.engine.dense and order != list(range(1, len(order) + 1)):
        raise Wrong(
            f"dense is True, and {len(order)} commits, the first ones of their store, returned {shown(order)}",
            "Set dense = False: dense promises that every number from 1 on belongs to a commit, and aborts take"
            " none.",
        )


def crowded(ward: Ward) -> None:
    """Several processes count up one key, and one each of their own, as fast as they can: no count is lost."""
    write(ward.opened(), {KEY: b"0", **{_own(which): b"0" for which in range(_CROWD)}})
    actors = [ward.actor() for _ in range(_CROWD)]
    sessions = [ward.opened(actor) for actor in actors]
    label = f"counting by {_CROWD} processes at once"
    going = [
        actor.run_later(label, _count_up, session, _own(which))
        for which, (actor, session) in enumerate(zip(actors, sessions, strict=True))
    ]
    counted = [pending.answer(_CROWDED_S + ward.patience_s + ward.stall_s) for pending in going]
    if any(in_doubt for _, in_doubt in counted):
        raise Skipped("the store could not say of some commits whether they took effect")
    last = patiently(ward.opened().snapshot)
    shared = sum(done for done, _ in counted)
    expected = [shared, *(done for done, _ in counted)]
    keys = [KEY, *map(_own, range(_CROWD))]
    got = [-1 if value is None else int(value) for value in last.get_many(keys)]
    if got != expected:
        raise Wrong(
            f"{_CROWD} processes counted at once, and {sum(expected) - sum(got)} of {sum(expected)} updates are lost",
            _LOST,
            EITHER,
        )


def _abandon(session: Remote) -> None:
    transaction = patiently(session.transaction)
    transaction.put(THIRD, b"never")
    transaction.abort()


def _check_seen(session: Remote, told: list[int | None]) -> None:
    """The numbers that a snapshot and its versions show after the last two of ``told``, of ``KEY`` and ``OTHER``."""
    snapshot = patiently(session.snapshot)
    newest = number_of("snapshot.sequence", session._actor.run("snapshot.sequence", _sequence_of, snapshot))
    if newest is not None and told[-1] is not None and newest < told[-1]:
        raise Wrong(
            f"snapshot.sequence is {newest} after a commit returned {told[-1]}",
            "snapshot.sequence is the number of the newest commit in it.",
        )
    for key, expected in ((KEY, told[-2]), (OTHER, told[-1])):
        for call, got in (("snapshot.get()", snapshot.get(key)), ("session.get()", session.get(key))):
            value = value_of(call, got)
            if value is None or value.sequence not in (None, expected):
                raise Wrong(
                    f"{call} says that what commit {expected} wrote is of {shown(value)}",
                    "The sequence of a Value is what the commit that wrote it returned; None where it is not known.",
                )
    snapshot.close()


def _own(which: int) -> bytes:
    return b"doctor/counter/" + str(which).encode()


def _number(got: Any) -> int:
    value = value_of("get()", got)
    return -1 if value is None else int(value.data)


# What actors do by themselves.


def _sequence_of(snapshot: Any) -> Any:
    return snapshot.sequence


def _increment(session: Any, key: bytes) -> None:
    transaction = session.transaction()
    try:
        transaction.put(key, str(_number(transaction.get(key)) + 1).encode())
        transaction.commit()
    finally:
        transaction.abort()


def _read_two_write_one(session: Any) -> bytes:
    transaction = session.transaction()
    try:
        got = transaction.get(KEY)
        transaction.get(OTHER)
        transaction.put(OTHER, b"1")
        transaction.commit()
        data: bytes = got.data
        return data
    finally:
        transaction.abort()


def _insist(session: Any, seconds: float) -> bool:
    """Write, again while that is refused; whether it was acknowledged in the end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            session.put_many([(KEY, b"meanwhile")])
        except ConflictError:
            time.sleep(0.01)
        else:
            return True
    return False


def _write_groups(session: Any) -> None:
    """In turn by ``put_many`` and in a transaction."""
    until = time.monotonic() + _CROWDED_S
    number = 0
    while time.monotonic() < until:
        number += 1
        value = str(number).encode()
        try:
            if number % 2:
                session.put_many([(key, value) for key in _GROUP])
                continue
            transaction = session.transaction()
            for key in _GROUP:
                transaction.put(key, value)
            transaction.commit()
        except ConflictError:
            time.sleep(0.001)


def _look_at_groups(session: Any) -> None:
    until = time.monotonic() + _CROWDED_S
    while time.monotonic() < until:
        try:
            snapshot = session.snapshot()
            values = snapshot.get_many(_GROUP)
            first = snapshot.get(_GROUP[0])
            snapshot.close()
        except ConflictError:
            continue
        if len(set(values)) > 1:
            raise Wrong(
                f"a snapshot shows part of a transaction: {values.count(values[0])} of {len(_GROUP)} keys that are"
                f" always written together are {shown(values[0])}, others are {shown(values[-1])}",
                "Make what a commit writes visible by one step (a rename, a commit record, the store's own commit).",
                EITHER,
            )
        if first is None or first.data != values[0]:
            raise Wrong(
                f"get() and get_many() of one snapshot differ: {shown(first)} and {shown(values[0])}",
                "All reads of a snapshot must be of the same version of the store.",
                EITHER,
            )


def _count_up(session: Any, own: bytes) -> tuple[int, bool]:
    """Count up the shared key and ``own`` in one transaction after the other; how often that was acknowledged, and
    whether it is not known of one.
    """
    until = time.monotonic() + _CROWDED_S
    done, in_doubt = 0, False
    while time.monotonic() < until:
        try:
            transaction = session.transaction()
            try:
                for key in (KEY, own):
                    transaction.put(key, str(_number(transaction.get(key)) + 1).encode())
                transaction.commit()
                done += 1
            finally:
                transaction.abort()
        except ConflictError:
            time.sleep(random.uniform(0.0005, 0.004))
        except InDoubtError:
            in_doubt = True
    return done, in_doubt
