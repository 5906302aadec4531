"""The facts of a run as workflow commands of GitHub Actions: what went wrong, beside the run and the commit.

Documented in "Workflow commands for GitHub Actions": ``::error title=...::message`` on a line of the output.
"""

from typing import Final

from harness.verdict import Outcome
from harness.viewer.facts import Facts, Failed

ANNOTATIONS_MAX: Final = 10
"""GitHub shows so many errors of one step, and drops the others without a word."""


def annotations(facts: Facts) -> list[str]:
    """A line for each failure (in an ``UNKNOWN`` for each thing that could not be said), in which the property is named
    and the command that shows it again; at most ``ANNOTATIONS_MAX``, the last then says how many there are besides.
    Nothing for an OK.
    """
    if facts.outcome is Outcome.OK:
        return []
    what = f"harness {facts.what} {facts.engine}"
    lines = [_error(f"{what}: {_verdict(facts, failed)}", _message(failed)) for failed in facts.failures]
    if not lines:
        lines = [_error(f"{what}: {facts.outcome}", facts.sentence)]
    count = len(lines) + facts.more_failures
    if count > ANNOTATIONS_MAX:
        kept = lines[: ANNOTATIONS_MAX - 1]
        return [*kept, _error(what, f"and {count - len(kept):,} more, in {facts.directory}")]
    if facts.more_failures:
        lines.append(_error(what, f"and {facts.more_failures:,} more, in {facts.directory}"))
    return lines


def _verdict(facts: Facts, failed: Failed) -> str:
    return f"{failed.property_name} {'violated' if facts.outcome is Outcome.VIOLATION else 'unknown'}"


def _message(failed: Failed) -> str:
    again = f" ({failed.reproduced})" if failed.reproduced else ""
    replay = f"\nreplay: {failed.replay}{again}" if failed.replay else ""
    return failed.message + replay


def _error(title: str, message: str) -> str:
    return f"::error title={_in_property(title)}::{_in_message(message)}"


def _in_message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _in_property(text: str) -> str:
    return _in_message(text).replace(":", "%3A").replace(",", "%2C")
