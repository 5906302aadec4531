"""A headless browser that opens a page of ours, for whoever measures or tests it: Chromium, by playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from harness.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
SIZE: Final = (1280, 800)
_FLAGS: Final = (
    "--no-sandbox",  # which root may not use, and the page is our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str:
    """What would have to be installed before ``opened`` works, in words; "" if nothing."""
    if not any(shutil.which(name) for name in NAMES):
        return f"no Chromium is installed (none of {', '.join(NAMES)} is on the PATH; Debian: apt-get install chromium)"
    try:
        import playwright.sync_api  # noqa: F401 - whether it is there
    except ImportError:
        return "playwright is not installed (pip install playwright)"
    return ""


def require() -> None:
    """Raise UsageError, which says what to install, where there is no browser."""
    if lacks := missing():
        raise UsageError(f"a page can only be opened where there is a browser: {lacks}")


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """The installed Chromium, with a profile of its own that is removed afterwards, as is every process of it.

    Raises:
        UsageError: it, or playwright, is not installed.
    """
    require()
    from playwright.sync_api import sync_playwright

    path = next(found for name in NAMES if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def sized(width: int = SIZE[0], height: int = SIZE[1]) -> dict[str, Any]:
    """The options of a new page of that size, in pixels."""
    return {"viewport": {"width": width, "height": height}}
