"""Backups, and making a store from elsewhere at all: whole or not at all."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvs
from kvs import backup
from kvs.errors import StoreNotFoundError, StoreOptionsError


def make(path: Path) -> kvs.Store:
    return kvs.open(path, "c", index_capacity=100)


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_a_backup_is_a_store_with_the_same_items_and_properties(store_dir: Path) -> None:
    target = store_dir.with_name("copy")
    with kvs.open(store_dir, durable=True, integrity=False) as store:
        store.put_many({i: b"%d" % i for i in range(500)})
        del store[3]
        assert store.backup(target) == 499
        with kvs.open(target) as copy:
            assert dict(copy.items()) == dict(store.items())
            assert copy.verify() == []
            found = copy.stat()
            assert (found["durable"], found["integrity"]) == (True, False)
    assert beside(target) == ["copy", "store"]


def test_a_backup_may_take_the_place_of_an_empty_directory(store_dir: Path) -> None:
    target = store_dir.with_name("copy")
    target.mkdir()
    with kvs.open(store_dir) as store:
        store[1] = b"one"
        assert store.backup(target) == 1
    with kvs.open(target, "r") as copy:
        assert copy[1] == b"one"


def test_a_backup_is_one_snapshot_of_a_store_that_is_written(store_dir: Path) -> None:
    keys = range(50)
    stop = threading.Event()
    with kvs.open(store_dir) as store:
        store.put_many(dict.fromkeys(keys, b"0"))

        def write() -> None:
            count = 0
            while not stop.is_set():
                count += 1
                store.put_many(dict.fromkeys(keys, b"%d" % count))

        writer = threading.Thread(target=write)
        writer.start()
        copies = 0
        try:
            for attempt in range(1000):
                target = store_dir.with_name(f"copy-{attempt}")
                try:
                    store.backup(target)
                except kvs.SnapshotTooOldError:
                    assert not target.exists()
                    continue
                with kvs.open(target, "r") as copy:
                    assert len(set(copy.values())) == 1
                    assert len(copy) == len(keys)
                copies += 1
                if copies == 3:
                    break
        finally:
            stop.set()
            writer.join()
    assert copies == 3
    assert not [name for name in beside(store_dir) if name.startswith(".")]


@pytest.mark.parametrize("there", ["file", "link", "store", "nothing above"])
def test_what_is_there_already_is_not_touched(store_dir: Path, there: str) -> None:
    target = store_dir.with_name("copy")
    if there == "file":
        target.write_text("precious")
    elif there == "link":
        target.symlink_to("nowhere")
    elif there == "store":
        kvs.open(target).close()
    else:
        target = store_dir.with_name("nowhere") / "copy"
    with kvs.open(store_dir) as store:
        names = beside(store_dir)
        with pytest.raises((StoreOptionsError, StoreNotFoundError)):
            store.backup(target)
    assert beside(store_dir) == names


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), kvs.SnapshotTooOldError(bytes(16), 1), OSError(errno.ENOSPC, "full")],
    ids=repr,
)
def test_a_failure_in_the_middle_leaves_nothing(store_dir: Path, error: BaseException) -> None:
    class Breaks:
        def items(self) -> Iterator[tuple[bytes, bytes]]:
            yield bytes(16), bytes(5 << 20)
            assert len(beside(store_dir)) == 1, "it grows under another name"
            raise error

    store_dir.parent.mkdir(exist_ok=True)
    with pytest.raises(type(error)):
        backup.backup(Breaks(), store_dir, make)
    assert beside(store_dir) == []


def test_a_store_that_appears_meanwhile_wins(store_dir: Path) -> None:
    class Faster:
        def items(self) -> Iterator[tuple[bytes, bytes]]:
            with kvs.open(store_dir) as other:
                other[1] = b"faster"
            yield bytes(16), b"slower"

    store_dir.parent.mkdir(exist_ok=True)
    with pytest.raises(StoreOptionsError, match="something here already"):
        backup.backup(Faster(), store_dir, make)
    with kvs.open(store_dir, "r") as other:
        assert other[1] == b"faster"
    assert beside(store_dir) == ["store"]


def test_transactions_are_of_bounded_size() -> None:
    class Target:
        def __init__(self) -> None:
            self.batches: list[tuple[int, int]] = []

        def put_many(self, pairs: dict[bytes, bytes], /) -> None:
            self.batches.append((len(pairs), sum(map(len, pairs.values()))))

        def close(self) -> None:
            self.batches.append((0, 0))

    target, seen = Target(), []
    lengths = [1] * 40_000 + [10 << 20, 3 << 20, 3 << 20, 0]
    items = ((i.to_bytes(16, "big"), bytes(length)) for i, length in enumerate(lengths))
    assert backup.fill(Path(), items, lambda _: target, seen.append) == len(lengths)
    assert sum(count for count, _ in target.batches) == len(lengths)
    assert max(count for count, _ in target.batches) <= 1 << 15
    assert all(size <= 4 << 20 or count == 1 for count, size in target.batches)
    assert target.batches[-1] == (0, 0), "it is closed"
    assert seen == sorted(seen)
    assert seen[-1] == len(lengths)
