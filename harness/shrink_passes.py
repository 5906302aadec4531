"""The ways in which a failure is taken apart, one function pair each: what its parts are, and what it is with only
some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from harness.errors import UsageError
from harness.scenario import Program, Scenario, Transaction
from harness.schedule.base import Choice
from harness.stepped.program import BEGIN, CLOSE

_replace: Final = msgspec.structs.replace


class Candidate(NamedTuple):
    """What may still fail: a scenario and a schedule of it."""

    scenario: Scenario
    choices: tuple[Choice, ...]


class Pass(NamedTuple):
    """One way to take a candidate apart. ``only(candidate, kept)``: the same with only those of its ``parts`` that are
    ``kept``, or ``None`` where that makes no sense.
    """

    name: str
    parts: Callable[[Candidate], Sequence[Any]]
    only: Callable[[Candidate, Sequence[Any]], Candidate | None]


def _sensible(scenario: Scenario, choices: Sequence[Choice]) -> Candidate | None:
    try:
        return Candidate(scenario.check(), tuple(choices))
    except UsageError:
        return None


def _edited(of: Candidate, edit: Callable[[int, Program], Program]) -> Scenario:
    """The scenario with every program replaced by ``edit(its number, it)``."""
    programs = tuple(edit(number, program) for number, program in enumerate(of.scenario.programs, 1))
    return _replace(of.scenario, programs=programs)


# -- processes and transactions ---------------------------------------------------------------------------


def _processes(of: Candidate) -> list[int]:
    return list(range(1, len(of.scenario.programs) + 1))


def _only_processes(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    """With new numbers, and without the choices of the others."""
    numbers = {old: new for new, old in enumerate(kept, 1)}
    programs = tuple(of.scenario.programs[old - 1] for old in kept)
    choices = [
        choice._replace(process=numbers[choice.process]) for choice in of.choices if choice.process in numbers
    ]
    return _sensible(_replace(of.scenario, programs=programs), choices)


def _transactions(of: Candidate) -> list[tuple[int, int]]:
    return [
        (number, place)
        for number, program in enumerate(of.scenario.programs, 1)
        for place in range(len(program.transactions))
    ]


def _only_transactions(of: Candidate, kept: Sequence[tuple[int, int]]) -> Candidate | None:
    """Without the choices within the others."""
    wanted = set(kept)

    def edit(number: int, program: Program) -> Program:
        transactions = tuple(
            txn for place, txn in enumerate(program.transactions) if (number, place) in wanted
        )
        return _replace(program, transactions=transactions)

    choices = [
        choice
        for choice, place in zip(of.choices, _within(of.choices), strict=True)
        if place is None or (choice.process, place) in wanted
    ]
    return _sensible(_edited(of, edit), choices)


def _only_unjoined(of: Candidate, kept: Sequence[tuple[int, int]]) -> Candidate | None:
    """Gets that are not ``kept`` are the end of the gets before them: one by one is what they are anyway."""
    joined = set(_transactions(of)) - set(kept)

    def edit(number: int, program: Program) -> Program:
        transactions: list[Transaction] = []
        for place, txn in enumerate(program.transactions):
            if (number, place) in joined and transactions and transactions[-1].kind == txn.kind == "get":
                transactions[-1] = _replace(txn, reads=transactions[-1].reads + txn.reads)
            else:
                transactions.append(txn)
        return _replace(program, transactions=tuple(transactions))

    scenario = _edited(of, edit)
    if len(_transactions(of)) - len(_transactions(Candidate(scenario, ()))) != len(joined):
        return None
    choices = [
        choice
        for choice, place in zip(of.choices, _within(of.choices), strict=True)
        if choice.point != BEGIN or (choice.process, place) not in joined
    ]
    return _sensible(scenario, choices)


def _within(choices: Sequence[Choice]) -> Iterator[int | None]:
    """For each choice the place of the transaction of its process that it is within; ``None`` where it opens or closes
    the store.
    """
    begun: dict[int, int | None] = {}
    for choice in choices:
        place = begun.get(choice.process)
        if choice.point == BEGIN:
            place = 0 if place is None else place + 1
        elif choice.point == CLOSE:
            place = None
        begun[choice.process] = place
        yield place


def _only_unmerged(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    """What the processes that are not ``kept`` do is done by the first other one of their role, in the order in which
    the transactions began.
    """
    programs, choices = list(of.scenario.programs), list(of.choices)
    for number in _processes(of):
        if number in kept:
            continue
        role = programs[number - 1].role
        target = next((other for other in kept if programs[other - 1].role == role), None)
        if target is None:
            return None
        programs[target - 1], choices = _merged(programs, choices, target, number)
    scenario = _replace(of.scenario, programs=tuple(programs))
    return _only_processes(Candidate(scenario, tuple(choices)), kept)


def _merged(
    programs: Sequence[Program], choices: Sequence[Choice], target: int, other: int
) -> tuple[Program, list[Choice]]:
    """The program of ``target`` with the transactions of ``other``, and the choices with those of ``other`` among its:
    at the same places of the schedule, but one transaction after another.
    """
    places = list(_within(choices))
    begun = {
        (choice.process, place): when
        for when, (choice, place) in reversed(list(enumerate(zip(choices, places, strict=True))))
        if place is not None
    }
    owned = [
        (number, place)
        for number in (target, other)
        for place in range(len(programs[number - 1].transactions))
    ]
    order = sorted(owned, key=lambda one: begun.get(one, len(choices)))
    rank = {one: number for number, one in enumerate(order)}
    transactions = tuple(programs[number - 1].transactions[place] for number, place in order)
    spots = [spot for spot, choice in enumerate(choices) if choice.process in (target, other)]
    moved = sorted(spots, key=lambda spot: rank.get((choices[spot].process, places[spot] or 0), len(rank)))
    merged = list(choices)
    for spot, source in zip(spots, moved, strict=True):
        merged[spot] = choices[source]._replace(process=target)
    return _replace(programs[target - 1], transactions=transactions), merged


# -- keys -------------------------------------------------------------------------------------------------

_Use = tuple[int, int, str, int]


def _uses(of: Candidate) -> list[_Use]:
    """Every key of every transaction: process, place of the transaction, how it is used, key."""
    return [
        (number, place, field, key)
        for number, program in enumerate(of.scenario.programs, 1)
        for place, txn in enumerate(program.transactions)
        for field in ("reads", "writes", "deletes")
        for key in getattr(txn, field)
    ]


def _only_uses(of: Candidate, kept: Sequence[_Use]) -> Candidate | None:
    wanted = set(kept)

    def edit(number: int, program: Program) -> Program:
        return _replace(
            program,
            transactions=tuple(
                _replace(
                    txn,
                    **{
                        field: tuple(
                            key for key in getattr(txn, field) if (number, place, field, key) in wanted
                        )
                        for field in ("reads", "writes", "deletes")
                    },
                )
                for place, txn in enumerate(program.transactions)
            ),
        )

    scenario = _edited(of, edit)
    if not all(_does_something(txn) for program in scenario.programs for txn in program.transactions):
        return None
    return _sensible(scenario, of.choices)


def _does_something(txn: Transaction) -> bool:
    if txn.kind == "compact":
        return True
    return bool(txn.writes or txn.deletes if txn.kind in {"put", "update"} else txn.reads)


def _unused(of: Candidate) -> list[int]:
    """The keys that no transaction touches."""
    used = {key for program in of.scenario.programs for txn in program.transactions for key in txn.keys}
    return sorted(set(range(len(of.scenario.revisions))) - used)


def _only_unused(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    """Without the unused keys that are not ``kept``, and with new numbers."""
    gone = set(_unused(of)) - set(kept)
    left = [key for key in range(len(of.scenario.revisions)) if key not in gone]
    numbers = {old: new for new, old in enumerate(left)}

    def edit(_: int, program: Program) -> Program:
        return _replace(
            program,
            transactions=tuple(
                _replace(
                    txn,
                    **{
                        field: tuple(numbers[key] for key in getattr(txn, field))
                        for field in ("reads", "writes", "deletes")
                    },
                )
                for txn in program.transactions
            ),
        )

    revisions = tuple(of.scenario.revisions[key] for key in left)
    return _sensible(_replace(_edited(of, edit), revisions=revisions), of.choices)


def _revisions(of: Candidate) -> list[tuple[int, int]]:
    return [(key, number) for key, count in enumerate(of.scenario.revisions) for number in range(count)]


def _only_revisions(of: Candidate, kept: Sequence[tuple[int, int]]) -> Candidate | None:
    counts = [0] * len(of.scenario.revisions)
    for key, _ in kept:
        counts[key] += 1
    return _sensible(_replace(of.scenario, revisions=tuple(counts)), of.choices)


# -- what is out of the ordinary --------------------------------------------------------------------------

_Trait = tuple[str, int, int]
_OPTIONS: Final[dict[str, Any]] = {
    field.name: field.default
    for field in msgspec.structs.fields(Scenario)
    if field.name in {"durable", "collide", "capacity", "smallfile_bytes", "padding", "lost"}
}
"""The options of a scenario that may be left out, and what they are then."""


def _traits(of: Candidate) -> list[_Trait]:
    """What makes the scenario special: its options, and those of its programs (by their numbers)."""
    found = [(name, 0, 0) for name in (*_OPTIONS, "torn") if getattr(of.scenario, name)]
    for number, program in enumerate(of.scenario.programs, 1):
        found += [("append", number, 0)] if program.io == "append" else []
        found += [("closes", number, 0)] if program.closes else []
        found += [("joins", number, death) for death in range(program.joins)]
    return found


def _only_traits(of: Candidate, kept: Sequence[_Trait]) -> Candidate | None:
    """Not torn means that the kills leave nothing of a write."""
    wanted = set(kept)

    def edit(number: int, program: Program) -> Program:
        return _replace(
            program,
            io="append" if ("append", number, 0) in wanted else "mmap",
            closes=("closes", number, 0) in wanted,
            joins=sum(trait[:2] == ("joins", number) for trait in kept),
        )

    torn = ("torn", 0, 0) in wanted
    scenario = _replace(
        _edited(of, edit),
        torn=torn,
        **{name: default for name, default in _OPTIONS.items() if (name, 0, 0) not in wanted},
    )
    return _sensible(scenario, of.choices if torn else [choice._replace(torn=0) for choice in of.choices])


# -- the schedule -----------------------------------------------------------------------------------------


def _kills(of: Candidate) -> list[int]:
    return [place for place, choice in enumerate(of.choices) if choice.kill]


def _only_kills(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    wanted = set(kept)
    choices = [choice for place, choice in enumerate(of.choices) if not choice.kill or place in wanted]
    return _sensible(of.scenario, choices)


def preemptions(of: Candidate) -> list[int]:
    """The places of the choices after which another process moves although the one before is to go on later. A process
    that waits for a lock counts too: the schedule alone does not say why it stands.
    """
    last = {choice.process: place for place, choice in enumerate(of.choices)}
    return [
        place
        for place, (choice, following) in enumerate(zip(of.choices, of.choices[1:], strict=False))
        if choice.process != following.process and not choice.kill and last[choice.process] > place
    ]


def _only_preemptions(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    """Where one is removed, the process goes on with what it does next before anybody else moves."""
    removed = set(preemptions(of)) - set(kept)
    blocks = _blocks(of.choices)
    ordered: list[Choice] = []
    while blocks:
        end, block = blocks.pop(0)
        ordered += block
        if end in removed:
            mover = block[-1].process
            place = next((i for i, (_, later) in enumerate(blocks) if later[0].process == mover), None)
            if place is not None:
                blocks.insert(0, blocks.pop(place))
    return _sensible(of.scenario, ordered)


def _blocks(choices: Sequence[Choice]) -> list[tuple[int, list[Choice]]]:
    """Runs of choices of one process, each with the place of its last; a kill is one by itself."""
    blocks: list[tuple[int, list[Choice]]] = []
    for place, choice in enumerate(choices):
        if blocks and not choice.kill and blocks[-1][1][-1][:1] == choice[:1]:
            blocks[-1] = (place, [*blocks[-1][1], choice])
        else:
            blocks.append((place, [choice]))
    return blocks


def _steps(of: Candidate) -> list[int]:
    return list(range(len(of.choices)))


def _only_steps(of: Candidate, kept: Sequence[int]) -> Candidate | None:
    return _sensible(of.scenario, [of.choices[place] for place in kept])


PASSES: Final = (
    Pass("processes", _processes, _only_processes),
    Pass("transactions", _transactions, _only_transactions),
    Pass("joining", _transactions, _only_unjoined),
    Pass("merging", _processes, _only_unmerged),
    Pass("kills", _kills, _only_kills),
    Pass("uses of keys", _uses, _only_uses),
    Pass("keys", _unused, _only_unused),
    Pass("revisions", _revisions, _only_revisions),
    Pass("options", _traits, _only_traits),
    Pass("preemptions", preemptions, _only_preemptions),
    Pass("steps", _steps, _only_steps),
)
"""The largest pieces first."""
