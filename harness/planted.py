"""Planted bugs: known mistakes in kvs that a campaign must catch, or the harness is not to be believed.

Each bug is a mutation of the store's own source: a piece of one function's text is replaced and the
function compiled again in its module. So a bug is always the current code but for one mistake, and one whose
text is no longer found fails loudly instead of testing nothing.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NamedTuple

from harness.errors import HarnessError
from harness.plan import WORKLOADS
from kvs import index, locks, reading, repair, smallfile, transaction

_mutated: dict[tuple[Any, str], str] = {}
"""What was mutated already in this process, as text: a second mutation builds on the first."""


class Mutation(NamedTuple):
    """Replace ``old``, which stands exactly once in the source of ``name`` in ``owner``, by ``new``."""

    owner: ModuleType | type
    name: str
    old: str
    new: str

    def apply(self) -> None:
        """Compile the mutated function and put it in the original's place.

        Raises:
            HarnessError: the text does not stand there exactly once.
        """
        original = inspect.getattr_static(self.owner, self.name)
        source = _mutated.get((self.owner, self.name)) or _SOURCES[self.owner, self.name]
        if source.count(self.old) != 1:
            raise HarnessError(
                f"planted bug: {self.old!r} stands {source.count(self.old)} times in {self.name}, not once; the"
                " store's source has changed, so the bug must be written anew"
            )
        module = self.owner if isinstance(self.owner, ModuleType) else sys.modules[self.owner.__module__]
        scope: dict[str, Any] = {}
        mutated = source.replace(self.old, self.new)
        _mutated[self.owner, self.name] = mutated
        code = compile(
            "from __future__ import annotations\n" + mutated,
            f"<planted {self.name}>",
            "exec",
        )
        exec(code, vars(module) | {"__name__": module.__name__}, scope)  # noqa: S102 - our own source
        mutant: Callable[..., Any] = scope[self.name]
        _replace_everywhere(self.owner, self.name, original, _rebound(mutant, module))


def _rebound(mutant: Any, module: ModuleType) -> Any:
    """The same function with the module's live namespace as its globals, so that it sees other mutations."""
    function = type(mutant)(
        mutant.__code__, vars(module), mutant.__name__, mutant.__defaults__, mutant.__closure__
    )
    function.__kwdefaults__ = mutant.__kwdefaults__
    return function


def _replace_everywhere(owner: ModuleType | type, name: str, original: Any, mutant: Any) -> None:
    """Rebind the name in its owner, and in every module of kvs that imported the function by name."""
    setattr(owner, name, mutant)
    for key, module in list(sys.modules.items()):
        if key.startswith("kvs.") and getattr(module, name, None) is original:
            setattr(module, name, mutant)


class Bug(NamedTuple):
    """One planted bug: what the mistake is, the mutations that make it, and where the default campaign is not the
    quickest to find it, another share of the work.
    """

    meaning: str
    mutations: tuple[Mutation, ...]
    workloads: tuple[str, ...] = WORKLOADS
    readers: int = 2

    def plant(self) -> None:
        """Put the bug into this process, which must not have opened a store yet."""
        for mutation in self.mutations:
            mutation.apply()


_WRITER: Final = transaction.Writer
_INDEX: Final = index.Index
_RECORD_STEP: Final = "self._record(held, time, offset, record)  # 5"
_PUBLISH_STEP: Final = "self._publish(held, time, tail, keys, extent, located)  # 6"
_SHOW_STEP: Final = "repair.show(held, index, time)  # 7"

BUGS: Final[dict[str, Bug]] = {
    "no-commit-lock": Bug(
        "COMMIT is not taken: two writers publish at once",
        (
            Mutation(
                locks.RangeLocks,
                "try_acquire",
                "fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
                "wanted is COMMIT or fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, wanted.lock)",
            ),
        ),
    ),
    "record-after-publish": Bug(
        "the commit record is appended after the revisions were published",
        (
            Mutation(_WRITER, "commit", _RECORD_STEP, "pass"),
            Mutation(_WRITER, "commit", _PUBLISH_STEP, f"{_PUBLISH_STEP[:-5]}; {_RECORD_STEP}"),
        ),
    ),
    "visible-before-publish": Bug(
        "C becomes T before the revisions are stored",
        (Mutation(_WRITER, "commit", _PUBLISH_STEP, f"repair.show(held, index, time); {_PUBLISH_STEP}"),),
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
            Mutation(_WRITER, "commit", _RECORD_STEP, "pass"),
            Mutation(
                _WRITER,
                "commit",
                "extent, tail = self._prepare(keys, values)  # 0",
                "extent, tail = encode(keys, values, integrity=self.integrity), words[self.tail_word]; "
                "self.appender.reserve(tail + extent[1] + COMMIT_BYTES)",
            ),
            Mutation(
                _WRITER,
                "commit",
                _PUBLISH_STEP[:-5],
                f"{_RECORD_STEP[:-5]}; self.appender.store(tail, extent[0]); {_PUBLISH_STEP[:-5]}",
            ),
        ),
    ),
    "base-not-validated": Bug(
        "a commit does not look whether what it fetched has changed",
        (Mutation(_WRITER, "_validate", "if expected:", "if False:"),),
    ),
    "reader-does-not-recheck": Bug(
        "a reader does not look at the revision again after it copied the value",
        (
            Mutation(
                _INDEX, "unchanged", "return words[revision.time_word] == revision.time and", "return True or"
            ),
            Mutation(
                reading, "getter", "if time_words[(entry >> 3) + ring] == time else careful(key, default)", ""
            ),
            Mutation(reading, "read_many", "for i in np.flatnonzero(again).tolist():", "for i in suspect:"),
        ),
        workloads=("bank", "register"),
        readers=4,
    ),
    "snapshot-ignored": Bug(
        "a reader takes the newest revision whether its snapshot includes it or not",
        (
            Mutation(_INDEX, "find", "if time > snapshot:", "if time == BUSY:"),
            Mutation(_INDEX, "find", "t for t in times if t <= snapshot", "t for t in times if t != BUSY"),
            Mutation(
                reading, "read_many", "np.where(times <= snapshot, times, 0)", "np.where(times > 0, times, 0)"
            ),
        ),
    ),
    "posix-locks": Bug(
        "POSIX record locks instead of open-file-description locks",
        (
            Mutation(locks.RangeLocks, "try_acquire", "fcntl.F_OFD_SETLK", "fcntl.F_SETLK"),
            Mutation(locks.RangeLocks, "release", "fcntl.F_OFD_SETLK", "fcntl.F_SETLK"),
        ),
    ),
}
"""Every planted bug by name."""

_SOURCES: Final = {
    (mutation.owner, mutation.name): textwrap.dedent(
        inspect.getsource(inspect.getattr_static(mutation.owner, mutation.name))
    )
    for bug in BUGS.values()
    for mutation in bug.mutations
}
"""The originals, read once before any fork: a file that is edited during a campaign must not matter."""
