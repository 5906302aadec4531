"""Faults: they happen exactly where they are meant, and rare points get their share."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from harness import faults as faults_module
from harness.board import Board
from harness.faults import NO_FAULT, Dealer, Fault, Seen, hook_for, may_hold_lock
from harness.plan import FAULTS, Limits

POINTS = {
    "commit.after_lock": 1000,
    "commit.after_write": 1000,
    "read.after_open": 3000,
    "repair.after_found": 10,
}
REQUIRED = frozenset(point for point in POINTS if not point.startswith("read."))

VICTIM = """
import os, sys
from harness.board import Board
from harness.faults import Fault, hook_for
board = Board(1, ["a", "b"])
hook = hook_for(Fault({kind!r}, "b", 3, {torn}), board, board.slots[0])
for number in range(5):
    hook("a")
    os.write(1, f"{{number}} {{board.slots[0].point}}\\n".encode())
    hook("b", lambda part: os.write(1, f"torn {{part}}".encode()))
os.write(1, b"survived")
"""


def seen(hits: dict[str, int] | None = None, seconds: float = 10.0, lives: int = 50) -> Seen:
    return Seen(POINTS if hits is None else hits, seconds, lives)


def dealer(seed: int = 1, kinds: tuple[str, ...] = FAULTS) -> Dealer:
    return Dealer(Random(seed), kinds, REQUIRED, Limits())


def test_a_kill_point_kills_with_signal_9_at_the_hit_that_was_meant() -> None:
    done = subprocess.run(
        [sys.executable, "-c", VICTIM.format(kind="kill-point", torn=0)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines() == ["0 a", "1 a", "2 a"]


def test_a_torn_write_is_torn_only_by_the_kill_that_was_meant() -> None:
    done = subprocess.run(
        [sys.executable, "-c", VICTIM.format(kind="kill-point", torn=0.25)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines() == ["0 a", "1 a", "2 a", "torn 0.25"]


def test_half_of_the_kills_at_points_tear() -> None:
    deal = dealer()
    torn = [
        fault.torn for _ in range(300) if (fault := deal.fault_for("writer", seen(), [])).kind == "kill-point"
    ]
    assert all(0 <= part < 1 for part in torn)
    assert 0.3 * len(torn) < sum(part > 0 for part in torn) < 0.7 * len(torn)


def test_a_pause_point_stops_and_goes_on_when_it_is_continued() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM.format(kind="pause-point", torn=0)], stdout=subprocess.PIPE, text=True
    ) as victim:
        import os

        _, status = os.waitpid(victim.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        victim.send_signal(signal.SIGCONT)
        out, _ = victim.communicate(timeout=60)
    assert out.endswith("survived")


def stops(hits: int, point: str, board: Board, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a worker that carries a pause at every hit of ``point`` stops itself in so many hits."""
    sent: list[int] = []
    monkeypatch.setattr(faults_module.os, "kill", lambda _, number: sent.append(number))
    hook = hook_for(Fault("pause-point", point, 1), board, board.slots[0])
    for _ in range(hits):
        hook(point)
    assert set(sent) <= {signal.SIGSTOP}
    return len(sent)


def test_a_reader_is_stopped_again_and_again_but_not_for_ever_and_not_when_all_are_to_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a run of ten minutes an auditor was stopped at every third read of an audit, and went on being stopped
    after the end of the run for as long as it was waited for: the harness called it hung and blamed the store.
    """
    board = Board(1, ["read.after_copy", "commit.after_lock"])
    assert stops(1000, "read.after_copy", board, monkeypatch) == faults_module._READ_PAUSES_MAX + 1
    assert stops(1000, "commit.after_lock", board, monkeypatch) == 1
    board.set_stop()
    assert stops(1000, "read.after_copy", board, monkeypatch) == 0


def test_a_hook_counts_every_point_and_knows_the_last_one() -> None:
    board = Board(2, ["a", "b"])
    hook = hook_for(NO_FAULT, board, board.slots[1])
    for point in ("a", "b", "a"):
        hook(point)
    assert board.hits() == {"a": 2, "b": 1}
    assert board.slots[1].point == "a"
    assert board.slots[0].point == ""
    board.slots[1].begin(9)
    assert board.slots[1].point == ""
    assert board.hits() == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("point", "holds"),
    [
        ("", True),
        ("commit.after_lock", True),
        ("publish.after_time", True),
        ("repair.after_found", True),
        ("durable.after_mark", True),
        ("compact.before_swing", True),
        ("durable.after_unlock", False),
        ("commit.before_lock", False),
        ("commit.after_unlock", False),
        ("prepare.after_append", False),
        ("read.after_copy", False),
    ],
)
def test_a_process_may_hold_the_lock_between_taking_and_leaving_it(point: str, holds: bool) -> None:
    assert may_hold_lock(point) is holds


def test_one_seed_deals_the_same_faults() -> None:
    one, two, other = dealer(1), dealer(1), dealer(2)
    faults = [[d.fault_for("writer", seen(), []) for _ in range(50)] for d in (one, two, other)]
    assert faults[0] == faults[1]
    assert faults[0] != faults[2]


def test_rare_points_that_must_be_killed_at_get_their_share() -> None:
    deal = dealer()
    kills: Counter[str] = Counter()
    carried: list[Fault] = []
    for _ in range(400):
        fault = deal.fault_for("writer", seen(), carried[-3:])
        carried.append(fault)
        if fault.kind == "kill-point":
            kills[fault.point] += 1
            deal.killed(fault.point, at_point=True, elapsed_s=1.0, commits=1)
    assert kills["repair.after_found"] >= 40
    assert min(kills[point] for point in REQUIRED) * 4 >= max(kills[point] for point in REQUIRED)
    # A point that nobody asks for is tried, and does not absorb what others need.
    assert 1 <= kills["read.after_open"] < min(kills[point] for point in REQUIRED)


def test_a_rare_point_is_taken_at_its_first_hit_and_a_common_one_at_any() -> None:
    deal = dealer()
    faults = [deal.fault_for("writer", seen(), []) for _ in range(300)]
    rare = [fault for fault in faults if fault.point == "repair.after_found"]
    common = [fault for fault in faults if fault.point.startswith("commit.")]
    assert rare
    assert all(fault.hit == 1 and fault.rare for fault in rare)
    assert len({fault.hit for fault in common}) > 3
    assert not any(fault.rare for fault in common)


def test_somebody_always_dies_in_commits_while_others_wait_for_the_repair() -> None:
    deal = dealer()
    waiting = [Fault("kill-point", "repair.after_found", 1, rare=True)] * 3
    faults = [deal.fault_for("writer", seen(), waiting) for _ in range(100)]
    assert not any(fault.rare for fault in faults)


def test_a_reader_is_armed_only_with_points_that_readers_reach() -> None:
    deal = dealer()
    reads = dict.fromkeys(POINTS, 0) | {"read.after_open": 500}
    faults = {deal.fault_for("reader", seen(reads), []).point for _ in range(200)}
    assert faults == {"", "read.after_open"}


def test_a_writer_may_be_armed_with_a_required_point_that_nobody_has_reached() -> None:
    deal = dealer()
    nothing = dict.fromkeys(POINTS, 0)
    assert {deal.fault_for("writer", seen(nothing), []).point for _ in range(200)} >= REQUIRED


@pytest.mark.parametrize("kinds", [(), ("kill-time", "pause-time")])
def test_faults_that_the_plan_does_not_have_do_not_come(kinds: tuple[str, ...]) -> None:
    deal = dealer(kinds=kinds)
    assert {deal.fault_for("writer", seen(), []).kind for _ in range(200)} == {""}
    assert deal.kill_due(100.0, 1000) is ("kill-time" in kinds)
    assert deal.pause_due(100.0) is ("pause-time" in kinds)
    assert not deal.kill_all_due(100.0)


def test_everybody_is_killed_every_two_seconds_or_so() -> None:
    one, other = dealer(1), dealer(2)
    times = [[tick / 100 for tick in range(6000) if deal.kill_all_due(tick / 100)] for deal in (one, other)]
    assert times[0] != times[1]
    gaps = [after - before for before, after in itertools.pairwise(times[0])]
    assert 1.1 < min(gaps) < max(gaps) < 2.9
    assert 20 < len(gaps) < 45


def test_no_kill_at_random_times_until_survivors_have_committed_or_had_their_time() -> None:
    deal = dealer()
    deal.killed("", at_point=False, elapsed_s=1.0, commits=100)
    assert not deal.kill_due(1.4, 111)
    assert deal.kill_due(1.4, 112)
    assert deal.kill_due(1.6, 100)


def test_victims_are_mostly_writers_and_seldom_those_with_a_fault_of_their_own() -> None:
    deal = dealer()
    carrying = Fault("kill-point", "commit.after_lock", 1)
    candidates = [
        (0, "writer", NO_FAULT, 1.0),
        (1, "writer", carrying, 1.0),
        (2, "writer", Fault(spared_s=1.5), 1.0),
        (3, "reader", NO_FAULT, 1.0),
    ]
    victims = Counter(deal.victim(candidates) for _ in range(2000))
    assert 200 < victims[3] < 400
    assert victims[0] > 10 * victims[1] > 0
    assert victims[0] > 10 * victims[2] > 0
    assert deal.victim([]) is None


CHORES = {"compact.before_punch": 20, "compact.after_swept": 0, **POINTS}


def test_housekeepers_wait_at_what_only_they_do_and_writers_do_not() -> None:
    required = REQUIRED | {"compact.before_punch", "compact.after_swept"}
    deal = Dealer(Random(1), FAULTS, required, Limits())
    of = {
        role: {deal.fault_for(role, seen(CHORES), []).point for _ in range(200)} - {""}
        for role in ("writer", "housekeeper")
    }
    assert of["housekeeper"] == {"compact.before_punch"}
    assert "repair.after_found" in of["writer"]
    assert not any(point.startswith("compact.") for point in of["writer"])


def test_some_housekeepers_carry_a_fault_and_the_others_get_to_the_end_of_what_they_do() -> None:
    deal = Dealer(Random(1), FAULTS, REQUIRED | {"compact.before_punch"}, Limits())
    faults = [deal.fault_for("housekeeper", seen(CHORES), []) for _ in range(300)]
    assert 20 <= sum(not fault.kind for fault in faults) <= 60
    carrying = next(fault for fault in faults if fault.kind)
    others = [deal.fault_for("housekeeper", seen(CHORES), [carrying]) for _ in range(300)]
    spared = [fault for fault in others if not fault.kind]
    assert 70 <= len(spared) <= 180
    assert {fault.spared_s for fault in spared} == {faults_module._CHORES_SPARED_S}
    for _ in range(3):
        deal.killed("compact.before_punch", at_point=True, elapsed_s=1.0, commits=1)
    calm = [deal.fault_for("housekeeper", seen(CHORES), []) for _ in range(300)]
    assert 150 <= sum(not fault.kind for fault in calm) <= 240, "their points were killed at often enough"


def test_everybody_dies_together_more_seldom_after_the_first_minute() -> None:
    deal = dealer()
    times = [tick / 10 for tick in range(2_000) if deal.kill_all_due(tick / 10)]
    early, late = ([time for time in times if (time < 60.0) == first] for first in (True, False))
    assert len(early) > 20
    assert 5 <= len(late) <= 15


def test_whoever_is_to_die_at_a_point_dies_at_any_rare_one_that_was_killed_at_too_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rare = {"grow.after_next": 2, "repair.after_found": 3}
    deal = Dealer(Random(1), FAULTS, REQUIRED | set(rare), Limits())
    hits = {**POINTS, **rare}
    dying = [deal.fault_for("writer", seen(hits), []) for _ in range(300)]
    dying = [fault for fault in dying if fault.kind == "kill-point"]
    assert {fault.also for fault in dying if not fault.rare} == {frozenset(rare)}
    waiting = [fault for fault in dying if fault.rare and fault.point in rare]
    assert {(fault.point, fault.also) for fault in waiting} == {
        (point, frozenset(rare) - {point}) for point in rare
    }
    for _ in range(3):
        deal.killed("grow.after_next", at_point=True, elapsed_s=1, commits=1)
    faults_of = [deal.fault_for("writer", seen(hits), []) for _ in range(300)]
    assert not any("grow.after_next" in fault.also for fault in faults_of)

    board, sent = Board(1, sorted(hits)), []
    monkeypatch.setattr(faults_module.os, "kill", lambda _, number: sent.append(number))
    hook = hook_for(
        Fault("kill-point", "grow.after_next", 3, also=frozenset({"repair.after_found"})),
        board,
        board.slots[0],
    )
    for point, killed in (("commit.after_lock", 0), ("grow.after_next", 0), ("repair.after_found", 1)):
        hook(point)
        assert sent == [signal.SIGKILL] * killed


LOSSY = frozenset({"rebuild.before_seal", "rebuild.after_publish"})


def test_only_an_index_that_can_be_made_again_is_lost() -> None:
    required = REQUIRED | LOSSY
    losing = Dealer(Random(1), FAULTS, required, Limits(), None, LOSSY)
    others = [
        Dealer(Random(1), FAULTS, required, Limits()),
        Dealer(Random(1), ("kill-all",), required, Limits(), None, LOSSY),
    ]
    assert 20 <= sum(losing.loss_due() for _ in range(100)) <= 60
    assert not any(deal.loss_due() for deal in others for _ in range(100))


def test_whoever_makes_an_index_again_is_killed_at_that_until_it_was_enough() -> None:
    deal = Dealer(Random(1), FAULTS, REQUIRED | LOSSY, Limits(), None, LOSSY)
    hits = {**POINTS, **dict.fromkeys(LOSSY, 50)}
    assert not any(deal.fault_for("writer", seen(hits), []).point in LOSSY for _ in range(200))
    for _ in range(3):
        deal.killed("rebuild.before_seal", at_point=True, elapsed_s=1, commits=1)
    behind = [fault for _ in range(100) if (fault := deal.fault_after_loss()).kind]
    assert {(fault.kind, fault.point, fault.hit) for fault in behind} == {
        ("kill-point", "rebuild.after_publish", 1)
    }
    for _ in range(3):
        deal.killed("rebuild.after_publish", at_point=True, elapsed_s=1, commits=1)
    enough = [fault for _ in range(100) if (fault := deal.fault_after_loss()).kind]
    assert {fault.point for fault in enough} == LOSSY
    assert len(behind) > 2 * len(enough)
    assert dealer().fault_after_loss() == NO_FAULT
