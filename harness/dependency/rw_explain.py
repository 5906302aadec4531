"""Say why a register history breaks a level: cycles as evidence, and why a choice can go no way."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from harness.dependency.catalogue import ANOMALIES, Order, cycle_name
from harness.dependency.explain import SHOWN_MAX, explain
from harness.dependency.graph import PROCESS, REALTIME, RW, WR, WW
from harness.dependency.orders import Atom, Choice, Contradiction, Excluded, Refuted
from harness.dependency.rw_levels import INITIAL, Problem, sole_writer
from harness.dependency.rw_versions import Oddity, Registers
from harness.dependency.walks import Cycle, Step
from harness.evidence import Evidence, Shown

DEPTH_MAX: Final = 3
"""How deep the reasons of reasons are told; below that only the order that they show is."""
ASIDE: Final = 1 << 30
"""``Step.at`` from here on is an index into reasons that were written down with the step."""


class Describer:
    """The words for one history's transactions and edges (``explain.Describer``)."""

    def __init__(self, registers: Registers) -> None:
        self.registers = registers
        self.reasons: list[str] = []
        self.mentioned: set[int] = set()

    def name(self, row: int) -> str:
        """What a transaction is called."""
        return self.registers.transactions.name(row)

    def value(self, version: int) -> str:
        """The value of a version; null is called so."""
        value = self.registers.values[version]
        return "null" if value is None else str(value)

    def text(self, transaction: int, keys: Collection[int]) -> str:
        """Its micro-operations, those of ``keys`` first, no more than a dozen."""
        wanted = {self.registers.keys[key] for key in keys if key < len(self.registers.keys)}
        micros = self.registers.micros[transaction]
        ordered = sorted(micros, key=lambda micro: micro[1] not in wanted)
        ok = self.registers.transactions.outcome[transaction] == 0
        told = ", ".join(_micro(micro, ok) for micro in ordered[:SHOWN_MAX])
        return told + (", ..." if len(micros) > SHOWN_MAX else "")

    def because(self, step: Step) -> str:
        """Why the source came first, in one sentence."""
        if step.at >= ASIDE:
            return self.reasons[step.at - ASIDE]
        one, other = self.name(step.source), self.name(step.target)
        key = self.registers.keys[step.key]
        if step.kind == WR:
            return f"{other} read {self.value(step.at)} of key {key}, which {one} wrote."
        written = dict(self.registers.writes[step.target])[step.key]
        overwrote = (
            f"{other} {'deleted it' if written in self.registers.initial else f'wrote {self.value(written)}'}"
        )
        if sole_writer(self.registers, step.source, step.at) == INITIAL:
            return f"{one} read key {key} when nothing had been written to it yet, and {overwrote}."
        return (
            f"{one} read {self.value(step.at)} of key {key}, and {overwrote} after it had read the same version, so "
            f"{one} did not see what {other} wrote."
        )

    def aside(self, sentence: str) -> int:
        """Write a sentence down; what ``Step.at`` is to say for it."""
        self.reasons.append(sentence)
        return ASIDE + len(self.reasons) - 1


def _micro(micro: Sequence[Any], ok: bool) -> str:
    if micro[0] == "d":
        return f"delete {micro[1]}"
    if micro[0] == "w":
        return f"write {micro[1]} {'null' if micro[2] is None else micro[2]}"
    if not ok:
        return f"read {micro[1]}"
    return f"read {micro[1]} -> {'null' if micro[2] is None else micro[2]}"


def odd(registers: Registers, oddity: Oddity) -> Evidence:
    """The evidence of what one read shows by itself."""
    words = Describer(registers)
    row, version = oddity.row, oddity.version
    one, key, value = words.name(row), registers.keys[oddity.key], words.value(version)
    others: list[int] = []
    if oddity.anomaly == "G1a":
        others = [registers.failed[version][0]]
        why = f"{one} read {value} of key {key}, which only {words.name(others[0])} wrote, and that failed."
    elif oddity.anomaly == "G1b":
        others = [other for other in registers.middles[version] if other != row][:1]
        final = dict(registers.writes[others[0]])[oddity.key]
        why = (
            f"{one} read {value} of key {key}, which {words.name(others[0])} overwrote with {words.value(final)} "
            "before it committed: nobody else may ever see it."
        )
    elif oddity.anomaly == "future-read":
        why = f"{one} read {value} of key {key} and wrote that itself only later; nobody else wrote it."
    elif oddity.anomaly == "internal":
        why = f"{one} read {value} of key {key}, but had itself {_had(words, oddity)}."
    else:
        why = f"{one} read {value} of key {key}, which nobody ever wrote."
    return _direct(oddity.anomaly, words, [row, *others], {oddity.key}, (why,))


def _had(words: Describer, oddity: Oddity) -> str:
    registers = words.registers
    value = registers.values[oddity.expected]
    wrote = any(
        micro[0] != "r"
        and micro[1] == registers.keys[oddity.key]
        and (None if micro[0] == "d" else micro[2]) == value
        for micro in registers.micros[oddity.row]
    )
    return f"{'written' if wrote else 'read'} {words.value(oddity.expected)} before"


def _direct(
    anomaly: str, words: Describer, rows: Sequence[int], keys: set[int], sentences: tuple[str, ...]
) -> Evidence:
    return Evidence(anomaly, ANOMALIES[anomaly].meaning, _shown(words, rows, keys), sentences)


def _shown(words: Describer, rows: Collection[int], keys: set[int]) -> tuple[Shown, ...]:
    transactions = words.registers.transactions
    return tuple(transactions.shown(row, words.text(row, keys)) for row in sorted(set(rows)))


def lost_update(registers: Registers, key: int, version: int, rows: tuple[int, int]) -> Evidence:
    """Two transactions read one version and both wrote over it."""
    one, other = rows
    steps = (Step(one, other, RW, key, version), Step(other, one, RW, key, version))
    return known_cycle(registers, Cycle("lost-update", steps))


def known_cycle(registers: Registers, cycle: Cycle) -> Evidence:
    """The evidence of a cycle of certain edges (``rw_levels.known``) and orders."""
    return explain(cycle, registers.transactions, Describer(registers))


def contradiction(
    registers: Registers, problem: Problem, found: Contradiction, level: str, order: Order
) -> Evidence:
    """The evidence that no order has this level: the cycle that names the anomaly, and in the reasons of its edges the
    cycles that exclude what else could be.
    """
    return _Told(registers, problem, found).evidence(level, order)


class _Told:
    """Turns the proof of one contradiction into words."""

    def __init__(self, registers: Registers, problem: Problem, found: Contradiction) -> None:
        self.words = Describer(registers)
        self.registers = registers
        self.count = registers.transactions.count
        self.snapshots = problem.snapshots
        self.hubs = problem.hubs
        self.derived = found.derived
        self.successors = problem.successors
        self.limit = 2 * self.count if problem.snapshots else self.count
        refuted = _with_cycle(found.refuted)
        self.refuted = Refuted(refuted.choice, tuple(self.shortened(each) for each in refuted.excluded))

    def evidence(self, level: str, order: Order) -> Evidence:
        """The cycle of the alternative that takes longest to exclude (the rw edge, if in doubt); the others are told as
        reasons.
        """
        choice = self.refuted.choice
        first = choice.alternatives[0] if choice else ()
        ranked = sorted(
            self.refuted.excluded,
            key=lambda each: (self.length(each.cycle) or 1 << 30, each.alternative == first),
        )
        main = next(each for each in reversed(ranked) if each.cycle)
        last = Refuted(choice, tuple(each for each in ranked if each is not main))
        reasons = dict(self.derived)
        reasons.update(dict.fromkeys(main.alternative, last))
        steps = self.steps(main.cycle, reasons, 0)
        made = explain(
            Cycle(_name(steps, level, order), tuple(steps)), self.registers.transactions, self.words
        )
        shown = {each.name for each in made.operations}
        keys = {step.key for step in steps if step.key >= 0}
        aside = [row for row in self.words.mentioned if self.words.name(row) not in shown]
        operations = sorted(
            (*made.operations, *_shown(self.words, aside[:SHOWN_MAX], keys)), key=lambda each: each.invoked
        )
        return msgspec.structs.replace(made, operations=tuple(operations))

    def length(self, cycle: Sequence[int]) -> int:
        """How many transactions are on a cycle."""
        return len({node // 2 if self.snapshots else node for node in cycle if node < self.limit})

    def shortened(self, excluded: Excluded) -> Excluded:
        """The same with the shortest cycle of what is fixed, and of what its own cycle has besides."""
        if len(excluded.alternative) != 1 or not excluded.cycle:
            return excluded
        ((end, start),) = excluded.alternative
        own = set(zip(excluded.cycle, excluded.cycle[1:], strict=False))
        came = {start: start}
        spent = {start: 0}
        queue = deque([start])
        while queue:
            a = queue.popleft()
            if a == end:
                break
            for b, assumed in self.successors[a].items():
                cost = spent[a] + (b < self.limit)
                if cost < spent.get(b, 1 << 30) and (
                    (a, b) in own or (not assumed and (a, b) not in self.derived)
                ):
                    came[b], spent[b] = a, cost
                    (queue.append if b < self.limit else queue.appendleft)(b)
        path = [end]
        while path[-1] != start:
            path.append(came[path[-1]])
        return Excluded(excluded.alternative, tuple(reversed(path)))

    def steps(self, cycle: Sequence[int], reasons: dict[Atom, Refuted], depth: int) -> list[Step]:
        """A cycle of nodes as one of transactions, each step with its reason."""
        limit = self.limit
        places = [i for i, node in enumerate(cycle) if node < limit]
        found = []
        for i, j in zip(places, places[1:] + places[:1], strict=True):
            a, b = cycle[i], cycle[j]
            source, target = (a // 2, b // 2) if self.snapshots else (a, b)
            if source == target:
                continue
            through = cycle[(i + 1) % len(cycle)]
            found.append(self.step(source, target, (a, b), through >= limit and through, reasons, depth))
        return _once(found)

    def step(
        self, source: int, target: int, atom: Atom, through: int, reasons: dict[Atom, Refuted], depth: int
    ) -> Step:
        """One step, from what is certain or by the choice that forced it."""
        forced = reasons.get(atom)
        if forced is not None and forced.choice is not None:
            return self.forced(source, target, forced.choice, forced.excluded, depth)
        limit = self.limit
        if through:
            if through >= limit + self.hubs:
                return Step(source, target, REALTIME)
            mine = {key for key, _ in self.registers.writes[target]}
            access = next(
                each
                for each in self.registers.reads[source]
                if each[1] in self.registers.initial and each[0] in mine
            )
            return Step(source, target, RW, *access)
        anti = self.snapshots and atom[0] % 2 == 0
        if not anti:
            for key, version in self.registers.reads[target]:
                if sole_writer(self.registers, target, version) == source:
                    return Step(source, target, WR, key, version)
        written = {key for key, _ in self.registers.writes[target]}
        seen = dict.fromkeys(self.registers.reads[target])
        for access in self.registers.reads[source]:
            initial = sole_writer(self.registers, source, access[1]) == INITIAL
            if access[0] in written and (access in seen or initial) and (anti or not self.snapshots):
                return Step(source, target, RW, *access)
        return Step(source, target, PROCESS)

    def forced(
        self, source: int, target: int, choice: Choice, excluded: Sequence[Excluded], depth: int
    ) -> Step:
        """A step that a choice forces, since its other alternatives close cycles."""
        words, name = self.words, choice.name
        assert isinstance(name, tuple)
        one, other = words.name(source), words.name(target)
        if name[0] == "apart":
            shared = dict(self.registers.writes[source]).keys() & dict(self.registers.writes[target]).keys()
            key, kind = min(shared), WW
            said = (
                f"{one} and {other} both wrote key {self.registers.keys[key]}, so that one must have committed before "
                "the other started"
            )
        else:
            row, version = name[1], name[3] if name[0] == "between" else name[2]
            key = self.registers.key_of[version]
            words.mentioned.add(row)
            said = f"{words.name(row)} read {words.value(version)} of key {self.registers.keys[key]}"
            if name[0] == "between" and name[4] in (source, target):
                between = name[4]
                words.mentioned.add(between)
                wrote = dict(self.registers.writes[between])[key]
                said += f", and {words.name(between)} wrote {words.value(wrote)} to it"
            writers = self.registers.writers(row, version)
            words.mentioned.update(writers[:2])
            if writers and version not in self.registers.initial:
                said += f" ({words.value(version)} is by {' or '.join(map(words.name, writers[:3]))})"
            if name[0] == "between" and len(writers) > len(choice.alternatives) - 1 + (name[4] in writers):
                said += f", and nobody who wrote {words.value(version)} can have come in between"
            kind = RW if source == row else (WR if target == row else WW)
        told = self.why_not(excluded, depth)
        sentence = f"{said}{': ' + told + ', so' if told else ':'} {one} came before {other}."
        return Step(source, target, kind, key, words.aside(sentence))

    def why_not(self, excluded: Sequence[Excluded], depth: int) -> str:
        """Why the other alternatives cannot be, as a clause."""
        if not excluded:
            return ""
        told = []
        for each in excluded[:3]:
            first = each.alternative[0]
            one, other = (first[0] // 2, first[1] // 2) if self.snapshots else first
            not_so = f"{self.words.name(one)} did not come before {self.words.name(other)}"
            if each.cycle and depth < DEPTH_MAX:
                each = self.shortened(each)  # noqa: PLW2901
                own = dict.fromkeys(each.alternative)
                known = {atom: why for atom, why in self.derived.items() if atom not in own}
                steps = [
                    step
                    for step in self.steps(each.cycle, known, depth + 1)
                    if (step.source, step.target) != (one, other)
                ]
                self.words.mentioned.update(step.source for step in steps)
                because = "; ".join(self._clause(step) for step in steps)
                told.append(f"{not_so} ({because})" if because else not_so)
            else:
                told.append(f"{not_so}, as all that could follow ends in cycles")
        more = f", nor {len(excluded) - 3} other ways" if len(excluded) > 3 else ""
        return " and ".join(told) + more

    def _clause(self, step: Step) -> str:
        if step.kind in (PROCESS, REALTIME):
            return f"{self.words.name(step.source)} had finished before {self.words.name(step.target)} began"
        return self.words.because(step).rstrip(".")


def _with_cycle(refuted: Refuted) -> Refuted:
    """The refutation itself, or where all its alternatives needed further assumptions, the first below that did not."""
    while not any(each.cycle for each in refuted.excluded):
        refuted = next(each.deeper for each in refuted.excluded if each.deeper is not None)
    return refuted


def _once(steps: list[Step]) -> list[Step]:
    """The cycle without what lies between two visits of one transaction (under snapshot isolation it may be met at its
    start and at its commit).
    """
    for i, step in enumerate(steps):
        for j in range(i + 1, len(steps)):
            if steps[j].source == step.source:
                inner, outer = steps[i:j], steps[:i] + steps[j:]
                pick = inner if _snapshot_cycle(inner) or not _snapshot_cycle(outer) else outer
                return _once(pick)
    return steps


def _snapshot_cycle(steps: list[Step]) -> bool:
    """Whether no two rw edges follow one another, around."""
    return not any(
        one.kind == RW and other.kind == RW for one, other in zip(steps, steps[1:] + steps[:1], strict=True)
    )


def _name(steps: Sequence[Step], level: str, order: Order) -> str:
    """The anomaly that breaks this level and nothing weaker, by the cycle's edges."""
    anti = sum(step.kind == RW for step in steps)
    if level == "read-committed":
        return cycle_name(0, False, 1, order)
    if level == "snapshot-isolation":
        return cycle_name(max(anti, 1), False, 0, order)
    return cycle_name(2, True, 0, order)
