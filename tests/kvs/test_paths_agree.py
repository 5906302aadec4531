"""Small transactions take a scalar path, large ones a vectorised one. Both must leave the same store."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kvs
from kvs import layout
from tests.kvs.children import Changes, commit
from tests.kvs.damage import home
from tests.kvs.processes import Child, Death

Force = Callable[[str], None]
CAPACITY = 44
SLOTS = 64
PATHS = {"scalar": 1 << 30, "vectorised": 1}


def colliding(count: int, slot: int) -> list[bytes]:
    """Keys whose probes all begin at ``slot`` of the smallest index."""
    candidates = (kvs.key_for(f"candidate {i}") for i in range(100_000))
    found = (key for key in candidates if home(key, SLOTS) == slot)
    return [next(found) for _ in range(count)]


COLLIDING = [*colliding(20, SLOTS - 1), *colliding(20, SLOTS - 2)]  # they run over the table's end
SPREAD = [kvs.key_for(f"key {i}") for i in range(40)]


@pytest.fixture
def path_of(monkeypatch: pytest.MonkeyPatch) -> Force:
    """``path_of("scalar")`` forces that path in every module."""

    def force(name: str) -> None:
        forced = 0
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] == "kvs" and hasattr(module, "VECTOR_MIN"):
                monkeypatch.setattr(module, "VECTOR_MIN", PATHS[name])
                forced += 1
        assert forced >= 3, "smallfile, index and reading choose their path by VECTOR_MIN"

    return force


def history(names: list[bytes], seed: int) -> list[Changes]:
    """Random transactions over ``names``: new keys, updates, removals, removals of what never was."""
    rng = random.Random(seed)
    return [
        {
            key: None if rng.random() < 0.2 else rng.randbytes(rng.choice([0, 1, 15, 16, 17, 300]))
            for key in rng.sample(names, rng.randint(1, len(names)))
        }
        for _ in range(12)
    ]


def entries(path: Path) -> dict[bytes, dict[int, tuple[int, int]]]:
    """What the index holds of each key: T to location and length, wherever its entry and its places are."""
    words = np.fromfile(path / layout.index_name(0), dtype=np.uint64)
    start = int(words[layout.H_ENTRIES]) // layout.WORD
    table = words[start : start + int(words[layout.H_SLOTS]) * layout.ENTRY_WORDS].reshape(-1, 16)
    found = {}
    for row in table[table[:, layout.E_TIME] != 0]:
        times = row[layout.E_TIME : layout.E_TIME + 4].tolist()
        places = row[layout.E_PLACE :].reshape(4, 2).tolist()
        found[row[:2].tobytes()] = {t: tuple(p) for t, p in zip(times, places, strict=True) if t}
    return found


def test_the_colliding_keys_do_collide(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=CAPACITY) as store:
        store.put_many(dict.fromkeys(COLLIDING, b"v"))
    words = np.fromfile(store_dir / layout.index_name(0), dtype=np.uint64)
    table = words[int(words[layout.H_ENTRIES]) // layout.WORD :].reshape(-1, layout.ENTRY_WORDS)
    used = np.flatnonzero(table[:, layout.E_TIME])
    assert used.tolist() == [*range(len(COLLIDING) - 2), SLOTS - 2, SLOTS - 1]


@pytest.mark.parametrize("integrity", [True, False])
@pytest.mark.parametrize("names", [COLLIDING, SPREAD], ids=["colliding", "spread"])
def test_both_paths_write_the_same_records_and_the_same_revisions(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, path_of: Force, names: list[bytes], integrity: bool
) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes(range(count)))
    logs, tables, values = [], [], []
    store_dir.mkdir()
    for name in PATHS:
        path_of(name)
        path = store_dir / name
        with kvs.open(path, integrity=integrity, index_capacity=CAPACITY) as store:
            for changes in history(names, seed=7):
                with store.transaction() as txn:
                    for key, value in changes.items():
                        txn.fetch(key)
                        txn.remove(key) if value is None else txn.update(key, value)
            assert store.verify() == []
            values.append(store.get_many(names))
            assert values[-1] == [store.get(key) for key in names]
        logs.append((path / "00000.small").read_bytes())
        tables.append(entries(path))
    assert logs[0] == logs[1]
    assert tables[0] == tables[1]
    assert values[0] == values[1]


@pytest.mark.parametrize("dead_at", ["publish.before_key", "publish.after_busy", "publish.after_time"])
@pytest.mark.parametrize("repairing", PATHS)
@pytest.mark.parametrize("dying", [10, 40], ids=["scalar death", "vectorised death"])
def test_either_path_repairs_what_the_other_left(
    store_dir: Path, path_of: Force, dying: int, repairing: str, dead_at: str
) -> None:
    with kvs.open(store_dir, index_capacity=CAPACITY) as store:
        store.put_many(dict.fromkeys(COLLIDING[::2], b"before"))
        changes: Changes = dict.fromkeys(COLLIDING[:dying], b"after")
        with Child(commit, store_dir, "mmap", changes, Death(dead_at)) as child:
            assert child.receive() == dead_at
            assert child.join() < 0
        path_of(repairing)
        store[SPREAD[0]] = b"repairs"
        assert store.get_many(list(changes)) == [b"after"] * dying
        assert [store.get(key) for key in changes] == [b"after"] * dying
        assert store.verify() == []


@pytest.mark.parametrize("name", PATHS)
def test_both_paths_name_the_same_conflict(store_dir: Path, path_of: Force, name: str) -> None:
    path_of(name)
    with kvs.open(store_dir, index_capacity=CAPACITY) as store:
        store.put_many(dict.fromkeys(COLLIDING[:30], b"before"))  # T = 1
        txn = store.transaction()
        for key in COLLIDING:
            txn.fetch(key)
        store.put_many({COLLIDING[35]: b"was absent", COLLIDING[20]: b"was there"})  # T = 2
        txn.update(COLLIDING[0], b"mine")
        with pytest.raises(kvs.TransactionAbortedError) as caught:
            txn.commit()
        assert (caught.value.key, caught.value.base, caught.value.found) == (COLLIDING[20], 1, 2)
        assert store[COLLIDING[0]] == b"before"


@pytest.mark.parametrize("name", PATHS)
def test_both_paths_find_what_is_absent_present_removed_or_asked_twice(
    store_dir: Path, path_of: Force, name: str
) -> None:
    path_of(name)
    with kvs.open(store_dir, index_capacity=CAPACITY) as store:
        store.put_many(dict.fromkeys(COLLIDING[:20], b"there"))
        del store[COLLIDING[3]]
        wanted = [*COLLIDING, *COLLIDING[::-1], bytes(16), b"\xff" * 16]
        expected = [b"there" if k in COLLIDING[:20] and k != COLLIDING[3] else None for k in wanted]
        assert store.get_many(wanted) == expected
        assert store.get_many([]) == []
        with store.snapshot() as snapshot:
            assert snapshot.get_many(wanted) == expected


@pytest.mark.parametrize("name", PATHS)
def test_both_paths_refuse_a_key_too_many(store_dir: Path, path_of: Force, name: str) -> None:
    path_of(name)
    with kvs.open(store_dir, index_capacity=CAPACITY, growth=False) as store:
        capacity = store.stat()["index_capacity"]
        names = [kvs.key_for(f"filling {i}") for i in range(capacity + 1)]
        store.put_many(dict.fromkeys(names[1:30], b"x"))
        with pytest.raises(kvs.IndexFullError) as caught:
            store.put_many(dict.fromkeys(names, b"y"))
        assert (caught.value.capacity, caught.value.used, caught.value.wanted) == (
            capacity,
            29,
            capacity - 28,
        )
        store.put_many(dict.fromkeys(names[:-1], b"z"))
        assert store.get_many(names) == [b"z"] * capacity + [None]
        assert store.verify() == []
