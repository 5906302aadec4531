"""The inside of a real process on a stage: it plays one program after another, and moves only when it is told to.

Orders come and answers go over one socket. An order is three numbers; an answer is a kind, a name (of a point, a lock,
or several locks), how many units the write at that point has, and the events since the last answer, so nothing that a
process did before its death is lost with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import struct
from enum import IntEnum
from typing import Any, Final

import greenlet
import msgspec

from harness.history import Event, Invoke
from harness.scenario import Program
from harness.stepped import heir
from harness.stepped.place import Place, disown
from harness.stepped.program import play
from harness.worker import die_with
from kvs import files, locks, syncpoints


class Order(IntEnum):
    """What a process is told. ``BEGIN`` to play program number ``value``; ``STEP`` to go on; ``HOLDING`` to say which
    locks it holds; ``LEAVE``, where it stands before it opened the store, to end there; ``BEQUEATH`` to apply the first
    ``value`` units of the write that it stands before, to fork an heir, and to wait for its death; ``INHERIT``, which
    is for the heir when that death has come and the store was examined, to become a process like a new one.
    """

    BEGIN = 1
    STEP = 2
    HOLDING = 3
    LEAVE = 4
    BEQUEATH = 5
    INHERIT = 6


class Kind(IntEnum):
    """What a process answers: it stands at a ``POINT``, is ``WAITING`` for a lock, has ``ENDED`` (nothing of the store
    is open any more), or what it is ``HOLDING``. An ``HEIR`` answers for its parent, with its process id for the parts,
    when no lock depends on it (0: there is none); when it has inherited, it is ``READY``. ``EVENTS`` come before an
    answer: an operation that begins is told at once, or it would be lost where its process crashes in it.
    """

    POINT = 1
    WAITING = 2
    ENDED = 3
    HOLDING = 4
    HEIR = 5
    READY = 6
    EVENTS = 7


_ORDER: Final = struct.Struct("<III")
_ANSWER: Final = struct.Struct("<IIII")  # 16 bytes
_READ_BYTES: Final = 4096
_LEARNS: Final = (1, 8)
"""In which generations of heirs the pages that it needs are looked for: the first victim may have died early."""
_POINT: Final = int(Kind.POINT)
_WAITING: Final = int(Kind.WAITING)
_EVENTS: Final = int(Kind.EVENTS)
_STEP: Final = int(Order.STEP)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Event]).decode


Answer = tuple[int, str, int, list[Event]]
"""Kind, name, parts and events; see the module."""


def send(link: int, order: int, clock: int, value: int) -> None:
    """Give an order. ``clock`` is what events take as their time from now on. Raises NoAnswerError."""
    try:
        os.write(link, _ORDER.pack(order, clock, value))
    except ConnectionError as error:
        raise NoAnswerError([], gone=True) from error


class NoAnswerError(Exception):
    """The process does not answer: it is ``gone``, or was silent for as long as the socket's timeout. ``events``: what
    it said after its last answer.
    """

    def __init__(self, events: list[Event], *, gone: bool) -> None:
        super().__init__("the process is gone" if gone else "the process is silent")
        self.events = events
        self.gone = gone


def receive(link: int) -> Answer:
    """The answer to the last order. Raises NoAnswerError."""
    events: list[Event] = []
    data = b""
    while True:
        data = data or _read(link, events)
        kind, parts, name_bytes, events_bytes = _ANSWER.unpack_from(data)
        end = 16 + name_bytes
        length = end + events_bytes
        while len(data) < length:
            data += _read(link, events)
        if events_bytes:
            events += _decode(data[end:length])
        if kind != _EVENTS:
            return kind, data[16:end].decode(), parts, events
        data = data[length:]


def _read(link: int, events: list[Event]) -> bytes:
    try:
        data = os.read(link, _READ_BYTES)
    except ConnectionError as error:
        raise NoAnswerError(events, gone=True) from error
    except BlockingIOError as error:
        raise NoAnswerError(events, gone=False) from error
    if not data:
        raise NoAnswerError(events, gone=True)
    return data


class _Leave(BaseException):
    """Out of the program: its process is not needed."""


class Performer:
    """A process, from its fork to its death. It closes whatever a program left open before it says that it ended, as
    the kernel does where a process exits; so it may play the next program as if it were a new one.

    A program is played in a greenlet of its own. The heir of a process that is to be killed is forked outside of it,
    and so can leave the frames of the dead alone: they are unwound when the store was examined and before it is put
    back, so that no ``finally`` of the dead can have an effect (as in ``simulated``).
    """

    def __init__(self, link: int, place: Place) -> None:
        self._link = link
        self._place = place
        self._clock = 0
        self._muted = True
        """It opens the store before the start: its points are passed."""
        self._unwinding = False
        self._write: Any = None
        self._events: list[Event] = []
        self._descriptors: set[int] = set()
        self._cast = place.cast(self._pause, self._emit, lambda: self._clock)
        self._hub = greenlet.getcurrent()
        self._life: Any = None
        """The greenlet of the last program."""
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._nursery = os.getppid()
        self._generation = 0
        self._warmth = heir.Warmth()

    def live(self) -> None:
        """Play whatever is ordered until the process is killed, or whoever gives the orders is gone."""
        files.opened, files.closing = self._descriptors.add, self._descriptors.discard
        syncpoints.install(self._reached, self._waits)
        if self._place.scenario.durable:
            self._place.medium.watch()
        while True:
            order, self._clock, value = self._order()
            if order == Order.INHERIT:
                self._inherit()
                self._answer(Kind.READY, "", 0)
                continue
            assert order == Order.BEGIN, f"order {order} to a process that plays nothing"
            if self._perform(value):
                self._answer(Kind.ENDED, "", 0)
            else:
                self._bequeath()

    def _perform(self, number: int) -> bool:
        """Play it; false: it is to be killed where it stands."""
        program = self._place.scenario.programs[number - 1]
        self._muted = not program.joins
        self._life = greenlet.greenlet(self._play)
        with contextlib.suppress(_Leave):
            self._life.switch(number, program)
        if not self._life.dead:
            return False
        self._close_everything()
        return True

    def _play(self, number: int, program: Program) -> None:
        play(number, program, self._cast, lambda: self._place.open_for(program))

    def _close_everything(self) -> None:
        self._muted = True
        if locks.held_by(self._descriptors):
            gc.collect()  # a handle in a circle of references, or its locks would be taken for the next one's
        disown(self._descriptors)
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    def _bequeath(self) -> None:
        """Fork an heir, which returns from this when it has nothing of its parent open. The parent never does."""
        child = heir.fork()
        if child < 0:
            self._answer(Kind.HEIR, "", 0)
        while child:
            signal.pause()  # whoever leads the schedule kills it
        heir.disown(self._descriptors, self._null)  # maps have others, of files that nobody locks
        self._answer(Kind.HEIR, "", os.getpid())

    def _inherit(self) -> None:
        """Become a process like a new one. The parent is dead, and the nursery has taken its place."""
        self._warmth.restore()
        die_with(self._nursery)
        heir.after_fork()
        self._muted = self._unwinding = True
        with contextlib.suppress(BaseException):
            self._life.throw(greenlet.GreenletExit)
        assert self._life.dead, "the program of the dead goes on"
        self._life = self._write = None
        self._unwinding = False
        self._events.clear()
        self._close_everything()
        self._generation += 1
        if self._generation in _LEARNS:
            self._warmth.learn()

    # -- the seams of the store ---------------------------------------------------------------------------

    def _pause(self, point: str) -> None:
        self._muted = self._unwinding
        self._reached(point)

    def _reached(self, point: str, write: Any = None) -> None:
        if self._muted:
            if self._unwinding:
                raise greenlet.GreenletExit
            return
        parts = 0
        if write is not None:
            data = write[2]
            parts = sum(map(len, data)) if type(data) is list else len(write[1])
            self._write = write
            if self._place.scenario.durable:
                self._place.medium.reached(point, write)
        self._stand(_POINT, point, parts)

    def _waits(self, lock: str, attempt: int) -> None:  # noqa: ARG002 - the seam has it
        if self._unwinding:
            raise greenlet.GreenletExit
        self._stand(_WAITING, lock, 0)

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if type(event) is Invoke and not self._unwinding:
            self._answer(_EVENTS, "", 0)

    # -- orders and answers -------------------------------------------------------------------------------

    def _stand(self, kind: int, name: str, parts: int) -> None:
        """Say where it is, and stay there until it is told to go on."""
        self._answer(kind, name, parts)
        while True:
            order, self._clock, value = self._order()
            if order == _STEP:
                return
            if order == Order.BEQUEATH:
                if value:
                    store, position, data = self._write
                    store(position, data, value)
                self._hub.switch()
                assert self._unwinding, "a process that is to be killed goes on"
                raise greenlet.GreenletExit
            if order == Order.HOLDING:
                self._answer(Kind.HOLDING, "\n".join(locks.held_by(self._descriptors)), 0)
            elif order == Order.LEAVE:
                raise _Leave
            else:
                raise AssertionError(f"order {order} to a process that stands at {name}")

    def _order(self) -> tuple[int, int, int]:
        data = os.read(self._link, _ORDER.size)
        if len(data) != _ORDER.size:
            os._exit(0)  # nobody is there any more
        return _ORDER.unpack(data)

    def _answer(self, kind: int, name: str, parts: int) -> None:
        text = name.encode()
        events = self._events
        if events:
            packed = _encode(events)
            events.clear()
            os.write(self._link, _ANSWER.pack(kind, parts, len(text), len(packed)) + text + packed)
        else:
            os.write(self._link, _ANSWER.pack(kind, parts, len(text), 0) + text)
