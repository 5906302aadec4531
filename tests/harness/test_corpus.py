"""The corpus: what is kept, what is refused and why, and what replaying it says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness import cli_corpus, corpus, failure
from harness.corpus import Entry, Played
from harness.errors import UsageError
from harness.verdict import Outcome

KEPT = Path(__file__).parent.parent / "schedules"
SHORT = KEPT / "repair-stops-short.json"
CUT = KEPT / "index-trusted-after-reboot.json"
STORY = "A writer died, and what repaired\n   its transaction did half of it."


def changed(path: Path, source: Path = SHORT, **fields: object) -> Path:
    """A kept schedule with other ``fields``, in ``path``."""
    kept, _ = failure.load(source)
    failure.save(msgspec.structs.replace(kept, **fields), path)
    return path


def said(*arguments: str) -> tuple[int, str]:
    """Run ``harness corpus`` in this process: its exit code, and what it printed."""
    done = CliRunner().invoke(
        cli_corpus.corpus, list(arguments), standalone_mode=False, catch_exceptions=False
    )
    return done.return_value, done.output


def test_a_failure_is_kept_with_its_story_and_the_line_that_replays_it_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed(tmp_path / "failure-1.json", story="")
    code, output = said("add", "failure-1.json", "--story", STORY, "--dir", "kept")
    assert (code, output) == (0, "kept        kept/repair-stops-short.json\n")
    kept, notes = failure.load(tmp_path / "kept" / "repair-stops-short.json")
    assert notes == []
    assert kept.story == "A writer died, and what repaired its transaction did half of it."
    assert "  replay      harness replay kept/repair-stops-short.json     (10/10)\n" in kept.page
    assert kept.choices == failure.load(SHORT)[0].choices

    assert said("list", "--dir", "kept") == (
        0,
        f"repair-stops-short (schedule, atomicity, planted repair-stops-short)\n  {kept.story}\n",
    )
    code, output = said("replay", "--dir", "kept")
    assert code == 0, output
    assert "clean; with its bug atomicity 2/2" in output
    assert output.splitlines()[-1] == "OK  1 of 1 kept failures"


def test_what_does_not_show_its_violation_is_not_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    source = changed(tmp_path / "mended.json", bug="")
    with pytest.raises(UsageError, match=r"does not show its violation now \(reproduced 0/2\).*--unproven"):
        corpus.add(source, tmp_path / "kept", story=STORY)
    assert not (tmp_path / "kept").exists()
    entry = corpus.add(source, tmp_path / "kept", story=STORY, proven=False)
    assert entry.name.startswith("atomicity-")
    assert corpus.play(entry).words == "clean"


def test_a_cut_of_a_run_that_was_recorded_with_its_bug_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = {"reproduced": "2/2", "outcome": Outcome.VIOLATION, "findings": [{"property": "durability"}]}
    monkeypatch.setattr(corpus, "_replay", lambda *_: always)
    with pytest.raises(UsageError, match="without its bug index-trusted-after-reboot, too"):
        corpus.add(CUT, tmp_path, name="another", story=STORY)


def test_a_kept_power_cut_is_listed_as_one() -> None:
    entry = corpus.read(CUT)
    assert (entry.kind, entry.kept.bug) == ("power cut", "index-trusted-after-reboot")


def test_a_failure_without_a_story_or_with_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    source = changed(tmp_path / "failure-1.json", story="")
    with pytest.raises(UsageError, match="--story"):
        corpus.add(source, tmp_path, proven=False)
    (tmp_path / "taken.json").touch()
    with pytest.raises(UsageError, match="is there already"):
        corpus.add(source, tmp_path, name="taken", story=STORY, proven=False)
    with pytest.raises(UsageError, match="small letters"):
        corpus.add(source, tmp_path, name="../Taken", story=STORY, proven=False)


def test_a_campaign_is_no_exact_failure_and_it_is_said_what_to_do_instead(tmp_path: Path) -> None:
    (tmp_path / "plan.json").touch()
    with pytest.raises(UsageError, match=r"its processes ran freely.*`harness explore`"):
        corpus.add(tmp_path, tmp_path / "kept", story=STORY)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "failure-3.json").touch()
    with pytest.raises(UsageError, match=r"name the file of a failure \(failure-3\.json\)"):
        corpus.add(tmp_path, tmp_path / "kept", story=STORY)


@pytest.mark.parametrize(
    ("clean", "planted", "outcome", "words"),
    [
        ({"outcome": "VIOLATION", "findings": [{"property": "bank", "message": "91 appeared"}]}, {},
         Outcome.VIOLATION, "breaks a promise on it without its bug: bank: 91 appeared"),
        ({"outcome": "UNKNOWN", "runs": [{"undecided": 1}]}, {}, Outcome.UNKNOWN, "could be decided"),
        ({"outcome": "OK"}, {"reproduced": "1/2"}, Outcome.UNKNOWN,
         "does not show its bug repair-stops-short any more: reproduced 1/2"),
        ({"outcome": "UNKNOWN", "runs": [{"undecided": 0}]}, {"reproduced": "2/2"}, Outcome.OK, "clean; with its bug"),
    ],
)  # fmt: skip
def test_what_replaying_shows_decides_what_is_said(
    clean: dict[str, object],
    planted: dict[str, object],
    outcome: Outcome,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "_replay", lambda _, *options: clean if "--clean" in options else planted)
    played = corpus.play(corpus.read(SHORT))
    assert played.outcome is outcome
    assert words in played.words


@pytest.mark.parametrize(
    ("outcomes", "code", "last"),
    [
        ((Outcome.OK, Outcome.UNKNOWN, Outcome.VIOLATION), 1, "VIOLATION  1 of 3 kept failures"),
        ((Outcome.OK, Outcome.UNKNOWN), 3, "UNKNOWN  1 of 2 kept failures"),
        ((Outcome.OK,), 0, "OK  1 of 1 kept failures"),
        ((), 3, "UNKNOWN  0 of 0 kept failures"),
    ],
)
def test_the_worst_of_all_is_the_verdict_and_is_told_with_its_story(
    outcomes: tuple[Outcome, ...], code: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(len(outcomes)):
        changed(tmp_path / f"{number}.json", story="It was told.")
    monkeypatch.setattr(
        corpus, "play", lambda entry: Played(entry, outcomes[int(entry.name)], f"words of {entry.name}")
    )
    exit_code, output = said("replay", "--dir", str(tmp_path))
    assert exit_code == code
    lines = output.splitlines()
    assert lines[-1] == last
    assert sum("words of" in line for line in lines) == len(outcomes)
    bad = sum(outcome is not Outcome.OK for outcome in outcomes)
    assert lines.count("  It was told.") == bad
    assert sum(line.startswith("  replay    harness replay ") for line in lines) == bad


def test_what_is_no_failure_and_a_directory_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="it has no scenario"):
        corpus.entries(tmp_path)
    with pytest.raises(UsageError, match="--dir"):
        corpus.entries(tmp_path / "nowhere")


def test_entries_come_by_name() -> None:
    names = [entry.name for entry in corpus.entries(KEPT)]
    assert names == sorted(names)
    assert all(isinstance(entry, Entry) and entry.kept.story for entry in corpus.entries(KEPT))
