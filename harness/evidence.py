"""Why a verdict is what it is: the few operations that show an anomaly, as data, for words and for a picture.

A checker hangs an ``Evidence`` into ``Finding.details["evidence"]``. Times are *positions*: the place of an event in
the history, from 0, which is the only clock that all formats share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from harness.verdict import Finding

NEVER: Final = 1 << 62
"""The position of a completion that never came: the operation may take effect at any later time."""


class Shown(msgspec.Struct, omit_defaults=True, frozen=True):
    """One operation as it is shown. ``name``: "T7" for the transaction that was invoked seventh. ``text``: what it did,
    in a few words ("append 253 1, read 255 -> [2 3 5]"). ``line``: where its invocation stands in the history, and
    ``line_completed`` where its completion does (0: it has none, or the history has no lines).
    """

    name: str
    process: str
    outcome: str
    text: str
    invoked: int
    completed: int = NEVER
    line: int = 0
    line_completed: int = 0
    role: str = ""
    """What it is in this evidence, if that is not plain from the edges: "linearised", "could not come next"."""


class Edge(msgspec.Struct, omit_defaults=True, frozen=True):
    """``source`` must come before ``target`` (both are names of operations shown). ``kind``: "ww", "wr", "rw",
    "process", "realtime", or what a model calls it. ``because``: one whole sentence.
    """

    source: str
    target: str
    kind: str
    because: str


class Evidence(msgspec.Struct, omit_defaults=True, frozen=True):
    """The smallest part of a history that shows one anomaly.

    ``anomaly``: its standard name ("G-single", "nonlinearizable"). ``meaning``: one sentence that says what that is.
    ``operations``: in the order of their invocation. ``edges``: the cycle in its order, the last one back to the first
    operation, or nothing where the evidence is no cycle. ``sentences``: the whole argument, to be read one after
    another by somebody who has never heard of the anomaly.
    """

    anomaly: str
    meaning: str
    operations: tuple[Shown, ...]
    sentences: tuple[str, ...]
    edges: tuple[Edge, ...] = ()


def tell(evidence: Evidence, where: Callable[[Shown], str]) -> list[tuple[str, str]]:
    """The evidence as lines of ``(heading, text)``, for a terminal or a page. ``where(operation)`` says where an
    operation stands ("history.edn:17"), or nothing.
    """
    lines = [("meaning", evidence.meaning)]
    for shown in evidence.operations:
        place = where(shown)
        role = f" ({shown.role})" if shown.role else ""
        outcome = "" if shown.outcome == "ok" else f" [{shown.outcome}]"
        lines.append((shown.name, f"process {shown.process}{outcome}{role}: {shown.text}"))
        if place:
            lines.append(("", place))
    lines += [("why" if not number else "", sentence) for number, sentence in enumerate(evidence.sentences)]
    return lines


def lines_of(path: str, shown: Shown) -> str:
    """``"history.edn:17, 23"``: the lines of an operation's invocation and of its completion; "" if it has none."""
    numbers = [str(line) for line in (shown.line, shown.line_completed) if line]
    return f"{path}:{', '.join(numbers)}" if numbers else ""


def finding(property_name: str, evidence: Evidence) -> Finding:
    """The finding that rests on ``evidence``: its message is the anomaly and the first sentence."""
    first = evidence.sentences[0] if evidence.sentences else evidence.meaning
    return Finding(property_name, f"{evidence.anomaly}: {first}", {"evidence": evidence})
