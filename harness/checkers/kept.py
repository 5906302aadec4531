"""What the store still kept of an item when somebody looked for a killed write, and what follows from it.

A ``resolve`` comes after a recovery that sealed the fate of the write, so its list of versions is evidence in
both directions: a version that is there was committed at its T, and one that is missing although the list
reaches back before the write was invoked never was and never will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from harness.checkers.operation import Operation
from harness.history import Read


class Kept(NamedTuple):
    """The versions of ``item`` that the resolve ``by`` found, newest first, with none left out between them."""

    by: Operation
    item: str
    versions: tuple[Read, ...]

    @property
    def oldest(self) -> int | None:
        """T of the oldest version: every younger one is in the list. 0 if there never was an older one."""
        return self.versions[-1].sequence

    @property
    def numbered(self) -> bool:
        """Whether the T of every version is known."""
        return all(read.sequence is not None for read in self.versions)

    def shows(self, identity: int) -> bool:
        """Whether the version that the operation ``identity`` wrote is in the list."""
        return any(read.writer == identity for read in self.versions)

    def removals(self) -> list[int]:
        """T of the removals in the list."""
        return [read.sequence for read in self.versions if read.writer is None and read.sequence]

    def lacks(self, identity: int, since: int) -> bool:
        """Whether the list shows that nobody called ``identity`` wrote the item at a T from ``since`` on."""
        return self.oldest is not None and self.oldest <= since and not self.shows(identity)


def collect(operations: Iterable[Operation]) -> list[Kept]:
    """The lists of all resolves, in the order of ``operations``."""
    found: list[Kept] = []
    for op in operations:
        if op.f == "resolve" and op.outcome == "ok":
            by_item: dict[str, list[Read]] = {}
            for read in op.reads:
                by_item.setdefault(read.item, []).append(read)
            found += [Kept(op, item, tuple(reads)) for item, reads in by_item.items()]
    return found


class Settled(NamedTuple):
    """What the lists settle. ``absent``: the killed writes that did not commit, each with a list that shows it
    (one that only deletes counts as absent where it left no trace, because nothing was there to delete);
    ``strangers``: removals that no operation can have made, each with a list that shows it; ``unfound``: for
    each killed write that was looked for in vain a number that its T, if it has one, must be below.
    """

    absent: dict[int, Kept]
    strangers: list[tuple[Kept, int]]
    unfound: dict[int, int]


def settle(
    kept: Sequence[Kept],
    writes: Mapping[int, Operation],
    placed: dict[int, int],
    known_before: Callable[[int], int],
    known_after: Callable[[int], int],
) -> Settled:
    """Place (in ``placed``) the killed deletes that alone explain a removal, and tell what did not commit.

    A removal does not name its writer. It is put down to the only killed delete of the item that was invoked
    before the list was read, above the numbers known then, and not excluded by its own resolve; placing one may leave
    only one for another, so this goes on until nothing changes. ``known_before(t)``: the newest T known at time t;
    ``known_after(t)``: the smallest of those that began later.
    """
    if not kept:
        return Settled({}, [], {})
    search = _Search(kept, writes, placed, known_before)
    while search.place_removals() or search.find_absent():
        pass
    return Settled(search.absent, search.strangers(), search.unfound(known_after))


class _Search:
    """The removals and the killed writes that are still open."""

    def __init__(
        self,
        kept: Sequence[Kept],
        writes: Mapping[int, Operation],
        placed: dict[int, int],
        known_before: Callable[[int], int],
    ) -> None:
        self._placed = placed
        self._known_before = known_before
        self.absent: dict[int, Kept] = {}
        self._targets: dict[int, list[Kept]] = {}
        self._open: dict[tuple[str, int], Kept] = {}
        """Removals that nobody explains yet, each with the list that was complete first."""
        for found in kept:
            self._targets.setdefault(found.by.resolves, []).append(found)
            for sequence in found.removals():
                first = self._open.setdefault((found.item, sequence), found)
                if (found.by.completed or 0) < (first.by.completed or 0):
                    self._open[found.item, sequence] = found
        self._deleters: dict[str, list[Operation]] = {}
        for op in writes.values():
            if op.outcome != "fail" and op.deletes:
                if op.id in placed:
                    self._explained(op)
                else:
                    for item in op.deletes:
                        self._deleters.setdefault(item, []).append(op)
        self._undecided = [
            writes[identity]
            for identity in self._targets
            if identity in writes and identity not in placed and writes[identity].outcome == "info"
        ]

    def _explained(self, op: Operation) -> None:
        for item in op.deletes:
            self._open.pop((item, self._placed[op.id]), None)

    def place_removals(self) -> bool:
        """Place the deletes that are the only explanation of a removal; whether there was any."""
        if not self._open:
            return False
        taken = set(self._placed.values())
        before = len(self._open)
        for removal in list(self._open):
            candidates = self._candidates(removal, taken)
            if len(candidates) == 1 and candidates[0].outcome == "info":
                self._placed[candidates[0].id] = removal[1]
                taken.add(removal[1])
                self._explained(candidates[0])
        return len(self._open) < before

    def _candidates(self, removal: tuple[str, int], taken: set[int]) -> list[Operation]:
        """The deletes of unknown T that can have made ``removal``, if it is still open."""
        item, sequence = removal
        if removal not in self._open or sequence in taken:
            return []
        seen = self._open[removal].by.completed or 0
        return [
            op
            for op in self._deleters.get(item, ())
            if op.id not in self._placed
            and op.id not in self.absent
            and op.invoked < seen
            and self._known_before(op.invoked) < sequence
            and not any(
                found.item == item
                and found.numbered
                and (found.oldest or 0) <= sequence
                and sequence not in found.removals()
                for found in self._targets.get(op.id, ())
            )
        ]

    def find_absent(self) -> bool:
        """Find killed writes that certainly did not commit; whether there was any."""
        before = len(self.absent)
        for op in self._undecided:
            if op.id not in self._placed and op.id not in self.absent:
                since = self._known_before(op.invoked)
                for found in self._targets[op.id]:
                    if self._lacks(found, op, since) and (found.oldest or 0) <= since:
                        self.absent[op.id] = found
                        break
        return len(self.absent) > before

    def unfound(self, known_after: Callable[[int], int]) -> dict[int, int]:
        """See ``Settled``: an unseen version can only be older than the oldest of a list that lacks it, and than
        whatever began after its fate was sealed.
        """
        bounds: dict[int, int] = {}
        for op in self._undecided:
            if op.id not in self._placed and op.id not in self.absent:
                since, lists = self._known_before(op.invoked), self._targets[op.id]
                bounds[op.id] = min(
                    (found.oldest or 0)
                    if self._lacks(found, op, since)
                    else known_after(found.by.completed or 0)
                    for found in lists
                )
        return bounds

    def _lacks(self, found: Kept, op: Operation, since: int) -> bool:
        """Whether none of the versions in the list can be that of ``op``, whose T is above ``since``."""
        if found.oldest is None or found.shows(op.id):
            return False
        if found.item in op.writes:
            return True
        return (
            found.item in op.deletes
            and found.numbered
            and not any(
                sequence > since and (found.item, sequence) in self._open for sequence in found.removals()
            )
        )

    def strangers(self) -> list[tuple[Kept, int]]:
        """The removals that remain and that nobody can have made."""
        taken = set(self._placed.values())
        return [
            (found, removal[1])
            for removal, found in self._open.items()
            if not self._candidates(removal, taken)
        ]
