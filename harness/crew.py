"""A crew: forked processes that do one piece of work after another and may die of it.

Whoever is at work notes in shared memory what it is about to try. When it dies, or does not go on, that is an answer
too: what was noted last, and how it ended. Nothing that a piece of work does can hurt the process that hands it out.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from typing import Any, Final, NamedTuple

from harness.errors import HarnessError
from harness.worker import die_with

HANG_S: Final = 60.0
"""A piece of work that notes nothing new for longer never ends."""
_NOTE_BYTES: Final = 1 << 16
_LOOK_EVERY_S: Final = 0.1
CRASHES: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)
"""What a process dies of that nobody ended."""


class Note:
    """Shared memory in which one process of a crew says what it is about to try."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _NOTE_BYTES)
        self._words = memoryview(self._map)[:24].cast("Q")

    def write(self, data: bytes) -> None:
        """From now on this is being tried."""
        if len(data) > _NOTE_BYTES - 24:
            raise ValueError(f"a note of {len(data)} bytes: at most {_NOTE_BYTES - 24}")
        self._words[1] = 0
        self._map[24 : 24 + len(data)] = data
        self._words[1] = len(data)
        self._words[0] += 1

    def read(self) -> bytes:
        """What is being tried; nothing if it has not begun, or died in the middle of a note."""
        return self._map[24 : 24 + self._words[1]]

    @property
    def beats(self) -> int:
        """How often something was noted."""
        return self._words[0]

    @property
    def stopping(self) -> bool:
        """Whether the piece of work is to end as soon as it can, with what it has."""
        return bool(self._words[2])

    def stop(self) -> None:
        """Ask the process to end its piece of work."""
        self._words[2] = 1

    def clear(self) -> None:
        """Nothing is being tried."""
        self._words[1] = 0


class Death(NamedTuple):
    """A piece of work that ended its process: what was noted last, and how ("died of SIGBUS", "hung")."""

    note: bytes
    how: str


class _Hand:
    """One process of a crew, seen from outside."""

    def __init__(self, process: Any, link: connection.Connection, note: Note, order: bytes) -> None:
        self.process = process
        self.link = link
        self.note = note
        self.order = order
        self.beats = 0
        self.moved = time.monotonic()
        self.hung = False


class Crew:
    """Hands out ``orders`` (the first first; whoever runs the crew may put some in front again) to ``jobs`` processes.

    ``perform(order, note)`` is what they do, each in a process of its own; ``enter()`` is called there once before.
    """

    def __init__(
        self,
        perform: Callable[[bytes, Note], bytes],
        orders: Iterator[bytes],
        *,
        jobs: int,
        enter: Callable[[], None] = lambda: None,
        hang_s: float = HANG_S,
    ) -> None:
        self.again: deque[bytes] = deque()
        """Orders that come before all others."""
        self._perform = perform
        self._enter = enter
        self._orders = orders
        self._jobs = jobs
        self._hang_s = hang_s
        self._hands: list[_Hand] = []
        self._stopping = False

    def stop(self) -> None:
        """Hand nothing out any more, and ask everybody to come to an end."""
        self._stopping = True
        for hand in self._hands:
            hand.note.stop()

    def run(self) -> Iterator[tuple[bytes, bytes | Death] | None]:
        """Yield each order with what came of it, and ``None`` now and then. Afterwards no process is left.

        Raises:
            HarnessError: a process was ended from outside, or failed by itself.
        """
        try:
            for _ in range(self._jobs):
                self._start(Note())
            while self._hands:
                ready = connection.wait([hand.link for hand in self._hands], _LOOK_EVERY_S)
                for hand in list(self._hands):
                    if hand.link in ready:
                        yield self._hear(hand)
                    else:
                        self._watch(hand)
                yield None
                for _ in range(self._jobs - len(self._hands) if self.again else 0):
                    self._start(Note())
        finally:
            for hand in self._hands:
                hand.process.kill()
                hand.process.join()
                hand.link.close()
            self._hands.clear()

    def _following(self) -> bytes | None:
        if self._stopping:
            return None
        return self.again.popleft() if self.again else next(self._orders, None)

    def _start(self, note: Note) -> None:
        order = self._following()
        if order is None:
            return
        here, there = connection.Pipe()
        arguments = (self._perform, self._enter, there, note, os.getpid())
        process = get_context("fork").Process(target=_live, args=arguments, daemon=True)
        process.start()
        there.close()
        hand = _Hand(process, here, note, order)
        self._hands.append(hand)
        with contextlib.suppress(OSError):  # if it is dead, its end of the pipe will say so
            here.send_bytes(order)

    def _hear(self, hand: _Hand) -> tuple[bytes, bytes | Death]:
        order = hand.order
        try:
            answer = hand.link.recv_bytes()
        except (EOFError, ConnectionError):
            return order, self._bury(hand)
        if answer[:1] == b"!":
            raise HarnessError(f"a job failed by itself: {answer[1:].decode()}")
        following = self._following()
        hand.moved = time.monotonic()
        with contextlib.suppress(OSError):
            hand.link.send_bytes(following or b"")
        if following is None:
            self._dismiss(hand)
        else:
            hand.order = following
        return order, answer[1:]

    def _bury(self, hand: _Hand) -> Death:
        self._dismiss(hand)
        code, noted = hand.process.exitcode, hand.note.read()
        hand.note.clear()
        if not hand.hung and -code not in CRASHES:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise HarnessError(f"a job was ended from outside by {name}; what it had begun is not counted")
        self._start(Note())
        return Death(noted, "hung" if hand.hung else f"died of {signal.Signals(-code).name}")

    def _dismiss(self, hand: _Hand) -> None:
        hand.process.join()
        hand.link.close()
        self._hands.remove(hand)

    def _watch(self, hand: _Hand) -> None:
        if hand.note.beats != hand.beats:
            hand.beats, hand.moved = hand.note.beats, time.monotonic()
        elif time.monotonic() - hand.moved > self._hang_s and not hand.hung:
            hand.hung = True
            hand.process.kill()


def _live(
    perform: Callable[[bytes, Note], bytes],
    enter: Callable[[], None],
    link: connection.Connection,
    note: Note,
    parent_pid: int,
) -> None:
    die_with(parent_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever hands the work out says when it is over
    try:
        enter()
        with contextlib.suppress(EOFError):
            while order := link.recv_bytes():
                answer = perform(order, note)
                note.clear()
                link.send_bytes(b"=" + answer)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever gave the order
        os.write(2, traceback.format_exc().encode())
        with contextlib.suppress(OSError):
            link.send_bytes(f"!{type(error).__name__}: {error}".encode())
