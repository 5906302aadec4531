"""Real processes on a stage: what a kill leaves, what a crash is called, and that nothing stays behind."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.explore_job import aims
from harness.history import Invoke, Violation
from harness.oracle import Judge
from harness.scenario import Program, Scenario, Transaction
from harness.scenarios import SCENARIOS
from harness.schedule.base import Choice, View
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.stepped import heir, real
from harness.stepped.base import Actor, State
from harness.stepped.execution import conduct
from harness.stepped.place import Place
from harness.stepped.program import BEGIN
from harness.stepped.real import Real
from harness.stepped.simulated import Simulated
from kvs import syncpoints
from kvs.writer import Writer

PUT = Transaction("put", writes=(0,))
TWO = SCENARIOS["two-writers"]


def alone(io: str) -> Scenario:
    return Scenario("alone", (Program("writer", (PUT,), io),), (1,))  # type: ignore[arg-type]


@pytest.fixture
def two() -> Iterator[Real]:
    with Real(TWO) as stage:
        yield stage


def come_to(stage: Real, actor: Actor, point: str) -> None:
    while actor.point != point:
        assert actor.state is State.PARKED, f"{actor.state} at {actor.point} and never at {point}"
        stage.step(actor)


def choices(*pairs: tuple[int, int]) -> Replaying:
    """Process and how many steps it goes, one pair after another."""
    strategy = Replaying([Choice(number) for number, count in pairs for _ in range(count)], ())
    strategy.begin(TWO, 0)
    return strategy


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pids(stage: Real) -> dict[int, int]:
    return {number: process.pid for number, process in stage._processes.items()}


# -- kills -------------------------------------------------------------------------------------------------


def test_a_killed_process_died_of_signal_9_where_it_stood_and_holds_nothing(two: Real) -> None:
    victim, other = two.begin()
    come_to(two, victim, "commit.after_lock")
    come_to(two, other, "commit.before_lock")
    two.step(other)
    assert (other.state, other.waits) == (State.WAITING, "COMMIT")
    assert set(two.holding(victim)) == {"COMMIT", "WRITER[0]"}
    assert not two.place.is_free("COMMIT")
    pid = pids(two)[1]
    two.kill(victim, 0)
    assert (victim.state, victim.signal, victim.point) == (State.DEAD, signal.SIGKILL, "commit.after_lock")
    assert gone(pid)
    assert two.place.is_free("COMMIT")
    assert two.place.is_free("WRITER[0]")
    assert two.holding(victim) == ()
    two.step(other)
    assert (other.state, other.point) == (State.PARKED, "commit.after_lock")


@pytest.mark.parametrize("io", ["mmap", "append"])
@pytest.mark.parametrize("point", ["prepare.before_append", "record.before_append"])
def test_a_torn_append_leaves_exactly_its_first_bytes_in_the_file(io: str, point: str) -> None:
    with Real(alone(io)) as stage:
        path = next(stage.place.store.glob("*.small"))
        (writer,) = stage.begin()
        come_to(stage, writer, point)
        before, parts = path.read_bytes(), writer.parts
        stage.step(writer)
        whole = path.read_bytes()
        start = next(i for i, (old, new) in enumerate(zip(before, whole, strict=True)) if old != new)
        for torn in (1, 7, parts // 2, parts - 1):
            (writer,) = stage.begin()
            come_to(stage, writer, point)
            stage.kill(writer, torn)
            assert writer.signal == signal.SIGKILL
            assert path.read_bytes() == whole[: start + torn] + before[start + torn :]


def test_a_torn_write_of_words_leaves_exactly_its_first_words_in_the_index() -> None:
    wide = SCENARIOS["wide"]
    with Real(wide) as stage:
        writer = stage.begin()[0]
        come_to(stage, writer, "publish.before_busy")
        before, parts = stage.place.index[:], writer.parts
        assert parts > 2
        stage.kill(writer, 2)
        after = stage.place.index[:]
        changed = [at for at in range(0, len(after), 8) if before[at : at + 8] != after[at : at + 8]]
        assert len(changed) == 2


def test_what_a_process_did_before_its_death_is_in_its_history(two: Real) -> None:
    victim, _ = two.begin()
    two.clock = 5
    come_to(two, victim, "commit.after_lock")
    two.kill(victim, 0)
    assert [(event.index, event.time) for event in victim.events] == [(1, 5)]


def test_a_process_that_died_before_it_was_killed_is_no_kill(two: Real) -> None:
    victim, _ = two.begin()
    come_to(two, victim, "commit.after_lock")
    pid = pids(two)[1]
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    assert select.select([pidfd], [], [], 10)[0], "it does not die of SIGTERM"
    os.close(pidfd)
    with pytest.raises(HarnessError, match=r"killed at commit\.after_lock, but died of SIGTERM before"):
        two.kill(victim, 0)
    assert victim.signal == signal.SIGTERM


# -- heirs -------------------------------------------------------------------------------------------------


def locks_of(pid: int) -> int:
    """How many file locks ``pid`` holds, alone or with others, by proc_pid_fdinfo(5)."""
    return sum(path.read_text().count("lock:") for path in Path(f"/proc/{pid}/fdinfo").iterdir())


@pytest.mark.parametrize("lock", ["COMMIT", "WRITER[0]"])
def test_an_heir_keeps_no_lock_of_its_parent_alive(
    two: Real, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    victim, _ = two.begin()
    come_to(two, victim, "commit.after_lock")
    pid, put_down, seen = pids(two)[1], two._put_down, []

    def watched(number: int, heir_pid: int = 0) -> int:
        seen.append((heir_pid, locks_of(pid) > 1, locks_of(heir_pid), two.place.is_free(lock)))
        return put_down(number, heir_pid)

    monkeypatch.setattr(two, "_put_down", watched)
    two.kill(victim, 0)
    assert two.place.is_free(lock)
    assert seen == [(pids(two)[1], True, 0, False)]
    assert pids(two)[1] != pid
    assert gone(pid)
    monkeypatch.undo()


def test_an_heir_is_a_child_of_the_nursery_and_plays_as_its_parent_did(two: Real) -> None:
    strategy = choices((1, 9), (2, 12))
    whole = conduct(two, strategy)
    victim, _ = two.begin()
    come_to(two, victim, "publish.after_busy")
    two.kill(victim, 0)
    two.end()
    assert two._nursery is not None
    for process in two._processes.values():
        assert process.generation == 1
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"PPid:\t{two._nursery._pid}\n" in status
    assert conduct(two, choices((1, 9), (2, 12))) == whole


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["speed", "claims"])
def test_three_hundred_kills_leave_no_lock_no_process_and_no_growth(name: str) -> None:
    scenario = SCENARIOS[name]
    strategy = RandomWalk(5, 160, aims(scenario))
    sizes = []
    with Real(scenario) as stage:
        put_down, kills = stage._put_down, 0

        def watched(number: int, heir_pid: int = 0) -> int:
            assert not heir_pid or locks_of(heir_pid) == 0
            return put_down(number, heir_pid)

        stage._put_down = watched  # type: ignore[method-assign]
        for number in range(300):
            strategy.begin(scenario, number)
            kills += len(conduct(stage, strategy).kills)
            if number in (99, 299):
                sizes.append([size(pid) for pid in pids(stage).values()])
        assert kills > 150
        assert stage._nursery is not None
        nursery = stage._nursery._pid
        children = Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split()
        assert sorted(map(int, children)) == sorted(pids(stage).values())
    for before, after in zip(*sizes, strict=True):
        assert after[0] - before[0] < 1024, "kB of its own memory"
        # In 200 schedules; a handle that nobody closes goes with the next collection of garbage.
        assert after[1] - before[1] < 100, "maps"
        assert after[2] - before[2] < 100, "descriptors"


def size(pid: int) -> tuple[int, int, int]:
    """Its own memory in kB, its maps and its descriptors."""
    process = Path(f"/proc/{pid}")
    anonymous = re.search(r"Anonymous: +(\d+) kB", (process / "smaps_rollup").read_text())
    assert anonymous is not None
    maps = (process / "maps").read_text().count("\n")
    return int(anonymous[1]), maps, len(list((process / "fd").iterdir()))


@pytest.mark.parametrize("generations", [0, 2])
def test_a_line_of_heirs_ends_and_the_nursery_begins_another(
    two: Real, monkeypatch: pytest.MonkeyPatch, generations: int
) -> None:
    monkeypatch.setattr(real, "GENERATIONS_MAX", generations)
    seen = []
    for _ in range(6):
        victim, _ = two.begin()
        seen.append(two._processes[1].generation)
        come_to(two, victim, "commit.after_lock")
        two.kill(victim, 0)
        assert two.place.is_free("COMMIT")
        two.end()
    assert seen == ([0, 1, 2] * 2 if generations else [0] * 6)


def test_a_process_that_cannot_fork_is_killed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heir, "fork", lambda: -1)
    with Real(TWO) as stage:
        for _ in range(2):
            victim, _ = stage.begin()
            come_to(stage, victim, "commit.after_lock")
            pid = pids(stage)[1]
            stage.kill(victim, 0)
            assert victim.signal == signal.SIGKILL
            assert gone(pid)
            assert list(pids(stage)) == [2]


def test_an_heir_that_dies_is_replaced(two: Real) -> None:
    victim, _ = two.begin()
    come_to(two, victim, "commit.after_lock")
    two.kill(victim, 0)
    two.end()
    os.kill(pids(two)[1], signal.SIGKILL)
    victim, _ = two.begin()
    assert two._processes[1].generation == 0
    come_to(two, victim, "commit.after_lock")


# -- ends that nobody meant --------------------------------------------------------------------------------


def played(
    monkeypatch: pytest.MonkeyPatch, commit: Callable[..., Any], **options: Any
) -> tuple[Any, list[Any]]:
    """One execution of two writers of which every commit is ``commit``, and its findings."""
    place = Place(TWO)
    monkeypatch.setattr(Writer, "commit", commit)
    with Real(TWO, place, **options) as stage:
        execution = conduct(stage, choices((1, 1), (2, 1)))
        findings, _ = Judge(place.setup).findings(execution)
        assert not stage._processes or all(process.idle for process in stage._processes.values())
        return stage.actors, findings


@pytest.mark.parametrize(
    ("end", "words", "number"),
    [
        (lambda *_: ctypes.string_at(0), "died of SIGSEGV by itself", signal.SIGSEGV),
        (lambda *_: os.kill(os.getpid(), signal.SIGBUS), "died of SIGBUS by itself", signal.SIGBUS),
        (lambda *_: os._exit(3), "exited with status 3 by itself", 0),
        (lambda *_: sys.exit("enough"), "exited with status 70 by itself.*enough", 0),
    ],
)
def test_a_process_that_ends_by_itself_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, end: Callable[..., Any], words: str, number: int
) -> None:
    actors, findings = played(monkeypatch, end)
    assert [(actor.state, actor.signal) for actor in actors] == [(State.CRASHED, number)] * 2
    for actor in actors:  # the operation in which it crashed is not lost, and is looked for afterwards
        assert [(type(event), event.index) for event in actor.events] == [(Invoke, 1), (Violation, 1)]
    errors = [finding for finding in findings if finding.property_name == "error"]
    assert len(errors) == len(findings) == 2
    for finding in errors:
        assert re.search(words, finding.message), finding.message
        assert f"after {BEGIN}" in finding.message


def test_a_process_that_hangs_is_killed_and_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    actors, findings = played(monkeypatch, lambda *_: signal.pause(), silence_s=0.2)
    assert [actor.state for actor in actors] == [State.CRASHED] * 2
    found = [finding for finding in findings if finding.property_name == "liveness"]
    assert len(found) == len(findings) == 2
    assert all(isinstance(actor.events[0], Invoke) for actor in actors)
    assert "did not come to its next point within 0.2 s" in found[0].message


def test_processes_that_wait_for_each_other_are_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: Writer, *_: object) -> None:
        while True:
            syncpoints.wait(f"WRITER[{1 - self.slot}]", 0)

    actors, findings = played(monkeypatch, commit)
    assert [(actor.state, actor.signal) for actor in actors] == [(State.DEAD, signal.SIGKILL)] * 2
    (deadlock,) = [finding for finding in findings if finding.property_name == "liveness"]
    assert "process 1 at operation.begin waits for WRITER[1], held by process 2" in deadlock.message
    assert "process 2 at operation.begin waits for WRITER[0], held by process 1" in deadlock.message


# -- the same again ----------------------------------------------------------------------------------------


def test_processes_that_played_before_behave_like_new_ones() -> None:
    scenario = SCENARIOS["default"]
    strategy = RandomWalk(11, 200, list(syncpoints.POINTS))
    with Place(scenario) as place:
        with Real(scenario, place) as stage:
            kept = []
            for number in range(12):
                before = pids(stage)
                strategy.begin(scenario, number)
                kept.append(conduct(stage, strategy))
                killed = {kill.process for kill in kept[-1].kills}
                for each in killed:
                    assert stage._processes[each].inherits
                for each, pid in before.items():
                    assert (pids(stage).get(each) == pid) == (each not in killed)
        for number, execution in enumerate(kept):
            with Place(scenario) as fresh_place, Real(scenario, fresh_place) as fresh:
                strategy.begin(scenario, number)
                again = conduct(fresh, strategy)
                assert again.steps == execution.steps
                assert again.kills == execution.kills
                assert again.histories == execution.histories
                assert again.aftermath == execution.aftermath


def test_a_process_with_nothing_to_do_ends_before_the_start() -> None:
    idle = Scenario("idle", (Program("writer"), Program("writer", (PUT,)), Program("writer", joins=1)), (1,))
    for stage_type in (Simulated, Real):
        with stage_type(idle) as stage:
            for _ in range(2):
                execution = conduct(stage, choices((2, 3)))
                assert {choice.process for choice in execution.steps} == {2}
                assert not execution.stuck
                assert not any(execution.histories[0])


# -- nothing stays -----------------------------------------------------------------------------------------


class Interrupted:
    """A random walk that Ctrl-C ends."""

    def __init__(self, at: int) -> None:
        self._walk = RandomWalk(3, 60, list(syncpoints.POINTS))
        self._at = at

    def begin(self, scenario: Scenario, number: int) -> bool:
        return self._walk.begin(scenario, number)

    def choose(self, view: View) -> Choice:
        if view.step == self._at:
            signal.raise_signal(signal.SIGINT)
        return self._walk.choose(view)

    def end(self, stopped: bool) -> None:
        pass


def test_after_close_there_is_no_process_directory_or_pinning() -> None:
    affinity = os.sched_getaffinity(0)
    stage = Real(TWO)
    conduct(stage, choices((1, 20), (2, 20)))
    known = [*pids(stage).values(), stage._nursery._pid]  # type: ignore[union-attr]
    assert len(os.sched_getaffinity(0)) == 1
    assert not stage.place.anything_held()
    stage.close()
    assert all(map(gone, known))
    assert not stage.place.directory.exists()
    assert os.sched_getaffinity(0) == affinity
    stage.close()


@pytest.mark.parametrize("at", [0, 7, 30])
def test_ctrl_c_in_the_middle_leaves_nothing(at: int) -> None:
    strategy = Interrupted(at)
    strategy.begin(TWO, 0)
    stage = Real(TWO)
    try:
        with pytest.raises(KeyboardInterrupt):
            conduct(stage, strategy)
        known = [*pids(stage).values(), stage._nursery._pid]  # type: ignore[union-attr]
    finally:
        stage.close()
    assert len(known) == 3
    assert all(map(gone, known))
    assert not stage.place.directory.exists()


def test_a_stage_whose_nursery_died_says_so_and_leaves_nothing() -> None:
    stage = Real(TWO)
    victim, _ = stage.begin()
    assert stage._nursery is not None
    known = [os.pidfd_open(pid) for pid in pids(stage).values()]
    os.kill(stage._nursery._pid, signal.SIGKILL)
    for descriptor in known:
        assert select.select([descriptor], [], [], 10)[0], "it outlived the nursery"
        os.close(descriptor)
    with pytest.raises(HarnessError, match=r"forks the others does not answer \(it said nothing\)"):
        stage.step(victim)
    stage.close()
    assert not stage.place.directory.exists()


def test_a_stage_goes_on_after_ctrl_c(two: Real) -> None:
    whole = conduct(two, choices((1, 9), (2, 12)))
    strategy = Interrupted(12)
    strategy.begin(TWO, 0)
    with pytest.raises(KeyboardInterrupt):
        conduct(two, strategy)
    assert conduct(two, choices((1, 9), (2, 12))) == whole


def test_ctrl_c_at_the_terminal_does_not_reach_the_processes(two: Real) -> None:
    first, _ = two.begin()
    for pid in [*pids(two).values(), two._nursery._pid]:  # type: ignore[union-attr]
        os.kill(pid, signal.SIGINT)
    come_to(two, first, "commit.after_lock")


@pytest.mark.parametrize("heirs", [0, 1, 2])
def test_processes_die_with_the_one_that_steps_them(heirs: int) -> None:
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        stage = Real(TWO)
        for _ in range(heirs):  # the last one has not inherited
            stage.kill(stage.begin()[0], 0)
        if not heirs:
            stage.begin()
        known = [*pids(stage).values(), stage._nursery._pid]  # type: ignore[union-attr]
        os.write(here, f"{stage.place.directory} {' '.join(map(str, known))}".encode())
        signal.pause()
    directory, *known_pids = os.read(there, 4096).decode().split()
    descriptors = [os.pidfd_open(int(each)) for each in known_pids]
    assert len(descriptors) == 3
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 10)[0], "it outlived its parent"
        os.close(descriptor)
    os.close(there)
    os.close(here)
    place = Path(directory)
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()
