"""Named invariants of a store, and the findings where they do not hold.

The names are the same in the documentation, in the output of ``kvs verify`` and in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from kvs import layout
from kvs.errors import CorruptedStoreError
from kvs.index import Index, Slots
from kvs.layout import BUSY, E_TIME, ENTRY_WORDS, RECORD_HEADER_BYTES, REVISIONS, TOMBSTONE
from kvs.smallfile import Smallfiles

INVARIANTS: Final = {
    "commit.intent_clear": "with COMMIT held and repair done, no intent stands",
    "commit.durable_follows": "D <= C, and in a durable store D = C once no intent stands",
    "index.used_counted": "the header counts exactly the entries that are used",
    "index.live_counted": "the header counts exactly the keys whose newest revision is a value",
    "index.key_unique": "no key has two entries",
    "index.entry_reachable": "no empty entry lies between a key's home and its entry",
    "revision.time_known": "every T is at most C, and none is BUSY",
    "revision.time_unique": "the four T of an entry differ, except for never-used ones",
    "revision.order": "a ring is used from its first revision on",
    "revision.location_published": "every revision points into the published part of a smallfile",
    "record.whole": "every revision's record has its key and its length, and its hash where integrity is on",
    "log.extent_whole": "the published part of a smallfile is a sequence of whole transactions",
    "log.time_dense": "every T from 1 to C has exactly one commit record",
}
"""Every invariant by name."""

_FINDINGS_MAX = 20  # of one invariant; the rest are counted
_CHUNK = 1 << 14  # entries looked at together


class Finding(NamedTuple):
    """One violated invariant: its name, and what was found in words."""

    invariant: str
    message: str


Report = Callable[[str, str], None]


def structure(index: Index) -> list[Finding]:
    """The invariants of the index alone. Exact while COMMIT is held and repair is done."""
    findings: list[Finding] = []

    def report(invariant: str, message: str) -> None:
        findings.append(Finding(invariant, message))

    _header(index, report)
    used_words = _used(index)
    _entries(index, used_words, report)
    return _capped(findings)


def contents(index: Index, smallfiles: Smallfiles, snapshot: int, *, integrity: bool) -> list[Finding]:
    """The invariants of every record that the index points to with T <= ``snapshot``."""
    findings: list[Finding] = []
    used = _used(index)
    for first in range(0, used.size, _CHUNK):
        rows = used[first : first + _CHUNK]
        offsets = np.arange(REVISIONS)
        times = index.flat[rows[:, None] + E_TIME + offsets]
        places = index.flat[rows[:, None] + layout.E_PLACE + 2 * offsets]
        lengths = index.flat[rows[:, None] + layout.E_PLACE + 1 + 2 * offsets]
        again = index.flat[rows[:, None] + E_TIME + offsets]
        wanted = (times > 0) & (times <= np.uint64(snapshot)) & (times == again)
        for row, ring in np.argwhere(wanted):
            problem = _record_problem(
                index, smallfiles, int(rows[row]), int(places[row, ring]), int(lengths[row, ring]), integrity
            )
            word = int(rows[row]) + E_TIME + int(ring)
            if problem and index.words[word] == times[row, ring]:  # not overtaken meanwhile
                file_id, offset = layout.unpack_location(int(places[row, ring]))
                message = (
                    f"T={times[row, ring]} at byte {offset} of {layout.smallfile_name(file_id)}: {problem}"
                )
                findings.append(Finding("record.whole", message))
    return _capped(findings)


def log(index: Index, smallfiles: Smallfiles) -> list[Finding]:
    """The invariants of the published part of every smallfile. Exact while COMMIT is held."""
    findings: list[Finding] = []
    seen: dict[int, tuple[int, int]] = {}
    places = _places(index)
    for slot in np.flatnonzero(places[:, layout.W_TAIL] > np.uint64(layout.SMALLFILE_HEADER_BYTES)):
        tail, file_id = int(places[slot, layout.W_TAIL]), int(places[slot, layout.W_FILE])
        try:
            for time, offset in transactions(smallfiles, file_id, tail):
                where = file_id, offset
                if time in seen:
                    message = f"T={time} is at {_where(*seen[time])} and at {_where(*where)}"
                    findings.append(Finding("log.time_dense", message))
                seen[time] = where
        except CorruptedStoreError as error:
            findings.append(Finding("log.extent_whole", str(error)))
    committed = index.words[layout.H_COMMITTED]
    missing = [time for time in range(1, committed + 1) if time not in seen]
    findings += [
        Finding("log.time_dense", f"T={time} has no commit record") for time in missing[:_FINDINGS_MAX]
    ]
    beyond = sorted(time for time in seen if time > committed)
    findings += [
        Finding("log.time_dense", f"T={time} at {_where(*seen[time])} is above C={committed}")
        for time in beyond
    ]
    return _capped(findings)


def _places(index: Index) -> npt.NDArray[np.uint64]:
    """The writer table, a row of words for each place."""
    end = layout.writer_word(index.writers_max)
    return index.flat[layout.HEADER_WORDS : end].reshape(-1, layout.WRITER_WORDS)


def _where(file_id: int, offset: int) -> str:
    return f"byte {offset} of {layout.smallfile_name(file_id)}"


def transactions(smallfiles: Smallfiles, file_id: int, tail: int) -> Iterator[tuple[int, int]]:
    """Yield ``(T, offset of its commit record)`` of the published part of a smallfile, checking each
    transaction whole. Raises CorruptedStoreError where the chain breaks.
    """
    begin = layout.SMALLFILE_HEADER_BYTES
    for offset, _, _, tag in smallfiles.scan(file_id, begin, tail):
        if tag >> layout.KIND_SHIFT != layout.KIND_COMMIT:
            continue
        found = smallfiles.commit_record(file_id, offset)
        if found is None or found[1].extent_offset != begin:
            raise CorruptedStoreError(
                "a commit record that does not match its transaction",
                path=str(smallfiles.path(file_id)),
                offset_bytes=offset,
            )
        begin = offset + layout.COMMIT_BYTES
        yield found[0], offset
    if begin != tail:
        raise CorruptedStoreError(
            f"records up to byte {tail} without a commit record",
            path=str(smallfiles.path(file_id)),
            offset_bytes=begin,
        )


def _used(index: Index) -> Slots:
    """First words of the used entries."""
    firsts = index.flat[
        index.first_word + E_TIME : index.first_word + index.slots * ENTRY_WORDS : ENTRY_WORDS
    ]
    return index.first_word + np.flatnonzero(firsts != 0) * ENTRY_WORDS


def _header(index: Index, report: Report) -> None:
    words = index.words
    if words[layout.H_INTENT]:
        report("commit.intent_clear", f"the intent of T={words[layout.H_INTENT]} stands")
    committed, durable = words[layout.H_COMMITTED], words[layout.H_DURABLE]
    if durable > committed or (index.durable and durable != committed):
        report("commit.durable_follows", f"D={durable} and C={committed}")


def _entries(index: Index, used: Slots, report: Report) -> None:
    words, flat = index.words, index.flat
    committed = words[layout.H_COMMITTED]
    if used.size != words[layout.H_ENTRIES_USED]:
        report(
            "index.used_counted", f"{used.size} entries are used, {words[layout.H_ENTRIES_USED]} are counted"
        )
    live = 0
    keys: list[npt.NDArray[np.void]] = []
    table = flat[index.first_word : index.first_word + index.slots * ENTRY_WORDS].reshape(-1, ENTRY_WORDS)
    for first in range(0, used.size, _CHUNK):
        rows = used[first : first + _CHUNK, None]
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
        newest = times.argmax(axis=1)
        live += int((lengths[np.arange(len(rows)), newest] != np.uint64(TOMBSTONE)).sum())
        _locations(index, rows, times, places, lengths, report)
        keys.append(_reachable(index, rows[:, 0], report))
    if live != words[layout.H_KEYS_LIVE]:
        report("index.live_counted", f"{live} keys are live, {words[layout.H_KEYS_LIVE]} are counted")
    if keys:
        every = np.concatenate(keys)
        if len(set(every.tolist())) < len(every):
            names, counts = np.unique(every, return_counts=True)
            for key in names[counts > 1]:
                report("index.key_unique", f"key {key.tobytes().hex()} has more than one entry")


def _places_of(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The (row, ring) of every true element; there is almost never one."""
    return np.argwhere(wrong) if wrong.any() else np.empty((0, 2), np.int64)


def _locations(
    index: Index,
    rows: Slots,
    times: npt.NDArray[np.uint64],
    places: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint64],
    report: Report,
) -> None:
    tails = _places(index)[:, layout.W_TAIL]
    file_ids = places >> np.uint64(layout.LOCATION_SHIFT)
    known = file_ids < np.uint64(index.writers_max)
    ends = (places & np.uint64(layout.LOCATION_MASK)) + np.uint64(RECORD_HEADER_BYTES)
    ends += np.where(lengths == np.uint64(TOMBSTONE), np.uint64(0), lengths)
    inside = known & (ends <= tails.take(file_ids.view(np.int64), mode="clip"))
    wrong = ~inside & (times != 0) & (times != np.uint64(BUSY))
    for row, ring in _places_of(wrong):
        file_id, offset = layout.unpack_location(int(places[row, ring]))
        report(
            "revision.location_published",
            f"{_name(index, rows[row, 0])} points to byte {offset} of {layout.smallfile_name(file_id)},"
            " behind its published tail",
        )


def _reachable(index: Index, rows: Slots, report: Report) -> npt.NDArray[np.void]:
    """Check that a probe finds each entry; returns the keys."""
    keys = index.flat[rows[:, None] + np.arange(2)]
    names = np.ascontiguousarray(keys).view("V16").reshape(-1)
    homes = np.fromiter(
        (xxh3_64_intdigest(name.tobytes()) for name in names), dtype=np.uint64, count=len(rows)
    )
    distance = ((rows - index.first_word) // ENTRY_WORDS - index.homes(homes)) & index.mask
    for row in np.flatnonzero(distance):
        if index.probe(names[row].tobytes()) != int(rows[row]):
            report(
                "index.entry_reachable", f"{_name(index, rows[row])} is not where a probe for its key ends"
            )
    return names


def _record_problem(
    index: Index, smallfiles: Smallfiles, word: int, location: int, length: int, integrity: bool
) -> str:
    file_id, offset = layout.unpack_location(location)
    size = 0 if length == TOMBSTONE else length
    try:
        record = smallfiles.read(file_id, offset, RECORD_HEADER_BYTES + size)
    except (CorruptedStoreError, OverflowError, ValueError) as error:
        return str(error)
    if len(record) < RECORD_HEADER_BYTES + size:
        return "the smallfile ends within the record"
    key = bytes(index.map[word * 8 : word * 8 + 16])
    found_key, found_length, tag = layout.RECORD_TAIL.unpack_from(record, 16)
    if found_key != key:
        return f"holds key {found_key.hex()} instead of {key.hex()}"
    if found_length != size or (tag >> layout.KIND_SHIFT == layout.KIND_REMOVAL) != (length == TOMBSTONE):
        return f"holds {found_length} bytes of kind {tag >> layout.KIND_SHIFT} instead of {size}"
    if integrity and xxh3_128_digest(memoryview(record)[RECORD_HEADER_BYTES:]) != record[:16]:
        return f"key {key.hex()} does not match its hash"
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
