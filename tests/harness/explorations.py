"""Exploring with mistakes that end or hang their process, each in a process of its own.

``python explorations.py MISTAKE OUT`` explores 12 schedules and prints what came of them as JSON.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from harness import explore, explore_job, explore_jobs, planted
from kvs import syncpoints

POINT = "commit.after_visible"
"""A mistake is made once, by whoever goes on from here for the ``TIMES``th time..."""
TIMES = 40
ALWAYS = "commit.after_tail"
"""...but ``collapse`` by everybody who goes on from here."""


class Mistake:
    """Stands for a planted bug: ``act`` happens in the middle of a schedule."""

    def __init__(self, act: Any, made: Path) -> None:
        self.act = act
        self.made = made

    def plant(self) -> None:
        """Count the hits behind the hook of whichever stage installs one."""
        install, act, made = syncpoints.install, self.act, self.made
        hits = 0

        def installing(hook: Any, *rest: Any) -> None:
            def counting(name: str, *write: Any) -> None:
                nonlocal hits
                hook(name, *write)
                hits += name == POINT
                if act is collapse and name == ALWAYS:
                    act()
                if hits == TIMES and act is not collapse and not made.exists():
                    made.touch()
                    act()

            install(None if hook is None else counting, *rest)

        syncpoints.install = installing


def crash() -> None:
    """Read what is not there."""
    ctypes.string_at(0)


def collapse() -> None:
    """Read what is not there."""
    ctypes.string_at(0)


def hang() -> None:
    """Never come back."""
    while True:
        pass


def end() -> None:
    """What the store cannot do to its process: only somebody from outside can."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(name: str, out: Path) -> None:
    """Explore with one of these mistakes."""
    planted.BUGS[name] = Mistake(globals()[name], out / "made")  # type: ignore[assignment]
    explore_jobs.HANG_S = 1.0  # type: ignore[misc]
    options = explore_job.Options(
        scenarios=("overtaken",), schedules=12, seconds=None, seed=3, bug=name, shrink=False, keep_going=True
    )
    explored = explore.explore(options, out=out)
    sys.stdout.buffer.write(msgspec.json.encode(explored))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
