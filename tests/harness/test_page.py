"""The page of a failure: who reads it must find what was violated, who died where, and the steps that led there."""

from __future__ import annotations

from pathlib import Path

from harness.failure import Failure
from harness.history import Event, Invoke, Left, Ok, Read, Violation, operation_id
from harness.page import WIDTH, page
from harness.scenario import Program, Scenario, Transaction
from harness.schedule.base import Choice
from harness.stepped.execution import Execution, Kill
from harness.verdict import Finding

WORKLOAD = "explore"
PUT = Transaction("put", writes=(0, 1))
READ = Transaction("read", reads=(0, 1))
SCENARIO = Scenario("small", (Program("writer", (PUT,)), Program("reader", (READ, READ))), (1, 1))
STEPS = [
    Choice(1, "operation.begin"),
    Choice(1, "commit.before_lock"),
    Choice(2, "operation.begin"),
    Choice(1, "commit.before_lock"),
    Choice(1, "commit.after_lock"),
    Choice(1, "publish.before_busy"),
    Choice(1, "publish.after_time"),
    Choice(1, "publish.before_busy", kill=True, torn=24),
    Choice(2, "read.after_times"),
]
KILL = Kill(8, 1, "publish.before_busy", 24, ("COMMIT",), ((2, "read.after_times", "", ()),))
OLD = operation_id(3, 1)
NEW = operation_id(1, 1)
SEEN = (Read("key/0", NEW, 2), Read("key/1", OLD, 1))
HISTORIES: list[list[Event]] = [
    [Invoke(1, 1, 1, "write", WORKLOAD, ("key/0", "key/1"))],
    [Invoke(2, 1, 3, "read", WORKLOAD), Ok(2, 1, 9, 2, SEEN)],
]
FINDING = Finding(
    "atomicity",
    "the snapshot of process 2 operation 1 shows half of process 1 operation 1",
    {"operation": operation_id(2, 1), "time": 9, "expected": "both keys of process 3 operation 1"},
)
FAILURE = Failure(
    SCENARIO,
    tuple(STEPS),
    "atomicity",
    bug="repair-stops-short",
    found={
        "strategy": "pct",
        "seed": 7,
        "number": 41,
        "scenario": "default",
        "schedules": 42,
        "seconds": 0.5,
    },
    shrunk={
        "before": {"steps": 90, "kills": 1},
        "after": {"steps": 9, "kills": 1},
        "tried": 30,
        "seconds": 0.2,
    },
    reproduced="10/10",
)
FILE = Path("runs/failure-1.json")


def execution(**changes: object) -> Execution:
    whole = Execution(STEPS, [KILL], "", (), HISTORIES, [], [])
    return whole._replace(**changes)  # type: ignore[arg-type]


def line(text: str, begins: str) -> str:
    (found,) = (each for each in text.splitlines() if each.startswith(begins))
    return found


def test_the_page_says_what_was_violated_who_died_where_and_how_to_see_it_again() -> None:
    text = page(FAILURE, FINDING, execution(), FILE, {8: 192})
    assert text.splitlines()[0] == f"VIOLATION  atomicity   {FINDING.message}"
    assert line(text, "  killed") == (
        "  killed      writer 1 at publish.before_busy (hit 2), holding COMMIT; torn: first 24 of 192 words applied"
    )
    assert line(text, "  meanwhile") == "  meanwhile   reader 2 parked at read.after_times"
    assert line(text, "  expected") == "  expected    both keys of process 3 operation 1"
    assert line(text, "  process") == "  process     3 wrote the first revisions, before the start"
    assert line(text, "  replay") == "  replay      harness replay runs/failure-1.json     (10/10)"
    assert line(text, "  found") == (
        "  found       by pct, seed 7, schedule 41 of scenario default: after 42 schedules, 0.5 s"
    )
    assert line(text, "  shrunk") == "  shrunk      steps 90 to 9 (30 tried, 0.2 s)"
    assert "\x1b" not in text


def test_the_trace_has_a_column_for_each_process_and_a_row_for_each_turn() -> None:
    text = page(FAILURE, FINDING, execution(), FILE)
    lines = text.splitlines()
    start = next(number for number, each in enumerate(lines) if each.lstrip().startswith("step "))
    head = lines[start]
    first, second = head.index("writer 1"), head.index("reader 2")
    rows = lines[start + 1 : lines.index("", start)]
    steps = [each[:8].strip() for each in rows]
    assert [each for each in steps if each] == ["1-2", "3", "4-8", "9"]
    writer = [each[first:second].rstrip() for each in rows]
    reader = [each[second:].rstrip() for each in rows]
    assert [each for each in writer if each] == [
        "operation 1: write key/0, key/1",
        " commit.before_lock, commit.before_lock",
        " commit.after_lock .. publish.before_busy",
        "KILLED at publish.before_busy",
    ]
    assert [each for each in reader if each] == [
        "operation 1: snapshot of key/0, key/1",
        " read.after_times",
        ">>> ok S=2",
        " key/0 = process 1 operation 1 (T=2)",
        " key/1 = process 3 operation 1 (T=1)",
    ]
    assert max(map(len, rows)) <= WIDTH


def test_waiting_for_a_lock_is_no_second_hit() -> None:
    steps = [*STEPS[:4], Choice(1, "commit.before_lock", kill=True)]
    kill = Kill(5, 1, "commit.before_lock", 0, (), ((2, "operation.begin", "", ("WRITER[0]",)),))
    text = page(FAILURE, FINDING, execution(steps=steps, kills=[kill], histories=[[], []]), FILE)
    assert line(text, "  killed") == "  killed      writer 1 at commit.before_lock (hit 1)"
    assert line(text, "  meanwhile") == "  meanwhile   reader 2 between two operations holding WRITER[0]"


def test_without_a_kill_the_page_says_where_the_others_stood() -> None:
    steps = [*STEPS[:7], Choice(2, "read.after_times"), Choice(1, "publish.before_busy")]
    finding = Finding("atomicity", "half", {"operation": operation_id(2, 1), "time": 8})
    text = page(FAILURE, finding, execution(steps=steps, kills=[], histories=[[], []]), FILE)
    assert "  killed" not in text
    assert line(text, "  meanwhile") == "  meanwhile   writer 1 parked at publish.before_busy"


def test_what_was_found_when_everybody_was_gone_stands_below_the_trace() -> None:
    finding = Finding("durability", "process 4 operation 1 misses process 1 operation 1", {"process": 4})
    aftermath: list[Event] = [
        Invoke(4, 1, 11, "final", WORKLOAD),
        Ok(4, 1, 11, 1, (Read("key/0", OLD, 1),)),
        Violation(4, 11, "structure", "a lock is held"),
    ]
    left = [Left(11, "structure", "index.live_counted: 2 keys are live, 1 is counted")]
    text = page(FAILURE, finding, execution(aftermath=aftermath, left=left), FILE)
    below = text[text.index("afterwards, survivor 4 alone opened the store:") :]
    assert "  operation 1: S=1: key/0 = process 3 operation 1 (T=1)\n" in below
    assert "  >>> a lock is held\n  >>> index.live_counted" in below
    assert "4 opened the store when everybody else was gone" in text


def test_a_deadlock_says_who_waits_for_whom() -> None:
    waiting = ("process 1 at commit.before_lock waits for COMMIT, held by process 2",)
    finding = Finding("liveness", f"deadlock: {waiting[0]}")
    text = page(FAILURE, finding, execution(stuck="deadlock", waiting=waiting), FILE)
    assert f"\n>>> deadlock: {waiting[0]}\n" in text


def test_a_long_trace_leaves_out_what_has_nothing_to_do_with_it() -> None:
    turns = [Choice(1 + number % 2, "read.after_copy") for number in range(200)]
    histories: list[list[Event]] = [[], [Ok(2, 1, 142, 2, SEEN)]]
    text = page(FAILURE, FINDING, execution(steps=turns, kills=[], histories=histories), FILE)
    rows = text[text.index("step ") : text.index("  replay")].strip().splitlines()[1:]
    assert [row.split()[0] for row in rows if row[:8].strip()] == ["1-141", "142", "143-200"]
    assert rows[0].split()[1] == rows[-1].split()[1] == "..."


def test_a_failure_of_which_nothing_is_known_still_has_a_page() -> None:
    bare = Failure(SCENARIO, (), "crash", shrunk={"failed": "it did not happen again"})
    finding = Finding("crash", "it ended in SIGSEGV")
    text = page(bare, finding, Execution([], [], "", (), [], [], []), FILE)
    assert text.startswith("VIOLATION  crash       it ended in SIGSEGV\n")
    assert line(text, "  replay") == "  replay      harness replay runs/failure-1.json"
    assert line(text, "  shrunk") == "  shrunk      no: it did not happen again"
