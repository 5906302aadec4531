"""After a power cut the longest whole prefix is there; whatever else is missing is damage, and an error."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvs import layout, rebuild
from kvs.scanning import scan
from tests.kvs.logs import OUTPUT, STRIDE, WRITERS, Changes, Logfile, key, smallfiles
from tests.kvs.rebuilt import BOOT, FEW, FLAGS, commit_all, cut, expected_of, rebuilt, refused, two_places

# -- the gap rule -----------------------------------------------------------------------------------------


def test_the_first_missing_transaction_ends_the_history(tmp_path: Path) -> None:
    logs = two_places(tmp_path)
    end = cut(tmp_path, logs[1], 1)
    found = rebuilt(tmp_path)
    assert found.last == 3
    assert found.histories == {
        key(1): [(3, b"3"), (2, b"2"), (1, b"1")],
        key(2): [(2, b"p"), (1, b"p")],
        key(3): [(3, b"p")],
    }
    reader = smallfiles(tmp_path)
    ends = [reader.bound(0, layout.B_END), reader.bound(1, layout.B_END)]
    assert [int(time) for log in scan(reader, 0, 128, ends[0]) for time in log.commits] == [
        1,
        2,
    ]
    assert ends[1] == end
    assert found.places == {0: (0, ends[0]), 1: (1, ends[1])}
    reader.close()


def test_what_was_cut_does_not_come_back_when_its_numbers_are_used_again(tmp_path: Path) -> None:
    logs = two_places(tmp_path)
    cut(tmp_path, logs[1], 1)
    rebuild.rebuild(tmp_path, boot_id=BOOT)
    again = Logfile(STRIDE)
    again.commit(4, {key(1): b"again"})
    again.store(tmp_path)
    found = rebuilt(tmp_path)
    assert (found.last, found.histories[key(1)][:2]) == (4, [(4, b"again"), (3, b"3")])
    assert found.name == "index.1"


def test_a_history_whose_first_transaction_is_missing_is_empty(tmp_path: Path) -> None:
    logs = two_places(tmp_path)
    cut(tmp_path, logs[0], 0)
    found = rebuilt(tmp_path)
    assert (found.last, found.histories, found.places) == (0, {}, {0: (0, 128), 1: (1, 128)})


@pytest.mark.parametrize("left", [0, 1, 63, 64, 100, 128, 200])
def test_a_smallfile_that_lost_its_beginning_in_a_power_cut_is_sealed_empty(
    tmp_path: Path, left: int
) -> None:
    two_places(tmp_path)
    path = tmp_path / layout.smallfile_name(STRIDE)
    log = Logfile(STRIDE)
    path.write_bytes(bytes(log.data[:left]))
    found = rebuilt(tmp_path)
    assert (found.last, found.places[0]) == (8, (STRIDE, 128))
    again = rebuilt(tmp_path)
    assert again == found._replace(name="index.1")


_STEPS = st.lists(
    st.tuples(
        st.integers(0, WRITERS - 1),  # the place
        st.booleans(),  # whether it begins another smallfile
        st.dictionaries(
            st.integers(0, 5).map(key), st.one_of(st.none(), st.binary(max_size=100)), max_size=4
        ),
    ),
    max_size=14,
)


class _Written(NamedTuple):
    """A transaction as it stands in a smallfile."""

    log: Logfile
    begin: int
    end: int


def _write(steps: list[tuple[int, bool, Changes]], sealed: bool, flags: int = FLAGS) -> list[_Written]:
    """Every step a transaction; where a place begins another smallfile, the one before may be sealed."""
    current: dict[int, Logfile] = {}
    written = []
    for time, (place, another, changes) in enumerate(steps, 1):
        log = current.get(place)
        if log is None or another:
            if log is not None and sealed:
                log.seal()
            log = current[place] = Logfile(place if log is None else log.file_id + STRIDE, flags=flags)
        begin = log.end
        log.commit(time, changes)
        written.append(_Written(log, begin, log.end))
    return written


def _store(directory: Path, written: list[_Written]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for log in {id(each.log): each.log for each in written}.values():
        log.store(directory)


@given(_STEPS, st.booleans(), st.sets(st.integers(0, 13)), st.sampled_from(["zeros", "noise", "one byte"]))
@settings(max_examples=120)
def test_after_any_power_cut_the_longest_whole_prefix_is_there_and_the_store_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bool, Changes]],
    sealed: bool,
    lost: set[int],
    how: str,
) -> None:
    directory = tmp_path_factory.mktemp("cut") / "store"
    written = _write(steps, sealed)
    for number in lost & set(range(len(written))):
        log, begin, end = written[number]
        if how == "zeros":
            log.data[begin:end] = bytes(end - begin)
        elif how == "noise":
            log.data[begin:end] = bytes((i * 7 + number) & 0xFF for i in range(end - begin))
        else:
            log.data[end - 1 - number] ^= 1
    _store(directory, written)
    if not written:
        return
    kept = min((number for number in lost if number < len(written)), default=len(written))
    found = rebuilt(directory)
    assert found.last == kept
    assert found.histories == expected_of([changes for _, _, changes in steps[:kept]])
    assert rebuilt(directory) == found._replace(name="index.1")
    ids = [log.file_id for log, _, _ in written]
    more = Logfile(max(ids) // STRIDE * STRIDE + STRIDE)
    more.commit(kept + 1, {key(1): b"more"})
    more.store(directory)
    after = rebuilt(directory)
    assert after.last == kept + 1
    assert after.histories == expected_of([*(changes for _, _, changes in steps[:kept]), {key(1): b"more"}])
    shutil.rmtree(directory)


# -- what must not be cut ---------------------------------------------------------------------------------


@given(_STEPS, st.booleans(), st.data())
@settings(max_examples=80)
def test_damage_below_the_floor_is_an_error_wherever_something_tells(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bool, Changes]],
    sealed: bool,
    data: st.DataObject,
) -> None:
    """The floor covers everything. What tells is a later commit record of the smallfile, or of its place if sealed."""
    directory = tmp_path_factory.mktemp("floor") / "store"
    written = _write(steps, sealed)
    if not written:
        return
    number = data.draw(st.integers(0, len(written) - 1))
    log, begin, end = written[number]
    told = any(
        each.log is log or (sealed and each.log.file_id % STRIDE == log.file_id % STRIDE)
        for each in written[number + 1 :]
    )
    log.data[data.draw(st.integers(begin, end - 1))] ^= 8
    _store(directory, written)
    output = Logfile(OUTPUT)
    output.move(len(written))
    output.seal()
    output.store(directory)
    if told:
        error = refused(directory, "damaged")
        assert error.path.endswith(layout.smallfile_name(log.file_id))
        assert error.offset_bytes == begin
    shutil.rmtree(directory)


@pytest.mark.parametrize("piece_bytes", [64, 8 << 20])
def test_a_transaction_below_the_floor_that_is_damaged_before_its_own_commit_record_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(rebuild, "PIECE_BYTES", piece_bytes)
    log = Logfile(0)
    log.commit(1, {key(1): b"value"})
    log.data[128 + 50] ^= 1
    log.store(tmp_path)
    output = Logfile(OUTPUT)
    output.move(1)
    output.seal()
    output.store(tmp_path)
    error = refused(tmp_path, "in front of transaction 1, or a part of it, is missing or damaged")
    assert error.offset_bytes == 128


def test_copies_of_transactions_that_lie_behind_the_end_prove_nothing(tmp_path: Path) -> None:
    """A writer died while it appended a value that is a copy of its smallfile; another file has old blocks of its
    neighbour behind its end.
    """
    log, neighbour = Logfile(0), Logfile(1)
    log.commit(1, {key(1): b"v"})
    neighbour.commit(2, {key(2): b"v" * 1000})
    neighbour.commit(3, {key(2): b"w"})
    blocks = bytes(neighbour.data)
    short = Logfile(STRIDE)
    short.commit(4, {key(3): b"v"})
    short.data += blocks[short.end :]
    log.data += bytes(48 + 16) + bytes(log.data)
    for each in (log, neighbour, short):
        each.store(tmp_path)
    assert rebuilt(tmp_path).last == 4


def test_what_was_cut_before_proves_nothing_either(tmp_path: Path) -> None:
    flags = layout.FLAG_DURABLE | FLAGS
    log = Logfile(0, flags=flags)
    log.commit(1, {key(1): b"v"})
    log.seal()
    log.data[-1] ^= 1
    log.commit(2, {key(1): b"cut"})
    log.store(tmp_path)
    assert rebuilt(tmp_path, flags=flags).last == 0


def test_a_compactions_smallfile_is_whole_up_to_its_bound_or_damaged(tmp_path: Path) -> None:
    output = Logfile(OUTPUT)
    output.move(5)
    at = output.move(5, [(3, key(1), b"only copy")])
    output.seal()
    output.data[at + 20] ^= 1
    output.store(tmp_path)
    refused(tmp_path, "up to the sealed end")


def test_a_durable_store_lost_nothing_in_front_of_a_whole_transaction(tmp_path: Path) -> None:
    """Where that one is not older than the end of the prefix, too: it was begun when the one before was synced."""
    flags = layout.FLAG_DURABLE | FLAGS
    log = Logfile(0, flags=flags)
    for time in (1, 2, 3):
        log.commit(time, {key(time): b"v"})
    log.data[128 + 64 + 128 + 50] ^= 1
    log.store(tmp_path)
    error = refused(tmp_path, "in front of transaction 3")
    assert error.offset_bytes == 128 + 64 + 128
    log.data[-1] ^= 1  # but a torn one proves nothing
    log.store(tmp_path)
    assert rebuilt(tmp_path, flags=flags).last == 1


def test_a_durable_smallfile_without_a_header_but_with_transactions_is_an_error(tmp_path: Path) -> None:
    commit_all(tmp_path, FEW, flags=layout.FLAG_DURABLE | FLAGS)
    log = Logfile(1, flags=layout.FLAG_DURABLE | FLAGS)
    log.commit(8, {key(1): b"v"})
    log.data[:64] = bytes(64)
    log.store(tmp_path)
    refused(tmp_path, "in front of transaction 8")


def test_a_smallfile_without_a_header_but_with_older_transactions_is_an_error(tmp_path: Path) -> None:
    logs = [Logfile(0), Logfile(1)]
    logs[0].commit(2, {key(1): b"v"})
    logs[0].move(2)
    logs[1].commit(1, {key(2): b"v"})
    logs[1].data[5] ^= 1
    for log in logs:
        log.store(tmp_path)
    refused(tmp_path, "transaction 1")


def test_the_same_transaction_twice_is_an_error(tmp_path: Path) -> None:
    for file_id in (0, 1):
        log = Logfile(file_id)
        log.commit(1, {key(1): b"v"})
        log.store(tmp_path)
    refused(tmp_path, "transaction 1 is there twice")


def test_transactions_that_fall_are_an_error(tmp_path: Path) -> None:
    log = Logfile(0)
    log.commit(2, {key(1): b"v"})
    at = log.commit(1, {key(1): b"v"})
    log.store(tmp_path)
    assert refused(tmp_path, "older than the one before").offset_bytes == at


@pytest.mark.parametrize("word", [layout.B_BEGIN, layout.B_END])
def test_a_damaged_bound_is_an_error(tmp_path: Path, word: int) -> None:
    log = Logfile(0)
    log.commit(1, {key(1): b"v"})
    log.bound(word, 128)
    log.data[word * 8] ^= 64
    log.store(tmp_path)
    assert refused(tmp_path, "damaged bound").offset_bytes == word * 8


def test_smallfiles_that_differ_in_the_stores_properties_are_an_error(tmp_path: Path) -> None:
    for log in (Logfile(0), Logfile(1, flags=FLAGS | layout.FLAG_DURABLE)):
        log.store(tmp_path)
    assert refused(tmp_path, "says other things").offset_bytes == 0


def test_a_smallfile_that_ends_before_its_live_part_is_an_error(tmp_path: Path) -> None:
    log = Logfile(0)
    log.commit(1, {key(1): b"v" * 500})
    log.bound(layout.B_BEGIN, log.end)
    path = log.store(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    assert refused(tmp_path, "truncated: 300 bytes").offset_bytes == 300


def test_a_renamed_smallfile_is_an_error(tmp_path: Path) -> None:
    log = Logfile(0)
    log.store(tmp_path).rename(tmp_path / layout.smallfile_name(1))
    refused(tmp_path, r"it was 00000\.small")
