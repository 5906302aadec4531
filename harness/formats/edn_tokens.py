"""EDN's tokens: how text is cut into them, and the value of each."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Final, NamedTuple

_MEMO_MAX: Final = 1 << 16
"""Tokens that are remembered, then forgotten all at once: times are unique, and must not pile up."""

_SPECIAL: Final = re.compile(
    rb"""( "[^"\\]*(?:\\[\s\S][^"\\]*)*(?:"|\\?\Z)  # a string; one that does not end is whole only with more bytes
         | ;[^\n]*
         | \#(?<![^\s,\[\](){}";]\#)(?:[_{]|[^\s,\[\](){}";\\_][^\s,\[\](){}";]*|)  # not inside a symbol
         | \\(?<![^\s,\[\](){}";]\\).?[^\s,\[\](){}";]*
         )""",
    re.VERBOSE,
)
"""What cannot be cut from its surroundings at blanks and brackets: strings, comments, tags and characters."""

_NEWLINE_TOKEN: Final = b"]["
"""Stands for a line's end among tokens, where nothing else looks like it."""

_INTEGER: Final = re.compile(rb"[+-]?(?:0|[1-9][0-9]*)N?")
_HEXADECIMAL: Final = re.compile(rb"0[xX][0-9a-fA-F]+")
_FLOAT: Final = re.compile(rb"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?M?")
_RATIO: Final = re.compile(rb"([+-]?[0-9]+)/([0-9]+)")
_NAME: Final = re.compile(r"[^\s\x00-\x20\x7f,\[\](){}\";\\]+")
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|[0-7]{1,3}|.|\Z)", re.DOTALL)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_ESCAPES: Final = {
    "t": "\t",
    "r": "\r",
    "n": "\n",
    "b": "\b",
    "f": "\f",
    '"': '"',
    "\\": "\\",
    "/": "/",
    "'": "'",
}
_CHARACTERS: Final = {
    "newline": "\n",
    "return": "\r",
    "space": " ",
    "tab": "\t",
    "formfeed": "\f",
    "backspace": "\b",
}
_CONSTANTS: Final[dict[bytes, Any]] = {
    b"nil": None,
    b"true": True,
    b"false": False,
    b"##Inf": float("inf"),
    b"##-Inf": float("-inf"),
    b"##NaN": float("nan"),
}


class Keyword(str):
    """The name of an EDN keyword, without its colon. It equals the plain string; an export prints the colon."""

    __slots__ = ()


class Symbol(str):
    """The name of an EDN symbol. It equals the plain string; an export prints it without quotes."""

    __slots__ = ()


class Keyed(NamedTuple):
    """Jepsen's independent tuple (``jepsen.independent``): a ``value`` that belongs to one of many keys."""

    key: Any
    value: Any


class Mark:
    """A token that is no value: a bracket (``closes`` is its partner), a line's end, a tag or a discard."""

    __slots__ = ("closes", "kind", "name")

    def __init__(self, kind: str, name: str = "", closes: bytes = b"") -> None:
        self.kind = kind
        self.name = name
        self.closes = closes


_OPENS: Final = {b"[": b"]", b"(": b")", b"{": b"}", b"#{": b"}"}
NEWLINE: Final = Mark("newline")
SKIP: Final = Mark("skip")
VECTOR: Final = Mark("open", "[", b"]")
MARKS: Final[dict[bytes, Any]] = {
    **{token: Mark("open", token.decode(), closes) for token, closes in _OPENS.items()},
    b"[": VECTOR,
    **{token: Mark("close", token.decode()) for token in (b"]", b")", b"}")},
    _NEWLINE_TOKEN: NEWLINE,
    b"#_": Mark("discard", "#_"),
}


class Memo(dict[bytes, Any]):
    """Values by token. ``newlines``: how many lines ended inside strings since the parser looked."""

    def __init__(self) -> None:
        super().__init__({**MARKS, **_CONSTANTS})
        self.newlines = 0

    def __missing__(self, token: bytes) -> Any:
        if token.isdigit() and len(token) < 4000 and (token[0] != 0x30 or len(token) == 1):
            number = int(token)
            if len(token) < 6:
                self[token] = number
            return number
        first = token[:1]
        if first == b'"':
            text = _string(token)
            self.newlines += token.count(b"\n")
            return text
        if first == b";":
            return SKIP
        value = _atom(token)
        if len(self) > _MEMO_MAX:
            self.clear()
            self.update(MARKS)
            self.update(_CONSTANTS)
        self[token] = value
        return value


def tokens(data: bytes) -> list[bytes]:
    """``data`` cut into tokens, of which only the last may be incomplete. ``bytes.split`` does that three times as
    fast as a regular expression that finds each of them.
    """
    if not (b'"' in data or b";" in data or b"#" in data or b"\\" in data):
        return _plain(data)
    parts = iter(_SPECIAL.split(data))
    found = _plain(next(parts))
    for special in parts:
        found.append(special)
        found += _plain(next(parts))
    return found


def _plain(data: bytes) -> list[bytes]:
    data = data.replace(b"[", b" [ ").replace(b"]", b" ] ").replace(b"\n", b" ][ ").replace(b",", b" ")
    data = data.replace(b"{", b" { ").replace(b"}", b" } ")
    if b"(" in data or b")" in data:
        data = data.replace(b"(", b" ( ").replace(b")", b" ) ")
    return data.split()


def _atom(token: bytes) -> Any:
    """The value of a token that is no string. Raises ValueError (UnicodeDecodeError is one)."""
    first = token[0]
    if first == 0x3A:  # :
        return Keyword(_name(token[1:], token))
    if first in b"0123456789+-":
        if _INTEGER.fullmatch(token):
            return int(token.rstrip(b"N"))
        if _FLOAT.fullmatch(token):
            number = token.rstrip(b"M")
            return int(number) if number.lstrip(b"+-").isdigit() else float(number)
        if ratio := _RATIO.fullmatch(token):
            if not int(ratio[2]):
                raise ValueError(f"{shown(token)} divides by zero")
            return Fraction(int(ratio[1]), int(ratio[2]))
        if _HEXADECIMAL.fullmatch(token):
            return int(token, 16)
        if first in b"0123456789" or token[1:2].isdigit():
            raise ValueError(f"{shown(token)} is not a number")
    if first == 0x5C:  # \
        return _character(token)
    if first == 0x23:  # #
        return Mark("tag", token[1:].decode())
    return Symbol(_name(token, token))


def is_name(name: str) -> bool:
    """Whether a keyword can be called that, so that what is printed is read as one."""
    return _NAME.fullmatch(name) is not None


def _name(name: bytes, token: bytes) -> str:
    text = name.decode()
    if not is_name(text):
        raise ValueError(f"{shown(token)} is not EDN")
    return text


def _string(token: bytes) -> str:
    if len(token) < 2 or token[-1] != 0x22:
        raise ValueError("a string does not end")
    text = token[1:-1].decode()
    return text if "\\" not in text else _whole(_ESCAPE.sub(_unescaped, text))


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "u" and len(code) == 5:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code not in _ESCAPES:
        raise ValueError(f"a string has the escape \\{code}, which EDN does not know")
    return _ESCAPES[code]


def _whole(text: str) -> str:
    """Java prints UTF-16: two surrogates are one character, and one alone is none."""
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _character(token: bytes) -> str:
    name = token[1:].decode()
    if len(name) == 1:
        return name
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if re.fullmatch("u[0-9a-fA-F]{4}", name):
        return _whole(chr(int(name[1:], 16)))
    if re.fullmatch("o[0-7]{1,3}", name):
        return chr(int(name[1:], 8))
    raise ValueError(f"{shown(token)} is not a character")


def shown(token: bytes) -> str:
    """A piece of a file for a message: at most 40 bytes of it, quoted."""
    text = token[:40].decode(errors="replace")
    return repr(text + ("..." if len(token) > 40 else ""))
