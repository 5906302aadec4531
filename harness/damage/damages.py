"""Damage as data: what is done to which file. Everything systematic by number, and anything at random by a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

import msgspec

from harness.damage.subjects import Subject

RUNS: Final = (1, 8, 64, 512, 4096)
BLOCKS: Final = (64, 512, 4096)
LINE: Final = 64
"""Of a file those lines are used that are not all zeros."""


class Edit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is done to a file: ``write`` at ``offset`` (also behind its end), ``truncate`` to ``offset``
    bytes, ``remove``, ``rename`` to ``other`` or ``copy`` to ``other``, over any file of that name.
    """

    act: str
    name: str
    offset: int = 0
    data: bytes = b""
    other: str = ""


class Damage(msgspec.Struct, frozen=True):
    """What happened to a store, and what kind of thing that is."""

    kind: str
    edits: tuple[Edit, ...]

    @property
    def in_place(self) -> bool:
        """Whether it only stores other bytes: what can happen under a map without taking pages away."""
        return all(edit.act == "write" for edit in self.edits)

    def words(self) -> str:
        """What was done, in words."""
        return "; ".join(map(_words, self.edits))


def _words(edit: Edit) -> str:
    if edit.act == "write":
        end = edit.offset + len(edit.data)
        return f"bytes {edit.offset} to {end} of {edit.name} are overwritten"
    if edit.act == "truncate":
        return f"{edit.name} is cut to {edit.offset} bytes"
    return f"{edit.name}: {edit.act}" + (f" to {edit.other}" if edit.other else "")


class _Family(NamedTuple):
    """Damages of one kind, by number."""

    size: int
    make: Callable[[int], Damage]


class Catalogue:
    """The damages of one subject: ``systematic(i)`` for each ``i`` below ``count``, ``random(...)`` without end."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._names = [name for name, image in subject.images.items() if image.data]
        self._used = [
            (name, offset)
            for name in self._names
            for line in range(0, len(subject.images[name].data), LINE)
            if any(subject.images[name].data[line : line + LINE])
            for offset in range(line, line + LINE)
        ]
        self._lines = sorted({(name, offset - offset % LINE) for name, offset in self._used})
        self._families = self._systematic()
        self.count = sum(family.size for family in self._families)

    def systematic(self, number: int) -> Damage:
        """The damage of that number."""
        for family in self._families:
            if number < family.size:
                return family.make(number)
            number -= family.size
        raise IndexError(number)

    def random(self, random: Random) -> Damage:
        """Some damage; one in eight is two at once."""
        if random.randrange(8):
            return self._one(random)
        first, second = self._one(random), self._one(random)
        return Damage("two", first.edits + second.edits)

    # -- all of a kind ----------------------------------------------------------------------------------------

    def _systematic(self) -> list[_Family]:
        used, lines = self._used, self._lines
        cuts = [(name, 0) for name in self._names] + used
        pairs = [(a, b) for a in self._subject.images for b in self._subject.images if a != b]
        removed = list(self._subject.images)
        replays = [
            (name, start, size)
            for name in self._names
            if name in self._subject.older
            for size in BLOCKS
            for start in range(0, self._end(name), size)
            if self._old(name, start, size) != self._now(name, start, size)
        ]
        return [
            _Family(8 * len(used), lambda i: self._flip("flip-bit", used[i // 8], 1 << i % 8)),
            _Family(len(used), lambda i: self._flip("flip-byte", used[i], 0xFF)),
            _Family(2 * len(used), lambda i: self._fill(used[i // 2], 1, i % 2)),
            *(
                _Family(2 * len(lines), lambda i, size=size: self._fill(lines[i // 2], size, i % 2))  # type: ignore[misc]
                for size in RUNS[1:]
            ),
            _Family(len(cuts), lambda i: Damage("truncate", (Edit("truncate", cuts[i][0], cuts[i][1]),))),
            _Family(len(replays), lambda i: self._replay(*replays[i])),
            _Family(len(removed), lambda i: Damage("remove", (Edit("remove", removed[i]),))),
            _Family(len(pairs), lambda i: self._named("rename", *pairs[i])),
            _Family(len(pairs), lambda i: self._named("copy", *pairs[i])),
        ]

    def _end(self, name: str) -> int:
        return len(self._subject.images[name].data)

    def _now(self, name: str, start: int, size: int) -> bytes:
        image = self._subject.images[name]
        return image.data[start : start + size].ljust(min(size, max(0, image.length - start)), b"\0")

    def _old(self, name: str, start: int, size: int) -> bytes:
        image = self._subject.older[name]
        return image.data[start : start + size].ljust(min(size, max(0, image.length - start)), b"\0")

    def _flip(self, kind: str, place: tuple[str, int], mask: int) -> Damage:
        name, offset = place
        byte = self._now(name, offset, 1)
        return Damage(kind, (Edit("write", name, offset, bytes([(byte[0] if byte else 0) ^ mask])),))

    def _fill(self, place: tuple[str, int], size: int, ones: int) -> Damage:
        name, offset = place
        size = max(1, min(size, self._subject.images[name].length - offset))
        data = (b"\xff" if ones else b"\0") * size
        return Damage("ones" if ones else "zeros", (Edit("write", name, offset, data),))

    def _replay(self, name: str, start: int, size: int) -> Damage:
        return Damage("replay", (Edit("write", name, start, self._old(name, start, size)),))

    @staticmethod
    def _named(act: str, name: str, other: str) -> Damage:
        return Damage(act, (Edit(act, name, other=other),))

    # -- any of a kind ----------------------------------------------------------------------------------------

    def _one(self, random: Random) -> Damage:
        make = random.choices((self._noise, self._bits, self._swap, self._longer, self._any), (6, 3, 4, 1, 3))
        return make[0](random)

    def _any(self, random: Random) -> Damage:
        return self.systematic(random.randrange(self.count))

    def _place(self, random: Random, size: int) -> tuple[str, int]:
        """Mostly what is used, or not far from it."""
        name, offset = random.choice(self._used)
        if random.randrange(2):
            offset -= offset % min(size, LINE)
        return name, max(0, offset - random.choice((0, 0, 0, random.randrange(size))))

    def _noise(self, random: Random) -> Damage:
        size = random.choice(RUNS)
        name, offset = self._place(random, size)
        size = max(1, min(size, self._subject.images[name].length - offset))
        return Damage("random", (Edit("write", name, offset, random.randbytes(size)),))

    def _bits(self, random: Random) -> Damage:
        edits: list[Edit] = []
        for name, offset in random.sample(self._used, random.randint(2, 4)):
            edits += self._flip("bits", (name, offset), 1 << random.randrange(8)).edits
        return Damage("bits", tuple(edits))

    def _swap(self, random: Random) -> Damage:
        size = random.choice(BLOCKS)
        a, b = random.choice(self._lines), random.choice(self._lines)
        if random.randrange(2):
            b = a[0], random.choice([offset for name, offset in self._lines if name == a[0]])
        (one, first), (other, second) = ((name, offset - offset % size) for name, offset in (a, b))
        return Damage(
            "swap",
            (
                Edit("write", one, first, self._now(other, second, size)),
                Edit("write", other, second, self._now(one, first, size)),
            ),
        )

    def _longer(self, random: Random) -> Damage:
        name = random.choice(self._names)
        data = random.randbytes(random.choice((1, 7, *RUNS)))
        return Damage("lengthen", (Edit("write", name, self._subject.images[name].length, data),))
