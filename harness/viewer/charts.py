"""The charts of a campaign: how much was done when, how long it took, who was stopped by whom, and where was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go

from harness.checkers import liveness, traffic
from harness.faults import HOUSEKEEPER
from harness.history import Died, Paused
from harness.judge import Run, stall_limit_s
from harness.viewer import lanes
from harness.viewer.lanes import KINDS, OUTCOMES, Columns, Life, zero_ns
from harness.viewer.page import Chart

_BINS: Final = 120
_STALLS_FROM_S: Final = 0.01
_ROW: Final = 19
"""Pixels for each sync point."""
STATES: Final = (*KINDS[lanes.STATES : -1], "opening", "stopped", "between two", "nobody there")
"""What another process was doing when one was killed. *Between two*: between two operations; *nobody there*: its
process was dead too, and not yet replaced.
"""
_SECONDS: Final = {"title": {"text": "seconds since the start"}, "rangemode": "nonnegative"}


def charts_of(run: Run, found: Sequence[Life], table: Columns) -> tuple[Chart, ...]:
    """All the charts that the run has something to show for."""
    seconds = traffic.run_seconds(run.events)
    if seconds is None or not seconds > 0:
        return ()
    charts = [
        _throughput(table, seconds),
        _latency(table, seconds),
        _stalls(run),
        _space(run),
        _kills(run, found, table),
    ]
    return tuple(chart for chart in charts if chart is not None)


def _throughput(table: Columns, seconds: float) -> Chart:
    """Operations that were completed, and kills, per second."""
    edges = np.linspace(0, seconds, min(_BINS, max(10, int(seconds * 4))) + 1)
    width = edges[1] - edges[0]
    ended = (table.start + table.duration) / 1e6

    def rate(chosen: NDArray[np.bool_]) -> list[float]:
        return [round(float(n), 1) for n in np.histogram(ended[chosen], edges)[0] / width]

    kind, outcome = table.code // 3, table.code % 3
    ok, real = outcome == OUTCOMES.index("ok"), table.place >= 0
    looks = (KINDS.index("read"), KINDS.index("get"), KINDS.index("resolve"))
    series = [
        ("commits", "write", rate(ok & (kind == KINDS.index("write"))), "solid"),
        ("reads", "read", rate(ok & np.isin(kind, looks)), "solid"),
        ("failed", "fail", rate(real & (outcome == OUTCOMES.index("fail"))), "solid"),
        ("unknown", "info", rate(real & (outcome == OUTCOMES.index("info"))), "solid"),
    ]
    middle = [round(float(t), 3) for t in (edges[:-1] + edges[1:]) / 2]
    figure = go.Figure(
        [
            go.Scatter(
                x=middle,
                y=y,
                name=name,
                mode="lines",
                line={"color": f"var(--{colour})", "width": 1.6, "dash": dash},
            )
            for name, colour, y, dash in series
        ]
    )
    figure.update_layout(
        xaxis=_SECONDS, yaxis={"title": {"text": "per second"}, "rangemode": "tozero"}, hovermode="x unified"
    )
    return Chart(
        "Throughput", figure, "Operations completed per second. Unknown: the process died in it.", 300
    )


def _latency(table: Columns, seconds: float) -> Chart | None:
    """The median, the 99th percentile and the longest, over time."""
    edges = np.linspace(0, seconds, min(_BINS, max(10, int(seconds * 2))) + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    for name, kinds, colour in (("write", ("write",), "write"), ("read", ("read", "get"), "read")):
        chosen = np.isin(table.code, [KINDS.index(kind) * 3 for kind in kinds])
        took = table.duration[chosen] / 1e3
        which = np.digitize(table.start[chosen] / 1e6, edges) - 1
        rows = (
            [took[which == number] for number in range(len(middle))]
            if len(took) < 1 << 16
            else _split(took, which, len(middle))
        )
        for label, dash, quantile in (("p50", "solid", 50), ("p99", "dash", 99), ("most", "dot", 100)):
            y = [round(float(np.percentile(row, quantile)), 3) if len(row) else None for row in rows]
            figure.add_scatter(
                x=[round(float(t), 3) for t in middle],
                y=y,
                name=f"{name} {label}",
                mode="lines",
                line={"color": f"var(--{colour})", "width": 1.4, "dash": dash},
            )
    figure.update_layout(
        xaxis=_SECONDS, yaxis={"title": {"text": "ms"}, "type": "log"}, hovermode="x unified"
    )
    return Chart("Latency", figure, "Of operations that took effect: median, 99th percentile, longest.", 300)


def _split(took: NDArray[np.float64], which: NDArray[np.int64], count: int) -> list[NDArray[np.float64]]:
    """The values of each bin, by one sort instead of one pass for each."""
    order = np.argsort(which, kind="stable")
    return np.split(took[order], np.searchsorted(which[order], np.arange(1, count)))[:count]


def _stalls(run: Run) -> Chart | None:
    """The times without a commit, and what of them is nobody's fault."""
    stalls = liveness.stalls(run.operations, run.events, _STALLS_FROM_S)
    if not stalls:
        return None
    zero, limit = zero_ns(run), stall_limit_s(run)
    longest = sorted(stalls, key=lambda stall: stall.start - stall.end)[:1000]
    x = [round((stall.start - zero) / 1e9, 4) for stall in longest]
    figure = go.Figure()
    for name, colour, y in (
        ("counts", "write", [stall.seconds for stall in longest]),
        ("excused", "pause", [stall.excused_ns / 1e9 for stall in longest]),
    ):
        shown = [(t, round(value, 4)) for t, value in zip(x, y, strict=True) if value >= _STALLS_FROM_S]
        figure.add_scatter(
            x=[t for t, _ in shown],
            y=[value for _, value in shown],
            name=name,
            mode="markers",
            marker={"color": f"var(--{colour})", "size": 5},
            hovertemplate="%{y:.3f} s without a commit<br>from %{x:.3f} s<extra>" + name + "</extra>",
        )
    figure.add_hline(
        y=limit,
        line={"color": "var(--bad)", "width": 1, "dash": "dash"},
        annotation={"text": f"allowed {limit:g} s"},
    )
    figure.update_layout(xaxis=_SECONDS, yaxis={"title": {"text": "s"}, "type": "log"})
    note = (
        "Times without any commit (the longest thousand over 10 ms), at their beginning. Excused: the part in which a "
        "holder of the lock was stopped on purpose, the index was lost, or the machine stood still."
    )
    return Chart("Stalls", figure, note, 300)


def _space(run: Run) -> Chart | None:
    """What the store took, and what it needed."""
    if not run.samples:
        return None
    zero = zero_ns(run)
    x = [round((sample.time - zero) / 1e9, 3) for sample in run.samples]
    needed = [sample.needed_bytes / 1e6 or None for sample in run.samples]
    solid, dashed = (
        {"color": "var(--write)", "width": 1.6},
        {"color": "var(--faint)", "width": 1.4, "dash": "dash"},
    )
    figure = go.Figure()
    figure.add_scatter(x=x, y=[sample.disk_bytes / 1e6 for sample in run.samples], name="on disk", line=solid)
    figure.add_scatter(x=x, y=needed, name="needed", line=dashed)
    figure.update_traces(mode="lines")
    figure.update_layout(
        xaxis=_SECONDS, yaxis={"title": {"text": "MB"}, "rangemode": "tozero"}, hovermode="x unified"
    )
    return Chart(
        "Space", figure, "What the store took, and what it needed when housekeeping last found out.", 300
    )


def _kills(run: Run, found: Sequence[Life], table: Columns) -> Chart | None:
    """Kills by where the victim stood and what the others were doing."""
    kills = [event for event in run.events if isinstance(event, Died) and traffic.is_kill(event)]
    if not kills:
        return None
    others = _states(run, kills, found, table)
    met: Counter[tuple[str, str]] = Counter()
    total: Counter[str] = Counter()
    for event, states in zip(kills, others, strict=True):
        row = event.point if event.at_point else _ANYWHERE.get(event.fault, event.fault)
        total[row] += 1
        met.update((row, state) for state in states)
    named = sorted(row for row in total if row not in _ANYWHERE.values())
    rows = [row for row in _ANYWHERE.values() if row in total] + named[::-1]
    counts = [[met[row, state] for state in STATES] for row in rows]
    words = [
        [f"{count} of {total[row]} kills" for count in line] for row, line in zip(rows, counts, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=list(STATES),
            y=rows,
            z=[
                [round(count / total[row], 3) for count in line]
                for row, line in zip(rows, counts, strict=True)
            ],
            text=[[count or "" for count in line] for line in counts],
            customdata=words,
            texttemplate="%{text}",
            hovertemplate="%{y}<br>another: %{x}<br>%{customdata}<extra></extra>",
            colorscale=[[0, "var(--panel)"], [1, "var(--heat)"]],
            showscale=False,
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(
        xaxis={"side": "top", "fixedrange": True},
        yaxis={"fixedrange": True, "dtick": 1},
        margin={"t": 30, "b": 8},
    )
    note = (
        "How many of the kills at a sync point met at least one other process in that state; the colour is their share "
        "of all kills there. One kill counts in every column that it met."
    )
    return Chart(
        "Kills by sync point and state of the others", figure, note, 60 + _ROW * len(rows), wide=True
    )


_ANYWHERE: Final = {"kill-time": "anywhere, by time", "kill-all": "everybody at once"}


def _states(run: Run, kills: Sequence[Died], found: Sequence[Life], table: Columns) -> list[set[str]]:
    """For every kill, the states of those in the other lanes at that moment."""
    zero = zero_ns(run)
    times = np.array([(event.time - zero) // 1000 for event in kills], np.int64)
    lane_of = np.zeros(max(life.process for life in found) + 1, np.int64)
    lane_of[[life.process for life in found]] = [life.lane for life in found]
    own = lane_of[[event.process for event in kills]]
    lane, kind = lane_of[table.process], table.code // 3
    states: list[set[str]] = [set() for _ in kills]
    played = {life.lane for life in found if life.role not in ("setup", "final", HOUSEKEEPER)}
    for number in sorted(played):
        at = _doing(times, number, lane, kind, table, found)
        for pause in run.events:
            if (
                isinstance(pause, Paused)
                and pause.process < len(lane_of)
                and lane_of[pause.process] == number
            ):
                begin, end = np.searchsorted(
                    times, ((pause.time - zero) // 1000, (pause.until - zero) // 1000)
                )
                at[begin:end] = STATES.index("stopped")
        for place in np.flatnonzero(own != number).tolist():
            states[place].add(STATES[at[place]])
    return states


def _doing(
    times: NDArray[np.int64],
    number: int,
    lane: NDArray[np.int64],
    kind: NDArray[np.int64],
    table: Columns,
    found: Sequence[Life],
) -> Any:
    """What the process in a lane was doing at each of ``times``, as places in ``STATES``."""
    names = [STATES.index(name) if name in STATES else STATES.index("between two") for name in KINDS]
    mine = np.flatnonzero(lane == number)
    lives = [life for life in found if life.lane == number]
    life = np.searchsorted([life.born for life in lives], times, side="right") - 1
    ends = np.array([life.died for life in lives], np.int64)
    at = np.full(len(times), STATES.index("between two"), np.int64)
    if len(mine):
        last = np.searchsorted(table.start[mine], times, side="right") - 1
        chosen = mine[np.maximum(last, 0)]
        busy = (last >= 0) & (table.start[chosen] + table.duration[chosen] >= times)
        at = np.where(busy, np.array(names)[kind[chosen]], at)
    gone = (life < 0) | (ends[np.maximum(life, 0)] < times)
    return np.where(gone, STATES.index("nobody there"), at)
