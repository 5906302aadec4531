"""What a sequential model is: the states of one object, and the calls that take one state to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from harness.errors import HistoryError
from harness.recorded import Op

State = Hashable


class Mark(Enum):
    """Words about states that are no states themselves (a state may be ``None``: a register that holds nil)."""

    ANY = "every state"
    SAME = "the state that was before"
    UNKNOWN = "only step() knows"
    REFUSED = "not possible in this state"
    UNSEEN = "a state that nothing looks at before it is overwritten"


ANY: Final = Mark.ANY
SAME: Final = Mark.SAME
UNKNOWN: Final = Mark.UNKNOWN
REFUSED: Final = Mark.REFUSED
UNSEEN: Final = Mark.UNSEEN


class Call(NamedTuple):
    """What one operation did to the object, with the answer that its client saw. Equal calls are interchangeable.

    ``needs``: the only state in which it can take effect, or ``ANY``, or ``UNKNOWN`` (``step`` decides). ``leaves``:
    the state after it, ``SAME`` for one that never changes any, or ``UNKNOWN`` (``step`` decides). A wrong hint makes
    wrong verdicts; ``UNKNOWN`` is always right, and slow.
    """

    f: str
    argument: Hashable = None
    seen: Hashable = None
    needs: State = UNKNOWN
    leaves: State = UNKNOWN

    @property
    def overwrites(self) -> bool:
        """Whether it is possible in every state and leaves the same one whichever was before: a blind write."""
        return self.needs is ANY and self.leaves is not SAME and self.leaves is not UNKNOWN


Step = Callable[[State, Call], State]
"""``step(state, call)`` is the state after ``call``, or ``REFUSED`` where it cannot have that answer."""


def as_it_is(state: State) -> State:
    """The state of the model behind a state of a system that has the same states."""
    return state


class System(NamedTuple):
    """One object as the search sees it. ``calls`` stand for the calls that were given, in their order. ``reveal`` is
    the model's state behind one of the system's, or ``UNSEEN``. ``origins(state, call)`` are all states that ``call``
    takes to ``state``, for the calls whose outcome only ``step`` knows; ``None`` if that cannot be told.
    """

    initial: State
    calls: Sequence[Call]
    step: Step
    reveal: Callable[[State], State] = as_it_is
    origins: Callable[[State, Call], Sequence[State]] | None = None


class Sequential:
    """A sequential model. Derive from it, give ``name``, ``initial`` and ``call``, and ``step`` unless all calls say
    what they need and leave. Stateless: one object serves all histories. ``noun``: what one object is called.
    """

    name: str = "object"
    noun: str = "object"
    initial: State = None

    def call(self, op: Op) -> Call | None:
        """What ``op`` did; ``None`` for what neither had an effect nor says anything, which the search then leaves out:
        a failed operation, and a read whose answer nobody saw.

        Raises:
            HistoryError: the operation is none of this model's (``unknown_operation``), or malformed.
        """
        raise NotImplementedError

    def step(self, state: State, call: Call) -> State:
        """The state after ``call`` in ``state``, or ``REFUSED``. Asked only where the call does not say it."""
        raise NotImplementedError(f"{self.name}: {call.f} neither says what it leaves nor is there a step()")

    def partition(self, ops: Sequence[Op]) -> dict[Hashable, list[Op]]:
        """The operations of each independent object, in the order of ``ops``. By default the field "key" tells the
        objects apart; without one there is one object, named ``None``.
        """
        parts: dict[Hashable, list[Op]] = {}
        for op in ops:
            parts.setdefault(freeze(op.extra.get("key")), []).append(op)
        return parts

    def condense(self, calls: Sequence[Call]) -> System:
        """The object of one history, with as few states as its calls can tell apart. By default: as it is."""
        return System(self.initial, calls, self.step)

    def says(self, call: Call) -> str:
        """The call in a few words: "read 3"."""
        seen = "" if call.seen is None else f" -> {show(call.seen)}"
        return f"{call.f} {show(call.argument)}{seen}"

    def holds(self, state: State) -> str:
        """The state in a few words: "3", after "the object would be"."""
        return "something that no answer fits" if state is UNSEEN else show(state)


def step_of(system: System, state: State, call: Call) -> State:
    """The state after ``call``: by what it says of itself, else by the system's ``step``."""
    if call.needs is UNKNOWN:
        return system.step(state, call)
    if call.needs is not ANY and call.needs != state:
        return REFUSED
    if call.leaves is SAME:
        return state
    return system.step(state, call) if call.leaves is UNKNOWN else call.leaves


def freeze(value: Any) -> Hashable:
    """``value`` as something that hashes and equals by content. Booleans are not the numbers 0 and 1."""
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return ("bool", value)
    if isinstance(value, list | tuple):
        return ("list", *map(freeze, value))
    if isinstance(value, dict):
        return ("map", frozenset((freeze(key), freeze(each)) for key, each in value.items()))
    if isinstance(value, set | frozenset):
        return ("set", frozenset(map(freeze, value)))
    return value if isinstance(value, Hashable) else ("repr", repr(value))


_SHOWN_MAX: Final = 60


def show(value: Hashable) -> str:
    """A frozen value as people write it: ``nil`` for ``None``, a list in brackets, of a long string both ends."""
    if value is None:
        return "nil"
    if isinstance(value, tuple) and value and value[0] in {"bool", "list", "map", "set", "repr"}:
        kind, *rest = value
        if kind == "bool":
            return str(rest[0]).lower()
        return f"[{' '.join(map(show, rest))}]" if kind == "list" else str(rest[0])
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if len(text) <= _SHOWN_MAX:
        return text
    half = _SHOWN_MAX // 2
    return f"{text[:half]}...{text[-half:]} ({len(text) - 2 if isinstance(value, str) else len(text)} characters)"


def unknown_operation(model: str, known: str, op: Op) -> HistoryError:
    """The error for an operation that a model does not have. ``known``: the functions that it has, in words."""
    return HistoryError(
        f"{op.f!r} is no operation of the model {model}, which has {known}; nothing was checked. "
        "Choose the model that this history was recorded for",
        "",
        op.line,
    )


def malformed_operation(op: Op, expected: str) -> HistoryError:
    """The error for an operation whose value is not what its function has. ``expected``: "[old new]"."""
    return HistoryError(
        f"the value of {op.f} is {op.argument!r} where {expected} was expected; nothing was checked. "
        "Correct the history, or choose another model",
        "",
        op.line,
    )
