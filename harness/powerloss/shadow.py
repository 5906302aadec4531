"""What a shared map showed when somebody last looked, kept to tell what was stored through it since."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Final

import numpy as np

from harness.powerloss.trace import PAGE

_WORD: Final = 8
_AHEAD: Final = 1 << 18
"""Of a file that grows at its end so many bytes are looked at behind what is not zero, and on from what is found there:
there may be a megabyte of zeros that take memory."""


class Shadow:
    """A copy of the first ``length`` bytes of a file. ``source`` and ``copy`` are descriptors of the file and of an
    empty one in memory, which processes that look at the same file may share; the shadow closes them. ``grows``: it is
    stored to at its end, or before that.
    """

    def __init__(self, source: int, copy: int, *, grows: bool) -> None:
        self._source = source
        self._copy = copy
        self._grows = grows
        self.length = 0
        self._end = 0
        """Behind it there were only zeros."""
        self._now: mmap.mmap | None = None
        self._then: mmap.mmap | None = None

    def cover(self, length: int, *, fill: bool) -> None:
        """Look at the first ``length`` bytes from now on, if they are more than so far. ``fill``: what is new is as it
        is now; otherwise somebody who shares the copy has filled it.
        """
        before = self.length
        if length <= before:
            return
        if fill:
            os.ftruncate(self._copy, length)
        now = mmap.mmap(self._source, length, prot=mmap.PROT_READ)
        then = mmap.mmap(self._copy, length)
        self.length, self._now, self._then = length, now, then
        if fill:
            for begin, end in self._parts(before, length):
                data = then[begin:end] = now[begin:end]
                if used := len(data.rstrip(b"\0")):
                    self.reached(begin + used)
        else:
            self.reached(length)  # for all that is known

    def changes(self, *, thorough: bool) -> Iterator[tuple[int, bytes]]:
        """What was stored since: offset and new bytes of the changed part of each page, whole words. It is in the copy
        when it is given. Not ``thorough``: only where anything is to be expected.
        """
        begin, everywhere = 0, thorough or not self._grows
        while begin < self.length:
            until = self.length if everywhere else min(self.length, self._end + _AHEAD)
            if begin >= until:
                return
            for first, last in self._parts(begin, until):
                yield from self._changes(first, last)
            begin = until

    def _changes(self, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        now, then = self._now, self._then
        assert now is not None
        assert then is not None
        data, old = now[begin:end], then[begin:end]  # once: others may be storing at this moment
        if data == old:
            return
        for page in range(0, len(data), PAGE):
            part = data[page : page + PAGE]
            if part == old[page : page + PAGE]:
                continue
            first, last = _span(part, old[page : page + PAGE])
            changed, offset = part[first:last], begin + page + first
            then[offset : offset + len(changed)] = changed
            self.reached(offset + len(changed))
            yield offset, changed

    def reached(self, end: int) -> None:
        """Something was stored up to ``end``, by whomever."""
        self._end = max(self._end, end)

    def wrote(self, offset: int, data: bytes) -> None:
        """``data`` was written to the file, and that is known."""
        room = self.length - offset
        if self._then is not None and room > 0:
            data = data[:room]
            self._then[offset : offset + len(data)] = data
            self.reached(offset + len(data))

    def punched(self, offset: int, length: int) -> None:
        """The bytes of the range are zeros, and that is known."""
        end = min(offset + length, self.length)
        if self._then is not None and offset < end:
            self._then[offset:end] = bytes(end - offset)

    def close(self) -> None:
        """Let go of both files."""
        self._now = self._then = None
        self.length = 0
        os.close(self._source)
        os.close(self._copy)

    def _parts(self, begin: int, until: int) -> Iterator[tuple[int, int]]:
        """Where the file has data in a range: what is between is zeros, and must not be touched, or it would
        take memory.
        """
        seek, source = os.lseek, self._source
        while begin < until:
            try:
                begin = seek(source, begin, os.SEEK_DATA)
            except OSError:  # ENXIO: no more
                return
            end = min(seek(source, begin, os.SEEK_HOLE), until)
            if begin < end:
                yield begin, end
            begin = end


def _span(new: bytes, old: bytes) -> tuple[int, int]:
    """Where two pages that differ begin and end to differ, in whole words."""
    differs = np.flatnonzero(np.frombuffer(new, dtype=np.uint8) != np.frombuffer(old, dtype=np.uint8))
    return int(differs[0]) & -_WORD, (int(differs[-1]) | (_WORD - 1)) + 1
