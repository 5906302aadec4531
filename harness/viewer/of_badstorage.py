"""The facts of failing calls: which were made to fail, and what the store, or another engine, made of it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from harness.badstorage.campaign import Finding as Bad
from harness.badstorage.campaign import Report
from harness.badstorage.engines import Failed as Injected
from harness.badstorage.session import PROPERTIES
from harness.checkers import traffic
from harness.oracle import kind_of
from harness.verdict import Finding, Outcome
from harness.viewer.facts import Checked, Facts, Failed, Sheet
from harness.viewer.words import kinds, read, seeded

WHAT: Final = "badstorage"
RECORD: Final = "badstorage.json"
PEERS_PROPERTY: Final = "kept"
"""What is asked of other engines: whatever was told is there, whole."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``badstorage.json``: what ``harness badstorage --json`` prints. Of kvs there is a ``report``, of other engines
    there are ``runs``.
    """

    outcome: Outcome
    command: str = ""
    versions: dict[str, str] = {}
    tried: int | None = None
    report: Report | None = None
    seed: int | None = None
    seconds: float = 0.0
    interrupted: bool = False
    runs: list[Injected] | None = None


def facts_of_badstorage(path: Path) -> Facts:
    """The facts of a record of failing calls. Raises UsageError if it cannot be read."""
    record = read(path, Record, "harness badstorage --json")
    return facts_of_report(record, path.parent)


def facts_of_report(record: Record, directory: Path) -> Facts:
    """The facts of failing calls under kvs or under other engines."""
    if record.report is None:
        return _of_peers(record, record.runs or [], directory)
    return _of_kvs(record, record.report, directory)


def sentence(report: Report) -> str:
    """The last line about failing calls under kvs, without the verdict."""
    words = f"{report.tried:,} runs in {report.seconds:.1f} s{kinds(len(report.findings))}"
    return words + (", interrupted" if report.interrupted else "")


def peers_sentence(record: Record) -> str:
    """The last line about failing calls under other engines, without the verdict."""
    runs = record.runs or []
    count = len({run.configuration for run in runs})
    words = f"{len(runs):,} runs of {count} configurations, {sum(run.failed for run in runs):,} failed calls"
    return words + (", interrupted" if record.interrupted else "")


# -- kvs --------------------------------------------------------------------------------------------------------


def _of_kvs(record: Record, report: Report, directory: Path) -> Facts:
    failures = [_failed(finding) for finding in report.findings]
    lacking = _lacking(report)
    if not failures and lacking:
        failures = [Failed(property_name=traffic.NAME, message=lacking)]
    return Facts(
        what=WHAT,
        engine="kvs",
        outcome=record.outcome,
        sentence=sentence(report),
        directory=str(directory),
        seconds=report.seconds,
        failures=tuple(failures),
        checked=tuple(_checked(report, lacking)),
        figures=(
            ("runs", f"{report.tried:,}"),
            ("one fault", f"{report.singles:,} of {report.planned:,}"),
            ("two faults", f"{report.pairs:,}"),
            ("calls", f"{sum(report.calls.values()):,}"),
        ),
        sheets=(_calls(report),),
        settings=(("seed", str(report.seed)),),
        environment=tuple(record.versions.items()),
        again=seeded(record.command, report.seed),
    )


def _failed(finding: Bad) -> Failed:
    words = [("failed", text) for text in finding.failed]
    words += [("seen", f"in {finding.times:,} runs")] if finding.times > 1 else []
    return Failed(
        property_name=finding.property_name,
        message=finding.message,
        words=tuple(words),
        replay=f"harness badstorage --replay {shlex.quote(finding.line)}",
        signature=kind_of(Finding(finding.property_name, finding.message)),
    )


def _checked(report: Report, lacking: str) -> Iterator[Checked]:
    looked = f"{report.tried:,} runs"
    violated = {finding.property_name for finding in report.findings}
    outcome = Outcome.OK if report.tried else Outcome.UNKNOWN
    for name in [*PROPERTIES, *sorted(violated - PROPERTIES.keys())]:
        yield Checked(name, Outcome.VIOLATION if name in violated else outcome, looked)
    words = lacking or f"{looked}, {report.singles:,} of {report.planned:,} with one fault"
    yield Checked(traffic.NAME, Outcome.UNKNOWN if lacking else Outcome.OK, words)


def _lacking(report: Report) -> str:
    if not report.tried:
        return "no run was tried"
    if report.interrupted:
        return f"it was ended after {report.tried:,} runs, before all were tried that were to be"
    return ""


def _calls(report: Report) -> Sheet:
    return Sheet(
        title="Calls by workload",
        headings=("workload/variant", "calls"),
        rows=tuple((name, f"{count:,}") for name, count in report.calls.items()),
        numbers=("calls",),
    )


# -- other engines ----------------------------------------------------------------------------------------------


def _of_peers(record: Record, runs: list[Injected], directory: Path) -> Facts:
    names = list(dict.fromkeys(run.configuration for run in runs))
    tried = Counter(run.configuration for run in runs)
    broken = Counter(run.configuration for run in runs if run.findings)
    failures = [_injected(run, finding) for run in runs for finding in run.findings]
    if not failures and record.outcome is not Outcome.OK:
        failures = [Failed(property_name=traffic.NAME, message="it was ended before every call had failed")]
    return Facts(
        what=WHAT,
        engine=", ".join(sorted({name.partition("-")[0] for name in names})) or "none",
        outcome=record.outcome,
        sentence=peers_sentence(record),
        directory=str(directory),
        seconds=record.seconds,
        failures=tuple(failures),
        checked=tuple(
            Checked(
                f"{name} {PEERS_PROPERTY}",
                Outcome.VIOLATION if broken[name] else Outcome.OK,
                f"{tried[name]:,} runs",
            )
            for name in names
        ),
        figures=(("runs", f"{len(runs):,}"), ("failed calls", f"{sum(run.failed for run in runs):,}")),
        sheets=(_by_call(runs),),
        settings=(("seed", str(record.seed or 0)),),
        environment=tuple(record.versions.items()),
        again=seeded(record.command, record.seed or 0),
    )


def _injected(run: Injected, finding: Finding) -> Failed:
    return Failed(
        property_name=f"{run.configuration} {PEERS_PROPERTY}",
        message=f"{finding.property_name}: {finding.message}",
        words=(("failed", f"{run.call}: {run.error} ({run.failed:,} of them; when: {run.when})"),),
        signature=kind_of(Finding(run.configuration, finding.message)),
    )


def _by_call(runs: list[Injected]) -> Sheet:
    """By configuration, call and error: how many runs, how many calls failed, how many runs were wrong."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        row = rows.setdefault((run.configuration, run.call, run.error), [0, 0, 0])
        row[0] += 1
        row[1] += run.failed
        row[2] += bool(run.findings)
    return Sheet(
        title="Calls that failed",
        headings=("configuration", "call", "error", "runs", "failed", "wrong"),
        rows=tuple((*key, *(f"{count:,}" for count in counts)) for key, counts in rows.items()),
        numbers=("runs", "failed", "wrong"),
    )
