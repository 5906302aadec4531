"""Each checker on small histories written by hand: what it calls things, and what it cannot know."""

from __future__ import annotations

import msgspec
import pytest
from by_hand import ByHand, messages, version

from harness.checkers import append, atomicity, bank, canary, durability, isolation, realtime, resolution
from harness.checkers.findings import FINDINGS_MAX
from harness.checkers.order import place
from harness.history import Read
from harness.verdict import Outcome

ORDERED = [isolation, realtime, append]


@pytest.mark.parametrize("checker", ORDERED)
def test_without_a_commit_order_nothing_is_known(checker: object) -> None:
    h = ByHand()
    first = h.write("register/1")
    h.snapshot(None, version("register/1", first))
    verdict = checker.check(place(h.operations))  # type: ignore[attr-defined]
    assert verdict.outcome is Outcome.UNKNOWN
    assert "the engine reveals no commit order" in messages(verdict)


@pytest.mark.parametrize("checker", [isolation, realtime, append, bank, atomicity, durability])
def test_nothing_checked_is_unknown(checker: object) -> None:
    h = ByHand()
    h.write("register/1", t=1)
    operations = h.operations if checker is not realtime else []
    verdict = checker.check(place(operations))  # type: ignore[attr-defined]
    assert verdict.outcome is Outcome.UNKNOWN


def test_findings_are_capped_and_the_rest_is_counted() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/1", t=2)
    for _ in range(FINDINGS_MAX + 5):
        h.snapshot(2, version("register/1", first))
    verdict = isolation.check(place(h.operations))
    assert len(verdict.findings) == FINDINGS_MAX + 1
    assert verdict.findings[-1].message == "and 5 more of the same property"


def test_canary_fails() -> None:
    assert canary.check().outcome is Outcome.VIOLATION


# Isolation: the names of anomalies.


def test_write_that_overlooked_another_is_a_lost_update() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/1", t=2)
    h.write("register/1", t=3, reads=[version("register/1", first)])
    verdict = isolation.check(place(h.operations))
    assert verdict.outcome is Outcome.VIOLATION
    assert "lost update" in messages(verdict)


def test_two_writes_that_overlooked_each_other_are_a_write_skew() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    old = [version("register/1", first), version("register/2", first)]
    h.write("register/1", t=2, reads=old)
    h.write("register/2", t=3, reads=old)
    verdict = isolation.check(place(h.operations))
    assert "G2-item, write skew" in messages(verdict)


def test_snapshot_of_two_moments_is_a_read_skew() -> None:
    h = ByHand()
    first = h.write("bundle/3", "register/1", t=1)
    second = h.write("bundle/3", t=2)
    third = h.write("register/1", t=3, reads=[version("bundle/3", second)])
    snapshot = h.snapshot(3, version("bundle/3", first), version("register/1", third))
    verdict = isolation.check(place(h.operations))
    assert messages(verdict) == (
        "bundle/3 in the snapshot of process 1 operation 4 at S=3 shows process 1 operation 1 (T=1) but "
        "process 2 operation 2 (T=2) committed it (G-single, read skew)"
    )
    assert verdict.findings[0].details["operation"] == snapshot.id
    assert verdict.findings[0].details["time"] == snapshot.completed


def test_snapshot_of_one_older_moment_is_stale() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/1", t=2)
    h.snapshot(2, version("register/1", first))
    assert "a stale snapshot" in messages(isolation.check(place(h.operations)))


def test_version_of_a_failed_write_is_an_aborted_read() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    failed = h.failed("register/1")
    h.snapshot(1, version("register/1", failed))
    order = place(h.operations)
    assert "G1a, aborted read" in messages(isolation.check(order))
    assert "G1a, aborted read" in messages(atomicity.check(order))


def test_two_commits_at_one_number_are_a_violation() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    second = h.write("register/2", t=1)
    h.snapshot(1, version("register/2", second))
    verdict = isolation.check(place(h.operations))
    assert "both committed at T=1" in messages(verdict)


def test_acknowledgement_without_a_number_is_unknown() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/2")
    h.snapshot(1, version("register/1", first))
    verdict = isolation.check(place(h.operations))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "acknowledged without a commit sequence number" in messages(verdict)


def test_snapshots_without_numbers_must_still_be_of_one_moment() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    second = h.write("register/1", "register/2", t=2)
    h.snapshot(None, version("register/1", second), version("register/2", second))
    assert isolation.check(place(h.operations)).outcome is Outcome.OK
    h.snapshot(None, version("register/1", first), version("register/2", second))
    assert "read skew" in messages(isolation.check(place(h.operations)))


# Killed writes.


def test_killed_write_seen_at_one_item_must_show_at_the_other() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    killed = h.killed("register/1", "register/2")
    h.get(version("register/1", killed, t=2))
    h.snapshot(2, version("register/2", first))
    verdict = isolation.check(place(h.operations))
    assert verdict.outcome is Outcome.VIOLATION
    assert "register/2" in messages(verdict)


def test_killed_write_seen_without_a_number_must_show_at_the_other() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    killed = h.killed("register/1", "register/2")
    h.write("register/3", t=5)
    unnumbered = msgspec.structs.replace(version("register/1", killed), sequence=None)
    h.snapshot(5, unnumbered)
    good = isolation.check(place(h.operations))
    assert good.outcome is Outcome.OK
    h.snapshot(5, version("register/2", first))
    assert isolation.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_killed_write_cannot_be_where_no_number_is_free() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    killed = h.killed("register/1")
    h.write("register/2", t=2)
    h.snapshot(2, msgspec.structs.replace(version("register/1", killed), sequence=None))
    assert isolation.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_absence_is_explained_by_a_killed_delete_but_not_by_one_invoked_later() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    early = h.snapshot(2, version("register/1", None))
    h.write("register/2", t=3)
    h.killed(deletes=["register/1"])
    order = place(h.operations)
    assert isolation.check(order).outcome is Outcome.VIOLATION
    late = [op for op in h.operations if op is not early]
    h.operations[:] = late
    h.snapshot(3, version("register/1", None))
    assert isolation.check(place(h.operations)).outcome is Outcome.OK


def test_half_of_a_killed_write_in_the_end_is_a_broken_atomicity() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    killed = h.killed("register/1", "register/2")
    h.get(version("register/1", killed, t=2))
    third = h.write("register/1", t=3)
    h.final(3, version("register/1", third), version("register/2", first))
    verdict = atomicity.check(place(h.operations))
    assert "which was killed and has been seen elsewhere" in messages(verdict)


def test_every_killed_write_is_settled_or_counted() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", "register/3", t=1)
    seen, h_absent, overwritten = h.killed("register/1"), h.killed("register/2"), h.killed("register/3")
    third = h.write("register/3", t=4)
    reads = [version("register/1", seen, t=2), version("register/2", first), version("register/3", third)]
    h.final(4, *reads)
    committed, absent, hidden = resolution.settle(place(h.operations))
    assert ([op.id for op in committed], [op.id for op in absent], [op.id for op in hidden]) == (
        [seen.id],
        [h_absent.id],
        [overwritten.id],
    )
    assert resolution.check(place(h.operations)).checked == {
        "killed": 3,
        "committed": 1,
        "not_committed": 1,
        "undeterminable": 1,
    }


def fates(h: ByHand, *, dense: bool = False) -> list[list[int]]:
    return [[op.id for op in ops] for ops in resolution.settle(place(h.operations, dense=dense))]


def test_a_list_that_reaches_back_shows_what_became_of_a_killed_write() -> None:
    h = ByHand()
    first = h.write("register/1", "register/2", t=1)
    lost, done, unsure = h.killed("register/1"), h.killed("register/2"), h.killed("register/1")
    second, third = h.write("register/1", t=4), h.write("register/1", t=6)
    h.resolve(done, version("register/2", done, t=2), version("register/2", first))
    h.resolve(lost, *(version("register/1", op) for op in (third, second, first)))
    h.resolve(unsure, version("register/1", third), version("register/1", second))
    order = place(h.operations)
    assert fates(h) == [[done.id], [lost.id], [unsure.id]]
    assert order.placed[done.id] == 2
    assert order.settled.unfound == {unsure.id: 4}
    assert resolution.check(order).outcome is Outcome.OK
    # If every number is somebody's, T=3 is its own; but T=5 is nobody's.
    order = place(h.operations, dense=True)
    assert (order.placed[unsure.id], order.nobodys) == (3, [5])
    assert "no operation can have committed T=5" in messages(isolation.check(order))


def test_a_number_that_only_one_killed_write_can_have_is_its_own() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    killed = h.killed("register/1")
    h.write("register/2", t=2)
    h.write("register/1", t=4)
    assert fates(h) == [[], [], [killed.id]]
    assert fates(h, dense=True) == [[killed.id], [], []]
    other = h.killed("register/1")
    h.operations[-1] = msgspec.structs.replace(other, invoked=killed.invoked + 1)
    assert fates(h, dense=True) == [[], [], [killed.id, other.id]]


def test_a_removal_belongs_to_the_only_killed_delete_that_can_have_made_it() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    one, other = h.killed(deletes=["register/1"]), h.killed(deletes=["register/1"])
    removal, start = Read("register/1", None, 2), Read("register/1", None, 0)
    h.resolve(one, version("register/1", first), start)
    h.resolve(other, removal, version("register/1", first), start)
    order = place(h.operations)
    assert (order.placed[other.id], order.settled.absent.keys()) == (2, {one.id})
    assert not order.unplaced_deleters
    assert resolution.check(order).outcome is Outcome.OK
    h.operations[3] = msgspec.structs.replace(h.operations[3], reads=h.operations[4].reads)
    assert fates(h) == [[], [], [one.id, other.id]], "either may have made it"


def test_a_removal_that_nobody_made_and_a_version_that_is_missing_are_violations() -> None:
    h = ByHand()
    first, second, third = (h.write("register/1", t=t) for t in (1, 2, 4))
    killed = h.killed("register/1")
    h.resolve(killed, version("register/1", third), version("register/1", first))
    assert "lacks process 2 operation 2 (T=2)" in messages(resolution.check(place(h.operations)))
    h.operations.pop()
    shown = [version("register/1", third), Read("register/1", None, 3), version("register/1", second)]
    h.resolve(killed, *shown)
    assert "was removed at T=3, which no operation" in messages(resolution.check(place(h.operations)))


def test_a_write_that_had_not_committed_at_recovery_must_never_show() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    killed = h.killed("register/1")
    h.resolve(killed, version("register/1", first))
    assert fates(h) == [[], [killed.id], []]
    h.get(version("register/1", killed, t=2))
    verdict = resolution.check(place(h.operations))
    assert "is seen, but had not committed when it was killed" in messages(verdict)


def test_resolve_is_no_snapshot_and_must_not_be_stale() -> None:
    h = ByHand()
    first, second = h.write("register/1", t=1), h.write("register/1", t=2)
    killed = h.killed("register/1")
    h.resolve(killed, version("register/1", second), version("register/1", first))
    order = place(h.operations)
    assert isolation.check(order).checked["snapshots"] == 0
    assert realtime.check(order).outcome is Outcome.OK
    h.resolve(killed, version("register/1", first))
    assert "stale" in messages(realtime.check(place(h.operations)))


# Durability.


def test_without_a_complete_final_snapshot_durability_is_unknown() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    assert durability.check(place(h.operations)).outcome is Outcome.UNKNOWN
    h.final(None, outcome="info")
    assert "did not finish" in messages(durability.check(place(h.operations)))


def test_item_that_the_final_snapshot_skips_is_unknown() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/2", t=2)
    h.final(2, version("register/1", first))
    verdict = durability.check(place(h.operations))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "does not read register/2" in messages(verdict)


def test_loss_is_found_without_a_commit_order() -> None:
    h = ByHand()
    first, second = h.write("register/1"), h.write("register/1")
    h.final(None, version("register/1", second))
    assert durability.check(place(h.operations)).outcome is Outcome.OK
    h.operations.pop()
    h.final(None, version("register/1", first))
    assert durability.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_absence_in_the_end_is_a_loss_without_a_delete() -> None:
    h = ByHand()
    h.write("register/1")
    h.final(None, version("register/1", None))
    assert durability.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_killed_write_that_was_seen_must_last() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    killed = h.killed("register/1")
    h.get(version("register/1", killed, t=2))
    h.final(2, version("register/1", first))
    verdict = durability.check(place(h.operations))
    assert "had been seen and is lost" in messages(verdict)


# Real time.


def test_get_of_an_overwritten_version_is_stale() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    h.write("register/1", t=2)
    h.get(version("register/1", first))
    verdict = realtime.check(place(h.operations))
    assert "stale" in messages(verdict)


def test_get_must_not_go_back_behind_an_earlier_get() -> None:
    h = ByHand()
    first = h.write("register/1", t=1)
    killed = h.killed("register/1")
    h.get(version("register/1", killed, t=2))
    h.get(version("register/1", first))
    assert realtime.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_get_of_absence_after_a_write_is_stale_unless_a_delete_may_explain_it() -> None:
    h = ByHand()
    h.write("register/1", t=1)
    h.get(version("register/1", None))
    assert realtime.check(place(h.operations)).outcome is Outcome.VIOLATION
    h.operations.insert(1, h.killed(deletes=["register/1"]))
    h.operations[1] = msgspec.structs.replace(h.operations.pop(), invoked=31)
    assert realtime.check(place(h.operations)).outcome is Outcome.OK


# Workloads.


def test_total_of_the_bank_is_told_with_the_difference() -> None:
    h = ByHand()
    both = {"bank/0": 100, "bank/1": 100}
    setup = h.write("bank/0", "bank/1", t=1, values=both, workload="bank")
    moved = h.write("bank/0", t=2, values={"bank/0": 90}, workload="bank")
    h.snapshot(2, version("bank/0", moved, value=90), version("bank/1", setup, value=100), workload="bank")
    verdict = bank.check(place(h.operations))
    assert messages(verdict) == (
        "all accounts in the snapshot of process 3 operation 3 at S=2 hold 190 together: 10 vanished"
    )


def test_list_that_misses_an_element_names_it() -> None:
    h = ByHand()
    first = h.write("append/1", t=1, workload="append")
    second = h.write("append/1", t=2, workload="append")
    h.snapshot(2, version("append/1", second, value=[second.id]), workload="append")
    verdict = append.check(place(h.operations))
    assert "the element of process 1 operation 1 (T=1) is lost" in messages(verdict)
    h.operations.pop()
    h.snapshot(2, version("append/1", second, value=[first.id, second.id]), workload="append")
    assert append.check(place(h.operations)).outcome is Outcome.OK


def test_list_may_begin_anew_after_a_delete_only() -> None:
    h = ByHand()
    first = h.write("append/1", t=1, workload="append")
    h.snapshot(1, version("append/1", first, value=[first.id]), workload="append")
    h.write(t=2, deletes=["append/1"], workload="append")
    third = h.write("append/1", t=3, workload="append")
    h.snapshot(3, version("append/1", third, value=[third.id]), workload="append")
    assert append.check(place(h.operations)).outcome is Outcome.OK
    h.snapshot(3, version("append/1", third, value=[first.id, third.id]), workload="append")
    assert append.check(place(h.operations)).outcome is Outcome.VIOLATION


def test_killed_element_stands_in_the_list_of_its_successor() -> None:
    h = ByHand()
    first = h.write("append/1", t=1, workload="append")
    killed = h.killed("append/1", workload="append")
    third = h.write("append/1", t=3, workload="append")
    whole = [first.id, killed.id, third.id]
    h.snapshot(3, version("append/1", third, value=whole), workload="append")
    order = place(h.operations)
    assert order.placed[killed.id] == 2
    assert append.check(order).outcome is Outcome.OK
    h.operations[-1] = msgspec.structs.replace(
        h.operations[-1], reads=(version("append/1", third, value=[first.id, third.id]),)
    )
    assert append.check(place(h.operations)).outcome is Outcome.OK, "then it never committed"
