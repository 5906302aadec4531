"""What a medium may keep of a run that is cut: what is synced, and of the rest any part that its model allows.

The rest is seen as *units*, each there, absent or torn independently of the others:

* a page of a file (4096 bytes of the page cache) that was written since the file's last sync. The kernel may write it
  back whenever it likes, so any version that it had since then may be on the medium; torn, some of its sectors are of
  an older version than the others.
* a change of a file's length or blocks: ftruncate, fallocate, a hole.
* a change of a name: a file was made, renamed, or unlinked.

A write that ends behind the length of its file is part of its page alone: the length follows what is there of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from harness.powerloss.trace import (
    PAGE,
    SECTOR,
    Allocate,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Sync,
    SyncNames,
    Trace,
    Unlink,
    Write,
)


class Medium(msgspec.Struct, frozen=True):
    """A model of a file system on a device. What is not named here is true of all of them (see the module).

    ``sector_bytes`` are written wholly or not at all. ``in_order``: the changes of one file's length and blocks reach
    the medium in their order. ``renames_whole``: a rename that is cut leaves one name, never both. Of no model is
    expected that the sync of a new file makes its name durable, nor that what happened to two files, or to two
    names, reaches the medium in order; ext4 (data=ordered) does both more often than not, so what survives here
    survives there.
    """

    name: str
    meaning: str
    sector_bytes: int = SECTOR
    in_order: bool = True
    renames_whole: bool = True


MEDIA: Final = {
    medium.name: medium
    for medium in (
        Medium(
            "ext4",
            "a journal keeps each file's metadata in order and renames whole; pages and names are independent",
        ),
        Medium(
            "harsh",
            "no journal: lengths, blocks and holes in any order, a rename may leave both names, words of 8 bytes tear",
            sector_bytes=8,
            in_order=False,
            renames_whole=False,
        ),
    )
}
"""By name; the first is the default."""

PageUnit = tuple[int, int]
"""``(file, page)``."""


class Torn(msgspec.Struct, frozen=True, array_like=True):
    """How a page is on the medium: with its first ``low`` pending writes, and where ``mask`` (hexadecimal) has the
    sector's bit with the first ``high`` ones. ``low == high``: it is whole, but of an older version.
    """

    file: int
    page: int
    low: int
    high: int
    mask: str = ""


class Choice(msgspec.Struct, frozen=True):
    """One state of the medium, said by what is not there; all else is.

    ``omitted`` are the numbers of events (of lengths, blocks and names); ``both``: of renames that left the old name
    beside the new one.
    """

    pages: tuple[Torn, ...] = ()
    omitted: tuple[int, ...] = ()
    both: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many writes, pages and names did not (wholly) reach the medium."""
        return len(self.pages) + len(self.omitted) + len(self.both)


ALL: Final = Choice()


class Pending(NamedTuple):
    """What need not be on the medium at a cut: for each page its writes, and the changes of files and of names, all by
    the numbers of their events, in order.
    """

    pages: dict[PageUnit, list[int]]
    changes: list[int]
    names: list[int]


Image = dict[str, tuple[int, bytes]]
"""By name: the length of the file, and its bytes without the zeros at the end."""
_Op = Write | Length | Allocate | Punch


class _File:
    """A file: what is on the medium for sure, and what happened since."""

    __slots__ = ("cached", "data", "length", "ops")

    def __init__(self, data: bytes = b"", length: int = 0) -> None:
        self.data = bytearray(data)
        self.length = length
        self.ops: list[tuple[int, _Op]] = []
        self.cached: tuple[int, bytes] | None = None

    def settle(self, until: int) -> None:
        """What happened before event ``until`` is on the medium."""
        done = [op for op in self.ops if op[0] < until]
        self.ops = self.ops[len(done) :]
        self.length = _apply(self.data, self.length, done)
        self.cached = None


def _apply(
    data: bytearray,
    length: int,
    ops: Iterable[tuple[int, _Op]],
    torn: dict[int, Torn] | None = None,
    omitted: frozenset[int] = frozenset(),
    sector_bytes: int = SECTOR,
) -> int:
    """Do ``ops`` to ``data``, as far as they are there; returns the length of the file, which may end in zeros."""
    seen: dict[int, int] = {}
    real = length  # in the run; what was written within it is nowhere where the file is shorter
    for number, op in ops:
        if type(op) is Write:
            lengthens = op.offset + len(op.data) > real
            for offset, whole in _there(op, torn, seen, sector_bytes) if torn else ((op.offset, op.data),):
                piece = whole if lengthens else whole[: max(0, length - offset)]
                if piece:
                    if len(data) < offset:
                        data.extend(bytes(offset - len(data)))
                    data[offset : offset + len(piece)] = piece
                    length = max(length, offset + len(piece))
            real = max(real, op.offset + len(op.data))
            continue
        real = op.length if type(op) is Length else real
        real = max(real, op.offset + op.length) if type(op) is Allocate else real
        if number in omitted:
            continue
        if type(op) is Length:
            del data[op.length :]
            length = op.length
        elif type(op) is Allocate:
            length = max(length, op.offset + op.length)
        elif type(op) is Punch:
            end = min(op.offset + op.length, len(data))
            if end > op.offset:
                data[op.offset : end] = bytes(end - op.offset)
    return length


def _there(
    op: Write, torn: dict[int, Torn], seen: dict[int, int], sector_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """The pieces of a write that are on the medium. ``seen`` counts the writes of each page."""
    for page, begin, end in split(op):
        number = seen[page] = seen.get(page, 0) + 1
        how = torn.get(page)
        if how is None or number <= how.low:
            yield op.offset + begin, op.data[begin:end]
        elif number <= how.high:
            first, mask = op.offset + begin, int(how.mask or "0", 16)
            cuts = [first, *range(first - first % sector_bytes + sector_bytes, op.offset + end, sector_bytes)]
            for one, other in pairwise([*cuts, op.offset + end]):
                if mask >> (one % PAGE // sector_bytes) & 1:
                    yield one, op.data[one - op.offset : other - op.offset]


def split(op: Write) -> Iterator[tuple[int, int, int]]:
    """``(page, begin, end)`` of each page that a write touches; begin and end count from the write's first byte."""
    position, end = op.offset, op.offset + len(op.data)
    while position < end:
        page = position // PAGE
        following = min((page + 1) * PAGE, end)
        yield page, position - op.offset, following - op.offset
        position = following


class Disk:
    """The files of a trace after its first ``at`` events: what is on the medium, and what need not be."""

    def __init__(self, trace: Trace, medium: Medium) -> None:
        self.trace = trace
        self.medium = medium
        self.at = 0
        self._files = {start.file: _File(start.data, start.length) for start in trace.starts}
        self._names = {start.name: start.file for start in trace.starts}
        self._name_ops: list[tuple[int, Make | Rename | Unlink]] = []

    def advance(self) -> Event:
        """Let the next event happen, and return it."""
        event = self.trace.events[self.at]
        match event:
            case Make():
                self._files[event.file] = _File()
                self._name_ops.append((self.at, event))
            case Rename() | Unlink():
                self._name_ops.append((self.at, event))
            case Write() | Length() | Allocate() | Punch():
                file = self._files[event.file]
                file.ops.append((self.at, event))
                file.cached = None
            case Sync():
                self._files[event.file].settle(event.since)
            case SyncNames():
                done = [op for op in self._name_ops if op[0] < event.since]
                _rename(self._names, done)
                self._name_ops = self._name_ops[len(done) :]
        self.at += 1
        return event

    def go_to(self, cut: int) -> Disk:
        """Advance to ``cut`` events; returns itself."""
        while self.at < cut:
            self.advance()
        return self

    def pending(self) -> Pending:
        """What need not be on the medium now."""
        pages: dict[PageUnit, list[int]] = {}
        changes: list[int] = []
        for number, file in self._files.items():
            for index, op in file.ops:
                if type(op) is Write:
                    for page, _, _ in split(op):
                        pages.setdefault((number, page), []).append(index)
                else:
                    changes.append(index)
        return Pending(pages, sorted(changes), [index for index, _ in self._name_ops])

    def closed(self, choice: Choice) -> Choice:
        """``choice`` with what must be absent too where the model keeps an order."""
        if not choice.omitted:
            return choice
        omitted = set(choice.omitted)
        names: set[str] = set()
        for index, name_op in self._name_ops:
            own = {name_op.old, name_op.new} if isinstance(name_op, Rename) else {name_op.name}
            if index in omitted or own & names:
                omitted.add(index)
                names |= own
        if self.medium.in_order:
            for file in self._files.values():
                late = False
                for index, op in file.ops:
                    if type(op) is not Write:
                        late = late or index in omitted
                        if late:
                            omitted.add(index)
        if len(omitted) == len(choice.omitted):
            return choice
        both = tuple(index for index in choice.both if index not in omitted)
        return Choice(choice.pages, tuple(sorted(omitted)), both)

    def image(self, choice: Choice) -> Image:
        """The files that a machine finds which starts again after a cut now that left ``choice`` (a ``closed`` one)."""
        names = dict(self._names)
        omitted = frozenset(choice.omitted)
        _rename(names, [op for op in self._name_ops if op[0] not in omitted], choice.both)
        torn: dict[int, dict[int, Torn]] = {}
        for one in choice.pages:
            torn.setdefault(one.file, {})[one.page] = one
        image: Image = {}
        for name, number in names.items():
            file = self._files[number]
            own = torn.get(number)
            if own is None and not (omitted and any(index in omitted for index, _ in file.ops)):
                if file.cached is None:
                    file.cached = self._resolve(file, None, frozenset())
                image[name] = file.cached
            else:
                image[name] = self._resolve(file, own, omitted)
        return image

    def _resolve(
        self, file: _File, torn: dict[int, Torn] | None, omitted: frozenset[int]
    ) -> tuple[int, bytes]:
        data = bytearray(file.data)
        length = _apply(data, file.length, file.ops, torn, omitted, self.medium.sector_bytes)
        return length, bytes(data[:length]).rstrip(b"\0")


def _rename(
    names: dict[str, int], ops: Sequence[tuple[int, Make | Rename | Unlink]], both: Sequence[int] = ()
) -> None:
    for index, op in ops:
        match op:
            case Make(name=name, file=file):
                names[name] = file
            case Rename(old=old, new=new):
                names[new] = names[old] if index in both else names.pop(old)
            case Unlink(name=name):
                names.pop(name, None)


def finished(trace: Trace) -> Image:
    """The files at the end of a run that was not cut."""
    return Disk(trace, MEDIA["ext4"]).go_to(len(trace.events)).image(ALL)
