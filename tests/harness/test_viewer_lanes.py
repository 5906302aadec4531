"""A campaign as columns, lanes and charts: nothing is lost on the way into the page."""

from __future__ import annotations

import base64
import json
import zlib
from array import array
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import bench_page, judge
from harness.checkers import liveness
from harness.checkers.operation import Operation
from harness.history import Died, Mark, Paused, Read, RunEvent, Spawned, operation_id
from harness.judge import Run
from harness.plan import Plan
from harness.viewer import charts, lanes
from harness.viewer.lanes import KINDS, OUTCOMES, Timeline

MS = 1_000_000


def run_of(operations: list[Operation], events: list[RunEvent]) -> Run:
    return Run(Plan(1, seconds=1.0), {}, sorted(operations, key=lambda op: op.invoked), [], events)


def operation(
    process: int, index: int, begin: int, end: int | None, f: Any = "write", **fields: Any
) -> Operation:
    """From ``begin`` to ``end`` in milliseconds; without an end it is not known what became of it."""
    outcome: Any = "ok" if end is not None else "info"
    done = None if end is None else end * MS
    return Operation(operation_id(process, index), begin * MS, done, f, "bank", outcome, **fields)


@pytest.fixture
def small() -> Run:
    """Two writers and a reader; writer 2 is killed at a point, while the reader reads, and replaced by 5."""
    events: list[RunEvent] = [
        Spawned(1, -9 * MS, 1, "setup"),
        Died(1, -2 * MS, 0),
        Mark(0, "start"),
        Spawned(2, 1 * MS, 2, "writer"),
        Spawned(3, 1 * MS, 3, "writer"),
        Spawned(4, 1 * MS, 4, "reader"),
        Died(2, 30 * MS, 9, 0, "kill-point", "commit.after_lock", True),
        Spawned(5, 31 * MS, 5, "writer"),
        Paused(3, 40 * MS, 60 * MS, "", holder=True),
        Died(3, 90 * MS, 0),
        Died(4, 90 * MS, 0),
        Died(5, 90 * MS, 0),
        Mark(100 * MS, "stop"),
        Spawned(6, 101 * MS, 6, "final"),
        Died(6, 120 * MS, 0),
    ]
    operations = [
        operation(2, 1, 5, 10, writes=("bank/1",), values={"bank/1": 5}),
        operation(2, 2, 20, None, writes=("bank/2",)),
        operation(3, 1, 6, 15),
        operation(3, 2, 70, 80),
        operation(
            4, 1, 25, 35, "read", reads=(Read("bank/1", operation_id(2, 1), 7, "x" * 500),), sequence=7
        ),
        operation(5, 1, 33, 34, "resolve", resolves=operation_id(2, 2)),
        operation(6, 1, 105, 110, "final"),
    ]
    return run_of(operations, events)


def timeline(run: Run, violating: list[int]) -> Timeline:
    found = lanes.lives(run)
    return lanes.timeline_of(run, violating, found=found, table=lanes.columns(run, found))


def planes(data: bytes, count: int, widths: tuple[int, ...]) -> list[list[int]]:
    """Columns of so many bytes a row that were packed plane by plane."""
    at, found = 0, []
    for width in widths:
        column = np.frombuffer(data, np.uint8, width * count, at).reshape(width, count)
        found.append(
            np.asarray(sum(plane.astype(np.int64) << 8 * n for n, plane in enumerate(column))).tolist()
        )
        at += width * count
    assert at == len(data)
    return found


def unpacked(packed: Timeline) -> list[tuple[int, int, int, int, int, int]]:
    """What a browser makes of the columns: (start, end, process, index, code, workload) of every row."""
    data, count = zlib.decompress(base64.b64decode(packed.columns)), packed.head["count"]
    found = planes(data, count, (4, 4, 4, 4, 1, 1))
    rows, now, last = [], packed.head["first"], dict[int, int]()
    for delta, duration, process, gap, code, workload in zip(*found, strict=True):
        now += delta
        last[process] = last.get(process, 0) + gap + (code >= 3 * packed.head["states"])
        rows.append((now, now + duration, process, last[process], code, workload))
    return rows


def test_the_columns_hold_every_operation_and_every_opening(small: Run) -> None:
    rows = unpacked(timeline(small, []))
    told = {(p, i): (start, end, KINDS[code // 3], OUTCOMES[code % 3]) for start, end, p, i, code, _ in rows}
    assert len(told) == len(rows) == len(small.operations) + 6
    for op in small.operations:
        start, _, kind, outcome = told[op.process, op.id & 0xFFFF]
        assert (start, kind, outcome) == (op.invoked // 1000, op.f, op.outcome)
    assert told[2, 2][1] == 30_000, "an operation of unknown outcome ends with its process"
    assert told[5, 0] == (31_000, 33_000, "opening", "ok")
    assert told[1, 0] == (-9_000, -2_000, "opening", "ok")


def test_the_columns_of_a_large_run_come_back_as_they_were() -> None:
    run, _ = bench_page.made_up(20_000, 5)
    rows = [row for row in unpacked(timeline(run, [])) if row[4] >= 3 * lanes.STATES]
    assert [(row[2] << 32 | row[3], row[0], KINDS[row[4] // 3]) for row in rows] == [
        (op.id, op.invoked // 1000, op.f) for op in run.operations
    ]


def test_locks_and_repairs_come_back_as_they_were_and_who_died_with_the_lock_held_it_until_then(
    small: Run,
) -> None:
    events = [
        msgspec.structs.replace(event, locked=22 * MS) if isinstance(event, Died) and event.signal else event
        for event in small.events
    ]
    spans = array("q", [3, 0, 7 * MS, 14 * MS, 3, 1, 8 * MS, 9 * MS, 2, 0, 6 * MS, 8 * MS, 99, 0, 1, 2])
    run = msgspec.structs.replace(small, events=events, spans=spans)
    packed = timeline(run, [])
    head, data = packed.head["held"], zlib.decompress(base64.b64decode(packed.held))
    assert (head["count"], head["kinds"]) == (4, ("lock", "repair"))
    rows, now = [], head["first"]
    for delta, duration, process, what in zip(*planes(data, head["count"], (4, 4, 4, 1)), strict=True):
        now += delta
        rows.append((now, now + duration, process, head["kinds"][what]))
    assert rows == [
        (6_000, 8_000, 2, "lock"),
        (7_000, 14_000, 3, "lock"),
        (8_000, 9_000, 3, "repair"),
        (22_000, 30_000, 2, "lock"),
    ]
    assert timeline(small, []).head["held"]["count"] == 0


def test_who_replaces_a_killed_process_plays_in_its_lane(small: Run) -> None:
    found = {life.process: life for life in lanes.lives(small)}
    assert lanes.lane_names(list(found.values())) == ["setup, final", "writer A", "writer B", "reader"]
    assert found[5].lane == found[2].lane == 1
    assert found[6].lane == found[1].lane == 0
    assert found[2].end == "killed at commit.after_lock (kill-point)"
    assert found[3].end == "left with status 0"


def test_after_the_death_of_everybody_each_place_is_taken_again() -> None:
    roles = ["writer", "writer", "reader"]
    events: list[RunEvent] = [Mark(0, "start")]
    events += [Spawned(number, MS, number, role) for number, role in enumerate(roles, 1)]
    events += [Died(number, 2 * MS, 9, 0, "kill-all") for number in (3, 1, 2)]
    events += [Spawned(number, 3 * MS, number, role) for number, role in enumerate(roles, 4)]
    found = lanes.lives(run_of([operation(1, 1, 1, 2)], events))
    assert [life.lane for life in found] == [0, 1, 2, 0, 1, 2]


def test_a_process_lives_from_its_first_operation_if_its_birth_was_noted_later() -> None:
    """A parent that is not given the processor notes a birth after the child's first operation is over."""
    run = run_of([operation(1, 1, 1, 2)], [Mark(0, "start"), Spawned(1, 5 * MS, 1, "writer")])
    (life,) = lanes.lives(run)
    assert life.born == 1_000
    assert [row[:2] for row in unpacked(timeline(run, []))] == [(1_000, 1_000), (1_000, 2_000)]


def test_processes_that_nobody_is_known_to_have_forked_have_lanes_too() -> None:
    run = run_of([operation(7, 1, 1, 2), operation(9, 1, 1, 3)], [])
    assert lanes.lane_names(lanes.lives(run)) == ["process 7", "process 9"]
    assert [row[2:4] for row in unpacked(timeline(run, []))] == [(7, 1), (9, 1)]


def test_what_is_violating_and_whom_it_read_is_told_in_full(small: Run) -> None:
    packed = timeline(small, [operation_id(4, 1)])
    told = json.loads(zlib.decompress(base64.b64decode(packed.told)))
    assert packed.head["violating"] == ["4.1"]
    ((item, writer, sequence, value),) = told["operations"]["4.1"]["reads"]
    assert (item, writer, sequence, len(value)) == ("bank/1", "2.1", 7, 80)
    assert told["operations"]["2.1"]["writes"] == [["bank/1", "5"]]
    assert told["operations"]["5.1"]["resolves"] == "2.2"
    assert told["kills"] == [[1, 30_000, 2, "commit.after_lock", True, "kill-point", True]]
    assert told["pauses"] == [[2, 40_000, 60_000, 3, "", True]]


def test_what_is_far_from_everything_is_left_to_the_history() -> None:
    run, _ = bench_page.made_up(20_000, 5)
    read = Read("bank/1", run.operations[17].id)
    run.operations[10_000] = msgspec.structs.replace(run.operations[10_000], reads=(read,))
    packed = timeline(run, [run.operations[10_000].id])
    told = json.loads(zlib.decompress(base64.b64decode(packed.told)))["operations"]
    names = [f"{op.process}.{op.id & 0xFFFFFFFF}" for op in run.operations]
    assert all(name in told for name in names[9_800:10_201])
    assert names[17] in told, "whose version it read"
    assert 401 <= len(told) <= 6_000
    assert len(told) < len(names)


def test_kills_are_counted_by_point_and_by_what_the_others_did(small: Run) -> None:
    found = lanes.lives(small)
    drawn = {chart.title: chart for chart in charts.charts_of(small, found, lanes.columns(small, found))}
    (heat,) = drawn["Kills by sync point and state of the others"].figure.data
    assert list(heat.y) == ["commit.after_lock"]
    met = dict(zip(heat.x, heat.text[0], strict=True))
    assert {state for state, count in met.items() if count} == {"read", "between two"}


def test_throughput_counts_every_completed_operation_once(small: Run) -> None:
    found = lanes.lives(small)
    drawn = {chart.title: chart for chart in charts.charts_of(small, found, lanes.columns(small, found))}
    series = {trace.name: trace for trace in drawn["Throughput"].figure.data}
    width = series["commits"].x[1] - series["commits"].x[0]
    sums = {name: round(sum(trace.y) * width) for name, trace in series.items()}
    assert sums == {"commits": 3, "reads": 2, "failed": 0, "unknown": 1}


def test_stalls_say_what_of_them_is_excused(small: Run) -> None:
    found = liveness.stalls(small.operations, small.events, 0.015)
    assert [(stall.start // MS, stall.end // MS, stall.excused_ns // MS) for stall in found] == [
        (15, 80, 20),
        (80, 100, 0),
    ]
    assert max(found, key=lambda stall: stall.seconds) == liveness.longest_stall(
        small.operations, small.events
    )


def test_a_run_without_an_end_or_without_operations_has_a_page_too(small: Run) -> None:
    for run in (run_of([], []), run_of([], small.events), run_of(small.operations, small.events[:4])):
        found = lanes.lives(run)
        table = lanes.columns(run, found)
        packed = lanes.timeline_of(run, [], found=found, table=table)
        born = sum(isinstance(event, Spawned) for event in run.events)
        assert packed.head["count"] == len(unpacked(packed)) == len(run.operations) + born
        assert packed.head["until"] >= 1
        charts.charts_of(run, found, table)
        judge.judge(run)
