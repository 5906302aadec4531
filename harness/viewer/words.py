"""What the facts of every kind of run have in common: options as a command, values as words, records from disk."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import UsageError

T = TypeVar("T")


def read(path: Path, kind: type[T], wrote: str) -> T:
    """What is in ``path``, which the command ``wrote`` (a JSON file).

    Raises:
        UsageError: it cannot be read, or is something else; the message says what is wrong.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; nothing was written") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not what `{wrote}` writes ({error}); it may be of another version: run that again"
        ) from error


def command(name: str, options: msgspec.Struct, flags: Mapping[str, str]) -> str:
    """The command line that has these ``options``, as far as they differ from the defaults of their type; the seed
    always. ``flags`` are the options that are called otherwise on the command line ("" where there is none); of a
    boolean that is true by default, what turns it off.
    """
    words = ["harness", name]
    for field in msgspec.structs.fields(options):
        value = getattr(options, field.name)
        flag = flags.get(field.name, f"--{field.name.replace('_', '-')}")
        if not flag or value is None or (value == field.default and field.name != "seed"):
            continue
        words.append(flag)
        if not isinstance(value, bool):
            words.append(said(value).replace(", ", ","))
    return shlex.join(words)


def seeded(line: str, seed: int) -> str:
    """A command ``line`` that says which seed it was, for where it was drawn; "" of an unknown line."""
    words = shlex.split(line)
    if words and not any(word.partition("=")[0] == "--seed" for word in words):
        words += ["--seed", str(seed)]
    return shlex.join(words)


def said(value: Any) -> str:
    """A value as a word: a list without brackets, a number that ends in .0 without that."""
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings(options: msgspec.Struct) -> tuple[tuple[str, str], ...]:
    """Every option that has a value, and the value."""
    pairs = ((field.name, getattr(options, field.name)) for field in msgspec.structs.fields(options))
    return tuple(
        (name.replace("_", " "), said(value)) for name, value in pairs if value is not None and value != ""
    )


def kinds(count: int) -> str:
    """``", 2 kinds of violation"``: how a sentence about a run goes on; "" if there was none."""
    return f", {count} kind{'s' * (count != 1)} of violation" if count else ""


def headed(text: str) -> list[tuple[str, str]]:
    """The lines ``  heading     text`` of a page of text, as pairs; a line without a heading goes on with the last."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.startswith("  ") or len(line) < 14:
            continue
        heading, told = line[2:13].strip(), line[14:].strip()
        if heading and " " not in heading and line[2] != " " and line[13] == " ":
            found.append((heading, told))
        elif not heading and found and told:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{told}")
    return found
