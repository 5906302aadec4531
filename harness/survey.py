"""The survey of the planted bugs: each found by exploring alone, made small, and repeated with real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import planted
from harness.errors import UsageError
from harness.explore import explore
from harness.explore_job import Options
from harness.explore_jobs import Status
from harness.failure import Failure, load
from harness.replay import TIMES
from harness.shrink import sizes
from harness.shrink_passes import Candidate

LIMIT_S: Final = 60.0
"""A planted bug that exploring on one core has not found after so long has escaped."""
PROCESSES_MAX: Final = 3
TRANSACTIONS_MAX: Final = 4
"""What every planted bug is to be shrunk to."""
_REPRODUCED: Final = f"{TIMES}/{TIMES}"
Show = Callable[[str, Status], None]


class Row(msgspec.Struct, frozen=True):
    """One planted bug. ``schedules`` and ``seconds`` until it was ``found``, and of which ``scenario`` and ``strategy``
    the schedule is; ``before`` and ``after`` are the sizes around shrinking, which took ``shrink_seconds`` and tried
    ``tried`` candidates; ``reproduced`` counts the replays over real processes that showed the same violation.
    """

    bug: str
    meaning: str
    found: bool
    schedules: int
    seconds: float
    scenario: str = ""
    strategy: str = ""
    property_name: str = msgspec.field(name="property", default="")
    message: str = ""
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    tried: int = 0
    shrink_seconds: float = 0.0
    reproduced: str = ""

    @property
    def passed(self) -> bool:
        """Found in time, small enough, and the same every time over real processes."""
        small = (
            self.after.get("processes", 99) <= PROCESSES_MAX
            and self.after.get("transactions", 99) <= TRANSACTIONS_MAX
        )
        return self.found and self.seconds <= LIMIT_S and small and self.reproduced == _REPRODUCED


def names() -> list[str]:
    """The planted bugs that exploring is expected to find."""
    return [name for name, bug in planted.BUGS.items() if bug.explored]


def survey(only: Sequence[str] = (), *, seed: int = 1, show: Show = lambda *_: None) -> Iterator[Row]:
    """Explore with each bug in turn (all that can be, or ``only`` these), by one job that rotates over all general
    scenarios and is told nothing of the bug, and yield its row. Every bug is planted in processes of its own.

    Raises:
        UsageError: one of ``only`` cannot be surveyed.
        HarnessError: the harness failed; nothing can be said about that bug.
    """
    for name in only:
        if name not in names():
            raise UsageError(
                f"exploring is not expected to find {name!r}; it is to find {', '.join(names())}"
            )
    for name in only or names():
        options = Options(seed=seed, seconds=LIMIT_S, jobs=1, bug=name)
        with tempfile.TemporaryDirectory(prefix="harness-survey-") as out:
            explored = explore(options, out=Path(out), show=lambda status, name=name: show(name, status))  # type: ignore[misc]
            paths = [Path(path) for path in explored.failures.values()]
            failures = [load(path.with_suffix(".json"))[0] for path in paths[:1]]
            counts = explored.record.counts
            yield _row(name, failures[0] if failures else None, counts.schedules, counts.seconds)
        if explored.interrupted:
            return


def _row(name: str, failure: Failure | None, schedules: int, seconds: float) -> Row:
    bug = planted.BUGS[name]
    if failure is None:
        return Row(name, bug.meaning, False, schedules, round(seconds, 2))
    found, shrunk = failure.found, failure.shrunk
    now: dict[str, Any] = sizes(Candidate(failure.scenario, failure.choices))
    return Row(
        bug=name,
        meaning=bug.meaning,
        found=True,
        schedules=found["schedules"],
        seconds=round(found["seconds"], 2),
        scenario=found["scenario"],
        strategy=found["strategy"],
        property_name=failure.property_name,
        message=failure.message,
        before=shrunk.get("before", now),
        after=shrunk.get("after", now),
        tried=shrunk.get("tried", 0),
        shrink_seconds=shrunk.get("seconds", 0.0),
        reproduced=failure.reproduced,
    )
