"""A store whose keys are the hashes of their values: checked when written, and by every reading call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_digest

import kvs
from kvs import layout
from tests.kvs.damage import SMALL

VALUES = [b"value %d" % i * (i % 40 + 1) for i in range(60)]
KEYS = [kvs.key_for(value) for value in VALUES]
VICTIM = 7


@pytest.fixture(params=[True, False], ids=["integrity", "no integrity"])
def integrity(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def path(store_dir: Path, integrity: bool) -> Path:
    """A closed store of all values, each written by a transaction of its own, so that one is damaged by itself."""
    with kvs.open(store_dir, "n", content_addressed=True, integrity=integrity) as store:
        for key, value in zip(KEYS, VALUES, strict=True):
            store[key] = value
    return store_dir


def tamper(path: Path, integrity: bool) -> None:
    """Put another value in the place of one, with its hash, so that only its name does not fit it any more."""
    content = bytearray((path / SMALL).read_bytes())
    old, new = VALUES[VICTIM], VALUES[VICTIM].replace(b"value", b"other")
    begin = content.index(KEYS[VICTIM] + len(old).to_bytes(8, "little")) - layout.HASH_BYTES
    assert content[begin : begin + 16] == (xxh3_128_digest(old) if integrity else bytes(16))
    if integrity:
        content[begin : begin + 16] = xxh3_128_digest(new)
    where = begin + layout.RECORD_HEADER_BYTES
    assert content[where : where + len(old)] == old
    content[where : where + len(new)] = new
    with (path / SMALL).open("r+b") as file:
        file.write(content)


def reads(store: kvs.Store, snapshot: kvs.Snapshot, txn: kvs.Transaction) -> list[Callable[[], object]]:
    """Every call that returns the value."""
    key = KEYS[VICTIM]
    return [
        lambda: store.get(key),
        lambda: store[key],
        lambda: key in store,
        lambda: store.find(key),
        lambda: store.find(key, 0),
        lambda: store.history(key),
        lambda: store.get_many([key]),
        lambda: store.get_many(KEYS),
        lambda: store.get_many([key] * 60),
        lambda: dict(store.items()),
        lambda: list(store.values()),
        lambda: list(store),
        lambda: snapshot.get(key),
        lambda: snapshot[key],
        lambda: snapshot.find(key),
        lambda: snapshot.get_many([key]),
        lambda: snapshot.get_many(KEYS),
        lambda: dict(snapshot.items()),
        lambda: txn.fetch(key),
        lambda: txn.fetch_item(key),
    ]


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_every_reading_call_refuses_a_value_that_its_key_does_not_name(
    path: Path, integrity: bool, io: str
) -> None:
    tamper(path, integrity)
    with kvs.open(path, io=io) as store, store.snapshot() as snapshot:
        for number, read in enumerate(reads(store, snapshot, store.transaction())):
            with pytest.raises(kvs.CorruptedStoreError) as caught:
                pytest.fail(f"call {number} returned {read()!r}")
            assert caught.value.path == str(path / SMALL), number
            assert caught.value.offset_bytes > 0
        others = [key for key in KEYS if key != KEYS[VICTIM]]
        assert store.get_many(others) == [value for value in VALUES if value != VALUES[VICTIM]]
        assert [store[key] for key in others] == store.get_many(others)


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_every_reading_call_gives_what_is_whole(path: Path, io: str) -> None:
    with kvs.open(path, io=io) as store, store.snapshot() as snapshot:
        for read in reads(store, snapshot, store.transaction()):
            read()
        assert store.get_many(KEYS) == VALUES == [store.get(key) for key in KEYS]
        assert dict(store.items()) == dict(zip(KEYS, VALUES, strict=True))
        assert store.verify() == []


def test_a_value_is_read_back_where_its_hash_is_damaged_only(path: Path, integrity: bool) -> None:
    """With integrity the record must be whole, without it the key vouches for the value."""
    content = (path / SMALL).read_bytes()
    begin = content.index(KEYS[VICTIM] + len(VALUES[VICTIM]).to_bytes(8, "little")) - layout.HASH_BYTES
    with (path / SMALL).open("r+b") as file:
        file.seek(begin)
        file.write(b"not its own hash")
    with kvs.open(path) as store:
        if integrity:
            with pytest.raises(kvs.CorruptedStoreError):
                store.get(KEYS[VICTIM])
        else:
            assert store[KEYS[VICTIM]] == VALUES[VICTIM]


def test_verify_names_a_value_that_its_key_does_not_name(path: Path, integrity: bool) -> None:
    tamper(path, integrity)
    with kvs.open(path) as store:
        assert {"record.whole", "log.extent_whole"} <= {finding.invariant for finding in store.verify()}


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
def test_values_of_any_size_are_named_by_their_hash(store_dir: Path, integrity: bool, size: int) -> None:
    value = bytes(size)
    with kvs.open(store_dir, "n", content_addressed=True, integrity=integrity) as store:
        store[kvs.key_for(value)] = value
        store.put_many({kvs.key_for(value): value, kvs.key_for(b"x"): b"x"})
        assert store[kvs.key_for(value)] == value
        assert store.get_many([kvs.key_for(value)] * 60) == [value] * 60
        assert store.verify() == []


def test_every_writing_call_refuses_another_key(path: Path) -> None:
    wrong: dict[Any, bytes] = {KEYS[0]: b"another value"}
    with kvs.open(path) as store:
        txn = store.transaction()
        txn.fetch(KEYS[0])
        writes: list[Callable[[], object]] = [
            lambda: store.__setitem__(KEYS[0], b"another value"),
            lambda: store.put_many(wrong),
            lambda: store.put_many({**dict(zip(KEYS, VALUES, strict=True)), **wrong}),
            lambda: store.update(wrong),
            lambda: store.setdefault(kvs.key_for(b"absent"), b"something else"),
            lambda: txn.update(KEYS[0], b"another value"),
            lambda: txn.update_unsafe(KEYS[0], bytearray(b"another value")),
        ]
        for write in writes:
            with pytest.raises(kvs.ContentAddressError, match="nothing was written") as caught:
                write()
            assert caught.value.key in {KEYS[0], kvs.key_for(b"absent")}
        txn.update(KEYS[0], bytearray(VALUES[0]))
        txn.commit()
        del store[KEYS[1]]
        assert (store.stat()["transactions"], len(store)) == (62, 59)


def test_what_compaction_moves_is_named_by_its_key_still(path: Path) -> None:
    with kvs.open(path) as store:
        for key in KEYS[::2]:
            del store[key]
        store.compact()
        assert store.get_many(KEYS) == [None if i % 2 == 0 else value for i, value in enumerate(VALUES)]
        assert store.verify() == []
