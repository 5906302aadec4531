"""The engines of ``harness bench``, each through the calls that its own users would make, and where they run.

Not the adapters of the campaign: those speak one protocol for the sake of the checkers, and that would be
measured too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final

from harness.errors import HarnessError, UsageError

Pair = tuple[bytes, bytes]
_SHM: Final = Path("/dev/shm")  # noqa: S108 - preferred: it takes the device out of the comparison
_SHM_FREE_MIN: Final = 4 << 30
_BUSY_TIMEOUT_S: Final = 60.0
_SELECT_KEYS: Final = 512  # per IN (...); the oldest limit of host parameters is 999
_WITHOUT_ROWID_BYTES_MAX: Final = 200  # rows up to a 20th of a page: https://sqlite.org/withoutrowid.html


class Engine:
    """One store under measurement. ``gets`` and ``puts`` are loops over single operations, each one a
    transaction of its own; ``get_many`` and ``put_many`` are one transaction each.
    """

    name: ClassVar[str]
    description: str

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        raise NotImplementedError

    def gets(self, keys: Sequence[bytes]) -> bytes | None:
        """Read every key by itself; returns the last value."""
        raise NotImplementedError

    def get_many(self, keys: Sequence[bytes]) -> Sequence[Any]:
        """Read all keys from one snapshot, as this engine hands them out."""
        raise NotImplementedError

    def puts(self, pairs: Sequence[Pair]) -> None:
        """Write every pair in a transaction of its own."""
        raise NotImplementedError

    def put_many(self, pairs: Sequence[Pair]) -> object:
        """Write all pairs in one transaction."""
        raise NotImplementedError

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What ``get_many`` read, as values in the order of ``keys``."""
        return list(self.get_many(keys))

    def close(self) -> None:
        """Close the store."""
        raise NotImplementedError


class Kvs(Engine):
    """Our own."""

    name = "kvs"

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        import kvs

        del value_bytes  # it has no bearing on how a store is made
        directory.mkdir(parents=True, exist_ok=True)
        self.store = kvs.open(directory / "store", "n" if create else "w", index_capacity=keys)
        self.description = f"integrity on, not durable, io=mmap, index_capacity={keys}"

    def gets(self, keys: Sequence[bytes]) -> bytes | None:
        get = self.store.get
        value = None
        for key in keys:
            value = get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> Sequence[Any]:
        return self.store.get_many(keys)

    def puts(self, pairs: Sequence[Pair]) -> None:
        store = self.store
        for key, value in pairs:
            store[key] = value

    def put_many(self, pairs: Sequence[Pair]) -> object:
        return self.store.put_many(pairs)

    def close(self) -> None:
        self.store.close()


class Lmdb(Engine):
    """LMDB through py-lmdb, as fast as it goes: a writable map and no sync."""

    name = "LMDB"

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        import lmdb

        directory.mkdir(parents=True, exist_ok=True)
        map_bytes = (1 << 28) + keys * (4 * value_bytes + 512)  # sparse: what is not used takes no room
        self.environment = lmdb.open(
            str(directory), map_size=map_bytes, writemap=True, sync=False, metasync=False, create=create
        )
        self.description = "writemap=True, sync=False, metasync=False, a transaction per get"

    def gets(self, keys: Sequence[bytes]) -> bytes | None:
        begin = self.environment.begin
        value = None
        for key in keys:
            with begin() as txn:
                value = txn.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> Sequence[Any]:
        with self.environment.begin() as txn, txn.cursor() as cursor:
            return list(cursor.getmulti(keys))

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = dict(self.get_many(keys))
        return [found.get(key) for key in keys]

    def puts(self, pairs: Sequence[Pair]) -> None:
        begin = self.environment.begin
        for key, value in pairs:
            with begin(write=True) as txn:
                txn.put(key, value)

    def put_many(self, pairs: Sequence[Pair]) -> object:
        with self.environment.begin(write=True) as txn, txn.cursor() as cursor:
            return cursor.putmulti(pairs)

    def close(self) -> None:
        self.environment.close()


class Sqlite(Engine):
    """SQLite through the standard library: WAL, no sync, and the kind of table that suits the values (with
    1 KiB values a table WITHOUT ROWID was 6 times slower).
    """

    name = "SQLite"

    def __init__(self, directory: Path, *, keys: int, value_bytes: int, create: bool) -> None:
        del keys  # SQLite grows as it goes
        directory.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(
            directory / "store.sqlite", isolation_level=None, timeout=_BUSY_TIMEOUT_S
        )
        kind = "WITHOUT ROWID" if value_bytes <= _WITHOUT_ROWID_BYTES_MAX else ""
        execute = self.connection.execute
        if create:
            execute("PRAGMA journal_mode = WAL")
            execute(f"CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL) {kind}")
        execute("PRAGMA synchronous = OFF")
        execute("PRAGMA cache_size = -262144")  # 256 MiB: 20 to 30 % over the default of 2 MB
        self.description = f"WAL, synchronous=OFF, 256 MiB cache, {kind or 'table with rowid'}"
        self._select = "SELECT value FROM kv WHERE key = ?"
        self._put = "INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

    def gets(self, keys: Sequence[bytes]) -> bytes | None:
        execute, select = self.connection.execute, self._select
        value = None
        for key in keys:
            value = execute(select, (key,)).fetchone()[0]
        return value

    def get_many(self, keys: Sequence[bytes]) -> Sequence[Any]:
        execute = self.connection.execute
        found: dict[bytes, bytes] = {}
        execute("BEGIN")
        for first in range(0, len(keys), _SELECT_KEYS):  # a quarter quicker than one SELECT for each key
            chunk = keys[first : first + _SELECT_KEYS]
            marks = ",".join("?" * len(chunk))
            found.update(execute(f"SELECT key, value FROM kv WHERE key IN ({marks})", chunk))  # noqa: S608
        execute("COMMIT")
        return [found.get(key) for key in keys]

    def puts(self, pairs: Sequence[Pair]) -> None:
        execute, put = self.connection.execute, self._put
        for pair in pairs:
            execute(put, pair)

    def put_many(self, pairs: Sequence[Pair]) -> object:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany(self._put, pairs)
        execute("COMMIT")
        return None

    def close(self) -> None:
        self.connection.close()


def installed() -> tuple[list[type[Engine]], list[str]]:
    """The engines that can be measured here, ours first, and the names of those that are not installed."""
    if importlib.util.find_spec("lmdb") is None:
        return [Kvs, Sqlite], [Lmdb.name]
    return [Kvs, Lmdb, Sqlite], []


def by_name(name: str) -> type[Engine]:
    """The engine whose class has that name."""
    return {each.__name__: each for each in (Kvs, Lmdb, Sqlite)}[name]


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for package in ("kvs-torture", "numpy", "xxhash", "lmdb"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if "lmdb" in found and importlib.util.find_spec("lmdb") is not None:
        import lmdb

        found["LMDB"] = ".".join(map(str, lmdb.version()))
    return found


def machine() -> dict[str, Any]:
    """Processor, cores (all, and those that this process may use), kernel, memory."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def touch_memory(directory: Path, needed_bytes: int) -> None:
    """Write more than ``needed_bytes`` (96 MiB at most) beside the stores and free them again, before a timed section
    that will need new pages.

    A hypervisor takes free memory back from its guest, and whoever writes to such a page next waits for it: 11 us
    a page were seen, ten times as long as the write itself, for whichever engine came first. What was freed a
    moment ago is there.
    """
    ballast = directory / "ballast"
    megabyte = bytes(1 << 20)
    try:
        with ballast.open("wb", buffering=0) as file:
            for _ in range(min(96, 1 + (3 * needed_bytes >> 20))):
                file.write(megabyte)
    finally:
        ballast.unlink(missing_ok=True)


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` is on, e.g. ``tmpfs`` (proc_pid_mountinfo(5))."""
    wanted = str(path.resolve())
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def free_bytes(directory: Path) -> int:
    """Room in ``directory``; a directory in memory has no more than the memory that is available."""
    free = shutil.disk_usage(directory).free
    if file_system(directory) != "tmpfs":
        return free
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return min(free, int(line.split()[1]) << 10)
    return free


@contextlib.contextmanager
def scratch(parent: Path | None, needed: int) -> Iterator[Path]:
    """A directory for the stores that is gone afterwards, also after a Ctrl-C or a SIGTERM.

    Raises:
        UsageError: not enough room there.
    """
    if parent is None:
        in_memory = _SHM.is_dir() and os.access(_SHM, os.W_OK)
        enough = in_memory and free_bytes(_SHM) >= max(needed, _SHM_FREE_MIN)
        parent = _SHM if enough else Path(tempfile.gettempdir())
    if (free := free_bytes(parent)) < needed:
        raise UsageError(
            f"{parent} has {free >> 20} MiB free and about {needed >> 20} MiB are needed;"
            " choose another directory with --dir, or fewer keys with --keys"
        )

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        directory = Path(tempfile.mkdtemp(prefix="kvs-bench-", dir=parent))
        try:
            yield directory
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            shutil.rmtree(directory, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    except OSError as error:
        raise HarnessError(f"the benchmark could not go on: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, before)
