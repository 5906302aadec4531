"""The selftest: every planted bug can be planted, is caught, and is missed only where somebody looks away."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import environment, harness

from harness import cli, planted, selftest
from harness.engines.sqlite import SqliteEngine
from harness.errors import HarnessError
from harness.verdict import Outcome
from kvs import locks

PLANT_EACH = """
import inspect, os, sys
from harness.planted import BUGS

for name, bug in BUGS.items():
    if os.fork() == 0:  # a child for each: what is planted cannot be pulled out again
        bug.plant()
        changed = [inspect.getattr_static(each.owner, each.name) for each in bug.mutations]
        compiled = {getattr(function, "__func__", function).__code__.co_filename for function in changed}
        os._exit(0 if compiled == {f"<planted {each.name}>" for each in bug.mutations} else 3)
    print(name, os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The parent of run directories."""
    return tmp_path / "runs"


def test_every_planted_bug_still_finds_the_text_that_it_replaces(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLANT_EACH],
        cwd=tmp_path,
        env=environment() | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{name} 0" for name in planted.BUGS]


@pytest.mark.parametrize("old", ["this stands nowhere", "lock"])  # the second stands there more than once
def test_a_mutation_that_does_not_know_its_place_fails_loudly(old: str) -> None:
    original = locks.RangeLocks.try_acquire
    with pytest.raises(HarnessError, match=rf"'{old}' stands \d+ times .* the bug must be written anew"):
        planted.Mutation(locks.RangeLocks, "try_acquire", old, "pass").apply()
    assert locks.RangeLocks.try_acquire is original


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["selftest", "--only", "nonsense"], "no trial is called 'nonsense'"),
        (["selftest", "--only", "canary", "--blind", "nonsense"], "no trial is called 'nonsense'"),
        (["run", "--bug", "nonsense"], "no bug 'nonsense' can be planted in kvs"),
        (["run", "--bug", "posix-locks", "--engine", "sqlite"], "can be planted in sqlite"),
    ],
)
def test_an_unknown_bug_is_a_usage_error_that_names_those_there_are(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._run(arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    there_are = SqliteEngine().bugs() if "sqlite" in arguments else planted.BUGS
    assert all(name in printed.err for name in there_are)
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_there_is_a_trial_for_every_bug_that_campaigns_find_and_one_for_each_side() -> None:
    expected = [name for name, bug in planted.BUGS.items() if bug.campaign]
    assert selftest.names() == [selftest.CANARY, *expected, selftest.CLEAN]
    assert len(expected) >= 16


def trial(name: str, expected: Outcome, outcome: Outcome, seconds: float) -> selftest.Trial:
    return selftest.Trial(name, "", expected, outcome, seconds, (), "", "")


@pytest.mark.parametrize(
    ("name", "outcome", "seconds", "passed"),
    [
        ("posix-locks", Outcome.VIOLATION, 1.0, True),
        ("posix-locks", Outcome.VIOLATION, selftest.LIMIT_S + 1, False),
        ("posix-locks", Outcome.OK, 1.0, False),
        ("posix-locks", Outcome.UNKNOWN, 1.0, False),
        ("clean", Outcome.OK, selftest.LIMIT_S + 1, True),
        ("clean", Outcome.UNKNOWN, 1.0, False),
        ("clean", Outcome.VIOLATION, 1.0, False),
    ],
)
def test_a_trial_passes_only_with_its_verdict_and_in_time(
    name: str, outcome: Outcome, seconds: float, passed: bool
) -> None:
    expected = Outcome.OK if name == selftest.CLEAN else Outcome.VIOLATION
    assert trial(name, expected, outcome, seconds).passed is passed


def test_a_selftest_says_who_found_what_and_leaves_nothing_behind(out: Path) -> None:
    only = ["canary", "no-commit-lock", "intent-ignored"]
    done = harness("selftest", "--only", ",".join(only), "--out", out, cwd=out.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    head, *rows, last = done.stdout.splitlines()
    assert head.split() == ["trial", "verdict", "seconds", "found", "by"]
    told = [row.split() for row in rows if not row.startswith(" ")]
    assert [name for name, *_ in told] == only
    assert all((verdict, cells[-1]) == ("VIOLATION", "ok") for _, verdict, *cells in told)
    assert last == "selftest OK: 3 of 3 trials as expected"
    assert list(out.iterdir()) == []


def test_a_bug_whose_detection_is_broken_escapes_and_fails_the_selftest(out: Path) -> None:
    done = harness(
        "selftest", "--only", "no-commit-lock", "--blind", "no-commit-lock", "--out", out, cwd=out.parent
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ESCAPED" in done.stdout
    assert done.stdout.splitlines()[-1] == "selftest FAILED: 0 of 1 trials as expected"
    (run_dir,) = out.iterdir()
    assert re.search(f"no-commit-lock: expected VIOLATION, got (UNKNOWN|OK): {run_dir}", done.stderr)


def test_a_clean_store_of_which_too_little_was_seen_does_not_pass(out: Path) -> None:
    done = harness("selftest", "--only", "clean", "--clean-seconds", 0.2, "--out", out, cwd=out.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "clean: expected OK, got UNKNOWN" in done.stderr


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "bug",
    [
        "visible-before-publish",
        "repair-stops-short",
        "repair-forgets-tail",
        "snapshot-ignored",
        "posix-locks",
        "reader-does-not-recheck",
    ],
)
def test_a_planted_bug_is_caught_in_time(bug: str, out: Path) -> None:
    done = harness("selftest", "--only", bug, "--out", out, "--json", cwd=out.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    (only,) = told["trials"]
    assert told["passed"] is True
    assert (only["name"], only["expected"], only["outcome"]) == (bug, "VIOLATION", "VIOLATION")
    assert only["meaning"] == planted.BUGS[bug].meaning
    assert only["found_by"]
    assert only["evidence"]
    assert 0 < only["seconds"] <= selftest.LIMIT_S
