"""The facts of runs as JUnit XML, which every CI can show: a suite for each run, a case for each property.

A violation is a failure, and what is unknown an error: ignorance is never success. The attributes are those of the
schema that Jenkins and GitLab read (name, tests, failures, errors, skipped, time; of a case name, classname, time).
"""

# mypy: allow-untyped-calls
# (junitparser is typed, but not everywhere)

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Final

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from harness.verdict import Outcome
from harness.viewer.facts import Checked, Facts, Failed

VERDICT: Final = "verdict"
"""The case of a run whose verdict none of its properties explains."""
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""
_RESULTS: Final = {Outcome.VIOLATION: Failure, Outcome.UNKNOWN: Error}
_ROOT: Final = "harness"


def junit(runs: Iterable[Facts]) -> str:
    """The XML of ``runs``, each of them a suite."""
    root = JUnitXml(_ROOT)
    for facts in runs:
        root.append(_suite(facts))  # add_testsuite would make one of two that have the same name
    root.update_statistics()
    text: bytes = root.tostring()
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text.decode("utf-8")}\n'


def _suite(facts: Facts) -> TestSuite:
    suite = TestSuite(_legal(f"{_ROOT} {facts.what} {facts.engine} ({PurePath(facts.directory).name})"))
    for name, value in (*facts.settings, *facts.environment, ("again", facts.again)):
        if value:
            suite.add_property(_legal(name.strip()), _legal(value))
    rows = list(_rows(facts))
    # All properties were looked at in the same time: each is given its share of it.
    share = facts.seconds / len(rows)
    suite.add_testcases([_case(facts, row, failures, share) for row, failures in rows])
    return suite


def _rows(facts: Facts) -> Iterator[tuple[Checked, list[Failed]]]:
    """Every property with its failures. A failure of a property that is not among those checked makes it one, and at
    least one case says what the verdict of the run is.
    """
    by_name: dict[str, list[Failed]] = {}
    for failed in facts.failures:
        by_name.setdefault(failed.property_name, []).append(failed)
    told = {Outcome.OK}
    for row in facts.checked:
        failures = by_name.pop(row.property_name, [])
        # What went wrong is wrong, whatever the table says of it.
        outcome = facts.outcome if failures and row.outcome is Outcome.OK else row.outcome
        told.add(outcome)
        yield Checked(row.property_name, outcome, row.words), failures
    for name, failures in by_name.items():
        told.add(facts.outcome)
        yield Checked(name, facts.outcome), failures
    if facts.outcome not in told or not (facts.checked or facts.failures):
        yield Checked(VERDICT, facts.outcome, facts.sentence), []


def _case(facts: Facts, row: Checked, failures: list[Failed], seconds: float) -> TestCase:
    case = TestCase(
        _legal(row.property_name), _legal(f"{_ROOT}.{facts.what}.{facts.engine}"), round(seconds, 3)
    )
    kind = _RESULTS.get(row.outcome)
    if kind is not None:
        message = failures[0].message if failures else row.words or facts.sentence
        result = kind(_legal(message), _legal(f"{row.outcome} {row.property_name}"))
        result.text = _legal("\n\n".join(map(_told, failures)) or f"{row.outcome} {message}")
        case.result = result
    elif row.words:
        case.system_out = _legal(row.words)
    return case


def _told(failed: Failed) -> str:
    """A failure in full: its message, its words, every step, and the line that shows it again."""
    lines = [f"{failed.property_name}: {failed.message}"]
    for heading, text in failed.words:
        first, *rest = text.splitlines() or [""]
        lines += [f"  {heading:<11} {first}", *(f"  {'':<11} {line}" for line in rest)]
    if failed.trace:
        lines += ["", failed.trace, ""]
    if failed.replay:
        lines.append(
            f"  {'replay':<11} {failed.replay}" + f"     ({failed.reproduced})" * bool(failed.reproduced)
        )
    return "\n".join(lines)


def _legal(text: str) -> str:
    return _ILLEGAL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
