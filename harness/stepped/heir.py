"""A process forks its own successor right before it is killed.

A fork shares every page, and copies it when one of the two writes to it while the other one has it. A process that the
nursery forks copies about 770 pages (at 2.6 us each) before it is as warm as one that played before, which is more than
the rest of a schedule costs. A victim's heir copies almost none: when the victim is dead, nobody else has the pages
that the victim wrote to, and all of them are made writable again by one call (0.3 us each).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Collection, Iterator
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_fork = ctypes.PyDLL(None).fork  # keeps the interpreter lock, as os.fork does
_PROCESS_MADVISE: Final = 440  # on every architecture
_MADV_POPULATE_WRITE: Final = 23
_RANGES_MAX: Final = 1024  # sysconf(_SC_IOV_MAX) on Linux
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRESENT: Final = 1 << 63
_EXCLUSIVE: Final = 1 << 56


class _Range(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


def fork() -> int:
    """As ``os.fork``, but -1 where that raises, and the child's part of the interpreter's work (``after_fork``) is left
    for later: it writes to 200 pages, which would all be copied while the parent lives. Only for a process of one
    thread; until ``after_fork`` the child may neither import nor start anything.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    return int(_fork())


def after_fork() -> None:
    """What ``fork`` left to the child. The handlers of ``os.register_at_fork`` are among it."""
    ctypes.pythonapi.PyOS_AfterFork_Child()


def disown(descriptors: Collection[int], null: int) -> None:
    """Let ``descriptors`` lead nowhere, to ``null``: no description, and so no lock, is kept open by them, and no
    number can come to mean another file while an object still has it.
    """
    for fd in descriptors:
        os.dup2(null, fd, inheritable=False)


class Warmth:
    """The pages of its own that a process had when ``learn`` was called."""

    def __init__(self) -> None:
        self._ranges: ctypes.Array[_Range] = (_Range * 0)()

    def learn(self) -> None:
        """Note which private pages nobody else has now: those that this process, or whoever it inherited them from,
        wrote to since the nursery."""
        found = sorted(_exclusive(), key=lambda found: found[0] - found[1])[:_RANGES_MAX]
        self._ranges = (_Range * len(found))(*[_Range(start, end - start) for start, end in found])

    def restore(self) -> None:
        """Make them writable by one call instead of one fault each (process_madvise(2)). Where the kernel cannot do
        that, the faults come, and everything is only slower.
        """
        with contextlib.suppress(OSError):
            own = os.pidfd_open(os.getpid())
            _libc.syscall(
                _PROCESS_MADVISE, own, ctypes.byref(self._ranges), len(self._ranges), _MADV_POPULATE_WRITE, 0
            )
            os.close(own)


def _exclusive() -> Iterator[tuple[int, int]]:
    """Ranges of addresses whose pages are private, present, writable and nobody else's (proc_pid_pagemap(5))."""
    with open("/proc/self/maps", encoding="utf-8") as lines, open("/proc/self/pagemap", "rb", 0) as pagemap:
        for line in lines:
            addresses, permissions = line.split(maxsplit=2)[:2]
            if permissions != "rw-p":
                continue
            first, end = (int(text, 16) // _PAGE for text in addresses.split("-"))
            entries = os.pread(pagemap.fileno(), 8 * (end - first), 8 * first)
            start = 0
            for page, (flags,) in enumerate(struct.iter_unpack("=Q", entries), first):
                own = flags & _PRESENT and flags & _EXCLUSIVE
                if own and not start:
                    start = page
                elif start and not own:
                    yield start * _PAGE, page * _PAGE
                    start = 0
            if start:
                yield start * _PAGE, end * _PAGE
