"""What the commands have in common: how they show how far they are, JSON, and where runs go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.plan import RUNS
from harness.verdict import Outcome

STYLES: Final = {Outcome.OK: "green", Outcome.VIOLATION: "red", Outcome.UNKNOWN: "yellow"}
_LINES: Final = "harness.lines"
_LINE_S: Final = 1.0
"""How often a machine is told how far it is; it is told of every new phase at once."""
_BAR_CELLS: Final = 24
_FIGURES_CELLS: Final = 16
"""What the share and the time left take, with the gaps."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Line:
    """How far a command is: a line of words, and a bar with the time left where it is known how much there is to do.

    On a terminal it is drawn on standard error, anew by whoever has something to say; it uses no thread, because
    whoever uses it forks. With ``--json-lines`` it is an object a second on standard output. Otherwise it is silent.
    Use as a context manager: what was drawn goes.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._lines = _lines_wanted()
        self._live = (
            Live(
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,  # what is forked meanwhile would inherit it
                redirect_stderr=False,
            )
            if console.is_terminal and not self._lines
            else None
        )
        self._bar = Progress(
            BarColumn(_BAR_CELLS),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", style="cyan", markup=False),
            console=console,
            auto_refresh=False,
            disable=True,  # it is a part of what is drawn
        )
        self._task = self._bar.add_task("", total=1.0)
        self._began = time.monotonic()
        self._said: tuple[str, float] = ("", 0.0)

    @property
    def watched(self) -> bool:
        """Whether anybody sees it."""
        return self._live is not None or self._lines

    @property
    def elapsed_s(self) -> float:
        """How long it has been there."""
        return time.monotonic() - self._began

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(
        self,
        *parts: str,
        done: float | None = None,
        facts: Any = None,
        above: RenderableType | None = None,
    ) -> None:
        """Say where it is. ``parts`` begin with the phase; ``done`` is the share that is done (0 to 1), if there is
        one. ``facts`` are for machines, ``above`` is drawn above the line.
        """
        words = [part for part in parts if part]
        done = None if done is None else min(max(done, 0.0), 1.0)
        if done is not None:
            if done < self._bar.tasks[0].completed:  # something else began
                self._bar.reset(self._task)
            self._bar.update(self._task, completed=done)
        if self._lines:
            self._tell(words, done, facts)
        if self._live is not None:
            line = self._drawn("  ".join(words), bar=done is not None)
            self._live.update(line if above is None else Group(above, line), refresh=True)

    def say(self, text: RenderableType, console: Console) -> None:
        """Print ``text`` on ``console``; on the terminal on which the line is drawn, above that."""
        if self._live is not None and console.is_terminal:
            console = self._live.console
        console.print(text, soft_wrap=True)

    def _drawn(self, text: str, *, bar: bool) -> RenderableType:
        if not bar:
            return Text(text, style="cyan", no_wrap=True, overflow="ellipsis")
        words = Text(text)
        words.truncate(max(8, self._bar.console.width - _BAR_CELLS - _FIGURES_CELLS), overflow="ellipsis")
        self._bar.update(self._task, description=words.plain)
        return self._bar.make_tasks_table(self._bar.tasks)

    def _tell(self, words: list[str], done: float | None, facts: Any) -> None:
        now, phase = time.monotonic(), words[0].split(" ")[0] if words else ""
        if phase == self._said[0] and now < self._said[1] + _LINE_S:
            return
        self._said = phase, now
        left = self._bar.tasks[0].time_remaining if done is not None else None
        status = {"elapsed_s": round(self.elapsed_s, 3), "done": done, "left_s": left, "words": words}
        if facts is not None:
            status["facts"] = facts._asdict() if hasattr(facts, "_asdict") else facts
        print_line("status", status)


def out_option(*, only_if_given: bool = False) -> Callable[[_Function], _Function]:
    """The option ``--out`` of a command that makes run directories; the parameter is ``RUNS`` where it is not given, or
    ``None`` if it must be known whether it was.
    """
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=None if only_if_given else RUNS,
        help=f"Parent of the run's directory.  [default: {RUNS}]",
    )


def json_options(result: str) -> Callable[[_Function], _Function]:
    """The options ``--json`` (the parameter ``as_json``) and ``--json-lines`` of a command that prints ``result``."""

    def either(context: click.Context, _: click.Parameter, as_json: bool) -> bool:
        return as_json or _LINES in context.meta

    def lines(context: click.Context, _: click.Parameter, given: bool) -> None:
        if given:
            context.meta[_LINES] = True

    def decorate(function: _Function) -> _Function:
        function = click.option(
            "--json-lines",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=lines,
            help="Print JSON lines: a status a second while it runs, and what --json prints as the last one.",
        )(function)
        return click.option(
            "--json", "as_json", is_flag=True, callback=either, help=f"Print {result} as JSON."
        )(function)

    return decorate


def print_json(value: Any) -> None:
    """``value`` on standard output as JSON: one document, or with ``--json-lines`` the last line."""
    if _lines_wanted():
        print_line("result", value)
        return
    click.echo(json.dumps(msgspec.to_builtins(value, str_keys=True), indent=2))


def print_line(event: str, value: Any) -> None:
    """One JSON line on standard output, at once."""
    click.echo(json.dumps({"event": event, event: msgspec.to_builtins(value, str_keys=True)}))


def _lines_wanted() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and _LINES in context.meta
