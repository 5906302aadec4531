"""Failing system calls under the store: the campaign passes the store as it is, and finds what is planted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.badstorage import engines, trial
from harness.badstorage import session as sessions
from harness.badstorage.campaign import Report, Status, campaign, replay
from harness.badstorage.device import Device
from harness.badstorage.faults import FAULTS, VARIANTS, Fault, Run, parse
from harness.badstorage.workloads import WORKLOADS
from harness.cli_badstorage import badstorage
from harness.errors import UsageError
from harness.verdict import Outcome
from kvs import files, smallfile
from kvs.errors import StorageFullError


def found(report: Report) -> list[str]:
    """The properties of the findings, and what they say."""
    return [f"{finding.property_name}: {finding.line}: {finding.message}" for finding in report.findings]


def properties(report: Report) -> set[str]:
    return {finding.property_name for finding in report.findings}


def test_the_store_as_it_is_copes_with_a_seeded_choice_of_faults(torture_seed: int) -> None:
    variant = VARIANTS[torture_seed % len(VARIANTS)]
    report = campaign(torture_seed, variants=[variant], limit=16, pairs=4)
    assert found(report) == []
    assert (report.singles, report.pairs, report.outcome) == (16, 4, Outcome.OK)
    assert report.planned > 1000


@pytest.mark.share(2)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_failed_sync_loses_nothing_acknowledged(variant: str, torture_seed: int) -> None:
    calls = ["fdatasync"]
    report = campaign(torture_seed, workloads=["shares"], variants=[variant], calls=calls, limit=8, pairs=2)
    assert found(report) == []


def test_no_room_is_said_and_everything_goes_on(torture_seed: int) -> None:
    calls = ["posix_fallocate", "ftruncate"]
    report = campaign(torture_seed, workloads=["writes"], variants=["mmap"], calls=calls, limit=12, pairs=0)
    assert found(report) == []


def test_a_run_makes_the_same_calls_again_and_every_call_is_made_by_some_workload(tmp_path: Path) -> None:
    made = set()
    for name in WORKLOADS:
        calls = [trial.play(Run(name, "mmap"), tmp_path).calls for _ in range(1 + (name == "shares"))]
        assert all(each == calls[0] for each in calls)
        made |= {call.name for call in calls[0]}
    assert made == set(FAULTS)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run-")] == []


# -- planted ------------------------------------------------------------------------------------------------


def swallow_no_room(fd: int, offset: int, length: int, path: Path) -> None:
    with contextlib.suppress(StorageFullError):
        allocate(fd, offset, length, path)


allocate = files.allocate


def write_once(fd: int, offset: int, pieces: Sequence[files.Buffer], path: Path) -> None:
    files.os.pwritev(fd, pieces, offset)  # type: ignore[attr-defined]


def ignore_failed_sync(fd: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        files.os.fdatasync(fd)  # type: ignore[attr-defined]


def rename_only(temporary: Path, final: Path) -> None:
    files.os.rename(temporary, final)  # type: ignore[attr-defined]


def leak_when_reading_fails(smallfiles: smallfile.Smallfiles, file_id: int) -> int:
    fd = files.open_file(smallfiles.path(file_id), write=False)
    files.read_at(fd, 0, 8)
    return smallfiles._fds.setdefault(file_id, fd)


def leave_clean(path: Path) -> None:
    """What a kernel does that takes pages for clean which it could not write."""


def test_no_room_that_is_not_said_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "allocate", swallow_no_room)
    report = campaign(
        1, workloads=["writes"], variants=["mmap"], calls=["posix_fallocate"], limit=15, pairs=0
    )
    assert sessions.BLOCKS in properties(report)


@pytest.mark.share(2)
@pytest.mark.parametrize("variant", ["append", "append-durable"])
def test_a_short_write_that_is_not_continued_is_found_and_replayed(
    monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(files, "write_at", write_once)
    report = campaign(1, workloads=["shares"], variants=[variant], calls=["pwritev"], limit=10, pairs=0)
    assert sessions.KEPT in properties(report) or sessions.SAID in properties(report)
    line = report.findings[0].line
    assert replay(line)[0].message == report.findings[0].message
    monkeypatch.undo()
    assert replay(line) == ()


def test_a_failed_sync_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sync_data", ignore_failed_sync)
    report = campaign(
        1, workloads=["shares"], variants=["append-durable"], calls=["fdatasync"], limit=8, pairs=0
    )
    assert sessions.KEPT in properties(report)
    assert any("power cut" in finding.message for finding in report.findings)


def test_a_sync_that_is_believed_after_one_that_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_make_dirty", leave_clean)
    report = campaign(1, workloads=["shares"], variants=["append"], calls=["fdatasync"], pairs=0)
    assert any("closed cleanly, and after a power cut" in finding.message for finding in report.findings)


def test_a_descriptor_that_stays_open_when_opening_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smallfile.Smallfiles, "_open", leak_when_reading_fails)
    report = campaign(1, workloads=["shares"], variants=["append"], calls=["pread"], pairs=0)
    assert any("a descriptor of" in finding.message for finding in report.findings)


def test_a_temporary_file_that_stays_when_a_rename_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "publish", rename_only)
    report = campaign(1, workloads=["grows"], variants=["mmap"], calls=["rename"], pairs=0)
    assert any("index.1.new is left" in finding.message for finding in report.findings)
    assert sessions.CLEAN in properties(report)


# -- the device and its runs --------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path) as device:
        yield device


def test_the_seam_is_as_it_was_when_the_device_is_gone(tmp_path: Path) -> None:
    before = (files.os, files.mmap, files._libc, os.mkdir)  # type: ignore[attr-defined]
    with Device(tmp_path):
        assert files.os is not before[0]  # type: ignore[attr-defined]
    assert (files.os, files.mmap, files._libc, os.mkdir) == before  # type: ignore[attr-defined]


def test_what_a_failed_sync_left_out_reaches_the_medium_only_when_it_was_written_again(
    tmp_path: Path, device: Device
) -> None:
    path, image = tmp_path / "00000.small", tmp_path / "image"
    fd = files.open_file(path, write=True, create=True)
    files.write_at(fd, 0, [b"a" * 8192], path)
    device.medium.lose(fd)
    files.sync_data(fd, path)
    device.medium.image(tmp_path, image, index=False)
    assert (image / path.name).read_bytes() == bytes(8192)
    files.write_at(fd, 5000, [b"a"], path)
    files.sync_data(fd, path)
    (image / path.name).unlink()
    image.rmdir()
    device.medium.image(tmp_path, image, index=False)
    assert (image / path.name).read_bytes() == bytes(4096) + b"a" * 4096
    files.close(fd)


def test_a_fault_that_does_its_work_and_fails_has_done_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Device(tmp_path, [Fault(1, "done-EIO")]) as device:
        device.on = True
        fd = files.open_file(path, write=True, create=True)
        with pytest.raises(OSError, match="Input/output error") as caught:
            files.write_at(fd, 0, [b"written"], path)
    assert (path.read_bytes(), caught.value.errno) == (b"written", errno.EIO)
    assert [str(call) for call in device.calls] == ["open of file", "pwritev of file"]
    files.close(fd)


@pytest.mark.parametrize(
    "line", ["", "writes", "writes/fast", "writes/mmap EIO", "writes/mmap 1:EWHAT", "nothing/mmap 1:EIO"]
)
def test_a_line_that_is_no_run_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        replay(line)


def test_a_run_is_written_down_and_read_again() -> None:
    run = Run("writes", "mmap-durable", (Fault(17, "EIO"), Fault(23, "done-EIO")))
    assert str(run) == "writes/mmap-durable 17:EIO 23:done-EIO"
    assert parse(str(run)) == run


def test_a_replay_of_more_calls_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="has only"):
        replay("shares/mmap 100000:EIO")


def test_an_interrupt_keeps_what_was_found_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_MEMORY", tmp_path)
    monkeypatch.setattr(files, "publish", rename_only)

    def interrupt(status: Status) -> None:
        if status.findings:
            raise KeyboardInterrupt

    report = campaign(1, workloads=["grows"], variants=["mmap"], calls=["rename"], progress=interrupt)
    assert (report.interrupted, len(report.findings) > 0, report.outcome) == (True, True, Outcome.VIOLATION)
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_tried_is_not_known() -> None:
    report = campaign(1, workloads=["shares"], variants=["mmap"], seconds=1e-9)
    assert (report.interrupted, report.tried, report.exit_code) == (True, 0, 3)


# -- the command --------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = badstorage.main(list(arguments), standalone_mode=False)
    return int(code), capsys.readouterr().out


def test_the_command_says_how_it_ended_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--workloads", "shares", "--variants", "mmap", "--limit", "2", "--pairs", "1", "--seed", "3"]
    code, text = run(capsys, *given)
    assert (code, text.splitlines()[-1].split()[:3]) == (0, ["OK", "3", "runs"])
    code, text = run(capsys, *given, "--json")
    told = json.loads(text)
    assert (code, told["outcome"], told["tried"], told["report"]["seed"]) == (0, "OK", 3, 3)


def test_the_command_tells_a_violation_with_a_line_that_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "publish", rename_only)
    code, text = run(
        capsys,
        "--workloads",
        "grows",
        "--variants",
        "mmap",
        "--calls",
        "rename",
        "--pairs",
        "0",
        "--seed",
        "1",
    )
    assert (code, text.splitlines()[-1].split()[0]) == (1, "VIOLATION")
    line = text.partition("--replay '")[2].partition("'")[0]
    code, text = run(capsys, "--replay", line)
    assert (code, "index.1.new is left" in text) == (1, True)
    code, text = run(capsys, "--replay", line, "--json")
    assert (code, json.loads(text)["outcome"]) == (1, "VIOLATION")


def test_the_command_lists_what_there_is_and_refuses_what_there_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = run(capsys, "--list")
    assert (code, [name for name in (*WORKLOADS, *FAULTS) if name not in text]) == (0, [])
    assert set(json.loads(run(capsys, "--list", "--json")[1])) == {"workloads", "faults", "properties"}
    for option in ("--workloads", "--variants", "--calls"):
        with pytest.raises(UsageError, match="nothing-like-it"):
            run(capsys, option, "nothing-like-it")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_calls_of_other_engines_fail_under_strace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WHEN", ("2",))
    monkeypatch.setitem(engines.CALLS, "sqlite", (("pwrite64", "ENOSPC"), ("fdatasync", "EIO")))
    done = CliRunner().invoke(badstorage, ["--engine", "sqlite-delete-full", "--json"])
    told = json.loads(done.stdout)
    assert told["outcome"] == "OK"
    assert [(run["call"], run["failed"]) for run in told["runs"]] == [("pwrite64", 1), ("fdatasync", 1)]
    assert all(run["findings"] == [] for run in told["runs"])
