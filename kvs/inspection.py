"""What a store says of itself: its invariants checked, and its counters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kvs import check, durability, files, layout, locks, syncpoints, usage
from kvs.check import Finding
from kvs.errors import CorruptedStoreError
from kvs.generations import Generations, published
from kvs.index import Index
from kvs.locks import Held
from kvs.smallfile import Smallfiles
from kvs.writer import Writer

_EXAMINATIONS_MAX: Final = 50


def verify(view: Generations, smallfiles: Smallfiles, writer: Writer | None, *, log: bool) -> list[Finding]:
    """Check every invariant and return the findings; without a ``writer`` no lock is taken."""
    findings: list[Finding] = []

    def examine(held: Held | None, index: Index) -> None:
        if held is not None and writer is not None and index.durable:
            committed = index.words[layout.H_COMMITTED]
            durability.catch_up(index, smallfiles, writer.locks, committed, writer.lock_timeout_s)
        findings.extend(check.structure(index, smallfiles))
        if log:
            findings.extend(check.log(index, smallfiles))

    if writer is not None:
        writer.locked(examine)
    elif not _examine_between_commits(view, findings, examine):
        time = view.current().words[layout.H_INTENT]
        message = (
            f"the commit of T={time} is under way or its writer died; the structure was not checked, because only"
            " a handle that may write can finish it"
        )
        findings.append(Finding("commit.intent_clear", message))
    findings += check.contents(view, smallfiles, view.visible(), integrity=smallfiles.integrity)
    return [finding for finding in findings if finding.invariant != check.LAST] or findings


def _examine_between_commits(
    view: Generations, findings: list[Finding], examine: Callable[[Held | None, Index], None]
) -> bool:
    """Run ``examine`` until no commit came in between; false if that never happened."""
    for attempt in range(_EXAMINATIONS_MAX):
        index = view.current()
        words = index.words
        before = words[layout.H_COMMITTED]
        if not words[layout.H_INTENT]:
            examine(None, index)
            if words[layout.H_COMMITTED] == before and not words[layout.H_INTENT] and not index.retired:
                return True
            findings.clear()
        syncpoints.wait("VERIFY", attempt)
    return False


def count(index: Index) -> int:
    """How many keys are in the store now.

    Raises:
        CorruptedStoreError: the counter cannot be right.
    """
    found: int = index.words[layout.H_KEYS_LIVE]
    if found > index.slots:
        raise CorruptedStoreError(
            f"the index says that it holds {found} keys, and it has room for {index.slots}",
            path=str(index.path),
            offset_bytes=layout.H_KEYS_LIVE * layout.WORD,
        )
    return found


def stat(directory: Path, ranges: Path, view: Generations, smallfiles: Smallfiles) -> dict[str, Any]:
    """Counters and properties: see ``Store.stat``."""
    index = view.current()
    words = index.words
    used = usage.usage(index, smallfiles)
    regions = published(index, smallfiles)
    return {
        "path": str(directory),
        "format": layout.FORMAT_VERSION,
        "keys": words[layout.H_KEYS_LIVE],
        "transactions": view.visible(),
        "durable": index.durable,
        "integrity": smallfiles.integrity,
        "content_addressed": smallfiles.content_addressed,
        "generation": index.generation,
        "index_capacity": index.capacity,
        "index_used": words[layout.H_ENTRIES_USED],
        "index_bytes": index.entries + index.slots * layout.ENTRY_BYTES,
        "writers_max": index.writers_max,
        "smallfiles": len(regions),
        "smallfile_bytes": sum(region.end - region.begin for region in regions.values()),
        "live_bytes": used.live_bytes,
        "dead_bytes": used.dead_bytes,
        "disk_bytes": used.disk_bytes,
        "intent": words[layout.H_INTENT],
        "floor": words[layout.H_FLOOR],
        **_others(ranges, index),
    }


def _others(ranges: Path, index: Index) -> dict[str, Any]:
    """Who is there: by the locks that are held, not by what somebody wrote."""
    fd = locks.open_ranges(ranges)
    try:
        places = [i for i in range(index.writers_max) if locks.range_is_held(fd, locks.writer_range(i))]
        pinned = locks.pins(fd)
        compacting = locks.range_is_held(fd, locks.COMPACT)
    finally:
        files.close(fd)
    table = index.places
    return {
        "writers": [{"place": i, "pid": int(table[i, layout.W_PID])} for i in places],
        "lagging": [int(time) for time in table[:, layout.W_LAGGING] if time],
        "pins": pinned,
        "compacting": index.words[layout.H_COMPACT_PID] if compacting else 0,
    }
