"""An errand: a command of the harness with a seed, what it brings home, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from campaigns import TOY, harness
from errands import beside

from harness import errand, harvest
from harness.errand import EXPLORE, POWERLOSS, RUN, SHRINK, Errand, Result, Shown, carry_out
from harness.errors import HarnessError, UsageError
from harness.powerloss import outage
from harness.verdict import Outcome

BUG = "no-commit-lock"
TWICE = "isolation: # and # both committed at T=#"


def exploring(number: int = 0, *, bug: str = BUG, count: int = 30) -> Errand:
    """A short exploration."""
    return Errand(
        number=number, kind=EXPLORE, seed=5, count=count, bug=bug, scenario="versions", shrinks=False
    )


def test_every_number_has_another_seed() -> None:
    seeds = [errand.seed_of(1, number) for number in range(100_000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 32 for seed in seeds)
    assert seeds[:3] == [errand.seed_of(1, number) for number in range(3)]


def test_every_scenario_has_its_turn_in_some_errand_that_cuts_the_power() -> None:
    lines = [Errand(number=number, kind=POWERLOSS, seed=1).arguments() for number in range(6)]
    named = [name for line in lines for name in line[line.index("--scenario") + 1].split(",")]
    assert set(named) == set(outage.SCENARIOS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "process 1 operation 1 and process 62 operation 9 both committed at T=1",
            "process 2 operation 1 and process 1 operation 1 both committed at T=5",
        ),
        (
            "key ee1db1caaf21a3e4ecb3162354b479ce is 0100000002000000b87e9c9face4112e (T=7), 0500000005 (T=5)",
            "key ff1db1caaf21a3e4ecb3162354b479ce is 01000 (T=3), 0500000005 (T=5), 0500000005000ab1 (T=1)",
        ),
        (
            "StoreError: it is torn (/dev/shm/harness-powerloss-sz2mrpbv/images-j_j2gc/store/130.small at byte 192)",
            "StoreError: it is torn (/tmp/harness-errand-8/x/store/00001.small at byte 64)",
        ),
    ],
)
def test_a_mistake_has_one_signature_wherever_it_is_shown(one: str, other: str) -> None:
    assert errand.signature("isolation", one) == errand.signature("isolation", other)
    assert errand.signature("isolation", one) != errand.signature("structure", one)
    assert errand.signature("isolation", one) != errand.signature("isolation", f"{one} and that is that")


def test_a_failure_comes_home_with_what_it_left_behind_and_is_made_smaller(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    result = carry_out(exploring(), parent=there)
    assert (result.outcome, result.exit_code) == (Outcome.VIOLATION, 1), result.reasons
    (shown,) = result.shown
    assert (shown.signature, shown.file) == (TWICE, "failure-1.json")
    assert result.counts["schedules"] > 0
    assert list(there.iterdir()) == []

    errand.unpack(result, here)
    page = (here / "failure-1.txt").read_text()
    assert f"harness replay {here / 'failure-1.json'}" in page
    assert str(there) not in page
    failure = (here / "failure-1.json").read_bytes()
    assert harness("replay", here / "failure-1.json", "--times", 1, cwd=tmp_path).returncode == 1

    smaller = carry_out(
        Errand(number=0, kind=SHRINK, seed=0, files={errand.SHRUNK: failure}, options=("--limit-s", "30")),
        parent=there,
    )
    assert smaller.shown[0].signature == shown.signature
    assert set(smaller.files) == {"failure.json", "failure.txt"}
    assert len(zlib.decompress(smaller.files["failure.json"])) < len(failure)
    assert list(there.iterdir()) == []


def test_what_is_asked_for_wrongly_and_what_fails_by_itself_are_results_with_the_reason(
    tmp_path: Path,
) -> None:
    wrong = carry_out(exploring(bug="no-such-bug"), parent=tmp_path)
    assert (wrong.exit_code, wrong.outcome) == (2, Outcome.UNKNOWN)
    assert "no-such-bug" in wrong.reasons[-1]
    nowhere = carry_out(exploring(), parent=tmp_path / "nowhere")
    assert (nowhere.exit_code, nowhere.outcome) == (errand.FAILED, Outcome.UNKNOWN)
    assert "nowhere" in nowhere.reasons[0]
    assert list(tmp_path.iterdir()) == []


def test_a_campaign_that_violates_is_one_failure_with_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(beside()))
    engine = TOY.replace("ToyEngine", "TwoHalvesEngine")
    options = ("--workloads", "bank,append,register")
    result = carry_out(
        Errand(number=3, kind=RUN, seed=1, seconds=20, engine=engine, options=options), parent=tmp_path
    )
    assert result.outcome is Outcome.VIOLATION, result.reasons
    assert len(result.shown) == 1
    assert "plan.json" in result.files
    assert any(name.startswith("history/") for name in result.files)
    assert list(tmp_path.iterdir()) == []


def test_an_errand_that_is_asked_to_end_says_what_it_knows(tmp_path: Path) -> None:
    asked = iter(range(3, 100))
    began = exploring(bug="", count=1_000_000)
    result = carry_out(began, parent=tmp_path, stop=lambda: int(next(asked) > 25))
    assert result.exit_code in (0, 3), result.reasons
    assert result.counts["schedules"] < 1_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_campaign_waits_for_its_place_among_those_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_PLACES", f"harness-test-{os.getpid()}")
    wrong = Errand(number=0, kind=RUN, seed=1, seconds=1, engine="nope")
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as others:
        for place in range(errand.campaigns_at_once()):
            taken = others.enter_context(socket.socket(socket.AF_UNIX))
            taken.bind(f"\0harness-test-{os.getpid()}-{os.getuid()}-{place}")
        asked = threading.Event()
        future = pool.submit(carry_out, wrong, parent=tmp_path, stop=lambda: asked.set() or 0)
        assert asked.wait(30)
        assert list(tmp_path.iterdir()) == []
        assert not future.done()
        others.close()
        assert future.result(60).exit_code == 2


def test_nothing_is_laid_outside_of_the_directory(tmp_path: Path) -> None:
    strange = Result(
        number=0,
        kind=RUN,
        seed=1,
        line="",
        exit_code=1,
        outcome=Outcome.VIOLATION,
        directory="/x",
        files={"../../outside": zlib.compress(b"")},
    )
    with pytest.raises(HarnessError, match="outside"):
        errand.unpack(strange, tmp_path / "a" / "b")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    ("kinds", "engine", "bug", "scenario", "words"),
    [
        ((), "kvs", "", "", "name at least one"),
        (("dance",), "kvs", "", "", "no errand is called 'dance'"),
        ((EXPLORE,), "sqlite", "", "", "explore is for kvs only"),
        ((RUN,), "kvs", "nope", "", "no bug 'nope'"),
        ((EXPLORE,), "kvs", "", "nope", "nope"),
        ((EXPLORE, POWERLOSS), "kvs", "", "life", "life"),
        ((RUN,), "nope", "", "", "no engine is called 'nope'"),
    ],
)
def test_what_no_errand_can_be_made_of_is_refused(
    kinds: tuple[str, ...], engine: str, bug: str, scenario: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        errand.check(kinds, engine, bug, scenario)


def test_of_a_failure_that_is_shown_often_some_examples_are_kept_and_every_number_is_told(
    tmp_path: Path,
) -> None:
    results = []
    for number in range(5):
        shown = Shown(TWICE, "isolation", f"process {number} operation 1 and so on", "failure-1.json")
        files = {"failure-1.json": zlib.compress(b'{"message": "said in the file"}')}
        result = Result(
            number=number,
            kind=EXPLORE,
            seed=number,
            line=f"line {number}",
            exit_code=1,
            outcome=Outcome.VIOLATION,
            shown=(shown, shown),
            directory="/x",
            files=files,
        )
        harvest.keep(result, tmp_path)
        results.append(harvest.without_files(result))
    (group,) = harvest.groups(results, tmp_path)
    assert group.found == {EXPLORE: [0, 1, 2, 3, 4]}
    assert group.message == "said in the file"
    home = harvest.home(tmp_path, TWICE)
    assert {path.name for path in home.iterdir()} == {"explore-0", "explore-1", "explore-2"}
    assert group.replay == f"harness replay {home / 'explore-0' / 'failure-1.json'}"


def test_ignorance_is_no_success_and_a_broken_errand_is_told_apart(tmp_path: Path) -> None:
    ok = Result(number=0, kind=RUN, seed=1, line="", exit_code=0, outcome=Outcome.OK)
    unknown = msgspec.structs.replace(ok, exit_code=3, outcome=Outcome.UNKNOWN)
    broken = msgspec.structs.replace(unknown, exit_code=4)
    violation = msgspec.structs.replace(ok, exit_code=1, outcome=Outcome.VIOLATION)

    def code(*results: Result, reasons: tuple[str, ...] = ()) -> int:
        return harvest.Harvest(
            what="ci", engine="kvs", directory=tmp_path, results=results, seconds=1.0, reasons=reasons
        ).exit_code

    assert [code(ok), code(), code(ok, unknown), code(ok, broken, unknown), code(broken, violation)] == [
        0,
        3,
        3,
        4,
        1,
    ]
    assert code(ok, reasons=("one is missing",)) == 3
