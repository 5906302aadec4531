"""Linearizability of histories written by hand: each kind of violation, what is none, and what is not decided."""

from __future__ import annotations

import pytest
from brute_linear import written
from msgspec import structs

from harness.budget import Budget
from harness.errors import HistoryError
from harness.linear.base import REFUSED, SAME, Call, Sequential, State
from harness.linear.check import check
from harness.linear.problem import narrowed, problem_of
from harness.linear.search import Search
from harness.models.base import Model, Shape
from harness.models.kv_append import KV_APPEND
from harness.models.mutex import MUTEX, Mutex
from harness.models.register import CAS_REGISTER, REGISTER
from harness.recorded import Op
from harness.verdict import Outcome, Verdict


def verdict(model: Model, *lines: str) -> Verdict:
    return model.check(iter(written(*lines)), "linearizable", Budget())


def outcome(model: Model, *lines: str) -> Outcome:
    return verdict(model, *lines).outcome


WRITES = ("0 invoke write 1", "0 ok write 1", "0 invoke write 2", "0 ok write 2")


def test_a_read_of_the_last_write_is_linearizable() -> None:
    assert outcome(REGISTER, *WRITES, "1 invoke read None", "1 ok read 2") is Outcome.OK


def test_a_stale_read_is_not_linearizable() -> None:
    assert outcome(REGISTER, *WRITES, "1 invoke read None", "1 ok read 1") is Outcome.VIOLATION


def test_a_read_of_a_value_that_nobody_wrote_is_not_linearizable() -> None:
    assert outcome(REGISTER, *WRITES, "1 invoke read None", "1 ok read 3") is Outcome.VIOLATION


def test_a_register_holds_nil_at_first() -> None:
    assert outcome(REGISTER, "1 invoke read None", "1 ok read None", *WRITES) is Outcome.OK
    assert outcome(REGISTER, *WRITES, "1 invoke read None", "1 ok read None") is Outcome.VIOLATION


def test_reads_that_overlap_a_write_may_see_either_value_but_not_go_back() -> None:
    around = ("0 invoke write 1", "0 ok write 1", "0 invoke write 2")
    old, new = ("1 invoke read None", "1 ok read 1"), ("1 invoke read None", "1 ok read 2")
    assert outcome(REGISTER, *around, *old, *new, "0 ok write 2") is Outcome.OK
    assert outcome(REGISTER, *around, *new, *old, "0 ok write 2") is Outcome.VIOLATION


def test_a_failed_write_had_no_effect() -> None:
    failed = ("0 invoke write 1", "0 fail write 1", "1 invoke read None")
    assert outcome(REGISTER, *failed, "1 ok read None") is Outcome.OK
    assert outcome(REGISTER, *failed, "1 ok read 1") is Outcome.VIOLATION


def test_an_indeterminate_write_may_take_effect_at_any_later_time_or_never() -> None:
    lost = ("0 invoke write 7", "0 info write 7", "1 invoke write 1", "1 ok write 1")
    one, seven = ("1 invoke read None", "1 ok read 1"), ("1 invoke read None", "1 ok read 7")
    assert outcome(REGISTER, *lost, *one) is Outcome.OK
    assert outcome(REGISTER, *lost, *one, *one, *seven, *seven) is Outcome.OK
    assert outcome(REGISTER, *lost, *seven, *one) is Outcome.VIOLATION


def test_an_indeterminate_write_takes_effect_only_once() -> None:
    lost = ("0 invoke write 7", "0 info write 7", "1 invoke read None", "1 ok read 7")
    again = ("1 invoke write 1", "1 ok write 1", "1 invoke read None", "1 ok read 7")
    assert outcome(REGISTER, *lost) is Outcome.OK
    assert outcome(REGISTER, *lost, *again) is Outcome.VIOLATION
    assert outcome(REGISTER, "2 invoke write 7", "2 info write 7", *lost, *again) is Outcome.OK


def test_an_indeterminate_write_does_not_take_effect_before_its_invocation() -> None:
    read = ("1 invoke read None", "1 ok read 7")
    assert outcome(REGISTER, *read, "0 invoke write 7", "0 info write 7") is Outcome.VIOLATION


def test_more_operations_at_a_time_than_a_machine_word_has_bits() -> None:
    begun = [f"{process} invoke read None" for process in range(1, 140)]
    old = [f"{process} ok read None" for process in range(1, 139)]
    lost = ["0 invoke write 7", "0 info write 7"]
    assert outcome(REGISTER, *lost, *begun, *old, "139 ok read 7") is Outcome.OK
    assert outcome(REGISTER, *lost, *begun, "139 ok read 7", *old) is Outcome.OK
    assert outcome(REGISTER, *lost, *begun, *old, "139 ok read 8") is Outcome.VIOLATION


def test_an_operation_that_never_completed_is_indeterminate() -> None:
    assert outcome(REGISTER, "0 invoke write 7", "1 invoke read None", "1 ok read 7") is Outcome.OK


def test_an_indeterminate_read_says_nothing() -> None:
    assert outcome(REGISTER, *WRITES, "1 invoke read None", "1 info read None") is Outcome.OK


def test_a_cas_needs_its_old_value() -> None:
    written_one = ("0 invoke write 1", "0 ok write 1", "1 invoke cas [1, 2]", "1 ok cas [1, 2]")
    assert outcome(CAS_REGISTER, *written_one, "0 invoke read None", "0 ok read 2") is Outcome.OK
    twice = ("2 invoke cas [1, 3]", "2 ok cas [1, 3]")
    assert outcome(CAS_REGISTER, *written_one, *twice) is Outcome.VIOLATION


def test_a_failed_cas_says_nothing_about_the_value() -> None:
    failed = ("0 invoke write 1", "0 ok write 1", "1 invoke cas [1, 2]", "1 fail cas [1, 2]")
    assert outcome(CAS_REGISTER, *failed, "0 invoke read None", "0 ok read 1") is Outcome.OK


def test_an_indeterminate_cas_may_have_found_its_value() -> None:
    lost = (
        "0 invoke write 1",
        "0 ok write 1",
        "1 invoke cas [1, 2]",
        "1 info cas [1, 2]",
        "0 invoke read None",
    )
    assert outcome(CAS_REGISTER, *lost, "0 ok read 1") is Outcome.OK
    assert outcome(CAS_REGISTER, *lost, "0 ok read 2") is Outcome.OK
    assert outcome(CAS_REGISTER, *lost, "0 ok read 3") is Outcome.VIOLATION


def test_values_that_are_lists_are_compared_by_content() -> None:
    lists = ("0 invoke write [1, [2]]", "0 ok write [1, [2]]", "1 invoke read None")
    assert outcome(REGISTER, *lists, "1 ok read [1, [2]]") is Outcome.OK
    assert outcome(REGISTER, *lists, "1 ok read [1, 2]") is Outcome.VIOLATION


def test_true_is_not_one() -> None:
    lines = ("0 invoke write True", "0 ok write True", "1 invoke read None")
    assert outcome(REGISTER, *lines, "1 ok read True") is Outcome.OK
    assert outcome(REGISTER, *lines, "1 ok read 1") is Outcome.VIOLATION


def test_each_key_is_a_register_of_its_own() -> None:
    two = ("0 invoke write 1 @x", "0 ok write 1 @x", "1 invoke read None @y")
    assert outcome(REGISTER, *two, "1 ok read None @y") is Outcome.OK
    assert outcome(REGISTER, *two, "1 ok read 1 @y") is Outcome.VIOLATION


def test_values_of_key_and_value_are_registers_of_their_own() -> None:
    two = ("0 invoke write ['x', 1]", "0 ok write ['x', 1]", "1 invoke read ['y', None]")
    assert outcome(REGISTER, *two, "1 ok read ['y', None]") is Outcome.OK
    found = verdict(REGISTER, *two, "1 ok read ['y', 1]")
    assert found.outcome is Outcome.VIOLATION
    assert found.checked["objects"] == 2
    cas = ("2 invoke cas ['x', [1, 5]]", "2 ok cas ['x', [1, 5]]")
    assert outcome(CAS_REGISTER, *two, "1 ok read ['y', None]", *cas, *cas) is Outcome.VIOLATION


def test_a_plain_register_of_pairs_is_one_register() -> None:
    pairs = ("0 invoke write [1, 2]", "0 ok write [1, 2]", "1 invoke read None", "1 ok read [1, 2]")
    assert verdict(REGISTER, *pairs).checked["objects"] == 1


def test_a_history_in_which_nothing_succeeded_is_not_a_pass() -> None:
    for lines in ((), ("0 invoke write 1",), ("0 invoke write 1", "0 fail write 1")):
        found = verdict(REGISTER, *lines)
        assert found.outcome is Outcome.UNKNOWN
        assert "no operation succeeded" in found.findings[0].message


@pytest.mark.parametrize("model", [REGISTER, CAS_REGISTER, KV_APPEND, MUTEX], ids=lambda model: model.name)
def test_an_operation_of_another_model_is_an_error_with_its_line(model: Model) -> None:
    with pytest.raises(HistoryError, match="'enqueue' is no operation of the model") as caught:
        verdict(model, "0 invoke enqueue 1", "0 ok enqueue 1")
    assert caught.value.line == 1


def test_a_register_without_cas_has_no_cas() -> None:
    with pytest.raises(HistoryError, match="has read and write"):
        verdict(REGISTER, "0 invoke cas [1, 2]", "0 ok cas [1, 2]")


@pytest.mark.parametrize("line", ["cas 3", "cas [1, 2, 3]", "cas None"])
def test_a_cas_without_two_values_is_an_error_with_its_line(line: str) -> None:
    with pytest.raises(HistoryError, match=r"\[old new\] was expected") as caught:
        verdict(CAS_REGISTER, "0 invoke read None", "0 ok read None", f"1 invoke {line}", f"1 ok {line}")
    assert caught.value.line == 3


def test_a_string_that_is_a_number_is_an_error() -> None:
    with pytest.raises(HistoryError, match="a string was expected"):
        verdict(KV_APPEND, "0 invoke append 1 @x", "0 ok append 1 @x")


APPENDS = ("0 invoke append 'a' @k", "1 invoke append 'b' @k", "0 ok append 'a' @k", "1 ok append 'b' @k")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [("ab", Outcome.OK), ("ba", Outcome.OK), ("a", Outcome.VIOLATION), ("aab", Outcome.VIOLATION)],
)
def test_appends_at_the_same_time_come_in_either_order_and_once(seen: str, expected: Outcome) -> None:
    assert outcome(KV_APPEND, *APPENDS, "2 invoke get None @k", f"2 ok get {seen!r} @k") is expected


def test_all_gets_see_one_order_of_the_appends() -> None:
    gets = ("2 invoke get None @k", "2 ok get 'ab' @k", "2 invoke get None @k", "2 ok get 'bac' @k")
    assert outcome(KV_APPEND, *APPENDS, *gets[:2], *gets[:2]) is Outcome.OK
    more = ("3 invoke append 'c' @k", "3 ok append 'c' @k")
    assert outcome(KV_APPEND, *APPENDS, *gets[:2], *more, *gets[2:]) is Outcome.VIOLATION


def test_a_put_forgets_what_was_there() -> None:
    put = ("0 invoke put 'p' @k", "0 ok put 'p' @k", "2 invoke get None @k")
    assert outcome(KV_APPEND, *APPENDS, *put, "2 ok get 'p' @k") is Outcome.OK
    assert outcome(KV_APPEND, *APPENDS, *put, "2 ok get 'abp' @k") is Outcome.VIOLATION


def test_of_two_equal_appends_the_earlier_may_be_the_one_that_a_put_forgot() -> None:
    seen = ("3 invoke get None @k", "3 ok get 'px' @k")
    begun = ("0 invoke append 'x' @k", "1 invoke put 'p' @k", "1 ok put 'p' @k", "2 invoke append 'x' @k")
    ended = ("0 ok append 'x' @k", "2 ok append 'x' @k")
    assert outcome(KV_APPEND, *begun, *seen, *ended, *seen) is Outcome.OK
    assert outcome(KV_APPEND, *begun[1:], *begun[:1], *seen, *ended, *seen) is Outcome.VIOLATION


def test_a_string_is_empty_at_first() -> None:
    assert outcome(KV_APPEND, "0 invoke get None @k", "0 ok get '' @k") is Outcome.OK
    assert outcome(KV_APPEND, "0 invoke get None @k", "0 ok get None @k") is Outcome.OK


def test_a_lock_is_held_by_one_at_a_time() -> None:
    held = ("0 invoke acquire None", "0 ok acquire None", "1 invoke acquire None")
    assert outcome(MUTEX, *held) is Outcome.OK
    assert outcome(MUTEX, *held, "1 ok acquire None") is Outcome.VIOLATION
    released = ("0 invoke release None", "1 ok acquire None", "0 ok release None")
    assert outcome(MUTEX, *held, *released) is Outcome.OK


def test_a_free_lock_cannot_be_released() -> None:
    assert outcome(MUTEX, "0 invoke release None", "0 ok release None") is Outcome.VIOLATION


class Queue(Sequential):
    """A queue as a user would write one: states and a step, and no hints."""

    name = "queue"
    initial: State = ()

    def call(self, op: Op) -> Call | None:
        """Enqueue and dequeue."""
        return Call(op.f, op.argument, op.value if op.f == "dequeue" else None)

    def step(self, state: State, call: Call) -> State:
        """First in, first out."""
        assert isinstance(state, tuple)
        if call.f == "enqueue":
            return (*state, call.argument)
        return state[1:] if state and state[0] == call.seen else REFUSED


QUEUED = (
    "0 invoke enqueue 1",
    "1 invoke enqueue 2",
    "0 ok enqueue 1",
    "1 ok enqueue 2",
    "0 invoke dequeue None",
)


def test_a_model_of_ones_own_needs_only_calls_and_a_step() -> None:
    first = (*QUEUED, "0 ok dequeue 2", "1 invoke dequeue None")
    assert check(Queue(), written(*first, "1 ok dequeue 1")).outcome is Outcome.OK
    found = check(Queue(), written(*first, "1 ok dequeue 2"))
    assert found.outcome is Outcome.VIOLATION
    assert "T4 dequeue" in found.findings[0].message


def test_a_call_that_gives_no_hint_may_say_that_it_never_changes_the_state() -> None:
    class Peek(Queue):
        def call(self, op: Op) -> Call | None:
            """Also: whether it is empty."""
            return Call("empty", None, op.value, leaves=SAME) if op.f == "empty" else super().call(op)

        def step(self, state: State, call: Call) -> State:
            """Also: whether it is empty."""
            if call.f != "empty":
                return super().step(state, call)
            return state if (state == ()) is call.seen else REFUSED

    asked = (*QUEUED[:4], "2 invoke empty None")
    assert check(Peek(), written(*asked, "2 ok empty False")).outcome is Outcome.OK
    assert check(Peek(), written(*asked, "2 ok empty True")).outcome is Outcome.VIOLATION


def test_models_fit_the_functions_that_they_have() -> None:
    def fitting(*functions: str) -> list[str]:
        shape = Shape(frozenset(functions), frozenset(), False)
        return [m.name for m in (REGISTER, CAS_REGISTER, KV_APPEND, MUTEX) if m.fits(shape)]

    assert fitting("read", "write") == ["register"]
    assert fitting("read", "write", "cas") == ["cas-register"]
    assert fitting("get", "append") == ["kv-append"]
    assert fitting("acquire", "release") == ["mutex"]
    assert fitting("read", "add") == []
    assert fitting() == []


def refused(*lines: str) -> list[Op]:
    """The same operations; those that failed were answered: it was not the value that they needed."""
    return [
        op if op.outcome != "fail" else structs.replace(op, extra={**op.extra, "refused": True})
        for op in written(*lines)
    ]


def test_a_failed_cas_says_nothing_unless_the_history_says_that_it_was_refused() -> None:
    lines = (*WRITES, "1 invoke cas [2, 3]", "1 fail cas [2, 3]")
    assert outcome(CAS_REGISTER, *lines) is Outcome.OK
    found = CAS_REGISTER.check(iter(refused(*lines)), "linearizable", Budget())
    assert found.outcome is Outcome.VIOLATION
    assert "cas 2 to 3 (refused)" in found.findings[0].message
    other = refused(*WRITES, "1 invoke cas [1, 3]", "1 fail cas [1, 3]")
    assert CAS_REGISTER.check(iter(other), "linearizable", Budget()).outcome is Outcome.OK


def test_a_write_that_nobody_read_explains_a_refused_cas() -> None:
    lines = (*WRITES, "2 invoke write 9", "2 info write 9", "1 invoke cas [2, 3]", "1 fail cas [2, 3]")
    assert CAS_REGISTER.check(iter(refused(*lines)), "linearizable", Budget()).outcome is Outcome.OK


def test_what_failed_is_left_out_of_an_explanation_that_does_not_need_it() -> None:
    lines = (*WRITES, "1 invoke cas [1, 3]", "1 fail cas [1, 3]", "1 invoke read None", "1 ok read 1")
    found = CAS_REGISTER.check(iter(refused(*lines)), "linearizable", Budget())
    assert found.outcome is Outcome.VIOLATION
    shown = found.findings[0].details["evidence"].operations
    assert [each.outcome for each in shown] == ["ok", "ok"]


def test_an_equal_call_that_may_take_effect_goes_first_where_only_that_one_is_early_enough() -> None:
    """A window of a linearizable history was taken for a violation. The acquire of T1 may have taken effect until it
    completed, that of T3 had to, later; the search took T3's for T1's and had none left when T1's time was over.
    """
    ops = written(
        *("1 invoke acquire None", "0 invoke acquire None", "3 invoke release None", "1 ok acquire None"),
        *("2 invoke release None", "0 ok acquire None", "3 ok release None", "4 invoke release None"),
        *("2 ok release None", "4 ok release None"),
    )
    whole = problem_of(Mutex(), ops)
    entries = [each._replace(optional=each.op.process == 1) for each in whole.entries]
    assert Search(narrowed(whole.system, ("held",), entries), Budget()).run()
    without = [each for each in entries if not each.optional]
    assert not Search(narrowed(whole.system, ("held",), without), Budget()).run()
