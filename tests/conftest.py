"""What all tests share: a place for stores."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SHM = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one


@pytest.fixture
def store_dir(tmp_path: Path) -> Iterator[Path]:
    """A path where a store may be created; in memory where the system has such a directory."""
    if not SHM.is_dir():
        yield tmp_path / "store"
        return
    directory = Path(tempfile.mkdtemp(prefix="kvs-test-", dir=SHM))
    try:
        yield directory / "store"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
