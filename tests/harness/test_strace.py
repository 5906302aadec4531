"""What strace shows becomes a complete trace, and what a trace cannot hold is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.powerloss import strace
from harness.powerloss.medium import finished
from harness.powerloss.strace import TraceError
from harness.powerloss.trace import (
    Begun,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Start,
    Sync,
    SyncNames,
    Told,
    Trace,
    Unlink,
    Write,
)

DIRECTORY, MARKS = Path("/d"), Path("/marks")
OLD = Start("old", 0, 10, b"0123456789")
OPENED = "7 openat(AT_FDCWD</>, '/d/old', O_RDWR) = 3</d/old>"
FIXTURE = Path(__file__).parent / "data" / "strace_program.strace"
PROGRAM = Path(__file__).parent / "strace_program.py"
PROGRAM_START = b"".join(b"%9d\n" % number for number in range(1000))

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def as_strace_writes(line: str) -> str:
    """``'text'`` and ``</path>`` in hexadecimal."""

    def hexed(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    line = re.sub(r"'([^']*)'", lambda found: f'"{hexed(found[1])}"', line)
    return re.sub(r"<(/[^>]*)>", lambda found: f"<{hexed(found[1])}>", line)


def parsed(*lines: str, starts: Sequence[Start] = (OLD,)) -> list[Event]:
    return strace.events(
        [as_strace_writes(line) for line in lines],
        DIRECTORY,
        MARKS,
        starts,
        begun=lambda number: ((b"key", b"%d" % number),),
        ignored={"db-shm"},
    )


def test_a_write_goes_where_its_descriptor_stands() -> None:
    assert parsed(
        OPENED,
        "7 read(3</d/old>, '01', 2) = 2",
        "7 write(3</d/old>, 'ab', 2) = 2",
        "7 dup(3</d/old>) = 4</d/old>",
        "7 write(4</d/old>, 'c', 1) = 1",
        "7 lseek(3</d/old>, 8, SEEK_SET) = 8",
        "7 writev(4</d/old>, [{iov_base='de', iov_len=2}, {iov_base='f', iov_len=1}], 2) = 3",
        "7 pwrite64(3</d/old>, 'g', 1, 0) = 1",
        "7 write(3</d/old>, 'h', 1) = 1",
    ) == [
        Write(1, 0, 2, b"ab"),
        Write(1, 0, 4, b"c"),
        Write(1, 0, 8, b"def"),
        Write(1, 0, 0, b"g"),
        Write(1, 0, 11, b"h"),
    ]


def test_what_was_not_written_of_a_short_write_is_not_there_and_what_failed_has_no_effect() -> None:
    assert parsed(
        OPENED,
        "7 write(3</d/old>, 'abcd', 4) = 2",
        "7 write(3</d/old>, 'abcd', 4) = -1 ENOSPC (No space left on device) (INJECTED)",
        "7 write(3</d/old>, 'abcd', 4) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)",
        "7 --- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---",
        "7 pwrite64(3</d/old>, 'x', 1, 5) = 1",
        "7 fsync(3</d/old>) = -1 EIO (Input/output error) (INJECTED)",
        "7 write(3</d/old>, 'y', 1) = 1",
        "7 +++ exited with 0 +++",
    ) == [Write(1, 0, 0, b"ab"), Write(1, 0, 5, b"x"), Write(1, 0, 2, b"y")]


def test_a_sync_covers_what_had_happened_when_it_was_called() -> None:
    assert parsed(
        OPENED,
        "7 clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, stack=0x7f} => {parent_tid=[8]}, 88) = 8",
        "7 pwrite64(3</d/old>, 'a', 1, 0) = 1",
        "7 fdatasync(3</d/old> <unfinished ...>",
        "8 pwrite64(3</d/old>, 'b', 1, 1) = 1",
        "7 <... fdatasync resumed>) = 0",
    ) == [Write(1, 0, 0, b"a"), Write(2, 0, 1, b"b"), Sync(1, 0, 1)]


def test_a_write_that_syncs_is_a_write_and_a_sync() -> None:
    opened = "7 openat(AT_FDCWD</>, '/d/old', O_WRONLY|O_DSYNC|O_CLOEXEC) = 4</d/old>"
    assert parsed(opened, "7 pwrite64(4</d/old>, 'a', 1, 3) = 1") == [Write(1, 0, 3, b"a"), Sync(1, 0, 1)]
    assert parsed(
        OPENED,
        opened,
        "7 pwrite64(3</d/old>, 'b', 1, 3) = 1",
        "7 fdatasync(3</d/old>) = 0",
        "7 pwrite64(4</d/old>, 'a', 1, 3) = 1",
        "7 pwritev2(3</d/old>, [{iov_base='c', iov_len=1}], 1, 5, RWF_DSYNC) = 1",
    )[2:] == [Write(1, 0, 3, b"a"), Sync(1, 0, 3), Write(1, 0, 5, b"c"), Sync(1, 0, 5)]


def test_names_come_and_go() -> None:
    assert parsed(
        "7 openat(AT_FDCWD</>, 'd/new', O_RDWR|O_CREAT|O_TRUNC, 0644) = 5</d/new>",
        "7 rename('/d/new', '/d/old') = 0",
        "7 write(5</d/old>, 'a', 1) = 1",
        "7 unlinkat(AT_FDCWD</d>, 'old', 0) = 0",
        "7 pwrite64(5</d/old>(deleted), 'b', 1, 1) = 1",
        "7 openat(AT_FDCWD</>, '/d', O_RDONLY|O_DIRECTORY) = 6</d>",
        "7 fsync(6</d>) = 0",
    ) == [
        Make(1, "new", 1),
        Rename(1, "new", "old"),
        Write(1, 1, 0, b"a"),
        Unlink(1, "old"),
        Write(1, 1, 1, b"b"),
        SyncNames(1, 5),
    ]


def test_a_file_is_emptied_by_opening_it() -> None:
    emptied = "7 openat(AT_FDCWD</>, '/d/old', O_WRONLY|O_CREAT|O_TRUNC, 0644) = 3</d/old>"
    assert parsed(emptied, emptied) == [Length(1, 0, 0)]


def test_a_child_has_its_own_descriptors_and_shares_positions() -> None:
    assert parsed(
        OPENED,
        "7 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f <unfinished ...>",
        "8 write(3</d/old>, 'a', 1) = 1",
        "8 close(3</d/old>) = 0",
        "7 <... clone resumed>) = 8",
        "7 write(3</d/old>, 'b', 1) = 1",
    ) == [Write(2, 0, 0, b"a"), Write(1, 0, 1, b"b")]


def test_what_the_program_says_stands_where_it_said_it() -> None:
    assert parsed(
        OPENED,
        "7 openat(AT_FDCWD</>, '/marks', O_WRONLY|O_APPEND) = 4</marks>",
        "7 write(4</marks>, 'begin 5\n', 8) = 8",
        "7 write(3</d/old>, 'a', 1) = 1",
        "7 write(4</marks>, 'told 5\nfailed 6\nto', 18) = 18",
        "7 write(4</marks>, 'ld 7\n', 5) = 5",
    ) == [Begun(1, 5, ((b"key", b"5"),)), Write(1, 0, 0, b"a"), Told(1, 5, "commit"), Told(1, 7, "commit")]


def test_what_does_not_matter_is_passed_over() -> None:
    assert (
        parsed(
            OPENED,
            "7 openat(AT_FDCWD</>, '/d/db-shm', O_RDWR|O_CREAT, 0644) = 5</d/db-shm>",
            "7 ftruncate(5</d/db-shm>, 32768) = 0",
            "7 mmap(NULL, 32768, PROT_READ|PROT_WRITE, MAP_SHARED, 5</d/db-shm>, 0) = 0x7f0000000000",
            "7 fchown(5</d/db-shm>, 0, 0) = 0",
            "7 sendfile(5</d/db-shm>, 9</elsewhere>, NULL, 10) = 10",
            "7 unlink('/d/db-shm') = 0",
            "7 openat(AT_FDCWD</>, '/dx/other', O_RDWR|O_CREAT, 0644) = 5</dx/other>",
            "7 write(5</dx/other>, 'a', 1) = 1",
            "7 rename('/dx/other', '/dx/another') = 0",
            "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0) = 0x7f0000100000",
            "7 sync_file_range(3</d/old>, 0, 0, SYNC_FILE_RANGE_WRITE) = 0",
            "7 fcntl(3</d/old>, F_SETLK, {l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=1}) = 0",
            "7 ioctl(3</d/old>, TCGETS, 0x7ffc) = -1 ENOTTY (Inappropriate ioctl for device)",
            "7 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3</d/old>, 0) = 0x7f0000200000",
            "7 munmap(0x7f0000200000, 4096) = 0",
            "7 mprotect(0x7f0000200000, 4096, PROT_READ|PROT_WRITE) = 0",
        )
        == []
    )


@pytest.mark.parametrize(
    "line",
    [
        "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3</d/old>, 0) = 0x7f0000000000",
        "7 mprotect(0x7f0000200800, 4096, PROT_READ|PROT_WRITE) = 0",
        "7 io_uring_setup(8, {flags=0}) = 9<anon_inode:[io_uring]>",
        "7 io_submit(0x7f, 1, [{aio_data=0}]) = 1",
        "7 sendfile(3</d/old>, 9</elsewhere>, NULL, 10) = 10",
        "7 copy_file_range(9</elsewhere>, NULL, 3</d/old>, NULL, 10, 0) = 10",
        "7 ioctl(3</d/old>, FICLONE, 9) = 0",
        "7 syncfs(3</d/old>) = 0",
        "7 fallocate(3</d/old>, FALLOC_FL_ZERO_RANGE, 0, 10) = 0",
        "7 pwritev2(3</d/old>, [{iov_base='a', iov_len=1}], 1, 0, RWF_APPEND) = 1",
        "7 rename('/d/old', '/elsewhere') = 0",
        "7 rename('/elsewhere', '/d/old') = 0",
        "7 rename('/d/old', '/d/db-shm') = 0",
        "7 renameat2(AT_FDCWD</>, '/d/old', AT_FDCWD</>, '/d/older', RENAME_EXCHANGE) = 0",
        "7 rename('/d', '/elsewhere') = 0",
        "7 link('/d/old', '/d/older') = 0",
        "7 linkat(AT_FDCWD</>, '/elsewhere', AT_FDCWD</d>, 'new', 0) = 0",
        "7 symlink('/elsewhere', '/d/new') = 0",
        "7 mkdir('/d/new', 0755) = 0",
        "7 unlink('old') = 0",
        "7 unlink('/d/never') = 0",
        "7 unlink('/d/within/it') = 0",
        "7 openat(AT_FDCWD</>, '/d', O_RDWR|O_TMPFILE, 0600) = 5</d/#12>(deleted)",
        "7 openat(AT_FDCWD</>, '/d/never', O_RDWR) = 5</d/never>",
        "7 write(9</d/old>, 'a', 1) = 1",
        "7 fsync(9</d/old>) = 0",
        "7 write(3</d/old>, 'abc'..., 5) = 5",
        "7 write(3</d/old>, 'abc', 5) = 5",
        "7 write(3</d/old>, 'abc', 3) = ?",
        "7 write(3</d/old>, 'abc', 3 <unfinished ...>",
        "7 pwrite64(4</d/old>, 'a', 1, 3) = 1",
        "7 write(6</marks>, 'hello\n', 6) = 6",
        "8 write(3</d/old>, 'a', 1) = 1",
        "7 write(3</d/old>, 'a', 1) is what it says",
        "strace: something is wrong",
    ],
)
def test_what_a_trace_cannot_hold_is_refused(line: str) -> None:
    before = (
        OPENED,
        "7 openat(AT_FDCWD</>, '/d/old', O_WRONLY|O_DSYNC) = 4</d/old>",
        "7 openat(AT_FDCWD</>, '/marks', O_WRONLY|O_APPEND) = 6</marks>",
        "7 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3</d/old>, 0) = 0x7f0000200000",
        "7 pwrite64(3</d/old>, 'unsynced', 8, 0) = 8",
    )
    parsed(*before)
    with pytest.raises(TraceError):
        parsed(*before, line)


def replayed(events: list[Event]) -> dict[str, bytes]:
    """The files at the end of the recorded program."""
    trace = Trace("", {}, [Start("old", 0, len(PROGRAM_START), PROGRAM_START)], events)
    return {name: data.ljust(length, b"\0") for name, (length, data) in finished(trace).items()}


def judge_program(events: list[Event]) -> None:
    """Whether the events are what the program does."""
    old = bytearray(PROGRAM_START)
    old[100:127] = b"after what was read, and on"
    old[-5:] = b"behind the end"
    old += bytes(12_000 - len(old))
    old[4096:8192] = bytes(4096)
    files = replayed(events)
    assert sorted(files) == ["old", "renamed"]
    assert files["old"] == bytes(old[:11_000])
    assert files["renamed"].startswith(b"at ZEROhree appended")
    assert b"from a thread and from a child" in files["renamed"]
    assert files["renamed"].endswith(b"it has another name now")
    said = [
        type(event).__name__ for event in events if isinstance(event, Begun | Told | Sync | SyncNames | Punch)
    ]
    assert said == ["Begun", "Punch", "Sync", "Sync", "Sync", "Told", "Begun", "SyncNames"]
    assert {event.process for event in events} == {1, 2, 3}


def test_a_recorded_program_is_replayed() -> None:
    header, *lines = FIXTURE.read_text(encoding="ascii").splitlines()
    directory, marks = header.split()[1:]
    judge_program(
        strace.events(
            lines,
            Path(directory),
            Path(marks),
            [Start("old", 0, len(PROGRAM_START), b"")],
            begun=lambda _: (),
            ignored={"index-shm"},
        )
    )


def recorded(tmp_path: Path, ignored: Sequence[str] = ("index-shm",)) -> tuple[Trace, Path]:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "old").write_bytes(PROGRAM_START)
    marks = tmp_path / "marks"
    command = [sys.executable, "-I", str(PROGRAM), str(directory), str(marks)]
    return strace.record(command, directory, marks, begun=lambda _: (), ignored=ignored), directory


@needs_strace
def test_a_program_is_recorded_and_the_trace_is_complete(tmp_path: Path) -> None:
    trace, _ = recorded(tmp_path)
    judge_program(trace.events)


@needs_strace
def test_a_trace_that_lacks_anything_is_seen(tmp_path: Path) -> None:
    trace, directory = recorded(tmp_path)
    strace.assert_complete(trace, directory, {"index-shm"})
    with pytest.raises(TraceError, match="index-shm is 14 bytes long"):
        strace.assert_complete(trace, directory)
    lacking = [event for event in trace.events if not isinstance(event, Punch)]
    with pytest.raises(TraceError, match="the trace is not complete: old is 11000 bytes long"):
        strace.assert_complete(Trace("", {}, trace.starts, lacking), directory, {"index-shm"})
    (directory / "renamed").unlink()
    with pytest.raises(TraceError, match="renamed is not there, and after a replay"):
        strace.assert_complete(trace, directory, {"index-shm"})


@needs_strace
def test_a_program_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="ended with exit code 3: enough"):
        strace.run(["sh", "-c", "echo enough >&2; exit 3"])


@needs_strace
def test_a_program_that_is_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="ended with SIGTERM"):
        strace.run(["sh", "-c", "kill $$"])


@needs_strace
def test_an_interrupt_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = tmp_path / "began"
    real = subprocess.Popen.communicate

    def interrupted(process: subprocess.Popen[bytes]) -> None:
        while not began.exists() or not began.read_text().endswith("\n"):
            assert process.poll() is None
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        strace.run(["sh", "-c", f"echo $$ > {began}; exec sleep 1000"])
    monkeypatch.setattr(subprocess.Popen, "communicate", real)
    state = Path("/proc", began.read_text().strip(), "stat")
    until = time.monotonic() + 20
    while (
        state.exists() and state.read_text().split()[2] != "Z"
    ):  # it was sent SIGKILL, and dies any moment now
        assert time.monotonic() < until
        time.sleep(0.01)


def test_without_strace_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HarnessError, match="Install the package strace"):
        strace.run(["true"])
