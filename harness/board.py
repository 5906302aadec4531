"""Shared memory between the supervisor and its workers: what each of them is doing, without a message.

One anonymous shared map, made before the first fork. It outlives any worker, so the supervisor can read what
a victim was doing after it has died, and a worker can be told to stop without a signal. Every word is an
aligned native 8-byte load or store through ``memoryview.cast("Q")`` and has exactly one writing process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.checkers.space import Sample

_WORD_BYTES: Final = 8
_HEADER_WORDS: Final = 8
_STOP, _VIOLATION, _DISK = 0, 1, 2

# One slot:  word  what                              written by
#            0     process that plays the slot        supervisor, before the fork
#            1     phase (PHASES)                     worker
#            2     last sync point reached, 1-based   worker
#            3     standing at that point, about to   worker
#                  take the fault that it carries
#            4     when it stopped itself, ns         worker
#            5     operations completed               worker
#            6     writes committed                   worker
#            7     last commit, ns                    worker
#            8     bytes written                      worker
#            9     it has resolved what it was given  worker
#            10    bytes that the store needs, as     worker
#                  its last housekeeping found
#            11    when it found that, ns             worker
#            12    since when it holds the lock that  worker
#                  commits wait for, ns
#            13... hits of each sync point            worker
_PROCESS, _PHASE, _POINT, _STANDING, _STOPPED_AT = range(5)
_OPERATIONS, _COMMITS, _COMMITTED_AT, _BYTES, _RESOLVED, _NEEDED, _NEEDED_AT, _LOCKED_AT, _HITS = range(5, 14)

PHASES: Final = ("none", "opening", "working", "closing", "closed")


class Board:
    """The whole map: two flags, the store's size, and ``slots`` slots, each with a hit counter per sync point."""

    def __init__(self, slots: int, points: Sequence[str]) -> None:
        self.points = tuple(points)
        self._slot_words = _HITS + len(self.points)
        self._map = mmap.mmap(-1, (_HEADER_WORDS + slots * self._slot_words) * _WORD_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self.slots = tuple(
            Slot(self._words[start : start + self._slot_words], self.points)
            for start in range(_HEADER_WORDS, _HEADER_WORDS + slots * self._slot_words, self._slot_words)
        )

    @property
    def stop(self) -> bool:
        """Whether no new operation may begin."""
        return self._words[_STOP] != 0

    def set_stop(self) -> None:
        """Let every worker finish its operation and leave."""
        self._words[_STOP] = 1

    @property
    def violation(self) -> bool:
        """Whether a worker has seen what must never be."""
        return self._words[_VIOLATION] != 0

    def set_violation(self) -> None:
        """Said by a worker after its history holds the violation. Any number of them may store the same 1."""
        self._words[_VIOLATION] = 1

    @property
    def disk_bytes(self) -> int:
        """What the store took when the supervisor last looked."""
        return self._words[_DISK]

    def set_disk_bytes(self, byte_count: int) -> None:
        """Said by the supervisor."""
        self._words[_DISK] = byte_count

    @property
    def needed_bytes(self) -> int:
        """What the store needed when somebody last found out, 0 before that."""
        return max((slot.words[_NEEDED_AT], slot.words[_NEEDED]) for slot in self.slots)[1]

    @property
    def commits(self) -> int:
        """Writes committed, all slots together."""
        return sum(slot.words[_COMMITS] for slot in self.slots)

    @property
    def byte_count(self) -> int:
        """About how many bytes all slots together began to write."""
        return sum(slot.words[_BYTES] for slot in self.slots)

    def hits(self) -> dict[str, int]:
        """How often each sync point was reached so far, all slots together."""
        return {
            point: sum(slot.words[_HITS + code] for slot in self.slots)
            for code, point in enumerate(self.points)
        }


class Slot:
    """One worker's words. Counters go on from one incarnation to the next."""

    def __init__(self, words: memoryview, points: Sequence[str]) -> None:
        self.words = words
        self._points = points

    def begin(self, process: int) -> None:
        """Clear what the previous incarnation was doing, before ``process`` is forked to play this slot."""
        self.words[_PROCESS] = process
        for word in (_PHASE, _POINT, _STANDING, _STOPPED_AT, _RESOLVED, _LOCKED_AT):
            self.words[word] = 0

    @property
    def phase(self) -> str:
        """One of ``PHASES``."""
        return PHASES[self.words[_PHASE]]

    def set_phase(self, phase: str) -> None:
        """Said by the worker itself."""
        self.words[_PHASE] = PHASES.index(phase)

    @property
    def point(self) -> str:
        """The last sync point that this incarnation reached, "" before the first."""
        code = self.words[_POINT]
        return self._points[code - 1] if code else ""

    @property
    def standing(self) -> bool:
        """Whether it stands at ``point``, taking the fault that it carries."""
        return self.words[_STANDING] != 0

    @property
    def resolved(self) -> bool:
        """Whether this incarnation has looked for the killed writes of all the dead that it was told of."""
        return self.words[_RESOLVED] != 0

    def set_resolved(self) -> None:
        """Said by the worker after its history holds what it found."""
        self.words[_RESOLVED] = 1

    @property
    def stopped_at_ns(self) -> int:
        """When it stopped itself, 0 if it did not."""
        return self.words[_STOPPED_AT]

    def stand(self, now_ns: int) -> None:
        """Said by the worker in the instant before its fault takes it at the current point."""
        self.words[_STOPPED_AT] = now_ns
        self.words[_STANDING] = 1

    def leave(self) -> None:
        """Said by the worker when it goes on."""
        self.words[_STANDING] = 0

    @property
    def locked_at_ns(self) -> int:
        """Since when it holds the lock that commits wait for, 0 if it does not."""
        return self.words[_LOCKED_AT]

    def set_locked_at(self, now_ns: int) -> None:
        """Said by the worker when it has the lock, and with 0 when it has it no more."""
        self.words[_LOCKED_AT] = now_ns

    def reach(self, code: int) -> None:
        """Said by the worker at the sync point ``board.points[code]``."""
        self.words[_POINT] = code + 1
        self.words[_HITS + code] += 1

    def hits(self, code: int) -> int:
        """How often this slot reached ``board.points[code]``."""
        return self.words[_HITS + code]

    def began(self, byte_count: int) -> None:
        """Said by the worker: it is about to write about so much."""
        self.words[_BYTES] += byte_count

    def completed(self, commit_ns: int | None) -> None:
        """Said by the worker: one more operation; ``commit_ns`` is its time if it was a committed write."""
        self.words[_OPERATIONS] += 1
        if commit_ns is not None:
            self.words[_COMMITS] += 1
            self.words[_COMMITTED_AT] = commit_ns

    def needs(self, byte_count: int, now_ns: int) -> None:
        """Said by the worker: the store needs so many bytes now."""
        self.words[_NEEDED] = byte_count
        self.words[_NEEDED_AT] = now_ns

    @property
    def operations(self) -> int:
        """Operations completed in this slot."""
        return self.words[_OPERATIONS]

    @property
    def commits(self) -> int:
        """Writes committed in this slot."""
        return self.words[_COMMITS]

    @property
    def committed_at_ns(self) -> int:
        """The time of the last commit, 0 before the first."""
        return self.words[_COMMITTED_AT]

    @property
    def byte_count(self) -> int:
        """About how many bytes this slot began to write."""
        return self.words[_BYTES]


class Gauge:
    """Measures a store's directory from outside, tells the board, and writes down what it finds."""

    def __init__(self, board: Board, store: Path, path: Path) -> None:
        self._board = board
        self._store = store
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def sample(self, needed_bytes: int | None = None) -> None:
        """Add one sample; ``needed_bytes`` if it is the last one, else what housekeepers last found."""
        board, sizes = self._board, _sizes(self._store)
        board.set_disk_bytes(sum(sizes))
        final = needed_bytes is not None
        needed = board.needed_bytes if needed_bytes is None else needed_bytes
        sample = Sample(time.monotonic_ns(), sum(sizes), needed, board.byte_count, len(sizes), final)
        os.write(self._fd, msgspec.json.encode(sample) + b"\n")

    def close(self) -> None:
        """Close the file; nothing is lost by not calling it."""
        os.close(self._fd)


def _sizes(directory: Path) -> list[int]:
    """What every file of a directory takes on the medium, in bytes."""
    sizes = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                sizes.append(entry.stat().st_blocks * 512)
    return sizes
