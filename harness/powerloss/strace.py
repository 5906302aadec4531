"""What an unmodified program did to the files of one directory: its system calls, from strace, as a ``Trace``.

Every call that takes a name or a descriptor is recorded. One that touches the directory is understood, known to change
nothing, or refused with a ``TraceError``; none is passed over. What the program itself says, in lines "begin 17" and
"told 17" that it writes to a file elsewhere, stands in the trace where it was said ("failed 17" says nothing).

An ``O_DSYNC`` write of Linux syncs what it wrote, not the whole file. A trace has no event for that, so such a write
is refused where anything else of its file is not synced yet.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from harness.errors import HarnessError
from harness.powerloss.medium import finished
from harness.powerloss.strace_calls import UNCHANGING, Call, Calls, Process, TraceError, Writes, shown
from harness.powerloss.trace import Begun, Event, Start, Trace

__all__ = ["TraceError", "Writes", "assert_complete", "events", "find", "record", "run", "starting"]

_CALLS: Final = "trace=%file,%desc,%process,munmap,mprotect,/^io_.*"
_STRING_MAX: Final = 1 << 24
"""Bytes of an argument that strace writes down; it marks one that it cuts off, which is then refused."""

_LINE: Final = re.compile(r"(\d+) +(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\)\s+= (\?|0x[0-9a-f]+|-?\d+)(.*)")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>")
_FORKS: Final = ("clone", "fork", "vfork")
_ALWAYS: Final = re.compile(
    r"(?:close|dup[23]?|clone3?|v?fork|execve|munmap|mprotect|creat|open|openat2?|rename|renameat2?|unlink|unlinkat|"
    r"link|linkat|symlink|symlinkat|mkdir|mkdirat|rmdir|truncate|io_\w+)\("
)
"""Calls that count even where their line does not show the directory: they may mean it by a relative name, or change
what a descriptor is.
"""


class _Reader:
    """Lines of strace, put together to calls."""

    def __init__(self, calls: Calls, directory: str, marks: str) -> None:
        self._calls = calls
        self._directory, self._marks = (
            "".join(f"\\x{byte:02x}" for byte in os.fsencode(path)) for path in (directory, marks)
        )
        self._processes: dict[str, Process] = {}
        self._entered: dict[str, tuple[str, int]] = {}
        """By process: the call that it is in, and how many events there were when it began."""

    def take(self, line: str) -> None:
        """Take the next line. Raises ``TraceError``."""
        matched = _LINE.fullmatch(line)
        if matched is None:
            raise TraceError(f"strace wrote a line that is not understood: {line[:300]}")
        process, text = matched.groups()
        self._known(process)
        if text.startswith(("+++", "---")):
            return
        if text.endswith("<unfinished ...>"):
            self._entered[process] = (text.removesuffix("<unfinished ...>"), len(self._calls.events))
            return
        since = len(self._calls.events)
        if resumed := _RESUMED.match(text):
            begin, since = self._entered.pop(process)
            text = begin + text[resumed.end() :]
        if self._concerned(text) or self._marks in text or _ALWAYS.match(text):
            self._call(process, text, since)

    def end(self) -> None:
        """There are no more lines: whatever a process was in never returned."""
        for text, _ in self._entered.values():
            name = text.partition("(")[0]
            if self._concerned(text) and name not in UNCHANGING | {"read", "readv", "fsync", "fdatasync"}:
                raise TraceError(
                    f"nobody knows what became of a call: {shown(name, [text.partition('(')[2]])}"
                )

    def _concerned(self, text: str) -> bool:
        return self._directory in text

    def _known(self, process: str) -> None:
        """A new process is the child of whoever is just making one; strace may show it before that call returns."""
        if not self._processes:
            self._processes[process] = Process(1)
        elif process not in self._processes:
            parents = [
                (self._processes[own], text)
                for own, (text, _) in self._entered.items()
                if text.startswith(_FORKS)
            ]
            if len(parents) != 1:
                raise TraceError(
                    "two processes were begun at once, and strace does not show by whom; record it again"
                )
            self._child(*parents[0], process)

    def _child(self, parent: Process, how: str, child: str) -> None:
        if child not in self._processes:
            self._processes[child] = Process(len(self._processes) + 1, parent, how)

    def _call(self, process: str, text: str, since: int) -> None:
        matched = _CALL.fullmatch(text)
        known = self._processes[process]
        if matched is None:
            raise TraceError(f"strace wrote a call that is not understood: {text[:300]}")
        name, arguments, result, tail = matched.groups()
        if name == "close":
            if "INJECTED" not in tail:  # else Linux lets go of the descriptor, whatever it returns
                self._calls.close(known, int(arguments.partition("<")[0], 0))
        elif name in UNCHANGING or result == "-1" or "ERESTART" in tail:
            return
        elif result == "?":
            raise TraceError(f"nobody knows what became of a call: {shown(name, [arguments])}")
        elif name.startswith(_FORKS):
            self._child(known, arguments, str(int(result, 0)))
        else:
            call = Call.of(known, name, arguments, int(result, 0), tail, since)
            self._calls.done(call, concerned=self._concerned(text))


def events(
    lines: Iterable[str],
    directory: Path,
    marks: Path,
    starts: Sequence[Start],
    *,
    begun: Callable[[int], Writes],
    ignored: Collection[str] = (),
) -> list[Event]:
    """The events of a run that ``strace`` wrote down. ``directory`` and ``marks`` are absolute, without symbolic links.

    ``begun(17)`` are the writes that the program announces by "begin 17" in the file ``marks``. Raises ``TraceError``.
    """
    calls = Calls(str(directory), str(marks), starts, begun, ignored)
    reader = _Reader(calls, str(directory), str(marks))
    for line in lines:
        reader.take(line)
    reader.end()
    return calls.events


def starting(directory: Path, ignored: Collection[str] = ()) -> list[Start]:
    """The files of a directory, as they are now."""
    paths = sorted(path for path in directory.iterdir() if path.name not in ignored)
    if strange := [path.name for path in paths if not path.is_file() or path.is_symlink()]:
        raise TraceError(f"only files can be traced, and {directory} has something else in it: {strange[0]}")
    found = [(path.name, path.read_bytes()) for path in paths]
    return [Start(name, file, len(data), data.rstrip(b"\0")) for file, (name, data) in enumerate(found)]


def find() -> str:
    """The path of strace. Raises ``HarnessError`` where there is none."""
    found = shutil.which("strace")
    if found is None:
        raise HarnessError(
            "strace is not installed, so nothing was recorded and nothing was changed; other engines are recorded with "
            "it. Install the package strace (for example: apt-get install strace) and try again"
        )
    return found


def run(command: Sequence[str], *options: str) -> list[str]:
    """Run a command to its end under strace and return the lines that it wrote, oldest first.

    ``options`` are more of strace's, such as ``"--inject=fdatasync:error=EIO:when=2"``. Raises ``TraceError`` where
    the command does not end well (it must end by itself), ``HarnessError`` where there is no strace.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "calls")
        full = [
            find(),
            "-f",
            "-q",
            "-y",
            "-xx",
            f"-s{_STRING_MAX}",
            "-e",
            _CALLS,
            *options,
            "-o",
            str(output),
        ]
        with subprocess.Popen(  # noqa: S603 - the caller's command is the point
            [*full, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                _, complaint = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode != 0:
            said = complaint.decode(errors="replace").strip()[-2000:] or "it said nothing"
            code = process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise TraceError(f"{command[0]} under strace ended with {how}: {said}")
        return output.read_text(encoding="ascii").splitlines()


def record(
    command: Sequence[str],
    directory: Path,
    marks: Path,
    *,
    begun: Callable[[int], Writes],
    ignored: Collection[str] = (),
    engine: str = "",
    options: dict[str, str | int | bool] | None = None,
    committed: Sequence[Begun] = (),
) -> Trace:
    """Run a command and return what it did to ``directory``: a complete trace. Raises ``TraceError``, ``HarnessError``.

    The command must name the directory and the file ``marks`` as ``Path.resolve`` does. Files called one of
    ``ignored`` do not matter; everything else in the directory is on the medium when it begins.
    """
    directory, marks = directory.resolve(), marks.resolve()
    starts = starting(directory, ignored)
    found = events(run(command), directory, marks, starts, begun=begun, ignored=ignored)
    trace = Trace(engine, options or {}, starts, found, list(committed))
    assert_complete(trace, directory, ignored)
    return trace


def assert_complete(trace: Trace, directory: Path, ignored: Collection[str] = ()) -> None:
    """Raise ``TraceError`` unless a replay of the whole trace gives the very files that are in the directory."""
    replayed = finished(trace)
    real = {start.name: (start.length, start.data) for start in starting(directory, ignored)}
    for name in sorted(replayed.keys() | real.keys()):
        if replayed.get(name) != real.get(name):
            raise TraceError(
                f"the trace is not complete: {name} is {_described(real.get(name))}, and after a replay of every call "
                f"it is {_described(replayed.get(name))}; something was done to it that strace did not show"
            )


def _described(file: tuple[int, bytes] | None) -> str:
    return "not there" if file is None else f"{file[0]} bytes long, beginning with {file[1][:16]!r}"
