"""Named invariants of a store, and the findings where they do not hold.

The names are the same in the documentation, in the output of ``kvs verify`` and in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from kvs import layout, scanning
from kvs.errors import CorruptedStoreError
from kvs.generations import Generations, Region, published
from kvs.index import Index, Slots
from kvs.layout import BUSY, E_TIME, ENTRY_WORDS, RECORD_HEADER_BYTES, REVISIONS, TOMBSTONE
from kvs.records import Words
from kvs.smallfile import Smallfiles

INVARIANTS: Final = {
    "commit.intent_clear": "with COMMIT held and repair done, no intent stands",
    "commit.durable_follows": "D <= C in a durable store; whatever is between them is lagging or about to be shown",
    "index.used_counted": "the header counts exactly the entries that are used",
    "index.live_counted": "the header counts exactly the keys whose newest revision is a value",
    "index.key_unique": "no key has two entries",
    "index.entry_reachable": "no empty entry lies between a key's home and its entry",
    "revision.time_known": "every T is at most C, and none is BUSY",
    "revision.time_unique": "the four T of an entry differ, except for never-used ones",
    "revision.order": "a ring is used from its first revision on, and what is not used is empty",
    "revision.location_published": "every revision points into the published part of a smallfile, or is forgotten",
    "record.whole": "every revision's record has its key and its length, and its hash where integrity is on",
    "log.extent_whole": "the published part of a smallfile is a sequence of whole transactions",
    "log.time_dense": "no T has two commit records, and every T up to C has one, but those compacted away",
    "index.log_agrees": "every revision has a record of its T in the log, and each record that must be kept a revision",
}
"""Every invariant by name."""

_FINDINGS_MAX = 20  # of one invariant; the rest are counted
_CHUNK = 1 << 14  # entries looked at together
_RING_BITS: Final = np.array([1, 2, 4, 8], dtype=np.uint8)
LAST = "index.log_agrees"
"""Follows from almost any other finding, so it is reported only where there is none."""


class Finding(NamedTuple):
    """One violated invariant: its name, and what was found in words."""

    invariant: str
    message: str


Report = Callable[[str, str], None]


def structure(index: Index, smallfiles: Smallfiles) -> list[Finding]:
    """The invariants of the index, and of where it points. Exact while COMMIT is held and repair is done."""
    findings: list[Finding] = []

    def report(invariant: str, message: str) -> None:
        findings.append(Finding(invariant, message))

    _header(index, report)
    try:
        regions = published(
            index, smallfiles
        )  # before the entries: a compaction raises bounds after it has moved them
    except CorruptedStoreError as error:
        report("log.extent_whole", str(error))
        regions = {}
    _entries(index, regions, report)
    return _capped(findings)


def contents(view: Generations, smallfiles: Smallfiles, snapshot: int, *, integrity: bool) -> list[Finding]:
    """The invariants of every record that the index points to with T <= ``snapshot``."""
    while True:
        index = view.current()
        findings = _contents(index, smallfiles, snapshot, integrity=integrity)
        if not index.retired:
            return _capped(findings)


def _contents(index: Index, smallfiles: Smallfiles, snapshot: int, *, integrity: bool) -> list[Finding]:
    findings: list[Finding] = []
    for rows in _used(index):
        offsets = np.arange(REVISIONS)
        times = index.flat[rows[:, None] + E_TIME + offsets]
        places = index.flat[rows[:, None] + layout.E_PLACE + 2 * offsets]
        lengths = index.flat[rows[:, None] + layout.E_PLACE + 1 + 2 * offsets]
        again = index.flat[rows[:, None] + E_TIME + offsets]
        wanted = (times > 0) & (times <= np.uint64(snapshot)) & (times == again) & (places > 0)
        for row, ring in np.argwhere(wanted):
            place, word = int(places[row, ring]), int(rows[row])
            problem = _record_problem(index, smallfiles, word, place, int(lengths[row, ring]), integrity)
            if problem and _stands(index, word, int(ring), int(times[row, ring]), place):
                file_id, offset = layout.unpack_location(place)
                message = (
                    f"T={times[row, ring]} at byte {offset} of {layout.smallfile_name(file_id)}: {problem}"
                )
                findings.append(Finding("record.whole", message))
    return findings


def _stands(index: Index, word: int, ring: int, time: int, place: int) -> bool:
    """Whether the revision was neither overwritten nor moved meanwhile."""
    words = index.words
    same = words[word + E_TIME + ring] == time and words[word + layout.E_PLACE + 2 * ring] == place
    return same and not index.retired


def log(index: Index, smallfiles: Smallfiles) -> list[Finding]:
    """The invariants of the published part of every smallfile. Exact while COMMIT is held."""
    findings: list[Finding] = []
    times: list[Slots] = []
    where: list[Slots] = []
    floor = 0  # that of compactions: what is missing above it was not compacted away, also if a clean close came after
    stride = layout.place_stride(index.writers_max)
    try:
        regions = published(index, smallfiles)
    except CorruptedStoreError:
        return []  # ``structure`` says so
    comparison = _Comparison(index, smallfiles)
    for file_id, region in regions.items():
        end = region.begin
        for part in scanning.scan(smallfiles, file_id, region.begin, region.end):
            end = part.end
            if file_id % stride == index.writers_max:
                floor = max(floor, part.floor)
            comparison.add(part)
            times.append(part.commits)
            where.append(part.offsets + layout.pack_location(file_id, 0))
        if end != region.end and end >= _begin_now(smallfiles, file_id):
            message = (
                f"the transactions end at {_where(file_id, end)}, {region.end - end} bytes before their end"
            )
            findings.append(Finding("log.extent_whole", message))
    findings += [Finding(LAST, message) for message in comparison.conclude()] if not findings else []
    none = np.empty(0, np.int64)
    return _capped(
        findings
        + _dense(
            np.concatenate([none, *times]),
            np.concatenate([none, *where]),
            floor,
            index.words[layout.H_COMMITTED],
        )
    )


class _Comparison:
    """The records of the log against the revisions of the index: whoever damaged one has hardly damaged both alike."""

    def __init__(self, index: Index, smallfiles: Smallfiles) -> None:
        self._index = index
        self._smallfiles = smallfiles
        self._committed = index.words[layout.H_COMMITTED]
        self._seen = np.zeros(index.slots, dtype=np.uint8)
        """Which revisions have their record: of each entry a bit for each place of the ring."""
        self._messages: list[str] = []

    def add(self, part: scanning.Log) -> None:
        """Look for the revisions of these records."""
        for first in range(0, len(part.times), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            rows = np.flatnonzero(part.times[chunk].view(np.uint64) <= np.uint64(self._committed)) + first
            if rows.size:
                self._add(part.keys[rows], part.times[rows], part.locations[rows], part.lengths[rows])

    def _add(self, keys: Words, times: Slots, locations: Words, lengths: Words) -> None:
        index = self._index
        names = np.ascontiguousarray(keys).view("V16").reshape(-1).tolist()
        try:
            slots, heads = index.locate(names)
        except CorruptedStoreError as error:
            self._messages.append(str(error))
            return
        present = slots >= 0
        rings = heads[:, E_TIME : E_TIME + REVISIONS]
        same = (rings == times.view(np.uint64)[:, None]) & present[:, None]
        places = index.halves.take((np.where(present, slots, 0) << 1) + 1, axis=0)
        exact = same & (places[:, 0::2] == locations[:, None]) & (places[:, 1::2] == lengths[:, None])
        row, ring = np.nonzero(exact)
        np.bitwise_or.at(self._seen, slots[row], _RING_BITS[ring])
        same &= places[:, 0::2] != 0
        older = times.view(np.uint64) < rings.max(axis=1)
        overwritten = present & (rings[:, -1] != 0) & (times.view(np.uint64) < rings.min(axis=1))
        # A compaction forgets removed keys, and what is older than a removal.
        forgotten = times <= index.words[layout.H_FORGOTTEN]
        forgotten &= ~present | older | (lengths == np.uint64(TOMBSTONE))
        for i in np.flatnonzero(~(same.any(axis=1) | overwritten | forgotten)).tolist():
            where = _where(*layout.unpack_location(int(locations[i])))
            self._messages.append(
                f"key {names[i].hex()} has no revision T={times[i]}, whose record is at {where}"
            )

    def conclude(self) -> list[str]:
        """What does not agree, when all of the log was added."""
        index, messages = self._index, self._messages
        for rows in _used(index):
            slots = (rows - index.first_word) // ENTRY_WORDS
            times, places = (
                index.halves[2 * slots, E_TIME : E_TIME + REVISIONS],
                index.halves[2 * slots + 1, 0::2],
            )
            alone = (times > 0) & (times <= np.uint64(self._committed)) & (places > 0)
            alone &= self._seen[slots][:, None] & _RING_BITS == 0
            for row, ring in _places_of(alone):
                word, time = int(rows[row]), int(times[row, ring])
                where = int(index.words[word + layout.E_PLACE + 2 * int(ring)])
                if where and index.words[word + E_TIME + int(ring)] == time and not self._moved(where, time):
                    place = _where(*layout.unpack_location(where))
                    messages.append(f"{_name(index, word)} has T={time} at {place}, and the log has not")
        return messages

    def _moved(self, location: int, time: int) -> bool:
        """Whether a compaction has put a record of that T there, maybe after the log was read."""
        file_id, offset = layout.unpack_location(location)
        try:
            record = self._smallfiles.read(file_id, offset, RECORD_HEADER_BYTES)
        except (CorruptedStoreError, OverflowError):
            return False
        tag = layout.RECORD_TAIL.unpack_from(record.ljust(RECORD_HEADER_BYTES, b"\0"), 16)[2]
        kinds = (layout.KIND_MOVED_VALUE, layout.KIND_MOVED_REMOVAL)
        return tag >> layout.KIND_SHIFT in kinds and tag & layout.SEQUENCE_MASK == time


def _begin_now(smallfiles: Smallfiles, file_id: int) -> int:
    """Where the live part begins by now: a compaction that goes on meanwhile may have punched what is before it."""
    try:
        return smallfiles.begin(file_id)
    except CorruptedStoreError:
        return 0 if smallfiles.path(file_id).exists() else layout.SMALLFILE_BYTES_MAX


def _dense(times: Slots, where: Slots, floor: int, committed: int) -> list[Finding]:
    """The findings of ``log.time_dense`` for commit records at T ``times`` and packed locations ``where``."""
    order = times.argsort(kind="stable")
    times, where = times[order], where[order]
    findings = []
    for i in np.flatnonzero(times[1:] == times[:-1])[:_FINDINGS_MAX]:
        first, second = (_where(*layout.unpack_location(int(place))) for place in where[i : i + 2])
        findings.append(f"T={times[i]} is at {first} and at {second}")
    above = times[(times > floor) & (times <= committed)]
    edges = np.array([floor, committed], dtype=np.uint64) + np.array([0, 1], dtype=np.uint64)
    known = np.concatenate((edges[:1], np.unique(above).view(np.uint64), edges[1:]))
    for i in np.flatnonzero(known[1:] > known[:-1] + np.uint64(1))[:_FINDINGS_MAX].tolist():
        missing = range(int(known[i]) + 1, int(known[i + 1]))[:_FINDINGS_MAX]
        findings += [f"T={time} has no commit record" for time in missing]
    for i in np.flatnonzero(times > committed)[:_FINDINGS_MAX]:
        place = _where(*layout.unpack_location(int(where[i])))
        findings.append(f"T={times[i]} at {place} is above C={committed}")
    return [Finding("log.time_dense", message) for message in findings]


def _where(file_id: int, offset: int) -> str:
    return f"byte {offset} of {layout.smallfile_name(file_id)}"


def _used(index: Index) -> Iterator[Slots]:
    """First words of the used entries, in chunks: memory stays bounded however large the index is."""
    for first in range(0, index.slots, _CHUNK):
        slots = np.arange(first, min(first + _CHUNK, index.slots), dtype=np.int64)
        used = slots[index.halves[2 * slots, E_TIME] != 0]
        if used.size:
            yield index.first_word + used * ENTRY_WORDS


def _header(index: Index, report: Report) -> None:
    words = index.words
    if words[layout.H_INTENT]:
        report("commit.intent_clear", f"the intent of T={words[layout.H_INTENT]} stands")
    durable, committed = words[layout.H_DURABLE], words[layout.H_COMMITTED]
    if durable > committed:
        report("commit.durable_follows", f"D={durable} and C={committed}")
    elif index.durable and committed - durable > words[layout.H_PLACES] and not index.lagging.any():
        # Each writer waits for D before it goes on, so that no more than one of each may still have to be shown.
        report("commit.durable_follows", f"D={durable} and C={committed}, and nothing is lagging")


def _entries(index: Index, regions: dict[int, Region], report: Report) -> None:
    words, flat = index.words, index.flat
    committed = words[layout.H_COMMITTED]
    used = live = 0
    bounds = _Bounds(regions)
    table = flat[index.first_word : index.first_word + index.slots * ENTRY_WORDS].reshape(-1, ENTRY_WORDS)
    for chunk in _used(index):
        rows = chunk[:, None]
        used += len(rows)
        entries = table[(rows[:, 0] - index.first_word) // ENTRY_WORDS]
        times = entries[:, E_TIME : E_TIME + REVISIONS]
        for row, ring in _places_of(times > np.uint64(committed)):
            shown = "BUSY" if times[row, ring] == np.uint64(BUSY) else f"T={times[row, ring]}"
            report("revision.time_known", f"{_name(index, rows[row, 0])} has {shown} with C={committed}")
        ordered = np.sort(times, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)
        for row in np.flatnonzero(twice.any(axis=1)) if twice.any() else ():
            report("revision.time_unique", f"{_name(index, rows[row, 0])} has T={times[row].tolist()}")
        disordered = (times[:, 1:] != 0) & (times[:, :-1] == 0)
        for row in np.flatnonzero(disordered.any(axis=1)) if disordered.any() else ():
            report("revision.order", f"{_name(index, rows[row, 0])} has T={times[row].tolist()}")
        places, lengths = entries[:, layout.E_PLACE :: 2], entries[:, layout.E_PLACE + 1 :: 2]
        for row, ring in _places_of((times == 0) & (places != 0)):
            message = (
                f"{_name(index, rows[row, 0])} has a location at place {ring} of its ring, and no T there"
            )
            report("revision.order", message)
        newest = times.argmax(axis=1)
        live += int((lengths[np.arange(len(rows)), newest] != np.uint64(TOMBSTONE)).sum())
        _locations(index, rows, times, places, lengths, bounds, report)
        _reachable(index, rows[:, 0], report)
    if used != words[layout.H_ENTRIES_USED]:
        report("index.used_counted", f"{used} entries are used, {words[layout.H_ENTRIES_USED]} are counted")
    if live != words[layout.H_KEYS_LIVE]:
        report("index.live_counted", f"{live} keys are live, {words[layout.H_KEYS_LIVE]} are counted")


class _Bounds:
    """The published regions as sorted arrays, to look many locations up at once."""

    def __init__(self, regions: dict[int, Region]) -> None:
        ordered = sorted(regions.items())
        self.ids = np.array([file_id for file_id, _ in ordered] or [-1], np.int64)
        self.begins = np.array([region.begin for _, region in ordered] or [0], np.int64)
        self.ends = np.array([region.end for _, region in ordered] or [0], np.int64)


def _places_of(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The (row, ring) of every true element; there is almost never one."""
    return np.argwhere(wrong) if wrong.any() else np.empty((0, 2), np.int64)


def _locations(
    index: Index,
    rows: Slots,
    times: npt.NDArray[np.uint64],
    places: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint64],
    bounds: _Bounds,
    report: Report,
) -> None:
    file_ids = (places >> np.uint64(layout.LOCATION_SHIFT)).astype(np.int64)
    begins = (places & np.uint64(layout.LOCATION_MASK)).astype(np.int64)
    removed = lengths == np.uint64(TOMBSTONE)
    sizes = np.where(removed, np.uint64(0), np.minimum(lengths, np.uint64(layout.VALUE_BYTES_MAX)))
    found = np.searchsorted(bounds.ids, file_ids).clip(max=len(bounds.ids) - 1)
    inside = (bounds.ids[found] == file_ids) & (begins >= bounds.begins[found])
    inside &= begins + sizes.astype(np.int64) + RECORD_HEADER_BYTES <= bounds.ends[found]
    # What a compaction forgets is older than some removal, or one itself.
    forgotten = (places == 0) & (times <= np.uint64(index.words[layout.H_FORGOTTEN]))
    forgotten &= times <= np.where(removed, times, 0).max(axis=1)[:, None]
    wrong = ~inside & (times != 0) & (times != np.uint64(BUSY)) & ~forgotten
    for row, ring in _places_of(wrong):
        file_id, offset = layout.unpack_location(int(places[row, ring]))
        report(
            "revision.location_published",
            f"{_name(index, rows[row, 0])} points to byte {offset} of {layout.smallfile_name(file_id)},"
            " which is not in its published part",
        )


def _reachable(index: Index, rows: Slots, report: Report) -> None:
    """Check that a probe for its key ends at each entry. Of two entries with one key it ends at the first."""
    keys = index.flat[rows[:, None] + np.arange(2)]
    names = np.ascontiguousarray(keys).view("V16").reshape(-1)
    homes = np.fromiter(
        (xxh3_64_intdigest(name.tobytes()) for name in names), dtype=np.uint64, count=len(rows)
    )
    distance = ((rows - index.first_word) // ENTRY_WORDS - index.homes(homes)) & index.mask
    for row in np.flatnonzero(distance):
        found = index.probe(names[row].tobytes())
        if found < 0:
            report(
                "index.entry_reachable", f"{_name(index, rows[row])} is not where a probe for its key ends"
            )
        elif found != int(rows[row]):
            report("index.key_unique", f"{_name(index, rows[row])} has more than one entry")


def _record_problem(
    index: Index, smallfiles: Smallfiles, word: int, location: int, length: int, integrity: bool
) -> str:
    file_id, offset = layout.unpack_location(location)
    size = 0 if length == TOMBSTONE else length
    try:
        smallfiles.check(
            file_id, offset + RECORD_HEADER_BYTES + size
        )  # or damage may ask for more than memory
        record = smallfiles.read(file_id, offset, RECORD_HEADER_BYTES + size)
    except (CorruptedStoreError, OverflowError, ValueError) as error:
        return str(error)
    if len(record) < RECORD_HEADER_BYTES + size:
        return "the smallfile ends within the record"
    key = bytes(index.map[word * 8 : word * 8 + 16])
    found_key, found_length, tag = layout.RECORD_TAIL.unpack_from(record, 16)
    if found_key != key:
        return f"holds key {found_key.hex()} instead of {key.hex()}"
    removal = tag >> layout.KIND_SHIFT in {layout.KIND_REMOVAL, layout.KIND_MOVED_REMOVAL}
    if found_length != size or removal != (length == TOMBSTONE):
        return f"holds {found_length} bytes of kind {tag >> layout.KIND_SHIFT} instead of {size}"
    digest = xxh3_128_digest(memoryview(record)[RECORD_HEADER_BYTES:])
    if integrity and digest != record[:16]:
        return f"key {key.hex()} does not match its hash"
    if smallfiles.content_addressed and digest != key and length != TOMBSTONE:
        return f"key {key.hex()} is not the hash of its value, which is {digest.hex()}"
    return ""


def _name(index: Index, word: int) -> str:
    return f"key {bytes(index.map[int(word) * 8 : int(word) * 8 + 16]).hex()}"


def _capped(findings: list[Finding]) -> list[Finding]:
    counts: dict[str, int] = {}
    kept = []
    for finding in findings:
        counts[finding.invariant] = counts.get(finding.invariant, 0) + 1
        if counts[finding.invariant] <= _FINDINGS_MAX:
            kept.append(finding)
    for invariant, count in counts.items():
        if count > _FINDINGS_MAX:
            kept.append(Finding(invariant, f"{count - _FINDINGS_MAX} more like these"))
    return kept
