"""Which of the states that a cut may leave are made: a bounded enumeration, and then seeded samples.

At every cut: all of it there, none of it, every single omission, every version and some tears of every page. Where
something interesting has just happened (a sync, a name, a hole, somebody was told) also everything up to each moment,
each thing alone, and every pair of omissions. Behind that samples in which everything is chosen by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Final, NamedTuple

from harness.powerloss.medium import ALL, Choice, Disk, Medium, Pending, Torn
from harness.powerloss.trace import (
    PAGE,
    Allocate,
    Begun,
    Died,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Stood,
    Sync,
    SyncNames,
    Told,
    Trace,
    Unlink,
    Write,
)

_INTERESTING: Final = (Sync, SyncNames, Make, Rename, Unlink, Punch, Told)
_SILENT: Final = (Stood, Begun, Died)
_PAIRED_MAX: Final = 24
"""Of more units than these, pairs are drawn."""
_SAMPLES: Final = 6
_VERSIONS_MAX: Final = 6
"""Of a page that had more versions since its last sync, these many are drawn."""

_Unit = Torn | int
"""A page in one older state, or the number of an event that did not happen."""


def cuts(trace: Trace) -> Iterator[int]:
    """The numbers of events after which a cut is not the same as the one before."""
    yield 0
    for number, event in enumerate(trace.events, 1):
        if not isinstance(event, _SILENT):
            yield number


def states(trace: Trace, medium: Medium, seed: int) -> Iterator[tuple[Disk, Choice]]:
    """Every state that is to be made of a run, as the disk at its cut and what is not there; some more than once. The
    disk goes on with the next one.
    """
    drawn = random.Random(f"{seed} states")
    disk = Disk(trace, medium)
    for cut in cuts(trace):
        last: Event | None = None
        while disk.at < cut:
            last = disk.advance()
        for choice in _at(disk, drawn, interesting=isinstance(last, _INTERESTING)):
            yield disk, disk.closed(choice)


class Drawn(NamedTuple):
    """Some of the states of a run: its number among all, the cut, and what is not there."""

    number: int
    cut: int
    choice: Choice


def drawn(trace: Trace, medium: Medium, seed: int, limit: int) -> list[Drawn]:
    """``limit`` of the states of a run, or all if there are no more (0: all of them), in the order of their cuts."""
    every = [
        Drawn(number, disk.at, choice) for number, (disk, choice) in enumerate(states(trace, medium, seed))
    ]
    if not limit or len(every) <= limit:
        return every
    return sorted(random.Random(f"{seed} drawn").sample(every, limit), key=lambda each: each.number)


def _at(disk: Disk, drawn: random.Random, *, interesting: bool) -> Iterator[Choice]:
    pending = disk.pending()
    yield ALL
    units = _absences(pending)
    if not units:
        return
    yield _choice(units)
    for unit in units:
        yield _choice([unit])
    for (file, page), writes in pending.pages.items():
        versions = range(1, len(writes))
        for low in sorted(drawn.sample(versions, min(len(versions), _VERSIONS_MAX))):
            yield Choice((Torn(file, page, low, low),))
        touched = _sectors(disk, page, writes)
        if len(touched) > 1:
            some = drawn.sample(touched, drawn.randrange(1, len(touched)))
            for sectors in (touched[1:], touched[:-1], some):
                low = drawn.randrange(len(writes))
                yield Choice((Torn(file, page, low, len(writes), _mask(sectors)),))
    for index in pending.names:
        if not disk.medium.renames_whole and isinstance(disk.trace.events[index], Rename):
            yield Choice(both=(index,))
    if interesting:
        yield from _until_each(pending)
        for unit in units:
            yield _choice([other for other in units if other != unit])
        few = units if len(units) <= _PAIRED_MAX else drawn.sample(units, _PAIRED_MAX)
        for pair in combinations(few, 2):
            yield _choice(pair)
    for _ in range(_SAMPLES):
        yield _sample(pending, drawn, PAGE // disk.medium.sector_bytes)


def _sectors(disk: Disk, page: int, writes: list[int]) -> list[int]:
    """The sectors of a page that some of ``writes`` (the numbers of their events) store to."""
    found: set[int] = set()
    first, size = page * PAGE, disk.medium.sector_bytes
    for number in writes:
        event = disk.trace.events[number]
        assert isinstance(event, Write)
        begin = max(event.offset - first, 0)
        end = min(event.offset + len(event.data) - first, PAGE)
        found.update(range(begin // size, (end - 1) // size + 1))
    return sorted(found)


def _mask(sectors: Iterable[int]) -> str:
    return f"{sum(1 << sector for sector in sectors):x}"


def _absences(pending: Pending) -> list[_Unit]:
    """Each unit as it is when nothing of it reached the medium."""
    pages = [Torn(file, page, 0, 0) for file, page in pending.pages]
    return [*pages, *pending.changes, *pending.names]


def _choice(units: list[_Unit] | tuple[_Unit, ...]) -> Choice:
    pages = tuple(unit for unit in units if isinstance(unit, Torn))
    return Choice(pages, tuple(sorted(unit for unit in units if isinstance(unit, int))))


def _until_each(pending: Pending) -> Iterator[Choice]:
    """Everything that happened until some moment, and nothing of what came after."""
    moments = sorted(
        {*pending.changes, *pending.names, *(n for each in pending.pages.values() for n in each)}
    )
    for moment in moments[1:]:
        pages = []
        for (file, page), writes in pending.pages.items():
            there = sum(number < moment for number in writes)
            if there < len(writes):
                pages.append(Torn(file, page, there, there))
        late = [number for number in (*pending.changes, *pending.names) if number >= moment]
        yield Choice(tuple(pages), tuple(sorted(late)))


def _sample(pending: Pending, drawn: random.Random, sectors: int) -> Choice:
    """Each unit by chance, with a share of omissions that is drawn first, so that there are few and many."""
    share = drawn.random()
    pages = []
    for (file, page), writes in pending.pages.items():
        if drawn.random() < share:
            low, high = sorted((drawn.randrange(len(writes)), drawn.randint(0, len(writes))))
            pages.append(Torn(file, page, low, high, f"{drawn.getrandbits(sectors):x}"))
    late = [number for number in (*pending.changes, *pending.names) if drawn.random() < share]
    return Choice(tuple(pages), tuple(sorted(late)))


def describe(trace: Trace, choice: Choice) -> list[str]:
    """What did not reach the disk, in words, one thing each."""
    names = trace.names()
    found = []
    for one in choice.pages:
        where = f"page {one.page} of {names[one.file]} (bytes {one.page * PAGE} to {(one.page + 1) * PAGE})"
        if one.low == one.high or not one.mask:
            found.append(where if not one.low else f"the last writes to {where}, of which it has {one.low}")
        else:
            found.append(f"parts (some sectors) of the last {one.high - one.low} writes to {where}")
    for number in choice.omitted:
        found.append(_change(trace.events[number], names))
    for number in choice.both:
        event = trace.events[number]
        assert isinstance(event, Rename)
        found.append(f"that {event.old}, renamed to {event.new}, has its old name no more")
    return found


def _change(event: Event, names: dict[int, str]) -> str:
    match event:
        case Make(name=name):
            return f"the name of the new file {name}"
        case Rename(old=old, new=new):
            return f"that {old} was renamed to {new}"
        case Unlink(name=name):
            return f"that {name} was unlinked"
        case Length(file=file, length=length):
            return f"that {names[file]} is {length} bytes long"
        case Allocate(file=file, offset=offset, length=length):
            return f"that {names[file]} has room from byte {offset} to {offset + length}"
        case Punch(file=file, offset=offset, length=length):
            return f"the hole in {names[file]} from byte {offset} to {offset + length}"
        case Write():
            raise AssertionError("a write is said by its pages")
    raise AssertionError(f"no change of the files: {event}")
