"""What all tests share: a place for stores, and how much of what is large is done in one run."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SHM = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="All of what one run does only a share of.")


def pytest_configure(config: pytest.Config) -> None:
    """What the commands are told by the machine that runs the tests is not for the commands under test."""
    for name in list(os.environ):
        if name.startswith("GITHUB_") or name in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS"):
            del os.environ[name]
    config.addinivalue_line(
        "markers", "share(n): every n-th of these parameters a run, by the torture's seed."
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test with the marker ``share(n)`` each run does every n-th parameter, others with another seed; with
    ``--thorough``, or where tests are named one by one, it does them all.
    """
    if config.option.thorough or any("::" in argument for argument in config.args):
        return
    groups: dict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("share"):
            groups[item.path, getattr(item, "originalname", item.name)].append(item)
    left_out = set()
    for group in groups.values():
        marker = group[0].get_closest_marker("share")
        assert marker
        (every,) = marker.args
        first = config.option.torture_seed % every
        left_out |= {item for number, item in enumerate(group) if number % every != first and len(group) > 1}
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=sorted(left_out, key=lambda item: item.nodeid))


def pytest_collection_finish() -> None:
    """What was collected stays: or every collection of garbage, of which the stages make many, looks at all of it."""
    gc.collect()
    gc.freeze()


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
