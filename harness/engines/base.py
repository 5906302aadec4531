"""The adapter protocol: what the harness asks of a store. Everything else is the store's own business.

Keys are 16 bytes, values are bytes. An adapter opens the store only after the fork, raises
``harness.errors.ConflictError`` where a transaction was refused without effect, and
``harness.errors.EngineDamagedError`` where the store says that it is damaged, and ``InDoubtError`` where it cannot
say whether the operation took effect. Any other exception is recorded as an operation of unknown outcome and ends the
run as a harness failure.

The last three protocols are what an engine may have besides; an engine without them is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable

Tear = Callable[[float], None]
"""Applies only the first part (0: nothing, to 1) of the write that a sync point stands before, as a death in
the middle of that write would."""


class InDoubtError(Exception):
    """The store could not say whether the operation took effect: it may be there, or come yet. The process goes on."""


class Hook(Protocol):
    """What an engine calls at a sync point; with ``tear`` where the point stands before a larger write."""

    def __call__(self, point: str, tear: Tear | None = None, /) -> None:
        """The process is at ``point``. May not return."""


class Value(NamedTuple):
    """A value as read, and the sequence number of the commit that wrote it (``None``: not revealed)."""

    data: bytes
    sequence: int | None


class Revision(NamedTuple):
    """One version in the history of a key: ``data`` is ``None`` where it is a removal or nothing was there;
    ``sequence`` is that of the commit that wrote or removed it, ``None`` where it is not revealed.
    """

    data: bytes | None
    sequence: int | None


SLOW_SECONDS: Final = 120.0
"""See ``Eventful.slow_points``."""
BEFORE_ALL: Final = Revision(None, 0)
"""What every key was before the first commit; at the end of a history it says that nothing is missing there."""


class Snapshot(Protocol):
    """One consistent view. ``sequence``: the newest commit in it, or ``None`` where none is revealed."""

    sequence: int | None

    def get(self, key: bytes) -> Value | None:
        """The value in this view, or ``None``."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in this view, in the order of ``keys``."""

    def close(self) -> None:
        """Let go of the view."""


class Transaction(Protocol):
    """Reads, then writes that take effect together at ``commit``, or not at all."""

    def get(self, key: bytes) -> Value | None:
        """The value as this transaction sees it. May raise ``ConflictError``."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write at commit."""

    def delete(self, key: bytes) -> None:
        """Remove at commit; a key that is absent stays absent."""

    def commit(self) -> int | None:
        """Make it so, and return the commit's sequence number where the store reveals one. Serializable:
        raises ``ConflictError``, having done nothing, if anything that was read has changed since.
        """

    def abort(self) -> None:
        """Leave no effect. Harmless after ``commit``."""


class Session(Protocol):
    """One open store in one process."""

    def transaction(self) -> Transaction:
        """Begin. May raise ``ConflictError`` (busy)."""

    def snapshot(self) -> Snapshot:
        """A consistent view of now: everything acknowledged before this call is in it."""

    def get(self, key: bytes) -> Value | None:
        """One current value without a snapshot."""

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        """One transaction of blind writes; returns its sequence number where revealed."""

    def settle(self) -> None:
        """Afterwards the fate of every commit whose process was dead before this call is sealed: it is visible
        now, or will never be. Called in a session that was opened for writing. May raise ``ConflictError``.
        """

    def revisions(self, key: bytes) -> list[Revision]:
        """The versions of ``key`` that the store still keeps, newest first, none left out between the first and the
        last, which is ``BEFORE_ALL`` if none was ever dropped. A store without a history has only the current one.
        """

    def keys(self) -> set[bytes]:
        """Every key that is present now."""

    def verify(self, *, thorough: bool) -> list[str]:
        """The store's own check of its structure: findings in words, empty when it is sound. ``thorough``: all
        of it, however long that holds others up; else what may be asked of a store in use.
        """

    def close(self) -> None:
        """Close; idempotent."""


class Engine(Protocol):
    """One kind of store. Stateless: it is used in the parent and, after the fork, in every process."""

    name: str
    stall_s: float | None
    """Longest promised time without a commit, where it differs from the plan's default."""

    feeders: Mapping[str, Sequence[str]]
    """For sync points that are reached only after somebody else died: where, so that a campaign can arrange
    it. Empty where there are none."""

    dense: bool
    """Whether every sequence number from 1 to the newest belongs to a commit: then a number that nobody is known to
    have tells of a killed commit that nobody saw."""

    def points(self) -> Mapping[str, str]:
        """Sync points by name with their meaning; empty for a store that has none."""

    def required_points(self) -> frozenset[str]:
        """The points that a campaign must have killed at before its verdict can be OK."""

    def install_hook(self, hook: Hook | None) -> None:
        """Call ``hook(point)`` in this process at every sync point; ``None`` removes it."""

    def bugs(self) -> Sequence[str]:
        """The known bugs that ``plant`` can install; empty for a store that has none."""

    def plant(self, bug: str) -> None:
        """Install a known bug in this process, to see it caught. Raises ValueError if it is none of ``bugs()``."""

    def create(self, directory: Path, keys: int) -> None:
        """Make an empty store with room for ``keys`` keys in ``directory``, which exists and is empty."""

    def open(self, directory: Path, *, readonly: bool = False) -> Session:
        """Open the store that ``create`` made."""

    def left_behind(self, directory: Path) -> list[str]:
        """After every process has gone: locks still held or debris of the dead, in words."""

    def versions(self) -> dict[str, str]:
        """The software under test, e.g. ``{"sqlite": "3.40.1"}``."""


@runtime_checkable
class Compacting(Protocol):
    """An engine whose stores give space back when they are asked to: then housekeepers ask all the time."""

    def housekeep(self, session: Session, dead_min: float) -> int:
        """Give back what is not needed any more wherever at least this share (0 to 1) of it is dead; returns how many
        bytes of the store are still needed. Raises ``ConflictError`` where somebody else is at it.
        """


@runtime_checkable
class Rebuilding(Protocol):
    """An engine whose stores hold something that they can make again from the rest."""

    lossy_points: frozenset[str]
    """The sync points that only a process comes to that finds it lost."""

    def lose_index(self, directory: Path) -> None:
        """Remove it, while nobody has the store open. Called in the parent, too: opens nothing."""


@runtime_checkable
class Eventful(Protocol):
    """An engine in whose stores something has to happen before a run has tortured them."""

    milestones: Mapping[str, str]
    """What has to happen (a noun in the plural), and the sync point that is reached once each time that it does."""

    slow_points: frozenset[str]
    """The required sync points that processes come to so seldom that only a run of ``SLOW_SECONDS`` must have killed at
    each of them; a shorter one kills at them as often as it can."""
