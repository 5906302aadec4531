"""The command ``harness bench``: the store beside its peers or alone, the harness beside its own, or the checkers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from harness.bench import BATCH, RESULTS, Settings, Step, conduct, print_result, steps
from harness.cli_base import Line, json_options, print_json
from harness.errors import UsageError
from harness.verdict import EXIT_CODES

if TYPE_CHECKING:
    from rich.console import Console

HARNESS_RESULTS: Final = Path("results/bench-harness.json")


@click.command(
    epilog="\b\nExamples:\n  harness bench --keys 100000 --out /tmp/bench.json\n  harness bench --harness\n"
    "  harness bench --checkers\n  harness bench --durable --dir /var/tmp\n  harness bench --housekeeping\n"
    "  harness bench --large --keys 2000000\n  harness bench --page --screenshots /tmp"
)
@click.option(
    "--harness", "schedules", is_flag=True, help="Measure the harness: schedules and crash images a second."
)
@click.option("--checkers", is_flag=True, help="Measure the checkers: transactions per second, and memory.")
@click.option(
    "--durable", is_flag=True, help="Measure durable puts beside LMDB, by one process and by eight."
)
@click.option(
    "--housekeeping", is_flag=True, help="Measure what compaction gives back, and whom it and growth disturb."
)
@click.option(
    "--large",
    is_flag=True,
    help="Take ten million keys through every step; memory, reopening, repair, rebuild.",
)
@click.option(
    "--page",
    "page",
    is_flag=True,
    help="Write, open and zoom the page of a million operations, in a headless Chromium.",
)
@click.option(
    "--screenshots",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --page: also put pictures of pages into this directory.",
)
@click.option(
    "--histories",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --checkers: a directory of recorded histories (etcd/*.log, kv/c10-*, EXPECTED.tsv).",
)
@click.option(
    "--keys",
    type=click.IntRange(BATCH, 1 << 28),
    help="Keys in each store, with --page operations.  [default: 1000000, with --durable 100000, with --large"
    " 10000000]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="[default: 15, with --harness or --durable 9, with --checkers 3, else 5]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600, min_open=True),
    help="Most time of one contender in one cell of one round.  [default: 0.25, with --harness 2, with --durable 0.7,"
    " with --housekeeping 0.5]",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Decides keys and values.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    help="Parent of the stores.  [default: /dev/shm if it has room, else the temporary directory; with --durable,"
    " --housekeeping and --large results/runs, which belongs on a disk]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON.  [default: bench.json or bench-WHAT.json in results]",
)
@json_options("what was measured")
def bench(
    schedules: bool,
    checkers: bool,
    durable: bool,
    housekeeping: bool,
    large: bool,
    page: bool,
    screenshots: Path | None,
    histories: Path | None,
    keys: int | None,
    rounds: int | None,
    seconds: float | None,
    seed: int,
    directory: Path | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Measure kvs beside SQLite and (where installed) LMDB: interleaved rounds, medians and ratios.

    Ends with 0 if kvs meets every floor, 1 if it misses one, 3 if one could not be compared (LMDB is not installed, or
    there were too few keys). With --harness: complete schedules per second on one core, simulated and over real
    processes, beside frontrun where installed, and crash images, made, recovered and checked. With --checkers:
    histories from a thousand to a million transactions; the growth is drawn beside the JSON. --durable, --housekeeping
    and --large put a page of Markdown beside it. --page needs Chromium and playwright.
    """
    named = {
        "--harness": schedules,
        "--checkers": checkers,
        "--durable": durable,
        "--housekeeping": housekeeping,
        "--large": large,
        "--page": page,
    }
    asked = [name for name, given in named.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} measure different things: name one of them")
    if histories is not None and not checkers:
        raise UsageError("--histories goes with --checkers")
    if screenshots is not None and not page:
        raise UsageError("--screenshots goes with --page")
    if page:
        return _finish(*_page(rounds or 5, keys, seed, screenshots, out), as_json=as_json)
    if checkers:
        return _finish(*_checkers(rounds or 3, histories, out), as_json=as_json)
    if schedules:
        path = _writable(out or HARNESS_RESULTS)
        return _finish(*_schedules(rounds or 9, seconds or 2.0, seed, path), as_json=as_json)
    if asked:
        options = _Options(rounds, seconds, keys, seed, directory)
        return _finish(*_on_disk(asked[0].removeprefix("--"), options, out), as_json=as_json)
    path = _writable(out or RESULTS)
    settings = Settings(keys=keys or 1_000_000, rounds=rounds or 15, cell_seconds=seconds or 0.25, seed=seed)
    with progress(steps(settings)) as step:
        result = conduct(settings, directory, step)
    return _finish(result, print_result, path, as_json=as_json)


class _Options(NamedTuple):
    """What the parts that measure on a disk are told; ``None``: as they like."""

    rounds: int | None
    seconds: float | None
    keys: int | None
    seed: int
    directory: Path | None


Print = Callable[["Console", Any], None]


def _on_disk(what: str, options: _Options, out: Path | None) -> tuple[Any, Print, Path]:
    """The part of that name, and its page of Markdown."""
    from harness import bench_report

    part = import_module(f"harness.bench_{what}")
    path = out or part.RESULTS
    bench_report.place(options.directory, disk=part.NEEDS_DISK)
    _writable(path)
    rounds = options.rounds or part.ROUNDS
    with progress(part.steps(rounds)) as step:
        result = part.measure(
            rounds=rounds,
            seconds=options.seconds or part.SECONDS,
            keys=options.keys or part.KEYS,
            seed=options.seed,
            directory=options.directory,
            step=step,
        )
    tables = part.tables(result)
    path.with_suffix(".md").write_text(bench_report.page(part.TITLE, result, tables), encoding="utf-8")

    def show(console: Console, report: Any) -> None:
        bench_report.print_result(console, report, tables)

    return result, show, path


def _schedules(rounds: int, seconds: float, seed: int, out: Path) -> tuple[Any, Print, Path]:
    from harness import bench_schedules

    with progress(bench_schedules.steps(rounds)) as step:
        result = bench_schedules.measure(rounds=rounds, seconds=seconds, seed=seed, step=step)
    return result, bench_schedules.print_result, out


def _checkers(rounds: int, histories: Path | None, out: Path | None) -> tuple[Any, Print, Path]:
    from harness import bench_checkers

    count = bench_checkers.steps(rounds=rounds, histories=histories)
    out = _writable(out or bench_checkers.RESULTS)
    with progress(count) as step:
        result = bench_checkers.measure(rounds=rounds, histories=histories, show=step)
    picture = out.with_suffix(".svg")
    bench_checkers.draw_growth(result, picture)
    click.echo(f"harness: the growth is drawn in {picture}", err=True)
    return result, bench_checkers.print_result, out


def _page(
    rounds: int, operations: int | None, seed: int, screenshots: Path | None, out: Path | None
) -> tuple[Any, Print, Path]:
    from harness import bench_page
    from harness.viewer import browser

    browser.require()
    out = _writable(out or bench_page.RESULTS)
    with progress(bench_page.steps(rounds) + (screenshots is not None)) as step:
        result = bench_page.measure(
            rounds=rounds,
            operations=operations or bench_page.OPERATIONS,
            seed=seed,
            screenshots=screenshots,
            step=step,
        )
    return result, bench_page.print_result, out


def _writable(out: Path) -> Path:
    """The same path, once it is known that a long measurement will not be lost for want of it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    return out


def _finish(result: Any, show: Print, out: Path, *, as_json: bool) -> int:
    """Save and print what was measured; the exit code."""
    from rich.console import Console

    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    out.write_bytes(text + b"\n")
    if as_json:
        print_json(result)
    else:
        show(Console(), result)
        click.echo(f"harness: everything is in {out}", err=True)
    return EXIT_CODES[result.outcome]


@contextlib.contextmanager
def progress(total: int) -> Iterator[Step]:
    """What shows that another of ``total`` steps begins, drawn between the timed sections and never in one."""
    count = 0
    with Line() as line:

        def step(text: str) -> None:
            nonlocal count
            line.show(text, done=count / total if total else None)
            count += 1

        yield step
