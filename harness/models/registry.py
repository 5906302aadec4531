"""Every model by its name, and which of them a history may be one of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from harness.errors import UsageError
from harness.models.bank import BANK
from harness.models.base import Model, Shape, is_transaction
from harness.models.counter import COUNTER
from harness.models.kv_append import KV_APPEND
from harness.models.list_append import LIST_APPEND
from harness.models.long_fork import LONG_FORK
from harness.models.mutex import MUTEX
from harness.models.register import CAS_REGISTER, REGISTER
from harness.models.rw_register import RW_REGISTER
from harness.models.sets import SET, SET_FULL
from harness.recorded import Event

MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        LIST_APPEND,
        RW_REGISTER,
        REGISTER,
        CAS_REGISTER,
        KV_APPEND,
        MUTEX,
        BANK,
        SET,
        SET_FULL,
        COUNTER,
        LONG_FORK,
    )
}
"""The models, by name."""


def shape_of(events: Iterable[Event]) -> Shape:
    """What can be seen of a history without knowing its model. Looks at every event once."""
    functions: set[str] = set()
    micros: set[str] = set()
    reads: set[str] = set()
    keyed, apart = False, True
    for event in events:
        if type(event.process) is not int:
            continue
        functions.add(event.f)
        keyed = keyed or "key" in event.extra
        value = event.value
        if is_transaction(value):
            names = [micro[0] for micro in value]
            micros.update(names)
            apart = apart and (len(names) == 1 or set(names) == {"r"})
        elif event.f == "read" and event.type == "ok":
            reads.add(_kind(value))
    return Shape(frozenset(functions), frozenset(micros), keyed, frozenset(reads), bool(micros) and apart)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "map"
    if isinstance(value, list | tuple | set | frozenset):
        return "list"
    return "int" if isinstance(value, int) and not isinstance(value, bool) else type(value).__name__


def guess(shape: Shape) -> Model:
    """The one model that a history of this shape can be of.

    Raises:
        UsageError: several fit, or none does; it lists them.
    """
    fitting = [model for model in MODELS.values() if model.fits(shape)]
    if len(fitting) == 1:
        return fitting[0]
    seen = ", ".join(sorted(shape.functions)) or "no operation of a client"
    if shape.micros:
        seen += f" of {', '.join(sorted(shape.micros))}"
    if fitting:
        raise UsageError(
            f"the operations ({seen}) fit several models: {', '.join(model.name for model in fitting)}; "
            "say which one with --model"
        )
    raise UsageError(
        f"no model has such operations ({seen}); there are {', '.join(MODELS)}: say with --model which one it is"
    )


def find(name: str) -> Model:
    """The model called ``name``. Raises UsageError, which lists them, if there is none."""
    model = MODELS.get(name)
    if model is None:
        raise UsageError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    return model


def property_of(model: Model, name: str | None) -> str:
    """The property of ``model`` that is called ``name``, under whichever of its names; its only one for ``None``.

    Raises:
        UsageError: there is none of that name, or several to choose from; it lists them.
    """
    if name is None:
        if len(model.properties) == 1:
            return model.properties[0]
        raise UsageError(
            f"a {model.name} history can be checked for several properties: {', '.join(model.properties)}; "
            "say which one with --property"
        )
    known = model.aliases.get(name, name)
    if known not in model.properties:
        raise UsageError(
            f"a {model.name} history cannot be checked for {name!r}; there are {', '.join(model.properties)}"
        )
    return known
