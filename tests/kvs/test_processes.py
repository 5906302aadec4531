"""Many processes, many handles, many threads: at once, on one store."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvs
from kvs import layout
from tests.kvs.children import flip_word, increment, mark, write_once
from tests.kvs.processes import Child

WRITERS = 64


@contextlib.contextmanager
def children(body: Any, arguments: list[tuple[Any, ...]]) -> Iterator[list[Child]]:
    """One process for each item of ``arguments``, all ended at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Child(body, *each)) for each in arguments]


def test_64_writer_processes_are_open_at_once_and_each_commits(store_dir: Path) -> None:
    with (
        kvs.open(store_dir, index_capacity=500) as store,
        children(write_once, [(store_dir, i) for i in range(WRITERS)]) as writers,
    ):
        assert [writer.receive() for writer in writers] == ["open"] * WRITERS
        for writer in writers:
            writer.send()
        assert sorted(writer.receive() for writer in writers) == list(range(1, WRITERS + 1))
        assert store.get_many(range(WRITERS)) == [b"%d" % i for i in range(WRITERS)]
        assert store.stat()["smallfiles"] == WRITERS, "one for each that committed"
        for writer in writers:
            writer.send()
        assert [writer.join() for writer in writers] == [0] * WRITERS
        assert store.verify() == []


def test_one_writer_too_many_is_told_so_and_readers_are_not_limited(store_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(kvs.open(store_dir, index_capacity=500))
        first[1] = b"first"
        second = stack.enter_context(Child(write_once, store_dir, 7))
        assert second.receive() == "open"
        for _ in range(layout.WRITERS_MAX - 2):
            stack.enter_context(kvs.open(store_dir, "w"))
        with pytest.raises(
            kvs.MaximumWritersError, match=f"all {layout.WRITERS_MAX} writer places"
        ) as caught:
            kvs.open(store_dir, "w")
        assert (caught.value.writers_max, caught.value.path) == (layout.WRITERS_MAX, str(store_dir))
        with kvs.open(store_dir, "r") as reader, kvs.open(store_dir, "r") as another:
            assert reader[1] == another[1] == b"first"
        second.kill()
        with kvs.open(store_dir, "w") as third:
            third[3] = b"in the place of the dead"
            assert third.stat()["writers"][1] == {"place": 1, "pid": os.getpid()}
    with kvs.open(store_dir, "w") as a, kvs.open(store_dir, "w") as b:
        a[1], b[2] = b"a", b"b"
        assert b.get_many([1, 2, 3]) == [b"a", b"b", b"in the place of the dead"]
        assert a.verify() == []


def test_all_writer_places_of_a_new_store_can_be_held(store_dir: Path) -> None:
    assert layout.WRITERS_MAX >= WRITERS
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(kvs.open(store_dir, index_capacity=500)) for _ in range(128)]
        for i, store in enumerate(stores):
            store[i] = b"v"
        with pytest.raises(kvs.MaximumWritersError):
            kvs.open(store_dir, "w")
        assert len(stores[0]) == len(stores) == layout.WRITERS_MAX


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_two_handles_in_one_process_see_each_others_commits_at_once(store_dir: Path, io: str) -> None:
    with kvs.open(store_dir, index_capacity=500) as a, kvs.open(store_dir, io=io) as b:
        for i in range(50):
            writer, reader = (a, b) if i % 2 else (b, a)
            value = b"%d" % i * (i * 500)  # the files grow under the other's map
            writer.put_many({i: value, 1000: value})
            assert reader.get_many([i, 1000]) == [value] * 2
            assert reader[i] == value
        assert a.verify() == b.verify() == []
        b.close()
        a[0] = b"closing one leaves the other"
        assert a[0] == b"closing one leaves the other"


def test_increments_by_the_threads_of_one_handle_add_up(store_dir: Path) -> None:
    def add(txn: kvs.Transaction) -> None:
        txn.update(1, b"%d" % (int(txn.fetch(1) or b"0") + 1))

    with kvs.open(store_dir, index_capacity=500) as store:
        failures: list[BaseException] = []

        def work(own: int) -> None:
            try:
                for i in range(25):
                    store.transact(add)
                    store[own] = b"%d" % i
                    assert store[own] == b"%d" % i
                    assert store.get_many([own] * 60) == [b"%d" % i] * 60
            except BaseException as failure:  # noqa: BLE001 - shown below
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(100 + i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store[1] == b"200"
        assert store.stat()["transactions"] == 400
        assert store.verify() == []


def test_increments_by_several_processes_add_up(store_dir: Path) -> None:
    kvs.open(store_dir, index_capacity=500).close()
    ios = ["mmap", "append"] * 2
    with children(increment, [(store_dir, io, 1, 60) for io in ios]) as writers:
        assert [writer.receive() for writer in writers] == ["done"] * 4
        assert [writer.join() for writer in writers] == [0] * 4
    with kvs.open(store_dir) as store:
        assert store[1] == b"240"
        assert store.stat()["transactions"] == 240
        assert store.verify() == []


@pytest.mark.parametrize("count", [5, 100], ids=["scalar", "vectorised"])
@pytest.mark.parametrize("io", ["mmap", "append"])
def test_readers_see_whole_transactions_while_others_write(store_dir: Path, io: str, count: int) -> None:
    names = [kvs.key_for(f"{i}") for i in range(count)]
    with (
        kvs.open(store_dir, "n", io=io, index_capacity=500) as store,
        children(mark, [(store_dir, io, names, who) for who in (b"a", b"b")]) as writers,
    ):
        store.put_many(dict.fromkeys(names, b""))
        for writer in writers:
            assert writer.receive() == "open"
            writer.send()
        seen: set[bytes | None] = set()
        rounds, until = 0, time.monotonic() + 60
        while (rounds < 150 or len(seen) < 5) and time.monotonic() < until:
            rounds += 1
            marks = set(store.get_many(names))
            assert len(marks) == 1, "one transaction's mark, whole"
            seen |= marks
            with store.snapshot() as snapshot:
                try:
                    one_by_one = {snapshot[name] for name in names}
                    items = dict(snapshot.items())
                except kvs.SnapshotTooOldError:
                    continue
                assert len(one_by_one) == 1
                assert items == dict.fromkeys(names, *one_by_one)
        for writer in writers:
            writer.send("stop")
        counts = [writer.receive() for writer in writers]
        assert len(seen) >= 5, "they wrote meanwhile"
        assert [writer.join() for writer in writers] == [0, 0]
        assert store.stat()["transactions"] == 1 + sum(counts)
        assert store.verify() == []


def test_native_words_do_not_tear(tmp_path: Path) -> None:
    """Loads of a word that another process stores to see one of its two values, never half of each."""
    path = tmp_path / "words"
    path.write_bytes(bytes(4096))
    values = (0x1111111111111111, 0xEEEEEEEEEEEEEEEE)
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    words, array = memoryview(shared).cast("Q"), np.frombuffer(shared, dtype=np.uint64)
    native = struct.Struct("@Q").unpack_from
    index = np.ones(64, dtype=np.int64)
    with Child(flip_word, path, values) as child:
        assert child.receive() == "flipping"
        seen: set[int] = set()
        rounds, until = 0, time.monotonic() + 60
        while (rounds < 40 or not seen >= set(values)) and time.monotonic() < until:
            rounds += 1
            for _ in range(1_000):
                seen.add(words[1])
                seen.update(native(shared, 8))
            for _ in range(50):
                seen.update(array.take(index).tolist())
        assert seen - {0} == set(values), "nothing else, and both, so the race was one"
