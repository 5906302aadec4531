"""Real processes for tests: forked from a single-threaded server, spoken to over a pipe, killed for real.

The test process itself is never forked: it has threads (xdist), and CPython warns of that from 3.12 on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import types
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from kvs import syncpoints
from kvs.locks import COMMIT, DURABLE, RangeLocks, sync_range, writer_range

ANSWER_TIMEOUT_S = 60.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pytest", "kvs", "kvs.store", "tests.kvs.children"])


class Child:
    """A process that runs ``body(connection, *arguments)``; as a context manager it never outlives it."""

    def __init__(self, body: Callable[..., None], *arguments: Any) -> None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the server shall have one thread, to be forked
        self.connection, far = _context.Pipe()
        self.process = _context.Process(target=_run, args=(body, far, arguments), daemon=True)
        self.process.start()
        far.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def send(self, message: object = "go") -> None:
        """Say something to it."""
        try:
            self.connection.send(message)
        except BrokenPipeError:
            self.receive()  # which fails with what it failed of
            raise

    def receive(self) -> Any:
        """The next thing that it says. Fails the test with its traceback if it failed, or after a minute."""
        assert self.connection.poll(ANSWER_TIMEOUT_S), f"pid {self.pid} says nothing"
        try:
            message = self.connection.recv()
        except EOFError:
            self.process.join()
            raise AssertionError(f"pid {self.pid} ended with {self.process.exitcode}") from None
        assert not isinstance(message, Failure), message.trace
        return message

    def stop(self) -> None:
        """SIGSTOP it and wait until the kernel shows that it stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        await_state(self.pid, "T")

    def kill(self) -> None:
        """SIGKILL it and wait for its death."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.join() == -signal.SIGKILL

    def join(self) -> int:
        """Wait for its end; the exit code, minus the signal where it was killed."""
        self.process.join(ANSWER_TIMEOUT_S)
        assert self.process.exitcode is not None, f"pid {self.pid} does not end"
        return self.process.exitcode

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.process.kill()  # harmless where it has ended
        self.process.join()
        self.process.close()
        self.connection.close()


class Failure(NamedTuple):
    """What a child says instead of an answer when it raised."""

    trace: str


def _run(body: Callable[..., None], connection: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        body(connection, *arguments)
    except BaseException:  # noqa: BLE001 - the test shows it
        connection.send(Failure(traceback.format_exc()))
        raise SystemExit(70) from None


def await_state(pid: int, wanted: str) -> None:
    """Wait until proc_pid_stat(5) shows ``wanted`` as the state of ``pid``."""
    while True:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            if stat.read().rpartition(")")[2].split()[0] == wanted:
                return
        os.sched_yield()


class Death(NamedTuple):
    """Where a process kills itself: at the ``hit``-th time that it reaches ``point``, after ``part`` of the
    write that the point carries, if any ("nothing", "one", "half", "all but one", "all but reserved", "all").
    """

    point: str
    hit: int = 1
    part: str = ""


def die_at(death: Death, connection: Connection) -> None:
    """Install a hook that says ``death.point`` to the test and kills this process there."""
    hits = 0

    def hook(name: str, write: tuple[Callable[..., None], Any, Any] | None = None) -> None:
        nonlocal hits
        hits += name == death.point
        if name != death.point or hits < death.hit:
            return
        if death.part:
            assert write is not None, f"{name} carries no write"
            store, position, data = write
            store(position, data, _count(death.part, _units(position, data)))
        connection.send(name)
        os.kill(os.getpid(), signal.SIGKILL)

    syncpoints.install(hook)


def _units(position: Any, data: Any) -> int:
    """Bytes of a write in one place, words of a scattered one."""
    return sum(map(len, data)) if isinstance(position, int) else len(position)


def _count(part: str, total: int) -> int:
    missing = {"all but one": 1, "all but reserved": 17, "all": 0}
    return {"nothing": 0, "one": 1, "half": total // 2}.get(part, total - missing.get(part, 0))


def held(path: Path) -> set[str]:
    """The names of the locks of place 0, and of all, that somebody holds."""
    asking = RangeLocks(path / "ranges.lock", lambda _: 0)
    ranges = (writer_range(0), COMMIT, sync_range(0), DURABLE)
    found = {each.name for each in ranges if asking.held_elsewhere(each)}
    asking.close()
    return found
