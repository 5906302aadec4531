"""How much fits: keys in a transaction, bytes in a value, keys in the index; and what is a key."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

import kvs
from kvs import layout

LARGE = 256 << 20


def many(count: int) -> dict[int, bytes]:
    return dict.fromkeys(range(count), b"v")


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_transaction_of_65535_keys_is_one_transaction(store_dir: Path, io: str) -> None:
    with kvs.open(store_dir, io=io, index_capacity=70_000) as store:
        assert store.put_many(many(65_535)) == 1
        assert len(store) == 65_535
        assert store.get_many([0, 65_534, 65_535]) == [b"v", b"v", None]
        with store.transaction() as txn:
            for key in range(0, 65_535, 9_000):
                assert txn.fetch(key) == b"v"
            for key in range(65_535):
                txn.remove_unsafe(key)
        assert (len(store), txn.transaction_counter) == (0, 2)
        assert store.verify() == []


def test_a_transaction_of_65536_keys_writes_nothing(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=70_000) as store:
        with pytest.raises(kvs.TransactionLimitError) as caught:
            store.put_many(many(65_536))
        assert (caught.value.count, caught.value.count_max) == (65_536, 65_535)
        txn = store.transaction()
        for key in range(65_536):
            txn.update_unsafe(key, b"v")
        with pytest.raises(kvs.TransactionLimitError):
            txn.commit()
        assert store.stat()["transactions"] == len(store) == 0
        store[1] = b"still usable"
        assert store.verify() == []


def test_a_transaction_may_fetch_more_keys_than_it_may_write(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=70_000) as store:
        with store.transaction() as txn:
            for key in range(65_600):
                txn.fetch(key)
            txn.update(3, b"x")
        assert store[3] == b"x"


def test_a_transaction_of_no_keys_is_no_transaction(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        assert store.put_many({}) is None
        assert store.transaction().commit() is None
        assert store.stat()["transactions"] == 0


@pytest.mark.parametrize("integrity", [True, False])
@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097, 65_536, 1 << 20, (1 << 20) + 1]
)
def test_values_of_any_size_come_back(store_dir: Path, size: int, io: str, integrity: bool) -> None:
    value = (bytes(range(256)) * (size // 256 + 1))[:size]
    with kvs.open(store_dir, io=io, integrity=integrity, index_capacity=100) as store:
        store[1] = value
        store.put_many(dict.fromkeys([2, 3], value))
        assert [store[1], store[2], *store.get_many([3])] == [value] * 3
        assert 1 in store, "a value of no bytes is a value"
        assert store.verify() == []


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_a_value_of_256_mib_comes_back(store_dir: Path, io: str) -> None:
    value = bytes(range(256)) * (LARGE >> 8)
    with kvs.open(store_dir, io=io, index_capacity=100) as store:
        store[1] = value
        store[2] = b"behind it"
        assert store[1] == value
        assert store.get_many([2]) == [b"behind it"]


def test_a_value_over_the_maximum_writes_nothing(store_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout.VALUE_BYTES_MAX >= LARGE
    monkeypatch.setattr(layout, "VALUE_BYTES_MAX", 1000)
    with kvs.open(store_dir, index_capacity=100) as store:
        store[1] = bytes(1000)
        txn = store.transaction()
        writes: list[Callable[[], object]] = [
            lambda: store.__setitem__(1, bytes(1001)),
            lambda: store.put_many({2: b"fits", 3: bytes(1001)}),
            lambda: txn.update_unsafe(4, bytes(1001)),
        ]
        for write in writes:
            with pytest.raises(ValueError, match="1001 bytes: at most 1000"):
                write()
        with store.snapshot() as snapshot:
            assert dict(snapshot.items()) == {(1).to_bytes(16, "big"): bytes(1000)}


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_values_may_be_any_bytes(store_dir: Path, kind: type) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        store[1] = kind(b"value")
        store.put_many([(2, kind(b"value"))])
        with store.transaction() as txn:
            txn.update_unsafe(3, kind(b"value"))
        assert store.get_many([1, 2, 3]) == [b"value"] * 3


def test_bytes_integers_and_uuids_name_the_same_keys(store_dir: Path) -> None:
    number = 0x0123456789ABCDEF0123456789ABCDEF
    with kvs.open(store_dir, index_capacity=100) as store:
        store[number] = b"one"
        for same in (
            number.to_bytes(16, "big"),
            uuid.UUID(int=number),
            bytearray(number.to_bytes(16, "big")),
        ):
            assert store[same] == b"one"
        assert list(store) == [number.to_bytes(16, "big")]


@pytest.mark.parametrize("key", [0, 2**128 - 1, bytes(16), b"\xff" * 16, uuid.UUID(int=0)])
def test_every_128_bit_value_is_a_key(store_dir: Path, key: object) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        assert key not in store
        assert store.get_many([key] * 60) == [None] * 60  # type: ignore[list-item]
        store[key] = b"there"
        assert store[key] == b"there"
        assert store.get_many([key] * 60) == [b"there"] * 60  # type: ignore[list-item]
        assert store.verify() == []


@pytest.mark.parametrize("key", [-1, 2**128, b"", bytes(15), bytes(17)])
def test_what_has_not_128_bits_is_no_key(store_dir: Path, key: object) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        uses: list[Callable[[], object]] = [lambda: store.get(key), lambda: store.__setitem__(key, b"v")]
        for use in uses:
            with pytest.raises(ValueError, match="nothing was done"):
                use()
        assert len(store) == 0


@pytest.mark.parametrize("key", ["a text", None, 1.0, True])
def test_what_is_not_bytes_int_or_uuid_is_no_key(store_dir: Path, key: object) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        uses: list[Callable[[], object]] = [lambda: store.get(key), lambda: store.__setitem__(key, b"v")]
        for use in uses:
            with pytest.raises(TypeError, match="nothing was done"):
                use()


def test_key_for_hashes_any_bytes_or_text() -> None:
    assert kvs.key_for("é") == kvs.key_for("é".encode())
    assert len(kvs.key_for(b"")) == 16
    assert kvs.key_for("a") != kvs.key_for("b")


def test_a_full_index_writes_nothing_and_the_store_stays_usable(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=44, growth=False) as store:
        capacity = store.stat()["index_capacity"]
        assert capacity == 44
        for key in range(capacity):
            store[key] = b"v"
        writes: list[Callable[[], object]] = [
            lambda: store.__setitem__(capacity, b"one too many"),
            lambda: store.put_many({0: b"changed", capacity: b"one too many"}),
        ]
        for write in writes:
            with pytest.raises(kvs.IndexFullError) as caught:
                write()
            assert (caught.value.capacity, caught.value.used, caught.value.wanted) == (capacity, capacity, 1)
        assert store.get_many(range(capacity + 1)) == [b"v"] * capacity + [None]
        store[0] = b"changed"
        del store[1]
        assert len(store) == capacity - 1
        assert store.verify() == []


@pytest.mark.parametrize("wanted", [0, -1, (1 << 33) + 1])
def test_an_impossible_index_capacity_is_refused(store_dir: Path, wanted: int) -> None:
    with pytest.raises(kvs.StoreOptionsError):
        kvs.open(store_dir, index_capacity=wanted)
    assert not store_dir.exists()


def test_a_content_addressed_store_refuses_any_other_key(store_dir: Path) -> None:
    with kvs.open(store_dir, content_addressed=True, index_capacity=100) as store:
        store[kvs.key_for(b"value")] = b"value"
        txn = store.transaction()
        writes: list[Callable[[], object]] = [
            lambda: store.__setitem__(1, b"value"),
            lambda: store.put_many({kvs.key_for(b"a"): b"a", kvs.key_for(b"b"): b"c"}),
            lambda: txn.update_unsafe(1, b"value"),
        ]
        for write in writes:
            with pytest.raises(kvs.ContentAddressError, match="nothing was written"):
                write()
        assert list(store) == [kvs.key_for(b"value")]
