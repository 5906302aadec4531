"""Mistakes about what is on the medium when somebody is told of it, and in what is made of the smallfiles alone."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from harness.planted.steps import MARK, SHOW, bare
from kvs import durability, rebuild, repair, writer

_WRITER: Final = writer.Writer

BUGS: Final[dict[str, Bug]] = {
    "acknowledged-before-sync": Bug(
        "a durable commit raises D and returns before its smallfile is synced",
        (
            Mutation(_WRITER, "_make_durable", "appender.sync()", "pass"),
            Mutation(
                _WRITER,
                "_make_durable",
                "raise late.after_commit(time) from None",
                "raise late.after_commit(time) from None\n    appender.sync()",
            ),
        ),
        campaign=False,
        powerloss=True,
    ),
    "cleared-before-sync": Bug(
        "a place lags no more before its smallfile is synced, so that others raise D beyond it",
        (
            Mutation(
                _WRITER,
                "_make_durable",
                "appender.sync()",
                "durability.clear(index, self.slot); appender.sync()",
            ),
        ),
        campaign=False,
    ),
    "marked-after-visible": Bug(
        "a transaction is marked as lagging after C has become T",
        (
            Mutation(_WRITER, "commit", MARK, "pass"),
            Mutation(_WRITER, "commit", SHOW, f"{bare(SHOW)}; self.durable and {MARK}"),
        ),
        campaign=False,
    ),
    "repair-not-marked": Bug(
        "repair does not mark a dead writer's transaction as lagging before it makes it visible",
        (
            Mutation(
                repair,
                "finish",
                "durability.mark(held, index, words[layout.H_INTENT_WRITER], time, file_id, offset)",
                "pass",
            ),
        ),
        campaign=False,
    ),
    "raised-past-laggards": Bug(
        "D is raised to C whatever is lagging",
        (
            Mutation(
                durability,
                "_raise",
                "words[layout.H_DURABLE] = reached",
                "words[layout.H_DURABLE] = words[layout.H_COMMITTED]",
            ),
        ),
        campaign=False,
    ),
    "laggard-not-synced": Bug(
        "whoever finds a dead laggard takes its mark away without syncing its smallfile",
        (Mutation(durability, "sync_for", "files.sync_data(fd, path)", "pass"),),
        campaign=False,
    ),
    "rebuild-skips-gap-rule": Bug(
        "an index that is made anew shows transactions that came after one that is missing",
        (
            Mutation(
                rebuild,
                "_last",
                "compacted + (int(missing[0]) if missing.size else len(newer))",
                "int(newer[-1]) if len(newer) else compacted",
            ),
        ),
        campaign=False,
        powerloss=True,
    ),
}
