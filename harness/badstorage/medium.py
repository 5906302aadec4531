"""What is on the medium when syncs have failed, and which blocks a file was refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PAGE: Final = 4096


class _File:
    """What was synced of a file, the pages that a failed sync has left as they were, and ranges without blocks."""

    def __init__(self) -> None:
        self.synced = b""
        self.lost: dict[int, bytes] = {}
        """What stands in the pages that the kernel takes for clean, although the medium has something older."""
        self.refused: list[tuple[int, int]] = []


class Medium:
    """Files by their inode, so that renaming changes nothing.

    A page that was lost reaches the medium with the next sync only if something was written to it meanwhile: by a
    system call, or through a map so that it shows. (Equal bytes stored through a map do not show; a new map may be
    for the header, so its page counts as written.)
    """

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}

    def sync(self, fd: int) -> None:
        """The file is on the medium, but for what was lost and not written again."""
        file, now = self._file(fd), _content(fd)
        before, content = file.synced, bytearray(now)
        for page, lost in list(file.lost.items()):
            part = slice(page * _PAGE, (page + 1) * _PAGE)
            if now[part] == lost:
                content[part] = before[part].ljust(len(lost), b"\0")
            else:
                del file.lost[page]
        file.synced = bytes(content)

    def lose(self, fd: int) -> None:
        """A sync failed: what it should have written counts as clean from now on."""
        file, now = self._file(fd), _content(fd)
        before = file.synced.ljust(len(now), b"\0")
        for first in range(0, len(now), _PAGE):
            part = slice(first, first + _PAGE)
            if now[part] != before[part]:
                file.lost[first // _PAGE] = now[part]

    def forgive(self) -> None:
        """What failed syncs have left out counts as written again."""
        for file in self._files.values():
            file.lost.clear()

    def write(self, fd: int, offset: int, length: int) -> None:
        """A system call has written there: those pages are dirty, and have blocks."""
        file = self._file(fd)
        for page in range(offset // _PAGE, (offset + length - 1) // _PAGE + 1):
            file.lost.pop(page, None)
        self.give(fd, offset, length)

    def make_dirty(self, inode: int, start: int, length: int) -> None:
        """The pages were faulted in for writing."""
        file = self._files.setdefault(inode, _File())
        for page in range(start // _PAGE, (start + length - 1) // _PAGE + 1):
            file.lost.pop(page, None)

    def map(self, fd: int) -> None:
        """The file was mapped by somebody who may store its header."""
        self._file(fd).lost.pop(0, None)

    def make(self, fd: int) -> None:
        """The file is new, whatever had its inode before."""
        self._files[os.fstat(fd).st_ino] = _File()

    def refuse(self, fd: int, offset: int, length: int) -> None:
        """The file was promised no blocks there, but for the page where its data ends."""
        end = offset + length
        while (data := _data(fd, offset)) is not None and data < end:
            self._refuse(fd, offset, data)
            offset = os.lseek(fd, data, os.SEEK_HOLE)
        self._refuse(fd, offset, end)

    def _refuse(self, fd: int, first: int, last: int) -> None:
        if first < last:
            self._file(fd).refused.append((first, last))

    def give(self, fd: int, offset: int, length: int) -> None:
        """The file has blocks there."""
        file, end = self._file(fd), offset + length
        left = []
        for first, last in file.refused:
            left += [(first, min(last, offset)), (max(first, end), last)]
        file.refused = [(first, last) for first, last in left if first < last]

    def refuses(self, fd: int, pieces: list[bytes], offset: int) -> bool:
        """Whether writing there would need blocks that were refused."""
        end = offset + sum(map(len, pieces))
        return any(first < end and offset < last for first, last in self._file(fd).refused)

    def stored_without_blocks(self, path: Path) -> int | None:
        """The first byte of a page that was stored to through a map although no block was given; ``None`` if none."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            file = self._files.get(os.fstat(fd).st_ino, _File())
            for first, last in file.refused:
                found = _data(fd, -(-first // _PAGE) * _PAGE)  # a page that is partly given has a block
                if found is not None and found < last:
                    return found
            return None
        finally:
            os.close(fd)

    def image(self, directory: Path, target: Path, *, index: bool) -> None:
        """Make ``target`` what a power cut would leave of the files in ``directory``, with or without the index."""
        target.mkdir()
        for path in directory.iterdir():
            file = self._files.get(path.stat().st_ino)
            if path.suffix == ".lock":
                (target / path.name).touch()
            elif (index or path.suffix == ".small") and file is not None and file.synced:
                (target / path.name).write_bytes(file.synced)

    def begin(self, directory: Path) -> None:
        """Everything in ``directory`` is on the medium as it is."""
        for path in directory.iterdir():
            self._files.setdefault(path.stat().st_ino, _File()).synced = path.read_bytes()

    def _file(self, fd: int) -> _File:
        return self._files.setdefault(os.fstat(fd).st_ino, _File())


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _data(fd: int, offset: int) -> int | None:
    """Where data comes next, ``None`` if there is nothing but a hole from there to the end."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:
        return None
