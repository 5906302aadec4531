"""What system calls did to the files of one directory: one at a time, as strace shows them, to events of a trace."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from harness.errors import HarnessError
from harness.powerloss.trace import (
    Allocate,
    Begun,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Start,
    Sync,
    SyncNames,
    Told,
    Unlink,
    Write,
)

Writes = tuple[tuple[bytes, bytes | None], ...]
"""Keys and their new values, ``None`` removes."""

_ARGUMENT: Final = re.compile(r'(?:"[^"]*"|\[(?:"[^"]*"|[^\]"])*\]|\{(?:"[^"]*"|[^}"])*\}|[^,"\[{])+')
_DESCRIPTOR: Final = re.compile(r"(-?\w+)(?:<([^>]*)>)?(?:\(deleted\))?")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_PIECE: Final = re.compile(r'iov_base=("[^"]*"(?:\.\.\.)?)')

_UNCHANGING_NAMES: Final = """
    pread64 preadv preadv2 fstat newfstatat stat lstat statx access faccessat faccessat2 readlink readlinkat
    statfs fstatfs getdents getdents64 fadvise64 readahead flock fchmod fchmodat chmod fchown fchownat chown
    lchown utimensat utime utimes futimesat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    poll ppoll select pselect6 epoll_ctl inotify_add_watch name_to_handle_at sync_file_range getcwd chdir
    fchdir wait4 waitid exit exit_group
"""
UNCHANGING: Final = frozenset(_UNCHANGING_NAMES.split())
"""Calls that change neither a file's bytes nor its name, or promise nothing (sync_file_range)."""

_DIRECTORY: Final = -1
_MARKS: Final = -2
"""Numbers in place of a file's, for the directory itself and the file of what the program says."""


class TraceError(HarnessError):
    """What a program did to the directory is not understood, or not all of it was seen."""


class _Opened:
    """An open file description: what every descriptor that was duplicated from it shares."""

    def __init__(self, file: int, flags: str) -> None:
        self.file = file
        self.position = 0
        self.appends = "O_APPEND" in flags
        self.syncs = "O_DSYNC" in flags or "O_SYNC" in flags
        self.writable = "O_WRONLY" in flags or "O_RDWR" in flags


class Process:
    """A process or thread: its descriptors that lead into the directory, and its maps of files there."""

    def __init__(self, number: int, parent: Process | None = None, how: str = "") -> None:
        self.number = number
        self.opened: dict[int, _Opened] = {}
        self.maps: list[tuple[int, int]] = []
        """Shared read-only maps of files that are open for writing, which mprotect could open: begin and end."""
        if parent is not None:
            self.opened = parent.opened if "CLONE_FILES" in how else dict(parent.opened)
            self.maps = parent.maps if "CLONE_VM" in how else list(parent.maps)


class Call(NamedTuple):
    """One call that has succeeded. ``tail`` follows its result; ``since``: how many events there were at its begin."""

    process: Process
    name: str
    arguments: list[str]
    result: int
    tail: str
    since: int

    @classmethod
    def of(cls, process: Process, name: str, arguments: str, result: int, tail: str, since: int) -> Call:
        """From the arguments as one string."""
        return cls(
            process, name, [each.strip() for each in _ARGUMENT.findall(arguments)], result, tail, since
        )

    def refuse(self, what: str) -> NoReturn:
        """Raise: the call ``what``."""
        raise TraceError(f"a call {what}, so the run cannot be replayed: {shown(self.name, self.arguments)}")

    def data(self, argument: str) -> bytes:
        """The bytes of a string as strace shows it."""
        matched = _STRING.fullmatch(argument)
        if matched is None or matched[2]:
            self.refuse("is not shown whole")
        return bytes.fromhex(matched[1].replace("\\x", ""))

    def number(self, index: int) -> int:
        """An argument that is a number, or a descriptor."""
        matched = _DESCRIPTOR.fullmatch(self.arguments[index])
        if matched is None:
            self.refuse("is not understood")
        return int(matched[1], 0)

    def path(self, index: int, at: int | None = None) -> str:
        """An argument that is a path, made absolute. ``at``: the argument it is relative to."""
        path = os.fsdecode(self.data(self.arguments[index]))
        if path.startswith("/"):
            return os.path.normpath(path)
        base = _DESCRIPTOR.fullmatch(self.arguments[at]) if at is not None else None
        if base is None or base[2] is None:
            self.refuse("has a relative name, of which nobody knows where it leads")
        return os.path.normpath(Path(unhex(base[2]), path))


def shown(name: str, arguments: Sequence[str]) -> str:
    """A call for people: what was hexadecimal is readable, and what is long is short."""
    text = re.sub(
        r"(?:\\x[0-9a-f]{2})+", lambda found: ascii(unhex(found[0]))[1:-1][:80], ", ".join(arguments)
    )
    return f"{name}({text[:300]})"


def unhex(text: str) -> str:
    """A name as strace shows it."""
    return os.fsdecode(bytes.fromhex(text.replace("\\x", ""))) if text.startswith("\\x") else text


class Calls:
    """Every call of a run, in order, to ``events``; a method for each, by its name."""

    def __init__(
        self,
        directory: str,
        marks: str,
        starts: Sequence[Start],
        begun: Callable[[int], Writes],
        ignored: Collection[str],
    ) -> None:
        self.events: list[Event] = []
        self._directory, self._marks = directory, marks
        self._begun = begun
        self._ignored = ignored
        self._names = {start.name: start.file for start in starts}
        self._lengths = {start.file: start.length for start in starts}
        self._changed: dict[int, int] = {}
        """By file: the number of the last event that changed it and that no sync has covered."""
        self._said = b""

    def close(self, process: Process, descriptor: int) -> None:
        """A descriptor is gone."""
        process.opened.pop(descriptor, None)

    def done(self, call: Call, *, concerned: bool) -> None:
        """Take the next call. ``concerned``: it names the directory or something in it. Raises ``TraceError``."""
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)
        elif call.name.startswith("io_"):
            call.refuse("lets the kernel write what strace does not show")
        elif concerned and not self._is_ignored(call):
            call.refuse("is not understood")

    def _is_ignored(self, call: Call) -> bool:
        """Whether its descriptors in the directory are all of files that do not matter."""
        found = [
            matched for each in call.arguments if (matched := _DESCRIPTOR.fullmatch(each)) and matched[2]
        ]
        names = {self._name(unhex(each[2])) for each in found} - {None}
        return bool(names) and names <= set(self._ignored)

    # -- names -----------------------------------------------------------------------------------------------

    def _name(self, path: str) -> str | None:
        """The name of a path in the directory; empty: the directory itself; ``None``: elsewhere."""
        if path == self._directory:
            return ""
        inside = path.startswith(self._directory + "/")
        return path.removeprefix(self._directory + "/") if inside else None

    def _counted(self, call: Call, path: str) -> str | None:
        """The name of a path in the directory, if it matters."""
        name = self._name(path)
        if name is None or name in self._ignored:
            return None
        if "/" in name or not name:
            call.refuse("changes a directory in the directory, or the directory itself")
        return name

    def _open(self, call: Call) -> None:
        self._opens(call, call.arguments[1])

    def _creat(self, call: Call) -> None:
        self._opens(call, "O_CREAT|O_WRONLY|O_TRUNC")

    def _openat(self, call: Call) -> None:
        self._opens(call, call.arguments[2])

    _openat2 = _openat

    def _opens(self, call: Call, flags: str) -> None:
        """What was opened is said behind the descriptor, without symbolic links."""
        call.process.opened.pop(call.result, None)
        matched = re.match(r"<([^>]*)>(\(deleted\))?", call.tail)
        if matched is None:
            call.refuse("opens something without a name")
        path = unhex(matched[1])
        if path == self._marks:
            call.process.opened[call.result] = _Opened(_MARKS, flags)
        elif path == self._directory and "O_TMPFILE" not in flags:
            call.process.opened[call.result] = _Opened(_DIRECTORY, flags)
        elif "O_PATH" not in flags and (name := self._counted(call, path)) is not None:
            if matched[2] or "O_TMPFILE" in flags:
                call.refuse("opens a file that has no name")
            self._opens_file(call, name, flags)

    def _opens_file(self, call: Call, name: str, flags: str) -> None:
        if name not in self._names:
            if "O_CREAT" not in flags:
                call.refuse("opens a file of which nobody knows where it came from")
            self._names[name] = file = max(self._lengths, default=-1) + 1
            self._lengths[file] = 0
            self.events.append(Make(call.process.number, name, file))
        opened = _Opened(self._names[name], flags)
        call.process.opened[call.result] = opened
        if "O_TRUNC" in flags and self._lengths[opened.file]:
            self._cut(call, opened.file, 0)

    def _unlink(self, call: Call) -> None:
        self._unlinks(call, call.path(0))

    def _unlinkat(self, call: Call) -> None:
        self._unlinks(call, call.path(1, at=0))

    def _unlinks(self, call: Call, path: str) -> None:
        if (name := self._counted(call, path)) is not None:
            if self._names.pop(name, None) is None:
                call.refuse("removes a name that nobody gave")
            self.events.append(Unlink(call.process.number, name))

    def _rename(self, call: Call) -> None:
        self._renames(call, call.path(0), call.path(1))

    def _renameat(self, call: Call) -> None:
        self._renames(call, call.path(1, at=0), call.path(3, at=2))

    _renameat2 = _renameat

    def _renames(self, call: Call, old_path: str, new_path: str) -> None:
        old, new = self._counted(call, old_path), self._counted(call, new_path)
        if old == new:
            return
        if old is None or new is None or old not in self._names or "RENAME_EXCHANGE" in call.arguments[-1]:
            call.refuse("moves a file into the directory, out of it, or changes places with another")
        self._names[new] = self._names.pop(old)
        self.events.append(Rename(call.process.number, old, new))

    def _mkdir(self, call: Call) -> None:
        self._names_new(call, call.path(0))

    _rmdir = _mkdir

    def _mkdirat(self, call: Call) -> None:
        self._names_new(call, call.path(1, at=0))

    def _link(self, call: Call) -> None:
        self._names_new(call, call.path(0), call.path(1))

    def _symlink(self, call: Call) -> None:
        self._names_new(call, call.path(1))

    def _linkat(self, call: Call) -> None:
        self._names_new(call, call.path(1, at=0), call.path(3, at=2))

    def _symlinkat(self, call: Call) -> None:
        self._names_new(call, call.path(2, at=1))

    def _names_new(self, call: Call, *paths: str) -> None:
        if any(self._counted(call, path) is not None for path in paths):
            call.refuse("gives a name that a trace cannot hold")

    # -- descriptors -----------------------------------------------------------------------------------------

    def _of(self, call: Call, index: int = 0) -> _Opened | None:
        """What an argument has open, if it matters. What strace says it is must agree with what we know it is."""
        matched = _DESCRIPTOR.fullmatch(call.arguments[index])
        path = unhex(matched[2] or "") if matched is not None else ""
        known = call.process.opened.get(call.number(index))
        name = self._name(path)
        if path != self._marks and (name is None or name in self._ignored):
            return None
        if known is None:
            call.refuse("uses a descriptor of which nobody knows where it came from")
        return known

    def _file(self, call: Call, index: int = 0) -> _Opened | None:
        """A file that matters; neither the directory nor the file of what the program says."""
        opened = self._of(call, index)
        return opened if opened is not None and opened.file >= 0 else None

    def _dup(self, call: Call) -> None:
        opened = self._of(call)
        call.process.opened.pop(call.result, None)
        if opened is not None:
            call.process.opened[call.result] = opened

    _dup2 = _dup3 = _dup

    def _fcntl(self, call: Call) -> None:
        if call.arguments[1].startswith("F_DUPFD"):
            self._dup(call)
        elif call.arguments[1] == "F_SETFL" and (opened := self._of(call)) is not None:
            opened.appends = "O_APPEND" in call.arguments[2]

    def _lseek(self, call: Call) -> None:
        if (opened := self._of(call)) is not None:
            opened.position = call.result

    def _read(self, call: Call) -> None:
        if (opened := self._of(call)) is not None:
            opened.position += call.result

    _readv = _read

    # -- bytes -----------------------------------------------------------------------------------------------

    def _write(self, call: Call) -> None:
        self._writes(call, [call.arguments[1]])

    def _writev(self, call: Call) -> None:
        self._writes(call, _PIECE.findall(call.arguments[1]))

    def _pwrite64(self, call: Call) -> None:
        self._writes(call, [call.arguments[1]], at=call.number(3))

    def _pwritev(self, call: Call) -> None:
        self._writes(call, _PIECE.findall(call.arguments[1]), at=call.number(3))

    def _pwritev2(self, call: Call) -> None:
        if (opened := self._of(call)) is not None:
            flags = set(call.arguments[4].split("|")) - {"0"}
            if flags - {"RWF_DSYNC", "RWF_SYNC"}:
                call.refuse("writes in a way that is not understood")
            place = call.number(3)
            self._writes(
                call, _PIECE.findall(call.arguments[1]), at=None if place == -1 else place, syncs=bool(flags)
            )
            assert opened is not None

    def _writes(self, call: Call, pieces: list[str], at: int | None = None, *, syncs: bool = False) -> None:
        opened = self._of(call)
        if opened is None:
            return
        data = b"".join(call.data(each) for each in pieces)
        if len(data) < call.result:
            call.refuse("is not shown whole")
        data = data[: call.result]
        if opened.file == _MARKS:
            self._says(call, data)
            return
        offset = opened.position if at is None else at
        if opened.appends:  # Linux appends whatever offset a pwrite names
            offset = self._lengths[opened.file]
        if at is None:
            opened.position = offset + len(data)
        if not data:
            return
        syncs = syncs or opened.syncs
        if syncs and opened.file in self._changed:
            call.refuse("syncs what it writes where more of the file is not synced")
        self._change(Write(call.process.number, opened.file, offset, data))
        self._lengths[opened.file] = max(self._lengths[opened.file], offset + len(data))
        if syncs:
            self._syncs(call, opened.file, len(self.events))

    def _change(self, event: Write | Length | Allocate | Punch) -> None:
        self._changed[event.file] = len(self.events)
        self.events.append(event)

    def _cut(self, call: Call, file: int, length: int) -> None:
        self._change(Length(call.process.number, file, length))
        self._lengths[file] = length

    def _ftruncate(self, call: Call) -> None:
        if (opened := self._file(call)) is not None:
            self._cut(call, opened.file, call.number(1))

    def _truncate(self, call: Call) -> None:
        if (name := self._counted(call, call.path(0))) is not None:
            self._cut(call, self._names[name], call.number(1))

    def _fallocate(self, call: Call) -> None:
        opened = self._file(call)
        if opened is None:
            return
        how, offset, length = call.arguments[1], call.number(2), call.number(3)
        if how == "0":
            self._change(Allocate(call.process.number, opened.file, offset, length))
            self._lengths[opened.file] = max(self._lengths[opened.file], offset + length)
        elif how == "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE":
            self._change(Punch(call.process.number, opened.file, offset, length))
        elif how != "FALLOC_FL_KEEP_SIZE":
            call.refuse("changes a file in a way that a trace cannot hold")

    def _fsync(self, call: Call) -> None:
        opened = self._of(call)
        if opened is not None and opened.file == _DIRECTORY:
            self.events.append(SyncNames(call.process.number, call.since))
        elif opened is not None and opened.file >= 0:
            self._syncs(call, opened.file, call.since)

    _fdatasync = _fsync

    def _syncs(self, call: Call, file: int, since: int) -> None:
        self.events.append(Sync(call.process.number, file, since))
        if self._changed.get(file, 0) < since:
            self._changed.pop(file, None)

    # -- maps ------------------------------------------------------------------------------------------------

    def _mmap(self, call: Call) -> None:
        if "MAP_SHARED" in call.arguments[3] and (opened := self._file(call, 4)) is not None:
            if "PROT_WRITE" in call.arguments[2]:
                call.refuse("maps a file for writing, and strace does not show what is stored there")
            if opened.writable:
                call.process.maps.append((call.result, call.result + call.number(1)))

    def _mprotect(self, call: Call) -> None:
        begin, end = call.number(0), call.number(0) + call.number(1)
        if "PROT_WRITE" in call.arguments[2] and any(
            one < end and begin < other for one, other in call.process.maps
        ):
            call.refuse("opens the map of a file for writing, and strace does not show what is stored there")

    def _munmap(self, call: Call) -> None:
        begin, end = call.number(0), call.number(0) + call.number(1)
        call.process.maps[:] = [one for one in call.process.maps if not begin <= one[0] < one[1] <= end]

    def _execve(self, call: Call) -> None:
        call.process.maps = []

    # -- what the program says -------------------------------------------------------------------------------

    def _says(self, call: Call, data: bytes) -> None:
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            if word == "begin":
                sequence = int(number)
                self.events.append(Begun(call.process.number, sequence, self._begun(sequence)))
            elif word == "told":
                self.events.append(Told(call.process.number, int(number), "commit"))
            elif word != "failed":
                raise TraceError(f"the program says something that is not understood: {line.decode()}")
