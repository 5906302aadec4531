"""The index: an open-addressing table in a shared map. Header words, probing, publishing one key and many.

Linear probing from slot ``(xxh3_64(key) >> 7) & (slots - 1)``, so that a masked hash is the entry's offset
in bytes. An entry is empty iff the T of its first revision is zero, which is also where every ring begins, so
no entry is ever emptied again and a probe may stop at the first empty one. One process publishes at a time
(COMMIT is held); readers take no lock.

All shared words are loaded and stored as aligned native 8-byte words: through ``memoryview.cast("Q")``,
numpy, or ``struct`` in native mode for loads only (``pack_into`` clears its target first). x86-64 keeps
the program's order of loads and of stores.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from kvs import files, layout, syncpoints
from kvs.errors import CorruptedStoreError, SnapshotTooOldError, UnknownStoreError
from kvs.layout import BUSY, E_PLACE, E_TIME, ENTRY_WORDS, TOMBSTONE
from kvs.locks import COMMIT, Held
from kvs.records import VECTOR_MIN, Integers, Words

Slots = npt.NDArray[np.int64]
Located = tuple[Slots, Words]
_head = layout.ENTRY_HEAD.unpack_from
_key_words = struct.Struct("@QQ").unpack
_CHUNK = 1 << 16  # entries looked at together
_PENDING_MIN = 12  # fewer keys than this are probed one by one: a numpy round costs more


class Revision(NamedTuple):
    """One revision as it was loaded. ``time_word`` and ``place_word`` are where its T and its location are,
    to look again after the value was copied.
    """

    time: int
    time_word: int
    place_word: int
    location: int
    length: int

    @property
    def forgotten(self) -> bool:
        """Whether a compaction has forgotten it, with its record: see ``H_FORGOTTEN``."""
        return self.location == 0

    @property
    def removed(self) -> bool:
        """Whether it has no value: it is a removal, or forgotten."""
        return self.length == TOMBSTONE or self.location == 0


class Index:
    """One mapped index file.

    Raises:
        UnknownStoreError: the file is something else, or of a newer format.
        CorruptedStoreError: it is truncated, or its header does not match its checksum.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        self.writable = write
        self.fd = files.open_file(path, write=write)
        try:
            length = self._check_header(files.read_at(self.fd, 0, layout.PAGE))
            self.map = files.map_file(self.fd, write=write, length=length)
        except BaseException:
            files.close(self.fd)
            raise
        self.words = memoryview(self.map).cast("Q")
        words = self.words
        self.flags = words[layout.H_FLAGS]
        self.slots = words[layout.H_SLOTS]
        self.mask = self.slots - 1
        self.capacity = words[layout.H_CAPACITY]
        self.generation = words[layout.H_GENERATION]
        self.writers_max = words[layout.H_WRITERS_MAX]
        self.entries = words[layout.H_ENTRIES]
        self.first_word = self.entries // layout.WORD
        self.store_uuid = bytes(self.map[layout.H_UUID * 8 : layout.H_UUID * 8 + 16])
        self.traits = layout.pack_traits(self.flags, self.writers_max)
        self.durable = bool(self.flags & layout.FLAG_DURABLE)
        self.visible_word = layout.H_DURABLE if self.durable else layout.H_COMMITTED
        self.flat: Words = np.frombuffer(self.map, dtype=np.uint64)
        self.halves = self.flat[self.first_word : self.first_word + self.slots * ENTRY_WORDS].reshape(-1, 8)
        """The table as rows of 64 bytes: entry ``i`` is row ``2i`` (key and T) and row ``2i + 1``."""
        end = layout.writer_word(self.writers_max)
        self.places = self.flat[layout.HEADER_WORDS : end].reshape(-1, layout.WRITER_WORDS)
        """The writer table, a row of words for each place."""
        self.lagging = self.places[:, layout.W_LAGGING]

    def _check_header(self, page: bytes) -> int:
        """The length that the header gives the file, which may be longer: somebody may have appended something."""
        words = memoryview(page[: len(page) & -8]).cast("Q")
        if len(words) < 2 or words[layout.H_MAGIC] != layout.INDEX_MAGIC:
            raise UnknownStoreError(
                "this is not the index of a kvs store; nothing was touched. Check the path",
                path=str(self.path),
            )
        if len(page) < layout.PAGE:
            raise CorruptedStoreError(
                "the index is truncated within its header", path=str(self.path), offset_bytes=0
            )
        static = page[: layout.STATIC_WORDS * 8]
        stored = page[layout.H_STATIC_HASH * 8 : layout.H_STATIC_HASH * 8 + 16]
        whole = xxh3_128_digest(static) == stored
        if whole and words[layout.H_VERSION] != layout.FORMAT_VERSION:
            version = words[layout.H_VERSION]
            newer = version > layout.FORMAT_VERSION
            raise UnknownStoreError(
                f"written in format {version}, and this version of kvs knows format {layout.FORMAT_VERSION} only;"
                f" nothing was touched. {'Upgrade kvs' if newer else 'Dump it with the kvs that wrote it'}",
                path=str(self.path),
                other_format=True,
            )
        if not whole or words[layout.H_FLAGS] & ~layout.FLAGS_KNOWN:
            raise CorruptedStoreError(
                "the index header does not match its checksum", path=str(self.path), offset_bytes=0
            )
        wanted = words[layout.H_ENTRIES] + words[layout.H_SLOTS] * layout.ENTRY_BYTES
        actual = files.size(self.fd)
        if actual < wanted:
            raise CorruptedStoreError(
                f"the index is truncated: {actual} bytes of {wanted}",
                path=str(self.path),
                offset_bytes=actual,
            )
        return wanted

    @property
    def retired(self) -> bool:
        """Whether another generation has replaced this one: nothing in it changes any more."""
        return self.words[layout.H_NEXT] != 0

    # -- one key ------------------------------------------------------------------------------------------

    def probe(self, key: bytes) -> int:
        """The first word of the entry of ``key``, or ``~word`` of the empty entry where it would go."""
        mask = self.mask << 7
        home = offset = xxh3_64_intdigest(key) & mask
        while True:
            found, first, _, _, _ = _head(self.map, self.entries + offset)
            if not first:
                return ~(self.first_word + (offset >> 3))
            if found == key:
                return self.first_word + (offset >> 3)
            offset = (offset + layout.ENTRY_BYTES) & mask
            if offset == home:
                raise self.overfull()

    def find(self, key: bytes, snapshot: int) -> Revision | None:
        """The newest revision of ``key`` with T <= ``snapshot``, as loaded (it may be overtaken meanwhile).

        Raises:
            SnapshotTooOldError: there is none, but there may have been one.
        """
        mask = self.mask << 7
        home = offset = xxh3_64_intdigest(key) & mask
        while True:
            found, t0, t1, t2, t3 = _head(self.map, self.entries + offset)
            if found == key:
                break
            if not t0:
                return None
            offset = (offset + layout.ENTRY_BYTES) & mask
            if offset == home:
                raise self.overfull()
        if not t1:
            time, ring = (t0, 0) if t0 <= snapshot else (0, 0)
        else:
            times = (t0, t1, t2, t3)
            time = max(times)
            if time > snapshot:
                time = max((t for t in times if t <= snapshot), default=0)
                if not time and t3:
                    raise SnapshotTooOldError(key, snapshot)
            ring = times.index(time) if time else 0
        if not time:
            return None
        syncpoints.reach("read.after_times")
        words = self.words
        word = self.first_word + (offset >> 3)
        place = word + E_PLACE + ring + ring
        revision = Revision(time, word + E_TIME + ring, place, words[place], words[place + 1])
        syncpoints.reach("read.after_location")
        return revision

    def revisions(self, key: bytes, snapshot: int) -> list[Revision]:
        """All revisions of ``key`` with T <= ``snapshot`` that are still kept, newest first."""
        return self.history(key, snapshot)[0]

    def history(self, key: bytes, snapshot: int) -> tuple[list[Revision], int | None]:
        """``revisions``, and the T up to which there may have been older ones: 0 if they are all that ``key`` ever had,
        ``None`` where a place of its ring was used again.
        """
        words = self.words
        forgotten = words[layout.H_FORGOTTEN]
        word = self.probe(key)
        if word < 0:
            return [], forgotten
        loaded = [
            Revision(words[word + E_TIME + i], word + E_TIME + i, word + E_PLACE + 2 * i, 0, 0)
            for i in range(layout.REVISIONS)
        ]
        kept = sorted((r for r in loaded if 0 < r.time <= snapshot), reverse=True)
        syncpoints.reach("read.after_times")
        found = [r._replace(location=words[r.place_word], length=words[r.place_word + 1]) for r in kept]
        syncpoints.reach("read.after_location")
        if all(revision.time for revision in loaded):
            return found, None
        return found, min([forgotten, *(r.time - 1 for r in loaded if r.time)])

    def overfull(self) -> CorruptedStoreError:
        """The error of a probe that has come around: there is always an empty entry where it must end."""
        return CorruptedStoreError(
            "the index has no empty entry, and it is never filled: it is damaged. The smallfiles, which hold the data,"
            " were not touched; without the file the index is made anew from them",
            path=str(self.path),
            offset_bytes=self.entries,
        )

    def unchanged(self, revision: Revision) -> bool:
        """Whether the revision is still the one that was loaded: then what it pointed to was the value."""
        words = self.words
        return words[revision.time_word] == revision.time and words[revision.place_word] == revision.location

    def points_into(self, file_id: int) -> bool:
        """Whether any revision is in that smallfile. Looks at the whole table."""
        for first in range(0, self.slots, _CHUNK):
            places = self.halves[2 * first + 1 : 2 * (first + _CHUNK) : 2, 0::2]
            if ((places >> np.uint64(layout.LOCATION_SHIFT) == np.uint64(file_id)) & (places != 0)).any():
                return True
        return False

    def newest(self, word: int) -> tuple[int, int]:
        """``(T, length)`` of the newest revision of the entry at ``word``. Exact under COMMIT only."""
        _, t0, t1, t2, t3 = _head(self.map, word << 3)
        if not t1 and t0 != BUSY:
            return t0, self.words[word + E_PLACE + 1]
        times = (t0, t1, t2, t3)
        time = max(times)
        if time == BUSY:
            time = max(t for t in (*times, 0) if t != BUSY)
        ring = times.index(time) if time else 0
        return time, self.words[word + E_PLACE + 1 + ring + ring]

    # -- many keys ----------------------------------------------------------------------------------------

    def locate(self, keys: Sequence[bytes]) -> Located:
        """``(slots, heads)``: for each key the slot of its entry, or ``~slot`` of the empty one where its
        probe ended, and the first half of that entry, an array of shape (keys, 8).
        """
        count = len(keys)
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(count, 2)
        homes = np.fromiter(map(xxh3_64_intdigest, keys), dtype=np.uint64, count=count)
        slots = self.homes(homes)
        heads = self.halves.take(slots << 1, axis=0)
        match = (heads[:, 0] == wanted[:, 0]) & (heads[:, 1] == wanted[:, 1])
        empty = heads[:, E_TIME] == 0
        pending = np.flatnonzero(~(match | empty))
        rounds = 0
        while pending.size > _PENDING_MIN and rounds < self.slots:  # ``probe`` says what is wrong then
            rounds += 1
            slots[pending] = (slots[pending] + 1) & self.mask
            rows = self.halves.take(slots[pending] << 1, axis=0)
            heads[pending] = rows
            matched = (rows[:, 0] == wanted[pending, 0]) & (rows[:, 1] == wanted[pending, 1])
            vacant = rows[:, E_TIME] == 0
            empty[pending] = vacant
            pending = pending[~(matched | vacant)]
        for i in pending.tolist():
            word = self.probe(keys[i])
            empty[i] = word < 0
            slots[i] = ((~word if word < 0 else word) - self.first_word) >> 4
            heads[i] = self.halves[slots[i] << 1]
        return np.where(empty, ~slots, slots), heads

    def homes(self, hashes: Words) -> Slots:
        """The slots where the probes for keys with these xxh3-64 hashes begin."""
        return ((hashes >> np.uint64(7)) & np.uint64(self.mask)).view(np.int64)

    def newest_many(self, slots: Slots, heads: Words) -> tuple[Slots, npt.NDArray[np.bool_]]:
        """For what ``locate`` returned: T of the newest revision of each (0 if absent), and whether it is a
        value. Exact under COMMIT only.
        """
        times = heads[:, E_TIME : E_TIME + layout.REVISIONS].view(np.int64)  # BUSY is -1
        ring = times.argmax(axis=1)
        rows = np.arange(len(slots))
        newest = np.where(slots < 0, 0, times[rows, ring])
        places = self.halves.take((np.where(slots < 0, 0, slots) << 1) + 1, axis=0)
        lengths = places[rows, 2 * ring + 1]
        return newest, (newest > 0) & (lengths != np.uint64(TOMBSTONE))

    def last_but_one(self, located: Located | list[int]) -> int:
        """The greatest T that must be durable before the located entries get another revision: in each full ring the
        last but one, so that one revision that readers may see is left. 0 if none is full. Exact under COMMIT.
        """
        if isinstance(located, list):
            needed = 0
            for word in located:
                _, *ring = _head(self.map, word << 3) if word >= 0 else (b"", 0)
                if ring[-1]:
                    needed = max(needed, sorted(ring)[1])
            return needed
        slots, heads = located
        times = heads[slots >= 0, E_TIME : E_TIME + layout.REVISIONS]
        full = times[times[:, 3] != 0]
        return int(np.partition(full, 1, axis=1)[:, 1].max()) if len(full) else 0

    # -- publishing, under COMMIT -------------------------------------------------------------------------

    def publish(
        self,
        held: Held,
        time: int,
        keys: Sequence[bytes],
        locations: Integers,
        lengths: Integers,
        located: Located | list[int] | None = None,
    ) -> None:
        """Store one revision at T = ``time`` for each key; keys that already hold it are left alone, so this
        may be done again after a death at any store, by anyone. Afterwards every revision is whole.
        ``located`` is what ``locate`` (``probe`` for each of a few) returned for these keys since COMMIT was taken.
        """
        assert held.range is COMMIT
        if len(keys) < VECTOR_MIN:
            for i, key in enumerate(keys):
                known = located[i] if isinstance(located, list) else -1
                self._publish_one(time, key, locations[i], lengths[i], known)
        else:
            slots, heads = located if isinstance(located, tuple) else self.locate(keys)
            self._publish_many(time, keys, locations, lengths, slots, heads)

    def _publish_one(self, time: int, key: bytes, location: int, length: int, known: int) -> None:
        reach, words = syncpoints.hook, self.words
        # An empty entry that a probe found before may have been taken by another key of this transaction.
        word = known if known >= 0 else self.probe(key)
        if word < 0:
            word = ~word
            if reach:
                reach("publish.before_key", (self.store_words, (word, word + 1), _key_words(key)))
            words[word], words[word + 1] = _key_words(key)
            if reach:
                reach("publish.after_key")
            ring = 0
        else:
            times = _head(self.map, word << 3)[1:]
            if time in times:
                return
            ring = times.index(BUSY if BUSY in times else min(times))
        place = word + E_PLACE + ring + ring
        word += E_TIME + ring
        if reach:
            reach("publish.before_busy")
        words[word] = BUSY
        if reach:
            reach("publish.after_busy")
        words[place] = location
        if reach:
            reach("publish.after_location")
        words[place + 1] = length
        if reach:
            reach("publish.after_length")
        words[word] = time
        if reach:
            reach("publish.after_time")

    def _publish_many(
        self,
        time: int,
        keys: Sequence[bytes],
        locations: Integers,
        lengths: Integers,
        slots: Slots,
        heads: Words,
    ) -> None:
        reach, flat = syncpoints.reach, self.flat
        absent = np.flatnonzero(slots < 0)
        entries, heads = self._claim(keys, slots, heads, absent)
        times = heads[:, E_TIME : E_TIME + layout.REVISIONS].view(np.int64)  # BUSY is -1: the smallest
        todo = np.flatnonzero(~(times == time).any(axis=1))
        if not todo.size:
            return
        ring = times[todo].argmin(axis=1)
        words = self.first_word + entries[todo] * ENTRY_WORDS
        time_words = words + E_TIME + ring
        places = words + E_PLACE + 2 * ring
        reach("publish.before_busy", (self.store_prefix, time_words, BUSY))
        flat[time_words] = np.uint64(BUSY)
        reach("publish.after_busy")
        flat[places] = np.asarray(locations, dtype=np.uint64)[todo]
        reach("publish.after_location")
        flat[places + 1] = np.asarray(lengths, dtype=np.uint64)[todo]
        reach("publish.after_length")
        flat[time_words] = np.uint64(time)
        reach("publish.after_time")

    def _claim(self, keys: Sequence[bytes], slots: Slots, heads: Words, absent: Slots) -> Located:
        """Give each absent key an empty entry: its key words, then BUSY in its first T, which is what makes
        the entry used. Entries are claimed in the order of the probes, so a death in between never leaves a
        key behind an empty entry on its own probe path.
        """
        if not absent.size:
            return slots, heads
        reach, flat = syncpoints.reach, self.flat
        wanted = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(len(keys), 2)
        entries, heads = np.where(slots < 0, ~slots, slots), heads.copy()
        pending = absent
        while pending.size:
            _, winners = np.unique(entries[pending], return_index=True)
            first = pending[winners]
            free = flat[self.first_word + entries[first] * ENTRY_WORDS + E_TIME] == 0
            first = first[free]
            words = self.first_word + entries[first] * ENTRY_WORDS
            reach("publish.before_key", (self.store_prefix, words, wanted[first, 0]))
            flat[words] = wanted[first, 0]
            flat[words + 1] = wanted[first, 1]
            reach("publish.after_key")
            flat[words + E_TIME] = np.uint64(BUSY)
            heads[first, E_TIME] = np.uint64(BUSY)
            heads[first, E_TIME + 1 : E_TIME + layout.REVISIONS] = 0
            pending = np.setdiff1d(pending, first, assume_unique=True)
            entries[pending] = (entries[pending] + 1) & self.mask
        return entries, heads

    def store_prefix(self, positions: Slots, data: Words | int, count: int) -> None:
        """Only the first ``count`` words of a scattered store: what a death in the middle of it leaves."""
        self.flat[positions[:count]] = data if isinstance(data, int) else data[:count]

    def store_words(self, positions: Sequence[int], data: Sequence[int], count: int) -> None:
        """Only the first ``count`` of a few words that are stored one by one."""
        for position, word in zip(positions[:count], data, strict=False):
            self.words[position] = word

    def close(self) -> None:
        """Drop the map (it goes when the last reader has looked away) and close the descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)


def build(
    path: Path,
    *,
    capacity: int,
    flags: int,
    store_uuid: bytes,
    boot_id: bytes,
    writers_max: int,
    generation: int = 0,
    synced: bool = False,
) -> None:
    """Write an empty index to ``path``, with real blocks for all of it, and if it is to be ``synced`` put it on the
    medium. Raises StorageFullError, DurabilityError.
    """
    slots = layout.slots_for(capacity)
    entries = layout.entries_offset(writers_max)
    fd = files.open_file(path, write=True, create=True)
    try:
        files.allocate(fd, 0, entries + slots * layout.ENTRY_BYTES, path)
        header = np.zeros(layout.HEADER_WORDS, dtype=np.uint64)
        header[layout.H_MAGIC] = layout.INDEX_MAGIC
        header[layout.H_VERSION] = layout.FORMAT_VERSION
        header[layout.H_FLAGS] = flags
        header[layout.H_SLOTS] = slots
        header[layout.H_CAPACITY] = capacity
        header[layout.H_GENERATION] = generation
        header[layout.H_WRITERS_MAX] = writers_max
        header[layout.H_ENTRIES] = entries
        header[layout.H_UUID : layout.H_UUID + 2] = np.frombuffer(store_uuid, dtype=np.uint64)
        digest = xxh3_128_digest(header[: layout.STATIC_WORDS].tobytes())
        header[layout.H_STATIC_HASH : layout.H_STATIC_HASH + 2] = np.frombuffer(digest, dtype=np.uint64)
        header[layout.H_BOOT : layout.H_BOOT + 2] = np.frombuffer(boot_id, dtype=np.uint64)
        header[layout.H_CLEAN : layout.H_CLEAN + 2] = np.frombuffer(layout.UNCLEAN, dtype=np.uint64)
        table = np.zeros(writers_max * layout.WRITER_WORDS, dtype=np.uint64)
        files.write_at(fd, 0, [header.tobytes(), table.tobytes()], path)
        if synced:
            files.sync_data(fd, path)
    finally:
        files.close(fd)
