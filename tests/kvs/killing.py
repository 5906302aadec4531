"""A process dies by SIGKILL where a test wants it, and what must be left: shared by the tests of deaths."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import kvs
from kvs.syncpoints import POINTS
from tests.kvs.children import Changes, commit, open_and_close
from tests.kvs.processes import Child, Death

CAPACITY = 500
OTHER = kvs.key_for("a key that the dying transaction does not touch")
ORDER = list(POINTS)
PARTS = ("nothing", "one", "half", "all but one")
SIZES = {"scalar": 3, "vectorised": 100}


def named(*subjects: str) -> list[str]:
    """The registered points of these subjects, in the order in which a commit reaches them."""
    return [point for point in ORDER if point.partition(".")[0] in subjects]


def happened(point: str) -> bool:
    """Whether a transaction that dies at ``point`` of its commit is redone."""
    return point != "durable.after_lock" and ORDER.index(point) >= ORDER.index("record.after_append")


def contents(size: int) -> tuple[dict[bytes, bytes], Changes, dict[bytes, bytes]]:
    """What is there before, a transaction of ``size`` keys over it (updates, removals and new keys), and
    what is there after.
    """
    third = size // 3
    before = {kvs.key_for(f"old {i}"): b"before %d" % i for i in range(2 * third)}
    changes: Changes = {}
    for i, key in enumerate(before):
        changes[key] = None if i % 2 else b"after %d" % i
    for i in range(size - 2 * third):
        changes[kvs.key_for(f"new {i}")] = b"new %d" % i * i
    after = {key: value for key, value in {**before, **changes}.items() if value is not None}
    return before, changes, after


def survivor(path: Path, before: Mapping[bytes, bytes], **options: Any) -> kvs.Store:
    """A handle on a new store that holds ``before``; to be closed by the test."""
    store = kvs.open(path, "n", **{"index_capacity": CAPACITY, **options})
    store.put_many(before)
    return store


def write(store: kvs.Store, changes: Changes) -> None:
    """Commit ``changes`` in one transaction, whatever the keys hold."""
    with store.transaction() as txn:
        for key, value in changes.items():
            txn.update_unsafe(key, value) if value is not None else txn.remove_unsafe(key)


def die_in_commit(
    path: Path, changes: Changes, death: Death, io: str = "mmap", options: dict[str, Any] | None = None
) -> None:
    """Have another process commit ``changes`` and assert that it died, and died there."""
    with Child(commit, path, io, changes, death, options) as child:
        assert child.receive() == death.point
        assert child.join() == -signal.SIGKILL


def die_in_opening(path: Path, death: Death, options: dict[str, Any] | None = None) -> None:
    """Have another process open the store and close it, and assert that it died, and died there."""
    with Child(open_and_close, path, death, options or {}) as child:
        assert child.receive() == death.point
        assert child.join() == -signal.SIGKILL


def everything(store: kvs.Store, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """What the store holds, asked for in four ways that must agree."""
    with store.snapshot() as snapshot:
        found = dict(snapshot.items())
    names = list(keys)
    assert store.get_many(names) == [store.get(name) for name in names] == [found.get(name) for name in names]
    return found


def assert_healed(
    store: kvs.Store, expected: Mapping[bytes, bytes], keys: Iterable[bytes], time: int
) -> None:
    """The next commit works and gets the next T; the store holds exactly ``expected`` and is sound."""
    assert store.put_many({OTHER: b"alive"}) == time
    expected = {**expected, OTHER: b"alive"}
    assert everything(store, [*keys, OTHER]) == expected
    assert len(store) == len(expected)
    assert store.verify() == []
    assert store.stat()["transactions"] == time
    with kvs.open(store.path, "w", io="append") as another:
        assert everything(another, [*keys, OTHER]) == expected
        assert another.verify() == []
