"""The history of a key: what the ring still keeps, newest first, of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kvs
from kvs import syncpoints

A, B = b"a" * 16, b"b" * 16


@pytest.fixture(params=["mmap", "append"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[kvs.Store]:
    with kvs.open(tmp_path / "store", io=request.param) as opened:
        yield opened


def test_a_history_ends_in_nothing_until_a_revision_was_dropped(store: kvs.Store) -> None:
    assert store.history(A) == [(0, None)]
    store[B] = b"other"
    store[A] = b"1"
    assert store.history(A) == [(2, b"1"), (0, None)]
    del store[A]
    store[A] = b"2"
    assert store.history(A) == [(4, b"2"), (3, None), (2, b"1"), (0, None)]
    store[A] = b"3"
    assert store.history(A) == [(5, b"3"), (4, b"2"), (3, None), (2, b"1")]
    store[A] = b"4"
    assert store.history(A) == [(6, b"4"), (5, b"3"), (4, b"2"), (3, None)]


def test_removing_what_is_not_there_leaves_a_removal(store: kvs.Store) -> None:
    with store.transaction() as txn:
        txn.remove_unsafe(A)
    assert store.history(A) == [(1, None), (0, None)]


def test_a_history_that_is_overtaken_is_read_again(store: kvs.Store) -> None:
    for number in range(4):
        store[A] = b"%d" % number
    other = kvs.open(store.path)
    overtaken = 0

    def hook(name: str, _: object = None) -> None:
        nonlocal overtaken
        if name == "read.after_copy" and overtaken < 3:
            overtaken += 1
            other[A] = b"overtaker %d" % overtaken

    syncpoints.install(hook)
    try:
        found = store.history(A)
    finally:
        syncpoints.install(None)
        other.close()
    assert found == [(7, b"overtaker 3"), (6, b"overtaker 2"), (5, b"overtaker 1"), (4, b"3")]


def test_a_history_of_an_unusable_key_or_store_is_refused(store: kvs.Store) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        store.history(b"short")
    store.close()
    with pytest.raises(kvs.ClosedStoreError):
        store.history(A)
