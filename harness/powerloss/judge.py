"""Recovering one image of a kvs store after a power cut, with the store itself, and judging what it is then.

Checked of every image, as properties of these names:

* ``recovery``: the store opens, for reading and writing, and every read of it returns.
* ``prefix``: it shows the state after its first T transactions, for one T, and nothing else: every key its newest
  version of then, and of the older ones those that are kept, with nothing missing in between.
* ``durability``: of a durable store nothing that was told before the cut (to a committer or a reader) is gone; of one
  that is not, nothing that a clean close promised.
* ``invention``: there is no transaction that had not been begun before the cut.
* ``structure``: the store's own check finds nothing.
* ``new writer``: the next commit is transaction T + 1, and can be read; closed and opened again it is still there.

Does not verify: what a reader saw before the cut in a store that is not durable (it may be gone, and is promised to
nobody).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

import kvs
from harness.powerloss.medium import Image
from harness.powerloss.recorder import LOCK_FILES
from harness.powerloss.trace import Begun, Told, Trace
from harness.verdict import Finding
from kvs import files, layout

_NEW_KEY: Final = b"after power cut!"
_DURABLE: Final = layout.H_DURABLE * layout.WORD
_NEW_VALUE: Final = b"a new writer's"
Version = tuple[int, bytes | None]
"""T and the value, ``None`` for a removal."""


class Expected(NamedTuple):
    """What a store may show after a cut: the transactions that had begun, by T, how far they had been told, and whether
    there must be a store at all.
    """

    begun: Mapping[int, Begun]
    told: int
    made: bool = True

    @classmethod
    def at(cls, trace: Trace, cut: int, seen: int = 0) -> Expected:
        """As of the first ``cut`` events of ``trace``, when any reader saw ``seen`` (``seen_by_readers``)."""
        durable = bool(trace.options.get("durable"))
        begun = {each.sequence: each for each in trace.committed}
        told, made = max(begun, default=0), bool(trace.starts)
        for event in trace.events[:cut]:
            if isinstance(event, Begun):
                begun[event.sequence] = event
            elif isinstance(event, Told) and (durable or event.how == "close"):
                told = max(told, event.sequence)
            made = made or isinstance(event, Told)
        return cls(begun, max(told, seen) if durable else told, made)

    def versions(self, until: int) -> dict[bytes, list[Version]]:
        """By key, the newest four versions of the first ``until`` transactions, the newest first."""
        found: dict[bytes, list[Version]] = {}
        for sequence in sorted(self.begun, reverse=True):
            if sequence <= until:
                for key, value in self.begun[sequence].writes:
                    versions = found.setdefault(key, [])
                    if len(versions) < layout.REVISIONS:
                        versions.append((sequence, value))
        return found


def seen_by_readers(running: Image) -> int:
    """The newest transaction that a reader of a durable store saw when its files were ``running``: D."""
    newest = 0
    for name, (_, data) in running.items():
        if name.startswith("index.") and name[6:].isdecimal() and len(data) > _DURABLE:
            newest = max(newest, int.from_bytes(data[_DURABLE : _DURABLE + layout.WORD], "little"))
    return newest


class Watch:
    """Somebody who looks on while an image is recovered, from when its files are there."""

    def begun(self, sequence: int, key: bytes, value: bytes) -> None:
        """The new writer is about to commit."""

    def told(self, sequence: int) -> None:
        """The store has shown everything up to this transaction, or acknowledged it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The store is closed, as far as it can be."""


UNWATCHED: Final = Watch()


def materialize(image: Image, directory: Path, *, locks: bool = True) -> None:
    """Make ``directory``, with the files of an image in it, and with ``locks`` those that hold nothing but locks."""
    directory.mkdir()
    for name in sorted(LOCK_FILES) if locks else ():
        (directory / name).touch()
    for name, (length, data) in image.items():
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if data:
                os.write(fd, data)
            if length > len(data):
                os.truncate(fd, length)
        finally:
            os.close(fd)


@contextmanager
def rebooted() -> Iterator[None]:
    """The kernel is another one than before."""
    real, other = files.boot_id, secrets.token_bytes(16)
    files.boot_id = lambda: other  # type: ignore[assignment]
    try:
        yield
    finally:
        files.boot_id = real


def judge(
    trace: Trace,
    expected: Expected,
    image: Image,
    directory: Path,
    *,
    thorough: bool = True,
    watch: Watch = UNWATCHED,
) -> list[Finding]:
    """Recover ``image`` in ``directory``, which must not exist and is removed afterwards, and check what it is then.

    ``watch`` is told of it. Not ``thorough``: without opening the store once more after it was closed.
    """
    materialize(image, directory, locks=not trace.options.get("lock_files"))
    try:
        with rebooted(), watch:
            return _recover(trace, expected, directory, thorough, watch)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _recover(
    trace: Trace, expected: Expected, directory: Path, thorough: bool, watch: Watch
) -> list[Finding]:
    store = None
    limit = int(trace.options.get("smallfile_bytes") or layout.SMALLFILE_BYTES)
    try:
        durable = bool(trace.options.get("durable"))  # as it was made, or an error
        flag = "w" if expected.made else "c"
        store = kvs.open(directory, flag, durable=durable, lock_timeout_s=0.0, smallfile_bytes=limit)
        with store.snapshot() as snapshot:
            last = snapshot.transaction_counter
        found = list(_judge_state(expected, store, last))
        found += [Finding("structure", f"{each.invariant}: {each.message}") for each in store.verify()]
        if not found:
            watch.told(last)
            watch.begun(last + 1, _NEW_KEY, _NEW_VALUE)
            found += _judge_writer(store, last)
            watch.told(last + 1)
        store.close()
        if thorough and not found:
            with kvs.open(directory, "r") as again:
                if again.get(_NEW_KEY) != _NEW_VALUE:
                    found.append(Finding("new writer", "what it wrote is gone after a clean close"))
        return found
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the store's answer
        return [Finding("recovery", f"{type(error).__name__}: {error}")]
    finally:
        if store is not None:
            store.close()


def _judge_state(expected: Expected, store: kvs.Store, last: int) -> Iterator[Finding]:
    newest = max(expected.begun, default=0)
    if last > newest:
        yield Finding(
            "invention", f"it shows T={last}, and the newest that was begun before the cut was T={newest}"
        )
        return
    if last < expected.told:
        yield Finding("durability", f"it shows T={last}, and T={expected.told} was told before the cut")
    wanted = expected.versions(last)
    keys = {key for each in expected.begun.values() for key, _ in each.writes}
    for key in sorted(keys):
        right, there = wanted.get(key, []), store.history(key)
        if not _agree(right, there):
            yield Finding(
                "prefix",
                f"key {key.hex()} is {_words(there)}, and after transaction {last} it was {_words(right)}",
            )
    for key in store:
        if key not in keys:
            yield Finding("prefix", f"there is a key that nobody wrote: {key.hex()}")


def _agree(right: Sequence[Version], there: Sequence[Version]) -> bool:
    """Whether ``there`` are the newest ones of ``right``. What is older than a removal may have been forgotten, and
    with it the removal; of others, those that a version which is lost now had replaced may be gone.
    """
    if there and there[-1][0] == 0:  # "nothing was ever dropped"
        return list(there[:-1]) == list(right)
    return list(there) == list(right[: len(there)]) and (bool(there) or not right or right[0][1] is None)


def _words(versions: Sequence[Version]) -> str:
    said = [f"{'removed' if value is None else value[:16].hex()} (T={time})" for time, value in versions]
    return ", ".join(said) or "absent"


def _judge_writer(store: kvs.Store, last: int) -> Iterator[Finding]:
    store[_NEW_KEY] = _NEW_VALUE
    item = store.find(_NEW_KEY)
    if item is None or item.value != _NEW_VALUE or item.transaction_counter != last + 1:
        yield Finding("new writer", f"transaction {last + 1} was to be written, and there is {item}")
