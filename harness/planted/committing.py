"""Mistakes in the order of the steps of a commit."""

from __future__ import annotations

from typing import Final

from harness.planted.mutation import Bug, Mutation
from harness.planted.steps import INTEND, PUBLISH, RECORD, SHOW, bare
from kvs import index, writer

_WRITER: Final = writer.Writer
_INDEX: Final = index.Index

BUGS: Final[dict[str, Bug]] = {
    "record-after-publish": Bug(
        "the commit record is appended after the revisions were published",
        (
            Mutation(_WRITER, "commit", RECORD, "pass"),
            Mutation(_WRITER, "commit", PUBLISH, f"{bare(PUBLISH)}; {RECORD}"),
        ),
    ),
    "visible-before-publish": Bug(
        "C becomes T before the revisions are stored",
        (Mutation(_WRITER, "commit", PUBLISH, f"repair.show(held, index, time); {PUBLISH}"),),
    ),
    "time-before-location": Bug(
        "a revision's T is stored before its location",
        (
            Mutation(
                _INDEX,
                "_publish_one",
                'reach("publish.after_busy")',
                'words[word] = time; reach("publish.after_busy")',
            ),
            Mutation(
                _INDEX,
                "_publish_many",
                'reach("publish.after_busy")',
                'flat[time_words] = np.uint64(time); reach("publish.after_busy")',
            ),
        ),
    ),
    "busy-not-marked": Bug(
        "the revision that is overwritten is not marked BUSY before its location is (in a transaction of few keys)",
        (Mutation(_INDEX, "_publish_one", "words[word] = BUSY", "pass"),),
        campaign=False,
    ),
    "newest-overwritten": Bug(
        "a key's newest revision is overwritten instead of its oldest (in a transaction of few keys)",
        (Mutation(_INDEX, "_publish_one", "else min(times))", "else max(times))"),),
    ),
    "key-after-time": Bug(
        "a new key's words are stored after its first T (in a transaction of few keys)",
        (
            Mutation(
                _INDEX, "_publish_one", "words[word], words[word + 1] = _key_words(key)", "fresh = word"
            ),
            Mutation(_INDEX, "_publish_one", "times = _head(", "fresh = -1; times = _head("),
            Mutation(
                _INDEX,
                "_publish_one",
                'reach("publish.after_time")',
                'reach("publish.after_time")\n'
                "    if fresh >= 0: words[fresh], words[fresh + 1] = _key_words(key)",
            ),
        ),
        campaign=False,  # its entry has no key for two stores only
    ),
    "entry-taken-twice": Bug(
        "an entry that a probe found empty is filled without looking again whether it still is",
        (
            Mutation(
                _INDEX, "_publish_one", "known if known >= 0 else", "known if known >= 0 or known < -1 else"
            ),
        ),
        campaign=False,  # it takes two new keys with one place in the index, in one transaction
    ),
    "intent-after-publish": Bug(
        "the intent is stored after the revisions were published",
        (
            Mutation(_WRITER, "commit", INTEND, "pass"),
            Mutation(_WRITER, "commit", PUBLISH, f"{bare(PUBLISH)}; {INTEND}"),
        ),
    ),
    "tail-before-record": Bug(
        "the writer's tail is moved before the commit record is appended",
        (
            Mutation(
                _WRITER,
                "commit",
                RECORD,
                f"words[self.place + layout.W_TAIL] = offset + COMMIT_BYTES; {RECORD}",
            ),
        ),
    ),
    "cleared-before-visible": Bug(
        "the intent is cleared before C becomes T",
        (
            Mutation(
                _WRITER,
                "commit",
                'reach("commit.before_visible")',
                'words[layout.H_INTENT] = 0; reach("commit.before_visible")',
            ),
        ),
    ),
    "cleared-before-account": Bug(
        "the intent is cleared before the tail and the counters are stored",
        (Mutation(_WRITER, "commit", SHOW, f"words[layout.H_INTENT] = 0; {SHOW}"),),
    ),
}
