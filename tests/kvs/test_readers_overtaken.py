"""Readers take no lock: a writer may overwrite what they read at any moment. They must notice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvs
from kvs import syncpoints
from tests.kvs.children import step_through_commit
from tests.kvs.processes import Child

NAMES = {"one key": [kvs.key_for("k")], "many keys": [kvs.key_for(f"{i}") for i in range(60)]}
READ_POINTS = [point for point in syncpoints.POINTS if point.startswith("read.")]
HALF_WAY = ["publish.after_busy", "publish.after_location", "publish.after_length", "publish.after_time"]


@pytest.fixture(params=["mmap", "append"])
def io(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["integrity", "no integrity"])
def integrity(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=NAMES)
def names(request: pytest.FixtureRequest) -> list[bytes]:
    return NAMES[request.param]


@pytest.fixture
def writer(store_dir: Path, names: list[bytes], integrity: bool) -> Iterator[kvs.Store]:
    """Another handle, which gave every key the values 0 to 3 at T = 1 to 4: their rings are full."""
    with kvs.open(store_dir, integrity=integrity, index_capacity=500) as store:
        for time in range(4):
            store.put_many(dict.fromkeys(names, b"%d" % time))
        yield store


@pytest.fixture
def reader(writer: kvs.Store, io: str) -> Iterator[kvs.Store]:
    with kvs.open(writer.path, "r", io=io) as store:
        yield store


def once_at(point: str, work: Callable[[], object]) -> None:
    """Do ``work`` the first time that this process reaches ``point``."""

    def hook(name: str, *_: object) -> None:
        if name == point:
            syncpoints.install(None)
            work()

    syncpoints.install(hook)


def read(view: kvs.Store | kvs.Snapshot, names: list[bytes]) -> set[bytes | None]:
    """The values of ``names``: one key by itself, many together."""
    return {view.get(names[0])} if len(names) == 1 else set(view.get_many(names))


@pytest.mark.parametrize("commits", range(1, 6))
@pytest.mark.parametrize("point", READ_POINTS)
def test_a_get_that_is_overtaken_gives_one_of_the_values_whole(
    writer: kvs.Store, reader: kvs.Store, names: list[bytes], point: str, commits: int
) -> None:
    def overtake() -> None:
        for time in range(4, 4 + commits):
            writer.put_many(dict.fromkeys(names, b"%d" % time * 100 * time))

    once_at(point, overtake)
    found = read(reader, names)
    assert len(found) == 1, "one snapshot"
    assert found <= {b"3", *(b"%d" % time * 100 * time for time in range(4, 4 + commits))}
    assert read(reader, names) == {b"%d" % (3 + commits) * 100 * (3 + commits)}, "and the hook was reached"


@pytest.mark.parametrize("age", range(1, 5))
@pytest.mark.parametrize("point", READ_POINTS)
def test_a_snapshot_that_is_overtaken_gives_its_own_value_or_is_too_old(
    writer: kvs.Store, reader: kvs.Store, names: list[bytes], point: str, age: int
) -> None:
    """``age`` commits take all that the oldest ``age`` revisions had: the last one is the snapshot's."""
    overtaken = []

    def overtake() -> None:
        for time in range(age):
            writer.put_many(dict.fromkeys(names, b"later %d" % time))
        overtaken.append(True)

    with reader.snapshot() as snapshot:
        snapshot.transaction_counter = age
        once_at(point, overtake)
        with contextlib.suppress(kvs.SnapshotTooOldError):
            assert read(snapshot, names) == {b"%d" % (age - 1)}
        assert overtaken
        with pytest.raises(kvs.SnapshotTooOldError):
            read(snapshot, names)


@pytest.mark.parametrize("half_way", HALF_WAY)
@pytest.mark.parametrize("point", READ_POINTS)
def test_what_is_not_committed_yet_is_never_read(
    writer: kvs.Store, reader: kvs.Store, names: list[bytes], point: str, half_way: str
) -> None:
    """The publisher overwrites the oldest revision, which the snapshot reads, and stops half-way."""
    changes = dict.fromkeys(names, b"4")
    with (
        reader.snapshot() as snapshot,
        Child(step_through_commit, writer.path, changes, ["publish.before_busy", half_way]) as publisher,
    ):
        snapshot.transaction_counter = 1
        assert publisher.receive() == "publish.before_busy"

        def overtake() -> None:
            publisher.send()
            assert publisher.receive() == half_way

        once_at(point, overtake)
        with contextlib.suppress(kvs.SnapshotTooOldError):
            assert read(snapshot, names) == {b"0"}
        assert read(reader, names) == {b"3"}
        assert len(reader) == len(names)
        with reader.snapshot() as newest:
            assert list(newest.items()) == [(name, b"3") for name in reader]
        publisher.send()
        assert publisher.receive() == "committed"
        assert read(reader, names) == {b"4"}


@pytest.mark.parametrize("half_way", HALF_WAY)
@pytest.mark.parametrize("point", READ_POINTS)
def test_a_get_never_reads_what_is_not_committed_yet(
    writer: kvs.Store, reader: kvs.Store, names: list[bytes], point: str, half_way: str
) -> None:
    """Three commits while it reads, and a fourth that stops half-way in the very place that it reads."""
    with kvs.open(writer.path, "w") as other:  # in the smallfile that the publisher will have
        other.put_many(dict.fromkeys(names, b"3"))
    assert read(reader, names) == {b"3"}, "so that the reader has mapped it"
    changes = dict.fromkeys(names, b"7")
    with Child(step_through_commit, writer.path, changes, ["commit.before_lock", half_way]) as publisher:
        assert publisher.receive() == "commit.before_lock"

        def overtake() -> None:
            for value in (b"4", b"5", b"6"):
                writer.put_many(dict.fromkeys(names, value))
            publisher.send()
            assert publisher.receive() == half_way

        once_at(point, overtake)
        found = read(reader, names)
        assert len(found) == 1
        assert found <= {b"3", b"4", b"5", b"6"}
        assert read(reader, names) == {b"6"}
        publisher.send()
        assert publisher.receive() == "committed"
        assert read(reader, names) == {b"7"}


@pytest.mark.parametrize("half_way", ["publish.after_key", *HALF_WAY, "commit.before_visible"])
def test_a_new_key_is_not_there_before_its_commit(
    writer: kvs.Store, reader: kvs.Store, names: list[bytes], half_way: str
) -> None:
    new = [kvs.key_for(f"new {i}") for i in range(len(names))]
    changes = dict.fromkeys(new, b"value")
    with Child(step_through_commit, writer.path, changes, [half_way]) as publisher:
        assert publisher.receive() == half_way
        assert read(reader, new) == {None}
        assert reader.last_updated(new) == [0] * len(new)
        assert set(reader) == set(names)
        publisher.send()
        assert publisher.receive() == "committed"
        assert read(reader, new) == {b"value"}
