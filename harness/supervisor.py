"""The parent of a campaign: forks workers, kills and stops them, replaces the dead, and misses nothing.

It is single-threaded and warm: everything is imported and built before the first fork, so that a worker costs
a fork and an open. Its signals are blocked and taken one at a time by ``sigtimedwait(2)``: a dead child wakes
it within microseconds, and Ctrl-C arrives between two steps, never in the middle of one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from harness.board import Gauge
from harness.checkers import rebuild
from harness.doctor.words import next_step
from harness.engines.base import Compacting, Engine, Rebuilding
from harness.errors import HarnessError
from harness.faults import HOUSEKEEPER, NO_FAULT, Dealer, Fault, Seen, may_hold_lock
from harness.history import (
    Died,
    HistoryWriter,
    Hits,
    Left,
    Mark,
    Paused,
    RunEvent,
    Spawned,
    Standstill,
)
from harness.plan import Plan
from harness.status import ROLES, Status, Tally
from harness.worker import (
    STATUS_OK,
    STATUS_VIOLATION,
    Assignment,
    Scene,
    enter,
    guarded,
    run_final,
    run_setup,
    run_worker,
)

_TURN_S: Final = 0.002
"""Timed faults come at most this late; a death wakes the supervisor at once."""
_STANDSTILL_S: Final = 0.1
_SHOW_S: Final = 0.2
_SAMPLE_S: Final = 0.25
_LEAVE_S: Final = 15.0
"""How long a worker may take to finish its operation and close after it was told to stop."""
_LEAVE_AFTER_VIOLATION_S: Final = 3.0
"""The verdict stands already; what hangs then may hang because of it."""
_TRACE_S: Final = 1.0
_ALONE_S: Final = 300.0
"""How long the setup or the final process may take: it reads and checks the whole store."""
_WOKEN_BY: Final = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


class AbortedError(HarnessError):
    """The user interrupted twice: everything was killed and nothing was judged."""

    exit_code = 130


def roles(plan: Plan, engine: Engine) -> list[str]:
    """Who plays each slot of a campaign; housekeepers only where the engine has chores for them."""
    housekeepers = plan.housekeepers if isinstance(engine, Compacting) else 0
    counts = {
        "writer": plan.writers,
        "reader": plan.readers,
        "auditor": plan.auditors,
        HOUSEKEEPER: housekeepers,
    }
    return [role for role, count in counts.items() for _ in range(count)]


class _Player:
    """One slot's live worker, as the supervisor knows it."""

    def __init__(self, assignment: Assignment, pid: int, born_ns: int) -> None:
        self.assignment = assignment
        self.pid = pid
        self.born_ns = born_ns
        self.killed = ""
        """The fault that the supervisor itself ended it with."""
        self.stop_sent_ns = 0
        self.paused: Paused | None = None
        """While it is stopped; ``until`` is when it is to go on."""


class Supervisor:
    """Runs one campaign on a prepared scene. Use once, from the main thread of a single-threaded process."""

    def __init__(self, scene: Scene, show: Callable[[Status], None]) -> None:
        plan = scene.plan
        self._scene = scene
        self._board = scene.board
        self._show = show
        self._roles = roles(plan, scene.engine)
        self._required = scene.engine.required_points()
        random, feeders = Random(f"{plan.seed}/faults"), scene.engine.feeders
        lossy = scene.engine.lossy_points if isinstance(scene.engine, Rebuilding) else None
        self._dealer = Dealer(random, plan.faults, self._required, plan.limits, feeders, lossy)
        self._log = HistoryWriter(scene.run_dir / "supervisor.jsonl")
        self._gauge = Gauge(scene.board, scene.store, scene.run_dir / "space.jsonl")
        self._sampled_s = 0.0
        self._lost = False
        self._players: dict[int, _Player] = {}
        self._incarnations: Counter[int] = Counter()
        self._processes = 0
        self._unresolved: dict[int, list[int]] = {slot: [] for slot in range(len(self._roles) + 1)}
        """For each slot the killed writers that no successor has looked after yet."""
        self._tally = Tally(scene.engine, plan)
        self._stderr: dict[str, int] = {}
        self._interrupts = 0
        self._started_ns = 0
        self._shown_s = 0.0
        self.crashed: list[str] = []
        """Deaths that nobody ordered, in words. Not empty: the run ended early."""

    def run(self) -> None:
        """Setup, campaign, drain, final. Afterwards no child is left and all history is written.

        Raises:
            HarnessError: the store could not even be set up.
            AbortedError: the user interrupted a second time.
        """
        (self._scene.run_dir / "history").mkdir()
        (self._scene.run_dir / "stderr").mkdir()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WOKEN_BY)
        # A frozen heap is not traversed by the children's collector, whose marks would copy its pages.
        gc.collect()
        gc.freeze()
        try:
            self._alone("setup", lambda who: run_setup(self._scene, who))
            if self.crashed:
                why = f"the store could not be set up: {self.crashed[0]}"
                raise HarnessError(f"{why}; {next_step(self._scene.plan.engine)}")
            self._campaign()
            self._drain()
            self._alone("final", lambda who: run_final(self._scene, who, self._record, self._gauge.sample))
            self._record(Hits(time.monotonic_ns(), self._board.hits()))
            self._mark("end")
        finally:
            self._kill_everybody()
            gc.unfreeze()
            self._forget_pending_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._close_files()

    # One campaign, from the first worker to the last.

    def _campaign(self) -> None:
        self._started_ns = time.monotonic_ns()
        self._mark("start")
        for slot, role in enumerate(self._roles):
            self._spawn(slot, role, fault=self._next_fault(role))
        while not self._over():
            self._wait(_TURN_S)
            self._reap(replace=True)
            self._continue_paused()
            self._kill_by_time()
            self._kill_all_by_time()
            self._pause_by_time()
            self._look_for_the_index()
            self._sample()
            self._show_status("running")
        self._board.set_stop()
        self._mark("interrupted" if self._interrupts else "stop")

    def _over(self) -> bool:
        return (
            self._elapsed_s() >= self._scene.plan.seconds
            or self._interrupts > 0
            or bool(self.crashed)
            or (self._board.violation and self._scene.plan.first_violation)
        )

    def _drain(self) -> None:
        """Everybody finishes and leaves; who does not is recorded, asked for a trace, and killed."""
        patience_s = _LEAVE_AFTER_VIOLATION_S if self._board.violation else _LEAVE_S
        deadline = time.monotonic() + patience_s
        while self._players and time.monotonic() < deadline:
            self._wait(_TURN_S)
            self._reap(replace=False)
            self._continue_paused()
            self._show_status("stopping")
        for slot, player in list(self._players.items()):
            who = player.assignment
            os.kill(player.pid, signal.SIGUSR1)
            self._wait(_TRACE_S)
            self._record(
                Left(
                    time.monotonic_ns(),
                    "process",
                    f"{who.role} {who.process} did not stop within {patience_s:.0f} s; last sync point: "
                    f"{self._board.slots[slot].point or 'none'}; stack: {self._stderr_path(who).name}",
                )
            )
            self._kill(player, "hung")
        while self._players:
            self._wait(_TURN_S)
            self._reap(replace=False)

    def _alone(self, role: str, work: Callable[[Assignment], None]) -> None:
        """Run one process that is neither killed nor stopped, and wait for it."""
        slot = len(self._roles)
        self._spawn(slot, role, work)
        deadline = time.monotonic() + _ALONE_S
        while self._players:
            self._wait(_SHOW_S)
            self._reap(replace=False)
            self._show_status(role)
            if time.monotonic() > deadline and slot in self._players:
                os.kill(self._players[slot].pid, signal.SIGUSR1)
                self._wait(_TRACE_S)
                self._record(
                    Left(time.monotonic_ns(), "process", f"the {role} process hung for {_ALONE_S:.0f} s")
                )
                self._kill(self._players[slot], "hung")
                deadline = float("inf")

    # Birth and death.

    def _spawn(
        self,
        slot: int,
        role: str,
        work: Callable[[Assignment], None] | None = None,
        fault: Fault = NO_FAULT,
    ) -> None:
        self._processes += 1
        if role == "final":
            self._unresolved[slot] = [dead for all_dead in self._unresolved.values() for dead in all_dead]
        unresolved = tuple(self._unresolved[slot])
        who = Assignment(self._processes, slot, role, self._incarnations[slot], fault, unresolved)
        self._incarnations[slot] += 1
        self._board.slots[slot].begin(who.process)
        stderr_fd = self._stderr_fd(who)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = guarded(lambda: self._child(who, work, stderr_fd, parent))
            os._exit(status)
        now = time.monotonic_ns()
        self._players[slot] = _Player(who, pid, now)
        points = " ".join((fault.point, *sorted(fault.also - {fault.point})))
        self._record(Spawned(who.process, now, pid, role, fault.kind, points, fault.hit, fault.torn))

    def _child(
        self, who: Assignment, work: Callable[[Assignment], None] | None, stderr_fd: int, parent: int
    ) -> None:
        enter(stderr_fd, parent)
        if work is None:
            run_worker(self._scene, who)
        else:
            work(who)

    def _reap(self, *, replace: bool) -> None:
        for slot, player in list(self._players.items()):
            pid, status = os.waitpid(player.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                continue
            if os.WIFSTOPPED(status):
                self._stopped(slot, player)
                continue
            del self._players[slot]
            self._died(slot, player, status)
            if replace and not self.crashed and not self._board.violation:
                role = player.assignment.role
                self._spawn(slot, role, fault=self._next_fault(role))

    def _died(self, slot: int, player: _Player, status: int) -> None:
        now = time.monotonic_ns()
        who, words = player.assignment, self._board.slots[slot]
        if player.paused is not None:
            self._record(msgspec.structs.replace(player.paused, until=now))
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if words.resolved:
            self._unresolved[slot].clear()
        if number and who.role == "writer":
            self._unresolved[slot].append(who.process)
        code = 0 if number else os.WEXITSTATUS(status)
        at_point = who.fault.kind == "kill-point" and words.standing and not player.killed
        fault = player.killed or ("kill-point" if at_point else "")
        locked = words.locked_at_ns if number and may_hold_lock(words.point) else 0
        died = Died(who.process, now, number, code, fault, words.point, at_point, locked)
        self._record(died)
        if code == STATUS_VIOLATION:
            self._tally.reported(f"{who.role} {who.process}", self._scene.history_path(who.process))
        if fault and number == signal.SIGKILL:
            if fault != "hung":
                self._tally.killed(who.role, died, self._elapsed_s())
                self._dealer.killed(
                    words.point,
                    at_point=at_point,
                    elapsed_s=self._elapsed_s(),
                    commits=self._board.commits,
                )
        elif (
            number
            or code not in (STATUS_OK, STATUS_VIOLATION)
            or (code == STATUS_OK and not self._may_leave(who))
        ):
            how = f"died of signal {number}" if number else f"exited with status {code}"
            where = f", last sync point {words.point}" if words.point else ""
            self.crashed.append(f"{who.role} {who.process} {how}{where}: see {self._stderr_path(who)}")

    def _may_leave(self, who: Assignment) -> bool:
        return self._board.stop or who.role in ("setup", "final")

    # Faults from outside.

    def _kill_by_time(self) -> None:
        if self._dealer.kill_due(self._elapsed_s(), self._board.commits):
            slot = self._dealer.victim(self._candidates())
            if slot is not None:
                self._kill(self._players[slot], "kill-time")

    def _kill_all_by_time(self) -> None:
        """Kill everybody at once, and let nobody be born before the last one is dead: no survivor is there to
        repair anything. That each died of signal 9 is checked where it is reaped.
        """
        if not self._dealer.kill_all_due(self._elapsed_s()):
            return
        for player in self._players.values():
            if not player.killed:
                self._kill(player, "kill-all")
        while self._players:
            self._wait(_TURN_S)
            self._reap(replace=False)
        if not self.crashed and not self._board.violation:
            self._lose_by_chance()
            for slot, role in enumerate(self._roles):
                fault = self._dealer.fault_after_loss() if self._lost else self._next_fault(role)
                self._spawn(slot, role, fault=fault)

    def _lose_by_chance(self) -> None:
        """Now that everybody is dead, remove what the store can make again: whoever is born next has to."""
        engine = self._scene.engine
        if isinstance(engine, Rebuilding) and self._dealer.loss_due():
            engine.lose_index(self._scene.store)
            self._mark(rebuild.LOST)
            self._lost = True

    def _look_for_the_index(self) -> None:
        """Note when somebody has opened the store again."""
        if self._lost and any(self._board.slots[slot].phase == "working" for slot in self._players):
            self._mark(rebuild.FOUND)
            self._lost = False

    def _pause_by_time(self) -> None:
        if self._dealer.pause_due(self._elapsed_s()):
            slot = self._dealer.victim(self._candidates())
            # One that has not yet tied its life to ours would outlive us, were we killed while it is stopped.
            if slot is not None and self._board.slots[slot].phase != "none":
                player = self._players[slot]
                player.stop_sent_ns = time.monotonic_ns()
                os.kill(player.pid, signal.SIGSTOP)

    def _candidates(self) -> list[tuple[int, str, Fault, float]]:
        now = time.monotonic_ns()
        return [
            (slot, player.assignment.role, player.assignment.fault, (now - player.born_ns) / 1e9)
            for slot, player in self._players.items()
            if not player.killed and not player.stop_sent_ns and player.paused is None
        ]

    def _kill(self, player: _Player, fault: str) -> None:
        player.killed = fault
        os.kill(player.pid, signal.SIGKILL)

    def _stopped(self, slot: int, player: _Player) -> None:
        """A worker has really stopped: by itself at its point, or by us, wherever it was."""
        words, now = self._board.slots[slot], time.monotonic_ns()
        by_itself = words.standing
        started = words.stopped_at_ns if by_itself else player.stop_sent_ns or now
        holder = may_hold_lock(words.point)
        until = now + int(self._dealer.pause_s(holder=holder) * 1e9)
        process = player.assignment.process
        self._tally.pauses += 1
        player.paused = Paused(process, started, until, words.point if by_itself else "", holder)

    def _continue_paused(self) -> None:
        for player in self._players.values():
            if player.paused is not None and time.monotonic_ns() >= player.paused.until:
                os.kill(player.pid, signal.SIGCONT)
                self._record(msgspec.structs.replace(player.paused, until=time.monotonic_ns()))
                player.paused = None
                player.stop_sent_ns = 0

    # Time, signals, words.

    def _wait(self, timeout_s: float) -> None:
        """Sleep until a child or the user wants something, but not longer than ``timeout_s``; note it if the
        machine did not let us go on in time.
        """
        before = time.monotonic_ns()
        info = signal.sigtimedwait(_WOKEN_BY, timeout_s)
        after = time.monotonic_ns()
        if (after - before) / 1e9 > timeout_s + _STANDSTILL_S:
            self._record(Standstill(before, after))
        if info is not None and info.si_signo != signal.SIGCHLD:
            self._interrupts += 1
            if self._interrupts > 1:
                raise AbortedError("interrupted twice: every worker was killed and nothing was judged")

    def _forget_pending_signals(self) -> None:
        while signal.sigtimedwait(_WOKEN_BY, 0) is not None:
            pass

    def _kill_everybody(self) -> None:
        for player in self._players.values():
            os.kill(player.pid, signal.SIGKILL)
        for player in self._players.values():
            os.waitpid(player.pid, 0)
        self._players.clear()

    def _elapsed_s(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / 1e9 if self._started_ns else 0.0

    def _next_fault(self, role: str) -> Fault:
        slots = [self._board.slots[slot] for slot, other in enumerate(self._roles) if other == role]
        hits = {
            point: sum(slot.hits(code) for slot in slots) for code, point in enumerate(self._board.points)
        }
        lives = sum(self._incarnations[slot] for slot, other in enumerate(self._roles) if other == role)
        living = [player.assignment for player in self._players.values()]
        carried = [assignment.fault for assignment in living if assignment.role == role]
        return self._dealer.fault_for(role, Seen(hits, self._elapsed_s() * len(slots), lives), carried)

    def _record(self, event: RunEvent) -> None:
        self._log.append(event)

    def _sample(self) -> None:
        now = time.monotonic()
        if now >= self._sampled_s + _SAMPLE_S:
            self._sampled_s = now
            self._gauge.sample()

    def _mark(self, what: str) -> None:
        self._record(Mark(time.monotonic_ns(), what))

    def _show_status(self, phase: str) -> None:
        now = time.monotonic()
        if now >= self._shown_s + _SHOW_S:
            self._shown_s = now
            self._show(self.status(phase))

    def status(self, phase: str) -> Status:
        """Where the run is now, or was at its end."""
        tally, playing = self._tally, [player.assignment.role for player in self._players.values()]
        lacking = tally.lacking()
        return Status(
            phase,
            self._elapsed_s(),
            self._scene.plan.seconds,
            sum(slot.operations for slot in self._board.slots),
            self._board.commits,
            self._dealer.kill_count,
            len(tally.required) - len(lacking),
            len(tally.required),
            lacking,
            {role: playing.count(role) for role in ROLES if role in self._roles},
            dict(tally.kills_by_fault),
            tally.last_kill,
            tally.pauses,
            self._board.disk_bytes,
            tally.violation,
        )

    def _stderr_path(self, who: Assignment) -> Path:
        return self._scene.run_dir / "stderr" / f"{who.role}-{who.slot}.txt"

    def _stderr_fd(self, who: Assignment) -> int:
        path = str(self._stderr_path(who))
        if path not in self._stderr:
            self._stderr[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        return self._stderr[path]

    def _close_files(self) -> None:
        """Keep what was said on standard error; silence leaves no file."""
        self._log.close()
        self._gauge.close()
        for path, fd in self._stderr.items():
            os.close(fd)
            if Path(path).stat().st_size == 0:
                Path(path).unlink()
        with contextlib.suppress(OSError):
            (self._scene.run_dir / "stderr").rmdir()
