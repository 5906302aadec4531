"""A plan: everything that decides what a run does, as plain data that is saved beside its results."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

RUNS: Final = Path("results") / "runs"
"""Where runs go unless somebody says otherwise."""
WORKLOADS: Final = ("bank", "bundle", "append", "register", "churn")
FAULTS: Final = ("kill-time", "kill-point", "kill-all", "pause-time", "pause-point", "lose-index")
"""SIGKILL at random times, SIGKILL at the Nth hit of a sync point, SIGKILL of everybody at once (so that there is
recovery without a survivor), SIGSTOP at random times, and SIGSTOP at a sync point (the lock holder's too), each
followed by SIGCONT; and, while everybody is dead, the loss of what the store can make again from the rest."""


class Limits(msgspec.Struct, frozen=True):
    """What a run must reach to be judged at all, and what its survivors are promised.

    Below the floors the verdict is ``UNKNOWN``. ``kills_min`` and ``operations_min`` are per second of the
    run; ``point_kills_min`` is for every sync point that the engine requires, ``events_min`` for everything that the
    engine says has to happen in a run (that it grows, compacts...). ``stall_s`` is the longest
    time that the survivors may go without a commit (time in which the machine itself stood still, or the
    lock holder was stopped by a fault, is not counted, nor is the time until a lost index is there again, which has
    ``rebuild_s``). ``space_ratio`` and ``space_slack_bytes``: in the end, after a compaction, the store may take so
    many times the bytes that it needs, and so many more.
    """

    operations_min: float = 20.0
    kills_min: float = 1.0
    point_kills_min: int = 3
    events_min: int = 1
    stall_s: float = 1.0
    rebuild_s: float = 10.0
    space_ratio: float = 2.5
    space_slack_bytes: int = 8 << 20


class Plan(msgspec.Struct, frozen=True):
    """One campaign. ``seed`` decides workloads, faults and victims through separate random streams.

    ``bug`` names a planted bug (``harness.planted``), for the harness's own test. ``blind`` lists properties
    whose findings are ignored on purpose (``*``: all of them), to show that a broken detection fails the selftest.
    """

    seed: int
    engine: str = "kvs"
    workloads: tuple[str, ...] = WORKLOADS
    faults: tuple[str, ...] = FAULTS
    writers: int = 4
    readers: int = 2
    auditors: int = 1
    housekeepers: int = 2
    """Only where the engine has chores for them."""
    seconds: float = 30.0
    limits: Limits = Limits()
    bug: str = ""
    blind: tuple[str, ...] = ()
    canary: bool = False
    first_violation: bool = True
    """End as soon as a worker reports a violation."""
