"""Scanning finds every whole transaction, says where each record is, and ends where the chain breaks."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from kvs import layout, scanning
from kvs.errors import CorruptedStoreError
from kvs.scanning import Log, scan
from kvs.smallfile import Smallfiles
from tests.kvs.logs import Logfile, key, smallfiles

Record = tuple[int, bytes, bytes | None]


def _scanned(directory: Path, log: Logfile, begin: int = 128, end: int | None = None) -> list[Log]:
    with_files = smallfiles(directory)
    try:
        return list(scan(with_files, log.file_id, begin, log.end if end is None else end))
    finally:
        with_files.close()


def _records(directory: Path, logs: list[Log]) -> list[Record]:
    """What the logs say, read back by their locations."""
    found: list[Record] = []
    with_files = smallfiles(directory)
    for log in logs:
        names = [row.tobytes() for row in log.keys]
        for name, time, location, length in zip(names, log.times, log.locations, log.lengths, strict=True):
            if length == layout.TOMBSTONE:
                found.append((int(time), name, None))
            else:
                found.append((int(time), name, with_files.value(name, int(location), int(length))))
    with_files.close()
    return found


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so short that transactions lie across them and are longer than they are."""
    monkeypatch.setattr(scanning, "PIECE_BYTES", 1024)


def test_every_record_is_found_with_its_transaction_and_place(tmp_path: Path) -> None:
    log = Logfile(1)
    first = log.commit(1, {key(1): b"a", key(2): None, key(3): b"c" * 1000})
    second = log.commit(2, {key(1): b""})
    log.store(tmp_path)
    [found] = _scanned(tmp_path, log)
    assert _records(tmp_path, [found]) == [
        (1, key(1), b"a"),
        (1, key(2), None),
        (1, key(3), b"c" * 1000),
        (2, key(1), b""),
    ]
    assert (found.commits.tolist(), found.offsets.tolist()) == ([1, 2], [first, second])
    assert (found.floor, found.end) == (0, log.end)


def test_moved_records_keep_the_time_that_wrote_them_and_the_greatest_floor_counts(tmp_path: Path) -> None:
    log = Logfile(3)
    log.move(9)
    log.move(12, [(4, key(1), b"old"), (7, key(2), None)])
    log.move(11)
    log.store(tmp_path)
    [found] = _scanned(tmp_path, log)
    assert _records(tmp_path, [found]) == [(4, key(1), b"old"), (7, key(2), None)]
    assert (found.commits.tolist(), found.offsets.tolist(), found.floor) == ([], [], 12)


def test_a_scan_may_begin_and_end_at_any_transaction(tmp_path: Path) -> None:
    log = Logfile(0)
    ends = [128]
    for time in range(1, 6):
        log.commit(time, {key(time): b"v"})
        ends.append(log.end)
    log.store(tmp_path)
    for begin in range(6):
        for end in range(begin, 6):
            times = [int(t) for found in _scanned(tmp_path, log, ends[begin], ends[end]) for t in found.times]
            assert times == list(range(begin + 1, end + 1))


def test_an_empty_range_has_no_pieces_and_a_broken_beginning_has_one(tmp_path: Path) -> None:
    log = Logfile(0)
    log.store(tmp_path)
    assert _scanned(tmp_path, log) == []
    [nothing] = _scanned(tmp_path, log, end=log.end + 4096)
    assert (nothing.end, len(nothing.keys), len(nothing.commits)) == (128, 0, 0)
    [beyond] = _scanned(tmp_path, log, begin=1 << 30, end=(1 << 30) + 64)
    assert beyond.end == 1 << 30


def test_a_smallfile_of_another_store_is_refused(tmp_path: Path) -> None:
    log = Logfile(0, uuid=bytes(16))
    log.commit(1, {key(1): b""})
    log.store(tmp_path)
    with pytest.raises(CorruptedStoreError, match=r"00000\.small"):
        _scanned(tmp_path, log)


@pytest.mark.usefixtures("small_pieces")
def test_transactions_across_and_longer_than_pieces_are_found_whole(tmp_path: Path) -> None:
    log = Logfile(2)
    expected: list[Record] = []
    sizes = [10, 0, 300, 5000, 40, 1024 - 48, 2000, 64]
    for time in range(1, 40):
        changes = {key(time * 100 + i): bytes([i]) * sizes[(time + i) % 8] for i in range(time % 7 + 1)}
        log.commit(time, changes)
        expected += [(time, name, value) for name, value in changes.items()]
    log.store(tmp_path)
    found = _scanned(tmp_path, log)
    assert _records(tmp_path, found) == expected
    assert [int(time) for piece in found for time in piece.commits] == list(range(1, 40))
    assert found[-1].end == log.end
    ends = [128] + [piece.end for piece in found]
    assert all(a < b for a, b in pairwise(ends))


def test_a_value_longer_than_a_piece_is_hashed_in_parts(tmp_path: Path) -> None:
    log = Logfile(0)
    log.commit(1, {key(1): b"x" * (scanning.PIECE_BYTES + 1), key(2): b"y"})
    log.commit(2, {key(3): b"z"})
    path = log.store(tmp_path)
    pieces = _scanned(tmp_path, log)
    assert [int(time) for piece in pieces for time in piece.times] == [1, 1, 2]
    with path.open("r+b") as file:
        file.seek(scanning.PIECE_BYTES // 2)
        file.write(b"!")
    [nothing] = _scanned(tmp_path, log)
    assert (nothing.end, len(nothing.times)) == (128, 0)


def _three(directory: Path) -> tuple[Logfile, list[int]]:
    """Three transactions with values, a removal and a move; returns where each ends."""
    log = Logfile(1)
    ends = [128]
    log.commit(1, {key(1): b"one", key(2): b"two" * 30})
    ends.append(log.end)
    log.commit(2, {key(1): None})
    ends.append(log.end)
    log.move(2, [(1, key(5), b"moved")])
    ends.append(log.end)
    log.store(directory)
    return log, ends


@pytest.mark.parametrize("piece_bytes", [256, 1 << 20])
def test_the_chain_ends_before_any_byte_that_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(scanning, "PIECE_BYTES", piece_bytes)
    log, ends = _three(tmp_path)
    path = tmp_path / layout.smallfile_name(1)
    whole = path.read_bytes()
    reader = smallfiles(tmp_path)
    reader.mapped = False
    for offset in range(128, log.end):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([whole[offset] ^ 0x41]))
        reached = [found.end for found in scan(reader, 1, 128, log.end)]
        assert reached[-1] == max(end for end in ends if end <= offset), offset
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(whole[offset : offset + 1])
    reader.close()


@pytest.mark.parametrize("piece_bytes", [256, 1 << 20])
def test_the_chain_ends_where_the_file_or_the_range_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(scanning, "PIECE_BYTES", piece_bytes)
    log, ends = _three(tmp_path)
    path = tmp_path / layout.smallfile_name(1)
    for size in range(log.end, 128, -1):
        reached = max(end for end in ends if end <= size)
        assert _scanned(tmp_path, log, end=size)[-1].end == reached
        os.truncate(path, size)
        assert _scanned(tmp_path, log)[-1].end == reached


@pytest.mark.parametrize("length", [layout.VALUE_BYTES_MAX + 1, 1 << 40, (1 << 64) - 64, (1 << 64) - 1])
def test_a_length_that_makes_no_sense_ends_the_chain(tmp_path: Path, length: int) -> None:
    log = Logfile(0)
    log.commit(1, {key(1): b"a"})
    end = log.end
    tag = layout.KIND_VALUE << layout.KIND_SHIFT
    log.data += layout.RECORD_HEADER.pack(bytes(16), key(2), length, tag).ljust(64, b"\0")
    log.store(tmp_path)
    assert _scanned(tmp_path, log, end=log.end + 4096)[-1].end == end


def test_a_chain_without_an_end_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of more than a transaction may have are not followed to the end of the file."""
    monkeypatch.setattr(scanning, "PIECE_BYTES", 1024)
    monkeypatch.setattr(layout, "KEYS_MAX", 100)
    read: list[int] = []
    original = Smallfiles.read

    def counted(self: Smallfiles, file_id: int, offset: int, length: int) -> bytes:
        read.append(offset)
        return original(self, file_id, offset, length)

    monkeypatch.setattr(Smallfiles, "read", counted)
    log = Logfile(0)
    tag = layout.KIND_REMOVAL << layout.KIND_SHIFT
    log.data += layout.RECORD_HEADER.pack(bytes(16), key(2), 0, tag).ljust(64, b"\0") * 10_000
    log.store(tmp_path)
    [nothing] = _scanned(tmp_path, log)
    assert nothing.end == 128
    assert max(read) < 128 + 110 * 64


def _planted(log: Logfile, wrong: str) -> None:
    """Append a transaction whose commit record verifies, but says something else of one thing than what is there."""
    begin = log.end
    log.commit(2, {key(7): b"seven" * 60})
    at = log.end - layout.COMMIT_BYTES
    shift = {"earlier extent": -64, "later extent": 64}.get(wrong, 0)
    extent = bytes(log.data[begin + shift : at])
    log.data[at:] = layout.pack_commit(
        bytes(16) if wrong == "store" else log.uuid,
        2,
        begin + shift + 64 * (wrong == "offset"),
        len(extent) - 64 * (wrong == "length"),
        1 + (wrong == "count"),
        0,
        0,
        log.file_id + (wrong == "file"),
        xxh3_128_digest(extent),
    )


@pytest.mark.parametrize("piece_bytes", [256, 1 << 20])
@pytest.mark.parametrize(
    "wrong", ["earlier extent", "later extent", "offset", "length", "count", "file", "store"]
)
def test_a_commit_record_that_does_not_fit_its_place_ends_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, wrong: str
) -> None:
    monkeypatch.setattr(scanning, "PIECE_BYTES", piece_bytes)
    log = Logfile(0)
    log.commit(1, {key(1): b"a", key(2): b"b" * 200})
    end = log.end
    _planted(log, wrong)
    log.store(tmp_path)
    assert _scanned(tmp_path, log)[-1].end == end


def test_leftovers_of_an_older_longer_transaction_are_not_part_of_the_chain(tmp_path: Path) -> None:
    """A writer that appended and did not commit appends again from the same place."""
    log = Logfile(0)
    log.commit(1, {key(i): b"long" * 50 for i in range(20)})
    leftovers = bytes(log.data)
    again = Logfile(0)
    again.commit(1, {key(1): b"short"})
    end = again.end
    again.data += leftovers[end:]
    again.store(tmp_path)
    assert [found.end for found in _scanned(tmp_path, again)] == [end]


@given(
    st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=400)), max_size=12), max_size=12),
    st.integers(2, 64),
)
def test_what_is_found_does_not_depend_on_where_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, transactions: list[list[bytes | None]], slots: int
) -> None:
    directory = tmp_path_factory.mktemp("scan")
    log = Logfile(1)
    expected: list[Record] = []
    for time, values in enumerate(transactions, 1):
        log.commit(time, {key(i): value for i, value in enumerate(values)})
        expected += [(time, key(i), value) for i, value in enumerate(values)]
    log.store(directory, slack=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "PIECE_BYTES", 64 * slots)
        found = _scanned(directory, log)
    assert _records(directory, found) == expected
    assert np.concatenate([[128], *(piece.offsets + 128 for piece in found)])[-1] == log.end


def test_random_bytes_never_raise(tmp_path: Path, torture_seed: int) -> None:
    generator = np.random.default_rng(torture_seed)
    log = Logfile(0)
    log.data += generator.bytes(1 << 16)
    for slot in range(2, len(log.data) // 64):  # most of them with a kind that there is
        log.data[slot * 64 + 47] = int(generator.integers(0, 9))
        log.data[slot * 64 + 34 : slot * 64 + 40] = bytes(6)
    log.store(tmp_path)
    for begin in range(128, 1 << 14, 64):
        assert [found.end for found in _scanned(tmp_path, log, begin)] == [begin]
