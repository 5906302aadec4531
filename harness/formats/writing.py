"""Write events as Jepsen would have recorded them, for others to check: EDN and JSON, as one vector or line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from harness.errors import UsageError
from harness.formats import edn
from harness.recorded import Event


class _Layout(NamedTuple):
    """How a format puts events into a file."""

    text: Callable[[Event], bytes]
    begin: bytes
    between: bytes
    end: bytes


def write(events: Iterable[Event], file: BinaryIO, format: str) -> int:  # noqa: A002
    """Write ``events`` to ``file`` in ``format`` ("jepsen-edn", "edn-lines", "jepsen-json" or "json-lines"), one per
    line, and return how many there were. Reading them back gives equal events, but for ``extra["index"]``: it is the
    position where the event had none. In EDN the names of fields, types and functions are keywords, and the names of
    micro-operations in the values of "txn", and each ``Keyword``. JSON knows less: its keys are strings, its sets
    and tuples arrays, its ratios strings, its infinities null.

    Raises:
        UsageError: histories are not written in this format.
        TypeError: a value is none that the format can hold (an object of Python's that no history brought).
    """
    if format not in _LAYOUTS:
        raise UsageError(f"histories are not written as {format!r}; name one of {', '.join(_LAYOUTS)}")
    layout = _LAYOUTS[format]
    file.write(layout.begin)
    count = 0
    for count, event in enumerate(events, 1):
        text = layout.text(event)
        file.write(layout.between + text if count > 1 else text)
    file.write(layout.end if count or layout.begin else b"")
    return count


def _json(event: Event) -> bytes:
    extra = event.extra
    fields = {
        "index": extra.get("index", event.position),
        "type": event.type,
        "process": event.process,
        "f": event.f,
        "value": event.value,
        **extra,
    }
    # The fields stay in this order; what is inside of them is sorted, so that sets are the same every time.
    return msgspec.json.encode({str(name): _encoded(value) for name, value in fields.items()})


def _encoded(value: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(_ENCODE(value))
    except TypeError:  # keys that JSON has not
        return msgspec.Raw(_ENCODE(_plain(value)))


def _plain(value: Any) -> Any:
    """The value with strings for the keys that JSON cannot have, and its sets in an order that stays the same."""
    if isinstance(value, dict):
        return {_key(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return [_plain(each) for each in sorted(value, key=edn.dumps)]
    return value


def _key(key: Any) -> str:
    return str(key) if isinstance(key, str) else edn.dumps(key)


def _else(value: Any) -> Any:
    """What msgspec cannot encode by itself."""
    if isinstance(value, str):  # a Keyword, a Symbol
        return str(value)
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


_ENCODE: Final = msgspec.json.Encoder(enc_hook=_else, order="deterministic").encode


def _edn(event: Event) -> bytes:
    extra = event.extra
    value = event.value
    process = event.process
    parts = [
        f":index {edn.dumps(extra.get('index', event.position))}",
        f":type :{event.type}",
        f":process {process if type(process) is int else edn.keyword(str(process))}",
        f":f {edn.keyword(event.f)}",
        f":value {_transaction(value) if event.f == 'txn' else edn.dumps(value)}",
    ]
    parts.extend(f"{edn.keyword(name)} {edn.dumps(each)}" for name, each in extra.items() if name != "index")
    return f"{{{', '.join(parts)}}}".encode()


_VECTORS: Final = (list, tuple)
"""What is a vector and nothing else: jepsen.independent's tuple, which is a tuple too, has a tag."""


def _transaction(value: Any) -> str:
    """The value of a transaction, with the names of its micro-operations as keywords."""
    if not (
        type(value) in _VECTORS
        and all(type(each) in _VECTORS and each and isinstance(each[0], str) for each in value)
    ):
        return edn.dumps(value)
    return (
        "["
        + " ".join(f"[{' '.join([edn.keyword(each[0]), *map(edn.dumps, each[1:])])}]" for each in value)
        + "]"
    )


_LAYOUTS: Final = {
    "jepsen-edn": _Layout(_edn, b"[", b"\n ", b"]\n"),
    "edn-lines": _Layout(_edn, b"", b"\n", b"\n"),
    "jepsen-json": _Layout(_json, b"[", b",\n", b"]\n"),
    "json-lines": _Layout(_json, b"", b"\n", b"\n"),
}
