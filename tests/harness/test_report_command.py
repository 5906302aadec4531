"""``harness report`` and the pages that runs leave, as a user meets them: written, printed, and true."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from campaigns import TOY, harness, only_run, start, wait_for
from junitparser import JUnitXml

from harness import cli, judge
from harness.verdict import Outcome

Printed = pytest.CaptureFixture[str]


def report(capsys: Printed, *arguments: object) -> tuple[int, str, str]:
    """Run ``harness report``: the exit code, standard output, standard error."""
    capsys.readouterr()
    code = cli._run(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def page_line(out: str) -> str:
    found = re.search(r"^page {8}(\S+report\.html)$", out, re.MULTILINE)
    assert found, out
    return found[1]


def test_an_exploration_leaves_its_page_and_is_reported_in_every_form(
    tmp_path: Path, capsys: Printed
) -> None:
    done = harness(
        "explore", "--bug", "intent-ignored", "--seed", 2, "--schedules", 400, "--out", tmp_path, cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    run_dir = only_run(tmp_path)
    left = Path(page_line(done.stdout))
    assert left == run_dir / "report.html"
    html = left.read_text(encoding="utf-8")
    replay = f"harness replay {run_dir / 'failure-1.json'}"
    assert replay in html
    assert "every step, and where it went wrong" in html

    left.unlink()
    code, out, _ = report(capsys, run_dir)
    assert code == 1
    assert out.splitlines() == [f"written     {left}", done.stdout.splitlines()[-1]]
    assert replay in left.read_text(encoding="utf-8")

    left.unlink()
    code, comment, err = report(capsys, run_dir, "--markdown", "-")
    assert (code, err.splitlines()) == (1, [done.stdout.splitlines()[-1]])
    assert comment.startswith("### VIOLATION: harness explore, kvs")
    assert not left.exists(), "only what was asked for is written"

    code, out, _ = report(capsys, run_dir, "--json")
    facts = json.loads(out)["facts"]
    assert (code, facts["outcome"], facts["failures"][0]["replay"]) == (1, "VIOLATION", replay)

    (found,) = re.findall(r"```sh\n(harness replay .*)\n```", comment)
    again = harness(*shlex.split(found)[1:], "--times", 1, cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1].startswith(f"VIOLATION  {facts['failures'][0]['property']}")


def test_several_forms_are_written_at_once_where_it_is_said(tmp_path: Path, capsys: Printed) -> None:
    done = harness(
        "powerloss",
        "--bug",
        "acknowledged-before-sync",
        "--seed",
        1,
        "--out",
        tmp_path / "runs",
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    run_dir = only_run(tmp_path / "runs")
    assert Path(page_line(done.stdout)) == run_dir / "report.html"
    targets = [tmp_path / name for name in ("page.html", "comment.md", "junit.xml")]
    page, comment, junit = targets
    code, out, _ = report(capsys, run_dir, "--html", page, "--markdown", comment, "--junit", junit)
    assert code == 1
    assert out.splitlines() == [*(f"written     {path}" for path in targets), done.stdout.splitlines()[-1]]
    assert "What was on the medium at the cut" in page.read_text(encoding="utf-8")
    assert "not synced | changes | on the medium" in comment.read_text(encoding="utf-8")
    (suite,) = JUnitXml.fromfile(str(junit))
    assert (suite.failures, suite.errors) == (1, 0)
    assert suite.time > 0


def test_failing_calls_leave_a_directory_with_a_page(tmp_path: Path, capsys: Printed) -> None:
    arguments = (
        "badstorage",
        "--workloads",
        "writes",
        "--variants",
        "mmap",
        "--limit",
        3,
        "--pairs",
        1,
        "--seed",
        1,
    )
    done = harness(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = only_run(tmp_path / "results" / "runs")
    assert (tmp_path / page_line(done.stdout)).parent == run_dir
    code, out, _ = report(capsys, run_dir / "badstorage.json", "--junit", "-")
    assert code == 0
    root = ElementTree.fromstring(out.encode())  # noqa: S314 - our own
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("7", "0", "0")


def test_failing_calls_that_cannot_be_tried_leave_no_directory(tmp_path: Path, capsys: Printed) -> None:
    for arguments in (["--workloads", "nope"], ["--engine", "nope"]):
        assert cli._run(["badstorage", "--out", str(tmp_path / "runs"), *arguments]) == 2
        assert list((tmp_path / "runs").iterdir()) == []


def test_a_campaign_is_judged_again_from_its_history(tmp_path: Path, capsys: Printed) -> None:
    arguments = ("--engine", TOY, "--workloads", "register", "--seconds", 1, "--faults", "none")
    done = harness("run", *arguments, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = only_run(tmp_path)
    (run_dir / "report.html").unlink()
    (run_dir / "verdict.json").unlink()
    code, out, _ = report(capsys, run_dir)
    assert code == 0
    assert out.splitlines() == [f"written     {run_dir / 'report.html'}", done.stdout.splitlines()[-1]]
    assert (run_dir / "report.html").stat().st_size > 1_000_000, "with its timeline"

    plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
    plan["limits"]["operations_min"] = 1_000_000_000
    (run_dir / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    code, out, _ = report(capsys, run_dir, "--junit", "-")
    assert code == 3, "so many operations were not seen"
    (suite,) = JUnitXml.fromstring(out.encode())
    judged = judge.judge(judge.load(run_dir))
    cases = {case.name: case for case in suite}
    assert list(cases) == [verdict.property_name for verdict in judged.verdicts]
    for verdict in judged.verdicts:
        assert cases[verdict.property_name].is_passed is (verdict.outcome is Outcome.OK)
    assert (suite.failures, suite.errors) == (0, 1), "what is unknown is no success"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "is not the directory of a run"),
        (["nowhere", "--html", "-"], "written to a file only"),
        (["nowhere", "--markdown", "-", "--junit", "-"], "standard output can have one of them"),
        (["nowhere", "--markdown", "-", "--json"], "standard output can have one of them"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_error(
    arguments: list[str], words: str, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = report(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("harness: ")
    assert words in err
    assert len(err.splitlines()) == 1


REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "damage.json"
FAILURE = Path(__file__).parent.parent / "schedules" / "claim-skips-repair.json"


@pytest.mark.parametrize("option", ["--html", "--markdown", "--junit"])
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    option: str, tmp_path: Path, capsys: Printed
) -> None:
    target = tmp_path / "missing" / "file"
    code, _, err = report(capsys, REFERENCE, option, target)
    assert code == 4
    assert str(target) in err
    assert "No such file or directory" in err


def test_a_page_that_cannot_be_written_changes_no_verdict(tmp_path: Path) -> None:
    """The disk may be full just then: what the run found is what counts."""
    process = start("explore", "--schedules", 5000, "--seed", 1, "--out", tmp_path, cwd=tmp_path)
    wait_for(lambda: any(tmp_path.iterdir()), "a run directory")
    (only_run(tmp_path) / "report.html").mkdir()
    (only_run(tmp_path) / "report.html" / "full").touch()
    wait_for((only_run(tmp_path) / "explore.json").exists, "some schedules")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert "the page cannot be written" in err
    assert "page   " not in out
    assert out.splitlines()[-1].startswith("OK  ")


def test_a_page_with_charts_costs_less_than_a_second(tmp_path: Path, capsys: Printed) -> None:
    page = tmp_path / "page.html"
    began = time.process_time()
    assert report(capsys, FAILURE, "--html", page)[0] == 1
    assert time.process_time() - began < 1.0
    assert page.stat().st_size > 1_000_000, "it holds the script that draws"
