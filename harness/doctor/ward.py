"""Where one probe is made: a directory with a new store in it, and the actors that use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.doctor.actor import Actor, Remote
from harness.doctor.words import EITHER, RefusedError, Wrong
from harness.engines.base import Engine, Value
from harness.plan import Limits

KEYS: Final = 100_000
"""The room that stores are made with."""
_TRIES: Final = 200
_PAUSE_S: Final = 0.01


class Ward:
    """Use as a context manager: every actor is gone afterwards. ``patience_s``: how long one call may take."""

    def __init__(self, engine: Engine, place: Path, patience_s: float) -> None:
        self.engine = engine
        self.patience_s = patience_s
        self.directory = place / "store"
        self._place = place
        self._actors: list[Actor] = []

    @property
    def stall_s(self) -> float:
        """The longest time that survivors may go without a commit."""
        own = self.engine.stall_s
        return Limits().stall_s if own is None else float(own)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            actor.kill()

    def actor(self) -> Actor:
        """A new process that has not opened anything."""
        actor = Actor(self.engine, self._place / f"errors-{len(self._actors)}", self.patience_s)
        self._actors.append(actor)
        return actor

    def make(self, name: str = "store") -> Path:
        """A new store in a directory of its own, made by a process that leaves."""
        directory = self._place / name
        directory.mkdir()
        maker = self.actor()
        maker.engine.create(directory, KEYS)
        maker.leave()
        return directory

    def opened(self, actor: Actor | None = None) -> Remote:
        """A session of the store, by a new process or by ``actor``."""
        engine = (actor or self.actor()).engine
        session: Remote = patiently(engine.open, self.directory)
        return session


def patiently(call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call until it is not refused any more.

    Raises:
        Wrong: it is refused again and again although nobody else has a transaction open.
    """
    for tried in range(_TRIES):
        try:
            return call(*args, **keywords)
        except RefusedError as error:
            if tried == _TRIES - 1:
                raise Wrong(
                    f"{error.call} was refused {_TRIES} times in {_TRIES * _PAUSE_S:.0f} s although nobody was in"
                    f" its way: {error.raised.message}",
                    "Let go of what was taken, and find out whether its holder is alive, before refusing.",
                    EITHER,
                ) from None
            time.sleep(_PAUSE_S)
    raise AssertionError("unreachable")


def value_of(call: str, got: Any) -> Value | None:
    """What a ``get`` returned, if it is what a ``get`` may return.

    Raises:
        Wrong: it is something else.
    """
    if got is None:
        return None
    then = "Return harness.Value(data, sequence), or None where the key is absent."
    if not (isinstance(got, tuple) and len(got) == 2 and hasattr(got, "data") and hasattr(got, "sequence")):
        raise Wrong(f"{call} returned {shown(got)}, which is no Value", then)
    if type(got[0]) is not bytes or not _is_number(got[1]):
        raise Wrong(f"{call} returned Value({shown(got[0])}, {shown(got[1])})", then)
    return Value(*got)


def number_of(call: str, got: Any) -> int | None:
    """What a commit returned, if it may.

    Raises:
        Wrong: it is neither a number nor ``None``.
    """
    if not _is_number(got):
        raise Wrong(f"{call} returned {shown(got)}", "Return the commit's sequence number, or None.")
    number: int | None = got
    return number


def shown(value: Any) -> str:
    """A value in words, short."""
    if isinstance(value, bytes) and len(value) > 24:
        return f"{len(value):,} bytes"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
