"""What is said of power cuts, failing calls and damaged files, from what they left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from told import context, outcomes

from harness import explore
from harness.badstorage.campaign import Finding as Bad
from harness.badstorage.campaign import Report as BadReport
from harness.badstorage.engines import Failed as Injected
from harness.damage import campaign as damaging
from harness.damage.damages import Damage
from harness.damage.subjects import Subject
from harness.errors import UsageError
from harness.powerloss import job, loss, outage, table
from harness.powerloss.medium import Choice, Torn
from harness.powerloss.trace import PAGE, Event, Make, Rename, Start, Sync, Trace, Write
from harness.verdict import Finding, Outcome
from harness.viewer import of_badstorage, of_powerloss
from harness.viewer.facts import Checked, Facts
from harness.viewer.of_record import facts_of, write_page_of
from harness.viewer.words import seeded

# -- power cuts ---------------------------------------------------------------------------------------------


def lost(directory: Path) -> Path:
    """The failure of a power cut in which one of two pages was torn, one was older, and a name was missing."""
    events: list[Event] = [
        Write(1, 1, 0, b"a" * PAGE),
        Sync(1, 1, 1),
        Write(1, 1, 0, b"b" * PAGE),
        Write(1, 1, 0, b"c" * PAGE),
        Write(1, 1, PAGE, b"d" * PAGE),
        Make(1, "b", 2),
        Write(1, 1, 2 * PAGE, b"e" * 8),
        Rename(1, "a", "c"),
    ]
    trace = Trace("kvs", {"durable": True}, [Start("a", 1, 3 * PAGE, b"")], events)
    choice = Choice(pages=(Torn(1, 0, 1, 1), Torn(1, 1, 0, 1, "3")), omitted=(5,))
    path = directory / "failure-1.json"
    loss.save(
        loss.Loss(
            trace=trace,
            medium="ext4",
            cut=len(events),
            choice=choice,
            property_name="durability",
            message="it shows T=5, and T=6 was told before the cut",
            words=("the power was cut after event 8", "missing: a page"),
            bug="acknowledged-before-sync",
            reproduced="10/10",
        ),
        path,
    )
    return path


def cut(directory: Path, *, found: int = 1, judged: int = 4000, **options: Any) -> Path:
    """The directory of power cuts."""
    directory.mkdir()
    record = outage.Record(
        outcome=Outcome.VIOLATION if found else Outcome.UNKNOWN if judged < 1000 else Outcome.OK,
        options=job.Options(scenarios=outage.SCENARIOS, seed=5, **options),
        counts=outage.Counts(runs=3, images=judged, seconds=4.0, by_scenario={"life": judged}),
        found=[
            job.Found(
                run=0,
                scenario="life",
                cut=8,
                choice=Choice(),
                property_name="durability",
                message="it shows T=5, and T=6 was told before the cut",
                file="failure-1.json",
            )
        ][:found],
        reasons=[f"{judged} different images, not 1,000"] if judged < 1000 else [],
    )
    explore.write(directory / outage.RECORD, record)
    lost(directory)
    return directory


def test_power_cuts_are_told_with_what_was_on_the_medium(tmp_path: Path) -> None:
    facts = facts_of(cut(tmp_path / "run"))
    assert (facts.what, facts.outcome) == ("powerloss", Outcome.VIOLATION)
    assert facts.sentence == "4,000 images, 0 second cuts, 1 kind of violation"
    (failed,) = facts.failures
    assert [heading for heading, _ in failed.words] == ["cut", "", "medium", "store", "planted"]
    assert failed.replay == f"harness replay {tmp_path / 'run' / 'failure-1.json'}"
    assert outcomes(facts)["durability"] is Outcome.VIOLATION
    assert outcomes(facts)["prefix"] is Outcome.OK

    medium, _ = facts.sheets
    assert medium.title == "What was on the medium at the cut (failure-1.json)"
    assert medium.rows == (
        ("page 0 of c (bytes 0 to 4,096)", "2", "older: the first 1 of 2 writes"),
        (
            "page 1 of c (bytes 4,096 to 8,192)",
            "1",
            "torn: some sectors of the first 0 writes, some of the first 1",
        ),
        ("the name of the new file b", "1", "not there"),
        ("page 2 of c (bytes 8,192 to 12,288)", "1", "there"),
        ("a was renamed to c", "1", "there"),
    )


def test_the_line_that_cuts_once_more_means_the_same_options(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "images": 77,
        "seconds": None,
        "medium": "harsh",
        "per_run": 0,
        "twice_every": 9,
        "real": True,
    }
    meant = context(facts_of(cut(tmp_path / "run", found=0, **options)).again)
    assert {name: meant[name] for name in options} == options
    assert (meant["seed"], meant["scenario"]) == (5, "")


def test_too_few_images_are_unknown_and_a_failure_alone_is_told(tmp_path: Path) -> None:
    facts = facts_of(cut(tmp_path / "run", found=0, judged=20))
    assert facts.outcome is outcomes(facts)["traffic"] is Outcome.UNKNOWN
    assert [failed.message for failed in facts.failures] == ["20 different images, not 1,000"]
    assert facts_of(tmp_path / "run" / "failure-1.json").outcome is Outcome.VIOLATION


def row(name: str, promised: tuple[str, ...], **fields: Any) -> table.Row:
    made = table.Row(
        configuration=name,
        promised=promised,
        sentence="All is kept.",
        address="https://example.org/kept",
        images=500,
        runs=1,
        **fields,
    )
    table._judge(made)
    return made


def test_other_engines_are_told_beside_what_they_promise(tmp_path: Path) -> None:
    rows = [
        row("sqlite-wal-full", ("damaged", "durability", "prefix")),
        row(
            "sqlite-wal-off",
            ("damaged",),
            found={"damaged": 3, "durability": 9},
            explained={"damaged": "it does not open; missing: page 1", "durability": "it shows 3"},
            files={"damaged": "sqlite-wal-off-damaged.json"},
        ),
    ]
    data = table.Table(
        outcome=Outcome.VIOLATION,
        rows=rows,
        seed=4,
        medium="ext4",
        command="harness powerloss --engine sqlite",
    )
    explore.write(tmp_path / outage.RECORD, data)
    facts = facts_of(tmp_path)
    assert (facts.engine, facts.outcome) == ("sqlite", Outcome.VIOLATION)
    assert outcomes(facts)["sqlite-wal-off damaged"] is Outcome.VIOLATION
    assert outcomes(facts)["sqlite-wal-full prefix"] is Outcome.OK
    (failed,) = facts.failures
    assert failed.property_name == "sqlite-wal-off damaged"
    assert dict(failed.words)["promised"] == "All is kept."
    assert failed.replay == f"harness replay {tmp_path / 'sqlite-wal-off-damaged.json'}"
    assert facts.again == "harness powerloss --engine sqlite --seed 4"
    assert facts.sheets[0].rows[1][3:] == ("damaged 3, durability 9", "NO")


def test_an_engine_that_shows_no_loss_that_it_may_show_is_unknown_in_words() -> None:
    data = table.Table(outcome=Outcome.UNKNOWN, rows=[row("lmdb-nosync", ("prefix",))], medium="ext4")
    (failed,) = of_powerloss.facts_of_table(data, Path("x")).failures
    assert "no loss was found" in failed.message


# -- failing calls ------------------------------------------------------------------------------------------


def bad(tmp_path: Path, *findings: Bad, interrupted: bool = False) -> Path:
    report = BadReport(3, {"writes/mmap": 227}, 517, 5, 2, findings, 1.5, interrupted)
    record = of_badstorage.Record(
        outcome=report.outcome, command="harness badstorage --limit 5", tried=7, report=report
    )
    explore.write(tmp_path / of_badstorage.RECORD, record)
    return tmp_path


def test_failing_calls_are_told_with_a_line_that_is_understood(tmp_path: Path) -> None:
    finding = Bad("writes/mmap 17:EIO 23:ENOSPC", "kept", "key 5 is gone", ("fsync: EIO",), 4)
    facts = facts_of(bad(tmp_path, finding))
    assert (facts.what, facts.outcome) == ("badstorage", Outcome.VIOLATION)
    assert facts.sentence == "7 runs in 1.5 s, 1 kind of violation"
    (failed,) = facts.failures
    assert context(failed.replay)["line"] == finding.line
    assert failed.words == (("failed", "fsync: EIO"), ("seen", "in 4 runs"))
    assert failed.signature == "kept: key # is gone"
    assert outcomes(facts) == dict.fromkeys(
        ["said", "kept", "usable", "sound", "clean", "blocks", "traffic"], Outcome.OK
    ) | {"kept": Outcome.VIOLATION}
    assert context(facts.again)["seed"] == 3


def test_failing_calls_that_were_ended_early_are_unknown(tmp_path: Path) -> None:
    facts = facts_of(bad(tmp_path, interrupted=True))
    assert facts.outcome is outcomes(facts)["traffic"] is Outcome.UNKNOWN
    assert "ended after 7 runs" in facts.failures[0].message


def test_failing_calls_of_other_engines_are_told_by_configuration(tmp_path: Path) -> None:
    runs = [
        Injected(configuration="lmdb", call="writev", error="ENOSPC", when="2", failed=1, findings=()),
        Injected(
            configuration="sqlite-wal-full",
            call="fdatasync",
            error="EIO",
            when="4+",
            failed=3,
            findings=(Finding("durability", "transaction 4 is gone"),),
        ),
    ]
    record = of_badstorage.Record(outcome=Outcome.VIOLATION, command="harness badstorage", seed=1, runs=runs)
    explore.write(tmp_path / of_badstorage.RECORD, record)
    facts = facts_of(tmp_path)
    assert facts.engine == "lmdb, sqlite"
    assert outcomes(facts) == {"lmdb kept": Outcome.OK, "sqlite-wal-full kept": Outcome.VIOLATION}
    assert facts.failures[0].message == "durability: transaction 4 is gone"
    assert facts.sheets[0].rows[1] == ("sqlite-wal-full", "fdatasync", "EIO", "1", "3", "1")


# -- damaged files ------------------------------------------------------------------------------------------


def damaged(tmp_path: Path, **fields: Any) -> Path:
    """The record of damaged files, with one of two kinds of finding kept in a file."""
    finding = damaging.Finding(
        kind="wrong value",
        message="get: None instead of b'x'",
        words="",
        seed=1,
        number=17,
        phase="read",
        io="mmap",
        damage=Damage("two", ()),
        subject=Subject("plain", b"", True, False, {}, {}, {}, {}, {}),
    )
    (tmp_path / "damage").mkdir()
    kept = tmp_path / "damage" / "damage-17-1.json"
    kept.write_bytes(msgspec.json.encode(finding))
    total = damaging.Row("all", 5000, 4000, 900, 97, 3)
    report: dict[str, Any] = {
        "outcome": Outcome.VIOLATION,
        "command": "harness damage --count 5000",
        "started": "2026-03-01",
        "seconds": 2.0,
        "seed": 1,
        "workers": 2,
        "trials": 5000,
        "systematic": 2500,
        "systematic_of": 9000,
        "interrupted": False,
        "subjects": [total],
        "phases": [damaging.Row("read", 5000, 4000, 900, 97, 3)],
        "total": total,
        "kinds": {"wrong value": 2, "hang": 1},
        "files": ["elsewhere/damage-17-1.json"],
    }
    path = tmp_path / "damage.json"
    path.write_bytes(msgspec.json.encode(damaging.Report(**(report | fields))))
    return path


def test_damaged_files_are_told_with_one_failure_of_each_kind(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    facts = facts_of(path)
    assert (facts.what, facts.outcome) == ("damage", Outcome.VIOLATION)
    assert facts.sentence == "5,000 damaged inputs in 2 s (2,500/s), 3 wrong answers"
    kept, counted = facts.failures
    assert kept.replay == f"harness damage --replay {tmp_path / 'damage' / 'damage-17-1.json'}"
    assert dict(kept.words)["seen"] == "in 2 trials"
    assert (counted.property_name, counted.replay) == ("hang", "")
    assert facts.more_failures == 0
    assert facts.again == "harness damage --count 5000 --seed 1"
    assert outcomes(facts) == {"damaged read": Outcome.VIOLATION, "traffic": Outcome.OK}
    assert facts_of(tmp_path / "damage" / "damage-17-1.json").failures[0].message == kept.message


def test_too_few_trials_are_unknown(tmp_path: Path) -> None:
    facts = facts_of(damaged(tmp_path, outcome=Outcome.UNKNOWN, trials=12, kinds={}, files=[]))
    assert [failed.message for failed in facts.failures] == ["12 trials, not 1,000"]
    assert outcomes(facts)["traffic"] is Outcome.UNKNOWN


# -- what it is is seen by looking --------------------------------------------------------------------------


def test_facts_that_were_saved_are_read_back_wherever_they_are_now(tmp_path: Path) -> None:
    facts = Facts(
        what="fleet",
        engine="kvs",
        outcome=Outcome.OK,
        sentence="40 errands",
        directory="gone",
        seconds=3.0,
        checked=(Checked("isolation", Outcome.OK, "40 errands"),),
    )
    (tmp_path / "facts.json").write_bytes(msgspec.json.encode(facts))
    assert facts_of(tmp_path) == msgspec.structs.replace(facts, directory=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.json", None, "does not exist; name a run's directory"),
        ("empty.json", "", "holds no JSON object"),
        ("list.json", "[1]", "holds no JSON object"),
        ("other.json", '{"a": 1, "b": 2}', "is no record of a run: it holds a, b"),
        ("verdict.json", '{"overall": 1, "verdicts": []}', "name the directory it is in"),
        ("explore.json", '{"options": 1, "position": {}}', "is not what `harness explore` writes"),
        ("powerloss.json", '{"rows": 1, "medium": ""}', "is not what `harness powerloss` writes"),
    ],
)
def test_what_is_no_run_is_refused_with_what_it_is(
    name: str, text: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        facts_of(path)


def test_a_directory_without_a_record_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it holds nothing, and none of plan\.json, facts\.json"):
        facts_of(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"it holds notes\.txt, and none of"):
        facts_of(tmp_path)


def test_the_page_is_beside_a_file_and_in_a_directory(tmp_path: Path) -> None:
    path, _ = write_page_of(damaged(tmp_path))
    assert path == tmp_path / "damage.html"
    assert "wrong value" in path.read_text(encoding="utf-8")
    path, facts = write_page_of(bad(tmp_path))
    assert path == tmp_path / "report.html"
    assert facts.what == "badstorage"


def test_a_command_says_its_seed_once() -> None:
    assert seeded("harness x --seed 3", 4) == "harness x --seed 3"
    assert seeded("harness x --seed=3", 4) == "harness x --seed=3"
    assert seeded("harness x 'a b'", 4) == "harness x 'a b' --seed 4"
    assert seeded("", 4) == ""


def test_every_record_of_the_reference_runs_is_told() -> None:
    reference = Path(__file__).parents[2] / "results" / "reference"
    for name, what in (
        ("explore", "explore"),
        ("powerloss", "powerloss"),
        ("powerloss-engines", "powerloss"),
        ("badstorage", "badstorage"),
        ("badstorage-engines", "badstorage"),
        ("damage", "damage"),
    ):
        path = reference / f"{name}.json"
        facts = facts_of(path)
        assert facts.what == what
        assert str(facts.outcome) == json.loads(path.read_text(encoding="utf-8"))["outcome"]
