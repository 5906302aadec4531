"""A snapshot pins its T with a shared lock, which the kernel forgets with its owner: forgetting looks at it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvs
from kvs import files, layout, syncpoints
from kvs.locks import PIN_BASE, Pin, Pins, lowest_pin, pins
from tests.kvs.children import die_with_snapshot, hold_snapshot, hold_snapshot_and_fork
from tests.kvs.killing import named
from tests.kvs.processes import Child, Death

RANGES = "ranges.lock"


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[int]:
    """A description of ``ranges.lock`` that pins nothing itself."""
    path = tmp_path / RANGES
    path.touch()
    fd = files.open_file(path, write=True)
    yield fd
    files.close(fd)


@pytest.fixture
def store(store_dir: Path) -> Iterator[kvs.Store]:
    """A store with one key at T = 1, another one at T = 2."""
    with kvs.open(store_dir, "n") as store:
        store[1] = b"first"
        store[2] = b"second"
        yield store


def pinned(store: kvs.Store) -> list[int]:
    """Every T that is pinned."""
    found = store.stat()["pins"]
    assert isinstance(found, list)
    return found


# -- the locks --------------------------------------------------------------------------------------------


def test_pins_are_seen_through_any_other_description(tmp_path: Path, asking: int) -> None:
    assert (pins(asking), lowest_pin(asking, 1 << 56)) == ([], None)
    first, second = Pins(tmp_path / RANGES), Pins(tmp_path / RANGES)
    firsts = [Pin() for _ in range(5)]
    for pin, time in zip(firsts, (7, 8, 9, 100, 3), strict=True):
        first.pin(pin, time)
    second.pin(Pin(), 8)
    second.pin(Pin(), 5_000_000_000)
    assert pins(asking) == [3, 7, 8, 9, 100, 5_000_000_000]
    assert pins(first.fd) == [8, 5_000_000_000]
    assert [lowest_pin(asking, below) for below in (0, 3, 4, 8, 1 << 50)] == [None, None, 3, 3, 3]
    assert lowest_pin(first.fd, 1 << 50) == 8
    first.close()
    assert pins(asking) == [8, 5_000_000_000]
    first.unpin(firsts[1])
    assert pins(asking) == [8, 5_000_000_000], "harmless after the close"
    second.close()
    assert pins(asking) == []


def test_several_pins_of_one_transaction_are_taken_back_one_by_one(tmp_path: Path, asking: int) -> None:
    ours, others = Pins(tmp_path / RANGES), Pins(tmp_path / RANGES)
    mine, theirs = [Pin() for _ in range(3)], Pin()
    for pin in mine:
        ours.pin(pin, 4)
    others.pin(theirs, 4)
    ours.unpin(mine[0])
    others.unpin(theirs)
    ours.unpin(mine[1])
    for pin in (mine[0], mine[1], Pin()):
        ours.unpin(pin)
    assert pins(asking) == [4], "once each"
    ours.unpin(mine[2])
    assert pins(asking) == []
    ours.pin(Pin(), 0)
    assert lowest_pin(asking, 1) == 0, "of the empty store"
    ours.close()
    others.close()


def test_pins_are_apart_from_every_other_lock() -> None:
    assert PIN_BASE > 1 << 40


# -- snapshots --------------------------------------------------------------------------------------------


def test_a_snapshot_is_pinned_until_it_is_closed(store: kvs.Store) -> None:
    assert pinned(store) == []
    with store.snapshot() as one, store.snapshot() as two, kvs.open(store.path, "r") as reader:
        store[3] = b"third"
        with reader.snapshot() as three:
            assert [each.transaction_counter for each in (one, two, three)] == [2, 2, 3]
            assert pinned(store) == pinned(reader) == [2, 3]
            one.close()
            one.close()
            assert pinned(store) == [2, 3], "the other one of T = 2"
            two.close()
            assert pinned(store) == [3]
    assert pinned(store) == []
    for use in (lambda: one.get(1), lambda: one.get_many([1]), lambda: list(one), one.__enter__):
        with pytest.raises(kvs.ClosedStoreError, match="the snapshot"):
            use()


def test_an_iteration_over_the_store_is_pinned_until_it_ends(store: kvs.Store) -> None:
    iteration = iter(store)
    next(iteration)
    assert pinned(store) == [2]
    list(iteration)
    assert pinned(store) == []


def test_closing_the_store_takes_its_pins_back(store: kvs.Store) -> None:
    with kvs.open(store.path, "r") as reader:
        snapshot = reader.snapshot()
        assert pinned(store) == [2]
    assert pinned(store) == []
    snapshot.close()


def test_what_a_snapshot_of_another_process_sees_is_not_forgotten(store: kvs.Store) -> None:
    with Child(hold_snapshot, store.path, [1, 2, 3]) as reader:
        assert reader.receive() == 2
        del store[1], store[2]
        store[3] = b"since then"
        for _ in range(3):
            store.compact()
        assert pinned(store) == [2]
        reader.send()
        assert reader.receive() == [b"first", b"second", None]
        assert store.get_many([1, 2, 3]) == [None, None, b"since then"]
        assert [time for time, _ in store.history(1)] == [3, 1, 0]


def test_the_pins_of_the_dead_vanish(store: kvs.Store) -> None:
    with Child(hold_snapshot, store.path, [1]) as reader:
        assert reader.receive() == 2
        del store[1]
        reader.kill()
        assert pinned(store) == []
        store.compact()
        assert store.history(1) == [(3, None)], "what it was is forgotten"
        assert store.verify() == []


def test_the_pins_of_the_stopped_stay(store: kvs.Store) -> None:
    with Child(hold_snapshot, store.path, [1]) as reader:
        assert reader.receive() == 2
        del store[1]
        reader.stop()
        store.compact()
        assert store.history(1) == [(3, None), (1, b"first"), (0, None)]
        reader.kill()
        store.compact()
        assert store.history(1) == [(3, None)]


@pytest.mark.parametrize("point", named("snapshot"))
def test_a_reader_killed_while_it_takes_a_snapshot_leaves_nothing(store: kvs.Store, point: str) -> None:
    with Child(die_with_snapshot, store.path, Death(point)) as reader:
        assert reader.receive() == point
        assert reader.join() == -signal.SIGKILL
    assert pinned(store) == []


def test_a_forked_child_neither_keeps_nor_drops_its_parents_pins(store: kvs.Store) -> None:
    with Child(hold_snapshot_and_fork, store.path) as parent:
        grandchild, error = parent.receive()
        assert error == "ForkedStoreError"
        assert pinned(store) == [2], "the child closed its copy, and unlocked nothing"
        parent.kill()
        assert Path(f"/proc/{grandchild}").exists()
        assert pinned(store) == []
        parent.send("end")


def test_a_snapshot_that_comes_too_late_for_its_transaction_takes_a_newer_one(store: kvs.Store) -> None:
    """Between looking at D (or C) and pinning it, everything up to a newer one may be forgotten."""
    late: list[kvs.Store] = []

    def overtake(name: str, *_: object) -> None:
        if name == "snapshot.after_pin" and not late:
            late.append(store)
            del store[1]
            store[2] = b"newer"
            store.compact()

    with kvs.open(store.path, "r") as reader:
        # The pin is in place when the compaction looks for pins, so that this one is kept ...
        syncpoints.install(overtake)
        with reader.snapshot() as snapshot:
            syncpoints.install(None)
            assert snapshot.transaction_counter == 2
            assert snapshot.get_many([1, 2]) == [b"first", b"second"]
        # ... and here it is not: the T that was looked at is older than what is forgotten by then.
        store.compact()
        visible = reader._view.visible
        stale = iter([2])
        reader._view.visible = lambda: next(stale, None) or visible()  # type: ignore[method-assign]
        with reader.snapshot() as snapshot:
            assert snapshot.transaction_counter == 4
            assert snapshot.get_many([1, 2]) == [None, b"newer"]
            assert pinned(store) == [4], "the pin of the stale one is taken back"


def test_a_horizon_that_was_never_visible_is_damage_and_not_waited_for(store: kvs.Store) -> None:
    """A store whose COMMIT did not lock had one, and whoever wanted a snapshot tried for ever."""
    words = store._view.index.words
    words[layout.H_HORIZON] = 3
    with pytest.raises(kvs.CorruptedStoreError, match="transaction 3 was visible, which never happened"):
        store.snapshot()
    assert pins(store._pins.fd) == []
    words[layout.H_HORIZON] = 2
    with store.snapshot() as snapshot:
        assert snapshot[2] == b"second"
