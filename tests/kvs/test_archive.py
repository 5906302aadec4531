"""The dump: what goes in comes out, and no damage of any kind goes unnoticed."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

import kvs
from kvs import archive, layout
from kvs.archive import BLOCK_BYTES, read_dump, write_dump

KEYS = st.binary(min_size=16, max_size=16)
STAT = {"durable": False, "integrity": True, "content_addressed": False, "keys": 3}


class Items:
    """Items that stand for a snapshot."""

    transaction_counter = 7

    def __init__(self, items: dict[bytes, bytes]) -> None:
        self._items = items

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._items.items())


def dumped(items: dict[bytes, bytes], stat: dict[str, object] | None = None) -> bytes:
    out = io.BytesIO()
    assert write_dump(Items(items), STAT if stat is None else stat, out) == len(items)
    return out.getvalue()


def loaded(data: bytes) -> dict[bytes, bytes]:
    return dict(read_dump(io.BytesIO(data)).items())


SMALL = {bytes([i]) * 16: bytes(range(i)) for i in range(1, 4)}


@given(st.dictionaries(KEYS, st.binary(max_size=300), max_size=30))
def test_what_was_dumped_is_read(items: dict[bytes, bytes]) -> None:
    assert loaded(dumped(items)) == items


@pytest.mark.parametrize("edge", [-49, -48, -25, -24, -23, -1, 0, 1, 24, BLOCK_BYTES, 3 * BLOCK_BYTES + 7])
def test_values_around_the_edges_of_blocks_are_read(edge: int) -> None:
    items = {
        bytes([i]) * 16: bytes([i]) * length
        for i, length in enumerate([BLOCK_BYTES + edge, 0, 5, 2 * BLOCK_BYTES])
    }
    assert loaded(dumped(items)) == items


def test_the_header_says_what_kind_of_store_it_was() -> None:
    dump = read_dump(io.BytesIO(dumped(SMALL, {**STAT, "durable": True, "integrity": False})))
    assert dump.properties == {"durable": True, "integrity": False, "content_addressed": False}
    assert (dump.transaction_counter, dump.about, dump.keys) == (7, 3, 0)
    assert (len(dict(dump.items())), dump.keys) == (3, 3)


def test_every_flipped_bit_is_found() -> None:
    data = dumped(SMALL)
    for offset in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << bit
            with pytest.raises((kvs.DamagedDumpError, kvs.UnknownStoreError)):
                loaded(bytes(damaged))


def test_every_truncation_is_found_and_says_where() -> None:
    data = dumped(SMALL)
    for length in range(8, len(data)):
        with pytest.raises(kvs.DamagedDumpError, match="is not all there") as caught:
            loaded(data[:length])
        assert caught.value.offset_bytes <= length
        assert f"at byte {caught.value.offset_bytes} " in str(caught.value)


def test_every_missing_or_doubled_byte_is_found() -> None:
    data = dumped(SMALL)
    for offset in range(len(data)):
        for damaged in (data[:offset] + data[offset + 1 :], data[: offset + 1] + data[offset:]):
            with pytest.raises((kvs.DamagedDumpError, kvs.UnknownStoreError)):
                loaded(damaged)


def blocks(data: bytes) -> list[bytes]:
    """The header, the blocks and the end mark of a dump."""
    parts, position = [data[: archive.HEADER_BYTES]], archive.HEADER_BYTES
    while position < len(data):
        length = archive.BLOCK.unpack_from(data, position)[1] or archive.END.size
        end = position + archive.BLOCK_HEADER_BYTES + length
        parts.append(data[position:end])
        position = end
    return parts


def test_blocks_in_another_order_or_of_another_dump_are_found() -> None:
    header, *parts, end = blocks(dumped({bytes(16): bytes(BLOCK_BYTES * 3)}))
    others = blocks(dumped({bytes(16): b"\1" * BLOCK_BYTES * 3}))[1:-1]
    assert len(parts) == 4
    assert loaded(b"".join([header, *parts, end])) == {bytes(16): bytes(BLOCK_BYTES * 3)}
    for damaged in (
        [parts[1], parts[0], *parts[2:], end],
        [*parts[:2], *parts[3:], end],
        [parts[0], *parts, end],
        [parts[0], *others[1:], end],
        [*others, end],
        [end],
        [*parts],
        [*parts, end, end],
        [*parts, end, b"\0"],
    ):
        with pytest.raises(kvs.DamagedDumpError):
            loaded(b"".join([header, *damaged]))


def forged(payload: bytes, keys: int, *, total: int | None = None) -> bytes:
    """A dump whose hashes are right and whose content is not."""
    head = archive.HEADER.pack(archive.MAGIC, archive.VERSION, 2, 7, 0)
    data = head + xxh3_128_digest(head)
    before = data[-16:]
    end = archive.END.pack(keys, len(payload) if total is None else total)
    for number, part in enumerate([payload, end] if payload else [end]):
        length = 0 if part is end else len(part)
        block = archive.BLOCK.pack(number, length)
        before = xxh3_128_digest(before + block + part)
        data += block + before + part
    return data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (forged(archive.RECORD.pack(bytes(16), 5) + b"1234", 1), "within a record"),
        (forged(archive.RECORD.pack(bytes(16), BLOCK_BYTES + 5) + b"1234", 1), "within a value"),
        (forged(archive.RECORD.pack(bytes(16), layout.VALUE_BYTES_MAX + 1), 1), "value of 1073741825 bytes"),
        (forged(b"123", 0), "within a record"),
        (forged(archive.RECORD.pack(bytes(16), 0), 2), "end mark for 2 keys behind 1"),
        (forged(archive.RECORD.pack(bytes(16), 0), 1, total=3), "end mark for 3 bytes behind 24"),
    ],
)
def test_a_dump_that_nobody_wrote_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(kvs.DamagedDumpError, match=problem):
        loaded(data)


def test_something_else_and_newer_formats_are_told_from_damage() -> None:
    for data in (b"", b"PK\3\4", b"kvs-dum", bytes(1000)):
        with pytest.raises(kvs.UnknownStoreError, match="not a dump"):
            loaded(data)
    for version, flags in ((2, 0), (1, 8)):
        head = archive.HEADER.pack(archive.MAGIC, version, flags, 0, 0)
        with pytest.raises(kvs.UnknownStoreError, match="Upgrade kvs"):
            loaded(head + xxh3_128_digest(head))


def test_sources_that_give_a_little_at_a_time_are_read() -> None:
    class Drops(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return super().read(min(count or 0, 7))

    assert dict(read_dump(Drops(dumped(SMALL))).items()) == SMALL


def test_progress_is_told_in_keys() -> None:
    seen: list[int] = []
    write_dump(
        Items({bytes([i]) * 16: bytes(BLOCK_BYTES) for i in range(3)}), STAT, io.BytesIO(), seen.append
    )
    assert seen == [1, 2, 3, 3]


def test_a_snapshot_of_a_store_is_dumped_while_it_is_written(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        store.put_many({i: b"%d" % i for i in range(3000)})
        with store.snapshot() as snapshot:
            store.put_many(dict.fromkeys(range(3000), b"later"))
            out = io.BytesIO()
            write_dump(snapshot, store.stat(), out)
    assert loaded(out.getvalue()) == {i.to_bytes(16, "big"): b"%d" % i for i in range(3000)}


def test_the_tables_of_the_docstring_are_those_of_the_structs() -> None:
    tables = [
        re.findall(r"^    (\d+) +(\w+)(?: +(\d+))?", part, re.MULTILINE)
        for part in (archive.__doc__ or "").split("::")
    ]
    fields = [
        [(name, int(offset), int(size or 0)) for offset, name, size in table] for table in tables if table
    ]

    def placed(form: struct.Struct) -> list[int]:
        sizes = [int(n) if n else 8 for n, _ in re.findall(r"(\d+)s|(Q)", form.format)]
        return [sum(sizes[:i]) for i in range(len(sizes))]

    header, block, record, end = fields
    assert [offset for _, offset, _ in header] == [*placed(archive.HEADER), archive.HEADER.size]
    assert [offset for _, offset, _ in block] == [
        *placed(archive.BLOCK),
        archive.BLOCK.size,
        archive.BLOCK_HEADER_BYTES,
    ]
    assert [offset for _, offset, _ in record] == [*placed(archive.RECORD), archive.RECORD.size]
    assert [offset for _, offset, _ in end] == placed(archive.END)
    assert f"1 to {BLOCK_BYTES:,}" in (archive.__doc__ or "")
