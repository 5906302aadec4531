"""Every named invariant is seen red: a store is damaged by hand and exactly that name must be reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvs
from kvs import check, layout
from kvs.layout import E_PLACE, E_TIME, ENTRY_WORDS
from kvs.records import Words
from tests.kvs.children import commit
from tests.kvs.damage import FIRST_RECORD, SMALL, entry, flip, words_of
from tests.kvs.processes import Child, Death

OLD, NEW, GONE = (kvs.key_for(name) for name in ("old", "new", "gone"))
VALUE = b"a value"


def build(path: Path, *, durable: bool = False) -> None:
    """T = 1 to 8: OLD is overwritten five times, so that its first two records are not referenced."""
    with kvs.open(path, "n", durable=durable, index_capacity=500) as store:
        fill(store)


def fill(store: kvs.Store) -> None:
    """The transactions of ``build``."""
    for i in range(6):
        store[OLD] = b"%d" % i
    store.put_many({NEW: VALUE, GONE: b"", **{kvs.key_for(f"{i}"): b"%d" % i for i in range(100)}})
    del store[GONE]


def findings(path: Path) -> set[str]:
    """The names of what verify reports."""
    with kvs.open(path, "w") as store:
        return {finding.invariant for finding in store.verify()}


def change(path: Path, word: Callable[[Words], int], new: Callable[[int], int]) -> None:
    """Replace one word of the index."""
    with words_of(path) as words:
        where = word(words)
        words[where] = new(int(words[where]))


def test_a_sound_store_gives_no_findings(store_dir: Path) -> None:
    for durable in (False, True):
        build(store_dir, durable=durable)
        assert findings(store_dir) == set()
        with kvs.open(store_dir, "r", io="append") as reader:
            assert reader.verify() == []


def test_an_empty_store_gives_no_findings(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=500) as store:
        assert store.verify() == []


def test_every_invariant_has_a_test_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for name in check.INVARIANTS:
        assert f'{{"{name}"' in text, name


def test_intent_clear(store_dir: Path) -> None:
    build(store_dir)
    with Child(commit, store_dir, "mmap", {NEW: b"x"}, Death("commit.after_intent")) as child:
        child.receive()
        child.join()
    with kvs.open(store_dir, "r") as store:
        assert store.stat()["intent"] == 9
        found = check.structure(store._view.index, store._smallfiles)
        assert {finding.invariant for finding in found} == {"commit.intent_clear"}
    assert findings(store_dir) == set(), "a writer repairs it first"


@pytest.mark.parametrize("durable", [True, False])
def test_durable_follows(store_dir: Path, durable: bool) -> None:
    build(store_dir, durable=durable)
    with kvs.open(store_dir) as store:
        words = store._view.index.words
        kept, words[layout.H_DURABLE] = words[layout.H_DURABLE], 9
        found = {finding.invariant for finding in store.verify()}
        words[layout.H_DURABLE] = kept
    assert found == {"commit.durable_follows"}


def test_what_is_not_known_to_be_durable_yet_is_made_so_first(store_dir: Path) -> None:
    build(store_dir, durable=True)
    with kvs.open(store_dir) as store:
        words = store._view.index.words
        words[layout.H_DURABLE] = 7
        assert store.verify() == []
        assert words[layout.H_DURABLE] == 8


def test_used_counted(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda _: layout.H_ENTRIES_USED, lambda used: used + 1)
    assert findings(store_dir) == {"index.used_counted"}


def test_live_counted(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda _: layout.H_KEYS_LIVE, lambda live: live - 1)
    assert findings(store_dir) == {"index.live_counted"}


@contextlib.contextmanager
def empty_slot_far_from(path: Path, key: bytes) -> Iterator[tuple[Words, int, int]]:
    """The index's words, the entry of ``key``, and an empty entry behind another empty one."""
    with words_of(path) as words:
        word = entry(words, key)
        start = int(words[layout.H_ENTRIES]) // layout.WORD
        table = words[start:].reshape(-1, ENTRY_WORDS)[:, E_TIME] == 0
        slot = (word - start) // ENTRY_WORDS
        far = next(i for i in range(slot + 2, len(table)) if table[i] and table[i - 1])
        yield words, word, start + far * ENTRY_WORDS


def test_key_unique(store_dir: Path) -> None:
    build(store_dir)
    with empty_slot_far_from(store_dir, OLD) as (words, word, far):
        words[far : far + ENTRY_WORDS] = words[word : word + ENTRY_WORDS]
        words[layout.H_ENTRIES_USED] += 1
        words[layout.H_KEYS_LIVE] += 1
    assert findings(store_dir) == {"index.key_unique"}


def test_entry_reachable(store_dir: Path) -> None:
    build(store_dir)
    with empty_slot_far_from(store_dir, OLD) as (words, word, far):
        words[far : far + ENTRY_WORDS] = words[word : word + ENTRY_WORDS]
        words[word : word + ENTRY_WORDS] = 0
    assert findings(store_dir) == {"index.entry_reachable"}


@pytest.mark.parametrize("wrong", [9, layout.BUSY])
def test_time_known(store_dir: Path, wrong: int) -> None:
    build(store_dir)
    change(store_dir, lambda words: entry(words, NEW) + E_TIME + 1, lambda _: wrong)
    change(store_dir, lambda words: entry(words, NEW) + E_PLACE + 2, lambda _: FIRST_RECORD)
    assert findings(store_dir) == {"revision.time_known"}


def test_time_unique(store_dir: Path) -> None:
    build(store_dir)
    with words_of(store_dir) as words:
        word = entry(words, OLD)
        words[word + E_TIME + 3] = words[word + E_TIME + 2]
    assert findings(store_dir) == {"revision.time_unique"}


def test_order(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda words: entry(words, OLD) + E_TIME + 2, lambda _: 0)
    assert findings(store_dir) == {"revision.order"}


def test_location_published(store_dir: Path) -> None:
    """It points to a perfect record, which is behind the tail: no commit vouches for it."""
    build(store_dir)
    with words_of(store_dir) as words:
        word = entry(words, NEW) + E_PLACE
        tail = int(words[layout.writer_word(0) + layout.W_TAIL])
        offset = int(words[word])
        small = bytearray((store_dir / SMALL).read_bytes())
        small[tail : tail + 64] = small[offset : offset + 64]
        (store_dir / SMALL).write_bytes(small)
        words[word] = tail
    assert findings(store_dir) == {"revision.location_published"}


@pytest.mark.parametrize("file_id", [5, 200])
def test_location_in_no_file(store_dir: Path, file_id: int) -> None:
    build(store_dir)
    change(store_dir, lambda words: entry(words, NEW) + E_PLACE, lambda at: at | file_id << 40)
    assert findings(store_dir) == {"revision.location_published", "record.whole"}


@pytest.mark.parametrize(
    ("what", "new"),
    [
        ("length", lambda length: length - 1),
        ("kind", lambda _: layout.TOMBSTONE),
        ("key", lambda at: at + 1),
    ],
)
def test_record_whole(store_dir: Path, what: str, new: Callable[[int], int]) -> None:
    """The log is as it was; the index points to something else than the record of that key."""
    build(store_dir)
    change(store_dir, lambda words: entry(words, NEW) + E_PLACE + (what != "key"), new)
    if what == "kind":
        change(store_dir, lambda _: layout.H_KEYS_LIVE, lambda live: live - 1)
    assert findings(store_dir) == {"record.whole"}


def test_record_whole_of_a_flipped_bit(store_dir: Path) -> None:
    build(store_dir)
    with words_of(store_dir) as words:
        offset = int(words[entry(words, NEW) + E_PLACE])
    flip(store_dir / SMALL, offset + layout.RECORD_HEADER_BYTES)
    # Its extent is damaged with it, and so is T = 7 and all that follows it in that file.
    assert findings(store_dir) == {"record.whole", "log.extent_whole", "log.time_dense"}


@pytest.mark.parametrize("closed", [True, False])
def test_extent_whole(store_dir: Path, closed: bool) -> None:
    """A record that nothing refers to any more is still a part of the log."""
    if closed:
        build(store_dir)
    with kvs.open(store_dir, index_capacity=500) as store:
        if not closed:
            fill(store)
        flip(store_dir / SMALL, FIRST_RECORD + layout.RECORD_HEADER_BYTES)
        assert {finding.invariant for finding in store.verify()} == {"log.extent_whole", "log.time_dense"}


def test_extent_whole_up_to_the_tail(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda _: layout.writer_word(0) + layout.W_TAIL, lambda tail: tail + 64)
    assert findings(store_dir) == {"log.extent_whole"}


def test_time_dense(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda _: layout.H_COMMITTED, lambda committed: committed + 1)
    assert findings(store_dir) == {"log.time_dense"}


def test_time_dense_names_a_transaction_that_is_there_twice(store_dir: Path) -> None:
    build(store_dir)
    with kvs.open(store_dir) as first, kvs.open(store_dir) as second:
        assert second.put_many({NEW: b"9"}) == 9
        first._view.index.words[layout.H_COMMITTED] = 8
        assert first.put_many({NEW: b"nine again"}) == 9
        messages = [f.message for f in first.verify() if f.invariant == "log.time_dense"]
        assert any("T=9 is at byte" in message for message in messages)


def test_log_agrees(store_dir: Path) -> None:
    """The index is as it was earlier: everything in it is right, but for what it lacks."""
    build(store_dir)
    change(store_dir, lambda words: entry(words, NEW) + E_TIME, lambda time: time - 1)
    assert findings(store_dir) == {"index.log_agrees"}


def test_many_findings_are_counted_and_not_all_shown(store_dir: Path) -> None:
    build(store_dir)
    with words_of(store_dir) as words:
        for i in range(100):
            words[entry(words, kvs.key_for(f"{i}")) + E_TIME + 1] = 50
            words[entry(words, kvs.key_for(f"{i}")) + E_PLACE + 2] = 1
    with kvs.open(store_dir) as store:
        found = [f for f in store.verify() if f.invariant == "revision.time_known"]
    assert len(found) == 21
    assert found[-1].message == "80 more like these"


def test_a_read_only_handle_verifies_without_any_lock(store_dir: Path) -> None:
    build(store_dir)
    change(store_dir, lambda _: layout.H_KEYS_LIVE, lambda live: live - 1)
    with kvs.open(store_dir, "r") as store:
        assert {finding.invariant for finding in store.verify()} == {"index.live_counted"}
