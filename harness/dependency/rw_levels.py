"""Isolation levels of register histories as orders with choices: what is fixed, and what an order breaks.

From read-committed upwards the writer of a version that was read precedes the reader (no G1c, or the read returns the
latest state, which it wrote). So a transaction that reads v1 and then writes v2 orders v1 before v2: the writer of v1
precedes it in every order, and versions are installed in that order. Hence every other reader of v1 precedes it, too,
where reads return the latest state: after it the key never has v1 again, as only what precedes it wrote v1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, islice, takewhile
from typing import Final, NamedTuple

import numpy as np

from harness.dependency.catalogue import Order
from harness.dependency.cycles import with_order
from harness.dependency.graph import RW, VIA, WR, Edges, Graph, edges, join
from harness.dependency.orders import Atom, Broken, Choice
from harness.dependency.rw_versions import Access, Registers
from harness.dependency.snapshot import apart, commit, due, moments, start
from harness.dependency.transactions import FAIL
from harness.evidence import NEVER

INITIAL = -1
NEAR_MAX: Final = 32
"""Of the possible writers of a version at most so many before and after the read are tried."""
Way = tuple[int, int, int, int]
"""``(source, target, key, version)``: an edge."""


class Problem(NamedTuple):
    """One level of one history, for ``orders.solve``. ``snapshots``: nodes are moments (``snapshot``), not rows. Of the
    auxiliary nodes after them the first ``hubs`` are entered by rw edges, the others are moments of real time.
    """

    successors: list[dict[int, int]]
    due: list[int]
    broken: Broken
    snapshots: bool
    hubs: int


def fixed(registers: Registers, order: Order, latest: bool) -> tuple[Graph, int]:
    """What is certain: who read from whom, if ``latest`` also what reads of the latest state imply (``known``); and the
    order of processes, or processes and real time.
    """
    committed = registers.transactions.outcome != FAIL
    values = known(registers, latest)
    graph = with_order(values, registers.transactions, committed, order)
    return graph, values.nodes - values.transactions


def known(registers: Registers, latest: bool) -> Graph:
    """The wr edges. If ``latest`` also rw edges: from who read a version to who read it and overwrote it, and from who
    read the initial version to all who wrote the key (by a hub, so that it costs their sum and not their product). A
    version whose writer is not certain has none. ``key`` and ``at`` of an edge are the key and the version read.
    """
    wr: list[Way] = []
    readers: dict[Access, list[int]] = {}
    overwriters: dict[Access, list[int]] = {}
    for row, accesses in enumerate(registers.reads):
        written = {key for key, _ in registers.writes[row]} if latest and accesses else ()
        for access in accesses:
            writer = sole_writer(registers, row, access[1])
            if writer is None:
                continue
            if writer != INITIAL:
                wr.append((writer, row, *access))
            if latest:
                to = overwriters if access[0] in written else readers
                to.setdefault(access, []).append(row)
    rw: list[Way] = []
    for access, rows in overwriters.items():
        for target in rows[:2]:
            rw.extend((source, target, *access) for source in readers.get(access, ()))
            rw.extend((source, target, *access) for source in rows[:2] if source != target)
    count = registers.transactions.count
    hubs, into, out = _initial(registers, readers, overwriters) if latest else (0, [], [])
    parts = [_edges(wr, WR), _edges(rw + into, RW), _edges(out, VIA)]
    return Graph(count, count + hubs, join(parts))


def _initial(
    registers: Registers, readers: dict[Access, list[int]], overwriters: dict[Access, list[int]]
) -> tuple[int, list[Way], list[Way]]:
    """Who read the initial version of a key certainly comes before all who wrote it: hubs, edges into, out of them."""
    writers: dict[int, list[int]] = {}
    first = [access for access in {**readers, **overwriters} if access[1] in registers.initial]
    wanted = {key for key, _ in first}
    for row, accesses in enumerate(registers.writes):
        for key, _ in accesses:
            if key in wanted:
                writers.setdefault(key, []).append(row)
    into: list[Way] = []
    out: list[Way] = []
    hubs = 0
    for access in first:
        after = writers.get(access[0], ())
        for source in overwriters.get(access, ())[:2]:
            into.extend((source, target, *access) for target in after if target != source)
        if after and access in readers:
            hub = registers.transactions.count + hubs
            hubs += 1
            into.extend((source, hub, *access) for source in readers[access])
            out.extend((hub, target, *access) for target in after)
    return hubs, into, out


def _edges(ways: list[Way], kind: int) -> Edges:
    columns = np.array(ways, dtype=np.int32).reshape(-1, 4)
    return edges(columns[:, 0], columns[:, 1], kind, columns[:, 2], columns[:, 3])


def sole_writer(registers: Registers, row: int, version: int) -> int | None:
    """Who must have written what ``row`` read: a row, ``INITIAL``, or None if there are several or none."""
    writers = registers.finals.get(version)
    if version in registers.initial:
        return INITIAL if writers is None or writers == [row] else None
    if writers is None:
        return None
    if len(writers) == 1:
        return writers[0] if writers[0] != row else None
    others = [writer for writer in writers if writer != row]
    return others[0] if len(others) == 1 else None


def read_committed(registers: Registers, order: Order) -> Problem:
    """PL-2: who read a version comes after one that finally wrote it. There is a choice where several did."""
    graph, hubs = fixed(registers, order, latest=False)
    unsure = [
        (row, version, registers.writers(row, version))
        for row, accesses in enumerate(registers.reads)
        for _, version in accesses
        if version not in registers.initial and sole_writer(registers, row, version) is None
    ]

    def broken(position: Sequence[int], _: Collection[int] | None) -> list[Choice]:
        return [
            Choice(("any", row, version), tuple(((writer, row),) for writer in writers))
            for row, version, writers in unsure
            if all(position[writer] > position[row] for writer in writers)
        ]

    return Problem(_successors(graph), _completions(registers, graph.nodes), broken, False, hubs)


def serializable(registers: Registers, order: Order) -> Problem:
    """PL-3: every read returns the latest state. Whatever else wrote the key comes after the read, or before one that
    wrote what was read and comes before the read.
    """
    graph, hubs = fixed(registers, order, latest=True)
    replay = _Replay(registers, order, snapshots=False)
    return Problem(_successors(graph), _completions(registers, graph.nodes), replay.broken, False, hubs)


def snapshot_isolation(registers: Registers, order: Order) -> Problem:
    """Every read returns the state at the start; transactions that write one key are not concurrent."""
    graph, hubs = fixed(registers, order, latest=True)
    successors = moments(graph)
    replay = _Replay(registers, order, snapshots=True)
    return Problem(successors, due(registers.transactions, len(successors)), replay.broken, True, hubs)


Use = tuple[int, int, int, bool]
"""``(node, row, version, writes)``: a read or a final write of one key, and the node at whose place it happens."""


class Between(NamedTuple):
    """``row`` read ``version``, but ``other`` wrote the key after that, when ``place`` writes had been installed."""

    row: int
    key: int
    version: int
    other: int
    place: int


class _Run(NamedTuple):
    """The writers of one version in an order, the indeterminate ones apart. ``places``: how many writes of the key had
    been installed with each; ``latest``: the last completion among it and those before, ``earliest``: the first
    invocation among it and those after.
    """

    places: list[int]
    rows: list[int]
    latest: list[int]
    earliest: list[int]
    indeterminate: list[int]


class _Replay:
    """What an order breaks: every key is replayed by itself, and again when a transaction that uses it has moved."""

    def __init__(self, registers: Registers, order: Order, snapshots: bool) -> None:
        self.registers = registers
        self.snapshots = snapshots
        self.realtime = order == "realtime"
        self.invoked: list[int] = registers.transactions.invoked.tolist()
        self.completed: list[int] = registers.transactions.completed.tolist()
        self.uses: list[list[Use]] = [[] for _ in registers.keys]
        for row, (reads, writes) in enumerate(zip(registers.reads, registers.writes, strict=True)):
            for key, version in reads:
                self.uses[key].append((start(row) if snapshots else row, row, version, False))
            for key, version in writes:
                self.uses[key].append((commit(row) if snapshots else row, row, version, True))

    def broken(self, position: Sequence[int], moved: Collection[int] | None) -> list[Choice]:
        """The choices that an order breaks (``orders.Broken``)."""
        keys: Iterable[int] = range(len(self.uses))
        if moved is not None:
            rows = {node // 2 if self.snapshots else node for node in moved}
            accesses = (
                (self.registers.reads[row], self.registers.writes[row])
                for row in rows
                if row < len(self.invoked)
            )
            keys = sorted({key for reads, writes in accesses for key, _ in (*reads, *writes)})
        found: list[Choice] = []
        for key in keys:
            found.extend(self._replayed(key, position))
        return found

    def _replayed(self, key: int, position: Sequence[int]) -> list[Choice]:
        """Let those that use one key read and write it in their order: of each read that sees something else, the first
        and the last transaction that stand between what it read and the read; and concurrent writers.
        """
        registers = self.registers
        uses = self.uses[key]
        uses.sort(key=lambda use: position[use[0]])  # a transaction's read stays before its write
        state = initial = registers.nulls.get(key, -1)
        installed: list[int] = []
        places: dict[int, list[int]] = {}
        found: list[Choice] = []
        amiss: list[Between] = []
        for _, row, version, writes in uses:
            if writes:
                if self.snapshots and installed and position[commit(installed[-1])] > position[start(row)]:
                    found.append(apart(installed[-1], row))
                installed.append(row)
                places.setdefault(version, []).append(len(installed))
                state = version
            elif state != version:
                since = places[version][-1] if version in places else 0
                if not since and version != initial:
                    found.append(self._any(row, version))
                    continue
                amiss.append(Between(row, key, version, installed[since], len(installed)))
                if since < len(installed) - 1:
                    amiss.append(Between(row, key, version, installed[-1], len(installed)))
        runs: dict[int, _Run] = {}
        for each in amiss:
            if each.version not in runs:
                runs[each.version] = self._run(each.version, installed, places.get(each.version, []))
            found.append(self._between(each, runs[each.version]))
        return found

    def _any(self, row: int, version: int) -> Choice:
        writers = self.registers.writers(row, version)
        return Choice(("any", row, version), tuple((self._wr(writer, row),) for writer in writers))

    def _between(self, amiss: Between, run: _Run) -> Choice:
        """The reader comes before the other, or the other before one of the writers, and that before the reader."""
        row, key, version, other, _ = amiss
        sole = sole_writer(self.registers, row, version)
        writers: Sequence[int] = (sole,) if sole is not None and sole != INITIAL else ()
        whole = True
        if sole is None:
            writers, whole = self._near(amiss, run)
        rw = (start(row), commit(other)) if self.snapshots else (row, other)
        alternatives: list[tuple[Atom, ...]] = [(rw,)]
        for writer in writers:
            if writer != other:
                first = (commit(other), start(writer)) if self.snapshots else (other, writer)
                alternatives.append((first,) if sole == writer else (first, self._wr(writer, row)))
        return Choice(("between", row, key, version, other), tuple(alternatives), whole)

    def _near(self, amiss: Between, run: _Run) -> tuple[list[int], bool]:
        """Who may have written what was read after the other wrote the key, and whether these are all: of many only
        those that stand nearest to the read. Those that real time excludes are left out.
        """
        began, ended = (
            (self.invoked[amiss.other], self.completed[amiss.row]) if self.realtime else (-1, NEVER)
        )
        near: list[int] = []
        middle = bisect_right(run.places, amiss.place)
        backward = takewhile(lambda i: run.latest[i] > began, range(middle - 1, -1, -1))
        forward = takewhile(lambda i: run.earliest[i] < ended, range(middle, len(run.rows)))
        for rows in (
            (run.rows[i] for i in backward),
            (run.rows[i] for i in forward),
            iter(run.indeterminate),
        ):
            possible = (
                writer
                for writer in rows
                if writer != amiss.row and self.completed[writer] > began and self.invoked[writer] < ended
            )
            near.extend(islice(possible, NEAR_MAX))
            if next(possible, None) is not None:
                return near, False
        return near, True

    def _run(self, version: int, installed: list[int], places: list[int]) -> _Run:
        completed = self.completed
        places = [place for place in places if completed[installed[place - 1]] != NEVER]
        rows = [installed[place - 1] for place in places]
        earliest = list(accumulate((self.invoked[row] for row in reversed(rows)), min))[::-1]
        return _Run(
            places,
            rows,
            list(accumulate((completed[row] for row in rows), max)),
            earliest,
            [row for row in self.registers.finals.get(version, ()) if completed[row] == NEVER],
        )

    def _wr(self, writer: int, row: int) -> Atom:
        return (commit(writer), start(row)) if self.snapshots else (writer, row)


def _successors(graph: Graph) -> list[dict[int, int]]:
    successors: list[dict[int, int]] = [{} for _ in range(graph.nodes)]
    for a, b in zip(graph.edges.source.tolist(), graph.edges.target.tolist(), strict=True):
        successors[a][b] = 0
    return successors


def _completions(registers: Registers, nodes: int) -> list[int]:
    made = np.full(nodes, np.iinfo(np.int64).max, dtype=np.int64)
    made[: registers.transactions.count] = registers.transactions.completed
    return [int(each) for each in made]
