"""The processes of one measurement: spawned, so that nobody inherits a lock, a map or a thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.errors import HarnessError

ANSWER_TIMEOUT_S: Final = 120.0
_KILOBYTE: Final = 1024

Work = Callable[..., None]
"""``work(pipe, *arguments)``, a function of a module: what a child does. Its errors reach the parent."""


class Failure(NamedTuple):
    """What a child answers instead, when it cannot go on."""

    words: str


class Child:
    """One process; ``name`` is what messages call it."""

    def __init__(self, name: str, work: Work, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.anonymous_bytes = 0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        """Tell it something.

        Raises:
            HarnessError: it is gone; its last words are in the message.
        """
        try:
            self._pipe.send(message)
        except OSError:
            self.answer()
            raise HarnessError(f"{self.name} ended too early") from None

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S, sample_s: float = 1.0) -> Any:
        """What it says next. Every ``sample_s`` until then its memory is looked at: ``anonymous_bytes`` becomes the
        most outside of files and shared maps that it was ever seen with (``RssAnon``, proc_pid_status(5)).

        Raises:
            HarnessError: it failed, ended, or said nothing for ``timeout_s``.
        """
        end = time.monotonic() + timeout_s
        with contextlib.suppress(EOFError, ConnectionResetError):
            while time.monotonic() < end:
                ready = self._pipe.poll(min(sample_s, timeout_s))
                self.anonymous_bytes = max(self.anonymous_bytes, _anonymous_bytes(self._process.pid))
                if ready:
                    found = self._pipe.recv()
                    if isinstance(found, Failure):
                        raise HarnessError(f"{self.name} failed: {found.words}")
                    return found
        raise HarnessError(f"{self.name} ended, or says nothing any more")

    def ask(self, message: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Tell it something and wait for the answer. Raises as both do."""
        self.send(message)
        return self.answer(timeout_s)

    def end(self, timeout_s: float = ANSWER_TIMEOUT_S) -> int | None:
        """Wait until it has ended; its exit code, or the negative number of the signal that killed it."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Crew:
    """A block that kills what it started, however it is left."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()

    def add(self, name: str, work: Work, *arguments: Any) -> Child:
        """Start a child. A Ctrl-C goes to the whole process group: the children leave it to the parent."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            child = Child(name, work, arguments)
            self._children.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child


def _anonymous_bytes(pid: int | None) -> int:
    """``RssAnon`` of a process now; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * _KILOBYTE
    return 0


def _serve(pipe: Any, work: Work, arguments: tuple[Any, ...]) -> None:
    """What a child runs."""
    try:
        work(pipe, *arguments)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone: nobody waits for what would be said
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        pipe.send(Failure(f"{type(error).__name__}: {error}"))
