"""A process dies by SIGKILL at every sync point of a compaction, and between the words and bytes of its writes."""

from __future__ import annotations

import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import kvs
from kvs import files, generations, layout, moving, syncpoints, usage
from kvs.rebuild import rebuild
from kvs.syncpoints import POINTS
from tests.kvs.processes import Child, Death, die_at

POINTS_OF_COMPACTION = [point for point in POINTS if point.startswith("compact.")]
ONCE = {
    f"compact.{moment}"
    for moment in ("after_lock", "after_floor", "before_output", "after_output", "after_swept")
}
HITS = [(point, hit) for point in POINTS_OF_COMPACTION for hit in (1, 2) if hit == 1 or point not in ONCE]
PARTS = ("nothing", "one", "half", "all but one", "all")
CARRIES = ("compact.before_append", "compact.before_swing", "compact.before_forget")
NAMES = [kvs.key_for(f"key {i}") for i in range(120)]
GONE = NAMES[80:110]
NEVER_SEEN_AGAIN = kvs.key_for("removed and swept")
SMALLFILE_BYTES = 1 << 18


def compact(connection: Connection, path: Path, io: str, death: Death) -> None:
    """Compact in small batches, and die meanwhile."""
    moving.BATCH_RECORDS = 16
    with kvs.open(path, "w", io=io) as store:
        die_at(death, connection)
        store.compact()
        connection.send("survived")


def die_in_compaction(path: Path, death: Death, io: str = "mmap") -> None:
    """Have another process compact, and assert that it died, and died there."""
    with Child(compact, path, io, death) as child:
        assert child.receive() == death.point
        assert child.join() == -signal.SIGKILL


def prepared(path: Path, *, durable: bool = False) -> tuple[kvs.Store, dict[bytes, bytes]]:
    """A store with smallfiles that are dead in part and wholly, with keys that were removed, some of them so long ago
    that the next pass lets the removal go; and what it holds.
    """
    rng = random.Random(7)
    store = kvs.open(path, "n", durable=durable, smallfile_bytes=SMALLFILE_BYTES)
    store[NEVER_SEEN_AGAIN] = b"once"
    del store[NEVER_SEEN_AGAIN]
    store.compact()
    expected: dict[bytes, bytes] = {}
    for _ in range(12):
        batch = {name: rng.randbytes(rng.randrange(2200)) for name in NAMES}
        store.put_many(batch)
        expected.update(batch)
    with store.transaction() as txn:
        for name in GONE:
            txn.remove_unsafe(name)
            del expected[name]
    return store, expected


def assert_holds(store: kvs.Store, expected: dict[bytes, bytes], *, sound: bool = True) -> None:
    """The store holds exactly that, read in several ways, and is sound. Unless ``sound`` a death may have left
    what ``verify`` finds: a smallfile without a header, a removed key whose older revisions are half forgotten.
    """
    assert dict(store.items()) == expected
    names = [*NAMES, NEVER_SEEN_AGAIN]
    assert (
        store.get_many(names) == [store.get(name) for name in names] == [expected.get(name) for name in names]
    )
    for name in expected:
        assert len(store.history(name)) == layout.REVISIONS, "older revisions"
    if sound:
        assert store.verify() == []


def assert_goes_on(store: kvs.Store, expected: dict[bytes, bytes], *, sound: bool = True) -> None:
    """Everybody reads and writes; the next passes finish the work and leave nothing behind; a rebuild agrees."""
    assert_holds(store, expected, sound=sound)
    with kvs.open(store.path, "w", io="append") as another:
        assert_holds(another, expected, sound=sound)
        another[NAMES[0]] = expected[NAMES[0]] = b"written after the death"
    for _ in range(2):
        store.compact()
        assert_holds(store, expected)
    found = usage.usage(store._view.current(), store._smallfiles)
    assert found.dead_bytes < 10 * layout.COMMIT_BYTES
    files_left = list(store.path.glob("*.small"))
    assert sum(map(files.blocks_bytes, files_left)) < found.live_bytes + len(files_left) * (1 << 20)
    for file_id in store._smallfiles.ids():
        assert file_id in generations.published(store._view.current(), store._smallfiles), "debris"
    assert store.compact() == (0, 0, 0, 0, 0)
    store.close()
    rebuilt(store.path, expected)


def rebuilt(path: Path, expected: dict[bytes, bytes]) -> None:
    """Lose the index, make it anew, and look."""
    for file in path.glob("index.*"):
        file.unlink()
    rebuild(path, boot_id=files.boot_id())
    with kvs.open(path, "w") as store:
        assert_holds(store, expected)
        store[NAMES[1]] = b"after the rebuild"
        assert_holds(store, {**expected, NAMES[1]: b"after the rebuild"})


@pytest.mark.parametrize(("point", "hit"), HITS)
def test_compaction_killed_at_any_point_is_finished_by_the_next(
    store_dir: Path, point: str, hit: int
) -> None:
    store, expected = prepared(store_dir)
    with store:
        die_in_compaction(store_dir, Death(point, hit), "append" if hit == 2 else "mmap")
        assert_goes_on(store, expected)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", CARRIES)
def test_compaction_killed_in_a_torn_write_is_finished_by_the_next(
    store_dir: Path, point: str, part: str
) -> None:
    store, expected = prepared(store_dir)
    with store:
        die_in_compaction(store_dir, Death(point, hit=2, part=part))
        assert_goes_on(store, expected, sound=point != "compact.before_forget")


@pytest.mark.parametrize("point", ["smallfile.before_header", "smallfile.after_header"])
def test_a_smallfile_that_a_compaction_only_began_is_removed_by_the_next(store_dir: Path, point: str) -> None:
    store, expected = prepared(store_dir)
    with store:
        die_in_compaction(store_dir, Death(point))
        begun = store._view.index.words[layout.H_OUTPUT_FILE]
        store.compact()
        assert begun not in store._smallfiles.ids()
        assert_goes_on(store, expected)


@pytest.mark.parametrize("point", ["compact.after_output", "compact.after_swing", "compact.after_punch"])
def test_a_store_rebuilt_right_after_a_compaction_was_killed_is_whole(store_dir: Path, point: str) -> None:
    store, expected = prepared(store_dir)
    store.close()
    die_in_compaction(store_dir, Death(point, 1))
    rebuilt(store_dir, expected)


@pytest.mark.parametrize("point", ["compact.after_floor", "compact.before_swing", "compact.before_punch"])
def test_compaction_of_a_durable_store_killed_is_finished_by_the_next(store_dir: Path, point: str) -> None:
    store, expected = prepared(store_dir, durable=True)
    with store:
        die_in_compaction(store_dir, Death(point, 1))
        assert_goes_on(store, expected)


def test_compaction_killed_again_and_again_leaves_no_trace(store_dir: Path) -> None:
    store, expected = prepared(store_dir)
    with store:
        for point in POINTS_OF_COMPACTION[::3] + POINTS_OF_COMPACTION[1::3]:
            store.put_many({name: expected[name] for name in NAMES[:60]})
            store.put_many({kvs.key_for(point): b"soon removed"})
            del store[kvs.key_for(point)]
            with Child(compact, store_dir, "mmap", Death(point)) as child:
                if child.receive() == point:
                    assert child.join() == -signal.SIGKILL
        assert_goes_on(store, expected)


def pause(connection: Connection, path: Path) -> None:
    """Compact, and say so and wait when the first batch is copied."""
    with kvs.open(path, "w") as store:

        def hook(name: str, *_: object) -> None:
            if name == "compact.after_append":
                connection.send("there")
                connection.recv()

        syncpoints.install(hook)
        store.compact()


def test_nobody_but_another_compaction_waits_for_one_that_is_stopped(store_dir: Path) -> None:
    store, expected = prepared(store_dir)
    with store, Child(pause, store_dir) as child:
        assert child.receive() == "there"
        child.stop()
        store[NAMES[5]] = expected[NAMES[5]] = b"meanwhile"
        assert_holds(store, expected)
        impatient = kvs.open(store_dir, "w", lock_timeout_s=0.05)
        message = f"COMPACT held by pid {child.pid}.*stopped"
        with impatient, pytest.raises(kvs.LockTimeoutError, match=message):
            impatient.compact()
        child.kill()
        assert_goes_on(store, expected)
