"""The traffic of a campaign: one file per workload, with the checks that its readers make on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from harness.errors import UsageError
from harness.workloads.append import Append
from harness.workloads.bank import Bank
from harness.workloads.base import Workload
from harness.workloads.bundle import VOLUME_BYTES_PER_S, VOLUME_FREE_BYTES, Bundle
from harness.workloads.churn import Churn
from harness.workloads.register import Register

__all__ = ["VOLUME_BYTES_PER_S", "VOLUME_FREE_BYTES", "Workload", "keys_max", "make"]

LONG_SECONDS: Final = 300.0
"""A run of at least so many seconds has larger values, too."""
SPARE_KEYS: Final = 1024
"""Room in the store beyond what the workloads ever use."""


def make(
    names: Sequence[str],
    seconds: float,
    volume: Callable[[], float] | None = None,
    commits: Callable[[], int] | None = None,
) -> tuple[Workload, ...]:
    """The workloads called ``names``, sized for a run of ``seconds``, in that order.

    ``volume`` says how many bytes may still be written before large writes are left out, ``commits`` how often the
    run's processes have committed so far.

    Raises:
        UsageError: no workload has that name, or one is named twice.
    """
    makers: dict[str, Callable[[], Workload]] = {
        "bank": Bank,
        "bundle": lambda: Bundle(volume),
        "append": lambda: Append(seconds),
        "register": Register,
        "churn": lambda: Churn(commits, long=seconds >= LONG_SECONDS),
    }
    if len(set(names)) != len(names) or not names:
        raise UsageError("name each workload once, and at least one")
    for name in names:
        if name not in makers:
            raise UsageError(f"no workload is called {name!r}; there are {', '.join(makers)}")
    return tuple(makers[name]() for name in names)


def keys_max(workloads: Sequence[Workload]) -> int:
    """The keys that a store needs room for."""
    return sum(workload.keys_max() for workload in workloads) + SPARE_KEYS
