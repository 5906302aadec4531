"""Histories that others recorded from real systems, with the verdicts that they published: ours must be the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import check_history
from harness.cli import cli
from harness.verdict import Outcome

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "histories"
MISSING = "the recorded histories are not beside this repository (../shared/histories)"


def expected() -> list[dict[str, str]]:
    table = RECORDED / "EXPECTED.tsv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


ROWS = expected()


def test_the_recorded_histories_are_there() -> None:
    if not ROWS:
        pytest.skip(MISSING)
    assert len(ROWS) >= 23


def checked(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli, ["check", *arguments, "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    return done.return_value, json.loads(done.stdout)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["file"]))
def test_a_recorded_history_gets_its_published_verdict(row: dict[str, str]) -> None:
    path = str(RECORDED / row["file"])
    code, printed = checked(path, "--model", row["model"], "--property", row["property"])
    assert code == {"true": 0, "false": 1}[row["expected"]]
    assert printed["verdict"]["outcome"] == {"true": "OK", "false": "VIOLATION"}[row["expected"]]
    assert printed["verdict"]["property"] == row["property"]
    if row["expected"] == "false":
        evidence = printed["verdict"]["findings"][0]["details"]["evidence"]
        assert evidence["anomaly"]
        assert len(evidence["sentences"]) >= 2
        assert all(shown["line"] > 0 for shown in evidence["operations"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["file"]))
def test_the_format_that_a_file_is_said_to_have_reads_the_same(row: dict[str, str]) -> None:
    path = RECORDED / row["file"]
    by_sniffing = check_history(path, model=row["model"], property=row["property"])
    by_name = check_history(path, model=row["model"], property=row["property"], format=row["format"])
    assert by_sniffing == by_name
    assert by_name.outcome is not Outcome.UNKNOWN


PLAIN = [row for row in ROWS if row["model"] not in {"set", "list-append", "bank"}]
"""Of the others several models or properties fit, so that one must be named."""


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: str(row["file"]))
def test_the_model_is_guessed_where_only_one_is_possible(row: dict[str, str]) -> None:
    code, printed = checked(str(RECORDED / row["file"]))
    assert code == {"true": 0, "false": 1}[row["expected"]]
    assert printed["verdict"]["property"] == row["property"]
