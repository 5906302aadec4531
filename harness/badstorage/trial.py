"""One run: a workload on a failing device, and everything that must hold afterwards."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import kvs
from harness.badstorage.device import Call, Device
from harness.badstorage.faults import Run
from harness.badstorage.session import BLOCKS, CLEAN, SOUND, Session, half_made
from harness.badstorage.workloads import WORKLOADS, Workload
from harness.errors import UsageError
from kvs import locks

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory in memory, where there is one


class Outcome(NamedTuple):
    """What a run came to: its calls, what of them failed how, and ``(property, message)`` of what must not be."""

    calls: tuple[Call, ...]
    failed: tuple[tuple[Call, str], ...]
    findings: tuple[tuple[str, str], ...]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for runs, in memory where the system has such a place. It goes at the end."""
    directory = Path(
        tempfile.mkdtemp(prefix="harness-badstorage-", dir=_MEMORY if _MEMORY.is_dir() else None)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def play(run: Run, directory: Path) -> Outcome:
    """Do ``run`` in ``directory``, which stays as it was. Raises UsageError if there is no such workload."""
    workload = WORKLOADS.get(run.workload)
    if workload is None:
        raise UsageError(f"no workload is called {run.workload!r}; there are {', '.join(WORKLOADS)}")
    root = Path(tempfile.mkdtemp(prefix="run-", dir=directory))
    try:
        with Device(root, run.faults) as device:
            session = Session(root, device, run.variant)
            try:
                return _play(session, device, workload, run)
            finally:
                session.abandon()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _play(session: Session, device: Device, workload: Workload, run: Run) -> Outcome:
    root = session.path.parent
    kept = root.parent / f"{run.workload}-{run.variant}"
    if workload.prepare and not kept.exists():
        for _, work in workload.prepare:
            work(session)
        session.close()
        shutil.copytree(session.path, kept)
        (root.parent / f"{kept.name}.state").write_bytes(_packed(session))
    elif workload.prepare:
        shutil.copytree(kept, session.path)
        session.states = [_unpacked((root.parent / f"{kept.name}.state").read_bytes())]
    if workload.prepare:
        device.medium.begin(session.path)
    before = _descriptors(root)
    for name, work in workload.steps:
        session.step(name, lambda work=work: work(session))  # type: ignore[misc]
    calls, failed = (
        tuple(device.calls),
        tuple(device.failed),
    )  # what comes now is done by a device that is well
    _judge(session, device, before)
    return Outcome(calls, failed, tuple(dict.fromkeys(session.findings)))


def _packed(session: Session) -> bytes:
    import msgspec

    return msgspec.json.encode([(key, value) for key, value in session.states[0].items()])


def _unpacked(data: bytes) -> dict[bytes, bytes]:
    import msgspec

    return dict(msgspec.json.decode(data, type=list[tuple[bytes, bytes]]))


def _judge(session: Session, device: Device, before: set[str]) -> None:
    """The store after the workload: as the handle sees it, as others do, opened again, rebuilt, after a power cut."""
    root = session.path.parent
    for path in session.path.glob("*.small"):
        offset = device.medium.stored_without_blocks(path)
        if offset is not None:
            session.find(
                BLOCKS, f"{path.name} was touched through a map at byte {offset}, where it has no block"
            )
    device.full = False
    for name in session.open_names:
        session.quietly(f"reading by handle {name}", lambda name=name: session.look(name))  # type: ignore[misc]
    if session.durable and session.path.exists():
        session.cut_power("after a power cut")
    _go_on(session)
    session.close_all()
    for index in (True, False):
        session.cut_power("closed cleanly, and after a power cut", index=index)
    gc.collect()
    if left := _descriptors(root) - before:
        session.find(
            CLEAN, f"a descriptor of {', '.join(sorted(left))} is open after the handles were closed"
        )
    _look_for_locks(session)
    if not session.quietly("opening again", session.store):
        return
    session.quietly("the store after all", session.collapse)
    session.quietly("writing after opening again", lambda: session.put({9: b"opened again"}))
    session.close_all()
    session.lose_index()
    session.quietly("rebuilding", session.look)
    _verify(session, "rebuilt")
    session.quietly("writing after rebuilding", lambda: session.put({10: b"rebuilt"}))
    session.quietly("reading after rebuilding", session.look)
    session.close_all()
    if half := half_made(root):
        session.find(CLEAN, f"{', '.join(half)} is left after the store was opened again and closed")


def _go_on(session: Session) -> None:
    """With a device that is well: the handles that are open, and another one, write and read."""
    for name in (*session.open_names, "another"):
        if session.let_go_if_poisoned(name):
            continue
        session.quietly(f"writing by handle {name}", lambda name=name: session.put({6: name.encode()}, name))  # type: ignore[misc]
        session.quietly(f"reading by handle {name}", lambda name=name: session.look(name))  # type: ignore[misc]
    _verify(session, "afterwards")


def _verify(session: Session, when: str) -> None:
    found: list[object] = []
    session.quietly(f"verify, {when}", lambda: found.extend(session.store("another").verify()))
    if found:
        session.find(SOUND, f"verify, {when}: {'; '.join(map(str, found[:3]))}")


def _look_for_locks(session: Session) -> None:
    ranges = session.path / "ranges.lock"
    if ranges.exists():
        fd = os.open(ranges, os.O_RDWR | os.O_CLOEXEC)
        try:
            if locks.anything_held(fd):
                session.find(CLEAN, "a lock is held after every handle was closed")
        finally:
            os.close(fd)
    try:
        with locks.gate(session.path / "store.lock", exclusive=True, timeout_s=0.0):
            pass
    except kvs.LockTimeoutError:
        session.find(CLEAN, "store.lock is held after every handle was closed")


def _descriptors(root: Path) -> set[str]:
    """The files below ``root`` that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # that of the listing itself
        if target.startswith(f"{root}/"):
            found.add(target.removeprefix(f"{root}/"))
    return found
