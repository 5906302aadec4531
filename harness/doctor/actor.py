"""A process that uses an adapter as it is told, one call at a time, and that may hang, crash or be killed in any.

Whoever tells it never runs the adapter's code itself. An actor is forked and opens the store afterwards, as every
process of a campaign is and does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import mmap
import os
import signal
import struct
import time
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.doctor.words import DiedError, FailedError, HungError, Kind, Raised, RefusedError, Wrong
from harness.engines.base import InDoubtError
from harness.errors import ConflictError, EngineDamagedError
from harness.worker import enter

_KEPT: Final = {"open": "session", "transaction": "transaction", "snapshot": "snapshot"}
"""The methods whose results stay in the actor, and what these are called."""
_KINDS: Final[dict[type[Exception], Kind]] = {
    ConflictError: "conflict",
    InDoubtError: "doubt",
    EngineDamagedError: "damaged",
}
_HERE: Final = str(Path(__file__).parent)
_TRACE_S: Final = 1.0
_LEAVE_S: Final = 5.0
_STATUS_LOST: Final = 70
_NUMBER: Final = struct.Struct("<Q")


class _Handle(NamedTuple):
    """An object that stays in the actor."""

    number: int


class _Order(NamedTuple):
    """Call ``work`` with ``args``; keep what it returns and return a handle instead if ``keep``."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    keep: bool


class Returned(NamedTuple):
    """A result, or what it is in words (``strange``) if it cannot leave its process."""

    value: Any
    strange: str = ""


_progress: Final[list[mmap.mmap]] = []
"""In an actor: where it reports."""


def report(number: int) -> None:
    """In an actor: tell how far it has come, for everybody to see even if it is killed the next moment."""
    _progress[0][: _NUMBER.size] = _NUMBER.pack(number)


class Remote:
    """An object of an actor: its methods are called there, and their results come back.

    Sessions, transactions and snapshots stay there and come back as remotes.
    """

    def __init__(self, actor: Actor, handle: _Handle, noun: str) -> None:
        self._actor = actor
        self.handle = handle
        self.noun = noun

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            return self._actor.later(self, method, *args, **keywords).answer()

        return call


class Pending:
    """A call that an actor is making."""

    def __init__(self, actor: Actor, call: str, kept: str) -> None:
        self._actor = actor
        self.call = call
        self._kept = kept

    def is_done(self, within_s: float) -> bool:
        """Whether there is an answer, or the actor has died, within this time."""
        return self._actor.connection.poll(within_s)

    def answer(self, within_s: float | None = None) -> Any:
        """What the call returned.

        Raises:
            FailedError: it raised; RefusedError if it was a ``ConflictError``.
            HungError: it has not returned in time; the actor is dead.
            DiedError: its process has died in it.
            Wrong: what it returned cannot be what was asked for.
        """
        actor, patience_s = self._actor, self._actor.patience_s if within_s is None else within_s
        if not self.is_done(patience_s):
            where = actor.trace()
            actor.kill()
            raise HungError(self.call, patience_s, where)
        try:
            answer = actor.connection.recv()
        except (EOFError, ConnectionResetError):
            raise DiedError(self.call, actor.wait(), actor.said_where()) from None
        if isinstance(answer, Raised):
            error = RefusedError if answer.kind == "conflict" else FailedError
            raise error(self.call, answer)
        if isinstance(answer, Wrong):
            raise answer
        if answer.strange:
            raise Wrong(
                f"{self.call} returned {answer.strange}", "Return plain bytes, numbers, lists and sets."
            )
        return Remote(actor, answer.value, self._kept) if self._kept else answer.value


class Actor:
    """One process that uses ``engine``. ``errors``: where it writes what it would say on standard error."""

    def __init__(self, engine: object, errors: Path, patience_s: float) -> None:
        self.patience_s = patience_s
        self._engine = engine
        self._errors = errors
        self._board = mmap.mmap(-1, mmap.PAGESIZE)
        self.connection, theirs = Pipe()
        parent = os.getpid()
        fd = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                self.connection.close()
                enter(fd, parent)
                faulthandler.enable(file=2)
                _progress[:] = [self._board]
                _serve(engine, theirs)
            finally:
                os._exit(_STATUS_LOST)
        with contextlib.suppress(OSError):  # it has done so itself, or is dead
            os.setpgid(self.pid, self.pid)
        os.close(fd)
        theirs.close()
        self.engine = Remote(self, _Handle(0), "")
        self._status: int | None = None

    @property
    def progress(self) -> int:
        """What it reported last."""
        number: int = _NUMBER.unpack_from(self._board)[0]
        return number

    def later(self, remote: Remote, method: str, *args: Any, **keywords: Any) -> Pending:
        """Have it call a method, and do not wait."""
        kept = _KEPT.get(method, "")
        label = f"{remote.noun}.{method}()" if remote.noun else f"{method}()"
        self._send(_Order(_call, (remote, method, *args), keywords, bool(kept)))
        return Pending(self, label, kept)

    def run_later(self, label: str, work: Callable[..., Any], *args: Any) -> Pending:
        """Have it run a function of a module, with remotes of its own and plain data."""
        self._send(_Order(work, args, {}, keep=False))
        return Pending(self, label, "")

    def run(self, label: str, work: Callable[..., Any], *args: Any, within_s: float | None = None) -> Any:
        """The same, and its result."""
        return self.run_later(label, work, *args).answer(within_s)

    def _send(self, order: _Order) -> None:
        args = tuple(arg.handle if isinstance(arg, Remote) else arg for arg in order.args)
        with contextlib.suppress(BrokenPipeError):  # it is dead, which whoever waits for the answer is told
            self.connection.send(order._replace(args=args))

    def trace(self) -> str:
        """Where it is now: file and line, as far as it still says so."""
        before = self._errors.stat().st_size
        deadline = time.monotonic() + _TRACE_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        while time.monotonic() < deadline:
            where = self.said_where(before)
            if where:
                return where
            time.sleep(0.01)
        return ""

    def said_where(self, since: int = 0) -> str:
        """Where it said it was when it was asked, or died: in the adapter's own file, else in the innermost frame.
        Empty if it has not said so, or not to the end.
        """
        text = self._errors.read_bytes()[since:].decode(errors="replace")
        frames = [line for line in text.splitlines() if 'File "' in line and _HERE not in line]
        if _serve.__name__ not in text or not frames:
            return ""
        home = _file_of(self._engine)
        return _in_words(next((line for line in frames if home and home in line), frames[0]))

    def stop(self) -> None:
        """SIGSTOP: it is alive and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, to it and to whatever processes it started."""
        if self._status is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> str:
        """Wait until it is dead; how it died, in words."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.connection.close()
        if self._status < 0:
            return f"died of {signal.Signals(-self._status).name}"
        return f"exited with status {self._status}"

    def leave(self) -> None:
        """Have it go without closing anything; it is killed if it does not."""
        if self._status is None:
            self._send(_Order(os._exit, (0,), {}, keep=False))
            if self.connection.poll(_LEAVE_S):
                self.wait()
            self.kill()


def _call(target: Any, method: str, *args: Any, **keywords: Any) -> Any:
    return getattr(target, method)(*args, **keywords)


def _serve(engine: object, connection: Connection) -> None:
    """The life of an actor: obey until the other side is gone."""
    objects: list[Any] = [engine]
    home = _file_of(engine)
    while True:
        order: _Order = connection.recv()
        answer: Returned | Raised | Wrong
        try:
            args = [objects[arg.number] if isinstance(arg, _Handle) else arg for arg in order.args]
            value = order.work(*args, **order.keywords)
            if order.keep:
                objects.append(value)
                value = _Handle(len(objects) - 1)
            answer = Returned(value)
        except Wrong as wrong:
            answer = wrong
        except BaseException as error:  # noqa: BLE001 - whatever it is, it came out of the adapter
            answer = _raised(error, home)
        try:
            connection.send(answer)
        except Exception:  # noqa: BLE001 - what pickle raises is up to what it is given
            connection.send(Returned(None, f"a {type(getattr(answer, 'value', answer)).__name__}"))


def _raised(error: BaseException, home: str) -> Raised:
    kinds = [kind for known, kind in _KINDS.items() if isinstance(error, known)]
    name = type(error).__qualname__
    module = type(error).__module__
    if module not in ("builtins", "harness.errors", "harness.engines.base"):
        name = f"{module}.{name}"
    lines = str(error).splitlines() or [""]
    return Raised(kinds[0] if kinds else "other", name, lines[0][:300], _where(error, home))


def _where(error: BaseException, home: str) -> str:
    """File and line of the adapter where the exception passed last; of the innermost frame, if it did not."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _HERE not in frame.filename]
    own = [frame for frame in frames if frame.filename == home] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else ""


def _in_words(frame: str) -> str:
    """A line of ``faulthandler``, as the others are said."""
    path, _, rest = frame.strip().removeprefix('File "').partition('", line ')
    number, _, name = rest.partition(" in ")
    return f"it was at {Path(path).name}:{number} in {name}"


def _file_of(engine: object) -> str:
    try:
        return inspect.getsourcefile(type(engine)) or ""
    except (TypeError, OSError):
        return ""
