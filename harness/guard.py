"""``python -P guard.py DIRECTORY LIMIT_S COMMAND...``: a command that does not outlive whoever asked for it.

Who asked holds the other end of standard input. A byte there asks the command to come to an end, as Ctrl-C would; the
end of the file says that who asked is dead, however it died: then the command is ended and ``DIRECTORY``, which
nobody waits for any more, is removed. Past ``LIMIT_S`` seconds the command is ended, too, and the exit code is 124.

This file imports nothing but the standard library and is run by its path: it is there in 20 ms, and has one thread,
which a process of a thread pool has not (a child that forks from that may hang, and the kernel takes the death of the
thread for the death of the parent).
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

LATE: Final = 124
"""The exit code if the limit was reached, as of timeout(1)."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_STOPPED, _ORPHANED, _TOO_LATE = "stopped", "orphaned", "too late"
_PATIENCE_S: Final = {
    _STOPPED: ((signal.SIGINT, 30.0), (signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)),
    _ORPHANED: ((signal.SIGINT, 1.0), (signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)),
    _TOO_LATE: ((signal.SIGINT, 30.0), (signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)),
}
"""The signals that a command gets, by why it has to end, and how long it has after each. The first Ctrl-C lets it say
what it knows, the second only lets it clean up."""


def main(arguments: list[str]) -> int:
    """Run the command to its end; its exit code, or 128 and the number of the signal that ended it."""
    directory, limit_s, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who loses its parent becomes a child of this process

    def enter() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    child = subprocess.Popen(  # noqa: S603 - the command of whoever asked
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=enter,  # noqa: PLW1509 - there is one thread
    )
    why = _watch(child.pid, float(limit_s))
    code = child.wait()
    _end_what_is_left()
    if why == _ORPHANED:
        shutil.rmtree(directory, ignore_errors=True)
    if why == _TOO_LATE:
        return LATE
    return code if code >= 0 else 128 - code


def _watch(pid: int, limit_s: float) -> str:
    """Wait until ``pid`` is dead; why it had to end, if it had to."""
    why, following = "", iter(_PATIENCE_S[_TOO_LATE])
    deadline = time.monotonic() + limit_s
    pidfd = os.pidfd_open(pid)
    while True:
        heard = [pidfd] if why == _ORPHANED else [pidfd, 0]
        ready, _, _ = select.select(heard, [], [], max(deadline - time.monotonic(), 0))
        if pidfd in ready:
            return why
        if 0 in ready:
            why = _STOPPED if os.read(0, 1) else _ORPHANED
            following = iter(_PATIENCE_S[why])
        elif time.monotonic() < deadline:
            continue
        number, patience_s = next(following, (signal.SIGKILL, 10.0))
        why = why or _TOO_LATE
        os.kill(pid, number)
        deadline = time.monotonic() + patience_s


def _end_what_is_left() -> None:
    """Kill whoever has lost the command that began it. Afterwards this process has no child."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for task in Path("/proc/self/task").iterdir():
            for pid in (task / "children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
