"""The facts of damaged files: how the trials ended, and each wrong answer with the damage that led to it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.checkers import traffic
from harness.damage.asking import OUTCOMES
from harness.damage.campaign import TRIALS_MIN, Finding, Report, Row, load
from harness.errors import UsageError
from harness.verdict import Outcome
from harness.viewer.facts import Checked, Facts, Failed, Sheet
from harness.viewer.words import read, seeded

WHAT: Final = "damage"
_ENGINE: Final = "kvs"


def facts_of_damage(path: Path) -> Facts:
    """The facts of a record of damaged files; its findings are looked for where it says, or in a directory beside it.

    Raises:
        UsageError: it cannot be read.
    """
    report = read(path, Report, "harness damage")
    failures = list(_failures(report, path))
    lacking = f"{report.trials:,} trials, not {TRIALS_MIN:,}" if report.outcome is Outcome.UNKNOWN else ""
    if lacking:
        failures = [Failed(property_name=traffic.NAME, message=lacking)]
    told = {failed.signature for failed in failures}
    return Facts(
        what=WHAT,
        engine=_ENGINE,
        outcome=report.outcome,
        sentence=sentence(report),
        directory=str(path.parent),
        seconds=report.seconds,
        failures=tuple(failures),
        more_failures=sum(number for kind, number in report.kinds.items() if kind not in told),
        checked=tuple(_checked(report, lacking)),
        figures=tuple(_figures(report)),
        sheets=(
            _sheet("By store", "store", report.subjects),
            _sheet("By what was done with the damaged store", "phase", report.phases),
        ),
        settings=(("seed", str(report.seed)), ("workers", str(report.workers)), ("started", report.started)),
        environment=tuple((name, str(value)) for name, value in (report.versions | report.machine).items()),
        again=seeded(report.command, report.seed),
    )


def facts_of_finding(path: Path) -> Facts:
    """The facts of one wrong answer that is kept in a file. Raises UsageError if it holds none."""
    failed = _failed(load(path), path, 1)
    return Facts(
        what=WHAT,
        engine=_ENGINE,
        outcome=Outcome.VIOLATION,
        sentence=f"{failed.property_name}: {failed.message}",
        directory=str(path.parent),
        seconds=0.0,
        failures=(failed,),
        checked=(Checked(failed.property_name, Outcome.VIOLATION, "1 trial"),),
        again=failed.replay,
    )


def sentence(report: Report) -> str:
    """The last line about damaged files, without the verdict."""
    rate = report.trials / max(report.seconds, 0.001)
    words = f"{report.trials:,} damaged inputs in {report.seconds:,.0f} s ({rate:,.0f}/s)"
    if report.total.violations:
        words += f", {report.total.violations:,} wrong answers"
    return words + (", interrupted" if report.interrupted else "")


def _failures(report: Report, path: Path) -> Iterator[Failed]:
    """One failure of each kind: the first whose file can be read, else what the record says of the kind."""
    left = dict(report.kinds)
    for name in report.files:
        file = Path(name) if Path(name).exists() else path.with_suffix("") / Path(name).name
        try:
            finding = load(file)
        except UsageError:  # it was moved or removed; its kind is counted below
            continue
        if finding.kind in left:
            yield _failed(finding, file, left.pop(finding.kind))
    for kind, number in left.items():
        words = (("seen", f"in {number:,} trials"), ("lost", "no file of this kind can be read any more"))
        yield Failed(property_name=kind, message=f"{number:,} wrong answers", words=words, signature=kind)


def _failed(finding: Finding, file: Path, number: int) -> Failed:
    words = [
        ("damage", finding.words),
        ("store", f"{finding.subject.name} ({finding.io})"),
        ("phase", finding.phase),
        ("trial", f"{finding.number:,} of seed {finding.seed}"),
    ]
    words += [("seen", f"in {number:,} trials")] if number > 1 else []
    return Failed(
        property_name=finding.kind,
        message=finding.message,
        words=tuple(words),
        replay=f"harness damage --replay {shlex.quote(str(file))}",
        file=str(file),
        signature=finding.kind,
    )


def _checked(report: Report, lacking: str) -> Iterator[Checked]:
    """A property for each phase: that no answer in it was wrong."""
    for row in report.phases:
        outcome = Outcome.VIOLATION if row.violations else Outcome.OK if row.trials else Outcome.UNKNOWN
        yield Checked(f"damaged {row.name}", outcome, f"{row.trials:,} trials")
    words = lacking or f"{report.trials:,} trials"
    yield Checked(traffic.NAME, Outcome.UNKNOWN if lacking else Outcome.OK, words)


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    yield "trials", f"{report.trials:,}"
    yield "  per second", f"{report.trials / max(report.seconds, 0.001):,.0f}"
    yield "  systematic", f"{report.systematic:,} of {report.systematic_of:,}"
    for name in OUTCOMES[:-1]:
        yield name, f"{getattr(report.total, name):,}"
    yield "violations", f"{report.total.violations:,}"


def _sheet(title: str, what: str, rows: Iterable[Row]) -> Sheet:
    numbers = ("trials", *OUTCOMES[:-1], "violations")
    return Sheet(
        title=title,
        headings=(what, *numbers),
        rows=tuple((row.name, *(f"{getattr(row, name):,}" for name in numbers)) for row in rows),
        numbers=numbers,
    )
