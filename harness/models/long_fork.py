"""Long fork: two reads that saw two writes in opposite orders, which parallel snapshot isolation allows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any, Final, NamedTuple

from harness.budget import Budget, OverBudgetError
from harness.errors import HistoryError
from harness.evidence import Edge, Evidence, Shown
from harness.models.base import Model, Shape, concluded, frozen, is_transaction, shown
from harness.recorded import Op
from harness.verdict import Verdict

NO_LONG_FORK: Final = "no-long-fork"
MEANING: Final = "Two reads saw two writes in opposite orders, as if the store had forked."
Keys = frozenset[Hashable]


class _Read(NamedTuple):
    """An ok read: the keys of which it saw the write."""

    written: Keys
    shown: Shown


class _History:
    """Writes by key, and reads by the set of the keys that they read."""

    def __init__(self) -> None:
        self.writes: dict[Hashable, Op] = {}
        self.groups: dict[Keys, list[_Read]] = {}
        self.reads = 0
        self._values: dict[Hashable, tuple[Any, str]] = {}

    def note(self, op: Op) -> None:
        """Take in one operation."""
        if not is_transaction(op.value):
            raise HistoryError(
                f'a transaction of long-fork is [["w", key, value]] or a list of ["r", key, value], and not '
                f"{op.value!r:.60}",
                "",
                op.line,
            )
        names = [micro[0] for micro in op.value]
        if names == ["w"]:
            _, key, value = op.value[0]
            other = self.writes.setdefault(frozen(key), op)
            if other is not op:
                raise HistoryError(
                    f"{other.name} and {op.name} both write key {key}; long-fork needs keys that are written once "
                    "(check rw-register instead)",
                    "",
                    op.line,
                )
            if op.outcome != "fail":
                self._agree(key, value, op)
        elif set(names) != {"r"}:
            raise HistoryError(
                "a transaction of long-fork writes one key once, or only reads (check rw-register instead)",
                "",
                op.line,
            )
        elif op.outcome == "ok":
            self._note_read(op)

    def _note_read(self, op: Op) -> None:
        seen: dict[Hashable, Any] = {}
        for _, key, value in op.value:
            if frozen(key) in seen and seen[frozen(key)] != value:
                raise HistoryError(f"{op.name} reads key {key} twice and sees two values", "", op.line)
            seen[frozen(key)] = value
            if value is not None:
                self._agree(key, value, op)
        self.reads += 1
        written = frozenset(key for key, value in seen.items() if value is not None)
        text = ", ".join(f"read {key} -> {value}" for _, key, value in op.value)
        self.groups.setdefault(frozenset(seen), []).append(_Read(written, shown(op, text)))

    def _agree(self, key: Any, value: Any, op: Op) -> None:
        other, by = self._values.setdefault(frozen(key), (value, op.name))
        if other != value:
            raise HistoryError(
                f"key {key} has the value {other} in {by} and {value} in {op.name}; long-fork needs keys that are "
                "written once (check rw-register instead)",
                "",
                op.line,
            )


def check(operations: Iterable[Op], property_name: str, budget: Budget) -> Verdict:
    """Whether two reads saw two writes in opposite orders.

    Definition (``no-long-fork``): there are no ok reads A and B and keys x and y that both have read, such that A saw
    the write of x and not that of y, and B that of y and not that of x. Every key is written at most once, by a
    transaction of its own, and is null before (else HistoryError). Snapshot isolation rules this out, parallel snapshot
    isolation does not (Sovran and others, "Transactional storage for geo-replicated systems", 2011). Without an ok read
    UNKNOWN. As ``jepsen.tests.long-fork``, which compares reads of exactly the same keys only; here reads of keys that
    overlap are compared, too.

    Complexity: O(r log r + keys read) for r reads of the same keys, whose sets of writes must be a chain of inclusions;
    for each pair of different sets of keys that share two or more, that again.

    Does not verify: cycles through three or more reads of different keys, real time, or that what is read was ever
    written. It is much weaker than snapshot isolation, by which name it may be asked for since that is what Jepsen's
    workload is for; list-append and rw-register check all of that.
    """
    history = _History()
    found: list[Evidence] = []
    doubt = ""
    try:
        for op in budget.watch(operations):
            history.note(op)
        forks = _forks(history.groups, budget)
        found = [_evidence(*forks[0], history.writes, len(forks))] if forks else []
    except OverBudgetError as error:
        doubt = f"{error}: not all of the {history.reads} reads seen so far were compared"
    if not history.reads and not doubt:
        doubt = "there is no read that succeeded, so that nothing can be said"
    return concluded(property_name, found, {"reads": history.reads, "writes": len(history.writes)}, doubt)


def _forks(groups: dict[Keys, list[_Read]], budget: Budget) -> list[tuple[_Read, _Read, Keys]]:
    """Pairs of reads that fork, one for each set of keys at most, and the keys that both have read."""
    forks: list[tuple[_Read, _Read, Keys]] = []
    for step, (keys, reads) in enumerate(groups.items()):
        if step % 100 == 0:
            budget.check()
        forks.extend(_unchained(reads, keys))
    for keys, others in _overlapping(groups, budget):
        forks.extend(_unchained([*groups[keys], *groups[others]], keys & others))
    return forks


def _overlapping(groups: dict[Keys, list[_Read]], budget: Budget) -> Iterable[tuple[Keys, Keys]]:
    """Pairs of sets of keys that share two or more, each pair once: at the first key that they share."""
    by_key: dict[Hashable, list[Keys]] = {}
    for keys in groups:
        for key in keys:
            by_key.setdefault(key, []).append(keys)
    order = {key: number for number, key in enumerate(by_key)}
    pairs = ((key, pair) for key, sharing in by_key.items() for pair in combinations(sharing, 2))
    for key, (keys, others) in budget.watch(pairs):
        shared = keys & others
        if len(shared) > 1 and min(shared, key=order.__getitem__) == key:
            yield keys, others


def _unchained(reads: Sequence[_Read], keys: Keys) -> Iterable[tuple[_Read, _Read, Keys]]:
    """Two reads of which neither saw, of these keys, all writes that the other saw; if there are such."""
    by_size = sorted(((read.written & keys, read) for read in reads), key=lambda each: len(each[0]))
    for (less, one), (more, other) in pairwise(by_size):
        if not less <= more:
            yield one, other, keys
            return


def _evidence(one: _Read, other: _Read, keys: Keys, writes: dict[Hashable, Op], count: int) -> Evidence:
    x, y = (min(each & keys, key=str) for each in (one.written - other.written, other.written - one.written))
    left, right = one.shown, other.shown
    sentences = [
        f"{left.name} saw the write of key {x} and not that of key {y}: key {x} was written first.",
        f"{right.name} saw the write of key {y} and not that of key {x}: key {y} was written first.",
        "Both cannot be, if all transactions see one order of the writes.",
    ]
    if count > 1:
        sentences.append(f"There are {count} such pairs of reads at least.")
    operations = [left, right]
    edges: tuple[Edge, ...] = ()
    if x in writes and y in writes:
        first, second = writes[x], writes[y]
        operations += [shown(first, f"write {x}"), shown(second, f"write {y}")]
        edges = (
            Edge(left.name, second.name, "rw", f"{left.name} read key {y} before {second.name} wrote it."),
            Edge(second.name, right.name, "wr", f"{right.name} read what {second.name} wrote to key {y}."),
            Edge(right.name, first.name, "rw", f"{right.name} read key {x} before {first.name} wrote it."),
            Edge(first.name, left.name, "wr", f"{left.name} read what {first.name} wrote to key {x}."),
        )
    operations.sort(key=lambda each: each.invoked)
    return Evidence("long-fork", MEANING, tuple(operations), tuple(sentences), edges)


def _fits(shape: Shape) -> bool:
    return shape.apart and shape.micros <= {"r", "w"}


LONG_FORK: Final = Model(
    "long-fork",
    "keys that are written once, and reads of several of them",
    (NO_LONG_FORK,),
    check,
    _fits,
    {"snapshot-isolation": NO_LONG_FORK},
)
