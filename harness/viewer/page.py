"""The page of a run: one file that holds everything it shows, and asks nobody for anything."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jinja2
import msgspec
from markupsafe import Markup, escape

from harness.errors import HarnessError
from harness.viewer.facts import Facts, Picture

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from harness.viewer.lanes import Timeline

_OPERATION: Final = re.compile(r"process (\d+) operation (\d+)")
_FAILURES_OPEN: Final = 1
"""So many failures are unfolded, and those with pictures; of the others the first line is there to be clicked."""


class Chart(NamedTuple):
    """A plotly figure and what to say about it: ``note`` is a sentence or two that tell how to read it.

    The page gives it its colours for light and dark, so its background, font and axes need none. A trace or a marker
    may name a colour of the page instead of a fixed one: ``"var(--ok)"`` (see the top of ``report.css``).
    """

    title: str
    figure: Figure
    note: str = ""
    height: int = 320
    wide: bool = False
    """It takes the whole width; else two stand side by side."""


def write_page(
    path: Path, facts: Facts, *, charts: tuple[Chart, ...] = (), timeline: Timeline | None = None
) -> None:
    """Write the page of a run to ``path``; what was there is replaced only when the whole page is on the disk's side.

    The pictures of ``facts`` are read from its directory and become part of the page. Without charts and a timeline the
    page holds no script of plotly's and is small.

    Raises:
        HarnessError: it cannot be written.
    """
    text = page(facts, charts=charts, timeline=timeline)
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise HarnessError(
            f"the page cannot be written to {path}: {error.strerror}; the run's other files are as they were"
        ) from error


def page(facts: Facts, *, charts: tuple[Chart, ...] = (), timeline: Timeline | None = None) -> str:
    """The page as text; see ``write_page``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["linked"] = _linked if timeline else escape
    drawn = bool(charts or timeline)
    return environment.get_template("report.html.j2").render(
        facts=facts,
        charts=charts,
        timeline=timeline,
        pictures={
            picture.file: _inlined(facts, picture) for failed in facts.failures for picture in failed.pictures
        },
        unfolded=_FAILURES_OPEN,
        css=_part(environment, "report.css"),
        plotly=_plotly() if drawn else "",
        scripts=[_part(environment, name) for name in ("report.js", *(["timeline.js"] if timeline else []))],
        data=_data(charts, timeline),
    )


def _part(environment: jinja2.Environment, name: str) -> Markup:
    """A style sheet or a script of ours, which is put into the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])  # noqa: S704 - our own text


def _plotly() -> Markup:
    """The whole script of plotly (4.8 MB)."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    assert "</script" not in script.lower(), "it would end the element that it is put in"
    return Markup(script)  # noqa: S704 - plotly's own text


def _data(charts: tuple[Chart, ...], timeline: Timeline | None) -> Markup:
    """What the scripts read: the figures as plotly's JSON, and the head of the timeline."""
    value: dict[str, Any] = {
        "charts": [msgspec.Raw(_without_template(chart.figure).encode()) for chart in charts],
        "timeline": None if timeline is None else timeline.head,
    }
    text = msgspec.json.encode(value).decode()
    # Inside a script element nothing is unescaped, but "</script" ends it and "<!--" changes how it is read.
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))  # noqa: S704


def _without_template(figure: Figure) -> str:
    """The figure without plotly's own colours and fonts, which are 6 kB and not those of the page."""
    from plotly.graph_objects import Figure

    return str(Figure(figure).update_layout(template=None).to_json())


def _inlined(facts: Facts, picture: Picture) -> str:
    """The picture as a data URL, which keeps its ids and its scripts (it has none) out of the page; "" if there is no
    such file any more.
    """
    try:
        drawing = (Path(facts.directory) / picture.file).read_bytes()
    except OSError:
        return ""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def _linked(text: str) -> Markup:
    """The text with every operation that it names leading to its place in the timeline."""
    parts = Markup("")
    end = 0
    for found in _OPERATION.finditer(text):
        place = ".".join(found.groups())
        parts += escape(text[end : found.start()])
        parts += Markup('<a class="op" href="#op={}">{}</a>').format(place, found.group())
        end = found.end()
    return parts + escape(text[end:])
