"""Compaction: what the index still refers to is moved out of the smallfiles with the most dead bytes, and their space
is given back, while everyone reads and writes.

A pass holds ``COMPACT``, and COMMIT only to look and to store a few words at a time. A record has two whole copies
from its move until its old place is given back, and the index refers to one of them at any moment; so a death
anywhere leaves a whole store, and the next pass goes on where it stopped.

Readers take no notice: whoever copied a record from a place that was given back meanwhile sees, on looking at the
revision again, that its location is another one.
"""

from __future__ import annotations

import contextlib
import os
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from kvs import durability, files, layout, locks, moving, repair, syncpoints, usage
from kvs.errors import CorruptedStoreError
from kvs.forgetting import Forgetting
from kvs.generations import Generations, Region, published
from kvs.index import Index, Slots
from kvs.layout import E_PLACE, E_TIME, ENTRY_WORDS, REVISIONS
from kvs.locks import COMMIT, COMPACT, Held, Range, RangeLocks
from kvs.moving import Output, Rows
from kvs.records import Words
from kvs.scanning import Log, scan
from kvs.smallfile import Smallfiles

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``, in bytes of smallfiles that the pass goes through."""

HOLE_BYTES: Final = 1 << 20
"""Space is given back in multiples of this."""
_ROUND_BYTES: Final = 64 << 20  # so much is moved before the space it took is given back
_SHORT_FILES: Final = (
    8  # so many of compaction's own smallfiles that are short, and have no dead records, are made one
)
_SHORT_SHARE: Final = 8  # short: less than this part of a whole one


class Compacted(NamedTuple):
    """What a pass did. ``freed_bytes`` are blocks of the file system, less those of the new copies: negative where
    next to nothing was dead. ``keys_forgotten`` are removed keys of which nothing is left.
    """

    moved_records: int
    moved_bytes: int
    freed_bytes: int
    files_removed: int
    keys_forgotten: int


def compact(
    directory: Path,
    generations: Generations,
    smallfiles: Smallfiles,
    *,
    lock_timeout_s: float,
    turn_timeout_s: float | None = None,
    min_dead: float = 0.0,
    progress: Progress | None = None,
    smallfile_bytes: int = layout.SMALLFILE_BYTES,
) -> Compacted:
    """One pass over the smallfiles of which at least ``min_dead`` (a share from 0 to 1) is dead. It waits at most
    ``turn_timeout_s`` for a compaction that is under way (``None``: as for any lock).

    Raises:
        LockTimeoutError: another compaction is under way, or somebody is stopped who holds COMMIT.
        StorageFullError: there is no room for the copies of the next records.
        CorruptedStoreError: something that is still needed is damaged. It was not touched.
        DurabilityError: a sync failed.
        UnsupportedPlatformError: the file system cannot punch holes.
            After any of these nothing is lost, and what was given back before stays given back.
    """
    work = _Pass(directory, generations, smallfiles, lock_timeout_s)
    try:
        work.lock(lock_timeout_s if turn_timeout_s is None else turn_timeout_s)
        work.remove_orphans()
        work.choose_floor()  # 1
        work.forget()  # 2
        victims = work.choose_victims(min_dead, smallfile_bytes)
        work.tidy()
        if victims:
            work.begin_output(smallfile_bytes)  # 3
            total = sum(region.end - region.begin for _, region, _ in victims)
            done = 0
            for file_id, region, live in victims:
                work.empty(file_id, region, live)  # 4 and 5
                done += region.end - region.begin
                if progress is not None:
                    progress(done, total)
        work.sweep()  # 6
    finally:
        work.close()
    return work.result()


class _Moved(NamedTuple):
    """Records that were moved, where to, and their slots in the index that they were looked up in."""

    rows: Rows
    places: Words
    slots: Slots
    generation: Index


class _Pass:
    """One compaction. Its range locks are its own, so that the handle can go on meanwhile."""

    def __init__(self, directory: Path, view: Generations, smallfiles: Smallfiles, timeout_s: float) -> None:
        self._view = view
        self._smallfiles = smallfiles
        self._timeout_s = timeout_s
        self._ranges = RangeLocks(directory / "ranges.lock", self._owner)
        self._held: Held | None = None
        self._output: Output | None = None
        self._floor = self._horizon = self._swept = 0
        self._regions: dict[int, Region] = {}
        self._whole: list[int] = []
        self._records = self._bytes = self._freed = self._removed = self._forgotten = 0

    def lock(self, timeout_s: float) -> None:
        """Take COMPACT. Raises LockTimeoutError."""
        self._held = self._ranges.acquire(COMPACT, timeout_s)
        self._view.current().words[layout.H_COMPACT_PID] = os.getpid()
        syncpoints.reach("compact.after_lock")

    def remove_orphans(self) -> None:
        """Remove smallfiles that a compaction began and died before it published anything in them."""
        orphans = [file_id for file_id in self._smallfiles.ids() if self._is_output(file_id)]
        orphans = [file_id for file_id in orphans if not self._was_published(file_id)]
        live = usage.live_by_file(self._view.current()) if orphans else {}
        for file_id in orphans:
            if file_id not in live:  # else its header is damaged
                self._unlink(file_id)

    def _was_published(self, file_id: int) -> bool:
        """Whether anything was published in a compaction's smallfile, which may have died before its header was whole;
        true also of those of other stores.
        """
        fd = files.open_file(self._smallfiles.path(file_id), write=False)
        try:
            data = files.read_at(fd, 0, layout.SMALLFILE_BEGIN)
        finally:
            files.close(fd)
        header = layout.unpack_smallfile_header(data)
        foreign = header is not None and header.store_uuid != self._smallfiles.store_uuid
        return foreign or any(data[layout.B_END * layout.WORD :][: layout.WORD])

    def choose_floor(self) -> None:
        """Step 1: the floor is the newest transaction, and what was published by now is what the pass goes through.
        The horizon is the oldest transaction that a snapshot may still want.
        """
        index = self._view.current()
        if index.durable:  # most of the wait, before COMMIT is held
            time = index.words[layout.H_COMMITTED]
            durability.await_durable(self._view, self._smallfiles, self._ranges, time, self._timeout_s)
        with self._holding() as (_, index):
            words = index.words
            self._floor = words[layout.H_COMMITTED]
            if index.durable:
                durability.catch_up(index, self._smallfiles, self._ranges, self._floor, self._timeout_s)
            self._regions = published(index, self._smallfiles)
            self._swept = self._swept_to(words, self._regions)
            self._horizon = self._raise_horizon(words)
        syncpoints.reach("compact.after_floor")

    def _raise_horizon(self, words: memoryview) -> int:
        """Raise the horizon to the oldest pinned T, or to the floor. A snapshot pins its T and looks at the horizon
        then; here the horizon is stored and pins are looked for then: one of the two sees the other. It never falls
        below where it was, because what is older may be forgotten already.
        """
        before = words[layout.H_HORIZON]
        # Pins are looked for before as well: a snapshot that is open already shall not see it rise too far.
        words[layout.H_HORIZON] = horizon = max(before, self._oldest_pin(self._floor))
        lowered = max(before, self._oldest_pin(horizon))
        if lowered != horizon:
            words[layout.H_HORIZON] = lowered
        return lowered

    def _swept_to(self, words: memoryview, regions: dict[int, Region]) -> int:
        """The T up to which every live part of a smallfile is swept."""
        used = [file_id for file_id, region in regions.items() if region.begin < region.end]
        return max(words[layout.H_SWEPT], min(map(self._smallfiles.since, used), default=0))

    def _oldest_pin(self, below: int) -> int:
        pinned = locks.lowest_pin(self._ranges.fd, below)
        return below if pinned is None else pinned

    def forget(self) -> None:
        """Step 2: of keys that were removed up to the horizon everything older is forgotten, and the removal itself
        where an earlier pass has left no older record.
        """
        forgetting = Forgetting(self._horizon, self._swept)
        index = (
            self._view.index
        )  # whatever has to be forgotten is in this one, also when it is retired meanwhile
        for slots in forgetting.candidates(index):
            keys = index.halves[2 * slots, :2]
            for first in range(0, len(slots), moving.BATCH_RECORDS):
                part = slice(first, first + moving.BATCH_RECORDS)
                with self._holding() as (held, current):
                    known = slots[part] if current is index else _locate(current, keys[part])
                    self._forgotten += forgetting.forget(held, current, known)

    def choose_victims(self, min_dead: float, smallfile_bytes: int) -> list[tuple[int, Region, int]]:
        """The smallfiles to go through, those with the greatest share of dead bytes first, each with its live bytes."""
        live = usage.live_by_file(self._view.index)
        short = []
        shares: dict[int, float] = {}
        for file_id, region in self._regions.items():
            size, used = region.end - region.begin, live.get(file_id, 0)
            if not size:
                continue
            if self._is_output(file_id) and self._record_bytes(file_id) == used:
                self._whole.append(file_id)
                if size < smallfile_bytes // _SHORT_SHARE:
                    short.append(file_id)
            elif 1 - used / size >= min_dead:
                shares[file_id] = 1 - used / size
        if len(short) < _SHORT_FILES:  # of those that hold nothing but a floor one has to stay
            short = [file_id for file_id in short if shares and not live.get(file_id)]
        shares.update(dict.fromkeys(short, 0.0))
        chosen = sorted(shares, key=lambda file_id: -shares[file_id])
        return [(file_id, self._regions[file_id], live.get(file_id, 0)) for file_id in chosen]

    def tidy(self) -> None:
        """Finish what a dead compaction left: holes that it did not punch, files that it did not unlink. And give back
        what sealed smallfiles have behind their ends.
        """
        for file_id, region in self._regions.items():
            if region.sealed and region.begin == region.end:
                self._remove(file_id)
            elif region.begin >= HOLE_BYTES or region.sealed:
                self._smallfiles.sync(file_id)  # a bound that is not on the medium protects nothing there
                self._give_back(file_id, _hole(region.begin), region.end if region.sealed else 0)

    def begin_output(self, smallfile_bytes: int) -> None:
        """Step 3: put everything up to the floor on the medium, then say so in a smallfile of our own."""
        for file_id, region in self._regions.items():
            if region.begin < region.end:
                self._smallfiles.sync(file_id)
        self._output = Output(self._smallfiles, self._floor, self._horizon, self._new_id, smallfile_bytes)
        with self._holding() as (_, index):
            index.words[layout.H_FLOOR] = max(index.words[layout.H_FLOOR], self._floor)
        syncpoints.reach("compact.after_output")

    def _new_id(self) -> int:
        """The id of the next smallfile of compaction; stored before there is such a file, and never used again."""
        with self._holding() as (_, index):
            words = index.words
            stride = layout.place_stride(index.writers_max)
            used = [file_id for file_id in self._smallfiles.ids() if self._is_output(file_id)]
            newest = max([words[layout.H_OUTPUT_FILE], *used])
            file_id: int = newest + stride if newest else index.writers_max
            words[layout.H_OUTPUT_FILE] = file_id
        return file_id

    def empty(self, file_id: int, region: Region, live: int) -> None:
        """Steps 4 and 5: move what is live out of a smallfile, and give its space back.

        Raises:
            CorruptedStoreError: the log is damaged; from the damage on nothing was touched.
        """
        kept = pending = 0
        moved: list[_Moved] = []
        end = region.begin
        for log in scan(self._smallfiles, file_id, region.begin, region.end) if live else ():
            found = self._move(log)
            moved.append(found)
            pending += int(usage.record_sizes(found.rows.lengths).sum())
            end = log.end
            if pending >= _ROUND_BYTES and end < region.end:
                self._swing(moved)
                self._advance(file_id, end)
                kept, pending, moved = kept + pending, 0, []
        if live and end < region.end:
            raise CorruptedStoreError(
                "the log of a smallfile is damaged before its published end, so what is live behind that was not moved"
                " and is as it was. `kvs recover` saves what is whole into a new store",
                path=str(self._smallfiles.path(file_id)),
                offset_bytes=end,
            )
        self._swing(moved)
        if kept + pending < live:
            self._check_unused(file_id, region.end)
        self._advance(file_id, region.end)
        self._smallfiles.store_bound(file_id, layout.B_SINCE, self._floor & layout.LOCATION_MASK)
        if region.sealed:
            self._remove(file_id)

    def _move(self, log: Log) -> _Moved:
        """Copy those records of a log that the index refers to. Looking without a lock may find some too many: a
        reference to a published place can only go away.
        """
        index = self._view.index
        rows = Rows(log.keys, log.times, log.locations, log.lengths)
        slots = _locate(index, log.keys)
        places = index.halves.take((np.maximum(slots, 0) << 1) + 1, axis=0)[:, ::2]
        live = (slots >= 0) & (places == log.locations[:, None]).any(axis=1)
        rows = rows.part(live)
        assert self._output is not None
        places = self._output.move(rows) if len(rows.times) else rows.locations
        return _Moved(rows, places, slots[live], index)

    def _swing(self, moved: list[_Moved]) -> None:
        """Publish the copies, then make the index refer to them, some at a time, wherever it still refers to the old
        place: one store each, which readers see before or after.
        """
        assert self._output is not None
        self._output.settle()
        for rows, places, slots, generation in moved:
            for first in range(0, len(slots), moving.BATCH_RECORDS):
                batch = slice(first, first + moving.BATCH_RECORDS)
                part = rows.part(batch)
                began = clock.perf_counter()
                with self._holding() as (_, index):
                    known = slots[batch] if index is generation else _locate(index, part.keys)
                    self._store(index, known, part, places[batch])
                clock.sleep(clock.perf_counter() - began)  # as long again for those who wait for COMMIT
            self._records += len(slots)
            self._bytes += int(usage.record_sizes(rows.lengths).sum())

    @staticmethod
    def _store(index: Index, slots: Slots, rows: Rows, places: Words) -> None:
        entries = np.maximum(slots, 0)
        times = index.halves.take(entries << 1, axis=0)[:, E_TIME : E_TIME + REVISIONS].view(np.int64)
        locations = index.halves.take((entries << 1) + 1, axis=0)[:, ::2]
        same = (times == rows.times[:, None]) & (locations == rows.locations[:, None])
        row, ring = np.nonzero(same & (slots >= 0)[:, None])
        positions = index.first_word + entries[row] * ENTRY_WORDS + E_PLACE + 2 * ring
        syncpoints.reach("compact.before_swing", (index.store_prefix, positions, places[row]))
        index.flat[positions] = places[row]
        syncpoints.reach("compact.after_swing")

    def _check_unused(self, file_id: int, end: int) -> None:
        """Fewer records were found in the log than the index referred to. They may have been overwritten meanwhile; if
        not, the index is damaged, or the log, and nothing may be given back.
        """
        first, last = layout.pack_location(file_id, 0), layout.pack_location(file_id, end)
        for locations, _ in usage.references(self._view.current()):
            wrong = (locations >= np.uint64(first)) & (locations < np.uint64(last))
            if wrong.any():
                raise CorruptedStoreError(
                    "the index refers to a place where no record begins; nothing of this smallfile was given back."
                    " `kvs verify` says more, `kvs recover` saves what is whole into a new store",
                    path=str(self._smallfiles.path(file_id)),
                    offset_bytes=int(locations[wrong][0]) & layout.LOCATION_MASK,
                )

    def _advance(self, file_id: int, end: int) -> None:
        """Everything live before ``end`` was moved and is on the medium: say that the rest is dead, and punch it."""
        syncpoints.reach("compact.before_begin")
        self._smallfiles.store_bound(file_id, layout.B_BEGIN, end, sync=True)
        syncpoints.reach("compact.after_begin")
        if end >= HOLE_BYTES:
            self._give_back(file_id, _hole(end), 0)

    def _give_back(self, file_id: int, hole: int, end: int) -> None:
        """Punch a smallfile from behind its header to ``hole``, and from ``end``, if that is not 0."""
        path = self._smallfiles.path(file_id)
        before = files.blocks_bytes(path)
        fd = files.open_file(path, write=True)
        try:
            syncpoints.reach("compact.before_punch")
            hole = min(hole, files.size(fd) & -layout.PAGE)
            if hole > layout.PAGE:
                files.punch(fd, layout.PAGE, hole - layout.PAGE, path)
            if end:
                moving.trim(path, fd, end)
            syncpoints.reach("compact.after_punch")
        finally:
            files.close(fd)
        self._freed += before - files.blocks_bytes(path)

    def _remove(self, file_id: int) -> None:
        """Give a sealed smallfile back that holds nothing any more. Whoever has it open would keep its blocks, so they
        are punched first. The newest file of a writer place keeps its name: the next owner looks for it.
        """
        self._give_back(file_id, layout.SMALLFILE_BYTES_MAX, 0)
        places = self._view.index.places
        if file_id not in places[places[:, layout.W_TAIL] != 0, layout.W_FILE]:
            self._unlink(file_id)

    def _unlink(self, file_id: int) -> None:
        path = self._smallfiles.path(file_id)
        self._freed += files.blocks_bytes(path)
        syncpoints.reach("compact.before_unlink")
        files.unlink(path)
        syncpoints.reach("compact.after_unlink")
        self._removed += 1

    def sweep(self) -> None:
        """Step 6: say how far no older record of a removed key is left in any smallfile: the removal may go then.
        It is written down in the smallfiles, and so does not need one pass that goes through all of them.
        """
        for file_id in self._whole:  # what was forgotten up to the horizon would be a dead record in it
            if self._smallfiles.path(file_id).exists():
                self._smallfiles.store_bound(file_id, layout.B_SINCE, self._horizon & layout.LOCATION_MASK)
        with self._holding() as (_, index):
            words = index.words
            words[layout.H_SWEPT] = self._swept_to(words, published(index, self._smallfiles))
        syncpoints.reach("compact.after_swept")

    def close(self) -> None:
        """Close the output and let go of COMPACT."""
        try:
            if self._output is not None:
                self._output.close()
        finally:
            if self._held is not None and self._ranges.fd >= 0:
                self._ranges.release(self._held)
            self._ranges.close()

    def result(self) -> Compacted:
        """What was done."""
        made = self._output.file_ids if self._output is not None else []
        taken = sum(files.blocks_bytes(self._smallfiles.path(file_id)) for file_id in made)
        return Compacted(self._records, self._bytes, self._freed - taken, self._removed, self._forgotten)

    def _holding(self) -> contextlib.AbstractContextManager[tuple[Held, Index]]:
        return repair.holding(self._ranges, self._view, self._smallfiles, self._timeout_s)

    def _owner(self, asked: Range) -> int:
        word = {COMPACT: layout.H_COMPACT_PID, COMMIT: layout.H_OWNER_PID}.get(asked)
        return 0 if word is None else self._view.index.words[word]

    def _is_output(self, file_id: int) -> bool:
        writers_max = self._view.index.writers_max
        return file_id % layout.place_stride(writers_max) == writers_max

    def _record_bytes(self, file_id: int) -> int:
        word = self._smallfiles.read(file_id, layout.B_RECORDS * layout.WORD, layout.WORD)
        return int.from_bytes(word, "little")


def _locate(index: Index, keys: Words) -> Slots:
    """The slots of keys (n, 2), negative where there is none."""
    names: list[bytes] = np.ascontiguousarray(keys).view("V16").reshape(-1).tolist()
    return index.locate(names)[0] if names else np.empty(0, np.int64)


def _hole(end: int) -> int:
    """Where the hole ends in a smallfile that is dead up to ``end``."""
    return end & -HOLE_BYTES
