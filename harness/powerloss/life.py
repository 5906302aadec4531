"""The life of a store from before it is there: made, written to, closed and opened again, by one process."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import kvs
from harness.powerloss.recorder import LOCK_FILES, Recorder
from harness.powerloss.trace import Begun, Make, Stood, Told, Trace
from harness.stepped import place
from kvs import syncpoints

LIFE: Final = "life"
"""Its name among the scenarios whose runs are cut."""
_KEYS: Final = 6
_SESSIONS: Final = 3


class _Life:
    """One run. Everything is said to the recorder as it happens."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._drawn = random.Random(seed)
        self._directory = directory
        self._recorder = Recorder(directory, who=lambda: 1)
        self._last = 0
        self.options: dict[str, str | int | bool] = {
            "durable": bool(seed % 2),
            "smallfile_bytes": self._drawn.choice((0, 1024, 4096)),
            "capacity": self._drawn.choice((2, 40)),
            "scenario": LIFE,
            "seed": seed,
            "lock_files": True,
        }

    def trace(self) -> Trace:
        """Live it."""
        with self._recorder:
            syncpoints.install(self._reached)
            try:
                for number, name in enumerate(
                    sorted(LOCK_FILES), 1
                ):  # before anything else, and nothing is in them
                    self._recorder.note(Make(1, name, 1000 + number))
                for session in range(_SESSIONS):
                    self._session(first=session == 0)
            finally:
                syncpoints.install(None)
                self._recorder.note_stores()
        return Trace("kvs", self.options, [], self._recorder.events)

    def _session(self, *, first: bool) -> None:
        options: dict[str, Any] = {"io": self._drawn.choice(("mmap", "append"))}
        if limit := self.options["smallfile_bytes"]:
            options["smallfile_bytes"] = limit
        if first:
            options |= {"durable": self.options["durable"], "index_capacity": self.options["capacity"]}
        with kvs.open(self._directory, "c", **options) as store:
            if first:
                self._recorder.note(Told(1, 0, "create"))
            for _ in range(self._drawn.randrange(5)):
                self._commit(store)
            if self._drawn.random() < 0.5:
                store.compact()
        self._recorder.note(Told(1, self._last, "close"))

    def _commit(self, store: kvs.Store) -> None:
        sequence = self._last + 1
        keys = self._drawn.sample(range(_KEYS), self._drawn.randint(1, 3))
        writes: list[tuple[bytes, bytes | None]] = []
        for key in keys:
            value = b"%d of %d " % (key, sequence) * self._drawn.choice((1, 40))
            writes.append((key.to_bytes(16), None if self._drawn.random() < 0.25 else value))
        self._recorder.note(Begun(1, sequence, tuple(writes)))
        with store.transaction() as txn:
            for key_bytes, data in writes:
                if data is None:
                    txn.remove_unsafe(key_bytes)
                else:
                    txn.update_unsafe(key_bytes, data)
        self._last = sequence
        self._recorder.note(Told(1, sequence, "commit"))

    def _reached(self, point: str, _write: Any = None) -> None:
        self._recorder.note(Stood(1, point))


def record_life(seed: int) -> Trace:
    """The trace of the life that ``seed`` stands for; of an odd one the store is durable."""
    parent = Path(tempfile.mkdtemp(prefix="harness-life-", dir=place.parent_by_default))
    try:
        return _Life(parent / "store", seed).trace()
    finally:
        shutil.rmtree(parent, ignore_errors=True)
