"""The bytes on disk, against expectations built by hand: whoever changes them must change the version."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest, xxh3_128_digest

import kvs
from kvs import files, layout
from tests.kvs.damage import SMALL

FIRST, SECOND = bytes(range(16)), bytes(range(100, 116))


def le(*words: int) -> bytes:
    """64-bit little-endian words."""
    return b"".join(word.to_bytes(8, "little") for word in words)


def record(key: bytes, length: int, tag: int, value: bytes, *, hashed: bool = True) -> bytes:
    """A record by hand: hash, key, length, tag, value, and zeros up to 64 bytes."""
    body = key + le(length, tag) + value
    covered = body if tag >> 56 in {3, 6} else value
    whole = (xxh3_128_digest(covered) if hashed else bytes(16)) + body
    return whole + bytes(-len(whole) % 64)


def commit_record(
    uuid: bytes, time: int, begin: int, extent: bytes, counts: tuple[int, int, int], kind: int = 3
) -> bytes:
    """A commit record (or a move) by hand over ``extent``, which begins at byte ``begin`` of 00000.small."""
    value = le(begin, len(extent), *counts, 0) + xxh3_128_digest(extent) + bytes(16)
    return record(uuid, 80, kind << 56 | time, value)


@pytest.mark.parametrize("integrity", [True, False])
def test_a_tiny_smallfile_byte_by_byte(store_dir: Path, integrity: bool) -> None:
    with kvs.open(store_dir, integrity=integrity, index_capacity=10) as store:
        store.put_many({FIRST: b"hello", SECOND: b""})
        del store[SECOND]
    index = (store_dir / "index.0").read_bytes()
    uuid = index[64:80]
    head = b"kvs-smal" + le(2) + uuid + le(0, (2 if integrity else 0) | 128 << 32)
    expected = head + xxh3_128_digest(head) + bytes(64)
    extent = record(FIRST, 5, 1 << 56 | 0, b"hello", hashed=integrity)
    extent += record(SECOND, 0, 1 << 56 | 1, b"", hashed=integrity)
    assert len(extent) == 128
    expected += extent + commit_record(uuid, 1, 128, extent, (2, 2, 2))
    extent = record(SECOND, 0, 2 << 56 | 0, b"", hashed=integrity)
    expected += extent + commit_record(uuid, 2, len(expected), extent, (1, 1, 2))
    expected += commit_record(
        uuid, 2, len(expected), b"", (0, 0, 0), kind=6
    )  # the close: all up to 2 is synced
    small = (store_dir / SMALL).read_bytes()
    assert small[: len(expected)] == expected
    assert not any(small[len(expected) :]), "allocated, and zero"


def test_a_tiny_index_byte_by_byte(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=10) as store:
        store[FIRST] = b"hello"
        store.put_many({FIRST: b"hello again", SECOND: b"x"})
        open_index = (store_dir / "index.0").read_bytes()
    index = (store_dir / "index.0").read_bytes()
    entries = 4096 + 128 * 64
    assert len(index) == entries + 64 * 128
    assert index[:64] == b"kvs-indx" + le(2, 2, 64, 10, 128, entries, 0)
    assert index[80:112] == bytes(32)
    assert index[112:128] == xxh3_128_digest(index[:112])
    words = np.frombuffer(index, dtype="<u8")
    named = {16: 2, 24: 0, 32: 0, 36: 0, 40: 2, 41: 2, 64: 2, 65: 0, 66: 0, 67: 0, 68: 0}
    assert {word: int(words[word]) for word in named} == named
    assert index[56 * 8 : 58 * 8] == files.boot_id()
    assert open_index[58 * 8 : 60 * 8] == b"\xff" * 16, "open for writing: not clean, and the medium knows it"
    covered = index[: 48 * 8] + files.boot_id() + index[64 * 8 : 4096]
    assert index[58 * 8 : 60 * 8] == xxh3_128_digest(covered)
    place = words[512:520].tolist()
    assert place[1:] == [128 + (64 + 128) + (128 + 128) + 128, 0, 0, 0, 0, 0, 0]
    used = {FIRST: (1, 2, 5, 11), SECOND: (2, 0, 1, 0)}
    for key, (first, second, first_length, second_length) in used.items():
        start = entries + (xxh3_64_intdigest(key) >> 7 & 63) * 128
        entry = index[start : start + 128]
        assert entry[:16] == key
        assert entry[16:64] == le(first, second, 0, 0, 0, 0)
        locations = (128, 128 + 192) if key == FIRST else (128 + 192 + 64, 0)
        assert entry[64:96] == le(locations[0], first_length, locations[1], second_length)
        assert entry[96:] == bytes(32)


def test_a_removal_is_a_length_of_all_ones(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=10) as store:
        store[FIRST] = b"v"
        del store[FIRST]
    index = (store_dir / "index.0").read_bytes()
    start = 4096 + 128 * 64 + (xxh3_64_intdigest(FIRST) >> 7 & 63) * 128
    assert index[start + 88 : start + 96] == b"\xff" * 8 == le(layout.TOMBSTONE)


def test_integers_are_keys_in_big_endian_and_uuids_by_their_bytes(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=10) as store:
        store[1] = b"v"
        assert list(store) == [bytes(15) + b"\1"]


@pytest.mark.parametrize(
    ("length", "taken"), [(0, 64), (1, 64), (16, 64), (17, 128), (80, 128), (81, 192), (1000, 1088)]
)
def test_records_take_whole_units_of_64_bytes(length: int, taken: int) -> None:
    assert layout.record_bytes(length) == taken


@pytest.mark.parametrize(
    ("capacity", "slots"), [(1, 64), (44, 64), (45, 128), (500, 1024), (180_000, 1 << 18)]
)
def test_an_index_has_slots_for_its_keys_at_70_percent(capacity: int, slots: int) -> None:
    assert layout.slots_for(capacity) == slots
    assert capacity <= slots * 7 // 10


def test_locations_hold_the_file_and_the_offset() -> None:
    for file_id, offset in ((0, 64), (127, 128), ((1 << 24) - 1, (1 << 40) - 64)):
        assert layout.unpack_location(layout.pack_location(file_id, offset)) == (file_id, offset)
        assert layout.pack_location(file_id, offset) < 1 << 64


def test_a_commit_record_is_whole_or_nothing() -> None:
    uuid = b"0123456789abcdef"
    commit = layout.Commit(128, 128, 2, 5, 7, 3, b"fedcba9876543210")
    data = layout.pack_commit(uuid, 77, *commit)
    assert layout.unpack_commit(uuid, data) == (77, commit)
    assert layout.unpack_commit(b"another store's!", data) is None
    assert layout.unpack_commit(uuid, data, layout.KIND_MOVE) is None
    for byte in range(len(data)):
        torn = data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :]
        assert layout.unpack_commit(uuid, torn) is None
        assert layout.unpack_commit(uuid, data[:byte]) is None


def test_a_bound_is_an_offset_with_a_checksum_of_its_file_and_word() -> None:
    """A torn or stray bound is not taken for one, and zero says that there is none."""
    stored = layout.pack_bound(7, layout.B_END, 128 + 64)
    assert stored < 1 << 64
    assert layout.unpack_bound(7, layout.B_END, stored) == 128 + 64
    assert layout.unpack_bound(7, layout.B_END, 0) == 0
    assert layout.unpack_bound(8, layout.B_END, stored) is None
    assert layout.unpack_bound(7, layout.B_BEGIN, stored) is None
    for bit in range(64):
        assert layout.unpack_bound(7, layout.B_END, stored ^ 1 << bit) is None


def test_smallfile_ids_of_two_places_never_meet() -> None:
    stride = layout.place_stride(4)
    ids = [place + stride * n for place in range(5) for n in range(50)]  # the fifth is that of compactions
    assert len(set(ids)) == len(ids)


def test_the_tables_in_the_comments_are_the_structs() -> None:
    """The offset tables stand beside the structs; this reads them and adds them up."""
    source = Path(layout.__file__).read_text(encoding="utf-8")
    tables = {
        "# Records.": layout.RECORD_HEADER_BYTES,
        "# The value of a commit record, and of a move (which has no counters: zero).": layout.COMMIT_VALUE_BYTES,
        "# The smallfile header.": layout.SMALLFILE_HEADER_BYTES,
    }
    for title, size in tables.items():
        lines = source.split(title)[1].splitlines()[1:]
        rows = []
        for line in lines:
            if not line.startswith("#"):
                break
            if found := re.match(r"#\s+(\d+)\s+[a-z_ ]+?\s+(\d+)\b", line):
                rows.append((int(found[1]), int(found[2])))
        ends = [offset + length for offset, length in rows]
        assert [offset for offset, _ in rows] == [0, *ends[:-1]], title
        assert ends[-1] == size, title


def test_shared_words_have_a_cache_line_of_their_own_where_they_are_hot() -> None:
    hot = (layout.H_COMMITTED, layout.H_DURABLE, layout.H_INTENT, layout.H_KEYS_LIVE, layout.H_OWNER_PID)
    lines = [word * 8 // 64 for word in (0, *hot, layout.H_BOOT)]
    assert len(set(lines)) == len(lines)
    assert (layout.WRITER_WORDS * 8, layout.ENTRY_BYTES) == (64, 128)
    assert layout.entries_offset(128) % layout.PAGE == 0
