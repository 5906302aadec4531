"""Smallfiles written by hand: transactions, moves, bounds, exactly where a test wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xxhash import xxh3_128_digest

from kvs import layout, records
from kvs.smallfile import Smallfiles

UUID = bytes(range(16))
WRITERS = 3
STRIDE = layout.place_stride(WRITERS)
OUTPUT = WRITERS
"""The id of the first smallfile of a compaction."""

Changes = Mapping[bytes, bytes | None]


def key(number: int) -> bytes:
    """A key for a number."""
    return xxh3_128_digest(number.to_bytes(8, "big"))


def traits(flags: int = layout.FLAG_INTEGRITY) -> int:
    """What the smallfiles of the store say of it."""
    return layout.pack_traits(flags, WRITERS)


def smallfiles(directory: Path, flags: int = layout.FLAG_INTEGRITY) -> Smallfiles:
    """The reader of the smallfiles that are written here."""
    return Smallfiles(directory, UUID, traits(flags), mapped=True)


class Logfile:
    """The content of one smallfile, growing in memory until it is stored."""

    def __init__(self, file_id: int, *, flags: int = layout.FLAG_INTEGRITY, uuid: bytes = UUID) -> None:
        self.file_id = file_id
        self.uuid = uuid
        head = layout.pack_smallfile_header(uuid, file_id, traits(flags))
        self.data = bytearray(head.ljust(layout.SMALLFILE_BEGIN, b"\0"))

    @property
    def end(self) -> int:
        """Where the next transaction will begin."""
        return len(self.data)

    def commit(self, time: int, changes: Changes) -> int:
        """Append one transaction; returns where its commit record is."""
        extent = b"".join(
            bytes(piece) for piece in records.encode([*changes], [*changes.values()], integrity=True)[0]
        )
        return self._end(layout.KIND_COMMIT, time, extent, len(changes))

    def move(self, floor: int, moved: list[tuple[int, bytes, bytes | None]] = []) -> int:  # noqa: B006
        """Append one batch of moved records, each ``(T, key, value)``; returns where the move is."""
        extent = b""
        for time, name, value in moved:
            kind = layout.KIND_MOVED_REMOVAL if value is None else layout.KIND_MOVED_VALUE
            content = value or b""
            tail = layout.RECORD_TAIL.pack(name, len(content), kind << layout.KIND_SHIFT | time)
            record = xxh3_128_digest(content) + tail + content
            extent += record.ljust(layout.record_bytes(len(content)), b"\0")
        return self._end(layout.KIND_MOVE, floor, extent, len(moved))

    def bound(self, word: int, offset: int) -> None:
        """Store a bound in the header."""
        stored = layout.pack_bound(self.file_id, word, offset).to_bytes(8, "little")
        self.data[word * 8 : word * 8 + 8] = stored

    def seal(self) -> None:
        """Store the end bound behind what is there."""
        self.bound(layout.B_END, self.end)

    def store(self, directory: Path, *, slack: int = 4096) -> Path:
        """Write the file, with room behind its end as a writer leaves it; returns its path."""
        path = directory / layout.smallfile_name(self.file_id)
        path.write_bytes(bytes(self.data) + bytes(slack))
        return path

    def _end(self, kind: int, sequence: int, extent: bytes, count: int) -> int:
        begin = self.end
        self.data += extent
        at = self.end
        self.data += layout.pack_commit(
            self.uuid,
            sequence,
            begin,
            len(extent),
            count,
            0,
            0,
            self.file_id,
            xxh3_128_digest(extent),
            kind,
        )
        return at
