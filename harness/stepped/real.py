"""Real processes that are stepped through sockets, and die of a real SIGKILL.

Each process is forked from this one, opens its own handle, and stops at every sync point until it is told to go on
(``performer``). All of them, and this one, stay on one processor: exactly one runs at any time, and handing over to
a process on another processor costs more than what most steps do. A process that ended its program closes everything
and waits for the next schedule; in the place of a killed one comes the heir that it forked right before (``heir``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Final

from harness.errors import HarnessError
from harness.history import Violation
from harness.scenario import Scenario
from harness.stepped import performer
from harness.stepped.base import Actor, State
from harness.stepped.nursery import Nursery, uninterrupted
from harness.stepped.performer import Answer, Kind, NoAnswerError, Order, Performer
from harness.stepped.place import Place
from harness.stepped.program import ERROR, OPEN

SILENCE_S: Final = 30.0
"""A process that runs for so long without coming to a point, a wait or its end hangs."""
GENERATIONS_MAX: Final = 1_000
"""An heir has what its ancestors left in memory, about 400 bytes each; a new line of heirs begins without."""
LIVENESS: Final = "liveness"
_POINT: Final = int(Kind.POINT)
_WAITING: Final = int(Kind.WAITING)


class _Process:
    """A forked process. ``idle``: it plays nothing and has nothing open. ``inherits``: it is the heir of one that was
    killed, and not yet like a new one. ``generation``: how many heirs are between it and the nursery.
    """

    __slots__ = ("generation", "idle", "inherits", "link", "pid")

    def __init__(self, pid: int, link: int, generation: int = 0) -> None:
        self.pid = pid
        self.link = link
        self.idle = True
        self.inherits = generation > 0
        self.generation = generation


class Real:
    """A stage of real processes. A bug that is planted here before ``begin`` is inherited by all of them.

    ``pinned``: keep this process and its children on the processor that it runs on, until ``close``. ``silence_s``:
    after so many seconds without an answer a process is killed, and its silence is a finding.
    """

    def __init__(
        self,
        scenario: Scenario,
        place: Place | None = None,
        *,
        pinned: bool = True,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.scenario = scenario
        self.place = place or Place(scenario)
        self.clock = 0
        self._silence_s = silence_s
        self._timeout = struct.pack("@ll", int(silence_s), int(silence_s % 1 * 1e6))
        self._nursery: Nursery | None = None
        self._processes: dict[int, _Process] = {}
        """Those that are alive, by the number of the program that each one plays."""
        self.actors: list[Actor] = []
        """Those of the schedule that ``begin`` began last."""
        self._affinity = os.sched_getaffinity(0)
        if pinned:
            os.sched_setaffinity(0, {_processor()})

    # -- the stage ----------------------------------------------------------------------------------------

    def begin(self) -> Sequence[Actor]:
        """See ``Stage``."""
        self.clock = 0
        for number, process in list(self._processes.items()):
            if not process.idle:  # the last schedule was broken off
                self._put_down(number)
            elif process.inherits:
                self._inherit(number, process)
        self.place.restore()
        self.actors = [Actor(number, program) for number, program in enumerate(self.scenario.programs, 1)]
        for actor in self.actors:
            process = self._processes.get(actor.number) or self._fork(actor.number)
            process.idle = False
            actor.within = process
            self._move(actor, Order.BEGIN, actor.number)
        return self.actors

    def step(self, actor: Actor) -> None:
        """See ``Stage``. A process that ends in any other way than by its program, or is not heard of for too long, is
        ``crashed``, and its events say so.
        """
        self._move(actor, Order.STEP, 0)

    def kill(self, actor: Actor, torn: int) -> None:
        """See ``Stage``.

        Raises:
            HarnessError: it died of something else before the signal came.
        """
        with uninterrupted():
            heir = self._heir(actor, torn if actor.parts else 0)
            status = self._put_down(actor.number, heir)
        actor.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        actor.state = State.DEAD
        if actor.signal != signal.SIGKILL:
            raise HarnessError(
                f"process {actor.number} was to be killed at {actor.point}, but {_how(status)} before; nothing can be"
                " said about the store"
            )

    def holding(self, actor: Actor) -> tuple[str, ...]:
        """See ``Stage``: the process is asked; who is gone holds nothing."""
        if actor.state not in (State.PARKED, State.WAITING):
            return ()
        return tuple(self._ask(actor, Order.HOLDING, 0)[1].split())

    def end(self) -> None:
        """See ``Stage``."""
        for actor in self.actors:
            if actor.state is State.ABSENT:
                self._move(actor, Order.LEAVE, 0)
                actor.state = State.DEAD
            elif actor.state in (State.PARKED, State.WAITING):
                self.kill(actor, 0)

    def close(self) -> None:
        """See ``Stage``. It may be called at any moment, also after an exception or in the middle of a schedule."""
        with uninterrupted():
            for number in list(self._processes):
                with contextlib.suppress(
                    HarnessError, ProcessLookupError
                ):  # the nursery died, and they with it
                    self._put_down(number)
            for process in self._processes.values():
                os.close(process.link)
            self._processes.clear()
            if self._nursery is not None:
                self._nursery.close()
                self._nursery = None
            os.sched_setaffinity(0, self._affinity)
            self.place.close()

    def __enter__(self) -> Real:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- orders and answers -------------------------------------------------------------------------------

    def _move(self, actor: Actor, order: Order, value: int) -> None:
        """Give an order after which the process runs, and note where it comes to."""
        process = actor.within
        try:
            performer.send(process.link, order, self.clock, value)
            kind, name, parts, events = performer.receive(process.link)
        except NoAnswerError as error:
            actor.events += error.events
            if error.gone:
                self._crashed(actor)
            else:
                self._silent(actor)
            return
        actor.events += events
        actor.parts = parts
        if kind == _POINT:
            if actor.state is State.WAITING:
                actor.state, actor.waits = State.PARKED, ""
            actor.point = name
            actor.hits += 1
        elif kind == _WAITING:
            actor.state, actor.waits = State.WAITING, name
        else:
            actor.state, actor.point, actor.waits = State.ENDED, "", ""
            process.idle = True

    def _ask(self, actor: Actor, order: Order, value: int) -> Answer:
        """Give an order that leaves the process where it is. Raises HarnessError if it does not answer."""
        try:
            performer.send(actor.within.link, order, self.clock, value)
            return performer.receive(actor.within.link)
        except NoAnswerError as error:
            raise self._mute(actor) from error

    def _mute(self, actor: Actor) -> HarnessError:
        return HarnessError(
            f"process {actor.number}, which stands at {actor.point}, does not answer: {self._last_words()}"
        )

    def _crashed(self, actor: Actor) -> None:
        """It ended although nobody killed it."""
        status = self._reap(actor.number)
        words = self._last_words()
        actor.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self._found(
            actor, ERROR, f"the process {_how(status)} by itself{_after(actor)}{words and ': '}{words}"
        )

    def _silent(self, actor: Actor) -> None:
        """It does not come to a point, a wait or its end."""
        status = self._put_down(actor.number)
        actor.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        message = f"the process did not come to its next point within {self._silence_s:g} s{_after(actor)}"
        self._found(actor, LIVENESS, f"{message}; it was killed")

    def _found(self, actor: Actor, property_name: str, message: str) -> None:
        index = actor.events[-1].index if actor.events else 0
        actor.events.append(Violation(actor.number, self.clock, property_name, message, index))
        actor.state, actor.waits, actor.parts = State.CRASHED, "", 0

    def _last_words(self) -> str:
        return "" if self._nursery is None else self._nursery.last_words()

    # -- birth and death ----------------------------------------------------------------------------------

    def _fork(self, number: int) -> _Process:
        with uninterrupted():
            if self._nursery is None:
                self._nursery = Nursery(lambda link: Performer(link, self.place).live())
            pid, link = self._nursery.fork()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, self._timeout)
            process = self._processes[number] = _Process(pid, link.detach())
        return process

    def _heir(self, actor: Actor, torn: int) -> int:
        """The process id of the one that takes the place of ``actor``, which is to be killed after ``torn`` units of
        the write that it stands before; 0: it has none, and the nursery forks the next one. The heir has nothing open
        that ``actor`` has, so every lock goes with ``actor``.
        """
        process = actor.within
        if process.generation >= GENERATIONS_MAX:
            return 0
        try:
            performer.send(process.link, Order.BEQUEATH, self.clock, torn)
            return performer.receive(process.link)[2]
        except NoAnswerError as error:
            if error.gone:
                return 0  # of what it died its status says
            raise self._mute(actor) from error

    def _inherit(self, number: int, process: _Process) -> None:
        """Make an heir a process like a new one, or do without it."""
        try:
            performer.send(process.link, Order.INHERIT, 0, 0)
            performer.receive(process.link)
            process.inherits = False
        except NoAnswerError:
            self._put_down(number)

    def _put_down(self, number: int, heir: int = 0) -> int:
        """SIGKILL. Afterwards the kernel has released everything that the process held; its wait status. ``heir`` is
        the process that takes its place.
        """
        with uninterrupted():
            os.kill(self._processes[number].pid, signal.SIGKILL)
            return self._reap(number, heir)

    def _reap(self, number: int, heir: int = 0) -> int:
        assert self._nursery is not None
        with uninterrupted():
            process = self._processes[number]
            status = self._nursery.reap(process.pid)
            if heir:
                self._processes[number] = _Process(heir, process.link, process.generation + 1)
            else:
                del self._processes[number]
                os.close(process.link)
        return status


def _how(status: int) -> str:
    """How a process ended, in words."""
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def _after(actor: Actor) -> str:
    return f" after {actor.point}" if actor.point and actor.point != OPEN else ""


def _processor() -> int:
    """The processor that this thread runs on now (sched_getcpu(3)), or one that it may run on."""
    here = ctypes.CDLL(None).sched_getcpu()
    allowed = os.sched_getaffinity(0)
    return here if here in allowed else min(allowed)
