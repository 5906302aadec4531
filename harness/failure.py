"""A failure as a file: a scenario, a schedule and what went wrong, enough to make it happen again.

JSON. It is meant to outlive changes of the store and of the harness: a field that is not known is left out, one that
is missing takes its default, and ``notes`` says so; only a file without a scenario cannot be played at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.errors import UsageError
from harness.scenario import Scenario
from harness.schedule.base import Choice

FORMAT: Final = 1


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """``kind`` is what a replay must show again (``oracle.kind_of``); ``message`` tells it with its values. ``choices``
    is the schedule. ``bug``: the planted bug, if one was. ``found``: by which strategy, seed and schedule number, after
    how many schedules and seconds. ``shrunk``: sizes before and after. ``page``: the page for people. ``story``:
    where it is kept as a test, what it caught.
    """

    scenario: Scenario
    choices: tuple[Choice, ...] = ()
    property_name: str = msgspec.field(name="property", default="")
    kind: str = ""
    message: str = ""
    bug: str = ""
    found: dict[str, Any] = {}
    shrunk: dict[str, Any] = {}
    reproduced: str = ""
    versions: dict[str, str] = {}
    page: str = ""
    format: int = FORMAT
    story: str = ""


def save(failure: Failure, path: Path) -> None:
    """Write ``failure`` to ``path``, in one step, one choice to a line."""
    data = msgspec.to_builtins(failure)
    choices = data.pop("choices", [])
    text = json.dumps(data, indent=1)
    lines = ",\n".join(f"  {json.dumps(choice)}" for choice in choices)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(f'{text[:-2]},\n "choices": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    temporary.rename(path)


def load(path: Path) -> tuple[Failure, list[str]]:
    """The failure in ``path``, and notes about what did not fit.

    Raises:
        UsageError: there is no such file, or it holds no scenario that can be played; the message says what is wrong.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a failure that explore wrote: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("scenario"), dict):
        raise UsageError(f"{path} is not a failure that explore wrote: it has no scenario")
    notes: list[str] = []
    names = {field.encode_name: field for field in msgspec.structs.fields(Failure)}
    notes += [f'the field "{name}" is not known and was left out' for name in data if name not in names]
    if "choices" not in data:
        notes.append('the field "choices" is missing: the schedule is drawn by a seeded fallback')
    if data.get("format", FORMAT) != FORMAT:
        notes.append(f"it is of format {data['format']}, not {FORMAT}; what is understood of it is used")
    fields: dict[str, Any] = {}
    for name, field in names.items():
        if name not in data:
            continue
        try:
            fields[field.name] = msgspec.convert(data[name], field.type, strict=False)
        except msgspec.ValidationError as error:
            if name == "scenario":
                raise UsageError(f"{path}: its scenario cannot be played: {error}") from error
            notes.append(f'the field "{name}" makes no sense ({error}) and was left out')
    failure = Failure(**fields)
    failure.scenario.check()
    return failure, notes
