"""The dump: a snapshot of a store as one stream of bytes, checked throughout, for pipes and for keeping.

Everything is little-endian and nothing is aligned. The header (56 bytes)::

    0   magic        8   "kvs-dump"
    8   version      8   1
    16  flags        8   properties of the store: 1 durable, 2 integrity, 4 content addressed
    24  transaction  8   T of the snapshot
    32  about        8   keys in the store when the dump began: only to show progress, and to size an index
    40  hash        16   xxh3-128 of bytes 0 to 40

Then any number of blocks, each with a header of 32 bytes::

    0   number       8   from 0, one more each
    8   length       8   of the payload: 1 to 1,048,576
    16  hash        16   xxh3-128 of the hash before (of the header, or of the block before), the number, the length
                         and the payload
    32  payload

The payloads one behind the other, wherever they are cut, are the records::

    0   key         16
    16  length       8   of the value
    24  value

And the end mark (48 bytes), behind which nothing may follow: a block whose length is 0 and whose payload is this::

    0   keys         8   records in the dump
    8   bytes        8   of all payloads before

Every hash takes in the one before, so the end mark's is the hash of the whole: a flipped bit, a part that is missing,
twice there, in another order or of another dump is found at the block where it is, and a cut at the end mark that is
not there. Both sides hold one block, and one value, in memory at a time.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NoReturn, Protocol

from xxhash import xxh3_128, xxh3_128_digest

from kvs import layout
from kvs.errors import DamagedDumpError, UnknownStoreError

VERSION: Final = 1
MAGIC: Final = b"kvs-dump"
BLOCK_BYTES: Final = 1 << 20
HEADER: Final = struct.Struct("<8sQQQQ")
HEADER_BYTES: Final = HEADER.size + layout.HASH_BYTES
BLOCK: Final = struct.Struct("<QQ")
BLOCK_HEADER_BYTES: Final = BLOCK.size + layout.HASH_BYTES
RECORD: Final = struct.Struct("<16sQ")
END: Final = struct.Struct("<QQ")

assert HEADER_BYTES == 56
assert BLOCK_HEADER_BYTES == 32
assert BLOCK_HEADER_BYTES + END.size == 48
assert RECORD.size == 24

PROPERTIES: Final = {
    "durable": layout.FLAG_DURABLE,
    "integrity": layout.FLAG_INTEGRITY,
    "content_addressed": layout.FLAG_CONTENT_ADDRESSED,
}
"""What is fixed when a store is created, by its flag."""

Progress = Callable[[int], None]
"""Called with the number of keys that are done."""


class Source(Protocol):
    """What can be dumped: a snapshot."""

    transaction_counter: int

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values."""


def write_dump(
    snapshot: Source, stat: Mapping[str, Any], out: BinaryIO, progress: Progress | None = None
) -> int:
    """Write everything in ``snapshot``, of a store with the properties in ``stat``, to ``out``; returns the number of
    keys. Raises what reading and writing raise; what was written by then is no whole dump, and load will say so.
    """
    flags = sum(flag for name, flag in PROPERTIES.items() if stat[name])
    head = HEADER.pack(MAGIC, VERSION, flags, snapshot.transaction_counter, stat["keys"])
    blocks = _Blocks(out, xxh3_128_digest(head))
    out.write(head + blocks.hash)
    pack = RECORD.pack
    keys = 0
    buffer = bytearray()
    for key, value in snapshot.items():
        keys += 1
        buffer += pack(key, len(value))
        view = memoryview(value)
        while len(buffer) + len(view) >= BLOCK_BYTES:
            room = BLOCK_BYTES - len(buffer)
            buffer += view[: max(room, 0)]
            blocks.write(memoryview(buffer)[:BLOCK_BYTES])
            buffer = buffer[
                BLOCK_BYTES:
            ]  # a few bytes of a record's head, if it was that what came to the edge
            view = view[max(room, 0) :]
            if progress is not None:
                progress(keys)
        buffer += view
        del value, view  # or it would still be there while the next one is read
    if buffer:
        blocks.write(buffer)
    blocks.end(keys)
    if progress is not None:
        progress(keys)
    return keys


class _Blocks:
    """Writes blocks, each with a hash that takes in the one before."""

    def __init__(self, out: BinaryIO, header_hash: bytes) -> None:
        self._out = out
        self.hash = header_hash
        self._number = 0
        self._payload_bytes = 0

    def write(self, payload: bytearray | memoryview) -> None:
        self._write(len(payload), payload)
        self._payload_bytes += len(payload)

    def end(self, keys: int) -> None:
        self._write(0, END.pack(keys, self._payload_bytes))

    def _write(self, length: int, payload: bytearray | memoryview | bytes) -> None:
        head = BLOCK.pack(self._number, length)
        self.hash = _chained(self.hash, head, payload)
        self._out.write(head + self.hash)
        self._out.write(payload)
        self._number += 1


def _chained(before: bytes, head: bytes, payload: bytearray | memoryview | bytes) -> bytes:
    state = xxh3_128(before + head)
    state.update(payload)
    return state.digest()


def read_dump(source: BinaryIO) -> Dump:
    """A dump to be read from ``source``, whose header was read and checked.

    Raises:
        UnknownStoreError: it is no dump, or one of a newer format.
        DamagedDumpError: its header is damaged.
    """
    return Dump(source)


class Dump:
    """A dump that is being read: the properties of its store, T of its snapshot, and once, its items.

    ``offset_bytes`` is how far it was read, ``keys`` how many records that were.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.offset_bytes = 0
        self.keys = 0
        self._keys_expected = 0
        self._number = -1
        self._begin = 0
        data = self._read(HEADER_BYTES)
        if data[: len(MAGIC)] != MAGIC:
            raise UnknownStoreError(
                "this is not a dump that kvs dump has written, or its first bytes are damaged",
                path=_name(source),
            )
        if len(data) < HEADER_BYTES or xxh3_128_digest(data[: HEADER.size]) != data[HEADER.size :]:
            self._damaged("does not match its hash" if len(data) == HEADER_BYTES else "is not all there")
        _, version, flags, self.transaction_counter, self.about = HEADER.unpack_from(data)
        if version != VERSION or flags & ~layout.FLAGS_KNOWN:
            raise UnknownStoreError(
                f"a dump in format {version} with flags {flags}, which this version of kvs does not know. Upgrade kvs",
                path=_name(source),
            )
        self.properties = {name: bool(flags & flag) for name, flag in PROPERTIES.items()}
        self._hash = data[HEADER.size :]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, each from blocks that were checked. That it was all of them is known, and said by an
        exception where it was not, only when the iteration ends.

        Raises:
            DamagedDumpError: a block or the end mark is not what it must be.
        """
        payloads = self._payloads()
        unpack, size = RECORD.unpack_from, RECORD.size
        rest = b""
        for payload in payloads:
            data, position = rest + payload, 0
            while len(data) - position >= size:
                key, length = unpack(data, position)
                begin = position + size
                if begin + length <= len(data):
                    position = begin + length
                    self.keys += 1
                    yield key, data[begin:position]
                elif length <= BLOCK_BYTES:
                    break  # it is whole with the next payload
                else:
                    value, data = self._long_value(memoryview(data)[begin:], length, payloads)
                    position = 0
                    self.keys += 1
                    yield key, value.getvalue()  # shares the buffer
                    del value
            rest = data[position:]
        if rest:
            self._damaged("is the end mark, within a record")
        if self.keys != self._keys_expected:
            self._damaged(f"is an end mark for {self._keys_expected} keys behind {self.keys}")

    def _long_value(
        self, first: memoryview, length: int, payloads: Iterator[bytes]
    ) -> tuple[io.BytesIO, bytes]:
        """A value that began with ``first``, and what follows it in its last payload."""
        if length > layout.VALUE_BYTES_MAX:
            self._damaged(f"has a value of {length} bytes")
        value = io.BytesIO()
        value.write(first)
        missing, payload = length - len(first), b""
        while missing:
            payload = next(payloads, b"")
            if not payload:
                self._damaged("is the end mark, within a value")
            part = memoryview(payload)[:missing]
            value.write(part)
            missing -= len(part)
            if not missing:
                payload = payload[len(part) :]
        return value, payload

    def _payloads(self) -> Iterator[bytes]:
        """The payload of every block, checked; at the end the end mark is checked too."""
        total = 0
        while True:
            self._number += 1
            self._begin = self.offset_bytes
            head = self._read(BLOCK_HEADER_BYTES)
            if len(head) < BLOCK_HEADER_BYTES:
                self._damaged("is not all there")
            number, length = BLOCK.unpack_from(head)
            if number != self._number or length > BLOCK_BYTES:
                self._damaged(f"says that it is block {number} of {length} bytes")
            payload = self._read(length or END.size)
            if len(payload) < (length or END.size):
                self._damaged("is not all there")
            self._hash = _chained(self._hash, head[: BLOCK.size], payload)
            if self._hash != head[BLOCK.size :]:
                self._damaged("does not match its hash")
            if not length:
                break
            total += length
            yield payload
        self._keys_expected, total_expected = END.unpack(payload)
        if total != total_expected:
            self._damaged(f"is an end mark for {total_expected} bytes behind {total}")
        if self._read(1):
            self._damaged("is the end mark, and more follows")

    def _read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end."""
        data = self._source.read(count)
        while len(data) < count and (more := self._source.read(count - len(data))):
            data += more
        self.offset_bytes += len(data)
        return data

    def _damaged(self, problem: str) -> NoReturn:
        raise DamagedDumpError(problem, block=self._number, offset_bytes=self._begin)


def _name(source: BinaryIO) -> str:
    name = getattr(source, "name", "")
    return name if isinstance(name, str) and name else "the dump"
