"""Workloads: what they write conserves what they promise, and their readers see every way of breaking it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

import pytest
from dict_engine import DictSession

from harness import workloads
from harness.engines.base import Value
from harness.errors import UsageError
from harness.history import Read, operation_id
from harness.plan import WORKLOADS
from harness.workloads import churn as churning
from harness.workloads.append import ELEMENTS_MAX, LANES, Append
from harness.workloads.bank import TOTAL, Bank
from harness.workloads.base import Act, Anomaly, Done, Workload, decode, encode, key_of
from harness.workloads.bundle import Bundle, Group
from harness.workloads.churn import Churn
from harness.workloads.register import Register

KEY = key_of("bank", "bank/1")


def run_writes(workload: Workload, session: DictSession, count: int, seed: int = 1) -> list[tuple[Act, Done]]:
    """Set up and perform ``count`` writes; operation ids count from 1."""
    random = Random(seed)
    ids = itertools.count(operation_id(1, 1))
    done = [(act, act.body(session, next(ids))) for act in workload.setup()]
    for _ in range(count):
        act = workload.write(random, session)
        done.append((act, act.body(session, next(ids))))
    return done


def see_everything(workload: Workload, session: DictSession, *, retired: bool = True) -> tuple[Read, ...]:
    return workload.everything(session.snapshot(), retired=retired)


def small(name: str) -> Workload:
    (workload,) = workloads.make([name], seconds=1.0)
    return workload


def test_a_value_names_its_writer_and_gives_its_body_back() -> None:
    assert decode("bank/1", KEY, encode(77, KEY, b"body")) == (77, b"body")
    assert decode("bank/1", KEY, encode(2**63, KEY, b"")) == (2**63, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        encode(77, KEY, b"a body")[:-1],
        encode(77, KEY, b"a body") + b"\0",
        encode(77, KEY, b"a body")[:20] + encode(78, KEY, b"a body")[20:],
        encode(77, KEY, b"a body")[:8] + encode(78, KEY, b"a body")[8:],
        encode(77, key_of("bank", "bank/2"), b"a body"),
        bytes(22),
    ],
    ids=["empty", "short", "cut", "longer", "other body?", "other id", "other key", "zeros"],
)
def test_a_value_that_nobody_wrote_is_an_anomaly(data: bytes) -> None:
    if data == encode(77, KEY, b"a body"):
        data = data[:-1] + b"Y"
    with pytest.raises(Anomaly, match="nobody wrote") as caught:
        decode("bank/1", KEY, data)
    assert caught.value.property_name == "atomicity"


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_a_workload_writes_it_reads_back_and_names_its_writers(name: str) -> None:
    workload, session = small(name), DictSession()
    done = run_writes(workload, session, 300)
    last_writer: dict[str, int | None] = {}
    for number, (act, _) in enumerate(done, 1):
        last_writer.update(dict.fromkeys(act.writes, operation_id(1, number)))
        last_writer.update(dict.fromkeys(act.deletes))
    seen = {read.item: read for read in see_everything(workload, session)}
    assert {item: seen[item].writer for item in last_writer} == last_writer
    assert all(read.writer is None for item, read in seen.items() if item not in last_writer)
    assert all((read.sequence is None) == (read.writer is None) for read in seen.values())
    assert session.keys() <= set(workload.keys())
    assert len(set(workload.keys())) <= workload.keys_max()


@pytest.mark.parametrize("name", WORKLOADS)
def test_one_seed_makes_one_sequence_of_acts(name: str) -> None:
    runs = []
    for _ in range(2):
        done = run_writes(small(name), DictSession(), 100, seed=5)
        runs.append([(act.f, act.writes, act.deletes, act.byte_count) for act, _ in done])
    other = [act.writes for act, _ in run_writes(small(name), DictSession(), 100, seed=6)]
    assert runs[0] == runs[1]
    assert other != [writes for _, writes, _, _ in runs[0]]


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "append"])
def test_what_a_workload_draws_does_not_depend_on_what_the_store_answers(name: str) -> None:
    full, empty = DictSession(), DictSession()
    run_writes(small(name), full, 50)
    on_full, on_empty = small(name), small(name)
    one, two = Random(3), Random(3)
    for _ in range(50):
        assert on_full.write(one, full).writes == on_empty.write(two, empty).writes


@pytest.mark.parametrize("name", WORKLOADS)
def test_readers_accept_what_writers_wrote(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(churning, "_HOLD_S", 0.0)  # nobody else commits, for whom a snapshot would be held
    workload, session = small(name), DictSession()
    run_writes(workload, session, 200)
    random = Random(9)
    for _ in range(100):
        act = workload.read(random, session)
        assert act.f in ("read", "get")
        assert act.body(session, 0).reads


def test_every_transfer_conserves_the_total_and_says_the_new_balances() -> None:
    bank, session = Bank(), DictSession()
    for act, done in run_writes(bank, session, 200):
        assert set(done.values) == set(act.writes)
    balances = [read.value for read in see_everything(bank, session)]
    assert sum(balances) == TOTAL
    assert min(balances) >= 0


def test_money_that_was_lost_is_seen() -> None:
    bank, session = Bank(), DictSession()
    run_writes(bank, session, 10)
    key = key_of("bank", "bank/3")
    session.data[key] = Value(encode(99, key, (1000).to_bytes(8, "little")), 99)
    with pytest.raises(Anomaly, match="always held 4800") as caught:
        see_everything(bank, session)
    assert caught.value.property_name == "bank"
    assert len(caught.value.reads) == 48


def test_an_account_that_vanished_is_seen() -> None:
    bank, session = Bank(), DictSession()
    run_writes(bank, session, 0)
    del session.data[key_of("bank", "bank/3")]
    with pytest.raises(Anomaly, match="bank/3 is absent"):
        see_everything(bank, session)


@pytest.mark.parametrize("size", [2, 8, 512])
def test_a_bundle_of_two_writes_is_seen_with_its_shares(size: int) -> None:
    group = Group(size, 0)
    old, new = group.values(operation_id(3, 17)), group.values(operation_id(4, 2))
    assert group.written_by(new) == operation_id(4, 2)
    with pytest.raises(Anomaly) as caught:
        group.written_by([new[0], *old[1:]])
    message = str(caught.value)
    assert f"{size - 1} are at process 3 operation 17" in message
    assert "1 are at process 4 operation 2" in message


def test_a_bundle_of_which_a_part_is_absent_is_seen() -> None:
    group = Group(8, 0)
    assert group.written_by([None] * 8) is None
    for missing in (0, 5, 7):
        values: list[bytes | None] = list(group.values(1))
        values[missing] = None
        with pytest.raises(Anomaly, match="1 are at absent"):
            group.written_by(values)


@pytest.mark.parametrize("size", [3, 512])
def test_a_bundle_with_a_value_of_another_key_is_seen(size: int) -> None:
    group = Group(size, 0)
    identity = next(i for i in itertools.count(1) if min(map(len, group.values(i))) > 8)
    values = group.values(identity)
    values[0], values[1] = values[1], values[0]
    with pytest.raises(Anomaly, match="at key 0 that nobody wrote there"):
        group.written_by(values)


def test_values_of_a_bundle_have_many_sizes() -> None:
    sizes = {len(value) for identity in range(50) for value in Group(8, 0).values(identity + 1)}
    assert min(sizes) == 8
    assert max(sizes) == 4000


def test_large_bundles_wait_while_the_volume_is_used_up() -> None:
    allowed = 0.0
    bundle = Bundle(lambda: allowed)
    random = Random(1)
    session = DictSession()
    items = {bundle.write(random, session).writes[0] for _ in range(2000)}
    assert "bundle/64-0" in items
    assert not any(item.startswith(("bundle/512", "bundle/4096", "bundle/65535")) for item in items)
    allowed = 1.0
    assert "bundle/512-0" in {bundle.write(random, session).writes[0] for _ in range(2000)}


def test_a_full_list_is_retired_and_a_new_process_finds_the_live_one() -> None:
    append, session = Append(1.0), DictSession()
    done = run_writes(append, session, 400)
    written = {item for act, _ in done for item in act.writes}
    assert len(written) > LANES
    lengths = {read.item: len(read.value) for read in see_everything(append, session) if read.value}
    assert set(lengths) == written
    assert ELEMENTS_MAX <= max(lengths.values()) <= ELEMENTS_MAX + 1
    newcomer = Append(1.0)
    live = {read.item for read in newcomer.everything(session.snapshot(), retired=False)}
    known = {read.item for read in append.everything(session.snapshot(), retired=False)}
    assert {item.split("-")[0] for item in live} == {f"append/{lane}" for lane in range(LANES)}
    last = {
        max((item for item in written if item.split("-")[0] == lane), key=_number) for lane in _lanes(live)
    }
    assert live == last
    assert {_number(item) for item in known} >= {_number(item) for item in live}


def _lanes(items: set[str]) -> set[str]:
    return {item.split("-")[0] for item in items}


def _number(item: str) -> int:
    return int(item.split("-")[1])


def test_when_all_lists_are_full_writers_only_read() -> None:
    append, session = Append(0.0), DictSession()
    acts = [act for act, _ in run_writes(append, session, 3000)]
    assert acts[0].writes
    assert acts[-1].f == "read"
    assert max(len(read.value) for read in see_everything(append, session)) <= ELEMENTS_MAX + 1


def test_a_list_with_an_element_twice_is_seen() -> None:
    append, session = Append(1.0), DictSession()
    key = key_of("append", "append/0-0")
    session.data[key] = Value(encode(5, key, (5).to_bytes(8, "little") * 2), 1)
    with pytest.raises(Anomaly, match="twice"):
        see_everything(append, session)


def test_a_register_that_does_not_follow_from_its_writer_is_seen() -> None:
    register, session = Register(), DictSession()
    key = key_of("register", "register/0")
    session.data[key] = Value(encode(5, key, b"not the pattern"), 1)
    with pytest.raises(Anomaly, match="register/0"):
        see_everything(register, session)


def test_a_snapshot_that_answers_twice_differently_is_seen() -> None:
    bundle, session = small("bundle"), DictSession()
    group = Group(2, 0)
    session.put_many(list(zip(group.keys, group.values(1), strict=True)))
    snapshot = session.snapshot()
    snapshot.get = lambda key: None  # type: ignore[method-assign]
    with pytest.raises(Anomaly, match="read twice"):
        bundle.everything(snapshot, retired=True)


@pytest.mark.parametrize("names", [[], ["bank", "bank"], ["bank", "casino"]])
def test_workloads_that_do_not_exist_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError):
        workloads.make(names, seconds=1.0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_versions_of_an_item_are_all_its_writes_newest_first(name: str) -> None:
    workload, session = small(name), DictSession()
    writers: dict[str, list[int | None]] = {}
    for number, (act, _) in enumerate(run_writes(workload, session, 60), 1):
        for item in act.writes:
            writers.setdefault(item, []).append(operation_id(1, 0) + number)
        for item in act.deletes:
            writers.setdefault(item, []).append(None)
    assert writers
    for item, of_item in writers.items():
        versions = workload.versions(session, item)
        assert [read.writer for read in versions] == [*reversed(of_item), None]
        assert versions[-1].sequence == 0
        assert {read.item for read in versions} == {item}


def test_versions_that_differ_between_the_keys_of_a_group_are_an_anomaly() -> None:
    workload, session = small("bundle"), DictSession()
    group = Group(3, 0)
    for identity in (5, 6):
        session.put_many(list(zip(group.keys, group.values(identity), strict=True)))
    assert [read.writer for read in workload.versions(session, group.item)] == [6, 5, None]
    del session.history[group.keys[2]][1]
    session.history[group.keys[2]].append((group.values(7)[2], 3))
    session.history[group.keys[0]].append((group.values(7)[0], 3))
    with pytest.raises(
        Anomaly, match="the version at T=2 is process 0 operation 6 at its first key and absent"
    ):
        workload.versions(session, group.item)
    session.history[group.keys[0]].append((b"12345678x", 4))
    with pytest.raises(Anomaly, match="9 bytes at key 0 that nobody wrote"):
        workload.versions(session, group.item)


def test_the_windows_of_churn_go_around_and_remove_what_they_inserted() -> None:
    session, progress = DictSession(), itertools.count()
    churn = Churn(lambda: 4 * next(progress))
    done = run_writes(churn, session, 3000)
    inserted = [item for act, _ in done for item in act.writes]
    removed = [item for act, _ in done for item in act.deletes]
    assert len(set(inserted)) > 500
    assert len(set(inserted) & set(removed)) > 300
    assert {int(item.removeprefix("churn/").split("-")[0]) for item in removed} == {1, 6, 50, 400, 1500}
    there = sum(read.writer is not None for read in see_everything(churn, session))
    assert there < len(set(inserted)) / 2
    sizes = {len(value.data) for value in session.data.values()}
    assert min(sizes) == 8
    assert max(sizes) >= 4000


def held(churn: Churn, session: DictSession, group: Group, meanwhile: Callable[[], None]) -> tuple[Read, ...]:
    """Hold a snapshot over ``meanwhile``, which happens at its second look."""
    snapshot = session.snapshot()
    get_many, looks = snapshot.get_many, itertools.count()

    def look(keys: Sequence[bytes]) -> list[bytes | None]:
        if next(looks):
            meanwhile()
        return get_many(keys)

    snapshot.get_many = look  # type: ignore[method-assign]
    return churn._held(snapshot, [group], 3)


def test_a_snapshot_that_is_held_waits_for_the_others_and_must_stay_the_same() -> None:
    looked = itertools.count()
    churn, session, group = Churn(lambda: next(looked)), DictSession(), Group(6, 0, "churn")
    session.put_many(list(zip(group.keys, group.values(7), strict=True)))
    removal = session.transaction()
    for key in group.keys:
        removal.delete(key)
    (read,) = held(churn, session, group, lambda: removal.commit() and None)
    assert read.writer == 7
    assert next(looked) >= 4
    assert session.get(group.keys[0]) is None

    session.put_many(list(zip(group.keys, group.values(8), strict=True)))
    snapshot = session.snapshot()
    times = itertools.count()
    snapshot.get_many = lambda keys: group.values(8) if next(times) == 0 else [None] * len(keys)  # type: ignore[method-assign]
    snapshot.get = lambda key: None if next(times) > 1 else Value(group.values(8)[0], 9)  # type: ignore[method-assign]
    with pytest.raises(Anomaly, match=r"shows process 0 operation 8 \(T=9\) and then absent") as caught:
        churn._held(snapshot, [group], 3)
    assert caught.value.property_name == "snapshot"
