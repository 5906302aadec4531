"""The survey of the planted bugs that power cuts must show: each found, made small, and repeated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness import planted
from harness.errors import UsageError
from harness.powerloss.job import Options
from harness.powerloss.loss import Loss, load
from harness.powerloss.outage import Record, Status, cut
from harness.powerloss.shrinking import TIMES

LIMIT_S: Final = 60.0
"""A planted bug that one job has not found after so long has escaped."""
OMITTED_MAX: Final = 3
"""What every failure is to be shrunk to: so many things that did not reach the medium."""


class Row(msgspec.Struct, frozen=True):
    """One planted bug: after how many ``images`` and ``seconds`` it was found, in a run of which ``scenario``; how many
    things were missing ``before`` and ``after`` shrinking, which are said in ``words``.
    """

    bug: str
    meaning: str
    found: bool
    images: int
    seconds: float
    scenario: str = ""
    property_name: str = msgspec.field(name="property", default="")
    message: str = ""
    before: int = 0
    after: int = 0
    words: tuple[str, ...] = ()
    reproduced: str = ""

    @property
    def passed(self) -> bool:
        """Found in time, small enough, and the same every time."""
        in_time = self.found and self.seconds <= LIMIT_S
        return in_time and self.after <= OMITTED_MAX and self.reproduced == f"{TIMES}/{TIMES}"


def names() -> list[str]:
    """The planted bugs that power cuts are expected to show."""
    return [name for name, bug in planted.BUGS.items() if bug.powerloss]


def survey(
    only: Sequence[str] = (), *, seed: int = 1, show: Callable[[str, Status], None] = lambda *_: None
) -> Iterator[Row]:
    """Cut the power with each bug in turn (all, or ``only`` these), by one job that rotates over all general scenarios
    and is told nothing of the bug, and yield its row. Every bug is planted in processes of its own.

    Raises:
        UsageError: one of ``only`` cannot be surveyed.
    """
    for name in only:
        if name not in names():
            raise UsageError(
                f"power cuts are not expected to show {name!r}; they are to show {', '.join(names())}"
            )
    for name in only or names():
        with tempfile.TemporaryDirectory(prefix="harness-survey-") as out:
            options = Options(seed=seed, seconds=LIMIT_S, bug=name)
            record, directory = cut(options, out=Path(out), show=lambda status, name=name: show(name, status))  # type: ignore[misc]
            losses = [load(directory / found.file) for found in record.found[:1]]
            yield _row(name, record, losses[0] if losses else None)
        if record.interrupted:
            return


def _row(name: str, record: Record, loss: Loss | None) -> Row:
    meaning = planted.BUGS[name].meaning
    if loss is None:
        return Row(name, meaning, False, record.counts.images, record.counts.seconds)
    found = record.found[0]
    before, after = loss.shrunk["omitted"]
    return Row(
        name,
        meaning,
        True,
        found.after_images,
        found.after_s,
        found.scenario,
        loss.property_name,
        loss.message,
        before,
        after,
        loss.words,
        loss.reproduced,
    )
