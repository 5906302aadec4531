"""The torture as tests: seconds of ``kill -9`` for each engine, some schedules, some cuts. More is for the command."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Torture

FEW = ("traffic",)
"""A few seconds are too few for three kills at every rare point: of those alone nothing need be known."""


@pytest.mark.parametrize(("engine", "seconds"), [("kvs", 6), ("sqlite", 3)])
def test_processes_that_are_killed_while_they_write_break_no_promise(
    engine: str, seconds: int, torture: Torture
) -> None:
    result = torture(engine, seconds=seconds, unknown=FEW)
    assert result.counts["kills"] >= 5 * seconds
    assert result.counts["operations"] >= 50 * seconds


def test_no_schedule_that_is_explored_breaks_a_promise(torture: Torture) -> None:
    result = torture.explore(schedules=200, unknown=FEW)
    assert result.counts["schedules"] >= 200
    assert result.counts["kills"] >= 50


def test_no_power_cut_breaks_a_promise(torture: Torture) -> None:
    result = torture.powerloss(images=60, cuts=60, scenario="durable", unknown=FEW)
    assert result.counts["images"] >= 60
