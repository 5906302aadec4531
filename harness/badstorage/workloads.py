"""What is done with a store while its device fails: short workloads that together make every call of the seam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from harness.badstorage.session import Changes, Session

Step = tuple[str, Callable[[Session], object]]


class Workload(NamedTuple):
    """``prepare`` is done once, with a device that is well, and its handles are closed; then ``steps``, one by one."""

    meaning: str
    prepare: tuple[Step, ...]
    steps: tuple[Step, ...]


def _put(changes: Changes, name: str = "a") -> Step:
    return f"a commit of {len(changes)} keys", lambda session: session.put(changes, name)


def _filled(first: int, count: int, size: int = 40) -> Changes:
    return {key: bytes([key % 251]) * size for key in range(first, first + count)}


_OPEN: Final[Step] = ("opening", lambda session: session.store())
_CLOSE: Final[Step] = ("closing", lambda session: session.close())
_LOOK: Final[Step] = ("reading", lambda session: session.look())
_COMPACT: Final[Step] = ("compacting", lambda session: session.store().compact())
_VERIFY: Final[Step] = ("verifying", lambda session: session.store().verify())
_LARGE: Final = {5: b"long" * 17_500}

WORKLOADS: Final[dict[str, Workload]] = {
    "writes": Workload(
        "a new store: one key, many, a long value in a smallfile of its own, a removal, and all over again",
        (),
        (
            _OPEN,
            _put(_filled(1, 1)),
            _put(_filled(1, 30)),
            _put(_LARGE),
            _LOOK,
            _put({3: None, 4: b"another"}),
            _CLOSE,
            _OPEN,
            _put(_filled(2, 2, 90)),
            _VERIFY,
            _CLOSE,
        ),
    ),
    "grows": Workload(
        "the index grows, and another handle follows",
        (_put(_filled(1, 30)),),
        (
            _put(_filled(1, 1, 3), "b"),
            _put(_filled(31, 40)),
            ("reading by another handle", lambda session: session.look("b")),
            _put(_filled(2, 1, 5), "b"),
            _LOOK,
            _CLOSE,
        ),
    ),
    "compacts": Workload(
        "smallfiles that are mostly dead, some sealed, are compacted, and once more",
        (
            _put(_filled(1, 20, 1500)),
            _put(_filled(1, 20, 1400)),
            _put(_filled(1, 18, 1300)),
            _put(_filled(3, 20, 1200)),
            _put(dict.fromkeys(range(5, 9))),
            *(_put(_filled(10, 10, size)) for size in range(900, 904)),
        ),
        (_COMPACT, _put(_filled(1, 3)), _LOOK, _put({1: None}), _COMPACT, _VERIFY, _CLOSE),
    ),
    "punches": Workload(
        "a smallfile is dead for more than a mebibyte, and a hole is punched",
        (
            ("options", lambda session: session.options.update(smallfile_bytes=1 << 24)),
            _put(_filled(1, 3, 500_000)),
            *(_put(_filled(1, 3, size)) for size in (30, 31, 32, 33)),
        ),
        (
            ("options", lambda session: session.options.update(smallfile_bytes=1 << 24)),
            _COMPACT,
            _put(_filled(1, 1)),
            _LOOK,
            _CLOSE,
        ),
    ),
    "lengthens": Workload(
        "a smallfile becomes longer than its maps",
        (
            ("options", lambda session: session.options.update(smallfile_bytes=1 << 24)),
            _put(_filled(1, 2, 400_000)),
        ),
        (
            ("options", lambda session: session.options.update(smallfile_bytes=1 << 24)),
            _put(_filled(3, 1)),
            _put(_filled(1, 1, 400_000)),
            _put(_filled(2, 1, 20_000)),
            _LOOK,
            _CLOSE,
        ),
    ),
    "copies": Workload(
        "reading, a backup, a dump and the counters",
        (_put(_filled(1, 30)), _put(_LARGE), _put({7: None})),
        (
            _LOOK,
            ("a backup", lambda session: session.backup()),
            ("a dump", lambda session: session.dump()),
            ("stat", lambda session: session.store().stat()),
            _put(_filled(1, 1)),
            _CLOSE,
        ),
    ),
    "returns": Workload(
        "the index is lost and made again, and the store goes on",
        (_put(_filled(1, 30)), _put(_LARGE), _put({7: None}), _CLOSE, _put({8: b"by another"})),
        (
            ("losing the index", lambda session: session.lose_index()),
            _OPEN,
            _LOOK,
            _put(_filled(3, 4)),
            _CLOSE,
        ),
    ),
    "shares": Workload(
        "two handles write in turn, so that one makes good what the other could not sync",
        (),
        (
            _put(_filled(1, 3)),
            _put({1: b"b", 2: b"b"}, "b"),
            _put({1: b"a", 2: b"a"}),
            _put({2: b"b again"}, "b"),
            _put({1: b"once more"}),
            ("reading by another handle", lambda session: session.look("b")),
            ("closing another handle", lambda session: session.close("b")),
            _put({2: b"the last"}),
            _CLOSE,
        ),
    ),
}
"""Every workload by its name."""
