"""The facts of a run as Markdown for a comment on a pull request: the verdict, the failures, and the rest folded."""

from __future__ import annotations

import re
import textwrap
from typing import Final, NamedTuple

import jinja2

from harness.viewer.facts import Facts, Failed

CHARACTERS_MAX: Final = 60_000
"""GitHub takes 65,536, and whoever posts the comment may want to say something too."""
FAILURES_MAX: Final = 5
_WIDTH: Final = 11
_WORDS_MAX: Final = 40
_SPECIAL: Final = re.compile(r"[\\`*{}\[\]<>|~&$]|(?<!\w)_|_(?!\w)")
_CALLS: Final = re.compile(r"[@#](?=\w)")
_FENCE: Final = re.compile(r"`{3,}")
_UNSEEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COLUMNS: Final = 120


class _Room(NamedTuple):
    """How much is told: failures in full, characters of a text and of a trace, rows of a table, lines of the rest."""

    failures: int
    text: int
    trace: int
    rows: int
    rest: int


_ROOMS: Final = (
    _Room(FAILURES_MAX, 4_000, 8_000, 60, 50),
    _Room(FAILURES_MAX, 1_000, 3_000, 30, 20),
    _Room(FAILURES_MAX, 500, 0, 10, 10),
    _Room(3, 200, 0, 5, 5),
    _Room(1, 100, 0, 0, 0),
)
"""What is tried one after another, until it is short enough."""


def comment(facts: Facts, *, characters_max: int = CHARACTERS_MAX) -> str:
    """The comment, of fewer than ``characters_max`` characters: what does not fit is left out, the least telling first,
    and that it is left out is said.
    """
    for room in _ROOMS:
        text = _rendered(facts, room)
        if len(text) < characters_max:
            return text
    said = plain(cut(facts.sentence, characters_max // 4))
    rest = "The rest is too long for here; it is in the files of the run."
    return f"### {facts.outcome}: harness {facts.what}\n\n{said}\n\n{rest}\n"


def _rendered(facts: Facts, room: _Room) -> str:
    # Nothing is HTML here: every place escapes for what it is (a cell, a sentence, a fenced block).
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "block": lambda failed: fenced(block(facts, failed, room.text), "text"),
        "cell": cell,
        "cut": cut,
        "fenced": fenced,
        "plain": plain,
    }
    text = environment.get_template("comment.md.j2").render(
        facts=facts,
        told=facts.failures[: room.failures],
        rest=facts.failures[room.failures :],
        text_max=room.text,
        trace_max=room.trace,
        rows_max=room.rows,
        rest_max=room.rest,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def block(facts: Facts, failed: Failed, text_max: int) -> str:
    """A failure as the terminal tells it: the message, and each of its words below its heading."""
    lines = [f"{facts.outcome!s:<10} {failed.property_name:<{_WIDTH}} {cut(failed.message, text_max)}"]
    for heading, text in failed.words[:_WORDS_MAX]:
        pieces = [
            wrapped
            for line in cut(text, text_max).splitlines() or [""]
            for wrapped in textwrap.wrap(line, _COLUMNS, break_long_words=False, break_on_hyphens=False)
            or [""]
        ]
        lines += [
            f"  {heading if not number else '':<{_WIDTH}} {piece}" for number, piece in enumerate(pieces)
        ]
    if failed.words[_WORDS_MAX:]:
        lines.append(f"  and {len(failed.words) - _WORDS_MAX:,} lines more")
    return "\n".join(lines)


def cut(text: str, length: int) -> str:
    """The beginning of ``text``, and that there is more, if it is longer than ``length``."""
    return text if len(text) <= length else f"{text[:length]} ... ({len(text) - length:,} characters more)"


def plain(text: object) -> str:
    """A text inside a sentence, in which nothing is markup and nobody is mentioned."""
    told = _SPECIAL.sub(r"\\\g<0>", _seen(" ".join(str(text).split())))
    return _CALLS.sub("\\g<0>\u200b", told)  # a space of no width: neither a person nor an issue is called


def cell(text: object) -> str:
    """A text inside a table; the two spaces that make a figure a part of the one above stay visible."""
    told = str(text)
    indent = "&nbsp;" * 2 if told.startswith("  ") else ""
    return indent + plain(told)


def fenced(text: str, language: str) -> str:
    """A text as a block of code, between fences that do not occur in it."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{_seen(text)}\n{fence}\n"


def _seen(text: str) -> str:
    """The text without characters that cannot be shown: a store's keys may be any bytes."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
