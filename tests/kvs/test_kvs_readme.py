"""kvs/README.md says what the code does: every table, name and example on that page is compared or run."""

from __future__ import annotations

import re
import shlex
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kvs
from kvs import check, cli, errors, layout, locks, smallfile, syncpoints

PAGE = (Path(kvs.__file__).parent / "README.md").read_text(encoding="utf-8")
STRUCT_CODES = {"s": 1, "x": 1, "Q": 8}


def section(title: str) -> str:
    """The text under the heading ``title``, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", without_code(), re.DOTALL | re.MULTILINE)
    assert found, f"kvs/README.md has no section {title!r}"
    return found[1]


def without_code() -> str:
    """The page without its blocks of code, in which a # begins a comment and no heading."""
    return re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)


def table(title: str, number: int = 0) -> list[list[str]]:
    """The rows of a section's table without its head, names without their backticks."""
    blocks = re.findall(r"(?:^\|.*\n)+", section(title), re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in blocks[number].splitlines()]
    assert len({len(row) for row in rows}) == 1, f"a row of {title!r} has another number of cells"
    return [[row[0].strip("`"), *row[1:]] for row in rows[2:]]


def fields(title: str) -> list[tuple[str, int, int]]:
    """``(name, offset, bytes)`` of a table of fields; "..." counts as 0 bytes."""
    return [(name, int(offset), int(size.replace("...", "0"))) for name, offset, size, _ in table(title)]


def placed(form: struct.Struct) -> list[tuple[int, int]]:
    """``(offset, bytes)`` of each field of a struct."""
    places, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form.format):
        for size in [int(count or 1)] if code in "sx" else [STRUCT_CODES[code]] * int(count or 1):
            places.append((offset, size))
            offset += size
    assert offset == form.size
    return places


def constants(prefix: str) -> dict[str, int]:
    return {name: value for name, value in vars(layout).items() if re.match(rf"{prefix}_[A-Z_]+$", name)}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "prefix", "end"),
    [
        ("`index.0`: the header page", "H", layout.PAGE),
        ("`index.0`: a writer place", "W", layout.WRITER_WORDS * layout.WORD),
        ("`index.0`: an entry", "E", layout.ENTRY_BYTES),
    ],
)
def test_the_tables_of_shared_words_are_those_of_the_layout(title: str, prefix: str, end: int) -> None:
    rows = fields(title)
    assert {name: offset for name, offset, _ in rows} == {
        name: word * layout.WORD for name, word in constants(prefix).items()
    }
    for (_, offset, size), (_, following, _) in zip(rows, [*rows[1:], ("", end, 0)], strict=True):
        assert size > 0
        assert size % layout.WORD == 0
        assert offset + size <= following


def test_the_sizes_of_wide_fields_are_those_of_the_layout() -> None:
    sizes = {name: size for name, _, size in fields("`index.0`: the header page")}
    wide = {name for name, size in sizes.items() if size != layout.WORD}
    assert wide == {"H_UUID", "H_STATIC_HASH", "H_BOOT", "H_CLEAN"}
    assert {sizes[name] for name in wide} == {16}
    assert f"xxh3-128 of bytes 0 to {layout.STATIC_WORDS * layout.WORD - 1}" in section(
        "`index.0`: the header page"
    )
    entry = {name: size for name, _, size in fields("`index.0`: an entry")}
    assert entry["E_KEY"] == layout.KEY_BYTES
    assert entry["E_TIME"] == layout.REVISIONS * layout.WORD
    assert entry["E_PLACE"] == layout.REVISIONS * layout.ENTRY_PLACE.size


def test_the_table_of_the_smallfile_header_is_that_of_its_struct() -> None:
    rows = fields("`NNNNN.small`: the header")
    assert [(offset, size) for _, offset, size in rows[:-1]] == placed(layout.SMALLFILE_HEADER)
    assert rows[-1] == ("hash", layout.SMALLFILE_HEADER.size, layout.HASH_BYTES)
    assert sum(size for _, _, size in rows) == layout.SMALLFILE_HEADER_BYTES


def test_the_table_of_a_record_is_that_of_its_struct() -> None:
    rows = fields("`NNNNN.small`: a record")
    assert [(offset, size) for _, offset, size in rows[:-1]] == placed(layout.RECORD_HEADER)
    dtype = layout.RECORD_DTYPE.fields
    assert dtype is not None
    assert [(name, offset) for name, offset, _ in rows[:-1]] == [(name, dtype[name][1]) for name in dtype]
    assert rows[-1] == ("value", layout.RECORD_HEADER_BYTES, 0)
    text = section("`NNNNN.small`: a record")
    assert f"above {layout.KIND_SHIFT} bits" in text
    for kind, name in ((layout.KIND_VALUE, "value"), (layout.KIND_REMOVAL, "removal"), (3, "commit")):
        assert f"{kind} {name}" in text
    assert layout.record_bytes(16) == 64


def test_the_table_of_a_commit_record_is_that_of_its_struct() -> None:
    rows = fields("`NNNNN.small`: the value of a commit record")
    assert [(offset, size) for _, offset, size in rows] == placed(layout.COMMIT_VALUE)
    assert [name for name, _, _ in rows if name != "reserved"] == list(layout.Commit._fields)


def test_magics_versions_and_flags_are_those_of_the_layout() -> None:
    index, small = section("`index.0`: the header page"), section("`NNNNN.small`: the header")
    assert f"`{layout.INDEX_MAGIC.to_bytes(8, 'little').decode()}`" in index
    assert f"`{layout.SMALLFILE_MAGIC.to_bytes(8, 'little').decode()}`" in small
    assert f"format, {layout.FORMAT_VERSION}" in index
    assert f"format, {layout.FORMAT_VERSION}" in small
    flags = f"{layout.FLAG_DURABLE} durable, {layout.FLAG_INTEGRITY} integrity"
    assert f"{flags}, {layout.FLAG_CONTENT_ADDRESSED} content addressed" in index
    assert f"above {layout.LOCATION_SHIFT} bits of offset" in section("`index.0`: an entry")


def test_the_files_are_those_of_a_store(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=100) as store:
        store[1] = b"one"
        names = {"NNNNN.small" if p.suffix == ".small" else p.name for p in store_dir.iterdir()}
        assert names == {row[0] for row in table("The files")}


def test_the_locks_are_at_these_bytes_and_in_this_order() -> None:
    rows = {name: (where, order) for name, where, order, _ in table("The locks")}
    for lock in (locks.COMPACT, locks.COMMIT):
        assert rows[lock.name] == (f"byte {lock.start} of `ranges.lock`", str(lock.rank))
    first = locks.writer_range(0)
    assert rows["WRITER[i]"] == (f"byte {first.start} + i of `ranges.lock`", str(first.rank))
    assert set(rows) == {"GATE", "COMPACT", "WRITER[i]", "COMMIT"}


def test_the_steps_of_the_commit_are_those_of_the_source() -> None:
    steps = [row[0].split()[0] for row in table("The commit")]
    assert steps == [str(number) for number in range(12)]
    source = (Path(kvs.__file__).parent / "transaction.py").read_text(encoding="utf-8")
    body = source[source.index("def commit(") : source.index("def locked(")]
    assert re.findall(r"# (\d+)\b", body) == steps
    assert f"Up to {smallfile.VECTOR_MIN - 1} keys are published one by one" in section("The commit")


def test_the_invariants_are_those_that_are_checked() -> None:
    assert dict(table("Invariants")) == check.INVARIANTS


def test_the_sync_points_are_those_that_are_registered() -> None:
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", "".join(points for _, points in table("Sync points")))
    assert sorted(named) == sorted(syncpoints.POINTS)


def test_the_limits_are_those_of_the_layout() -> None:
    for name, value, _ in table("Limits"):
        assert getattr(layout, name) == int(value.replace(",", "")), name


def test_the_errors_are_all_that_there_are() -> None:
    rows = table("Errors")
    known = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.Error)
    }
    assert [row[0] for row in rows] == sorted({row[0] for row in rows}, key=[row[0] for row in rows].index)
    assert {row[0] for row in rows} == known
    assert all(getattr(kvs, name) is getattr(errors, name) for name in known)
    for name, when, _ in rows:
        for builtin in (FileNotFoundError, ValueError, OSError):
            said = f"`{builtin.__name__}`" in when
            assert not said or issubclass(getattr(errors, name), builtin), name


def test_nothing_is_promised_about_modules_that_are_not_there() -> None:
    here = {path.name for path in Path(kvs.__file__).parent.glob("*.py")}
    named = set(re.findall(r"`([a-z]+\.py)`", PAGE))
    assert named <= here
    assert here - named == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    before = "" if number == 0 else "import kvs\n"
    exec(compile(before + blocks("python")[number], "kvs/README.md", "exec"), namespace)  # noqa: S102


def test_every_command_of_the_shell_example_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert lines
    used = set()
    for line in lines:
        name, *arguments = shlex.split(line)
        assert name == "kvs"
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"
        used.add(arguments[0])
    assert used == set(cli.main.commands)


def test_there_is_a_test_for_every_section_with_a_table() -> None:
    with_tables = [
        title for title in re.findall(r"^#+ (.*)$", without_code(), re.MULTILINE) if rows_in(title)
    ]
    assert {t for t in with_tables if t not in PROSE} == {
        "The files",
        "`index.0`: the header page",
        "`index.0`: a writer place",
        "`index.0`: an entry",
        "`NNNNN.small`: the header",
        "`NNNNN.small`: a record",
        "`NNNNN.small`: the value of a commit record",
        "The locks",
        "The commit",
        "Invariants",
        "Sync points",
        "Limits",
        "Errors",
    }


PROSE = {"Repair", "What is guaranteed"}
"""Tables of sentences, which no program can compare."""


def rows_in(title: str) -> bool:
    return "\n|" in section(title)
