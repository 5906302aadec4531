"""Scenarios in which the store's files come, go and are lost: what is put back, seen and missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConflictError, UsageError
from harness.explore_job import aims
from harness.history import Read
from harness.oracle import Judge, kind_of
from harness.scenario import Program, Scenario, Transaction
from harness.scenarios import SCENARIOS
from harness.schedule.random_walk import RandomWalk
from harness.stepped import lost
from harness.stepped.execution import Execution, conduct
from harness.stepped.medium import Medium
from harness.stepped.program import Cast, Player
from harness.stepped.simulated import Simulated
from kvs import rebuild
from kvs.compaction import _Pass
from kvs.smallfile import Appender

FILES = ("growth", "rollover", "compaction", "pinned", "tombstones", "laggards", "power-cut")


def played(scenario: Scenario, schedules: int) -> list[str]:
    """The kinds of violations that random schedules end in."""
    found: set[str] = set()
    with Simulated(scenario) as stage:
        judge, strategy = Judge(stage.place.setup), RandomWalk(3, 200, aims(scenario))
        for number in range(schedules):
            strategy.begin(scenario, number)
            findings, undecided = judge.findings(conduct(stage, strategy))
            assert not undecided
            found |= set(map(kind_of, findings))
    return sorted(found)


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_wrong_with_the_store_and_every_byte_and_name_is_put_back(name: str) -> None:
    scenario = SCENARIOS[name]
    with Simulated(scenario) as stage:
        judge, strategy = Judge(stage.place.setup), RandomWalk(3, 200, aims(scenario))
        before, changes = stage.place.images(), 0
        names = {path.name for path in stage.place.store.iterdir()}
        for number in range(12):
            strategy.begin(scenario, number)
            assert judge.findings(conduct(stage, strategy)) == ([], 0)
            changes += stage.place.images() != before
            stage._unwind()
            stage.place.restore()
            assert stage.place.images() == before
            assert {path.name for path in stage.place.store.iterdir()} == names
    assert changes == 12


def test_the_same_schedule_is_the_same_again_after_files_came_and_went() -> None:
    scenario = SCENARIOS["compaction"]

    def play(stage: Simulated, number: int) -> Execution:
        strategy = RandomWalk(5, 200, aims(scenario))
        strategy.begin(scenario, number)
        return conduct(stage, strategy)

    with Simulated(scenario) as stage:
        first = [play(stage, number).steps for number in range(6)]
        assert [play(stage, number).steps for number in reversed(range(6))] == first[::-1]


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        (Scenario("x", (Program("reader", (Transaction("compact"),)),), (1,)), "a reader that writes"),
        (Scenario("x", (Program("reader"),), (1,), durable=True, lost="tail"), "must not lose a tail"),
        (Scenario("x", (Program("reader"),), (1,), padding=-1), "a size below zero"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(scenario: Scenario, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        scenario.check()


# -- what is lost ---------------------------------------------------------------------------------------------------


def reads(*versions: tuple[int, int | None]) -> list[Read]:
    """Versions of an item: T and writer."""
    return [Read("key/0", identity, time) for time, identity in versions]


@pytest.mark.parametrize(
    ("before", "after", "until", "agree"),
    [
        ([(5, 1), (4, 1)], [(5, 1), (4, 1)], 99, True),
        ([(5, 1), (4, 1)], [(5, 1)], 99, False),
        ([(5, 1)], [(5, 1), (4, 1)], 99, False),
        ([(5, 1), (4, None), (3, 1)], [(5, 1), (4, None)], 99, True),
        ([(5, None)], [], 99, True),
        ([(5, None)], [(4, 1)], 99, False),
        ([(5, 1), (4, 1)], [(4, 1)], 5, True),
        ([(5, 1), (4, 1)], [(5, 1), (4, 1)], 5, False),
        ([(8, 1), (7, 1), (6, 1), (5, 1)], [(6, 1), (5, 1), (4, 1)], 7, True),
        ([(8, 1), (7, 1), (6, 1), (5, 1)], [(5, 1), (4, 1)], 7, False),
    ],
)
def test_what_an_index_that_is_made_anew_must_tell(before: Any, after: Any, until: int, agree: bool) -> None:
    assert lost._agree(reads(*before), reads(*after), until) is agree


def test_an_index_that_is_made_anew_beyond_a_gap_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest(_: Any, chains: Any, *floors: int) -> int:
        return max([*floors, *(int(chain.commits[-1]) for chain in chains if len(chain.commits))])

    assert played(SCENARIOS["power-cut"], 5) == []
    monkeypatch.setattr(rebuild, "_last", newest)
    assert any(kind.startswith("rebuild: ") for kind in played(SCENARIOS["power-cut"], 5))


# -- what is on the medium ------------------------------------------------------------------------------------------


def test_a_transaction_is_missing_until_the_file_is_synced_that_it_was_appended_to_last() -> None:
    medium = Medium()
    one, other = Path("00000.small"), Path("00001.small")
    medium.appended(one, 7)
    medium.appended(other, 8)
    assert [medium.oldest_missing(until) for until in (6, 7, 9)] == [0, 7, 7]
    medium.synced(Path("index.0"))
    medium.synced(one)
    assert medium.oldest_missing(9) == 8
    medium.appended(one, 8)  # the other one died before its record was whole, and T is used again
    medium.synced(other)
    assert medium.oldest_missing(9) == 8
    medium.clear()
    assert medium.oldest_missing(9) == 0


def test_a_store_that_does_not_wait_for_the_medium_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Appender, "sync", lambda _: None)
    kinds = played(SCENARIOS["durable"], 5)
    assert "durability: T=# was told while T=# was not on the medium" in kinds


# -- what is held ---------------------------------------------------------------------------------------------------


class Held:
    """A session whose snapshots are refused the second time, and that keeps ``newer`` newer versions."""

    def __init__(self, newer: int) -> None:
        self.newer = newer
        self.sequence = 5
        self.looked = 0
        self.closed = False

    def snapshot(self) -> Held:
        return self

    def get(self, _: bytes) -> None:
        self.looked += 1
        if self.looked > 1:
            raise ConflictError("too old")

    def get_many(self, keys: Any) -> list[None]:
        return [None for _ in keys]

    def revisions(self, _: bytes) -> list[Any]:
        return [Read("key/0", None, 6 + i) for i in range(self.newer)]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("newer", "durable", "refused"), [(1, False, True), (3, False, False), (1, True, False)]
)
def test_a_held_snapshot_may_be_refused_only_when_it_was_overtaken(
    newer: int, durable: bool, refused: bool
) -> None:
    events: list[Any] = []
    cast = Cast(("key/0",), (bytes(16),), lambda _: None, events.append, lambda: 0, durable=durable)
    player, session = Player(1, cast), Held(newer)
    player.perform(session, Transaction("hold", reads=(0,)))  # type: ignore[arg-type]
    assert not session.closed
    if refused:
        with pytest.raises(Exception, match="refused after 1 newer versions"):
            player.release()
    else:
        player.release()
    assert session.closed


def test_a_compaction_that_ignores_pins_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert played(SCENARIOS["pinned"], 40) == []
    monkeypatch.setattr(_Pass, "_oldest_pin", lambda _, below: below)
    assert any("a snapshot that is held shows" in kind for kind in played(SCENARIOS["pinned"], 40))
