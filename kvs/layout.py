"""Every byte on disk, defined once. Little-endian; shared words are aligned to 8 bytes.

``index.<gen>`` (shared map)::

    0       header page         4,096 bytes, see the H_ words below
    4096    writer table        writers_max places of 64 bytes, see the W_ words
    ...     entries             slots entries of 128 bytes, page aligned, see the E_ words

``NNNNN.small`` (append only)::

    0       smallfile header    128 bytes: 64 that never change, then the B_ words
    128     records             each 64-byte aligned: a 48-byte header, the value, zero padding

An entry keeps the four T together with the key in its first cache line, so that a lookup that misses, and
the choice of a revision, touch one line only; locations and lengths fill the second.
"""

from __future__ import annotations

import functools
import struct
from typing import Final, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_digest

FORMAT_VERSION: Final = 2
INDEX_MAGIC: Final = int.from_bytes(b"kvs-indx", "little")
SMALLFILE_MAGIC: Final = int.from_bytes(b"kvs-smal", "little")

KEY_BYTES: Final = 16
WORD: Final = 8
PAGE: Final = 4096
KEYS_MAX: Final = 65_535
"""Most keys in one transaction."""
VALUE_BYTES_MAX: Final = 1 << 30
"""Longest value: 1 GiB."""
WRITERS_MAX: Final = 128
"""Writer places of a new store."""
REVISIONS: Final = 4
INDEX_CAPACITY: Final = 1_400
"""Keys that a new store has room for before its index grows, unless ``index_capacity`` says otherwise."""
SMALLFILE_BYTES: Final = 256 << 20
"""A smallfile that would become longer than this is sealed, and its writer begins another."""

# Header words (index of an 8-byte word in the file).
H_MAGIC: Final = 0
H_VERSION: Final = 1
H_FLAGS: Final = 2
H_SLOTS: Final = 3  # entries in the table, a power of two
H_CAPACITY: Final = 4  # keys that may be in it
H_WRITERS_MAX: Final = 5
H_ENTRIES: Final = 6  # byte offset of the first entry
H_GENERATION: Final = 7
H_UUID: Final = 8  # two words; smallfiles of another incarnation carry another
H_STATIC_HASH: Final = 14  # two words: xxh3-128 of words 0 to 13
STATIC_WORDS: Final = 14
H_COMMITTED: Final = 16  # C: the newest visible transaction
H_DURABLE: Final = 24  # D: the newest that is on the medium
H_INTENT: Final = 32  # T of the commit in progress, 0 when there is none
H_INTENT_WRITER: Final = 33
H_INTENT_FILE: Final = 34
H_INTENT_OFFSET: Final = 35  # byte offset of the commit record in that smallfile
H_NEXT: Final = 36  # 1 + the generation that has replaced this one; 0 while this is the current one
H_KEYS_LIVE: Final = 40  # keys whose newest revision is a value
H_ENTRIES_USED: Final = 41
H_OWNER_PID: Final = 48  # who holds COMMIT: for messages only, never for a decision
H_COMPACT_PID: Final = 49  # who holds COMPACT, likewise
H_BOOT: Final = 56  # two words: the kernel's boot id when the index was last opened for writing
H_CLEAN: Final = 58  # two words: the clean-close hash, or UNCLEAN while anybody may write
H_FLOOR: Final = 64  # the newest floor that a smallfile holds: all T up to it were on the medium then
H_HORIZON: Final = 65  # no snapshot of an older T is granted any more
H_SWEPT: Final = 66  # of a key removed up to here, no older record is left in any smallfile
H_FORGOTTEN: Final = 67  # the newest removal of a key whose older revisions were forgotten
H_OUTPUT_FILE: Final = 68  # the id of the newest smallfile that a compaction has made, 0 for none
H_PLACES: Final = 69  # no writer place from this one on was ever claimed
HEADER_WORDS: Final = PAGE // WORD

FLAG_DURABLE: Final = 1
FLAG_INTEGRITY: Final = 2
FLAG_CONTENT_ADDRESSED: Final = 4
FLAGS_KNOWN: Final = 7

# Writer places (words from the place's own first word).
WRITER_WORDS: Final = 8
W_PID: Final = 0
W_TAIL: Final = 1  # bytes of the smallfile that hold published transactions
W_FILE: Final = 2  # the id of the newest smallfile with published transactions of this place
W_LAGGING: Final = 3  # (durable) T of the transaction of this place that is not synced yet, 0 for none
W_LAGGING_FILE: Final = 4  # the smallfile that it is in
W_LAGGING_OFFSET: Final = 5  # and where its commit record is

# Entries (words from the entry's own first word).
ENTRY_WORDS: Final = 16
ENTRY_BYTES: Final = 128
E_KEY: Final = 0  # two words
E_TIME: Final = 2  # four words: T of each revision; the first one is zero iff the entry is empty
E_PLACE: Final = 8  # four pairs {location, length}
NEVER: Final = 0  # a revision that was never used
UNCLEAN: Final = b"\xff" * 16  # H_CLEAN while anybody may write, once the medium knows it
BUSY: Final = (1 << 64) - 1  # a revision that is being overwritten
TOMBSTONE: Final = (1 << 64) - 1  # the length of a removal

ENTRY_HEAD: Final = struct.Struct("@16s4Q")
"""Key and the four T. Native mode: each T is one aligned 8-byte load (a standard-size format tears)."""

ENTRY_FIRST: Final = struct.Struct("@16s4Q16x2Q")
"""The same, and then the first {location, length} pair: all of an entry whose key was written once."""
ENTRY_PLACE: Final = struct.Struct("@2Q")
"""One {location, length} pair, as two aligned loads in this order."""

# Locations: the smallfile's id above 40 bits of offset in bytes (a smallfile ends below 1 TiB).
ALIGN: Final = 64
LOCATION_SHIFT: Final = 40
SMALLFILE_BYTES_MAX: Final = 1 << LOCATION_SHIFT
LOCATION_MASK: Final = (1 << LOCATION_SHIFT) - 1

# Records.
#   0   hash      16   xxh3-128 of the value; zero in a store without integrity; a commit record's is of all that
#                       follows it, bytes 16 to 128, always
#   16  key       16   for a commit record: the store's uuid
#   32  length     8   of the value; a removal has none, 0
#   40  tag        8   kind << 56 | sequence (of a record: its place in the transaction; of a moved one: the T
#                       that wrote it; of a commit: its T; of a move: the floor)
#   48  value
RECORD_HEADER: Final = struct.Struct("<16s16sQQ")
RECORD_HEADER_BYTES: Final = 48
RECORD_TAIL: Final = struct.Struct("<16sQQ")  # the header without its hash
RECORD_DTYPE: Final = np.dtype([("hash", "V16"), ("key", "V16"), ("length", "<u8"), ("tag", "<u8")])
HASH_BYTES: Final = 16
KIND_SHIFT: Final = 56
SEQUENCE_MASK: Final = (1 << KIND_SHIFT) - 1
KIND_VALUE: Final = 1
KIND_REMOVAL: Final = 2
KIND_COMMIT: Final = 3
KIND_MOVED_VALUE: Final = 4
KIND_MOVED_REMOVAL: Final = 5
KIND_MOVE: Final = 6  # ends a batch of moved records, as a commit record ends a transaction

# The value of a commit record, and of a move (which has no counters: zero).
#   0   extent_offset    8   where the transaction's records begin
#   8   extent_bytes     8   they are contiguous, and the commit record follows them
#   16  count            8
#   24  keys_live        8   the header's counters after this transaction: absolute, so that
#   32  entries_used     8   accounting can be redone any number of times
#   40  file_id          8   the smallfile that the record is in
#   48  records_hash    16   xxh3-128 of the extent
#   64  reserved        16
COMMIT_VALUE: Final = struct.Struct("<QQQQQQ16s16x")
COMMIT_VALUE_BYTES: Final = 80
COMMIT_BODY: Final = struct.Struct(RECORD_TAIL.format + COMMIT_VALUE.format[1:])
COMMIT_BYTES: Final = RECORD_HEADER_BYTES + COMMIT_VALUE_BYTES

# The smallfile header.
#   0   magic      8
#   8   version    8
#   16  uuid      16   of the store
#   32  file id    8
#   40  traits     8   flags of the store | writers_max << 32: what an index is rebuilt from
#   48  hash      16   xxh3-128 of bytes 0 to 48
SMALLFILE_HEADER: Final = struct.Struct("<QQ16sQQ")
SMALLFILE_HEADER_BYTES: Final = 64
SMALLFILE_BEGIN: Final = 128
"""Where the records of a smallfile begin."""

# The B_ words of a smallfile (index of an 8-byte word in the file). Zero: never stored.
B_BEGIN: Final = 8  # a bound: what is before it is dead, and may be a hole
B_END: Final = 9  # a bound: the published end, of a file that no writer appends to any more
B_RECORDS: Final = 10  # of a compaction's file: bytes of records in it (not of moves)
B_SINCE: Final = (
    11  # a bound that is a T: the live part has nothing older than the removal of a key up to there
)

assert RECORD_HEADER.size == RECORD_HEADER_BYTES == RECORD_DTYPE.itemsize
assert RECORD_TAIL.size == RECORD_HEADER_BYTES - HASH_BYTES
assert COMMIT_VALUE.size == COMMIT_VALUE_BYTES
assert COMMIT_BYTES % ALIGN == 0
assert SMALLFILE_HEADER.size + HASH_BYTES == SMALLFILE_HEADER_BYTES == ALIGN
assert (B_SINCE + 1) * WORD <= SMALLFILE_BEGIN
assert SMALLFILE_BEGIN % ALIGN == 0
assert ENTRY_WORDS * WORD == ENTRY_BYTES
assert ENTRY_HEAD.size == E_TIME * WORD + REVISIONS * WORD
assert ENTRY_FIRST.size == (E_PLACE + 2) * WORD
assert E_PLACE + 2 * REVISIONS == ENTRY_WORDS


def record_bytes(length: int) -> int:
    """Bytes that a record with a value of ``length`` bytes takes; a removal takes those of length 0."""
    return (RECORD_HEADER_BYTES + length + ALIGN - 1) & -ALIGN


def pack_location(file_id: int, offset_bytes: int) -> int:
    """The one word that says where a record begins."""
    return file_id << LOCATION_SHIFT | offset_bytes


def unpack_location(location: int) -> tuple[int, int]:
    """``(file id, offset in bytes)`` of a packed location."""
    return location >> LOCATION_SHIFT, location & LOCATION_MASK


def slots_for(capacity: int) -> int:
    """Entries for ``capacity`` keys: the power of two that they fill to at most 70 %."""
    return 1 << max(6, (capacity * 10 // 7).bit_length())


def entries_offset(writers_max: int) -> int:
    """Byte offset of the first entry: header page and writer table, rounded up to a page."""
    return (PAGE + writers_max * WRITER_WORDS * WORD + PAGE - 1) & -PAGE


def writer_word(slot: int) -> int:
    """Index of the first word of writer place ``slot``."""
    return HEADER_WORDS + slot * WRITER_WORDS


def place_stride(writers_max: int) -> int:
    """Smallfile ids of one writer place, or of compaction (the place ``writers_max``), are this far apart."""
    return writers_max + 1


def smallfile_name(file_id: int) -> str:
    """``NNNNN.small``. Ids of writer place i are i, i + stride, i + 2 stride, and so on, and never used again."""
    return f"{file_id:05d}.small"


def index_name(generation: int) -> str:
    """``index.<gen>``."""
    return f"index.{generation}"


def pack_bound(file_id: int, word: int, offset_bytes: int) -> int:
    """The one word that is stored for a bound of a smallfile: 40 bits of offset (or T) below 24 bits of checksum."""
    return _bound_check(file_id, word, offset_bytes) << LOCATION_SHIFT | offset_bytes


def unpack_bound(file_id: int, word: int, stored: int) -> int | None:
    """The offset of a stored bound, 0 if it was never stored, ``None`` if it is damaged."""
    offset = stored & LOCATION_MASK
    return offset if stored == 0 or stored >> LOCATION_SHIFT == _bound_check(file_id, word, offset) else None


def _bound_check(file_id: int, word: int, offset_bytes: int) -> int:
    return xxh3_64_intdigest(struct.pack("<QQQ", file_id, word, offset_bytes)) >> LOCATION_SHIFT


@functools.lru_cache(maxsize=1024)
def pack_smallfile_header(store_uuid: bytes, file_id: int, traits: int) -> bytes:
    """The 64 bytes at the start of a smallfile."""
    head = SMALLFILE_HEADER.pack(SMALLFILE_MAGIC, FORMAT_VERSION, store_uuid, file_id, traits)
    return head + xxh3_128_digest(head)


def pack_traits(flags: int, writers_max: int) -> int:
    """The properties of a store as one word of every smallfile's header."""
    return flags | writers_max << 32


class SmallfileHeader(NamedTuple):
    """What the first 64 bytes of a smallfile say."""

    version: int
    store_uuid: bytes
    file_id: int
    flags: int
    writers_max: int


def unpack_smallfile_header(data: bytes) -> SmallfileHeader | None:
    """The header in the first 64 bytes of ``data``, or ``None`` if it is none or is damaged."""
    head = data[: SMALLFILE_HEADER.size]
    if len(data) < SMALLFILE_HEADER_BYTES or xxh3_128_digest(head) != data[48:64]:
        return None
    magic, version, store_uuid, file_id, traits = SMALLFILE_HEADER.unpack(head)
    if magic != SMALLFILE_MAGIC:
        return None
    return SmallfileHeader(version, store_uuid, file_id, traits & 0xFFFFFFFF, traits >> 32)


class Commit(NamedTuple):
    """What a commit record (or a move) says beside its T (its floor). Offsets and sizes in bytes."""

    extent_offset: int
    extent_bytes: int
    records: int
    keys_live: int
    entries_used: int
    file_id: int
    records_hash: bytes


def pack_commit(
    store_uuid: bytes,
    time: int,
    extent_offset: int,
    extent_bytes: int,
    records: int,
    keys_live: int,
    entries_used: int,
    file_id: int,
    records_hash: bytes,
    kind: int = KIND_COMMIT,
) -> bytes:
    """The 128 bytes of a commit record (or of a move, whose ``time`` is the floor), with its own hash; the other
    arguments are the fields of ``Commit``.
    """
    body = COMMIT_BODY.pack(
        store_uuid,
        COMMIT_VALUE_BYTES,
        kind << KIND_SHIFT | time,
        extent_offset,
        extent_bytes,
        records,
        keys_live,
        entries_used,
        file_id,
        records_hash,
    )
    return xxh3_128_digest(body) + body


def unpack_commit(store_uuid: bytes, data: bytes, kind: int = KIND_COMMIT) -> tuple[int, Commit] | None:
    """``(T, commit)`` of 128 bytes, or ``None`` unless they are a whole record of that kind of this store."""
    if len(data) != COMMIT_BYTES or xxh3_128_digest(data[HASH_BYTES:]) != data[:HASH_BYTES]:
        return None
    key, length, tag = RECORD_TAIL.unpack_from(data, HASH_BYTES)
    if key != store_uuid or length != COMMIT_VALUE_BYTES or tag >> KIND_SHIFT != kind:
        return None
    return tag & SEQUENCE_MASK, Commit(*COMMIT_VALUE.unpack_from(data, RECORD_HEADER_BYTES))
