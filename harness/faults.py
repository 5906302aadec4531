"""Faults: what they are, how a worker takes one at a sync point, and which one comes next.

A worker carries at most one fault of its own, armed before its first operation: SIGKILL or SIGSTOP at the
Nth hit of a named sync point (SIGSTOP at every Nth), sent by itself to itself, so that it happens exactly
there. Everything else is
done from outside: the supervisor kills or stops a worker at a random time.

``Dealer`` decides. Counting first and rotating the odds keeps the points that are hit all the time from
absorbing every kill: a point that was killed at seldom weighs more, and how many hits to wait for follows
from how often it was reached so far.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

from harness.board import Board, Slot
from harness.engines.base import Hook, Tear
from harness.holding import Holding
from harness.plan import Limits

PAUSE_S: Final = (0.020, 0.150)
"""A stopped process is continued after a time between these..."""
READ_PAUSE_S: Final = (0.030, 0.300)
"""...and one that stands between two steps of a read after one between these: nobody waits for it, and what
it was reading should have been overwritten several times meanwhile."""
_READ_PAUSES_MAX: Final = 30
"""A reader that carries a pause is stopped one more time than this in its life."""
_PAUSES_PER_S: Final = 1.5
_KILL_ALL_EVERY_S: Final = (1.2, 2.8)
"""Everybody is killed at once after a time between these..."""
_CALM_AFTER_S: Final = 60.0
_CALM: Final = 8
"""...and this many times as long after the first minute: a store has grown by then, and what keeps it small takes
longer than that, so that it would never be done."""
_KILLS_PER_S: Final = 55.0
"""What the dealer steers for; a third of it at random times."""
_HASTE_MAX: Final = 1.5
"""Where there were too few kills, those at random times come so much sooner at most: on a busy machine they would take
all workers before these got to their points."""
_COMMITS_PER_KILL: Final = 12
"""Survivors get to commit at least so often between two kills at a random time: where every writer is killed
before it has opened the store, no commit for a second says nothing about the store..."""
_PATIENCE_S: Final = 0.5
"""...but get no longer than this for it."""
_POINT_KILL_SHARE: Final = 0.85
_POINT_PAUSE_SHARE: Final = 0.03
_READERS_POINT_KILL_SHARE: Final = 0.25
_READERS_POINT_PAUSE_SHARE: Final = 0.5
"""Readers and auditors are killed less and stopped more: their mistakes need somebody to overtake them."""
_LIFE_S: Final = 0.05
"""A worker that carries a kill at a point meets it within twice this time, if the point is reached often."""
_OTHERS_LIFE_S: Final = 0.4
"""The same for readers and auditors, whose operations are longer."""
_WRITER_SHARE: Final = 0.85
"""Of the kills and pauses at random times, the share that hits writers."""
_HOLDER_SHARE: Final = 0.75
"""Of the kills at points that are reached often, the share where the victim may hold the commit lock: only
such deaths lead others to repair."""
_FEEDING_SHARE: Final = 0.6
"""Of those, the share at points whose survivors come by a point that was killed at too seldom."""
_TORN_SHARE: Final = 0.5
"""Of the kills at a point that stands before a larger write, the share that applies a part of it."""
_SPARED_SHARE: Final = 0.02
_SPARED_S: Final = 1.5
"""A fiftieth of the writers live at least this long: about one of four at any time, since the others live for
a tenth of a second. Otherwise no transaction of 65,535 keys would ever be seen to commit."""

HOUSEKEEPER: Final = "housekeeper"
_CHORE: Final = "compact."
"""The points of what housekeepers do. A writer may come by them too, but would wait long for it."""
_CHORES_POINT_KILL_SHARE: Final = 0.85
_CHORES_POINT_PAUSE_SHARE: Final = 0.05
_CHORES_CALM: Final = 0.4
"""The share of that when every point of theirs was killed at often enough."""
_CHORES_TOGETHER_SHARE: Final = 0.65
_CHORES_SPARED_S: Final = 3.0
"""A third of the time only one housekeeper carries a fault. The others are left alone for so long, and get to the end
of what they do: removed keys are forgotten by two whole passes, and an index that remembers all of them grows larger
and more seldom."""
_CHORES_EXPOSURE: Final = 0.1
"""So much more seldom than readers are housekeepers killed at random times: their passes are long."""
_LOSSES: Final = 0.5
"""The share of the times when everybody is dead at which the index is lost, too (at the first it always is), until
those who make it again were killed often enough; then a fifth of that: what is made again remembers forgotten keys."""
_LOSS_KILL_SHARE: Final = 0.85
"""Of those who find it lost, and wait for one another to make it again, the share that is killed at that while some
point of it was killed at too seldom."""

_HOLDING: Final = (
    *("commit.", "record.", "publish.", "repair.", "grow.", "durable.", "laggard.", "smallfile."),
    *(_CHORE, "rebuild."),
)
"""A process between these points may hold a lock that commits wait for: COMMIT, that of a durable commit which is
not synced yet, or (while it compacts) COMMIT again and again."""
_NOT_HOLDING: Final = ("before_lock", "after_unlock")


class Fault(NamedTuple):
    """What one worker carries: ``kind`` ("" for none, else "kill-point" or "pause-point"), at the ``hit``-th
    hit of ``point``, which it may have to wait for (``rare``). If that stands before a write, ``torn`` is
    the part of it that is applied before the kill. Whoever is to die at a point dies at one of ``also`` instead if
    that comes first. Without a fault of its own, a worker is left alone for its first ``spared_s`` seconds.
    """

    kind: str = ""
    point: str = ""
    hit: int = 0
    torn: float = 0.0
    rare: bool = False
    spared_s: float = 0.0
    also: frozenset[str] = frozenset()


NO_FAULT: Final = Fault()


class Seen(NamedTuple):
    """What the workers of one role did so far: ``hits`` of every point, in ``lives`` lives that lasted
    ``slot_seconds`` together.
    """

    hits: Mapping[str, int]
    slot_seconds: float
    lives: int

    def per_second(self, point: str) -> float:
        """Hits per second of life."""
        return self.hits[point] / max(self.slot_seconds, 0.001)

    def per_life(self, point: str) -> float:
        """Hits per life."""
        return self.hits[point] / max(self.lives, 1)

    def is_common(self, point: str) -> bool:
        """Whether nearly every worker comes by ``point`` again and again."""
        return self.per_second(point) * _LIFE_S >= 1 and self.per_life(point) >= 4


def may_hold_lock(point: str) -> bool:
    """Whether a process whose last sync point is ``point`` may hold a lock that the store's commits wait for.

    Where the store has no points (``""``) it may hold it at any time.
    """
    if not point:
        return True
    return point.startswith(_HOLDING) and not point.endswith(_NOT_HOLDING)


def hook_for(fault: Fault, board: Board, slot: Slot, holding: Holding | None = None) -> Hook:
    """A hook that counts the hits of every point on ``slot`` and takes ``fault`` when its time has come; ``holding``
    notes since when the lock is held.

    It marks the slot as standing first, so that the supervisor can tell a victim that died at its point from
    one that died elsewhere. A killed worker does not return from the hook: a signal that a single-threaded
    process sends to itself is delivered before ``kill`` returns (kill(2)).
    """
    codes = {point: code for code, point in enumerate(board.points)}
    reach = slot.reach
    notes = holding.notes if holding is not None else {}

    def count(point: str, _: Tear | None = None) -> None:
        reach(codes[point])
        if point in notes:
            notes[point]()

    if not fault.kind:
        return count
    target, also = codes[fault.point], {codes[point] for point in fault.also}
    left = fault.hit
    pausing = fault.kind == "pause-point"
    number = signal.SIGSTOP if pausing else signal.SIGKILL
    # A lock holder is stopped once; a reader again and again, since nobody waits for it, but neither for ever nor
    # once everybody is to leave: an audit comes by thousands of times.
    again = _READ_PAUSES_MAX if pausing and not may_hold_lock(fault.point) else 0

    def hook(point: str, tear: Tear | None = None) -> None:
        nonlocal again, left
        code = codes[point]
        reach(code)
        if point in notes:
            notes[point]()
        if code == target or code in also:
            left = left - 1 if code == target else 0
            if left == 0 and not (pausing and board.stop):
                slot.stand(time.monotonic_ns())
                if tear is not None and fault.torn:
                    tear(fault.torn)
                os.kill(os.getpid(), number)
                slot.leave()
                again -= 1
                left = fault.hit if again >= 0 else 0

    return hook


class Dealer:
    """Decides which faults come: drawn from one seeded stream, weighed by what has happened so far."""

    def __init__(
        self,
        random: Random,
        kinds: Sequence[str],
        required: frozenset[str],
        limits: Limits,
        feeders: Mapping[str, Sequence[str]] | None = None,
        lossy: frozenset[str] | None = None,
    ) -> None:
        self._random = random
        self._kinds = frozenset(kinds)
        self._required = required
        self._feeders = feeders or {}
        self._lossy = lossy or frozenset()
        """The points that only a process comes to that finds the index lost."""
        self._loses = lossy is not None and "lose-index" in self._kinds
        self._lost_count = 0
        self._point_kills_min = limits.point_kills_min
        self._kills: Counter[str] = Counter()
        self._armed: Counter[str] = Counter()
        self._kill_count = 0
        self._commits_at_kill = 0
        self._killed_at_s = 0.0
        self._kill_wait_s = self._draw_kill_wait(0.0)
        self._pause_at_s = random.expovariate(_PAUSES_PER_S)
        self._kill_all_at_s = random.uniform(*_KILL_ALL_EVERY_S)

    @property
    def kill_count(self) -> int:
        """Kills so far."""
        return self._kill_count

    def killed(self, point: str, *, at_point: bool, elapsed_s: float, commits: int) -> None:
        """One victim was reaped."""
        self._kill_count += 1
        if at_point:
            self._kills[point] += 1
        self._commits_at_kill = commits
        self._killed_at_s = elapsed_s
        self._kill_wait_s = self._draw_kill_wait(elapsed_s)

    def fault_for(self, role: str, seen: Seen, carried: Sequence[Fault]) -> Fault:
        """The fault of the next worker of ``role``, whose kind has ``seen`` so much until now; ``carried``:
        what the living of its role carry.
        """
        share = self._random.random()
        kill_share, pause_share = _POINT_KILL_SHARE, _POINT_PAUSE_SHARE
        if role == HOUSEKEEPER:
            kill_share, pause_share = _CHORES_POINT_KILL_SHARE, _CHORES_POINT_PAUSE_SHARE
            if not self._behind(point for point in self._required if point.startswith(_CHORE)):
                kill_share *= _CHORES_CALM
            carries = (
                not any(fault.kind for fault in carried) or self._random.random() < _CHORES_TOGETHER_SHARE
            )
            if share >= kill_share + pause_share or not carries:
                return Fault(spared_s=_CHORES_SPARED_S)
        elif role != "writer":
            kill_share, pause_share = _READERS_POINT_KILL_SHARE, _READERS_POINT_PAUSE_SHARE
        elif share > 1 - _SPARED_SHARE:
            return Fault(spared_s=_SPARED_S)
        kind = "kill-point" if share < kill_share else "pause-point"
        if share >= kill_share + pause_share or kind not in self._kinds:
            return NO_FAULT
        points = [point for point in seen.hits if self._may_wait(role, point, seen)]
        if role not in ("writer", HOUSEKEEPER) and kind == "pause-point":
            points = [point for point in points if not may_hold_lock(point)]
        if not points:
            return NO_FAULT
        point = self._point(kind, points, seen, carried)
        life_s = _LIFE_S if role == "writer" or kind == "pause-point" else _OTHERS_LIFE_S
        hits_max = min(2 * life_s * seen.per_second(point), seen.per_life(point))
        self._armed[point] += 1
        hit = self._random.randint(1, max(1, int(hits_max)))
        torn = self._random.random() if kind == "kill-point" and self._random.random() < _TORN_SHARE else 0.0
        rare = not seen.is_common(point)
        # A writer may come by chores, too; it is not told to wait for them, but if it does, all the better.
        reached = seen.hits if role == "writer" else points
        also = self._behind(reached, seen) - {point} if kind == "kill-point" else frozenset()
        return Fault(kind, point, hit, torn, rare=rare, also=also)

    def _behind(self, points: Iterable[str], seen: Seen | None = None) -> frozenset[str]:
        """The required ones of ``points`` that were killed at too seldom, without those that are common anyway."""
        return frozenset(
            point
            for point in points
            if point in self._required
            and self._kills[point] < self._point_kills_min
            and not (seen is not None and seen.is_common(point))
        )

    def _may_wait(self, role: str, point: str, seen: Seen) -> bool:
        """Whether a worker of ``role`` is told to wait for ``point``: its kind has come there, or may be the one."""
        if role == HOUSEKEEPER:
            return point.startswith(_CHORE) and seen.hits[point] > 0
        if point.startswith(_CHORE) or point in self._lossy:
            return False
        return seen.hits[point] > 0 or (role == "writer" and point in self._required)

    def fault_after_loss(self) -> Fault:
        """The fault of a worker that finds the index lost, or waits for somebody who makes it again."""
        points = self._lossy & self._required
        behind = self._behind(points)
        share = _LOSS_KILL_SHARE if behind else _LOSS_KILL_SHARE / 4
        if not points or "kill-point" not in self._kinds or self._random.random() > share:
            return NO_FAULT
        return Fault("kill-point", self._random.choice(sorted(behind or points)), 1, rare=True, also=behind)

    def _point(self, kind: str, points: list[str], seen: Seen, carried: Sequence[Fault]) -> str:
        """Half of a role's workers (three of four, while there are required points that are rare and were killed at too
        seldom) wait at the points that were killed at least, however long; the others die where many come by, or nobody
        would ever die in the middle of a commit and be repaired.
        """
        common = [point for point in points if seen.is_common(point)]
        waiting = sum(fault.rare for fault in carried)
        of_four = 3 if self._behind(points, seen) else 2
        places = (len(carried) + 1) * of_four // 4 if carried else self._random.randint(0, 1)
        chosen = points
        if common and (kind == "pause-point" or waiting >= places):
            feeding = self._feeding(common)
            if feeding and kind == "kill-point" and self._random.random() < _FEEDING_SHARE:
                return self._random.choice(feeding)
            holding = [point for point in common if may_hold_lock(point)]
            chosen = holding if holding and self._random.random() < _HOLDER_SHARE else common
        return self._random.choices(chosen, [self._weight(point) for point in chosen])[0]

    def _feeding(self, common: Sequence[str]) -> list[str]:
        """Points where a death leads others to a required point that was not killed at often enough yet."""
        return [
            feeder
            for point, feeders in sorted(self._feeders.items())
            if point in self._required and self._kills[point] < self._point_kills_min
            for feeder in feeders
            if feeder in common
        ]

    def _weight(self, point: str) -> float:
        if point not in self._required:
            # By what was tried, not by what came of it: some can be reached once in a store's life only.
            return 0.25 / (1 + self._armed[point]) ** 2
        weight = 1.0 / (1 + self._kills[point]) ** 2
        return weight * 20 if self._kills[point] < self._point_kills_min else weight

    def kill_due(self, elapsed_s: float, commits: int) -> bool:
        """Whether a worker is to be killed now, at a random time. Survivors have had time to work since."""
        if "kill-time" not in self._kinds or elapsed_s < self._killed_at_s + self._kill_wait_s:
            return False
        worked = commits - self._commits_at_kill >= _COMMITS_PER_KILL
        return worked or elapsed_s >= self._killed_at_s + _PATIENCE_S

    def _draw_kill_wait(self, elapsed_s: float) -> float:
        """Seconds until the next kill at a random time: sooner if there were too few until now."""
        behind = _KILLS_PER_S * elapsed_s - self._kill_count
        rate = _KILLS_PER_S / 3 * min(_HASTE_MAX, max(0.3, 1.0 + behind / _KILLS_PER_S))
        return self._random.expovariate(rate)

    def kill_all_due(self, elapsed_s: float) -> bool:
        """Whether everybody is to be killed now."""
        if "kill-all" not in self._kinds or elapsed_s < self._kill_all_at_s:
            return False
        wait_s = self._random.uniform(*_KILL_ALL_EVERY_S)
        self._kill_all_at_s = elapsed_s + (wait_s if elapsed_s < _CALM_AFTER_S else _CALM * wait_s)
        return True

    def loss_due(self) -> bool:
        """Whether the index is to be lost, now that everybody is dead."""
        share = _LOSSES if self._behind(self._lossy) else _LOSSES / 5
        lost = self._loses and (self._lost_count == 0 or self._random.random() < share)
        self._lost_count += lost
        return lost

    def pause_due(self, elapsed_s: float) -> bool:
        """Whether a worker is to be stopped now, at a random time."""
        if "pause-time" not in self._kinds or elapsed_s < self._pause_at_s:
            return False
        self._pause_at_s = elapsed_s + self._random.expovariate(_PAUSES_PER_S)
        return True

    def pause_s(self, *, holder: bool) -> float:
        """How long a stopped worker stays stopped; longer where it cannot hold a lock that others wait for."""
        return self._random.uniform(*(PAUSE_S if holder else READ_PAUSE_S))

    def victim(self, candidates: Sequence[tuple[int, str, Fault, float]]) -> int | None:
        """Which of ``(slot, role, fault, age in seconds)`` is killed or stopped, ``None`` if there is none.

        Mostly writers. Within a role those that carry a fault of their own are seldom taken, or it would
        never come to it.
        """
        writers = [candidate for candidate in candidates if candidate[1] == "writer"]
        others = [candidate for candidate in candidates if candidate[1] != "writer"]
        chosen = writers if self._random.random() < _WRITER_SHARE else others
        if not chosen:
            return None
        weights = [
            _exposure(fault, age_s) * (_CHORES_EXPOSURE if role == HOUSEKEEPER else 1.0)
            for _, role, fault, age_s in chosen
        ]
        return self._random.choices(chosen, weights)[0][0]


def _exposure(fault: Fault, age_s: float) -> float:
    """How readily a worker is killed or stopped from outside."""
    if fault.kind:
        return 0.002 if fault.rare else 0.06
    return 0.002 if age_s < fault.spared_s else 1.0
