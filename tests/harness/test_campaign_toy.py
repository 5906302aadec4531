"""Whole campaigns on a toy store with sync points: real processes, real SIGKILL, bugs that must be caught."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from campaigns import Outcome, drive, histories, is_alive, run_events, worker_pids
from toy_engine import POINTS

from harness import judge
from harness.checkers import rebuild, traffic
from harness.faults import may_hold_lock
from harness.history import (
    Died,
    Fail,
    Hits,
    Info,
    Invoke,
    Left,
    Mark,
    Ok,
    Paused,
    RunEvent,
    Spawned,
    operation_id,
)
from harness.verdict import Outcome as VerdictOutcome


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One campaign of a few seconds on the toy as it should be."""
    return drive(tmp_path_factory.mktemp("clean"), seconds=4.0)


@pytest.fixture
def events(clean: Outcome) -> list[RunEvent]:
    """What its supervisor saw."""
    return run_events(Path(clean.run_dir))


def deaths(events: list[RunEvent]) -> list[Died]:
    return [event for event in events if isinstance(event, Died)]


def test_a_correct_store_is_never_a_violation(clean: Outcome) -> None:
    assert clean.crashed == []
    # On a busy machine four seconds may be too few for three kills at every point: that is UNKNOWN.
    assert {name for name, _ in clean.findings} <= {"traffic"}, clean.findings
    assert clean.outcome in ("OK", "UNKNOWN")


def test_every_victim_died_of_signal_9_and_everybody_else_left_by_itself(events: list[RunEvent]) -> None:
    died = deaths(events)
    assert len([event for event in died if event.fault]) >= 20
    assert all(event.signal == 9 for event in died if event.fault)
    assert all((event.signal, event.status) == (0, 0) for event in died if not event.fault)
    assert {event.fault for event in died} == {"", "kill-time", "kill-point", "kill-all"}


def test_everybody_is_killed_at_once_and_only_then_replaced(events: list[RunEvent]) -> None:
    alive: dict[int, str] = {}
    at_once = 0
    for event in events:
        if isinstance(event, Spawned):
            alive[event.process] = event.role
        elif isinstance(event, Died):
            del alive[event.process]
            if event.fault == "kill-all":
                at_once += 1
            elif at_once:
                at_once += event.signal == 9  # who was dying of something else just then
        if isinstance(event, Spawned) and at_once:
            assert len(alive) == 1, "somebody was born before the last one was dead"
            assert at_once >= 5
            at_once = 0


def test_every_killed_write_was_looked_for(clean: Outcome, events: list[RunEvent]) -> None:
    found = histories(Path(clean.run_dir))
    everything = [event for history in found.values() for event in history]
    looked_for = {event.resolves for event in everything if isinstance(event, Invoke)}
    killed = {event.process for event in deaths(events) if event.signal}
    open_writes = [
        operation_id(process, history[-1].index)
        for process, history in found.items()
        if process in killed and history and isinstance(history[-1], Invoke) and history[-1].f == "write"
    ]
    assert len(open_writes) > 10
    assert set(open_writes) <= looked_for


def test_every_commit_says_when_it_held_the_lock_and_every_victim_since_when(
    clean: Outcome, events: list[RunEvent]
) -> None:
    repairs = 0
    roles = {event.process: event.role for event in events if isinstance(event, Spawned)}
    for process, history in histories(Path(clean.run_dir)).items():
        since = 0
        for invoke, completion in pairwise(history):
            if isinstance(invoke, Invoke) and isinstance(completion, Ok) and roles[process] == "writer":
                spans = completion.spans
                assert all(since <= span.begin <= span.end <= completion.time for span in spans)
                assert invoke.f != "write" or "lock" in {span.what for span in spans}
                repairs += sum(span.what == "repair" for span in spans)
                since = completion.time
    assert repairs > 0
    holding = [event for event in deaths(events) if event.at_point and may_hold_lock(event.point)]
    assert holding
    assert all(0 < event.locked <= event.time for event in holding)
    assert not any(event.locked for event in deaths(events) if not event.signal)


def test_a_kill_at_a_point_happens_at_exactly_the_point_and_hit_that_was_meant(
    clean: Outcome, events: list[RunEvent]
) -> None:
    spawned = {event.process: event for event in events if isinstance(event, Spawned)}
    at_points = [event for event in deaths(events) if event.at_point]
    assert at_points
    for event in at_points:
        meant = spawned[event.process]
        assert meant.fault == "kill-point"
        assert event.point in meant.point.split()
        assert event.point in POINTS
        assert meant.hit >= 1
    assert any(event.point.startswith("repair.") for event in at_points)
    hits = next(event.hits for event in events if isinstance(event, Hits))
    first = [event for event in at_points if spawned[event.process].point.startswith(event.point)]
    assert first
    assert all(hits[event.point] >= spawned[event.process].hit for event in first)


def test_the_operation_that_was_killed_is_open_and_every_other_is_closed(
    clean: Outcome, events: list[RunEvent]
) -> None:
    killed = {event.process for event in deaths(events) if event.signal}
    for process, history in histories(Path(clean.run_dir)).items():
        invoked = [event.index for event in history if isinstance(event, Invoke)]
        completed = [event.index for event in history if isinstance(event, Ok | Fail | Info)]
        assert invoked == list(range(1, len(invoked) + 1))
        assert completed == invoked[: len(completed)]
        assert len(invoked) - len(completed) <= (1 if process in killed else 0)


def test_the_dead_are_replaced_at_once_and_nobody_remains(clean: Outcome, events: list[RunEvent]) -> None:
    spawned = [event for event in events if isinstance(event, Spawned)]
    assert [event.process for event in spawned] == list(range(1, len(spawned) + 1))
    assert sorted(event.process for event in deaths(events)) == [event.process for event in spawned]
    marks = {event.what: event.time for event in events if isinstance(event, Mark)}
    assert list(marks) == ["start", "stop", "end"]
    killed = [event for event in deaths(events) if event.signal and event.time < marks["stop"]]
    campaign = [event for event in spawned if event.role in ("writer", "reader", "auditor")]
    assert len(campaign) == 7 + len(killed)
    assert not any(is_alive(pid) for pid in worker_pids(Path(clean.run_dir)))


def test_who_was_stopped_was_continued_and_said_whether_it_held_the_lock(events: list[RunEvent]) -> None:
    paused = [event for event in events if isinstance(event, Paused)]
    assert paused
    for event in paused:
        assert 0 < event.until - event.time < 5e9
        if event.point:
            assert event.holder == may_hold_lock(event.point)


def test_a_run_too_short_to_kill_at_every_point_is_unknown_and_says_which(tmp_path: Path) -> None:
    outcome = drive(tmp_path, seconds=0.2, writers=1, readers=0, auditors=0)
    assert outcome.outcome == "UNKNOWN"
    assert any("sync points were killed at" in message for _, message in outcome.findings)


@pytest.mark.parametrize(
    ("bug", "properties"),
    [
        ("no-lock", {"isolation"}),
        ("two-halves", {"bank", "atomicity"}),
        ("lose-writes", {"isolation", "durability"}),
        ("damage", {"structure"}),
    ],
)
def test_a_planted_bug_of_the_data_is_a_violation(tmp_path: Path, bug: str, properties: set[str]) -> None:
    outcome = drive(tmp_path, bug=bug)
    assert outcome.outcome == "VIOLATION"
    assert properties & {name for name, _ in outcome.findings}


def test_a_key_that_nobody_wrote_is_found_at_the_end(tmp_path: Path) -> None:
    outcome = drive(tmp_path, bug="stranger", seconds=1.0)
    assert outcome.outcome == "VIOLATION"
    assert any(name == "structure" and "no workload" in message for name, message in outcome.findings)


def test_a_violation_ends_the_run_early_unless_the_plan_says_otherwise(tmp_path: Path) -> None:
    outcome = drive(tmp_path, bug="damage", seconds=50.0)
    marks = {event.what: event.time for event in run_events(Path(outcome.run_dir)) if isinstance(event, Mark)}
    assert (marks["stop"] - marks["start"]) / 1e9 < 25


def test_an_exception_that_nobody_expected_ends_the_run_and_leaves_its_traceback(tmp_path: Path) -> None:
    outcome = drive(tmp_path, bug="crash", seconds=50.0)
    assert outcome.outcome != "OK"
    assert any("exited with status 70" in crash for crash in outcome.crashed)
    errors = "".join(path.read_text() for path in (Path(outcome.run_dir) / "stderr").iterdir())
    assert "RuntimeError: the toy crashed on purpose" in errors
    infos = [
        event
        for history in histories(Path(outcome.run_dir)).values()
        for event in history
        if isinstance(event, Info)
    ]
    assert any("the toy crashed on purpose" in event.error for event in infos)


def test_a_worker_that_leaves_by_itself_is_no_success(tmp_path: Path) -> None:
    outcome = drive(tmp_path, bug="exit", seconds=50.0)
    assert outcome.outcome != "OK"
    assert any("exited with status 0" in crash for crash in outcome.crashed)


def test_a_worker_that_does_not_stop_is_reported_with_its_stack_and_killed(tmp_path: Path) -> None:
    outcome = drive(tmp_path, bug="hang", seconds=0.5, writers=2, readers=0, auditors=0)
    assert outcome.outcome == "VIOLATION"
    left = [event for event in run_events(Path(outcome.run_dir)) if isinstance(event, Left)]
    assert {event.kind for event in left} == {"process"}
    errors = "".join(path.read_text() for path in (Path(outcome.run_dir) / "stderr").iterdir())
    assert "in misbehave" in errors
    assert not any(is_alive(pid) for pid in worker_pids(Path(outcome.run_dir)))


def test_a_store_with_chores_has_housekeepers_and_loses_its_index_when_all_are_dead(tmp_path: Path) -> None:
    outcome = drive(tmp_path, engine="toy_engine:KeepingEngine", seconds=6.0)
    assert outcome.crashed == []
    assert {name for name, _ in outcome.findings} <= {"traffic"}, outcome.findings
    run = judge.load(Path(outcome.run_dir))
    roles = {event.process: event.role for event in run.events if isinstance(event, Spawned)}
    assert list(roles.values()).count("housekeeper") >= 2
    assert all(count > 0 for count in traffic.happened(run.events, judge.milestones(run)).values())
    marks = [event.what for event in run.events if isinstance(event, Mark)]
    assert marks.count(rebuild.LOST) >= marks.count(rebuild.FOUND) >= 1
    assert marks[-2:] == [rebuild.REBUILT, "end"]
    assert [sample.final for sample in run.samples[-2:]] == [False, True]
    assert all(sample.needed_bytes > 0 for sample in run.samples[-2:])
    named = {verdict.property_name: verdict for verdict in judge.judge(run).verdicts}
    assert named["rebuild"].checked["losses"] >= 1
    assert named["space"].outcome is VerdictOutcome.OK


def test_an_index_that_is_made_again_wrong_is_a_violation(tmp_path: Path) -> None:
    plan = {"engine": "toy_engine:ForgetfulEngine", "workloads": ("register",), "seconds": 1.0}
    outcome = drive(tmp_path, faults=("kill-time",), **plan)
    assert outcome.outcome == "VIOLATION"
    assert any(name == "rebuild" and " and is absent" in message for name, message in outcome.findings)


def test_a_store_without_chores_has_no_housekeepers(clean: Outcome, events: list[RunEvent]) -> None:
    assert not any(event.role == "housekeeper" for event in events if isinstance(event, Spawned))
    run = judge.load(Path(clean.run_dir))
    assert {"space", "rebuild"}.isdisjoint(verdict.property_name for verdict in judge.judge(run).verdicts)
    assert run.samples
    assert not any(sample.final or sample.needed_bytes for sample in run.samples)
