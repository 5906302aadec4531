"""Several processes fill a small file system to its last page, and go on when there is room. Run in a name space where
mounting is allowed: ``python -m tests.kvs.full_disk DIRECTORY IO DURABLE``; it prints ``ok`` in the end.
"""

from __future__ import annotations

import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import kvs
from tests.kvs.processes import Child

WRITERS = 3


def write_until_full(connection: Connection, path: Path, io: str, first: int) -> None:
    """Write large values, then small ones, until not even those fit; say what was acknowledged, and go on when told."""
    with kvs.open(path, "w", io=io) as store:
        written: dict[int, int] = {}
        for size in (30_000, 3000, 10):
            for number in range(first + len(written), first + 100_000):
                try:
                    store[number] = bytes([number % 251]) * size
                except kvs.StorageFullError:
                    break
                written[number] = size
        connection.send(written)
        connection.recv()
        store[first] = b"there is room again"
        connection.send(
            [number for number in written if number != first and len(store[number]) != written[number]]
        )


def main(disk: Path, io: str, durable: bool) -> None:
    """Mount the file system at ``disk``, fill it, make room, and look at everything."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "kvs-test", str(disk)], check=True)
    ballast, path = disk / "ballast", disk / "store"
    ballast.write_bytes(bytes(1 << 20))
    kvs.open(path, durable=durable, index_capacity=2800).close()
    children = [Child(write_until_full, path, io, 1_000_000 * i) for i in range(WRITERS)]
    written: dict[int, int] = {}
    for child in children:
        written |= child.receive()
    assert len(written) > 50, len(written)
    with kvs.open(path, "r") as store:
        wrong = [n for n, size in written.items() if store.get(n) != bytes([n % 251]) * size]
        assert (wrong, len(store), store.verify()) == ([], len(written), [])
    ballast.unlink()
    for child in children:
        child.send()
        assert child.receive() == []
        child.process.join()
    with kvs.open(path, io=io) as store:
        assert all(store.get(1_000_000 * i) == b"there is room again" for i in range(WRITERS))
        assert store.verify() == []
    (path / "index.0").unlink()
    with kvs.open(path, io=io) as store:
        keys = written.keys() | {
            1_000_000 * i for i in range(WRITERS)
        }  # one of them may have come too late for any
        assert (len(store), store.verify()) == (len(keys), [])
    print("ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True")
