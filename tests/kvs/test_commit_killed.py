"""A process dies by SIGKILL at every sync point of a commit, of a repair, of opening and of closing."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

import kvs
from kvs import syncpoints
from kvs.syncpoints import POINTS
from tests.kvs.children import Changes, commit, open_and_close
from tests.kvs.processes import Child, Death

CAPACITY = 500
OTHER = kvs.key_for("a key that the dying transaction does not touch")
ORDER = list(POINTS)
DURABLE_ONLY = {"record.before_sync", "record.after_sync", "commit.after_durable"}
PARTS = ("nothing", "one", "half", "all but one")
CARRIES_BYTES = ("prepare.before_append", "record.before_append")
CARRIES_WORDS = ("publish.before_key", "publish.before_busy")  # in large transactions
SIZES = {"scalar": 3, "vectorised": 100}


def named(*subjects: str) -> list[str]:
    """The registered points of these subjects, in the order in which a commit reaches them."""
    return [point for point in ORDER if point.partition(".")[0] in subjects]


COMMIT_POINTS = named("prepare", "commit", "record", "publish")
REPAIR_POINTS = named("repair")
CLAIM_POINTS, CREATE_POINTS, CLOSE_POINTS = named("claim"), named("create"), named("close")
PUBLISH_IN_REPAIR = [*named("publish"), "commit.after_visible", "commit.after_tail"]


def contents(size: int) -> tuple[dict[bytes, bytes], Changes, dict[bytes, bytes]]:
    """What is there before, a transaction of ``size`` keys over it (updates, removals and new keys), and
    what is there after.
    """
    third = size // 3
    before = {kvs.key_for(f"old {i}"): b"before %d" % i for i in range(2 * third)}
    changes: Changes = {}
    for i, key in enumerate(before):
        changes[key] = None if i % 2 else b"after %d" % i
    for i in range(size - 2 * third):
        changes[kvs.key_for(f"new {i}")] = b"new %d" % i * i
    after = {key: value for key, value in {**before, **changes}.items() if value is not None}
    return before, changes, after


def survivor(path: Path, before: dict[bytes, bytes], *, durable: bool = False, io: str = "mmap") -> kvs.Store:
    """A handle on a new store that holds ``before``."""
    store = kvs.open(path, "n", durable=durable, io=io, index_capacity=CAPACITY)
    store.put_many(before)
    return store


def die_in_commit(path: Path, changes: Changes, death: Death, io: str = "mmap") -> None:
    """Have another process commit ``changes`` and assert that it died, and died there."""
    with Child(commit, path, io, changes, death) as child:
        assert child.receive() == death.point
        assert child.join() == -signal.SIGKILL


def everything(store: kvs.Store, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """What the store holds, asked for in four ways that must agree."""
    found = dict(store.snapshot().items())
    names = list(keys)
    assert store.get_many(names) == [store.get(name) for name in names] == [found.get(name) for name in names]
    return found


def assert_healed(store: kvs.Store, expected: dict[bytes, bytes], keys: Iterable[bytes], time: int) -> None:
    """The next commit works and gets the next T; the store holds exactly ``expected`` and is sound."""
    assert store.put_many({OTHER: b"alive"}) == time
    expected = {**expected, OTHER: b"alive"}
    assert everything(store, [*keys, OTHER]) == expected
    assert len(store) == len(expected)
    assert store.verify() == []
    assert store.stat()["transactions"] == time
    with kvs.open(store.path, "w", io="append") as another:
        assert everything(another, [*keys, OTHER]) == expected
        assert another.verify() == []


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_commit_killed_at_any_point_is_whole_or_absent(
    store_dir: Path, point: str, size: str, io: str
) -> None:
    before, changes, after = contents(SIZES[size])
    if point.endswith("_extend"):  # the first megabyte came with the smallfile's header
        after[OTHER] = changes[OTHER] = bytes(2 << 20)
    with survivor(store_dir, before, durable=point in DURABLE_ONLY) as store:
        die_in_commit(store_dir, changes, Death(point), io)
        shown = after if ORDER.index(point) >= ORDER.index("commit.after_visible") else before
        assert everything(store, changes) == shown, "before anybody repaired anything"
        happened = ORDER.index(point) >= ORDER.index("record.after_append")
        assert_healed(store, after if happened else before, changes, 3 if happened else 2)
        for key, value in before.items():
            older = store.find(key, 1 if happened else 0)
            assert older is not None
            assert older.value == value, "the revision before"


@pytest.mark.parametrize("hit", [2, 3])
@pytest.mark.parametrize("point", named("publish"))
def test_commit_killed_between_keys_is_whole(store_dir: Path, point: str, hit: int) -> None:
    before, changes, after = contents(9)  # three of its keys are new
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, hit))
        assert everything(store, changes) == before
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("part", [*PARTS, "all but reserved", "all"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", CARRIES_BYTES)
def test_commit_killed_in_a_torn_append_is_absent_unless_the_record_is_whole(
    store_dir: Path, point: str, size: str, part: str
) -> None:
    before, changes, after = contents(SIZES[size])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, part=part), "append" if part == "half" else "mmap")
        # The last 16 bytes of a commit record are reserved: zero, which the file's new blocks are already.
        happened = point == "record.before_append" and part in {"all", "all but one"}
        assert everything(store, changes) == before
        assert_healed(store, after if happened else before, changes, 3 if happened else 2)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", CARRIES_WORDS)
def test_commit_killed_in_a_torn_publish_is_whole(store_dir: Path, point: str, part: str) -> None:
    before, changes, after = contents(SIZES["vectorised"])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, part=part))
        assert everything(store, changes) == before
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", ["commit.after_validate", "publish.before_key", "commit.after_tail"])
def test_commit_killed_between_two_words_is_whole_or_absent(store_dir: Path, point: str, part: str) -> None:
    before, changes, after = contents(SIZES["scalar"])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, part=part))
        happened = point != "commit.after_validate"
        assert everything(store, changes) == (after if point == "commit.after_tail" else before)
        assert_healed(store, after if happened else before, changes, 3 if happened else 2)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", ["claim.after_header", "close.before_clean"])
def test_a_process_killed_between_two_words_of_its_place_or_of_the_clean_mark_leaves_a_sound_store(
    store_dir: Path, point: str, part: str
) -> None:
    before, changes, _ = contents(SIZES["scalar"])
    store = survivor(store_dir, before)
    if point.startswith("close"):
        store.close()
    with Child(open_and_close, store_dir, Death(point, part=part), {}) as child:
        assert child.receive() == point
        assert child.join() == -signal.SIGKILL
    if point.startswith("close"):
        store = kvs.open(store_dir, "w")
    with store:
        assert_healed(store, before, changes, 2)


def test_commit_killed_again_and_again_in_one_writer_place_leaves_no_trace(store_dir: Path) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before) as store:
        for point in ("record.before_append", "prepare.after_append", "commit.after_intent"):
            die_in_commit(store_dir, changes, Death(point))
            assert everything(store, changes) == before
        die_in_commit(store_dir, changes, Death("publish.after_busy", hit=2))
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", [*REPAIR_POINTS, *PUBLISH_IN_REPAIR])
def test_repair_killed_at_any_point_is_repaired_by_a_third(store_dir: Path, point: str, size: str) -> None:
    before, changes, after = contents(SIZES[size])
    discarded = point.endswith("_discard")
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death("commit.after_intent" if discarded else "publish.before_key"))
        with Child(open_and_close, store_dir, Death(point), {}) as child:
            assert child.receive() == point
            assert child.join() == -signal.SIGKILL
        assert_healed(store, before if discarded else after, changes, 2 if discarded else 3)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", CARRIES_WORDS)
def test_repair_killed_in_a_torn_publish_is_repaired_by_a_third(
    store_dir: Path, point: str, part: str
) -> None:
    before, changes, after = contents(SIZES["vectorised"])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, part="half"))
        with Child(open_and_close, store_dir, Death(point, part=part), {}) as child:
            assert child.receive() == point
            assert child.join() == -signal.SIGKILL
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("dead_at", named("commit")[named("commit").index("commit.after_visible") :])
def test_repair_of_a_visible_commit_only_accounts_for_it(store_dir: Path, dead_at: str) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before, durable=dead_at in DURABLE_ONLY) as store:
        die_in_commit(store_dir, changes, Death(dead_at))
        reached: list[str] = []
        syncpoints.install(lambda name, *_: reached.append(name))
        assert_healed(store, after, changes, 3)
        assert "repair.before_redo" not in reached
        assert ("repair.after_found" in reached) == (ORDER.index(dead_at) < ORDER.index("commit.after_clear"))


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize(
    "death", [Death(point) for point in CLAIM_POINTS] + [Death("claim.before_header", part=p) for p in PARTS]
)
def test_claim_killed_at_any_point_leaves_the_place_for_the_next(
    store_dir: Path, death: Death, io: str
) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before) as store:
        with Child(open_and_close, store_dir, death, {"io": io}) as child:
            assert child.receive() == death.point
            assert child.join() == -signal.SIGKILL
        with Child(commit, store_dir, io, changes, None) as child:  # takes the same place
            assert child.receive() == "survived"
            assert child.join() == 0
        assert_healed(store, after, changes, 3)
        assert store.stat()["smallfiles"] == 2


@pytest.mark.parametrize("point", CREATE_POINTS)
def test_create_killed_at_any_point_leaves_no_store_or_an_empty_one(store_dir: Path, point: str) -> None:
    options = {"flag": "c", "index_capacity": CAPACITY}
    with Child(open_and_close, store_dir, Death(point), options) as child:
        assert child.receive() == point
        assert child.join() == -signal.SIGKILL
    if point == "create.after_publish":
        kvs.open(store_dir, "w").close()
    else:
        with pytest.raises(kvs.StoreNotFoundError):
            kvs.open(store_dir, "r")
    with kvs.open(store_dir, "c", index_capacity=CAPACITY) as store:
        assert_healed(store, {}, [], 1)


@pytest.mark.parametrize("point", CREATE_POINTS)
def test_replace_killed_at_any_point_leaves_the_old_store_or_a_new_one(store_dir: Path, point: str) -> None:
    before, _, _ = contents(30)
    survivor(store_dir, before).close()
    options = {"flag": "n", "index_capacity": CAPACITY}
    with Child(open_and_close, store_dir, Death(point), options) as child:
        assert child.receive() == point
        assert child.join() == -signal.SIGKILL
    with kvs.open(store_dir, "w") as store:
        new = point == "create.after_publish"
        assert_healed(store, {} if new else before, before, 1 if new else 2)


@pytest.mark.parametrize("point", CLOSE_POINTS)
def test_close_killed_at_any_point_loses_nothing(store_dir: Path, point: str) -> None:
    before, changes, after = contents(3)
    survivor(store_dir, before).close()
    with Child(commit, store_dir, "mmap", changes, None) as child:
        assert child.receive() == "survived"
        assert child.join() == 0
    with Child(open_and_close, store_dir, Death(point), {}) as child:
        assert child.receive() == point
        assert child.join() == -signal.SIGKILL
    with kvs.open(store_dir, "w") as store:
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_commit_interrupted_at_any_point_is_whole_or_absent_and_the_handle_goes_on(
    store_dir: Path, point: str, size: str
) -> None:
    """A Ctrl-C raises in the middle of a commit; the same handle must not overwrite what it promised."""
    before, changes, after = contents(SIZES[size])
    if point.endswith("_extend"):
        after[OTHER] = changes[OTHER] = bytes(2 << 20)

    def interrupt(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            raise KeyboardInterrupt

    with survivor(store_dir, before, durable=point in DURABLE_ONLY) as store:
        syncpoints.install(interrupt)
        txn = store.transaction()
        for key, value in changes.items():
            txn.update_unsafe(key, value) if value is not None else txn.remove_unsafe(key)
        with pytest.raises(KeyboardInterrupt):
            txn.commit()
        happened = ORDER.index(point) >= ORDER.index("record.after_append")
        assert everything(store, changes) == (after if happened else before), "settled at once"
        assert store.stat()["intent"] == 0
        assert_healed(store, after if happened else before, changes, 3 if happened else 2)


def test_every_registered_point_is_reached_and_none_that_is_not_registered(store_dir: Path) -> None:
    before, changes, _ = contents(SIZES["vectorised"])
    reached: set[str] = set()
    syncpoints.install(lambda name, *_: reached.add(name))
    for durable in (False, True):
        with survivor(store_dir, before, durable=durable) as store:
            assert [store.get(key) for key in before] == list(before.values())
            for dead_at in ("commit.after_intent", "publish.before_key"):
                die_in_commit(store_dir, changes, Death(dead_at))
                store[OTHER] = b"repairs"
    assert reached == set(POINTS)


def test_every_registered_point_is_killed_at_by_a_test_of_this_file() -> None:
    killed = {*COMMIT_POINTS, *REPAIR_POINTS, *CLAIM_POINTS, *CREATE_POINTS, *CLOSE_POINTS}
    assert set(POINTS) - killed == set(named("read")), "readers leave nothing behind"
