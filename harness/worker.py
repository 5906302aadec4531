"""One worker process: it opens the store, performs acts and writes its history until it is told to stop, or
dies.

A worker is forked from a warm parent, opens the store after the fork, and leaves by ``os._exit``. It ignores
SIGINT, which is the supervisor's business, and the kernel kills it when its parent dies
(``PR_SET_PDEATHSIG``, prctl(2)), however that happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from harness.board import Board, Slot
from harness.checkers import rebuild
from harness.engines.base import Compacting, Engine, InDoubtError, Rebuilding, Session, Snapshot
from harness.errors import ConflictError, EngineDamagedError
from harness.faults import HOUSEKEEPER, NO_FAULT, Fault, hook_for
from harness.history import (
    Fail,
    HistoryWriter,
    Info,
    Invoke,
    Left,
    Mark,
    Ok,
    Read,
    RunEvent,
    Violation,
    operation_id,
    unfinished,
)
from harness.holding import Holding
from harness.plan import Plan
from harness.workloads import keys_max
from harness.workloads.base import Act, Anomaly, Done, Workload, in_snapshot

STATUS_OK: Final = 0
STATUS_VIOLATION: Final = 65
"""It saw a violation, which its history holds, and left."""
STATUS_CRASHED: Final = 70
"""An exception that nobody expected; its traceback is in the slot's file of errors."""

_ATTEMPTS: Final = 5
_BACKOFF_S: Final = (0.0001, 0.002)
_READER_PAUSE_S: Final = 0.008
"""At most; readers without a pause would take the processors from the writers and fill the disk."""
_AUDITOR_PAUSE_S: Final = 0.2
_HOUSEKEEPER_PAUSE_S: Final = 0.15
"""At most; two of them meet at times, and one waits for the other or is refused."""
_THOROUGH_SHARE: Final = 0.7
"""Of the rounds of housekeeping, the share that gives back all that can be; the others only what is mostly dead."""
_SECOND_SESSION_SHARE: Final = 0.03
_VERIFY_SHARE: Final = 0.3

_RESOLVED_ITEMS_MAX: Final = 4
"""One item is enough where the store keeps a history; without one it may have been overwritten, and others not."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)


class Assignment(NamedTuple):
    """Who a worker is: its number, its slot and role, how many played this slot before it, its fault, and the
    killed processes whose last write it is to look for first.
    """

    process: int
    slot: int
    role: str
    incarnation: int
    fault: Fault = NO_FAULT
    unresolved: tuple[int, ...] = ()


class Scene(NamedTuple):
    """What all workers of a run share; made in the parent before any fork."""

    plan: Plan
    engine: Engine
    workloads: tuple[Workload, ...]
    board: Board
    store: Path
    run_dir: Path

    def history_path(self, process: int) -> Path:
        """Where the history of ``process`` goes."""
        return self.run_dir / "history" / f"{process}.jsonl"


def stream(seed: int, assignment: Assignment, purpose: str) -> Random:
    """The random stream of one worker for one purpose; streams of different purposes never touch."""
    return Random(f"{seed}/{assignment.role}/{assignment.slot}/{assignment.incarnation}/{purpose}")


class Leave(Exception):  # noqa: N818 - not an error: the worker has seen a violation and is done
    """The worker has recorded a violation and ends."""


class Client:
    """Performs acts through one session and writes the history of one process."""

    def __init__(
        self, process: int, history: HistoryWriter, board: Board, slot: Slot, holding: Holding | None = None
    ) -> None:
        self._process = process
        self._spans = holding.take if holding is not None else tuple
        self._history = history
        self._board = board
        self._slot = slot
        self._index = 0

    def perform(self, session: Session, act: Act) -> bool:
        """Do ``act`` as the next operation; whether it took effect, or may have.

        Raises:
            Leave: it saw what must never be seen; the history holds it and the board says so.
            Exception: whatever else went wrong; the operation is recorded as ``info``.
        """
        self._index += 1
        index, process = self._index, self._process
        identity = operation_id(process, index)
        values = act.values(identity) if act.values is not None else {}
        now, (f, workload) = time.monotonic_ns(), act[:2]
        self._history.append(
            Invoke(process, index, now, f, workload, act.writes, act.deletes, values, act.resolves)
        )
        self._slot.began(act.byte_count)
        try:
            done = act.body(session, identity)
        except ConflictError as error:
            self._history.append(Fail(process, index, time.monotonic_ns(), str(error), self._spans()))
            self._slot.completed(None)
            return False
        except InDoubtError as error:
            self._history.append(Info(process, index, time.monotonic_ns(), str(error), self._spans()))
            self._slot.completed(None)
            return True
        except BaseException as error:
            self._failed(act, error)
            raise
        now = time.monotonic_ns()
        self._history.append(Ok(process, index, now, done.sequence, done.reads, done.values, self._spans()))
        self._slot.completed(now if act.f == "write" else None)
        return True

    def _failed(self, act: Act, error: BaseException) -> None:
        now = time.monotonic_ns()
        if isinstance(error, Anomaly) and error.reads and act.f == "read":
            # A whole view that cannot be is evidence for the checkers, too.
            self._history.append(
                Ok(self._process, self._index, now, error.sequence, error.reads, spans=self._spans())
            )
        else:
            words = f"{type(error).__name__}: {error}"
            self._history.append(Info(self._process, self._index, now, words, self._spans()))
        self.report(error)

    def report(self, error: BaseException) -> None:
        """Record a violation if ``error`` is one, and raise ``Leave`` then."""
        if isinstance(error, Anomaly):
            property_name = error.property_name
        elif isinstance(error, EngineDamagedError):
            property_name = "structure"
        else:
            return
        self.violation(property_name, str(error))

    def violation(self, property_name: str, message: str) -> None:
        """Record what must never be seen and tell the supervisor.

        Raises:
            Leave: always.
        """
        self._history.append(
            Violation(self._process, time.monotonic_ns(), property_name, message, self._index)
        )
        self._board.set_violation()
        raise Leave


def run_worker(scene: Scene, assignment: Assignment) -> None:
    """Play ``assignment`` until the board says stop, then close the store.

    Raises:
        Leave: a violation was seen and recorded.
    """
    slot = scene.board.slots[assignment.slot]
    slot.set_phase("opening")
    holding = Holding(slot, scene.board.points) if assignment.role != HOUSEKEEPER else None
    scene.engine.install_hook(hook_for(assignment.fault, scene.board, slot, holding))
    if scene.plan.bug:
        scene.engine.plant(scene.plan.bug)
    history = HistoryWriter(scene.history_path(assignment.process))
    client = Client(assignment.process, history, scene.board, slot, holding)
    with _damage_reported(client):
        session = _patient_open(scene.engine, scene.store)
        slot.set_phase("working")
        resolve(scene, assignment, client, session)
        if not scene.board.stop:
            _ROLES[assignment.role](scene, assignment, client, session)
        slot.set_phase("closing")
        session.close()
    slot.set_phase("closed")


def resolve(scene: Scene, assignment: Assignment, client: Client, session: Session) -> None:
    """Find out what became of the write that each of ``assignment.unresolved`` was killed in: opening a session for
    writing has recovered the store, and what it keeps of the write's items tells. The board says when it is done.
    """
    workloads = {workload.name: workload for workload in scene.workloads}
    for process in assignment.unresolved:
        killed = unfinished(scene.history_path(process))
        if killed is not None and killed.f == "write":
            act = _resolution(workloads[killed.workload], killed)
            while not client.perform(session, act):
                time.sleep(_BACKOFF_S[1])
    scene.board.slots[assignment.slot].set_resolved()


def _resolution(workload: Workload, killed: Invoke) -> Act:
    items = (*killed.writes, *killed.deletes)[:_RESOLVED_ITEMS_MAX]

    def body(session: Session, _: int) -> Done:
        session.settle()
        return Done(None, tuple(read for item in items for read in workload.versions(session, item)))

    return Act("resolve", workload.name, body, resolves=operation_id(killed.process, killed.index))


def write_forever(scene: Scene, assignment: Assignment, client: Client, session: Session) -> None:
    """A writer: one act after another, through a second session now and then.

    Opening and closing a second session on the same store in one process is what exposes POSIX record locks,
    which vanish when any descriptor of the file is closed (fcntl(2)).
    """
    draw = stream(scene.plan.seed, assignment, "workload")
    schedule = stream(scene.plan.seed, assignment, "schedule")
    while not scene.board.stop:
        workload = draw.choice(scene.workloads)
        second = draw.random() < _SECOND_SESSION_SHARE
        used = _patient_open(scene.engine, scene.store) if second else session
        with contextlib.suppress(ConflictError):  # a busy store may refuse even the look that makes an act
            _persist(client, used, workload.write(draw, used), schedule)
        if second:
            used.close()


def _persist(client: Client, session: Session, act: Act, schedule: Random) -> None:
    """Perform ``act``; while it is refused, again, as a new operation, after a random pause that grows."""
    for attempt in range(_ATTEMPTS):
        if client.perform(session, act):
            return
        time.sleep(schedule.uniform(*_BACKOFF_S) * (1 + attempt))


def read_forever(scene: Scene, assignment: Assignment, client: Client, session: Session) -> None:
    """A reader: snapshots and single reads, checked on the spot, with short pauses."""
    draw = stream(scene.plan.seed, assignment, "workload")
    schedule = stream(scene.plan.seed, assignment, "schedule")
    while not scene.board.stop:
        with contextlib.suppress(ConflictError):
            client.perform(session, draw.choice(scene.workloads).read(draw, session))
        time.sleep(schedule.uniform(0, _READER_PAUSE_S))


def audit_forever(scene: Scene, assignment: Assignment, client: Client, session: Session) -> None:
    """The auditor: everything in one snapshot, the store's own check on the live store, a second session."""
    schedule = stream(scene.plan.seed, assignment, "schedule")
    while not scene.board.stop:
        everything = in_snapshot(
            "all", lambda snapshot: _everything(scene.workloads, snapshot, retired=False)
        )
        if schedule.random() < 0.3:
            other = _patient_open(scene.engine, scene.store)
            client.perform(other, everything)
            other.close()
        else:
            client.perform(session, everything)
        if schedule.random() < _VERIFY_SHARE:
            with contextlib.suppress(ConflictError):
                for finding in session.verify(thorough=False):
                    client.violation("structure", finding)
        time.sleep(schedule.uniform(0, _AUDITOR_PAUSE_S))


def housekeep_forever(scene: Scene, assignment: Assignment, client: Client, session: Session) -> None:  # noqa: ARG001
    """A housekeeper: asks the store to give back what is dead, a lot or a little, and says what it needs then."""
    engine, board = scene.engine, scene.board
    assert isinstance(engine, Compacting), "only such an engine has housekeepers"
    schedule = stream(scene.plan.seed, assignment, "schedule")
    while not board.stop:
        dead_min = 0.0 if schedule.random() < _THOROUGH_SHARE else schedule.uniform(0.1, 0.9)
        with contextlib.suppress(ConflictError):
            needed_bytes = engine.housekeep(session, dead_min)
            board.slots[assignment.slot].needs(needed_bytes, time.monotonic_ns())
        time.sleep(schedule.uniform(0, _HOUSEKEEPER_PAUSE_S))


def run_setup(scene: Scene, assignment: Assignment) -> None:
    """Create the store and write what comes before everything else. No bug is planted and no fault comes."""
    scene.engine.create(scene.store, keys_max(scene.workloads))
    history = HistoryWriter(scene.history_path(assignment.process))
    client = Client(assignment.process, history, scene.board, scene.board.slots[assignment.slot])
    session = scene.engine.open(scene.store)
    for workload in scene.workloads:
        for act in workload.setup():
            client.perform(session, act)
    session.close()


def run_final(
    scene: Scene,
    assignment: Assignment,
    log: Callable[[RunEvent], None],
    measure: Callable[[int], None] = lambda _: None,
) -> None:
    """After everybody has gone: open the store (its recovery), run its own check, look for keys that nobody
    wrote, read every item in one snapshot, let it give back what it does not need (``measure`` is told what it still
    needs), look for what the dead left behind; then lose its index and see whether all is there again.

    Raises:
        Leave: a snapshot was impossible; the history holds why.
    """
    history = HistoryWriter(scene.history_path(assignment.process))
    client = Client(assignment.process, history, scene.board, scene.board.slots[assignment.slot])

    def left(kind: str, message: str) -> None:
        log(Left(time.monotonic_ns(), kind, message))

    with _damage_reported(client):
        session = _patient_open(scene.engine, scene.store)
        resolve(scene, assignment, client, session)
        for finding in session.verify(thorough=True):
            left("structure", finding)
        strangers = session.keys().difference(*(workload.keys() for workload in scene.workloads))
        if strangers:
            left("structure", f"{len(strangers)} keys that no workload has, e.g. {min(strangers).hex()}")
        before = _final_reads(scene, client, session)
        if isinstance(scene.engine, Compacting):
            measure(scene.engine.housekeep(session, 0.0))
        session.close()
        for finding in scene.engine.left_behind(scene.store):
            left("lock", finding)
    if isinstance(scene.engine, Rebuilding):
        scene.engine.lose_index(scene.store)
        try:
            session = _patient_open(scene.engine, scene.store)
            findings = session.verify(thorough=True)
            findings += rebuild.differences(before, _final_reads(scene, client, session))
            session.close()
        except EngineDamagedError as error:
            findings = [f"the store cannot be made again: {error}"]
        for finding in findings:
            left(rebuild.NAME, finding)
        log(Mark(time.monotonic_ns(), rebuild.REBUILT))


def _final_reads(scene: Scene, client: Client, session: Session) -> tuple[Read, ...]:
    """Every item, read and checked in one snapshot."""
    shown: list[tuple[Read, ...]] = []

    def read(view: Snapshot) -> tuple[Read, ...]:
        shown.append(_everything(scene.workloads, view, retired=True))
        return shown[-1]

    while not client.perform(session, in_snapshot("all", read, "final")):
        time.sleep(_BACKOFF_S[1])
    return shown[-1]


def enter(stderr_fd: int, parent_pid: int) -> None:
    """The first thing that a forked child does: become a process that no signal meant for the parent reaches,
    that dies with its parent, and that says nothing on the terminal.
    """
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(stderr_fd, 2)
    os.close(null)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def die_with(parent_pid: int) -> None:
    """From now on the kernel kills this process when its parent dies (prctl(2)); at once, if that has happened."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent_pid:
        os._exit(STATUS_CRASHED)


def adopt() -> None:
    """From now on the children of a child that dies are this process's own (prctl(2))."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        os._exit(STATUS_CRASHED)


def guarded(work: Callable[[], None]) -> int:
    """Run a child's whole life; the status that it is to exit with. No exception gets out."""
    try:
        work()
    except Leave:
        return STATUS_VIOLATION
    except BaseException:  # noqa: BLE001 - whatever it is, it belongs into the slot's file of errors
        with contextlib.suppress(OSError):
            os.write(2, f"--- pid {os.getpid()}\n{traceback.format_exc()}".encode())
        return STATUS_CRASHED
    return STATUS_OK


def _everything(workloads: Sequence[Workload], snapshot: Snapshot, *, retired: bool) -> tuple[Read, ...]:
    ordered = sorted(workloads, key=lambda workload: workload.bulk)
    return tuple(read for workload in ordered for read in workload.everything(snapshot, retired=retired))


def _patient_open(engine: Engine, store: Path) -> Session:
    """Open the store; while that is refused as busy, again."""
    while True:
        try:
            return engine.open(store)
        except ConflictError:
            time.sleep(_BACKOFF_S[1])


@contextlib.contextmanager
def _damage_reported(client: Client) -> Iterator[None]:
    try:
        yield
    except EngineDamagedError as error:
        client.report(error)
        raise


_ROLES: Final = {
    "writer": write_forever,
    "reader": read_forever,
    "auditor": audit_forever,
    "housekeeper": housekeep_forever,
}
