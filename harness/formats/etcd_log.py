"""Jepsen's own log, as its etcd tests left it: ``INFO  jepsen.util - PROCESS :type :f VALUE``, separated by tabs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from harness.errors import HistoryError
from harness.formats import edn
from harness.formats.fields import event_of
from harness.recorded import Event

EVENT: Final = re.compile(rb"\bjepsen\.util(?: +-|:)? +(\d+|:[\w./-]+)\t:?(.*)")
"""An event of any version's log; what follows the process is looked at afterwards."""

_FIELDS: Final = re.compile(rb"(\w+)\t(\S+)\t([^\t]*)(?:\t(.*))?")


def read(file: BinaryIO, path: str) -> Iterator[Event]:
    """The events in a log; every other line is left out. What follows the value (an error) becomes ``extra["error"]``.
    The value of an ``info`` is what Jepsen says about it, such as ``:timed-out``. A cas that failed with its value and
    no error was answered: the register did not hold the old value. It gets ``extra["refused"]``, since those who
    published verdicts on these logs read them so (Athalye, Porcupine).

    Raises:
        HistoryError: a line begins as an event and does not go on as one, or the log holds none.
    """
    position = 0
    line = 0
    for line, text in enumerate(file, 1):
        found = EVENT.search(text)
        if found is not None:
            yield event_of(position, line, _fields(found, path, line), path)
            position += 1
    if not position:
        raise HistoryError(
            "this log holds no event such as INFO  jepsen.util - 0 :invoke :read nil; name the format of this file",
            path,
            line,
        )


def _fields(found: re.Match[bytes], path: str, line: int) -> dict[str, Any]:
    rest = _FIELDS.fullmatch(found[2].rstrip(b"\r\n"))
    if rest is None:
        raise HistoryError(
            "this event is cut short: after the process it needs :type, :f and a value, with tabs between them",
            path,
            line,
        )
    fields = {
        "process": found[1].decode(errors="replace"),
        "type": rest[1].decode(errors="replace"),
        "f": rest[2].decode(errors="replace"),
    }
    if rest[4] is not None:
        fields["error"] = rest[4].decode(errors="replace")
    if fields["process"].startswith(":"):
        return {**fields, "value": _said(rest[3], path, line)}
    value = edn.loads(rest[3], path, line)
    if (
        (fields["type"], fields["f"]) == ("fail", ":cas")
        and isinstance(value, list)
        and "error" not in fields
    ):
        return {**fields, "value": value, "refused": True}
    return {**fields, "value": value}


def _said(value: bytes, path: str, line: int) -> Any:
    """What a nemesis says may be anything, and no check looks at it."""
    try:
        return edn.loads(value, path, line)
    except HistoryError:
        return value.decode(errors="replace")
