"""Foreign, newer, truncated, missing and damaged files: a clear error, never SIGBUS, nothing made worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_digest

import kvs
from kvs import layout
from tests.kvs.damage import FIRST_RECORD, SMALL, all_bytes, flip, words_of

INDEX = layout.index_name(0)
VALUE = b"a value of some bytes"
FIRST_VALUE = b"the first record of 00000.small"


@pytest.fixture
def damaged(store_dir: Path) -> Path:
    """A closed store with 40 keys in one transaction, and an older one; a test damages it."""
    with kvs.open(store_dir, "n", index_capacity=500) as store:
        store[0] = FIRST_VALUE
        store.put_many(dict.fromkeys(range(1, 41), VALUE))
    return store_dir


def assert_refused(
    path: Path, error: type[kvs.Error], match: str, flags: str = "rwc", where: str = INDEX
) -> kvs.Error:
    """Opening fails in this way with each of ``flags``, and touches nothing."""
    before = all_bytes(path)
    for flag in flags:
        with pytest.raises(error, match=match) as caught:
            kvs.open(path, flag)
        assert caught.value.path == str(path / where)  # type: ignore[attr-defined]
    assert all_bytes(path) == before
    return caught.value


# -- the directory and the index ----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_file_instead_of_a_directory_is_refused(store_dir: Path, flag: str) -> None:
    store_dir.write_text("precious")
    with pytest.raises(kvs.UnknownStoreError, match="this is a file"):
        kvs.open(store_dir, flag)
    assert store_dir.read_text() == "precious"


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_directory_of_other_files_is_refused(store_dir: Path, flag: str) -> None:
    store_dir.mkdir()
    (store_dir / "photo.jpg").write_text("precious")
    with pytest.raises(kvs.UnknownStoreError, match="other files and no store"):
        kvs.open(store_dir, flag)
    assert all_bytes(store_dir) == {"photo.jpg": b"precious"}


def assert_rebuilt(path: Path, flag: str = "c") -> None:
    """Opening makes a new index, and everything that was acknowledged is there."""
    with kvs.open(path, flag) as store:
        assert store.get_many(range(42)) == [FIRST_VALUE, *[VALUE] * 40, None]
        assert store.history(0) == [(1, FIRST_VALUE), (0, None)]
        assert (len(store), store.stat()["transactions"], store.verify()) == (41, 2, [])
        if flag != "r":
            store[0] = b"goes on"
            assert store.history(0)[0] == (3, b"goes on")
    assert len(list(path.glob("index.*"))) == 1


@pytest.mark.parametrize("flag", ["r", "w", "c"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"not an index at all " * 1000], ids=["empty", "1 byte", "text"]
)
def test_a_foreign_file_as_index_is_replaced_by_a_rebuilt_one(
    damaged: Path, content: bytes, flag: str
) -> None:
    (damaged / INDEX).write_bytes(content)
    assert_rebuilt(damaged, flag)


@pytest.mark.parametrize("content", [b"", b"not an index at all " * 1000], ids=["empty", "text"])
def test_a_foreign_file_as_index_without_smallfiles_is_refused(damaged: Path, content: bytes) -> None:
    (damaged / SMALL).unlink()
    (damaged / INDEX).write_bytes(content)
    assert_refused(damaged, kvs.UnknownStoreError, "not the index of a kvs store")


@pytest.mark.parametrize(
    ("version", "match"),
    [(7, "written in format 7.*format 2 only.*Upgrade kvs"), (1, "in format 1,.*Dump it with the kvs")],
)
def test_another_format_is_refused_by_its_number(damaged: Path, version: int, match: str) -> None:
    with words_of(damaged) as words:
        words[layout.H_VERSION] = version
        digest = xxh3_128_digest(words[: layout.STATIC_WORDS].tobytes())
        words[layout.H_STATIC_HASH : layout.H_STATIC_HASH + 2] = np.frombuffer(digest, dtype=np.uint64)
    assert_refused(damaged, kvs.UnknownStoreError, match)


@pytest.mark.parametrize("length", [16, 100, 4095, 4096, 5000, 12_288, -4096, -1])
def test_a_truncated_index_is_rebuilt(damaged: Path, length: int) -> None:
    content = (damaged / INDEX).read_bytes()
    (damaged / INDEX).write_bytes(content[:length])
    assert_rebuilt(damaged)


@pytest.mark.parametrize("word", range(layout.STATIC_WORDS + 2))
def test_an_index_with_a_flipped_bit_in_the_fixed_part_of_its_header_is_rebuilt(
    damaged: Path, word: int
) -> None:
    pristine = (damaged / INDEX).read_bytes()
    for offset, mask in ((0, 1), (3, 16), (7, 128)):
        (damaged / INDEX).write_bytes(pristine)
        flip(damaged / INDEX, word * 8 + offset, mask)
        with kvs.open(damaged) as store:
            assert store.get_many([0, 1, 40, 41]) == [FIRST_VALUE, VALUE, VALUE, None]
            assert (store.stat()["transactions"], store.verify()) == (2, [])


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_a_missing_index_is_rebuilt(damaged: Path, flag: str) -> None:
    (damaged / INDEX).unlink()
    assert_rebuilt(damaged, flag)


def test_an_index_that_nothing_can_replace_is_refused_untouched(damaged: Path) -> None:
    """Below what was known to be on the medium a broken chain is damage, and never a cut."""
    (damaged / INDEX).unlink()
    flip(damaged / SMALL, FIRST_RECORD + layout.RECORD_HEADER_BYTES)
    before = all_bytes(damaged)
    for flag in "rwc":
        with pytest.raises(kvs.CorruptedStoreError, match="kvs recover") as caught:
            kvs.open(damaged, flag)
        assert caught.value.path == str(damaged / SMALL)
        assert caught.value.offset_bytes >= 0
    assert all_bytes(damaged) == before


@pytest.mark.parametrize(("name", "flags"), [("store.lock", "rwc"), ("ranges.lock", "wc")])
def test_a_missing_lock_file_is_named(damaged: Path, name: str, flags: str) -> None:
    """As in a copy that left empty files out, or in a directory with an index of something else."""
    (damaged / name).unlink()
    assert_refused(damaged, kvs.CorruptedStoreError, "an empty file of that name", flags, where=name)
    (damaged / name).touch()
    with kvs.open(damaged) as store:
        assert store[1] == VALUE


def test_flag_n_replaces_what_cannot_be_read(damaged: Path) -> None:
    (damaged / INDEX).write_bytes(b"damaged beyond recognition")
    with kvs.open(damaged, "n", index_capacity=500) as store:
        store[1] = b"new"
        assert (len(store), store.verify()) == (1, [])


# -- smallfiles ---------------------------------------------------------------------------------------------


def no_file(path: Path) -> None:
    path.unlink()


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: layout.SMALLFILE_HEADER_BYTES])


def half_a_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: layout.SMALLFILE_HEADER_BYTES // 2])


def first_page_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def foreign_file(path: Path) -> None:
    path.write_bytes(b"something else, and longer than the header" * 10_000)


def other_stores_file(path: Path) -> None:
    header = layout.pack_smallfile_header(b"some other store", 0, layout.pack_traits(2, 128))
    path.write_bytes(header + path.read_bytes()[len(header) :])


DAMAGES = [
    no_file,
    empty_file,
    header_only,
    half_a_header,
    first_page_only,
    foreign_file,
    other_stores_file,
]


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("integrity", [True, False])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_reading_from_a_damaged_smallfile_says_where(
    store_dir: Path, damage: Callable[[Path], None], integrity: bool, io: str
) -> None:
    with kvs.open(store_dir, "n", integrity=integrity, index_capacity=500) as store:
        store.put_many(dict.fromkeys(range(40), VALUE))
    damage(store_dir / SMALL)
    with kvs.open(store_dir, "r", io=io) as store:
        reads: list[Callable[[], object]] = [
            lambda: store.get(7),
            lambda: store.find(7),
            lambda: store.get_many([7]),
            lambda: store.get_many(range(40)),
            lambda: list(store),
        ]
        for read in reads:
            with pytest.raises(kvs.CorruptedStoreError) as caught:
                read()
            assert caught.value.path == str(store_dir / SMALL)
            assert caught.value.offset_bytes >= 0
        found = {finding.invariant for finding in store.verify()}
        assert "record.whole" in found
        assert found & {"log.extent_whole", "revision.location_published"}
        assert (store.get(99), store.get_many([99])) == (None, [None]), "what never was is still absent"


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_writer_does_not_take_a_damaged_smallfile_for_its_own(
    damaged: Path, damage: Callable[[Path], None], io: str
) -> None:
    """It would append behind a hole, or to somebody else's file, and hide what is missing."""
    damage(damaged / SMALL)
    before = all_bytes(damaged)
    with pytest.raises(kvs.CorruptedStoreError) as caught:
        kvs.open(damaged, "w", io=io)
    assert caught.value.path == str(damaged / SMALL)
    assert all_bytes(damaged) == before


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("offset", [0, 15, 16, 31, 32, 48, 48 + 30], ids=lambda offset: f"byte {offset}")
def test_a_flipped_bit_in_a_record_is_found_by_reading_and_by_verify(
    damaged: Path, offset: int, io: str
) -> None:
    flip(damaged / SMALL, FIRST_RECORD + offset, 8)
    with kvs.open(damaged, io=io) as store:
        for read in (
            lambda: store.get(0),
            lambda: store.get_many([0]),
            lambda: store.get_many([0] * 60),
            lambda: list(store),
        ):
            with pytest.raises(kvs.CorruptedStoreError) as caught:
                read()
            assert (caught.value.path, caught.value.offset_bytes) == (str(damaged / SMALL), FIRST_RECORD)
        assert {finding.invariant for finding in store.verify()} >= {"record.whole", "log.extent_whole"}
        assert store[1] == VALUE, "others are unharmed"
        store[0] = b"written again"
        assert store[0] == b"written again"
        with pytest.raises(kvs.CorruptedStoreError):
            store.find(0, 1)


@pytest.mark.parametrize("offset", [40, 47])
def test_a_flipped_bit_in_a_records_tag_leaves_the_value_right_and_is_found_by_verify(
    damaged: Path, offset: int
) -> None:
    flip(damaged / SMALL, FIRST_RECORD + offset, 8)
    with kvs.open(damaged) as store:
        values = [store.get(0), *store.get_many([0] * 60)]
        assert values == [FIRST_VALUE] * 61
        assert "log.extent_whole" in {finding.invariant for finding in store.verify()}


def test_without_integrity_a_flipped_bit_in_a_value_is_found_by_verify_only(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", integrity=False, index_capacity=500) as store:
        store[0] = VALUE
    flip(store_dir / SMALL, FIRST_RECORD + layout.RECORD_HEADER_BYTES)
    with kvs.open(store_dir) as store:
        assert store[0] != VALUE
        assert {finding.invariant for finding in store.verify()} == {"log.extent_whole", "log.time_dense"}


@pytest.mark.parametrize("offset", [0, 20, 40, 64, 127])
def test_a_damaged_commit_record_is_found_by_verify(damaged: Path, offset: int) -> None:
    record = FIRST_RECORD + layout.record_bytes(len(FIRST_VALUE))
    flip(damaged / SMALL, record + offset)
    with kvs.open(damaged) as store:
        assert store.get_many([0, 1]) == [FIRST_VALUE, VALUE]
        findings = {finding.invariant for finding in store.verify()}
    assert findings == {"log.extent_whole", "log.time_dense"}
