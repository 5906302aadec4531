"""Bases for an adapter of your own: write ``open`` and two methods of a session, and override what you do better.

A session that has ``snapshot`` and ``commit`` is complete. A store with transactions of its own overrides
``SimpleSession.transaction`` instead of ``commit``; one that gives views of itself returns a ``SimpleSnapshot`` of its
own from ``snapshot``. Nothing has to inherit from anything here: ``harness.engines.base`` says what is asked for.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engines.base import Hook, Revision, Session, Transaction, Value


def _nothing(*_: object) -> None:
    """The hook of whoever was given none."""


class SimpleSnapshot:
    """The values of all keys at one moment, which nobody changes any more (``None``: the key is absent, as one that is
    not there), and the number of the newest commit among them, where the store counts.
    """

    def __init__(self, values: Mapping[bytes, Value | None], sequence: int | None = None) -> None:
        self.values = values
        self.sequence = sequence

    def get(self, key: bytes) -> Value | None:
        """The value in this view, or ``None``."""
        return self.values.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The data of ``keys``, in their order."""
        found = map(self.get, keys)
        return [None if value is None else value.data for value in found]

    def keys(self) -> set[bytes]:
        """Every key that is present in this view."""
        return {key for key, value in self.values.items() if value is not None}

    def close(self) -> None:
        """Nothing to let go of."""


class SimpleTransaction:
    """Reads from one snapshot, which is taken at the first read, and keeps its writes to itself; ``commit`` hands both
    to the session.
    """

    def __init__(self, session: SimpleSession) -> None:
        self.session = session
        self.reads: dict[bytes, Value | None] = {}
        self.writes: dict[bytes, bytes | None] = {}
        self._snapshot: SimpleSnapshot | None = None

    def get(self, key: bytes) -> Value | None:
        """What this transaction wrote, else what its snapshot holds."""
        if key in self.writes:
            data = self.writes[key]
            return None if data is None else Value(data, None)
        if self._snapshot is None:
            self._snapshot = self.session.snapshot()
        self.reads[key] = self._snapshot.get(key)
        return self.reads[key]

    def put(self, key: bytes, value: bytes) -> None:
        """Write at commit."""
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        """Remove at commit."""
        self.writes[key] = None

    def commit(self) -> int | None:
        """Have the session make all writes together, if nothing that was read has changed."""
        try:
            return self.session.commit(self.reads, self.writes)
        finally:
            self.abort()

    def abort(self) -> None:
        """Nothing was written; let go of the snapshot."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


class SimpleSession(abc.ABC):
    """One open store in one process. ``snapshot`` and ``commit`` must be written, the rest follows from them."""

    @abc.abstractmethod
    def snapshot(self) -> SimpleSnapshot:
        """A consistent view of now: everything acknowledged before this call is in it."""

    def commit(self, reads: Mapping[bytes, Value | None], writes: Mapping[bytes, bytes | None]) -> int | None:
        """Make all ``writes`` together (``None`` removes a key), and return the commit's number where the store counts.

        Raises:
            ConflictError: a key of ``reads`` holds something else by now; nothing was written.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither a commit nor a transaction of its own")

    def transaction(self) -> Transaction:
        """Begin."""
        return SimpleTransaction(self)

    def get(self, key: bytes) -> Value | None:
        """One current value."""
        snapshot = self.snapshot()
        try:
            return snapshot.get(key)
        finally:
            snapshot.close()

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        """One transaction of blind writes."""
        transaction = self.transaction()
        try:
            for key, value in pairs:
                transaction.put(key, value)
            return transaction.commit()
        finally:
            transaction.abort()

    def settle(self) -> None:  # noqa: B027 - to be overridden by whoever needs it
        """Nothing: right for a store in which one write decides whether a commit happened. Override it where what a
        dead process left may still come to light later.
        """

    def revisions(self, key: bytes) -> list[Revision]:
        """The current version, as of a store that keeps no other."""
        value = self.get(key)
        return [Revision(None, None) if value is None else Revision(*value)]

    def keys(self) -> set[bytes]:
        """Every key that is present now."""
        snapshot = self.snapshot()
        try:
            return snapshot.keys()
        finally:
            snapshot.close()

    def verify(self, *, thorough: bool) -> list[str]:  # noqa: ARG002 - there is nothing to be thorough about
        """No findings: the store has no check of its own."""
        return []

    def close(self) -> None:  # noqa: B027 - as above
        """Nothing to close."""


class SimpleEngine(abc.ABC):
    """One kind of store. ``open`` must be written; ``create`` too, unless opening makes a store that is not there."""

    name: str
    """The name of the class, unless it says another one."""

    stall_s: float | None = None
    """Survivors may go as long without a commit as the plan says."""

    feeders: Mapping[str, Sequence[str]] = {}
    dense: bool = False
    sync_points: Mapping[str, str] = {}
    """Sync points by name with their meaning. Each is a place in the store's code that calls ``self.hook(name)``, or
    what ``open`` made of ``self.hook``."""

    known_bugs: Mapping[str, str] = {}
    """Bugs that can be planted, by name with what each of them does wrong."""

    bug: str = ""
    """The one that is planted."""

    hook: Hook = staticmethod(_nothing)
    """What to call at a sync point."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Call the engine by its class."""
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abc.abstractmethod
    def open(self, directory: Path, *, readonly: bool = False) -> Session:
        """Open the store in ``directory``."""

    def create(self, directory: Path, keys: int) -> None:  # noqa: ARG002 - a simple store grows by itself
        """Open it once."""
        self.open(directory).close()

    def points(self) -> Mapping[str, str]:
        """``sync_points``."""
        return self.sync_points

    def required_points(self) -> frozenset[str]:
        """All of them: a campaign must have killed at each."""
        return frozenset(self.points())

    def install_hook(self, hook: Hook | None) -> None:
        """From now on ``self.hook`` is ``hook``."""
        self.hook = _nothing if hook is None else hook

    def bugs(self) -> Sequence[str]:
        """The names of ``known_bugs``."""
        return tuple(self.known_bugs)

    def plant(self, bug: str) -> None:
        """From now on ``self.bug`` is ``bug``, and the sessions that this engine opens are to carry it.

        Raises:
            ValueError: it is none of ``known_bugs``.
        """
        if bug not in self.known_bugs:
            known = ", ".join(self.known_bugs) or "none"
            raise ValueError(f"no bug called {bug!r} can be planted in {self.name}; known: {known}")
        self.bug = bug

    def left_behind(self, directory: Path) -> list[str]:  # noqa: ARG002 - nobody looks
        """Nothing, as far as anybody knows."""
        return []

    def versions(self) -> dict[str, str]:
        """Nothing is known of the software under test."""
        return {}
