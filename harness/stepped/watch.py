"""Watching what every step of a simulated process reads and writes: the footprints that say which steps commute.

``kvs.syncpoints.FOOTPRINTS`` declares what kinds of shared things the code behind a sync point may touch. That is too
coarse to tell two keys, or two revisions of one key, apart, and the more steps commute the fewer schedules there are to
explore. So each step is also watched: which words of the index, which blocks of the smallfiles, which locks. What is
watched must lie within what is declared; what does not is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.history import Invoke
from harness.schedule.footprints import NOTHING, Footprint
from harness.stepped.base import Stage
from harness.stepped.medium import Medium
from harness.stepped.program import BEGIN, CLOSE, OPEN
from kvs import files, generations, index, layout, locks, opening, syncpoints
from kvs.smallfile import Appender, Smallfiles
from kvs.syncpoints import Touches

ACQUIRES: Final = {**syncpoints.ACQUIRES, CLOSE: locks.COMMIT.name}
"""The points whose next step waits for a lock, and which. (A reader closes without one.)"""

_FETCHED: Final = syncpoints.FOOTPRINTS["read.after_copy"].reads
DECLARED: Final[dict[str, Touches]] = {
    **syncpoints.FOOTPRINTS,
    BEGIN: Touches(_FETCHED, frozenset({"compact", "directory", "records"})),
    OPEN: Touches(
        frozenset(
            {"clean", "places", "tails", "next", "horizon", "visible", "intent", "counters", "directory"}
        ),
        frozenset({"writers", "places"}),
    ),
    CLOSE: Touches(
        frozenset({"counters", "visible", "clean", "next", "lagging", "syncs", "directory"}),
        frozenset(
            {"commit", "owner", "writers", "records", "tails", "places", "intent", "horizon", "compact"}
        ),
    ),
}
"""``syncpoints.FOOTPRINTS`` and the harness's own points."""

_FILES: Final = 1 << 44
_FILE_SHIFT: Final = 32
_WHOLE_FILE: Final = (1 << _FILE_SHIFT) - 1
_BLOCK_BYTES: Final = 64
_LOOKED_AT_BYTES: Final = 1 << 17
"""Nothing stands behind this byte of a smallfile of a scenario."""
_READ_WHOLE_BYTES: Final = 1 << 16
_LOCKS: Final = {locks.COMMIT.name: -1, locks.COMPACT.name: -2, locks.DURABLE.name: -4}  # -3: deaths
_PINS: Final = -6
_DIRECTORY: Final = -7
_MEDIUM: Final = -8
_KINDS: Final = {
    **{number: name.lower() for name, number in _LOCKS.items()},
    _PINS: "pins",
    _DIRECTORY: "directory",
    _MEDIUM: "medium",
}
_WRITERS: Final = -1024
_SYNCS: Final = -(1 << 20)


def lock_object(name: str) -> int:
    """The number of a lock as an object of footprints."""
    if name in _LOCKS:
        return _LOCKS[name]
    kind, _, slot = name[:-1].partition("[")
    return (_WRITERS if kind == "WRITER" else _SYNCS) - int(slot)


def _blocks(file_id: int, start: int, end: int) -> range:
    base = _FILES | file_id << _FILE_SHIFT
    return range(base + start // _BLOCK_BYTES, base + (end + _BLOCK_BYTES - 1) // _BLOCK_BYTES)


def _whole(file_id: int) -> int:
    return _FILES | file_id << _FILE_SHIFT | _WHOLE_FILE


_HEADER_KINDS: Final = {
    layout.H_COMMITTED: "visible",
    layout.H_DURABLE: "visible",
    layout.H_INTENT: "intent",
    layout.H_INTENT_WRITER: "intent",
    layout.H_INTENT_FILE: "intent",
    layout.H_INTENT_OFFSET: "intent",
    layout.H_KEYS_LIVE: "counters",
    layout.H_ENTRIES_USED: "counters",
    layout.H_OWNER_PID: "owner",
    layout.H_BOOT: "clean",
    layout.H_BOOT + 1: "clean",
    layout.H_CLEAN: "clean",
    layout.H_CLEAN + 1: "clean",
    layout.H_NEXT: "next",
    layout.H_COMPACT_PID: "compact",
    **dict.fromkeys(range(layout.H_FLOOR, layout.H_OUTPUT_FILE + 1), "horizon"),
    layout.H_PLACES: "places",
}
_PLACE_KINDS: Final = {
    layout.W_TAIL: "tails",
    **dict.fromkeys((layout.W_LAGGING, layout.W_LAGGING_FILE, layout.W_LAGGING_OFFSET), "lagging"),
}


def kind_of(thing: int, first_word: int) -> str:
    """The name in ``syncpoints.SHARED`` of an object, "" for what never changes. ``first_word``: of the entries."""
    if thing >= _FILES:
        return "records"
    if thing < 0:
        return _KINDS.get(thing) or ("writers" if thing > _SYNCS else "syncs")
    if thing < layout.HEADER_WORDS:
        return _HEADER_KINDS.get(thing, "")
    if thing < first_word:
        return _PLACE_KINDS.get((thing - layout.HEADER_WORDS) % layout.WRITER_WORDS, "places")
    word = (thing - first_word) % layout.ENTRY_WORDS
    return "keys" if word < layout.E_TIME else "times" if word < layout.E_PLACE else "locations"


class _Words:
    """The index's words, one by one, with a record of which were touched."""

    __slots__ = ("_reads", "_words", "_writes")

    def __init__(self, words: memoryview, reads: set[int], writes: set[int]) -> None:
        self._words = words
        self._reads = reads
        self._writes = writes

    def __getitem__(self, word: int) -> int:
        self._reads.add(word)
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._writes.add(word)
        self._words[word] = value

    def __len__(self) -> int:
        return len(self._words)


class _Array:
    """An array of the index's words, and a record of which were touched. ``numbers``: their places."""

    __slots__ = ("_array", "_numbers", "_reads", "_writes")

    def __init__(self, array: Any, numbers: npt.NDArray[np.int64], reads: set[int], writes: set[int]) -> None:
        self._array = array
        self._numbers = numbers
        self._reads = reads
        self._writes = writes

    def __getitem__(self, where: Any) -> Any:
        self._reads.update(self._numbers[where].ravel().tolist())
        return self._array[where]

    def __setitem__(self, where: Any, value: Any) -> None:
        self._writes.update(self._numbers[where].ravel().tolist())
        self._array[where] = value

    def tolist(self) -> Any:
        """See numpy."""
        return self[:].tolist()

    def take(self, rows: Any, axis: int) -> Any:
        """See numpy."""
        self._reads.update(self._numbers.take(rows, axis=axis).ravel().tolist())
        return self._array.take(rows, axis=axis)


class Watch:
    """A ``Witness`` of one stage of simulated processes. While it is entered, some of the store's functions are
    replaced by ones that record what they touch; handles that are opened between ``start`` and ``stop`` record every
    word.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.locks: Sequence[str] = tuple(_LOCKS)
        if stage.scenario.durable:
            places = sum(program.role == "writer" for program in stage.scenario.programs)
            self.locks = (*self.locks, *(locks.sync_range(slot).name for slot in range(places)))
        self._reads: set[int] = set()
        self._writes: set[int] = set()
        self._active = False
        self._waiting: dict[int, str] = {}
        """The lock that each process waited for when its last step ended: its next one depends on who lets it go."""
        self._originals: list[tuple[Any, str, Any]] = []
        self.undeclared: set[str] = set()
        """What steps touched that ``DECLARED`` does not say."""
        self._seen: set[tuple[str, Footprint]] = set()
        words = memoryview(stage.place.index[: layout.PAGE]).cast("Q")
        self._first_word = first = words[layout.H_ENTRIES] // layout.WORD
        count = first + words[layout.H_SLOTS] * layout.ENTRY_WORDS
        smallfiles = range(len(stage.scenario.programs))
        self._anything = frozenset(
            (layout.H_COMMITTED, layout.H_DURABLE, *range(first, count), *map(_whole, smallfiles))
        )

    # -- the witness ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """See ``Witness``."""
        self._reads.clear()
        self._writes.clear()
        self._waiting.clear()
        self._active = True

    def stop(self) -> None:
        """See ``Witness``."""
        self._active = False

    def take(self, mover: Any, point: str) -> Footprint:
        """See ``Witness``. What ``point`` does not declare goes to ``undeclared``."""
        if mover is not None and (waited := self._waiting.pop(mover.number, "")):
            self._reads.add(lock_object(waited))
        reads, writes = frozenset(self._reads - self._writes), frozenset(self._writes)
        self._reads.clear()
        self._writes.clear()
        seen = Footprint(reads, writes)
        if mover is None:
            return seen
        if mover.waits:
            self._waiting[mover.number] = mover.waits
        if (point, seen) not in self._seen:
            self._check(point, seen)
            self._seen.add((point, seen))
        reads |= self._coarse(mover)
        return Footprint(reads, writes)

    def wants(self, standing: Any) -> str:
        """See ``Witness``."""
        if standing.waits:
            return standing.waits  # type: ignore[no-any-return]
        return ACQUIRES.get(standing.point, "") if standing.program.role == "writer" else ""

    def is_free(self, lock: str) -> bool:
        """See ``Witness``."""
        return self._stage.place.is_free(lock)

    def held_by(self, standing: Any) -> frozenset[int]:
        """See ``Witness``."""
        return frozenset(map(lock_object, self._stage.holding(standing)))

    def _check(self, point: str, seen: Footprint) -> None:
        reads, writes = DECLARED[point]
        for what, things, declared in (
            ("reads", seen.reads, reads | writes),
            ("writes", seen.writes, writes),
        ):
            for thing in things:
                kind = kind_of(thing, self._first_word)
                if kind and kind not in declared:
                    self.undeclared.add(f"the step from {point} {what} {kind}")

    def _coarse(self, mover: Any) -> frozenset[int]:
        """What a ``get`` may read beside what was seen: its flat path looks at the map itself."""
        invoked = sum(isinstance(event, Invoke) for event in mover.events)
        gets = invoked and mover.program.transactions[invoked - 1].kind == "get"
        return self._anything if gets else NOTHING

    # -- the recording -------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        replaced: list[tuple[Any, str, Callable[[Any], Any]]] = [
            (index.Index, "__init__", self._index_made),
            (index, "_head", self._head),
            (opening, "stored_boot", self._boot_read),
            (opening, "clean_hash", self._header_read),
            (locks.RangeLocks, "try_acquire", self._tried),
            (locks.RangeLocks, "release", self._released),
            (locks.RangeLocks, "close", self._let_go),
            (locks.RangeLocks, "held_elsewhere", self._asked),
            (Appender, "store", self._appended),
            (files, "allocate", self._allocated),
            (Smallfiles, "read", self._file_read),
            (Smallfiles, "words", self._file_words),
            (Smallfiles, "check", self._file_words),
            (Smallfiles, "_open", self._file_opened),
            (Smallfiles, "bound", self._bound_read),
            (Smallfiles, "ids", self._reading(_DIRECTORY)),
            (generations, "numbers", self._reading(_DIRECTORY)),
            (files, "unlink", self._unlinked),
            (files, "publish", self._writing(_DIRECTORY)),
            (files, "punch", self._punched),
            (locks, "_set_pin", self._reading(_PINS)),  # two that pin commute, and one alone looks at all
            (locks, "lowest_pin", self._writing(_PINS)),
            (Medium, "synced", self._writing(_MEDIUM)),
            (Medium, "appended", self._writing(_MEDIUM)),
            (Medium, "oldest_missing", self._reading(_MEDIUM)),
            (Smallfiles, "store_word", self._bound_stored),
        ]
        for owner, name, make in replaced:
            original = getattr(owner, name)
            self._originals.append((owner, name, original))
            setattr(owner, name, make(original))
        return self

    def __exit__(self, *_: object) -> None:
        while self._originals:
            setattr(*self._originals.pop())

    def _index_made(self, original: Any) -> Any:
        def made(one: Any, *arguments: Any, **options: Any) -> None:
            original(one, *arguments, **options)
            if self._active:
                reads, writes = self._reads, self._writes
                numbers = np.arange(len(one.flat))
                end = one.first_word + one.slots * layout.ENTRY_WORDS
                places = numbers[layout.HEADER_WORDS :][: one.writers_max * layout.WRITER_WORDS]
                one.words = _Words(one.words, reads, writes)
                one.flat = _Array(one.flat, numbers, reads, writes)
                one.halves = _Array(one.halves, numbers[one.first_word : end].reshape(-1, 8), reads, writes)
                one.lagging = _Array(
                    one.lagging, places[layout.W_LAGGING :: layout.WRITER_WORDS], reads, writes
                )

        return made

    def _head(self, original: Any) -> Any:
        size = original.__self__.size // layout.WORD

        def head(table: Any, offset: int) -> Any:
            word = offset >> 3
            self._reads.update(range(word, word + size))
            return original(table, offset)

        return head

    def _boot_read(self, original: Any) -> Any:
        def read(one: Any) -> Any:
            self._reads.update((layout.H_BOOT, layout.H_BOOT + 1))
            return original(one)

        return read

    def _header_read(self, original: Any) -> Any:
        def read(one: Any) -> Any:
            self._reads.update(range(layout.H_OWNER_PID))
            return original(one)

        return read

    def _tried(self, original: Any) -> Any:
        def tried(one: Any, wanted: Any) -> Any:
            proof = original(one, wanted)
            (self._reads if proof is None else self._writes).add(lock_object(wanted.name))
            return proof

        return tried

    def _released(self, original: Any) -> Any:
        def released(one: Any, proof: Any) -> None:
            self._writes.add(lock_object(proof.range.name))
            original(one, proof)

        return released

    def _let_go(self, original: Any) -> Any:
        def let_go(one: Any) -> None:
            self._writes.update(lock_object(held.range.name) for held in one._held)
            original(one)

        return let_go

    def _asked(self, original: Any) -> Any:
        def asked(one: Any, wanted: Any) -> Any:
            self._reads.add(lock_object(wanted.name))
            return original(one, wanted)

        return asked

    def _appended(self, original: Any) -> Any:
        def appended(one: Any, offset: int, pieces: Any) -> None:
            file_id = int(one.path.stem)
            self._writes.update(_blocks(file_id, offset, offset + sum(map(len, pieces))))
            self._writes.add(_whole(file_id))
            original(one, offset, pieces)

        return appended

    def _allocated(self, original: Any) -> Any:
        def allocated(fd: int, offset: int, length: int, path: Path) -> None:
            if path.suffix == ".small":
                self._writes.add(_whole(int(path.stem)))
            original(fd, offset, length, path)

        return allocated

    def _file_read(self, original: Any) -> Any:
        def read(one: Any, file_id: int, offset: int, length: int) -> Any:
            if length < _READ_WHOLE_BYTES:
                self._reads.update(_blocks(file_id, offset, offset + length))
            else:
                self._reads.add(_whole(file_id))
            return original(one, file_id, offset, length)

        return read

    def _file_words(self, original: Any) -> Any:
        def words(one: Any, file_id: int, end: int) -> Any:
            self._reads.add(_whole(file_id))
            return original(one, file_id, end)

        return words

    def _file_opened(self, original: Any) -> Any:
        def opened(one: Any, file_id: int) -> Any:
            self._reads.update(_blocks(file_id, 0, layout.SMALLFILE_HEADER_BYTES))
            return original(one, file_id)

        return opened

    def _bound_read(self, original: Any) -> Any:
        def bound(one: Any, file_id: int, word: int) -> Any:
            self._reads.update(_blocks(file_id, word * layout.WORD, (word + 1) * layout.WORD))
            return original(one, file_id, word)

        return bound

    def _bound_stored(self, original: Any) -> Any:
        def store(one: Any, file_id: int, word: int, value: int, **options: Any) -> None:
            self._writes.update(_blocks(file_id, word * layout.WORD, (word + 1) * layout.WORD))
            original(one, file_id, word, value, **options)

        return store

    def _reading(self, thing: int) -> Callable[[Any], Any]:
        """Replace a function by one that is seen to read ``thing``."""
        return lambda original: self._noting(original, self._reads, thing)

    def _writing(self, thing: int) -> Callable[[Any], Any]:
        """Replace a function by one that is seen to write ``thing``."""
        return lambda original: self._noting(original, self._writes, thing)

    @staticmethod
    def _noting(original: Any, seen: set[int], thing: int) -> Any:
        def noting(*arguments: Any, **options: Any) -> Any:
            seen.add(thing)
            return original(*arguments, **options)

        return noting

    def _punched(self, original: Any) -> Any:
        def punch(fd: int, offset: int, length: int, path: Path) -> None:
            end = min(offset + length, max(offset, _LOOKED_AT_BYTES))
            self._writes.update(_blocks(int(path.stem), offset, end))
            self._writes.add(_whole(int(path.stem)))
            original(fd, offset, length, path)

        return punch

    def _unlinked(self, original: Any) -> Any:
        def unlink(path: Path) -> None:
            self._writes.add(_DIRECTORY)
            if path.suffix == ".small" and path.exists():
                self._writes.update(_blocks(int(path.stem), 0, _LOOKED_AT_BYTES))
                self._writes.add(_whole(int(path.stem)))
            original(path)

        return unlink
