"""A failure's schedule as a chart: a lane for each process, a mark for each step, and where it went wrong."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.failure import Failure
from harness.oracle import kind_of
from harness.page import who
from harness.scenario import Scenario, Transaction
from harness.stepped.program import BEGIN
from harness.verdict import Finding

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MARK: Final = ">>> "
"""What the page of text has before the line that shows the violation."""
_RANGE: Final = re.compile(r"^ {0,8}(\d+)(?:-(\d+))? ")
_KEYS_MAX: Final = 6
_LABEL_COLUMNS: Final = 90
_LANE_PX: Final = 56
_FRAME_PX: Final = 130
_LOOKS: Final = {
    "moves": {"color": "var(--read)", "symbol": "circle", "size": 7},
    "begins": {"color": "var(--write)", "symbol": "square", "size": 11},
    "waits": {"color": "var(--pause)", "symbol": "circle-open", "size": 8},
    "killed": {"color": "var(--kill)", "symbol": "x", "size": 13},
    "violation": {"color": "var(--bad)", "symbol": "star", "size": 17},
}


class Step(NamedTuple):
    """One step of a schedule: its number from 1, whose it is, what kind of mark it gets, and what is said of it."""

    number: int
    process: int
    kind: str
    words: str


def steps(failure: Failure) -> list[Step]:
    """Every step of a failure's schedule, and the violation behind the step that showed it."""
    scenario = failure.scenario
    begun: Counter[int] = Counter()
    doing: dict[int, str] = {}
    stood: dict[int, str] = {}
    found: list[Step] = []
    for number, choice in enumerate(failure.choices, 1):
        process = choice.process
        if choice.point == BEGIN and not choice.kill:
            doing[process] = _operation(scenario, process, begun[process])
            begun[process] += 1
        kind = "killed" if choice.kill else "begins" if choice.point == BEGIN else "moves"
        if kind == "moves" and choice.point and stood.get(process) == choice.point:
            kind = "waits"
        verb = {"killed": "is killed at", "begins": "begins,", "waits": "tries again at"}.get(
            kind, "goes on from"
        )
        place = "" if kind == "begins" else choice.point or "its start"
        torn = f", having written the first {choice.torn} units" if choice.torn else ""
        words = f"step {number}: {who(scenario, process)} {verb} {place}".rstrip(" ,") + torn
        if under := doing.get(process):
            words += f"<br>{_plain(under)}"
        found.append(Step(number, process, kind, words))
        stood[process] = choice.point
    return [*found, *_violations(failure, len(found))]


def chart(failure: Failure) -> Figure:
    """The steps of a failure as a plotly figure: a process in each lane, the number of the step to the right."""
    from plotly import graph_objects  # a third of a second, for runs that have something to draw

    by_kind: dict[str, list[Step]] = defaultdict(list)
    for step in steps(failure):
        by_kind[step.kind].append(step)
    lanes = sorted({step.process for marks in by_kind.values() for step in marks})
    names = [who(failure.scenario, process) for process in lanes]
    figure = graph_objects.Figure()
    figure.add_traces(
        [
            graph_objects.Scatter(
                x=[step.number for step in by_kind[kind]],
                y=[names[lanes.index(step.process)] for step in by_kind[kind]],
                hovertext=[step.words for step in by_kind[kind]],
                hoverinfo="text",
                mode="markers",
                marker=look,
                name=kind,
            )
            for kind, look in _LOOKS.items()
            if by_kind[kind]
        ]
    )
    figure.update_layout(
        xaxis={"title": "step", "rangemode": "tozero"},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "fixedrange": True},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
    )
    return figure


def height(failure: Failure) -> int:
    """How high the chart of a failure is to be drawn, in pixels."""
    return _FRAME_PX + _LANE_PX * len({step.process for step in steps(failure)})


def _operation(scenario: Scenario, process: int, number: int) -> str:
    """What a process means by its operation ``number`` (from 0)."""
    programs = scenario.programs
    if process > len(programs) or number >= len(programs[process - 1].transactions):
        return f"operation {number + 1}"
    return f"operation {number + 1}: {_meant(scenario, programs[process - 1].transactions[number])}"


def _meant(scenario: Scenario, transaction: Transaction) -> str:
    parts: list[str] = [transaction.kind]
    for verb, keys in (
        ("reads", transaction.reads),
        ("writes", transaction.writes),
        ("removes", transaction.deletes),
    ):
        if keys:
            more = f" and {len(keys) - _KEYS_MAX} more" if len(keys) > _KEYS_MAX else ""
            parts.append(f"{verb} {', '.join(map(scenario.item, keys[:_KEYS_MAX]))}{more}")
    return ", ".join(parts)


def _violations(failure: Failure, count: int) -> Iterator[Step]:
    """Where the page of text marks the violation: at the end of the turn that showed it, or when everybody was gone."""
    last = count
    marked = False
    message = _label(f"{failure.property_name}: {failure.message}")
    for line in failure.page.partition("\n\n")[2].splitlines():
        if line.startswith("afterwards"):
            last = count + 1
        elif turn := _RANGE.match(line):
            last = int(turn[2] or turn[1])
        if MARK in line:
            told = line.partition(MARK)[2].strip()
            same = kind_of(Finding(failure.property_name, told)) == failure.kind
            words = message if same else f"{message}<br>{_label(told)}"
            yield Step(last, _whose(failure, last), "violation", words)
            marked = True
    if not marked:
        yield Step(last, _whose(failure, last), "violation", message)


def _whose(failure: Failure, step: int) -> int:
    """Whose step that is; behind the last one, whoever looked at the store when everybody was gone."""
    if 1 <= step <= len(failure.choices):
        return failure.choices[step - 1].process
    return len(failure.scenario.programs) + 2


def _label(text: str) -> str:
    """Text in lines that are not too long to hover over."""
    return "<br>".join(map(_plain, textwrap.wrap(text, _LABEL_COLUMNS)))


def _plain(text: str) -> str:
    """Text for a label of plotly, which understands some tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
