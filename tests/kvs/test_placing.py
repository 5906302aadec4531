"""Keys that are placed together are found by the ordinary probe, wherever their probes begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from kvs import index as index_module
from kvs import layout, placing
from kvs.index import Index
from kvs.records import Words


def _empty(directory: Path, slots: int = 64) -> Index:
    path = directory / "index.0"
    index_module.build(
        path, capacity=slots * 6 // 10, flags=0, store_uuid=bytes(16), boot_id=bytes(16), writers_max=1
    )
    index = Index(path, write=True)
    assert index.slots == slots
    return index


def _place(index: Index, names: list[bytes]) -> None:
    """Place them, and store a T as a caller does."""
    slots = placing.place(index, _words(names))
    assert len(set(slots.tolist())) == len(names)
    index.flat[index.first_word + slots * layout.ENTRY_WORDS + layout.E_TIME] = 1


def _words(names: list[bytes]) -> Words:
    return np.frombuffer(b"".join(names), dtype=np.uint64).reshape(-1, 2)


def _key(number: int) -> bytes:
    return xxh3_128_digest(number.to_bytes(8, "big"))


def _keys_at(home: int, count: int, slots: int = 64) -> list[bytes]:
    """Keys whose probes all begin at one slot."""
    names = map(_key, range(1_000_000))
    return [
        name for name, _ in zip((n for n in names if _home(n, slots) == home), range(count), strict=False)
    ]


def _home(name: bytes, slots: int) -> int:
    return xxh3_64_intdigest(name) >> 7 & slots - 1


def _all_found(index: Index, names: list[bytes]) -> None:
    for name in names:
        word = index.probe(name)
        assert word >= 0, name.hex()
        assert index.map[word * 8 : word * 8 + 16] == name


def test_no_keys_need_no_place(tmp_path: Path) -> None:
    assert placing.place(_empty(tmp_path), np.empty((0, 2), dtype=np.uint64)).size == 0


@pytest.mark.parametrize("home", [0, 31, 62, 63])
def test_keys_with_the_same_home_follow_each_other_around_the_end(tmp_path: Path, home: int) -> None:
    names = _keys_at(home, 7)
    index = _empty(tmp_path)
    _place(index, names)
    _all_found(index, names)
    used = np.flatnonzero(index.halves[::2, layout.E_TIME])
    assert sorted((used - home) % 64) == list(range(7))


def test_the_entries_hold_the_keys_and_are_marked_as_used(tmp_path: Path) -> None:
    index = _empty(tmp_path)
    names = [_key(i) for i in range(20)]
    slots = placing.place(index, _words(names))
    assert index.halves[2 * slots][:, :2].tobytes() == b"".join(names)
    assert (index.halves[2 * slots, layout.E_TIME] == np.uint64(layout.BUSY)).all()
    assert not index.halves[2 * slots, layout.E_TIME + 1 :].any()


@given(st.lists(st.lists(st.tuples(st.sampled_from([0, 1, 30, 60, 63]), st.integers(0, 11))), max_size=6))
def test_batches_that_crowd_a_few_homes_are_all_found(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]]
) -> None:
    index = _empty(tmp_path_factory.mktemp("placing"))
    placed: list[bytes] = []
    for batch in batches:
        names = [_CROWDED[home][i] for home, i in dict.fromkeys(batch)]
        fresh = [name for name in names if name not in placed]
        _place(index, fresh)
        placed += fresh
        _all_found(index, placed)
    assert int((index.halves[::2, layout.E_TIME] != 0).sum()) == len(placed)
    index.close()


_CROWDED = {home: _keys_at(home, 12) for home in (0, 1, 30, 60, 63)}


def test_a_full_table_takes_its_last_key(tmp_path: Path) -> None:
    index = _empty(tmp_path)
    names = [_key(i) for i in range(63)]
    _place(index, names[:40])
    _place(index, names[40:])
    _all_found(index, names)


def test_many_keys_are_found_by_the_vectorised_probe_too(tmp_path: Path) -> None:
    index = _empty(tmp_path, 1 << 14)
    names = [_key(i) for i in range(9_000)]
    _place(index, names[:5_000])
    _place(index, names[5_000:])
    slots, heads = index.locate(names)
    assert (slots >= 0).all()
    assert heads[:, :2].tobytes() == b"".join(names)
    assert placing.hashes(_words(names)).tolist() == [xxh3_64_intdigest(name) for name in names]
