"""Driving a fleet: errands go to the workers of dask.distributed, what comes back goes into the ledger.

Who does what, when and where, and that it is done again when a worker dies, is dask's business. That every number is
accounted for once is ours.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from harness import errand, harvest
from harness.errand import SHRINK, SHRUNK, Errand, Result
from harness.errors import HarnessError, UsageError
from harness.explore_jobs import asked_to_stop
from harness.fleet.ledger import Entry, Ledger, Plan, audit
from harness.harvest import Harvest
from harness.viewer.words import seeded, settings

if TYPE_CHECKING:
    from distributed import Client

WHAT: Final = "fleet"
EXTRA: Final = "pip install 'kvs-torture[fleet]'"
_SCRATCH: Final = "workers"
_LOOK_EVERY_S: Final = 0.5
_CONNECT_S: Final = 15.0
_AHEAD: Final = 2
"""So many errands are handed out for each thread of the fleet: while one is done, the next is there."""
_SHRINK_S: Final = 60.0


class Session(NamedTuple):
    """How this process drives the fleet: how many local ``workers``, or the ``scheduler`` of a real one; for how many
    ``minutes``, if not until everything is done.
    """

    workers: int = 2
    scheduler: str = ""
    minutes: float | None = None


class Status(NamedTuple):
    """How far it is; ``result`` is the errand that has just come to its end, ``note`` what has just happened."""

    elapsed_s: float
    done: int
    planned: int | None
    under_way: int
    workers: int
    failures: int
    again: int
    result: Result | None = None
    note: str = ""


Show = Callable[[Status], None]


def drive(plan: Plan, directory: Path, session: Session, show: Show = lambda _: None) -> Harvest:
    """Carry out every errand of ``plan`` that ``directory`` has no record of. Ctrl-C ends it early, with a verdict over
    what there is; what was under way is done by whoever resumes.

    Raises:
        UsageError: dask is missing, no scheduler answers, or somebody else drives this fleet.
        HarnessError: the scheduler went away, or the ledger is not in order. What was recorded is.
    """
    errand.check(plan.kinds, plan.engine, plan.bug, plan.scenario)
    if plan.errands is None and session.minutes is None:
        raise UsageError("--minutes: this fleet has no number of errands, so that only the time ends it")
    with Ledger(directory) as ledger:
        driver = _Driver(plan, directory, ledger, session, show)
        scratch = directory / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of a driver that was killed
        try:
            with asked_to_stop(driver.interrupt):
                if driver.has_more():
                    with _client(plan, session, scratch) as client:
                        driver.run(client)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return driver.harvest()


@contextmanager
def _client(plan: Plan, session: Session, scratch: Path) -> Iterator[Client]:
    """The fleet: a real one by its scheduler's address, or processes of this machine."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError(
            f"harness fleet needs dask.distributed, which is not installed here: {EXTRA} ({error})"
        ) from error
    logging.disable(logging.CRITICAL)  # what is to be known we say ourselves
    if session.scheduler:
        try:
            client = Client(session.scheduler, timeout=_CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"--scheduler: no dask scheduler answers at {session.scheduler} ({error}); nothing was handed out"
            ) from error
        with client:
            yield client
        return
    # A Ctrl-C is for us, and not for the workers, which inherit what is blocked. The tracker must be there before:
    # whoever begins it unblocks the signal.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        with dask.config.set({"distributed.scheduler.allowed-failures": plan.deaths - 1}):
            cluster = LocalCluster(
                n_workers=session.workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # it is the errands that need memory, and they are processes of their own
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                local_directory=str(scratch),
            )
    except (OSError, RuntimeError) as error:
        raise HarnessError(
            f"no workers could be started on this machine: {error}; nothing was done"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with cluster, Client(cluster) as client:
        yield client


class _Driver:
    """What is handed out, and what has come back."""

    def __init__(self, plan: Plan, directory: Path, ledger: Ledger, session: Session, show: Show) -> None:
        self._plan = plan
        self._directory = directory
        self._ledger = ledger
        self._session = session
        self._show = show
        self._began = time.monotonic()
        self._under_way: dict[Any, tuple[Errand, str]] = {}
        """By future: the errand, and the signature that it makes smaller."""
        self._topic = f"harness-fleet-{secrets.token_hex(4)}"
        self._begun: Counter[tuple[str, int]] = Counter()
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._signatures = {shown.signature for each in ledger.results.values() for shown in each.shown}
        self._numbers = self._unrecorded()
        self._workers = 0
        self._interrupts = 0

    def interrupt(self) -> None:
        """Hand out nothing any more and come to an end; the second time, at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def has_more(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._account().missing) or self._plan.errands is None or bool(list(self._unshrunk()))

    def run(self, client: Client) -> None:
        """Hand out and take in, until all is done, the time is up, or somebody wants an end."""
        client.subscribe_topic(self._topic, self._hear)
        try:
            for signature, example in self._unshrunk():
                self._shrink(client, signature, example)
            while not self._interrupts:
                self._workers = sum(client.nthreads().values())
                self._hand_out(client)
                if not self._under_way:
                    return
                self._tell()
                for future in self._ended():
                    self._take_in(client, future)
            client.cancel(list(self._under_way))
        except (CancelledError, OSError) as error:
            raise HarnessError(
                f"the scheduler went away; {len(self._ledger.results):,} errands are recorded, and `harness fleet"
                f" --resume {self._directory}` does the others, with this scheduler or another one"
            ) from error

    def _unrecorded(self) -> Iterator[int]:
        """The numbers to be done, the first first."""
        number = 0
        while self._plan.errands is None or number < self._plan.errands:
            if number not in self._ledger.results:
                yield number
            number += 1

    def _hand_out(self, client: Client) -> None:
        minutes = self._session.minutes
        if minutes is not None and self._elapsed_s >= minutes * 60:
            return
        while len(self._under_way) < max(self._workers, 1) * _AHEAD:
            number = next(self._numbers, None)
            if number is None:
                return
            self._submit(client, self._plan.errand_at(number))

    def _submit(self, client: Client, what: Errand, signature: str = "") -> None:
        from harness.fleet.work import perform

        deaths = self._deaths[what.kind, what.number]
        key = f"{self._topic}-{what.kind}-{what.number}-{signature and harvest.home(Path(), signature).name}-{deaths}"
        future = client.submit(perform, msgspec.msgpack.encode(what), self._topic, key=key, pure=False)
        self._under_way[future] = what, signature

    def _ended(self) -> set[Any]:
        """The futures that have come to an end, waiting for some a little."""
        from distributed import wait

        try:
            return set(wait(list(self._under_way), timeout=_LOOK_EVERY_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return set()

    def _hear(self, event: tuple[float, Any]) -> None:
        """A worker has begun an errand."""
        _, (kind, number) = event
        self._begun[kind, number] += 1

    def _take_in(self, client: Client, future: Any) -> None:
        """Record what came of an errand, its artefacts before its line: what is recorded has them."""
        from distributed import KilledWorker

        what, signature = self._under_way.pop(future)
        error = future.exception() if future.status != "finished" else None
        attempts = max(self._begun[what.kind, what.number], 1)
        if isinstance(error, KilledWorker):
            self._deaths[what.kind, what.number] += error.allowed_failures + 1
            deaths = self._deaths[what.kind, what.number]
            if deaths < self._plan.deaths:
                self._submit(client, what, signature)
                self._tell(
                    note=f"{deaths} workers died of errand {what.number} ({what.kind}); it is tried again"
                )
                return
            reason = f"{deaths} workers died of it, one after another; a worker's own machine or memory may be to blame"
            result = errand.lost(what, reason, max(attempts, deaths))
        elif error is not None:
            result = errand.lost(what, f"its worker failed: {type(error).__name__}: {error}", attempts)
        else:
            result = msgspec.msgpack.decode(future.result(), type=Result)
            result = msgspec.structs.replace(result, attempts=attempts)
        if signature:
            self._take_smaller(result, signature)
        else:
            self._take(client, result)

    def _take(self, client: Client, result: Result) -> None:
        if result.number in self._ledger.results:
            return
        harvest.keep(result, self._directory)
        self._ledger.add(Entry(harvest.without_files(result)))
        self._signatures.update(shown.signature for shown in result.shown)
        self._tell(result)
        handed = {signature for _, signature in self._under_way.values()}
        for signature, example in self._unshrunk():
            if signature not in handed:
                self._shrink(client, signature, example)

    def _unshrunk(self) -> Iterator[tuple[str, Path]]:
        """The signatures whose failure nobody has made smaller yet, with an example that can be."""
        for result in self._ledger.results.values():
            for shown in result.shown:
                example = harvest.home(self._directory, shown.signature) / f"{result.kind}-{result.number}"
                if (
                    shown.signature not in self._ledger.shrunk
                    and shown.file
                    and (example / shown.file).is_file()
                ):
                    yield shown.signature, example / shown.file

    def _shrink(self, client: Client, signature: str, example: Path) -> None:
        if any(signature == each for _, each in self._under_way.values()):
            return
        number = int(example.parent.name.rpartition("-")[2])
        options = ("--limit-s", f"{_SHRINK_S:g}")
        what = Errand(
            number=number, kind=SHRINK, seed=0, options=options, files={SHRUNK: example.read_bytes()}
        )
        self._submit(client, what, signature)

    def _take_smaller(self, result: Result, signature: str) -> None:
        """Keep the smaller failure beside the examples; the record is that somebody tried."""
        if result.shown:
            home = harvest.home(self._directory, signature)
            errand.unpack(result, home / SHRINK)
            for path in (home / SHRINK).iterdir():
                text = path.read_text(encoding="utf-8").replace(str(path.parent), str(home))
                path.write_text(text, encoding="utf-8")
                path.rename(home / path.name)
            (home / SHRINK).rmdir()
        self._ledger.add(Entry(harvest.without_files(result), signature))
        self._tell(
            note=f"{signature.partition(':')[0]}: {'made smaller' if result.shown else 'left as it is'}"
        )

    def _tell(self, result: Result | None = None, note: str = "") -> None:
        status = Status(
            self._elapsed_s,
            len(self._ledger.results),
            self._plan.errands,
            len(self._under_way),
            self._workers,
            len(self._signatures),
            sum(count > 1 for count in self._begun.values()),
            result,
            note,
        )
        self._show(status)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _account(self) -> Any:
        return audit(self._plan, self._directory)

    def harvest(self) -> Harvest:
        """All that came of the plan, in all sessions. Raises HarnessError if the ledger is not in order."""
        plan, account = self._plan, self._account()
        results = [self._ledger.results[number] for number in sorted(self._ledger.results)]
        again = sum(result.attempts > 1 for result in results)
        words = f"errands {account.recorded:,}"
        words += f" of {plan.errands:,}" if plan.errands is not None else ""
        words += ", each once" + (f"; {again:,} begun again after its worker died" if again else "")
        more = f"`harness fleet --resume {self._directory}` goes on"
        reasons = (f"{len(account.missing):,} errands are missing: {more}",) if account.missing else ()
        return Harvest(
            what=WHAT,
            engine=plan.engine,
            directory=self._directory,
            results=results,
            seconds=round(self._elapsed_s, 1),
            settings=settings(msgspec.structs.replace(plan, commands=(), versions={})),
            environment=tuple(plan.versions.items()),
            again=seeded(plan.commands[0], plan.seed) if plan.commands else "",
            reasons=reasons,
            notes=(words,),
        )
