"""Processes as greenlets of one OS process, each with its own handle, descriptors and maps.

Open-file-description locks belong to the description, and shared maps to whoever mapped them, so both behave between
the handles of one process as they do between processes. A greenlet moves from one sync point to the next; the
hook at the point switches back.

A kill does what the kernel does to a process that dies: its descriptors go, and with them its locks. Each is
replaced in place (dup2(2)) by one of ``/dev/null``, so that its number cannot come to mean another file. The victim's
greenlet is never resumed while the schedule lasts. Its frames are unwound when the schedule is over, everybody else is
gone and the store was examined: then its descriptors lead nowhere, every sync point raises, and every byte is
put back before anybody looks again, so that no ``finally`` of the dead can have an effect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import greenlet

from harness.scenario import Scenario
from harness.stepped import medium
from harness.stepped.base import Actor, State
from harness.stepped.place import Place, disown
from harness.stepped.program import Cast, play
from kvs import files, locks, syncpoints


class _Within:
    """What the simulation knows about one process."""

    __slots__ = ("descriptors", "greenlet", "muted", "switch", "write")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.switch: Any = None
        self.descriptors: set[int] = set()
        self.write: Any = None
        self.muted = True
        """It opens the store before the start, or is dead and its frames are unwound: it stops at no point."""


class Simulated:
    """A stage of greenlets. Several may be open in a process; whichever begins owns the store's hooks from then on, so
    a schedule must have ended before another stage begins one.
    """

    def __init__(self, scenario: Scenario, place: Place | None = None) -> None:
        self.scenario = scenario
        self.place = place or Place(scenario)
        self._taken = self.place.taken
        self.clock = 0
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._hub = greenlet.getcurrent()
        self._switch = self._hub.switch
        self._current: Actor | None = None
        self._unwinding = False
        self._actors: list[Actor] = []

    def _take_over(self) -> None:
        """Own the store's hooks."""
        if files.opened != self._opened:
            syncpoints.install(self._reached, self._waits, self._freed)
            files.opened, files.closing = self._opened, self._closing
        if self.scenario.durable:
            self.place.medium.watch()
        else:
            medium.unwatched()

    # -- the seams of the store ---------------------------------------------------------------------------

    def _reached(self, point: str, write: Any = None) -> None:
        actor = self._current
        if actor is None:
            return
        if actor.within.muted:
            if self._unwinding:
                raise greenlet.GreenletExit
            return
        actor.point = point
        actor.hits += 1
        if write is None:
            self._switch()
            return
        data = write[2]
        actor.parts = sum(map(len, data)) if type(data) is list else len(write[1])
        actor.within.write = write
        if self.scenario.durable:
            self.place.medium.reached(point, write)
        self._switch()
        actor.parts = 0

    def _waits(self, lock: str, attempt: int) -> None:
        actor = self._current
        if actor is None:
            if attempt > 1000:
                raise RuntimeError(f"{lock} is held although everybody is gone")
            return
        if self._unwinding:
            raise greenlet.GreenletExit
        actor.state, actor.waits = State.WAITING, lock
        self._switch()
        actor.state, actor.waits = State.PARKED, ""

    def _freed(self, lock: str) -> None:  # noqa: ARG002 - whichever it is
        self._taken.clear()

    def _opened(self, fd: int) -> None:
        if self._current is not None:
            self._current.within.descriptors.add(fd)

    def _closing(self, fd: int) -> None:
        if self._current is not None:
            self._current.within.descriptors.discard(fd)
            self._taken.clear()

    # -- the stage ----------------------------------------------------------------------------------------

    def begin(self) -> Sequence[Actor]:
        """See ``Stage``."""
        self.clock = 0
        self._take_over()
        self._unwind()
        self.place.restore()
        self.place.told = True
        self._actors = [Actor(number, program) for number, program in enumerate(self.scenario.programs, 1)]
        for actor in self._actors:
            within = actor.within = _Within()
            cast = self.place.cast(self._pause, actor.events.append, self._now)
            within.greenlet = greenlet.greenlet(self._live)
            within.switch = within.greenlet.switch
            within.muted = not actor.program.joins
            self._current = actor
            within.switch(actor, cast)
        return self._actors

    def _now(self) -> int:
        return self.clock

    def _pause(self, point: str) -> None:
        actor = self._current
        assert actor is not None
        actor.within.muted = False
        self._reached(point)

    def _live(self, actor: Actor, cast: Cast) -> None:
        """The whole life of a process. What it raises after its death is nobody's business."""
        try:
            play(actor.number, actor.program, cast, lambda: self.place.open_for(actor.program))
        except greenlet.GreenletExit:
            return
        except BaseException:
            if not self._unwinding:
                raise
            return
        if not self._unwinding:
            actor.state, actor.point = State.ENDED, ""
            self._release(actor)

    def step(self, actor: Actor) -> None:
        """See ``Stage``."""
        self._current = actor
        actor.within.switch()

    def kill(self, actor: Actor, torn: int) -> None:
        """See ``Stage``."""
        if torn and actor.parts:
            store, position, data = actor.within.write
            store(position, data, torn)
        actor.state = State.DEAD
        self._release(actor)

    def _release(self, actor: Actor) -> None:
        """Close what a process that is gone had open, keeping the numbers."""
        self._taken.clear()
        for fd in actor.within.descriptors:
            os.dup2(self._null, fd, inheritable=False)

    def holding(self, actor: Actor) -> tuple[str, ...]:
        """See ``Stage``: asked of the range locks behind its descriptors."""
        return locks.held_by(actor.within.descriptors)

    def end(self) -> None:
        """See ``Stage``."""
        self._current = None
        self.place.told = False
        for actor in self._actors:
            if actor.state in (State.PARKED, State.WAITING, State.ABSENT):
                self.kill(actor, 0)

    def _unwind(self) -> None:
        """Let go of the frames and the descriptors of the last schedule's processes."""
        self._unwinding = True
        for actor in self._actors:
            self._current = actor
            within = actor.within
            within.muted = True
            if not within.greenlet.dead:
                with contextlib.suppress(Exception):
                    within.greenlet.throw(greenlet.GreenletExit)
            disown(within.descriptors)
            for fd in within.descriptors:
                os.close(fd)
            within.descriptors.clear()
            within.greenlet = within.switch = within.write = None
        self._current = None
        self._unwinding = False
        self._actors = []

    def close(self) -> None:
        """See ``Stage``."""
        self._take_over()
        self.end()
        self._unwind()
        syncpoints.install(None)
        files.opened = files.closing = files._nothing
        medium.unwatched()
        os.close(self._null)
        self.place.close()

    def __enter__(self) -> Simulated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
