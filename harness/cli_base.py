"""What the commands have in common: a line that shows how far they are, JSON, and where runs go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Self

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.verdict import Outcome

RUNS: Final = Path("results") / "runs"
STYLES: Final = {Outcome.OK: "green", Outcome.VIOLATION: "red", Outcome.UNKNOWN: "yellow"}


class Line:
    """One line on standard error that is drawn anew by whoever has something to say; silent unless a terminal watches.
    It uses no thread: whoever uses it forks. Use as a context manager: the line goes.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )

    @property
    def watched(self) -> bool:
        """Whether anybody sees the line."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, *parts: str) -> None:
        """Draw the line."""
        if self._live is not None:
            self._live.update(Text("  ".join(filter(None, parts)), style="cyan", no_wrap=True), refresh=True)


def print_json(value: Any) -> None:
    """``value`` on standard output as JSON."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))
