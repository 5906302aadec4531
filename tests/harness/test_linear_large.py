"""Long histories: found in time, never out of memory, and a limit is told as one."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.budget import Budget, OverBudgetError
from harness.formats.reading import open_history
from harness.linear.base import REFUSED, Call, Sequential, State
from harness.linear.check import check
from harness.linear.problem import problem_of
from harness.linear.search import Search
from harness.models.base import Model
from harness.models.kv_append import KV_APPEND
from harness.models.register import CAS_REGISTER, REGISTER, Register
from harness.recorded import Event, Op, pair
from harness.verdict import Outcome

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "histories"
SECONDS = 30
"""Far above what each needs (below 1 s on a free core, a few seconds for the hardest): machines are shared."""


class Store:
    """A simulated store of one kind: processes that overlap, effects at random moments, some without an outcome."""

    def __init__(self, kind: str, seed: object, values: int | None = 5, keys: int = 1) -> None:
        self.kind = kind
        self.random = Random(f"20260303/{seed}")
        self.values = values
        self.keys = keys
        self.states: dict[int, Any] = {}
        self.written: dict[int, list[Any]] = {}
        self.unique = 0

    def history(self, count: int, processes: int, infos: int, stale_after: int | None = None) -> list[Op]:
        """``count`` operations. A read that completes after ``stale_after`` operations returns what was overwritten."""
        random, events = self.random, list[Event]()
        waiting: dict[int, list[Any]] = {}
        late: list[list[Any]] = []
        idle = list(range(processes))
        lost = set(random.sample(range(count * 9 // 10), infos))
        begun = done = 0

        def event(process: int, kind: Any, doing: list[Any], value: Any) -> None:
            extra = {"key": str(doing[2])} if self.keys > 1 or self.kind == "kv" else {}
            events.append(Event(len(events), len(events) + 1, process, kind, doing[0], value, extra))

        while begun < count or waiting:
            if late and random.random() < 0.02:
                self.do(late.pop(random.randrange(len(late))))
            if waiting and random.random() < 0.5:
                self.do(random.choice(list(waiting.values())))
            if begun < count and idle and (random.random() < 0.8 or not waiting):
                process = idle.pop(random.randrange(len(idle)))
                doing = waiting[process] = self.draw()
                begun += 1
                event(process, "invoke", doing, doing[1])
                continue
            process = random.choice(list(waiting))
            doing = waiting.pop(process)
            done += 1
            if done in lost:
                late.append(doing)
                idle.append(processes + done)
                event(process, "info", doing, doing[1])
                continue
            self.do(doing)
            idle.append(process)
            answer = doing[4]
            past = self.written.get(doing[2], [])
            if (
                stale_after is not None
                and done > stale_after
                and doing[0] in {"read", "get"}
                and len(past) > 60
            ):
                answer, stale_after = past[-50], None
            event(
                process, "fail" if answer == "fail" else "ok", doing, doing[1] if answer == "fail" else answer
            )
        return list(pair(events))

    def draw(self) -> list[Any]:
        """Function, argument, key, whether it was done, answer."""
        random, key = self.random, self.random.randrange(self.keys)
        self.unique += 1
        if self.kind == "kv":
            f = random.choices(["get", "append", "put"], [45, 50, 5])[0]
            return [f, None if f == "get" else f"x {self.unique} y", key, False, None]
        functions = ["read", "write", "cas"] if self.kind == "cas" else ["read", "write"]
        f = random.choice(functions)
        value = self.unique if self.values is None else random.randrange(self.values)
        now = self.states.get(key)
        argument = {"read": None, "write": value, "cas": [random.choice([now, value]), value]}[f]
        return [f, argument, key, False, None]

    def do(self, doing: list[Any]) -> None:
        """Let an operation take effect, once."""
        f, argument, key, was_done, _ = doing
        if was_done:
            return
        state = self.states.get(key, "" if self.kind == "kv" else None)
        after = {"write": argument, "put": argument, "append": f"{state}{argument}"}.get(f, state)
        answer = state if f in {"read", "get"} else argument
        if f == "cas":
            after, answer = (argument[1], argument) if state == argument[0] else (state, "fail")
        doing[3:] = True, answer
        if after != state or f in {"write", "put"}:
            self.states[key] = after
            self.written.setdefault(key, []).append(after)


def outcome(model: Model, ops: list[Op]) -> Outcome:
    began = time.monotonic()
    found = model.check(iter(ops), "linearizable", Budget(SECONDS))
    print(f"{model.name}: {found.outcome}, {time.monotonic() - began:.2f} s, {found.checked}")
    return found.outcome


@pytest.mark.parametrize("values", [5, None], ids=["few values", "unique values"])
@pytest.mark.parametrize(("model", "kind"), [(REGISTER, "register"), (CAS_REGISTER, "cas")])
def test_5000_operations_with_30_indeterminate_ones_are_decided(
    model: Model, kind: str, values: int | None
) -> None:
    ops = Store(kind, f"{kind} {values}", values).history(5000, 10, 30)
    assert sum(op.outcome == "info" for op in ops) == 30
    assert outcome(model, ops) is Outcome.OK


@pytest.mark.parametrize(("model", "kind"), [(REGISTER, "register"), (CAS_REGISTER, "cas")])
@pytest.mark.parametrize("stale_after", [1000, 4900])
def test_one_stale_read_among_5000_operations_is_found(model: Model, kind: str, stale_after: int) -> None:
    ops = Store(kind, f"{kind} {stale_after}", None).history(5000, 10, 30, stale_after)
    assert outcome(model, ops) is Outcome.VIOLATION


def test_a_stale_read_of_few_values_is_found_where_nothing_indeterminate_could_have_made_it_right() -> None:
    ops = Store("register", "few", 50).history(5000, 10, 0, 2500)
    assert outcome(REGISTER, ops) is Outcome.VIOLATION


def test_hundreds_of_timeouts_are_no_obstacle() -> None:
    ops = Store("cas", "timeouts").history(1000, 5, 250)
    assert outcome(CAS_REGISTER, ops) is Outcome.OK


@pytest.mark.parametrize("stale_after", [None, 2500])
def test_50_clients_that_append_to_10_strings(stale_after: int | None) -> None:
    ops = Store("kv", f"50 {stale_after}", keys=10).history(5000, 50, 20, stale_after)
    assert outcome(KV_APPEND, ops) is (Outcome.OK if stale_after is None else Outcome.VIOLATION)


def test_ten_thousand_appends_to_one_string_that_is_seen_once_are_not_quadratic() -> None:
    events = []
    for number in range(10_000):
        for kind in ("invoke", "ok"):
            events.append(Event(len(events), 0, 0, kind, "append", f"value {number};", {"key": "k"}))  # type: ignore[arg-type]
    whole = "".join(f"value {number};" for number in range(10_000))
    events.append(Event(len(events), 0, 0, "invoke", "get", None, {"key": "k"}))
    events.append(Event(len(events), 0, 0, "ok", "get", whole, {"key": "k"}))
    ops = list(pair(events))
    tracemalloc.start()
    assert outcome(KV_APPEND, ops) is Outcome.OK
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20, "the strings together would be 600 MB"


class Log(Sequential):
    """Every call changes the state for good: nothing can be saved, and the search is exponential."""

    name = "log"
    initial: State = ()

    def call(self, op: Op) -> Call | None:
        """Writes, and reads of all that was written."""
        return Call(op.f, op.argument, op.value if op.f == "read" else None)

    def step(self, state: State, call: Call) -> State:
        """Add to the log."""
        assert isinstance(state, tuple)
        if call.f == "write":
            return (*state, call.argument)
        return state if len(state) == call.seen else REFUSED


def exploding(writers: int) -> list[Op]:
    """All writers at once, and then a read that cannot be."""
    texts: list[tuple[int, Any, str, Any]] = [(each, "invoke", "write", each) for each in range(writers)]
    texts += [(each, "ok", "write", each) for each in range(writers)]
    texts += [(0, "invoke", "read", None), (0, "ok", "read", writers + 1)]
    return list(pair(Event(index, index + 1, *text, {}) for index, text in enumerate(texts)))


def test_past_the_limit_of_configurations_the_verdict_is_unknown_and_says_how_far_it_came() -> None:
    verdict = check(Log(), exploding(14), Budget(SECONDS), configurations_max=5000)
    assert verdict.outcome is Outcome.UNKNOWN
    message = verdict.findings[0].message
    assert "the limit of 5000 configurations at one time was reached before this was decided" in message
    assert "the first 14 of 15 operations to complete can be linearised" in message


def test_past_the_limit_of_seconds_the_verdict_is_unknown() -> None:
    began = time.monotonic()
    verdict = check(Log(), exploding(14), Budget(0.5))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "the limit of 0.5 s was reached" in verdict.findings[0].message
    assert time.monotonic() - began < SECONDS


def test_a_violation_that_is_small_enough_is_decided_within_the_limits() -> None:
    assert check(Log(), exploding(4), Budget(SECONDS)).outcome is Outcome.VIOLATION


def test_one_object_past_its_limit_leaves_the_others_decided() -> None:
    def with_key(op: Op, key: str, number: int) -> Op:
        return Op(
            number,
            op.process,
            op.f,
            op.outcome,
            op.argument,
            op.value,
            op.invoked,
            op.completed,
            extra={"key": key},
        )

    hard = [with_key(op, "hard", op.number) for op in exploding(14)]
    wrong = [with_key(op, "wrong", 100 + op.number) for op in exploding(3)]
    assert check(Log(), hard + wrong, Budget(SECONDS), 5000).outcome is Outcome.VIOLATION
    right = [op for op in wrong if op.f == "write"]
    verdict = check(Log(), hard + right, Budget(SECONDS), 5000)
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.findings[0].message.startswith('key "hard": ')
    assert "1 of 2 objects were decided" in verdict.findings[0].message


def test_a_search_that_is_cut_short_knows_how_far_it_came() -> None:
    ops = Store("cas", "cut").history(2000, 10, 20)
    search = Search(problem_of(Register("cas-register", True), ops), Budget(SECONDS), configurations_max=1)
    with pytest.raises(OverBudgetError):
        search.run()
    assert -1 <= search.position < 4000


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded histories are not beside this repository")
def test_the_recorded_logs_of_etcd_are_checked_in_less_than_a_second_together() -> None:
    histories = [list(pair(open_history(path))) for path in sorted((RECORDED / "etcd").glob("*.log"))]
    began = time.process_time()
    outcomes = [outcome(CAS_REGISTER, ops) for ops in histories]
    assert time.process_time() - began < 1
    assert len(outcomes) == 15
    assert Outcome.UNKNOWN not in outcomes
