"""What damaging a million stores has found: each test opens with its story, and each of them was red once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvs
from kvs import files, layout, salvage, syncpoints
from kvs.layout import E_PLACE, E_TIME, ENTRY_WORDS
from tests.kvs.damage import FIRST_RECORD, SMALL, entry, flip, words_of

INDEX = layout.index_name(0)
KEY, GONE, ABSENT = ((number).to_bytes(16, "big") for number in (1, 2, 3))


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Many of these went on for ever."""

    def hook(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hook)
    signal.setitimer(signal.ITIMER_REAL, 30)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def store(store_dir: Path) -> Path:
    """A closed store: a key with a full ring, one that was removed, and T = 6."""
    with kvs.open(store_dir, index_capacity=20) as store:
        store.put_many({KEY: b"0", GONE: b"gone"})
        for number in range(1, 5):
            store[KEY] = b"%d" % number
        del store[GONE]
    return store_dir


def put(path: Path, word: int, value: int) -> None:
    """Store one word of the index."""
    with words_of(path) as words:
        words[word] = value


def names(path: Path, flag: str = "r") -> set[str]:
    """The invariants that verify says are broken."""
    with kvs.open(path, flag) as store:
        return {finding.invariant for finding in store.verify()}


def test_an_index_with_a_byte_behind_its_end_is_opened(store: Path) -> None:
    """Somebody appended one byte: a map of the whole file is no array of words, and opening was a TypeError."""
    with (store / INDEX).open("ab") as file:
        file.write(b"x")
    with kvs.open(store, "w") as opened:
        assert (opened[KEY], opened.verify()) == (b"4", [])


@pytest.mark.parametrize("committed", [1 << 40, 1 << 62, (1 << 64) - 1])
def test_a_committed_that_cannot_be_takes_neither_memory_nor_time(store: Path, committed: int) -> None:
    """C was overwritten: verify wanted an array of all T up to it, and a snapshot a lock that is out of range."""
    put(store, layout.H_COMMITTED, committed)
    reads: list[Callable[[kvs.Store], object]] = [list, lambda opened: opened.get_many([KEY])]
    with kvs.open(store, "r") as opened:
        for read in reads:
            if committed > layout.SEQUENCE_MASK:
                with pytest.raises(kvs.CorruptedStoreError) as caught:
                    read(opened)
                assert caught.value.offset_bytes == layout.H_COMMITTED * layout.WORD
        if committed <= layout.SEQUENCE_MASK:
            assert {finding.invariant for finding in opened.verify()} == {"log.time_dense"}


def test_nobody_writes_after_a_transaction_that_cannot_be(store: Path) -> None:
    """C was all ones: the next commit was that of T = 2^64, which fits no word."""
    put(store, layout.H_COMMITTED, (1 << 64) - 1)
    with pytest.raises(kvs.CorruptedStoreError) as caught:
        kvs.open(store, "w")
    assert caught.value.offset_bytes == layout.H_COMMITTED * layout.WORD


@pytest.mark.parametrize("word", [layout.H_KEYS_LIVE, layout.H_ENTRIES_USED])
def test_nobody_writes_with_counters_that_cannot_be(store: Path, word: int) -> None:
    """A counter was all ones: with the next key it fitted no commit record."""
    put(store, word, (1 << 64) - 1)
    with pytest.raises(kvs.CorruptedStoreError) as caught:
        kvs.open(store, "w")
    assert caught.value.offset_bytes == word * layout.WORD


def test_a_horizon_that_cannot_be_is_damage_and_no_endless_waiting(store: Path) -> None:
    """One flipped bit in H_HORIZON: whoever asked for a removed key looked again for ever, as if it were overtaken."""
    put(store, layout.H_HORIZON, 1 << 30)
    with kvs.open(store, "r") as opened:
        assert opened[KEY] == b"4"
        for read in (
            lambda: opened.get(GONE),
            lambda: opened.get_many([KEY, GONE] * 30),
            lambda: list(opened),
        ):
            with pytest.raises(kvs.CorruptedStoreError):
                read()


def test_a_ring_without_any_visible_revision_is_damage_and_no_endless_waiting(store: Path) -> None:
    """C was taken back: all four revisions of a key are newer, so it was read again and again."""
    put(store, layout.H_COMMITTED, 1)
    with kvs.open(store, "r") as opened:
        for read in (
            lambda: opened.get(KEY),
            lambda: opened.get_many([KEY] * 60),
            lambda: dict(opened.items()),
        ):
            with pytest.raises(kvs.CorruptedStoreError) as caught:
                read()
            assert caught.value.path == str(store / INDEX)


def test_a_table_without_an_empty_entry_ends_every_probe(store: Path) -> None:
    """A page of garbage twice: no entry was empty, and a probe for a key that is not there went round for ever."""
    with words_of(store) as words:
        table = words[int(words[layout.H_ENTRIES]) // 8 :].reshape(-1, ENTRY_WORDS)
        table[table[:, E_TIME] == 0] = 7
    absent = [(1000 + number).to_bytes(16, "big") for number in range(60)]
    with kvs.open(store, "w") as opened:
        reads: list[Callable[[], object]] = [
            lambda: opened.get(ABSENT),
            lambda: opened.get(3),
            lambda: opened.find(ABSENT),
            lambda: opened.history(ABSENT),
            lambda: opened.get_many(absent),
            lambda: opened.put_many({ABSENT: b"x"}),
            lambda: opened.put_many(dict.fromkeys(absent, b"x")),
        ]
        for read in reads:
            with pytest.raises(kvs.CorruptedStoreError, match="no empty entry"):
                read()
        assert opened[KEY] == b"4"


def test_an_index_that_names_itself_as_its_successor_is_rebuilt(store: Path) -> None:
    """One flipped bit in H_NEXT: generation 0 was said to be replaced by generation 0, which was followed for ever."""
    put(store, layout.H_NEXT, 1)
    with kvs.open(store, "r") as opened:
        assert (opened[KEY], opened.verify()) == (b"4", [])


@pytest.mark.parametrize("length", [1 << 20, 1 << 29, 1 << 40, 1 << 63])
def test_a_length_that_cannot_be_takes_no_memory(
    store: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit in a length: verify asked for as much memory, and where there was not so much, that was the end."""
    with words_of(store) as words:
        word = entry(words, KEY)
        newest = int(words[word + E_TIME : word + E_TIME + 4].argmax())
        words[word + E_PLACE + 2 * newest + 1] = length
    real = files.read_at

    def read_at(fd: int, offset: int, count: int) -> bytes:
        if count >= 1 << 20:
            raise MemoryError
        return real(fd, offset, count)

    with kvs.open(store, "r") as opened:
        monkeypatch.setattr("kvs.files.read_at", read_at)
        found = {finding.invariant for finding in opened.verify(log=False)}
        assert found >= {"record.whole"}
        with pytest.raises(kvs.CorruptedStoreError):
            opened.get(KEY)


@pytest.mark.parametrize("change", ["older entry", "other T", "other record", "forgotten"])
def test_verify_compares_the_index_with_the_log(store: Path, change: str) -> None:
    """Blocks of an earlier index came back: reading gave an older value, and verify had nothing to say, because all
    that was in the index had been right once.
    """
    with words_of(store) as words:
        word = entry(words, KEY)
        times, places = words[word + E_TIME :][:4], words[word + E_PLACE :][:8]
        newest = int(times.argmax())
        other = (newest + 1) % 4
        if change == "older entry":  # as it was when T = 1 was its only revision
            times[:], places[:] = (1, 0, 0, 0), (FIRST_RECORD, 1, *[0] * 6)
        elif change == "other T":
            times[other] = 1
        elif change == "other record":
            places[2 * newest] = places[2 * other]
        else:
            places[2 * newest] = 0
    found = names(store)
    assert found == {"index.log_agrees" if change.startswith("o") else "revision.location_published"}


def test_nothing_is_forgotten_that_is_not_older_than_a_removal(store_dir: Path) -> None:
    """An unused revision got a T, and location 0 as a compaction leaves it: histories ended there without a word."""
    with kvs.open(store_dir, index_capacity=20) as store:
        store[GONE] = b"other"
        store[KEY] = b"value"
    with words_of(store_dir) as words:
        words[layout.H_FORGOTTEN] = 2
        words[entry(words, KEY) + E_TIME + 1] = 1
    assert names(store_dir) == {"revision.location_published"}


def test_verify_misses_what_a_durable_store_does_not_show(store_dir: Path) -> None:
    """D was taken back: readers saw an earlier state, and verify took it for one that is about to be shown."""
    with kvs.open(store_dir, durable=True, index_capacity=20) as store:
        for number in range(5):
            store[KEY] = b"%d" % number
    put(store_dir, layout.H_DURABLE, 2)
    assert names(store_dir) == {"commit.durable_follows"}
    assert names(store_dir, "w") == set(), "a writer shows it"


def test_a_writer_does_not_append_before_the_end_of_its_file(store: Path) -> None:
    """The table of writer places came back from an earlier time: the next commit overwrote what was acknowledged."""
    with words_of(store) as words:
        words[layout.writer_word(0) + layout.W_TAIL] = FIRST_RECORD + 64 + 64 + 128
    before = (store / SMALL).read_bytes()
    with pytest.raises(kvs.CorruptedStoreError, match="behind the end") as caught:
        kvs.open(store, "w")
    assert caught.value.path == str(store / SMALL)
    assert (store / SMALL).read_bytes() == before
    (store / INDEX).unlink()  # as the message says
    with kvs.open(store, "w") as opened:
        assert (opened[KEY], opened.verify()) == (b"4", [])


def test_an_intent_of_a_writer_place_that_is_not_there_is_damage(store: Path) -> None:
    """The intent of a dead writer, and a flipped bit in its writer place: repair was an IndexError."""
    with kvs.open(store, "w") as opened:
        images: dict[str, bytes] = {}

        def hook(point: str, *_: object) -> None:
            if point == "commit.before_visible":
                images.update({path.name: path.read_bytes() for path in store.iterdir()})

        syncpoints.install(hook)
        opened[KEY] = b"5"
        syncpoints.install(None)
    for name, content in images.items():
        (store / name).write_bytes(content)
    put(store, layout.H_INTENT_WRITER, 1 << 50)
    with pytest.raises(kvs.CorruptedStoreError, match="writer place") as caught:
        kvs.open(store, "w")
    assert caught.value.offset_bytes == layout.H_INTENT_WRITER * layout.WORD


def test_a_tail_behind_the_end_of_any_file_is_a_finding(store: Path) -> None:
    """A writer place with a tail of 2^63: verify was an OverflowError."""
    put(store, layout.writer_word(0) + layout.W_TAIL, 1 << 63)
    assert "log.extent_whole" in names(store)


@pytest.mark.parametrize("length", [1500, 4000])
def test_a_smallfile_shorter_than_its_first_page_is_refused_for_writing(store: Path, length: int) -> None:
    """It was cut behind its tail: sealing it stored a word through a map of a page that was not there."""
    with (store / SMALL).open("r+b") as file:
        file.truncate(length)
    with pytest.raises(kvs.CorruptedStoreError, match="truncated"):
        kvs.open(store, "w")
    with kvs.open(store, "r") as opened:
        assert opened[KEY] == b"4"


def test_a_compactions_file_without_a_header_is_not_taken_for_an_empty_one(store: Path) -> None:
    """Two blocks of a compaction's file changed places: a rebuild found nothing in it, took what it had held for
    compacted away, and the keys were gone without a word.
    """
    with kvs.open(store, "w") as opened:
        opened.compact()
    [output] = [path for path in store.glob("*.small") if int(path.stem) == layout.WRITERS_MAX]
    content = output.read_bytes()
    output.write_bytes(content[512:1024] + content[:512] + content[1024:])
    (store / INDEX).unlink()
    with pytest.raises(kvs.CorruptedStoreError) as caught:
        kvs.open(store, "r")
    assert caught.value.path == str(output)


@pytest.mark.parametrize("index", [True, False])
def test_recovery_takes_no_value_for_that_of_another_key(store_dir: Path, index: bool) -> None:
    """A flipped bit made the key of a record another one that is there too: its value was recovered under that name."""
    one, two = (1).to_bytes(16, "big"), (3).to_bytes(16, "big")
    with kvs.open(store_dir, index_capacity=20) as store:
        store[two] = b"of the other"
        store[one] = b"of the one"
    record = FIRST_RECORD + 64 + 128
    flip(store_dir / SMALL, record + 31, 2)
    if not index:
        (store_dir / INDEX).unlink()
    losses: list[salvage.Loss] = []
    target = store_dir.with_name("recovered")
    salvage.recover(store_dir, target, lambda path, kept: kvs.open(path, "n", **kept), losses.append)  # type: ignore[arg-type]
    with kvs.open(target, "r") as recovered:
        assert recovered[two] == b"of the other"
    assert {loss.kind for loss in losses} >= {"damaged"}


def test_a_counter_of_live_keys_that_is_too_small_refuses_the_removal_that_it_forbids(
    store_dir: Path,
) -> None:
    """The count after the commit would have been less than none, and packing it a struct.error."""
    with kvs.open(store_dir, "n") as store:
        store.put_many({1: b"v", 2: b"w"})
        index = store._view.current()
        index.words[layout.H_KEYS_LIVE] = 0
        with pytest.raises(kvs.CorruptedStoreError, match="fewer keys are live than are removed"):
            del store[1]
        assert store[1] == b"v"
        index.words[layout.H_KEYS_LIVE] = 2
        del store[1]
        assert list(store) == [(2).to_bytes(16)]


def test_a_place_of_a_ring_that_says_it_was_never_used_is_empty(store: Path) -> None:
    """The T of a key's oldest place became zero: a revision was gone, and nobody said so."""
    with kvs.open(store, "w") as opened:
        for number in range(4):
            opened[KEY] = b"again %d" % number
    assert names(store) == set()
    with words_of(store) as words:
        words[entry(words, KEY) + E_TIME + layout.REVISIONS - 1] = 0
    assert "revision.order" in names(store)


def test_the_counters_of_a_store_without_its_ranges_are_refused(store: Path) -> None:
    """It was a FileNotFoundError that said nothing of a store."""
    with kvs.open(store, "r") as opened:
        (store / "ranges.lock").rename(store / "elsewhere")
        with pytest.raises(kvs.CorruptedStoreError, match="a lock file of the store is missing"):
            opened.stat()


def test_recovery_tells_of_what_the_index_points_to_behind_the_end_of_a_compactions_file(
    store: Path,
) -> None:
    """It was cut in its header: nothing said where it had ended, and older values were recovered without a word."""
    with kvs.open(store, "w") as opened:
        opened.compact()
        opened[(9).to_bytes(16)] = b"written after it"
    [output] = [path for path in store.glob("*.small") if int(path.stem) == layout.WRITERS_MAX]
    output.write_bytes(output.read_bytes()[:75])
    losses: list[salvage.Loss] = []
    target = store.with_name("recovered")
    salvage.recover(store, target, lambda path, kept: kvs.open(path, "n", **kept), losses.append)  # type: ignore[arg-type]
    assert KEY in {loss.key for loss in losses if loss.kind == "key"}
