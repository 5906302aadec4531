"""Probes of what is left of a process that was killed: what it acknowledged, and nothing that holds others up."""

from __future__ import annotations

import random
import time
from itertools import count
from typing import Any, Final

from harness.doctor.actor import Actor, Remote, report
from harness.doctor.basics import KEY, OTHER, write
from harness.doctor.ward import Ward, patiently, value_of
from harness.doctor.words import EITHER, DiedError, HungError, RefusedError, Wrong, fault_of
from harness.errors import ConflictError

_HOLDERS: Final = 3
_KILLS: Final = 25
_KILLS_S: Final = 8.0
"""A store whose commits are slow is killed less often."""
_LIVES_S: Final = (0.001, 0.02)
_START_S: Final = 5.0
_GROUP: Final = tuple(b"doctor/group/" + f"{number:03}".encode() for number in range(20))
_BODY: Final = b"." * 100


def holder(ward: Ward) -> None:
    """A process that has a transaction open is killed: the others go on, and nothing of it is seen."""
    survivor = ward.opened()
    write(survivor, {KEY: b"0"})
    took = []
    for number in range(1, _HOLDERS + 1):
        victim = ward.actor()
        transaction = patiently(ward.opened(victim).transaction)
        transaction.get(KEY)
        transaction.put(KEY, b"of the dead")
        victim.kill()
        began = time.monotonic()
        _go_on(ward, survivor, number)
        took.append(time.monotonic() - began)
        got = value_of("session.get()", patiently(survivor.get, KEY))
        if got is None or got.data != b"0":
            raise Wrong(
                "a write of a process that was killed before it called commit() is seen",
                "Keep a transaction's writes apart until commit().",
                EITHER,
            )
        write(ward.opened(), {OTHER: b"by a newcomer"})
    if min(took) > ward.stall_s:
        raise Wrong(
            f"after a process that had a transaction open was killed, the next commit took {min(took):.1f} s or more"
            f" each time, and {ward.stall_s:.0f} s are promised",
            "Find out sooner that the holder of a lock is dead (flock(2) lets go of it), or promise more by stall_s.",
            EITHER,
        )


def _go_on(ward: Ward, survivor: Remote, number: int) -> None:
    """Commit although a holder was killed; refusals are taken as long as anybody would."""
    deadline = time.monotonic() + max(ward.stall_s, ward.patience_s)
    while True:
        try:
            left_s = max(deadline - time.monotonic(), 0.1)
            pending = survivor._actor.later(survivor, "put_many", [(OTHER, str(number).encode())])
            pending.answer(left_s)
            return
        except RefusedError as error:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            came = f"was refused all the time ({error.raised.message})"
        except HungError as error:
            came = f"did not return within {error.seconds:.0f} s" + (
                f" ({error.where})" if error.where else ""
            )
        raise Wrong(
            "the lock of a dead process stays taken: after a process that had a transaction open was killed,"
            f" put_many() of another one {came}",
            "Use a lock that the kernel lets go of when its holder dies (flock(2), or a robust mutex), or take it"
            " from a holder that is dead.",
            EITHER,
        )


def commits(ward: Ward) -> None:
    """A process is killed again and again while it commits: what it acknowledged is there, whole, and others go on."""
    bystander = ward.opened()
    write(bystander, dict.fromkeys(_GROUP, _value(0)))
    told, until = 0, time.monotonic() + _KILLS_S
    for number in range(_KILLS):
        if time.monotonic() > until:
            break
        victim = ward.actor()
        session = ward.opened(victim)
        pending = victim.run_later("commits", _commit_forever, session, told)
        _let_live(victim)
        if pending.is_done(0):
            pending.answer()
        victim.kill()
        told = max(told, victim.progress)
        told = _look(ward, bystander, told, number)
    _check_sound(ward)


def _let_live(victim: Actor) -> None:
    """Until it has committed, and a little longer."""
    deadline = time.monotonic() + _START_S
    while not victim.progress and not victim.connection.poll(0) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(random.uniform(*_LIVES_S))


def _look(ward: Ward, bystander: Remote, told: int, number: int) -> int:
    """What a bystander and a newcomer see of the dead one's commits; how far these came.

    Raises:
        Wrong: a commit is not whole, or an acknowledged one is gone, or one sees what the other does not.
    """
    _go_on(ward, bystander, number)
    newcomer = ward.actor()
    try:
        session = ward.opened(newcomer)
        patiently(session.settle)
    except (HungError, DiedError) as error:
        raise Wrong(
            f"after a process was killed while it committed, a newcomer asked in vain: {fault_of('', error).came}",
            "Whoever opens the store repairs what the dead left half done, or passes it by.",
            EITHER,
        ) from None
    seen = [_number_of(reader, told) for reader in (session, bystander)]
    newcomer.leave()
    if seen[0] != seen[1]:
        raise Wrong(
            f"after a process was killed while it committed, and settle(), a newcomer sees commit {seen[0]} and a"
            f" process that had the store open sees commit {seen[1]}",
            "Look at every read whether there is something newer; settle() must make the fate of the dead's commits"
            " known.",
            EITHER,
        )
    return seen[0]


def _number_of(reader: Remote, told: int) -> int:
    """The number that all keys of the group show."""
    snapshot = patiently(reader.snapshot)
    values = patiently(snapshot.get_many, _GROUP)
    snapshot.close()
    if len(set(values)) > 1:
        most = max(set(values), key=values.count)
        raise Wrong(
            f"half a commit is there: its process was killed, and {values.count(most)} of {len(_GROUP)} keys that"
            " are always written together are of one commit, the others of another",
            "A commit must take effect by one step; whoever comes later must discard or finish what the dead began.",
            EITHER,
        )
    value = values[0]
    found = -1 if value is None else int(value.removesuffix(_BODY)) if value.endswith(_BODY) else None
    if found is None:
        raise Wrong(
            "after a process was killed while it committed, a value is there that nobody wrote",
            "Never show what is not written to its end: a checksum or a length that is written last tells.",
            EITHER,
        )
    if found < told:
        raise Wrong(
            f"an acknowledged commit is gone: commit {told} was acknowledged before its process was killed, and the"
            f" store shows {f'commit {found}' if found >= 0 else 'nothing'}",
            "Hand every write to the operating system before commit() or put_many() returns.",
            EITHER,
        )
    if found > told + 1:
        raise Wrong(
            f"commit {found} is seen, and only {told + 1} were begun", "Look where it comes from.", EITHER
        )
    return found


def _check_sound(ward: Ward) -> None:
    last = ward.actor()
    session = ward.opened(last)
    found = session.verify(thorough=True)
    if found:
        raise Wrong(
            f"after processes were killed while they committed, verify() says {found[0]}",
            "Either the store is damaged, or its check says so of what the dead may leave.",
            EITHER,
        )
    session.close()


# What actors do by themselves.


def _value(number: int) -> bytes:
    return str(number).encode() + _BODY


def _commit_forever(session: Any, told: int) -> None:
    """Commit one number after the other, in turn by ``put_many`` and in a transaction, and report each."""
    for number in count(told + 1):
        value = _value(number)
        while True:
            try:
                if number % 2:
                    session.put_many([(key, value) for key in _GROUP])
                else:
                    transaction = session.transaction()
                    for key in _GROUP:
                        transaction.put(key, value)
                    transaction.commit()
                break
            except ConflictError:
                time.sleep(0.001)
        report(number)
