"""The simulation against reality: the same schedules over greenlets and over real processes must do the same.

Everything that an execution is made of is compared: the steps (what each process stood at when it was chosen, so every
point that it came to), the kills with what everybody held, every event of every process with the results of its
operations, the contents, revisions and findings of whoever opens the store when all are gone, and in the end every byte
of the store but for the process ids in it. A difference is a mistake in the simulation (or in what steps the real
ones), never in the store, which was the same both times.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.scenarios import SCENARIOS
from harness.schedule.pct import Pct
from harness.schedule.random_walk import RandomWalk
from harness.stepped.base import Actor
from harness.stepped.execution import Execution, conduct
from harness.stepped.place import Place
from harness.stepped.real import Real
from harness.stepped.simulated import Simulated
from kvs import layout, syncpoints

SCHEDULES = 2_000
CHUNK = 50
CHUNKS = {
    "default": 7,
    "durable": 4,
    "speed": 6,
    "overtaken": 6,
    "claims": 6,
    "collision": 4,
    "two-writers": 2,
    "repairer-killed": 2,
    "snapshots": 1,
    "wide": 2,
}
"""How many chunks of ``CHUNK`` schedules of each scenario."""

_IMAGE_BYTES = 1 << 16


def test_two_thousand_schedules_are_compared() -> None:
    assert sum(CHUNKS.values()) * CHUNK == SCHEDULES


def compare(scenario_name: str, seed: int, count: int) -> str:
    """Play ``count`` schedules both ways; the first difference, in words, "" if there is none."""
    scenario = SCENARIOS[scenario_name]
    points = list(syncpoints.POINTS)
    strategies = (RandomWalk(seed, 150, points), Pct(seed, 150, points))
    kills = 0
    with Place(scenario) as place, Simulated(scenario, place) as simulated, Real(scenario, place) as real:
        for number in range(count):
            strategy = strategies[number % 2]
            strategy.begin(scenario, number)
            expected = conduct(simulated, strategy)
            expected_bytes = image(place)
            strategy.begin(scenario, number)
            seen = conduct(real, strategy)
            difference = first_difference(expected, seen) or differing_byte(expected_bytes, image(place))
            if difference:
                return f"{scenario_name}, {type(strategy).__name__}({seed}), schedule {number}: {difference}"
            kills += len(seen.kills)
    assert kills or not scenario.kills, "not one process was killed"
    return ""


def first_difference(simulated: Execution, real: Execution) -> str:
    """Where two executions first differ, and what stands there."""
    for name, one, other in zip(Execution._fields, simulated, real, strict=True):
        if one != other:
            return f"{name}{_inside(one, other)}"
    return ""


def image(place: Place) -> dict[str, bytes]:
    """The bytes of every file of the store, but for process ids and the unused space far behind the tails."""
    found = {}
    for path in sorted(place.store.iterdir()):
        with path.open("rb") as file:
            found[path.name] = file.read(_IMAGE_BYTES)
    name = layout.index_name(0)
    words = memoryview(bytearray(found[name])).cast("Q")
    words[layout.H_OWNER_PID] = 0
    for slot in range(layout.WRITERS_MAX):
        words[layout.writer_word(slot) + layout.W_PID] = 0
    found[name] = words.tobytes()
    return found


def differing_byte(simulated: dict[str, bytes], real: dict[str, bytes]) -> str:
    """Which file differs, and where."""
    if list(simulated) != list(real):
        return f"files: simulated {list(simulated)}, real {list(real)}"
    for name, one in simulated.items():
        other = real[name]
        if one != other:
            at = next(i for i in range(len(one)) if one[i : i + 1] != other[i : i + 1])
            return f"{name} at byte {at}: simulated {one[at : at + 8].hex()}, real {other[at : at + 8].hex()}"
    return ""


def _inside(one: Any, other: Any) -> str:
    """The path to the first difference and both sides of it."""
    if isinstance(one, list) and isinstance(other, list):
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            if left != right:
                return f"[{index}]{_inside(left, right)}"
        longer = (one if len(one) > len(other) else other)[min(len(one), len(other))]
        return f": {len(one)} simulated and {len(other)} real ones; the first that has no match is {longer}"
    return f":\n  simulated {one}\n  real      {other}"


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("scenario", "chunk"), [(name, chunk) for name, count in CHUNKS.items() for chunk in range(count)]
)
def test_random_schedules_do_the_same_in_the_simulation_and_over_real_processes(
    scenario: str, chunk: int, torture_seed: int
) -> None:
    assert compare(scenario, torture_seed * 100 + chunk, CHUNK) == ""


# A simulation that is wrong on purpose must be told from reality.


def test_a_simulation_that_tears_nothing_is_told_from_reality(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Simulated.kill
    monkeypatch.setattr(Simulated, "kill", lambda self, actor, torn: whole(self, actor, 0 * torn))
    assert "simulated" in compare("speed", 1, 40)


def test_a_simulation_whose_dead_keep_their_locks_is_told_from_reality(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Simulated._release

    def release(self: Simulated, actor: Actor) -> None:
        if actor.state != "dead":
            whole(self, actor)

    monkeypatch.setattr(Simulated, "_release", release)
    assert "simulated" in compare("two-writers", 1, 40)


def test_a_simulation_that_lets_the_dead_go_on_is_told_from_reality(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Simulated.kill

    def kill(self: Simulated, actor: Actor, torn: int) -> None:
        self.step(actor)
        whole(self, actor, torn)

    monkeypatch.setattr(Simulated, "kill", kill)
    assert "simulated" in compare("speed", 1, 40)
