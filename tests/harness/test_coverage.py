"""What was met, what can be met, and what all schedules of a small scenario show."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from msgspec import structs, to_builtins
from xxhash import xxh3_128_hexdigest

from harness.coverage import Coverage, Exhausted, Meeting, exhaust, reachable
from harness.errors import UsageError
from harness.scenario import Program, Scenario
from harness.scenarios import SCENARIOS, put
from harness.schedule.exhaustive import Exhaustive, Redundant
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.schedule.search import STEP
from harness.stepped.execution import Kill, conduct
from harness.stepped.program import POINTS
from harness.stepped.simulated import Simulated
from harness.stepped.watch import Watch
from harness.verdict import Outcome
from kvs import syncpoints
from tests.harness.test_exhaustive import brute, toys
from tests.harness.toy_programs import Move, Toy, ToyStage, World

EVERY_POINT = [*syncpoints.POINTS, *POINTS]


def met(toy: Toy, moves: list[Move]) -> Iterator[Meeting]:
    """The meetings of one schedule, played by hand; whoever stood before a held lock may have been waiting for it."""
    world = World(toy)
    waited: set[int] = set()
    for process, way in moves:
        waited.discard(process)
        peers = [peer for peer in range(1, len(world.at) + 1) if world.op(peer) is not None]
        for peer in peers:
            op = world.op(peer)
            assert op is not None
            if op[0] == "lock" and op[1] in world.locks:
                waited.add(peer)
            if way != STEP and peer != process:
                victim, point = f"toy.{world.at[process - 1]}", f"toy.{world.at[peer - 1]}"
                yield Meeting(victim, point)
                if peer in waited:
                    yield Meeting(victim, point, f"{op[1]}")
        world.move((process, way))


NOBODY_TO_WAIT_FOR = Toy(
    (
        (("set", 0),),
        (("lock", 0), ("set", 0), ("unlock", 0)),
        (("lock", 0), ("set", 0), ("unlock", 0)),
    ),
    joins=(0, 0, 1),
    kills=2,
)
"""The third joins when the second, the only other one that takes the lock, is dead: it never waits. It was claimed
to, since whoever had not yet moved was taken to have been there from the beginning."""


@settings(max_examples=80, deadline=None)
@example(NOBODY_TO_WAIT_FOR)
@given(toys())
def test_the_reduced_search_knows_every_meeting_of_all_schedules(toy: Toy) -> None:
    listed = brute(toy)
    if listed is None:
        return
    stage = ToyStage(toy)
    search = Exhaustive(stage, ())
    claimed: set[Meeting] = set()
    stuck = False
    while search.begin(stage.scenario, 0):
        try:
            stuck |= bool(conduct(stage, search).stuck)
        except Redundant:
            search.give_up()
        else:
            claimed |= reachable(search.trace(), toy.joins)
    if not stuck:  # of a deadlock nothing is claimed for those who wait for ever
        assert claimed == {meeting for moves in listed for meeting in met(toy, moves)}


def test_a_kill_is_counted_with_everybody_who_is_there() -> None:
    coverage = Coverage()
    kill = Kill(5, 1, "a.b", 0, (), ((2, "c.d", "", ()), (3, "c.d", "COMMIT", ("WRITER[1]",))))
    coverage.add([kill, kill])
    assert coverage.meetings == {Meeting("a.b", "c.d"): 2, Meeting("a.b", "c.d", "COMMIT"): 2}
    assert coverage.never(["a.b", "c.d"]) == ["c.d"]
    universe = {Meeting("a.b", "c.d"), Meeting("c.d", "a.b")}
    assert coverage.share(universe) == 0.5
    assert coverage.missing(universe) == [Meeting("c.d", "a.b")]
    other = Coverage.from_data(json.loads(json.dumps(coverage.to_data())))
    other.merge(coverage)
    assert other.meetings[Meeting("a.b", "c.d")] == 4
    assert other.deaths == {"a.b": 4}


def test_what_is_no_coverage_is_refused() -> None:
    with pytest.raises(UsageError, match="no coverage"):
        Coverage.from_data({"meetings": [1]})


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["two-writers", "collision"])
def test_exploring_meets_nothing_that_all_schedules_together_do_not(name: str) -> None:
    """A meeting outside would be an order that the search believes impossible, or the same as another."""
    scenario = SCENARIOS[name]
    seen = exhaust(scenario)
    assert seen.complete
    assert seen.outcome is Outcome.OK
    coverage = Coverage()
    with Simulated(scenario) as stage:
        for number in range(500):
            strategy = (RandomWalk, Pct)[number % 2](3, 45, EVERY_POINT)
            strategy.begin(scenario, number)
            coverage.add(conduct(stage, strategy).kills)
    assert set(coverage.meetings) <= seen.reachable
    assert coverage.share(map(Meeting._make, seen.reachable)) > 0.25


def test_all_schedules_of_a_reader_and_a_writer_are_seen() -> None:
    seen = exhaust(SCENARIOS["snapshots"])
    assert seen.outcome is Outcome.OK
    assert seen.bounds == "no kill, any number of preemptions"
    assert seen.schedules > 100
    assert seen.reachable == set()


def test_a_search_in_pieces_sees_what_one_in_a_piece_does() -> None:
    whole = exhaust(SCENARIOS["collision"]).to_data()
    piece = exhaust(SCENARIOS["collision"], limit_schedules=100)
    assert piece.outcome is Outcome.UNKNOWN, "not all schedules were seen, so nothing is known of the others"
    piece = Exhausted.from_data(json.loads(json.dumps(piece.to_data())))
    calls = 0

    def interrupt(_: Exhausted) -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt

    piece = exhaust(SCENARIOS["collision"], earlier=piece, show=interrupt)
    assert not piece.complete
    rest = exhaust(SCENARIOS["collision"], earlier=piece).to_data()
    assert {**rest, "seconds": 0} == {**whole, "seconds": 0}


def test_a_search_of_something_else_is_not_continued() -> None:
    piece = exhaust(SCENARIOS["collision"], limit_schedules=3)
    with pytest.raises(UsageError, match="collision"):
        exhaust(SCENARIOS["two-writers"], earlier=piece)


FINDS = """
from harness import coverage, planted
from harness.scenarios import SCENARIOS
planted.BUGS[{bug!r}].plant()
seen = coverage.exhaust(SCENARIOS[{name!r}], findings_max=1, limit_s=60)
assert seen.findings, (seen.schedules, seen.complete)
print(seen.schedules, seen.findings[0].property_name)
"""
PLANTED = {
    "no-commit-lock": "collision",
    "visible-before-publish": "snapshots",
    "time-before-location": "two-writers",
    "intent-ignored": "two-writers",
    "repair-stops-short": "two-writers",
    "snapshot-ignored": "snapshots",
}


@pytest.mark.share(2)
@pytest.mark.parametrize("bug", PLANTED)
def test_all_schedules_show_a_planted_bug(bug: str) -> None:
    """In a process of its own: a planted bug stays."""
    code = FINDS.format(bug=bug, name=PLANTED[bug])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "where", ["harness.oracle.Judge.findings", "harness.stepped.simulated.Simulated.step"]
)
def test_a_search_that_is_interrupted_in_the_middle_loses_nothing(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exhaust(SCENARIOS["collision"]).to_data()
    owner, name = where.rsplit(".", 1)
    module, kind = owner.rsplit(".", 1)
    target = getattr(importlib.import_module(module), kind)
    original = getattr(target, name)
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 120:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(target, name, interrupted)
    piece = exhaust(SCENARIOS["collision"])
    assert not piece.complete
    rest = exhaust(SCENARIOS["collision"], earlier=Exhausted.from_data(piece.to_data())).to_data()
    assert {**rest, "seconds": 0} == {**whole, "seconds": 0}


def ends(stage: Simulated, watch: Watch, preemptions: int | None) -> set[str]:
    """Every way that the schedules of a scenario end: histories, deaths, and every byte of the store."""
    found = set()
    search = Exhaustive(watch, syncpoints.APPENDS, preemptions=preemptions)
    while search.begin(stage.scenario, 0):
        try:
            execution = conduct(stage, search)
        except Redundant:
            stage.end()
            search.give_up()
            continue
        told = [[structs.replace(event, time=0) for event in events] for events in execution.histories]
        died = sorted((kill.process, kill.point, kill.torn) for kill in execution.kills)
        aftermath = [structs.replace(event, time=0) for event in execution.aftermath]
        image = [xxh3_128_hexdigest(data) for data in stage.place.images().values()]
        found.add(json.dumps(to_builtins([told, died, aftermath, image]), sort_keys=True))
    return found


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("scenario", "preemptions"),
    [
        (SCENARIOS["snapshots"], 1),
        (
            Scenario("short", (Program("writer", (put(0),)), Program("writer", (put(0),))), (1,), torn=False),
            1,
        ),
    ],
    ids=["snapshots", "two writers of one key"],
)
def test_schedules_that_nothing_was_taken_from_end_in_no_other_way(
    scenario: Scenario, preemptions: int
) -> None:
    """The bounded search is not reduced: whatever it comes to, the reduced one must have come to as well."""
    with Simulated(scenario) as stage, Watch(stage) as watch:
        reduced = ends(stage, watch, None)
        assert len(reduced) > 1
        assert ends(stage, watch, preemptions) <= reduced
