"""A process dies by SIGKILL at every sync point of a commit, of a repair, of opening and of closing."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvs
from kvs import syncpoints
from kvs.syncpoints import POINTS
from tests.kvs.children import commit
from tests.kvs.killing import (
    CAPACITY,
    ORDER,
    OTHER,
    PARTS,
    SIZES,
    assert_healed,
    contents,
    die_in_commit,
    die_in_opening,
    everything,
    happened,
    named,
    survivor,
    write,
)
from tests.kvs.processes import Child, Death

CARRIES_BYTES = ("prepare.before_append", "record.before_append")
CARRIES_WORDS = ("publish.before_key", "publish.before_busy")  # in large transactions
MODES = {
    "mmap": (False, "mmap"),
    "append": (False, "append"),
    "durable": (True, "mmap"),
}
COMMIT_POINTS = named("prepare", "commit", "record", "publish")
DURABLE_POINTS = named("durable")
REPAIR_POINTS = named("repair")
CLAIM_POINTS, CREATE_POINTS, CLOSE_POINTS = named("claim"), named("create"), named("close")
PUBLISH_IN_REPAIR = [*named("publish"), "commit.after_visible", "commit.after_tail"]
ELSEWHERE = {
    "laggard": "test_durable.py",
    "smallfile": "test_rollover.py",
    "grow": "test_growth.py",
    "snapshot": "test_pins.py",
    "compact": "test_compaction_killed.py",
    "rebuild": "test_rebuild.py",
    "read": "test_readers_overtaken.py",  # overtaken, not killed: readers leave nothing behind
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("point", "mode"),
    [(point, mode) for mode in MODES for point in COMMIT_POINTS]
    + [(point, "durable") for point in DURABLE_POINTS],
)
def test_commit_killed_at_any_point_is_whole_or_absent(
    store_dir: Path, point: str, size: str, mode: str
) -> None:
    durable, io = MODES[mode]
    before, changes, after = contents(SIZES[size])
    with survivor(store_dir, before, durable=durable) as store:
        die_in_commit(store_dir, changes, Death(point), io)
        visible = "durable.after_raise" if durable else "commit.after_visible"
        shown = after if ORDER.index(point) >= ORDER.index(visible) else before
        assert everything(store, changes) == shown, "before anybody repaired anything"
        assert_healed(store, after if happened(point) else before, changes, 3 if happened(point) else 2)
        for key, value in before.items():
            older = store.find(key, 1 if happened(point) else 0)
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
def test_a_process_killed_between_two_words_of_the_clean_mark_leaves_a_sound_store(
    store_dir: Path, part: str
) -> None:
    before, changes, _ = contents(SIZES["scalar"])
    survivor(store_dir, before).close()
    die_in_opening(store_dir, Death("close.before_clean", part=part))
    with kvs.open(store_dir, "w") as store:
        assert_healed(store, before, changes, 2)


def test_commit_killed_again_and_again_in_one_writer_place_leaves_no_trace(store_dir: Path) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before) as store:
        for point in ("record.before_append", "prepare.after_append", "commit.after_intent"):
            die_in_commit(store_dir, changes, Death(point))
            assert everything(store, changes) == before
        die_in_commit(store_dir, changes, Death("publish.after_busy", hit=2))
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("durable", [False, True])
def test_commit_killed_repaired_and_killed_again_in_one_writer_place(store_dir: Path, durable: bool) -> None:
    """The survivor has the place's smallfile open from the first repair on, and must see what is in it now."""
    before, changes, after = contents(3)
    with survivor(store_dir, before, durable=durable) as store:
        time, expected = 2, before
        for point in (
            "commit.after_intent",
            "publish.before_key",
            "commit.after_intent",
            "commit.after_visible",
        ):
            die_in_commit(store_dir, changes, Death(point))
            if happened(point):
                time, expected = time + 1, after
            assert_healed(store, expected, changes, time)
            time += 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("point", [*REPAIR_POINTS, *PUBLISH_IN_REPAIR])
def test_repair_killed_at_any_point_is_repaired_by_a_third(store_dir: Path, point: str, size: str) -> None:
    before, changes, after = contents(SIZES[size])
    discarded = point.endswith("_discard")
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death("commit.after_intent" if discarded else "publish.before_key"))
        die_in_opening(store_dir, Death(point))
        assert_healed(store, before if discarded else after, changes, 2 if discarded else 3)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("point", CARRIES_WORDS)
def test_repair_killed_in_a_torn_publish_is_repaired_by_a_third(
    store_dir: Path, point: str, part: str
) -> None:
    before, changes, after = contents(SIZES["vectorised"])
    with survivor(store_dir, before) as store:
        die_in_commit(store_dir, changes, Death(point, part="half"))
        die_in_opening(store_dir, Death(point, part=part))
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("dead_at", named("commit")[named("commit").index("commit.after_visible") :])
def test_repair_of_a_visible_commit_only_accounts_for_it(
    store_dir: Path, dead_at: str, durable: bool
) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before, durable=durable) as store:
        die_in_commit(store_dir, changes, Death(dead_at))
        reached: list[str] = []
        syncpoints.install(lambda name, *_: reached.append(name))
        assert_healed(store, after, changes, 3)
        assert "repair.before_redo" not in reached
        assert ("repair.after_found" in reached) == (ORDER.index(dead_at) < ORDER.index("commit.after_clear"))


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("point", CLAIM_POINTS)
def test_claim_killed_at_any_point_leaves_the_place_for_the_next(
    store_dir: Path, point: str, io: str
) -> None:
    before, changes, after = contents(3)
    with survivor(store_dir, before) as store:
        die_in_opening(store_dir, Death(point), {"io": io})
        with Child(commit, store_dir, io, changes, None) as child:  # takes the same place
            assert child.receive() == "survived"
            assert child.join() == 0
        assert_healed(store, after, changes, 3)
        assert store.stat()["smallfiles"] == 2


@pytest.mark.parametrize("point", CREATE_POINTS)
def test_create_killed_at_any_point_leaves_no_store_or_an_empty_one(store_dir: Path, point: str) -> None:
    options = {"flag": "c", "index_capacity": CAPACITY}
    die_in_opening(store_dir, Death(point), options)
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
    die_in_opening(store_dir, Death(point), options)
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
    die_in_opening(store_dir, Death(point))
    with kvs.open(store_dir, "w") as store:
        assert_healed(store, after, changes, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("point", "durable"),
    [(point, durable) for durable in (False, True) for point in COMMIT_POINTS]
    + [(point, True) for point in DURABLE_POINTS],
)
def test_commit_interrupted_at_any_point_is_whole_or_absent_and_the_handle_goes_on(
    store_dir: Path, point: str, size: str, durable: bool
) -> None:
    """A Ctrl-C raises in the middle of a commit; the same handle must not overwrite what it promised."""
    before, changes, after = contents(SIZES[size])

    def interrupt(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            raise KeyboardInterrupt

    with survivor(store_dir, before, durable=durable) as store:
        if point.endswith("_extend"):
            changes[OTHER] = after[OTHER] = bytes(2 << 20)  # longer than what came with the smallfile
        syncpoints.install(interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(store, changes)
        visible = happened(point) and (not durable or point == "durable.after_raise")
        assert everything(store, changes) == (after if visible else before), "settled at once, if not durable"
        assert store.stat()["intent"] == 0
        with kvs.open(store_dir, "w", lock_timeout_s=0.0) as another:
            assert another.verify() == [], "no lock was left behind, and what was not synced is synced for it"
            assert everything(another, changes) == (after if happened(point) else before)
        assert_healed(store, after if happened(point) else before, changes, 3 if happened(point) else 2)


def test_every_registered_point_is_reached_and_none_that_is_not_registered(store_dir: Path) -> None:
    before, changes, _ = contents(SIZES["vectorised"])
    reached: set[str] = set()
    syncpoints.install(lambda name, *_: reached.add(name))
    for durable in (False, True):
        dead_at = ["commit.after_intent", "publish.before_key"] + ["durable.before_sync"] * durable
        with survivor(
            store_dir, before, durable=durable, smallfile_bytes=1 << 13, index_capacity=80
        ) as store:
            assert [store.get(key) for key in before] == list(before.values())
            for point in dead_at:
                die_in_commit(store_dir, changes, Death(point))
                store[OTHER] = b"repairs"
            write(store, dict.fromkeys(before))
            store.put_many(dict.fromkeys(range(2000), b"more than there is room for"))
            with store.snapshot():
                store.compact()
    kvs.open(store_dir).close()
    (index,) = store_dir.glob("index.*")
    index.unlink()
    kvs.open(store_dir).close()
    assert reached == set(POINTS)


def test_every_registered_point_is_killed_at_by_a_test() -> None:
    here = {*COMMIT_POINTS, *DURABLE_POINTS, *REPAIR_POINTS, *CLAIM_POINTS, *CREATE_POINTS, *CLOSE_POINTS}
    assert set(POINTS) - here == set(named(*ELSEWHERE))
    for subject, file in ELSEWHERE.items():
        source = Path(__file__).with_name(file).read_text(encoding="utf-8")
        assert any(f'{say}("{subject}' in source for say in ("named", "startswith")), (subject, file)
