"""Why a history is not linearizable, in sentences: how far it can be taken, and why nothing can come next."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from harness.budget import Budget, OverBudgetError
from harness.evidence import NEVER, Evidence, Shown
from harness.linear.base import REFUSED, SAME, UNSEEN, Mark, Sequential, State, System, show, step_of
from harness.linear.problem import Entry
from harness.linear.search import Search, Trail
from harness.linear.story import Story, Way, tell
from harness.linear.window import SMALL, Window, smallest_window
from harness.recorded import Op

ANOMALY: Final = "nonlinearizable"
MEANING: Final = (
    "A history is linearizable if each operation can be thought to take effect at one moment between its invocation "
    "and its completion, so that all answers are those of a single copy that does one thing at a time; here there are "
    "no such moments."
)
SHOWN_MAX: Final = SMALL
_STATES_MAX: Final = 4
_ORDER_MAX: Final = 20


def explain(model: Sequential, key: Hashable, part: Sequence[Op], search: Search, budget: Budget) -> Evidence:
    """The evidence for a search that failed: ``part`` are the operations of the object ``key``. Operations: at most 12
    of the smallest window around the failure that is not linearizable by itself; the role says which were linearised
    and which could not come next. Sentences: the claim; the longest prefix that can be linearised, with the end of one
    order of it; the state at which the window begins; why each operation that is left could not come next; what was
    left out. Where the budget ends first, the operation that failed and what is known without a window.
    """
    assert search.failed is not None
    words = _Words(model, key, search)
    try:
        window = smallest_window(search, budget)
        story = tell(window.problem)
    except OverBudgetError as limit:
        return _without_window(words, part, f"{limit} before a smaller part of the history was found")
    if story is None:
        return _without_window(
            words, part, "the part of the history that shows it has too many orders to tell"
        )
    return _whole(words, part, window, story)


def _whole(words: _Words, part: Sequence[Op], window: Window, story: Story) -> Evidence:
    entries = window.problem.entries
    failed = entries[story.failed].op
    shown = _chosen(entries, story)
    roles = _roles(entries, story)
    sentences = [
        words.claim(failed),
        *words.prefix(part),
        f"{words.beginning(window, part)} {words.before(entries, failed)}".strip(),
        words.in_progress(entries),
        *words.refusals(entries, story),
        *words.others(window, story),
        words.conclusion(failed),
        words.left_out(window, part, len(entries) - len(shown)),
    ]
    return Evidence(
        ANOMALY,
        MEANING,
        tuple(words.shown(entries[index].op, roles[index]) for index in shown),
        tuple(sentence for sentence in sentences if sentence),
    )


def _without_window(words: _Words, part: Sequence[Op], why: str) -> Evidence:
    """What is known from the search alone."""
    failed = words.failed
    others = [
        entry.op for _, entry in words.search.pending_at(failed.completed - 1) if entry.op is not failed
    ]
    ops = sorted([failed, *others[: SHOWN_MAX - 1]], key=lambda op: op.invoked)
    shown = tuple(words.shown(op, "could not come next" if op is failed else "in progress") for op in ops)
    sentences = [
        words.claim(failed),
        *words.prefix(part),
        words.conclusion(failed),
        f"What was in progress then is shown, and not why none of it helps: {why}.",
    ]
    return Evidence(ANOMALY, MEANING, shown, tuple(sentences))


def _roles(entries: Sequence[Entry], story: Story) -> list[str]:
    used = {index for way in story.ways[:_STATES_MAX] for index in way.order}
    roles = []
    for index, entry in enumerate(entries):
        if index == story.failed or (story.blocked is not None and index == story.blocked[1]):
            roles.append("could not come next")
        elif index in used:
            roles.append("linearised")
        else:
            roles.append("may have taken effect" if entry.optional else "in progress")
    return roles


def _chosen(entries: Sequence[Entry], story: Story) -> list[int]:
    """The indexes of at most ``SHOWN_MAX`` entries, the most telling ones, in the order of their invocation."""
    telling = [story.failed]
    if story.blocked is not None:
        telling += [story.blocked[1], *story.blocked[0].order]
    for way in story.ways[:_STATES_MAX]:
        telling += way.order[::-1]
    telling += sorted(
        range(len(entries)), key=lambda index: (entries[index].optional, -entries[index].invoked)
    )
    return sorted(list(dict.fromkeys(telling))[:SHOWN_MAX], key=lambda index: entries[index].invoked)


class _Words:
    """The sentences about one object and one failure."""

    def __init__(self, model: Sequential, key: Hashable, search: Search) -> None:
        assert search.failed is not None
        self.model = model
        self.search = search
        self.failed = search.failed.op
        self.object = f"the {model.noun}" + ("" if key is None else f" of key {show(key)}")

    def claim(self, op: Op) -> str:
        """What cannot be: the sentence that stands for all of them."""
        return f"{self.did(op)}: no order of the operations on {self.object} explains that."

    def prefix(self, part: Sequence[Op]) -> list[str]:
        """How much of the whole history can be linearised, and the end of one order of it."""
        before = [op for op in part if op.completed < self.failed.completed and op.outcome == "ok"]
        if not before:
            return []
        line = max(op.line_completed for op in before)
        until = f", up to line {line}" if line else ""
        text = f"All that completed before it can be linearised ({_count(len(before), 'operation')}{until})"
        order = _last_steps(self.search)
        if not order:
            return [f"{text}."]
        more = "... " if len(order) > _ORDER_MAX else ""
        steps = ", ".join(f"{op.name} {self.says(op)}" for op in order[-_ORDER_MAX:])
        return [f"{text}; of those that an answer depends on, one such order is: {more}{steps}."]

    def beginning(self, window: Window, part: Sequence[Op]) -> str:
        """The states that the window starts from."""
        if window.anything:
            return f"Whatever {self.object} was before:"
        states = self.states(window.problem.starts)
        if window.begins < 0:
            return f"At first {self.object} is {states}."
        count = sum(op.completed <= window.begins and op.outcome == "ok" for op in part)
        return (
            f"Of the {_count(count, 'operation')} that completed before the part that is shown only this matters: in "
            f"every order that explains their answers {self.object} is then {states}."
        )

    def before(self, entries: Sequence[Entry], failed: Op) -> str:
        """Which operations certainly took effect before the one that failed, and which before its completion."""
        certain = [each.op for each in entries if not each.optional and each.op is not failed]
        earlier = [self.did(op) for op in certain if op.completed < failed.invoked]
        meanwhile = [self.did(op) for op in certain if op.completed > failed.invoked]
        texts = []
        if earlier:
            texts.append(f"{_listed(earlier[-SHOWN_MAX:], 'and')} completed before {failed.name} began")
        if meanwhile:
            texts.append(
                f"{_listed(meanwhile[-SHOWN_MAX:], 'and')} completed while {failed.name} was in progress"
            )
        return f"{'; '.join(texts)}." if texts else ""

    def in_progress(self, entries: Sequence[Entry]) -> str:
        """Which of the window's operations need not have taken effect."""
        names = [f"{each.op.name} ({self.says(each.op)})" for each in entries if each.optional]
        if not names:
            return ""
        text = _listed(names[:SHOWN_MAX], "and") if len(names) <= SHOWN_MAX else f"{len(names)} operations"
        return f"{text} may be taken or left out: it fails either way."

    def refusals(self, entries: Sequence[Entry], story: Story) -> list[str]:
        """For each state that can be reached without it: why the operation that failed cannot come next."""
        failed = entries[story.failed].op
        sentences = []
        for way in story.ways[:_STATES_MAX]:
            after = f" after {self.path(way, entries)}" if way.order else ""
            sentences.append(
                f"{failed.name} could not come next: {self.wants(failed)}, but {self.object} would be "
                f"{self.ends(way, entries)}{after}."
            )
        rest = story.ways[_STATES_MAX:]
        if rest:
            some = _listed([self.ends(way, entries) for way in rest[:SHOWN_MAX]], "and")
            sentences.append(f"So it is in {_count(len(rest), 'more state')} that can be reached ({some}).")
        return sentences

    def others(self, window: Window, story: Story) -> list[str]:
        """Why the other operations that are left after the first way could not come next, and what becomes of them if
        the one that failed comes earlier.
        """
        entries = window.problem.entries
        failed = entries[story.failed]
        sentences = []
        way = story.ways[0]
        for index, entry in enumerate(entries):
            if index == story.failed or index in way.order or entry.invoked > failed.deadline:
                continue
            if step_of(window.problem.system, way.state, entry.call) is REFUSED:
                sentences.append(f"Nor could {entry.op.name}: {self.wants(entry.op)}.")
        if story.blocked is not None:
            earlier, index = story.blocked
            other = entries[index].op
            sentences.append(
                f"If {failed.op.name} takes effect earlier ({self.path(earlier, entries)}), no place is left for "
                f"{self.did(other)}."
            )
        return sentences

    def conclusion(self, op: Op) -> str:
        """Why that is a violation."""
        where = f" (line {op.line_completed})" if op.line_completed else ""
        return f"{op.name} completed{where}, so it must have taken effect by then: there is no linearisation."

    def left_out(self, window: Window, part: Sequence[Op], not_shown: int) -> str:
        """What is not shown, and why that is fair."""
        count = sum(op.invoked < self.failed.completed for op in part) - len(window.problem.entries)
        texts = []
        if count > 0:
            texts.append(
                f"{_count(count, 'earlier operation')} (without their answers it is only easier to explain the rest, "
                "and nothing that is shown could use what they changed)"
            )
        if not_shown:
            texts.append(f"{not_shown} that were tried as well, for want of space")
        return f"Left out: {_listed(texts, 'and')}." if texts else ""

    def shown(self, op: Op, role: str) -> Shown:
        """The operation as evidence."""
        completed = op.completed if op.outcome == "ok" else NEVER
        return Shown(
            op.name,
            str(op.process),
            op.outcome,
            self.says(op),
            op.invoked,
            completed,
            op.line,
            op.line_completed,
            role,
        )

    def says(self, op: Op) -> str:
        """What the operation did: "write 4"."""
        call = self.model.call(op)
        return op.f if call is None else self.model.says(call)

    def did(self, op: Op) -> str:
        """Name, operation and process."""
        where = ""
        if op.line:
            where = f", lines {op.line} to {op.line_completed}" if op.line_completed else f", line {op.line}"
        return f"{op.name} {self.says(op)} (process {op.process}{where})"

    def wants(self, op: Op) -> str:
        """In which state the operation is possible."""
        call = self.model.call(op)
        assert call is not None
        if call.leaves is SAME and not isinstance(call.needs, Mark):
            return f"it saw {self.model.holds(call.needs)}"
        if isinstance(call.needs, Mark):
            return f"{self.says(op)} is not possible then"
        return f"{self.says(op)} needs it to be {self.model.holds(call.needs)}"

    def ends(self, way: Way, entries: Sequence[Entry]) -> str:
        """What a way leads to. A state that nothing looks at is worked out again from the last blind write."""
        state = self.search.problem.system.reveal(way.state)
        if state is UNSEEN:
            plain = System(self.model.initial, (), self.model.step)
            for index in way.order:
                call = self.model.call(entries[index].op)
                if call is not None and (state is not UNSEEN or call.overwrites):
                    state = step_of(plain, state, call)
        return self.model.holds(state)

    def path(self, way: Way, entries: Sequence[Entry]) -> str:
        """An order in words."""
        names = [f"{entries[index].op.name} {self.says(entries[index].op)}" for index in way.order]
        return ", ".join(names[-_ORDER_MAX:])

    def states(self, states: Sequence[State]) -> str:
        """States in words: "3", "3 or 4"."""
        reveal = self.search.problem.system.reveal
        return _listed(list(dict.fromkeys(self.model.holds(reveal(state)) for state in states)), "or")


def _last_steps(search: Search) -> list[Op]:
    """The last calls, at most one more than are shown, of one configuration right before the failure."""
    parts = next(iter(search.frontier.values()))
    trail: Trail = next(iter(parts.values()))[0][1]
    steps: list[Op] = []
    while trail is not None and len(steps) <= _ORDER_MAX:
        trail, entry, _ = trail
        steps.append(entry.op)
    return steps[::-1]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
