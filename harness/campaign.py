"""One campaign from plan to verdict: its directories, its scene, its run, its judgement.

The store lives in memory-backed storage where there is room: SIGKILL safety does not depend on the disk, and
the disk's pauses would be blamed on the store. It is removed after an OK and kept beside the histories
otherwise.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from harness import engines, workloads
from harness.board import Board
from harness.engines.base import Compacting, Engine, Eventful, Rebuilding
from harness.errors import HarnessError, UsageError
from harness.plan import FAULTS, RUNS, Limits, Plan
from harness.status import Status, points_asked
from harness.supervisor import Supervisor, roles
from harness.verdict import Outcome
from harness.worker import Scene

if TYPE_CHECKING:
    from harness.judge import Judgement, Run

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, and the directory in it has a name of its own
_FREE_BYTES_MIN: Final = 2 << 30
_DISK_BYTES_MAX: Final = 512 << 20
"""What a store that gives space back may take before large writes are left out."""
_SMALL_SHARE: Final = 0.5
"""The part of a run at whose beginning such a store is spared them."""


class Ran(NamedTuple):
    """A campaign that was carried out and not yet judged."""

    run_dir: Path
    store: Path
    crashed: tuple[str, ...]


class Result(NamedTuple):
    """A campaign that was judged. ``store`` is where the store was kept, ``None`` if it was removed;
    ``crashed`` tells of workers that ended in a way that nobody ordered.
    """

    run_dir: Path
    run: Run
    judgement: Judgement
    store: Path | None
    crashed: tuple[str, ...]


def check_plan(plan: Plan) -> None:
    """Refuse a plan that makes no sense.

    Raises:
        UsageError: what is wrong with it.
    """
    if plan.writers < 1:
        raise UsageError("a campaign needs at least one writer")
    if min(plan.readers, plan.auditors, plan.housekeepers) < 0:
        raise UsageError("there cannot be less than no readers, auditors or housekeepers")
    if not 0 < plan.seconds < math.inf:
        raise UsageError("--seconds: a campaign needs a time that is greater than zero and ends")
    for fault in plan.faults:
        if fault not in FAULTS:
            raise UsageError(f"no fault is called {fault!r}; there are {', '.join(FAULTS)}")


def conduct(
    plan: Plan,
    *,
    out: Path = RUNS,
    store_dir: Path | None = None,
    command: str = "",
    show: Callable[[Status], None] = lambda _: None,
) -> Result:
    """Run ``plan`` and judge it. Everything that was seen is saved in a new directory under ``out`` before it
    is judged; the verdict, the report and its page are added to it; no process is left.

    Raises:
        UsageError: the plan makes no sense, or an engine or a workload of it does not exist.
        HarnessError: the run could not be carried out.
    """
    from harness import judge, report
    from harness.viewer import of_campaign

    last: list[Status] = []

    def remember(status: Status) -> None:
        last[:] = [status]
        show(status)

    def tell(doing: str, judged: float) -> None:
        show(last[0]._replace(doing=doing, judged=judged))

    ran = carry_out(plan, out=out, store_dir=store_dir, command=command, show=remember)
    keep = True
    try:
        tell("reading", 0.0)
        run = judge.load(ran.run_dir)
        judgement = judge.judge(run, tell)
        tell("writing the report", 1.0)
        report.write_report(ran.run_dir, run, judgement)
        of_campaign.write_campaign_page(ran.run_dir / of_campaign.PAGE, ran.run_dir, run, judgement)
        keep = judgement.overall.outcome is not Outcome.OK
    finally:
        store = _settle(ran.store, ran.run_dir, keep=keep)
    return Result(ran.run_dir, run, judgement, store, ran.crashed)


def carry_out(
    plan: Plan,
    *,
    out: Path = RUNS,
    store_dir: Path | None = None,
    command: str = "",
    show: Callable[[Status], None] = lambda _: None,
) -> Ran:
    """Run ``plan`` without judging it. All that was seen is saved; the store is the caller's to remove.

    Raises:
        UsageError, HarnessError: as ``conduct``; the store is removed then.
    """
    check_plan(plan)
    if store_dir is not None and not os.access(store_dir, os.W_OK | os.X_OK):
        raise UsageError(f"--store-dir: no store can be made in {store_dir}")
    engine = engines.load(plan.engine)
    board = Board(len(roles(plan, engine)) + 1, sorted(engine.points()))
    volume = _volume_of(board, plan, compacting=isinstance(engine, Compacting))
    loads = workloads.make(plan.workloads, plan.seconds, volume, lambda: board.commits)
    run_dir = _new_run_dir(out)
    store = _new_store_dir(run_dir, store_dir)
    try:
        scene = Scene(plan, engine, loads, board, store, run_dir)
        _save(run_dir / "plan.json", plan)
        _save(run_dir / "environment.json", environment(engine, store, command) | _promise(engine, plan))
        supervisor = Supervisor(scene, show)
        supervisor.run()
    except BaseException:
        shutil.rmtree(store, ignore_errors=True)
        raise
    show(supervisor.status("judging"))
    return Ran(run_dir, store, tuple(supervisor.crashed))


def environment(engine: Engine, store: Path, command: str) -> dict[str, str]:
    """What the run ran on, in words, for the report and for the checkers."""
    facts = {
        "command": command,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu_count": str(os.cpu_count()),
        "engine": engine.name,
        "store": str(store),
        "store_file_system": _file_system(store),
        "dense_sequences": "yes" if engine.dense else "no",
        "compacts": "yes" if isinstance(engine, Compacting) else "no",
        "rebuilds": "yes" if isinstance(engine, Rebuilding) else "no",
        "milestones": _milestones(engine),
        "threads_before_fork": str(len(list(Path("/proc/self/task").iterdir()))),
    }
    facts.update({f"version_{name}": version for name, version in engine.versions().items()})
    return facts


def _milestones(engine: Engine) -> str:
    """What has to happen in a run, and the sync points that count it."""
    promised = engine.milestones if isinstance(engine, Eventful) else {}
    return ",".join(f"{what}={point}" for what, point in promised.items())


def _promise(engine: Engine, plan: Plan) -> dict[str, str]:
    """What the verdict asks of this run: the sync points to have killed at, and the longest stall that the engine
    promises, unless the plan says another one than the default.
    """
    promised = {"required_points": ",".join(sorted(points_asked(engine, plan)))}
    if engine.stall_s is not None and plan.limits.stall_s == Limits().stall_s:
        promised["stall_s"] = str(engine.stall_s)
    return promised


def _volume_of(board: Board, plan: Plan, *, compacting: bool) -> Callable[[], float]:
    """How many bytes may still be written before large writes are left out.

    A store that keeps its space may be written so much for every second. One that gives it back may take so much; and
    it is spared large writes for a part of the run, because an index that is small grows often.
    """
    began = time.monotonic()

    def kept() -> float:
        allowed = workloads.VOLUME_FREE_BYTES + workloads.VOLUME_BYTES_PER_S * (time.monotonic() - began)
        return allowed - board.byte_count

    def given_back() -> float:
        if time.monotonic() - began < plan.seconds * _SMALL_SHARE:
            return 0.0
        return float(_DISK_BYTES_MAX - board.disk_bytes)

    return given_back if compacting else kept


def _new_run_dir(out: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    run_dir = out / f"{now:%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(2)}"
    try:
        run_dir.mkdir(parents=True)
    except OSError as error:
        raise HarnessError(f"no run directory can be made in {out}: {error}") from error
    return run_dir


def _new_store_dir(run_dir: Path, parent: Path | None) -> Path:
    if parent is None and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        parent = _MEMORY if shutil.disk_usage(_MEMORY).free >= _FREE_BYTES_MIN else None
    if parent is None:
        parent = run_dir
    try:
        return Path(tempfile.mkdtemp(prefix="harness-store-", dir=parent))
    except OSError as error:
        raise UsageError(f"no store can be made in {parent}: {error}") from error


def _settle(store: Path, run_dir: Path, *, keep: bool) -> Path | None:
    if not keep:
        shutil.rmtree(store, ignore_errors=True)
        return None
    try:
        return Path(shutil.move(store, run_dir / "store"))
    except OSError:
        return store


def _file_system(path: Path) -> str:
    """The type of the file system that holds ``path``, by the longest mount point above it (proc(5))."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, mount, file_system, *_ = line.split(" ")
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, file_system
    return kind


def _save(path: Path, value: Plan | Mapping[str, str]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
