"""How far a long command is, shown on a terminal and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kvs
from kvs import cli_base, compaction

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with kvs.open(tmp_path / "store", "c") as opened:
        for number in range(3):
            opened.put_many([(kvs.key_for(b"%d" % key), b"%d" % number * 999) for key in range(50)])
    return tmp_path / "store"


def on_terminal(*arguments: object) -> tuple[str, str]:
    """Standard output, a pipe, and standard error, a terminal, of a command that ends well."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kvs", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, text=True, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 1 << 16)
            except OSError:  # its other end is closed
                break
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, seen
    return out, CONTROL.sub("", seen.decode())


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("compacting", ["compact"]),
        ("verifying", ["verify"]),
        ("copying", ["backup", "copy"]),
        ("dumping", ["dump", "-o", "dump"]),
    ],
)
def test_a_terminal_sees_what_goes_on_and_for_how_long(
    words: str, arguments: list[str], store: Path, tmp_path: Path
) -> None:
    command, *rest = arguments
    targets = [str(tmp_path / each) if not each.startswith("-") else each for each in rest]
    out, seen = on_terminal(command, store, *targets)
    assert words in seen
    assert re.search(r"0:00:0\d", seen)
    assert "\x1b" not in out


def test_nobody_is_told_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with cli_base.progress("counting", 3) as done:
        assert done is None
    assert capsys.readouterr().err == ""


def test_compaction_tells_how_much_of_the_whole_is_done(store: Path) -> None:
    seen: list[tuple[int, int]] = []
    tell: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731
    with kvs.open(store, "w") as opened:
        assert isinstance(opened.compact(progress=tell), compaction.Compacted)
    assert seen
    assert seen[-1][0] == seen[-1][1] > 0
