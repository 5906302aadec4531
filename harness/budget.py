"""What a check may spend: seconds and memory, past which it says what it knows so far; and how to spend less."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from harness.errors import HarnessError

T = TypeVar("T")
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
_STATM: Final = Path("/proc/self/statm")


class OverBudgetError(HarnessError):
    """A limit was reached. ``str()`` says which, as a clause: "the limit of 10 s was reached"."""

    exit_code = 3


class Budget:
    """Limits of one check, counted from when this object was made.

    ``limit_s`` is wall time in seconds; ``limit_mb`` is the resident memory of the whole process in MiB. ``None``: no
    limit. Not for several threads.
    """

    def __init__(self, limit_s: float | None = None, limit_mb: float | None = None) -> None:
        self.limit_s = limit_s
        self.limit_mb = limit_mb
        self._began = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raise ``OverBudgetError`` if a limit is reached. About 2 us: call it every thousand steps or so, and before
        and after whatever takes long in one piece.
        """
        if self.limit_s is not None and self.spent_s >= self.limit_s:
            raise OverBudgetError(f"the limit of {self.limit_s:g} s was reached")
        if self.limit_mb is not None and resident_mb() >= self.limit_mb:
            raise OverBudgetError(f"the limit of {self.limit_mb:g} MiB of memory was reached")

    def watch(self, steps: Iterable[T]) -> Iterator[T]:
        """The same ``steps``; before every thousandth the limits are looked at, and ``check`` may raise."""
        for number, step in enumerate(steps):
            if number % 1000 == 0:
                self.check()
            yield step


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's collector of reference cycles, of which histories have none: again and again it would look at
    everything that was read, which took a third of the time (300,000 operations).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def resident_mb() -> float:
    """The memory of this process that is in RAM, in MiB (``/proc/self/statm``: proc(5))."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_MB
