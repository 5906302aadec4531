"""Where the events of a run are written down, one behind the other, by one process or by several."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import msgspec

from harness.powerloss.trace import Event


class Mapped(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Somebody has mapped the first ``length`` bytes of a file to store through the map. It is no event: it tells those
    who share a journal what to look at.
    """

    file: int
    length: int


class Journal(Protocol):
    """As a context manager: as long as it is held, nobody else writes to it."""

    shared: bool
    """Whether several processes of the system write to it: nobody can tell which of them stored through a map."""

    @property
    def count(self) -> int:
        """How many events there are."""

    def append(self, entry: Event | Mapped) -> None:
        """Write it down, while the journal is held."""

    def others(self) -> list[Event | Mapped]:
        """What others wrote down since this was asked last, while the journal is held."""

    def copy_of(self, file: int) -> int:
        """A descriptor of the file in memory that everybody keeps the copy of ``file`` in."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
