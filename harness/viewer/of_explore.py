"""The facts of an exploration: what was played, what of that went wrong, and each failure with all its steps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from harness import explore as exploring
from harness.checkers import atomicity, durability, isolation, realtime, resolution, traffic
from harness.errors import UsageError
from harness.explore import Explored
from harness.explore_job import Found, Options
from harness.explore_jobs import CRASH, Record
from harness.failure import Failure, load
from harness.oracle import LIVENESS
from harness.scenarios import EXHAUSTIVE, GENERAL
from harness.verdict import Outcome
from harness.viewer.facts import Checked, Facts, Failed, Sheet
from harness.viewer.words import command, headed, kinds, read, settings

WHAT: Final = "explore"
_ALWAYS: Final = (
    atomicity.NAME,
    isolation.NAME,
    realtime.NAME,
    durability.NAME,
    resolution.NAME,
    "structure",
    "lock",
    LIVENESS,
    CRASH,
)
"""What every schedule is judged by."""
_UNDECIDED: Final = (durability.NAME, resolution.NAME)
_FLAGS: Final = {"scenarios": "--scenario", "shrink": "--no-shrink"}
_ENGINE: Final = "kvs"


def facts_of_explore(path: Path) -> Facts:
    """The facts of the record of an exploration; its failures are looked for beside it.

    Raises:
        UsageError: it cannot be read, or is of scenarios that are not known.
    """
    return facts_of_explored(exploring.judged(read(path, Record, "harness explore"), path.parent))


def facts_of_printed(path: Path) -> Facts:
    """The facts of what ``harness explore --json`` printed into a file. Raises UsageError if it cannot be read."""
    return facts_of_explored(read(path, Explored, "harness explore --json"))


def facts_of_explored(explored: Explored) -> Facts:
    """The facts of what exploring came to."""
    record, directory = explored.record, Path(explored.directory)
    failures = [_failed(directory, found) for found in record.found]
    if not failures:
        failures = [Failed(property_name=traffic.NAME, message=reason) for reason in explored.reasons]
    return Facts(
        what=WHAT,
        engine=_ENGINE,
        outcome=explored.outcome,
        sentence=sentence(explored),
        directory=explored.directory,
        seconds=record.counts.seconds,
        failures=tuple(failures),
        checked=tuple(_checked(explored, {failed.property_name for failed in failures})),
        figures=tuple(_figures(explored)),
        sheets=tuple(_sheets(explored)),
        settings=settings(record.options),
        environment=tuple(record.versions.items()),
        again=_again(record.options),
    )


def facts_of_failure(file: Path) -> Facts:
    """The facts of one failure that explore (or a person) keeps in a file. Raises UsageError if it holds none."""
    failure, notes = load(file)
    failed = _told(failure, file)
    return Facts(
        what=WHAT,
        engine=_ENGINE,
        outcome=Outcome.VIOLATION,
        sentence=f"{failed.property_name}: {failed.message}",
        directory=str(file.parent),
        seconds=float(failure.found.get("seconds") or 0.0),
        failures=(failed,),
        checked=(Checked(failed.property_name, Outcome.VIOLATION, f"{len(failure.choices):,} steps"),),
        figures=(("steps", f"{len(failure.choices):,}"), *(("note", note) for note in notes)),
        environment=tuple(failure.versions.items()),
        again=failed.replay,
    )


def sentence(explored: Explored) -> str:
    """The last line about an exploration, without the verdict."""
    counts = explored.record.counts
    words = f"{counts.schedules:,} schedules, {counts.kills:,} kills{kinds(len(explored.record.found))}"
    return words + (", interrupted" if explored.interrupted else "")


def failures_of(facts: Facts) -> Iterator[tuple[Failed, Failure]]:
    """Each failure whose own file can be read, with what is in that; for the drawing of its steps."""
    for failed in facts.failures:
        if failed.file:
            try:
                yield failed, load(Path(facts.directory) / failed.file)[0]
            except UsageError:  # its words, which are in the record, must do
                continue


def _failed(directory: Path, found: Found) -> Failed:
    """What is known of a finding: its own file says more than the record, where it is there still."""
    if found.file:
        try:
            return _told(load(directory / found.file)[0], directory / found.file)
        except UsageError as error:
            words = (("lost", str(error)),)
    else:
        words = (("lost", "it has no file of its own: exploring was ended before it was written"),)
    return Failed(property_name=found.property_name, message=found.message, words=words, signature=found.kind)


def _told(failure: Failure, file: Path) -> Failed:
    """A failure as its page of text tells it: the lines above the steps, the steps, and how it was found."""
    first, _, rest = failure.page.strip("\n").partition("\n\n")
    trace, _, last = rest.rpartition("\n\n")
    words = [*headed(first), *(pair for pair in headed(last) if pair[0] != "replay")]
    page = file.with_suffix(".txt")
    return Failed(
        property_name=failure.property_name,
        message=failure.message,
        words=tuple(words),
        replay=f"harness replay {shlex.quote(str(file))}",
        reproduced=failure.reproduced,
        file=file.name,
        page=page.name if page.exists() else "",
        trace=trace.strip("\n"),
        signature=failure.kind,
    )


def _checked(explored: Explored, violated: set[str]) -> Iterator[Checked]:
    """Every property; what nothing was played for is not known."""
    counts = explored.record.counts
    looked = f"{counts.schedules:,} schedules"
    names = [*_ALWAYS, *sorted(name for name in violated if name not in (*_ALWAYS, traffic.NAME))]
    for name in names:
        undecided = counts.undecided if name in _UNDECIDED else 0
        outcome = Outcome.OK if counts.schedules and not undecided else Outcome.UNKNOWN
        words = f"{looked}, {undecided:,} times not decided" if undecided else looked
        yield Checked(name, Outcome.VIOLATION if name in violated else outcome, words)
    lacking = explored.reasons or ([] if counts.schedules else ["no schedule was played"])
    words = "; ".join(lacking) or f"{looked}, {counts.steps:,} steps, {counts.kills:,} kills"
    yield Checked(traffic.NAME, Outcome.UNKNOWN if lacking else Outcome.OK, words)


def _figures(explored: Explored) -> Iterator[tuple[str, str]]:
    record = explored.record
    counts = record.counts
    yield "schedules", f"{counts.schedules:,}"
    yield "  per second", f"{counts.schedules / max(counts.seconds, 0.001):,.0f}"
    yield "steps", f"{counts.steps:,}"
    yield "kills", f"{counts.kills:,}"
    yield "meetings", f"{len(record.coverage.get('meetings', [])):,}"
    of = f"of {len(record.reachable):,} meetings that can be" if record.reachable else "of the sync points"
    yield "coverage", f"{explored.coverage:.1%} {of}"
    if record.options.strategy == "exhaustive":
        yield "searched", "all" if record.complete else "not all"
    if counts.redundant:
        yield "redundant", f"{counts.redundant:,}"
    yield "digest", counts.digest


def _sheets(explored: Explored) -> Iterator[Sheet]:
    counts = explored.record.counts
    found = explored.record.found
    yield Sheet(
        title="Schedules by scenario",
        headings=("scenario", "schedules", "violations"),
        rows=tuple(
            (name, f"{number:,}", f"{sum(each.count for each in found if each.scenario == name):,}")
            for name, number in counts.by_scenario.items()
        ),
        numbers=("schedules", "violations"),
    )
    deaths = explored.record.coverage.get("deaths", {})
    points = {**deaths, **dict.fromkeys(explored.never_killed_at, 0)}
    yield Sheet(
        title="Kills by sync point",
        headings=("sync point", "kills"),
        rows=tuple(
            (point or "none", f"{points[point]:,}")
            for point in sorted(points, key=lambda point: (-points[point], point))
        ),
        numbers=("kills",),
    )


def _again(options: Options) -> str:
    usual = EXHAUSTIVE if options.strategy == "exhaustive" else GENERAL
    if options.scenarios == usual:
        options = msgspec.structs.replace(options, scenarios=())
    return command(WHAT, options, _FLAGS)
