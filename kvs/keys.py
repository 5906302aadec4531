"""Keys and items: what a user may name a value by, and what a revision looks like from outside."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import NamedTuple

from xxhash import xxh3_128_digest

from kvs import layout

Key = bytes | int | uuid.UUID
Data = bytes | bytearray | memoryview


class Item(NamedTuple):
    """One revision: the key, its value, and the T of the transaction that wrote it."""

    key: bytes
    value: bytes
    transaction_counter: int


def key_for(data: bytes | str) -> bytes:
    """The 16-byte key of any bytes or text: their xxh3-128 (of the UTF-8 encoding)."""
    return xxh3_128_digest(data.encode() if isinstance(data, str) else data)


def normalise(key: object) -> bytes:
    """The 16 bytes of a key: bytes as they are, integers big-endian, UUIDs by their bytes.

    Raises:
        TypeError, ValueError: it is not a 128-bit key.
    """
    if type(key) is bytes and len(key) == layout.KEY_BYTES:
        return key
    if isinstance(key, uuid.UUID):
        return key.bytes
    if isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < 1 << 128:
            raise ValueError(f"key {key} is not in [0, 2**128); nothing was done")
        return key.to_bytes(layout.KEY_BYTES, "big")
    if isinstance(key, bytes | bytearray | memoryview):
        data = bytes(key)
        if len(data) != layout.KEY_BYTES:
            raise ValueError(
                f"a key has 16 bytes, this one {len(data)}; nothing was done. kvs.key_for hashes any data"
            )
        return data
    raise TypeError(f"a key is 16 bytes, an int or a uuid.UUID, not {type(key).__name__}; nothing was done")


def normalise_many(keys: Iterable[object]) -> list[bytes]:
    """``normalise`` for many; keys that are 16 bytes already cost next to nothing."""
    names = list(keys)
    if set(map(type, names)) == {bytes} and set(map(len, names)) == {layout.KEY_BYTES}:  # type: ignore[arg-type]
        return names  # type: ignore[return-value]
    return [normalise(key) for key in names]
