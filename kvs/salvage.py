"""Recovering what verifies of a damaged store into a new one, and listing what was lost.

The smallfiles are read as a rebuild of the index reads them, transaction by transaction, each one checked whole. Where
that breaks, the next commit record that is whole is found on the grid, and between the two single records are taken
where something vouches for them (``choosing.Weighing``). The newest revision of each key wins, and a removal wins over
what is older.

What it cannot tell: the last transactions of a file whose commit records are damaged from ones that were never
committed (they are left out, and said to be there), where neither the index nor the file's own end bound is left; and
which removed keys come back where a file's begin bound is damaged.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kvs import backup, choosing, files, fragments, layout, locks, scanning, wreckage
from kvs.choosing import Candidate, Chosen, Weighing
from kvs.errors import CorruptedStoreError, LockTimeoutError, StoreNotFoundError, UnknownStoreError
from kvs.fragments import Fragment, Mark
from kvs.layout import TOMBSTONE
from kvs.wreckage import Wreckage

_RANGES: Final = "ranges.lock"
_RUN_MIN: Final = (
    16  # transactions scanned at once behind a damaged place; more and more while there is no other
)

OpenStore = Callable[[Path, Mapping[str, bool]], backup.Target]
"""Creates a store with these properties in an empty directory and opens it for writing."""


class Loss(NamedTuple):
    """One thing that was lost or is uncertain, or (``note``) only worth knowing. ``kind`` is one of damaged, missing,
    transactions, key, uncertain, note; what does not apply is empty, -1 or 0.
    """

    kind: str
    message: str
    path: str = ""
    begin: int = -1
    end: int = -1
    records: int = -1
    key: bytes = b""
    transaction: int = 0
    kept: int = 0


class Recovered(NamedTuple):
    """What a recovery came to: keys in the new store, and how many losses of each kind were reported."""

    keys: int
    damaged: int
    lost: int
    uncertain: int

    @property
    def whole(self) -> bool:
        """Whether nothing was lost."""
        return not (self.damaged or self.lost or self.uncertain)


Report = Callable[[Loss], None]


def recover(
    damaged: Path,
    target: Path,
    open_store: OpenStore,
    report: Report,
    progress: backup.Progress | None = None,
) -> Recovered:
    """Write everything that verifies in the store at ``damaged`` into a new store at ``target``, and report each loss.

    The damaged store is only read. The new one is complete and on the medium when it gets its name.

    Raises:
        StoreNotFoundError, UnknownStoreError: there is nothing of a store at ``damaged``.
        CorruptedStoreError: nothing in it verifies.
        LockTimeoutError: a process has it open for writing (or holds a snapshot of it).
        StoreOptionsError, StorageFullError: nothing was made at ``target``.
    """
    backup.check_vacant(target.absolute())
    _refuse_live(damaged)
    salvage = _Salvage(damaged, report)
    try:
        salvage.collect()
        chosen = salvage.choose()
        salvage.report_losses(chosen)
        properties = salvage.wreckage.properties
        with backup.fresh(target) as temporary:
            items = chosen.items(salvage.wreckage)
            keys = backup.fill(temporary, items, lambda path: open_store(path, properties), progress)
    finally:
        salvage.close()
    counts = salvage.counts
    return Recovered(
        keys,
        counts.get("damaged", 0) + counts.get("missing", 0) + counts.get("transactions", 0),
        counts.get("key", 0),
        counts.get("uncertain", 0),
    )


def _refuse_live(directory: Path) -> None:
    if not directory.exists():
        raise StoreNotFoundError(str(directory))
    if not directory.is_dir() or not (any(directory.glob("*.small")) or any(directory.glob("index.*"))):
        raise UnknownStoreError("there is nothing of a store here; nothing was made", path=str(directory))
    try:
        fd = files.open_file(directory / _RANGES, write=False)
    except OSError:
        return  # nobody can have opened it without
    try:
        if locks.anything_held(fd):
            raise LockTimeoutError("a lock of the store", 0, "", 0.0)
    finally:
        files.close(fd)


class _Salvage:
    """One recovery: what was collected of the files, and what was reported."""

    def __init__(self, damaged: Path, report: Report) -> None:
        self._directory = damaged
        self._report = report
        self.counts: dict[str, int] = {}
        self._logs: list[scanning.Log] = []
        self._times: list[npt.NDArray[np.int64]] = []
        self._candidates: list[Candidate] = []
        self._damages: dict[int, list[tuple[int, int]]] = {}
        self._reached: dict[int, int] = {}
        """By smallfile: where what could be read of it ends."""
        self._floor = 0
        self._compacted = False
        self._witness = wreckage.witness(damaged, self._note)
        self.wreckage = Wreckage(damaged, self._witness, self._note)
        for path, reason in self.wreckage.unreadable:
            self._tell("missing", f"{path.name}  cannot be read: {reason}", path=str(path))
        if not self.wreckage.traits_known:
            self._tell("note", "the store's properties are not known: the new one gets those of a new store")

    def close(self) -> None:
        """Close everything that was opened."""
        self.wreckage.close()
        if self._witness is not None:
            self._witness.close()

    def _tell(self, kind: str, message: str, **fields: object) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._report(Loss(kind, message, **fields))  # type: ignore[arg-type]

    def _note(self, message: str, path: Path) -> None:
        self._tell("note", f"{path.name}  {message}", path=str(path))

    # -- collecting -----------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read every smallfile. Raises CorruptedStoreError if nothing verifies."""
        tails = {} if self._witness is None else self._witness.tails()
        for file_id, size in sorted(self.wreckage.sizes.items()):
            self._compacted |= self._is_output(file_id)
            self._file(file_id, size, tails.get(file_id, 0))
        nothing = not any(len(log.times) for log in self._logs) and not any(
            candidate.fragment.whole for candidate in self._candidates
        )
        if nothing and (self.counts.keys() - {"note"} or self._witness is None or not self._witness.empty):
            raise CorruptedStoreError(
                "nothing in these files verifies, so there is nothing to recover; nothing was made",
                path=str(self._directory),
            )

    def _is_output(self, file_id: int) -> bool:
        """Whether a compaction made the file."""
        writers_max = self.wreckage.traits >> 32
        return file_id % layout.place_stride(writers_max) == writers_max

    def _file(self, file_id: int, size: int, tail: int) -> None:
        """Collect one file: the chain from its begin, and behind each damaged place again."""
        begin, end = self.wreckage.begin_of(file_id), self.wreckage.end_of(file_id)
        published = max(end or 0, 0 if end else tail)
        if begin is None or end is None:
            self._tell(
                "uncertain",
                f"{self.wreckage.path(file_id).name}  a bound in its header is damaged: keys that were removed, or"
                " never committed, may be back",
                path=str(self.wreckage.path(file_id)),
            )
        self._compacted |= begin is None or begin > layout.SMALLFILE_BEGIN
        limit = min(end or size, size) & -layout.ALIGN
        position = begin or layout.SMALLFILE_BEGIN
        if position < limit:
            position = self._scan(file_id, position, limit)
        if position < limit:
            marks = fragments.marks(self.wreckage, file_id, position, limit)
            if begin is None and marks and position == layout.SMALLFILE_BEGIN:
                position = marks[0].begin  # what is before it may be a hole that is meant to be there
            position = self._resynchronise(file_id, position, marks)
        self._reached[file_id] = position
        if position < published:
            self._damaged(file_id, position, published, None, 0)
        elif not published and position < size and any(self.wreckage.read(file_id, position, layout.ALIGN)):
            self._note(
                f"bytes {position} on: no commit record follows, so it is a transaction that was never committed, or"
                " one whose commit record is damaged; it was left out",
                self.wreckage.path(file_id),
            )

    def _scan(self, file_id: int, begin: int, end: int) -> int:
        """Collect the whole transactions from ``begin`` on; returns where they end."""
        for log in scanning.scan(self.wreckage, file_id, begin, end):
            if log.end > begin:
                self._logs.append(log)
                self._times.append(log.commits)
                self._floor = max(self._floor, log.floor)
                begin = log.end
        return begin

    def _resynchronise(self, file_id: int, position: int, marks: list[Mark]) -> int:
        """Go on from mark to mark: as many transactions at once as went well before; returns where the last ends."""
        by_begin: dict[int, list[Mark]] = {}
        for mark in marks:
            by_begin.setdefault(mark.begin, []).append(mark)
        begins = sorted(by_begin)
        run = _RUN_MIN
        while True:
            goal = self._goal(by_begin, position, run)
            reached = self._scan(file_id, position, goal) if goal > position else position
            run = 2 * run if reached == goal > position else _RUN_MIN
            if reached > position:
                position = reached
                continue
            here = by_begin.get(position, [])
            if whole := next((m for m in here if self._scan(file_id, position, m.end) == m.end), None):
                position = whole.end  # the longest one was none, but a value that looks like one
            elif here:
                self._damaged(file_id, position, here[-1].offset, here[-1], here[-1].time)
                position = here[-1].end
            else:
                following = bisect.bisect_right(begins, position)
                if following == len(begins):
                    return position
                mark = by_begin[begins[following]][-1]
                self._damaged(file_id, position, mark.begin, None, 0 if mark.moved else mark.time)
                position = mark.begin

    @staticmethod
    def _goal(by_begin: dict[int, list[Mark]], position: int, run: int) -> int:
        """The end of at most ``run`` transactions that follow each other from ``position``."""
        for _ in range(run):
            if position not in by_begin:
                break
            position = by_begin[position][-1].end
        return position

    def _damaged(self, file_id: int, begin: int, end: int, mark: Mark | None, before: int) -> None:
        """Collect what there is between two offsets that are not whole transactions, and report the place."""
        size = self.wreckage.sizes[file_id]
        found = fragments.fragments(
            self.wreckage, file_id, begin, min(end, size) & -layout.ALIGN, marked=mark is not None
        )
        time = mark.time if mark is not None and not mark.moved else 0
        if mark is not None and not mark.moved:
            self._times.append(np.array([mark.time], dtype=np.int64))
        self._damages.setdefault(file_id, []).append((begin, end))
        self._candidates += [
            Candidate(each, 0 if each.moved else time, before, found.explained, len(found.records) == 1)
            for each in found.records
        ]
        whole = sum(each.whole for each in found.records)
        path = self.wreckage.path(file_id)
        cut = f"; the file ends at byte {size}" if size < end else ""
        if mark is not None:
            what = f"{'moved records' if mark.moved else f'transaction {mark.time}'}, {whole} of {mark.records} records"
        else:
            what = f"no commit record, {whole} records"
        self._tell(
            "damaged",
            f"{path.name}  bytes {begin} to {end}: {what} match their hashes{cut}",
            path=str(path),
            begin=begin,
            end=end,
            records=mark.records if mark is not None else -1,
            transaction=time,
        )

    def choose(self) -> Chosen:
        """The newest revision of each key: of whole transactions, then of fragments."""
        chosen = choosing.newest(self._logs)
        self._logs.clear()
        weighing = Weighing(
            chosen,
            self._witness,
            content_addressed=self.wreckage.content_addressed,
            uncertain=self._uncertain,
        )
        weighing.add(self._candidates)
        return chosen

    def _uncertain(self, each: Fragment, time: int) -> None:
        file_id, offset = layout.unpack_location(each.location)
        path = self.wreckage.path(file_id)
        doubt = "nothing else vouches for its key or its age" if time else "its age is not known"
        self._tell(
            "uncertain",
            f"key {each.key.hex()}  is taken from a damaged place, byte {offset} of {path.name}: its value matches its"
            f" hash, {doubt}",
            path=str(path),
            begin=offset,
            key=each.key,
            transaction=time,
        )

    # -- what was lost --------------------------------------------------------------------------------------

    def report_losses(self, chosen: Chosen) -> None:
        """Report keys whose newest revision is lost, files that are missing, and transactions that are nowhere."""
        lost: dict[bytes, int] = {}
        for candidate in self._candidates:
            each = candidate.fragment
            used, location, _ = chosen.find(each.key)
            superseded = used >= candidate.time if candidate.time else 0 < candidate.before <= used
            if location != each.location and not superseded:
                lost[each.key] = max(lost.get(each.key, 0), candidate.time)
        for key, time in self._missed(chosen):
            lost[key] = max(lost.get(key, 0), time)
        for key, time in sorted(lost.items()):
            kept, _, length = chosen.find(key)
            newest = f"its revision of transaction {time}" if time else "a revision"
            if key not in chosen:
                instead = "nothing is left of it"
            else:
                instead = f"that of transaction {kept} is used" if kept else "another one is used"
                instead += ", a removal" if length == TOMBSTONE else ""
            message = f"key {key.hex()}  {newest} is lost; {instead}"
            self._tell("key", message, key=key, transaction=time, kept=kept)
        self._report_gaps()

    def _missed(self, chosen: Chosen) -> Iterator[tuple[bytes, int]]:
        """Keys of which the index knows a newer revision, in a place that is damaged or not there."""
        missing: set[int] = set()
        present = np.array(list(self.wreckage.sizes), dtype=np.uint64)
        for piece in self._witness.newest() if self._witness is not None else ():
            gone = ~np.isin(piece.file_ids, present)
            hit = gone.copy()
            for file_id, ranges in self._damages.items():
                begins, ends = np.array(ranges, dtype=np.uint64).T  # in rising order, and apart
                before = (
                    np.searchsorted(begins, piece.ends) - 1
                )  # the last one that begins before the record ends
                within = (before >= 0) & (ends[np.maximum(before, 0)] > piece.begins)
                hit |= within & (piece.file_ids == np.uint64(file_id))
            ids, rows_of = np.unique(piece.file_ids, return_inverse=True)
            reached = np.array([self._reached.get(each, 0) for each in ids.tolist()], dtype=np.uint64)
            hit |= (
                piece.ends > reached[rows_of]
            )  # behind all that verifies, in a file that says nothing of its end
            rows = np.flatnonzero(hit)
            rows = rows[piece.times[rows] > chosen.times_of(piece.names[rows])]
            missing |= set(piece.file_ids[rows[gone[rows]]].tolist())
            for row in rows.tolist():
                yield piece.names[row : row + 1].tobytes(), int(piece.times[row])
        for file_id in sorted(missing):
            path = self._directory / layout.smallfile_name(file_id)
            self._tell("missing", f"{path.name}  is missing, and the index points to it", path=str(path))

    def _report_gaps(self) -> None:
        """Report the T that no file has: all of them were there, down to what a compaction vouches for."""
        times = np.unique(np.concatenate([*self._times, np.empty(0, np.int64)]))
        floor = self._floor if self._compacted else 0
        present = np.concatenate(([floor], times[times > floor]))
        for i in np.flatnonzero(np.diff(present) > 1).tolist():
            first, last = int(present[i]) + 1, int(present[i + 1]) - 1
            what = f"transaction {first} is" if first == last else f"transactions {first} to {last} are"
            self._tell("transactions", f"{what} in none of the files that are left", transaction=first)
