"""The facts, and the page, of whatever the harness has left behind: what it is, is seen by looking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from harness import judge
from harness.errors import UsageError
from harness.powerloss.loss import is_loss
from harness.viewer.facts import Facts
from harness.viewer.words import read

if TYPE_CHECKING:
    from harness.viewer.page import Chart

PAGE: Final = "report.html"
PLAN: Final = "plan.json"
RECORDS: Final = ("facts.json", "explore.json", "powerloss.json", "badstorage.json")
"""What the directory of a run holds that is no campaign; the first is of those that are many runs in one."""
_CHARTS_MAX: Final = 5


def facts_of(path: Path) -> Facts:
    """What is said of the run whose directory, record or failure is at ``path``. A campaign is judged again.

    Raises:
        UsageError: there is nothing, or something else; the message says what was found and what is expected.
        HarnessError: the saved history of a campaign cannot be read or judged.
    """
    if (path / PLAN).is_file():
        from harness.viewer.of_campaign import facts_of_campaign

        run = judge.load(path)
        return facts_of_campaign(path, run, judge.judge(run))
    return _facts_of_file(record_of(path))


def write_page_of(path: Path, html: Path | None = None) -> tuple[Path, Facts]:
    """Write the page of the run at ``path``, with its charts, to ``html``: where it was written, and what it says.
    Without ``html`` that is ``report.html`` in the run's directory, or for a single file beside it by its name.

    Raises:
        UsageError, HarnessError: as ``facts_of``; or the page cannot be written.
    """
    html = html or (path / PAGE if path.is_dir() else path.with_suffix(".html"))
    if (path / PLAN).is_file():
        from harness.viewer.of_campaign import write_campaign_page

        run = judge.load(path)
        return html, write_campaign_page(html, path, run, judge.judge(run))
    facts = facts_of(path)
    write_page_with_charts(html, facts)
    return html, facts


def write_page_with_charts(html: Path, facts: Facts) -> None:
    """Write the page of a run that is no campaign to ``html``. Raises HarnessError if that cannot be done."""
    from harness.viewer.page import write_page

    write_page(html, facts, charts=_charts(facts))


def record_of(path: Path) -> Path:
    """The file that tells of the run at ``path``: that file itself, or the record in that directory.

    Raises:
        UsageError: there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UsageError(
            f"{path} does not exist; name a run's directory (results/runs/...), or its JSON file"
        )
    found = next((path / name for name in RECORDS if (path / name).is_file()), None)
    if found is None:
        held = sorted(each.name for each in path.iterdir())[:5] if path.is_dir() else []
        raise UsageError(
            f"{path} is not the directory of a run: it holds {', '.join(held) or 'nothing'}, and none of"
            f" {', '.join((PLAN, *RECORDS))}; name one below results/runs, or a JSON file that a command wrote"
        )
    return found


def _facts_of_file(path: Path) -> Facts:
    """What is said of a run by one JSON file. Raises UsageError if it is of no kind that is known."""
    if is_loss(path):
        from harness.viewer.of_powerloss import facts_of_loss

        return facts_of_loss(path)
    try:
        held = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} holds no JSON object, as every record of a run does ({error})") from error
    for names, tell in _kinds():
        if names <= held.keys():
            return tell(path)
    if "verdicts" in held:
        raise UsageError(
            f"{path} is the verdict over a campaign; name the directory it is in ({path.parent})"
        )
    raise UsageError(
        f"{path} is no record of a run: it holds {', '.join(sorted(held)[:5]) or 'nothing'}. Expected is what explore,"
        " powerloss, badstorage or damage wrote or printed with --json, or a failure of theirs"
    )


def _kinds() -> tuple[tuple[set[str], Callable[[Path], Facts]], ...]:
    """What a file of each kind always holds, and who tells of it."""
    from harness.viewer import of_badstorage, of_damage, of_explore, of_powerloss

    return (
        ({"what", "engine", "sentence"}, _facts_themselves),
        ({"options", "position"}, of_explore.facts_of_explore),
        ({"record", "directory", "reasons"}, of_explore.facts_of_printed),
        ({"scenario", "choices"}, of_explore.facts_of_failure),
        ({"options", "counts", "rate"}, of_powerloss.facts_of_powerloss),
        ({"rows", "medium"}, of_powerloss.facts_of_powerloss),
        ({"outcome", "report"}, of_badstorage.facts_of_badstorage),
        ({"outcome", "runs"}, of_badstorage.facts_of_badstorage),
        ({"subjects", "phases"}, of_damage.facts_of_damage),
        ({"subject", "damage"}, of_damage.facts_of_finding),
    )


def _facts_themselves(path: Path) -> Facts:
    """Facts that were saved as such, and may have been moved since."""
    return msgspec.structs.replace(read(path, Facts, "harness fleet"), directory=str(path.parent))


def _charts(facts: Facts) -> tuple[Chart, ...]:
    """The steps of every failure that has some."""
    from harness.viewer import of_explore

    if facts.what != of_explore.WHAT or not any(failed.file for failed in facts.failures):
        return ()
    from harness.viewer import steps
    from harness.viewer.page import Chart

    charts = []
    for failed, failure in list(of_explore.failures_of(facts))[:_CHARTS_MAX]:
        title = f"{failed.file}: every step, and where it went wrong"
        note = "A lane for each process, a mark for each of its steps: it goes on from the sync point where it stood."
        charts.append(Chart(title, steps.chart(failure), note, steps.height(failure)))
    return tuple(charts)
