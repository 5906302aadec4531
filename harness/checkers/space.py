"""Space: what is not needed any more is given back."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np

from harness.checkers.findings import Findings
from harness.history import Mark, RunEvent
from harness.plan import Limits
from harness.verdict import Verdict

NAME: Final = "space"
_STEADY: Final = 1 / 3
"""The part of a run after which a store is taken to have found its size."""


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the store took at one moment: ``disk_bytes`` of the medium, in ``files``, of which it needed
    ``needed_bytes`` when somebody last found out (0 before that); ``written_bytes`` were about what all processes had
    begun to write until then. ``final``: measured after everybody had gone and a last compaction.
    """

    time: int
    disk_bytes: int
    needed_bytes: int
    written_bytes: int
    files: int = 0
    final: bool = False

    @property
    def ratio(self) -> float:
        """What it took for each byte that it needed."""
        return self.disk_bytes / max(self.needed_bytes, 1)


class Ratios(NamedTuple):
    """What the store took for each byte that it needed, over the steady part of a run and in its end; and how many
    times what it needs was written. 0.0 where nobody knows.
    """

    median: float
    most: float
    final: float
    written: float


def check(samples: Sequence[Sample], limits: Limits) -> Verdict:
    """In the end, after a last compaction, the store takes little more than it needs.

    Definition: bytes on the medium <= ``space_ratio`` * bytes needed + ``space_slack_bytes``. What the store needs is
    its own account (records that can still be read, and its index). Complexity: O(samples).

    Does not verify: the engine's account; how much the store took while the run went on, which is reported only.
    """
    found = Findings(NAME)
    final = next((sample for sample in reversed(samples) if sample.final), None)
    if final is None:
        found.unknown("nobody measured the store in the end")
        return found.verdict({})
    allowed = limits.space_ratio * final.needed_bytes + limits.space_slack_bytes
    if final.disk_bytes > allowed:
        found.violation(
            f"after the last compaction the store takes {final.disk_bytes:,} bytes in {final.files} files and needs"
            f" {final.needed_bytes:,}",
            time=final.time,
            expected=f"at most {limits.space_ratio:g} times what is needed and {limits.space_slack_bytes:,} bytes more",
        )
    return found.verdict({"disk_bytes": final.disk_bytes, "needed_bytes": final.needed_bytes})


def ratios(samples: Sequence[Sample], events: Sequence[RunEvent]) -> Ratios:
    """The figures of a run; its steady part is the last two thirds of the time from its start to its stop. What the
    store needs is found out now and then only, and taken to change evenly in between.
    """
    marks = {event.what: event.time for event in reversed(events) if isinstance(event, Mark)}
    start = marks.get("start", 0)
    stop = marks.get("stop", marks.get("interrupted", start))
    since = start + (stop - start) * _STEADY
    known = [sample for sample in samples if sample.needed_bytes]
    needed = _between([sample.time for sample in known], [sample.needed_bytes for sample in known])
    steady = [
        sample.disk_bytes / bytes_then
        for sample, bytes_then in zip(known, needed, strict=True)
        if not sample.final and since <= sample.time <= stop
    ]
    last = next((sample for sample in reversed(samples) if sample.final and sample.needed_bytes), None)
    return Ratios(
        median(steady) if steady else 0.0,
        max(steady, default=0.0),
        last.ratio if last else 0.0,
        last.written_bytes / last.needed_bytes if last else 0.0,
    )


def _between(times: Sequence[int], values: Sequence[int]) -> list[float]:
    """``values`` that stay what they were until somebody looks again, as a line through where they changed."""
    if not times:
        return []
    changed = np.flatnonzero(np.diff(values, prepend=-1))
    return [float(value) for value in np.interp(times, np.take(times, changed), np.take(values, changed))]
