"""Losing the index, or with it the tail of a smallfile, when everybody has gone: what the store makes of the rest.

The index is a cache: made anew it must tell what it told before, for every key the versions from the newest back to the
last removal. (What is older than a removal a compaction may have forgotten, or not yet.) A tail is what a power cut
takes from a store that is not durable, anywhere behind its floor: then nothing may be told that came after the first
transaction that is missing, and everything that came before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from harness.engines.base import Session
from harness.history import Left, Read, describe_id
from harness.stepped.program import Cast, Player
from kvs import generations, layout
from kvs.index import Index
from kvs.scanning import scan
from kvs.smallfile import Smallfiles

REBUILD: Final = "rebuild"
_NEVER: Final = 1 << 62


def examine(
    store: Path, what: str, cast: Cast, open_store: Callable[[], Session], kept: Mapping[str, Sequence[Read]]
) -> list[Left]:
    """Lose ``what``, open the store again, and compare what it tells with ``kept``. Nobody else has it open."""
    left: list[Left] = []
    try:
        until = _lose_tail(store) if what == "tail" else _NEVER
        for path in store.glob("index.*"):
            path.unlink()
        session = open_store()
        player = Player(0, cast)
        for key, item in enumerate(cast.items):
            versions = player.versions(key, session)
            if not _agree(kept[item], versions, until):
                told, then = _words([read for read in kept[item] if _time(read) < until]), _words(versions)
                left.append(
                    Left(cast.clock(), REBUILD, f"{item} was {told}, and without its index it is {then}")
                )
        left += [Left(cast.clock(), REBUILD, finding) for finding in session.verify(thorough=True)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the store's answer
        left.append(Left(cast.clock(), REBUILD, f"{type(error).__name__}: {error}"))
    return left


def _agree(before: Sequence[Read], after: Sequence[Read], until: int) -> bool:
    """Whether ``after`` is what is to be told of an item that was ``before``, when all from ``until`` on is lost."""
    left = [read for read in before if _time(read) < until]
    wanted, found = _back_to_removal(left), _back_to_removal(after)
    if any(_time(read) >= until for read in after):
        return False
    # Versions that gave way to some that are lost now come back behind the others.
    others = len(left) < len(before) >= layout.REVISIONS and len(wanted) == len(left)
    return found[: len(wanted)] == wanted if others else found == wanted


def _time(read: Read) -> int:
    return read.sequence or 0


def _back_to_removal(versions: Sequence[Read]) -> list[Read]:
    """The versions from the newest back to the last removal, or to where there never was one."""
    return list(takewhile(lambda read: read.writer is not None, versions))


def _words(versions: Sequence[Read]) -> str:
    return ", ".join(f"{describe_id(read.writer)} (T={read.sequence})" for read in versions) or "absent"


def _lose_tail(store: Path) -> int:
    """Zero a smallfile from a transaction on that is in the middle of those that need not be on the medium; returns its
    T, or one later than any where all must be.
    """
    index = generations.locate(store, write=False)
    smallfiles = Smallfiles(store, index.store_uuid, index.traits, mapped=False)
    try:
        found = _unsettled(index, smallfiles)
    finally:
        smallfiles.close()
        index.close()
    if not found:
        return _NEVER
    time, path, offset = found[len(found) // 2]
    with path.open("r+b") as file:
        length = file.seek(0, os.SEEK_END) - offset
        file.seek(offset)
        file.write(bytes(length))
    return time


def _unsettled(index: Index, smallfiles: Smallfiles) -> list[tuple[int, Path, int]]:
    """Every transaction above the floor: its T, its smallfile, and where it begins there."""
    floor, found = 0, []
    for file_id, region in generations.published(index, smallfiles).items():
        for log in scan(smallfiles, file_id, region.begin, region.end):
            floor = max(floor, log.floor)
            for time, offset in zip(log.commits.tolist(), log.offsets.tolist(), strict=True):
                record = smallfiles.commit_record(file_id, offset)
                assert record is not None, "a transaction that was scanned does not verify"
                found.append((time, smallfiles.path(file_id), record[1].extent_offset))
    return sorted(each for each in found if each[0] > floor)
