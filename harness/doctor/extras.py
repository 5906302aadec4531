"""Probes of what the harness asks of a store besides: its history, its own check, sync points, bugs, and chores."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from harness.doctor import shape
from harness.doctor.actor import Remote
from harness.doctor.basics import KEY, OTHER, THIRD, change, write
from harness.doctor.ward import Ward, patiently, shown
from harness.doctor.words import EITHER, STORE, FailedError, RefusedError, Skipped, Wrong
from harness.engines.base import Compacting, Rebuilding
from harness.errors import ConflictError

_VERIFIED_S: Final = 1.0
_UNKNOWN_BUG: Final = "no bug is called like this"
_SOME: Final = {number.to_bytes(16, "big"): b"x" * (number % 700) for number in range(500)}


def settled(ward: Ward) -> None:
    """To settle changes nothing that is there."""
    session = ward.opened()
    write(session, {KEY: b"1"})
    for _ in range(2):
        got = patiently(session.settle)
        if got is not None:
            raise Wrong(f"settle() returned {shown(got)}", "Return nothing.")
    if (keys := patiently(session.keys)) != {KEY}:
        raise Wrong(
            f"after settle() the keys are {shown(keys)}, and only one was written", "Leave the data alone."
        )


def revisions(ward: Ward) -> None:
    """The versions of a key that the store keeps, newest first, and at least one."""
    session = ward.opened()
    for number, expected in enumerate((None, b"1", b"2", None)):
        told = change(session, {KEY: expected}) if number else None
        got = patiently(session.revisions, KEY)
        if not isinstance(got, list) or not all(isinstance(each, tuple) and len(each) == 2 for each in got):
            raise Wrong(
                f"revisions() returned {shown(got)}", "Return a list of harness.engines.base.Revision."
            )
        if not got:
            raise Wrong(
                "revisions() returned an empty list",
                "A store without a history returns the current version alone: Revision(None, None) where there is"
                " none.",
            )
        if got[0][0] != expected or (told is not None and got[0][1] not in (None, told)):
            raise Wrong(
                f"revisions() begins with {shown(tuple(got[0]))} after {shown(expected)} was written by commit {told}",
                "The newest version comes first, with the number of the commit that wrote it.",
            )
        places = [place for _, place in got if place is not None]
        if any(late >= early for early, late in pairwise(places)):
            raise Wrong(
                f"revisions() are numbered {shown(places)}: that does not fall", "The newest comes first."
            )


def verified(ward: Ward) -> None:
    """The store's own check finds nothing in a sound store, at rest and beside a writer."""
    actor = ward.actor()
    session, other = ward.opened(), ward.opened(actor)
    write(session, _SOME)
    change(session, {**dict.fromkeys(list(_SOME)[::3]), KEY: b"1"})
    for thorough in (True, False):
        _expect_sound(patiently(session.verify, thorough=thorough), "at rest")
    writing = actor.run_later("writes", _write_for_a_while, other)
    while not writing.is_done(0.05):
        try:
            _expect_sound(session.verify(thorough=False), "beside a writer")
        except RefusedError:
            continue
    writing.answer()


def _expect_sound(found: Any, when: str) -> None:
    if not isinstance(found, list) or not all(type(text) is str for text in found):
        raise Wrong(
            f"verify() returned {shown(found)}", "Return a list of findings in words, empty when it is sound."
        )
    if found:
        raise Wrong(
            f"verify() of a sound store, {when}, says {shown(found[0])}",
            "A finding counts as a violation: find only what can never be, whoever writes meanwhile.",
            STORE,
        )


def hooked(ward: Ward) -> None:
    """The hook is called at the sync points that are listed, at no others, and no more once it is removed."""
    actor = ward.actor()
    actor.run("the sync points", shape.check_points, actor.engine)
    passed, after = actor.run("a hook that counts", _count_points, actor.engine, ward.directory)
    known = set(ward.engine.points())
    if strange := sorted(set(passed) - known):
        raise Wrong(
            f"the hook was called at {shown(strange[0])}, which points() does not list",
            "List every sync point in points(), with its meaning.",
        )
    if after:
        raise Wrong(
            f"the hook was called {after} times after install_hook(None)",
            "Forget the hook in install_hook(None).",
        )
    if not known:
        raise Skipped("the engine has no sync points: it will be killed at random times only")
    if not passed:
        raise Wrong(
            f"the engine lists {len(known)} sync points, and none is come to in opening, reading and committing",
            "Call the hook that install_hook() was given at each sync point; a campaign cannot kill at the others.",
        )


def bugs(ward: Ward) -> None:
    """Every bug that is listed can be planted, and no other."""
    known = ward.engine.bugs()
    for bug in known:
        actor = ward.actor()
        actor.engine.plant(bug)
        actor.leave()
    try:
        ward.actor().engine.plant(_UNKNOWN_BUG)
    except FailedError as error:
        if error.raised.name == "ValueError":
            return
        came = f"plant() of a bug that is not listed raised {error.raised.name}"
    else:
        came = "plant() of a bug that is not listed was accepted"
    raise Wrong(came, "Raise ValueError where the bug is none of bugs().")


def housekept(ward: Ward) -> None:
    """The engine's chores give space back and change nothing that is there."""
    engine = ward.engine
    if not isinstance(engine, Compacting):
        raise Skipped("the engine has no chores")
    session = ward.opened()
    write(session, _SOME)
    change(session, dict.fromkeys(list(_SOME)[::2]))
    before = _contents(session)
    remote = session._actor.engine
    for dead_min in (0.9, 0.5, 0.0):
        got = patiently(remote.housekeep, session, dead_min)
        if not isinstance(got, int) or isinstance(got, bool) or got < 0:
            raise Wrong(
                f"housekeep() returned {shown(got)}", "Return how many bytes of the store are still needed."
            )
        _expect_same(before, _contents(session), "housekeep()")
    _expect_same(before, _contents(ward.opened()), "housekeep(), for a newcomer,")


def rebuilt(ward: Ward) -> None:
    """What the store can make again is made again by whoever opens it next."""
    engine = ward.engine
    if not isinstance(engine, Rebuilding):
        raise Skipped("the engine has nothing that it could make again")
    actor = ward.actor()
    session = ward.opened(actor)
    write(session, _SOME)
    change(session, {**dict.fromkeys(list(_SOME)[::2]), KEY: b"1"})
    before = _contents(session)
    session.close()
    actor.leave()
    ward.actor().engine.lose_index(ward.directory)
    session = ward.opened()
    _expect_same(before, _contents(session), "lose_index()")
    _expect_sound(session.verify(thorough=True), "whose index was made again")
    write(session, {OTHER: b"2"})


def _contents(session: Remote) -> dict[bytes, bytes | None]:
    keys = sorted(patiently(session.keys))
    snapshot = patiently(session.snapshot)
    values = patiently(snapshot.get_many, keys)
    snapshot.close()
    return dict(zip(keys, values, strict=True))


def _expect_same(before: dict[bytes, bytes | None], after: dict[bytes, bytes | None], what: str) -> None:
    wrong = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    if wrong:
        raise Wrong(
            f"after {what} {len(wrong):,} of {len(before):,} keys are missing, or have another value, or should not"
            " be there",
            "Nothing that can be read may change by it.",
            EITHER,
        )


# What actors do by themselves.


def _write_for_a_while(session: Any) -> None:
    until, number = time.monotonic() + _VERIFIED_S, 0
    while time.monotonic() < until:
        number += 1
        try:
            session.put_many([(key, b"y" * (number % 900)) for key in list(_SOME)[number % 50 :: 50]])
            transaction = session.transaction()
            transaction.delete(THIRD if number % 2 else list(_SOME)[number % 500])
            transaction.commit()
        except ConflictError:
            time.sleep(0.001)


def _count_points(engine: Any, directory: Any) -> tuple[list[str], int]:
    """The sync points that are passed while a store is used, and how many still are after the hook was removed."""
    passed: list[str] = []

    def hook(point: str, tear: Callable[[float], None] | None = None, /) -> None:
        if tear is not None and not callable(tear):
            raise Wrong(
                f"the hook was given {shown(tear)} as a tear",
                "Give a function of the part to write, or nothing.",
            )
        passed.append(point)

    def use() -> None:
        session = engine.open(directory)
        session.put_many([(KEY, b"1")])
        transaction = session.transaction()
        transaction.get(KEY)
        transaction.put(KEY, b"2")
        transaction.commit()
        snapshot = session.snapshot()
        snapshot.get(KEY)
        snapshot.close()
        session.close()

    engine.install_hook(hook)
    use()
    count = len(passed)
    engine.install_hook(None)
    use()
    return sorted(set(passed)), len(passed) - count
