"""Making a store out of items that come from elsewhere, whole or not at all: backup, and what load and recover need.

This room knows no store: whoever calls says how one is opened (``OpenStore``), so that the store itself may call it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from kvs import files
from kvs.errors import StoreNotFoundError, StoreOptionsError

_BATCH_BYTES: Final = 4 << 20
"""A transaction has at most so many bytes of values, or one value."""
_BATCH_KEYS: Final = 1 << 15

Items = Iterable[tuple[bytes, bytes]]
Progress = Callable[[int], None]
"""Called with the number of keys that are done."""


class Target(Protocol):
    """What a store must be able to do to be filled."""

    def put_many(self, pairs: Mapping[Any, bytes], /) -> object:
        """Write all pairs in one transaction."""

    def close(self) -> None:
        """Leave it clean and on the medium."""


OpenStore = Callable[[Path], Target]
"""Creates the store in an empty directory and opens it for writing, e.g. ``lambda path: kvs.open(path, "n")``."""


class Readable(Protocol):
    """What can be backed up: a snapshot."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values."""


def backup(snapshot: Readable, path: Path, open_store: OpenStore, progress: Progress | None = None) -> int:
    """Write everything in ``snapshot`` as a new store at ``path``; returns the number of keys.

    The store is complete and on the medium when it gets its name.

    Raises:
        StoreOptionsError, StoreNotFoundError (there is no such parent), SnapshotTooOldError, StorageFullError,
        CorruptedStoreError: nothing is at ``path`` that was not there before.
    """
    with fresh(path) as temporary:
        return fill(temporary, snapshot.items(), open_store, progress)


@contextlib.contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """A directory beside ``path`` that becomes ``path`` when the block ends well, and else is removed.

    Raises:
        StoreOptionsError: something is at ``path``, at the beginning or at the end.
        StoreNotFoundError: its parent is not there.
    """
    path = path.absolute()
    check_vacant(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        temporary.mkdir()
        yield temporary
        try:
            files.publish(temporary, path)
        except OSError:
            if temporary.exists() or not path.exists():  # else it has its name, whatever was said
                check_vacant(path)  # somebody else was faster
                raise
        files.sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_vacant(path: Path) -> None:
    """Raise StoreOptionsError or StoreNotFoundError unless a directory may be made or replaced at ``path``."""
    if not path.parent.is_dir():
        raise StoreNotFoundError(str(path.parent))
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise StoreOptionsError(
            f"{path}: there is something here already; it was not touched and nothing was made. Name a path where"
            " nothing is, or an empty directory"
        )


def fill(directory: Path, items: Items, open_store: OpenStore, progress: Progress | None = None) -> int:
    """Create a store in ``directory`` and write ``items`` to it in transactions of bounded size; returns how many.

    Raises what ``items`` and the store raise; the store is closed in any case.
    """
    store = open_store(directory)
    batch: dict[bytes, bytes] = {}
    keys = size = 0
    try:
        for key, value in items:
            if size + len(value) > _BATCH_BYTES or len(batch) == _BATCH_KEYS:
                if batch:
                    store.put_many(batch)
                batch, size = {}, 0
                if progress is not None:
                    progress(keys)
            batch[key] = value
            size += len(value)
            keys += 1
            if size > _BATCH_BYTES:
                store.put_many(batch)
                batch, size = {}, 0
            del value  # or a long one would still be there while the next one is read
        if batch:
            store.put_many(batch)
    finally:
        store.close()
    if progress is not None:
        progress(keys)
    return keys
