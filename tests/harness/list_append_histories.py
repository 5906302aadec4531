"""Small list-append histories, written by hand: transactions as text, one after another or all at once."""

from __future__ import annotations

import json
from typing import Any

from harness.budget import Budget
from harness.evidence import NEVER, Evidence
from harness.models.list_append import check
from harness.recorded import Op
from harness.verdict import Verdict


def micros(text: str) -> list[Any]:
    """ "x+1 y[1,2] z?" is an append of 1 to x, a read of y, and a read of z of which nothing is known."""
    made: list[Any] = []
    for word in text.split():
        if word[1] == "+":
            made.append(["append", word[0], json.loads(word[2:])])
        else:
            made.append(["r", word[0], None if word[1] == "?" else json.loads(word[1:])])
    return made


def at_once(*texts: str) -> list[Op]:
    """Transactions of different processes that all begin before any of them ends. "fail: x+1" is not ok."""
    return [_op(number, number, text, number, 100 + number) for number, text in enumerate(texts, 1)]


def one_after_another(*texts: str, process: int | None = None) -> list[Op]:
    """Each begins when the one before it has ended; of different processes, or all of ``process``."""
    return [
        _op(number, number if process is None else process, text, 2 * number, 2 * number + 1)
        for number, text in enumerate(texts, 1)
    ]


def sessions(*pairs: tuple[str, str]) -> list[Op]:
    """Two transactions for each process, the first ones all at once, and then the second ones."""
    count = len(pairs)
    return [
        _op(1 + second * count + process, process, text, 100 * second + process, 100 * second + 50 + process)
        for second in (0, 1)
        for process, text in enumerate(each[second] for each in pairs)
    ]


def _op(number: int, process: int, text: str, invoked: int, completed: int) -> Op:
    outcome: Any = "ok"
    if ": " in text:
        outcome, text = text.split(": ")
    value = micros(text)
    at = NEVER if outcome == "info" else completed
    return Op(number, process, "txn", outcome, value, value, invoked, at, number)


def judge(ops: list[Op], property_name: str = "strict-serializable") -> Verdict:
    """The checker's verdict, without limits."""
    return check(iter(ops), property_name, Budget())


def evidences(verdict: Verdict) -> dict[str, Evidence]:
    """What was found, by the anomaly's name."""
    return {each.details["evidence"].anomaly: each.details["evidence"] for each in verdict.findings}
