"""The facts, the timeline and the charts of a campaign."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from harness import report
from harness.budget import uncollected
from harness.evidence import Evidence, tell
from harness.history import PROCESS_SHIFT, operation_id
from harness.judge import Judgement, Run
from harness.oracle import kind_of
from harness.plan import Plan
from harness.verdict import Finding, Outcome, Verdict
from harness.viewer.facts import Checked, Facts, Failed, Picture, Sheet

WHAT: Final = "run"
PAGE: Final = "report.html"
_OPERATION: Final = re.compile(r"process (\d+) operation (\d+)")
_INTERNAL: Final = frozenset({"required_points", "milestones"})
"""Of the environment: what is for the checkers and far too long to be read."""


def facts_of_campaign(run_dir: Path, run: Run, judgement: Judgement) -> Facts:
    """What is said of a campaign that was judged. Its pictures are those that the report has drawn."""
    summary = report.summarize(run, judgement)
    told = [verdict for verdict in judgement.verdicts if verdict.outcome is summary.outcome is not Outcome.OK]
    failures = [
        _failed(finding, number, verdict, run, run_dir)
        for verdict in told
        for number, finding in enumerate(_in_full(verdict), 1)
    ]
    every = sum(int(finding.details.get("more", 1)) for verdict in told for finding in verdict.findings)
    operations = Sheet(
        title="Operations",
        headings=("workload", "kind", "ok", "fail", "info"),
        rows=tuple(
            (row.workload, row.kind, f"{row.ok:,}", f"{row.fail:,}", f"{row.info:,}")
            for row in summary.operations
        ),
        numbers=("ok", "fail", "info"),
    )
    points = Sheet(
        title="Sync points",
        headings=("sync point", "kills there", "times reached", "required"),
        rows=tuple(
            (row.point, f"{row.kills:,}", f"{row.hits:,}", "yes" if row.required else "")
            for row in summary.points
        ),
        numbers=("kills there", "times reached"),
    )
    return Facts(
        what=WHAT,
        engine=run.plan.engine,
        outcome=summary.outcome,
        sentence=summary.sentence,
        directory=str(run_dir),
        seconds=summary.seconds,
        failures=tuple(failures),
        more_failures=max(0, every - len(failures)),
        checked=tuple(Checked(row.name, row.outcome, row.checked) for row in summary.verdicts),
        figures=tuple(summary.figures),
        sheets=(operations, points) if points.rows else (operations,),
        settings=tuple(report.settings(run)),
        environment=tuple(sorted((k, v) for k, v in run.environment.items() if k not in _INTERNAL)),
        again=again(run.plan),
    )


def write_campaign_page(path: Path, run_dir: Path, run: Run, judgement: Judgement) -> Facts:
    """Write the page of a campaign that was judged to ``path``; what it says.

    Raises:
        HarnessError: it cannot be written.
    """
    from harness.viewer import (
        charts,
        lanes,
    )  # plotly and numpy, which a run that is only counted does not need
    from harness.viewer.page import write_page

    facts = facts_of_campaign(run_dir, run, judgement)
    with uncollected():
        found = lanes.lives(run)
        table = lanes.columns(run, found)
        about = [operation_id(*pair) for failed in facts.failures for pair in failed.operations]
        timeline = lanes.timeline_of(run, about, found=found, table=table) if len(table.start) else None
        drawn = charts.charts_of(run, found, table)
    write_page(path, facts, charts=drawn, timeline=timeline)
    return facts


def again(plan: Plan) -> str:
    """The command that runs the same plan once more."""
    usual = Plan(0)
    words = ["harness", "run", "--seed", str(plan.seed)]
    for name in (
        "engine",
        "workloads",
        "faults",
        "writers",
        "readers",
        "auditors",
        "housekeepers",
        "seconds",
        "bug",
    ):
        value = getattr(plan, name)
        if value != getattr(usual, name):
            words += [f"--{name}", _option(value)]
    if plan.limits.stall_s != usual.limits.stall_s:
        words += ["--stall-s", _option(plan.limits.stall_s)]
    return shlex.join(words)


def _option(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_full(verdict: Verdict) -> Iterable[Finding]:
    """The findings that are told in full: a few of a violation, all that is unknown."""
    findings = [finding for finding in verdict.findings if "more" not in finding.details]
    return findings if verdict.outcome is Outcome.UNKNOWN else findings[: report.BLOCKS_MAX]


def _failed(finding: Finding, number: int, verdict: Verdict, run: Run, run_dir: Path) -> Failed:
    """One finding, as it is told in the report too."""
    words: list[tuple[str, str]] = []
    moment = finding.details.get("time")
    if isinstance(moment, int):
        words += report.circumstances(run, moment)
    evidence = finding.details.get("evidence")
    pictures: tuple[Picture, ...] = ()
    if isinstance(evidence, Evidence):
        words += [*tell(evidence, report.where), ("versions", "3.17 is what operation 17 of process 3 wrote")]
        pictures = (
            Picture(f"{verdict.property_name}: {evidence.anomaly}", f"{verdict.property_name}-{number}.svg"),
        )
    if expected := finding.details.get("expected"):
        words.append(("expected", str(expected)))
    words.append(("check", report.check_line(run_dir)))
    return Failed(
        property_name=finding.property_name or verdict.property_name,
        message=finding.message,
        words=tuple(words),
        replay="" if verdict.outcome is Outcome.UNKNOWN else report.replay_line(run_dir),
        operations=tuple(dict.fromkeys(_operations(finding))),
        pictures=pictures,
        file="verdict.json",
        signature=kind_of(finding),
    )


def _operations(finding: Finding) -> Iterator[tuple[int, int]]:
    """The operations that a finding names: who saw it first, then in the order of its sentence and its evidence."""
    details = finding.details
    if isinstance(details.get("operation"), int):
        yield _pair(details["operation"])
    for found in _OPERATION.finditer(finding.message):
        yield int(found[1]), int(found[2])
    evidence = details.get("evidence")
    if isinstance(evidence, Evidence):
        for shown in evidence.operations:
            if shown.line and shown.process.isdecimal():
                yield (
                    int(shown.process),
                    (shown.line + 1) // 2,
                )  # each operation takes two lines of its history


def _pair(identity: int) -> tuple[int, int]:
    return identity >> PROCESS_SHIFT, identity & ((1 << PROCESS_SHIFT) - 1)
