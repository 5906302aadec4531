"""The planted bugs for exploring: found without being told where to look, made small, the same over real processes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import planted, selftest, survey
from harness.errors import UsageError
from harness.planted import (
    claiming,
    committing,
    housekeeping,
    locking,
    outages,
    persisting,
    repairing,
    viewing,
)
from harness.powerloss import survey as cuts
from harness.scenarios import EXHAUSTIVE, GENERAL, SCENARIOS

README = Path(survey.__file__).parent / "README.md"


def test_there_are_bugs_of_every_kind_and_at_least_sixteen_that_exploring_is_to_find() -> None:
    modules = (locking, committing, repairing, claiming, viewing, housekeeping, persisting)
    kinds = [module.BUGS for module in modules]
    explored = set(survey.names())
    assert len(explored) >= 16
    assert all(len(explored & kind.keys()) >= 2 for kind in kinds)
    assert sum(map(len, [*kinds, outages.BUGS])) == len(planted.BUGS)


def test_every_bug_is_found_by_campaigns_by_exploring_or_by_power_cuts() -> None:
    assert {*survey.names(), *selftest.names(), *cuts.names()} >= planted.BUGS.keys()


def test_what_only_a_power_cut_shows_is_left_to_power_cuts() -> None:
    assert outages.BUGS.keys() <= set(cuts.names())
    assert not outages.BUGS.keys() & {*survey.names(), *selftest.names()}


def test_the_readme_names_the_bugs_that_the_selftest_leaves_to_exploring() -> None:
    left = [name for name, bug in planted.BUGS.items() if not bug.campaign]
    told = README.read_text().split("one trial for each of them but ")[1].split(", which")[0]
    assert told.replace(" and ", ", ").replace("`", "").split(", ") == left


def test_what_is_explored_by_default_are_scenarios_in_which_processes_die() -> None:
    assert SCENARIOS.keys() > {*GENERAL, *EXHAUSTIVE}
    assert not set(GENERAL) & set(EXHAUSTIVE)
    assert all(SCENARIOS[name].kills for name in GENERAL)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "bug",
    [
        "unlocked-before-account",
        "cleared-before-account",
        "key-after-time",
        "repair-clears-too-early",
        "stale-record-redone",
        "claim-skips-repair",
        "absent-not-validated",
        "growth-not-retired",
        "acknowledged-before-sync",
        "rebuild-skips-gap-rule",
    ],
)
def test_exploring_finds_a_bug_alone_makes_it_small_and_real_processes_show_it_ten_times(bug: str) -> None:
    (row,) = survey.survey([bug])
    assert row.passed, row
    assert (row.bug, row.meaning) == (bug, planted.BUGS[bug].meaning)
    assert row.scenario in GENERAL
    assert row.schedules >= 1
    assert row.reproduced == "10/10"
    assert row.after["processes"] <= 3
    assert row.after["transactions"] <= 4
    assert row.before["steps"] > row.after["steps"]
    assert row.property_name
    assert row.message


def test_a_bug_that_is_not_found_in_time_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(planted.BUGS, "harmless", planted.Bug("nothing at all", ()))
    monkeypatch.setattr(survey, "LIMIT_S", 0.5)
    (row,) = survey.survey(["harmless"])
    assert row.schedules > 0
    assert not row.found
    assert not row.passed


FOUND = survey.Row("bug", "", True, 9, 1.5, after={"processes": 3, "transactions": 4}, reproduced="10/10")


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"seconds": survey.LIMIT_S + 1}, False),
        ({"after": {"processes": 4, "transactions": 4}}, False),
        ({"after": {"processes": 3, "transactions": 5}}, False),
        ({"after": {}}, False),
        ({"reproduced": "9/10"}, False),
        ({"reproduced": ""}, False),
    ],
)
def test_a_row_passes_only_if_it_was_in_time_small_and_the_same_every_time(
    changed: dict[str, object], passed: bool
) -> None:
    assert msgspec.structs.replace(FOUND, **changed).passed is passed


@pytest.mark.parametrize("name", ["nonsense", "posix-locks"])
def test_only_what_exploring_is_to_find_can_be_surveyed(name: str) -> None:
    with pytest.raises(UsageError, match=f"not expected to find '{name}'.*no-commit-lock"):
        next(survey.survey([name]))
