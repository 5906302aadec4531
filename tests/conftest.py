"""What all tests share: a place for stores."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture-seed", type=int, default=None, help="Seed of the torture tests (default: random)."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed once, before xdist hands the options to its workers."""
    if config.option.torture_seed is None:
        config.option.torture_seed = secrets.randbits(32)


def pytest_report_header(config: pytest.Config) -> str:
    return f"torture seed: {config.option.torture_seed} (--torture-seed)"


@pytest.fixture
def torture_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this session's torture, printed with a failure."""
    seed = int(request.config.option.torture_seed)
    print(f"torture seed: --torture-seed {seed}")
    return seed


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
