"""What is found at once in columns of numbers, against looking at every read one by one."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from by_hand import ByHand, messages, version
from serial_database import SerialDatabase, make, make_any

from harness import judge
from harness.checkers import atomicity, durability, isolation, realtime, resolution
from harness.checkers.columns import Columns, Flags, Versions
from harness.checkers.operation import Operation
from harness.checkers.order import Order, place, position_of
from harness.history import Read
from harness.verdict import Outcome, Verdict


def all_odd(columns: Columns, *_: Any) -> Flags:
    """In place of ``Columns.odd``: every read is looked at by itself, as if there were no columns."""
    return np.ones(len(columns.reads), np.bool_)


def judged(operations: list[Operation], *, dense: bool) -> tuple[list[Verdict], list[Any]]:
    """The verdicts that rest on the order, and what is in the order."""
    order = place(operations, dense=dense)
    checks = (isolation, atomicity, realtime, durability, resolution)
    impossible = (order.unknown, order.aborted, order.early, order.misplaced)
    chains = [(item, chain.sequences, chain.committers, chain.gone) for item, chain in order.chains.items()]
    state = [order.placed, list(order.floating), order.unplaced_deleters, order.nobodys, *impossible, chains]
    return [check.check(order) for check in checks], state


def spoilt(operations: list[Operation], random: Random) -> list[Operation]:
    """One to three things changed at random in a right history."""
    operations = list(operations)
    for _ in range(random.randint(1, 3)):
        index = random.randrange(len(operations))
        operations[index] = _spoilt(operations[index], operations, random)
    return operations


def _spoilt(op: Operation, operations: list[Operation], random: Random) -> Operation:
    other = random.choice(operations)
    if op.reads and random.random() < 0.7:
        at = random.randrange(len(op.reads))
        read = op.reads[at]
        shown: dict[str, Any] = random.choice(
            [
                {"writer": None, "sequence": None},
                {"writer": other.id, "sequence": other.sequence},
                {"writer": other.id, "sequence": None},
                {"sequence": None},
                {"sequence": (read.sequence or 0) + random.choice((-1, 1, 1 << 70))},
                {"item": random.choice(other.reads).item if other.reads else "nowhere"},
            ]
        )
        spoilt_read = msgspec.structs.replace(read, **shown)
        return msgspec.structs.replace(op, reads=(*op.reads[:at], spoilt_read, *op.reads[at + 1 :]))
    changes: dict[str, Any] = random.choice(
        [
            {"sequence": other.sequence},
            {"sequence": None},
            {"sequence": max(1, (op.sequence or 0) + random.choice((-2, -1, 1, 2, 1 << 61)))},
            {"outcome": "info", "completed": None},
            {"outcome": "fail"},
            {"invoked": 1 << 50, "completed": (1 << 50) + 1},
            {"writes": other.writes or op.writes} if op.f == "write" else {"reads": op.reads[:1]},
            {"deletes": op.writes[:1]} if op.f == "write" else {"reads": ()},
        ]
    )
    return msgspec.structs.replace(op, **changes)


def history(seed: int) -> tuple[SerialDatabase, list[Operation]]:
    db = make_any(seed)
    return db, judge.join(db.histories.values())


@pytest.mark.parametrize("block", range(4))
def test_columns_and_single_reads_come_to_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = 0
    for seed in range(block * 100, (block + 1) * 100):
        db, operations = history(seed)
        for spoil in range(4):
            if spoil:
                operations = spoilt(operations, Random(seed * 10 + spoil))
            quick = judged(operations, dense=db.settings.dense)
            with monkeypatch.context() as patched:
                patched.setattr(Columns, "odd", all_odd)
                slow = judged(operations, dense=db.settings.dense)
            assert quick == slow, f"seed {seed}, spoilt {spoil} times"
            found += quick[0][0].outcome is Outcome.VIOLATION
    assert found > 100, "too few of them are wrong"


def plainly_agrees(order: Order, op: Operation, read: Read) -> bool:
    """What it means that a read is not odd, word by word."""
    position = position_of(op, order)
    if position is None:
        position = -1 if read.sequence is None else read.sequence
    sequence, writer = order.chain(read.item).at(position)
    if writer is None or read.writer is None:
        return writer is read.writer
    begun = op.completed is None or order.writes[writer].invoked <= op.completed
    return writer == read.writer and read.sequence in (None, sequence) and begun


def test_reads_are_odd_by_the_definition() -> None:
    odd_count = strange = 0
    for seed in range(150):
        _, operations = history(seed)
        order = place(spoilt(operations, Random(seed)))
        if order.versions.strange:
            strange += 1
            assert order.odd.all()
            continue
        reads = [(op, read) for op in order.operations for read in op.reads]
        for odd, (op, read) in zip(order.odd.tolist(), reads, strict=True):
            assert odd is not plainly_agrees(order, op, read), f"seed {seed}: {read} in {op}"
            odd_count += odd
    assert odd_count > 300
    assert 10 < strange < 75


def test_what_changed_is_all_that_is_looked_at_again() -> None:
    for seed in range(100):
        _, operations = history(seed)
        order = place(spoilt(operations, Random(seed)))
        before = {identity: t for identity, t in order.placed.items() if identity % 5}
        columns = order.columns
        first = Versions(columns, before)
        again = columns.odd(order.versions, (first, columns.odd(first)))
        assert again.tolist() == columns.odd(order.versions).tolist(), f"seed {seed}"


def test_floating_write_is_replayed_on_all_of_its_items() -> None:
    """y agrees with all versions that have a T. Only the killed write, taken up at x, speaks against it."""
    hand = ByHand()
    first = hand.write("x", "y", t=1)
    killed = hand.killed("x", "y")
    hand.write("z", t=5)
    hand.snapshot(5, version("x", killed), version("y", first))
    verdict = isolation.check(place(hand.operations))
    assert verdict.outcome is Outcome.VIOLATION
    assert "y in the snapshot of process 1 operation 4 at S=5 shows process 1 operation 1" in messages(
        verdict
    )


def test_nothing_is_replayed_where_all_reads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def replay(*_: object) -> None:
        pytest.fail("reads that agree were looked at one by one")

    monkeypatch.setattr(isolation._Replay, "_replay", replay)
    db = make(5, kill=0.0, deletes=False)
    verdict = isolation.check(place(judge.join(db.histories.values())))
    assert verdict.outcome is Outcome.OK
    assert verdict.checked["reads"] > 300


def test_numbers_beyond_64_bits_are_a_finding_and_no_crash() -> None:
    hand = ByHand()
    first = hand.write("x", t=1)
    broken = hand.write("x", t=1 << 80)
    hand.snapshot(1 << 90, version("x", first))
    verdict = isolation.check(place(hand.operations))
    assert verdict.outcome is Outcome.VIOLATION
    assert f"but process 2 operation 2 (T={1 << 80}) committed it" in messages(verdict)
    assert place(hand.operations).placed[broken.id] == 1 << 80


def test_number_below_the_first_is_a_finding_and_no_crash() -> None:
    hand = ByHand()
    hand.write("x", t=0)
    verdict = realtime.check(place(hand.operations))
    assert "process 1 operation 1 (T=0) committed at a number below the first" in messages(verdict)


def test_history_without_operations_is_unknown() -> None:
    assert isolation.check(place([])).outcome is Outcome.UNKNOWN
