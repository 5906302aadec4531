"""Jepsen's histories in JSON: one array of objects, laid out in any way, or one object on each line (json-lines)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import msgspec

from harness.errors import HistoryError
from harness.formats.fields import event_of
from harness.recorded import Event

BLOCK_BYTES: Final = 1 << 18
"""What is read at once."""

EVENT_BYTES_MAX: Final = 1 << 27
"""No event is longer. Without a limit, one quote too many would read a whole file into memory."""

_BLANKS: Final = re.compile(rb"[\s,]*")
_NEXT: Final = re.compile(rb"\s*,\s*\{")
_STRUCTURE: Final = re.compile(rb'"[^"\\]*(?:\\[\s\S][^"\\]*)*(?:"|\\?\Z)|[\[\]{},]')
_BYTE: Final = re.compile(r"\s*\(byte (\d+)\)")
_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode: Final = msgspec.json.Decoder().decode
_decode_each: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_all: Final = msgspec.json.Decoder(list[Any]).decode


def read(file: BinaryIO, path: str) -> Iterator[Event]:
    """The events of a file that is one array of objects: an event per line, printed over many lines, or all in one.
    Memory does not grow with the file. Of a field that an object has twice the last counts.

    Raises:
        HistoryError: this is no such file, or it was cut short; with ``path`` and the line.
    """
    line, held = _begin(file, path)
    position = 0
    while block := file.read(max(BLOCK_BYTES, len(held))):
        held += block
        end = _end_of_events(held, path, line)
        if end is None:
            if len(held) > EVENT_BYTES_MAX:
                raise HistoryError(f"no event ends within {EVENT_BYTES_MAX >> 20} MiB", path, line)
            continue
        piece, held = held[:end], held[end + 1 :]
        for event in _events(b"[" + piece + b"]", path, line, position):
            yield event
            position += 1
        line += piece.count(b"\n")
    yield from _events(b"[" + held, path, line, position)


def read_lines(file: BinaryIO, path: str) -> Iterator[Event]:
    """As ``read``, for a file with one object on each line. Blank lines are left out.

    Raises:
        HistoryError: a line is no object, or no event; with ``path`` and the line.
    """
    position = 0
    for line, text in enumerate(file, 1):
        try:
            fields = _decode(text)
        except _ERRORS as error:
            if not text.strip():
                continue
            raise _error(error, text, path, line, "line") from None
        yield event_of(position, line, fields, path)
        position += 1


def _begin(file: BinaryIO, path: str) -> tuple[int, bytes]:
    """Past the ``[``: the line, and what was read after it."""
    line = 1
    held = file.read(BLOCK_BYTES)
    while True:
        text = held.lstrip()
        line += held.count(b"\n", 0, len(held) - len(text))
        if text[:1] == b"[":
            return line, text[1:]
        if text:
            raise HistoryError(
                "a history in JSON is one array of objects, and this file begins with something else",
                path,
                line,
            )
        held = file.read(BLOCK_BYTES)
        if not held:
            raise HistoryError("this file holds nothing", path, line)


def _events(text: bytes, path: str, line: int, position: int) -> Iterator[Event]:
    """The events of an array that is in memory."""
    try:
        if b"\n" not in text:
            for at, fields in enumerate(_decode_all(text), position):
                yield event_of(at, line, fields, path)
            return
        events = _decode_each(text)
    except _ERRORS as error:
        raise _error(error, text, path, line) from None
    at = 1
    for raw in events:
        blank = _BLANKS.match(text, at)
        begin = blank.end() if blank else at
        line += text.count(b"\n", at, begin)
        at = begin + len(raw)
        try:
            fields = _decode(raw)
        except _ERRORS as error:
            raise _error(error, text[begin:at], path, line) from None
        yield event_of(position, line, fields, path)
        position += 1
        line += text.count(b"\n", begin, at)


def _end_of_events(held: bytes, path: str, line: int) -> int | None:
    """Where the last comma between events stands (``None``: there is none). What is before it is whole events.

    First guessed: mostly it is the last comma between ``}`` and ``{``. A guess inside of an event leaves something that
    is no JSON. Where two guesses fail, brackets are counted.
    """
    at = len(held)
    for _ in range(2):
        at = held.rfind(b"}", 0, at)
        while at >= 0 and not _NEXT.match(held, at + 1):
            at = held.rfind(b"}", 0, at)
        if at < 0:
            break
        try:
            _decode_each(b"[" + held[: at + 1] + b"]")
        except _ERRORS:
            continue
        return held.index(b",", at)
    found, depth = None, 0
    for token in _STRUCTURE.finditer(held):
        character = token[0]
        if character == b",":
            if not depth:
                found = token.start()
        elif character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
            if depth < 0:
                if held[token.end() :].strip():
                    line += held.count(b"\n", 0, token.start())
                    raise HistoryError(
                        "something stands after the end of the array, or a bracket too many", path, line
                    )
                return None
    return found


def _error(error: Exception, text: bytes, path: str, line: int, what: str = "file") -> HistoryError:
    """What is wrong with ``text``, which begins on ``line``."""
    message = str(error)
    byte = _BYTE.search(message)
    if "truncated" in message:
        line += text.rstrip().count(b"\n")
        message = (
            f"the {what} ends before its JSON does: it was cut short; copy it again, remove what is not complete, or "
            "name the format of this file"
        )
    elif isinstance(error, RecursionError):
        message = "arrays and objects are nested too deep"
    elif byte is not None:
        line += text.count(b"\n", 0, int(byte[1]))
        message = _BYTE.sub("", message).removeprefix("JSON is malformed: ")
        message = f"this is not JSON: {message}"
    else:
        message = f"this is not JSON: {message}"
    return HistoryError(message, path, line)
