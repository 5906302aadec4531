"""Durable commits in parallel: acknowledged means synced, readers see no more than that, the dead are helped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import durability, files, layout, syncpoints
from kvs.locks import COMMIT, DURABLE, RangeLocks, sync_range
from tests.kvs.children import acknowledge, commit, pause_in_commit
from tests.kvs.killing import (
    ORDER,
    OTHER,
    SIZES,
    assert_healed,
    contents,
    die_in_commit,
    die_in_opening,
    everything,
    named,
    survivor,
)
from tests.kvs.processes import Child, Death

KEY = kvs.key_for("one key for all")


def new(path: Path, **options: object) -> kvs.Store:
    """A new durable store."""
    return kvs.open(path, "n", **{"durable": True, "index_capacity": 500, **options})  # type: ignore[arg-type]


def counters(store: kvs.Store) -> tuple[int, int]:
    """C and D."""
    words = store._view.current().words
    return words[layout.H_COMMITTED], words[layout.H_DURABLE]


# -- real processes at once -------------------------------------------------------------------------------


def test_what_is_acknowledged_is_seen_by_every_read_that_begins_after(store_dir: Path) -> None:
    """Four writers at once. What one says to us is there in other processes' handles, and in ours, whole."""
    with new(store_dir) as store, kvs.open(store_dir, "r", io="append") as reader:
        writers = [Child(acknowledge, store_dir, number, 25) for number in range(4)]
        try:
            seen = 0
            for writer in writers:
                assert writer.receive() == "open"
            for writer in writers:
                writer.send()
            for _ in range(25):
                for number, writer in enumerate(writers):
                    time, value = writer.receive()
                    for view in (store, reader):
                        committed, durable = counters(view)
                        assert time <= durable <= committed
                        found = view.get_many([number, 1000 + number])
                        assert found[0] == found[1], "one transaction"
                        assert int(found[0] or b"-1") >= value
                        with view.snapshot() as snapshot:
                            assert time <= snapshot.transaction_counter
                            seen = max(seen, snapshot.transaction_counter)
            for writer in writers:
                assert writer.join() == 0
        finally:
            for writer in writers:
                writer.__exit__(None, None, None)
        assert seen <= 100
        assert (store.stat()["transactions"], counters(store), store.verify()) == (100, (100, 100), [])
        assert store.get_many(range(4)) == [b"24"] * 4


def test_readers_see_nothing_that_is_not_synced(store_dir: Path) -> None:
    with new(store_dir) as store, Child(pause_in_commit, store_dir, "durable.before_sync") as writer:
        store[1] = b"before"
        assert writer.receive() == "there"
        assert counters(store) == (2, 1), "visible to writers, and not to readers"
        with kvs.open(store_dir, "r") as reader, store.snapshot() as snapshot:
            for view in (store, reader, snapshot):
                assert view.get(1) == b"before"
                assert view.get_many([1] * 60) == [b"before"] * 60
            for handle in (store, reader):
                found = handle.find(1)
                assert found is not None
                assert found[1:] == (b"before", 1)
                assert handle.find(1, 1) is None
                assert handle.last_updated([1]) == [1]
                assert handle.history(1) == [(1, b"before"), (0, None)]
                assert handle.stat()["transactions"] == 1
        assert store.transaction().fetch(1) == b"before"
        writer.send()
        assert writer.receive() == "committed"
        assert store.history(1) == [(2, b"by the paused"), (1, b"before"), (0, None)]


def test_a_transaction_over_what_is_not_synced_yet_aborts_and_its_next_try_sees_it(store_dir: Path) -> None:
    """Otherwise ``transact`` would go round until somebody else has raised D."""
    with new(store_dir) as store:
        store[1] = b"1"
        die_in_commit(store_dir, {(1).to_bytes(16, "big"): b"2"}, Death("durable.before_sync"))
        tries = []

        def add(txn: kvs.Transaction) -> None:
            tries.append(txn.fetch(1))
            txn.update(1, b"%d" % (int(tries[-1] or b"0") + 1))

        store.transact(add)
        assert tries == [b"1", b"2"]
        assert store[1] == b"3"


# -- the order of syncs -----------------------------------------------------------------------------------


def test_nothing_is_acknowledged_or_seen_before_its_file_was_synced(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every sync we look: what is being synced may not be visible yet. Afterwards it must have been synced whole."""
    synced: dict[str, bytes] = {}
    sync = files.sync_data

    with new(store_dir, smallfile_bytes=2000) as store, kvs.open(store_dir, "r") as reader:

        def observe(fd: int, path: Path) -> None:
            if path.suffix == ".small" and wanted:
                assert reader.get_many([1, 2]) == [last, last], "not before"
            sync(fd, path)
            synced[path.name] = path.read_bytes()

        monkeypatch.setattr(files, "sync_data", observe)
        last, wanted = None, b""
        for number in range(20):
            wanted = b"%d" % number * 50
            store.put_many({1: wanted, 2: wanted})
            assert reader.get_many([1, 2]) == [wanted, wanted]
            word = store._view.index.probe((2).to_bytes(16, "big"))
            place = word + layout.E_PLACE + 2 * (number % 4)
            file_id, offset = layout.unpack_location(store._view.index.words[place])
            assert wanted in synced[layout.smallfile_name(file_id)][offset:], "as it was when it was synced"
            last = wanted
        wanted = b""
        assert len(synced) > 5


def test_a_new_smallfile_has_its_name_on_the_medium_before_anything_in_it_is_acknowledged(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named_then: list[set[str]] = []
    sync = files.sync_directory

    def observe(path: Path) -> None:
        sync(path)
        if path == store_dir:
            named_then.append({file.name for file in path.iterdir()})

    monkeypatch.setattr(files, "sync_directory", observe)
    with new(store_dir, smallfile_bytes=1) as store:
        for number in range(4):
            store[number] = b"v"
            newest = layout.smallfile_name(layout.place_stride(layout.WRITERS_MAX) * number)
            assert (store_dir / newest).exists()
            assert newest in named_then[-1]
            assert len(named_then) == 3 + number, "two for the store, one for each file"


@pytest.mark.parametrize("durable", [False, True])
def test_a_new_store_has_its_names_on_the_medium_before_it_is_there(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Without the name of its directory a durable store would be gone with all that was acknowledged, and an index
    without the lock files, or without its content, is no store.
    """
    done: list[str] = []
    sync, sync_directory, publish = files.sync_data, files.sync_directory, files.publish

    def note(what: str, real: Any, *paths: Any) -> None:
        real(*paths)
        done.append(f"{what} {Path(paths[-1]).name}")

    monkeypatch.setattr(files, "sync_data", lambda fd, path: note("sync", sync, fd, path))
    monkeypatch.setattr(files, "sync_directory", lambda path: note("names of", sync_directory, path))
    monkeypatch.setattr(files, "publish", lambda old, new: note("publish", publish, old, new))
    new(store_dir, durable=durable).close()
    names, above = f"names of {store_dir.name}", f"names of {store_dir.parent.name}"
    assert done[:5] == [above, names, "sync index.0.new", "publish index.0", names]
    assert {"store.lock", "ranges.lock"} <= {file.name for file in store_dir.iterdir()}


def test_a_failed_sync_poisons_the_handle_and_the_others_make_it_good(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync the kernel takes the pages for clean: they must be written again, not only synced."""
    sync, written = files.sync_data, []
    with new(store_dir) as other, kvs.open(store_dir, "w") as store:
        store[1] = b"acknowledged"

        def fail(fd: int, path: Path) -> None:
            raise kvs.DurabilityError(str(path), "as told")

        monkeypatch.setattr(files, "sync_data", fail)
        with pytest.raises(kvs.DurabilityError, match="as told"):
            store[1] = b"in doubt"
        for key in (2, 3):
            with pytest.raises(kvs.DurabilityError, match="as told"):
                store[key] = b"refused"
        assert (store[1], other[1]) == (b"acknowledged", b"acknowledged")
        assert counters(other) == (2, 1)
        monkeypatch.setattr(files, "sync_data", sync)
        write = files.write_at

        def observe(fd: int, offset: int, pieces: list[bytes], path: Path) -> None:
            written.append((path.name, offset))
            write(fd, offset, pieces, path)

        monkeypatch.setattr(files, "write_at", observe)
        other[2] = b"next"
        assert ("00001.small", layout.SMALLFILE_BEGIN + 64 + layout.COMMIT_BYTES) in written
        assert store.get_many([1, 2]) == [b"in doubt", b"next"]
        assert other.verify() == []


# -- the dead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", ["the survivor", "an opener of another place", "an opener of its place"])
@pytest.mark.parametrize("point", named("durable")[1:])
def test_whoever_comes_next_syncs_for_a_writer_that_died_before_its_sync(
    store_dir: Path, point: str, others: str
) -> None:
    before, changes, after = contents(SIZES["scalar"])
    with survivor(store_dir, before, durable=True) as store:
        die_in_commit(store_dir, changes, Death(point))
        if others == "the survivor":
            store.put_many({OTHER: b"x"})
        elif others == "an opener of its place":
            with Child(commit, store_dir, "mmap", {OTHER: b"x"}, None) as child:
                assert child.receive() == "survived"
                assert child.join() == 0
        else:
            with Child(pause_in_commit, store_dir, "commit.before_lock") as place_1:
                assert place_1.receive() == "there"
                with kvs.open(store_dir, "w") as third:
                    third[OTHER] = b"x"
        assert everything(store, [*changes, OTHER]) == {**after, OTHER: b"x"}
        assert counters(store) == (3, 3)
        assert_healed(store, after, changes, 4)


@pytest.mark.parametrize("claims", [True, False], ids=["the dead one's place", "another place"])
@pytest.mark.parametrize("point", named("laggard"))
def test_a_helper_killed_at_any_point_of_syncing_for_the_dead_is_helped_by_a_third(
    store_dir: Path, point: str, claims: bool
) -> None:
    before, changes, after = contents(SIZES["scalar"])
    with (
        survivor(store_dir, before, durable=True) as store,
        Child(pause_in_commit, store_dir, "commit.before_lock") as place_1,
    ):
        assert place_1.receive() == "there"
        if claims:
            place_1.kill()
        die_in_commit(store_dir, changes, Death("durable.before_sync"))
        if not claims:
            place_1.kill()  # so that the helper has a place, and it is not the dead one's
        die_in_opening(store_dir, Death(point))
        assert_healed(store, after, changes, 3)
        assert counters(store)[0] == counters(store)[1]


def test_four_writers_dead_at_once_on_one_key_leave_it_readable_and_the_next_commit_heals(
    store_dir: Path,
) -> None:
    """Their four revisions would fill the ring of the key: one that readers may see must stay."""
    with new(store_dir) as store, kvs.open(store_dir, "r", io="append") as reader:
        store[KEY] = b"acknowledged"
        points = ["durable.before_sync"] * 3 + ["commit.after_lock"]
        dying: list[Child] = []
        try:
            for point in points:
                dying.append(Child(pause_in_commit, store_dir, point, KEY))
                assert dying[-1].receive() == "there"
            assert counters(store) == (4, 1), "visible to writers, and on the medium is the first one only"
            dying[3].send()  # it must not overwrite what readers read, and waits for the others' syncs
            for child in reversed(dying):
                child.kill()
        finally:
            for child in dying:
                child.__exit__(None, None, None)
        assert counters(store) == (4, 1)
        for view in (store, reader):
            assert view[KEY] == b"acknowledged"
            assert view.get_many([KEY] * 60) == [b"acknowledged"] * 60
        with Child(pause_in_commit, store_dir, "durable.before_sync", KEY) as last:
            assert last.receive() == "there"
            last.kill()
        committed, durable = counters(store)
        assert (committed, 2 <= durable < 5) == (5, True), "of the dead one had to be synced for, and not all"
        assert store[KEY] == reader[KEY] == b"by the paused"
        store[OTHER] = b"heals"
        assert counters(store) == (6, 6)
        assert [time for time, _ in store.history(KEY)] == [5, 4, 3, 2]
        assert store.verify() == []


# -- the stopped ------------------------------------------------------------------------------------------


def test_a_stopped_laggard_makes_commits_wait_and_readers_go_on(store_dir: Path) -> None:
    with (
        new(store_dir, lock_timeout_s=0.05) as store,
        Child(pause_in_commit, store_dir, "durable.before_sync") as laggard,
    ):
        store[2] = b"before"
        assert laggard.receive() == "there"
        laggard.stop()
        with pytest.raises(kvs.LockTimeoutError, match="is committed and synced") as caught:
            store[2] = b"mine"
        error = caught.value
        assert (error.committed, error.lock) == (3, "SYNC[1]")
        assert (error.holder_pid, error.holder_state) == (laggard.pid, "stopped")
        with kvs.open(store_dir, "r") as reader:
            for view in (store, reader):
                assert view.get_many([1, 2]) == [None, b"before"]
                assert len(list(view)) == 1
        os.kill(laggard.pid, signal.SIGCONT)
        laggard.send()
        assert laggard.receive() == "committed"
        store[3] = b"next"
        assert store.get_many([1, 2, 3]) == [b"by the paused", b"mine", b"next"]
        assert store.verify() == []


def test_a_stopped_laggard_that_is_killed_is_synced_for(store_dir: Path) -> None:
    with (
        new(store_dir, lock_timeout_s=0.05) as store,
        Child(pause_in_commit, store_dir, "durable.before_sync") as laggard,
    ):
        assert laggard.receive() == "there"
        laggard.stop()
        with pytest.raises(kvs.LockTimeoutError) as caught:
            store[2] = b"mine"
        assert caught.value.committed == 2
        laggard.kill()
        store[3] = b"next"
        assert store.get_many([1, 2, 3]) == [b"by the paused", b"mine", b"next"]


# -- threads, and what is let go --------------------------------------------------------------------------


def test_many_threads_commit_through_one_durable_handle(store_dir: Path) -> None:
    with new(store_dir) as store:

        def add(txn: kvs.Transaction) -> None:
            txn.fetch(KEY)
            txn.update(KEY, b"%d" % (int(txn.fetch(KEY) or b"0") + 1))

        def work() -> None:
            for _ in range(10):
                store.transact(add)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store[KEY] == b"40"
        assert (counters(store), store.verify()) == ((40, 40), [])


@pytest.mark.parametrize("point", [point for point in ORDER if point.startswith("durable.")])
def test_no_lock_is_held_after_an_interrupted_commit(store_dir: Path, point: str) -> None:
    def interrupt(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            raise KeyboardInterrupt

    with new(store_dir) as store:
        store[1] = b"before"
        syncpoints.install(interrupt)
        with pytest.raises(KeyboardInterrupt):
            store[1] = b"interrupted"
        asking = RangeLocks(store_dir / "ranges.lock", lambda _: 0)
        for each in (DURABLE, sync_range(0), COMMIT):
            assert not asking.held_elsewhere(each), each.name
        asking.close()
        store[1] = b"after"
        assert store[1] == b"after"
        assert store.verify() == []


def test_a_laggard_whose_records_are_damaged_is_told_and_never_shown(store_dir: Path) -> None:
    """It was not acknowledged, and cannot be: whoever needs it durable says so."""
    with new(store_dir, lock_timeout_s=1.0) as store:
        store[1] = b"acknowledged"
        die_in_commit(store_dir, {bytes(16): b"lost"}, Death("durable.before_sync"))
        path = store_dir / layout.smallfile_name(1)
        content = bytearray(path.read_bytes())
        content[layout.SMALLFILE_BEGIN + layout.RECORD_HEADER_BYTES] ^= 1
        with path.open("r+b") as file:
            file.write(content)
        with pytest.raises(kvs.CorruptedStoreError, match="not synced yet, is damaged") as caught:
            durability.await_durable(store._view, store._smallfiles, store._writer.locks, 2, 1.0)  # type: ignore[union-attr]
        assert caught.value.path == str(path)
        assert store.get_many([0, 1]) == [None, b"acknowledged"]
        with path.open("r+b") as file:
            content[layout.SMALLFILE_BEGIN + layout.RECORD_HEADER_BYTES] ^= 1
            file.write(content)
        store[2] = b"and well again"
        assert store.get_many([0, 2]) == [b"lost", b"and well again"]


def test_a_transaction_that_nobody_committed_is_damage_and_not_waited_for(store_dir: Path) -> None:
    """A store whose COMMIT did not lock lost its newest T, and its writers waited for ever."""
    with kvs.open(store_dir, "n", durable=True) as store:
        store[1] = b"v"
        assert store._writer is not None
        with pytest.raises(
            kvs.CorruptedStoreError, match=r"transaction 2 is waited for, and .* none after 1 was"
        ):
            store._writer.await_durable(2)
        store[2] = b"w"
        assert store.verify() == []
