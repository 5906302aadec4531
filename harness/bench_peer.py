"""frontrun's exploration over processes, as a program of its own: two processes increment a counter in SQLite.

Run by ``bench_schedules`` as ``python -m harness.bench_peer DATABASE SCHEDULES``; prints ``{"per_second": ...}``.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time


def increment(path: str) -> None:
    """What each process does twice: read the counter, then write it one higher, in two statements."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for _ in range(2):
            (value,) = connection.execute("SELECT val FROM counter WHERE id = 1").fetchone()
            connection.execute("UPDATE counter SET val = ? WHERE id = 1", (value + 1,))
    finally:
        connection.close()


def main(path: str, schedules: int) -> None:
    """Explore and print the rate from the first schedule's setup to the last one's."""
    import frontrun

    moments: list[float] = []

    def setup() -> str:
        moments.append(time.perf_counter())
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY, val INTEGER)")
        connection.execute("DELETE FROM counter")
        connection.execute("INSERT INTO counter (id, val) VALUES (1, 0)")
        connection.close()
        return path

    frontrun.explore_processes(
        frontrun.Subprocess("harness.bench_peer:increment", (path,)),
        count=2,
        setup=setup,
        invariant=lambda _: True,
        stop_on_first=False,
        preemption_bound=None,
        reuse_workers=True,
        max_executions=schedules,
    )
    print(
        json.dumps({"schedules": len(moments), "per_second": (len(moments) - 1) / (moments[-1] - moments[0])})
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
