"""The lock hand-off under contention, for ``harness bench``: many writer processes on one store."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import bench_engines as engines
from harness.bench_children import Crew
from harness.bench_engines import Engine

PROCESSES: Final = 8
_KEYS: Final = 1000  # of each process
_VALUE_BYTES: Final = 16


class Handoff(msgspec.Struct, kw_only=True):
    """Many writer processes with single puts on one store: commits of all, and how long one took at most."""

    engine: str
    processes: int
    seconds: float
    commits: int
    commits_per_s: float
    commits_of_each: list[int]
    wait_p99_s: float
    wait_longest_s: float


def handoff(engine: type[Engine], directory: Path, seconds: float, seed: int) -> Handoff:
    """Eight processes put single keys into one store for ``seconds``. Lock waits poll, so this is where a
    bad hand-off shows: as few commits, or as one process that waits while the others go on.
    """
    engine(directory, keys=_KEYS * PROCESSES, value_bytes=_VALUE_BYTES, create=True).close()
    with Crew() as crew:
        children = [
            crew.add(
                f"a writer process of {engine.name}",
                _hammer,
                engine.__name__,
                str(directory),
                f"{seed}/{number}",
            )
            for number in range(PROCESSES)
        ]
        for child in children:
            child.answer()  # it is ready
        begin = time.monotonic() + 0.05
        for child in children:
            child.send((begin, begin + seconds))
        waits: list[list[float]] = [child.answer() for child in children]
        for child in children:
            child.end()
    every = sorted(wait for each in waits for wait in each)
    return Handoff(
        engine=engine.name,
        processes=PROCESSES,
        seconds=seconds,
        commits=len(every),
        commits_per_s=len(every) / seconds,
        commits_of_each=[len(each) for each in waits],
        wait_p99_s=every[len(every) * 99 // 100],
        wait_longest_s=every[-1],
    )


def _hammer(pipe: Any, engine: str, directory: str, seed: str) -> None:
    """One writer process: answers that it is ready, then with how long each of its puts took."""
    store = engines.by_name(engine)(
        Path(directory), keys=_KEYS * PROCESSES, value_bytes=_VALUE_BYTES, create=False
    )
    rng = random.Random(seed)
    pairs = [(key, key) for key in (rng.randbytes(16) for _ in range(_KEYS))]
    pipe.send(None)
    begin, end = pipe.recv()
    time.sleep(max(0.0, begin - time.monotonic()))
    waits: list[float] = []
    now = time.monotonic()
    while now < end:
        started = now
        store.puts([pairs[len(waits) % _KEYS]])
        now = time.monotonic()
        waits.append(now - started)
    store.close()
    pipe.send(waits)
