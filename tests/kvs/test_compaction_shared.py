"""Compaction while others read, write and compact."""

from __future__ import annotations

import contextlib
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import kvs
from kvs import syncpoints
from tests.kvs.compacting import (
    MIB,
    check_everything,
    filled,
    interrupt,
    lose_index,
    smallfile_blocks,
    used,
    write,
)
from tests.kvs.processes import Child


@pytest.mark.parametrize("point", ["compact.after_forget", "compact.after_append", "compact.after_end"])
def test_what_is_written_meanwhile_stays(
    store_dir: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the copy and the swing keys are overwritten, removed and added, so that the index grows as well."""
    store, model = filled(store_dir, smallfile_bytes=MIB // 2)
    number = 0

    with store, kvs.open(store_dir, "w") as other:

        def act() -> None:
            nonlocal number
            number += 1
            names = list(model.revisions)
            changes: dict[bytes, bytes | None] = {
                kvs.key_for(f"new {number} {i}"): b"new" for i in range(900)
            }
            changes.update(dict.fromkeys(names[::3], b"meanwhile %d" % number))
            changes.update(dict.fromkeys(names[1::7]))
            write(other, model, changes)

        generation = store.stat()["generation"]
        reached = interrupt(point, act, hits=3)
        if point == "compact.after_forget":  # there COMMIT is held
            reached = interrupt("compact.after_floor", act)
        store.compact()
        syncpoints.install(None)
        assert reached
        assert other.stat()["generation"] > generation
        check_everything(store, model)
        store.compact()
        check_everything(other, model)
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        check_everything(store, model)


def test_a_reader_that_is_overtaken_by_a_punch_looks_again(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = filled(store_dir, smallfile_bytes=MIB // 2)
    name = next(iter(model.live()))
    with store, kvs.open(store_dir, "r") as reader:
        for point in ("read.after_location", "read.after_copy"):
            with reader.snapshot() as snapshot:
                for read in (reader.get, snapshot.get, lambda key: reader.get_many([key] * 60)[0]):
                    write(store, model, {(1).to_bytes(16, "big"): bytes(3 * MIB)})
                    reached = interrupt(point, store.compact)
                    assert read(name) == model.live()[name]
                    assert reached
                    syncpoints.install(None)


def keep_compacting(connection: Connection, path: Path) -> None:
    """Compact until told to stop; says how many passes there were, and how many had to wait too long."""
    passes = refused = 0
    with kvs.open(path, "w", lock_timeout_s=0.2, smallfile_bytes=MIB // 2) as store:
        connection.send("open")
        while not connection.poll():
            try:
                store.compact()
                passes += 1
            except kvs.LockTimeoutError:
                refused += 1
    connection.send((passes, refused))


def keep_writing(connection: Connection, path: Path, who: int) -> None:
    """Write, remove and read back one's own keys until told to stop; says what they hold."""
    rng = random.Random(who)
    expected: dict[bytes, bytes] = {}
    with kvs.open(path, "w", smallfile_bytes=MIB // 2) as store:
        connection.send("open")
        number = 0
        while not connection.poll():
            number += 1
            names = [kvs.key_for(f"{who} {rng.randrange(200)} {number // 100}") for _ in range(30)]
            batch = {name: rng.randbytes(rng.randrange(2000)) for name in names}
            store.put_many(batch)
            expected.update(batch)
            with store.snapshot() as snapshot:
                gone = rng.sample(list(expected), min(20, len(expected)))
                seen = {name: expected.pop(name) for name in gone}
                with store.transaction() as txn:
                    for name in gone:
                        txn.remove_unsafe(name)
                assert snapshot.get_many(list(seen)) == list(seen.values())
            assert store.get_many(list(expected)) == list(expected.values())
        assert dict.fromkeys(gone) == dict(zip(gone, store.get_many(gone), strict=True))
    connection.send(expected)


def test_writers_readers_and_two_compactors_at_once(store_dir: Path) -> None:
    kvs.open(store_dir, "n", index_capacity=45).close()
    with contextlib.ExitStack() as stack:
        compactors = [stack.enter_context(Child(keep_compacting, store_dir)) for _ in range(2)]
        writers = [stack.enter_context(Child(keep_writing, store_dir, who)) for who in range(2)]
        children = compactors + writers
        assert [child.receive() for child in children] == ["open"] * 4
        deadline = time.monotonic() + 1.0
        with kvs.open(store_dir, "r") as reader:
            while time.monotonic() < deadline:
                with contextlib.suppress(kvs.SnapshotTooOldError), reader.snapshot() as snapshot:
                    assert dict(snapshot.items()) == dict(snapshot.items())
        for child in children:
            child.send()
        assert sum(compactor.receive()[0] for compactor in compactors) > 0
        expected = {key: value for writer in writers for key, value in writer.receive().items()}
    with kvs.open(store_dir, "w") as store:
        assert dict(store.items()) == expected
        assert store.verify() == []
        store.compact()
        store.compact()
        found = used(store)
        assert smallfile_blocks(store_dir) <= 2.5 * found.live_bytes + 4 * MIB
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        assert dict(store.items()) == expected
        assert store.verify() == []
