"""A damaged store as evidence: its smallfiles whatever their headers say, and its index as far as it can be believed.

Everything here only reads. What cannot be read (an I/O error, a file that is cut off) is as if it were zeros.
"""

from __future__ import annotations

import contextlib
import itertools
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from kvs import files, generations, layout
from kvs.errors import CorruptedStoreError, UnknownStoreError
from kvs.index import Index
from kvs.layout import BUSY, E_PLACE, E_TIME, ENTRY_WORDS, REVISIONS
from kvs.records import Words
from kvs.smallfile import Smallfiles

_WINDOW_BYTES: Final = 8 << 20
_CHUNK: Final = 1 << 16  # entries of the index looked at together
_PROBES_MAX: Final = 1 << 12  # a damaged table may have no empty entry to stop at

Note = Callable[[str, Path], None]
"""Called with what was found of a file, in words."""


class Wreckage(Smallfiles):
    """The smallfiles of a damaged store. ``sizes`` has every one that can be read, ``traits_known`` is false where
    nothing says what kind of store it was.
    """

    def __init__(self, directory: Path, witness: Witness | None, note: Note) -> None:
        super().__init__(directory, b"", 0, mapped=False)
        self._paths: dict[int, Path] = {}
        self.sizes: dict[int, int] = {}
        self.unreadable: list[tuple[Path, str]] = []
        headers = self._gather(note)
        self.store_uuid = self._choose_uuid(headers, witness)
        self.traits_known = self._choose_traits(headers, witness)
        self.integrity = bool(self.traits & layout.FLAG_INTEGRITY)
        self.content_addressed = bool(self.traits & layout.FLAG_CONTENT_ADDRESSED)
        for file_id, header in headers.items():
            if header is not None and header.store_uuid != self.store_uuid:
                note("is of another store and was left alone", self.path(file_id))
                del self.sizes[file_id]

    def path(self, file_id: int) -> Path:
        """Where the smallfile with that id is, whatever its name."""
        return self._paths.get(file_id) or super().path(file_id)

    def read(self, file_id: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes of a smallfile, with zeros for what the medium does not give."""
        try:
            return super().read(file_id, offset, length)
        except OSError:
            end = min(offset + length, self.sizes[file_id])
            inner = range((offset & -layout.PAGE) + layout.PAGE, end, layout.PAGE)
            edges = [offset, *inner, end] if offset < end else []  # a page that is bad takes no other with it
            return b"".join(
                self._page(file_id, first, last - first) for first, last in itertools.pairwise(edges)
            )

    def begin_of(self, file_id: int) -> int | None:
        """Where the live part begins, ``None`` if its bound is damaged."""
        found = self._bound(file_id, layout.B_BEGIN)
        return None if found is None else found or layout.SMALLFILE_BEGIN

    def end_of(self, file_id: int) -> int | None:
        """Where a sealed file ends, 0 if it is not sealed, ``None`` if its bound is damaged."""
        return self._bound(file_id, layout.B_END)

    @property
    def properties(self) -> dict[str, bool]:
        """The properties of the store, as ``open`` takes them."""
        return {
            "durable": bool(self.traits & layout.FLAG_DURABLE),
            "integrity": self.integrity,
            "content_addressed": self.content_addressed,
        }

    def _bound(self, file_id: int, word: int) -> int | None:
        data = self.read(file_id, word * layout.WORD, layout.WORD)
        if len(data) < layout.WORD:
            return 0
        offset = layout.unpack_bound(file_id, word, int.from_bytes(data, "little"))
        return None if offset is None or offset % layout.ALIGN else offset

    def _page(self, file_id: int, offset: int, length: int) -> bytes:
        try:
            return super().read(file_id, offset, length).ljust(length, b"\0")
        except OSError:
            return bytes(length)

    def _gather(self, note: Note) -> dict[int, layout.SmallfileHeader | None]:
        """Find the smallfiles, by what their headers say or else by their names."""
        headers: dict[int, layout.SmallfileHeader | None] = {}
        versions = set()
        for path in sorted(self.directory.glob("*.small")):
            try:
                size, data = _look(path)
            except OSError as error:
                self.unreadable.append((path, error.strerror or str(error)))
                continue
            header = layout.unpack_smallfile_header(data)
            if header is not None:
                versions.add(header.version)
            named = int(path.stem) if path.stem.isdecimal() else -1
            file_id = named if header is None else header.file_id
            if file_id < 0 or header is None:
                note("has a damaged header" + (" and was left alone" if file_id < 0 else ""), path)
            if file_id < 0 or (file_id in headers and path.name != layout.smallfile_name(file_id)):
                continue
            headers[file_id], self._paths[file_id], self.sizes[file_id] = header, path, size
        if versions and layout.FORMAT_VERSION not in versions:
            message = (
                f"written in format {max(versions)}, this version of kvs reads {layout.FORMAT_VERSION};"
                " nothing was touched"
            )
            raise UnknownStoreError(message, path=str(self.directory))
        return headers

    def _choose_uuid(
        self, headers: dict[int, layout.SmallfileHeader | None], witness: Witness | None
    ) -> bytes:
        """The store's uuid: the index's, else that of most headers, else that of most commit records."""
        votes = Counter(header.store_uuid for header in headers.values() if header is not None)
        if witness is not None and (not votes or witness.store_uuid in votes):
            return witness.store_uuid
        if not votes:
            votes = Counter(filter(None, (self._uuid_within(file_id) for file_id in headers)))
        return votes.most_common(1)[0][0] if votes else bytes(16)

    def _uuid_within(self, file_id: int) -> bytes:
        """The uuid in the first commit record that matches its own hash; empty where there is none."""
        for start in range(0, self.sizes[file_id], _WINDOW_BYTES):
            data = self.read(file_id, start, _WINDOW_BYTES + layout.ALIGN)
            rows = np.frombuffer(data, dtype=np.uint64, count=len(data) // 64 * 8).reshape(-1, 8)
            likely = rows[:, 5] >> np.uint64(layout.KIND_SHIFT) == np.uint64(layout.KIND_COMMIT)
            likely &= rows[:, 4] == np.uint64(layout.COMMIT_VALUE_BYTES)
            for row in np.flatnonzero(likely).tolist():
                record = data[row * 64 : row * 64 + layout.COMMIT_BYTES]
                found = layout.unpack_commit(record[16:32], record)
                if found is not None and found[1].file_id == file_id:
                    return record[16:32]
        return b""

    def _choose_traits(
        self, headers: dict[int, layout.SmallfileHeader | None], witness: Witness | None
    ) -> bool:
        """Set ``traits`` by the headers, else by the index; returns whether either said so."""
        votes = Counter(
            layout.pack_traits(header.flags, header.writers_max)
            for header in headers.values()
            if header is not None and header.store_uuid == self.store_uuid
        )
        if votes:
            self.traits = votes.most_common(1)[0][0]
        elif witness is not None:
            self.traits = witness.traits
        else:
            self.traits = layout.pack_traits(layout.FLAG_INTEGRITY, layout.WRITERS_MAX)
        return bool(votes) or witness is not None

    def _open(self, file_id: int) -> int:
        """A descriptor, without asking the header. (What could be opened once can be opened again.)"""
        fd = files.open_file(self.path(file_id), write=False)
        self._fds[file_id] = fd
        return fd


def _look(path: Path) -> tuple[int, bytes]:
    """The size and the header of a file. Raises OSError if it cannot be read."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")
    fd = files.open_file(path, write=False)
    try:
        with contextlib.suppress(OSError):
            return files.size(fd), files.read_at(fd, 0, layout.SMALLFILE_HEADER_BYTES)
        return files.size(fd), b""
    finally:
        files.close(fd)


class Missed(NamedTuple):
    """Newest revisions, ``n`` of them: names (n,) of 16 bytes, T, and where each record begins and ends."""

    names: npt.NDArray[np.bytes_]
    times: Words
    file_ids: Words
    begins: Words
    ends: Words


class Witness:
    """The index of a damaged store, which may be of unknown age and damaged itself: it is believed only where it
    agrees with something else.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.store_uuid = index.store_uuid
        self.traits = index.traits

    def tails(self) -> dict[int, int]:
        """The published end of every smallfile that a writer place appends to."""
        places = self._index.places
        used = places[places[:, layout.W_TAIL] != 0]
        return dict(zip(used[:, layout.W_FILE].tolist(), used[:, layout.W_TAIL].tolist(), strict=True))

    def time(self, key: bytes, location: int, length: int) -> int:
        """T of the revision of ``key`` whose record is this one; 0 if the index knows none."""
        index = self._index
        slot = xxh3_64_intdigest(key) >> 7
        wanted = np.frombuffer(key, dtype=np.uint64)
        for probe in range(min(_PROBES_MAX, index.slots)):
            word = index.first_word + ((slot + probe) & index.mask) * ENTRY_WORDS
            entry = index.flat[word : word + ENTRY_WORDS]
            if not entry[E_TIME]:
                return 0
            if entry[0] == wanted[0] and entry[1] == wanted[1]:
                for ring in range(REVISIONS):
                    time, place = int(entry[E_TIME + ring]), E_PLACE + 2 * ring
                    if (int(entry[place]), int(entry[place + 1])) == (location, length) and time != BUSY:
                        return time
                return 0
        return 0

    def newest(self) -> Iterator[Missed]:
        """The newest revision of every key that has one and is not removed, in pieces."""
        index = self._index
        table = index.flat[index.first_word : index.first_word + index.slots * ENTRY_WORDS]
        table = table.reshape(-1, ENTRY_WORDS)
        for first in range(0, index.slots, _CHUNK):
            entries = table[first : first + _CHUNK]
            entries = entries[entries[:, E_TIME] != 0]
            times = entries[:, E_TIME : E_TIME + REVISIONS]
            times = np.where(times > np.uint64(layout.SEQUENCE_MASK), np.uint64(0), times)
            rings = times.argmax(axis=1)
            rows = np.arange(len(entries))
            locations, lengths = (entries[rows, E_PLACE + i + 2 * rings] for i in (0, 1))
            kept = (
                (times[rows, rings] > 0) & (locations != 0) & (lengths <= np.uint64(layout.VALUE_BYTES_MAX))
            )
            begins = locations[kept] & np.uint64(layout.LOCATION_MASK)
            yield Missed(
                np.ascontiguousarray(entries[kept, :2]).view("S16").reshape(-1),
                times[rows, rings][kept],
                locations[kept] >> np.uint64(layout.LOCATION_SHIFT),
                begins,
                begins + lengths[kept] + np.uint64(layout.RECORD_HEADER_BYTES),
            )

    @property
    def empty(self) -> bool:
        """Whether no transaction was ever committed."""
        return not self._index.words[layout.H_COMMITTED] and not self._index.words[layout.H_ENTRIES_USED]

    def close(self) -> None:
        """Close the index."""
        self._index.close()


def witness(directory: Path, note: Note) -> Witness | None:
    """The newest index of the store whose header is whole, ``None`` if there is none."""
    found = None
    numbers = sorted(generations.numbers(directory), reverse=True)
    if not numbers:
        note("is missing", directory / layout.index_name(0))
    for number in numbers:
        path = generations.path_of(directory, number)
        try:
            _read_through(path)
            found = Index(path, write=False)
        except (CorruptedStoreError, UnknownStoreError, OSError, ValueError):
            note("is damaged", path)
            continue
        if not found.retired:
            break
        found.close()
        found = None
    return None if found is None else Witness(found)


def _read_through(path: Path) -> None:
    """Raise OSError if the medium does not give all of a file: in a map that would be a signal."""
    fd = files.open_file(path, write=False)
    try:
        for offset in range(0, files.size(fd), _WINDOW_BYTES):
            files.read_at(fd, offset, _WINDOW_BYTES)
    finally:
        files.close(fd)
