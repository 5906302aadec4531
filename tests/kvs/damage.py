"""Changing a store's files by hand, behind its back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from kvs import layout
from kvs.records import Words

SMALL = "00000.small"
FIRST_RECORD = layout.SMALLFILE_BEGIN


@contextlib.contextmanager
def words_of(path: Path) -> Iterator[Words]:
    """The index of the store at ``path`` as words that may be changed."""
    words = np.memmap(path / layout.index_name(0), dtype=np.uint64, mode="r+")
    yield words
    words.flush()


def home(key: bytes, slots: int) -> int:
    """The slot where a probe for ``key`` begins."""
    return xxh3_64_intdigest(key) >> 7 & slots - 1


def entry(words: Words, key: bytes) -> int:
    """The first word of the entry of ``key``."""
    start = int(words[layout.H_ENTRIES]) // layout.WORD
    mask = int(words[layout.H_SLOTS]) - 1
    slot = home(key, mask + 1)
    while words[start + slot * layout.ENTRY_WORDS :][:2].tobytes() != key:
        slot = (slot + 1) & mask
    return start + slot * layout.ENTRY_WORDS


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Change bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def all_bytes(path: Path) -> dict[str, bytes]:
    """Everything that is in a store's directory, to see that nothing was touched."""
    return {file.name: file.read_bytes() for file in path.iterdir()}
