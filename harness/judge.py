"""A saved run, read back and judged: the same history always gets the same verdict."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from harness.budget import uncollected
from harness.checkers import (
    append,
    atomicity,
    bank,
    canary,
    durability,
    isolation,
    liveness,
    realtime,
    rebuild,
    resolution,
    space,
    structure,
    traffic,
)
from harness.checkers.findings import FINDINGS_MAX
from harness.checkers.operation import Operation
from harness.checkers.order import Order, place
from harness.checkers.space import Sample
from harness.errors import HarnessError, HistoryError, UsageError
from harness.history import (
    Event,
    Fail,
    Info,
    Invoke,
    Ok,
    Read,
    RunEvent,
    Violation,
    operation_id,
    read_events,
    read_run_events,
)
from harness.holding import SPANS
from harness.plan import Plan
from harness.verdict import Finding, Outcome, Verdict, combine

PROPERTIES: Final = (
    atomicity.NAME,
    isolation.NAME,
    realtime.NAME,
    durability.NAME,
    resolution.NAME,
    structure.NAME,
    liveness.NAME,
    bank.NAME,
    append.NAME,
    rebuild.NAME,
    space.NAME,
    traffic.NAME,
)
"""Every property that a run is judged by, in the order of the report."""


class Run(msgspec.Struct, frozen=True, gc=False):
    """One run as it was saved: its plan, its environment, what its processes did and suffered."""

    plan: Plan
    environment: dict[str, str]
    operations: list[Operation]
    violations: list[Violation]
    events: list[RunEvent]
    samples: list[Sample] = []
    """What the store took, in the order of time."""
    spans: array[int] = msgspec.field(default_factory=lambda: array("q"))
    """When locks were held and the dead were repaired after: process, ``SPANS.index(what)``, begin and end of each, one
    after the other, as many times four as there are."""


class Judgement(msgspec.Struct, frozen=True):
    """The verdict over a run and the verdicts by property that it rests on."""

    overall: Verdict
    verdicts: list[Verdict]

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violation, 3 unknown."""
        return self.overall.exit_code


def load(run_dir: Path) -> Run:
    """Read a run directory.

    Raises:
        UsageError: it is not a run directory (it has no plan).
        HistoryError: a saved file cannot be read; path and line say where.
    """
    plan_path = run_dir / "plan.json"
    if not plan_path.is_file():
        raise UsageError(
            f"{run_dir} is not a run directory: it has no plan.json; name one below results/runs"
        )
    plan = _decode(plan_path, Plan)
    environment_path = run_dir / "environment.json"
    environment = _decode(environment_path, dict[str, str]) if environment_path.is_file() else {}
    supervisor_path = run_dir / "supervisor.jsonl"
    try:
        events = read_run_events(supervisor_path) if supervisor_path.is_file() else []
        with uncollected():
            operations, violations, spans = _load_histories(run_dir / "history")
        samples = _load_samples(run_dir / "space.jsonl")
    except OSError as error:
        raise HarnessError(f"{run_dir} cannot be read: {error}") from error
    return Run(plan, environment, operations, violations, events, samples, spans)


def _load_samples(path: Path) -> list[Sample]:
    """What the store took, if it was measured; a torn last line is dropped.

    Raises:
        HistoryError: a line other than a torn last one cannot be decoded.
    """
    if not path.is_file():
        return []
    decoder = msgspec.json.Decoder(Sample)
    samples: list[Sample] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            samples.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HistoryError(f"not a sample of the store's size: {error}", str(path), number) from error
    return samples


def _decode(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HistoryError(f"not what a run saves there: {error}", str(path), 1) from error
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error}") from error


def _load_histories(directory: Path) -> tuple[list[Operation], list[Violation], array[int]]:
    """Join every process's events; operations are in the order of their invocation."""
    operations: list[Operation] = []
    violations: list[Violation] = []
    joiner = _Joiner()
    for path in sorted(directory.glob("*.jsonl")):
        joiner.add(read_events(path), str(path), operations, violations)
    operations.sort(key=attrgetter("invoked"))
    violations.sort(key=attrgetter("time"))
    return operations, violations, joiner.spans


def join(histories: Iterable[Iterable[Event]]) -> list[Operation]:
    """The operations of histories in memory, one history per process, in the order of their invocation.

    Raises:
        HistoryError: an operation completes that was not invoked, or invocations are not in order.
    """
    operations: list[Operation] = []
    joiner = _Joiner()
    for number, history in enumerate(histories, 1):
        joiner.add(enumerate(history, 1), f"history {number}", operations, [])
    operations.sort(key=attrgetter("invoked"))
    return operations


class _Joiner:
    """Joins invocations with completions, and keeps one copy of what histories repeat millions of times."""

    def __init__(self) -> None:
        self._reads: dict[tuple[str, int | None, int | None], Read] = {}
        self._names: dict[str, str] = {}
        self._lists: dict[str, list[Any]] = {}
        self._items: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.spans = array("q")
        """As in ``Run``."""

    def add(
        self,
        events: Iterable[tuple[int, Event]],
        path: str,
        operations: list[Operation],
        violations: list[Violation],
    ) -> None:
        """Add the operations and the violations of one process's numbered events."""
        pending: dict[int, Invoke] = {}
        last_index = 0
        for line, event in events:
            if isinstance(event, Violation):
                violations.append(event)
                continue
            if isinstance(event, Invoke):
                if event.index <= last_index:
                    raise HistoryError(f"operation {event.index} is invoked after {last_index}", path, line)
                last_index = event.index
                pending[event.index] = event
                continue
            invoke = pending.pop(event.index, None)
            if invoke is None or invoke.process != event.process:
                raise HistoryError(f"operation {event.index} completes without being invoked", path, line)
            operations.append(self._operation(invoke, event))
            for span in event.spans:
                self.spans.extend((event.process, SPANS.index(span.what), span.begin, span.end))
        operations.extend(self._operation(invoke, None) for invoke in pending.values())

    def _operation(self, invoke: Invoke, completion: Ok | Fail | Info | None) -> Operation:
        values = invoke.values
        sequence: int | None = None
        completed: int | None = None
        reads: tuple[Read, ...] = ()
        outcome: Literal["ok", "fail", "info"] = "info"
        if isinstance(completion, Ok):
            outcome, completed, sequence = "ok", completion.time, completion.sequence
            reads = tuple([self._same_read(read) for read in completion.reads])
            if completion.values:
                values = {**values, **completion.values} if values else completion.values
        elif isinstance(completion, Fail):
            outcome, completed = "fail", completion.time
        return Operation(
            operation_id(invoke.process, invoke.index),
            invoke.time,
            completed,
            invoke.f,
            self._same(invoke.workload),
            outcome,
            self._same_items(invoke.writes),
            self._same_items(invoke.deletes),
            values or _NOTHING,
            sequence,
            reads,
            invoke.resolves,
        )

    def _same_read(self, read: Read) -> Read:
        """The first equal read, so that a version that many snapshots show is kept once."""
        key = (read.item, read.writer, read.sequence)
        known = self._reads.get(key)
        if known is None:
            msgspec.structs.force_setattr(read, "item", self._same(read.item))
            if type(read.value) is list:
                self._share_elements(read)
            self._reads[read.item, read.writer, read.sequence] = read
            return read
        return known if known.value == read.value else read

    def _share_elements(self, read: Read) -> None:
        """Take the elements that a list has in common with the one last read of its item from there."""
        last = self._lists.get(read.item, [])
        count = len(last)
        if count and read.value[:count] == last:
            msgspec.structs.force_setattr(read, "value", last + read.value[count:])
        self._lists[read.item] = read.value

    def _same(self, name: str) -> str:
        return self._names.setdefault(name, name)

    def _same_items(self, items: tuple[str, ...]) -> tuple[str, ...]:
        if not items:
            return ()
        known = self._items.get(items)
        if known is None:
            known = self._items[items] = tuple(self._same(item) for item in items)
        return known


_NOTHING: Final[dict[str, Any]] = {}

Show = Callable[[str, float], None]
"""Told what is done now, and which share is done (0 to 1)."""


def judge(run: Run, show: Show = lambda *_: None) -> Judgement:
    """Judge a run by every property. Pure: it changes nothing, and the same run gets the same verdict; only where the
    order has to be inferred may a slower machine, past ``inferred.LIMIT_S``, end in UNKNOWN. ``show`` is told before
    each check of what is checked, and which share of the checks is done.

    Raises:
        HarnessError: the environment's ``stall_s`` is no number.
    """
    with uncollected():
        verdicts = _verdicts(run, show)
    return Judgement(combine("run", verdicts), verdicts)


def _verdicts(run: Run, show: Show) -> list[Verdict]:
    show("order", 0.0)
    order = place(run.operations, dense=run.environment.get("dense_sequences") == "yes")
    checks = _checks(run, order)
    verdicts: list[Verdict] = []
    for number, (what, check) in enumerate(checks, 1):
        show(what, number / (len(checks) + 1))
        verdicts += check()
    verdicts = _add_reported(verdicts, run.violations)
    return [_blinded(verdict, run.plan.blind) for verdict in verdicts]


def _checks(run: Run, order: Order) -> list[tuple[str, Callable[[], list[Verdict]]]]:
    """What is checked of a run, and how."""
    plan, events, environment = run.plan, run.events, run.environment
    broken = frozenset(seen.process for seen in run.violations)
    checks: list[tuple[str, Callable[[], list[Verdict]]]] = [("atomicity", lambda: [atomicity.check(order)])]
    if order.revealed:
        checks.append(("isolation", lambda: [isolation.check(order)]))
        checks.append(("realtime", lambda: [realtime.check(order)]))
    else:
        checks.append(("isolation", lambda: _inferred(run)))
    checks += [
        ("durability", lambda: [durability.check(order)]),
        ("resolution", lambda: [resolution.check(order)]),
        ("structure", lambda: [structure.check(events)]),
        ("liveness", lambda: [liveness.check(run.operations, events, stall_limit_s(run), broken)]),
    ]
    if bank.WORKLOAD in plan.workloads:
        checks.append(("bank", lambda: [bank.check(order)]))
    if append.WORKLOAD in plan.workloads and order.revealed:
        checks.append(("append", lambda: [append.check(order)]))
    if environment.get("rebuilds") == "yes":
        checks.append(("rebuild", lambda: [rebuild.check(events, plan.limits.rebuild_s)]))
    if environment.get("compacts") == "yes":
        checks.append(("space", lambda: [space.check(run.samples, plan.limits)]))
    asked = required_points(run), milestones(run)
    checks.append(("traffic", lambda: [traffic.check(run.operations, events, plan, *asked)]))
    if plan.canary:
        checks.append(("canary", lambda: [canary.check()]))
    return checks


def _inferred(run: Run) -> list[Verdict]:
    """The verdicts that are inferred from the reads where the store revealed no commit order."""
    from harness.checkers import inferred  # half a second of imports that a store with an order does not need

    return inferred.check(run.operations)


def stall_limit_s(run: Run) -> float:
    """The longest promised time without a commit: the engine's own (environment), else the plan's.

    Raises:
        HarnessError: the environment's figure is no number.
    """
    own = run.environment.get("stall_s", "")
    try:
        return float(own) if own else run.plan.limits.stall_s
    except ValueError as error:
        raise HarnessError(f'environment.json: "stall_s" is {own!r}, not a number of seconds') from error


def required_points(run: Run) -> list[str]:
    """The sync points that a campaign must have killed at (environment, comma separated)."""
    return [name.strip() for name in run.environment.get("required_points", "").split(",") if name.strip()]


def milestones(run: Run) -> dict[str, str]:
    """What the engine says must happen in a run, each with the sync point that counts it (environment)."""
    promised = (entry.partition("=") for entry in run.environment.get("milestones", "").split(","))
    return {what.strip(): point.strip() for what, equals, point in promised if equals}


def _add_reported(verdicts: list[Verdict], violations: Sequence[Violation]) -> list[Verdict]:
    """Add what workers saw while the campaign ran to the verdict of its property."""
    reported: dict[str, list[Finding]] = {}
    for violation in violations:
        details: dict[str, Any] = {"time": violation.time, "process": violation.process}
        if violation.index:
            details["operation"] = operation_id(violation.process, violation.index)
        reported.setdefault(violation.property_name, []).append(
            Finding(violation.property_name, violation.message, details)
        )
    by_name = {verdict.property_name: verdict for verdict in verdicts}
    for name, findings in reported.items():
        known = by_name.get(name, Verdict(name, Outcome.OK))
        kept = known.findings if known.outcome is Outcome.VIOLATION else ()
        by_name[name] = Verdict(name, Outcome.VIOLATION, _capped(name, findings) + kept, known.checked)
    return list(by_name.values())


def _capped(name: str, findings: list[Finding]) -> tuple[Finding, ...]:
    rest = len(findings) - FINDINGS_MAX
    if rest <= 0:
        return tuple(findings)
    more = Finding(name, f"and {rest:,} more reported by workers", {"more": rest})
    return (*findings[:FINDINGS_MAX], more)


def _blinded(verdict: Verdict, blind: Sequence[str]) -> Verdict:
    """The verdict without the findings of the properties that the plan is blind to."""
    if verdict.outcome is not Outcome.VIOLATION or not blind:
        return verdict
    kept = tuple(
        finding for finding in verdict.findings if "*" not in blind and finding.property_name not in blind
    )
    outcome = Outcome.VIOLATION if kept else Outcome.OK
    return Verdict(verdict.property_name, outcome, kept, verdict.checked)
