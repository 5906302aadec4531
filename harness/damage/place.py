"""Where one worker damages stores: the files of a subject in memory, damaged, and put back."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.damage.damages import Damage, Edit
from harness.damage.subjects import Image, Subject, write


class Place:
    """The directory of a subject, with the files as they were made but for the damage of the moment."""

    def __init__(self, subject: Subject, directory: Path) -> None:
        self.subject = subject
        self.path = directory / subject.name
        self.aside = directory / f"{subject.name}.recovered"
        write(self.path, subject.images)
        self._touched = False
        self._edits: tuple[Edit, ...] = ()

    def touched(self) -> None:
        """Somebody may have written to the store otherwise than by ``damaged``: all of it has to be put back."""
        self._touched = True

    def rebuilt(self) -> bool:
        """Whether the index was made anew since the damage: everything has to be put back."""
        gone = any(edit.act in ("remove", "rename") for edit in self._edits if edit.name.startswith("index."))
        new = any(name not in self.subject.images for name in self._names() if name.startswith("index."))
        self._touched |= new
        return new or gone

    @contextlib.contextmanager
    def damaged(self, damage: Damage) -> Iterator[None]:
        """With this damage done; afterwards everything is as it was."""
        self._edits = damage.edits
        try:
            for edit in damage.edits:
                self.apply(edit)
            yield
        finally:
            self.restore(damage)
            self._edits = ()

    def apply(self, edit: Edit) -> None:
        """Do one thing to a file; a file that is not there is no matter."""
        path = self.path / edit.name
        with contextlib.suppress(FileNotFoundError):
            if edit.act == "write":
                fd = os.open(path, os.O_WRONLY)
                try:
                    os.pwrite(fd, edit.data, edit.offset)
                finally:
                    os.close(fd)
            elif edit.act == "truncate":
                os.truncate(path, edit.offset)
            elif edit.act == "remove":
                path.unlink()
            elif edit.act == "rename":
                path.rename(self.path / edit.other)
            else:
                shutil.copyfile(path, self.path / edit.other)

    def restore(self, damage: Damage) -> None:
        """Put back what the damage changed, or everything."""
        images = self.subject.images
        inside = damage.in_place and all(
            edit.offset + len(edit.data) <= images[edit.name].length for edit in damage.edits
        )
        if not self._touched and inside and self._names() == images.keys():
            for edit in damage.edits:
                data = images[edit.name].data[edit.offset : edit.offset + len(edit.data)]
                self.apply(Edit("write", edit.name, edit.offset, data.ljust(len(edit.data), b"\0")))
            return
        for name in self._names() - images.keys():
            (self.path / name).unlink()
        for name, image in images.items():
            put_back(self.path / name, image)
        self._touched = False

    def is_whole(self) -> bool:
        """Whether every file holds what it must, byte for byte."""
        images = self.subject.images
        return self._names() == images.keys() and all(
            (self.path / name).read_bytes() == image.data.ljust(image.length, b"\0")
            for name, image in images.items()
        )

    def _names(self) -> set[str]:
        return set(os.listdir(self.path))  # noqa: PTH208 - asked for after every trial


def put_back(path: Path, image: Image) -> None:
    """Make a file hold this again, whatever it holds now."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(fd, image.data)
        os.ftruncate(fd, image.length)
    finally:
        os.close(fd)
