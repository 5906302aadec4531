"""The steps of ``harness bench --large``, each a function that a process of its own runs once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

import kvs
from harness.bench_busy import BATCH, key_of, value_of
from harness.errors import HarnessError
from kvs import syncpoints

VALUE_BYTES: Final = 16
KILLS: Final = {
    "commit.after_intent": False,
    "record.after_append": True,
    "commit.before_visible": True,
    "durable.before_sync": True,
}
"""Where a writer is killed inside of a commit, and whether its transaction must be there afterwards."""
_GETS_MAX: Final = 1_000_000
_OVERWRITTEN: Final = 10
"""One key of so many is written anew, which is where the dead records come from."""
_TIMES: Final = 8
_CHECKED: Final = 10_000


class Job(msgspec.Struct, frozen=True):
    """What to do (a key of ``JOBS``) with the store at ``path``, which has or gets ``keys`` keys, ``batch`` of them in
    a transaction; ``version``: that of what a killed writer writes.
    """

    what: str
    path: Path
    keys: int
    seed: int
    batch: int = BATCH
    durable: bool = False
    point: str = ""
    version: int = 0


class Done(msgspec.Struct, kw_only=True):
    """What a job measured: its name, the time of what counts, how many keys or calls that were, what it has to say
    beside, and the most memory outside of files and shared maps.
    """

    what: str
    seconds: float
    count: int = 1
    said: dict[str, int] = {}
    anonymous_bytes: int = 0


class Clock:
    """Adds up the time of the blocks that are measured."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time what is inside."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


def load(job: Job) -> Done:
    """A new store with all keys; closing it counts, too."""
    clock = Clock()
    with kvs.open(job.path, "n", durable=job.durable) as store:
        for first in range(0, job.keys, job.batch):
            numbers = range(first, min(first + job.batch, job.keys))
            pairs = [(key_of(each), value_of(each, 0, VALUE_BYTES)) for each in numbers]
            with clock.running():
                store.put_many(pairs)
        with clock.running():
            store.close()
    return Done(what=job.what, seconds=clock.seconds, count=job.keys)


def get(job: Job) -> Done:
    """Random keys one by one, each looked at."""
    clock, random = Clock(), Random(job.seed)
    count = min(job.keys, _GETS_MAX)
    with kvs.open(job.path, "r") as store:
        for first in range(0, count, BATCH):
            numbers = [random.randrange(job.keys) for _ in range(min(BATCH, count - first))]
            keys = [key_of(number) for number in numbers]
            with clock.running():
                values = [store.get(key) for key in keys]
            _expect(values == _values(numbers, 0), "a value is not what was put")
    return Done(what=job.what, seconds=clock.seconds, count=count)


def iterate(job: Job) -> Done:
    """All keys and values of one snapshot, one after another."""
    clock, count = Clock(), 0
    with kvs.open(job.path, "r") as store, store.snapshot() as snapshot:
        with clock.running():
            for _, value in snapshot.items():
                count += len(value) == VALUE_BYTES
        _expect(count == job.keys, f"{count} keys with their values instead of {job.keys}")
    return Done(what=job.what, seconds=clock.seconds, count=job.keys)


def overwrite(job: Job) -> Done:
    """Every tenth key anew, eight times: with the first one five more than a key keeps."""
    clock, numbers = Clock(), range(0, job.keys, _OVERWRITTEN)
    with kvs.open(job.path, "w") as store:
        for version in range(1, _TIMES + 1):
            for first in range(0, len(numbers), BATCH):
                batch = numbers[first : first + BATCH]
                pairs = [(key_of(each), value_of(each, version, VALUE_BYTES)) for each in batch]
                with clock.running():
                    store.put_many(pairs)
    return Done(what=job.what, seconds=clock.seconds, count=len(numbers) * _TIMES)


def compact(job: Job) -> Done:
    """One compaction."""
    clock = Clock()
    with kvs.open(job.path, "w") as store:
        told, before = store.stat(), _disk_bytes(job.path)
        with clock.running():
            store.compact()
        freed = before - _disk_bytes(job.path)
    said = {"live_bytes": told["live_bytes"], "dead_bytes": told["dead_bytes"], "freed_bytes": freed}
    return Done(what=job.what, seconds=clock.seconds, said=said)


def reopen(job: Job) -> Done:
    """Open for writing after a clean close, and get one key."""
    clock, number = Clock(), Random(job.seed).randrange(job.keys) // _OVERWRITTEN * _OVERWRITTEN
    with contextlib.ExitStack() as stack:
        with clock.running():
            store = stack.enter_context(kvs.open(job.path, "w"))
            value = store.get(key_of(number))
        _expect([value] == _values([number], _TIMES), "a value is not what was put")
    return Done(what=job.what, seconds=clock.seconds)


def verify(job: Job) -> Done:
    """Every invariant, of all records."""
    clock = Clock()
    with kvs.open(job.path, "w") as store:
        with clock.running():
            findings = store.verify()
        _expect(not findings, f"verify found {findings[:1]}")
        _expect(len(store) == job.keys, f"{len(store)} keys instead of {job.keys}")
    return Done(what=job.what, seconds=clock.seconds, count=job.keys)


def rebuild(job: Job) -> Done:
    """Open a store whose index is gone."""
    clock = Clock()
    for index in job.path.glob("index.*"):
        index.unlink()
    with contextlib.ExitStack() as stack:
        with clock.running():
            store = stack.enter_context(kvs.open(job.path, "w"))
        _expect(len(store) == job.keys, f"{len(store)} keys instead of {job.keys}")
        numbers = Random(job.seed).sample(range(job.keys), min(job.keys, _CHECKED))
        found = store.get_many([key_of(number) for number in numbers])
        _expect(found == _values(numbers, 0), "a value is not what was put")
    return Done(what=job.what, seconds=clock.seconds, count=job.keys)


def repair(job: Job) -> Done:
    """Open a store whose only writer was killed inside a commit, and put one key."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        with clock.running():
            store = stack.enter_context(kvs.open(job.path, "w"))
            store[key_of(0)] = value_of(0, job.version, VALUE_BYTES)
        _expect_whole(store, job)
    return Done(what=job.what, seconds=clock.seconds)


def _expect_whole(store: kvs.Store, job: Job) -> None:
    """The dead writer's transaction is there as a whole, or not at all."""
    numbers = _killed(job)
    found = store.get_many([key_of(number) for number in numbers])
    wanted = _values(numbers, job.version)
    there = sum(value == each for value, each in zip(found, wanted, strict=True))
    expected = len(found) if KILLS[job.point] else 0
    _expect(there == expected, f"{there} of {len(found)} keys of a killed commit instead of {expected}")


def _killed(job: Job) -> range:
    """The keys of the transaction whose writer is killed."""
    return range(1, min(BATCH + 1, job.keys))


def _values(numbers: Sequence[int], version: int) -> list[bytes]:
    return [value_of(number, version, VALUE_BYTES) for number in numbers]


JOBS: Final[dict[str, Callable[[Job], Done]]] = {
    each.__name__: each for each in (load, get, iterate, overwrite, compact, reopen, verify, rebuild, repair)
}


def run(pipe: Any, job: Job) -> None:
    """Do it and answer with what was measured."""
    pipe.send(JOBS[job.what](job))


def survive(pipe: Any, job: Job) -> None:
    """Open the store and say so; put one key when told, which is what the time is of."""
    clock = Clock()
    with kvs.open(job.path, "w") as store:
        pipe.send(None)
        pipe.recv()
        with clock.running():
            store[key_of(0)] = value_of(0, job.version, VALUE_BYTES)
        _expect_whole(store, job)
    pipe.send(Done(what=f"{job.point}, a survivor", seconds=clock.seconds))


def die(pipe: Any, job: Job) -> None:
    """Write many keys in one transaction and be killed at the point. Answers only if it was not reached."""

    def kill(name: str, *_: object) -> None:
        if name == job.point:
            os.kill(os.getpid(), signal.SIGKILL)

    numbers = _killed(job)
    keys = [key_of(number) for number in numbers]
    with kvs.open(job.path, "w") as store:
        syncpoints.install(kill)
        store.put_many(zip(keys, _values(numbers, job.version), strict=True))
    pipe.send(f"{job.point} was never reached")


def _disk_bytes(path: Path) -> int:
    return sum(file.stat().st_blocks for file in path.iterdir()) * 512


def _expect(true: bool, words: str) -> None:
    if not true:
        raise HarnessError(f"{words}: nothing here means anything")
