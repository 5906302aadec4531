"""The live view of a campaign: one panel, drawn anew from the supervisor's own loop a few times a second."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Final

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.cli_base import Line
from harness.status import Status

_TICKS: Final = " ▁▂▃▄▅▆▇█"
_TREND: Final = 40
"""So many of the last seconds are in a trend."""
_LACKING_SHOWN: Final = 4
_RUNNING: Final = "running"
_JUDGING: Final = "judging"
_MEBIBYTE: Final = 1 << 20


class Rates:
    """Operations, commits and kills of every second, from their totals now and then."""

    NAMES: Final = ("operations", "commits", "kills")

    def __init__(self) -> None:
        self._marks: deque[tuple[float, tuple[int, ...]]] = deque(maxlen=_TREND + 1)

    def add(self, status: Status) -> None:
        """Take the totals of a status while it runs; of each second the first counts."""
        if status.phase != _RUNNING:
            return
        if not self._marks or status.elapsed_s >= self._marks[-1][0] + 1:
            self._marks.append((status.elapsed_s, tuple(getattr(status, name) for name in self.NAMES)))

    def of(self, name: str) -> list[float]:
        """The rates of the last seconds, oldest first."""
        place = self.NAMES.index(name)
        return [
            (after[1][place] - before[1][place]) / (after[0] - before[0])
            for before, after in itertools.pairwise(self._marks)
        ]


class CampaignLine(Line):
    """Shows campaigns: a panel on a terminal, the whole status to a machine, nothing to a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self._rates = Rates()
        self._trial = ""
        self._began_s = 0.0

    def show_campaign(self, status: Status) -> None:
        """Draw ``status``."""
        if not self.watched:
            return
        self._take(status)
        judging = status.phase == _JUDGING
        self.show(
            f"{status.phase} {status.doing}"
            if judging
            else f"{status.phase} {min(status.elapsed_s, status.seconds):.1f} of {status.seconds:g} s",
            done=_share(status),
            facts=status,
            above=panel(status, self._rates),
        )

    def show_trial(self, trial: str, status: Status, done: float | None = None) -> None:
        """Draw in one line ``status`` of a campaign that is one of several; ``done`` is the share of all of them."""
        if not self.watched:
            return
        elapsed = max(status.elapsed_s, 0.001)
        self.show(
            f"{trial} {status.phase} {min(status.elapsed_s, status.seconds):.1f} of {status.seconds:g} s",
            f"{status.operations / elapsed:,.0f} operations/s",
            f"{status.kills:,} kills",
            done=done,
            facts={"trial": trial, **status._asdict()},
        )

    def _take(self, status: Status) -> None:
        if status.elapsed_s < self._began_s:  # another campaign
            self._rates = Rates()
        self._began_s = status.elapsed_s
        self._rates.add(status)


def panel(status: Status, rates: Rates) -> RenderableType:
    """All that is known of a campaign while it runs."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    elapsed = max(status.elapsed_s, 0.001)
    for name in Rates.NAMES:
        total: int = getattr(status, name)
        last = rates.of(name)
        rate = last[-1] if last else total / elapsed
        table.add_row(
            name, Text.assemble(f"{total:>11,}  {rate:>9,.1f}/s  ", (sparkline(last, _TREND), "cyan"))
        )
    alive = ", ".join(f"{count} {role}{'s' * (count != 1)}" for role, count in status.alive.items() if count)
    table.add_row("alive", alive or "nobody")
    table.add_row("faults", _faults(status))
    if status.last_kill is not None:
        who, point, fault, when = status.last_kill
        where = f" at {point}" if point else ""
        table.add_row("last kill", f"{who}{where} ({fault}), {max(0.0, elapsed - when):.1f} s ago")
    if status.points_required:
        table.add_row("points", _points(status))
    table.add_row("disk", f"{status.disk_bytes / _MEBIBYTE:,.1f} MiB")
    if status.violation:
        table.add_row(Text("VIOLATION", "bold red"), Text(status.violation, "red"))
    judging = status.phase == _JUDGING
    title = "judging what was seen" if judging else status.phase
    border = "red" if status.violation else "yellow" if judging else "cyan"
    return Panel(table, title=title, title_align="left", border_style=border)


def _faults(status: Status) -> str:
    kills = [f"{fault} {count:,}" for fault, count in sorted(status.kills_by_fault.items())]
    return ", ".join([*kills, f"stopped {status.pauses:,}"])


def _points(status: Status) -> Text:
    text = f"{status.points_covered} of {status.points_required} were killed at"
    if not status.lacking:
        return Text(text, "green")
    names = ", ".join(status.lacking[:_LACKING_SHOWN])
    more = len(status.lacking) - _LACKING_SHOWN
    return Text(f"{text}; lacking {names}{f' and {more} more' if more > 0 else ''}")


def sparkline(values: list[float], width: int) -> str:
    """The last ``width`` values as ticks, the highest one full."""
    shown = values[-width:]
    highest = max(shown, default=0.0)
    if highest <= 0:
        return _TICKS[0] * len(shown)
    return "".join(_TICKS[round(max(value, 0.0) / highest * (len(_TICKS) - 1))] for value in shown)


def _share(status: Status) -> float | None:
    """The part of its time that has passed, or of the judging that is done; none while it is set up and ends."""
    if status.phase == _RUNNING:
        return status.elapsed_s / status.seconds
    return status.judged if status.phase == _JUDGING else None
