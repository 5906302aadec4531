"""Open a recorded history of any format: guess the format from how it begins, and stream its events."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, cast

from harness.errors import HistoryError, UsageError
from harness.formats import etcd_log, jepsen_edn, jepsen_json
from harness.recorded import Event

FORMATS: Final[Mapping[str, Callable[[BinaryIO, str], Iterator[Event]]]] = {
    "jepsen-edn": jepsen_edn.read,
    "edn-lines": jepsen_edn.read_lines,
    "jepsen-json": jepsen_json.read,
    "json-lines": jepsen_json.read_lines,
    "etcd-log": etcd_log.read,
}
"""Readers by the name of their format: ``reader(file, path)`` streams the events; ``path`` is for errors."""

SNIFFED_BYTES: Final = 1 << 16
"""How much of a file is looked at to tell its format. A log may begin with other lines than events."""

_BLANKS: Final = re.compile(rb"(?:[\s,]|;[^\n]*(?:\n|\Z))*")
_JSON_FIELD: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"\s*:')
_UNREADABLE: Final = (OSError, EOFError, zlib.error)


def sniff(path: Path) -> str:
    """The format of a file, told by how it begins and not by its name.

    Raises:
        HistoryError: the file is empty.
        UsageError: the file cannot be read, or begins as no format does; the formats are named.
    """
    with _open(path) as file:
        return _sniffed(file, path)


def _sniffed(file: _File, path: Path) -> str:
    try:
        head = file.peek(SNIFFED_BYTES)[:SNIFFED_BYTES]
    except _UNREADABLE as error:
        raise UsageError(f"{path} cannot be read ({error}); nothing was checked") from None
    if not head.strip():
        raise HistoryError("the file is empty; nothing was checked", str(path), 1)
    name = _told(head)
    if name is None:
        raise UsageError(
            f"the format of {path} cannot be told from how it begins ({head[:40]!r}); if it is one of "
            f"{', '.join(FORMATS)}, name it"
        )
    return name


def _told(head: bytes) -> str | None:
    at = _end(_BLANKS, head, 0)
    first = head[at : at + 1]
    vector = first in (b"[", b"(")
    if vector:
        at = _end(_BLANKS, head, at + 1)
    rest = head[at:]
    edn = "jepsen-edn" if vector else "edn-lines"
    if rest[:1] == b"#" and b"{" in rest:
        return edn
    if rest[:1] == b"{":
        rest = rest[_end(_BLANKS, rest, 1) :]
        if _JSON_FIELD.match(rest):
            return "jepsen-json" if vector else "json-lines"
        if rest[:1] in (b":", b"#", b'"'):
            return edn
    if vector and rest[:1] == b"]":
        return "jepsen-json" if first == b"[" else edn
    return "etcd-log" if etcd_log.EVENT.search(head) else None


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def open_history(path: Path, format: str | None = None) -> Iterator[Event]:  # noqa: A002
    """The events of a recorded history, in the order of the file, with positions from 0. ``format``: one of
    ``FORMATS``; ``None``: it is told by how the file begins. A file that gzip made is read as what is in it. Events
    come as they are read, and memory does not grow with the file. The file is opened here, and closed when the last
    event was taken, or the iterator is.

    Raises:
        UsageError: the file does not exist, cannot be read, or its format is unknown.
        HistoryError: the file is empty, or (while events are taken) is not what its format says; with the line.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    file = _open(path)
    try:
        reader = FORMATS[_sniffed(file, path) if format is None else format]
    except BaseException:
        file.close()
        raise
    return _stream(file, reader, str(path))


def _open(path: Path) -> _File:
    """The file, unpacked, past the mark that some editors put before UTF-8."""
    try:
        below = cast(BufferedReader, path.open("rb", buffering=SNIFFED_BYTES))
        file: _File = below
        try:
            if below.peek(2)[:2] == b"\x1f\x8b":
                file = _Unpacked(below)
            if file.peek(3)[:3] == b"\xef\xbb\xbf":
                file.read(3)
        except BaseException:
            below.close()
            raise
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; nothing was checked") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a recorded history; name a file in it") from None
    except (*_UNREADABLE, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); nothing was checked") from None
    return file


class _Unpacked(gzip.GzipFile):
    """What a gzip file holds. Closing it closes the file below, too."""

    def __init__(self, file: BufferedReader) -> None:
        super().__init__(fileobj=file)
        self._below = file

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._below.close()


_File = BufferedReader | _Unpacked


def _stream(file: _File, reader: Callable[[BinaryIO, str], Iterator[Event]], path: str) -> Iterator[Event]:
    line = 1
    with file:
        try:
            for event in reader(cast(BinaryIO, file), path):
                line = event.line
                yield event
        except _UNREADABLE as error:
            raise HistoryError(f"the file cannot be read on ({error}); copy it again", path, line) from None
