"""An examination: every probe in its order, those left out whose ground is not there, and what came of each."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from harness import engines
from harness.doctor import basics, deaths, extras, together
from harness.doctor.actor import Actor
from harness.doctor.ward import Ward
from harness.doctor.words import (
    DiedError,
    Examination,
    FailedError,
    Fault,
    HungError,
    Report,
    Skipped,
    Wrong,
    fault_of,
)
from harness.engines.base import Engine
from harness.errors import EngineMissingError

PATIENCE_S: Final = 5.0
"""How long one call of an adapter may take."""
_LOADED: Final = "loaded"
_LOADS_S: Final = 30.0
"""An import may take longer than a call."""
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, and the directory in it has a name of its own
_FREE_BYTES_MIN: Final = 512 << 20


class Probe(NamedTuple):
    """One thing that is asked; ``needs`` names the probes without which it would only say the same again."""

    name: str
    make: Callable[[Ward], None]
    needs: tuple[str, ...] = ("opened", "written")
    has_store: bool = True

    @property
    def asks(self) -> str:
        """What is asked, in a sentence."""
        return (self.make.__doc__ or "").strip().replace("``", "")


_SHARED: Final = ("written", "elsewhere")
_TRANSACTIONS: Final = (*_SHARED, "transaction", "abort")

PROBES: Final = (
    Probe("made", basics.made, (_LOADED,), has_store=False),
    Probe("created", basics.created, ("made",), has_store=False),
    Probe("opened", basics.opened, ("made", "created")),
    Probe("methods", basics.handles, ("opened",)),
    Probe("written", basics.written, ("opened", "methods")),
    Probe("sizes", basics.sizes),
    Probe("many keys", basics.many),
    Probe("elsewhere", basics.elsewhere),
    Probe("kept", basics.kept, _SHARED),
    Probe("transaction", basics.committed, _SHARED),
    Probe("abort", basics.aborted, (*_SHARED, "transaction")),
    Probe("removed", basics.removed, _TRANSACTIONS),
    Probe("two stores", basics.apart),
    Probe("read-only", basics.readonly, _SHARED),
    Probe("cleaned up", basics.cleaned),
    Probe("snapshot", together.still, (*_TRANSACTIONS, "removed")),
    Probe("whole commits", together.whole, (*_TRANSACTIONS, "snapshot")),
    Probe("conflict", together.conflict, _TRANSACTIONS),
    Probe("write skew", together.skew, (*_TRANSACTIONS, "conflict")),
    Probe("second session", together.second, (*_TRANSACTIONS, "conflict")),
    Probe("busy", together.busy, _TRANSACTIONS),
    Probe("many writers", together.crowded, (*_TRANSACTIONS, "conflict")),
    Probe("sequence", together.numbers, _TRANSACTIONS),
    Probe("killed holder", deaths.holder, _TRANSACTIONS),
    Probe("killed commits", deaths.commits, (*_TRANSACTIONS, "kept", "whole commits", "killed holder")),
    Probe("settle", extras.settled),
    Probe("revisions", extras.revisions, (*_TRANSACTIONS, "removed")),
    Probe("verify", extras.verified, (*_TRANSACTIONS, "removed")),
    Probe("left behind", basics.left, _SHARED),
    Probe("sync points", extras.hooked, _TRANSACTIONS),
    Probe("bugs", extras.bugs, ("made",), has_store=False),
    Probe("chores", extras.housekept, (*_TRANSACTIONS, "removed")),
    Probe("lost index", extras.rebuilt, (*_TRANSACTIONS, "removed")),
)


def examine(
    name: str,
    *,
    only: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
    show: Callable[[str, int, int], None] = lambda *_: None,
) -> Examination:
    """Make every probe (or ``only`` some, and those that they need) of the engine called ``name``. Its code runs in
    processes of its own, none of which is left, and on stores that are removed. ``show(probe, number, count)`` is
    called before each. Ctrl-C (or SIGTERM) ends it early; what was found until then stands.

    Raises:
        EngineMissingError: there is no such engine.
    """
    place = Path(tempfile.mkdtemp(prefix="harness-doctor-", dir=_scratch()))
    reports: list[Report] = []
    interrupted = False
    wanted = _wanted(only)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        show(_LOADED, 0, len(wanted))
        engine, problem = _load(name, place, patience_s)
        if engine is None:
            reports.append(Report(_LOADED, "wrong", fault=problem, reason=_short(problem)))
        for number, probe in enumerate(wanted, 1):
            show(probe.name, number, len(wanted))
            reports.append(_report(probe, engine, reports, place / str(number), patience_s))
    except KeyboardInterrupt:
        interrupted = True
        done = {report.probe for report in reports}
        reports += [
            Report(probe.name, "skipped", reason="interrupted") for probe in wanted if probe.name not in done
        ]
    finally:
        shutil.rmtree(place, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    return Examination(name, reports, interrupted)


def _wanted(only: Sequence[str]) -> list[Probe]:
    """The probes called so and, first, all that they need."""
    names = set(only) or {probe.name for probe in PROBES}
    for probe in reversed(PROBES):
        if probe.name in names:
            names.update(probe.needs)
    return [probe for probe in PROBES if probe.name in names]


def _report(
    probe: Probe, engine: Engine | None, before: Sequence[Report], place: Path, patience_s: float
) -> Report:
    """What came of one probe."""
    found = {report.probe: report.outcome for report in before}
    lacking = [need for need in probe.needs if found.get(need, "ok") != "ok"]
    if lacking or engine is None:
        return Report(probe.name, "skipped", reason=f"it needs {', '.join(lacking) or _LOADED}")
    place.mkdir()
    began = time.monotonic()
    try:
        with Ward(engine, place, patience_s) as ward:
            if probe.has_store:
                ward.make()
            probe.make(ward)
    except Skipped as skipped:
        return Report(probe.name, "skipped", time.monotonic() - began, str(skipped))
    except (Wrong, FailedError, HungError, DiedError) as error:
        fault = fault_of(probe.asks, error)
        return Report(probe.name, "wrong", time.monotonic() - began, _short(fault), fault)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Report(probe.name, "ok", time.monotonic() - began)


def _load(name: str, place: Path, patience_s: float) -> tuple[Engine | None, Fault | None]:
    """The engine, once it is known that loading it does no harm; or what is wrong with that."""
    asked = "The class is imported and made without arguments; no thread runs afterwards."
    actor = Actor(None, place / "errors", max(patience_s, _LOADS_S))
    try:
        missing = actor.run("the import", _try, name)
    except (Wrong, FailedError, HungError, DiedError) as error:
        return None, fault_of(asked, error)
    finally:
        actor.kill()
    if missing.startswith(f"{name} cannot be made"):
        then = "Give every argument of __init__() a default: the class is made anew by its name, wherever it is needed."
        return None, fault_of(asked, Wrong(missing, then))
    if missing:
        raise EngineMissingError(missing)
    return engines.load(name), None


def _try(name: str) -> str:
    """In an actor: load the engine; why it cannot be, in words."""
    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - only how many
    try:
        engines.load(name)
    except EngineMissingError as error:
        return str(error)
    after = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - as above
    if after > before:
        raise Wrong(
            f"the class starts threads when it is made: there are {after - before} more than before",
            "Start threads in open(): a campaign forks after it has made the engine, and a fork copies no thread.",
        )
    return ""


def _short(fault: Fault | None) -> str:
    return "" if fault is None else fault.came


def _scratch() -> Path | None:
    """Memory-backed storage where there is room: a slow disk would be blamed on the store."""
    has_room = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    return _MEMORY if has_room and shutil.disk_usage(_MEMORY).free >= _FREE_BYTES_MIN else None
