"""kvs/FORMAT.md says what the code does: every table and name on that page is compared with it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import kvs
from kvs import archive, check, compaction, layout, locks, records, syncpoints
from tests.kvs.pages import Page, placed

PAGE = Page("FORMAT.md")
PROSE = {"Durable commits", "Repair", "Rebuild"}
"""Tables of sentences, which no program can compare."""
HEADER_PAGE = "`index.N`: the header page"
ENTRY = "`index.N`: an entry"
SMALLFILE = "`NNNNN.small`: the header"
RECORD = "`NNNNN.small`: a record"
COMMIT = "`NNNNN.small`: the value of a commit record or move"


def constants(prefix: str) -> dict[str, int]:
    """The constants of the layout whose names begin so."""
    return {name: value for name, value in vars(layout).items() if re.match(rf"{prefix}_[A-Z_]+$", name)}


@pytest.mark.parametrize(
    ("title", "number", "prefix", "end"),
    [
        (HEADER_PAGE, 0, "H", layout.PAGE),
        ("`index.N`: a writer place", 0, "W", layout.WRITER_WORDS * layout.WORD),
        (ENTRY, 0, "E", layout.ENTRY_BYTES),
        (SMALLFILE, 1, "B", layout.SMALLFILE_BEGIN),
    ],
)
def test_the_tables_of_shared_words_are_those_of_the_layout(
    title: str, number: int, prefix: str, end: int
) -> None:
    rows = PAGE.fields(title, number)
    assert {name: offset for name, offset, _ in rows} == {
        name: word * layout.WORD for name, word in constants(prefix).items()
    }
    for (_, offset, size), (_, following, _) in zip(rows, [*rows[1:], ("", end, 0)], strict=True):
        assert size > 0
        assert size % layout.WORD == 0
        assert offset + size <= following


def test_the_sizes_of_wide_fields_are_those_of_the_layout() -> None:
    sizes = {name: size for name, _, size in PAGE.fields(HEADER_PAGE)}
    wide = {name for name, size in sizes.items() if size != layout.WORD}
    assert wide == {"H_UUID", "H_STATIC_HASH", "H_BOOT", "H_CLEAN"}
    assert {sizes[name] for name in wide} == {16}
    assert f"xxh3-128 of bytes 0 to {layout.STATIC_WORDS * layout.WORD - 1}" in PAGE.section(HEADER_PAGE)
    entry = {name: size for name, _, size in PAGE.fields(ENTRY)}
    assert entry["E_KEY"] == layout.KEY_BYTES
    assert entry["E_TIME"] == layout.REVISIONS * layout.WORD
    assert entry["E_PLACE"] == layout.REVISIONS * layout.ENTRY_PLACE.size


def test_the_table_of_the_smallfile_header_is_that_of_its_struct() -> None:
    rows = PAGE.fields(SMALLFILE)
    assert [(offset, size) for _, offset, size in rows[:-1]] == placed(layout.SMALLFILE_HEADER)
    assert rows[-1] == ("hash", layout.SMALLFILE_HEADER.size, layout.HASH_BYTES)
    assert sum(size for _, _, size in rows) == layout.SMALLFILE_HEADER_BYTES
    text = PAGE.section(SMALLFILE)
    assert f"Bytes 0 to {layout.SMALLFILE_BEGIN - 1}. The first {layout.SMALLFILE_HEADER_BYTES} never" in text
    assert f"0 means {layout.SMALLFILE_BEGIN}" in text
    assert f"in {layout.LOCATION_SHIFT} bits, below {64 - layout.LOCATION_SHIFT} bits of a checksum" in text


def test_the_table_of_a_record_is_that_of_its_struct() -> None:
    rows = PAGE.fields(RECORD)
    assert [(offset, size) for _, offset, size in rows[:-1]] == placed(layout.RECORD_HEADER)
    dtype = layout.RECORD_DTYPE.fields
    assert dtype is not None
    assert [(name, offset) for name, offset, _ in rows[:-1]] == [(name, dtype[name][1]) for name in dtype]
    assert rows[-1] == ("value", layout.RECORD_HEADER_BYTES, 0)
    text = PAGE.section(RECORD)
    assert f"From byte {layout.SMALLFILE_BEGIN}, each one {layout.ALIGN}-byte aligned" in text
    assert f"kind above {layout.KIND_SHIFT} bits" in text
    assert layout.record_bytes(16) == 64


def test_the_kinds_of_records_are_those_of_the_layout() -> None:
    kinds = {name: value for name, value in constants("KIND").items() if name != "KIND_SHIFT"}
    assert {name: int(number) for name, number, _ in PAGE.table(RECORD, 1)} == kinds


def test_the_table_of_a_commit_record_is_that_of_its_struct() -> None:
    rows = PAGE.fields(COMMIT)
    assert [(offset, size) for _, offset, size in rows] == placed(layout.COMMIT_VALUE)
    assert [name for name, _, _ in rows if name != "reserved"] == list(layout.Commit._fields)
    assert f"takes {layout.COMMIT_BYTES} bytes" in PAGE.section(COMMIT)


def test_magics_versions_and_flags_are_those_of_the_layout() -> None:
    index, small = PAGE.section(HEADER_PAGE), PAGE.section(SMALLFILE)
    assert f"`{layout.INDEX_MAGIC.to_bytes(8, 'little').decode()}`" in index
    assert f"`{layout.SMALLFILE_MAGIC.to_bytes(8, 'little').decode()}`" in small
    assert f"format, {layout.FORMAT_VERSION}" in index
    assert f"format, {layout.FORMAT_VERSION}" in small
    flags = f"{layout.FLAG_DURABLE} durable, {layout.FLAG_INTEGRITY} integrity"
    flags = f"{flags}, {layout.FLAG_CONTENT_ADDRESSED} content addressed"
    assert flags in index
    assert flags in PAGE.section("A dump: the header")
    assert f"above {layout.LOCATION_SHIFT} bits of offset" in PAGE.section(ENTRY)


def test_the_files_are_those_of_a_store(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=1) as store:
        store.update({1: b"one", 2: b"two"})
        assert store.stat()["generation"] > 0
        names = {re.sub(r"^\d+\.small$", "NNNNN.small", path.name) for path in store_dir.iterdir()}
        names = {re.sub(r"^index\.\d+$", "index.N", name) for name in names}
    assert names == {row[0] for row in PAGE.table("The files")}


def test_the_locks_are_at_these_bytes_and_in_this_order() -> None:
    rows = {name: (where, order) for name, where, order, _ in PAGE.table("The locks")}
    single = {lock.name: lock for lock in vars(locks).values() if isinstance(lock, locks.Range)}
    for lock in single.values():
        assert rows[lock.name] == (f"byte {lock.start} of `ranges.lock`", str(lock.rank))
    for first, name in ((locks.writer_range(0), "WRITER[i]"), (locks.sync_range(0), "SYNC[i]")):
        assert rows[name] == (f"byte {first.start} + i of `ranges.lock`", str(first.rank))
    assert rows["PIN[T]"] == (f"byte 2^{locks.PIN_BASE.bit_length() - 1} + T of `ranges.lock`", "")
    assert locks.PIN_BASE == 1 << 60
    assert set(rows) == {"GATE", "WRITER[i]", "SYNC[i]", "PIN[T]", *single}


def test_the_steps_of_the_commit_are_those_of_the_source() -> None:
    steps = [row[0].split()[0] for row in PAGE.table("The commit")]
    assert steps == [str(number) for number in range(12)]
    source = (Path(kvs.__file__).parent / "writer.py").read_text(encoding="utf-8")
    body = source[source.index("def commit(") : source.index("def locked(")]
    assert re.findall(r"# (\d+)\b", body) == steps
    assert f"Up to {records.VECTOR_MIN - 1} keys are published one by one" in PAGE.section("The commit")


def test_the_steps_of_a_compaction_are_those_of_the_source() -> None:
    steps = [row[0] for row in PAGE.table("Compaction")]
    comments = re.findall(r"# (\d(?: and \d)*)$", inspect.getsource(compaction.compact), re.MULTILINE)
    assert [step for comment in comments for step in comment.split(" and ")] == steps


def test_the_steps_of_a_growth_end_at_its_sync_points() -> None:
    named = re.findall(r"`(grow\.\w+)`", PAGE.section("Growth"))
    known = [name for name in syncpoints.POINTS if name.startswith("grow.") and name != "grow.before_build"]
    assert named == known


def test_the_invariants_are_those_that_are_checked() -> None:
    assert dict(PAGE.table("Invariants")) == check.INVARIANTS


def test_the_sync_points_are_those_that_are_registered() -> None:
    rows = [re.findall(r"`([a-z]+\.[a-z_]+)`", points) for _, points in PAGE.table("Sync points")]
    named = [name for row in rows for name in row]
    assert set(syncpoints.POINTS) - set(named) == set(), "points that the page leaves out"
    assert set(named) - set(syncpoints.POINTS) == set(), "points that are not there"
    assert len(named) == len(set(named))
    order = list(syncpoints.POINTS)
    assert [sorted(row, key=order.index) for row in rows] == rows


@pytest.mark.parametrize(
    ("title", "form", "rest"),
    [
        ("A dump: the header", archive.HEADER, [("hash", 40, 16)]),
        ("A dump: a block", archive.BLOCK, [("hash", 16, 16), ("payload", 32, 0)]),
        ("A dump: the end mark", archive.END, []),
    ],
)
def test_the_tables_of_a_dump_are_those_of_its_structs(
    title: str, form: object, rest: list[tuple[str, int, int]]
) -> None:
    rows = PAGE.fields(title)
    count = len(rows) - len(rest)
    assert [(offset, size) for _, offset, size in rows[:count]] == placed(form)  # type: ignore[arg-type]
    assert rows[count:] == rest


def test_the_table_of_a_dumped_record_is_that_of_its_struct() -> None:
    rows = PAGE.fields("A dump: a record")
    assert [(offset, size) for _, offset, size in rows[:-1]] == placed(archive.RECORD)
    assert rows[-1] == ("value", archive.RECORD.size, 0)


def test_the_numbers_of_a_dump_are_those_of_the_archive() -> None:
    header, block = PAGE.section("A dump: the header"), PAGE.section("A dump: a block")
    assert f"`{archive.MAGIC.decode()}`" in header
    assert f"| `version` | 8 | 8 | {archive.VERSION} |" in header
    assert f"xxh3-128 of bytes 0 to {archive.HEADER.size - 1}" in header
    assert f"1 to {archive.BLOCK_BYTES:,}," in block
    assert PAGE.fields("A dump: a block")[-1][1] == archive.BLOCK_HEADER_BYTES
    assert PAGE.fields("A dump: the header")[-1][1] + layout.HASH_BYTES == archive.HEADER_BYTES


def test_there_is_a_test_for_every_section_with_a_table() -> None:
    assert PAGE.titles_with_tables() - PROSE == {
        "The files",
        HEADER_PAGE,
        "`index.N`: a writer place",
        ENTRY,
        SMALLFILE,
        RECORD,
        COMMIT,
        "The locks",
        "The commit",
        "Growth",
        "Compaction",
        "Invariants",
        "Sync points",
        "A dump: the header",
        "A dump: a block",
        "A dump: a record",
        "A dump: the end mark",
    }
