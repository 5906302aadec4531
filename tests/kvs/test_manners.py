"""How handles behave in a program: forks, threads, copies, ``with``, and what is left lying about."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import layout, opening, reading
from tests.kvs.children import fork_and_go_on
from tests.kvs.processes import Child, held

# -- forks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_forked_child_may_use_nothing_and_the_parent_goes_on_with_everything(
    store_dir: Path, durable: bool
) -> None:
    with kvs.open(store_dir, "n", durable=durable, index_capacity=6000) as store:
        store.put_many(dict.fromkeys(range(5000), b"v"))
    with Child(fork_and_go_on, store_dir) as parent:
        answers = parent.receive()
        assert set(answers) == {"ForkedStoreError"}, answers
        assert len(answers) > 20
        assert held(store_dir) == {"WRITER[0]"}, "the parent's"
        with kvs.open(store_dir, "r") as reader:
            assert reader.stat()["pins"] == [1]
        parent.send()
        assert parent.receive() == "went on"
        assert parent.join() == 0
    with kvs.open(store_dir) as store:
        assert (store[6000], store[6001]) == (b"by the parent", b"by its transaction")
        assert store.verify() == []


# -- threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_closing_while_other_threads_read_ends_their_reads_with_a_clear_error(
    store_dir: Path, io: str
) -> None:
    with kvs.open(store_dir, "n") as store:
        store.put_many({key: b"%d" % key * 100 for key in range(200)})
    wrong: list[object] = []

    def read(store: kvs.Store, begun: threading.Barrier, one: Callable[[kvs.Store], bool]) -> None:
        begun.wait()
        try:
            while one(store):
                pass
            wrong.append("a wrong value")
        except kvs.ClosedStoreError:
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    def whole(snapshot: kvs.Snapshot) -> bool:
        with snapshot:
            return len(dict(snapshot.items())) == 200

    ways: list[Callable[[kvs.Store], bool]] = [
        lambda store: store.get(7) == b"7" * 100,
        lambda store: store.get_many(range(60))[7] == b"7" * 100,
        lambda store: len(list(store)) == 200,
        lambda store: whole(store.snapshot()),
        lambda store: store.find(7) is not None,
    ]
    for _ in range(8):
        store = kvs.open(store_dir, "r", io=io)
        begun = threading.Barrier(len(ways) + 1)
        threads = [threading.Thread(target=read, args=(store, begun, way)) for way in ways]
        for thread in threads:
            thread.start()
        begun.wait()
        store.close()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closing_while_other_threads_write_loses_nothing_that_was_acknowledged(store_dir: Path) -> None:
    wrong: list[object] = []
    acknowledged = [0, 0]

    def write(store: kvs.Store, which: int, begun: threading.Barrier) -> None:
        begun.wait()
        try:
            while True:
                store[which] = b"%d" % (acknowledged[which] + 1)
                acknowledged[which] += 1
        except kvs.ClosedStoreError:
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    kvs.open(store_dir, "n").close()
    for _ in range(8):
        store = kvs.open(store_dir)
        begun = threading.Barrier(3)
        threads = [threading.Thread(target=write, args=(store, which, begun)) for which in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        while not all(acknowledged):
            threading.Event().wait(0.001)
        store.close()
        for thread in threads:
            thread.join()
        assert wrong == []
        with kvs.open(store_dir) as store:
            assert [int(store[which]) for which in range(2)] == acknowledged
            assert store.verify() == []


def test_a_thread_that_closes_second_waits_for_the_first(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would else unlock and close the same descriptor, whose number may be another file's by then."""
    store = kvs.open(store_dir, "n")
    leave, within, go_on, left = opening.leave, threading.Event(), threading.Event(), list[str]()

    def slowly(smallfiles: Any, writer: Any) -> None:
        left.append(threading.current_thread().name)
        within.set()
        go_on.wait()
        leave(smallfiles, writer)

    monkeypatch.setattr(opening, "leave", slowly)
    threads = [threading.Thread(target=store.close, name=name) for name in ("first", "second")]
    threads[0].start()
    within.wait()
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive(), "it says that the store is closed once it is"
    go_on.set()
    for thread in threads:
        thread.join()
    assert left == ["first"]
    assert held(store_dir) == set()


@pytest.mark.parametrize("count", [1, 60])
def test_a_snapshot_that_another_thread_closes_says_so_rather_than_what_it_may_have_missed(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = b"v"
        snapshot = store.snapshot()
        name = "read" if count == 1 else "read_many"
        real = getattr(reading, name)

        def closed_meanwhile(*args: Any, **options: Any) -> Any:
            snapshot.close()
            return real(*args, **options)

        monkeypatch.setattr(reading, name, closed_meanwhile)
        with pytest.raises(kvs.ClosedStoreError, match="snapshot"):
            snapshot.get_many([1] * count) if count > 1 else snapshot.get(1)


def test_a_commit_that_comes_after_the_close_touches_nothing(store_dir: Path) -> None:
    """Its thread had got hold of the writer just before: the place may be somebody else's by now."""
    store = kvs.open(store_dir, "n")
    store[1] = b"before"
    writer, txn = store._writer, store.transaction()
    txn.fetch(1)
    store.close()
    assert writer is not None
    with kvs.open(store_dir) as successor:
        before = {file.name: file.read_bytes() for file in store_dir.glob("*.small")}
        for use in (
            lambda: writer.commit([bytes(16)], [b"v"], {}),
            lambda: writer.locked(lambda held, index: None),
            lambda: writer.await_durable(1),
            lambda: txn.update(1, b"late"),
            txn.commit,
        ):
            with pytest.raises(kvs.ClosedStoreError):
                use()
        assert {file.name: file.read_bytes() for file in store_dir.glob("*.small")} == before
        successor[1] = b"after"
        assert successor.verify() == []


# -- copies and with --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
def test_nothing_that_belongs_to_a_process_can_be_pickled_or_copied(
    store_dir: Path, use: Callable[[object], object]
) -> None:
    with kvs.open(store_dir, "n") as store, store.snapshot() as snapshot, store.transaction() as txn:
        for thing, name in ((store, "Store"), (snapshot, "Snapshot"), (txn, "Transaction")):
            with pytest.raises(TypeError, match=f"a kvs.{name} cannot be pickled"):
                use(thing)


def test_everything_is_a_context_manager_that_is_entered_while_it_is_open_only(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        with store.transaction() as txn:
            txn.update_unsafe(1, b"v")
        with store.snapshot() as snapshot:
            assert snapshot[1] == b"v"
        for over in (txn, snapshot):
            with pytest.raises(kvs.ClosedStoreError), over:
                pass
        with contextlib.suppress(ZeroDivisionError), store.transaction() as txn:
            txn.update_unsafe(1, b"aborted")
            raise ZeroDivisionError
        assert store[1] == b"v"
    with pytest.raises(kvs.ClosedStoreError), store:
        pass
    assert held(store_dir) == set()


# -- what is left lying about -----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_store_that_is_forgotten_warns_and_lets_go(store_dir: Path, flag: str) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = b"v"
    store = kvs.open(store_dir, flag)
    if flag == "w":
        store[1] = b"acknowledged"
    assert held(store_dir) == ({"WRITER[0]"} if flag == "w" else set())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del store
        gc.collect()
    assert [(each.category, str(each.message)) for each in warned] == [
        (ResourceWarning, f"the kvs.Store at {store_dir} was not closed")
    ]
    assert held(store_dir) == set()
    with kvs.open(store_dir) as store:
        assert store[1] == (b"acknowledged" if flag == "w" else b"v")
        assert store.verify() == []


def test_a_snapshot_that_is_forgotten_warns_and_is_not_pinned_any_more(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = b"v"
        snapshot = store.snapshot()
        assert store.stat()["pins"] == [1]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del snapshot
            gc.collect()
        assert [(each.category, str(each.message)) for each in warned] == [
            (ResourceWarning, "a kvs.Snapshot of transaction 1 was not closed")
        ]
        assert store.stat()["pins"] == []


def test_transactions_and_iterations_that_are_forgotten_hold_nothing(store_dir: Path) -> None:
    with warnings.catch_warnings(), kvs.open(store_dir, "n") as store:
        warnings.simplefilter("error")
        store.put_many({1: b"v", 2: b"w"})
        txn = store.transaction()
        txn.update_unsafe(1, b"never")
        del txn
        for _ in store:
            break
        for _ in store.items():
            break
        gc.collect()
        assert store.stat()["pins"] == []
        assert (store[1], held(store_dir)) == (b"v", {"WRITER[0]"})


def test_what_is_closed_does_not_warn(store_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = kvs.open(store_dir, "n")
        snapshot = store.snapshot()
        store.close()
        del store, snapshot
        gc.collect()
        with pytest.raises(kvs.StoreNotFoundError):
            kvs.open(store_dir / "nowhere", "r")
        gc.collect()


def test_a_handle_that_could_not_be_opened_leaves_no_place_taken(store_dir: Path) -> None:
    with contextlib.ExitStack() as places, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(layout.WRITERS_MAX):
            places.enter_context(kvs.open(store_dir, lock_timeout_s=0.0))
        for _ in range(3):
            with pytest.raises(kvs.MaximumWritersError):
                kvs.open(store_dir)
        gc.collect()
    assert held(store_dir) == set()
    with kvs.open(store_dir) as store:
        assert [each["place"] for each in store.stat()["writers"]] == [0]
