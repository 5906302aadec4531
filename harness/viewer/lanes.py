"""A campaign as a timeline: its operations in columns that a browser reads at once, in lanes that stay few.

A lane is one *place* of a role: the process that replaces a killed one plays on in its lane. Times are microseconds
since the start of the run; what was before (the setup) is negative.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.checkers import rebuild, traffic
from harness.checkers.operation import Operation
from harness.faults import HOUSEKEEPER, may_hold_lock
from harness.history import PROCESS_SHIFT, Died, Mark, Paused, Read, Spawned, Standstill
from harness.holding import SPANS
from harness.judge import Run

KINDS: Final = ("opening", "chores", "write", "read", "get", "resolve", "final")
"""What a process was doing. It is *opening* from its birth to its first operation: there it repairs what it finds. A
housekeeper, which has no operations, has its *chores* as long as it lives.
"""
STATES: Final = 2
"""So many of them, the first, are no operations."""
OUTCOMES: Final = ("ok", "fail", "info")

ABOUT: Final = (
    "A lane is one place of a role: a process that is killed is replaced in the same lane, so a lane holds one process "
    "after the other. Opening lasts until the first operation, with the repairs that are due. Where the store's sync "
    "points tell, strips above the bars show who held the lock that commits wait for, and who was finishing what a "
    "dead process had begun. Where there is too much to draw, a cell stands for all that its lane did in its time, in "
    "the colour of what must not be overlooked (violating, then unknown), else of what took most time, and the "
    "stronger the busier it was. Drag to zoom in until every operation is a bar; double-click for the whole run."
)

_AROUND: Final = 200
"""So many operations before and after a violating one are told in full."""
_AROUND_DEAD: Final = 2
"""And so many around one whose outcome is not known."""
_TOLD_MAX: Final = 6_000
_READS_MAX: Final = 60
_VALUE_MAX: Final = 80
_LEVEL: Final = 5
"""Of compression: 6 takes twice as long for the last few percent (of a million operations)."""


class Timeline(NamedTuple):
    """What the page draws its timeline from.

    ``columns`` holds the operations in the order of their beginning, told in ``head`` ("columns"): each column split
    into planes of bytes, deflated, in base64. ``held`` is packed in the same way: when locks were held and the dead
    were repaired after, as many rows as ``head`` says ("held"). ``told`` is JSON, deflated, in base64: what is known of
    processes, kills and pauses, and in full of the operations that matter.
    """

    about: str
    head: dict[str, Any]
    columns: str
    held: str
    told: str


class Life(msgspec.Struct, array_like=True, frozen=True):
    """One process: the lane that it played in, and from when to when. ``end`` says how it ended, in words."""

    process: int
    lane: int
    born: int
    died: int
    role: str
    end: str = ""


class Columns(NamedTuple):
    """The operations, and what else processes did, by their beginning. ``number``: the index of an operation in its
    process, 0 of what is none. ``code``: place in ``KINDS`` times 3, and the place in ``OUTCOMES``. ``place``: of the
    operation in the run, -1 of what is none.
    """

    start: NDArray[np.int64]
    duration: NDArray[np.int64]
    process: NDArray[np.int64]
    number: NDArray[np.int64]
    code: NDArray[np.int64]
    workload: NDArray[np.int64]
    place: NDArray[np.int64]


def zero_ns(run: Run) -> int:
    """The start of the run, from which the page counts; its first moment if it has no start."""
    marks = (event.time for event in run.events if isinstance(event, Mark) and event.what == "start")
    first = run.operations[0].invoked if run.operations else 0
    return next(marks, first)


def lives(run: Run) -> list[Life]:
    """Every process of the run in the order of birth, in the lane of the one that it replaced."""
    zero, last = zero_ns(run), _last_ns(run)
    first, lane_of = _first_us(run), _lanes(run)
    deaths = {event.process: event for event in run.events if isinstance(event, Died)}
    found = [
        Life(
            event.process,
            lane_of[event.process],
            min(_us(event.time - zero), first.get(event.process, 1 << 62)),  # a birth is noted after the fork
            _us((death.time if (death := deaths.get(event.process)) else last) - zero),
            event.role,
            _end(death),
        )
        for event in run.events
        if isinstance(event, Spawned)
    ]
    lanes = len(set(lane_of.values()))
    for lane, process in enumerate(sorted(first.keys() - lane_of.keys()), lanes):
        found.append(Life(process, lane, first[process], _us(last - zero), "process"))
    return found


def _lanes(run: Run) -> dict[int, int]:
    """The lane of every process that was forked: the first of its role that is free, or a new one."""
    free: dict[str, list[int]] = {}
    role_of: dict[int, str] = {}
    lane_of: dict[int, int] = {}
    lanes = 0
    for event in run.events:
        if isinstance(event, Spawned):
            role = role_of[event.process] = _role(event.role)
            if free.get(role):
                lane = min(free[role])
                free[role].remove(lane)
            else:
                lane, lanes = lanes, lanes + 1
            lane_of[event.process] = lane
        elif isinstance(event, Died) and event.process in lane_of:
            free.setdefault(role_of[event.process], []).append(lane_of[event.process])
    return lane_of


def _first_us(run: Run) -> dict[int, int]:
    """When each process invoked its first operation."""
    ids = np.fromiter(map(attrgetter("id"), run.operations), np.int64, len(run.operations))
    seen, places = np.unique(ids >> PROCESS_SHIFT, return_index=True)
    zero = zero_ns(run)
    return {
        process: _us(run.operations[place].invoked - zero)
        for process, place in zip(seen.tolist(), places.tolist(), strict=True)
    }


def lane_names(found: Sequence[Life]) -> list[str]:
    """A name for every lane: its role, and a letter where several play it."""
    roles: dict[int, str] = {}
    for life in found:
        roles.setdefault(life.lane, f"process {life.process}" if life.role == "process" else _role(life.role))
    names = []
    for lane in sorted(roles):
        alike = [other for other in sorted(roles) if roles[other] == roles[lane]]
        names.append(f"{roles[lane]} {_letters(alike.index(lane))}" if len(alike) > 1 else roles[lane])
    return names


def columns(run: Run, found: Sequence[Life]) -> Columns:
    """The operations of the run and the openings of its processes, in columns."""
    zero, ops = zero_ns(run), run.operations
    size = len(ops)
    ids = np.fromiter(map(attrgetter("id"), ops), np.int64, size)
    start = np.fromiter(map(attrgetter("invoked"), ops), np.int64, size)
    process = ids >> PROCESS_SHIFT
    died = np.zeros(max((life.process for life in found), default=0) + 1, np.int64)
    died[[life.process for life in found]] = [life.died for life in found]
    end = np.fromiter((op.completed or 0 for op in ops), np.int64, size)
    start_us = (start - zero) // 1000
    end_us = np.where(end == 0, np.maximum(died[process], start_us), (end - zero) // 1000)
    codes = {
        (kind, outcome): KINDS.index(kind) * 3 + i for kind in KINDS for i, outcome in enumerate(OUTCOMES)
    }
    code = np.fromiter((codes[op.f, op.outcome] for op in ops), np.int64, size)
    numbers = {name: number for number, name in enumerate(workloads(run))}
    workload = np.fromiter((numbers[op.workload] for op in ops), np.int64, size)
    openings = _openings(found, _first_us(run))
    together = [
        np.concatenate(pair)
        for pair in zip(
            openings,
            (
                start_us,
                end_us - start_us,
                process,
                ids & ((1 << PROCESS_SHIFT) - 1),
                code,
                workload,
                np.arange(size),
            ),
            strict=True,
        )
    ]
    order = np.argsort(together[0], kind="stable")
    return Columns(*(column[order] for column in together))


def workloads(run: Run) -> list[str]:
    """The names of the workloads that operations belong to."""
    return sorted({op.workload for op in run.operations})


def timeline_of(run: Run, violating: Iterable[int], *, found: Sequence[Life], table: Columns) -> Timeline:
    """The timeline of a run. ``violating``: the ids of the operations that a violation is about; ``found`` and
    ``table`` are ``lives`` and ``columns`` of it. A million operations take about 0.6 s.
    """
    at_fault = set(violating)
    head: dict[str, Any] = {
        "count": len(table.start),
        "first": int(table.start[0]) if len(table.start) else 0,
        "until": max(_us(_last_ns(run) - zero_ns(run)), 1),
        "lanes": lane_names(found),
        "kinds": KINDS,
        "states": STATES,
        "outcomes": OUTCOMES,
        "workloads": workloads(run),
        "columns": ["start", "duration", "process", "gap", "code", "workload"],
        "violating": [_name(identity) for identity in sorted(at_fault)],
    }
    spans = held(run, {life.process for life in found})
    head["held"] = {"count": len(spans), "first": int(spans[0, 0]) if len(spans) else 0, "kinds": SPANS}
    packed = b"".join(_planes(column) for column in _deltas(table))
    told = msgspec.json.encode(
        {
            "lives": found,
            "operations": _told(run, table, at_fault),
            **_happened(run, {life.process: life.lane for life in found}),
        }
    )
    beside = b"".join(_planes(column) for column in _span_deltas(spans))
    return Timeline(ABOUT, head, _deflated(packed), _deflated(beside), _deflated(told))


def held(run: Run, known: Collection[int]) -> NDArray[np.int64]:
    """When ``known`` processes held the lock that commits wait for, and when they repaired, by the beginning: rows of
    begin and duration (microseconds), the process, and the place in ``SPANS``. Whoever died with the lock held it until
    then.
    """
    rows = np.frombuffer(run.spans, np.int64).reshape(-1, 4)
    died = [
        (event.process, SPANS.index("lock"), event.locked, event.time)
        for event in run.events
        if isinstance(event, Died) and event.locked
    ]
    process, what, begin, end = np.concatenate([rows, np.array(died, np.int64).reshape(-1, 4)]).T
    zero = zero_ns(run)
    start = (begin - zero) // 1000
    spans = np.stack([start, np.maximum((end - zero) // 1000 - start, 0), process, what], axis=1)
    spans = spans[np.isin(process, list(known))]
    return spans[np.argsort(spans[:, 0], kind="stable")]


def _span_deltas(spans: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The spans as they are packed."""
    return [
        np.diff(spans[:, 0], prepend=spans[:1, 0]).astype("<u4"),
        np.minimum(spans[:, 1], 0xFFFF_FFFF).astype("<u4"),
        spans[:, 2].astype("<u4"),
        spans[:, 3].astype("u1"),
    ]


def _openings(found: Sequence[Life], first: dict[int, int]) -> tuple[NDArray[np.int64], ...]:
    """The columns of the openings: one for each process that was born, until its ``first`` operation."""
    born = [life for life in found if life.role != "process"]
    begins = np.array([life.born for life in born], np.int64)
    ends = np.array([first.get(life.process, life.died) for life in born], np.int64)
    zeros = np.zeros(len(born), np.int64)
    return (
        begins,
        ends - begins,
        np.array([life.process for life in born], np.int64),
        zeros,
        np.array([_state(life, busy=life.process in first) for life in born], np.int64),
        zeros,
        zeros - 1,
    )


def _state(life: Life, *, busy: bool) -> int:
    """The code of what a process did that was no operation. ``busy``: it had operations too."""
    dead = not busy and life.end.startswith("killed")
    if life.role == HOUSEKEEPER:
        return KINDS.index("chores") * 3
    return KINDS.index("opening") * 3 + (OUTCOMES.index("info") if dead else 0)


def _deltas(table: Columns) -> list[NDArray[Any]]:
    """The columns as they are packed: what can be said by the row before is left out."""
    order = np.argsort(table.process, kind="stable")
    gaps = np.zeros(len(table.number), np.int64)
    same = np.diff(table.process[order], prepend=-1) == 0
    gaps[order] = np.diff(table.number[order], prepend=0)
    gaps[order[~same]] = table.number[order[~same]]
    return [
        np.diff(table.start, prepend=table.start[:1]).astype("<u4"),
        np.minimum(table.duration, 0xFFFF_FFFF).astype("<u4"),
        table.process.astype("<u4"),
        (gaps - (table.place >= 0)).astype("<u4"),  # the index is mostly one more than the last
        table.code.astype("u1"),
        table.workload.astype("u1"),
    ]


def _planes(column: NDArray[Any]) -> bytes:
    """First the low bytes of all rows, then the next: alike stands by alike, and compresses."""
    return column.view(np.uint8).reshape(len(column), column.itemsize).T.tobytes()


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, _LEVEL)).decode()


def _told(run: Run, table: Columns, at_fault: set[int]) -> dict[str, dict[str, Any]]:
    """What the operations that matter did, by name: those at fault, whose versions they read, and those nearby."""
    ops = run.operations
    by_time = [number for number, op in enumerate(ops) if op.id in at_fault]
    writers = {read.writer for number in by_time for read in ops[number].reads if read.writer is not None}
    near: dict[int, None] = dict.fromkeys(by_time)
    near.update((number, None) for number, op in enumerate(ops) if op.id in writers)
    for number in by_time:
        near.update(dict.fromkeys(range(max(0, number - _AROUND), min(len(ops), number + _AROUND + 1))))
    unknown = table.place[(table.code % 3 == OUTCOMES.index("info")) & (table.place >= 0)]
    for number in unknown.tolist():
        if len(near) >= _TOLD_MAX:
            break
        near.update(
            dict.fromkeys(range(max(0, number - _AROUND_DEAD), min(len(ops), number + _AROUND_DEAD + 1)))
        )
    return {_name(ops[number].id): _tell(ops[number]) for number in list(near)[:_TOLD_MAX]}


def _tell(op: Operation) -> dict[str, Any]:
    """One operation in full, but for what is too long to be read."""
    told: dict[str, Any] = {
        "sequence": op.sequence,
        "writes": [[item, _short(op.values.get(item))] for item in op.writes[:_READS_MAX]],
        "deletes": op.deletes[:_READS_MAX],
        "reads": [_seen(read) for read in op.reads[:_READS_MAX]],
        "more": max(0, len(op.reads) - _READS_MAX) + max(0, len(op.writes) - _READS_MAX),
        "resolves": _name(op.resolves) if op.resolves else "",
    }
    return {name: value for name, value in told.items() if value or name == "sequence"}


def _seen(read: Read) -> list[Any]:
    return [read.item, "" if read.writer is None else _name(read.writer), read.sequence, _short(read.value)]


def _short(value: Any) -> str:
    text = "" if value is None else msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= _VALUE_MAX else f"{text[: _VALUE_MAX - 1]}…"


def _happened(run: Run, lane_of: dict[int, int]) -> dict[str, Any]:
    """Kills, pauses and the rest, each as a short list: its lane, when, who, where."""
    zero, events = zero_ns(run), run.events
    return {
        "kills": [
            [
                lane_of[e.process],
                _us(e.time - zero),
                e.process,
                e.point,
                e.at_point,
                e.fault,
                e.at_point and may_hold_lock(e.point),
            ]
            for e in events
            if isinstance(e, Died) and traffic.is_kill(e) and e.process in lane_of
        ],
        "pauses": [
            [lane_of[e.process], _us(e.time - zero), _us(e.until - zero), e.process, e.point, e.holder]
            for e in events
            if isinstance(e, Paused) and e.process in lane_of
        ],
        "lost": [[_us(begin - zero), _us(end - zero)] for begin, end in rebuild.intervals(events)],
        "standstills": [
            [_us(e.time - zero), _us(e.until - zero)] for e in events if isinstance(e, Standstill)
        ],
        "reported": [[v.process, _us(v.time - zero), v.property_name, v.message] for v in run.violations],
    }


def _role(role: str) -> str:
    """Setup and final are alone in their time: they share a lane."""
    return "setup, final" if role in ("setup", "final") else role


def _end(death: Died | None) -> str:
    if death is None:
        return "still there in the end"
    where = f" {'at' if death.at_point else 'after'} {death.point}" if death.point else ""
    if traffic.is_kill(death):
        return f"killed{where} ({death.fault})"
    return f"died of signal {death.signal}{where}" if death.signal else f"left with status {death.status}"


def _last_ns(run: Run) -> int:
    times = [event.time for event in run.events[-3:]] + [
        op.completed or op.invoked for op in run.operations[-200:]
    ]
    return max(times, default=0)


def _us(nanoseconds: int) -> int:
    return nanoseconds // 1000


def _name(identity: int) -> str:
    return f"{identity >> PROCESS_SHIFT}.{identity & ((1 << PROCESS_SHIFT) - 1)}"


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
