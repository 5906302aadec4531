"""No room on the file system, and a medium that fails to sync."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvs
from tests.kvs.children import create_within, fill_up
from tests.kvs.processes import Child

MEBIBYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of our own, where mounting is permitted."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "kvs-test", str(path)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root (CAP_SYS_ADMIN)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def put_until_full(store: kvs.Store) -> tuple[kvs.StorageFullError, int]:
    """Commit keys 2i (large) and 2i + 1 (small) until there is no room; returns the error, and how many i."""
    count = 0
    while True:
        try:
            store.put_many({2 * count: bytes(70_000), 2 * count + 1: b"beside it"})
        except kvs.StorageFullError as error:
            return error, count
        count += 1


def fill(disk: Path) -> Path:
    """A file that takes all the room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - anything else fails the test
    return ballast


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_file_that_may_not_grow_is_a_clear_error_and_the_store_goes_on(store_dir: Path, io: str) -> None:
    with Child(fill_up, store_dir, io, 3 * MEBIBYTE) as child:
        count, path, wanted = child.receive()
        assert count > 10
        assert (path, wanted > 0) == (str(store_dir / "00000.small"), True)
        assert child.receive() == "went on"
    with kvs.open(store_dir) as store:
        assert store[count] == bytes(200_000)
        assert store.verify() == []


def test_creating_without_room_leaves_no_store_and_works_once_there_is_some(store_dir: Path) -> None:
    with Child(create_within, store_dir, 100_000) as child:
        path, left = child.receive()
        assert path.startswith(str(store_dir))
        assert left == ["ranges.lock", "store.lock"]
        assert child.receive() == []


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_full_disk_is_a_clear_error_and_the_store_goes_on(small_disk: Path, io: str, durable: bool) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(MEBIBYTE))
    with kvs.open(small_disk / "store", io=io, durable=durable, index_capacity=500) as store:
        error, count = put_until_full(store)
        assert "no room" in str(error)
        assert error.errno == errno.ENOSPC
        assert count > 10
        assert store.get_many(range(2 * count + 2)) == [bytes(70_000), b"beside it"] * count + [None, None]
        assert store.verify() == []
        with kvs.open(store.path, "r") as reader:
            assert reader[0] == bytes(70_000)
        with pytest.raises(kvs.StorageFullError):
            store[2 * count] = bytes(70_000)
        del store[1], store[3]  # a page may be left, and fits them
        ballast.unlink()
        store[1] = bytes(70_000)
        with kvs.open(store.path, "w", io=io) as another:
            another[3] = b"another's"
        assert (len(store), store.verify()) == (2 * count, [])
    with kvs.open(small_disk / "store") as store:
        assert store.get_many([1, 3]) == [bytes(70_000), b"another's"]


def test_a_full_disk_is_a_clear_error_of_creating_and_of_a_first_commit(small_disk: Path) -> None:
    kvs.open(small_disk / "store", index_capacity=500).close()
    kvs.open(small_disk / "store").close()
    ballast = fill(small_disk)
    with pytest.raises(kvs.StorageFullError):
        kvs.open(small_disk / "another", index_capacity=500)
    with kvs.open(small_disk / "store") as first, kvs.open(small_disk / "store", "w") as second:
        for store in (first, second, first):
            with pytest.raises(kvs.StorageFullError):
                store[1] = b"needs a smallfile of its own"
        kvs.open(small_disk / "store", "r").close()
        assert (len(first), first.verify()) == (0, [])
        ballast.unlink()
        second[1] = b"v"
        assert first[1] == b"v"
        first[2] = b"w"
        assert second[2] == b"w"
        assert first.verify() == []
    kvs.open(small_disk / "another", index_capacity=500).close()


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_failed_sync_is_no_commit_that_is_seen_and_the_handle_refuses_more(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, io: str
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with kvs.open(store_dir, "n", durable=True, index_capacity=500) as other:
        other[1] = b"acknowledged"
        with kvs.open(store_dir, "w", io=io) as store:
            store[4] = b"acknowledged too"
            monkeypatch.setattr(os, "fdatasync", fail)
            with pytest.raises(kvs.DurabilityError, match="Input/output error") as caught:
                store.put_many({1: b"in doubt", 2: b"in doubt"})
            assert caught.value.path == str(store_dir / "00001.small")
            monkeypatch.undo()
            for reader in (store, other):
                assert reader.get_many([1, 2, 4]) == [b"acknowledged", None, b"acknowledged too"]
            with pytest.raises(kvs.DurabilityError):
                store[3] = b"refused, although the device is well again"
            assert other.put_many({3: b"another handle goes on"}) == 4, "and syncs what is in doubt before"
            for reader in (store, other):
                assert reader.get_many([1, 2, 3]) == [b"in doubt", b"in doubt", b"another handle goes on"]
            assert other.verify() == []
    with kvs.open(store_dir) as again:
        again[2] = b"opened again"
        assert again.get_many([1, 2, 3]) == [b"in doubt", b"opened again", b"another handle goes on"]
        assert again.verify() == []


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_sync_that_failed_in_the_only_handle_is_made_good_by_whoever_opens_next(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, io: str
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with kvs.open(store_dir, "n", durable=True, io=io, index_capacity=500) as store:
        store[1] = b"acknowledged"
        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(kvs.DurabilityError):
            store[1] = b"in doubt"
        monkeypatch.undo()
        assert store[1] == b"acknowledged"
    with kvs.open(store_dir) as store:
        store[2] = b"next"
        assert store.get_many([1, 2]) == [b"in doubt", b"next"]
        assert store.verify() == []


def test_a_store_that_is_not_durable_does_not_sync_to_commit(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    for durable in (False, True):
        with kvs.open(store_dir, "n", durable=durable, index_capacity=500) as store:
            store[1] = b"in a new smallfile"
            before = len(synced)
            store[1] = b"v"
            assert len(synced) == before + durable


def test_a_failed_sync_while_closing_leaves_the_store_unclean_but_whole(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = kvs.open(store_dir, "n", index_capacity=500)
    store[1] = b"v"
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(kvs.DurabilityError):
        store.close()
    monkeypatch.undo()
    with pytest.raises(kvs.ClosedStoreError):
        store.get(1)
    with kvs.open(store_dir) as store:
        assert store[1] == b"v"
        assert store.verify() == []
