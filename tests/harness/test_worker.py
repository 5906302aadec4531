"""One worker's client: every act is in the history before it happens, and one seed makes one history."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
from dict_engine import DictSession

from harness import workloads
from harness.board import Board
from harness.engines.base import Engine, InDoubtError, Session
from harness.errors import ConflictError, EngineDamagedError
from harness.history import (
    Event,
    Fail,
    HistoryWriter,
    Info,
    Invoke,
    Ok,
    Read,
    Violation,
    operation_id,
    read_events,
    unfinished,
)
from harness.plan import Plan
from harness.worker import (
    STATUS_CRASHED,
    STATUS_OK,
    STATUS_VIOLATION,
    Assignment,
    Client,
    Leave,
    Scene,
    guarded,
    housekeep_forever,
    resolve,
    stream,
    write_forever,
)
from harness.workloads.base import Act, Anomaly, Done


class Desk:
    """A client on a session in memory, and what it wrote."""

    def __init__(self, directory: Path, process: int = 3) -> None:
        self.path = directory / f"{process}.jsonl"
        self.board = Board(1, [])
        self.history = HistoryWriter(self.path)
        self.client = Client(process, self.history, self.board, self.board.slots[0])
        self.session = DictSession()

    def events(self) -> list[Event]:
        return [event for _, event in read_events(self.path)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def raising(error: BaseException, f: str = "write") -> Act:
    def body(session: Session, identity: int) -> Done:
        raise error

    return Act(f, "bank", body, writes=("bank/1",) if f == "write" else ())  # type: ignore[arg-type]


def test_an_act_is_recorded_before_it_happens_and_after(desk: Desk) -> None:
    seen_before: list[Event] = []

    def body(session: Session, identity: int) -> Done:
        seen_before.extend(desk.events())
        return Done(5, (Read("bank/1", 9, 4, 100),), {"bank/1": 90})

    act = Act("write", "bank", body, writes=("bank/1",), values=lambda identity: {"bank/1": identity})
    assert desk.client.perform(desk.session, act)
    invoke, ok = desk.events()
    assert seen_before == [invoke]
    assert isinstance(invoke, Invoke)
    assert invoke.values == {"bank/1": operation_id(3, 1)}
    assert isinstance(ok, Ok)
    assert (ok.index, ok.sequence, ok.reads, ok.values) == (
        1,
        5,
        (Read("bank/1", 9, 4, 100),),
        {"bank/1": 90},
    )
    assert ok.time >= invoke.time
    assert (desk.board.slots[0].operations, desk.board.slots[0].commits) == (1, 1)


def test_a_conflict_is_a_fail_and_the_next_try_a_new_operation(desk: Desk) -> None:
    assert not desk.client.perform(desk.session, raising(ConflictError("changed")))
    assert not desk.client.perform(desk.session, raising(ConflictError("changed")))
    fails = [event for event in desk.events() if isinstance(event, Fail)]
    assert [(event.index, event.error) for event in fails] == [(1, "changed"), (2, "changed")]
    assert desk.board.slots[0].commits == 0


def test_an_operation_in_doubt_is_an_info_and_not_tried_again(desk: Desk) -> None:
    assert desk.client.perform(desk.session, raising(InDoubtError("committed, and not seen yet")))
    assert desk.client.perform(desk.session, raising(InDoubtError("again"), "read"))
    infos = [event for event in desk.events() if isinstance(event, Info)]
    assert [(event.index, event.error) for event in infos] == [
        (1, "committed, and not seen yet"),
        (2, "again"),
    ]
    assert (desk.board.slots[0].operations, desk.board.slots[0].commits) == (2, 0)


class Chores:
    """An engine that is asked to give space back: refused the second time, and told to stop after the fourth."""

    def __init__(self, board: Board) -> None:
        self.asked: list[float] = []
        self.board = board

    def housekeep(self, session: Session, dead_min: float) -> int:
        self.asked.append(dead_min)
        if len(self.asked) == 4:
            self.board.set_stop()
        if len(self.asked) == 2:
            raise ConflictError("somebody else is at it")
        return 1000 * len(self.asked)


def test_a_housekeeper_asks_until_the_end_and_says_what_is_needed(desk: Desk) -> None:
    chores = Chores(desk.board)
    scene = cast("Scene", SimpleNamespace(plan=Plan(1), board=desk.board, engine=chores))
    assert desk.board.needed_bytes == 0
    housekeep_forever(scene, Assignment(3, 0, "housekeeper", 0), desk.client, desk.session)
    assert len(chores.asked) == 4
    assert all(0 <= dead_min <= 0.9 for dead_min in chores.asked)
    assert desk.board.needed_bytes == 4000
    assert desk.events() == []


def test_an_unexpected_exception_is_an_info_and_goes_on(desk: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        desk.client.perform(desk.session, raising(ZeroDivisionError("oops")))
    info = desk.events()[-1]
    assert isinstance(info, Info)
    assert info.error == "ZeroDivisionError: oops"
    assert not desk.board.violation


def test_damage_is_a_violation_of_structure_and_the_worker_leaves(desk: Desk) -> None:
    with pytest.raises(Leave):
        desk.client.perform(desk.session, raising(EngineDamagedError("bad page")))
    _, info, violation = desk.events()
    assert isinstance(info, Info)
    assert isinstance(violation, Violation)
    assert (violation.property_name, violation.message, violation.index) == ("structure", "bad page", 1)
    assert desk.board.violation


def test_an_anomaly_of_a_whole_view_keeps_what_was_read(desk: Desk) -> None:
    error = Anomaly("bank", "4797 of 4800", (Read("bank/1", 9, 4, 97),))
    with pytest.raises(Leave):
        desk.client.perform(desk.session, raising(error, "read"))
    _, ok, violation = desk.events()
    assert isinstance(ok, Ok)
    assert ok.reads == error.reads
    assert isinstance(violation, Violation)
    assert violation.property_name == "bank"


def test_an_anomaly_inside_a_write_leaves_the_write_unknown(desk: Desk) -> None:
    with pytest.raises(Leave):
        desk.client.perform(desk.session, raising(Anomaly("atomicity", "mixed", (Read("bank/1", 9),))))
    assert isinstance(desk.events()[1], Info)


def writes_of_one_worker(
    directory: Path, assignment: Assignment, seed: int, refuse_every: int = 0
) -> list[Event]:
    """What a writer does until it has completed 60 operations, without its times and its conflicts."""
    directory.mkdir()
    desk = Desk(directory)
    count = itertools.count(1)
    if refuse_every:
        desk.session.refuse = lambda: next(count) % refuse_every == 0
    loaded = workloads.make(("bank", "register"), 1.0)
    for workload in loaded:
        for act in workload.setup():
            act.body(desk.session, 1)
    board = SimpleNamespace(stop=False)
    scene = cast(
        "Scene",
        SimpleNamespace(
            plan=Plan(seed),
            workloads=loaded,
            board=type("Stop", (), {"stop": property(lambda _: desk.board.slots[0].commits >= 60)})(),
            engine=cast("Engine", SimpleNamespace(open=lambda _: desk.session)),
            store=board,
        ),
    )
    write_forever(scene, assignment, desk.client, desk.session)
    failed = {event.index for event in desk.events() if isinstance(event, Fail)}
    return [event for event in desk.events() if isinstance(event, Invoke) and event.index not in failed]


def shape(events: list[Event]) -> list[tuple[object, ...]]:
    return [(e.f, e.workload, e.writes, e.deletes) for e in events if isinstance(e, Invoke)]


def test_one_seed_makes_one_history_and_another_incarnation_another(tmp_path: Path) -> None:
    first, second = Assignment(3, 0, "writer", 0), Assignment(9, 0, "writer", 1)
    one = shape(writes_of_one_worker(tmp_path / "1", first, 7))
    assert shape(writes_of_one_worker(tmp_path / "2", first, 7)) == one
    assert shape(writes_of_one_worker(tmp_path / "3", second, 7)) != one
    assert shape(writes_of_one_worker(tmp_path / "4", first, 8)) != one


def test_conflicts_and_pauses_do_not_change_what_is_drawn(tmp_path: Path) -> None:
    who = Assignment(3, 0, "writer", 0)
    undisturbed = shape(writes_of_one_worker(tmp_path / "1", who, 7))
    disturbed = shape(writes_of_one_worker(tmp_path / "2", who, 7, refuse_every=4))
    assert disturbed[:55] == undisturbed[:55]


def test_streams_of_different_purposes_are_different_and_repeatable() -> None:
    who = Assignment(3, 2, "writer", 5)
    assert stream(7, who, "workload").random() == stream(7, who, "workload").random()
    draws = {stream(7, who, purpose).random() for purpose in ("workload", "schedule", "faults")}
    draws.add(Random(7).random())
    assert len(draws) == 4
    # The number of a process follows from the order of deaths, which no seed decides: it must not matter.
    assert stream(7, who._replace(process=99), "workload").random() in draws


def test_the_write_that_a_process_died_in_is_its_last_open_one(desk: Desk) -> None:
    assert unfinished(desk.path.with_name("none.jsonl")) is None
    assert unfinished(desk.path) is None
    act = Act("write", "bank", lambda session, identity: Done(1), writes=("bank/1",))
    desk.client.perform(desk.session, act)
    assert unfinished(desk.path) is None
    invoke = Invoke(3, 2, 5, "write", "bank", ("bank/2",))
    desk.history.append(invoke)
    with desk.path.open("ab") as file:
        file.write(b'{"type":"ok","process":3,"ind')
    assert unfinished(desk.path) == invoke


def test_a_successor_looks_for_the_killed_writes_of_all_its_predecessors(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 9)
    (workload,) = workloads.make(("bank",), 1.0)
    for act in workload.setup():
        act.body(desk.session, operation_id(1, 1))
    for process, f, workload_name in ((3, "write", "bank"), (4, "read", "all"), (5, "write", "bank")):
        HistoryWriter(tmp_path / f"{process}.jsonl").append(
            Invoke(process, 7, 1, f, workload_name, ("bank/1", "bank/2") if f == "write" else ())  # type: ignore[arg-type]
        )
    settled: list[int] = []
    desk.session.settle = lambda: settled.append(1)  # type: ignore[method-assign]
    scene = SimpleNamespace(
        workloads=(workload,), board=desk.board, history_path=lambda process: tmp_path / f"{process}.jsonl"
    )
    who = Assignment(9, 0, "writer", 3, unresolved=(3, 4, 5, 6))
    resolve(cast("Scene", scene), who, desk.client, desk.session)
    invokes = [event for event in desk.events() if isinstance(event, Invoke)]
    assert [(event.f, event.resolves) for event in invokes] == [
        ("resolve", operation_id(3, 7)),
        ("resolve", operation_id(5, 7)),
    ]
    (found, _) = [event for event in desk.events() if isinstance(event, Ok)]
    assert [(read.item, read.writer, read.sequence) for read in found.reads] == [
        (item, writer, sequence)
        for item in ("bank/1", "bank/2")
        for writer, sequence in ((operation_id(1, 1), 1), (None, 0))
    ]
    assert len(settled) == 2
    assert desk.board.slots[0].resolved
    desk.board.slots[0].begin(10)
    assert not desk.board.slots[0].resolved


def test_a_whole_life_ends_in_a_status_and_never_in_an_exception(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert guarded(lambda: None) == STATUS_OK

    def leave() -> None:
        raise Leave

    assert guarded(leave) == STATUS_VIOLATION
    said: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda fd, data: said.append(data) or len(data))

    def crash() -> None:
        raise ZeroDivisionError("oops")

    assert guarded(crash) == STATUS_CRASHED
    assert b"ZeroDivisionError: oops" in said[0]
