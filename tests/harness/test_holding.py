"""When the lock is held and the dead are repaired after, as sync points tell it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import get_args, get_type_hints

import msgspec
import pytest

from harness import holding
from harness.board import Board, Slot
from harness.faults import NO_FAULT, Fault, hook_for
from harness.history import Span
from harness.holding import Holding

POINTS = (
    "prepare.after_append",
    "commit.before_lock",
    "commit.after_lock",
    "commit.after_validate",
    "repair.after_found",
    "repair.after_clear",
    "publish.after_key",
    "commit.after_clear",
    "commit.after_unlock",
    "read.after_copy",
)


class Noted:
    """A process's notes; the clock goes on by ten with every point, watched or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, points: tuple[str, ...] = POINTS) -> None:
        self.now = 0
        monkeypatch.setattr(holding.time, "monotonic_ns", lambda: self.now)  # type: ignore[attr-defined]
        board = Board(1, points)
        self.slot: Slot = board.slots[0]
        self.holding = Holding(self.slot, board.points)
        self.hook = hook_for(NO_FAULT, board, self.slot, self.holding)

    def come_by(self, *points: str) -> None:
        for point in points:
            self.now += 10
            self.hook(point)

    def taken(self) -> Iterator[tuple[str, int, int]]:
        for span in self.holding.take():
            yield span.what, span.begin, span.end


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    return Noted(monkeypatch)


def test_a_commit_holds_the_lock_from_the_one_point_to_the_other(noted: Noted) -> None:
    noted.come_by(*POINTS[:4], *POINTS[6:])
    assert list(noted.taken()) == [("lock", 30, 70)]
    assert list(noted.taken()) == []


def test_a_repair_lasts_from_its_first_point_to_its_last_within_the_lock(noted: Noted) -> None:
    noted.come_by("commit.after_lock", "repair.after_found", "repair.after_clear")
    noted.come_by("commit.after_validate", "commit.after_unlock")
    assert list(noted.taken()) == [("repair", 20, 30), ("lock", 10, 50)]


def test_what_gives_the_lock_back_without_a_point_held_it_until_its_last_one(noted: Noted) -> None:
    noted.come_by("commit.before_lock", "commit.after_lock", "commit.after_validate", "read.after_copy")
    assert list(noted.taken()) == [("lock", 20, 30)]
    noted.come_by("commit.after_lock", "repair.after_found", "repair.after_clear")  # on opening
    noted.come_by("prepare.after_append", "commit.before_lock", "commit.after_lock", "commit.after_unlock")
    assert list(noted.taken()) == [("repair", 60, 70), ("lock", 50, 70), ("lock", 100, 110)]


def test_the_board_says_since_when_it_is_held_for_whoever_finds_the_process_dead(noted: Noted) -> None:
    noted.come_by("commit.after_lock", "commit.after_validate")
    assert noted.slot.locked_at_ns == 10
    noted.come_by("commit.after_unlock")
    assert noted.slot.locked_at_ns == 0
    noted.come_by("commit.after_lock")
    noted.holding.take()
    assert noted.slot.locked_at_ns == 0
    noted.come_by("commit.after_lock")
    noted.slot.begin(7)
    assert noted.slot.locked_at_ns == 0


def test_of_a_store_without_such_points_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Noted(monkeypatch, ("commit.before_lock", "commit.half", "repair.after_found"))
    other.come_by("commit.before_lock", "commit.half", "repair.after_found")
    assert list(other.taken()) == []


def test_an_operation_of_many_commits_is_not_told_without_end(noted: Noted) -> None:
    for _ in range(1000):
        noted.come_by("commit.after_lock", "commit.after_unlock")
    assert 10 < len(list(noted.taken())) < 100


def test_who_dies_holding_the_lock_has_said_so() -> None:
    board = Board(1, POINTS)
    pid = os.fork()
    if pid == 0:
        notes = Holding(board.slots[0], board.points)
        hook = hook_for(Fault("kill-point", "commit.after_lock", 1), board, board.slots[0], notes)
        hook("commit.before_lock")
        hook("commit.after_lock")
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == 9
    assert board.slots[0].locked_at_ns > 0


def test_a_span_is_three_values_in_the_history() -> None:
    assert msgspec.json.encode(Span("lock", 1, 2)) == b'["lock",1,2]'
    assert get_args(get_type_hints(Span)["what"]) == holding.SPANS
