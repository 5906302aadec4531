"""The index is rebuilt from the smallfiles, all of it, whatever dies meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

import kvs
from kvs import files, layout, rebuild, syncpoints
from kvs import index as index_module
from kvs.errors import StorageFullError, UnknownStoreError
from kvs.index import Index
from tests.kvs.logs import OUTPUT, STRIDE, UUID, WRITERS, Changes, Logfile, key, smallfiles
from tests.kvs.rebuilt import (
    BOOT,
    FEW,
    FLAGS,
    History,
    Rebuilt,
    commit_all,
    cut,
    expected_of,
    histories_of,
    index_of,
    rebuilt,
    refused,
    two_places,
)


def test_every_key_has_its_newest_four_revisions(tmp_path: Path) -> None:
    transactions = [*FEW, {key(1): None, key(9): None}]
    log = commit_all(tmp_path, transactions)
    found = rebuilt(tmp_path)
    assert found.histories == expected_of(transactions)
    assert [time for time, _ in found.histories[key(0)]] == [6, 5, 4, 3]
    assert (found.words["ENTRIES_USED"], found.words["KEYS_LIVE"]) == (7, 5)
    assert (found.last, found.words["FLOOR"], found.words["OUTPUT_FILE"]) == (7, 0, 0)
    assert (found.places, found.name) == ({0: (0, log.end)}, "index.0")


def test_an_empty_smallfile_makes_an_empty_index(tmp_path: Path) -> None:
    Logfile(1).store(tmp_path)
    found = rebuilt(tmp_path)
    assert (found.histories, found.last, found.places) == ({}, 0, {1: (1, 128)})


def test_the_places_know_their_newest_smallfiles_and_all_are_sealed(tmp_path: Path) -> None:
    ends = {}
    for time, file_id in enumerate([0, STRIDE, 1, 2 * STRIDE + 1], 1):
        log = Logfile(file_id)
        log.commit(time, {key(time): b"v"})
        log.store(tmp_path)
        ends[file_id] = log.end
    for file_id in (OUTPUT, OUTPUT + STRIDE):
        log = Logfile(file_id)
        log.move(2)
        log.seal()
        log.store(tmp_path)
        ends[file_id] = log.end
    found = rebuilt(tmp_path)
    assert found.places == {0: (STRIDE, ends[STRIDE]), 1: (2 * STRIDE + 1, ends[2 * STRIDE + 1])}
    assert (found.words["OUTPUT_FILE"], found.words["FLOOR"], found.last) == (OUTPUT + STRIDE, 2, 4)
    reader = smallfiles(tmp_path)
    assert {file_id: reader.bound(file_id, layout.B_END) for file_id in ends} == ends
    reader.close()


def test_there_is_room_for_half_as_many_keys_again(tmp_path: Path) -> None:
    commit_all(tmp_path, [{key(i): b"" for i in range(5_000)}])
    rebuild.rebuild(tmp_path, boot_id=BOOT)
    index = Index(tmp_path / "index.0", write=False)
    assert (index.capacity, index.slots) == (7_500, layout.slots_for(7_500))
    index.close()


# -- the floor, and moved records -------------------------------------------------------------------------


def test_below_the_floor_transactions_may_be_missing_and_moved_records_count(tmp_path: Path) -> None:
    writer = Logfile(0)
    writer.commit(1, {key(1): b"dead"})
    dead = writer.end
    writer.commit(6, {key(1): b"new"})
    writer.bound(layout.B_BEGIN, dead)
    writer.data[128:dead] = bytes(dead - 128)
    writer.store(tmp_path)
    output = Logfile(OUTPUT)
    output.move(5)
    output.move(5, [(3, key(1), b"old"), (2, key(2), None), (5, key(3), b"three")])
    output.seal()
    output.store(tmp_path)
    found = rebuilt(tmp_path)
    assert (found.last, found.words["FLOOR"]) == (6, 5)
    assert found.histories == {
        key(1): [(6, b"new"), (3, b"old")],
        key(2): [(2, None)],
        key(3): [(5, b"three")],
    }


def test_a_record_that_is_there_twice_is_one_revision(tmp_path: Path) -> None:
    """A compaction died between moving records and giving their old places back."""
    transactions: list[Changes] = [{key(1): b"%d" % time, key(time + 10): b"x"} for time in range(1, 7)]
    commit_all(tmp_path, transactions)
    output = Logfile(OUTPUT)
    output.move(6)
    output.move(6, [(time, key(1), b"%d" % time) for time in (4, 6, 5)])
    output.seal()
    output.store(tmp_path)
    assert rebuilt(tmp_path).histories == expected_of(transactions)


def test_what_a_compaction_did_not_publish_does_not_count(tmp_path: Path) -> None:
    output = Logfile(OUTPUT)
    output.move(0)
    output.seal()
    output.move(0, [(1, key(1), b"not swung")])
    output.store(tmp_path)
    assert rebuilt(tmp_path).histories == {}


def test_a_rebuilt_history_has_no_holes(tmp_path: Path) -> None:
    """Everything older than a removal up to the floor was forgotten, but only some of it is gone: here the second of
    two values. A campaign found the first one in a rebuilt history, as if nothing had come between it and the removal.
    """
    writer = Logfile(0)
    writer.commit(1, {key(1): b"one", key(2): b"kept"})
    writer.commit(3, {key(1): None})
    writer.commit(6, {key(1): b"six"})
    writer.commit(7, {key(2): None})
    writer.store(tmp_path)
    output = Logfile(OUTPUT)
    output.move(5, [(4, key(3), b"moved")])
    output.seal()
    output.store(tmp_path)
    assert rebuilt(tmp_path).histories == {
        key(1): [(6, b"six"), (3, None)],
        key(2): [(7, None), (1, b"kept")],
        key(3): [(4, b"moved")],
    }


# -- whose smallfiles they are ----------------------------------------------------------------------------


def _index(directory: Path, number: int, uuid: bytes = UUID, capacity: int = 100) -> Path:
    path = directory / layout.index_name(number)
    index_module.build(
        path,
        capacity=capacity,
        flags=FLAGS,
        store_uuid=uuid,
        boot_id=bytes(16),
        writers_max=WRITERS,
        generation=number,
    )
    return path


def test_the_old_index_says_which_store_it_is_and_goes(tmp_path: Path) -> None:
    commit_all(tmp_path, FEW)
    stranger = Logfile(1, uuid=bytes(16))
    stranger.commit(3, {key(1): b"another"})
    path = stranger.store(tmp_path)
    _index(tmp_path, 7)
    (tmp_path / "index.9.new").write_bytes(b"half made")
    (tmp_path / "index.txt").write_bytes(b"a note")
    rebuild.rebuild(tmp_path, boot_id=BOOT)
    (tmp_path / "index.txt").unlink()
    found = index_of(tmp_path)
    assert found.histories == expected_of(FEW)
    assert (found.name, path.exists()) == ("index.10", False)


def test_an_old_index_alone_is_an_empty_store_with_its_properties(tmp_path: Path) -> None:
    _index(tmp_path, 0, capacity=5_000)
    assert rebuilt(tmp_path).histories == {}
    index = Index(tmp_path / "index.1", write=False)
    assert index.capacity == 5_000
    index.close()


def test_smallfiles_of_two_stores_and_no_index_are_refused(tmp_path: Path) -> None:
    Logfile(0).store(tmp_path)
    Logfile(1, uuid=bytes(16)).store(tmp_path)
    path = _index(tmp_path, 0)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    error = refused(tmp_path, "2 stores")
    assert "00000.small, 00001.small" in str(error)


def test_nothing_to_rebuild_from_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.0").write_bytes(bytes(10_000))
    refused(tmp_path, r"\(none\) are of 0 stores")


def test_smallfiles_of_a_newer_format_are_left_alone(tmp_path: Path) -> None:
    path = Logfile(0).store(tmp_path)
    head = layout.SMALLFILE_HEADER.pack(
        layout.SMALLFILE_MAGIC, layout.FORMAT_VERSION + 1, UUID, 0, layout.pack_traits(FLAGS, WRITERS)
    )
    path.write_bytes(head + xxh3_128_digest(head) + bytes(64))
    before = path.read_bytes()
    with pytest.raises(UnknownStoreError, match="Upgrade kvs"):
        rebuild.rebuild(tmp_path, boot_id=BOOT)
    assert path.read_bytes() == before


# -- deaths and full disks --------------------------------------------------------------------------------


class _Death(BaseException):
    pass


def _dying(directory: Path, arrange: Callable[[pytest.MonkeyPatch], None]) -> None:
    """A rebuild that dies where ``arrange`` says."""
    with pytest.MonkeyPatch.context() as patch:
        arrange(patch)
        with pytest.raises(_Death):
            rebuild.rebuild(directory, boot_id=BOOT)
    syncpoints.install(None)


def _interrupted(directory: Path) -> Rebuilt:
    """A store that was cut, with the index and the leftovers of others; returns what is rebuilt from a copy of it."""
    logs = two_places(directory)
    cut(directory, logs[1], 1)
    (directory / layout.smallfile_name(STRIDE)).write_bytes(b"no header")
    Logfile(STRIDE + 1, uuid=bytes(16)).store(directory)
    _index(directory, 3)
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    return rebuilt(copy)


@pytest.mark.parametrize("point", [name for name in syncpoints.POINTS if name.startswith("rebuild.")])
def test_after_a_death_at_any_point_the_same_is_rebuilt(tmp_path: Path, point: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    expected = _interrupted(store)
    reached: list[str] = []

    def hook(name: str, *_: object) -> None:
        reached.append(name)
        if name == point:
            raise _Death

    _dying(store, lambda _: syncpoints.install(hook))
    assert reached[-1] == point
    assert rebuilt(store)._replace(name="") == expected._replace(name="")


@pytest.mark.parametrize("seam", ["unlink", "write_at", "sync_data", "publish", "sync_directory"])
def test_after_a_death_between_any_two_changes_the_same_is_rebuilt(tmp_path: Path, seam: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    expected = _interrupted(store)
    original = getattr(files, seam)
    for count in range(1, 20):
        work = tmp_path / f"work-{count}"
        shutil.copytree(store, work)
        calls = 0

        def dying(*args: object) -> None:
            nonlocal calls
            calls += 1
            original(*args)
            if calls == count:  # noqa: B023 - called in this round only
                raise _Death

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, seam, dying)
            try:
                rebuild.rebuild(work, boot_id=BOOT)
            except _Death:
                pass
            else:
                assert calls == count - 1 > 0
                return
        assert rebuilt(work)._replace(name="") == expected._replace(name="")
    raise AssertionError("it never came to its end")


def test_a_full_disk_leaves_the_smallfiles_and_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_all(tmp_path, FEW)
    old = _index(tmp_path, 0)
    before = old.read_bytes()

    def full(fd: int, offset: int, length: int, path: Path) -> None:
        if ".new" in path.name:
            raise StorageFullError(str(path), length, 28)

    with monkeypatch.context() as patch:
        patch.setattr(files, "allocate", full)
        with pytest.raises(StorageFullError):
            rebuild.rebuild(tmp_path, boot_id=BOOT)
    assert [path.name for path in tmp_path.glob("index.*")] == ["index.0"]
    assert old.read_bytes() == before
    assert rebuilt(tmp_path).histories == expected_of(FEW)


# -- against the index that the store itself had ----------------------------------------------------------

_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 1),
            st.dictionaries(
                st.integers(0, 9), st.one_of(st.none(), st.binary(max_size=60)), min_size=1, max_size=5
            ),
        ),
        st.tuples(st.sampled_from([2, 3]), st.just({})),
    ),
    min_size=1,
    max_size=25,
)


@given(_OPERATIONS, st.booleans())
@settings(max_examples=40)
def test_a_store_whose_index_is_lost_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    operations: list[tuple[int, dict[int, bytes | None]]],
    durable: bool,
) -> None:
    """Two writers, many smallfiles, reopened now and then; some of it was rebuilt before."""
    path = tmp_path_factory.mktemp("lost") / "store"
    handles = [kvs.open(path, durable=durable, smallfile_bytes=1024, index_capacity=4) for _ in range(2)]
    for which, changes in operations:
        if which < 2:
            with handles[which].transaction() as txn:
                for number, value in changes.items():
                    if value is None:
                        txn.remove_unsafe(key(number))
                    else:
                        txn.update_unsafe(key(number), value)
            continue
        for handle in handles:
            handle.close()
        if which == 3:
            _lose_index(path)
        handles = [kvs.open(path, smallfile_bytes=1024) for _ in range(2)]
        assert handles[0].verify() == []
    for handle in handles:
        handle.close()
    _lose_index(path)
    shutil.rmtree(path)


def _lose_index(path: Path) -> None:
    """Remove the index, and rebuild it: nothing may differ. Without a smallfile nothing tells what was there."""
    before = _same_store(path)
    if any(path.glob("*.small")):
        for index_path in path.glob("index.*"):
            index_path.unlink()
    rebuild.rebuild(path, boot_id=files.boot_id())
    assert _same_store(path) == before


def _same_store(path: Path) -> tuple[dict[bytes, History], list[int]]:
    """Every key's history, and the counters, as the index in ``path`` says."""
    [found] = path.glob("index.*")
    index = Index(found, write=False)
    flags = layout.FLAG_INTEGRITY | (index.flags & layout.FLAG_DURABLE)
    words = [
        index.visible_word,
        layout.H_COMMITTED,
        layout.H_KEYS_LIVE,
        layout.H_ENTRIES_USED,
        layout.H_FLAGS,
    ]
    counters = [index.words[word] for word in words]
    histories = histories_of(index, path, flags)
    index.close()
    return histories, counters
