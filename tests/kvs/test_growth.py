"""The index grows while everybody goes on; whoever dies meanwhile leaves the old generation or the new one."""

from __future__ import annotations

import errno
import signal
import threading
from pathlib import Path

import pytest

import kvs
from kvs import layout, syncpoints
from tests.kvs.children import grow_for_a_while, read_for_a_while, watch_key
from tests.kvs.killing import (
    OTHER,
    assert_healed,
    contents,
    die_in_commit,
    everything,
    named,
    survivor,
    write,
)
from tests.kvs.processes import Child, Death
from tests.kvs.test_storage import fill, small_disk

__all__ = ["small_disk"]
GROW_POINTS = named("grow")


def value_of(key: int) -> bytes:
    """What every test here writes to a key."""
    return b"%d " % key * (key % 7 + 1)


def put(store: kvs.Store, begin: int, end: int, step: int = 1) -> None:
    """Write keys ``begin`` to ``end``, ``step`` in a transaction."""
    for key in range(begin, end, step):
        store.put_many({k: value_of(k) for k in range(key, min(key + step, end))})


def assert_has(view: kvs.Store | kvs.Snapshot, count: int) -> None:
    """Keys 0 to ``count`` and no others."""
    keys = range(count + 3)
    expected = [value_of(key) if key < count else None for key in keys]
    assert view.get_many(keys) == expected
    assert [view.get(key) for key in keys] == expected
    found = dict(view.items())
    assert found == {key.to_bytes(16, "big"): value_of(key) for key in range(count)}


# -- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("step", [1, 150])
def test_a_store_grows_from_room_for_one_key(store_dir: Path, step: int, io: str, durable: bool) -> None:
    with kvs.open(store_dir, "n", io=io, durable=durable, index_capacity=1) as store:
        assert store.stat()["index_capacity"] == 1
        put(store, 0, 3000, step)
        stat = store.stat()
        assert (stat["keys"], stat["index_used"], stat["generation"] > 0) == (3000, 3000, True)
        assert stat["index_capacity"] >= 3000
        assert_has(store, 3000)
        assert store.verify() == []
        assert [file.name for file in store_dir.glob("index.*")] == [f"index.{stat['generation']}"]
    with kvs.open(store_dir, "r") as store:
        assert_has(store, 3000)


def test_a_capacity_is_exact_and_growth_false_keeps_to_it(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", index_capacity=45, growth=False) as store:
        put(store, 0, 45)
        with pytest.raises(kvs.IndexFullError) as caught:
            store.put_many({0: b"not this either", 45: b"one too many"})
        assert (caught.value.capacity, caught.value.used, caught.value.wanted) == (45, 45, 1)
        store[44] = value_of(44)
        with kvs.open(store_dir, "w") as growing:
            assert growing.stat()["generation"] == 0
            growing[45] = value_of(45)
            assert growing.stat()["generation"] == 1
        assert_has(store, 46)
        store[46] = value_of(46)
        assert_has(store, 47)
        assert store.verify() == []


def test_a_fresh_store_takes_less_than_a_mebibyte(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        for _ in range(2):
            taken = sum(file.stat().st_blocks * 512 for file in store_dir.iterdir())
            assert taken < 1 << 20
            assert store.stat()["disk_bytes"] == taken
            store[1] = b"the first smallfile"


def test_removed_keys_that_nobody_remembers_are_left_out_of_the_next_generation(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", index_capacity=100) as store:
        for _ in range(8):
            put(store, 0, 100, 100)
            with store.transaction() as txn:
                for key in range(100):
                    txn.remove_unsafe(key)
            store.compact()
            store.compact()
            store[1000] = b"makes it grow"
            del store[1000]
        store[1000] = b"kept"
        assert (len(store), list(store)) == (1, [(1000).to_bytes(16, "big")])
        assert store.stat()["index_capacity"] < 8000
        assert store.verify() == []


def test_the_ring_of_every_key_comes_along(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", index_capacity=10) as store:
        store.put_many({1: b"a", 2: b"a", 3: b"a"})
        store.put_many({1: b"b", 2: b"b"})
        del store[2]
        for text in (b"c", b"d", b"e"):
            store[1] = text
        before = [store.history(key) for key in range(4)]
        put(store, 100, 4000)
        assert store.stat()["generation"] > 1
        assert [store.history(key) for key in range(4)] == before
        assert before[1] == [(6, b"e"), (5, b"d"), (4, b"c"), (2, b"b")]
        assert store.last_updated([1, 2, 3]) == [6, 3, 1]


# -- everybody goes on ------------------------------------------------------------------------------------


def test_two_handles_of_one_process_follow_each_other(store_dir: Path) -> None:
    with (
        kvs.open(store_dir, "n", index_capacity=1) as first,
        kvs.open(store_dir, "w", io="append") as second,
        kvs.open(store_dir, "r") as reader,
    ):
        for key in range(600):
            (first, second)[key % 2][key] = value_of(key)
            for store in (first, second, reader):
                assert store[key] == value_of(key)
                assert store.get(key + 1) is None
                assert len(store) == key + 1
        for store in (first, second, reader):
            assert_has(store, 600)
            assert store.verify() == []
        assert len({store.stat()["generation"] for store in (first, second, reader)}) == 1


@pytest.mark.parametrize("flag", ["r", "w"])
def test_snapshots_and_iterations_go_on_over_many_generations(store_dir: Path, flag: str) -> None:
    with kvs.open(store_dir, "n", index_capacity=5000) as store:
        put(store, 0, 5000, 500)
    with kvs.open(store_dir, "w") as writer, kvs.open(store_dir, flag) as reader:
        with reader.snapshot() as snapshot, reader.snapshot() as iterated:
            iteration = iterated.items()
            found = dict([next(iteration)])
            generations = set()
            for begin in range(5000, 30_000, 2500):
                put(writer, begin, begin + 2500, 2500)
                writer.put_many(dict.fromkeys(range(0, 5000, 7), b"changed") if begin < 12_000 else {})
                generations.add(writer.stat()["generation"])
                found.update(next(iteration) for _ in range(300))
                assert snapshot.get_many([0, 1, 4999, 5000]) == [
                    value_of(0),
                    value_of(1),
                    value_of(4999),
                    None,
                ]
                assert snapshot[3] == value_of(3)
            assert len(generations) > 2
            found.update(iteration)
            assert found == {key.to_bytes(16, "big"): value_of(key) for key in range(5000)}
            assert_has(snapshot, 5000)
        assert (len(reader), reader[0], reader[29_999]) == (30_000, b"changed", value_of(29_999))


def test_threads_read_through_one_handle_while_it_grows(store_dir: Path) -> None:
    problems: list[object] = []
    known, stop = [0], threading.Event()

    with kvs.open(store_dir, "n", index_capacity=1) as store:

        def read() -> None:
            try:
                while not stop.is_set():
                    count = known[0]
                    keys = range(max(0, count - 40), count)
                    wanted = [value_of(key) for key in keys]
                    if store.get_many(keys) != wanted or [store.get(key) for key in keys] != wanted:
                        problems.append(count)
                    if len(store) < count:
                        problems.append(("len", count))
            except Exception as error:  # noqa: BLE001 - shown by the test
                problems.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for key in range(0, 4000, 4):
            put(store, key, key + 4, 4)
            known[0] = key + 4
        stop.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert store.stat()["generation"] >= 2


def test_writers_and_readers_in_many_processes_go_on_while_it_grows(store_dir: Path) -> None:
    kvs.open(store_dir, "n", index_capacity=1).close()
    with (
        kvs.open(store_dir, "w") as store,
        Child(read_for_a_while, store_dir, "mmap") as one,
        Child(read_for_a_while, store_dir, "append") as two,
    ):
        writers = [Child(grow_for_a_while, store_dir, number, 700) for number in range(3)]
        try:
            for child in (*writers, one, two):
                assert child.receive() == "open"
            for child in (*writers, one, two):
                child.send()
            for writer in writers:
                assert writer.receive() == "done"
            for reader in (one, two):
                reader.send()
            assert min(one.receive(), two.receive()) > 0
        finally:
            for writer in writers:
                writer.__exit__(None, None, None)
        assert len(store) == 2100
        assert store.stat()["generation"] >= 1
        assert store.verify() == []


# -- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("healer", ["a survivor", "an opener"])
@pytest.mark.parametrize("point", GROW_POINTS)
def test_growth_killed_at_any_point_is_undone_or_finished(
    store_dir: Path, point: str, healer: str, durable: bool
) -> None:
    before, changes, _ = contents(60)
    options = {"durable": durable, "index_capacity": len(before)}
    store = survivor(store_dir, before, **options)
    if healer == "an opener":
        store.close()
    with kvs.open(store_dir, "r") as reader:
        die_in_commit(store_dir, changes, Death(point))
        assert everything(reader, changes) == before, "before anybody repaired anything"
        with store if healer == "a survivor" else kvs.open(store_dir, "w") as healing:
            assert_healed(healing, before, changes, 2)
            assert everything(reader, [*changes, OTHER]) == {**before, OTHER: b"alive"}
            assert len(list(store_dir.glob("index.*"))) == 1, "nothing half-made is left"
            healing.put_many({key: value for key, value in changes.items() if value is not None})
            assert reader.get_many(changes) == healing.get_many(changes)
            assert reader.verify() == []


@pytest.mark.parametrize("point", GROW_POINTS)
def test_a_reader_of_the_old_generation_sees_every_commit_that_is_acknowledged_after_a_death(
    store_dir: Path, point: str
) -> None:
    """It has looked at nothing but the old generation; the healing happens in another process altogether."""
    before, changes, _ = contents(60)
    key = next(iter(before))
    with (
        survivor(store_dir, before, index_capacity=len(before)) as store,
        Child(watch_key, store_dir, key) as watcher,
    ):
        assert watcher.receive() == before[key]
        die_in_commit(store_dir, changes, Death(point))
        watcher.send()
        assert watcher.receive() == before[key]
        for number in range(3):
            store[key] = b"%d" % number
            watcher.send()
            assert watcher.receive() == b"%d" % number


@pytest.mark.parametrize("second", GROW_POINTS)
@pytest.mark.parametrize(
    "first", ["grow.after_build", "grow.after_rename", "grow.after_next", "grow.after_retire"]
)
def test_the_finishing_of_a_growth_killed_at_any_point_is_finished_by_a_third(
    store_dir: Path, first: str, second: str
) -> None:
    before, changes, _ = contents(60)
    with survivor(store_dir, before, index_capacity=len(before)) as store:
        die_in_commit(store_dir, changes, Death(first))
        with Child(grow_for_a_while, store_dir, 9, 2000, Death(second)) as child:
            message = child.receive()
            if message == "open":  # else it died of finishing while it opened the store
                message = child.receive()
            assert message == second
            assert child.join() == -signal.SIGKILL
        expected = dict(before)
        with store.snapshot() as snapshot:
            expected.update(snapshot.items())
        store[OTHER] = b"alive"
        assert everything(store, [*changes, OTHER]) == {**expected, OTHER: b"alive"}
        assert store.verify() == []
        assert len(list(store_dir.glob("index.*"))) <= 2


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("point", GROW_POINTS)
def test_growth_interrupted_at_any_point_leaves_the_handle_usable(
    store_dir: Path, point: str, durable: bool
) -> None:
    def interrupt(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            raise KeyboardInterrupt

    before, changes, after = contents(60)
    with survivor(store_dir, before, durable=durable, index_capacity=len(before)) as store:
        syncpoints.install(interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(store, changes)
        assert everything(store, changes) == before
        assert_healed(store, before, changes, 2)
        write(store, changes)
        assert everything(store, [*changes, OTHER]) == {**after, OTHER: b"alive"}
        assert store.verify() == []


# -- no room ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_disk_that_is_full_when_the_index_must_grow_is_a_clear_error_and_the_store_is_intact(
    small_disk: Path, durable: bool
) -> None:
    path = small_disk / "store"
    with kvs.open(path, "n", durable=durable, index_capacity=100) as store:
        put(store, 0, 100, 100)
        ballast = fill(small_disk)
        for _ in range(2):
            with pytest.raises(kvs.StorageFullError) as caught:
                store[100] = value_of(100)
            assert (caught.value.errno, Path(caught.value.path).name) == (errno.ENOSPC, "index.1.new")
        assert list(path.glob("index.*")) == [path / layout.index_name(0)]
        assert_has(store, 100)
        store[5] = value_of(5)
        assert store.verify() == []
        ballast.unlink()
        put(store, 100, 1000, 10)
        assert_has(store, 1000)
        assert store.verify() == []
