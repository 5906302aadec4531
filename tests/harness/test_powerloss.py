"""``harness powerloss``: the store survives every cut, planted bugs do not, and a failure can be made again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xxhash
from campaigns import harness, start, wait_for

from harness import planted
from harness.powerloss import choices, outage, survey, table
from harness.powerloss.job import Options, digest_of
from harness.powerloss.judge import Expected, judge, seen_by_readers
from harness.powerloss.loss import Loss, is_loss, load, save
from harness.powerloss.medium import ALL, MEDIA, Choice, Disk, Torn
from harness.powerloss.recorded import record
from harness.powerloss.trace import Begun, Sync, Told, Trace, Write
from harness.powerloss.twice import cut_again
from harness.scenarios import named
from harness.verdict import Outcome
from kvs import layout, rebuild

EXT4 = MEDIA["ext4"]
QUICK: dict[str, tuple[str, int]] = {
    "acknowledged-before-sync": ("durable", 300),
    "rebuild-skips-gap-rule": ("default", 200),
    "directory-not-synced": ("laggards", 400),
    "wrong-file-synced": ("durable", 300),
    "commit-unchecked": ("compaction", 600),
    "index-trusted-after-reboot": ("versions", 100),
    "clean-mark-kept": ("versions", 100),
    "made-before-sync": ("life", 400),
    "floor-before-sync": ("compaction", 600),
    "punch-before-floor-synced": ("compaction", 600),
}
"""A scenario that shows it soon, and in about how many images at most."""


@pytest.fixture(scope="module")
def durable() -> Trace:
    return record(named("durable"), 3)


def judged(trace: Trace, cut: int, choice: Choice, tmp_path: Path, **changes: Any) -> set[str]:
    disk = Disk(trace, EXT4).go_to(cut)
    expected = Expected.at(trace, cut, seen_by_readers(disk.image(ALL)))._replace(**changes)
    return {each.property_name for each in judge(trace, expected, disk.image(choice), tmp_path / "store")}


# -- the judge --------------------------------------------------------------------------------------------


def test_a_store_that_was_cut_anywhere_with_nothing_missing_is_right(durable: Trace, tmp_path: Path) -> None:
    for cut in range(0, len(durable.events) + 1, 9):
        assert judged(durable, cut, ALL, tmp_path) == set(), cut


def test_what_was_told_and_is_gone_is_a_loss(durable: Trace, tmp_path: Path) -> None:
    newest = max(event.sequence for event in durable.events if isinstance(event, Told))
    assert judged(durable, 0, ALL, tmp_path, told=newest) == {"durability"}


def test_what_nobody_had_begun_is_an_invention(durable: Trace, tmp_path: Path) -> None:
    end = len(durable.events)
    begun = {each.sequence: each for each in durable.committed}
    assert judged(durable, end, ALL, tmp_path, begun=begun, told=0) == {"invention"}


def test_another_value_than_was_written_is_no_prefix(durable: Trace, tmp_path: Path) -> None:
    begun = dict(Expected.at(durable, 0).begun)
    newest = begun[max(begun)]
    begun[newest.sequence] = Begun(0, newest.sequence, tuple((key, b"other") for key, _ in newest.writes))
    assert judged(durable, 0, ALL, tmp_path, begun=begun) == {"prefix"}


def test_damage_that_is_no_power_loss_is_found(durable: Trace, tmp_path: Path) -> None:
    """A byte of a synced record flipped: nothing that a cut may leave, and the store must not show it."""
    disk = Disk(durable, EXT4)
    image = dict(disk.image(ALL))
    length, data = image["00000.small"]
    at = data.index(durable.committed[0].writes[0][1] or b"")
    image["00000.small"] = length, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    found = judge(durable, Expected.at(durable, 0), image, tmp_path / "store")
    assert found, "the store showed it, or what is left without it"


def test_a_recovery_that_is_cut_comes_to_the_same(durable: Trace, tmp_path: Path) -> None:
    cut = next(number for number, event in enumerate(durable.events) if isinstance(event, Sync))
    disk = Disk(durable, EXT4).go_to(cut)
    image = disk.image(disk.closed(Choice((Torn(1, 0, 0, 0),))))
    again = list(cut_again(durable, Expected.at(durable, cut), image, tmp_path / "store", EXT4, 1))
    assert len(again) == 40
    assert [each for each in again if each.findings] == []
    assert len({each.cut for each in again}) > 10


# -- the planted bugs -------------------------------------------------------------------------------------


def test_every_bug_that_power_cuts_are_to_show_has_a_quick_scenario() -> None:
    assert set(QUICK) == set(survey.names())
    assert len(QUICK) >= 7


@pytest.mark.share(2)
@pytest.mark.parametrize("bug", QUICK)
def test_a_planted_bug_is_found_shrunk_and_shown_again(bug: str, tmp_path: Path) -> None:
    scenario, images = QUICK[bug]
    options = Options(scenarios=(scenario,), seed=1, images=4 * images, seconds=None, bug=bug, per_run=images)
    record_, directory = outage.cut(options, out=tmp_path)
    assert record_.outcome is Outcome.VIOLATION
    loss = load(directory / "failure-1.json")
    assert loss.bug == bug
    assert loss.size <= survey.OMITTED_MAX, loss.words
    assert loss.reproduced == "10/10"
    assert any("missing" in words for words in loss.words)


def test_a_bug_that_cuts_are_not_to_show_is_refused_by_the_survey() -> None:
    with pytest.raises(outage.UsageError, match="not expected to show 'no-commit-lock'"):
        next(survey.survey(["no-commit-lock"]))
    assert "no-commit-lock" in planted.BUGS


# -- the command ------------------------------------------------------------------------------------------


def test_a_recovery_that_crashes_is_a_failure_and_the_others_are_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever recovers one of these few images ends. An index's entries are the same in every run of a seed."""
    real = rebuild.rebuild

    def crashing(directory: Path, *, boot_id: bytes) -> None:
        table = (directory / "index.0").read_bytes()[layout.entries_offset(layout.WRITERS_MAX) :]
        if xxhash.xxh3_64_intdigest(table) % 16 == 12:
            os.kill(os.getpid(), signal.SIGBUS)
        real(directory, boot_id=boot_id)

    monkeypatch.setattr(rebuild, "rebuild", crashing)
    options = Options(
        scenarios=("versions",), seed=1, images=300, seconds=None, per_run=150, keep_going=True, twice_every=0
    )
    record_, directory = outage.cut(options, out=tmp_path)
    assert record_.counts.images >= 300
    [found] = record_.found
    assert (found.property_name, found.message) == ("crash", "recovering it died of SIGBUS")
    assert load(directory / found.file).reproduced == "10/10"


def test_enough_images_without_a_violation_are_ok(tmp_path: Path) -> None:
    done = harness(
        *("powerloss", "--scenario", "durable,compaction", "--images", 120, "--cuts", 70, "--seed", 4),
        *("--twice-every", 60, "--out", tmp_path, "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"] == "OK"
    assert told["counts"]["images"] >= 120
    assert told["counts"]["twice"] >= 40
    assert set(told["counts"]["by_scenario"]) == {"durable", "compaction"}
    [directory] = tmp_path.iterdir()
    assert json.loads((directory / "powerloss.json").read_text()) == told


def test_runs_of_real_processes_are_cut_as_well(tmp_path: Path) -> None:
    done = harness(
        *("powerloss", "--real", "--scenario", "laggards", "--images", 60, "--cuts", 40, "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["counts"]["runs"] >= 2


def test_too_few_images_are_unknown(tmp_path: Path) -> None:
    done = harness("powerloss", "--seconds", 0.5, "--cuts", 20, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "different images, not 1,000" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("UNKNOWN")


def test_the_replay_line_of_a_failure_shows_it_again_and_it_can_be_made_smaller(tmp_path: Path) -> None:
    done = harness(
        *("powerloss", "--scenario", "versions", "--bug", "clean-mark-kept", "--seed", 1, "--cuts", 200),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("VIOLATION  ")
    assert "missing: page 0 of index.0 (bytes 0 to 4096)" in done.stdout
    found = re.search(r"^  replay      (harness replay \S+) +\(10/10\)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    _, *arguments = shlex.split(found[1])
    again = harness(*arguments, "--times", 3, cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert again.stdout.splitlines()[-1] == "reproduced 3/3"

    file = tmp_path / arguments[1]
    larger = larger_than(load(file))
    save(larger, tmp_path / "larger.json")
    smaller = harness("shrink", "larger.json", "--out", "smaller.json", cwd=tmp_path)
    assert smaller.returncode == 1, smaller.stderr
    assert load(tmp_path / "smaller.json").size <= 1 < larger.size


def larger_than(loss: Loss) -> Loss:
    """The same with a page said to be missing that is all there."""
    pending = loss.disk().pending()
    missing = {(one.file, one.page) for one in loss.choice.pages}
    (file, page), writes = next((unit, each) for unit, each in pending.pages.items() if unit not in missing)
    whole = Torn(file, page, len(writes), len(writes))
    return msgspec.structs.replace(loss, choice=Choice((*loss.choice.pages, whole)))


def test_a_failure_whose_bug_is_gone_is_not_shown_any_more(tmp_path: Path, durable: Trace) -> None:
    save(Loss(durable, "ext4", 20, ALL, "durability", "it was lost"), tmp_path / "old.json")
    done = harness("replay", "old.json", "--times", 2, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "reproduced 0/2")
    refused = harness("shrink", "old.json", cwd=tmp_path)
    assert refused.returncode == 2
    assert "does not show its violation of 'durability'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scenario", "nothing"), "no scenario is called 'nothing'"),
        (("--bug", "nothing"), "no bug 'nothing' can be planted"),
        (("--medium", "tape"), "'tape' is not one of"),
        (("--out", "/proc/nowhere"), "no directory can be made"),
    ],
)
def test_bad_options_are_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = harness("powerloss", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_was_found_and_leaves_nothing(tmp_path: Path) -> None:
    running = start("powerloss", "--seconds", 600, "--cuts", 100, "--seed", 1, "--json", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("results/runs/*/powerloss.json")), "it began")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    wait_for(lambda: children.read_text().split(), "a job")
    jobs = children.read_text().split()
    maps = Path(f"/proc/{jobs[0]}/maps")
    wait_for(lambda: "harness-powerloss-" in maps.read_text(), "a run")
    scratch = set(re.findall(r"/\S*harness-powerloss-[^/\s]+", maps.read_text()))
    running.send_signal(signal.SIGINT)
    text, errors = running.communicate(timeout=60)
    assert running.returncode == 3, text + errors
    told = json.loads(text)
    assert told["interrupted"]
    assert told["outcome"] == "UNKNOWN"
    assert not any(Path(f"/proc/{pid}").exists() for pid in jobs)
    assert not any(Path(found).exists() for found in scratch)
    [directory] = (tmp_path / "results" / "runs").iterdir()
    assert (directory / "powerloss.json").exists()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_other_engines_are_compared_with_what_their_documentation_promises(tmp_path: Path) -> None:
    done = harness(
        *(
            "powerloss",
            "--engine",
            "sqlite-wal-full,sqlite-wal-normal",
            "--images",
            60,
            "--seed",
            1,
            "--json",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    full, normal = told["rows"]
    assert (full["images"], full["found"], full["promised"]) == (60, {}, ["damaged", "durability", "prefix"])
    assert set(normal["found"]) == {"durability"}
    assert "missing: " in normal["explained"]["durability"]
    [directory] = (tmp_path / "results" / "runs").iterdir()
    assert (
        "| sqlite-wal-normal | damaged, prefix | 60 | durability" in (directory / "powerloss.md").read_text()
    )
    again = harness("replay", directory / normal["files"]["durability"], "--times", 2, cwd=tmp_path)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (1, "reproduced 2/2")


def test_a_loss_that_is_documented_and_was_not_found_is_no_success() -> None:
    row = table.Row(configuration="lmdb-nosync", promised=(), sentence="", address="", images=1)
    table._judge(row)
    assert (row.outcome, row.expected) == (Outcome.OK, False)
    all_of_it = table.Table(rows=[row])
    table._conclude(all_of_it, 1)
    assert all_of_it.outcome is Outcome.UNKNOWN


def test_a_promise_that_does_not_hold_is_a_violation() -> None:
    row = table.Row(configuration="lmdb", promised=("prefix",), sentence="", address="", found={"prefix": 1})
    table._judge(row)
    all_of_it = table.Table(rows=[row])
    table._conclude(all_of_it, 1)
    assert all_of_it.outcome is Outcome.VIOLATION


def test_an_engine_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    done = harness("powerloss", "--engine", "mysql", cwd=tmp_path)
    assert done.returncode == 2
    assert "power cuts of 'mysql' cannot be tried" in done.stderr


# -- files ------------------------------------------------------------------------------------------------


def test_a_loss_comes_back_as_it_was_saved(durable: Trace, tmp_path: Path) -> None:
    loss = Loss(durable, "ext4", 9, Choice((Torn(1, 0, 0, 1, "ff"),), (3,)), "prefix", again=(4, ALL))
    save(loss, tmp_path / "loss.json")
    assert is_loss(tmp_path / "loss.json")
    assert load(tmp_path / "loss.json") == loss


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is not a failure that powerloss wrote"),
        ("nonsense", "is not a failure that powerloss wrote"),
    ],
)
def test_a_file_that_is_no_loss_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(text)
    assert not is_loss(tmp_path / "it.json")
    with pytest.raises(outage.UsageError, match=said):
        load(tmp_path / "it.json")


def test_a_loss_whose_trace_does_not_fit_is_refused(durable: Trace, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(durable, events=[Write(1, 99, 0, b"x")])
    save(Loss(broken, "ext4", 1, ALL), tmp_path / "it.json")
    with pytest.raises(outage.UsageError, match="do not fit together"):
        load(tmp_path / "it.json")
    save(Loss(durable, "ext4", 10_000, ALL), tmp_path / "it.json")
    with pytest.raises(outage.UsageError, match="a cut after event 10000"):
        load(tmp_path / "it.json")


def test_images_that_differ_have_other_digests(durable: Trace) -> None:
    seen = {}
    disk = Disk(durable, EXT4)
    for _, cut, choice in choices.drawn(durable, EXT4, 1, 200):
        image = disk.go_to(cut).image(choice)
        known = seen.setdefault(digest_of(image), image)
        assert known == image
    assert len(seen) > 50
