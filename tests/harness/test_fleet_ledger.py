"""The ledger of a fleet: every number once, whatever became of whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.errand import EXPLORE, POWERLOSS, RUN, Result
from harness.errors import HarnessError, HistoryError, UsageError
from harness.fleet import ledger
from harness.fleet.ledger import LEDGER, Entry, Ledger, Plan, audit
from harness.verdict import Outcome

PLAN = Plan(seed=3, errands=4)


def result_of(number: int, plan: Plan = PLAN) -> Result:
    """What came of errand ``number``."""
    planned = plan.errand_at(number)
    return Result(
        number=number,
        kind=planned.kind,
        seed=planned.seed,
        line=planned.line,
        exit_code=0,
        outcome=Outcome.OK,
    )


def test_every_errand_follows_from_its_number() -> None:
    errands = [PLAN.errand_at(number) for number in range(60)]
    assert errands == [PLAN.errand_at(number) for number in range(60)]
    assert [each.kind for each in errands[:4]] == [RUN, EXPLORE, POWERLOSS, RUN]
    assert len({each.seed for each in errands}) == 60
    assert {each.shrinks for each in errands} == {False}
    saved = msgspec.json.decode(msgspec.json.encode(PLAN), type=Plan)
    assert saved == PLAN


def test_what_is_recorded_is_not_recorded_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as book:
        assert book.add(Entry(result_of(1)))
        assert not book.add(Entry(msgspec.structs.replace(result_of(1), seconds=9.0)))
        assert book.add(Entry(result_of(1), "isolation: #"))
        assert not book.add(Entry(result_of(2), "isolation: #"))
    with Ledger(tmp_path) as book:
        assert book.results == {1: result_of(1)}
        assert book.shrunk == {"isolation: #": result_of(1)}
        assert not book.add(Entry(result_of(1)))
    assert audit(PLAN, tmp_path) == (1, (0, 2, 3))


def test_a_line_that_was_torn_by_a_kill_is_not_recorded_and_the_errand_is_done_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as book:
        book.add(Entry(result_of(0)))
        book.add(Entry(result_of(1)))
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes()[:-7])
    with Ledger(tmp_path) as book:
        assert list(book.results) == [0]
        assert book.add(Entry(result_of(1)))
    assert audit(PLAN, tmp_path) == (2, (2, 3))


def test_a_ledger_that_makes_no_sense_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("{}\n")
    with pytest.raises(HistoryError, match=r"ledger\.jsonl:1: "):
        Ledger(tmp_path)
    (tmp_path / LEDGER).unlink()
    Ledger(tmp_path).__exit__()  # nobody holds it any more


def test_two_cannot_drive_the_same_fleet(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(UsageError, match="another process drives the fleet"):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([result_of(0), result_of(2), result_of(0)], r"more than once: errands \[0\]"),
        ([result_of(0, Plan(seed=4))], "not of the same fleet"),
        ([msgspec.structs.replace(result_of(0), kind=EXPLORE)], "not of the same fleet"),
    ],
)
def test_a_seed_that_is_there_twice_or_is_another_one_is_seen(
    results: list[Result], words: str, tmp_path: Path
) -> None:
    lines = b"".join(msgspec.json.encode(Entry(result)) + b"\n" for result in results)
    (tmp_path / LEDGER).write_bytes(lines)
    with pytest.raises(HarnessError, match=words):
        audit(PLAN, tmp_path)


def test_of_a_fleet_without_a_number_of_errands_the_gaps_are_missing(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(PLAN, errands=None)
    with Ledger(tmp_path) as book:
        for number in (0, 1, 4):
            book.add(Entry(result_of(number)))
    assert audit(plan, tmp_path) == (3, (2, 3))


def test_what_holds_no_plan_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        ledger.load(tmp_path)
    (tmp_path / ledger.PLAN).write_text("[]")
    with pytest.raises(UsageError, match="makes no sense"):
        ledger.load(tmp_path)
