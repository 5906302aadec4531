"""Recording real processes: nothing is missing whoever is killed wherever, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from traces import check_words, contents, replayed

import kvs
from harness.errors import HarnessError
from harness.powerloss import processes
from harness.powerloss.processes import SharedJournal, record_processes
from harness.powerloss.recorder import Recorder, starts
from harness.powerloss.trace import PAGE, Died, Length, Make, Stood, Write
from harness.scenarios import named
from harness.stepped import place as place_module
from harness.stepped.place import Place
from kvs import files

SEEDS = (0, 1, 2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The directory of a store with one smallfile, that nobody has open."""
    directory = tmp_path / "store"
    with kvs.open(directory, "n") as made:
        made[kvs.key_for(b"a")] = b"1"
    return directory


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the store of a run of real processes, as they were in the end."""
    found: dict[str, bytes] = {}

    class Keeping(Place):
        def close(self) -> None:
            if self.store.exists():
                found.clear()
                found.update(contents(self.store))
            super().close()

    monkeypatch.setattr(processes, "Place", Keeping)
    return found


@pytest.mark.parametrize("name", ["default", "growth", "rollover", "compaction", "laggards", "power-cut"])
def test_recorded_processes_are_replayed_byte_for_byte(name: str, left: dict[str, bytes]) -> None:
    for seed in SEEDS:
        trace = record_processes(named(name), seed)
        assert replayed(trace) == left, f"seed {seed}"
        check_words(trace)


def test_victims_die_of_a_real_kill_and_others_join() -> None:
    traces = [record_processes(named("claims"), seed) for seed in range(6)]
    died = {event.process for trace in traces for event in trace.events if isinstance(event, Died)}
    assert len(died) > 1
    joined = {
        event.process
        for trace in traces
        if any(isinstance(event, Died) for event in trace.events)
        for event in trace.events
        if isinstance(event, Stood) and event.point == "operation.open"
    }
    assert joined >= {2}, "who joins after a death was never there"


def test_who_is_killed_in_the_middle_of_anything_leaves_nothing_that_is_not_noted(
    left: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STRUCK_SHARE", 1.0)
    monkeypatch.setattr(processes, "_STRUCK_AFTER_MAX", 60)
    died = set()
    for seed in range(5):
        trace = record_processes(named("default"), seed)
        assert replayed(trace) == left, f"seed {seed}"
        check_words(trace)
        died |= {event.process for event in trace.events if isinstance(event, Died)}
    assert died


def test_what_the_dead_have_stored_is_noted_by_whoever_looks_next(store: Path) -> None:
    journal = SharedJournal(store.parent / "journal")
    recorder = Recorder(store, journal=journal)
    path, file = store / "new.small", len(starts(store)) + 1
    pid = os.fork()
    if pid == 0:
        journal.join()
        recorder.attach()
        fd = files.open_file(path, write=True, create=True)
        files.lengthen(fd, PAGE)
        files.map_file(fd, write=True)[8:16] = b"the last"
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    recorder.note_stores()
    assert journal.events() == [
        Make(0, "new.small", file),
        Length(0, file, PAGE),
        Write(0, file, 8, b"the last"),
    ]
    recorder.detach()
    journal.leave()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "died of SIGTERM by itself"),
        (lambda: 1 // 0, "ended"),
        (signal.pause, r"did not end within 0\.5 s"),
    ],
    ids=["crash", "error", "hang"],
)
def test_a_run_that_goes_wrong_leaves_nothing_behind(
    act: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LIMIT_S", 0.5)
    monkeypatch.setattr(place_module, "parent_by_default", tmp_path)
    monkeypatch.setattr(Place, "open_for", lambda self, program: act())
    children: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(pid := fork()) or pid)
    if words == "ended":  # the store's answer, and the process goes on to its end
        assert record_processes(named("claims"), 0).events == []
    else:
        with pytest.raises(HarnessError, match=words):
            record_processes(named("claims"), 0)
    assert children
    assert list(tmp_path.iterdir()) == []
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_journal_is_free_when_whoever_held_it_is_killed_and_has_no_half_of_what_it_wrote(
    tmp_path: Path,
) -> None:
    journal = SharedJournal(tmp_path / "journal")
    pid = os.fork()
    if pid == 0:
        journal.join()
        with journal:
            journal.append(Stood(1, "whole"))
            os.pwrite(journal._fd, b"half", journal._seen)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with journal:
        assert journal.others() == [Stood(1, "whole")]
        journal.append(Stood(2, "next"))
    assert journal.events() == [Stood(1, "whole"), Stood(2, "next")]
    assert journal.count == 2
    journal.leave()
