"""What is said of explorations, from what they left behind, and the steps of their failures as a chart."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from told import context, outcomes

from harness import explore
from harness.explore_job import Found, Options
from harness.explore_jobs import Counts, Record
from harness.failure import load
from harness.scenario import Program, Transaction
from harness.schedule.base import Choice
from harness.stepped.program import BEGIN
from harness.verdict import Outcome
from harness.viewer import steps
from harness.viewer.of_record import facts_of
from harness.viewer.words import headed

FAILURE = Path(__file__).parent.parent / "schedules" / "claim-skips-repair.json"


def explored(directory: Path, *, kept: bool = True, **fields: Any) -> Path:
    """A run directory with one finding, whose failure is in a file of its own if it is ``kept``."""
    failure, _ = load(FAILURE)
    directory.mkdir()
    found = Found(
        number=7,
        scenario="default",
        strategy="pct",
        kind=failure.kind,
        property_name=failure.property_name,
        message=failure.message,
        file="failure-1.json",
    )
    options = Options(scenarios=("default",), seed=3, seconds=20.0, bug=failure.bug)
    counts = Counts(schedules=8, steps=1500, kills=7, seconds=0.5, by_scenario={"default": 8})
    record = Record(**{"options": options, "counts": counts, "found": [found], **fields})
    explore.write(directory / explore.RECORD, record)
    if kept:
        shutil.copy(FAILURE, directory / "failure-1.json")
        (directory / "failure-1.txt").write_text(failure.page, encoding="utf-8")
    return directory


def test_an_exploration_is_told_with_its_failure_and_every_property(tmp_path: Path) -> None:
    directory = explored(tmp_path / "run of mine")
    facts = facts_of(directory)
    assert (facts.what, facts.engine, facts.outcome) == ("explore", "kvs", Outcome.VIOLATION)
    assert facts.sentence == "8 schedules, 7 kills, 1 kind of violation"
    assert outcomes(facts)["structure"] is Outcome.VIOLATION
    assert outcomes(facts)["atomicity"] is outcomes(facts)["traffic"] is Outcome.OK
    (failed,) = facts.failures
    words = dict(failed.words)
    assert words["killed"].startswith("writer 1 at publish.after_length (hit 2), holding WRITER[0], COMMIT")
    assert words["planted"] == "claim-skips-repair"
    assert words["found"].startswith("by pct, seed 3, schedule 7 of scenario default")
    assert "replay" not in words, "the line in the page of text is of where it was written"
    assert shlex.split(failed.replay) == ["harness", "replay", str(directory / "failure-1.json")]
    assert (failed.reproduced, failed.file, failed.page) == ("10/10", "failure-1.json", "failure-1.txt")
    assert "KILLED at publish.after_length" in failed.trace
    assert failed.trace.lstrip().startswith("step ")
    assert "replay" not in failed.trace
    assert failed.signature == "structure: revision.time_known: key # has BUSY with C=#"


def test_a_finding_whose_file_is_lost_is_still_told(tmp_path: Path) -> None:
    (failed,) = facts_of(explored(tmp_path / "run", kept=False)).failures
    assert failed.message.startswith("revision.time_known")
    assert "failure-1.json cannot be read" in dict(failed.words)["lost"]
    assert failed.replay == failed.file == ""


def test_too_little_was_explored_is_told_as_what_is_lacking(tmp_path: Path) -> None:
    counts = Counts(schedules=8, steps=99, seconds=0.5, by_scenario={"default": 8}, undecided=2)
    facts = facts_of(explored(tmp_path / "run", found=[], counts=counts))
    assert facts.outcome is Outcome.UNKNOWN
    assert {failed.message for failed in facts.failures} == {
        "nobody was killed",
        "2 times durability or resolution could not be decided",
    }
    assert outcomes(facts)["durability"] is outcomes(facts)["traffic"] is Outcome.UNKNOWN
    assert outcomes(facts)["atomicity"] is Outcome.OK


def test_of_nothing_nothing_is_ok(tmp_path: Path) -> None:
    facts = facts_of(explored(tmp_path / "run", found=[], counts=Counts()))
    assert set(outcomes(facts).values()) == {Outcome.UNKNOWN}


@pytest.mark.parametrize(
    "options",
    [
        Options(scenarios=("default", "claims"), seed=0, schedules=500, seconds=None, jobs=2),
        Options(scenarios=("two-writers",), strategy="exhaustive", preemptions=0, seconds=5.5, shrink=False),
        Options(scenarios=("default",), seed=9, until_coverage=0.25, bug="no-commit-lock", keep_going=True),
    ],
)
def test_the_line_that_explores_once_more_means_the_same_options(options: Options, tmp_path: Path) -> None:
    facts = facts_of(explored(tmp_path / "run", options=options, found=[]))
    meant = context(facts.again)
    assert meant.pop("scenarios").split(",") == list(options.scenarios)
    assert meant.pop("no_shrink") is not options.shrink
    assert meant.pop("strategy") in (options.strategy, None)
    assert (meant["jobs"] or 1, meant["seed"], meant["schedules"], meant["seconds"] or 30.0) == (
        options.jobs,
        options.seed,
        options.schedules,
        options.seconds or 30.0,
    )
    for name in ("until_coverage", "preemptions", "bug", "keep_going"):
        assert meant[name] == getattr(options, name)


def test_a_failure_alone_and_what_the_command_printed_are_told_too(tmp_path: Path) -> None:
    facts = facts_of(FAILURE)
    assert (facts.outcome, facts.what) == (Outcome.VIOLATION, "explore")
    assert facts.again == f"harness replay {FAILURE}"

    directory = explored(tmp_path / "run")
    printed = tmp_path / "printed.json"
    printed.write_bytes(msgspec.json.encode(explore.judged(explore.load(directory), directory)))
    assert facts_of(printed) == facts_of(directory)


def test_the_steps_of_a_failure_are_marks_in_a_lane_for_each_process() -> None:
    failure, _ = load(FAILURE)
    marks = steps.steps(failure)
    assert [mark.number for mark in marks[:-1]] == list(range(1, len(failure.choices) + 1))
    (killed,) = (mark for mark in marks if mark.kind == "killed")
    assert killed.process == 1
    assert "is killed at publish.after_length" in killed.words
    assert "operation 1: put, writes key/0, key/1" in killed.words
    last = marks[-1]
    assert (last.kind, last.number, last.process) == ("violation", len(failure.choices) + 1, 4)
    assert failure.message in last.words

    figure = steps.chart(failure).to_dict()
    assert {trace["name"] for trace in figure["data"]} == {mark.kind for mark in marks}
    assert figure["layout"]["yaxis"]["categoryarray"] == ["survivor 4", "writer 2", "writer 1"]
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(marks)


def test_each_operation_of_a_process_is_named_by_what_it_means() -> None:
    failure, _ = load(FAILURE)
    twice = Program(
        "writer", (Transaction("get", reads=(1,)), Transaction("update", reads=(0,), deletes=(1,)))
    )
    scenario = msgspec.structs.replace(failure.scenario, programs=(twice,))
    choices = (
        *(Choice(1, BEGIN), Choice(1, "commit.after_lock"), Choice(1, "commit.after_lock")),
        Choice(1, BEGIN),
    )
    found = steps.steps(msgspec.structs.replace(failure, scenario=scenario, choices=choices, page=""))
    assert [step.kind for step in found] == ["begins", "moves", "waits", "begins", "violation"]
    assert found[2].words.endswith("tries again at commit.after_lock<br>operation 1: get, reads key/1")
    assert found[3].words.endswith("operation 2: update, reads key/0, removes key/1")


def test_what_a_store_said_is_no_markup_in_a_chart() -> None:
    failure = msgspec.structs.replace(load(FAILURE)[0], message="<b>5 & 6</b>", page="")
    assert steps.steps(failure)[-1].words == "structure: &lt;b&gt;5 &amp; 6&lt;/b&gt;"


def test_the_lines_of_a_page_of_text_are_pairs() -> None:
    page = "VIOLATION  x   message\n  killed      writer 1\n              and more\n  expected    all\nnot indented"
    assert headed(page) == [("killed", "writer 1\nand more"), ("expected", "all")]
