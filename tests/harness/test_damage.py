"""Damaged stores: every damage is done and undone, wrong answers of planted faults are seen, and a campaign tells."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

import kvs
from harness import cli_damage
from harness.damage import asking, campaign, crew, fuzz, subjects
from harness.damage.damages import Catalogue, Damage, Edit
from harness.damage.place import Place
from harness.damage.subjects import Subject
from harness.damage.trials import Trials
from harness.errors import UsageError
from harness.verdict import Outcome
from kvs import check, inspection, layout, reading, scanning, syncpoints
from kvs.smallfile import Smallfiles

SMALL, INDEX = "00000.small", "index.0"
NOTHING = Damage("nothing", ())


@pytest.fixture(scope="module")
def plain() -> Subject:
    """The usual subject."""
    return subjects.make("plain")


@pytest.fixture
def place(plain: Subject) -> Iterator[Place]:
    """Where it is damaged."""
    with tempfile.TemporaryDirectory(dir=subjects.MEMORY) as directory:
        yield Place(plain, Path(directory))


def write(name: str, offset: int, data: bytes) -> Damage:
    return Damage("by hand", (Edit("write", name, offset, data),))


def value_at(subject: Subject, value: bytes) -> int:
    """Where a value is in the smallfile."""
    return subject.images[SMALL].data.rindex(value)


def flipped(subject: Subject, name: str, offset: int, mask: int = 1) -> Damage:
    image = subject.images[name]
    byte = image.data[offset] if offset < len(image.data) else 0
    return write(name, offset, bytes([byte ^ mask]))


# -- subjects, damages, places --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", subjects.RECIPES)
def test_an_undamaged_subject_answers_right_in_every_phase(name: str) -> None:
    subject = subjects.make(name)
    with tempfile.TemporaryDirectory(dir=subjects.MEMORY) as directory:
        here = Place(subject, Path(directory))
        for phase in asking.PHASES:
            for io in ("mmap", "append"):
                syncpoints.install(None, lambda *_: None)
                found = asking.run(here, NOTHING, phase, io)
                syncpoints.install(None)
                assert found == ("right", []), phase
                assert here.is_whole()


@pytest.mark.parametrize(
    "edit",
    [
        Edit("write", SMALL, 100, b"garbage"),
        Edit("write", SMALL, 1 << 20, b"behind the end"),
        Edit("truncate", INDEX, 5000),
        Edit("truncate", INDEX, 0),
        Edit("remove", SMALL),
        Edit("rename", INDEX, other="index.7"),
        Edit("copy", SMALL, other=INDEX),
        Edit("remove", "not there"),
    ],
    ids=lambda edit: f"{edit.act} {edit.name} {edit.offset}",
)
def test_whatever_was_damaged_is_put_back(place: Place, edit: Edit) -> None:
    with place.damaged(Damage("by hand", (edit,))):
        assert place.is_whole() == (edit.name == "not there")
    assert place.is_whole()


def test_every_systematic_damage_has_one_number_and_changes_something(place: Place, plain: Subject) -> None:
    catalogue = Catalogue(plain)
    step = catalogue.count // 301
    kinds = set()
    for number in range(0, catalogue.count, step):
        damage = catalogue.systematic(number)
        kinds.add(damage.kind)
        assert damage.edits
    assert kinds >= {"flip-bit", "flip-byte", "zeros", "truncate"}
    last = {catalogue.systematic(catalogue.count - 1 - number).kind for number in range(30)}
    assert last >= {"copy", "rename", "remove"}
    with pytest.raises(IndexError):
        catalogue.systematic(catalogue.count)


def test_a_seed_decides_every_trial_and_the_even_ones_go_through_all_that_is_systematic(
    plain: Subject,
) -> None:
    one, again, other = (Trials([plain], seed) for seed in (5, 5, 6))
    assert [one[number] for number in range(50)] == [again[number] for number in range(50)]
    assert one[10] != other[10]
    order = {(one._first + number * one._step) % one.systematic for number in range(one.systematic)}
    assert len(order) == one.systematic == Catalogue(plain).count
    assert one.systematic_within(7) == 4


# -- what is wrong is seen --------------------------------------------------------------------------------


def test_a_flipped_value_is_refused(place: Place, plain: Subject) -> None:
    damage = flipped(plain, SMALL, value_at(plain, b"the last one"))
    assert asking.run(place, damage, "read", "mmap") == ("refused", [])


def kinds_of(place: Place, damage: Damage, phase: str = "read", io: str = "mmap") -> set[str]:
    """The kinds of what was wrong, in a process that may die of it."""
    finding = campaign.Finding(
        kind="",
        message="",
        words="",
        seed=0,
        number=0,
        phase=phase,
        io=io,
        damage=damage,
        subject=place.subject,
    )
    return {problem.kind for problem in campaign.replay(finding)}


def test_a_skipped_hash_is_a_wrong_value(
    place: Place, plain: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = flipped(plain, SMALL, value_at(plain, b"the last one"))

    def value(self: Smallfiles, key: bytes, location: int, length: int) -> bytes:
        return self.read(location >> layout.LOCATION_SHIFT, location & layout.LOCATION_MASK, length + 48)[48:]

    monkeypatch.setattr(Smallfiles, "value", value)
    assert kinds_of(place, damage) == {"wrong value"}


def test_a_bound_whose_checksum_is_ignored_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind the end bound of a compaction's file was compacted away: nobody misses it after a rebuild."""
    subject = subjects.make("compacted")
    outcomes: list[set[str]] = []
    with tempfile.TemporaryDirectory(dir=subjects.MEMORY) as directory:
        here = Place(subject, Path(directory))
        for _ in range(2):
            outcomes.append(set())
            for name in (name for name in subject.images if name.endswith(".small")):
                for end in range(192, len(subject.images[name].data), 64):
                    moved = write(name, 8 * layout.B_END, (end | 0x123456 << 40).to_bytes(8, "little"))
                    outcomes[-1].add(asking.run(here, moved, "reboot", "mmap")[0])
            monkeypatch.setattr(layout, "unpack_bound", lambda *found: found[2] & layout.LOCATION_MASK)
    assert outcomes[0] == {"refused"}
    assert "violation" in outcomes[1]


def test_a_verify_that_says_nothing_of_a_changed_location_is_seen(
    place: Place, plain: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = plain.images[INDEX].data
    entry = data.index((8).to_bytes(16, "big"), 12_288)
    damage = write(INDEX, entry + 64, bytes(8))
    assert asking.run(place, damage, "read", "mmap") == ("said", [])
    monkeypatch.setattr(check, "structure", lambda *_: [])
    monkeypatch.setattr(check, "log", lambda *_: [])
    kinds = kinds_of(place, damage)
    assert kinds
    assert all(kind.startswith("unsaid ") for kind in kinds)


@pytest.mark.parametrize("error", [IndexError, struct.error, OverflowError])
def test_an_exception_that_is_no_clean_error_is_seen(
    place: Place, plain: Subject, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    damage = flipped(plain, SMALL, value_at(plain, b"the last one"))

    def damaged(*_: object) -> None:
        raise error("planted")

    monkeypatch.setattr(reading, "damaged", damaged)
    assert {kind.partition(" in ")[0] for kind in kinds_of(place, damage)} == {error.__name__}


def behind_the_end(*_: object) -> None:
    """Read a map whose file is shorter by now."""
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)
    view = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
    os.ftruncate(fd, 0)
    view[0]


def for_ever(*_: object) -> None:
    while True:
        pass


def too_much(*_: object) -> None:
    bytearray(1 << 36)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(behind_the_end, "SIGBUS"), (for_ever, "hang"), (too_much, "MemoryError in test_damage.py")],
)
def test_what_a_process_dies_of_is_seen_and_the_campaign_goes_on(
    plain: Subject,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plant: Callable[..., None],
    kind: str,
) -> None:
    if (
        plant is for_ever
    ):  # the others need all their time, of which another process on the machine may take some
        monkeypatch.setattr(crew, "CPU_LIMIT_S", 0.1)
    monkeypatch.setattr(reading, "damaged", plant)
    report = campaign.campaign(seed=3, count=20, workers=2, out=tmp_path, names=("plain",))
    assert report.outcome is Outcome.VIOLATION
    assert report.trials == 20 == report.total.trials
    assert any(each.startswith(kind) for each in report.kinds)
    found = [campaign.load(Path(file)) for file in report.files]
    finding = next(each for each in found if each.kind.startswith(kind))
    assert campaign.replay(finding)[0].kind.startswith(kind)
    monkeypatch.undo()
    assert campaign.replay(finding) == [], "it was the plant"


def test_what_nobody_can_catch_is_seen(
    plain: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Careless:
        def __del__(self) -> None:
            raise ValueError("planted")

    real = inspection.verify

    def verify(*arguments: Any, **options: Any) -> Any:
        Careless()
        return real(*arguments, **options)

    monkeypatch.setattr(inspection, "verify", verify)
    report = campaign.campaign(seed=3, count=10, workers=1, names=("plain",), out=tmp_path)
    assert any(each.startswith("ValueError, ignored in") for each in report.kinds)


# -- campaigns ----------------------------------------------------------------------------------------------


def test_a_campaign_over_all_subjects_finds_nothing() -> None:
    report = campaign.campaign(seed=2026, count=1_000, workers=2)
    assert report.kinds == {}
    assert report.outcome is Outcome.OK
    assert report.total.trials == report.trials == 1_000 == sum(row.trials for row in report.phases)
    assert report.total.refused > 100
    assert report.total.said > 10
    assert report.systematic == 500


def children() -> set[str]:
    """The processes that this one has started and not buried; others may be of its neighbours."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_ctrl_c_keeps_what_was_found_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subjects, "MEMORY", tmp_path)
    before = children()

    def show(status: campaign.Status) -> None:
        if status.trials >= 20:
            os.kill(os.getpid(), signal.SIGINT)

    report = campaign.campaign(seed=1, seconds=60, workers=2, names=("plain",), show=show)
    assert report.interrupted
    assert report.outcome is Outcome.UNKNOWN
    assert report.trials >= 20
    assert list(tmp_path.iterdir()) == []
    assert children() <= before


def damage(*arguments: str) -> Any:
    return cli_damage.damage.main(list(arguments), standalone_mode=False)


def test_the_command_writes_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "damage.json"
    options = ("--count", "30", "--seed", "1", "--subjects", "plain", "--out", str(out))
    assert damage(*options) == 3, "too few to say"
    assert "UNKNOWN  30 damaged inputs" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert (report["seed"], report["trials"], report["outcome"]) == (1, 30, "UNKNOWN")
    assert {"command", "machine", "versions", "kinds", "phases"} <= report.keys()
    assert damage(*options, "--json") == 3
    assert json.loads(capsys.readouterr().out)["trials"] == 30


def test_the_command_ends_with_1_and_replays_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "structure", lambda *_: [])
    monkeypatch.setattr(check, "log", lambda *_: [])
    out = tmp_path / "damage.json"
    assert (
        damage("--count", "300", "--jobs", "1", "--seed", "1", "--subjects", "plain", "--out", str(out)) == 1
    )
    said = capsys.readouterr().out
    [first, *_] = [line for line in said.splitlines() if line.startswith("replay")]
    path = first.split()[-1]
    assert damage("--replay", path) == 1
    assert "VIOLATION" in capsys.readouterr().out
    monkeypatch.undo()
    assert damage("--replay", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_what_makes_no_sense_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no subject is called 'round'"):
        damage("--subjects", "round")
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(UsageError, match="no finding"):
        damage("--replay", str(other))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install"):
        damage("--fuzz")


# -- bytes that something else thinks of --------------------------------------------------------------------


@pytest.fixture(scope="module")
def entry() -> Iterator[fuzz.Entry]:
    with tempfile.TemporaryDirectory(dir=subjects.MEMORY) as directory:
        yield fuzz.Entry(Path(directory), ("plain", "compacted"))


BOUNDED = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@BOUNDED
@given(data=st.binary(min_size=8, max_size=120))
def test_any_bytes_as_damage_give_right_values_and_clean_errors(entry: fuzz.Entry, data: bytes) -> None:
    found = entry(data)
    assert found.problems == []
    target(float(asking.OUTCOMES.index(found.outcome)), label="trouble")


@BOUNDED
@given(data=st.binary(max_size=300))
def test_parsers_take_any_bytes(data: bytes) -> None:
    layout.unpack_smallfile_header(data)
    layout.unpack_commit(data[:16].ljust(16, b"\0"), data[:128])
    layout.unpack_bound(0, layout.B_END, int.from_bytes(data[:8], "little"))


@BOUNDED
@given(data=st.binary(max_size=400), at=st.integers(0, 4000))
def test_a_scan_of_any_bytes_ends_where_they_do_not_verify(plain: Subject, data: bytes, at: int) -> None:
    image = plain.images[SMALL].data
    header = layout.unpack_smallfile_header(image)
    assert header is not None
    changed = image[:at] + data + image[at + len(data) :]

    class Bytes(Smallfiles):
        def read(self, file_id: int, offset: int, length: int) -> bytes:
            return changed[offset : offset + length]

    traits = layout.pack_traits(header.flags, header.writers_max)
    logs = list(scanning.scan(Bytes(Path(), header.store_uuid, traits, mapped=False), 0, 128, len(changed)))
    ends = [log.end for log in logs]
    assert ends == sorted(ends)
    if changed != image:
        assert ends[-1] <= at or at + len(data) <= 128 or data == image[at : at + len(data)]
    target(float(ends[-1]), label="verified bytes")


def test_kvs_is_not_changed_by_being_asked(plain: Subject, place: Place) -> None:
    with kvs.open(place.path, "r") as store:
        assert {key: store.get(key) for key in plain.rings} == {
            key: dict(enumerate(ring)).get(0, (0, None))[1] for key, ring in plain.rings.items()
        }
    assert place.is_whole()
