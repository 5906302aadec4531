"""Records as they stand in smallfiles: encoding those of a transaction, ready to be appended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128, xxh3_128_digest

from kvs import layout
from kvs.files import Buffer

_PADDING: Final = [bytes(count) for count in range(layout.ALIGN)]
_NO_HASH: Final = bytes(layout.HASH_BYTES)
_VALUE_TAG: Final = layout.KIND_VALUE << layout.KIND_SHIFT
_REMOVAL_TAG: Final = layout.KIND_REMOVAL << layout.KIND_SHIFT
_JOIN_BYTES_MAX: Final = 16 << 20  # larger extents are written piece by piece instead of copied together
VECTOR_MIN: Final = 40
"""From this many keys on the vectorised paths are the faster ones: measured warm over 50,000 keys
of 16 bytes, reads and writes break even between 32 and 48 keys (at 64 keys a read takes 2.6 us against 1.6)."""

Words = npt.NDArray[np.uint64]
Integers = Sequence[int] | npt.NDArray[np.int64] | Words
"""Integers of either path: a list from the scalar one, an array from the vectorised one."""


Extent = tuple[list[Buffer], int, Integers, Integers, bytes]
"""Encoded records of one transaction, ready to append: the pieces in order, their size in bytes, the offset of
each record and its length (TOMBSTONE for a removal) in the order of the keys, and the xxh3-128 over all.
A plain tuple: a named one costs as much as hashing a small transaction."""


def encode(keys: Sequence[bytes], values: Sequence[bytes | None], *, integrity: bool) -> Extent:
    """Records for ``keys`` and ``values`` (``None`` removes), with per-value hashes where ``integrity``."""
    if len(keys) >= VECTOR_MIN:
        return _encode_many(keys, values, integrity=integrity)
    pack = layout.RECORD_TAIL.pack
    pieces: list[Buffer] = []
    offsets, lengths = [], []
    position = 0
    for i, key in enumerate(keys):
        value = values[i]
        if value is None:
            tail, value, size = pack(key, 0, _REMOVAL_TAG | i), b"", 0
            lengths.append(layout.TOMBSTONE)
        else:
            size = len(value)
            tail = pack(key, size, _VALUE_TAG | i)
            lengths.append(size)
        digest = xxh3_128_digest(value) if integrity else _NO_HASH
        offsets.append(position)
        position += (size + 111) & -64  # layout.record_bytes, inlined
        pieces += (digest, tail, value, _PADDING[-(48 + size) & 63])
    return _extent(pieces, position, offsets, lengths)


def _encode_many(keys: Sequence[bytes], values: Sequence[bytes | None], *, integrity: bool) -> Extent:
    """``encode`` with the headers built as one array, the hashes mapped, and the pieces placed by stride."""
    count = len(keys)
    contents = [b"" if value is None else value for value in values] if None in values else list(values)
    sizes = np.fromiter(map(len, contents), dtype=np.int64, count=count)  # type: ignore[arg-type]
    removed = np.array([value is None for value in values]) if contents != values else np.zeros(count, bool)
    headers = np.empty((count, 4), dtype=np.uint64)
    headers[:, :2] = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(count, 2)
    headers[:, 2] = sizes
    headers[:, 3] = np.where(removed, np.uint64(_REMOVAL_TAG), np.uint64(_VALUE_TAG))
    headers[:, 3] |= np.arange(count, dtype=np.uint64)
    tails: list[bytes] = headers.view("V32").reshape(-1).tolist()
    pieces: list[Buffer] = [b""] * (4 * count)
    if not integrity:
        pieces[0::4] = [_NO_HASH] * count
    else:
        pieces[0::4] = map(xxh3_128_digest, contents)  # type: ignore[arg-type]
    pieces[1::4] = tails
    pieces[2::4] = contents  # type: ignore[assignment]
    pieces[3::4] = map(_PADDING.__getitem__, (-(48 + sizes) & 63).tolist())
    steps = (sizes + 111) & -64  # layout.record_bytes
    ends = steps.cumsum()
    lengths = np.where(removed, np.uint64(layout.TOMBSTONE), sizes.astype(np.uint64))
    return _extent(pieces, int(ends[-1]), ends - steps, lengths)


def _extent(pieces: list[Buffer], size: int, offsets: Integers, lengths: Integers) -> Extent:
    """Join what is small enough to be copied once more, and hash the whole."""
    if size <= _JOIN_BYTES_MAX:
        joined = b"".join(pieces)
        return [joined], size, offsets, lengths, xxh3_128_digest(joined)
    state = xxh3_128()
    for piece in pieces:
        state.update(piece)
    return pieces, size, offsets, lengths, state.digest()
