"""The store and a dictionary with revisions, driven side by side by hypothesis (stateful testing)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import kvs
from tests.conftest import SHM
from tests.kvs.model import Model, TooOldError

CAPACITIES = st.sampled_from(
    [1, 60]
)  # the index grows at once, or few slots for all the names: probes collide
SMALLFILES = st.sampled_from([1, 4096, 1 << 28])  # one for each transaction, for a few, for all
NAMES = [bytes(16), b"\xff" * 16, *(kvs.key_for(f"key {i}") for i in range(6))]
MANY = [kvs.key_for(f"one of many {i}") for i in range(45)]  # written together: the vectorised path

keys = st.sampled_from(NAMES)
values = st.one_of(st.binary(max_size=20), st.integers(0, 200).map(lambda n: bytes([n]) * n * 8))
changes = st.dictionaries(keys, st.one_of(st.none(), values), min_size=1)
isolations = st.sampled_from(["serializable", "snapshot"])
ios = st.sampled_from(["mmap", "append"])


class Machine(RuleBasedStateMachine):
    """What both machines have: a directory, a model, and how to close."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="kvs-model-", dir=SHM if SHM.is_dir() else None))
        self.path = self.directory / "store"
        self.model = Model()
        self.stores: list[kvs.Store] = []
        self.snapshots: list[kvs.Snapshot] = []
        self.compacted = False

    def teardown(self) -> None:
        for snapshot in self.snapshots:
            snapshot.close()
        for store in self.stores:
            assert store.verify() == []
            store.close()
        shutil.rmtree(self.directory)

    def check_agrees(self, store: kvs.Store) -> None:
        live = self.model.live()
        assert len(store) == len(live)
        with store.snapshot() as snapshot:
            assert dict(snapshot.items()) == live
        assert set(store) == set(live)
        names = [*NAMES, *MANY]
        assert store.get_many(names) == [live.get(name) for name in names]
        for name, time in zip(names, store.last_updated(names), strict=True):
            assert self.same_time(time, *self.model.newest(name))
        assert store.stat()["transactions"] == self.model.committed

    def check_revisions(self, store: kvs.Store, key: bytes) -> None:
        kept = self.model.kept(key)
        for number in range(4):
            wanted = [(key, value, time) for time, value in kept[number : number + 1] if value is not None]
            found = store.find(key, number)
            if found is None and self.compacted and any(value is None for _, value in kept[:number]):
                continue  # what is older than a removal may be forgotten
            assert ([] if found is None else [tuple(found)]) == wanted

    def same_time(self, found: int, time: int, value: bytes | None) -> bool:
        """Whether ``found`` is T of a revision; a removal may be forgotten wholly."""
        return found == time or (found == 0 and value is None and self.compacted)


class OneHandle(Machine):
    """Every call of one handle, which is closed and opened again now and then in either mode."""

    @initialize(
        io=ios,
        integrity=st.booleans(),
        durable=st.booleans(),
        capacity=CAPACITIES,
        smallfile_bytes=SMALLFILES,
    )
    def create(self, io: str, integrity: bool, durable: bool, capacity: int, smallfile_bytes: int) -> None:
        self.smallfile_bytes = smallfile_bytes
        self.store = kvs.open(
            self.path,
            "n",
            io=io,
            integrity=integrity,
            durable=durable,
            index_capacity=capacity,
            smallfile_bytes=smallfile_bytes,
        )
        self.stores = [self.store]

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.store[key] = value
        self.model.write({key: value})

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        if self.model.newest(key)[1] is None:
            with pytest.raises(KeyError):
                del self.store[key]
        else:
            del self.store[key]
            self.model.write({key: None})

    @rule(key=keys)
    def pop(self, key: bytes) -> None:
        wanted = self.model.newest(key)[1]
        assert self.store.pop(key, None) == wanted
        if wanted is not None:
            self.model.write({key: None})

    @rule(key=keys, value=values)
    def set_default(self, key: bytes, value: bytes) -> None:
        wanted = self.model.newest(key)[1]
        assert self.store.setdefault(key, value) == (value if wanted is None else wanted)
        if wanted is None:
            self.model.write({key: value})

    @rule(pairs=st.dictionaries(keys, values))
    def put_some(self, pairs: dict[bytes, bytes]) -> None:
        assert self.store.put_many(pairs) == (self.model.write(pairs) if pairs else None)

    @rule(value=values, count=st.integers(20, len(MANY)), also=changes)
    def put_many(self, value: bytes, count: int, also: dict[bytes, bytes | None]) -> None:
        wanted = {**dict.fromkeys(MANY[:count], value), **also}
        with self.store.transaction() as txn:
            for key, item in wanted.items():
                txn.remove_unsafe(key) if item is None else txn.update_unsafe(key, item)
        assert txn.transaction_counter == self.model.write(wanted)

    @rule(wanted=changes, isolation=isolations, commit=st.booleans())
    def transaction(self, wanted: dict[bytes, bytes | None], isolation: Any, commit: bool) -> None:
        txn = self.store.transaction(isolation)
        for key, value in wanted.items():
            assert txn.fetch(key) == self.model.newest(key)[1]
            txn.remove(key) if value is None else txn.update(key, value)
            assert txn.fetch(key) == value, "its own write"
        if commit:
            assert txn.commit() == self.model.write(wanted)
        else:
            txn.abort()

    @rule(key=keys)
    def find(self, key: bytes) -> None:
        value = self.model.newest(key)[1]
        assert self.store.get(key) == value
        assert (key in self.store) == (value is not None)
        self.check_revisions(self.store, key)

    @rule(wanted=st.lists(st.sampled_from([*NAMES, *MANY]), max_size=40))
    def get_many(self, wanted: list[bytes]) -> None:
        assert self.store.get_many(wanted) == [self.model.newest(key)[1] for key in wanted]

    @rule(min_dead=st.sampled_from([0.0, 0.5]))
    def compact(self, min_dead: float) -> None:
        self.store.compact(min_dead=min_dead)
        self.compacted = True

    @rule(io=ios, lost=st.booleans())
    def reopen(self, io: str, lost: bool) -> None:
        """Also where the index is lost, and made anew from the smallfiles."""
        self.store.close()
        if lost and self.model.committed:
            for index in self.path.glob("index.*"):
                index.unlink()
        self.store = kvs.open(self.path, "w", io=io, smallfile_bytes=self.smallfile_bytes)
        self.stores = [self.store]

    @rule()
    def verify(self) -> None:
        assert self.store.verify() == []

    @invariant()
    def agrees(self) -> None:
        if self.stores:
            self.check_agrees(self.store)


class TwoHandles(Machine):
    """Two handles with different I/O on one store: snapshots read later, transactions interleaved."""

    @initialize(
        integrity=st.booleans(), durable=st.booleans(), capacity=CAPACITIES, smallfile_bytes=SMALLFILES
    )
    def create(self, integrity: bool, durable: bool, capacity: int, smallfile_bytes: int) -> None:
        first = kvs.open(
            self.path,
            "n",
            integrity=integrity,
            durable=durable,
            index_capacity=capacity,
            smallfile_bytes=smallfile_bytes,
        )
        self.stores = [first, kvs.open(self.path, "w", io="append")]
        self.transactions: list[tuple[kvs.Transaction, str, dict[bytes, int], dict[bytes, bytes | None]]] = []

    @rule(which=st.integers(0, 1), pairs=st.dictionaries(keys, values, min_size=1, max_size=2))
    def put(self, which: int, pairs: dict[bytes, bytes]) -> None:
        assert self.stores[which].put_many(pairs) == self.model.write(pairs)

    @rule(which=st.integers(0, 1), key=keys)
    def put_four_times(self, which: int, key: bytes) -> None:
        """Often enough that every older snapshot is too old for this key."""
        for i in range(4):
            self.stores[(which + i) % 2][key] = b"%d" % i
            self.model.write({key: b"%d" % i})

    @rule(which=st.integers(0, 1), value=values)
    def put_many(self, which: int, value: bytes) -> None:
        pairs = dict.fromkeys(MANY, value)
        assert self.stores[which].put_many(pairs) == self.model.write(pairs)

    @rule(which=st.integers(0, 1))
    def take_snapshot(self, which: int) -> None:
        snapshot = self.stores[which].snapshot()
        assert snapshot.transaction_counter == self.model.committed
        self.snapshots.append(snapshot)

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        self.stores[which].compact()
        self.compacted = True

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def close_snapshot(self, data: st.DataObject) -> None:
        self.snapshots.pop(data.draw(st.integers(0, len(self.snapshots) - 1))).close()

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), key=st.sampled_from([*NAMES, MANY[0]]))
    def read_snapshot(self, data: st.DataObject, key: bytes) -> None:
        snapshot = data.draw(st.sampled_from(self.snapshots))
        try:
            time, value = self.model.at(key, snapshot.transaction_counter)
        except TooOldError:
            with pytest.raises(kvs.SnapshotTooOldError) as caught:
                snapshot.get(key)
            assert (caught.value.key, caught.value.snapshot) == (key, snapshot.transaction_counter)
            return
        assert snapshot.get(key) == value
        assert self.same_time(snapshot.find_time(key), time, value)
        assert snapshot.find(key) == (None if value is None else (key, value, time))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def read_whole_snapshot(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(self.snapshots))
        names = [*NAMES, *MANY]
        try:
            found = [self.model.at(name, snapshot.transaction_counter)[1] for name in names]
        except TooOldError:
            for read in (lambda: snapshot.get_many(names), lambda: dict(snapshot.items())):
                with pytest.raises(kvs.SnapshotTooOldError):
                    read()
            return
        assert snapshot.get_many(names) == found
        wanted = {name: value for name, value in zip(names, found, strict=True) if value is not None}
        assert dict(snapshot.items()) == wanted

    @rule(which=st.integers(0, 1), isolation=isolations)
    def begin(self, which: int, isolation: Any) -> None:
        self.transactions.append((self.stores[which].transaction(isolation), isolation, {}, {}))

    @precondition(lambda self: self.transactions)
    @rule(data=st.data(), key=keys, value=st.one_of(st.none(), values), write=st.booleans())
    def fetch_and_write(self, data: st.DataObject, key: bytes, value: bytes | None, write: bool) -> None:
        txn, _, bases, own = data.draw(st.sampled_from(self.transactions))
        if key in own:
            assert txn.fetch(key) == own[key]
        else:
            try:
                bases[key], wanted = self.model.at(key, txn.snapshot)
            except TooOldError:
                with pytest.raises(kvs.TransactionAbortedError):
                    txn.fetch(key)
                return
            try:
                time, found = txn.fetch_item(key)
            except kvs.TransactionAbortedError:
                # No snapshot was held, so that what was absent then may be forgotten, or its older value.
                assert self.compacted
                assert wanted is None or any(v is None for t, v in self.model.kept(key) if t > bases[key])
                del bases[key]
                return
            assert found == wanted
            assert self.same_time(time, bases[key], wanted)
        if write:
            txn.remove(key) if value is None else txn.update(key, value)
            own[key] = value

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        chosen = data.draw(st.integers(0, len(self.transactions) - 1))
        txn, isolation, bases, own = self.transactions.pop(chosen)
        validated = bases if isolation == "serializable" else {k: bases[k] for k in own}
        conflict = self.model.conflict(validated)
        if own and conflict:
            with pytest.raises(kvs.TransactionAbortedError) as caught:
                txn.commit()
            assert caught.value.key in conflict
            return
        try:
            time = txn.commit()
        except kvs.TransactionAbortedError as error:
            if error.found or not self.compacted or self.model.newest(error.key)[1] is not None:
                raise  # else it was a removal that is forgotten by now
        else:
            assert time == (self.model.write(own) if own else None)

    @rule(which=st.integers(0, 1), key=keys)
    def find(self, which: int, key: bytes) -> None:
        self.check_revisions(self.stores[which], key)

    @invariant()
    def agree(self) -> None:
        for store in self.stores:
            self.check_agrees(store)


@pytest.mark.parametrize(
    ("machine", "examples"), [(OneHandle, 25), (TwoHandles, 25)], ids=["one handle", "two handles"]
)
def test_the_store_agrees_with_a_dictionary_with_revisions(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))
