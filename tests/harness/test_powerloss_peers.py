"""SQLite and LMDB after a power cut: their documentation keeps its word, and where it gives none, losses are found."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from harness.errors import EngineMissingError, HarnessError
from harness.powerloss import peer_job, peers
from harness.powerloss.medium import ALL, MEDIA, Disk
from harness.powerloss.peer_job import PREPARED, Recovered, writes_of
from harness.powerloss.peers import CONFIGURATIONS, DAMAGED, DURABILITY, PREFIX, Configuration
from harness.powerloss.strace import TraceError
from harness.powerloss.trace import Begun, Event, Stood, Sync, SyncNames, Told, Trace

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
needs_lmdb = pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="LMDB is not installed")
WAL = CONFIGURATIONS["sqlite-wal-full"]
DELETE = CONFIGURATIONS["sqlite-delete-full"]
LMDB = CONFIGURATIONS["lmdb"]
SEED = 1

ALL_CONFIGURATIONS = [
    pytest.param(each, marks=[needs_strace, *([needs_lmdb] if each.engine == "lmdb" else [])], id=each.name)
    for each in CONFIGURATIONS.values()
]


def state_after(last: int) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    for number in range(last + 1):
        for key, value in writes_of(SEED, number):
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return state


def trace_of(*events: Event) -> Trace:
    done = [Begun(0, number, writes_of(SEED, number)) for number in range(PREPARED)]
    return Trace("sqlite-wal-full", {}, [], list(events), done)


def begun(number: int) -> Begun:
    return Begun(1, number, writes_of(SEED, number))


def properties(trace: Trace, cut: int, recovered: Recovered) -> list[str]:
    return [finding.property_name for finding in peers.judge(trace, cut, recovered)]


def test_every_transaction_names_itself_and_leaves_a_state_of_its_own() -> None:
    states = [state_after(number) for number in range(40)]
    assert all(one != other for place, one in enumerate(states) for other in states[:place])
    written = [value for number in range(40) for _, value in writes_of(SEED, number)]
    assert None in written
    assert max(len(value) for value in written if value is not None) > 2 * 4096
    assert writes_of(SEED, 7) == writes_of(SEED, 7) != writes_of(SEED + 1, 7)


def test_a_state_that_was_told_or_at_least_begun_is_right() -> None:
    trace = trace_of(begun(3), Told(1, 3, "commit"), begun(4))
    assert properties(trace, 0, Recovered(state_after(2))) == []
    assert properties(trace, 1, Recovered(state_after(2))) == []
    assert properties(trace, 1, Recovered(state_after(3))) == []
    assert properties(trace, 2, Recovered(state_after(3))) == []
    assert properties(trace, 3, Recovered(state_after(4))) == []


def test_a_transaction_that_was_told_and_is_gone_is_found() -> None:
    trace = trace_of(begun(3), Told(1, 3, "commit"))
    assert properties(trace, 2, Recovered(state_after(2))) == [DURABILITY]
    assert properties(trace, 0, Recovered(state_after(1))) == [DURABILITY], (
        "what was there at the start is promised"
    )


def test_a_state_that_never_was_is_found() -> None:
    trace = trace_of(begun(3), Told(1, 3, "commit"))
    half = state_after(2) | dict([(key, value or b"") for key, value in writes_of(SEED, 3)][:1])
    half[b"key 0"] = b"nobody wrote this"
    [finding] = peers.judge(trace, 2, Recovered(half))
    assert finding.property_name == PREFIX
    assert "where key 0 was" in finding.message
    assert properties(trace, 0, Recovered(state_after(3))) == [PREFIX], "it had not been begun"
    assert properties(trace, 2, Recovered(state_after(3) | {b"another": b""})) == [PREFIX]


def test_a_database_that_cannot_be_read_is_found() -> None:
    assert properties(trace_of(), 0, Recovered(broken="it is malformed")) == [DAMAGED]


@pytest.mark.parametrize("configuration", ALL_CONFIGURATIONS)
def test_a_run_is_recorded_wholly_and_recovers_at_its_end(
    configuration: Configuration, tmp_path: Path
) -> None:
    trace = peers.record(configuration, SEED, 5, tmp_path)
    assert list(tmp_path.iterdir()) == []
    told = [event.sequence for event in trace.events if isinstance(event, Told)]
    assert told == list(range(PREPARED, PREPARED + 5))
    disk = Disk(trace, MEDIA["ext4"]).go_to(len(trace.events))
    with peers.Recovery() as recovery:
        recovered = recovery.recover_image(configuration, disk.image(ALL), tmp_path / "image")
    assert recovered == Recovered(state_after(PREPARED + 4))
    assert peers.judge(trace, disk.at, recovered) == []


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("sqlite-wal-full", set()),
        ("sqlite-wal-normal", {DURABILITY}),
        ("sqlite-wal-off", {DURABILITY}),
        ("sqlite-delete-extra", set()),
        ("sqlite-delete-full", {DURABILITY}),
        ("sqlite-delete-off", {DAMAGED}),
        pytest.param("lmdb", set(), marks=needs_lmdb),
        pytest.param("lmdb-nometasync", {DURABILITY}, marks=needs_lmdb),
        pytest.param("lmdb-nosync", {DAMAGED, PREFIX, DURABILITY}, marks=needs_lmdb),
    ],
)
@needs_strace
def test_what_is_promised_is_kept_and_what_is_not_is_found_lost(
    name: str, lost: set[str], tmp_path: Path
) -> None:
    tally = peers.survey(CONFIGURATIONS[name], seed=SEED, count=4, images=120, scratch=tmp_path)
    assert tally.images > 50
    assert not peers.PROMISES[tally.configuration].holds & tally.found.keys()
    assert lost <= tally.found.keys()
    assert set(tally.first) == set(tally.found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "lacking"),
    [("sqlite-wal-full", Sync), ("sqlite-delete-extra", Sync), ("sqlite-delete-extra", SyncNames)],
)
@needs_strace
def test_a_medium_that_ignores_syncs_breaks_promises(
    name: str, lacking: type[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = peers.record

    def without_syncs(*arguments: object) -> Trace:
        trace = record(*arguments)  # type: ignore[arg-type]
        events: list[Event] = [
            Stood(0, "") if isinstance(event, lacking) else event for event in trace.events
        ]
        return Trace(trace.engine, trace.options, trace.starts, events, trace.committed)

    monkeypatch.setattr(peers, "record", without_syncs)
    tally = peers.survey(CONFIGURATIONS[name], seed=SEED, count=4, images=120, scratch=tmp_path)
    assert DURABILITY in peers.PROMISES[tally.configuration].holds & tally.found.keys()


def test_an_image_that_was_right_before_a_commit_was_told_is_judged_again_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = trace_of(begun(3), Told(1, 3, "commit"))
    monkeypatch.setattr(peers, "record", lambda *_: trace)
    monkeypatch.setattr(peers.Recovery, "recover_image", lambda *_: Recovered(state_after(2)))
    tally = peers.survey(DELETE, seed=SEED, count=1, images=10, scratch=tmp_path)
    assert tally.images == 1
    assert tally.first[DURABILITY][0] == 2


@needs_lmdb
def test_a_database_that_kills_its_reader_is_a_finding_and_the_next_one_is_recovered(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        directory.mkdir()
        peer_job.prepare("lmdb", {}, directory, SEED)
    with (broken / "data.mdb").open("r+b") as file:
        file.truncate(2 * 4096)  # its map ends behind the file
    with peers.Recovery() as recovery:
        died = recovery.recover(LMDB, broken)
        assert died.broken.startswith("reading it ended in SIG") or "lmdb" in died.broken.lower()
        assert recovery.recover(LMDB, whole) == Recovered(state_after(2))


def test_a_database_that_is_malformed_is_a_finding(tmp_path: Path) -> None:
    peer_job.prepare("sqlite", WAL.options, tmp_path, SEED)
    assert peers.recover(WAL, tmp_path) == Recovered(state_after(2))
    whole = (tmp_path / "db").read_bytes()
    (tmp_path / "db").write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    assert "malformed" in peers.recover(WAL, tmp_path).broken


def test_a_database_that_reads_well_and_fails_its_own_check_is_a_finding(tmp_path: Path) -> None:
    peer_job.prepare("sqlite", DELETE.options, tmp_path, SEED)
    with (tmp_path / "db").open("r+b") as file:
        file.seek(2 * 4096)
        kind, cells = file.read(1), int.from_bytes((file.read(4))[2:])
        assert (kind, cells) == (b"\x0a", 8), "the index of the keys"
        file.seek(2 * 4096 + 3)
        file.write((cells - 1).to_bytes(2))
    assert "wrong # of entries in index" in peers.recover(DELETE, tmp_path).broken


@pytest.mark.parametrize(
    ("name", "call", "error", "when"),
    [
        ("sqlite-wal-full", "pwrite64", "ENOSPC", "9"),
        ("sqlite-wal-full", "fdatasync", "EIO", "3..4"),
        ("sqlite-delete-extra", "pwrite64", "EIO", "20+"),
        ("sqlite-delete-extra", "fdatasync", "EIO", "2"),
        ("sqlite-delete-extra", "unlink", "EIO", "2"),
        pytest.param("lmdb", "fdatasync", "EIO", "2", marks=needs_lmdb),
        pytest.param("lmdb", "pwrite64", "EIO", "2", marks=needs_lmdb),
        pytest.param("lmdb", "pwrite64,writev", "ENOSPC", "2", marks=needs_lmdb),
    ],
)
@needs_strace
def test_after_a_call_that_failed_everything_told_is_there(
    name: str, call: str, error: str, when: str, tmp_path: Path
) -> None:
    failed, findings = peers.inject(
        CONFIGURATIONS[name], call, error, when, seed=SEED, count=6, scratch=tmp_path
    )
    assert failed > 0
    assert findings == []
    assert list(tmp_path.iterdir()) == []


@needs_strace
def test_a_job_that_tries_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite makes every write that is interrupted again."""
    program = (
        "import sys; from harness.powerloss import peer_job as job; job.JOB_S = 1; job.main(sys.argv[1:])"
    )
    real = peers._command
    monkeypatch.setattr(peers, "_command", lambda *of: [sys.executable, "-c", program, *real(*of)[3:]])
    with pytest.raises(TraceError, match="SIGALRM"):
        peers.inject(DELETE, "pwrite64", "EINTR", "1+", seed=SEED, count=1, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_strace
def test_only_calls_on_one_file_can_fail(tmp_path: Path) -> None:
    failed, findings = peers.inject(
        DELETE, "openat", "ENOSPC", "2", seed=SEED, count=3, file="db-journal", scratch=tmp_path
    )
    assert (failed, findings) == (1, [])


@needs_strace
def test_a_loss_after_a_failed_call_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "recover", lambda *_: Recovered(state_after(PREPARED)))
    failed, [finding] = peers.inject(WAL, "pwrite64", "ENOSPC", "2", seed=SEED, count=3, scratch=tmp_path)
    assert failed == 1
    assert finding.property_name == DURABILITY


@needs_strace
def test_a_call_that_never_came_did_not_fail(tmp_path: Path) -> None:
    failed, findings = peers.inject(WAL, "pwrite64", "EIO", "5000", seed=SEED, count=1, scratch=tmp_path)
    assert (failed, findings) == (0, [])


def test_of_a_transaction_that_failed_nobody_knows_and_half_of_it_is_found() -> None:
    said = "begin 3\nfailed 3\nbegin 4\ntold 4\n"
    without = state_after(2)
    for key, value in writes_of(SEED, 4):
        without = (
            {**without, key: value} if value is not None else {k: v for k, v in without.items() if k != key}
        )
    assert peers.judge_failed(said, Recovered(state_after(4)), SEED) == []
    assert peers.judge_failed(said, Recovered(without), SEED) == []
    assert [each.property_name for each in peers.judge_failed(said, Recovered(state_after(3)), SEED)] == [
        DURABILITY
    ]
    assert [each.property_name for each in peers.judge_failed(said, Recovered(broken="no"), SEED)] == [
        DAMAGED
    ]


def test_without_the_engine_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(EngineMissingError, match="pip install"):
        peers.available(LMDB)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HarnessError, match="Install the package strace"):
        peers.record(WAL, SEED, 1)


def test_every_promise_has_its_sentence() -> None:
    assert set(CONFIGURATIONS) == set(peers.PROMISES)
    for promise in peers.PROMISES.values():
        assert promise.address.startswith("http")
        assert len(promise.sentence) > 40
        assert promise.holds <= set(peers.PROPERTIES)
