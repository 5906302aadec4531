"""Mistakes in growth, rollover and compaction, and in what keeps readers from noticing them."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from kvs import compaction, forgetting, generations, growth, writer

_PASS: Final = compaction._Pass

BUGS: Final[dict[str, Bug]] = {
    "growth-without-commit": Bug(
        "COMMIT is free between the building of the next generation and the store that makes it current",
        (
            Mutation(
                growth,
                "grow",
                'syncpoints.reach("grow.after_build")',
                'locks.release(held); syncpoints.reach("grow.after_build"); locks.acquire(COMMIT, timeout_s)',
            ),
        ),
        campaign=False,
    ),
    "growth-not-retired": Bug(
        "the old generation goes on to say what was visible when it was replaced",
        (
            Mutation(generations, "retire", "old.words[layout.H_DURABLE] = 0", "pass"),
            Mutation(generations, "retire", "old.words[layout.H_COMMITTED] = 0", "pass"),
        ),
        campaign=False,
    ),
    "growth-not-finished": Bug(
        "survivors do not retire the old generation for a writer that died while it grew the index",
        (Mutation(growth, "_build", "new.words[layout.H_INTENT] = generations.UNFINISHED", "pass"),),
        campaign=False,
    ),
    "growth-drops-removed": Bug(
        "the next generation is built without the keys whose newest revision is a removal",
        (
            Mutation(
                growth,
                "_kept",
                "(places[rows, 2 * newest] == 0) & (",
                "(places[rows, 2 * newest] != 1) & (",
            ),
        ),
        campaign=False,
    ),
    "sealed-file-reopened": Bug(
        "whoever takes over a place appends to its smallfile also when that is sealed",
        (
            Mutation(
                writer.Writer,
                "room",
                "not self.smallfiles.bound(published, layout.B_END)",
                "not self.smallfiles.bound(published, layout.B_BEGIN)",
            ),
        ),
        campaign=False,
    ),
    "punch-before-swing": Bug(
        "the space of what is moved is given back before the locations are swung to the copies",
        (
            Mutation(
                _PASS,
                "empty",
                "self._swing(moved)\n    if kept + pending < live:",
                "self._advance(file_id, region.end)\n    if region.sealed: self._remove(file_id)\n"
                "    self._swing(moved)\n    return\n    if kept + pending < live:",
            ),
        ),
        campaign=False,
    ),
    "swing-without-check": Bug(
        "a copy's location is stored although the revision was overwritten since it was looked up",
        (
            Mutation(
                _PASS,
                "_move",
                "rows = rows.part(live)",
                "_Pass.rings = getattr(_Pass, 'rings', {}) | {int(location): int((row == location).argmax())"
                " for location, row in zip(log.locations, places)}; rows = rows.part(live)",
            ),
            Mutation(
                _PASS,
                "_store",
                "(times == rows.times[:, None]) & (locations == rows.locations[:, None])",
                "np.arange(4) == np.array([_Pass.rings[int(one)] for one in rows.locations], int)[:, None]",
            ),
        ),
        campaign=False,
    ),
    "pin-ignored": Bug(
        "a compaction does not look which transactions snapshots have pinned",
        (Mutation(_PASS, "_oldest_pin", "below if pinned is None else pinned", "below"),),
        campaign=False,
    ),
    "tombstone-dropped-too-early": Bug(
        "a removal is forgotten while a smallfile still holds older records of its key",
        (Mutation(forgetting.Forgetting, "_plan", "removed & (times <= self.swept) &", "removed &"),),
        campaign=False,
    ),
}
