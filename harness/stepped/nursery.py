"""Where the real processes of a stage are forked, and what they leave is picked up.

A fork write-protects every page of its parent, and each one that the parent then touches is copied: a busy parent paid
for each fork with about 900 of those copies. So the stage forks once, and what it forks does nothing but fork.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from typing import Final

from harness.errors import HarnessError
from harness.worker import STATUS_CRASHED, adopt, die_with, enter

_ANSWER_TIMEOUT_S: Final = 60
_ORDER: Final = struct.Struct("<ii")
_ANSWER: Final = struct.Struct("<i")
_FORK: Final = 0
_REAP: Final = 1

Life = Callable[[int], object]
"""What a child does with its end of a stream socket. It need not return."""


class Nursery:
    """Forks children that live ``life``. All of them are dead when it is closed, or when this process is, however that
    happens. What they write to standard error is kept. A bug that is planted before is inherited.
    """

    def __init__(self, life: Life) -> None:
        self._errors = os.memfd_create("harness-errors")
        self._errors_seen = 0
        ours, theirs = socket.socketpair()
        with theirs, uninterrupted():
            parent = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                ours.close()
                _leaving(lambda: _tend(theirs, life, self._errors, parent))
        self._link = ours
        ours.settimeout(_ANSWER_TIMEOUT_S)

    def fork(self) -> tuple[int, socket.socket]:
        """A new child: its process id, and our end of its socket. Call it ``uninterrupted``."""
        try:
            self._link.sendall(_ORDER.pack(_FORK, 0))
            data, descriptors, _, _ = socket.recv_fds(self._link, _ANSWER.size, 1)
        except OSError as error:
            raise self._gone() from error
        if not descriptors:
            raise self._gone()
        return int(_ANSWER.unpack(data)[0]), socket.socket(fileno=descriptors[0])

    def reap(self, pid: int) -> int:
        """The wait status of a child that is dead or dying: when this returns, the kernel has released everything that
        it held. Call it ``uninterrupted``.
        """
        try:
            self._link.sendall(_ORDER.pack(_REAP, pid))
            data = self._link.recv(_ANSWER.size)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        return int(_ANSWER.unpack(data)[0])

    def last_words(self) -> str:
        """The line that says most of what was written to standard error since the last time."""
        data = os.pread(self._errors, 1 << 20, self._errors_seen)
        self._errors_seen += len(data)
        lines = [line.strip() for line in data.decode(errors="replace").split("\n") if line.strip()]
        fatal = [line for line in lines if line.startswith("Fatal Python error")]  # its stack comes after it
        return next(iter(fatal or lines[-1:]), "")

    def close(self) -> None:
        """Kill it. Children that are still alive die with it, but are not waited for."""
        with uninterrupted():
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                self._pid = 0
                self._link.close()
                os.close(self._errors)

    def _gone(self) -> HarnessError:
        return HarnessError(
            f"the process that forks the others does not answer ({self.last_words() or 'it said nothing'}); nothing can"
            " be said about the store"
        )


def _tend(link: socket.socket, life: Life, errors: int, parent: int) -> None:
    """The life of the nursery."""
    enter(errors, parent)
    adopt()
    faulthandler.enable(file=2)
    own = os.getpid()
    gc.collect()
    gc.freeze()  # or a child's first collection would copy every page
    while data := link.recv(_ORDER.size):
        order, pid = _ORDER.unpack(data)
        if order == _REAP:
            link.sendall(_ANSWER.pack(os.waitpid(pid, 0)[1]))
            continue
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                ours.close()
                link.close()
                _leaving(lambda end=theirs: _be(end, life, own))  # type: ignore[misc]
            socket.send_fds(link, [_ANSWER.pack(pid)], [ours.fileno()])


def _be(link: socket.socket, life: Life, parent: int) -> None:
    """The life of a child, which inherits everything else that ``enter`` did."""
    die_with(parent)
    life(link.fileno())


def _leaving(life: Callable[[], object]) -> None:
    """The whole of a forked process. Nothing gets out of it: it never returns, and what it raises is its last words."""
    status = STATUS_CRASHED
    try:
        life()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, it belongs to the errors
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A Ctrl-C waits until the end of this block: no process is started or reaped without being noted."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
