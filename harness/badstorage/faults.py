"""What can go wrong with a system call, and how a run is written down in one line so that it can be done again."""

from __future__ import annotations

from typing import Final, NamedTuple

from harness.errors import UsageError

FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("EMFILE", "ENOSPC", "EIO", "EACCES"),
    "listdir": ("EMFILE", "EIO"),
    "fstat": ("EIO",),
    "stat": ("EIO",),
    "pread": ("EIO", "one-byte", "half"),
    "pwritev": ("ENOSPC", "EDQUOT", "EIO", "one-byte", "half", "done-EIO"),
    "posix_fallocate": ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "full"),
    "ftruncate": ("EFBIG", "EIO"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT", "done-EIO"),
    "fsync": ("EIO", "ENOSPC", "done-EIO"),
    "mmap": ("ENOMEM",),
    "fallocate": ("EIO", "ENOSPC", "EOPNOTSUPP", "EINTR"),
    "rename": ("EIO", "ENOSPC", "done-EIO"),
    "unlink": ("EIO", "EACCES", "done-EIO"),
    "mkdir": ("EIO", "ENOSPC", "EACCES"),
    "close": ("done-EIO",),
}
"""The calls that are replaced, and what each of them can be made to do. ``one-byte`` and ``half``: it does only part of
its work, and says so. ``done-EIO``: it does all of it and says EIO (close(2) lets go of the descriptor whatever it
says). ``full``: ENOSPC now and for everything that needs new blocks from then on. A sync that fails otherwise has left
on the medium what was there before, and the kernel takes the pages for clean.
"""
FULL: Final = frozenset({"ENOSPC", "EDQUOT", "EFBIG", "full"})
"""Faults of which the store must say that there is no room."""


class Fault(NamedTuple):
    """Call number ``call`` of a run (from 0) does ``error`` instead of what it was asked for."""

    call: int
    error: str

    def __str__(self) -> str:
        return f"{self.call}:{self.error}"


class Run(NamedTuple):
    """One run: the workload, its variant ("mmap", "append", and with "-durable"), and its faults."""

    workload: str
    variant: str
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return " ".join((f"{self.workload}/{self.variant}", *map(str, self.faults)))


VARIANTS: Final = ("mmap", "append", "mmap-durable", "append-durable")


def parse(line: str) -> Run:
    """The run of a replay line such as ``writes/mmap-durable 17:EIO 23:ENOSPC``. Raises UsageError."""
    name, *rest = line.split() or [""]
    workload, _, variant = name.partition("/")
    known = {error for errors in FAULTS.values() for error in errors}
    faults = []
    for text in rest:
        number, _, error = text.partition(":")
        if not number.isdecimal() or error not in known:
            raise UsageError(
                f"{text!r} is no fault; one is written 17:EIO, with one of {', '.join(sorted(known))}"
            )
        faults.append(Fault(int(number), error))
    if variant not in VARIANTS:
        raise UsageError(
            f"{line!r} is no run; one begins with WORKLOAD/VARIANT, a variant is one of {VARIANTS}"
        )
    return Run(workload, variant, tuple(faults))
