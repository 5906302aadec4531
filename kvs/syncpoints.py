"""Sync points: every place where the order of effects matters, by name.

A point is an ordinary call, ``syncpoints.reach("commit.after_lock")``, which costs one call of an empty
function until somebody installs a hook. A hook sees the name and may kill, stop or schedule its process
there. A point that stands before a write of many words or bytes carries the write as ``(store, position,
data)``: ``store(position, data, count)`` applies only its first ``count`` bytes (or words), as a process
that is killed in the middle would have. Lock waits go through ``wait``, so that a scheduler can own them.

The table below is the registry: reaching a name that is not in it is a bug that the tests find.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

Hook = Callable[..., None]
_YIELDS: Final = 16


class Listener(Protocol):
    """Something that builds code with the hook inside."""

    def hook_changed(self) -> None:
        """``hook`` is another one now."""


POINTS: dict[str, str] = {
    # Step 0 of a commit, without any shared lock.
    "prepare.before_extend": "the writer's smallfile is about to be made longer",
    "prepare.after_extend": "the smallfile has room; nothing of the transaction is in it yet",
    "prepare.before_append": "the records are about to be appended; carries the write",
    "prepare.after_append": "the records are in the smallfile, behind its published tail",
    # Steps 1 to 10, under COMMIT.
    "commit.before_lock": "prepared, COMMIT not yet asked for",
    "commit.after_lock": "COMMIT is held; a dead writer's intent may still stand",
    "commit.after_validate": "validated, and there is room; nothing shared was stored; carries the place of the intent",
    "commit.after_place": "the intent's writer, file and offset are stored; its T is still zero",
    "commit.after_intent": "intent.T is stored: from here a death leaves work for the survivors",
    "record.before_append": "the commit record is about to be appended; carries the write",
    "record.after_append": "the commit record is whole: from here the transaction happens whatever dies",
    "publish.before_key": "a new key is about to be stored in an empty entry; carries the write",
    "publish.after_key": "the key is stored; the entry still counts as empty until its first T",
    "publish.before_busy": "an entry's oldest revision is about to be marked BUSY; carries the write",
    "publish.after_busy": "the revision is BUSY",
    "publish.after_location": "its new location is stored",
    "publish.after_length": "its new length is stored",
    "publish.after_time": "its T is stored: this revision is whole, and invisible until C reaches T",
    "commit.before_visible": "every revision is whole; C is about to become T",
    "commit.after_visible": "C is T: all keys of the transaction became visible at once",
    "commit.after_tail": "the writer's tail includes the transaction; carries the counters",
    "commit.after_account": "the counters are stored",
    "commit.after_clear": "intent.T is zero again: nothing is left for the survivors",
    "commit.after_unlock": "COMMIT is free",
    # Step 11 of a commit, in a durable store. SYNC is that of the writer's place.
    "durable.after_lock": "SYNC is held, under COMMIT; nothing of the commit has happened yet",
    "durable.after_mark": "the place says that T is lagging; C is not T yet",
    "durable.before_sync": "COMMIT is free; the smallfile is about to be synced",
    "durable.after_sync": "the transaction is on the medium; the place still says that it is lagging",
    "durable.after_clear": "the place lags no more",
    "durable.after_unlock": "SYNC is free; D may be below T",
    "durable.before_raise": "D is about to be raised as far as it may go",
    "durable.after_raise": "D is raised, under DURABLE",
    "laggard.after_lock": "SYNC of a place is held whose writer died before its sync, or whose sync failed",
    "laggard.after_sync": "its transaction is on the medium",
    "laggard.after_clear": "its place lags no more",
    # Repair, under COMMIT, by whoever finds a dead writer's intent.
    "repair.after_found": "an intent of a dead writer was found",
    "repair.after_read": "its commit record was read and judged",
    "repair.before_discard": "the record is not whole: nothing was published, the intent is about to be cleared",
    "repair.after_discard": "the intent is cleared; its T will be used again",
    "repair.before_redo": "the record is whole: its revisions are about to be stored again where they are missing",
    "repair.after_redo": "every revision is whole",
    "repair.after_visible": "C is T on behalf of the dead",
    "repair.after_account": "its tail and counters are stored",
    "repair.after_clear": "intent.T is zero: the dead writer's work is finished",
    # Reading, without locks.
    "read.after_times": "the revisions' T were loaded and one was chosen; its location not yet",
    "read.after_location": "its location and length were loaded",
    "read.after_copy": "the value was copied; the revision was not yet checked again",
    # Opening and closing.
    "claim.after_lock": "a free writer place was locked; its words still name the dead owner",
    "claim.after_owner": "the place names its new owner, under COMMIT",
    "smallfile.before_header": "a new smallfile is about to get its header; carries the write",
    "smallfile.after_header": "the smallfile has its header; nobody has heard of it",
    "smallfile.before_seal": "the writer's smallfile is long enough; its end is about to be stored in its header",
    "smallfile.after_seal": "its end is stored: nobody appends to it any more",
    "snapshot.before_pin": "the snapshot's T is chosen; it is about to be pinned",
    "snapshot.after_pin": "the snapshot's T is pinned; whether it may still be is not known yet",
    "create.before_index": "a new store's index is about to be built under another name",
    "create.before_publish": "the index is complete; it is about to get its name",
    "create.after_publish": "the store exists",
    "close.before_clean": "(last writer) everything is synced; the clean mark is about to be stored; carries it",
    "close.after_clean": "the clean mark is stored",
    # Growth, under COMMIT.
    "grow.before_build": "the next generation of the index is about to be built aside",
    "grow.after_build": "it is built, under another name",
    "grow.after_rename": "it has its name; nobody looks at it",
    "grow.after_next": "the old generation names it as the next: it is the current one; its intent stands",
    "grow.after_retire": "readers of the old generation are told to move over",
    "grow.after_unlink": "the old generation has no name any more",
    "grow.after_clear": "the new generation's intent is zero: the growth is finished",
    # Compaction, under COMPACT; forgetting and swinging under COMMIT too.
    "compact.after_lock": "COMPACT is held",
    "compact.after_floor": "the floor, the goals and the horizon are chosen",
    "compact.before_forget": "older revisions of removed keys are about to be forgotten",
    "compact.after_forget": "they are forgotten",
    "compact.before_output": "a smallfile for what is moved is about to be made",
    "compact.after_output": "it is made, and the floor in it is on the medium",
    "compact.before_append": "a batch of records is about to be appended to it; carries the write",
    "compact.after_append": "the batch and its move are whole, behind the published end",
    "compact.after_end": "the published end includes the batch; nobody points to it yet",
    "compact.before_swing": "the locations of the batch's revisions are about to be stored; carries the write",
    "compact.after_swing": "whoever reads them reads the copies",
    "compact.before_begin": "all of a part was moved and is on the medium; its begin is about to be stored",
    "compact.after_begin": "the part is dead, and its file says so on the medium",
    "compact.before_punch": "the blocks of the dead part are about to be given back",
    "compact.after_punch": "they are given back",
    "compact.before_unlink": "a smallfile that is wholly dead is about to be removed",
    "compact.after_unlink": "it is removed",
    "compact.after_swept": "every dead record of before the pass is gone; removals of then may be forgotten themselves",
    # Rebuilding the index, under the gate.
    "rebuild.before_seal": "the prefix is known; the smallfiles' ends are about to be stored",
    "rebuild.after_seal": "they are stored, on the medium",
    "rebuild.before_index": "the new index is about to be built aside",
    "rebuild.after_index": "it is built, under another name",
    "rebuild.before_publish": "it is about to get its name, beside what there is of older ones",
    "rebuild.after_publish": "the store has an index again",
}
"""Every registered point and what is true there."""

SHARED: dict[str, str] = {
    "commit": "the lock COMMIT",
    "writers": "the locks of the writer places",
    "owner": "the pid of who holds COMMIT, for messages only",
    "visible": "C and D",
    "intent": "T, writer, file and offset of the intent",
    "counters": "keys that are live, entries that are used",
    "tails": "the published tails of the writer places",
    "places": "the owner and the file of each writer place",
    "keys": "the keys in the entries",
    "times": "the T of every revision",
    "locations": "the location and length of every revision",
    "records": "the smallfiles, and the bounds in their headers",
    "clean": "the clean mark and the boot id",
    "lagging": "the transactions that are not synced yet, by writer place",
    "next": "which generation has replaced an index",
    "horizon": "what compactions have come to: floor, horizon, how far was forgotten and swept, their newest file",
    "syncs": "the locks SYNC of the writer places",
    "durable": "the lock DURABLE",
    "compact": "the lock COMPACT, and the pid of who holds it",
    "pins": "the locks by which snapshots pin their T",
    "directory": "the names of the store's files",
    "medium": "what is on the medium",
}
"""What several processes read and write: the kinds of things in ``FOOTPRINTS``."""


class Touches(NamedTuple):
    """The kinds of shared things that a piece of code may read, and those that it may write (and read)."""

    reads: frozenset[str]
    writes: frozenset[str]


def _touches(reads: str = "", writes: str = "") -> Touches:
    return Touches(frozenset(reads.split()), frozenset(writes.split()))


_ANYTHING = " ".join(SHARED)
_ENTRIES = "keys times locations"
_LOCKING = "commit owner"
_AFTER_REPAIR = "counters next"
_FINISHED = (
    "intent commit writers clean visible durable syncs lagging places horizon records tails medium pins"
    " directory"
)

FOOTPRINTS: dict[str, Touches] = {
    "prepare.before_extend": _touches("", "records"),
    "prepare.after_extend": _touches("records"),
    "prepare.before_append": _touches("", "records"),
    "prepare.after_append": _touches(),
    "commit.before_lock": _touches("next", _LOCKING),
    "commit.after_lock": _touches(f"counters next compact {_ENTRIES}", _FINISHED),
    "commit.after_validate": _touches("", "intent"),
    "commit.after_place": _touches("", "intent"),
    "commit.after_intent": _touches("", "medium"),
    "record.before_append": _touches("", "records"),
    "record.after_append": _touches(f"{_ENTRIES}", "lagging"),
    "publish.before_key": _touches("", "keys"),
    "publish.after_key": _touches("", "times"),
    "publish.before_busy": _touches("", "times"),
    "publish.after_busy": _touches("", "locations"),
    "publish.after_location": _touches("", "locations"),
    "publish.after_length": _touches("", "times"),
    "publish.after_time": _touches(f"{_ENTRIES}", "lagging"),
    "commit.before_visible": _touches("", "visible"),
    "commit.after_visible": _touches("", "visible tails places"),
    "commit.after_tail": _touches("", "counters"),
    "commit.after_account": _touches("", "intent"),
    "commit.after_clear": _touches("intent", "commit"),
    "commit.after_unlock": _touches("", "writers"),
    "durable.after_lock": _touches(),
    "durable.after_mark": _touches("lagging", "visible"),
    "durable.before_sync": _touches("", "medium"),
    "durable.after_sync": _touches("", "lagging"),
    "durable.after_clear": _touches("", "syncs"),
    "durable.after_unlock": _touches("visible lagging next places medium", "syncs writers"),
    "durable.before_raise": _touches(f"next counters {_ENTRIES}", _FINISHED),
    "durable.after_raise": _touches(f"next counters {_ENTRIES}", _FINISHED),
    "laggard.after_lock": _touches("", _ANYTHING),
    "laggard.after_sync": _touches("", "lagging"),
    "laggard.after_clear": _touches("", _ANYTHING),
    "repair.after_found": _touches("intent visible records"),
    "repair.after_read": _touches("intent", "visible lagging"),
    "repair.before_discard": _touches("", "intent"),
    "repair.after_discard": _touches(f"{_AFTER_REPAIR} {_ENTRIES}", _FINISHED),
    "repair.before_redo": _touches(f"records {_ENTRIES}"),
    "repair.after_redo": _touches("intent visible", "visible lagging"),
    "repair.after_visible": _touches("intent", "tails places"),
    "repair.after_account": _touches("", "intent"),
    "repair.after_clear": _touches(f"{_AFTER_REPAIR} {_ENTRIES}", _FINISHED),
    "read.after_times": _touches("locations"),
    "read.after_location": _touches(f"visible records next horizon {_ENTRIES}"),
    "read.after_copy": _touches(
        f"visible intent tails places lagging next horizon pins medium {_ENTRIES}", "directory records"
    ),
    "claim.after_lock": _touches("next", _LOCKING),
    "claim.after_owner": _touches("intent places next directory", "commit clean"),
    "smallfile.before_header": _touches("", "records"),
    "smallfile.after_header": _touches("intent next", f"records horizon medium {_LOCKING}"),
    "smallfile.before_seal": _touches("", "records"),
    "smallfile.after_seal": _touches("visible", "records directory"),
    "snapshot.before_pin": _touches("pins"),
    "snapshot.after_pin": _touches(f"next horizon visible records pins medium {_ENTRIES}"),
    "create.before_index": _touches(),
    "create.before_publish": _touches(),
    "create.after_publish": _touches(),
    "close.before_clean": _touches("intent counters visible", "clean medium"),
    "close.after_clean": _touches("intent", "commit writers"),
    **{name: _touches("", _ANYTHING) for name in POINTS if name.startswith(("grow.", "compact."))},
    **{name: _touches("", _ANYTHING) for name in POINTS if name.startswith("rebuild.")},
}
"""What the code between a point and the next one that the process comes to may read and write; words, locks and bytes
that others look at, not what only its own handle has. A death at a point also frees the locks that the dead held."""

ACQUIRES: dict[str, str] = {
    "commit.before_lock": "COMMIT",
    "claim.after_lock": "COMMIT",
    "durable.before_raise": "DURABLE",
}
"""The points behind which a lock is waited for, before anything else is touched."""

APPENDS: frozenset[str] = frozenset(
    {"prepare.before_append", "record.before_append", "smallfile.before_header", "compact.before_append"}
)
"""The points that carry a write of bytes; the others that carry one carry words."""


def _nothing(*_: Any) -> None:
    """What a sync point costs when nobody listens."""


def _sleep(name: str, attempt: int) -> None:  # noqa: ARG001 - a scheduler's hook wants the name
    """Wait a little for a lock: yield first, because most waits end within a few, then sleep in steps that grow from
    20 us to 1 ms.

    There is no timed wait for an OFD lock (fcntl(2)), so the waiter polls. The cap keeps the hand-off
    short with eight writers on two cores; the growth keeps them from burning the holder's time.
    """
    if attempt < _YIELDS:
        os.sched_yield()
    else:
        time.sleep(min(20e-6 * 1.5 ** min(attempt - _YIELDS, 10), 1e-3))


hook: Hook | None = None
"""The installed hook, for code that is built anew for every hook."""

listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
"""Told after every ``install``; the hottest path keeps its points in a function that is built per hook."""

reach: Hook = _nothing
"""Call as ``syncpoints.reach(name)``, never imported by name: a hook replaces it."""

wait: Callable[[str, int], None] = _sleep
"""Call as ``syncpoints.wait(lock name, attempt)`` between two tries of a lock."""

freed: Callable[[str], None] | None = None
"""Where somebody listens, called with a lock's name after its holder let go of it (not when the holder dies)."""


def install(
    new_hook: Hook | None,
    waiter: Callable[[str, int], None] | None = None,
    listener: Callable[[str], None] | None = None,
) -> None:
    """Make ``new_hook(name[, write])`` run at every point of this process, ``waiter(lock, attempt)`` at every wait and
    ``listener(lock)`` after every release; ``None`` puts the empty functions and the sleeping wait back.
    """
    global freed, hook, reach, wait  # noqa: PLW0603 - the seam is this module's own names
    hook = new_hook
    reach = new_hook or _nothing
    wait = waiter or _sleep
    freed = listener
    for each in list(listeners):
        each.hook_changed()
