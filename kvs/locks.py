"""Named byte ranges of ``ranges.lock``, the order in which they may be taken, pins, and the whole-file gate.

All ranges are open-file-description locks (fcntl(2), ``F_OFD_SETLK``): they belong to the description that
``RangeLocks`` opened once, so closing another descriptor of the file does not drop them (POSIX record locks
vanish on any close in the process, and ``mmap.close`` counts), and the kernel releases them when the last
holder of the description dies, whatever it was doing. A forked child shares the description and would keep
a dead parent's locks alive, so the child closes it at once, and never unlocks.

There is no timed OFD wait: a waiter tries, yields, and sleeps in growing steps (``syncpoints.wait``), and
after ``timeout_s`` says who holds the lock. All threads of a handle share its description, so the caller
holds an in-process mutex in front of ``acquire``.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import portalocker

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, LockTimeoutError, UnsupportedPlatformError

_FLOCK: Final = struct.Struct(
    "@hhqqi4x"
)  # struct flock of Linux on 64 bits: type, whence, start, length, pid

PIN_BASE: Final = 1 << 60
"""Snapshots of transaction T share byte ``PIN_BASE + T``."""
_PINS_MAX: Final = 1 << 56
_WRITERS: Final = 1024
_FREE: Final = struct.pack("@h", fcntl.F_UNLCK)
"""How the answer to F_OFD_GETLK begins where nobody else holds the range."""


@dataclass(frozen=True, slots=True)
class Range:
    """One lockable range: a rank in the lock order, the byte that stands for it, the two requests, and the proof that
    whoever takes it gets.
    """

    name: str
    rank: int
    start: int
    lock: bytes = field(init=False, repr=False)
    unlock: bytes = field(init=False, repr=False)
    proof: Held = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, kind in (("lock", fcntl.F_WRLCK), ("unlock", fcntl.F_UNLCK)):
            object.__setattr__(self, name, _FLOCK.pack(kind, os.SEEK_SET, self.start, 1, 0))
        object.__setattr__(self, "proof", Held(self))


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Proof that a range is held; functions that need a lock take one."""

    range: Range


COMPACT: Final = Range("COMPACT", 0, 0)
COMMIT: Final = Range("COMMIT", 2, 1)
DURABLE: Final = Range("DURABLE", 4, 2)


@functools.cache
def writer_range(slot: int) -> Range:
    """``WRITER[slot]``: held by the live owner of a writer place for as long as it lives."""
    return Range(f"WRITER[{slot}]", 1, _WRITERS + slot)


@functools.cache
def sync_range(slot: int) -> Range:
    """``SYNC[slot]``: held from before a durable transaction of that place is visible until it is synced."""
    return Range(f"SYNC[{slot}]", 3, (1 << 20) + slot)


def check_platform() -> None:
    """Raise UnsupportedPlatformError where the locks or the memory order that we rely on do not exist."""
    if sys.platform != "linux" or not hasattr(fcntl, "F_OFD_SETLK"):
        raise UnsupportedPlatformError(
            "kvs needs Linux's open-file-description locks (fcntl F_OFD_SETLK); this platform has none."
            " Nothing was touched"
        )
    if platform.machine() not in {"x86_64", "AMD64"} or sys.maxsize < 2**63 - 1:
        raise UnsupportedPlatformError(
            f"kvs relies on the store order of 64-bit x86, which {platform.machine()} does not promise without"
            " fences. Nothing was touched"
        )


class LockOrderError(AssertionError):
    """A lock of lower rank was asked for while one of higher rank is held: a bug in kvs, not in its user."""


class RangeLocks:
    """The ranges of one handle, on one open file description.

    ``owner`` tells who holds a range, for messages only (a pid, 0 if unknown). Raises CorruptedStoreError if the file
    is not there.
    """

    def __init__(self, path: Path, owner: Callable[[Range], int]) -> None:
        self._owner = owner
        self._held: list[Held] = []
        self.fd = open_ranges(path, write=True)
        _all.add(self)

    def try_acquire(self, wanted: Range) -> Held | None:
        """Take ``wanted`` if nobody holds it. Raises LockOrderError; returns ``None`` when it is held."""
        held = self._held
        if held and held[-1].range.rank >= wanted.rank:
            raise LockOrderError(f"{wanted.name} asked for while holding {held[-1].range.name}")
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)
        except (BlockingIOError, PermissionError):  # EAGAIN, EACCES: fcntl(2) allows either
            return None
        held.append(wanted.proof)
        return wanted.proof

    def acquire(self, wanted: Range, timeout_s: float) -> Held:
        """Take ``wanted``, waiting for its holder at most ``timeout_s``.

        Raises:
            LockTimeoutError: names the holder; nothing is held that was not held before.
        """
        proof = self.try_acquire(wanted)
        return proof if proof is not None else self._wait(wanted, timeout_s)

    def _wait(self, wanted: Range, timeout_s: float) -> Held:
        started = time.monotonic()
        attempt = 0
        while True:
            syncpoints.wait(wanted.name, attempt)
            attempt += 1
            proof = self.try_acquire(wanted)
            if proof is not None:
                return proof
            waited = time.monotonic() - started
            if waited >= timeout_s:
                pid = self._owner(wanted)
                raise LockTimeoutError(wanted.name, pid, files.process_state(pid) if pid else "", waited)

    def release(self, proof: Held) -> None:
        """Let go of a range; those that were taken after it may stay held."""
        self._held.remove(proof)
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, proof.range.unlock)
        if syncpoints.freed:
            syncpoints.freed(proof.range.name)

    def release_above(self, kept: Range, ranges: Sequence[Range]) -> None:
        """Let go of ``ranges``, which are all that may be held above ``kept``, whether they are or not."""
        if self.fd >= 0:
            self._held[:] = [held for held in self._held if held.range.rank <= kept.rank]
            for each in ranges:
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, each.unlock)
                if syncpoints.freed:
                    syncpoints.freed(each.name)

    def drop(self) -> None:
        """Let go of everything that may be held. Not in a forked child, whose parent has the same description."""
        if self.fd >= 0:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))

    def other_writer(self) -> int | None:
        """The place of a live writer that is not this handle's, ``None`` if there is none: one question for all."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITERS, layout.WRITERS_MAX, 0)
        answer = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked)
        return None if answer.startswith(_FREE) else max(int(_FLOCK.unpack(answer)[2]) - _WRITERS, 0)

    def held_elsewhere(self, asked: Range) -> bool:
        """Whether another description holds ``asked`` now (``F_OFD_GETLK``, which cannot tell whose)."""
        return range_is_held(self.fd, asked)

    def close(self) -> None:
        """Close the description, which releases everything unless a forked child still has it."""
        fd, self.fd = self.fd, -1
        self._held.clear()
        if fd >= 0:
            files.close(fd)


class Pin:
    """What one snapshot has pinned, or may have: transaction ``time``, -1 before that."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = -1


class Pins:
    """The T that one handle's snapshots need: shared locks, so that the kernel forgets them with their owner.

    They are on a description of their own, which every other description of the file can see. Locks of one description
    merge, so the last snapshot of a T is the one that unlocks it. A Ctrl-C may cut both short between any two lines:
    whoever is counted may not be locked yet, which it does itself, and an ``unpin`` may be done again. The mutex can be
    taken again because a snapshot that nobody closed may be collected at any moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = -1
        self._holders: dict[int, set[Pin]] = {}
        self._mutex = threading.RLock()
        _pins.add(self)

    def pin(self, pin: Pin, time: int) -> None:
        """Pin transaction ``time``; never waits, because nobody takes these ranges exclusively."""
        with self._mutex:
            if self.fd < 0:
                self.fd = open_ranges(self._path, write=False)
            pin.time = time
            self._holders.setdefault(time, set()).add(pin)
            _set_pin(self.fd, fcntl.F_RDLCK, time)

    def unpin(self, pin: Pin) -> None:
        """Take a ``pin`` back. Harmless when it was taken back before, or all were closed."""
        with self._mutex:
            holders = self._holders.get(pin.time, set())
            holders.discard(pin)
            if not holders and self.fd >= 0 and pin.time >= 0:
                self._holders.pop(pin.time, None)
                _set_pin(self.fd, fcntl.F_UNLCK, pin.time)

    def close(self) -> None:
        """Take all of them back."""
        with self._mutex:
            fd, self.fd = self.fd, -1
            self._holders.clear()
        if fd >= 0:
            files.close(fd)


def _set_pin(fd: int, kind: int, time: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, PIN_BASE + time, 1, 0))


def _pinned_within(fd: int, begin: int, end: int) -> tuple[int, int] | None:
    """Some range of T from ``begin`` to before ``end`` that others pin, ``(first, behind the last)``."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, PIN_BASE + begin, end - begin, 0)
    kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return None
    first = max(start - PIN_BASE, begin)
    return first, min(start - PIN_BASE + length, end) if length else end


def lowest_pin(fd: int, below: int) -> int | None:
    """The oldest T < ``below`` that a description other than ``fd``'s pins now, ``None`` if there is none."""
    lowest = None
    while below > 0 and (found := _pinned_within(fd, 0, below)) is not None:
        lowest = below = found[0]
    return lowest


def pins(fd: int) -> list[int]:
    """Every T that descriptions other than ``fd``'s pin now, in rising order."""
    found: list[int] = []
    todo = [(0, _PINS_MAX)]
    while todo:
        begin, end = todo.pop()
        if begin < end and (pinned := _pinned_within(fd, begin, end)) is not None:
            found.extend(range(*pinned))
            todo += [(begin, pinned[0]), (pinned[1], end)]
    return sorted(found)


def range_is_held(fd: int, asked: Range) -> bool:
    """Whether a description other than ``fd``'s holds ``asked`` now."""
    return not fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked.lock).startswith(_FREE)


def held_by(descriptors: Collection[int]) -> tuple[str, ...]:
    """The names of the ranges that are held through one of ``descriptors`` of this process, for messages."""
    return tuple(held.range.name for locks in _all if locks.fd in descriptors for held in locks._held)


def anything_held(fd: int) -> bool:
    """Whether a description other than ``fd``'s holds any range at all now."""
    everything = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return not fcntl.fcntl(fd, fcntl.F_OFD_GETLK, everything).startswith(_FREE)


_all: weakref.WeakSet[RangeLocks] = weakref.WeakSet()
_pins: weakref.WeakSet[Pins] = weakref.WeakSet()
_gates: set[int] = set()
_EXCLUSIVE: Final = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
_SHARED: Final = portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING


def _close_in_child() -> None:
    """After a fork: close the shared descriptions without unlocking, so that the parent's locks live."""
    for locks in list(_all):
        locks.close()
    for held in list(_pins):
        held._mutex = threading.RLock()  # another thread of the parent may have had it
        held.close()
    while _gates:
        files.close(_gates.pop())


os.register_at_fork(after_in_child=_close_in_child)


def forget(descriptors: Collection[int]) -> None:
    """These descriptors are being closed by somebody else than the handles that opened them (as the kernel does for a
    process that dies): nobody may close their numbers again, which are other files' by then, in a forked child neither.
    """
    known: list[RangeLocks | Pins] = [*_all, *_pins]
    for each in known:
        if each.fd in descriptors:
            each.fd = -1
    _gates.difference_update(descriptors)


class gate:  # noqa: N801 - used as a context manager only
    """Hold the whole-file lock ``store.lock`` while a store is created, replaced or opened (flock(2)).

    Raises on entering:
        LockTimeoutError: another process is creating or replacing the store.
        CorruptedStoreError: the file is not there (and ``exclusive`` is not asked for).
    """

    def __init__(self, path: Path, *, exclusive: bool, timeout_s: float) -> None:
        self._path = path
        self._exclusive = exclusive
        self._timeout_s = timeout_s
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = open_ranges(self._path, write=self._exclusive, create=self._exclusive)
        _gates.add(self._fd)
        try:
            _lock_file(self._fd, _EXCLUSIVE if self._exclusive else _SHARED, self._timeout_s)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._fd in _gates:  # not in a child that was forked meanwhile, where it is closed
            _gates.discard(self._fd)
            files.close(self._fd)  # releases the flock


def open_ranges(path: Path, *, write: bool = False, create: bool = False) -> int:
    """A descriptor of a lock file: they are there before the index is.

    Raises:
        CorruptedStoreError: it is not there. A copy may have lost it; somebody else's index has none.
    """
    try:
        return files.open_file(path, write=write, create=create)
    except FileNotFoundError:
        raise CorruptedStoreError(
            "a lock file of the store is missing; nothing was touched. If it is a store, and no process has it open, an"
            " empty file of that name is all that it takes",
            path=str(path),
        ) from None


def _lock_file(fd: int, flags: portalocker.LockFlags, timeout_s: float) -> None:
    started = time.monotonic()
    attempt = 0
    while True:
        try:
            portalocker.lock(fd, flags)
        except portalocker.exceptions.AlreadyLocked as error:
            waited = time.monotonic() - started
            if waited >= timeout_s:
                raise LockTimeoutError(
                    "store.lock (creating or replacing the store)", 0, "", waited
                ) from error
            syncpoints.wait("GATE", attempt)
            attempt += 1
        else:
            return
