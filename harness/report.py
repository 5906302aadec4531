"""The account of a judged run: tables on the terminal, a short Markdown page, and the verdict as JSON."""

from __future__ import annotations

import shlex
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.checkers import liveness, space, traffic
from harness.errors import HarnessError
from harness.evidence import Evidence, Shown, lines_of, tell
from harness.history import Died, Hits, Paused, Spawned
from harness.judge import Judgement, Run, milestones, required_points, stall_limit_s
from harness.verdict import Finding, Outcome, Verdict

_STYLES: Final = {Outcome.OK: "bold green", Outcome.VIOLATION: "bold red", Outcome.UNKNOWN: "bold yellow"}
BLOCKS_MAX: Final = 3
"""Violations of one property that are told in full; the rest is in the JSON."""
_NEAR_NS: Final = 250_000_000
"""Kills at most this long before a violation are named beside it."""
_KILLS_MAX: Final = 3


class OperationRow(NamedTuple):
    """Operations of one workload and kind, by outcome."""

    workload: str
    kind: str
    ok: int
    fail: int
    info: int


class PointRow(NamedTuple):
    """One sync point: the processes that died there, and how often it was reached by all."""

    point: str
    kills: int
    hits: int
    required: bool


class VerdictRow(NamedTuple):
    """One property in a line."""

    name: str
    outcome: Outcome
    checked: str


class Summary(NamedTuple):
    """What both the terminal and the page say of a run."""

    engine: str
    outcome: Outcome
    seconds: float
    sentence: str
    operations: list[OperationRow]
    figures: list[tuple[str, str]]
    points: list[PointRow]
    verdicts: list[VerdictRow]


def summarize(run: Run, judgement: Judgement) -> Summary:
    """Count what there is to tell; no I/O."""
    counts = Counter((op.workload, op.f, op.outcome) for op in run.operations)
    kinds = sorted({(workload, kind) for workload, kind, _ in counts})
    rows = [
        OperationRow(workload, kind, *(counts[workload, kind, outcome] for outcome in ("ok", "fail", "info")))
        for workload, kind in kinds
    ]
    writes = [row for row in rows if row.kind == "write"]
    commits = sum(row.ok for row in writes)
    figures = [
        ("operations", _figure(sum(row.ok for row in rows))),
        ("commits", _figure(commits)),
        ("aborts", _figure(sum(row.fail for row in writes))),
        *_fault_figures(run),
        *_space_figures(run),
    ]
    outcome = judgement.overall.outcome
    kills = sum(1 for event in run.events if traffic.is_kill(event))
    properties = len(judgement.verdicts)
    at_fault = [v.property_name for v in judgement.verdicts if v.outcome is outcome]
    of = f"{properties} properties" if outcome is Outcome.OK else ", ".join(at_fault)
    return Summary(
        run.plan.engine,
        outcome,
        traffic.run_seconds(run.events) or 0.0,
        f"{of}: {commits:,} commits, {kills:,} kills",
        rows,
        figures,
        _points(run),
        [_verdict_row(verdict) for verdict in judgement.verdicts],
    )


def print_summary(console: Console, run: Run, judgement: Judgement, run_dir: Path) -> None:
    """Print the run's tables, every violation with its circumstances, the verdicts, and the overall verdict
    in the last line.
    """
    summary = summarize(run, judgement)
    _print_operations(console, summary)
    if summary.outcome is not Outcome.VIOLATION:  # which is then what the page is about
        _print_points(console, summary)
    for verdict in judgement.verdicts:
        if verdict.outcome is summary.outcome:
            _print_findings(console, verdict, run, run_dir)
    table = _table("property", "verdict", "checked")
    for row in summary.verdicts:
        table.add_row(row.name, Text(row.outcome, _STYLES[row.outcome]), row.checked)
    console.print(table)
    console.print()
    console.print(Text(f"run     {run_dir}"), soft_wrap=True)
    console.print(Text(f"check   {check_line(run_dir)}"), soft_wrap=True)
    if (run_dir / "report.html").is_file():
        console.print(Text(f"page    {run_dir / 'report.html'}"), soft_wrap=True)
    last = Text.assemble((summary.outcome, _STYLES[summary.outcome]), f"  {summary.sentence}")
    console.print(last, soft_wrap=True)


def write_report(run_dir: Path, run: Run, judgement: Judgement) -> None:
    """Write ``verdict.json`` and ``report.md`` into the run's directory.

    Raises:
        HarnessError: they cannot be written.
    """
    loader = jinja2.PackageLoader("harness")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    told = [verdict for verdict in judgement.verdicts if verdict.outcome is judgement.overall.outcome]
    page = environment.get_template("report.md.j2").render(
        summary=summarize(run, judgement),
        plan=run.plan,
        blocks=blocks(run, judgement, run_dir),
        pictures=[picture for verdict in told for picture in _draw(verdict, run_dir)],
        check=check_line(run_dir),
        settings=settings(run),
        environment=sorted(
            (k, v) for k, v in run.environment.items() if k not in ("required_points", "milestones")
        ),
    )
    try:
        (run_dir / "verdict.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(judgement), indent=2) + b"\n"
        )
        (run_dir / "report.md").write_text(page)
    except OSError as error:
        raise HarnessError(f"the report cannot be written to {run_dir}: {error}") from error


def blocks(run: Run, judgement: Judgement, run_dir: Path) -> list[str]:
    """Why the overall verdict is what it is, a block of plain text for each finding that is told."""
    told = [verdict for verdict in judgement.verdicts if verdict.outcome is judgement.overall.outcome]
    return [block for verdict in told for block in _blocks(verdict, run, run_dir)]


def _fault_figures(run: Run) -> list[tuple[str, str]]:
    """What was done to the processes, and how they took it."""
    kills = [event for event in run.events if isinstance(event, Died) and traffic.is_kill(event)]
    pauses = [event for event in run.events if isinstance(event, Paused)]
    last_commit = max(
        (op.completed or 0 for op in run.operations if op.f == "write" and op.outcome == "ok"), default=0
    )
    survived = sum(1 for event in kills if event.time < last_commit)
    stall = liveness.longest_stall(run.operations, run.events)
    return [
        ("kills", _figure(len(kills))),
        ("  at a sync point", _figure(sum(1 for event in kills if event.at_point))),
        ("  of everybody at once", _figure(sum(1 for event in kills if event.fault == "kill-all"))),
        ("  followed by commits", _figure(survived)),
        ("pauses", _figure(len(pauses))),
        ("  of the lock holder", _figure(sum(1 for event in pauses if event.holder))),
        ("longest stall", "unknown" if stall is None else f"{stall.seconds:.3f} s"),
        ("  allowed", f"{stall_limit_s(run):g} s"),
    ]


def _space_figures(run: Run) -> list[tuple[str, str]]:
    """What happened to the store's files, and what they took."""
    figures = [
        (what, _figure(count)) for what, count in traffic.happened(run.events, milestones(run)).items()
    ]
    found = space.ratios(run.samples, run.events)
    final = next((sample for sample in reversed(run.samples) if sample.final), None)
    if final is not None:
        figures += [
            ("disk in the end", f"{final.disk_bytes / 1e6:,.1f} MB"),
            ("  for each needed byte", f"{found.final:.2f}"),
            ("  in the run: median", f"{found.median:.2f}"),
            ("  in the run: most", f"{found.most:.2f}"),
            ("written, times needed", f"{found.written:.1f}"),
        ]
    return figures


def _points(run: Run) -> list[PointRow]:
    """Every point that was reached, killed at, or required."""
    hits: Counter[str] = Counter()
    for event in run.events:
        if isinstance(event, Hits):
            hits.update(event.hits)
    kills = traffic.kills_by_point(run.events)
    required = set(required_points(run)) if "kill-point" in run.plan.faults else set()
    names = sorted({name for name, count in hits.items() if count} | set(kills) | required)
    return [PointRow(name, kills[name], hits[name], name in required) for name in names if name]


def _verdict_row(verdict: Verdict) -> VerdictRow:
    checked = ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {count:,} ms"
        if name.endswith("_ms")
        else f"{count:,} {name.replace('_', ' ')}"
        for name, count in verdict.checked.items()
    )
    return VerdictRow(verdict.property_name, verdict.outcome, checked)


def _table(*headings: str, numbers: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    return table


def _print_operations(console: Console, summary: Summary) -> None:
    """Operations on the left, figures on the right."""
    operations = _table("workload", "kind", "ok", "fail", "info", numbers=("ok", "fail", "info"))
    for row in summary.operations:
        operations.add_row(row.workload, row.kind, *(_figure(n) for n in (row.ok, row.fail, row.info)))
    figures = _table("in all", "", numbers=("",))
    for name, value in summary.figures:
        figures.add_row(name, value)
    both = Table.grid(padding=(0, 4, 0, 0))
    both.add_row(operations, figures)
    console.print(both)
    console.print()


def _print_points(console: Console, summary: Summary) -> None:
    """Kills by sync point, in as many columns side by side as fit."""
    if not summary.points:
        return
    width = max(len(row.point) for row in summary.points) + 22
    columns = max(1, min(3, (console.width + 4) // (width + 4)))
    height = -(-len(summary.points) // columns)
    side_by_side = Table.grid(padding=(0, 4, 0, 0))
    tables = []
    for start in range(0, len(summary.points), height):
        table = _table("sync point", "kills", "reached", numbers=("kills", "reached"))
        for row in summary.points[start : start + height]:
            style = "" if row.kills or not row.required else "yellow"
            table.add_row(Text(row.point, style), _figure(row.kills), _figure(row.hits))
        tables.append(table)
    side_by_side.add_row(*tables)
    console.print(side_by_side)
    console.print()


def _print_findings(console: Console, verdict: Verdict, run: Run, run_dir: Path) -> None:
    """Violations in full, a few of each property; what is unknown in a line each."""
    for block in _blocks(verdict, run, run_dir):
        text = Text(block)
        text.stylize(_STYLES[verdict.outcome], 0, len(verdict.outcome))
        console.print(text, soft_wrap=True)
        console.print()


def _blocks(verdict: Verdict, run: Run, run_dir: Path) -> list[str]:
    """The findings of a verdict as plain text, one block each."""
    told = verdict.findings
    if verdict.outcome is Outcome.UNKNOWN:
        lines = [f"UNKNOWN    {verdict.property_name:<11} {finding.message}" for finding in told]
        return ["\n".join(lines)]
    told_in_full = [_block(finding, run, run_dir) for finding in told[:BLOCKS_MAX]]
    if len(told) > BLOCKS_MAX:
        rest = len(told) - BLOCKS_MAX + sum(int(finding.details.get("more", 1)) - 1 for finding in told)
        told_in_full.append(f"VIOLATION  {verdict.property_name:<11} and {rest:,} more; see verdict.json")
    return told_in_full


def _draw(verdict: Verdict, run_dir: Path) -> list[tuple[str, str]]:
    """Draw the evidence of the findings that are told into ``run_dir``; title and file name of each picture."""
    pictures = []
    for number, finding in enumerate(verdict.findings[:BLOCKS_MAX], 1):
        evidence = finding.details.get("evidence")
        if isinstance(evidence, Evidence):
            from harness import timeline  # matplotlib takes half a second, and most runs have nothing to draw

            name = f"{verdict.property_name}-{number}.svg"
            try:
                timeline.draw(evidence, run_dir / name)
            except OSError as error:
                raise HarnessError(f"{name} cannot be written to {run_dir}: {error}") from error
            pictures.append((f"{verdict.property_name}: {evidence.anomaly}", name))
    return pictures


def _block(finding: Finding, run: Run, run_dir: Path) -> str:
    """One violation as a user should meet it."""
    lines = [f"VIOLATION  {finding.property_name:<11} {finding.message}"]
    moment = finding.details.get("time")
    if isinstance(moment, int):
        lines += [f"  {name:<11} {text}" for name, text in circumstances(run, moment)]
    evidence = finding.details.get("evidence")
    if isinstance(evidence, Evidence):
        lines += [f"  {heading:<11} {text}" for heading, text in tell(evidence, where)]
        lines.append("  versions    3.17 is what operation 17 of process 3 wrote")
    if expected := finding.details.get("expected"):
        lines.append(f"  expected    {expected}")
    lines.append(f"  replay      {replay_line(run_dir)}")
    lines.append(f"  check       {check_line(run_dir)}")
    return "\n".join(lines)


def where(shown: Shown) -> str:
    """Where an operation stands in the history of its process."""
    return lines_of(f"history/{shown.process}.jsonl", shown)


def circumstances(run: Run, moment: int) -> list[tuple[str, str]]:
    """Who was killed shortly before ``moment``, and who was stopped at it."""
    roles = {event.process: event.role for event in run.events if isinstance(event, Spawned)}

    def who(process: int, point: str, *, at_point: bool) -> str:
        where = f" {'at' if at_point else 'after'} {point}" if point else ""
        return f"{roles.get(process, 'process')} {process}{where}"

    kills = [event for event in run.events if isinstance(event, Died) and traffic.is_kill(event)]
    end = bisect_right([event.time for event in kills], moment)
    near = [event for event in kills[:end] if moment - event.time <= _NEAR_NS] or kills[:end]
    told = [
        ("killed", f"{name}, {(moment - event.time) / 1e6:,.1f} ms before")
        for event in near[-_KILLS_MAX:]
        if (name := who(event.process, event.point, at_point=event.at_point))
    ]
    stopped = [
        who(event.process, event.point, at_point=True)
        for event in run.events
        if isinstance(event, Paused) and event.time <= moment <= event.until
    ]
    if stopped:
        told.append(("meanwhile", f"{', '.join(stopped)} stopped"))
    return told


def settings(run: Run) -> list[tuple[str, str]]:
    """The plan, flat."""
    plain: dict[str, Any] = msgspec.to_builtins(run.plan)
    plain.update(plain.pop("limits"))
    return [
        (name, ", ".join(value) if isinstance(value, (list, tuple)) else str(value))
        for name, value in plain.items()
    ]


def check_line(run_dir: Path) -> str:
    """The command that judges the saved run again."""
    return f"harness check {shlex.quote(str(run_dir))}"


def replay_line(run_dir: Path) -> str:
    """The command that runs its plan again, until it is violated again."""
    return f"harness replay {shlex.quote(str(run_dir))}"


def _figure(count: int) -> str:
    return f"{count:,}"


def _cell(value: object) -> str:
    """A value inside a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
