"""kvs behind the adapter: its chores, its losses, what it leaves behind, and how its errors are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kvs
from harness.engines.base import Compacting, Eventful, InDoubtError, Rebuilding
from harness.engines.kvs import KvsEngine
from harness.errors import ConflictError
from kvs import generations, layout, syncpoints

KEYS = [number.to_bytes(16, "little") for number in range(300)]


@pytest.fixture
def engine() -> KvsEngine:
    return KvsEngine()


@pytest.fixture
def store(tmp_path: Path, engine: KvsEngine) -> Path:
    """A store that was written three times over, and has grown."""
    engine.create(tmp_path, 10)
    session = engine.open(tmp_path)
    for value in (b"one" * 2000, b"two" * 2000, b"six" * 2000, b"ten" * 2000, b"end" * 2000):
        session.put_many([(key, value) for key in KEYS])
    session.close()
    return tmp_path


def shown(engine: KvsEngine, store: Path) -> list[Any]:
    session = engine.open(store)
    try:
        return [session.get(key) and session.revisions(key)[0] for key in KEYS]
    finally:
        session.close()


def test_kvs_has_chores_and_an_index_to_lose_and_things_to_happen(engine: KvsEngine) -> None:
    assert isinstance(engine, Compacting)
    assert isinstance(engine, Rebuilding)
    assert isinstance(engine, Eventful)
    assert engine.lossy_points <= engine.required_points() <= set(engine.points())
    assert set(engine.milestones.values()) <= set(syncpoints.POINTS)
    feeding = {point for feeders in engine.feeders.values() for point in feeders}
    assert feeding | set(engine.feeders) <= engine.required_points()


def test_a_small_index_and_short_smallfiles_grow_and_roll_over_at_once(store: Path) -> None:
    assert generations.numbers(store)[0] > 0
    assert len(list(store.glob("*.small"))) > 3


def test_housekeeping_gives_back_what_is_dead_and_says_what_is_needed(engine: KvsEngine, store: Path) -> None:
    def disk() -> int:
        return sum(path.stat().st_blocks * 512 for path in store.glob("*.small"))

    session, before = engine.open(store), disk()
    needed = engine.housekeep(session, 0.0)
    index_bytes = (store / layout.index_name(generations.numbers(store)[0])).stat().st_size
    assert 4 * 300 * 6000 <= needed - index_bytes <= 4 * 300 * 6100
    assert disk() < before
    session.close()
    assert engine.left_behind(store) == []


def test_a_housekeeper_that_meets_another_one_is_refused_without_an_error(
    engine: KvsEngine, store: Path
) -> None:
    session = engine.open(store)
    refused = 0

    def meet(point: str, _: object = None) -> None:
        nonlocal refused
        if point == "compact.after_floor":
            engine.install_hook(None)
            other = engine.open(store)
            for _ in range(2):
                other._rounds = 2  # the next one is impatient
                with pytest.raises(ConflictError):
                    engine.housekeep(other, 0.0)
                refused += 1
            other.close()

    engine.install_hook(meet)
    try:
        engine.housekeep(session, 0.0)
    finally:
        engine.install_hook(None)
        session.close()
    assert refused == 2


def test_an_index_that_was_lost_is_made_again_by_whoever_opens_the_store(
    engine: KvsEngine, store: Path
) -> None:
    before = shown(engine, store)
    engine.lose_index(store)
    assert not list(store.glob("index.*"))
    assert shown(engine, store) == before
    assert engine.left_behind(store) == []


def test_files_that_nobody_needs_are_left_behind(engine: KvsEngine, store: Path) -> None:
    current = generations.numbers(store)[0]
    (store / f"{layout.index_name(current + 1)}.new").write_bytes(b"half")
    with kvs.open(store, "r") as handle:
        places = handle.stat()["writers_max"]
    orphan = (
        max(int(path.stem) for path in store.glob("*.small")) // (places + 1) * (places + 1) + 2 * places + 1
    )
    source = next(iter(store.glob("*.small"))).read_bytes()[:64]
    header = layout.unpack_smallfile_header(source)
    assert header is not None
    head = layout.pack_smallfile_header(header.store_uuid, orphan, header.flags | places << 32)
    (store / f"{orphan:05}.small").write_bytes(head.ljust(4096, b"\0"))
    assert engine.left_behind(store) == [
        f"{orphan:05}.small is still there, and nobody needs it",
        f"{layout.index_name(current + 1)}.new is still there, and nobody needs it",
    ]


def test_a_pin_and_a_lock_that_are_held_are_left_behind(engine: KvsEngine, store: Path) -> None:
    session = engine.open(store)
    snapshot = session.snapshot()
    left = engine.left_behind(store)
    assert "WRITER[0] is still held" in left
    assert f"transaction {snapshot.sequence} is still pinned" in left
    snapshot.close()
    session.close()
    assert engine.left_behind(store) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (kvs.LockTimeoutError("COMMIT", 0, "", 1.0), ConflictError),
        (kvs.LockTimeoutError("SYNC[3]", 0, "", 1.0, 77), InDoubtError),
        (kvs.DurabilityError("0.small", "EIO"), InDoubtError),
    ],
    ids=["nothing was written", "committed, not seen yet", "not synced"],
)
def test_what_certainly_did_not_happen_is_told_from_what_may_have(
    engine: KvsEngine, store: Path, error: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.open(store)

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(session._store, "put_many", fail)
    with pytest.raises(told) as caught:
        session.put_many([(KEYS[0], b"x")])
    assert caught.value.__cause__ is error
    session.close()
