"""What becomes of a violation that was found: it is made small, told on a page, and repeated with real processes.

Each of these happens in a process of its own, because the failure may be one that kills its process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from harness import planted
from harness import replay as replaying
from harness import shrink as shrinking
from harness.errors import HarnessError, UsageError
from harness.explore_job import POINTS, Found
from harness.explore_jobs import CRASH, Record, asked_to_stop
from harness.failure import Failure, save
from harness.history import Event, Invoke
from harness.oracle import Judge, kind_of
from harness.page import page
from harness.scenarios import named
from harness.schedule.base import Choice, View
from harness.schedule.replaying import Replaying
from harness.stepped import place
from harness.stepped.execution import Execution, Kill, conduct
from harness.stepped.program import BEGIN, WORKLOAD
from harness.stepped.simulated import Simulated
from harness.verdict import Finding
from harness.worker import enter

_LOOK_EVERY_S: Final = 0.2
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one

Note = Callable[[str], None]


class Said(msgspec.Struct):
    """What the process that works aside says: how far it is, or its ``result``, or its ``error``."""

    note: str = ""
    result: Any = None
    error: str = ""
    usage: bool = False
    ended: bool = False


class Seen(NamedTuple):
    """A failure's schedule, executed once more: what it shows, and by step how many units a torn write had."""

    finding: Finding
    execution: Execution
    whole: dict[int, int]


def aside(work: Callable[[Note], Any], bug: str, stages: Path, stderr_fd: int, note: Note) -> Any | None:
    """What ``work`` returns (plain data), done in a forked process in which ``bug`` is planted; ``None`` if that
    process died by itself. Ctrl-C raises KeyboardInterrupt inside ``work``, which may still return something.

    Raises:
        UsageError, HarnessError: ``work`` raised it, or something else.
        KeyboardInterrupt: Ctrl-C a second time; the process is gone.
    """
    here, there = connection.Pipe()
    process = get_context("fork").Process(
        target=_work, args=(work, bug, there, stages, stderr_fd, os.getpid()), daemon=True
    )
    asked = False
    doing = ""

    def interrupt() -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)

    process.start()
    there.close()
    try:
        with asked_to_stop(interrupt):
            while True:
                note(doing)
                if not here.poll(_LOOK_EVERY_S):
                    continue
                try:
                    said = msgspec.msgpack.decode(here.recv_bytes(), type=Said)
                except (EOFError, ConnectionError):
                    return None
                if said.error:
                    raise (UsageError if said.usage else HarnessError)(said.error)
                if said.ended:
                    return said.result
                doing = said.note
    finally:
        process.kill()
        process.join()
        here.close()


def _work(
    work: Callable[[Note], Any], bug: str, there: Any, stages: Path, stderr_fd: int, parent_pid: int
) -> None:
    os.setsid()  # a Ctrl-C comes from the parent, and not from the terminal as well
    enter(stderr_fd, parent_pid)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place.parent_by_default = stages

    def say(said: Said) -> None:
        there.send_bytes(msgspec.msgpack.encode(said))

    try:
        if bug:
            planted.BUGS[bug].plant()
        say(Said(result=work(lambda text: say(Said(note=text))), ended=True))
    except KeyboardInterrupt:
        say(Said(ended=True))
    except HarnessError as error:
        say(Said(error=str(error), usage=isinstance(error, UsageError)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked for the work
        os.write(2, traceback.format_exc().encode())
        with contextlib.suppress(OSError):
            say(Said(error=f"{type(error).__name__}: {error}"))


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A directory for the stores of all stages, in memory where that is possible; whatever becomes of them, it goes."""
    root = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="harness-explore-", dir=root))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Workshop(NamedTuple):
    """What working on a failure needs: where stores are made, where errors go, and whom to tell how far it is (the
    phase, and what is done).
    """

    stages: Path
    stderr_fd: int
    tell: Callable[[str, str], None]

    def aside(self, phase: str, work: Callable[[Note], Any], bug: str) -> Any | None:
        """``work``, done aside."""
        return aside(work, bug, self.stages, self.stderr_fd, lambda text: self.tell(phase, text))


def finish(found: Found, record: Record, file: Path, workshop: Workshop) -> Failure:
    """Make a failure of ``found``: shrunk, repeated, with its page, saved in ``file`` and beside it as text."""
    failure = _failure(found, record)
    if record.options.shrink:
        try:
            failure = smaller(failure, workshop)
        except HarnessError as error:
            failure = msgspec.structs.replace(failure, shrunk={"failed": str(error)})
    return settle(failure, file, workshop)


def smaller(failure: Failure, workshop: Workshop, limit_s: float = shrinking.LIMIT_S) -> Failure:
    """``failure`` shrunk; as it was, if that ends the process that tries. Errors as ``shrink.shrink``."""

    def work(note: Note) -> Any:
        def show(progress: shrinking.Progress) -> None:
            size = ", ".join(f"{count} {name}" for name, count in progress.sizes.items())
            note(f"{progress.doing}: {progress.tried} tried; {size}")

        return msgspec.to_builtins(shrinking.shrink(failure, show=show, limit_s=limit_s))

    result = workshop.aside("shrinking", work, failure.bug)
    return failure if result is None else msgspec.convert(result, Failure)


def settle(failure: Failure, file: Path, workshop: Workshop) -> Failure:
    """``failure`` with how often it happens with real processes and with its page, saved in ``file`` and as text."""

    def repeat(note: Note) -> Any:
        runs: list[replaying.Run] = []

        def show(run: replaying.Run) -> None:
            runs.append(run)
            note(f"{len(runs)} times")

        reproduced = replaying.replay(failure, plant=False, show=show).reproduced
        return reproduced, [run.findings[0] for run in runs if run.findings]

    repeated = workshop.aside("replaying", repeat, failure.bug)
    if repeated is not None:
        failure = _repeated(failure, repeated[0], msgspec.convert(repeated[1], list[Finding]))

    def tell(_: Note) -> Any:
        seen = look(failure)
        return page(failure, seen.finding, seen.execution, file, seen.whole)

    text = workshop.aside("telling", tell, failure.bug)
    if text is None:  # it ends the process that executes it, or there was a Ctrl-C
        finding = Finding(failure.property_name, failure.message)
        text = page(failure, finding, _unseen(failure), file)
    failure = msgspec.structs.replace(failure, page=text)
    try:
        save(failure, file)
        file.with_suffix(".txt").write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"{file} cannot be written: {error.strerror}") from error
    return failure


def _repeated(failure: Failure, reproduced: str, findings: list[Finding]) -> Failure:
    """``failure`` with how often it was ``reproduced``. A process that ended itself took the simulation with it: what
    the others saw of that is known from real processes only, and is what a replay must show again.
    """
    if failure.property_name == CRASH and len({kind_of(finding) for finding in findings}) == 1:
        first = findings[0]
        count = f"{len(findings)}/{reproduced.partition('/')[2]}"
        return msgspec.structs.replace(
            failure,
            property_name=first.property_name,
            kind=kind_of(first),
            message=first.message,
            reproduced=count,
        )
    return msgspec.structs.replace(failure, reproduced=reproduced)


def look(failure: Failure) -> Seen:
    """Execute the schedule of ``failure`` in the simulation; its bug must be planted already."""
    strategy = _Looking(Replaying(failure.choices, POINTS))
    strategy.inner.begin(failure.scenario, 0)
    with Simulated(failure.scenario) as stage:
        execution = conduct(stage, strategy)
        findings, _ = Judge(stage.place.setup).findings(execution)
    same = [finding for finding in findings if kind_of(finding) == failure.kind]
    shown = (same or findings or [Finding(failure.property_name, failure.message)])[0]
    return Seen(shown, execution, strategy.whole)


class _Looking:
    """A strategy that remembers how large the write was that a kill tore."""

    def __init__(self, inner: Replaying) -> None:
        self.inner = inner
        self.whole: dict[int, int] = {}

    def begin(self, scenario: Any, number: int) -> bool:
        return self.inner.begin(scenario, number)

    def choose(self, view: View) -> Choice:
        choice = self.inner.choose(view)
        if choice.kill:
            self.whole[view.step + 1] = next(s.parts for s in view.mortal if s.number == choice.process)
        return choice

    def end(self, stopped: bool) -> None:
        self.inner.end(stopped)


def _unseen(failure: Failure) -> Execution:
    """What is known of an execution of which only the steps are: who died, and who began what."""
    steps = list(failure.choices)
    kills = [
        Kill(step, choice.process, choice.point, choice.torn, (), ())
        for step, choice in enumerate(steps, 1)
        if choice.kill
    ]
    begun: Counter[int] = Counter()
    histories: list[list[Event]] = [[] for _ in failure.scenario.programs]
    for step, choice in enumerate(steps, 1):
        if choice.point == BEGIN and not choice.kill:
            begun[choice.process] += 1
            histories[choice.process - 1].append(
                Invoke(choice.process, begun[choice.process], step, "write", WORKLOAD)
            )
    return Execution(steps, kills, "", (), histories, [], [])


def _failure(found: Found, record: Record) -> Failure:
    return Failure(
        scenario=named(found.scenario),
        choices=found.choices,
        property_name=found.property_name,
        kind=found.kind,
        message=found.message,
        bug=record.options.bug,
        found={
            "strategy": found.strategy,
            "seed": record.options.seed,
            "number": found.number,
            "scenario": found.scenario,
            "schedules": found.after_schedules,
            "seconds": found.after_s,
        },
        versions=record.versions,
    )
