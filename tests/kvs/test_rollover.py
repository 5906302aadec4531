"""A smallfile that is long enough is sealed and another one begun; long values are in nobody's way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import kvs
from kvs import layout, syncpoints
from kvs.generations import Region, published
from kvs.smallfile import Smallfiles
from tests.kvs.children import commit, pause_in_put
from tests.kvs.killing import (
    ORDER,
    OTHER,
    PARTS,
    SIZES,
    assert_healed,
    contents,
    die_in_commit,
    everything,
    named,
    survivor,
)
from tests.kvs.processes import Child, Death
from tests.kvs.test_storage import fill, small_disk

__all__ = ["small_disk"]
SMALLFILE_POINTS = named("smallfile")
SEAL_POINTS = [point for point in SMALLFILE_POINTS if point.endswith("_seal")]
STRIDE = layout.place_stride(layout.WRITERS_MAX)
LIMIT = 4096
HUGE = 256 << 20


def regions(store: kvs.Store) -> dict[int, Region]:
    """The published part of every smallfile."""
    return published(store._view.current(), store._smallfiles)


def lose_index(path: Path) -> None:
    """Remove every generation of the index, so that the next one who opens must make it anew."""
    for index in path.glob("index.*"):
        index.unlink()


# -- sizes and seals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("io", ["mmap", "append"])
def test_smallfiles_end_at_their_size_and_all_but_the_last_are_sealed(
    store_dir: Path, io: str, durable: bool
) -> None:
    with kvs.open(store_dir, "n", io=io, durable=durable, smallfile_bytes=LIMIT) as store:
        for number in range(100):
            store.put_many({number: b"%d" % number * 90, number + 1: b"next"})
        found = regions(store)
        assert len(found) > 5
        assert list(found) == [STRIDE * number for number in range(len(found))]
        assert [region.sealed for region in found.values()] == [True] * (len(found) - 1) + [False]
        longest = 64 + layout.record_bytes(2 * 90) + layout.COMMIT_BYTES
        for region in list(found.values())[:-1]:
            assert LIMIT - longest < region.end <= LIMIT
        assert store.get_many(range(102)) == [*[b"%d" % n * 90 for n in range(100)], b"next", None]
        assert store.verify() == []
    for lost in (False, True):
        if lost:
            lose_index(store_dir)
        with kvs.open(store_dir, io=io) as store:
            assert store.get_many(range(102)) == [*[b"%d" % n * 90 for n in range(100)], b"next", None]
            assert (store.stat()["transactions"], store.verify()) == (100, [])


def test_a_sealed_file_gives_its_unused_blocks_back(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=8 << 20) as store:
        for number in range(9):
            store[number] = bytes(1 << 20)
        first = store_dir / layout.smallfile_name(0)
        taken = first.stat().st_blocks * 512
        end = regions(store)[0].end
        assert end <= taken <= end + (128 << 10), "and what readers may touch behind it"


def test_a_transaction_longer_than_a_smallfile_has_one_to_itself(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=LIMIT) as store:
        store[0] = b"before"
        store.put_many({key: bytes(LIMIT) for key in range(1, 9)})
        store[9] = b"behind"
        found = regions(store)
        assert [region.end > LIMIT for region in found.values()] == [False, True, False]
        assert store.get_many(range(10)) == [b"before", *[bytes(LIMIT)] * 8, b"behind"]
        assert store.verify() == []


def test_the_size_is_each_handles_own(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=LIMIT) as store:
        store[1] = bytes(3000)
    with kvs.open(store_dir, smallfile_bytes=1 << 20) as store:
        store[2] = bytes(3000)
        assert len(regions(store)) == 1, "room again"
    with kvs.open(store_dir, smallfile_bytes=1) as store:
        store[3] = b"x"
        store[4] = b"x"
        assert list(regions(store)) == [0, STRIDE, 2 * STRIDE]
        assert (store.get_many([1, 2, 3]), store.verify()) == ([bytes(3000), bytes(3000), b"x"], [])
    with pytest.raises(kvs.StoreOptionsError, match="nothing was touched"):
        kvs.open(store_dir, smallfile_bytes=0)


def test_ids_are_never_used_again(store_dir: Path) -> None:
    """Neither after a compaction has removed the file, nor by whoever has the place next."""
    ever: list[str] = []

    def note() -> None:
        now = {file.name for file in store_dir.glob("*.small")}
        new = now - seen
        assert not new & set(ever)
        ever.extend(sorted(new))
        seen.clear()
        seen.update(now)

    seen: set[str] = set()
    expected = {}
    kvs.open(store_dir, "n").close()
    for turn in range(4):
        with (
            kvs.open(store_dir, smallfile_bytes=1) as first,
            kvs.open(store_dir, smallfile_bytes=1, io="append") as second,
        ):
            for number in range(5):
                for store in (first, second):
                    value = b"%d %d" % (turn, number)
                    store.put_many(dict.fromkeys([number, turn], value))
                    expected.update({number: value, turn: value})
                    note()
            first.compact()
            note()
            assert second.get_many(expected) == list(expected.values())
            assert second.verify() == []
    assert len(ever) > 40


# -- long values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["mmap", "append"])
def test_who_is_stopped_in_a_huge_write_is_in_nobodys_way(store_dir: Path, io: str) -> None:
    kvs.open(store_dir, "n").close()
    with (
        Child(pause_in_put, store_dir, io, "prepare.before_append", HUGE) as slow,
        kvs.open(store_dir, lock_timeout_s=0.0) as store,
    ):
        assert slow.receive() == "there"
        slow.stop()
        for number in range(50):
            store[number] = b"meanwhile"
        with kvs.open(store_dir, "w", lock_timeout_s=0.0) as another:
            another[50] = b"meanwhile"
        assert store.get_many(range(51)) == [b"meanwhile"] * 51
        assert store.verify() == []
        os.kill(slow.pid, signal.SIGCONT)
        slow.send()
        assert slow.receive() == "committed"
        assert store[1 << 100] == bytes(HUGE)
        assert store.stat()["transactions"] == 52


def test_who_dies_in_a_huge_write_leaves_nothing_and_its_room_is_used_again(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store[1] = b"before"
        with Child(pause_in_put, store_dir, "append", "commit.before_lock", 32 << 20) as slow:
            assert slow.receive() == "there"
            slow.kill()
        assert store.get_many([1, 1 << 100]) == [b"before", None]
        with kvs.open(store_dir, "w") as another:
            another[2] = b"in the dead one's place"
            another[3] = bytes(1 << 20)
        assert (store[2], store.verify()) == (b"in the dead one's place", [])


# -- deaths -----------------------------------------------------------------------------------------------


def rolls_over(point: str) -> dict[str, int]:
    """Options with which the place's file is sealed at the next commit, where ``point`` is of a seal."""
    return {"smallfile_bytes": 1} if point in SEAL_POINTS else {}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("point", SMALLFILE_POINTS)
def test_a_new_smallfile_or_a_seal_killed_at_any_point_is_begun_again_by_the_next(
    store_dir: Path, point: str, io: str, durable: bool
) -> None:
    before, changes, after = contents(SIZES["scalar"])
    with survivor(store_dir, before, durable=durable) as store:
        if point in SEAL_POINTS:
            with kvs.open(store_dir, "w") as place_1:
                place_1.put_many(before)
        else:
            store.put_many(before)
        die_in_commit(store_dir, changes, Death(point), io, rolls_over(point))
        assert everything(store, changes) == before
        store.put_many({OTHER: b"x"})
        with Child(commit, store_dir, io, changes, None, rolls_over(point)) as child:  # takes the same place
            assert child.receive() == "survived"
            assert child.join() == 0
        assert_healed(store, after, changes, 5)
        ids = {0, 1, 1 + STRIDE} if point in SEAL_POINTS else {0, 1}
        assert set(regions(store)) >= ids
    lose_index(store_dir)
    with kvs.open(store_dir) as store:
        assert everything(store, [*changes, OTHER]) == {**after, OTHER: b"alive"}
        assert (store.stat()["transactions"], store.verify()) == (5, [])


@pytest.mark.parametrize("part", PARTS)
def test_a_new_smallfile_with_a_torn_header_is_begun_again(store_dir: Path, part: str) -> None:
    before, changes, after = contents(SIZES["scalar"])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death("smallfile.before_header", part=part))
        assert store.verify() == []
        with Child(commit, store_dir, "mmap", changes, None) as child:
            assert child.receive() == "survived"
            assert child.join() == 0
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("part", PARTS)
def test_a_torn_header_that_nobody_begins_again_is_no_harm_to_a_rebuild(store_dir: Path, part: str) -> None:
    before, changes, _ = contents(SIZES["scalar"])
    with survivor(store_dir, before):
        die_in_commit(store_dir, changes, Death("smallfile.before_header", part=part))
    lose_index(store_dir)
    with kvs.open(store_dir) as store:
        assert_healed(store, before, changes, 2)


@pytest.mark.parametrize("size", [1, LIMIT])
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("point", SMALLFILE_POINTS)
def test_a_rollover_that_was_interrupted_is_made_good_by_the_same_handle(
    store_dir: Path, point: str, durable: bool, size: int
) -> None:
    """Also by a smaller transaction, which would have fitted the file that was sealed."""

    def interrupt(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            raise KeyboardInterrupt

    with kvs.open(store_dir, "n", durable=durable, smallfile_bytes=LIMIT) as store:
        store[1] = bytes(LIMIT - 1000)
        syncpoints.install(interrupt)
        with pytest.raises(KeyboardInterrupt):
            store[2] = bytes(LIMIT)
        assert store.get_many([1, 2]) == [bytes(LIMIT - 1000), None]
        for number in range(5):
            store[3] = b"%d" % number * size
            assert store[3] == b"%d" % number * size
            assert store.verify() == []
        history = store.history(3)
    lose_index(store_dir)
    with kvs.open(store_dir) as store:
        assert store[1] == bytes(LIMIT - 1000)
        assert store.history(3) == history
        assert (store.stat()["transactions"], store.verify()) == (6, [])


def test_a_disk_that_is_full_when_a_smallfile_must_be_begun_is_a_clear_error(small_disk: Path) -> None:
    with kvs.open(small_disk / "store", "n", index_capacity=100, smallfile_bytes=LIMIT) as store:
        store[1] = bytes(3000)
        ballast = fill(small_disk)
        for _ in range(2):
            with pytest.raises(kvs.StorageFullError):
                store[2] = bytes(LIMIT)
        assert (store.get_many([1, 2]), store.verify()) == ([bytes(3000), None], [])
        ballast.unlink()
        store[2] = bytes(LIMIT)
        assert (store.get_many([1, 2]), store.verify()) == ([bytes(3000), bytes(LIMIT)], [])


def test_the_points_come_in_the_order_of_a_rollover(store_dir: Path) -> None:
    reached: list[str] = []
    with kvs.open(store_dir, "n", smallfile_bytes=1) as store:
        store[1] = b"v"
        syncpoints.install(lambda name, *_: reached.append(name))
        store[1] = b"w"
    seals = [point for point in reached if point.startswith(("smallfile.", "prepare.before_append"))]
    order = [
        "smallfile.before_seal",
        "smallfile.after_seal",
        "smallfile.before_header",
        "smallfile.after_header",
    ]
    assert seals[:5] == [*order, "prepare.before_append"]
    assert set(order) == set(SMALLFILE_POINTS) <= set(ORDER)


def test_a_smallfile_that_gets_its_header_while_somebody_looks_is_no_damage(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction looked at a smallfile before its writer had stored the header, and asked whose it is after that: a
    file of this store, and not whole, so it called the store damaged.
    """
    with kvs.open(store_dir) as store:
        store[1] = b"one"
        smallfiles, real = store._smallfiles, Smallfiles.stranger
        begun = smallfiles.path(200)
        begun.write_bytes(bytes(4096))

        def late(self: Smallfiles, file_id: int) -> bool:
            begun.write_bytes(layout.pack_smallfile_header(self.store_uuid, 200, self.traits) + bytes(4096))
            return real(self, file_id)

        monkeypatch.setattr(Smallfiles, "stranger", late)
        assert store.verify() == []
        begun.unlink()
