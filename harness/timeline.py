"""The picture of an ``Evidence``: an SVG timeline of the processes around an anomaly, with the cycle drawn on it.

One lane for each process, one bar for each operation from its invocation to its completion, and one arrow for each
edge. The positions that are shown are pulled together to where every bar has room for its words: what is left of what
is what happened first, and distances mean nothing. All lengths here are inches.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from harness.evidence import NEVER, Edge, Evidence, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE: Final = 8.0  # points
_CHARACTER: Final = (
    0.603 * _SIZE / 72
)  # the width of one, which is the same in nearly all fonts of fixed width
_LINE: Final = 1.3 * _SIZE / 72
_PAD: Final = 0.08
_STEP: Final = 0.32  # between two moments, at least
_MARGIN: Final = 0.25
_WIDTH_MIN: Final = 7.0
_TEXT_COLUMNS: Final = 26
_TEXT_LINES_MAX: Final = 3
_NAME_MAX: Final = 18
_CHANNEL: Final = {True: 0.64, False: 0.16}  # between two lanes, with arrows in it or without
_OVER: Final = 0.55  # an arrow within a lane rises three quarters of this above it
_TIP: Final = 0.22  # of a bar that never ends

_INK, _FAINT, _LANE, _BAR = "#1a1a1a", "#666666", "#f2f2f2", "#ffffff"


class Kind(NamedTuple):
    """How the edges of one kind look, and what the legend says of them."""

    colour: str
    style: Any
    meaning: str


KINDS: Final = {
    "ww": Kind("#d55e00", "-", "the second overwrote what the first wrote"),
    "wr": Kind("#0072b2", "-", "the second read what the first wrote"),
    "rw": Kind("#a0267e", (0, (5, 2)), "the first read what the second then overwrote"),
    "process": Kind("#00745a", (0, (4, 1.5, 1, 1.5)), "one process did the first, then the second"),
    "realtime": Kind("#4d4d4d", (0, (1.5, 1.2)), "the first was complete before the second was invoked"),
}
"""The kinds of edges that are known, in colours that are told apart by the colour-blind, and in strokes as well."""

_OTHER_KIND: Final = Kind("#806000", "-", "the first comes before the second")
_ROLES: Final = ("#cfe5f5", "#fbd9c2", "#d5ecd9", "#ecd6e6", "#f3ecc4")
"""The fill of the bars by their role, in the order in which roles are met."""


class _Bar(NamedTuple):
    """One operation as it is drawn. ``row``: its lane, from 0 at the top."""

    shown: Shown
    head: str
    lines: tuple[str, ...]
    row: int
    left: float
    right: float
    top: float
    bottom: float


class _Arrow(NamedTuple):
    """One edge as it is drawn: a Bezier curve of four points, and the middle of its label."""

    kind: str
    points: tuple[tuple[float, float], ...]
    label: tuple[float, float]


def draw(evidence: Evidence, path: Path) -> None:
    """Write the picture to ``path``, an SVG file; what was there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(svg(evidence), encoding="utf-8")


def svg(evidence: Evidence) -> str:
    """The picture as an SVG document. The same evidence always gives the same text. About 0.1 s (and 0.5 s for the
    import of matplotlib, once).
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    about = {"Date": None, "Title": _clean(evidence.anomaly)}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "timeline"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # the viewer's fonts count, not ours
        figure(evidence).savefig(buffer, format="svg", metadata=about)
    return buffer.getvalue()


def figure(evidence: Evidence) -> Figure:
    """The picture as a matplotlib figure, which belongs to no window and to no global state."""
    from matplotlib.figure import Figure

    edges = _drawable(evidence)
    lanes = _lanes(evidence.operations)
    left = _MARGIN + max((len(name) for name, _ in lanes), default=0) * _CHARACTER + 2 * _PAD
    words = {shown.name: _words(shown) for shown in evidence.operations}
    x, end = _columns(evidence.operations, words, left)
    width = max(_WIDTH_MIN, end + _MARGIN)
    title = _wrapped(evidence.meaning, width)
    top = _MARGIN + 0.45 + len(title) * 1.3 * _LINE + (_OVER if _within_a_lane(edges, lanes) else 0)
    bars = _bars(evidence.operations, words, lanes, x, end, top, channel=_CHANNEL[bool(edges)])
    bottom = max((bar.bottom for bar in bars.values()), default=top)
    legend = _legend(evidence, edges)
    height = bottom + 0.5 + len(legend) * 1.6 * _LINE + _MARGIN
    made = Figure(figsize=(width, height), facecolor="white")
    axes = made.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _write(axes, _MARGIN, _MARGIN + 0.12, evidence.anomaly, size=14, weight="bold")
    for number, line in enumerate(title):
        _write(axes, _MARGIN, _MARGIN + 0.38 + number * 1.3 * _LINE, line, size=9.5, colour=_FAINT)
    _draw_lanes(axes, lanes, bars, width - 2 * _MARGIN)
    arrows = _arrows(edges, bars)
    for arrow in arrows:
        _draw_arrow(axes, arrow)
    roles = _roles(evidence.operations)
    for bar in bars.values():
        _draw_bar(axes, bar, roles.get(bar.shown.role, _BAR))
    for arrow in arrows:
        _draw_label(axes, arrow)
    _draw_legend(axes, legend, bottom + 0.5)
    return made


def _drawable(evidence: Evidence) -> list[Edge]:
    """The edges between two different operations that are shown."""
    names = {shown.name for shown in evidence.operations}
    return [
        edge for edge in evidence.edges if edge.source != edge.target and {edge.source, edge.target} <= names
    ]


def _within_a_lane(edges: Iterable[Edge], lanes: Sequence[tuple[str, list[Shown]]]) -> bool:
    rows = {shown.name: row for row, (_, members) in enumerate(lanes) for shown in members}
    return any(rows[edge.source] == rows[edge.target] for edge in edges)


def _clean(text: str) -> str:
    """``text`` in one line, without what XML cannot hold."""
    return re.sub(r"[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", " ".join(text.split()))


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(_clean(text), int((width - 2 * _MARGIN) / (1.05 * _CHARACTER)))


def _words(shown: Shown) -> tuple[str, ...]:
    """What stands in the bar, line by line; first its name and where it stands in the history."""
    head = _clean(shown.name)
    if shown.line:
        head += f"  line {shown.line}" + (f"-{shown.line_completed}" if shown.line_completed else "")
    lines = _broken(_clean(shown.text))
    if len(lines) > _TEXT_LINES_MAX:
        lines = [*lines[: _TEXT_LINES_MAX - 1], lines[_TEXT_LINES_MAX - 1][: _TEXT_COLUMNS - 2] + " \u2026"]
    if shown.role:
        lines.append(textwrap.shorten(_clean(shown.role), _TEXT_COLUMNS, placeholder=" \u2026"))
    return head, *lines


def _broken(text: str) -> list[str]:
    """``text`` in lines, one for each of its parts ("append 5 1, read 7 -> [1]" has two) where they all fit."""
    parts = re.split(r", (?![^\[{(]*[\]})])", text)
    parts[:-1] = [part + "," for part in parts[:-1]]
    if len(parts) <= _TEXT_LINES_MAX and max(map(len, parts)) <= _TEXT_COLUMNS:
        return [part for part in parts if part]
    return textwrap.wrap(text, _TEXT_COLUMNS)


def _lanes(operations: Iterable[Shown]) -> list[tuple[str, list[Shown]]]:
    """The lanes, in the order in which their processes appear: what each is called, and its operations. Operations of
    one process that overlap, which happens when it goes on after one that never ended, get lanes of their own, which
    are called nothing.
    """
    lanes: dict[str, list[list[Shown]]] = {}
    for shown in sorted(operations, key=lambda each: each.invoked):
        rows = lanes.setdefault(shown.process, [])
        free = next((row for row in rows if row[-1].completed <= shown.invoked), None)
        if free is None:
            rows.append([shown])
        else:
            free.append(shown)
    return [
        ("" if index else _lane_name(process), row)
        for process, rows in lanes.items()
        for index, row in enumerate(rows)
    ]


def _lane_name(process: str) -> str:
    """Of a process that is called by its number, or by a name."""
    name = _clean(process)
    name = f"process {name}" if name.isdigit() else name
    return name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "\u2026"


def _columns(
    operations: Sequence[Shown], words: dict[str, tuple[str, ...]], left: float
) -> tuple[dict[int, float], float]:
    """Where each position is drawn, so far from the one before that every bar has room; and where the picture ends."""
    room = {shown.name: max(map(len, words[shown.name])) * _CHARACTER + 2 * _PAD for shown in operations}
    ending: dict[int, list[Shown]] = defaultdict(list)
    for shown in operations:
        ending[shown.completed].append(shown)
    moments = {shown.invoked for shown in operations} | (ending.keys() - {NEVER})
    x: dict[int, float] = {}
    at = left
    for moment in sorted(moments):
        at = max(
            [at, *(x[each.invoked] + room[each.name] for each in ending[moment] if each.invoked < moment)]
        )
        x[moment] = at
        at += _STEP
    return x, max([at, *(x[each.invoked] + room[each.name] + 2 * _TIP for each in ending[NEVER])])


def _bars(
    operations: Sequence[Shown],
    words: dict[str, tuple[str, ...]],
    lanes: Sequence[tuple[str, list[Shown]]],
    x: dict[int, float],
    end: float,
    top: float,
    *,
    channel: float,
) -> dict[str, _Bar]:
    """The bars by the name of their operation, in the order of ``operations``."""
    bars: dict[str, _Bar] = {}
    for row, (_, members) in enumerate(lanes):
        height = max(len(words[shown.name]) for shown in members) * _LINE + 1.4 * _PAD
        for shown in members:
            right = end if shown.completed == NEVER else x[shown.completed]
            head, *lines = words[shown.name]
            bars[shown.name] = _Bar(
                shown, head, tuple(lines), row, x[shown.invoked], right, top, top + height
            )
        top += height + channel
    return {shown.name: bars[shown.name] for shown in operations}


def _roles(operations: Iterable[Shown]) -> dict[str, str]:
    """The fill of each role that occurs."""
    names = dict.fromkeys(shown.role for shown in operations if shown.role)
    return {name: _ROLES[index % len(_ROLES)] for index, name in enumerate(names)}


def _arrows(edges: Sequence[Edge], bars: dict[str, _Bar]) -> list[_Arrow]:
    """The way of each edge: it leaves its bar downwards or upwards, and enters the other likewise, each at a place of
    its own.
    """
    ports: dict[tuple[str, bool], list[tuple[float, int, int]]] = defaultdict(list)
    ends: list[tuple[tuple[str, bool], tuple[str, bool]]] = []
    for number, edge in enumerate(edges):
        source, target = bars[edge.source], bars[edge.target]
        down = source.row < target.row
        up_again = source.row == target.row
        keys = (edge.source, down), (edge.target, not down and not up_again)
        ends.append(keys)
        for end, (key, other) in enumerate(zip(keys, (target, source), strict=True)):
            ports[key].append((other.left + other.right, number, end))
    places: dict[tuple[int, int], tuple[float, float]] = {}
    for (name, below), wanted in ports.items():
        bar = bars[name]
        for index, (_, number, end) in enumerate(sorted(wanted), 1):
            x = bar.left + (bar.right - bar.left) * index / (len(wanted) + 1)
            places[number, end] = x, bar.bottom if below else bar.top
    found: list[_Arrow] = []
    for number, edge in enumerate(edges):
        points = _curve(places[number, 0], places[number, 1])
        found.append(_Arrow(edge.kind, points, _label_place(edge.kind, points, bars.values(), found)))
    return found


def _curve(start: tuple[float, float], stop: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """The four points of a Bezier curve that leaves and arrives upright."""
    (x0, y0), (x1, y1) = start, stop
    if abs(y1 - y0) < 0.01:  # within a lane: over it
        over = y0 - _OVER
        return start, (x0, over), (x1, over), stop
    middle = (y0 + y1) / 2
    return start, (x0, middle), (x1, middle), stop


def _at(points: Sequence[tuple[float, float]], t: float) -> tuple[float, float]:
    """The point at ``t``, from 0 to 1, of a Bezier curve."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    return (
        sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)),
        sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)),
    )


def _label_place(
    kind: str, points: Sequence[tuple[float, float]], bars: Iterable[_Bar], others: Iterable[_Arrow]
) -> tuple[float, float]:
    """The place on the curve, nearest to its middle, where its label covers neither bar nor label, or the least."""
    half, high = _label_half(kind)
    boxes = [(bar.left, bar.top - 0.06, bar.right, bar.bottom + 0.06) for bar in bars]
    for other in others:
        (x, y), (wide, tall) = other.label, _label_half(other.kind)
        boxes.append((x - wide, y - tall, x + wide, y + tall))

    def covered(t: float) -> float:
        x, y = _at(points, t)
        return sum(
            max(0.0, min(x + half, right) - max(x - half, left))
            * max(0.0, min(y + high, bottom) - max(y - high, top))
            for left, top, right, bottom in boxes
        )

    steps = [0.5 + sign * step / 40 for step in range(17) for sign in (1, -1)]
    return _at(points, min(steps, key=lambda t: (round(covered(t), 6), abs(t - 0.5))))


def _label_half(kind: str) -> tuple[float, float]:
    """Half of the width and of the height of the label of an arrow."""
    return len(kind) * _CHARACTER / 2 + 0.06, 0.085


def _draw_lanes(
    axes: Axes, lanes: Iterable[tuple[str, list[Shown]]], bars: dict[str, _Bar], width: float
) -> None:
    from matplotlib.patches import Rectangle

    for name, members in lanes:
        bar = bars[members[0].name]
        top, height = bar.top - 0.04, bar.bottom - bar.top + 0.08
        axes.add_patch(Rectangle((_MARGIN, top), width, height, color=_LANE, linewidth=0, zorder=0))
        _write(axes, _MARGIN + _PAD, (bar.top + bar.bottom) / 2, name, colour=_FAINT, mono=True)


def _draw_bar(axes: Axes, bar: _Bar, fill: str) -> None:
    """The bar and its words; with an open end and an arrow where it never ends."""
    from matplotlib.patches import Polygon

    left, right, top, bottom = bar.left, bar.right, bar.top, bar.bottom
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if bar.shown.completed == NEVER:
        corners[1:3] = [(right - _TIP, top), (right, (top + bottom) / 2), (right - _TIP, bottom)]
    stroke: Any = {"ok": "-", "info": (0, (4, 2)), "fail": (0, (1, 1.5))}.get(bar.shown.outcome, "-")
    axes.add_patch(
        Polygon(
            corners, closed=True, facecolor=fill, edgecolor=_INK, linewidth=1.1, linestyle=stroke, zorder=3
        )
    )
    y = top + 0.7 * _PAD + _LINE / 2
    name = _clean(bar.shown.name)
    _write(axes, left + _PAD, y, name, weight="bold", mono=True)
    where = bar.head.removeprefix(name).strip()
    _write(axes, left + _PAD + (len(name) + 2) * _CHARACTER, y, where, colour=_FAINT, mono=True)
    for number, line in enumerate(bar.lines, 1):
        style = "italic" if bar.shown.role and number == len(bar.lines) else "normal"
        _write(axes, left + _PAD, y + number * _LINE, line, mono=True, style=style)


def _draw_arrow(axes: Axes, arrow: _Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    kind = KINDS.get(arrow.kind, _OTHER_KIND)
    curve = Curve(arrow.points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    for style, stroke, width in (("-", kind.style, 1.8), ("-|>", "-", 0.0)):
        axes.add_patch(
            FancyArrowPatch(
                path=curve,
                arrowstyle=style,
                mutation_scale=17,
                color=kind.colour,
                linestyle=stroke,
                linewidth=width,
                zorder=2,
                shrinkA=0,
                shrinkB=0,
            )
        )


def _draw_label(axes: Axes, arrow: _Arrow) -> None:
    colour = KINDS.get(arrow.kind, _OTHER_KIND).colour
    box = {"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8}
    _write(axes, *arrow.label, arrow.kind, colour=colour, weight="bold", mono=True, align="center", bbox=box)


def _legend(evidence: Evidence, edges: Sequence[Edge]) -> list[tuple[str, str, str]]:
    """Lines of the legend: what is drawn before it ("edge", "role", ""), its name, what it means."""
    lines = [
        ("edge", kind, KINDS.get(kind, _OTHER_KIND).meaning)
        for kind in sorted({edge.kind for edge in edges}, key=lambda kind: ([*KINDS, kind].index(kind), kind))
    ]
    lines += [("role", role, "") for role in _roles(evidence.operations)]
    if any(shown.outcome == "fail" for shown in evidence.operations):
        lines.append(("", "dotted bar", "it failed: it had no effect"))
    if any(shown.completed == NEVER for shown in evidence.operations):
        lines.append(("", "open end", "it never completed: it may take effect at any later time, or never"))
    return [*lines, ("", "left to right", "the order of events; distances mean nothing")]


def _draw_legend(axes: Axes, lines: Sequence[tuple[str, str, str]], top: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    fills = iter(_ROLES)
    indent = _MARGIN + 0.55
    column = max((len(name) for _, name, meaning in lines if meaning), default=0) * _CHARACTER + 2 * _PAD
    for number, (what, name, meaning) in enumerate(lines):
        y = top + number * 1.6 * _LINE
        if what == "edge":
            kind = KINDS.get(name, _OTHER_KIND)
            axes.add_line(
                Line2D(
                    [_MARGIN, indent - 0.12], [y, y], color=kind.colour, linestyle=kind.style, linewidth=1.8
                )
            )
        elif what == "role":
            axes.add_patch(
                Rectangle((_MARGIN + 0.1, y - 0.06), 0.25, 0.12, facecolor=next(fills), edgecolor=_INK)
            )
        _write(axes, indent, y, name, weight="bold", mono=True)
        if meaning:
            _write(axes, indent + column, y, meaning, colour=_FAINT)


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = _SIZE,
    colour: str = _INK,
    mono: bool = False,
    align: str = "left",
    **how: Any,
) -> None:
    """``text`` as it is, with its middle at the height ``y``."""
    axes.text(
        x,
        y,
        _clean(text),
        size=size,
        color=colour,
        family="monospace" if mono else "sans-serif",
        ha=align,
        va="center_baseline",
        parse_math=False,
        zorder=4,
        **how,
    )
