"""Recording what kvs does to its files: nothing is missing, nothing is there twice, and nothing goes another way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from traces import check_words, contents, replayed

import kvs
from harness.explore_job import POINTS, aims
from harness.history import Ok
from harness.powerloss import recorded
from harness.powerloss.recorder import Recorder, starts
from harness.powerloss.trace import (
    PAGE,
    Allocate,
    Begun,
    Died,
    Length,
    Make,
    Punch,
    Rename,
    Stood,
    Sync,
    SyncNames,
    Told,
    Trace,
    Unlink,
    Write,
)
from harness.scenarios import GENERAL, named
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.schedule.replaying import Replaying
from harness.stepped.execution import conduct
from harness.stepped.simulated import Simulated
from kvs import files

SEEDS = (0, 1, 2)
CHANGES = (Make, Rename, Unlink, Write, Length, Allocate, Punch)


class Kept(recorded.Recording):
    """A recording that keeps the files as they are when everybody has gone."""

    def played(self, seed: int) -> tuple[Trace, Any]:
        over = self.place.over
        assert over is not None
        self.kept: dict[str, bytes] = {}

        def keep() -> None:
            over()
            self.kept = contents(self.place.store)

        self.place.over = keep
        try:
            return super().played(seed)
        finally:
            self.place.over = over


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The directory of a store with one smallfile, that nobody has open."""
    directory = tmp_path / "store"
    with kvs.open(directory, "n") as made:
        made[kvs.key_for(b"a")] = b"1"
    return directory


@pytest.fixture
def recorder(store: Path) -> Iterator[Recorder]:
    with Recorder(store, who=lambda: 7) as attached:
        yield attached


# -- the recorder ---------------------------------------------------------------------------------------------


def test_what_a_store_does_is_replayed_byte_for_byte(store: Path) -> None:
    begin = starts(store)
    with Recorder(store) as recorder:
        with kvs.open(store) as opened:
            for number in (*range(200), *range(100)):
                opened[kvs.key_for(bytes([number]))] = bytes([number]) * 700
            opened.compact()
        recorder.note_stores()
    trace = Trace("kvs", {}, begin, recorder.events)
    assert replayed(trace) == contents(store)


def test_what_is_written_by_a_call_is_not_noted_once_more(store: Path, recorder: Recorder) -> None:
    begin, path = starts(store), store / "new.small"
    fd = files.open_file(path, write=True, create=True)
    files.allocate(fd, 0, 2 * PAGE, path)
    view = files.map_file(fd, write=True)
    files.write_at(fd, 100, [b"by a call", b", in pieces"], path)
    view[200:205] = b"a map"
    files.punch(fd, 0, 150, path)
    recorder.note_stores()
    recorder.note_stores()
    files.close(fd)
    file = len(begin) + 1
    assert recorder.events == [
        Make(7, "new.small", file),
        Allocate(7, file, 0, 2 * PAGE),
        Write(7, file, 100, b"by a call, in pieces"),
        Write(7, file, 200, b"a map\0\0\0"),
        Punch(7, file, 0, 150),
    ]
    trace = Trace("kvs", {}, begin, recorder.events)
    assert replayed(trace) == contents(store)
    assert replayed(trace, without=Punch) != contents(store)


def test_only_the_words_that_changed_are_noted_page_by_page(store: Path, recorder: Recorder) -> None:
    fd = files.open_file(store / "index.0", write=True)
    view = files.map_file(fd, write=True)
    view[PAGE - 9 : PAGE + 9] = bytes(range(1, 19))
    view[2 * PAGE - 1] = 99
    recorder.note_stores()
    files.close(fd)
    assert [(event.offset, len(event.data)) for event in recorder.events if isinstance(event, Write)] == [
        (PAGE - 16, 16),
        (PAGE, PAGE),
    ]


def test_a_store_far_behind_the_end_of_a_smallfile_is_noted_at_the_next_sync(
    store: Path, recorder: Recorder
) -> None:
    path = store / "far.small"
    fd = files.open_file(path, write=True, create=True)
    files.lengthen(fd, 1 << 21)
    view = files.map_file(fd, write=True)
    view[1 << 20] = 1
    recorder.note()
    files.sync_data(fd, path)
    files.close(fd)
    kinds = [type(event) for event in recorder.events]
    assert kinds == [Make, Length, Write, Sync]
    sync = recorder.events[-1]
    assert isinstance(sync, Sync)
    assert sync.since == 3, "what was stored before the call is on the medium after it"


def test_a_long_store_at_the_end_of_a_smallfile_is_noted_at_once(store: Path, recorder: Recorder) -> None:
    path = store / "long.small"
    fd = files.open_file(path, write=True, create=True)
    files.lengthen(fd, 1 << 20)
    files.map_file(fd, write=True)[:600_000] = b"x" * 600_000
    recorder.note()
    files.close(fd)
    assert b"".join(event.data for event in recorder.events if isinstance(event, Write)) == b"x" * 600_000


def test_locks_and_other_directories_are_nobodys_business(store: Path, recorder: Recorder) -> None:
    other = store.parent / "other"
    with kvs.open(other, "n") as opened:
        opened[kvs.key_for(b"b")] = b"2"
    files.close(files.open_file(store / "store.lock", write=True, create=True))
    assert recorder.events == []


def test_a_new_name_is_noted_and_leads_to_the_same_file(store: Path, recorder: Recorder) -> None:
    path, final = store / "index.1.new", store / "index.1"
    fd = files.open_file(path, write=True, create=True)
    files.publish(path, final)
    files.sync_directory(store)
    files.write_at(fd, 0, [b"x"], path)
    files.unlink(final)
    files.unlink(final)
    files.close(fd)
    file = len(starts(store)) + 1
    assert recorder.events == [
        Make(7, "index.1.new", file),
        Rename(7, "index.1.new", "index.1"),
        SyncNames(7, 2),
        Write(7, file, 0, b"x"),
        Unlink(7, "index.1"),
    ]


@pytest.mark.parametrize("polite", [True, False], ids=["calls-what-it-found", "calls-the-store"])
def test_a_sync_is_noted_whoever_else_looks_at_it(
    store: Path, polite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = files.sync_data, []
    monkeypatch.setattr(files, "sync_data", original)  # puts it back
    with Recorder(store) as recorder:
        found = files.sync_data if polite else original

        def look(fd: int, path: Path) -> None:
            found(fd, path)
            seen.append(path.name)

        files.sync_data = look
        recorder.note()
        fd = files.open_file(store / "index.0", write=True)
        files.sync_data(fd, store / "index.0")
        files.close(fd)
    assert [type(event) for event in recorder.events] == [Sync]
    assert seen == ["index.0"]


def test_everything_is_put_back_afterwards(store: Path) -> None:
    before = dict(vars(files))
    with Recorder(store), kvs.open(store) as opened:
        opened[kvs.key_for(b"c")] = b"3"
    assert vars(files) == before


# -- schedules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERAL)
def test_a_recorded_schedule_is_replayed_byte_for_byte(name: str) -> None:
    with Kept(named(name)) as recording:
        for seed in SEEDS:
            trace = recording.play(seed)
            assert replayed(trace) == recording.kept, f"seed {seed}"


def test_no_kind_of_change_could_be_left_out() -> None:
    needed = set()
    for name in ("growth", "compaction", "rollover"):
        with Kept(named(name)) as recording:
            for seed in range(8):
                trace = recording.play(seed)
                needed |= {kind for kind in CHANGES if replayed(trace, without=kind) != recording.kept}
    assert needed == set(CHANGES) - {Punch}, "here what is given back is zeros already"


@pytest.mark.parametrize("name", ["default", "laggards", "compaction"])
def test_recording_changes_no_schedule(name: str) -> None:
    scenario = named(name)
    with recorded.Recording(scenario) as recording:
        found = [recording.played(seed)[1] for seed in range(4)]
    with Simulated(scenario) as stage:
        alone = Replaying((), POINTS)
        alone.begin(scenario, 0)
        steps, points = len(conduct(stage, alone).steps), aims(scenario)
        for seed, execution in enumerate(found):
            strategy = (RandomWalk(0, steps, points), Pct(0, steps, points))[seed % 2]
            strategy.begin(scenario, seed)
            plain = conduct(stage, strategy)
            assert plain.steps == execution.steps
            assert [kill[:4] for kill in plain.kills] == [kill[:4] for kill in execution.kills]
            assert plain.histories == execution.histories


def test_nobody_acts_when_the_store_is_examined() -> None:
    with recorded.Recording(msgspec.structs.replace(named("default"), kills=0)) as recording:
        recording.play(0)
        assert recording._stage.who() == 0


@pytest.mark.parametrize("name", ["default", "laggards", "growth"])
def test_a_trace_tells_what_was_written_and_who_was_told(name: str) -> None:
    with recorded.Recording(named(name)) as recording:
        for seed in range(4):
            trace, execution = recording.played(seed)
            check_words(trace)
            answers = {
                (event.process, "commit" if event.process != 3 else "read", event.sequence)
                for events in execution.histories
                for event in events
                if isinstance(event, Ok) and event.sequence
            }
            told = {
                (event.process, event.how, event.sequence)
                for event in trace.events
                if isinstance(event, Told)
            }
            assert answers <= told
            kills = [kill.process for kill in execution.kills]
            assert [event.process for event in trace.events if isinstance(event, Died)] == kills
            steps = [(choice.process, choice.point) for choice in execution.steps if not choice.kill]
            stood = [(event.process, event.point) for event in trace.events if isinstance(event, Stood)]
            assert set(steps) <= set(stood)


def test_the_last_writer_to_close_says_so() -> None:
    with recorded.Recording(named("default")) as recording:
        for seed in range(40):
            trace = recording.play(seed)
            closed = [event for event in trace.events if isinstance(event, Told) and event.how == "close"]
            if closed:
                newest = max(event.sequence for event in trace.events if isinstance(event, Begun))
                assert closed[0].sequence == newest
                assert Stood(closed[0].process, "close.after_clean") in trace.events
                return
    pytest.fail("nobody ever closed it as the last one")


def test_a_trace_is_the_same_each_time_but_for_who_the_processes_are() -> None:
    with recorded.Recording(named("rollover")) as recording:
        first, second = recording.play(3), recording.play(3)
    assert [type(event) for event in first.events] == [type(event) for event in second.events]
    assert first.options == {
        "durable": False,
        "smallfile_bytes": 704,
        "capacity": 0,
        "scenario": "rollover",
        "seed": 3,
    }


def test_a_saved_trace_is_read_back(tmp_path: Path) -> None:
    trace = recorded.record(named("syncing"), 1)
    trace.save(tmp_path / "trace")
    assert Trace.load(tmp_path / "trace") == trace
