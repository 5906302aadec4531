"""What the processes of the tests do. Each says over its pipe how far it is, and waits there to go on."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import kvs
from kvs import syncpoints
from kvs.locks import COMMIT, RangeLocks, gate
from tests.kvs.processes import Death, die_at

Changes = dict[bytes, bytes | None]


def commit(
    connection: Connection,
    path: Path,
    io: str,
    changes: Changes,
    death: Death | None,
    options: dict[str, Any] | None = None,
) -> None:
    """Open the store, then write ``changes`` in one transaction and die meanwhile."""
    store = kvs.open(path, "w", io=io, **(options or {}))
    txn = store.transaction()
    for key, value in changes.items():
        txn.fetch(key)
        if value is None:
            txn.remove(key)
        else:
            txn.update(key, value)
    if death:
        die_at(death, connection)
    txn.commit()
    connection.send("survived")
    store.close()


def open_and_close(connection: Connection, path: Path, death: Death, options: dict[str, Any]) -> None:
    """Open the store (which repairs what is left), close it, and die meanwhile."""
    die_at(death, connection)
    kvs.open(path, **options).close()
    connection.send("survived")


def hold_commit(connection: Connection, ranges: Path) -> None:
    """Hold COMMIT of a ``ranges.lock`` until told to let go."""
    locks = RangeLocks(ranges, lambda _: 0)
    proof = locks.acquire(COMMIT, 10.0)
    connection.send("held")
    connection.recv()
    locks.release(proof)
    connection.send("released")


def hold_raw_and_fork(connection: Connection, path: Path) -> None:
    """Take a raw OFD lock, fork, and wait in both processes: what a store must not do."""
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, COMMIT.lock)
    _fork(connection, lambda: "forked")


def open_and_fork(connection: Connection, path: Path) -> None:
    """Open the store, begin everything, fork, use it all in the child, and wait in both processes."""
    store = kvs.open(path, "w")
    store[1] = b"by the parent"
    snapshot, txn = store.snapshot(), store.transaction()
    uses: list[Callable[[], object]] = [
        lambda: store.get(1),
        lambda: store.get_many([1]),
        lambda: store.__setitem__(1, b"by the child"),
        lambda: list(store),
        lambda: len(store),
        store.snapshot,
        store.transaction,
        store.verify,
        lambda: snapshot.get(1),
        lambda: txn.fetch(1),
    ]

    def use() -> list[str]:
        names = [_error_of(use) for use in uses]
        store.close()  # does nothing to the parent's
        return names

    _fork(connection, use)


def fork_and_go_on(connection: Connection, path: Path) -> None:
    """Begin everything, fork, and say what became of all uses in the child; then use it all in the parent."""
    store = kvs.open(path, "w")
    snapshot, txn, idle = store.snapshot(), store.transaction(), store.transaction()
    iterations = [iter(store), snapshot.items(), iter(snapshot)]
    begun = [iter(store), snapshot.items()]  # more than a child may have been given before
    for each in begun:
        next(each)
    txn.fetch(6001)
    txn.update(6001, b"by its transaction")
    uses: list[Callable[[], object]] = [
        lambda: store.get(1),
        lambda: store[1],
        lambda: 1 in store,
        lambda: store.get_many([1]),
        lambda: store.find(1),
        lambda: store.history(1),
        lambda: store.last_updated([1]),
        lambda: len(store),
        lambda: list(store),
        lambda: dict(store.items()),
        lambda: store.__setitem__(1, b"by the child"),
        lambda: store.__delitem__(1),
        lambda: store.put_many({1: b"by the child"}),
        lambda: store.transact(lambda txn: None),
        store.snapshot,
        store.transaction,
        store.verify,
        store.stat,
        store.compact,
        store.__enter__,
        lambda: snapshot.get(1),
        lambda: snapshot.get_many([1]),
        lambda: snapshot.find(1),
        lambda: dict(snapshot.items()),
        snapshot.__enter__,
        lambda: txn.fetch(1),
        lambda: txn.update_unsafe(1, b"by the child"),
        txn.commit,
        idle.commit,
        *(functools.partial(next, each) for each in iterations),
        *(functools.partial(list, each) for each in begun),
    ]
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        answers = [_error_of(use) for use in uses]
        snapshot.close()
        store.close()
        os.write(far, "\n".join(answers).encode())
        os._exit(0)
    os.waitpid(child, 0)
    connection.send(os.read(near, 1 << 16).decode().split("\n"))
    connection.recv()
    for number, each in enumerate([*iterations, *begun]):
        assert len(list(each)) == (5000 if number < len(iterations) else 4999)
    store[6000] = b"by the parent"
    txn.commit()
    assert snapshot.get_many([1, 6000, 6001]) == [b"v", None, None]
    snapshot.close()
    store.close()
    connection.send("went on")


def _fork(connection: Connection, then: Callable[[], object]) -> None:
    """The child says what ``then`` returns, and its pid, and stays until the test says something or ends."""
    if os.fork() == 0:
        try:
            connection.send((os.getpid(), then()))
            connection.recv()
        except EOFError:
            pass
        finally:
            os._exit(0)
    while True:
        signal.pause()


def _error_of(use: Callable[[], object]) -> str:
    try:
        return repr(use())
    except kvs.Error as error:
        return type(error).__name__


def pause_in_commit(connection: Connection, path: Path, point: str, key: bytes | int = 1) -> None:
    """Commit, and say so at ``point``, where the test stops this process."""
    store = kvs.open(path, "w")

    def hook(name: str, *_: object) -> None:
        if name == point:
            connection.send("there")
            connection.recv()

    syncpoints.install(hook)
    store[key] = b"by the paused"
    connection.send("committed")


def pause_in_put(connection: Connection, path: Path, io: str, point: str, size: int) -> None:
    """Write ``size`` zeros to one key, and say so at ``point``, where the test stops or kills this process."""
    with kvs.open(path, "w", io=io) as store:

        def hook(name: str, *_: object) -> None:
            if name == point:
                connection.send("there")
                connection.recv()

        syncpoints.install(hook)
        store[1 << 100] = bytes(size)
        connection.send("committed")


def commit_for_a_while(connection: Connection, path: Path, seconds: float) -> None:
    """Commit as fast as may be; says how often, and how long the longest wait for a commit was."""
    with kvs.open(path, "w") as store:
        connection.send("open")
        connection.recv()
        count, longest = 0, 0.0
        began = last = time.monotonic()
        while last - began < seconds:
            store[os.getpid()] = b"%d" % count
            count += 1
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        connection.send((count, longest))


def acknowledge(connection: Connection, path: Path, number: int, count: int) -> None:
    """Write a pair of keys ``count`` times in one transaction each, and say T and the value of each when it is done."""
    with kvs.open(path, "w") as store:
        connection.send("open")
        connection.recv()
        for value in range(count):
            time = store.put_many(dict.fromkeys([number, 1000 + number], b"%d" % value))
            connection.send((time, value))


def grow_for_a_while(
    connection: Connection, path: Path, number: int, count: int, death: Death | None = None
) -> None:
    """Write ``count`` keys of one's own, each in one transaction with the count of them, and perhaps die meanwhile."""
    if death:
        die_at(death, connection)
    with kvs.open(path, "w") as store:
        connection.send("open")
        if not death:
            connection.recv()
        for key in range(count):
            store.put_many({number * 1_000_000 + key: b"%d" % key, number * 1_000_000: b"%d" % key})
    connection.send("done")


def read_for_a_while(connection: Connection, path: Path, io: str) -> None:
    """Check what ``grow_for_a_while`` writes until told to stop: each writer's keys are there up to its count, and no
    count ever falls.
    """
    rounds, last = 0, [0, 0, 0]
    with kvs.open(path, "r", io=io) as store:
        connection.send("open")
        connection.recv()
        while not connection.poll():
            for number in range(3):
                first = number * 1_000_000
                count = int(store.get(first) or b"0")
                assert count >= last[number], "a value that is older than one seen before"
                last[number] = count
                keys = range(first + max(1, count - 50), first + count + 1)
                assert store.get_many(keys) == [b"%d" % (key - first) for key in keys]
                assert [store.get(key) for key in keys] == [b"%d" % (key - first) for key in keys]
            with (
                contextlib.suppress(kvs.SnapshotTooOldError),
                store.snapshot() as snapshot,
            ):  # the counts move fast
                found = dict(snapshot.items())
                assert len(found) == len(list(snapshot))
                for number in range(3):
                    value = found.get((number * 1_000_000).to_bytes(16, "big"))
                    keys = range(number * 1_000_000, number * 1_000_000 + int(value or b"-1") + 1)
                    assert all(key.to_bytes(16, "big") in found for key in keys)
            rounds += 1
    connection.send(rounds)


def watch_key(connection: Connection, path: Path, key: bytes) -> None:
    """Say what ``key`` holds, whenever asked."""
    with kvs.open(path, "r") as store:
        while True:
            connection.send(store.get(key))
            connection.recv()


def hold_snapshot(connection: Connection, path: Path, keys: list[int]) -> None:
    """Take a snapshot, say its T, and what it holds whenever asked."""
    with kvs.open(path, "r") as store, store.snapshot() as snapshot:
        connection.send(snapshot.transaction_counter)
        while True:
            connection.recv()
            connection.send(snapshot.get_many(keys))


def die_with_snapshot(connection: Connection, path: Path, death: Death) -> None:
    """Take a snapshot and die meanwhile."""
    die_at(death, connection)
    with kvs.open(path, "r") as store, store.snapshot():
        connection.send("survived")


def hold_snapshot_and_fork(connection: Connection, path: Path) -> None:
    """Take a snapshot, fork, use and close it in the child, and wait in both processes."""
    store = kvs.open(path, "r")
    snapshot = store.snapshot()

    def use() -> str:
        error = _error_of(lambda: snapshot.get(1))
        snapshot.close()
        store.close()
        return error

    _fork(connection, use)


def write_once(connection: Connection, path: Path, key: int) -> None:
    """Open, and write one key when told to; stay open until told to end."""
    with kvs.open(path, "w") as store:
        connection.send("open")
        connection.recv()
        connection.send(store.put_many({key: b"%d" % key}))
        connection.recv()


def increment(connection: Connection, path: Path, io: str, key: int, count: int) -> None:
    """Add one to a counter, ``count`` times."""

    def add(txn: kvs.Transaction) -> None:
        txn.fetch(key)
        txn.update(key, b"%d" % (int(txn.fetch(key) or b"0") + 1))

    with kvs.open(path, "w", io=io) as store:
        for _ in range(count):
            store.transact(add)
    connection.send("done")


def mark(connection: Connection, path: Path, io: str, keys: list[bytes], who: bytes) -> None:
    """Give all keys one mark after the other until told to stop; says how many."""
    count = 0
    with kvs.open(path, "w", io=io) as store:
        connection.send("open")
        connection.recv()
        while not count or not connection.poll():
            store.put_many(dict.fromkeys(keys, b"%s %d " % (who, count) * (count % 9)))
            count += 1
    connection.send(count)


def flip_word(connection: Connection, path: Path, values: tuple[int, int]) -> None:
    """Store two values in turn in one shared word, as the index does, until killed."""
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    words = memoryview(shared).cast("Q")
    connection.send("flipping")
    first, second = values
    while True:
        words[1] = first
        words[1] = second


def open_as_somebody_else(connection: Connection, path: Path) -> None:
    """Without any right to write: what opening for reading and for writing gives."""
    with kvs.open(path, "r") as store:
        store.verify()  # imports whatever it needs, which somebody else may not be able to
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    with kvs.open(path, "r") as store:
        connection.send((store.get(1), store.get_many([1] * 60)[-1], store.verify()))
    for flag in ("w", "c", "n"):
        try:
            kvs.open(path, flag)
        except OSError as error:
            connection.send((flag, type(error).__name__))


def fill_up(connection: Connection, path: Path, io: str, limit: int) -> None:
    """Commit until no file may be longer than ``limit`` bytes, then again when it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with kvs.open(path, io=io, index_capacity=500) as store:
        store[0] = b"acknowledged"
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        count = 1
        try:
            while True:
                store.put_many({count: bytes(100_000), -count % 2**128: b"beside it"})
                count += 1
        except kvs.StorageFullError as error:
            connection.send((count, error.path, error.wanted_bytes))
        assert count not in store
        assert store[0] == b"acknowledged"
        assert store.verify() == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store[count] = bytes(200_000)
        assert (len(store), store.verify()) == (2 * count, [])
    connection.send("went on")


def create_within(connection: Connection, path: Path, limit: int) -> None:
    """Create a store where no file may be longer than ``limit`` bytes, then where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        kvs.open(path, index_capacity=500)
    except kvs.StorageFullError as error:
        connection.send((error.path, sorted(file.name for file in path.iterdir())))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with kvs.open(path, index_capacity=500) as store:
        store[1] = b"v"
        connection.send(store.verify())


def hold_gate(connection: Connection, path: Path) -> None:
    """Hold ``store.lock`` as one who creates a store does, until killed."""
    with gate(path, exclusive=True, timeout_s=10.0):
        connection.send("held")
        connection.recv()


def step_through_commit(connection: Connection, path: Path, changes: Changes, points: list[str]) -> None:
    """Commit ``changes``, waiting at each of ``points`` (its first hit) to be told to go on."""
    store = kvs.open(path, "w")
    left = list(points)

    def hook(name: str, *_: object) -> None:
        if left and name == left[0]:
            connection.send(left.pop(0))
            connection.recv()

    syncpoints.install(hook)
    with store.transaction() as txn:
        for key, value in changes.items():
            txn.remove_unsafe(key) if value is None else txn.update_unsafe(key, value)
    connection.send("committed")
