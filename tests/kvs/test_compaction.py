"""Compaction gives space back and changes nothing that anybody can read."""

from __future__ import annotations

import random
import shutil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import kvs
from kvs import compaction, files, generations, layout, moving, usage
from tests.kvs.compacting import (
    KEYS,
    MIB,
    check_everything,
    filled,
    lose_index,
    smallfile_blocks,
    used,
    write,
)
from tests.kvs.model import Model, TooOldError
from tests.kvs.processes import Child


class Machine(RuleBasedStateMachine):
    """A store that is compacted all the time, against a dictionary with revisions."""

    directory: Path
    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.store = kvs.open(self.directory, "n", index_capacity=45, smallfile_bytes=4096, **self.options)
        self.model = Model()
        self.snapshots: list[kvs.Snapshot] = []

    @rule(
        changes=st.dictionaries(
            st.sampled_from(KEYS), st.none() | st.sampled_from([0, 9, 300]), min_size=1, max_size=6
        )
    )
    def write(self, changes: dict[bytes, int | None]) -> None:
        fill = b"%d" % self.model.committed
        write(self.store, self.model, {k: None if n is None else fill * n for k, n in changes.items()})

    @rule()
    def pin(self) -> None:
        self.snapshots.append(self.store.snapshot())

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        for snapshot in self.snapshots:
            for name in KEYS:
                try:
                    expected = self.model.at(name, snapshot.transaction_counter)[1]
                except TooOldError:
                    with pytest.raises(kvs.SnapshotTooOldError):
                        snapshot.get(name)
                else:
                    assert snapshot.get(name) == expected

    @rule()
    def let_go(self) -> None:
        if self.snapshots:
            self.snapshots.pop(0).close()

    @rule(min_dead=st.sampled_from([0.0, 0.0, 0.5, 0.9]))
    def compact(self, min_dead: float) -> None:
        self.store.compact(min_dead=min_dead)

    @rule(lost=st.booleans())
    def reopen(self, lost: bool) -> None:
        self.teardown()
        if lost and self.model.committed:
            lose_index(self.directory)
        self.store = kvs.open(self.directory, "w", smallfile_bytes=4096)

    @invariant()
    def agree(self) -> None:
        check_everything(self.store, self.model)

    def teardown(self) -> None:
        while self.snapshots:
            self.let_go()
        self.store.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"io": "append", "integrity": False}, {"durable": True}],
    ids=["mmap", "append", "durable"],
)
def test_a_store_that_is_compacted_all_the_time_agrees_with_a_dictionary_with_revisions(
    store_dir: Path, options: dict[str, Any]
) -> None:
    machine = type("M", (Machine,), {"directory": store_dir, "options": options})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=30))


# -- space ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallfile_bytes", [layout.SMALLFILE_BYTES, 4 * MIB, MIB])
def test_nine_tenths_of_the_dead_bytes_are_given_back(store_dir: Path, smallfile_bytes: int) -> None:
    rng = random.Random(1)
    with kvs.open(store_dir, "n", smallfile_bytes=smallfile_bytes) as store:
        expected: dict[bytes, bytes] = {}
        for number in range(48):
            batch = {rng.randrange(1000).to_bytes(16, "big"): rng.randbytes(1000) for _ in range(500)}
            assert store.put_many(batch) == number + 1
            expected.update(batch)
        blocks, before = smallfile_blocks(store_dir), used(store)
        assert before.live_bytes + before.dead_bytes > 19 * MIB
        done = store.compact()
        returned = blocks - smallfile_blocks(store_dir)
        assert returned >= 0.9 * before.dead_bytes
        assert returned == done.freed_bytes
        assert done.moved_bytes == before.live_bytes == used(store).live_bytes
        assert dict(store.items()) == expected
        assert store.verify() == []


def test_usage_counts_the_records_that_are_referred_to_and_what_else_was_published(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        for number in range(6):
            store.put_many({1: bytes(100 * number), 2: b"two"})
        del store[2]
        live = sum(layout.record_bytes(100 * number) for number in range(2, 6)) + 3 * 64 + 64
        dead = layout.record_bytes(0) + layout.record_bytes(100) + 3 * 64 + 7 * layout.COMMIT_BYTES
        found = used(store)
        assert found[:2] == (live, dead)
        assert found.disk_bytes == sum(files.blocks_bytes(file) for file in store_dir.iterdir())
        assert usage.live_by_file(store._view.index) == {0: live}


def test_a_store_that_was_not_written_to_is_left_alone(store_dir: Path) -> None:
    store, model = filled(store_dir, smallfile_bytes=MIB)
    with store:
        while store.compact().moved_records:  # the removals take a second pass
            pass
        before = {file.name: file.read_bytes() for file in store_dir.glob("*.small")}
        assert store.compact() == (0, 0, 0, 0, 0)
        assert {file.name: file.read_bytes() for file in store_dir.glob("*.small")} == before
        check_everything(store, model)


def test_only_what_is_dead_enough_is_gone_through(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=MIB) as store:
        store.put_many({i: bytes(1000) for i in range(1000)})
        for _ in range(6):
            store.put_many({1000 + i: bytes(1000) for i in range(500)})
        first = store_dir / layout.smallfile_name(0)
        blocks = files.blocks_bytes(first)
        done = store.compact(min_dead=0.5)
        assert done.files_removed >= 1
        assert files.blocks_bytes(first) == blocks, "all of it is live"
        assert store.compact().moved_records >= 1000
        assert not first.exists()


def test_many_short_files_are_made_one(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=64 * MIB) as store:
        for number in range(20):
            store.put_many({100 * number + i: b"never touched again" for i in range(50)})
            store.compact()
            assert len(list(store_dir.glob("*.small"))) < 12
        assert len(store) == 1000
        assert store.verify() == []


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_long_values_are_moved_in_pieces(store_dir: Path, io: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "_PIECE_BYTES", 1 << 20)
    rng = random.Random(3)
    values = {kvs.key_for(f"{n}"): rng.randbytes(n) for n in (5 * MIB + 13, 3 * MIB, 16)}
    with kvs.open(store_dir, "n", io=io) as store:
        store.put_many(values)
        store.put_many({key: value[::-1] for key, value in values.items()})
        assert store.compact().moved_records == 2 * len(values)
        for key, value in values.items():
            assert store[key] == value[::-1]
            assert store.find(key, 1) == kvs.Item(key, value, 1)
        assert store.verify() == []
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        assert store.get_many(values) == [value[::-1] for value in values.values()]


def test_a_pass_rolls_over_to_another_smallfile(store_dir: Path) -> None:
    store, model = filled(store_dir)
    with store:
        compaction.compact(
            store_dir, store._view, store._smallfiles, lock_timeout_s=9.0, smallfile_bytes=20_000
        )
        sizes = [
            region.end for region in generations.published(store._view.index, store._smallfiles).values()
        ]
        assert len(sizes) > 9
        check_everything(store, model)
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        check_everything(store, model)


def test_the_newest_file_of_a_writer_place_keeps_its_name_until_there_is_a_newer_one(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store.put_many({i: bytes(3000) for i in range(1000)})
    lose_index(store_dir)  # which seals it
    with kvs.open(store_dir, "w") as store:
        store.compact()
        first = store_dir / layout.smallfile_name(0)
        assert files.blocks_bytes(first) == layout.PAGE
        store[1] = b"in the next one"
        store.compact()
        assert not first.exists()
        assert (store[1], len(store), store.verify()) == (b"in the next one", 1000, [])


def test_progress_is_shown_up_to_the_end(store_dir: Path) -> None:
    store, _ = filled(store_dir, smallfile_bytes=MIB // 4)
    seen: list[tuple[int, int]] = []
    with store:
        compaction.compact(
            store_dir,
            store._view,
            store._smallfiles,
            lock_timeout_s=9.0,
            progress=lambda done, total: seen.append((done, total)),
        )
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


# -- removed keys -----------------------------------------------------------------------------------------


def test_removed_keys_are_gone_after_two_passes_and_do_not_come_back(store_dir: Path) -> None:
    names = KEYS[:6]
    with kvs.open(store_dir, "n") as store:
        for number in range(3):
            store.put_many(dict.fromkeys(names, b"%d" % number * 999))
        for name in names:
            del store[name]
        first = store.compact()
        assert first.keys_forgotten == 0
        assert used(store).live_bytes == 64 * len(names), "the removals"
        assert store.history(names[0]) == [(4, None)]
        assert store.history(KEYS[7]) == [], "nobody knows any more whether it was there"
        assert store.compact().keys_forgotten == len(names)
        assert used(store).live_bytes == 0
        assert store.compact() == (0, 0, 0, 0, 0)
        assert store.verify() == []
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        assert list(store) == []
        assert [store.history(name) for name in names] == [[]] * len(names)
        assert store.put_many({names[0]: b"again"}) == 10


def test_a_removal_outlives_every_older_record_of_its_key(store_dir: Path) -> None:
    """A pass that left a file with a dead value of the key out must not let the removal go."""
    with kvs.open(store_dir, "n", smallfile_bytes=MIB) as store:
        store.put_many({0: b"a value"} | {i: bytes(1000) for i in range(1, 1000)})  # nearly all live
        del store[0]
        for _ in range(4):
            for number in range(8):
                store[5000] = bytes(100_000 + number)
            store.compact(min_dead=0.4)
            assert store.verify() == []
        assert store._smallfiles.path(0).exists(), "the value was not looked for"
    lose_index(store_dir)
    with kvs.open(store_dir, "w") as store:
        assert 0 not in store
        assert len(store) == 1000


def test_a_pinned_snapshot_still_reads_what_was_removed(store_dir: Path) -> None:
    store, model = filled(store_dir, smallfile_bytes=MIB // 2)
    with store:
        before = model.live()
        with store.snapshot() as snapshot:
            write(store, model, dict.fromkeys(before))
            write(store, model, {KEYS[0]: b"else"})
            for _ in range(3):
                store.compact()
                assert dict(snapshot.items()) == before
                assert store.verify() == []
            assert dict(store.items()) == {KEYS[0]: b"else"}
        store.compact()
        assert store.compact().keys_forgotten >= len(before)
        assert used(store).live_bytes <= 128
        check_everything(store, model)


def test_a_snapshot_that_sees_the_removal_holds_nothing(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = b"a value"
        del store[1]
        with store.snapshot():
            store.compact()
            assert store.compact().keys_forgotten == 1


def pin_forever(connection: Connection, path: Path) -> None:
    """Hold a snapshot until killed."""
    with kvs.open(path, "r") as store, store.snapshot() as snapshot:
        connection.send(snapshot.transaction_counter)
        connection.recv()


def test_the_pin_of_a_dead_reader_holds_nothing(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = bytes(1000)
        with Child(pin_forever, store_dir) as child:
            assert child.receive() == 1
            del store[1]
            store.compact()
            assert used(store).live_bytes > 1000
            child.kill()
        store.compact()
        assert used(store).live_bytes == 64
