"""What is seen while a command works: a panel and bars on a terminal, JSON lines by a machine, nothing in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import click
import pytest
from campaigns import PATIENCE_S, TOY, environment, harness, start
from click.testing import CliRunner
from rich.console import Console

from harness import cli
from harness.cli_base import Line, json_options, print_json
from harness.engines.kvs import KvsEngine
from harness.history import Died, HistoryWriter, Info, Violation
from harness.live import Rates, panel, sparkline
from harness.plan import Plan
from harness.status import Kill, Status, Tally, points_asked

STATUS = Status(
    phase="running",
    elapsed_s=12.5,
    seconds=30.0,
    operations=4000,
    commits=3000,
    kills=100,
    points_covered=3,
    points_required=8,
    lacking=("a.one", "b.two", "c.three", "d.four", "e.five"),
    alive={"writer": 4, "reader": 1, "auditor": 0},
    kills_by_fault={"kill-time": 60, "kill-point": 40},
    last_kill=Kill("writer 12", "publish.after_location", "kill-point", 12.0),
    pauses=7,
    disk_bytes=3 << 20,
)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TOY_RUN = ("run", "--engine", TOY, "--workloads", "bank,append,register", "--seed", 5)


def drawn(status: Status, rates: Rates | None = None, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))
    with console.file:
        console.print(panel(status, rates or Rates()))
        return console.export_text()


def test_the_panel_shows_all_that_is_known() -> None:
    shown = drawn(STATUS)
    for words in (
        "running",
        "4,000",
        "320.0/s",
        "4 writers, 1 reader\n",
        "kill-point 40, kill-time 60, stopped 7",
        "writer 12 at publish.after_location (kill-point), 0.5 s ago",
        "3 of 8 were killed at; lacking a.one, b.two, c.three, d.four and 1 more",
        "3.0 MiB",
    ):
        assert words in re.sub(r" +(│)?\n", "\n", shown), words
    assert "VIOLATION" not in shown


def test_a_violation_that_a_worker_reported_is_shown_at_once_and_what_is_judged_says_so() -> None:
    shown = drawn(STATUS._replace(violation="reader 4: atomicity: half of it", phase="judging"))
    assert "VIOLATION" in shown
    assert "reader 4: atomicity: half of it" in shown
    assert "judging what was seen" in shown


def test_the_panel_fits_a_narrow_terminal() -> None:
    assert max(map(len, drawn(STATUS, width=40).splitlines())) <= 40


def test_a_trend_has_one_rate_for_each_second() -> None:
    rates = Rates()
    for tenth in range(31):
        rates.add(STATUS._replace(elapsed_s=tenth / 10, operations=tenth * tenth))
    assert rates.of("operations") == pytest.approx([100.0, 300.0, 500.0])
    assert rates.of("kills") == [0.0, 0.0, 0.0]
    rates.add(STATUS._replace(elapsed_s=9.0, phase="final"))
    assert len(rates.of("kills")) == 3
    assert sparkline([0.0, 1.0, 4.0, 8.0], 3) == "▁▄█"
    assert sparkline([0.0, 0.0], 5) == "  "


def test_the_tally_knows_who_was_killed_where_and_what_is_lacking() -> None:
    plan = Plan(seed=1, seconds=600.0)
    tally = Tally(KvsEngine(), plan)
    assert tally.lacking() == tally.required == tuple(sorted(KvsEngine().required_points()))
    point = tally.required[0]
    for process in range(plan.limits.point_kills_min):
        tally.killed("writer", Died(process, 0, 9, 0, "kill-point", point, True), 2.0)
    for process in range(7, 10):  # killed from outside, somewhere after that point
        tally.killed("reader", Died(process, 0, 9, 0, "kill-time", tally.required[1]), 3.0)
    assert tally.lacking() == tally.required[1:]
    assert tally.kills_by_fault == {"kill-point": 3, "kill-time": 3}
    assert tally.last_kill == Kill("reader 9", tally.required[1], "kill-time", 3.0)


def test_a_short_run_is_not_asked_for_what_is_seldom_reached() -> None:
    engine = KvsEngine()
    long, short = (points_asked(engine, Plan(seed=1, seconds=seconds)) for seconds in (600.0, 10.0))
    assert long == engine.required_points()
    assert long - short == engine.slow_points


def test_what_a_worker_reported_is_read_from_the_end_of_its_history(tmp_path: Path) -> None:
    tally = Tally(KvsEngine(), Plan(seed=1))
    history = HistoryWriter(tmp_path / "4.jsonl")
    history.append(Info(4, 1, 5, "x" * (1 << 17)))
    history.append(Violation(4, 6, "atomicity", "41 of 64 keys are new", 1))
    tally.reported("reader 4", tmp_path / "4.jsonl")
    tally.reported("reader 5", tmp_path / "5.jsonl")  # the first one stays
    assert tally.violation == "reader 4: atomicity: 41 of 64 keys are new"


def test_a_worker_that_left_no_history_is_still_shown(tmp_path: Path) -> None:
    tally = Tally(KvsEngine(), Plan(seed=1))
    tally.reported("reader 5", tmp_path / "5.jsonl")
    assert tally.violation == "reader 5: a violation"


# -- the line that all commands share -----------------------------------------------------------------------------


@click.command()
@json_options("a number")
def count(as_json: bool) -> int:
    """Count to three."""
    with Line() as line:
        for number in range(3):
            line.show(f"counting {number}", "", done=number / 2, facts={"number": number})
        line.show("resting 1", facts=STATUS)
    if as_json:
        print_json({"counted": 3})
    else:
        click.echo("3")
    return 0


def test_a_pipe_is_told_the_result_and_nothing_else() -> None:
    plain = CliRunner().invoke(count, [])
    assert (plain.stdout, plain.stderr) == ("3\n", "")
    one = CliRunner().invoke(count, ["--json"])
    assert (json.loads(one.stdout), one.stderr) == ({"counted": 3}, "")


def test_a_machine_is_told_of_each_phase_at_once_and_then_once_a_second() -> None:
    result = CliRunner().invoke(count, ["--json-lines"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["status", "status", "result"]
    assert lines[0]["status"]["words"] == ["counting 0"]
    assert (lines[0]["status"]["done"], lines[0]["status"]["facts"]) == (0.0, {"number": 0})
    assert lines[1]["status"]["facts"]["last_kill"] == list(STATUS.last_kill or ())
    assert lines[2]["result"] == {"counted": 3}


def test_a_machine_is_told_again_when_a_second_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("harness.cli_base.time.monotonic", lambda: now[0])
    with click.Context(count) as context:
        context.meta["harness.lines"] = True
        line = Line()
        for tenth in range(25):
            now[0] = 100.0 + tenth / 10
            line.show("working", done=tenth / 100)
    told = [json.loads(each)["status"] for each in capsys.readouterr().out.splitlines()]
    assert [each["elapsed_s"] for each in told] == pytest.approx([0.0, 1.0, 2.0])
    assert told[-1]["left_s"] is not None


def test_the_bar_and_the_time_left_are_never_pushed_out_by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    line = Line()
    line._bar.update(line._task, completed=0.25)
    console = Console(width=70)
    with console.capture() as capture:
        console.print(line._drawn("exploring [bold] " + "x" * 200, bar=True))
    text = capture.get()
    assert text.count("\n") == 1
    assert " 25% " in text
    assert "exploring [bold] xx" in text


# -- whole commands -----------------------------------------------------------------------------------------------


def on_terminal(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    """Exit code, standard output (a pipe) and standard error (a terminal) of the command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        cwd=cwd,
        env=environment() | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:  # the terminal's other end was closed
                break
            seen += more
        assert process.stdout is not None
        out = process.stdout.read()
        code = process.wait(PATIENCE_S)
    os.close(ours)
    return code, out, seen.decode()


def test_a_terminal_sees_the_campaign_live_and_standard_output_has_only_the_result(tmp_path: Path) -> None:
    code, out, seen = on_terminal(*TOY_RUN, "--seconds", 1.5, "--json", cwd=tmp_path)
    assert code in (0, 3), "a second and a half may be too short"
    assert json.loads(out)["judgement"]["overall"]["outcome"] in ("OK", "UNKNOWN")
    words = CONTROL.sub("", seen)
    for expected in (
        "running",
        "judging what was seen",
        "4 writers",
        "last kill",
        "lacking",
        "%",
        "judging traffic",
    ):
        assert expected in words, expected
    assert CONTROL.search(seen)
    # In the end the panel is gone and the cursor is there again.
    _, _, after = seen.rpartition("judging what was seen")
    assert "\x1b[?25h" in after
    assert after.count("\x1b[2K") >= 10
    stderr = [path for path in tmp_path.rglob("stderr/*") if "\x1b" in path.read_text()]
    assert stderr == [], "the view reached into the workers"


def test_a_machine_sees_the_campaign_and_the_violation_that_ended_it(tmp_path: Path) -> None:
    done = harness(*TOY_RUN, "--bug", "damage", "--seconds", 20, "--json-lines", cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    statuses = [line["status"]["facts"] for line in lines[:-1]]
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert statuses[-1]["phase"] == "judging"
    assert statuses[-1]["kills"] >= sum(statuses[-1]["kills_by_fault"].values())
    assert re.match(r"\w+ \d+: structure: ", statuses[-1]["violation"])
    assert lines[-1]["result"]["judgement"]["overall"]["outcome"] == "VIOLATION"
    assert lines[-1]["result"]["run_dir"]


def test_a_reader_that_goes_away_ends_the_campaign_without_a_verdict(tmp_path: Path) -> None:
    """It ended with 1, which is a violation."""
    process = start(*TOY_RUN, "--seconds", 60, "--json-lines", "--store-dir", tmp_path, cwd=tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "status"
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 4
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert list(tmp_path.glob("harness-store-*")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("explore", "--schedules", 50, "--seed", 1),
        ("badstorage", "--workloads", "writes", "--limit", 3, "--pairs", 0, "--seed", 1),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_other_commands_tell_machines_in_the_same_lines(
    arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    done = harness(*arguments, "--json-lines", cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines[:-1]] == ["status"] * (len(lines) - 1)
    assert lines[-1]["event"] == "result"
    assert any(line["status"]["done"] is not None and line["status"]["facts"] for line in lines[:-1])


LONG = (
    "run",
    "explore",
    "powerloss",
    "badstorage",
    "damage",
    "selftest",
    "bench",
    "check",
    "shrink",
    "replay",
)


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_has_json_lines(name: str) -> None:
    options = {opt for option in cli.cli.commands[name].params for opt in option.opts}
    assert {"--json", "--json-lines"} <= options
