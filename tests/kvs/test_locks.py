"""Every fact about the kernel's locks that the store relies on, and what the store makes of them."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import kvs
from kvs import syncpoints
from kvs.locks import COMMIT, LockOrderError, Range, RangeLocks, gate, range_is_held, sync_range, writer_range
from tests.kvs.children import (
    commit_for_a_while,
    hold_commit,
    hold_raw_and_fork,
    open_and_fork,
    pause_in_commit,
)
from tests.kvs.processes import Child

FLOCK = struct.Struct("@hhqqi4x")
RANGES = "ranges.lock"


@pytest.fixture
def ranges(tmp_path: Path) -> Path:
    path = tmp_path / RANGES
    path.touch()
    return path


def is_held(path: Path, asked: Range) -> bool:
    """Whether anybody holds the range; asked through a description of its own."""
    fd = os.open(path, os.O_RDWR)
    try:
        return range_is_held(fd, asked)
    finally:
        os.close(fd)


def test_a_range_is_released_when_its_holder_is_killed(ranges: Path) -> None:
    locks = RangeLocks(ranges, lambda _: 0)
    with Child(hold_commit, ranges) as holder:
        assert holder.receive() == "held"
        assert locks.try_acquire(COMMIT) is None
        assert locks.held_elsewhere(COMMIT)
        holder.kill()
        proof = locks.try_acquire(COMMIT)
        assert proof is not None
        locks.release(proof)
    locks.close()


def test_a_description_inherited_by_fork_keeps_a_dead_parents_lock(ranges: Path) -> None:
    """Why handles close in the child: this is what happens otherwise."""
    with Child(hold_raw_and_fork, ranges) as parent:
        grandchild, _ = parent.receive()
        parent.kill()
        assert Path(f"/proc/{grandchild}").exists()
        assert is_held(ranges, COMMIT)
        parent.send("end")


def test_a_forked_child_does_not_keep_the_locks_of_its_dead_parent(store_dir: Path) -> None:
    kvs.open(store_dir, index_capacity=500).close()
    with Child(open_and_fork, store_dir) as parent:
        grandchild, _ = parent.receive()
        assert is_held(store_dir / RANGES, writer_range(0)), "closed in the child, and not unlocked"
        parent.kill()
        assert Path(f"/proc/{grandchild}").exists()
        assert not is_held(store_dir / RANGES, writer_range(0))
        parent.send("end")


def test_closing_another_descriptor_or_a_map_does_not_drop_our_locks(ranges: Path) -> None:
    ranges.write_bytes(b"something to map")
    locks = RangeLocks(ranges, lambda _: 0)
    locks.acquire(COMMIT, 0.0)
    other = os.open(ranges, os.O_RDWR)
    os.close(other)
    other = os.open(ranges, os.O_RDWR)
    view = mmap.mmap(other, 0)
    os.close(other)
    view.close()
    os.close(os.dup(locks.fd))
    assert is_held(ranges, COMMIT)
    locks.close()
    assert not is_held(ranges, COMMIT)


@pytest.mark.parametrize("close", ["another descriptor", "a map"])
def test_posix_locks_do_vanish_with_any_descriptor_of_the_file(ranges: Path, close: str) -> None:
    """Why they are not used. If this fails, the kernel has changed and the comments must."""
    ranges.write_bytes(b"something to map")
    holder, other, asking = (os.open(ranges, os.O_RDWR) for _ in range(3))
    view = mmap.mmap(other, 0)
    fcntl.fcntl(holder, fcntl.F_SETLK, COMMIT.lock)
    assert range_is_held(asking, COMMIT)
    if close == "a map":
        view.close()
        os.close(other)
    else:
        os.close(other)
        view.close()
    assert not range_is_held(asking, COMMIT)
    os.close(asking)
    os.close(holder)


def test_two_descriptions_exclude_each_other_within_one_process(ranges: Path) -> None:
    first, second = (RangeLocks(ranges, lambda _: 4711) for _ in range(2))
    proof = first.acquire(COMMIT, 0.0)
    with pytest.raises(kvs.LockTimeoutError) as caught:
        second.acquire(COMMIT, 0.02)
    assert (caught.value.lock, caught.value.holder_pid) == ("COMMIT", 4711)
    assert caught.value.waited_s >= 0.02
    first.release(proof)
    second.acquire(COMMIT, 0.0)
    first.close()
    second.close()


def test_the_kernel_does_not_tell_who_holds_an_ofd_lock(ranges: Path) -> None:
    """Why there are owner words beside the locks."""
    locks = RangeLocks(ranges, lambda _: 0)
    locks.acquire(COMMIT, 0.0)
    fd = os.open(ranges, os.O_RDWR)
    answer = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, COMMIT.lock))
    assert (answer[0], answer[4]) == (fcntl.F_WRLCK, -1)
    os.close(fd)
    locks.close()


def test_taking_a_lower_rank_while_holding_a_higher_one_raises_at_once(ranges: Path) -> None:
    locks = RangeLocks(ranges, lambda _: 0)
    writer = locks.acquire(writer_range(3), 0.0)
    commit = locks.acquire(COMMIT, 0.0)
    for wanted in (writer_range(4), COMMIT):
        with pytest.raises(LockOrderError, match="while holding COMMIT"):
            locks.try_acquire(wanted)
    locks.release(commit)
    locks.release(writer)
    locks.close()


def test_locks_may_be_released_in_any_order(ranges: Path) -> None:
    """A durable commit lets COMMIT go and keeps SYNC, which it took later."""
    locks = RangeLocks(ranges, lambda _: 0)
    writer = locks.acquire(writer_range(3), 0.0)
    commit = locks.acquire(COMMIT, 0.0)
    sync = locks.acquire(sync_range(3), 0.0)
    locks.release(commit)
    assert [is_held(ranges, each) for each in (writer_range(3), COMMIT, sync_range(3))] == [True, False, True]
    with pytest.raises(LockOrderError, match=r"while holding SYNC\[3\]"):
        locks.try_acquire(COMMIT)
    locks.release(writer)
    locks.release(sync)
    locks.close()


def test_a_timeout_names_the_stopped_holder_and_nothing_was_written(store_dir: Path) -> None:
    with (
        kvs.open(store_dir, index_capacity=500, lock_timeout_s=0.05) as store,
        Child(pause_in_commit, store_dir, "commit.after_lock") as holder,
    ):
        assert holder.receive() == "there"
        holder.stop()
        with pytest.raises(kvs.LockTimeoutError) as caught:
            store[2] = b"mine"
        error = caught.value
        assert (error.lock, error.holder_pid, error.holder_state) == ("COMMIT", holder.pid, "stopped")
        assert f"COMMIT held by pid {holder.pid} (stopped)" in str(error)
        assert (store.get(2), store.stat()["transactions"]) == (None, 0)
        os.kill(holder.pid, signal.SIGCONT)
        holder.send()
        assert holder.receive() == "committed"
        store[2] = b"mine"
        assert (store[1], store[2]) == (b"by the paused", b"mine")


def test_a_thread_that_waits_too_long_for_its_own_handle_is_told_so(store_dir: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hook(name: str, *_: object) -> None:
        if name == "commit.after_lock":
            inside.set()
            leave.wait(20)

    with kvs.open(store_dir, index_capacity=500, lock_timeout_s=0.05) as store:
        syncpoints.install(hook)
        first = threading.Thread(target=store.__setitem__, args=(1, b"first"))
        first.start()
        assert inside.wait(20)
        with pytest.raises(kvs.LockTimeoutError, match="this handle") as caught:
            store[2] = b"second"
        assert caught.value.holder_pid == os.getpid()
        leave.set()
        first.join()
        assert (store[1], store.get(2)) == (b"first", None)


def test_the_gate_lets_openers_share_and_creators_exclude(tmp_path: Path) -> None:
    path = tmp_path / "store.lock"
    with pytest.raises(kvs.CorruptedStoreError), gate(path, exclusive=False, timeout_s=0):
        pass
    with gate(path, exclusive=True, timeout_s=0):
        for exclusive in (True, False):
            with pytest.raises(kvs.LockTimeoutError), gate(path, exclusive=exclusive, timeout_s=0.01):
                pass
    with gate(path, exclusive=False, timeout_s=0), gate(path, exclusive=False, timeout_s=0):
        pass


def test_waits_for_a_lock_go_through_the_seam(store_dir: Path) -> None:
    waits: list[tuple[str, int]] = []
    with (
        kvs.open(store_dir, index_capacity=500) as store,
        Child(pause_in_commit, store_dir, "commit.after_lock") as holder,
    ):
        assert holder.receive() == "there"

        def waiter(lock: str, attempt: int) -> None:
            waits.append((lock, attempt))
            if attempt == 5:
                holder.send()
                assert holder.receive() == "committed"

        syncpoints.install(None, waiter)
        store[2] = b"mine"
    assert waits[:6] == [("COMMIT", attempt) for attempt in range(6)]


def test_eight_writers_hand_the_lock_over(store_dir: Path) -> None:
    """Nobody starves: an unfair lock is fine, one that a single process keeps is not."""
    kvs.open(store_dir, index_capacity=500).close()
    children = [Child(commit_for_a_while, store_dir, 1.0) for _ in range(8)]
    try:
        for child in children:
            assert child.receive() == "open"
        for child in children:
            child.send()
        answers = [child.receive() for child in children]
        assert min(count for count, _ in answers) >= 5, answers
        assert max(longest for _, longest in answers) < 10.0, answers
    finally:
        for child in children:
            child.__exit__(None, None, None)
    with kvs.open(store_dir) as store:
        assert store.stat()["transactions"] == sum(count for count, _ in answers)
        assert store.verify() == []


def test_a_wait_of_many_tries_does_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign's pauses kept one waiter at the lock for 1,750 tries: the growing step was a power that no float
    holds, and opening the store died of OverflowError instead of waiting on.
    """
    slept: list[float] = []
    monkeypatch.setattr(syncpoints, "time", SimpleNamespace(sleep=slept.append))
    for attempt in (6, 7, 15, 16, 1_750, 10**6):
        syncpoints.wait("COMMIT", attempt)
    assert slept == sorted(slept)
    assert slept[0] == pytest.approx(20e-6)
    assert slept[-1] == 1e-3
