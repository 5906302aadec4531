"""Errands for the harness's own tests: commands that send some, and the processes that they are carried out in."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from harness.fleet.ledger import LEDGER


def beside() -> Path:
    """The directory of the toy engine and of this file."""
    return Path(__file__).parent


def command_of(pid: int) -> list[str]:
    """The command line of a process; nothing if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []


def parent_of(pid: int) -> int:
    """The parent of a process, 0 if it is gone (proc(5): the field behind the state, which follows the name)."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def below(pid: int) -> Iterator[int]:
    """Every living process that descends from ``pid``."""
    parents = {int(path.name): parent_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    yield from found - {pid}


def guards(pid: int) -> dict[int, str]:
    """The guards below ``pid`` whose errand's command is there, each with the errand's seed."""
    commands = {each: command_of(each) for each in below(pid)}
    return {
        each: command[command.index("--seed") + 1]
        for each, command in commands.items()
        if any(word.endswith("guard.py") for word in command)
        and any(parent_of(other) == each for other in commands)
    }


def kill_worker(pid: int) -> tuple[int, str]:
    """Kill a worker of the fleet below ``pid`` that has an errand under way: the worker, and the errand's seed."""
    guard, seed = next(iter(guards(pid).items()))
    worker = parent_of(guard)
    os.kill(worker, signal.SIGKILL)
    return worker, seed


def recorded(directory: Path) -> list[str]:
    """The whole lines of the ledger of the one fleet below ``directory``."""
    found = list(directory.glob(f"*/{LEDGER}"))
    return (
        [line for line in found[0].read_text().splitlines(keepends=True) if line.endswith("\n")]
        if found
        else []
    )
