"""Jepsen's histories in EDN: one vector of maps (history.edn), or one map after another (edn-lines)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import msgspec

from harness.formats import edn
from harness.formats.fields import event_of
from harness.recorded import Event

BLOCK_BYTES: Final = 1 << 18
"""What is read at once: 2^18 is as fast as 2^20 and keeps fewer events waiting."""


def read(file: BinaryIO, path: str) -> Iterator[Event]:
    """The events of a file that is one vector of maps, over any number of lines; maps may be records
    (``#jepsen.history.Op{...}``). Memory does not grow with the file.

    Raises:
        HistoryError: this is no such file, or it was cut short; with ``path`` and the line.
    """
    return _events(file, path, edn.Reader(path, elements=True))


def read_lines(file: BinaryIO, path: str) -> Iterator[Event]:
    """As ``read``, for a file of maps that follow one another without a vector around them."""
    return _events(file, path, edn.Reader(path))


def _events(file: BinaryIO, path: str, reader: edn.Reader) -> Iterator[Event]:
    position = 0
    quick = True
    while block := file.read(max(BLOCK_BYTES, reader.held_bytes)):
        if quick:
            block += file.readline(BLOCK_BYTES)
            line, skipped = reader.line, reader.skipped
            for event in _of_lines(block, path, reader, position):
                yield event
                position = event.position + 1
            quick = 2 * (reader.skipped - skipped) > reader.line - line
            continue
        for line, fields in reader.feed(block):
            yield event_of(position, line, fields, path)
            position += 1
    for line, fields in reader.close():
        yield event_of(position, line, fields, path)
        position += 1


def _of_lines(block: bytes, path: str, reader: edn.Reader, position: int) -> Iterator[Event]:
    """The events of whole lines. A line that is one map of what transactions consist of goes through the decoder of
    JSON, three times as fast; every other line goes to ``reader``.
    """
    lines = block.split(b"\n")
    last = lines.pop()
    between = reader.between
    at = reader.line
    for line, (text, translated) in enumerate(zip(lines, _translated(block).split(b"\n"), strict=False), at):
        if between:
            fields = _quick(translated)
            if fields is not None:
                yield event_of(position, line, fields, path)
                position += 1
                continue
            reader.skip_to(line)
        for began, found in reader.feed(text + b"\n"):
            yield event_of(position, began, found, path)
            position += 1
        between = reader.between
    if between:
        reader.skip_to(at + len(lines))
    for began, found in reader.feed(last):
        yield event_of(position, began, found, path)
        position += 1


def _translated(block: bytes) -> bytes:
    """Lines of EDN as the insides of arrays in JSON, with a zero byte, which is no JSON, where that is not certain. A
    keyword that is not listed here keeps its colon, and that is no JSON either.
    """
    block = block.replace(b"#jepsen.history.Op{", b"{").replace(b"null", b"\0")
    block = block.replace(b", ", b",").translate(_BLANKS_TO_COMMAS)
    for keyword, string in _KEYWORDS:
        block = block.replace(keyword, string)
    return block


def _quick(text: bytes) -> dict[str, Any] | None:
    """The fields of an event whose line was translated, or ``None``: it is not of that kind."""
    if text[-1:] != b"}":
        return None
    if text[:1] == b"{":
        text = text[1:-1]
    elif text[:2] == b",{":
        text = text[2:-1]
    else:
        return None
    try:
        row = _decode(b"[" + text + b"]")
        return dict(zip(row[::2], row[1::2], strict=True))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError):
        return None


_decode: Final = msgspec.json.Decoder(list[Any]).decode
_BLANKS_TO_COMMAS: Final = bytes.maketrans(b' "#();\\', b",\0\0\0\0\0\0")
_KEYWORDS: Final = (
    *((f":type,:{name}".encode(), f'"type","{name}"'.encode()) for name in ("invoke", "ok", "fail", "info")),
    *((f":f,:{name}".encode(), f'"f","{name}"'.encode()) for name in ("txn", "read", "write", "cas")),
    *((f":{name},".encode(), f'"{name}",'.encode()) for name in ("value", "process", "time", "index")),
    *((f"[:{name},".encode(), f'["{name}",'.encode()) for name in ("append", "r", "w")),
    (b",nil", b",null"),
)
