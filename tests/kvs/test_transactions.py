"""What transactions promise each other: isolation, and what happens at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvs

A, B, C = (kvs.key_for(name) for name in "abc")
BOTH = ["serializable", "snapshot"]


@pytest.fixture
def store(store_dir: Path) -> Iterator[kvs.Store]:
    with kvs.open(store_dir, index_capacity=500) as opened:
        opened.put_many({A: b"a0", B: b"b0"})  # T = 1
        yield opened


def withdraw(store: kvs.Store, isolation: Any, account: bytes) -> kvs.Transaction:
    """A transaction that read both accounts and empties one of them."""
    txn = store.transaction(isolation)
    assert (txn.fetch(A), txn.fetch(B)) == (b"a0", b"b0")
    txn.update(account, b"")
    return txn


def test_write_skew_is_aborted_under_serializable(store: kvs.Store) -> None:
    first, second = (withdraw(store, "serializable", account) for account in (A, B))
    first.commit()
    with pytest.raises(kvs.TransactionAbortedError) as caught:
        second.commit()
    assert (caught.value.key, caught.value.base, caught.value.found) == (A, 1, 2)
    assert (store[A], store[B]) == (b"", b"b0")


def test_write_skew_is_allowed_under_snapshot(store: kvs.Store) -> None:
    first, second = (withdraw(store, "snapshot", account) for account in (A, B))
    assert (first.commit(), second.commit()) == (2, 3)
    assert (store[A], store[B]) == (b"", b"")


@pytest.mark.parametrize("isolation", BOTH)
def test_lost_update_is_aborted(store: kvs.Store, isolation: Any) -> None:
    first, second = (withdraw(store, isolation, A) for _ in range(2))
    first.commit()
    with pytest.raises(kvs.TransactionAbortedError):
        second.commit()


@pytest.mark.parametrize("isolation", BOTH)
@pytest.mark.parametrize("meanwhile", ["created", "created and removed"])
def test_a_key_that_was_absent_must_still_be_absent(store: kvs.Store, isolation: Any, meanwhile: str) -> None:
    txn = store.transaction(isolation)
    assert txn.fetch(C) is None
    txn.update(C, b"mine")
    store[C] = b"theirs"
    if meanwhile == "created and removed":
        del store[C]
    with pytest.raises(kvs.TransactionAbortedError) as caught:
        txn.commit()
    assert (caught.value.key, caught.value.base) == (C, 0)
    assert store.get(C) == (b"theirs" if meanwhile == "created" else None)


@pytest.mark.parametrize("isolation", BOTH)
def test_a_removal_counts_as_a_change(store: kvs.Store, isolation: Any) -> None:
    txn = withdraw(store, isolation, A)
    del store[A]
    with pytest.raises(kvs.TransactionAbortedError):
        txn.commit()
    assert A not in store


@pytest.mark.parametrize("isolation", BOTH)
def test_a_transaction_that_writes_nothing_never_aborts(store: kvs.Store, isolation: Any) -> None:
    with store.transaction(isolation) as txn:
        assert txn.fetch(A) == b"a0"
        store.put_many({A: b"a1", B: b"b1"})
        assert txn.fetch(B) == b"b0", "all fetches are from one snapshot"
    assert txn.transaction_counter is None


@pytest.mark.parametrize("isolation", BOTH)
def test_an_unsafe_write_has_no_base_and_the_last_one_wins(store: kvs.Store, isolation: Any) -> None:
    txn = store.transaction(isolation)
    txn.update_unsafe(A, b"mine")
    txn.remove_unsafe(B)
    store.put_many({A: b"theirs", B: b"theirs"})
    assert txn.commit() == 3
    assert (store[A], store.get(B)) == (b"mine", None)


def test_a_fetch_that_is_too_old_aborts(store: kvs.Store) -> None:
    txn = store.transaction()
    for i in range(4):
        store[A] = b"a%d" % i
    with pytest.raises(kvs.TransactionAbortedError) as caught:
        txn.fetch(A)
    assert (caught.value.key, caught.value.found) == (A, 5)


@pytest.mark.parametrize("action", ["update", "remove"])
def test_writing_without_a_fetch_is_a_bad_update(store: kvs.Store, action: str) -> None:
    txn = store.transaction()
    txn.fetch(B)
    with pytest.raises(kvs.BadUpdateError, match=f"{action} of key {A.hex()}") as caught:
        txn.update(A, b"x") if action == "update" else txn.remove(A)
    assert caught.value.key == A
    assert txn.commit() is None, "the transaction goes on, without it"
    assert store[A] == b"a0"


def test_a_transaction_reads_its_own_writes_and_nobody_else_does(store: kvs.Store) -> None:
    with store.transaction() as txn:
        txn.fetch(A)
        txn.update(A, b"mine")
        assert txn.fetch(A) == b"mine"
        txn.remove(A)
        assert txn.fetch(A) is None
        txn.update_unsafe(C, b"new")
        assert txn.fetch_item(C) == (0, b"new")
        assert (store[A], store.get(C)) == (b"a0", None)
    assert (store.get(A), store[C]) == (None, b"new")


def test_the_last_of_several_writes_of_a_key_counts(store: kvs.Store) -> None:
    with store.transaction() as txn:
        for value in (b"1", b"2", b"3"):
            txn.update_unsafe(A, value)
    assert store.put_many([(B, b"1"), (B, b"2")]) == 3
    assert (store[A], store[B]) == (b"3", b"2")
    assert store.find(A, 1) == (A, b"a0", 1)


def test_leaving_the_block_commits(store: kvs.Store) -> None:
    with store.transaction() as txn:
        txn.update_unsafe(A, b"a1")
    assert txn.transaction_counter == store.last_updated([A])[0] == 2
    assert store[A] == b"a1"


def test_an_exception_in_the_block_aborts(store: kvs.Store) -> None:
    def fail() -> None:
        with store.transaction() as txn:
            txn.update_unsafe(A, b"a1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store[A] == b"a0"
    assert store.stat()["transactions"] == 1


def test_a_commit_or_abort_within_the_block_is_the_end(store: kvs.Store) -> None:
    with store.transaction() as txn:
        txn.update_unsafe(A, b"a1")
        txn.commit()
    with store.transaction() as txn:
        txn.update_unsafe(A, b"a2")
        txn.abort()
    assert store[A] == b"a1"
    assert store.stat()["transactions"] == 2


@pytest.mark.parametrize("end", ["commit", "abort", "conflict"])
def test_a_transaction_that_is_over_refuses_everything(store: kvs.Store, end: str) -> None:
    txn = withdraw(store, "serializable", A)
    if end == "conflict":
        store[A] = b"theirs"
        with pytest.raises(kvs.TransactionAbortedError):
            txn.commit()
    else:
        getattr(txn, end)()
    before = store[A]
    for use in (
        lambda: txn.fetch(A),
        lambda: txn.update(A, b"x"),
        lambda: txn.update_unsafe(A, b"x"),
        lambda: txn.remove(A),
        lambda: txn.remove_unsafe(A),
        txn.commit,
        txn.__enter__,
    ):
        with pytest.raises(kvs.ClosedStoreError):
            use()
    txn.abort()
    assert store[A] == before


def test_transact_runs_again_until_nobody_came_first(store: kvs.Store) -> None:
    runs = []

    def append(txn: kvs.Transaction) -> str:
        value = txn.fetch(A) or b""
        runs.append(value)
        if len(runs) < 3:
            store[A] = value + b"!"
        txn.update(A, value + b"?")
        return "done"

    assert store.transact(append) == "done"
    assert runs == [b"a0", b"a0!", b"a0!!"]
    assert store[A] == b"a0!!?"


def test_transact_passes_on_what_the_function_raises_and_writes_nothing(store: kvs.Store) -> None:
    def fail(txn: kvs.Transaction) -> None:
        txn.update_unsafe(A, b"x")
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        store.transact(fail)
    assert store[A] == b"a0"


def test_an_unknown_isolation_is_refused(store: kvs.Store) -> None:
    with pytest.raises(ValueError, match="one of serializable, snapshot"):
        store.transaction("dirty")  # type: ignore[arg-type]


def test_a_read_only_handle_fetches_and_refuses_to_write(store: kvs.Store) -> None:
    with kvs.open(store.path, "r") as reader:
        with reader.transaction() as txn:
            assert txn.fetch(A) == b"a0"
        txn = reader.transaction()
        txn.update_unsafe(A, b"x")
        with pytest.raises(kvs.ReadOnlyError):
            txn.commit()
        with pytest.raises(kvs.ReadOnlyError):
            reader[A] = b"x"
        with pytest.raises(kvs.ReadOnlyError):
            del reader[A]
        with pytest.raises(kvs.ReadOnlyError):
            reader.put_many({A: b"x"})
    assert store[A] == b"a0"


def test_a_snapshot_does_not_move(store: kvs.Store) -> None:
    with store.snapshot() as snapshot:
        for i in range(3):
            store.put_many({A: b"later %d" % i, C: b"new"})
        assert (snapshot[A], snapshot.get(C, b"none"), C in snapshot) == (b"a0", b"none", False)
        assert sorted(snapshot.items()) == sorted({A: b"a0", B: b"b0"}.items())
        store[A] = b"a fourth time"
        with pytest.raises(kvs.SnapshotTooOldError) as caught:
            snapshot.get(A)
        assert (caught.value.key, caught.value.snapshot) == (A, 1)
        assert snapshot[B] == b"b0", "other keys are not concerned"
    with pytest.raises(kvs.ClosedStoreError):
        snapshot.get(B)


def test_four_revisions_are_kept_and_a_removal_is_one(store: kvs.Store) -> None:
    store[A] = b"a1"  # T = 2
    del store[A]  # T = 3
    store[A] = b"a3"  # T = 4
    assert [store.find(A, n) for n in range(4)] == [(A, b"a3", 4), None, (A, b"a1", 2), (A, b"a0", 1)]
    store[A] = b"a4"
    assert [store.find(A, n) for n in range(4)] == [(A, b"a4", 5), (A, b"a3", 4), None, (A, b"a1", 2)]
    for number in (-1, 4):
        with pytest.raises(ValueError, match="revisions 0 to 3"):
            store.find(A, number)


def test_the_mapping_behaves_as_a_dictionary(store: kvs.Store) -> None:
    assert store.pop(A) == b"a0"
    assert store.pop(A, None) is None
    with pytest.raises(KeyError):
        store.pop(A)
    with pytest.raises(KeyError):
        del store[A]
    with pytest.raises(KeyError):
        store[A]
    assert store.setdefault(A, b"x") == store.setdefault(A, b"y") == b"x"
    store.update({B: b"b1", C: b"c1"})
    assert sorted(store.items()) == sorted({A: b"x", B: b"b1", C: b"c1"}.items())
    assert (sorted(store.keys()), sorted(store.values())) == (sorted([A, B, C]), [b"b1", b"c1", b"x"])
    assert store == {A: b"x", B: b"b1", C: b"c1"}
    assert store.popitem()[0] in {A, B, C}
    store.clear()
    assert (len(store), list(store)) == (0, [])
