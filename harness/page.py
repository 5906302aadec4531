"""A failure as one page of text: what was violated, who was killed where, and every step that led there, in columns.

Who reads it knows the store and has never seen the harness.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.failure import Failure
from harness.history import PROCESS_SHIFT, Event, Fail, Invoke, Ok, Read, Violation, describe_id
from harness.scenario import Scenario, Transaction
from harness.schedule.base import Choice
from harness.stepped.execution import Execution, Kill
from harness.stepped.program import OPEN, POINTS
from harness.verdict import Finding
from kvs.syncpoints import APPENDS

WIDTH: Final = 120
_STEP_WIDTH: Final = 9
_ROWS_MAX: Final = 36
"""A longer trace leaves out rows that have nothing to do with what is violated."""
_ITEMS_MAX: Final = 6
"""Of a longer read only the items are shown that the violation names."""
_OPERATION: Final = re.compile(r"process (\d+) operation (\d+)")
_ITEM: Final = re.compile(r"key/\d+")
_MARK: Final = ">>> "
_LOOKS: Final = {
    "read": "snapshot of",
    "hold": "snapshot, held, of",
    "get": "get",
    "history": "all versions of",
    "compact": "compaction",
}


class Row(NamedTuple):
    """Consecutive steps ``first`` to ``last`` of one process (0: of all), told in ``lines``; ``matters``: it must not
    be left out.
    """

    first: int
    last: int
    process: int
    lines: list[str]
    matters: bool


def page(
    failure: Failure,
    finding: Finding,
    execution: Execution,
    path: Path,
    whole: Mapping[int, int] | None = None,
) -> str:
    """The page of ``failure``, whose schedule was executed once more as ``execution`` and showed ``finding``.
    ``path``: where the failure is saved; ``whole``: by the step of a kill, how many units the torn write had.
    """
    lines = [f"VIOLATION  {finding.property_name:<11} {finding.message}"]
    lines += [
        f"  {name:<11} {text}" for name, text in _circumstances(failure, finding, execution, whole or {})
    ]
    lines += ["", *_trace(failure.scenario, finding, execution), ""]
    lines += [f"  {name:<11} {text}" for name, text in _origin(failure, path)]
    return "\n".join(lines) + "\n"


def who(scenario: Scenario, process: int) -> str:
    """``writer 1``: a process by role and number; who set up and who looked at the store in the end as well."""
    count = len(scenario.programs)
    if process <= count:
        return f"{scenario.programs[process - 1].role} {process}"
    return f"setup {process}" if process == count + 1 else f"survivor {process}"


# -- the lines above and below the trace ------------------------------------------------------------------


def _circumstances(
    failure: Failure, finding: Finding, execution: Execution, whole: Mapping[int, int]
) -> Iterator[tuple[str, str]]:
    scenario = failure.scenario
    for kill in execution.kills:
        yield "killed", _killed(scenario, execution.steps, kill, whole.get(kill.step, 0))
        if kill.others:
            yield "meanwhile", ", ".join(_parked(scenario, *other) for other in kill.others)
    time = finding.details.get("time")
    if not execution.kills and isinstance(time, int):
        parked = [
            _parked(scenario, process, point, "", ())
            for process, point in _standing(execution.steps, time)
            if process != finding.details.get("operation", 0) >> PROCESS_SHIFT and point not in POINTS
        ]
        if parked:
            yield "meanwhile", ", ".join(parked)
    if expected := finding.details.get("expected"):
        yield "expected", str(expected)
    count = len(scenario.programs)
    named = {int(process) for process, _ in _OPERATION.findall(f"{finding.message} {expected or ''}")}
    if count + 1 in named:
        yield "process", f"{count + 1} wrote the first revisions, before the start"
    if count + 2 in named:
        yield "process", f"{count + 2} opened the store when everybody else was gone"
    if failure.bug:
        yield "planted", failure.bug


def _killed(scenario: Scenario, steps: Sequence[Choice], kill: Kill, whole: int) -> str:
    own = [choice.point for choice in steps[: kill.step] if choice.process == kill.process]
    # Who waits for a lock moves on, and stands at the same point still.
    hits = sum(here == kill.point != before for before, here in pairwise(["", *own]))
    words = f"{who(scenario, kill.process)} at {kill.point or 'no point'} (hit {max(hits, 1)})"
    if kill.holding:
        words += f", holding {', '.join(kill.holding)}"
    if kill.torn:
        unit = "bytes" if kill.point in APPENDS else "words"
        of = f" of {whole}" if whole else ""
        words += f"; torn: first {kill.torn}{of} {unit} applied"
    return words


def _parked(scenario: Scenario, process: int, point: str, waits: str, holding: Sequence[str]) -> str:
    where = f" waiting for {waits} at {point}" if waits else f" parked at {point}"
    if point in POINTS:
        where = " between two operations"
    held = f" holding {', '.join(holding)}" if holding else ""
    return who(scenario, process) + where + held


def _standing(steps: Sequence[Choice], time: int) -> list[tuple[int, str]]:
    """Where everybody who moves again after step ``time`` stands then."""
    found: dict[int, str] = {}
    for choice in steps[time:]:
        found.setdefault(choice.process, choice.point)
    return sorted(found.items())


def _origin(failure: Failure, path: Path) -> Iterator[tuple[str, str]]:
    reproduced = f"     ({failure.reproduced})" if failure.reproduced else ""
    yield "replay", f"harness replay {path}{reproduced}"
    found = failure.found
    if found:
        where = (
            f"seed {found.get('seed')}, schedule {found.get('number')} of scenario {found.get('scenario')}"
        )
        effort = f"{found.get('schedules')} schedules, {found.get('seconds')} s"
        yield "found", f"by {found.get('strategy')}, {where}: after {effort}"
    if failure.shrunk:
        yield "shrunk", _shrunk(failure.shrunk)


def _shrunk(shrunk: Mapping[str, Any]) -> str:
    """From what to what, name by name."""
    before, after = shrunk.get("before"), shrunk.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"no: {shrunk.get('failed', 'it is not said why')}"
    changed = [
        f"{name} {count} to {after.get(name)}" for name, count in before.items() if count != after.get(name)
    ]
    words = ", ".join(changed) or "nothing could be removed"
    words += f" ({shrunk.get('tried')} tried, {shrunk.get('seconds')} s)"
    return words + (f", {stopped}" if (stopped := shrunk.get("stopped")) else "")


# -- the trace --------------------------------------------------------------------------------------------


def _trace(scenario: Scenario, finding: Finding, execution: Execution) -> list[str]:
    """One column for each process that moved; each row is a run of steps of one of them."""
    rows = _left_out(list(_rows(scenario, finding, execution)))
    columns = sorted({row.process for row in rows if row.process})
    width = (WIDTH - _STEP_WIDTH) // max(len(columns), 1) - 1
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step", justify="right", no_wrap=True, width=_STEP_WIDTH - 1)
    for process in columns:
        table.add_column(who(scenario, process), width=width)
    for row in rows:
        steps = f"{row.first}" if row.first == row.last else f"{row.first}-{row.last}"
        told = "\n".join(wrapped for line in row.lines for wrapped in _wrapped(line, width))
        cells = [told if process == (row.process or columns[0]) else "" for process in columns]
        table.add_row(steps, *map(Text, cells))
    console = Console(
        file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False, highlight=False, emoji=False
    )
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()] + _after(
        scenario, finding, execution
    )


def _rows(scenario: Scenario, finding: Finding, execution: Execution) -> Iterator[Row]:
    """The steps, one run of each process after another."""
    steps = execution.steps
    named = {(int(p), int(i)) for p, i in _OPERATION.findall(finding.message)}
    if operation := finding.details.get("operation"):
        named.add((operation >> PROCESS_SHIFT, operation & (1 << PROCESS_SHIFT) - 1))
    reached = _reached(steps)
    happened: dict[int, list[Event]] = {}
    for events in execution.histories:
        for event in events:
            happened.setdefault(event.time, []).append(event)
    running: Counter[int] = Counter()
    first = 0
    while first < len(steps):
        last = first
        process = steps[first].process
        while last + 1 < len(steps) and steps[last + 1].process == process:
            last += 1
        lines: list[str] = []
        points: list[str] = []
        killed = False
        matters = (process, running[process]) in named
        for step in range(first, last + 1):
            choice = steps[step]
            if choice.kill:
                lines += _folded(points)
                lines.append(f"KILLED at {choice.point or 'its start'}")
                killed = True
                continue
            if choice.point == OPEN:
                lines.append("opens the store")
            for event in happened.get(step + 1, ()):
                running[process] = event.index if isinstance(event, Invoke) else 0
                matters = matters or (process, event.index) in named
                lines += _folded(points)
                lines += _told(scenario, event, finding)
            if reached[step]:
                points.append(reached[step])
        lines += _folded(points)
        yield Row(first + 1, last + 1, process, lines or ["ends"], matters or killed)
        first = last + 1


def _wrapped(line: str, width: int) -> list[str]:
    """``line`` in pieces of at most ``width``, the later ones under the first; no word is broken."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line.lstrip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent or " ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _reached(steps: Sequence[Choice]) -> list[str]:
    """The store's sync point that each step came to, "" for none."""
    following: dict[int, str] = {}
    reached = [""] * len(steps)
    for step in range(len(steps) - 1, -1, -1):
        choice = steps[step]
        point = following.get(choice.process, "")
        reached[step] = "" if point in POINTS else point
        following[choice.process] = choice.point
    return reached


def _folded(points: list[str]) -> list[str]:
    """The points that were reached in one line; empties ``points``."""
    names = [points[0], points[-1]] if len(points) > 2 else points[:]
    between = " .. " if len(points) > 2 else ", "
    points.clear()
    return [f" {between.join(names)}"] if names else []


def _told(scenario: Scenario, event: Event, finding: Finding) -> list[str]:
    """One event in words."""
    mine = finding.details.get("operation") == (event.process << PROCESS_SHIFT | event.index)
    mark = _MARK if mine else ""
    if isinstance(event, Violation):
        return [f"{_MARK}{event.property_name} violated"]
    transaction = scenario.programs[event.process - 1].transactions[event.index - 1]
    if isinstance(event, Invoke):
        return [f"operation {event.index}: {_meant(scenario, transaction)}"]
    if isinstance(event, Ok):
        name = "S" if transaction.kind in {"read", "hold"} else "T"
        number = "" if event.sequence is None else f" {name}={event.sequence}"
        return [f"{mark}ok{number}", *_shown(event.reads, finding)]
    if isinstance(event, Fail):
        return [f"{mark}conflict: nothing was written"]
    return [f"{mark}{event.error}"]


def _meant(scenario: Scenario, transaction: Transaction) -> str:
    def names(keys: Sequence[int]) -> str:
        shown = ", ".join(scenario.item(key) for key in keys[:_ITEMS_MAX])
        return shown + (f" and {len(keys) - _ITEMS_MAX} more" if len(keys) > _ITEMS_MAX else "")

    if transaction.kind in _LOOKS:
        return f"{_LOOKS[transaction.kind]} {names(transaction.reads)}".rstrip()
    parts = [
        f"{verb} {names(keys)}"
        for verb, keys in (
            ("fetch", transaction.reads),
            ("write", transaction.writes),
            ("remove", transaction.deletes),
        )
        if keys
    ]
    return ", ".join(parts)


def _shown(reads: Sequence[Read], finding: Finding) -> list[str]:
    """What was read."""
    named = set(_ITEM.findall(finding.message))
    kept = reads if len(reads) <= _ITEMS_MAX else [read for read in reads if read.item in named]
    lines = []
    for read in kept:
        number = "" if read.sequence is None else f" (T={read.sequence})"
        lines.append(f" {read.item} = {describe_id(read.writer)}{number}")
    if len(kept) < len(reads):
        lines.append(f" and {len(reads) - len(kept)} more")
    return lines


def _left_out(rows: list[Row]) -> list[Row]:
    """The rows, with runs of those that do not matter told as one where there are too many."""
    if len(rows) <= _ROWS_MAX:
        return rows
    if not any(row.matters for row in rows):
        rows[-_ROWS_MAX // 2 :] = [row._replace(matters=True) for row in rows[-_ROWS_MAX // 2 :]]
    kept: list[Row] = []
    for row in rows:
        if row.matters:
            kept.append(row)
        elif kept and not kept[-1].process:
            before = kept.pop()
            kept.append(Row(before.first, row.last, 0, ["..."], matters=False))
        else:
            kept.append(Row(row.first, row.last, 0, ["..."], matters=False))
    return kept


def _after(scenario: Scenario, finding: Finding, execution: Execution) -> list[str]:
    """What was seen when everybody was gone, if the violation is about that; why it did not end, if it did not."""
    lines = []
    if execution.stuck:
        mark = _MARK if finding.property_name == "liveness" else ""
        lines.append(
            f"{mark}{execution.stuck}{': ' if execution.waiting else ''}{'; '.join(execution.waiting)}"
        )
    survivor = len(scenario.programs) + 2
    named = {int(process) for process, _ in _OPERATION.findall(finding.message)}
    named.add(finding.details.get("operation", 0) >> PROCESS_SHIFT)
    if survivor in named or finding.details.get("process") == survivor or execution.left:
        lines.append(f"afterwards, {who(scenario, survivor)} alone opened the store:")
        for event in execution.aftermath:
            if isinstance(event, Ok):
                number = "" if event.sequence is None else f"S={event.sequence}: "
                mine = finding.details.get("operation") == (event.process << PROCESS_SHIFT | event.index)
                shown = "; ".join(line.strip() for line in _shown(event.reads, finding))
                lines.append(f"  {_MARK if mine else ''}operation {event.index}: {number}{shown}")
            elif isinstance(event, Violation):
                lines.append(f"  {_MARK}{event.message}")
        lines += [f"  {_MARK}{left.message}" for left in execution.left]
    return ["", *lines] if lines else []
