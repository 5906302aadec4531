"""Processes that do trials and may die of them: each one announces its trial before it begins.

A trial that needs too much processor time ends its process by SIGPROF, one that waits too long by SIGALRM, one that
wants too much memory gets a MemoryError; whatever else the damage does to a process is told by the signal that it died
of. Then another process goes on behind that trial.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from harness.damage import asking
from harness.damage.asking import OUTCOMES, PHASES
from harness.damage.damages import Damage
from harness.damage.place import Place
from harness.damage.subjects import Subject
from harness.damage.trials import Trials
from harness.errors import HarnessError
from harness.worker import die_with
from kvs import syncpoints

CPU_LIMIT_S: Final = 5.0
REAL_LIMIT_S: Final = 120.0
MEMORY_BYTES: Final = 1 << 30
"""So much more than at its start may a worker have mapped."""
_KEPT: Final = 3
"""Findings of one kind that each worker writes down; the others are counted."""
_WHOLE_EVERY: Final = 512
_NICE: Final = 10
_POLL_S: Final = 0.2
_HEAD: Final = 4
_NEXT, _DONE, _STOP, _BEGUN = range(_HEAD)


class Seen(msgspec.Struct, frozen=True):
    """A trial that must not have ended as it did."""

    number: int
    kind: str
    message: str


class Crew:
    """Workers of one campaign, and what they have seen so far. Close it: they are gone then."""

    def __init__(self, subjects: Sequence[Subject], trials: Trials, directory: Path, workers: int) -> None:
        self._subjects, self._trials, self._directory = subjects, trials, directory
        self._workers = workers
        shape = (workers, _HEAD + len(subjects) * len(PHASES) * len(OUTCOMES))
        self._words = np.frombuffer(mmap.mmap(-1, shape[0] * shape[1] * 8), dtype=np.int64).reshape(shape)
        self._counts = self._words[:, _HEAD:].reshape(workers, len(subjects), len(PHASES), len(OUTCOMES))
        self._words[:, _NEXT] = range(workers)
        self._words[:, _BEGUN] = -1
        self._pids: dict[int, int] = {}
        self.deaths: list[Seen] = []

    @property
    def done(self) -> int:
        """Trials that are over."""
        return int(self._words[:, _DONE].sum())

    def counts(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Trials by subject, phase and outcome."""
        counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = self._counts.sum(axis=0)
        return counts

    def seen(self) -> list[Seen]:
        """What was found, by the number of the trial."""
        found = list(self.deaths)
        for path in self._directory.glob("seen.*"):
            found += [msgspec.json.decode(line, type=Seen) for line in path.read_bytes().splitlines()]
        return sorted(found, key=lambda each: each.number)

    def work(self, count: int, seconds: float | None, show: Callable[[], None]) -> None:
        """Do all trials below ``count``, for at most so long. Ctrl-C ends it, and is passed on."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with selectors.DefaultSelector() as ready, ExitStack() as open_files:
            for worker in range(self._workers):
                self._start(worker, count, ready, open_files)
            try:
                while ready.get_map():
                    for key, _ in ready.select(_POLL_S):
                        ready.unregister(key.fileobj)
                        if self._buried(key.data):
                            self._start(key.data, count, ready, open_files)
                    if deadline is not None and time.monotonic() > deadline:
                        self._words[:, _STOP] = 1
                    show()
            except BaseException:
                self._words[:, _STOP] = 1
                raise
            finally:
                self.close()

    def close(self) -> None:
        """End all workers: those that were asked to stop finish their trial."""
        if not self._words[0, _STOP]:
            for pid in self._pids.values():
                os.kill(pid, signal.SIGKILL)
        for worker in list(self._pids):
            self._buried(worker)

    def _start(self, worker: int, count: int, ready: selectors.BaseSelector, stack: ExitStack) -> None:
        if self._words[worker, _NEXT] >= count or self._words[worker, _STOP]:
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with(parent)
                self._live(worker, count)
                status = 0
            except BaseException as error:  # noqa: BLE001 - nothing of a child may reach the parent's code
                (self._directory / f"failed.{worker}").write_text(f"{type(error).__name__}: {error}")
            os._exit(status)
        self._pids[worker] = pid
        fd = os.pidfd_open(pid)
        stack.callback(os.close, fd)
        ready.register(fd, selectors.EVENT_READ, worker)

    def _buried(self, worker: int) -> bool:
        """Whether there is more to do for the worker that has ended: it died of its trial."""
        _, status = os.waitpid(self._pids.pop(worker), 0)
        if os.WIFEXITED(status):
            failed = self._directory / f"failed.{worker}"
            if failed.exists():
                raise HarnessError(f"a worker failed otherwise than by its trial: {failed.read_text()}")
            return False
        number = os.WTERMSIG(status)
        begun = int(self._words[worker, _BEGUN])
        if begun < 0 or self._words[worker, _STOP]:
            return False
        trial = self._trials[begun]
        if number in (signal.SIGPROF, signal.SIGALRM):
            kind, message = "hang", "it went on and on"
        else:
            kind, message = signal.Signals(number).name, f"the process died of {signal.Signals(number).name}"
        self.deaths.append(Seen(begun, f"{kind} ({trial.phase})", message))
        self._counts[worker, trial.subject, PHASES.index(trial.phase), OUTCOMES.index("violation")] += 1
        self._words[worker, _DONE] += 1
        self._words[worker, _NEXT] = begun + self._workers
        return True

    # -- in the child -----------------------------------------------------------------------------------------

    def _live(self, worker: int, count: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        confined()
        os.nice(_NICE)
        words, counts = self._words[worker], self._counts[worker]
        directory = self._directory / f"worker.{os.getpid()}"
        directory.mkdir()
        places: dict[int, Place] = {}
        kept: dict[str, int] = {}
        out = os.open(self._directory / f"seen.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for number in range(int(words[_NEXT]), count, self._workers):
            if words[_STOP]:
                return
            trial = self._trials[number]
            if trial.subject not in places:
                places[trial.subject] = Place(self._subjects[trial.subject], directory)
            place = places[trial.subject]
            words[_BEGUN] = number
            outcome, problems = limited(place, trial.damage, trial.phase, trial.io)
            for problem in problems:
                kept[problem.kind] = kept.get(problem.kind, 0) + 1
                if kept[problem.kind] <= _KEPT:
                    seen = Seen(number, f"{problem.kind} ({trial.phase})", problem.message[:2000])
                    os.write(out, msgspec.json.encode(seen) + b"\n")
            counts[trial.subject, PHASES.index(trial.phase), OUTCOMES.index(outcome)] += 1
            words[_DONE] += 1
            words[_NEXT] = number + self._workers
            if words[_DONE] % _WHOLE_EVERY == 0 and not place.is_whole():
                raise HarnessError(f"the store {place.path} was not put back after trial {number}")


def confined() -> None:
    """A process for trials: little memory, and waits that spin, so that a hang is told by its processor time."""
    sys.stderr.flush()
    faulthandler.disable()  # a death is told by whoever waits for it
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    syncpoints.install(None, lambda *_: None)
    asking.watch_unraisable()
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)


def limited(place: Place, damage: Damage, phase: str, io: str) -> tuple[str, list[asking.Problem]]:
    """``asking.run`` within the limits of time: the process dies where they are passed."""
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, REAL_LIMIT_S)
    with asking.booted(place.subject.boot):
        found = asking.run(place, damage, phase, io)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found
