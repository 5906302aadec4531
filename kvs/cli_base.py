"""What all ``kvs`` commands share: exit codes, options, and how errors and progress are shown."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from kvs import files
from kvs.errors import Error

EXIT_OK: Final = 0
EXIT_NEGATIVE: Final = 1
EXIT_USAGE: Final = 2  # click's own
EXIT_STORE: Final = 3
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE_CLOSED: Final = 141

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    the key is not there, verify found something, or recover lost something
  2    usage
  3    the store or the file system refused; stderr says why
  130  interrupted
  141  whoever read the output went away"""

Command = Callable[..., Any]
Progress = Callable[..., None]
"""Called with how much is done, and of how much where that was not known before."""


class Group(click.Group):
    """Turns everything that may go wrong outside this program into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Python flushes stdout once more at exit: give it somewhere to flush to (library/signal).
            os.dup2(files.open_file(Path(os.devnull), write=True), 1)
            ctx.exit(EXIT_PIPE_CLOSED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except (Error, OSError, ValueError, MemoryError) as error:
            click.echo(f"kvs: {str(error) or type(error).__name__}", err=True)
            ctx.exit(EXIT_STORE)
        return result


STORE = click.argument("store", type=click.Path(path_type=str))
JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")
IO = click.option(
    "--io", type=click.Choice(["mmap", "append"]), default="mmap", show_default=True, help="How to do I/O."
)
LOCK_TIMEOUT = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another process.",
)


def options(*each: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one, in the order in which help shows them."""
    return lambda function: functools.reduce(lambda inner, option: option(inner), reversed(each), function)


def json_object(**fields: Any) -> None:
    """Write one JSON object as a line."""
    click.echo(json.dumps(fields))


def stdout() -> BinaryIO:
    """Standard output for bytes."""
    return sys.stdout.buffer


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress | None]:
    """Show on stderr how much of ``total`` is done and how long the rest will take, if it is a terminal. While no total
    is known, show that something is going on, and for how long.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def told(done: int, of: int | None = total) -> None:
            bar.update(task, completed=done, total=of, description=f"{what} {done:,}")

        yield told


def show(fields: dict[str, Any]) -> None:
    """Write fields for people: a name and a value a line, lists of objects one object a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        for i, line in enumerate(_lines(value)):
            click.echo(f"{'' if i else name:<{width}}  {line}")


def _lines(value: Any) -> list[str]:
    if isinstance(value, list | tuple) and any(isinstance(each, dict | list | tuple) for each in value):
        return [_shown(each) for each in value]
    return [_shown(value)]


def _shown(value: Any) -> str:
    """One value in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value)) or "none"
    return "none" if value is None else str(value)
