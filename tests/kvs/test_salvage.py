"""Recovering damaged stores: never a wrong value, whatever the damage, and everything that was lost is listed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvs
from kvs import fragments, layout, salvage
from kvs.salvage import Loss, Recovered
from kvs.wreckage import Wreckage
from tests.kvs.damage import flip

SMALL = "00000.small"
FIRST = layout.SMALLFILE_BEGIN
Histories = dict[bytes, list[bytes | None]]
CHANGES: list[dict[int, bytes | None]] = [
    {1: b"one", 2: b"two"},
    {3: b"three" * 30},
    {number: b"many %d" % number for number in range(4, 9)},
    {1: b"one again", 2: None},
    {5: b"five again", 9: b""},
    {6: None, 10: b"ten" * 100},
]


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def create(path: Path, properties: Mapping[str, bool]) -> kvs.Store:
    return kvs.open(path, "c", index_capacity=100, **properties)


def recover(path: Path) -> tuple[dict[bytes, bytes], Recovered, list[Loss]]:
    """What is recovered of the store at ``path``, which stays as it is."""
    target = path.with_name("recovered")
    shutil.rmtree(target, ignore_errors=True)
    before = {each.name: each.read_bytes() for each in path.iterdir() if os.access(each, os.R_OK)}
    losses: list[Loss] = []
    done = salvage.recover(path, target, create, losses.append)
    assert {each.name: each.read_bytes() for each in path.iterdir() if os.access(each, os.R_OK)} == before
    with kvs.open(target, "r") as store:
        items = dict(store.items())
        assert len(items) == done.keys
        assert store.verify() == []
    assert done.whole == all(loss.kind == "note" for loss in losses)
    return items, done, losses


def lost_keys(losses: list[Loss]) -> dict[bytes, int]:
    return {loss.key: loss.kept for loss in losses if loss.kind == "key"}


def uncertain_keys(losses: list[Loss]) -> set[bytes]:
    return {loss.key for loss in losses if loss.kind == "uncertain"}


@pytest.fixture
def histories(store_dir: Path) -> Histories:
    """A closed store with small and longer values, overwritten and removed keys; every value that a key had."""
    return fill(store_dir)


def fill(path: Path) -> Histories:
    found: Histories = {}
    with kvs.open(path, index_capacity=100) as store:
        for change in CHANGES:
            with store.transaction() as txn:
                for number, value in change.items():
                    if value is None:
                        txn.fetch(name(number))
                        txn.remove(name(number))
                    else:
                        txn.update_unsafe(name(number), value)
                    found.setdefault(name(number), []).append(value)
    return found


def newest(histories: Histories) -> dict[bytes, bytes]:
    return {key: values[-1] for key, values in histories.items() if values[-1] is not None}


def no_index(path: Path) -> None:
    for file in path.glob("index.*"):
        file.unlink()


@pytest.mark.parametrize("index", [True, False])
def test_a_store_that_is_whole_is_recovered_whole(store_dir: Path, histories: Histories, index: bool) -> None:
    if not index:
        no_index(store_dir)
    items, done, losses = recover(store_dir)
    assert items == newest(histories)
    assert done == (len(items), 0, 0, 0)
    assert [loss.message for loss in losses] == ([] if index else ["index.0  is missing"])


def test_properties_are_kept(store_dir: Path) -> None:
    with kvs.open(store_dir, durable=True, content_addressed=True) as store:
        store[kvs.key_for(b"v")] = b"v"
    for damage in (lambda: None, lambda: no_index(store_dir), lambda: flip(store_dir / SMALL, 17)):
        damage()
        recover(store_dir)
        with kvs.open(store_dir.with_name("recovered"), "r") as store:
            found = store.stat()
        assert (found["durable"], found["content_addressed"]) == ((damage.__code__.co_consts[-1] != 17),) * 2


@pytest.mark.parametrize("index", [True, False])
def test_no_flipped_bit_makes_a_wrong_value_and_every_loss_is_listed(
    store_dir: Path, histories: Histories, index: bool
) -> None:
    if not index:
        no_index(store_dir)
    data = (store_dir / SMALL).read_bytes()
    end = published_end(store_dir)
    right = newest(histories)
    for offset in range(0, end, 5 if index else 11):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        (store_dir / SMALL).write_bytes(damaged)
        items, done, losses = recover_fast(store_dir)
        check(items, losses, histories)
        if offset >= FIRST and (index or offset < end - layout.COMMIT_BYTES):
            assert not done.whole, offset
        assert not done.whole or items == right


def recover_fast(path: Path) -> tuple[dict[bytes, bytes], Recovered, list[Loss]]:
    """``recover`` into memory: thousands of stores would take a while."""
    losses: list[Loss] = []
    target = Memory()
    place = path.with_name("recovered")
    done = salvage.recover(path, place, lambda *_: target, losses.append)
    shutil.rmtree(place)
    return target.items, done, losses


class Memory:
    """What a new store is filled into."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}

    def put_many(self, pairs: Mapping[bytes, bytes], /) -> None:
        self.items.update(pairs)

    def close(self) -> None:
        pass


def check(items: dict[bytes, bytes], losses: list[Loss], histories: Histories) -> None:
    """Everything that is not listed as uncertain is a value that the key once had."""
    for key in items.keys() - uncertain_keys(losses):
        assert items[key] in histories[key], key.hex()


def states(changes: list[dict[int, bytes | None]]) -> list[dict[bytes, bytes]]:
    """The items after each transaction."""
    found: list[dict[bytes, bytes]] = []
    items: dict[bytes, bytes | None] = {}
    for change in changes:
        items |= {name(number): value for number, value in change.items()}
        found.append({key: value for key, value in items.items() if value is not None})
    return found


def published_end(path: Path) -> int:
    """Behind the last byte of the smallfile that is not zero."""
    return len((path / SMALL).read_bytes().rstrip(b"\0"))


@given(
    seed=st.integers(0, 1 << 32),
    index=st.booleans(),
    damages=st.lists(
        st.tuples(st.sampled_from(["flip", "zero", "garbage", "cut", "copy"]), st.floats(0, 1)),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_makes_a_wrong_value_or_a_traceback(
    store_dir: Path, histories: Histories, seed: int, index: bool, damages: list[tuple[str, float]]
) -> None:
    path = store_dir.with_name("damaged")
    shutil.rmtree(path, ignore_errors=True)  # an example before this one may have failed
    shutil.copytree(store_dir, path)
    rng = random.Random(seed)
    if not index:
        no_index(path)
    files = sorted(path.glob("*.small")) + sorted(path.glob("index.*"))
    for what, where in damages:
        file = rng.choice(files)
        data = bytearray(file.read_bytes() or b"\0")
        used = len(bytes(data).rstrip(b"\0")) or 1
        offset = int(where * (used - 1))
        length = rng.choice([1, 8, 64, 512, 4096])
        if what == "flip":
            data[offset] ^= 1 << rng.randrange(8)
        elif what == "zero":
            data[offset : offset + length] = bytes(len(data[offset : offset + length]))
        elif what == "garbage":
            data[offset : offset + length] = rng.randbytes(len(data[offset : offset + length]))
        elif what == "copy":
            other = rng.randrange(used)
            piece = data[other : other + length]
            data[offset : offset + len(piece)] = piece
        else:
            del data[offset:]
        file.write_bytes(data)
    with contextlib.suppress(kvs.CorruptedStoreError, kvs.UnknownStoreError):  # there may be nothing left
        items, done, losses = recover_fast(path)
        check(items, losses, histories)
        assert not done.whole or items in states(CHANGES), "only the end of a file can go unnoticed"
    assert not path.with_name("recovered").exists()
    shutil.rmtree(path)


def offset_of(path: Path, value: bytes) -> int:
    """Where a value is in the smallfile."""
    return (path / SMALL).read_bytes().index(value)


@pytest.mark.parametrize("index", [True, False])
def test_a_damaged_value_falls_back_to_the_older_revision_and_leaves_the_rest(
    store_dir: Path, histories: Histories, index: bool
) -> None:
    flip(store_dir / SMALL, offset_of(store_dir, b"five again"))
    if not index:
        no_index(store_dir)
    items, _, losses = recover(store_dir)
    assert items == newest(histories) | {name(5): b"many 5"}
    assert lost_keys(losses) == {name(5): 3}
    assert uncertain_keys(losses) == (set() if index else {name(9)}), (
        "nothing but the index vouches for that key"
    )
    (damaged,) = [loss for loss in losses if loss.kind == "damaged"]
    assert (damaged.transaction, damaged.records) == (5, 2)
    assert damaged.begin <= offset_of(store_dir, b"ive again") <= damaged.end


@pytest.mark.parametrize("index", [True, False])
def test_a_damaged_key_is_used_only_where_something_vouches_for_it(
    store_dir: Path, histories: Histories, index: bool
) -> None:
    flip(store_dir / SMALL, offset_of(store_dir, b"ten" * 100) - 48 + 16)
    if not index:
        no_index(store_dir)
    items, _, losses = recover(store_dir)
    right = newest(histories)
    del right[name(10)]
    assert items == right
    assert (name(10) in lost_keys(losses)) == index


@pytest.mark.parametrize("index", [True, False])
def test_a_damaged_commit_record_loses_its_transaction_unless_the_index_knows_it(
    store_dir: Path, histories: Histories, index: bool
) -> None:
    head = layout.RECORD_HEADER.size
    record = offset_of(store_dir, b"five again") - head + 2 * 64  # behind the records of 5 and 9
    flip(store_dir / SMALL, record + 60)
    if not index:
        no_index(store_dir)
    items, _, losses = recover(store_dir)
    assert items.pop(name(9)) == b"", "there is nothing else of it"
    assert name(9) in uncertain_keys(losses)
    expected = newest(histories)
    del expected[name(9)]
    assert items == (expected if index else expected | {name(5): b"many 5"})
    assert (name(5) in lost_keys(losses)) != index
    assert any(loss.kind == "transactions" and loss.transaction == 5 for loss in losses)


def test_a_missing_file_is_named_with_the_keys_that_were_in_it(store_dir: Path) -> None:
    with kvs.open(store_dir) as one, kvs.open(store_dir) as other:
        one.put_many({1: b"old", 2: b"kept"})
        other.put_many({1: b"new", 3: b"gone"})
        one[4] = b"later"
    (store_dir / "00001.small").unlink()
    items, done, losses = recover(store_dir)
    assert items == {name(1): b"old", name(2): b"kept", name(4): b"later"}
    assert lost_keys(losses) == {name(1): 1, name(3): 0}
    assert any(loss.message.startswith("00001.small  is missing") for loss in losses)
    no_index(store_dir)
    items, done, losses = recover(store_dir)
    assert items == {name(1): b"old", name(2): b"kept", name(4): b"later"}
    assert [loss.message for loss in losses if loss.kind == "transactions"] == [
        "transaction 2 is in none of the files that are left"
    ]
    assert not done.whole


def test_removals_win_over_older_values_and_moved_records_are_found(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        for number in range(300):
            store[number] = b"first %d" % number
        for number in range(0, 300, 2):
            store[number] = b"second"
        for number in range(0, 300, 3):
            del store[number]
        store.compact()
        store[1] = b"after"
        right = dict(store.items())
    no_index(store_dir)
    items, done, _ = recover(store_dir)
    assert (items, done.whole) == (right, True)


def test_between_damaged_places_everything_is_found_again(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        for number in range(400):
            store[number] = b"value %04d " % number * 8
    data = bytearray((store_dir / SMALL).read_bytes())
    hit = [5, 6, 100, 250, 251, 252, 399]
    for number in hit:
        data[data.index(b"value %04d " % number * 8) + 3] ^= 4
    hole = data.index(b"value %04d " % 300 * 8) & -64
    data[hole : hole + 1500] = bytes(1500)
    (store_dir / SMALL).write_bytes(data)
    items, _, losses = recover(store_dir)
    assert {int.from_bytes(key, "big") for key in lost_keys(losses)} >= set(hit)
    assert len(items) == 400 - len(lost_keys(losses))
    assert 390 - len(hit) > len(items) - 10 > 370 - len(hit)
    assert all(value == b"value %04d " % int.from_bytes(key, "big") * 8 for key, value in items.items())


def test_a_value_that_holds_a_smallfile_is_not_taken_for_one(store_dir: Path, histories: Histories) -> None:
    inner = (store_dir / SMALL).read_bytes()[: published_end(store_dir)]
    outer = store_dir.with_name("outer")
    with kvs.open(outer) as store:
        store.put_many({20: b"before", 21: bytes(16) + inner, 22: b"behind"})
        store[23] = b"last"
    for damage in (lambda: None, lambda: no_index(outer)):
        damage()
        for target in (inner, b"before"):
            data = (outer / SMALL).read_bytes()
            flip(outer / SMALL, data.index(target) + 2)
            items, _, losses = recover(outer)
            flip(outer / SMALL, data.index(target) + 2)
            assert items.keys() <= {name(number) for number in range(20, 24)}
            assert items[name(23)] == b"last"
            assert items[name(22)] == b"behind"
            assert (name(21) in lost_keys(losses)) == (target == inner)
    shutil.rmtree(outer)


def test_commit_records_within_values_are_none(store_dir: Path, histories: Histories) -> None:
    inner = (store_dir / SMALL).read_bytes()[FIRST : published_end(store_dir)]
    with kvs.open(store_dir) as store:
        store[30] = bytes(16) + inner  # so that its commit records are on the grid
    wreckage = Wreckage(store_dir, None, lambda *_: None)
    found = fragments.marks(wreckage, 0, FIRST, wreckage.sizes[0])
    wreckage.close()
    assert [mark.time for mark in found if not mark.moved] == list(range(1, len(CHANGES) + 2))


def test_a_store_without_integrity_gives_whole_transactions_only(store_dir: Path) -> None:
    with kvs.open(store_dir, integrity=False) as store:
        store.put_many({1: b"one", 2: b"two"})
        store[3] = b"three"
    flip(store_dir / SMALL, offset_of(store_dir, b"two"))
    items, _, losses = recover(store_dir)
    assert items == {name(3): b"three"}
    assert lost_keys(losses) == {name(1): 0, name(2): 0}


def test_a_damaged_header_or_index_loses_nothing(store_dir: Path, histories: Histories) -> None:
    for offset in (0, 9, 20, 34, 50):
        flip(store_dir / SMALL, offset)
        items, done, losses = recover(store_dir)
        flip(store_dir / SMALL, offset)
        assert (items, done.whole) == (newest(histories), True)
        assert [loss.message for loss in losses] == ["00000.small  has a damaged header"]
    (store_dir / "index.0").write_bytes(b"not an index")
    flip(store_dir / SMALL, 20)
    items, done, losses = recover(store_dir)
    assert (items, done.whole) == (newest(histories), True)
    assert any("properties are not known" in loss.message for loss in losses)


def test_a_renamed_smallfile_is_known_by_its_header(store_dir: Path, histories: Histories) -> None:
    (store_dir / SMALL).rename(store_dir / "copy of 0.small")
    assert recover(store_dir)[0] == newest(histories)


def test_what_another_store_left_is_not_mixed_in(store_dir: Path, histories: Histories) -> None:
    other = store_dir.with_name("other")
    with kvs.open(other) as store, kvs.open(other) as second:
        store[77] = b"foreign"
        second[77] = b"foreign"
    shutil.copy(other / "00001.small", store_dir / "00001.small")
    items, done, losses = recover(store_dir)
    assert (items, done.whole) == (newest(histories), True)
    assert [loss.message for loss in losses] == ["00001.small  is of another store and was left alone"]
    shutil.rmtree(other)


def test_a_live_writer_is_not_disturbed(store_dir: Path, histories: Histories) -> None:
    with kvs.open(store_dir, "w"), pytest.raises(kvs.LockTimeoutError):
        recover(store_dir)
    assert not store_dir.with_name("recovered").exists()
    assert recover(store_dir)[0] == newest(histories)


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty directory", "other files", "zeros"])
def test_where_nothing_can_be_done_nothing_is_made(store_dir: Path, what: str) -> None:
    make: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a file": lambda: store_dir.write_text("text"),
        "an empty directory": store_dir.mkdir,
        "other files": lambda: (store_dir.mkdir(), (store_dir / "notes.txt").write_text("text")),
        "zeros": lambda: (store_dir.mkdir(), (store_dir / SMALL).write_bytes(bytes(100_000))),
    }
    store_dir.parent.mkdir(exist_ok=True)
    make[what]()
    target = store_dir.with_name("recovered")
    with pytest.raises(kvs.Error, match="nothing"):
        salvage.recover(store_dir, target, create, lambda _: None)
    assert not target.exists()


def test_a_store_in_which_nothing_was_written_is_recovered_empty(store_dir: Path) -> None:
    kvs.open(store_dir).close()
    items, done, _ = recover(store_dir)
    assert (items, done.whole) == ({}, True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_listed(store_dir: Path, histories: Histories) -> None:
    with kvs.open(store_dir) as one, kvs.open(store_dir) as other:
        one[1], other[50] = b"first", b"second"
    (store_dir / "00001.small").chmod(0)
    assert any("cannot be read" in loss.message for loss in recover(store_dir)[2])


def test_sectors_that_give_errors_are_as_if_they_were_zeros(
    store_dir: Path, histories: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = salvage.files.read_at
    bad = 4096

    def failing(fd: int, offset: int, length: int) -> bytes:
        if (
            offset < bad + 4096
            and offset + length > bad
            and Path(f"/proc/self/fd/{fd}").readlink().name == SMALL
        ):
            raise OSError(5, "Input/output error")
        return real(fd, offset, length)

    with kvs.open(store_dir) as store:
        store[100] = b"in the bad sector" * 600
        store[101] = b"behind it"
    before = offset_of(store_dir, b"in the bad sector")
    assert before < bad + 4096
    monkeypatch.setattr("kvs.files.read_at", failing)
    items, done, losses = recover_fast(store_dir)
    assert items == newest(histories) | {name(101): b"behind it"}
    assert name(100) in lost_keys(losses)
    assert uncertain_keys(losses) == set(), "what is before and behind the bad page is found whole"
    assert not done.whole
