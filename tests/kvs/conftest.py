"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from kvs import syncpoints

settings.register_profile("kvs", deadline=None, database=None, print_blob=True)
settings.load_profile("kvs")


@pytest.fixture(autouse=True)
def _no_hook_left_behind() -> Iterator[None]:
    """A test that installs a hook need not take it away."""
    yield
    syncpoints.install(None)
