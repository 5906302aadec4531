"""Recording real processes that run as they like, until they are done or die of a real SIGKILL.

All of them write to one journal. Whoever changes a file holds it meanwhile, so that it has the order in which the files
were changed; and it is not held at any point where a process is killed, so nothing is done that is not noted.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from harness.errors import HarnessError
from harness.explore_job import aims
from harness.history import Event as Said
from harness.powerloss.journal import Mapped
from harness.powerloss.recorded import ENGINE, options
from harness.powerloss.recorder import Recorder, starts
from harness.powerloss.teller import Teller
from harness.powerloss.trace import Died, Event, Trace
from harness.scenario import Scenario
from harness.stepped.medium import nothing_missing
from harness.stepped.nursery import uninterrupted
from harness.stepped.place import Place
from harness.stepped.program import play
from harness.worker import STATUS_CRASHED, enter
from kvs import syncpoints

LIMIT_S: Final = 60.0
"""A run that takes longer never ends."""
_FRAME: Final = struct.Struct("<I")
_COUNT_SHIFT: Final = 40
_LENGTH_MASK: Final = (1 << _COUNT_SHIFT) - 1
_LOOK_EVERY_S: Final = 0.0005
"""While somebody is to be killed from outside."""
_STRUCK_SHARE: Final = 0.3
"""Of the victims, so many are killed from outside, wherever they are."""
_STRUCK_AFTER_MAX: Final = 250
_POINT_SHARE: Final = 0.6
"""Of the others, so many wait for a point that was drawn; the rest die after so many points of any kind."""
_POINTS_MAX: Final = 60
"""A victim dies at this one of the points that it comes to, if nothing else has killed it before."""
_TORN_SHARE: Final = 0.6


class SharedJournal:
    """A journal in a file of ``directory``, with the copies of what is mapped in files beside it. Each process calls
    ``join`` before anything else. Whatever a process that dies had begun to write down, and not finished, is not there.
    """

    shared = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._known = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        """One word, stored at once: how many events there are above how many bytes they take with everything else."""
        self._seen = 0
        self._fd = -1
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Event | Mapped).decode
        self.join()

    def join(self) -> None:
        """Take part as a process of its own: a lock belongs to whoever has opened the file itself (flock(2))."""
        self.leave()
        self._fd = os.open(self._directory / "journal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def leave(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def count(self) -> int:
        """How many events there are."""
        return self._known[0] >> _COUNT_SHIFT

    def append(self, entry: Event | Mapped) -> None:
        """See ``Journal``."""
        data = self._encode(entry)
        frame = _FRAME.pack(len(data)) + data
        os.pwrite(self._fd, frame, self._seen)
        self._seen += len(frame)
        count = self.count + (not isinstance(entry, Mapped))
        self._known[0] = count << _COUNT_SHIFT | self._seen

    def others(self) -> list[Event | Mapped]:
        """See ``Journal``."""
        begin, self._seen = self._seen, self._known[0] & _LENGTH_MASK
        return list(self._entries(begin, self._seen)) if begin < self._seen else []

    def events(self) -> list[Event]:
        """All of them, when nobody writes any more."""
        entries = self._entries(0, self._known[0] & _LENGTH_MASK)
        return [entry for entry in entries if not isinstance(entry, Mapped)]

    def copy_of(self, file: int) -> int:
        """See ``Journal``."""
        return os.open(self._directory / f"copy-{file}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _entries(self, begin: int, end: int) -> Iterator[Event | Mapped]:
        data = os.pread(self._fd, end - begin, begin)
        position = 0
        while position < len(data):
            (length,) = _FRAME.unpack_from(data, position)
            position += _FRAME.size
            yield self._decode(data[position : position + length])
            position += length

    def __enter__(self) -> SharedJournal:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


class Fate(NamedTuple):
    """How a victim dies: at the ``hits``-th time at ``point`` ("": at any), after ``torn`` of the write that it stands
    before, a share. Or from outside, after so many events (``struck``).
    """

    point: str = ""
    hits: int = 0
    torn: float = 0.0
    struck: int = 0


def fates(scenario: Scenario, seed: int) -> dict[int, Fate]:
    """Who is to die, by number; those of them who do not come to where they would live on."""
    random = Random(f"{seed}/processes")
    numbers = range(1, len(scenario.programs) + 1)
    there = [number for number in numbers if not scenario.programs[number - 1].joins]
    first = random.choice(there)  # or nobody would join
    rest = random.sample([number for number in numbers if number != first], len(numbers) - 1)
    points = aims(scenario)
    found = {}
    for number in [first, *rest][: scenario.kills]:
        torn = random.random() if scenario.torn and random.random() < _TORN_SHARE else 0.0
        if random.random() < _STRUCK_SHARE:
            found[number] = Fate(struck=random.randint(1, _STRUCK_AFTER_MAX))
        elif random.random() < _POINT_SHARE:
            found[number] = Fate(random.choice(points), random.choice((1, 1, 2, 3)), torn)
        else:
            found[number] = Fate("", random.randint(1, _POINTS_MAX), torn)
    return found


class _Process:
    """The inside of a process of the scenario, from its fork to its end."""

    def __init__(self, number: int, place: Place, recorder: Recorder, fate: Fate | None) -> None:
        self._number = number
        self._place = place
        self._recorder = recorder
        self._fate = fate
        self._teller = Teller(place)
        self._hits = 0
        self._points = 0

    def live(self) -> None:
        """Play the program."""
        place, number = self._place, self._number
        program = place.scenario.programs[number - 1]
        cast = place.cast(self._reached, self._said, lambda: 0)._replace(oldest_missing=nothing_missing)
        syncpoints.install(self._reached)
        self._recorder.attach()
        play(number, program, cast, lambda: place.open_for(program))
        self._recorder.note(*self._teller.ended(number))

    def _said(self, event: Said) -> None:
        if events := self._teller.said(event):
            self._recorder.note(*events)

    def _reached(self, point: str, write: Any = None) -> None:
        self._recorder.note(*self._teller.reached(self._number, point, write))
        fate = self._fate
        if fate is not None and not fate.struck:
            self._points += 1
            self._hits += fate.point in ("", point)
            if self._hits == fate.hits or self._points == _POINTS_MAX:
                self._die(fate, write)

    def _die(self, fate: Fate, write: Any) -> None:
        if write is not None and fate.torn:
            store, position, data = write
            parts = sum(map(len, data)) if type(data) is list else len(position)
            store(position, data, int(fate.torn * parts) or 1)
        self._recorder.note(Died(self._number))
        os.kill(os.getpid(), signal.SIGKILL)


class _Run:
    """The processes of one run, and what they write down."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._fates = fates(place.scenario, seed)
        self._journal = SharedJournal(place.directory / "journal")
        self._acting = 0
        self._recorder = Recorder(place.store, journal=self._journal, who=lambda: self._acting)
        self._errors = os.memfd_create("harness-errors", os.MFD_CLOEXEC)
        self._alive: dict[int, tuple[int, int]] = {}
        """Process id and number of each one, by a descriptor that says when it has ended (pidfd_open(2))."""
        self._poll = select.poll()

    def play(self) -> list[Event]:
        """Everything that happened. Raises HarnessError where a process ends in a way that nobody meant."""
        programs = dict(enumerate(self._place.scenario.programs, 1))
        end, deaths = time.monotonic() + LIMIT_S, 0
        while True:
            for number in [number for number, program in programs.items() if program.joins <= deaths]:
                del programs[number]
                self._fork(number)
            if not self._alive:
                break
            patience_s = _LOOK_EVERY_S if self._aims() else max(0.0, end - time.monotonic())
            ended = self._poll.poll(patience_s * 1000)
            if not ended and time.monotonic() >= end:
                numbers = ", ".join(str(number) for _, number in self._alive.values())
                raise HarnessError(
                    f"process {numbers} of scenario {self._place.scenario.name} did not end within {LIMIT_S:g} s;"
                    " nothing was recorded"
                )
            for fd, _ in ended:
                deaths += self._reap(fd)
            deaths += self._strike()
        self._recorder.note_stores()
        return self._journal.events()

    def _aims(self) -> dict[int, int]:
        """Who is to be killed from outside: after how many events, by the descriptor that says when it has ended."""
        fates = {fd: self._fates.get(number) for fd, (_, number) in self._alive.items()}
        return {fd: fate.struck for fd, fate in fates.items() if fate is not None and fate.struck}

    def _strike(self) -> int:
        """Kill those for whom it is time; how many died of it. Nobody is in the middle of anything that is noted, and
        who waits for the journal never gets it.
        """
        deaths = 0
        for fd, struck in self._aims().items():
            if self._journal.count < struck:
                continue
            pid, number = self._alive[fd]
            with uninterrupted(), self._journal:
                os.kill(pid, signal.SIGKILL)
                died = self._reap(fd)
            if died:
                self._recorder.note(Died(number))
            deaths += died
        return deaths

    def _fork(self, number: int) -> None:
        with uninterrupted():
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                self._be(number, parent)
            fd = os.pidfd_open(pid)
            self._alive[fd] = pid, number
            self._poll.register(fd, select.POLLIN)

    def _be(self, number: int, parent: int) -> None:
        """The whole life of a child: it never returns, and just ends without closing anything."""
        status = STATUS_CRASHED
        try:
            enter(self._errors, parent)
            self._acting = number
            self._journal.join()
            _Process(number, self._place, self._recorder, self._fates.get(number)).live()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it belongs to whoever forked
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def _reap(self, fd: int) -> bool:
        """Whether the process of ``fd``, which has ended, was killed as it was meant to be."""
        with uninterrupted():
            pid, number = self._alive.pop(fd)
            self._poll.unregister(fd)
            os.close(fd)
            _, status = os.waitpid(pid, 0)
        if status == 0:
            return False
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL and number in self._fates:
            return True
        how = f"exited with status {code}" if code >= 0 else f"died of {signal.Signals(-code).name}"
        said = os.pread(self._errors, 1 << 16, 0).decode(errors="replace").strip()
        raise HarnessError(
            f"process {number} of scenario {self._place.scenario.name} {how} by itself; nothing was recorded"
            f"{said and ': '}{said and said.splitlines()[-1]}"
        )

    def close(self) -> None:
        """Leave no process behind."""
        with uninterrupted():
            for fd, (pid, _) in self._alive.items():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(fd)
            self._alive.clear()
        self._recorder.detach()
        self._journal.leave()
        os.close(self._errors)


def record_processes(scenario: Scenario, seed: int) -> Trace:
    """The trace of one run of real processes that are not stepped: ``seed`` says who dies where, the system all else.

    Raises:
        HarnessError: a process crashed, or does not end.
    """
    with Place(scenario) as place:
        files, committed = starts(place.store), Teller(place).committed(place.setup)
        run = _Run(place, seed)
        try:
            events = run.play()
        finally:
            run.close()
    return Trace(ENGINE, options(scenario, seed), files, events, committed)
