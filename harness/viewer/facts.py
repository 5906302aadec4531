"""What is said of a run: plain facts, the same ones on the page, in Markdown and in JUnit XML."""

from __future__ import annotations

import msgspec

from harness.verdict import Outcome


class Checked(msgspec.Struct, frozen=True):
    """One property, its verdict, and what was looked at to reach it, in words."""

    property_name: str = msgspec.field(name="property")
    outcome: Outcome = Outcome.UNKNOWN
    words: str = ""


class Picture(msgspec.Struct, frozen=True):
    """A drawing of the evidence: an SVG file in the run's directory."""

    title: str
    file: str


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that went wrong, or (where the verdict is ``UNKNOWN``) that could not be said.

    ``words`` are pairs of a heading ("killed", "expected" ...) and a text, in the order in which they are told;
    ``replay`` is a command that shows it again, ``reproduced`` how often it did ("10/10", "" where it was not tried);
    ``operations`` are the ones that it is about, as ``(process, index)``, the most telling one first; ``file`` is the
    failure's own file and ``page`` its page of text, in the run's directory; ``trace`` is the part of that page that
    stands in columns (every step that led there); ``signature`` is the same for two failures that are the same failure.
    """

    property_name: str = msgspec.field(name="property")
    message: str
    words: tuple[tuple[str, str], ...] = ()
    replay: str = ""
    reproduced: str = ""
    operations: tuple[tuple[int, int], ...] = ()
    pictures: tuple[Picture, ...] = ()
    file: str = ""
    page: str = ""
    trace: str = ""
    signature: str = ""


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """A table; ``numbers`` are the headings of the columns that hold numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is said of one run. ``what`` is the command that made it ("run", "explore", "powerloss" ...);
    ``outcome`` and ``sentence`` its last line; ``again`` a command that does the same once more; ``figures`` are pairs
    of a name and a text.
    """

    what: str
    engine: str
    outcome: Outcome
    sentence: str
    directory: str
    seconds: float
    failures: tuple[Failed, ...] = ()
    more_failures: int = 0
    checked: tuple[Checked, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    sheets: tuple[Sheet, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    again: str = ""
