"""Whether an adapter has what the protocol asks for: names, types and arguments, before anything is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.doctor.words import Wrong
from harness.engines.base import Compacting, Eventful, Rebuilding

_SOME: Final = object()
"""Stands for an argument whose value does not matter."""
_Calls = Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]]

ENGINE: Final[_Calls] = {
    "points": ((), {}),
    "required_points": ((), {}),
    "install_hook": ((None,), {}),
    "bugs": ((), {}),
    "plant": (("",), {}),
    "create": ((Path(), 1), {}),
    "open": ((Path(),), {"readonly": True}),
    "left_behind": ((Path(),), {}),
    "versions": ((), {}),
}
SESSION: Final[_Calls] = {
    "transaction": ((), {}),
    "snapshot": ((), {}),
    "get": ((b"",), {}),
    "put_many": (((),), {}),
    "settle": ((), {}),
    "revisions": ((b"",), {}),
    "keys": ((), {}),
    "verify": ((), {"thorough": True}),
    "close": ((), {}),
}
TRANSACTION: Final[_Calls] = {
    "get": ((b"",), {}),
    "put": ((b"", b""), {}),
    "delete": ((b"",), {}),
    "commit": ((), {}),
    "abort": ((), {}),
}
SNAPSHOT: Final[_Calls] = {"get": ((b"",), {}), "get_many": (((),), {}), "close": ((), {})}
_OPTIONAL: Final[Mapping[type, _Calls]] = {
    Compacting: {"housekeep": ((_SOME, 0.0), {})},
    Rebuilding: {"lose_index": ((Path(),), {})},
    Eventful: {},
}
_PARTS: Final[Mapping[type, tuple[str, ...]]] = {
    Compacting: ("housekeep",),
    Rebuilding: ("lose_index", "lossy_points"),
    Eventful: ("milestones", "slow_points"),
}
_THEN: Final = (
    "Write it as harness.engines.base says, or inherit from harness.SimpleEngine, which has defaults."
)


def check_engine(engine: Any) -> None:
    """What is wrong with an engine's attributes and methods.

    Raises:
        Wrong: all of it, in words.
    """
    problems = [*_attributes(engine), *_methods("the engine", engine, ENGINE), *_optional(engine)]
    if not problems:
        problems = [*_answers(engine)]
    _raise(problems)


def check_handles(session: Any) -> None:
    """What is wrong with the methods of a session, of its transactions and of its snapshots. Raises ``Wrong``."""
    problems = [*_methods("the session", session, SESSION)]
    _raise(problems)
    transaction, snapshot = session.transaction(), None
    problems += _methods("session.transaction()", transaction, TRANSACTION)
    _raise(problems)
    transaction.abort()
    snapshot = session.snapshot()
    problems += _methods("session.snapshot()", snapshot, SNAPSHOT)
    if not problems and not _is_number(getattr(snapshot, "sequence", "nothing")):
        problems.append("session.snapshot() has no attribute sequence that is a number or None")
    _raise(problems)
    snapshot.close()


def check_points(engine: Any) -> None:
    """Whether sync points that are named somewhere are among those that ``points()`` lists. Raises ``Wrong``."""
    known = set(engine.points())
    named: dict[str, Collection[str]] = {
        "required_points()": engine.required_points(),
        "feeders": [*engine.feeders, *(name for fed in engine.feeders.values() for name in fed)],
    }
    if isinstance(engine, Eventful):
        named["milestones"] = list(engine.milestones.values())
        named["slow_points"] = engine.slow_points
    if isinstance(engine, Rebuilding):
        named["lossy_points"] = engine.lossy_points
    for where, names in named.items():
        if strange := sorted(set(names) - known):
            raise Wrong(
                f"{where} names {', '.join(map(repr, strange))}, which points() does not list",
                "List every sync point in points(), with its meaning.",
            )


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise Wrong("; ".join(problems), _THEN)


def _attributes(engine: Any) -> Iterator[str]:
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (lambda value: isinstance(value, str) and bool(value), "a name"),
        "stall_s": (_is_time, "a number of seconds or None"),
        "feeders": (lambda value: isinstance(value, Mapping), "a mapping"),
        "dense": (lambda value: isinstance(value, bool), "True or False"),
    }
    for name, (holds, expected) in checks.items():
        if not hasattr(engine, name):
            yield f"the engine has no attribute {name}"
        elif not holds(getattr(engine, name)):
            yield f"the engine's {name} is {getattr(engine, name)!r}, not {expected}"


def _methods(what: str, owner: Any, calls: _Calls) -> Iterator[str]:
    """The methods that ``owner`` does not have, or that cannot be called as they will be."""
    if owner is None:
        yield f"{what} is None"
        return
    for name, (args, keywords) in calls.items():
        method = getattr(owner, name, None)
        if not callable(method):
            yield f"{what} has no method {name}()"
            continue
        try:
            inspect.signature(method).bind(*args, **keywords)
        except TypeError as error:
            given = ", ".join([*(["..."] * len(args)), *(f"{key}=..." for key in keywords)])
            yield f"{what}'s {name}() cannot be called as {name}({given}): {error}"
        except ValueError:
            pass  # a method that has no signature, as those of extension modules


def _optional(engine: Any) -> Iterator[str]:
    """Protocols that an engine has one half of, and their methods."""
    for protocol, calls in _OPTIONAL.items():
        parts = _PARTS[protocol]
        there = [name for name in parts if hasattr(engine, name)]
        if there and len(there) < len(parts):
            missing = ", ".join(name for name in parts if name not in there)
            yield f"the engine has {', '.join(there)} and not {missing}: it is half {protocol.__name__}"
        elif there:
            yield from _methods("the engine", engine, calls)


def _answers(engine: Any) -> Iterator[str]:
    """What is wrong with the answers of methods that do not touch a store."""
    versions = engine.versions()
    if not (
        isinstance(versions, dict) and all(type(text) is str for each in versions.items() for text in each)
    ):
        yield f"versions() is {versions!r}, not a dict of str to str"
    points = engine.points()
    if not (
        isinstance(points, Mapping) and all(type(text) is str for each in points.items() for text in each)
    ):
        yield "points() is not a mapping of names to their meanings"
    if not isinstance(engine.required_points(), frozenset | set):
        yield f"required_points() is {engine.required_points()!r}, not a frozenset"
    if not (isinstance(engine.bugs(), Sequence) and all(type(name) is str for name in engine.bugs())):
        yield f"bugs() is {engine.bugs()!r}, not a sequence of names"


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
