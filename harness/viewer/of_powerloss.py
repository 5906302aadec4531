"""The facts of power cuts: what was cut and judged, and of each failure what the medium had and what it had not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from harness.checkers import traffic
from harness.errors import UsageError
from harness.oracle import kind_of
from harness.powerloss.choices import describe
from harness.powerloss.job import CRASH, Found, Options
from harness.powerloss.loss import Loss, load
from harness.powerloss.medium import MEDIA, Choice, Torn
from harness.powerloss.outage import SCENARIOS, Record
from harness.powerloss.table import Row, Table
from harness.powerloss.trace import PAGE
from harness.verdict import Finding, Outcome
from harness.viewer.facts import Checked, Facts, Failed, Sheet
from harness.viewer.words import command, kinds, read, seeded, settings

WHAT: Final = "powerloss"
_WROTE: Final = "harness powerloss"
_ALWAYS: Final = ("durability", "prefix", "structure", "recovery", "new writer", CRASH)
"""What every image is judged by."""
_PEERS: Final = {
    "damaged": "it does not open, its own check complains, or it cannot be read or written",
    "prefix": "it shows a state that never was",
    "durability": "it shows an earlier state than was acknowledged",
}
_FLAGS: Final = {"scenarios": "--scenario", "per_run": "--cuts"}
_ROWS_MAX: Final = 40
_ENGINE: Final = "kvs"


class _Either(msgspec.Struct):
    """As much of ``powerloss.json`` as tells a survey of other engines (``rows``) from cuts of kvs."""

    rows: list[msgspec.Raw] | None = None


def facts_of_powerloss(path: Path) -> Facts:
    """The facts of the record of power cuts, of kvs or of other engines; failures are looked for beside it.

    Raises:
        UsageError: it cannot be read.
    """
    if read(path, _Either, _WROTE).rows is None:
        return facts_of_cuts(read(path, Record, _WROTE), path.parent)
    return facts_of_table(read(path, Table, _WROTE), path.parent)


def facts_of_cuts(record: Record, directory: Path) -> Facts:
    """The facts of power cuts of kvs, whose failures are in ``directory``."""
    told = [_told(directory, found) for found in record.found]
    failures = [failed for failed, _ in told]
    if not failures:
        failures = [Failed(property_name=traffic.NAME, message=reason) for reason in record.reasons]
    return Facts(
        what=WHAT,
        engine=_ENGINE,
        outcome=record.outcome,
        sentence=sentence(record),
        directory=str(directory),
        seconds=record.counts.seconds,
        failures=tuple(failures),
        checked=tuple(_checked(record)),
        figures=tuple(_figures(record)),
        sheets=(*(sheet for _, sheet in told if sheet is not None), _by_scenario(record)),
        settings=settings(record.options),
        environment=tuple(record.versions.items()),
        again=_again(record.options),
    )


def facts_of_loss(file: Path) -> Facts:
    """The facts of one failure that power cuts keep in a file. Raises UsageError if it holds none."""
    failed, sheet, loss = _read(file)
    return Facts(
        what=WHAT,
        engine=loss.trace.engine,
        outcome=Outcome.VIOLATION,
        sentence=f"{failed.property_name}: {failed.message}",
        directory=str(file.parent),
        seconds=0.0,
        failures=(failed,),
        checked=(Checked(failed.property_name, Outcome.VIOLATION, "1 image"),),
        figures=(("events", f"{len(loss.trace.events):,}"), ("missing", f"{loss.size:,}")),
        sheets=(sheet,),
        environment=tuple(loss.versions.items()),
        again=failed.replay,
    )


def facts_of_table(table: Table, directory: Path) -> Facts:
    """The facts of power cuts of other engines: each configuration beside what its documentation promises."""
    names = {row.configuration.partition("-")[0] for row in table.rows}
    done = [row for row in table.rows if row.images]
    return Facts(
        what=WHAT,
        engine=", ".join(sorted(names)) or "none",
        outcome=table.outcome,
        sentence=table_sentence(table),
        directory=str(directory),
        seconds=0.0,
        failures=tuple(_broken_promises(table, directory)),
        checked=tuple(
            Checked(f"{row.configuration} {name}", _kept(row, name), f"{row.images:,} images")
            for row in table.rows
            for name in row.promised
        ),
        figures=(
            ("configurations", f"{len(done):,}"),
            ("images", f"{sum(row.images for row in done):,}"),
            ("runs", f"{sum(row.runs for row in done):,}"),
        ),
        sheets=(_promises(table), _losses(table)),
        settings=(("seed", str(table.seed)), ("medium", table.medium)),
        environment=tuple(table.versions.items()),
        again=_table_again(table),
    )


def sentence(record: Record) -> str:
    """The last line about power cuts of kvs, without the verdict."""
    counts = record.counts
    words = f"{counts.images:,} images, {counts.twice:,} second cuts{kinds(len(record.found))}"
    return words + (", interrupted" if record.interrupted else "")


def table_sentence(table: Table) -> str:
    """The last line about power cuts of other engines, without the verdict."""
    words = f"{sum(row.images for row in table.rows):,} images of {len(table.rows)} configurations"
    return words + (", interrupted" if table.interrupted else "")


# -- cuts of kvs ----------------------------------------------------------------------------------------------


def _told(directory: Path, found: Found) -> tuple[Failed, Sheet | None]:
    """What is known of a finding: its own file says more than the record, where it is there still."""
    why = "it has no file of its own: the run was ended before it was written"
    if found.file:
        try:
            failed, sheet, _ = _read(directory / found.file)
        except UsageError as error:
            why = str(error)
        else:
            return failed, sheet
    return Failed(
        property_name=found.property_name,
        message=found.message,
        words=(("lost", why),),
        signature=kind_of(Finding(found.property_name, found.message)),
    ), None


def _read(file: Path) -> tuple[Failed, Sheet, Loss]:
    loss = load(file)
    options = ", ".join(f"{name}={value}" for name, value in loss.trace.options.items())
    words = [("cut" if not number else "", line) for number, line in enumerate(loss.words)]
    words += [
        ("medium", f"{loss.medium}: {MEDIA[loss.medium].meaning}"),
        ("store", f"{loss.trace.engine} ({options})"),
    ]
    words += [("planted", loss.bug)] if loss.bug else []
    if sizes := loss.shrunk.get("omitted"):
        words.append(("shrunk", f"what was missing, {sizes[0]} to {sizes[-1]}"))
    page = file.with_suffix(".txt")
    failed = Failed(
        property_name=loss.property_name,
        message=loss.message,
        words=tuple(words),
        replay=f"harness replay {shlex.quote(str(file))}",
        reproduced=loss.reproduced,
        file=file.name,
        page=page.name if page.exists() else "",
        signature=kind_of(Finding(loss.property_name, loss.message)),
    )
    return failed, _medium(loss, file.name), loss


def _medium(loss: Loss, name: str) -> Sheet:
    """What need not be on the medium at the cut, and what of it was there; what was missing comes first."""
    missing: list[tuple[str, ...]] = []
    there: list[tuple[str, ...]] = []
    pending, names = loss.disk().pending(), loss.trace.names()
    torn = {(one.file, one.page): one for one in loss.choice.pages}
    for unit, writes in pending.pages.items():
        file, page = unit
        what = f"page {page} of {names[file]} (bytes {page * PAGE:,} to {(page + 1) * PAGE:,})"
        state = _state(torn.get(unit), len(writes))
        (missing if unit in torn else there).append((what, f"{len(writes):,}", state))
    for number in sorted([*pending.changes, *pending.names]):
        # Choice words say "that ... was renamed", and so do ours.
        what = describe(loss.trace, Choice(omitted=(number,)))[0].removeprefix("that ")
        if number in loss.choice.omitted:
            missing.append((what, "1", "not there"))
        else:
            state = "both names" if number in loss.choice.both else "there"
            (missing if number in loss.choice.both else there).append((what, "1", state))
    rows = [*missing, *there]
    left = len(rows) - _ROWS_MAX
    more = [(f"and {left:,} more, all there", "", "")] if left > 0 else []
    return Sheet(
        title=f"What was on the medium at the cut ({name})",
        headings=("not synced", "changes", "on the medium"),
        rows=(*rows[:_ROWS_MAX], *more),
        numbers=("changes",),
    )


def _state(torn: Torn | None, count: int) -> str:
    if torn is None:
        return "there"
    if torn.low == torn.high or not torn.mask:
        return "as it was before" if not torn.low else f"older: the first {torn.low:,} of {count:,} writes"
    return f"torn: some sectors of the first {torn.low:,} writes, some of the first {torn.high:,}"


def _checked(record: Record) -> Iterator[Checked]:
    counts = record.counts
    looked = f"{counts.images:,} images"
    violated = {found.property_name for found in record.found}
    outcome = Outcome.OK if counts.images else Outcome.UNKNOWN
    for name in [*_ALWAYS, *sorted(violated - set(_ALWAYS))]:
        yield Checked(name, Outcome.VIOLATION if name in violated else outcome, looked)
    lacking = record.reasons or ([] if counts.images else ["no image was judged"])
    words = "; ".join(lacking) or f"{looked}, {counts.cuts:,} cuts, {counts.twice:,} second cuts"
    yield Checked(traffic.NAME, Outcome.UNKNOWN if lacking else Outcome.OK, words)


def _figures(record: Record) -> Iterator[tuple[str, str]]:
    counts = record.counts
    yield "images", f"{counts.images:,}"
    yield "  per second and job", f"{record.rate:,.0f}"
    yield "states", f"{counts.states:,}"
    yield "runs", f"{counts.runs:,}"
    yield "  cut in every way", f"{counts.whole_runs:,}"
    yield "events", f"{counts.events:,}"
    yield "cuts", f"{counts.cuts:,}"
    yield "second cuts", f"{counts.twice:,}"


def _by_scenario(record: Record) -> Sheet:
    return Sheet(
        title="Images by scenario",
        headings=("scenario", "images", "violations"),
        rows=tuple(
            (name, f"{images:,}", f"{sum(each.count for each in record.found if each.scenario == name):,}")
            for name, images in record.counts.by_scenario.items()
        ),
        numbers=("images", "violations"),
    )


def _again(options: Options) -> str:
    if options.scenarios == SCENARIOS:
        options = msgspec.structs.replace(options, scenarios=())
    return command(WHAT, options, _FLAGS)


# -- other engines --------------------------------------------------------------------------------------------


def _kept(row: Row, name: str) -> Outcome:
    if name in row.found:
        return Outcome.VIOLATION
    return Outcome.OK if row.images and row.outcome is not Outcome.UNKNOWN else Outcome.UNKNOWN


def _broken_promises(table: Table, directory: Path) -> Iterator[Failed]:
    """What was found that is promised not to be; else, of each configuration that is not as documented, that."""
    for row in table.rows:
        broken = [name for name in row.promised if name in row.found]
        for name in broken:
            file = row.files.get(name, "")
            yield Failed(
                property_name=f"{row.configuration} {name}",
                message=row.explained.get(name, f"{row.found[name]:,} times: {_PEERS.get(name, name)}"),
                words=(("promised", row.sentence), ("source", row.address)),
                replay=f"harness replay {shlex.quote(str(directory / file))}" if file else "",
                file=file,
                signature=f"{row.configuration}: {name}",
            )
        if not broken and not row.expected and table.outcome is Outcome.UNKNOWN:
            yield Failed(
                property_name=row.configuration,
                message="it promises less than everything, and no loss was found: more images may show one",
                words=(("promised", row.sentence), ("source", row.address)),
            )


def _promises(table: Table) -> Sheet:
    return Sheet(
        title="What is promised, and what was found",
        headings=("configuration", "promised", "images", "found", "as documented"),
        rows=tuple(
            (
                row.configuration,
                ", ".join(row.promised) or "nothing",
                f"{row.images:,}",
                ", ".join(f"{name} {count:,}" for name, count in row.found.items()) or "nothing",
                "yes" if row.expected else "NO",
            )
            for row in table.rows
        ),
        numbers=("images",),
    )


def _losses(table: Table) -> Sheet:
    return Sheet(
        title="One loss of each kind",
        headings=("configuration", "kind", "what was lost", "file"),
        rows=tuple(
            (row.configuration, name, text, row.files.get(name, ""))
            for row in table.rows
            for name, text in row.explained.items()
        ),
    )


def _table_again(table: Table) -> str:
    names = ",".join(row.configuration for row in table.rows)
    line = table.command or f"harness {WHAT} --engine {names} --medium {table.medium}"
    return seeded(line, table.seed)
