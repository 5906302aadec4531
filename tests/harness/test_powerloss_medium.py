"""What a medium may keep of a cut run: what is synced, and of the rest any part that its model allows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.powerloss.choices import describe, drawn, states
from harness.powerloss.medium import ALL, MEDIA, Choice, Disk, Image, Medium, Torn, finished
from harness.powerloss.trace import (
    PAGE,
    SECTOR,
    Allocate,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Start,
    Sync,
    SyncNames,
    Trace,
    Unlink,
    Write,
)

EXT4, HARSH = MEDIA["ext4"], MEDIA["harsh"]


def trace(*events: Event, starts: Sequence[Start] = ()) -> Trace:
    return Trace("none", {}, list(starts), list(events))


def old(length: int = 2 * PAGE) -> Start:
    return Start("a", 1, length, b"o" * length)


def image(run: Trace, choice: Choice = ALL, *, cut: int | None = None, medium: str = "ext4") -> Image:
    disk = Disk(run, MEDIA[medium]).go_to(len(run.events) if cut is None else cut)
    return disk.image(disk.closed(choice))


# -- pages ------------------------------------------------------------------------------------------------


def test_what_was_written_since_the_last_sync_may_be_there_or_not() -> None:
    run = trace(Write(1, 1, 10, b"new"), starts=[old(20)])
    assert image(run) == {"a": (20, b"oooooooooonewooooooo")}
    assert image(run, Choice((Torn(1, 0, 0, 0),))) == {"a": (20, b"o" * 20)}


def test_what_was_synced_is_there_whatever_is_chosen() -> None:
    run = trace(Write(1, 1, 0, b"n" * PAGE), Sync(1, 1, 1), Write(1, 1, 0, b"m"), starts=[old(PAGE)])
    for disk, choice in states(run, EXT4, 1):
        if disk.at >= 2:
            assert disk.image(choice)["a"][1].endswith(b"n" * (PAGE - 1))


def test_a_sync_covers_what_came_before_it_was_called_not_what_came_while_it_ran() -> None:
    run = trace(Write(1, 1, 0, b"1"), Write(1, 1, 0, b"2"), Sync(1, 1, since=1), starts=[old(10)])
    assert Disk(run, EXT4).go_to(3).pending().pages == {(1, 0): [1]}


def test_a_page_may_have_any_version_that_it_had_since_the_sync() -> None:
    run = trace(*(Write(1, 1, 0, text) for text in (b"1", b"2", b"3")), starts=[old(4)])
    found = {disk.image(choice)["a"][1] for disk, choice in states(run, EXT4, 1) if disk.at == 3}
    assert found == {b"oooo", b"1ooo", b"2ooo", b"3ooo"}


def test_a_torn_page_has_sectors_of_two_versions() -> None:
    run = trace(Write(1, 1, 0, b"n" * PAGE), starts=[old(PAGE)])
    torn = image(run, Choice((Torn(1, 0, 0, 1, "5"),)))["a"][1]
    assert [torn[at : at + 1] for at in range(0, PAGE, SECTOR)] == [b"n", b"o", b"n", *[b"o"] * 5]
    assert {len(set(torn[at : at + SECTOR])) for at in range(0, PAGE, SECTOR)} == {1}


def test_words_of_eight_bytes_tear_on_the_harsh_medium() -> None:
    run = trace(Write(1, 1, 0, b"n" * 24), starts=[old(24)])
    assert (
        image(run, Choice((Torn(1, 0, 0, 1, "2"),)), medium="harsh")["a"][1] == b"o" * 8 + b"n" * 8 + b"o" * 8
    )


def test_the_pages_of_one_write_are_independent() -> None:
    run = trace(Write(1, 1, PAGE - 2, b"abcd"), starts=[old()])
    half = image(run, Choice((Torn(1, 1, 0, 0),)))["a"][1]
    assert half[PAGE - 2 : PAGE + 2] == b"aboo"


# -- lengths ----------------------------------------------------------------------------------------------


def test_a_write_behind_the_end_lengthens_the_file_only_where_it_is_there() -> None:
    run = trace(Write(1, 1, 4, b"more"), starts=[old(4)])
    assert image(run) == {"a": (8, b"oooomore")}
    assert image(run, Choice((Torn(1, 0, 0, 0),))) == {"a": (4, b"oooo")}


def test_what_was_written_where_the_file_was_made_longer_first_needs_that_too() -> None:
    run = trace(Allocate(1, 1, 0, PAGE), Write(1, 1, 100, b"x"), starts=[old(4)])
    assert image(run)["a"][0] == PAGE
    assert image(run, Choice(omitted=(0,))) == {"a": (4, b"oooo")}


def test_the_changes_of_one_files_length_and_blocks_keep_their_order_on_ext4_only() -> None:
    run = trace(Allocate(1, 1, 0, PAGE), Punch(1, 1, 0, 2), starts=[old(4)])
    assert image(run, Choice(omitted=(0,))) == {"a": (4, b"oooo")}
    assert image(run, Choice(omitted=(0,)), medium="harsh") == {"a": (4, b"\0\0oo")}


def test_what_is_cut_off_is_gone_and_reads_as_zeros_when_the_file_is_longer_again() -> None:
    run = trace(Length(1, 1, 1), Length(1, 1, 4), starts=[old(4)])
    assert image(run) == {"a": (4, b"o")}
    assert image(run, Choice(omitted=(0, 1))) == {"a": (4, b"oooo")}


# -- names ------------------------------------------------------------------------------------------------


def test_the_sync_of_a_file_does_not_make_its_name_durable() -> None:
    run = trace(Make(1, "b", 1), Write(1, 1, 0, b"x"), Sync(1, 1, 2))
    assert image(run) == {"b": (1, b"x")}
    assert image(run, Choice(omitted=(0,))) == {}
    run.events.append(SyncNames(1, 3))
    assert Disk(run, EXT4).go_to(4).pending().names == []


def test_a_rename_that_is_missing_leaves_the_old_name_and_what_had_the_new_one() -> None:
    run = trace(Rename(1, "a.new", "a"), starts=[Start("a", 1, 1, b"o"), Start("a.new", 2, 1, b"n")])
    assert image(run) == {"a": (1, b"n")}
    assert image(run, Choice(omitted=(0,))) == {"a": (1, b"o"), "a.new": (1, b"n")}


def test_a_rename_leaves_both_names_on_the_harsh_medium_only() -> None:
    run = trace(Rename(1, "a", "b"), starts=[old(1)])
    both = {"a", "b"}
    assert both in [set(disk.image(choice)) for disk, choice in states(run, HARSH, 1)]
    assert both not in [set(disk.image(choice)) for disk, choice in states(run, EXT4, 1)]


def test_what_happened_to_a_name_that_was_never_made_did_not_happen() -> None:
    run = trace(Make(1, "x.new", 1), Rename(1, "x.new", "x"), Make(1, "y", 2))
    assert image(run, Choice(omitted=(0,))) == {"y": (0, b"")}


def test_an_unlinked_file_may_still_be_there() -> None:
    run = trace(Unlink(1, "a"), starts=[old(1)])
    assert image(run) == {}
    assert image(run, Choice(omitted=(0,))) == {"a": (1, b"o")}


# -- all of it --------------------------------------------------------------------------------------------

_writes = st.builds(
    Write, st.just(1), st.just(1), st.integers(0, 2 * PAGE), st.binary(min_size=1, max_size=PAGE + 9)
)
_syncs = st.just(Sync(1, 1, 0))


@given(st.lists(st.one_of(_writes, _writes, _syncs), max_size=8), st.integers(0, 9))
def test_every_sector_is_one_that_the_file_had_since_its_last_sync(events: list[Event], seed: int) -> None:
    events = [Sync(1, 1, number) if isinstance(event, Sync) else event for number, event in enumerate(events)]
    run = trace(*events, starts=[Start("a", 1, 3 * PAGE, b"")])
    content, versions = bytearray(3 * PAGE + 9), list[bytes]()
    known = {0: [bytes(content)]}
    versions = [bytes(content)]
    for number, event in enumerate(events, 1):
        if isinstance(event, Write):
            content[event.offset : event.offset + len(event.data)] = event.data
            versions.append(bytes(content))
        else:
            versions = [bytes(content)]
        known[number] = list(versions)
    disk = Disk(run, EXT4)
    for _, cut, choice in drawn(run, EXT4, seed, 60):
        disk.go_to(cut)
        length, data = disk.image(choice)["a"]
        data = data.ljust(length, b"\0")
        for at in range(0, length, SECTOR):
            end = min(at + SECTOR, length)
            assert any(data[at:end] == version[at:end] for version in known[disk.at]), (disk.at, choice, at)


@given(st.lists(_writes, max_size=6))
def test_a_run_that_is_not_cut_has_everything(events: list[Event]) -> None:
    run = trace(*events, starts=[Start("a", 1, 3 * PAGE, b"")])
    content = bytearray(3 * PAGE)
    for event in events:
        assert isinstance(event, Write)
        content[event.offset : event.offset + len(event.data)] = event.data
    assert finished(run) == {"a": (max(3 * PAGE, len(content)), bytes(content).rstrip(b"\0"))}


def test_what_is_missing_is_said_in_words() -> None:
    run = trace(
        Write(1, 1, 0, b"x"),
        Make(1, "b.new", 2),
        Rename(1, "b.new", "b"),
        Allocate(1, 2, 0, 100),
        Unlink(1, "a"),
        starts=[old(PAGE)],
    )
    choice = Choice((Torn(1, 0, 0, 0),), (1, 2, 3, 4))
    assert describe(run, choice) == [
        "page 0 of a (bytes 0 to 4096)",
        "the name of the new file b.new",
        "that b.new was renamed to b",
        "that b has room from byte 0 to 100",
        "that a was unlinked",
    ]


@pytest.mark.parametrize("medium", list(MEDIA.values()), ids=lambda medium: medium.name)
def test_the_same_seed_makes_the_same_states(medium: Medium) -> None:
    run = trace(Write(1, 1, 0, b"x" * PAGE), Write(1, 1, 9, b"y"), starts=[old()])
    once, again = ([choice for _, choice in states(run, medium, 7)] for _ in range(2))
    assert once == again
