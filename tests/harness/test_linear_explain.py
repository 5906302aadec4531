"""Why a history is not linearizable: what the evidence says, and that the small part it shows stands by itself."""

from __future__ import annotations

from random import Random

import pytest
from brute_linear import SPECS, as_lines, random_history, written

from harness.budget import Budget, OverBudgetError
from harness.evidence import NEVER, Evidence
from harness.linear import check, explain, story, window
from harness.linear.base import REFUSED, Sequential, State, step_of
from harness.linear.problem import Entry, Problem, problem_of
from harness.linear.search import Search
from harness.models.kv_append import KV_APPEND, KvAppend
from harness.models.mutex import MUTEX, Mutex
from harness.models.register import CAS_REGISTER, REGISTER, Register
from harness.recorded import Op
from harness.verdict import Outcome

SEED = 20260302
MODELS: list[Sequential] = [Register("register", False), Register("cas-register", True), KvAppend(), Mutex()]
STALE = (
    "0 invoke write 1",
    "0 ok write 1",
    "0 invoke write 2",
    "1 invoke write 5",
    "0 ok write 2",
    "2 invoke read None",
    "2 ok read 1",
)


def evidence(*lines: str, model: Sequential = MODELS[1]) -> Evidence:
    verdict = check.check(model, written(*lines))
    assert verdict.outcome is Outcome.VIOLATION
    found = verdict.findings[0].details["evidence"]
    assert isinstance(found, Evidence)
    return found


def test_a_stale_read_is_explained_by_the_write_that_it_missed() -> None:
    found = evidence(*STALE)
    assert found.anomaly == "nonlinearizable"
    assert [(each.name, each.text, each.role) for each in found.operations] == [
        ("T2", "write 2", "linearised"),
        ("T4", "read 1", "could not come next"),
    ]
    assert found.sentences == (
        "T4 read 1 (process 2, lines 6 to 7): no order of the operations on the register explains that.",
        (
            "All that completed before it can be linearised (2 operations, up to line 5); of those that an answer "
            "depends on, one such order is: T1 write 1, T2 write 2."
        ),
        "Whatever the register was before: T2 write 2 (process 0, lines 3 to 5) completed before T4 began.",
        "T4 could not come next: it saw 1, but the register would be 2 after T2 write 2.",
        "T4 completed (line 7), so it must have taken effect by then: there is no linearisation.",
        (
            "Left out: 2 earlier operations (without their answers it is only easier to explain the rest, and nothing "
            "that is shown could use what they changed)."
        ),
    )


def test_the_message_of_the_finding_is_the_claim() -> None:
    finding = check.check(MODELS[0], written(*STALE)).findings[0]
    assert finding.message.startswith("nonlinearizable: T4 read 1 (process 2, lines 6 to 7): no order of")
    assert finding.property_name == "linearizable"


def test_positions_and_lines_of_what_is_shown_are_those_of_the_history() -> None:
    shown = evidence(*STALE).operations[0]
    assert (shown.invoked, shown.completed, shown.line, shown.line_completed) == (2, 4, 3, 5)


def test_what_may_have_taken_effect_is_shown_if_it_could_have_helped() -> None:
    found = evidence("3 invoke cas [7, 1]", "3 info cas [7, 1]", *STALE)
    roles = {each.text: (each.role, each.outcome, each.completed == NEVER) for each in found.operations}
    assert roles["cas 7 to 1"] == ("may have taken effect", "info", True)
    assert "Nor could T1: cas 7 to 1 needs it to be 7." in found.sentences


def test_an_answer_that_could_have_come_earlier_is_explained_by_what_it_then_blocks() -> None:
    found = evidence(
        "0 invoke read None", "1 invoke acquire None", "1 ok acquire None", "0 ok read None", model=_AnyRead()
    )
    assert any(sentence.startswith("If T1 takes effect earlier") for sentence in found.sentences)


class _AnyRead(Mutex):
    """A lock on which a read counts as a second acquire."""

    def call(self, op: Op) -> object:  # type: ignore[override]
        """Everything acquires."""
        return super().call(
            Op(op.number, op.process, "acquire", op.outcome, None, None, op.invoked, op.completed)
        )


def test_of_a_cas_that_was_ok_it_is_said_what_it_needs() -> None:
    found = evidence("0 invoke write 1", "0 ok write 1", "1 invoke cas [2, 3]", "1 ok cas [2, 3]")
    assert (
        "T2 could not come next: cas 2 to 3 needs it to be 2, but the register would be 1 after T1 write 1."
    ) in found.sentences


def test_the_object_is_named_by_its_key() -> None:
    found = evidence("0 invoke get None @k7", "0 ok get 'x' @k7", model=KvAppend())
    assert 'no order of the operations on the string of key "k7" explains that' in found.sentences[0]
    assert 'it saw "x", but the string of key "k7" would be "".' in found.sentences[2]


def test_of_many_objects_that_are_not_linearizable_five_are_explained() -> None:
    lines = [
        line for key in range(8) for line in (f"{key} invoke read None @{key}", f"{key} ok read 1 @{key}")
    ]
    verdict = check.check(MODELS[0], written(*lines))
    assert len(verdict.findings) == check.EXPLAINED_MAX + 1
    assert verdict.findings[-1].message == "3 more objects are not linearizable"


def test_without_time_for_a_smaller_part_the_operation_is_named_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Spent(Budget):
        def check(self) -> None:
            raise OverBudgetError("the limit of 1 s was reached")

    part = written("3 invoke cas [7, 1]", "3 info cas [7, 1]", *STALE)
    search = Search(problem_of(MODELS[1], part), Budget())
    assert not search.run()
    monkeypatch.setattr("harness.linear.search._STEPS_PER_CHECK", 0)
    found = explain.explain(MODELS[1], None, part, search, Spent())
    assert [each.name for each in found.operations] == ["T1", "T5"]
    assert "the limit of 1 s was reached" in found.sentences[-1]


def explained(problem: Problem) -> bool:
    """Whether one order explains a problem, by trying all of them from all of its starts. A call that was relaxed has
    its deadline still; one without a completion has none.
    """

    def deadline(entry: Entry) -> int:
        return entry.deadline if entry.deadline == entry.op.completed else NEVER

    def orders(state: State, left: list[Entry]) -> bool:
        if all(each.optional for each in left):
            return True
        for entry in left:
            late = [each for each in left if deadline(each) < entry.invoked]
            if not all(each.optional for each in late):
                continue
            after = step_of(problem.system, state, entry.call)
            rest = [each for each in left if each is not entry and each not in late]
            if after is not REFUSED and orders(after, rest):
                return True
        return False

    return any(orders(start, list(problem.entries)) for start in problem.starts)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_smallest_window_has_no_linearisation_by_the_definition(model: Sequential) -> None:
    sizes = []
    for number in range(2000):
        seed = f"{SEED}/{model.name}/{number}"
        for part in model.partition(random_history(SPECS[model.name], Random(seed))).values():
            search = Search(problem_of(model, part), Budget())
            if search.run():
                continue
            found = window.smallest_window(search, Budget())
            assert not explained(found.problem), f"seed {seed!r}\n{as_lines(part)}"
            assert story.tell(found.problem) is not None, f"seed {seed!r}\n{as_lines(part)}"
            sizes.append(len(found.problem.entries))
    assert len(sizes) > 200
    assert sum(sizes) / len(sizes) < 4


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_no_window_of_a_linearizable_history_is_a_violation(model: Sequential) -> None:
    """A window may only take demands away: where the whole can be linearised, each of its parts can."""
    tried = 0
    for number in range(1500):
        seed = f"{SEED}/{model.name}/{number}"
        for part in model.partition(random_history(SPECS[model.name], Random(seed))).values():
            search = Search(problem_of(model, part), Budget())
            if not search.run():
                continue
            for failed in search.problem.entries:
                if failed.optional or failed.deadline > search.position:
                    continue
                search.failed = failed
                for moment in search.recent:
                    if moment.position >= failed.deadline:
                        continue
                    for begin in (window._begun_anyhow, window._begun_at):
                        found = begin(search, moment, Budget())
                        assert found is None, f"seed {seed!r}, {begin.__name__} {moment}\n{as_lines(part)}"
                        tried += 1
    assert tried > 500


@pytest.mark.parametrize("model", [REGISTER, CAS_REGISTER, KV_APPEND, MUTEX], ids=lambda model: model.name)
def test_every_violation_is_explained_in_whole_sentences(model: object) -> None:
    assert hasattr(model, "check")
    explained_count = 0
    for number in range(800):
        seed = f"{SEED}/{model.name}/{number}"  # type: ignore[attr-defined]
        ops = random_history(SPECS[model.name], Random(seed))  # type: ignore[attr-defined]
        verdict = model.check(iter(ops), "linearizable", Budget())
        for finding in verdict.findings if verdict.outcome is Outcome.VIOLATION else ():
            found = finding.details["evidence"]
            names = [each.name for each in found.operations]
            assert 1 <= len(names) <= explain.SHOWN_MAX
            assert len(set(names)) == len(names), seed
            assert [each.invoked for each in found.operations] == sorted(
                each.invoked for each in found.operations
            )
            assert any(each.role == "could not come next" for each in found.operations)
            assert all(
                sentence.endswith((".", ":")) and "  " not in sentence for sentence in found.sentences
            ), seed
            assert any(" could not come next: " in sentence for sentence in found.sentences), seed
            explained_count += 1
    assert explained_count > 100
