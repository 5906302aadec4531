"""Mistakes in the repair by survivors."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from harness.planted.steps import PUBLISH, RECORD, VALIDATED, bare
from kvs import index, repair, smallfile, writer

_WRITER: Final = writer.Writer
_INDEX: Final = index.Index

BUGS: Final[dict[str, Bug]] = {
    "intent-ignored": Bug(
        "survivors clear a dead writer's intent without finishing its work",
        (
            Mutation(
                repair,
                "finish",
                "found = smallfiles.commit_record(file_id, offset)",
                "found = None; committed = 0",
            ),
        ),
    ),
    "repair-not-idempotent": Bug(
        "repair publishes keys again that already hold T",
        (
            Mutation(_INDEX, "_publish_one", "if time in times:", "if False:"),
            Mutation(_INDEX, "_publish_many", "~(times == time).any(axis=1)", "np.ones(len(times), bool)"),
        ),
    ),
    "repair-stops-short": Bug(
        "repair redoes only the first half of the dead writer's keys",
        (
            Mutation(
                repair,
                "_redo",
                "index.publish(held, time, keys, locations, lengths)",
                "n = (len(keys) + 1) // 2; index.publish(held, time, keys[:n], locations[:n], lengths[:n])",
            ),
        ),
    ),
    "repair-forgets-tail": Bug(
        "repair does not move the dead writer's tail, so the next owner overwrites published records",
        (
            Mutation(
                repair,
                "finish",
                "offset + layout.COMMIT_BYTES,",
                "min(offset + layout.COMMIT_BYTES, commit.extent_offset),",
            ),
        ),
    ),
    "counters-added-up": Bug(
        "repair adds to the counters instead of storing what they must be",
        (Mutation(repair, "finish", "commit.keys_live,", "words[layout.H_KEYS_LIVE] + commit.records,"),),
    ),
    "record-not-checked": Bug(
        "a commit record is believed without looking at the hash of its records",
        (
            Mutation(
                smallfile.Smallfiles,
                "commit_record",
                "return found if state.digest() == commit.records_hash else None",
                "return found",
            ),
            Mutation(_WRITER, "commit", RECORD, "pass"),
            Mutation(
                _WRITER,
                "commit",
                "extent, tail, appender = self._prepare(keys, values)  # 0",
                "extent = encode(keys, values, integrity=self.integrity); size = extent[1] + COMMIT_BYTES; "
                "appender, tail = self.room(size); tail + size > appender.room and appender.reserve(tail + size)",
            ),
            Mutation(
                _WRITER,
                "commit",
                PUBLISH,
                f"{bare(RECORD)}; appender.store(tail, extent[0]); {PUBLISH}",
            ),
        ),
    ),
    "stale-record-redone": Bug(
        "the intent's T is stored before its place, and repair redoes whatever record stands there, whatever its T",
        (
            Mutation(_WRITER, "_intend", "words[layout.H_INTENT] = time", "pass"),
            Mutation(
                _WRITER,
                "_intend",
                "words[layout.H_INTENT_WRITER] = self.slot",
                "words[layout.H_INTENT] = time; syncpoints.reach('commit.after_intent'); "
                "words[layout.H_INTENT_WRITER] = self.slot",
            ),
            Mutation(repair, "finish", "if found is None or found[0] != time:", "if found is None:"),
        ),
    ),
    "repair-clears-too-early": Bug(
        "repair clears the intent before it makes C = T",
        (
            Mutation(
                repair,
                "finish",
                "_redo(held, index, smallfiles, time, file_id, commit)",
                "_redo(held, index, smallfiles, time, file_id, commit); words[layout.H_INTENT] = 0",
            ),
        ),
    ),
    "repair-forgets-removal": Bug(
        "repair publishes a dead writer's removals as empty values",
        (
            Mutation(
                repair,
                "extent",
                "layout.TOMBSTONE if tag >> layout.KIND_SHIFT == layout.KIND_REMOVAL else length",
                "length",
            ),
        ),
    ),
    "repair-after-validation": Bug(
        "a commit validates and chooses its T before it finishes a dead writer's work",
        (
            Mutation(_WRITER, "_arrive", "if words[layout.H_INTENT]:", "if False:"),
            Mutation(
                _WRITER,
                "commit",
                VALIDATED,
                "repair.finish(held, index, self.smallfiles, self.locks, self.lock_timeout_s); " + VALIDATED,
            ),
        ),
    ),
}
