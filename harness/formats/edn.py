"""EDN, the notation in which Jepsen prints its histories: a streaming reader and a printer.

What is read: https://github.com/edn-format/edn, and what Clojure prints besides (ratios, ``##Inf``, octal characters).
A reader of our own, because the kept-up library (edn_format 0.8) reads 0.8 MB/s: two minutes for 100 MB. This one is
tokens cut at blanks and brackets, a memo from tokens to values, and one loop with a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Final, NamedTuple

from harness.errors import HistoryError
from harness.formats.edn_tokens import (
    MARKS,
    NEWLINE,
    SKIP,
    VECTOR,
    Keyed,
    Keyword,
    Mark,
    Memo,
    Symbol,
    is_name,
    tokens,
)

__all__ = ["Keyed", "Keyword", "Reader", "Symbol", "dumps", "hashable", "keyword", "loads"]

DEPTH_MAX: Final = 200
"""Collections within collections. A history has about four; Python's own recursion ends near 1000."""

INDEPENDENT: Final = frozenset(
    {"jepsen.independent.Tuple", "jepsen.independent/tuple", "jepsen.independent/Tuple"}
)


class Form(NamedTuple):
    """A collection that stands at the outermost level, and the line that it begins on."""

    line: int
    value: Any


class Reader:
    """Reads EDN that is fed to it in pieces of any length, however they cut it.

    ``feed`` returns what became complete. With ``elements`` the file is one vector (or list) and its elements are
    returned one by one; without it every outermost form is. Vectors and lists become lists, maps dicts, sets
    frozensets; inside a map's key or a set they become tuples and frozensets, so that they hash. ``1``, ``1.0`` and
    ``true``, which EDN tells apart, are one key of a dict. A decimal (``1.5M``) becomes a float, a ratio a
    ``Fraction``, ``jepsen.independent``'s tuple a ``Keyed``; of every other tagged value only the value is kept.

    Raises:
        HistoryError: this is no EDN; with ``path`` and the line. The reader is then of no further use.
    """

    def __init__(self, path: str, line: int = 1, *, elements: bool = False) -> None:
        self.line = line
        """The line on which the next byte stands, from 1."""
        self.skipped = 0
        """How many lines were read elsewhere."""
        self._path = path
        self._elements = elements
        self._outer = b""
        self._closed = False
        self._ended = False
        self._tail = b""
        self._memo = Memo()
        self._base: list[Any] = []
        self._stack: list[tuple[list[Any], Mark, int]] = []
        self._items = self._base
        self._marked = False
        self._base_line = line

    @property
    def held_bytes(self) -> int:
        """How much of what was fed waits for its end: feed as much again, or a long string is read over and over."""
        return len(self._tail)

    @property
    def between(self) -> bool:
        """Whether nothing has begun that is not complete: the next byte may begin a form (of the vector)."""
        return not (self._stack or self._tail or self._base or self._closed) and (
            bool(self._outer) or not self._elements
        )

    def skip_to(self, line: int) -> None:
        """Go on at the beginning of ``line``: what is before it was read elsewhere. Only ``between`` forms."""
        self.skipped += line - self.line
        self.line = self._base_line = line

    def error(self, message: str, line: int | None = None) -> HistoryError:
        """An error at ``line`` (``None``: here), to be raised."""
        return HistoryError(message, self._path, self.line + self._memo.newlines if line is None else line)

    def feed(self, data: bytes, *, final: bool = False) -> list[tuple[int, Any]]:
        """The forms that ``data`` completed, each with the line that it begins on. ``final``: nothing follows."""
        data = self._tail + data if self._tail else data
        cut = tokens(data)
        self._tail = b""
        if not final and cut and data.endswith(cut[-1]) and cut[-1] not in MARKS:
            self._tail = cut.pop()
        try:
            self._parse(cut)
        except UnicodeDecodeError as error:
            raise self.error(f"this is not UTF-8 ({error.reason})") from None
        except ValueError as error:
            raise self.error(str(error)) from None
        return self._complete(final=final)

    def _parse(self, cut: list[bytes]) -> None:
        memo, stack, items = self._memo, self._stack, self._items
        append, mark, vector = items.append, Mark, VECTOR
        for token in cut:
            value = memo[token]
            if value.__class__ is not mark:
                append(value)
            elif value is vector and stack:
                inner: list[Any] = []
                append(inner)
                stack.append((items, vector, self.line))
                items = inner
                append = items.append
            elif value.kind == "close":
                if not stack:
                    self._leave(token)
                    continue
                outer, opened, line = stack.pop()
                if opened.closes != token:
                    raise ValueError(f"{opened.name} of line {line} is closed by {token.decode()}")
                if self._marked:
                    _fold(items)
                if opened is not vector or not stack:
                    made = items if opened.name in "[(" else _made(opened.name, items)
                    outer.append(made if stack else Form(line, made))
                items = outer
                append = items.append
            elif value.kind == "open":
                if self._opens(value):
                    stack.append((items, value, self.line + memo.newlines))
                    items = []
                    append = items.append
            elif value is NEWLINE:
                self.line += 1 + memo.newlines
                memo.newlines = 0
                if not stack:
                    append(NEWLINE)
                elif len(stack) > DEPTH_MAX:
                    break
            elif value is not SKIP:
                self._marked = self._marked or bool(stack)
                append(value)
        self._items = items
        self.line += memo.newlines
        memo.newlines = 0
        if len(stack) > DEPTH_MAX:
            raise ValueError(f"collections are nested more than {DEPTH_MAX} deep")

    def _opens(self, opened: Mark) -> bool:
        """Whether a collection begins: not so where the vector begins whose elements are asked for."""
        if len(self._stack) > DEPTH_MAX:
            raise ValueError(f"collections are nested more than {DEPTH_MAX} deep")
        if self._stack:
            return True
        self._marked = False
        if not self._elements or self._outer:
            return True
        if opened.name not in "[(" or any(each.__class__ is not Mark for each in self._base):
            raise ValueError("a history is one vector of maps, and this file begins with something else")
        self._outer = opened.closes
        self._base[:] = [each for each in self._base if each is NEWLINE]
        return False

    def _leave(self, token: bytes) -> None:
        if token != self._outer or self._closed:
            raise ValueError(f"{token.decode()} closes nothing")
        self._closed = True
        self._base.append(Mark("close", token.decode()))

    def _complete(self, *, final: bool) -> list[tuple[int, Any]]:
        """Take the forms at the outermost level that are complete, with the tags in front of them."""
        base = self._base
        if not base:
            return []
        found: list[tuple[int, Any]] = []
        waiting: list[Mark] = []
        kept = 0
        line = self._base_line
        for index, each in enumerate(base, 1):
            if each is NEWLINE:
                line += 1
            elif each.__class__ is Mark and each.kind == "close":
                if waiting:
                    raise self.error(f"{waiting[-1].name or '#'} stands before nothing", line)
                self._ended = True
            elif each.__class__ is Mark:
                waiting.append(each)
            else:
                if self._elements and (self._ended or not self._outer):
                    raise self.error(
                        "a history is one vector of maps, and something stands outside of it", line
                    )
                line, value = each if each.__class__ is Form else (line, each)
                while waiting and waiting[-1].kind == "tag":
                    value = _tagged(waiting.pop().name, value)
                if waiting:
                    waiting.pop()
                else:
                    found.append((line, value))
            if not waiting:
                kept = index
                self._base_line = line
        if waiting and final and not self._stack:
            raise self.error(f"{waiting[-1].name or '#'} stands before nothing", line)
        del base[:kept]
        if not base and not self._stack:
            self._base_line = self.line
        return found

    def close(self) -> list[tuple[int, Any]]:
        """What the end of the file completed; an error if it ends in the middle."""
        found = self.feed(b"", final=True)
        if self._stack:
            _, opened, line = self._stack[-1]
            raise self.error(
                f"the file ends inside of {opened.name}, which begins on line {line}: it was cut short; "
                "copy it again, or remove what is not complete"
            )
        if self._outer and not self._closed:
            raise self.error(
                "the file ends before its vector does: it was cut short; copy it again, or add ]"
            )
        return found


def _made(name: str, items: list[Any]) -> Any:
    """A map or a set of what stood between its brackets."""
    if name == "#{":
        try:
            return frozenset(items)
        except TypeError:
            return frozenset(map(hashable, items))
    if len(items) % 2:
        raise ValueError("a map has a key without a value")
    try:
        return dict(zip(items[::2], items[1::2], strict=True))
    except TypeError:
        return dict(zip(map(hashable, items[::2]), items[1::2], strict=True))


def hashable(value: Any) -> Any:
    """The value with its lists as tuples and its dicts as frozensets of pairs, at every depth, so that it hashes."""
    if isinstance(value, (list, tuple)):
        return tuple(map(hashable, value))
    if isinstance(value, dict):
        return frozenset((key, hashable(each)) for key, each in value.items())
    return value


def _fold(items: list[Any]) -> None:
    """In the items of a collection, apply tags to the values after them, and leave discarded values out."""
    if not any(each.__class__ is Mark for each in items):
        return
    found: list[Any] = []
    for each in reversed(items):
        if each.__class__ is not Mark:
            found.append(each)
            continue
        if not found:
            raise ValueError(f"{each.name or '#'} stands before nothing")
        value = found.pop()
        if each.kind == "tag":
            found.append(_tagged(each.name, value))
    found.reverse()
    items[:] = found


def _tagged(name: str, value: Any) -> Any:
    if name in INDEPENDENT and isinstance(value, list) and len(value) == 2:
        return Keyed(hashable(value[0]), value[1])
    return value


def loads(data: bytes, path: str = "EDN", line: int = 1) -> Any:
    """The one value that ``data`` holds. Raises HistoryError: none, several or no EDN."""
    reader = Reader(path, line)
    found = reader.feed(data, final=True) + reader.close()
    if len(found) != 1:
        raise reader.error(f"one value was expected, and there are {len(found)}")
    return found[0][1]


def dumps(value: Any) -> str:
    """The value as EDN that ``loads`` reads as an equal value: strings in quotes, ``Keyword`` with its colon, tuples
    and lists as vectors, sets in an order that is the same every time. Raises TypeError: EDN has no such value.
    """
    printer = _PRINTERS.get(type(value))
    if printer is None:
        raise TypeError(f"EDN has no {type(value).__name__}")
    return printer(value)


def keyword(name: str) -> str:
    """``:name``, or the name as a string where no keyword can be called that."""
    return f":{name}" if is_name(name) else _quoted(name)


def _quoted(text: str) -> str:
    return '"' + text.translate(_QUOTED) + '"'


def _float(value: float) -> str:
    if value != value:
        return "##NaN"
    if value in (float("inf"), float("-inf")):
        return "##Inf" if value > 0 else "##-Inf"
    return repr(value)


def _vector(value: Iterable[Any]) -> str:
    return "[" + " ".join(map(dumps, value)) + "]"


_QUOTED: Final = str.maketrans(
    {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)
_PRINTERS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): lambda _: "nil",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: _float,
    Fraction: lambda value: f"{value.numerator}/{value.denominator}",
    str: _quoted,
    Keyword: keyword,
    Symbol: str.__str__,
    list: _vector,
    tuple: _vector,
    Keyed: lambda value: "#jepsen.independent.Tuple" + _vector(value),
    dict: lambda value: "{" + ", ".join(f"{dumps(key)} {dumps(each)}" for key, each in value.items()) + "}",
    frozenset: lambda value: "#{" + " ".join(sorted(map(dumps, value))) + "}",
    set: lambda value: "#{" + " ".join(sorted(map(dumps, value))) + "}",
}
