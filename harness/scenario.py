"""What a schedule schedules: a few processes, each with a few transactions, as plain data.

A scenario says who does what, never in which order: that is the schedule's business. It is small on purpose: what a
crash in the middle of an index update can do to others shows with two or three processes, if the order is chosen well
enough (the small scope hypothesis; Jackson, "Software Abstractions", 2006).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from harness.errors import UsageError

KEYS_MAX: Final = 256
PROCESSES_MAX: Final = 16


class Transaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation of one process. Keys are numbers from 0.

    ``put``: writes ``writes`` blindly, in one transaction. ``update``: fetches ``reads``, then writes ``writes`` and
    removes ``deletes``, and commits if nothing that was fetched has changed. ``read``: ``reads`` in one snapshot, each
    key on its own and then all together. ``get``: ``reads`` one by one, each as it is at that moment. ``history``:
    every version that the store still keeps of ``reads``. ``hold``: as ``read``, and the snapshot stays open until the
    process has done everything else; then it is read again and must show the same. ``compact``: one pass of the store's
    compaction.
    """

    kind: Literal["put", "update", "read", "get", "history", "hold", "compact"]
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    deletes: tuple[int, ...] = ()

    @property
    def keys(self) -> set[int]:
        """Every key that it touches."""
        return {*self.reads, *self.writes, *self.deletes}


class Program(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one process does. ``joins``: it begins after so many deaths (0: it is there from the start, and its opening
    is not scheduled). ``closes``: it closes the store in the end instead of just ending.
    """

    role: Literal["writer", "reader"]
    transactions: tuple[Transaction, ...] = ()
    io: Literal["mmap", "append"] = "mmap"
    joins: int = 0
    closes: bool = False


class Scenario(msgspec.Struct, frozen=True, omit_defaults=True):
    """One small world. ``revisions``: how often each key was written before the start (its length is how many keys
    there are; 0: the key is new). ``collide``: all keys begin their probe in the index at the same entry. ``kills``:
    how many processes may be killed. ``torn``: a kill may leave part of the write that its point stands before.

    ``capacity``: the index grows when there are more keys (0: never). ``smallfile_bytes``: a smallfile that would be
    longer is sealed (0: never). ``padding``: so many bytes are in every value beside what is needed. ``lost``: what is
    lost when everybody has gone, whereupon the index is made anew: the ``index``, or as in a power cut also a ``tail``
    of a smallfile.
    """

    name: str
    programs: tuple[Program, ...]
    revisions: tuple[int, ...]
    collide: bool = False
    durable: bool = False
    kills: int = 1
    torn: bool = True
    capacity: int = 0
    smallfile_bytes: int = 0
    padding: int = 0
    lost: Literal["", "index", "tail"] = ""

    def check(self) -> Scenario:
        """This scenario, if it makes sense.

        Raises:
            UsageError: it does not; the message says why.
        """
        if not 1 <= len(self.programs) <= PROCESSES_MAX:
            raise UsageError(
                f"scenario {self.name}: {len(self.programs)} processes, not 1 to {PROCESSES_MAX}"
            )
        if not 1 <= len(self.revisions) <= KEYS_MAX:
            raise UsageError(f"scenario {self.name}: {len(self.revisions)} keys, not 1 to {KEYS_MAX}")
        for number, program in enumerate(self.programs, 1):
            for transaction in program.transactions:
                if not transaction.keys <= set(range(len(self.revisions))):
                    raise UsageError(f"scenario {self.name}: process {number} uses a key that is not there")
                changes = transaction.writes or transaction.deletes or transaction.kind == "compact"
                if program.role == "reader" and changes:
                    raise UsageError(f"scenario {self.name}: process {number} is a reader that writes")
        if all(program.joins for program in self.programs):
            raise UsageError(f"scenario {self.name}: nobody is there from the start")
        if self.lost == "tail" and self.durable:
            raise UsageError(f"scenario {self.name}: a durable store must not lose a tail")
        if min(self.capacity, self.smallfile_bytes, self.padding) < 0:
            raise UsageError(f"scenario {self.name}: a size below zero")
        return self

    def item(self, key: int) -> str:
        """The key's name in histories."""
        return f"key/{key}"
