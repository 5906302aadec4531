"""Behind the narrow seam of the store: whatever changes a file or a name of one directory is noted, in one order."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from harness.powerloss.journal import Journal, Mapped
from harness.powerloss.shadow import Shadow
from harness.powerloss.trace import (
    Allocate,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Start,
    Sync,
    SyncNames,
    Unlink,
    Write,
)
from kvs import files, opening

_SEAMS: Final = (
    "open_file",
    "close",
    "allocate",
    "punch",
    "lengthen",
    "map_file",
    "write_at",
    "sync_data",
    "sync_directory",
    "publish",
    "unlink",
)
"""The functions of the seam that change something, or say which descriptor leads to which file."""
LOCK_FILES: Final = frozenset({opening.GATE, opening.RANGES})
"""Nothing is ever stored in them."""


def nobody() -> int:
    """The process of what nobody in particular does."""
    return 0


class Events:
    """The journal of a single process: a list."""

    shared = False

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.events)

    def append(self, entry: Event | Mapped) -> None:
        """Write it down."""
        if not isinstance(entry, Mapped):
            self.events.append(entry)

    def others(self) -> list[Event | Mapped]:
        """There is nobody else."""
        return []

    def copy_of(self, file: int) -> int:
        """A file in memory that has no name."""
        return os.memfd_create(f"shadow-{file}", os.MFD_CLOEXEC)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def starts(directory: Path) -> list[Start]:
    """The files of a store that nobody has open, as a recorder numbers them."""
    found = []
    for file, name in enumerate(_names(directory), 1):
        data = (directory / name).read_bytes()
        found.append(Start(name, file, len(data), data.rstrip(b"\0")))
    return found


def _names(directory: Path) -> list[str]:
    return sorted(name for name in files.names(directory) if name not in LOCK_FILES)


class Recorder:
    """Notes what is done to the files of the store in ``directory``, from ``attach`` to ``detach``; or use it as a
    context manager. Nobody has the store open at the start. ``who`` says which process acts at this moment.

    What is stored through a map is noted when something else is, and where somebody asks for it (``note_stores``); as
    one event for each page that has changed. What is noted is what went well: a call that fails and yet changes
    something leaves the trace behind the files.
    """

    def __init__(
        self, directory: Path, *, journal: Journal | None = None, who: Callable[[], int] = nobody
    ) -> None:
        self._directory = directory
        self._journal: Journal = Events() if journal is None else journal
        self._who = who
        self._numbers = {name: file for file, name in enumerate(_names(directory), 1)}
        self._last = len(self._numbers)
        """The number of the newest file."""
        self._files: dict[int, int] = {}
        """Which file a descriptor leads to."""
        self._shadows: dict[int, Shadow] = {}
        self._unwatched: dict[int, int] = {}
        """The files, and how much of them, that others have mapped and this one does not look at yet."""
        self._ours: dict[str, Any] = {}
        self._theirs: dict[str, Any] = {}
        self._first_sync: Any = files.sync_data
        self._syncing = False

    @property
    def events(self) -> list[Event]:
        """What was noted by this process alone."""
        assert isinstance(self._journal, Events)
        return self._journal.events

    def attach(self) -> None:
        """Stand behind the seam of this process from now on."""
        self._first_sync = files.sync_data
        for name in _SEAMS:
            self._theirs[name] = getattr(files, name)
            self._ours[name] = getattr(self, f"_{name}")
            setattr(files, name, self._ours[name])

    def detach(self) -> None:
        """Put back what was there, unless somebody else has replaced it meanwhile, and forget the files."""
        for name, ours in self._ours.items():
            if getattr(files, name) is ours:
                setattr(files, name, self._theirs[name])
        self._ours.clear()
        self._files.clear()
        for shadow in self._shadows.values():
            shadow.close()
        self._shadows.clear()

    def note(self, *events: Event) -> None:
        """Note what happened to no file, behind what was stored before (as far as that is where it was expected)."""
        with self._journal:
            self._look()
            for event in events:
                self._journal.append(event)

    def note_stores(self) -> None:
        """Note all that was stored through maps since somebody looked last, wherever it was."""
        with self._journal:
            self._look(thorough=True)

    def __enter__(self) -> Recorder:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # -- what is known of the files, while the journal is held --------------------------------------------

    def _look(self, *, thorough: bool = False) -> None:
        journal = self._journal
        for entry in journal.others():
            self._follow(entry)
        while self._unwatched:
            self._watch(*self._unwatched.popitem(), None)
        # Others may store while this looks at one file after another: once more, until nothing is new.
        while self._compare(thorough=thorough) and journal.shared:
            pass
        if self._ours and files.sync_data is not self._ours["sync_data"]:
            # Somebody who looks on as well has come later, and might not know of us.
            self._theirs["sync_data"] = files.sync_data
            files.sync_data = self._ours["sync_data"]

    def _compare(self, *, thorough: bool) -> bool:
        """Note what was stored; whether there was anything."""
        before = self._journal.count
        process = 0 if self._journal.shared else self._who()
        for file, shadow in self._shadows.items():
            for offset, data in shadow.changes(thorough=thorough):
                self._journal.append(Write(process, file, offset, data))
        return self._journal.count > before

    def _name(self, event: Make | Rename | Unlink) -> None:
        self._journal.append(event)
        self._follow(event)

    def _follow(self, entry: Event | Mapped) -> None:
        """Know what somebody's event has made of the names, and of what is looked at."""
        match entry:
            case Make(name=name, file=file):
                self._numbers[name] = self._last = file
            case Rename(old=old, new=new):
                self._numbers[new] = self._numbers.pop(old)
            case Unlink(name=name):
                self._numbers.pop(name, None)
            case Write(file=file, offset=offset, data=data):
                if shadow := self._shadows.get(file):
                    shadow.reached(offset + len(data))
            case Mapped(file=file, length=length):
                self._unwatched[file] = max(length, self._unwatched.get(file, 0))  # its name may come later
            case _:
                pass

    def _watch(self, file: int, length: int, fd: int | None) -> None:
        """Look at the first ``length`` bytes of a file from now on: at that of ``fd``, or (somebody else has mapped it)
        at the one of its name. Where it has lost that already, whoever mapped it looks at it.
        """
        shadow = self._shadows.get(file)
        if shadow is None:
            name = next((name for name, number in self._numbers.items() if number == file), "")
            if fd is None and not name:
                return
            path = self._directory / name if fd is None else Path(f"/proc/self/fd/{fd}")
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            grows = name.endswith(".small")
            shadow = self._shadows[file] = Shadow(source, self._journal.copy_of(file), grows=grows)
        shadow.cover(length, fill=fd is not None)

    # -- the seams of the store ---------------------------------------------------------------------------

    def _open_file(self, path: Path, *, write: bool, create: bool = False) -> int:
        theirs = self._theirs["open_file"]
        if path.parent != self._directory or path.name in LOCK_FILES:
            return int(theirs(path, write=write, create=create))
        with self._journal:
            self._look()
            fd: int = theirs(path, write=write, create=create)
            if path.name not in self._numbers:
                self._name(Make(self._who(), path.name, self._last + 1))
            self._files[fd] = self._numbers[path.name]
        return fd

    def _close(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._theirs["close"](fd)

    def _allocate(self, fd: int, offset: int, length: int, path: Path) -> None:
        with self._changing(fd) as file:
            self._theirs["allocate"](fd, offset, length, path)
            if file:
                self._journal.append(Allocate(self._who(), file, offset, length))

    def _punch(self, fd: int, offset: int, length: int, path: Path) -> None:
        with self._changing(fd) as file:
            self._theirs["punch"](fd, offset, length, path)
            if file:
                if shadow := self._shadows.get(file):
                    shadow.punched(offset, length)
                self._journal.append(Punch(self._who(), file, offset, length))

    def _lengthen(self, fd: int, length: int) -> None:
        with self._changing(fd) as file:
            before = files.size(fd)
            self._theirs["lengthen"](fd, length)
            if file and files.size(fd) != before:
                self._journal.append(Length(self._who(), file, length))

    def _map_file(self, fd: int, *, write: bool, length: int = 0) -> mmap.mmap:
        made: mmap.mmap
        if not write:
            made = self._theirs["map_file"](fd, write=write, length=length)
            return made
        with self._changing(fd) as file:
            made = self._theirs["map_file"](fd, write=write, length=length)
            if file:
                self._watch(file, len(made), fd)
                self._journal.append(Mapped(file, len(made)))
        return made

    def _write_at(self, fd: int, offset: int, pieces: Sequence[files.Buffer], path: Path) -> None:
        with self._changing(fd) as file:
            self._theirs["write_at"](fd, offset, pieces, path)
            if file:
                data = b"".join(pieces)
                if shadow := self._shadows.get(file):
                    shadow.wrote(offset, data)
                self._journal.append(Write(self._who(), file, offset, data))

    def _sync_data(self, fd: int, path: Path) -> None:
        if self._syncing:  # whoever came later calls what it found: that is this
            self._first_sync(fd, path)
            return
        with self._changing(fd, thorough=True) as file:
            since = self._journal.count
            self._syncing = True
            try:
                self._theirs["sync_data"](fd, path)
            finally:
                self._syncing = False
            if file:
                self._journal.append(Sync(self._who(), file, since))

    def _sync_directory(self, path: Path) -> None:
        with self._journal:
            self._look()
            since = self._journal.count
            self._theirs["sync_directory"](path)
            if path == self._directory:
                self._journal.append(SyncNames(self._who(), since))

    def _publish(self, temporary: Path, final: Path) -> None:
        with self._journal:
            self._look()
            self._theirs["publish"](temporary, final)
            if final.parent == self._directory and temporary.name in self._numbers:
                self._name(Rename(self._who(), temporary.name, final.name))

    def _unlink(self, path: Path) -> None:
        with self._journal:
            self._look()
            self._theirs["unlink"](path)
            if path.parent == self._directory and path.name in self._numbers:
                self._name(Unlink(self._who(), path.name))

    @contextlib.contextmanager
    def _changing(self, fd: int, *, thorough: bool = False) -> Iterator[int]:
        """Hold the journal, with everything noted that was stored before; the file of ``fd``, 0 if it is not one of the
        store.
        """
        with self._journal:
            self._look(thorough=thorough)
            yield self._files.get(fd, 0)
