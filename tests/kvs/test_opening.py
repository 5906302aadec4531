"""Opening what is there, what is not, what is something else, and what nobody may open any more."""

from __future__ import annotations

import copy
import os
import pickle
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import files, layout, locks, syncpoints
from kvs.layout import smallfile_name
from tests.kvs.children import (
    commit,
    hold_gate,
    open_and_close,
    open_and_fork,
    open_as_somebody_else,
    write_once,
)
from tests.kvs.damage import all_bytes, words_of
from tests.kvs.processes import Child, Death

ANOTHER_BOOT = b"another boot id."


def new(path: Path, **options: Any) -> kvs.Store:
    return kvs.open(path, "n", index_capacity=500, **options)


# -- flags ------------------------------------------------------------------------------------------------


def test_flag_c_creates_once_and_then_opens(store_dir: Path) -> None:
    with kvs.open(store_dir, "c", index_capacity=500) as store:
        store[1] = b"v"
    with kvs.open(store_dir) as store:
        assert store[1] == b"v"


def test_flag_n_always_makes_an_empty_store(store_dir: Path) -> None:
    for _ in range(2):
        with new(store_dir) as store:
            assert len(store) == 0
            assert store.verify() == []
            store[1] = b"v"


@pytest.mark.parametrize("flag", ["r", "w"])
def test_flags_r_and_w_create_nothing(store_dir: Path, flag: str) -> None:
    for path in (store_dir, store_dir / "in nothing"):
        with pytest.raises(kvs.StoreNotFoundError, match="there is no store here") as caught:
            kvs.open(path, flag)
        assert caught.value.path == str(path)
        assert isinstance(caught.value, FileNotFoundError)
    assert not store_dir.exists()
    store_dir.mkdir()
    with pytest.raises(kvs.StoreNotFoundError):
        kvs.open(store_dir, flag)
    assert list(store_dir.iterdir()) == []


def test_a_missing_parent_is_not_created(store_dir: Path) -> None:
    with pytest.raises(kvs.StoreNotFoundError):
        kvs.open(store_dir / "deeper", "c")
    assert not store_dir.exists()


def test_flag_r_reads_what_another_handle_writes(store_dir: Path) -> None:
    with new(store_dir) as writer, kvs.open(store_dir, "r", io="append") as reader:
        writer[1] = b"v"
        assert reader[1] == b"v"
        with pytest.raises(kvs.ReadOnlyError) as caught:
            reader[1] = b"w"
        assert caught.value.path == str(store_dir)


def test_flag_n_refuses_while_a_writer_lives_and_not_after(store_dir: Path) -> None:
    new(store_dir).close()
    with Child(write_once, store_dir, 1) as writer:
        assert writer.receive() == "open"
        with pytest.raises(kvs.LockTimeoutError) as caught:
            new(store_dir)
        assert (caught.value.lock, caught.value.holder_pid) == ("WRITER[0]", writer.pid)
        writer.send()
        assert writer.receive() == 1, "and the writer goes on"
        writer.kill()
    with new(store_dir) as store:
        assert len(store) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"flag": "x"},
        {"flag": ""},
        {"io": "direct"},
        {"lock_timeout_s": -1.0},
        {"lock_timeout_s": float("nan")},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(store_dir: Path, options: dict[str, object]) -> None:
    with pytest.raises(kvs.StoreOptionsError, match="nothing was touched"):
        kvs.open(store_dir, **options)  # type: ignore[arg-type]
    assert not store_dir.exists()


@pytest.mark.parametrize("name", ["durable", "integrity", "content_addressed"])
@pytest.mark.parametrize("stored", [True, False])
def test_options_that_contradict_the_store_are_refused(store_dir: Path, name: str, stored: bool) -> None:
    new(store_dir, **{name: stored}).close()
    before = all_bytes(store_dir)
    for flag in "rwc":
        with pytest.raises(kvs.StoreOptionsError, match=f"{name}={stored}.*{name}={not stored}"):
            kvs.open(store_dir, flag, **{name: not stored})  # type: ignore[arg-type]
    assert all_bytes(store_dir) == before
    for asked in (None, stored):
        with kvs.open(store_dir, **{name: asked}) as store:  # type: ignore[arg-type]
            assert store.stat()[name] == stored


def test_the_defaults_are_integrity_without_durability(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        stat = store.stat()
    assert (stat["durable"], stat["integrity"], stat["content_addressed"]) == (False, True, False)
    assert stat["index_capacity"] >= layout.INDEX_CAPACITY


def test_an_opener_waits_for_the_creator_and_then_says_so(store_dir: Path) -> None:
    store_dir.mkdir()
    with Child(hold_gate, store_dir / "store.lock") as creator:
        assert creator.receive() == "held"
        with pytest.raises(kvs.LockTimeoutError, match="creating or replacing"):
            kvs.open(store_dir, lock_timeout_s=0.02)
        creator.kill()
    kvs.open(store_dir, index_capacity=500).close()


def test_a_platform_without_the_locks_is_refused(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(kvs.UnsupportedPlatformError):
        kvs.open(store_dir)
    monkeypatch.undo()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(kvs.UnsupportedPlatformError):
        kvs.open(store_dir)
    assert not store_dir.exists()


def test_somebody_without_the_right_to_write_reads_and_is_refused_the_rest() -> None:
    with tempfile.TemporaryDirectory(prefix="kvs-test-") as directory:
        path = Path(directory) / "store"
        with new(path) as store:
            store[1] = b"v"
        for file in path.iterdir():
            file.chmod(0o444)
        path.chmod(0o555)
        Path(directory).chmod(0o755)
        before = all_bytes(path)
        with Child(open_as_somebody_else, path) as child:
            assert child.receive() == (b"v", b"v", [])
            assert [child.receive() for _ in range(3)] == [(flag, "PermissionError") for flag in "wcn"]
            assert child.join() == 0
        assert all_bytes(path) == before
        path.chmod(0o755)


# -- after the end ----------------------------------------------------------------------------------------


def uses(store: kvs.Store) -> list[Callable[[], object]]:
    """Everything that a handle, a snapshot, a transaction and an iterator of it can be asked for."""
    snapshot, txn, items = store.snapshot(), store.transaction(), iter(store)
    return [
        lambda: store.get(1),
        lambda: store[1],
        lambda: 1 in store,
        lambda: store.get_many([1]),
        lambda: store.get_many([1] * 60),
        lambda: store.find(1),
        lambda: store.find(1, 1),
        lambda: store.last_updated([1]),
        lambda: len(store),
        lambda: list(store),
        lambda: next(items),
        lambda: store.__setitem__(1, b"v"),
        lambda: store.__delitem__(1),
        lambda: store.put_many({1: b"v"}),
        lambda: store.put_many({}),
        lambda: store.transact(lambda txn: None),
        store.transaction,
        store.snapshot,
        store.verify,
        store.stat,
        store.__enter__,
        lambda: snapshot.get(1),
        lambda: snapshot.get_many([1]),
        lambda: snapshot.find_time(1),
        lambda: list(snapshot),
        lambda: txn.fetch(1),
        txn.commit,
    ]


@pytest.mark.parametrize("flag", ["w", "r"])
@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_closed_handle_refuses_everything(store_dir: Path, flag: str, io: str) -> None:
    new(store_dir).close()
    store = kvs.open(store_dir, flag, io=io)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    refused = uses(store)
    store.close()
    for number, use in enumerate(refused):
        with pytest.raises(kvs.ClosedStoreError):
            pytest.fail(f"use {number} returned {use()!r}")
    store.close()
    assert "(closed)" in repr(store)
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors


def test_closing_gives_every_descriptor_back(store_dir: Path) -> None:
    new(store_dir).close()

    def descriptors() -> list[str]:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return [target for link in links if str(store_dir) in (target := _readlink(link))]

    for io in ("mmap", "append"):
        for flag in ("w", "r"):
            with kvs.open(store_dir, flag, io=io) as store:
                if flag == "w":
                    store[1] = b"v"
                assert store[1] == b"v"
                assert store.get_many([1] * 60) == [b"v"] * 60
    assert descriptors() == []
    small, index = store_dir / smallfile_name(0), store_dir / layout.index_name(0)
    small.write_bytes(small.read_bytes()[:200])
    with pytest.raises(kvs.CorruptedStoreError):
        kvs.open(store_dir)
    small.write_bytes(b"not a smallfile" * 100)
    index.unlink()
    with pytest.raises(kvs.CorruptedStoreError):
        kvs.open(store_dir)
    assert descriptors() == [], "nor does a failed open keep any"


def _readlink(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except FileNotFoundError:
        return ""


def test_a_forked_child_is_told_to_open_again_and_the_parent_goes_on(store_dir: Path) -> None:
    new(store_dir).close()
    with Child(open_and_fork, store_dir) as parent:
        _, answers = parent.receive()
        assert answers == ["ForkedStoreError"] * len(answers)
        fd = os.open(store_dir / "ranges.lock", os.O_RDWR)
        assert locks.range_is_held(fd, locks.writer_range(0)), "the parent's place is still its own"
        os.close(fd)
        with kvs.open(store_dir, "r") as store:
            assert store[1] == b"by the parent"
        parent.send("end")


def test_a_handle_cannot_be_pickled_or_copied(store_dir: Path) -> None:
    with new(store_dir) as store:
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="holds locks"):
                use(store)


# -- power ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["r", "w", "c"])
@pytest.mark.parametrize("durable", [False, True])
def test_after_a_reboot_a_store_that_was_not_closed_is_rebuilt(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, flag: str, durable: bool
) -> None:
    with new(store_dir, durable=durable) as store:
        store.put_many({1: b"before", 2: b"to go"})
    with Child(commit, store_dir, "mmap", {bytes(16): b"v"}, Death("commit.after_unlock")) as child:
        assert child.receive() == "commit.after_unlock"
        child.join()
    with words_of(store_dir) as words:
        words[layout.H_COMMITTED] = 77  # of unknown age: nothing in it may be believed
    monkeypatch.setattr(files, "boot_id", lambda: ANOTHER_BOOT)
    with kvs.open(store_dir, flag) as store:
        assert store.get_many([0, 1, 2]) == [b"v", b"before", b"to go"]
        assert (store.stat()["transactions"], store.verify()) == (2, [])
    with kvs.open(store_dir, "w") as store:
        assert store.put_many({2: b"goes on"}) == 3


def test_after_a_reboot_a_store_that_was_not_closed_is_not_rebuilt_under_a_writer(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with a boot id of its own."""
    with new(store_dir) as store:
        store[1] = b"v"
        before = all_bytes(store_dir)
        monkeypatch.setattr(files, "boot_id", lambda: ANOTHER_BOOT)
        with pytest.raises(kvs.LockTimeoutError, match=r"WRITER\[0\]"):
            kvs.open(store_dir, "w")
        assert all_bytes(store_dir) == before
        store[1] = b"unharmed"
        assert store.verify() == []


@pytest.mark.parametrize("flag", ["r", "w"])
def test_after_a_reboot_a_store_that_was_closed_opens(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    with new(store_dir) as store, kvs.open(store_dir) as another:
        another[1] = b"v"
        another.close()
        store[2] = b"w"
    monkeypatch.setattr(files, "boot_id", lambda: ANOTHER_BOOT)
    with kvs.open(store_dir, flag) as store:
        assert store.get_many([1, 2]) == [b"v", b"w"]
        assert store.verify() == []


@pytest.mark.parametrize("part", ["nothing", "one"])
def test_after_a_reboot_a_store_whose_clean_mark_was_cut_short_is_rebuilt(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with new(store_dir) as store:
        store[1] = b"v"
    with Child(open_and_close, store_dir, Death("close.before_clean", part=part), {}) as child:
        assert child.receive() == "close.before_clean"
        child.join()
    reached: list[str] = []
    syncpoints.install(lambda name, *_: reached.append(name))
    monkeypatch.setattr(files, "boot_id", lambda: ANOTHER_BOOT)
    with kvs.open(store_dir) as store:
        assert "rebuild.after_publish" in reached
        assert (store[1], store.verify()) == (b"v", [])
