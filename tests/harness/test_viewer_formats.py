"""The same facts as a comment on a pull request, as JUnit XML, and as annotations of a workflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from junitparser import Error, Failure, JUnitXml, TestSuite

from harness.verdict import Outcome
from harness.viewer.annotations import ANNOTATIONS_MAX, annotations
from harness.viewer.facts import Checked, Facts, Failed, Sheet
from harness.viewer.junit import junit
from harness.viewer.markdown import CHARACTERS_MAX, FAILURES_MAX, cell, comment, fenced, plain

DATA = Path(__file__).parent / "data"
NASTY = "key <b>|`5`|</b> of @owner is ```gone``` & *lost* #12\nsecond line \x1b[31m"

FAILED = Failed(
    property_name="isolation",
    message="process 1 operation 1 and process 2 operation 1 both committed at T=1",
    words=(("killed", "writer 2 at publish.after_key (hit 18)"), ("expected", "one commit for each T")),
    replay="harness replay results/runs/x/failure-1.json",
    reproduced="10/10",
    file="failure-1.json",
    page="failure-1.txt",
    trace="    step writer 1\n    1-10 operation 1: write key/0\n   >>> ok T=1",
    signature="isolation: # and # both committed at T=#",
)


def facts(**fields: Any) -> Facts:
    settings: dict[str, Any] = {
        "what": "explore",
        "engine": "kvs",
        "outcome": Outcome.VIOLATION,
        "sentence": "5 schedules, 3 kills, 1 kind of violation",
        "directory": "results/runs/x",
        "seconds": 12.34,
        "failures": (FAILED,),
        "checked": (
            Checked("atomicity", Outcome.OK, "5 schedules"),
            Checked("isolation", Outcome.VIOLATION, "5 schedules"),
            Checked("durability", Outcome.UNKNOWN, "5 schedules, 1 times not decided"),
        ),
        "figures": (("schedules", "5"), ("  per second", "17")),
        "sheets": (
            Sheet(
                title="Kills by sync point",
                headings=("sync point", "kills"),
                rows=(("commit.after_lock", "2"), ("a|b", "1")),
                numbers=("kills",),
            ),
        ),
        "settings": (("seed", "7"),),
        "environment": (("python", "3.11"),),
        "again": "harness explore --seed 7",
    }
    return Facts(**settings | fields)


# -- Markdown -----------------------------------------------------------------------------------------------


def test_the_comment_is_as_it_was_agreed() -> None:
    text = comment(facts())
    assert text == (DATA / "comment.md").read_text(encoding="utf-8")


def test_the_first_lines_of_a_comment_say_the_verdict() -> None:
    first, _, second, *_ = comment(
        facts(outcome=Outcome.OK, sentence="all is well", failures=())
    ).splitlines()
    assert (first, second) == ("### OK: harness explore, kvs, 12.3 s", "all is well")


def test_the_replay_line_is_alone_in_a_block_of_its_own() -> None:
    assert f"\n```sh\n{FAILED.replay}\n```\n" in comment(facts())


def test_what_a_store_says_is_no_markup() -> None:
    failed = msgspec.structs.replace(FAILED, message=NASTY, trace=NASTY, words=(("expected", NASTY),))
    text = comment(
        facts(failures=(failed,) * 7, checked=(Checked("x|y", Outcome.OK, NASTY),), sentence=NASTY)
    )
    outside = re.sub(r"^(`{4,})\w*\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "@owner" not in outside
    assert not re.search(r"(?<!\\)<b>|(?<!\\)\*lost|(?<!\\)`5`|#12", outside)
    assert "\x1b" not in text
    rows = [line for line in outside.splitlines() if line.startswith("| x")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4]
    assert text.count("````text") >= FAILURES_MAX, "a fence is longer than the ones inside"


def test_at_most_five_failures_are_told_in_full_and_the_rest_is_folded() -> None:
    failures = tuple(msgspec.structs.replace(FAILED, message=f"failure {n}") for n in range(8))
    text = comment(facts(failures=failures, more_failures=1000))
    assert text.count("VIOLATION  isolation") == FAILURES_MAX
    assert "<summary>1,003 more</summary>" in text
    assert "* isolation: failure 7" in text
    assert "* and 1,000 that are in the files of the run" in text
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize("length", [5_000, 200_000])
@pytest.mark.parametrize("field", ["failures", "trace", "sheets", "settings", "sentence", "replay", "words"])
def test_a_comment_is_never_too_long(field: str, length: int) -> None:
    long = "word & <tag> " * (length // 13)
    rows = tuple((str(n), long) for n in range(70))
    changed: dict[str, Any] = {
        "failures": {"failures": (msgspec.structs.replace(FAILED, message=long),) * 70},
        "trace": {"failures": (msgspec.structs.replace(FAILED, trace=long),) * 3},
        "sheets": {"sheets": (Sheet(title="t", headings=("a", "b"), rows=rows),) * 3},
        "settings": {"settings": rows},
        "sentence": {"sentence": long},
        "replay": {"failures": (msgspec.structs.replace(FAILED, replay=long),)},
        "words": {"failures": (msgspec.structs.replace(FAILED, words=rows * 9),)},
    }[field]
    text = comment(facts(**changed))
    assert len(text) < CHARACTERS_MAX < 65_536
    assert text.startswith("### VIOLATION: harness explore")
    assert text.count("<details>") == text.count("</details>")
    assert text.count("```") % 2 == 0


def test_a_comment_on_nothing_is_one_all_the_same() -> None:
    empty = Facts(
        what="run", engine="e", outcome=Outcome.UNKNOWN, sentence="nothing", directory=".", seconds=0
    )
    assert comment(empty) == "### UNKNOWN: harness run, e\n\nnothing\n"


def test_names_with_underscores_are_left_as_they_are() -> None:
    assert plain("commit.after_lock") == "commit.after_lock"
    assert plain("_so_ and __init__") == r"\_so\_ and \__init_\_"
    assert cell("  per second") == "&nbsp;&nbsp;per second"
    assert fenced("a ```` b", "text").startswith("`````text\n")


# -- JUnit --------------------------------------------------------------------------------------------------


def suite_of(*runs: Facts) -> TestSuite:
    root = JUnitXml.fromstring(junit(runs).encode())
    suite = next(iter(root))
    assert isinstance(suite, TestSuite)
    return suite


def test_a_run_is_a_suite_with_a_case_for_each_property() -> None:
    suite = suite_of(facts())
    assert suite.name == "harness explore kvs (x)"
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (3, 1, 1, 0)
    assert suite.time == pytest.approx(12.34, abs=0.01)
    cases = {case.name: case for case in suite}
    assert {case.classname for case in cases.values()} == {"harness.explore.kvs"}
    assert sum(case.time for case in cases.values()) == pytest.approx(12.34, abs=0.01)
    assert cases["atomicity"].is_passed
    assert cases["atomicity"].system_out == "5 schedules"
    (violated,) = cases["isolation"].result
    assert isinstance(violated, Failure)
    assert (violated.message, violated.type) == (FAILED.message, "VIOLATION isolation")
    assert violated.text is not None
    assert (
        "  replay      harness replay results/runs/x/failure-1.json     (10/10)" in violated.text.splitlines()
    )
    assert "   >>> ok T=1" in violated.text.splitlines()
    (unknown,) = cases["durability"].result
    assert isinstance(unknown, Error)
    assert unknown.message == "5 schedules, 1 times not decided"
    properties = {each.name: each.value for each in suite.properties()}
    assert properties == {"seed": "7", "python": "3.11", "again": "harness explore --seed 7"}


def test_the_attributes_are_those_that_readers_of_junit_expect() -> None:
    text = junit([facts(), facts(outcome=Outcome.OK, failures=(), checked=(Checked("x", Outcome.OK),))])
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<testsuites ')
    root = ElementTree.fromstring(text.encode())  # noqa: S314 - our own
    assert root.tag == "testsuites"
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
    }
    suites = list(root)
    assert [suite.tag for suite in suites] == ["testsuite", "testsuite"]
    assert sum(float(suite.get("time", "")) for suite in suites) == pytest.approx(float(root.get("time", "")))
    for suite in suites:
        assert {"name", "tests", "failures", "errors", "skipped", "time"} <= set(suite.keys())
        head, *cases = suite
        assert head.tag == "properties"
        assert {child.tag for child in cases} == {"testcase"}
        assert len(cases) == int(suite.get("tests", ""))
        for case in cases:
            assert list(case.keys()) == ["name", "classname", "time"]
            assert [child.tag for child in case] in ([], ["failure"], ["error"], ["system-out"])


@pytest.mark.parametrize("outcome", [Outcome.VIOLATION, Outcome.UNKNOWN])
@pytest.mark.parametrize(
    "fields",
    [
        {"checked": (), "failures": ()},
        {"checked": (Checked("x", Outcome.OK),), "failures": ()},
        {"checked": (Checked("x", Outcome.OK),), "failures": (FAILED,)},
        {"checked": (Checked("isolation", Outcome.OK),), "failures": (FAILED,)},
    ],
)
def test_no_run_that_is_not_ok_passes(outcome: Outcome, fields: dict[str, Any]) -> None:
    suite = suite_of(facts(outcome=outcome, **fields))
    assert (suite.failures > 0) is (outcome is Outcome.VIOLATION)
    assert (suite.errors > 0) is (outcome is Outcome.UNKNOWN)
    assert not any(case.is_passed for case in suite if case.name == FAILED.property_name)


def test_an_ok_run_passes_and_is_counted() -> None:
    suite = suite_of(facts(outcome=Outcome.OK, checked=(), failures=(), sentence="9 errands"))
    assert (suite.tests, suite.failures, suite.errors) == (1, 0, 0)
    (case,) = suite
    assert (case.name, case.system_out) == ("verdict", "9 errands")


def test_no_byte_that_a_store_holds_breaks_the_xml() -> None:
    nasty = "".join(map(chr, range(0x20))) + '<&>"\ud800\ufffe]]>'
    failed = msgspec.structs.replace(FAILED, message=nasty, trace=nasty, property_name=nasty)
    text = junit([facts(failures=(failed,), checked=(), sentence=nasty, settings=((nasty, nasty),))])
    root = ElementTree.fromstring(text.encode())  # noqa: S314 - our own
    (failure,) = root.iter("failure")
    assert "\\x00\\x01" in (failure.text or "")
    assert '<&>"' in (failure.text or "")


# -- annotations --------------------------------------------------------------------------------------------


def test_an_annotation_names_the_property_and_how_to_see_it_again() -> None:
    (line,) = annotations(facts())
    assert line == (
        "::error title=harness explore kvs%3A isolation violated::"
        "process 1 operation 1 and process 2 operation 1 both committed at T=1"
        "%0Areplay: harness replay results/runs/x/failure-1.json (10/10)"
    )


def test_an_annotation_is_one_line_whatever_is_in_it() -> None:
    failed = Failed(property_name="a:b,c", message="100% of\r\nkeys: gone, ::error::")
    assert annotations(facts(failures=(failed,))) == [
        "::error title=harness explore kvs%3A a%3Ab%2Cc violated::100%25 of%0D%0Akeys: gone, ::error::"
    ]


def test_what_is_unknown_is_an_error_and_ok_is_nothing() -> None:
    lacking = Failed(property_name="traffic", message="nobody was killed")
    assert annotations(facts(outcome=Outcome.UNKNOWN, failures=(lacking,))) == [
        "::error title=harness explore kvs%3A traffic unknown::nobody was killed"
    ]
    assert annotations(facts(outcome=Outcome.UNKNOWN, failures=(), sentence="too little")) == [
        "::error title=harness explore kvs%3A UNKNOWN::too little"
    ]
    assert annotations(facts(outcome=Outcome.OK, failures=())) == []


@pytest.mark.parametrize(("failures", "more"), [(10, 0), (11, 0), (300, 5), (10, 5), (2, 5)])
def test_no_annotation_is_dropped_without_a_word(failures: int, more: int) -> None:
    lines = annotations(facts(failures=(FAILED,) * failures, more_failures=more))
    assert len(lines) <= ANNOTATIONS_MAX
    told = sum("isolation violated" in line for line in lines)
    if told < failures + more:
        assert (
            lines[-1]
            == f"::error title=harness explore kvs::and {failures + more - told:,} more, in results/runs/x"
        )
    else:
        assert len(lines) == failures
