"""The store's pages as tests look at them: sections, tables, examples."""

from __future__ import annotations

import doctest
import io
import re
import struct
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import kvs

_STRUCT_CODES = {"s": 1, "x": 1, "Q": 8}
_EXAMPLE_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Page:
    """One page of the package kvs."""

    def __init__(self, name: str) -> None:
        self.name = f"kvs/{name}"
        self.text = (Path(kvs.__file__).parent / name).read_text(encoding="utf-8")
        # Without its blocks of code, in which a # begins a comment and no heading.
        self.prose = re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def section(self, title: str) -> str:
        """The text under the heading ``title``, up to the next heading."""
        pattern = rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)"
        found = re.search(pattern, self.prose, re.DOTALL | re.MULTILINE)
        assert found, f"{self.name} has no section {title!r}"
        return found[1]

    def titles_with_tables(self) -> set[str]:
        """The headings of the sections that have a table."""
        titles = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {title for title in titles if "\n|" in self.section(title)}

    def table(self, title: str, number: int = 0) -> list[list[str]]:
        """The rows of a section's table without its head, names without their backticks."""
        found = re.findall(r"(?:^\|.*\n)+", self.section(title), re.MULTILINE)
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in found[number].splitlines()]
        assert len({len(row) for row in rows}) == 1, f"a row of {title!r} has another number of cells"
        return [[row[0].strip("`"), *row[1:]] for row in rows[2:]]

    def fields(self, title: str, number: int = 0) -> list[tuple[str, int, int]]:
        """``(name, offset, bytes)`` of a table of fields; "..." counts as 0 bytes."""
        rows = self.table(title, number)
        return [(name, int(offset), int(size.replace("...", "0"))) for name, offset, size, _ in rows]

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in one language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)


def placed(form: struct.Struct) -> list[tuple[int, int]]:
    """``(offset, bytes)`` of each field of a struct."""
    places, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form.format):
        for size in [int(count or 1)] if code in "sx" else [_STRUCT_CODES[code]] * int(count or 1):
            places.append((offset, size))
            offset += size
    assert offset == form.size
    return places


def play(session: str, namespace: dict[str, Any], name: str) -> str:
    """Run a session (``>>>``) in ``namespace``; returns what went otherwise than it says, empty where nothing did.
    A line is folded where the page folds it, and "..." stands for anything.
    """
    example = doctest.DocTestParser().get_doctest(session, namespace, name, name, 0)
    example.globs = namespace
    told = io.StringIO()
    with redirect_stdout(io.StringIO()):
        doctest.DocTestRunner(optionflags=_EXAMPLE_FLAGS).run(example, out=told.write, clear_globs=False)
    return told.getvalue()
