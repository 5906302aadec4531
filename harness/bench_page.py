"""``harness bench --page``: how long the page of a million operations takes, to be written, to open and to be zoomed.

The run is made up: ten places whose processes are killed every now and then, and one operation that is at fault. Every
round opens the page anew, in a browser that has not seen it; the median of the rounds counts.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from harness import bench_report
from harness.bench import Step
from harness.bench_report import Beginning, Floor, Grid, Report, at_most, duration
from harness.checkers.operation import Operation
from harness.errors import HarnessError
from harness.history import Died, Hits, Mark, Paused, Read, RunEvent, Spawned, operation_id
from harness.holding import SPANS
from harness.judge import Judgement, Run
from harness.plan import RUNS, Plan
from harness.verdict import Finding, Outcome, Verdict, combine
from harness.viewer import browser
from harness.viewer.of_campaign import PAGE, write_campaign_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RESULTS: Final = Path("results/bench-page.json")
TITLE: Final = "The page of a million operations"
OPERATIONS: Final = 1_000_000
ROUNDS: Final = 5
LIMIT_S: Final = 3.0
ZOOMS: Final = ("+",) * 12 + ("ArrowRight",) * 2 + ("-",) * 4 + ("n", "0")
"""What is pressed in every round: into the middle of the run, along, out, to the operation at fault, and back."""
BUG: Final = "repair-stops-short"
_TIMELINE: Final = re.compile(r'<dt>timeline</dt><dd>\s*<a class="op" href="(#op=[\d.]+)"')
_ROLES: Final = ("writer",) * 4 + ("reader",) * 2 + ("auditor",) + ("housekeeper",) * 2
_POINTS: Final = (
    "commit.after_lock",
    "publish.after_location",
    "record.after_append",
    "read.after_copy",
    "repair.after_redo",
)
_LIFE_NS: Final = 400_000_000
_GAP_NS: Final = 60_000
_DEAD: Final = 1.03
"""So much longer a run has to be for its number of operations, because of the dead and of those who open."""
_TOOK_NS: Final = 240_000
_REPAIRS_SHARE: Final = 0.02
"""Of the writes, the share that finish first what a dead process had begun."""

_PRESS: Final = """async (key) => {
  const plot = document.getElementById("plot"), began = performance.now();
  const drawn = new Promise((done) => new MutationObserver((_, watch) => { watch.disconnect(); done(); })
    .observe(plot, { attributeFilter: ["data-drawn"] }));
  plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await drawn;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}"""
"""Press a key on the timeline; milliseconds until what it asked for is on the screen."""


class Opened(msgspec.Struct, kw_only=True):
    """One round: until the timeline could be used, and after each key until it was drawn anew. ``load_cpu_s``: the
    processor time that the page's own process took of the first, which is less than that on a busy machine.
    """

    load_s: float
    load_cpu_s: float
    zooms_s: list[float]


class Result(Report, kw_only=True):
    """One run of the benchmark; what the JSON file holds. ``load_s``, ``load_cpu_s`` and ``zoom_s`` are medians,
    ``zoom_most_s`` is the median over the rounds of the slowest.
    """

    operations: int
    page_bytes: int
    write_s: float
    load_s: float
    load_cpu_s: float
    zoom_s: float
    zoom_most_s: float
    rounds: list[Opened]


def steps(rounds: int) -> int:
    """How often ``step`` is called, without pictures."""
    return rounds + 2


def measure(*, rounds: int, operations: int, seed: int, screenshots: Path | None, step: Step) -> Result:
    """Make a run up, write its page, and open that ``rounds`` times.

    Raises:
        UsageError: there is no browser.
        HarnessError: the page cannot be written.
    """
    beginning = Beginning({"operations": operations, "rounds": rounds, "seed": seed})
    base = Path(tempfile.mkdtemp(prefix="harness-page-"))
    try:
        with browser.opened() as chromium:
            step(f"{operations:,} operations")
            run, judgement = made_up(operations, seed)
            step("writing the page")
            began = time.perf_counter()
            write_campaign_page(base / PAGE, base, run, judgement)
            write_s = time.perf_counter() - began
            count = len(run.operations)
            del run
            opened = []
            for number in range(rounds):
                step(f"round {number + 1} of {rounds}")
                opened.append(_open(chromium, base / PAGE))
            if screenshots is not None:
                screenshots.mkdir(parents=True, exist_ok=True)
                step("pictures")
                _shoot(chromium, base / PAGE, screenshots / "page-million.png", "#timeline")
                _shoot_planted(chromium, screenshots, base, seed)
        size = (base / PAGE).stat().st_size
        load_s = statistics.median(each.load_s for each in opened)
        most_s = statistics.median(max(each.zooms_s) for each in opened)
        floors: list[Floor] = [
            at_most("open the page", load_s, LIMIT_S, "s"),
            at_most("the slowest zoom", most_s, LIMIT_S, "s"),
        ]
        return Result(
            **beginning.fields(base, floors),
            operations=count,
            page_bytes=size,
            write_s=write_s,
            load_s=load_s,
            load_cpu_s=statistics.median(each.load_cpu_s for each in opened),
            zoom_s=statistics.median(zoom for each in opened for zoom in each.zooms_s),
            zoom_most_s=most_s,
            rounds=opened,
        )
    finally:
        shutil.rmtree(base, ignore_errors=True)


def tables(result: Result) -> list[Grid]:
    """What was measured, as a table."""
    rows = [
        ["write the page", duration(result.write_s)],
        ["open it", duration(result.load_s)],
        ["  processor time of the page", duration(result.load_cpu_s)],
        ["zoom or move, median", duration(result.zoom_s)],
        ["zoom or move, slowest", duration(result.zoom_most_s)],
        ["size of the page", f"{result.page_bytes / 1e6:.1f} MB"],
    ]
    return [Grid((f"{result.operations:,} operations", "median"), rows)]


def print_result(console: Any, result: Result) -> None:
    """The table, the floors, then the verdict."""
    bench_report.print_result(console, result, tables(result))


def made_up(operations: int, seed: int) -> tuple[Run, Judgement]:
    """A run of about so many operations, in which one read of the bank's accounts is at fault."""
    random = Random(seed)
    places = _ROLES.count("writer") + _ROLES.count("reader") + _ROLES.count("auditor")
    until = int(operations / places * (_GAP_NS + _TOOK_NS) * _DEAD)
    events: list[RunEvent] = [Spawned(1, -20_000_000, 1, "setup"), Died(1, -1_000_000, 0), Mark(0, "start")]
    done: list[Operation] = []
    spans = array("q")
    process = 1
    for role in _ROLES:
        now = 0
        while now < until:
            process += 1
            now = _live(random, process, role, now, until, events, done, spans)
    events.sort(key=lambda event: event.time)
    events += [Mark(until, "stop"), Hits(until, dict.fromkeys(_POINTS, operations)), Mark(until, "end")]
    done.sort(key=lambda op: op.invoked)
    half = len(done) // 2
    fault = next(op for op in done[half:] if op.f == "read" and op.outcome == "ok")
    writer = next(op for op in reversed(done[:half]) if op.f == "write" and op.outcome == "ok")
    reads = tuple(Read(f"bank/{number}", writer.id, number, 100 - number) for number in range(8))
    done[done.index(fault, half)] = msgspec.structs.replace(fault, reads=reads, sequence=half)
    message = f"all accounts in {fault} hold 4,785 together: 15 vanished; the last who wrote was {writer}"
    finding = Finding(
        "bank", message, {"operation": fault.id, "time": fault.completed, "expected": "4,800 together"}
    )
    verdicts = [
        Verdict("bank", Outcome.VIOLATION, (finding,), {"snapshots": half}),
        Verdict("traffic", Outcome.OK, (), {"operations": len(done)}),
    ]
    plan = Plan(seed, seconds=until / 1e9)
    run = Run(plan, {"engine": "made up"}, done, [], events, spans=spans)
    return run, Judgement(combine("run", verdicts), verdicts)


def _live(
    random: Random,
    process: int,
    role: str,
    now: int,
    until: int,
    events: list[RunEvent],
    done: list[Operation],
    spans: array[int],
) -> int:
    """One process from birth to death; when its successor is born."""
    events.append(Spawned(process, now, process, role))
    death = min(until, now + int(random.expovariate(1 / _LIFE_NS)) + _LIFE_NS // 10)
    now += int(random.expovariate(1 / 8_000_000))
    index = 0
    while role != "housekeeper" and now < death:
        index += 1
        took = int(random.expovariate(1 / _TOOK_NS)) + 1000
        f: Any = random.choice(("write", "write", "read", "get") if role == "writer" else ("read", "get"))
        end = now + took
        outcome: Any = "info" if end >= death else "fail" if random.random() < 0.02 else "ok"
        if f == "write" and outcome != "info":
            spans.extend((process, SPANS.index("lock"), now + took // 2, end - took // 8))
            if random.random() < _REPAIRS_SHARE:
                spans.extend((process, SPANS.index("repair"), now + took // 2, now + took * 3 // 4))
        workload = random.choice(("bank", "append", "register"))
        done.append(
            Operation(
                operation_id(process, index), now, None if outcome == "info" else end, f, workload, outcome
            )
        )
        now = end + int(random.expovariate(1 / _GAP_NS))
    if death < until and random.random() < 0.05:
        events.append(
            Paused(process, death - 30_000_000, death - 10_000_000, "", holder=random.random() < 0.5)
        )
    if death < until:
        at_point = random.random() < 0.6
        events.append(
            Died(
                process,
                death,
                9,
                0,
                "kill-point" if at_point else "kill-time",
                random.choice(_POINTS),
                at_point,
            )
        )
    else:
        events.append(Died(process, until, 0))
    return death + 1_000_000


def _open(chromium: Browser, path: Path) -> Opened:
    """Open the page anew and zoom."""
    context = chromium.new_context(**browser.sized())
    try:
        page = context.new_page()
        inside = context.new_cdp_session(page)
        inside.send("Performance.enable")
        began = time.perf_counter()
        _ready(page, path)
        load_s = time.perf_counter() - began
        metrics = {each["name"]: each["value"] for each in inside.send("Performance.getMetrics")["metrics"]}
        zooms_s = [float(page.evaluate(_PRESS, key)) / 1e3 for key in ZOOMS]
        return Opened(load_s=load_s, load_cpu_s=float(metrics["ProcessTime"]), zooms_s=zooms_s)
    finally:
        context.close()


def _ready(page: Page, path: Path, operation: str = "") -> None:
    page.goto(f"{path.resolve().as_uri()}{operation}", timeout=120_000, wait_until="commit")
    page.wait_for_selector("body[data-timeline=ready]", timeout=120_000)


def _shoot(chromium: Browser, path: Path, picture: Path, place: str = "", *, dark: bool = False) -> None:
    """Save what a window shows of a page."""
    context = chromium.new_context(**browser.sized(), color_scheme="dark" if dark else "light")
    try:
        page = context.new_page()
        _ready(page, path, place)
        page.wait_for_timeout(500)  # for the scroll, which nothing tells the end of
        page.screenshot(path=picture)
    finally:
        context.close()


def _shoot_planted(chromium: Browser, directory: Path, base: Path, seed: int) -> None:
    """Pictures of the page of a run with a planted bug: its beginning, light and dark, and an operation at fault.

    Raises:
        HarnessError: the run did not show its bug.
    """
    run = [
        sys.executable,
        "-m",
        "harness",
        "run",
        "--bug",
        BUG,
        "--seconds",
        "20",
        "--seed",
        str(seed),
        "--out",
        str(RUNS),
    ]
    done = subprocess.run(run, cwd=base, capture_output=True, text=True, check=False)  # noqa: S603 - this very program
    path = next((base / RUNS).glob(f"*/{PAGE}"), None)
    if path is None or done.returncode != 1:
        said = done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
        raise HarnessError(f"no picture could be taken of harness run --bug {BUG}: {said}")
    _shoot(chromium, path, directory / "page-light.png")
    _shoot(chromium, path, directory / "page-dark.png", dark=True)
    links = _TIMELINE.findall(path.read_text(encoding="utf-8"))
    _shoot(chromium, path, directory / "page-violation.png", links[0] if links else "#timeline")
