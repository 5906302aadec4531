"""What many errands brought home: failures grouped by their signature, kept with their artefacts, and told as facts."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash

from harness import errand
from harness.errand import RUN, SHRUNK, Result, Shown
from harness.errors import HarnessError
from harness.verdict import EXIT_CODES, Outcome
from harness.viewer.facts import Checked, Facts, Failed, Picture, Sheet

FACTS: Final = "facts.json"
PAGE: Final = "report.html"
SUMMARY: Final = "summary.md"
FAILURES: Final = "failures"
EXAMPLES_MAX: Final = 3
"""Of so many errands that showed the same the artefacts are kept; of all of them the record."""
_BROKEN: Final = "broken"
_ROWS_MAX: Final = 1_000
_NUMBERS_MAX: Final = 10
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9]+")


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that are the same failure. ``found``: by kind, the numbers of the errands that showed it. ``example`` is
    the best artefact: made smaller if one is. ``line`` is the errand that showed it first.
    """

    signature: str
    property_name: str = msgspec.field(name="property")
    message: str
    found: dict[str, list[int]]
    example: str
    replay: str
    reproduced: str
    shrunk: bool
    line: str

    @property
    def count(self) -> int:
        """How many errands showed it."""
        return sum(map(len, self.found.values()))


class Harvest(msgspec.Struct, frozen=True, kw_only=True):
    """All that came of a plan. ``planned`` errands were to be, if there was such a number; ``reasons`` tell what the
    verdict lacks, and ``notes`` what else is to be known.
    """

    what: str
    engine: str
    directory: Path
    results: Sequence[Result]
    seconds: float
    settings: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    again: str = ""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """A violation anywhere is one; else whatever is not known, or nothing at all, is unknown."""
        outcomes = {result.outcome for result in self.results}
        if Outcome.VIOLATION in outcomes:
            return Outcome.VIOLATION
        return Outcome.OK if outcomes == {Outcome.OK} and not self.reasons else Outcome.UNKNOWN

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violation, 4 an errand could not be carried out, 3 something else is not known."""
        if self.outcome is Outcome.UNKNOWN and any(map(is_broken, self.results)):
            return errand.FAILED
        return EXIT_CODES[self.outcome]


def is_broken(result: Result) -> bool:
    """Whether the errand could not be carried out."""
    return result.exit_code not in EXIT_CODES.values()


def home(out: Path, signature: str) -> Path:
    """Where failures of one signature are kept."""
    name = _UNSAFE.sub("-", signature.partition(":")[0])[:30].strip("-") or "failure"
    return out / FAILURES / f"{name}-{xxhash.xxh32_hexdigest(signature.encode())}"


def keep(result: Result, out: Path) -> None:
    """Keep what an errand left behind, if it showed something of which there are few examples yet."""
    name = f"{result.kind}-{result.number}"
    parents = {home(out, shown.signature) for shown in result.shown}
    if is_broken(result) and result.files:
        parents.add(out / _BROKEN)
    for parent in parents:
        if (parent / name).exists() or len(list(_examples(parent))) < EXAMPLES_MAX:
            errand.unpack(result, parent / name)


def without_files(result: Result) -> Result:
    """The record of an errand, for those who keep it and not what it left behind."""
    return msgspec.structs.replace(result, files={})


def groups(results: Iterable[Result], out: Path) -> list[Group]:
    """The failures by their signatures, what was shown first before what was shown later."""
    shown: dict[str, list[tuple[Result, Shown]]] = defaultdict(list)
    for result in results:
        for each in {each.signature: each for each in result.shown}.values():
            shown[each.signature].append((result, each))
    return [_group(signature, members, out) for signature, members in shown.items()]


def _group(signature: str, members: list[tuple[Result, Shown]], out: Path) -> Group:
    found: dict[str, list[int]] = defaultdict(list)
    for result, _ in members:
        found[result.kind].append(result.number)
    example, (best, shown) = _best(home(out, signature), members)
    told = _peek(example) if example is not None and example.is_file() else {}
    shrunk = told.get("shrunk") or {}
    line = members[0][0].line
    return Group(
        signature=signature,
        property_name=shown.property_name,
        message=str(told.get("message") or shown.message),
        found={kind: sorted(numbers) for kind, numbers in found.items()},
        example="" if example is None else str(example),
        replay=f"harness replay {shlex.quote(str(example))}" if example is not None else best.line,
        reproduced=str(told.get("reproduced", "")),
        shrunk=bool(shrunk) and "failed" not in shrunk,
        line=line,
    )


def _best(parent: Path, members: list[tuple[Result, Shown]]) -> tuple[Path | None, tuple[Result, Shown]]:
    """The artefact that tells most: what was made smaller, else a file that can be played, else a whole run."""
    kept = [(parent / f"{result.kind}-{result.number}", (result, shown)) for result, shown in members]
    kept = [(path, member) for path, member in kept if path.is_dir()]
    exact = [(path, member) for path, member in kept if member[1].file]
    if (parent / SHRUNK).is_file():
        return parent / SHRUNK, exact[0][1] if exact else members[0]
    if exact:
        path, member = exact[0]
        return path / member[1].file, member
    return kept[0] if kept else (None, members[0])


def _examples(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from (path for path in parent.iterdir() if path.is_dir())


def _peek(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def facts(harvest: Harvest) -> Facts:
    """What is said of all errands together."""
    found = groups(harvest.results, harvest.directory)
    failures = [_failed(group, harvest.directory) for group in found] or list(_unknown(harvest))
    return Facts(
        what=harvest.what,
        engine=harvest.engine,
        outcome=harvest.outcome,
        sentence=sentence(harvest),
        directory=str(harvest.directory),
        seconds=harvest.seconds,
        failures=tuple(failures),
        checked=tuple(_checked(harvest.results)),
        figures=(*_figures(harvest.results), *(("note", note) for note in harvest.notes)),
        sheets=tuple(_sheets(harvest.results)),
        settings=harvest.settings,
        environment=harvest.environment,
        again=harvest.again,
    )


def sentence(harvest: Harvest) -> str:
    """The last line, without the verdict."""
    kinds = Counter(result.kind for result in harvest.results)
    words = f"{len(harvest.results):,} errand{'s' * (len(harvest.results) != 1)}"
    if kinds:
        words += f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})"
    words += f" in {harvest.seconds:,.0f} s"
    outcomes = Counter(result.outcome for result in harvest.results)
    if count := len(groups(harvest.results, harvest.directory)):
        words += f", {count} kind{'s' * (count != 1)} of violation in {outcomes[Outcome.VIOLATION]:,} of them"
    if outcomes[Outcome.UNKNOWN]:
        words += f", {outcomes[Outcome.UNKNOWN]:,} came to no verdict"
    return "; ".join((words, *harvest.reasons))


def of_errand(result: Result, harvest: Harvest) -> Facts:
    """What is said of one errand, as a suite of its own."""
    failures = [
        Failed(property_name=shown.property_name, message=shown.message, replay=result.line)
        for shown in result.shown
    ] or [Failed(property_name=result.kind, message=reason, replay=result.line) for reason in result.reasons]
    counts = ", ".join(f"{count:,.0f} {name}" for name, count in result.counts.items())
    return Facts(
        what=result.kind,
        engine=harvest.engine,
        outcome=result.outcome,
        sentence=counts or "nothing was done",
        directory=f"{result.kind}-{result.number}",
        seconds=result.seconds,
        failures=tuple(failures),
        checked=(Checked("verdict", Outcome.OK, counts),) if result.outcome is Outcome.OK else (),
        settings=(("seed", str(result.seed)),),
        again=result.line,
    )


def write(harvest: Harvest) -> tuple[Facts, list[str]]:
    """Write the facts, the page and the summary into the directory: what is said, and what could not be written."""
    from harness.viewer.markdown import comment
    from harness.viewer.page import write_page

    told = facts(harvest)
    out, lacking = harvest.directory, []
    try:
        (out / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
        (out / SUMMARY).write_text(comment(told), encoding="utf-8")
        write_page(out / PAGE, told)
    except (OSError, HarnessError) as error:
        lacking.append(f"not everything could be written to {out}: {error}; the record is complete")
    return told, lacking


def _failed(group: Group, out: Path) -> Failed:
    """A group, in the words of its example."""
    words = [("shown by", f"{kind} {_counted(numbers)}") for kind, numbers in group.found.items()]
    words.append(("first", group.line))
    example = Path(group.example) if group.example else None
    told = _of_example(example)
    home_of = (example if example.is_dir() else example.parent) if example is not None else out
    pictures = tuple(
        Picture(each.title, str((home_of / each.file).relative_to(out)))
        for each in (told.pictures if told else ())
    )
    page = example.with_suffix(".txt") if example is not None and example.is_file() else None
    return Failed(
        property_name=group.property_name,
        message=group.message,
        words=(*(told.words if told else ()), *words),
        replay=group.replay,
        reproduced=group.reproduced,
        pictures=pictures,
        file=str(example.relative_to(out)) if example is not None and example.is_file() else "",
        page=str(page.relative_to(out)) if page is not None and page.is_file() else "",
        trace=told.trace if told else "",
        signature=group.signature,
    )


def _of_example(example: Path | None) -> Failed | None:
    from harness.viewer.of_record import facts_of

    if example is None:
        return None
    try:
        failures = facts_of(example).failures
    except HarnessError:  # its record must do
        return None
    return failures[0] if failures else None


def _counted(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_NUMBERS_MAX])) + (" ..." if len(numbers) > _NUMBERS_MAX else "")
    return f"{len(numbers):,} time{'s' * (len(numbers) != 1)}: errand{'s' * (len(numbers) != 1)} {named}"


def _unknown(harvest: Harvest) -> Iterator[Failed]:
    """Why there is no verdict."""
    for reason in harvest.reasons:
        yield Failed(property_name=harvest.what, message=reason)
    for result in harvest.results:
        if result.outcome is Outcome.UNKNOWN:
            message = "; ".join(result.reasons) or "it came to no verdict"
            yield Failed(
                property_name=result.kind, message=f"errand {result.number}: {message}", replay=result.line
            )


def _checked(results: Sequence[Result]) -> Iterator[Checked]:
    for kind, members in _by_kind(results).items():
        outcomes = Counter(result.outcome for result in members)
        worst = next(each for each in (Outcome.VIOLATION, Outcome.UNKNOWN, Outcome.OK) if outcomes[each])
        said = ", ".join(f"{outcomes[each]:,} {each}" for each in Outcome if outcomes[each])
        totals = _totals(members)
        counts = ", ".join(f"{count:,.0f} {name}" for name, count in totals.items())
        yield Checked(kind, worst, f"{said}: {counts}" if counts else said)


def _figures(results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    yield "errands", f"{len(results):,}"
    for kind, members in _by_kind(results).items():
        yield f"  {kind}", f"{len(members):,}"
    for name, count in _totals(results).items():
        yield name, f"{count:,.0f}"
    yield "machine time", f"{sum(result.seconds for result in results):,.0f} s"


def _sheets(results: Sequence[Result]) -> Iterator[Sheet]:
    ordered = sorted(results, key=lambda result: (result.outcome is Outcome.OK, result.number))
    more = len(ordered) - _ROWS_MAX
    yield Sheet(
        title="Errands" + (f" (without {more:,} of those that were OK)" if more > 0 else ""),
        headings=("number", "kind", "seed", "outcome", "seconds", "begun", "machine", "counts"),
        rows=tuple(
            (
                str(result.number),
                result.kind,
                str(result.seed),
                str(result.outcome),
                f"{result.seconds:.1f}",
                str(result.attempts),
                result.machine,
                ", ".join(f"{count:,.0f} {name}" for name, count in result.counts.items()),
            )
            for result in ordered[:_ROWS_MAX]
        ),
        numbers=("number", "seed", "seconds", "begun"),
    )


def _by_kind(results: Iterable[Result]) -> dict[str, list[Result]]:
    kinds: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        kinds[result.kind].append(result)
    return dict(sorted(kinds.items(), key=lambda item: (item[0] != RUN, item[0])))


def _totals(results: Iterable[Result]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for result in results:
        for name, count in result.counts.items():
            totals[name] += int(count)
    return totals
