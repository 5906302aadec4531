"""A page of a run in a headless browser, for the tests: what it said on its console, and what it asked the net for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.viewer import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

needed = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")
"""For tests that open a page."""


class Opened:
    """One page. ``said``: errors and warnings of its console, and exceptions; ``asked``: the addresses it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"exception: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, path: Path, place: str = "") -> Page:
        """Open ``path`` at ``place`` and wait for its timeline."""
        self.page.goto(path.resolve().as_uri() + place)
        self.page.wait_for_selector("body[data-timeline=ready]")
        return self.page

    def press(self, *keys: str) -> None:
        """Press keys on the timeline, each after what the one before asked for was drawn."""
        for key in keys:
            before = self.drawn
            self.page.focus("#plot")
            self.page.keyboard.press(key)
            self.page.wait_for_function(
                "n => Number(document.getElementById('plot').dataset.drawn) > n", arg=before
            )

    @property
    def drawn(self) -> int:
        """How often the timeline was drawn."""
        return int(self.page.eval_on_selector("#plot", "plot => plot.dataset.drawn"))

    @property
    def shown(self) -> tuple[float, float]:
        """The seconds between which the timeline shows what was."""
        low, high = self.page.eval_on_selector("#plot", "plot => plot.layout.xaxis.range")
        return float(low), float(high)

    def trace(self, name: str) -> dict[str, Any]:
        """What the timeline was given to draw under a name ("bars", "cells", "violating" ...)."""
        found: dict[str, Any] = self.page.evaluate(
            """name => {
              const trace = document.getElementById("plot").data.find((one) => one.name === name);
              return trace ? JSON.parse(JSON.stringify(trace)) : null;
            }""",
            name,
        )
        return found


@contextlib.contextmanager
def page_of(chromium: Browser, **options: Any) -> Iterator[Opened]:
    """A new page of 1280 x 800 in a context of its own, which jumps where it would scroll smoothly."""
    context = chromium.new_context(**{**browser.sized(), "reduced_motion": "reduce", **options})
    try:
        yield Opened(context.new_page())
    finally:
        context.close()
