"""Rebuild: what was lost of the store and can be made again is the same as before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.checkers.findings import Findings
from harness.history import Left, Mark, Read, RunEvent, describe_id
from harness.verdict import Verdict

NAME: Final = "rebuild"
REBUILT: Final = "rebuilt"
"""What a ``Mark`` says when the rebuilt store was compared."""
LOST: Final = "lost"
FOUND: Final = "found"
"""What marks say when everybody was dead and the index was removed, and when somebody had opened the store again."""
_TOLD_MAX: Final = 5


def check(events: Sequence[RunEvent], rebuild_s: float) -> Verdict:
    """A store whose index is lost shows every item as before, and opens within ``rebuild_s`` seconds.

    Definition: the snapshot of everything before the loss and the one after it are equal, versions and numbers
    included, and the store's own check finds nothing. What was lost in the middle of a run is judged by the history,
    like everything else; here only how long it took. Complexity: O(events).

    Does not verify: power loss, since SIGKILL leaves the page cache whole.
    """
    found = Findings(NAME)
    for event in events:
        if isinstance(event, Left) and event.kind == NAME:
            found.violation(
                event.message, time=event.time, expected="the store as it was before its index was lost"
            )
    if not any(isinstance(event, Mark) and event.what == REBUILT for event in events):
        found.unknown("the store was not rebuilt and compared in the end")
    lost = intervals(events)
    for begin, end in lost:
        if (end - begin) / 1e9 > rebuild_s:
            found.violation(
                f"{(end - begin) / 1e9:.3f} s went by before anybody had opened the store whose index was lost",
                time=begin,
                expected=f"a store that is there again within {rebuild_s:g} s",
            )
    longest = max((end - begin for begin, end in lost), default=0)
    return found.verdict({"losses": len(lost), "longest_ms": round(longest / 1e6)})


def intervals(events: Sequence[RunEvent]) -> list[tuple[int, int]]:
    """From each loss in the middle of a run until the store was there again, or until the run was over."""
    found: list[tuple[int, int]] = []
    begin: int | None = None
    for event in events:
        if isinstance(event, Mark):
            if begin is not None:
                found.append((begin, event.time))
            begin = event.time if event.what == LOST else None
    return found


def differences(before: Sequence[Read], after: Sequence[Read]) -> list[str]:
    """In what two snapshots of the same items differ, in words; the first few of them."""
    shown = {read.item: read for read in after}
    wrong = [read for read in before if shown.get(read.item) != read]
    told = [
        f"{read.item} was {_told(read)} and is {_told(shown.get(read.item))}" for read in wrong[:_TOLD_MAX]
    ]
    if len(wrong) > _TOLD_MAX:
        told.append(f"and {len(wrong) - _TOLD_MAX:,} more items differ")
    return told


def _told(read: Read | None) -> str:
    if read is None:
        return "not read"
    number = "" if read.sequence is None else f" (T={read.sequence})"
    value = "" if read.value is None else f", {read.value!r:.60}"
    return f"{describe_id(read.writer)}{number}{value}"
