"""The guard of an errand: whatever ends, and however, nothing of the errand is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaigns import PATIENCE_S, is_alive, wait_for

from harness import guard

SLEEP = "import time; print('there', flush=True); time.sleep(1000)"
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, lambda *_: print('asked', flush=True))\n"
    "print('there', flush=True)\n"
    "while True: time.sleep(1000)"
)


class Guarded:
    """A guard and what it guards: a Python program that says ``there`` first."""

    def __init__(self, directory: Path, program: str, limit_s: float) -> None:
        command = [sys.executable, "-P", guard.__file__, str(directory), str(limit_s)]
        self.process = subprocess.Popen(
            [*command, sys.executable, "-u", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asking, self.said = self.process.stdin, self.process.stdout

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """A program that sleeps, and a directory of its own."""
    directory = tmp_path / "directory"
    directory.mkdir()
    yield (each := Guarded(directory, SLEEP, 1000))
    each.asking.close()
    each.wait()
    each.said.close()


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_the_exit_code_is_that_of_the_command(tmp_path: Path, program: str, code: int) -> None:
    done = Guarded(tmp_path, program, 1000)
    assert done.wait() == code
    done.asking.close()
    done.said.close()
    assert tmp_path.is_dir()


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    late = Guarded(tmp_path, "import time; time.sleep(1000)", 0.3)
    assert late.wait() == guard.LATE
    late.asking.close()
    late.said.close()


def test_when_whoever_asked_is_dead_the_command_is_ended_and_its_directory_goes(
    guarded: Guarded, tmp_path: Path
) -> None:
    assert guarded.said.readline() == "there\n"
    guarded.asking.close()
    assert guarded.wait() != 0
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_asked_to_end_may_say_what_it_knows_and_keeps_its_directory(tmp_path: Path) -> None:
    asked = Guarded(tmp_path, STUBBORN, 1000)
    assert asked.said.readline() == "there\n"
    asked.asking.write("\n")
    assert asked.said.readline() == "asked\n"
    asked.asking.write("\n")
    assert asked.said.readline() == "asked\n"
    assert tmp_path.is_dir()
    asked.process.kill()  # and what it guards dies with it
    assert asked.said.read() == ""
    asked.wait()
    asked.asking.close()
    asked.said.close()


def test_a_command_dies_with_its_guard(guarded: Guarded) -> None:
    assert guarded.said.readline() == "there\n"
    (child,) = map(
        int, Path(f"/proc/{guarded.process.pid}/task/{guarded.process.pid}/children").read_text().split()
    )
    guarded.process.kill()
    wait_for(lambda: not is_alive(child), "the command is dead")


def test_who_outlives_the_command_is_killed(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], start_new_session=True)\n"
        "print(left.pid, flush=True)"
    )
    done = Guarded(tmp_path, program, 1000)
    left = int(done.said.readline())
    assert done.wait() == 0
    assert not is_alive(left)
    done.asking.close()
    done.said.close()
