"""The doctor finds nothing wrong with sound adapters, and names the fault of each broken one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import broken_engines
import pytest
from campaigns import HERE, harness, start
from campaigns import PATIENCE_S as PATIENCE_MAX_S
from sound_engine import SoundEngine

from harness.cli_doctor import doctor
from harness.doctor import basics, deaths, extras, together
from harness.doctor import examine as examining
from harness.doctor.examine import PROBES, examine
from harness.doctor.words import Examination, Report
from harness.errors import EngineMissingError, UsageError
from harness.verdict import Outcome

DATA = HERE / "data"
PATIENCE_S = 2.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Probes that watch a store for a while do so for less; no process and no file is left."""
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(examining, "_scratch", lambda: scratch)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(together, "_CROWDED_S", 0.2)
    monkeypatch.setattr(together, "_MEANWHILE_S", 0.1)
    monkeypatch.setattr(together, "_HOLD_S", 3.0)
    monkeypatch.setattr(extras, "_VERIFIED_S", 0.1)
    monkeypatch.setattr(deaths, "_KILLS", 8)
    before = children()
    yield
    assert children() <= before
    assert list(scratch.iterdir()) == []


def children() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


def told(found: Examination) -> dict[str, Report]:
    return {report.probe: report for report in found.reports}


def assert_nothing_wrong(found: Examination) -> None:
    assert {report.probe: report.reason for report in found.faults} == {}
    assert found.outcome is Outcome.OK


@pytest.mark.share(3)
@pytest.mark.parametrize("name", broken_engines.FAULTS)
def test_the_fault_of_each_broken_adapter_is_named_and_no_other(name: str) -> None:
    probe, words = broken_engines.FAULTS[name]
    wanted = [probe] if probe in {each.name for each in PROBES} else ["opened"]
    found = examine(f"broken_engines:{name}", only=wanted, patience_s=1.0)
    assert [report.probe for report in found.faults] == [probe]
    report = told(found)[probe]
    assert report.fault is not None
    assert words in report.fault.came
    assert report.fault.asked
    assert report.fault.then
    assert report.fault.whose
    assert found.outcome is Outcome.VIOLATION


def test_every_probe_has_been_seen_to_find_something() -> None:
    seen = {probe for probe, _ in broken_engines.FAULTS.values()}
    assert {probe.name for probe in PROBES} <= seen


def test_nothing_is_wrong_with_a_sound_engine() -> None:
    found = examine("broken_engines:SoundEngine", patience_s=PATIENCE_S)
    assert_nothing_wrong(found)
    skipped = {report.probe for report in found.reports if report.outcome == "skipped"}
    assert skipped == {"chores", "lost index"}


@pytest.mark.parametrize("name", ["kvs", "sqlite", "lmdb", f"{DATA}/log_engine.py:LogEngine"])
def test_nothing_is_wrong_with_the_engines_that_come_with_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "lmdb":
        pytest.importorskip("lmdb")
    monkeypatch.setattr(together, "_HOLD_S", 0.2)
    monkeypatch.setattr(deaths, "_KILLS", 4)
    slow = {"bugs"}
    only = [probe.name for probe in PROBES if probe.name not in slow]
    assert_nothing_wrong(examine(name, only=only, patience_s=10.0))


def test_the_naive_engine_is_told_what_it_lacks() -> None:
    name = f"{DATA}/naive_engine.py:NaiveEngine"
    found = told(examine(name, only=["read-only", "whole commits", "many writers"], patience_s=PATIENCE_S))
    assert found["read-only"].reason == "a session that was opened with readonly=True wrote"
    assert "part of a transaction" in found["whole commits"].reason
    assert "updates are lost" in found["many writers"].reason


def test_what_needs_something_that_is_wrong_is_not_asked() -> None:
    found = told(examine("broken_engines:ClosesOnce", patience_s=PATIENCE_S))
    assert found["opened"].outcome == "wrong"
    assert found["written"] == Report("written", "skipped", reason="it needs opened, methods")
    assert found["bugs"].outcome == "ok"


def test_only_some_probes_bring_those_that_they_need() -> None:
    found = examine("broken_engines:SoundEngine", only=["settle"], patience_s=PATIENCE_S)
    assert [report.probe for report in found.reports] == [
        *("made", "created", "opened", "methods", "written", "settle")
    ]


def test_an_engine_that_is_not_there_is_nobodys_fault() -> None:
    with pytest.raises(EngineMissingError, match="cannot be imported"):
        examine("no.such.module:Engine")


def test_ctrl_c_keeps_what_was_found() -> None:
    def interrupt(probe: str, number: int, count: int) -> None:
        if probe == "sizes":
            raise KeyboardInterrupt

    found = examine("broken_engines:SoundEngine", patience_s=PATIENCE_S, show=interrupt)
    assert found.interrupted
    assert found.outcome is Outcome.UNKNOWN
    assert told(found)["written"].outcome == "ok"
    assert told(found)["sizes"].reason == "interrupted"
    assert len(found.reports) == len(PROBES)


def command(*arguments: str) -> int:
    """Run ``harness doctor`` in this process; its exit code."""
    return int(doctor.main(list(arguments), standalone_mode=False))


def test_the_command_says_it_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("broken_engines:SoundEngine", "--only", "sizes") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "OK  broken_engines:SoundEngine: 6 of 6 probes found nothing, 0 not made"
    assert command("broken_engines:EmptyIsAbsent", "--only", "sizes") == 1
    out = capsys.readouterr().out
    assert "WRONG  sizes" in out
    assert "fault of  the adapter or the store" in out
    assert out.splitlines()[-1].startswith("1 fault  in broken_engines:EmptyIsAbsent")
    assert command("broken_engines:EmptyIsAbsent", "--only", "sizes", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["outcome"] == "VIOLATION"
    assert answer["reports"][-1]["fault"]["came"].startswith("session.get() returned None")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nothing"], "no engine is called 'nothing'"), (["sqlite", "--only", "nothing"], "no probe is called")],
)
def test_the_command_refuses_what_it_does_not_know(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        command(*arguments)


class MarksAndHangs(SoundEngine):
    def open(self, directory: Path, *, readonly: bool = False) -> None:
        Path("hanging").write_text(f"{os.getpid()} {directory}")
        time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start("doctor", "test_doctor:MarksAndHangs", "--patience", "60", cwd=tmp_path)
    mark = tmp_path / "hanging"
    deadline = time.monotonic() + PATIENCE_MAX_S
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    pid, place = mark.read_text().split()
    assert Path(place).parent.is_dir()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_MAX_S)
    assert (process.returncode, err) == (3, "")
    assert out.splitlines()[-1].startswith("UNKNOWN  test_doctor:MarksAndHangs: interrupted")
    assert not Path("/proc", pid).exists()
    assert not any(each.exists() for each in Path(place).parents if each.name.startswith("harness-doctor-"))


def test_a_campaign_that_an_adapter_ends_names_the_doctor(tmp_path: Path) -> None:
    ran = harness("run", "--engine", "broken_engines:Tuples", "--seconds", "1", cwd=tmp_path)
    assert ran.returncode in (1, 4)
    assert "next: `harness doctor broken_engines:Tuples` tells whether the adapter is at fault" in ran.stderr


def test_sound_keys_are_sixteen_bytes() -> None:
    assert {len(key) for key in (basics.KEY, basics.OTHER, basics.THIRD)} == {16}
