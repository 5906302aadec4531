"""SQLite and LMDB, unmodified, after a power cut or a failed call: what they promise, and what is found.

Of a recovered database three properties are checked, by these names:

* ``damaged``: it opens, its own check is clean, it can be read, and it takes a new transaction.
* ``prefix``: it shows the state after exactly its first P transactions, for one P that had been begun.
* ``durability``: P is not before the newest transaction that was told before the cut.

Does not verify: more than one process at a time, and LMDB's writable map (strace does not see what is stored there).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from harness.errors import EngineMissingError, HarnessError
from harness.powerloss import peer_job, strace
from harness.powerloss.choices import drawn
from harness.powerloss.job import digest_of
from harness.powerloss.judge import materialize
from harness.powerloss.medium import MEDIA, Choice, Disk, Image
from harness.powerloss.peer_job import IGNORED, PREPARED, Order, Recovered, Writes, writes_of
from harness.powerloss.trace import Begun, Told, Trace
from harness.verdict import Finding

DAMAGED: Final = "damaged"
PREFIX: Final = "prefix"
DURABILITY: Final = "durability"
PROPERTIES: Final = (DAMAGED, PREFIX, DURABILITY)

State = dict[bytes, bytes]


class Promise(msgspec.Struct, frozen=True):
    """Which properties hold after a power cut, and the sentence that says so, or says that they do not."""

    holds: frozenset[str]
    sentence: str
    address: str


class Configuration(msgspec.Struct, frozen=True):
    """An engine and how it is opened."""

    name: str
    engine: str
    options: dict[str, str | int | bool]
    promise: Promise


_ALL: Final = frozenset(PROPERTIES)
_SOUND: Final = frozenset({DAMAGED, PREFIX})
_NONE: Final[frozenset[str]] = frozenset()
_SQLITE: Final = "https://sqlite.org/pragma.html#pragma_synchronous"
_LMDB: Final = "http://www.lmdb.tech/doc/"
_LMDB_OPEN: Final = "http://www.lmdb.tech/doc/group__mdb.html#ga32a193c6bf4d7d5c5d579e71f22e9340"

_WAL_FULL: Final = (
    "With synchronous=FULL in WAL mode, an additional sync operation of the WAL file happens after each transaction "
    "commit. The extra WAL sync following each transaction helps ensure that transactions are durable across a power "
    "loss."
)
_WAL_NORMAL: Final = (
    "WAL mode is always consistent with synchronous=NORMAL, but WAL mode does lose durability. A transaction committed "
    "in WAL mode with synchronous=NORMAL might roll back following a power loss or system crash."
)
_OFF: Final = (
    "If the application running SQLite crashes, the data will be safe, but the database might become corrupted if the "
    "operating system crashes or the computer loses power before that data has been written to the disk surface."
)
_DELETE_EXTRA: Final = (
    "EXTRA synchronous is like FULL with the addition that the directory containing a rollback journal is synced after "
    "that journal is unlinked to commit a transaction in DELETE mode. EXTRA provides additional durability if the "
    "commit is followed closely by a power loss."
)
_DELETE_FULL: Final = (
    "This ensures that an operating system crash or power failure will not corrupt the database."
)
"""Of durability it says nothing; the sentence on EXTRA says what FULL lacks."""
_DELETE_NORMAL: Final = (
    "There is a very small (though non-zero) chance that a power failure at just the wrong time could corrupt the "
    "database in journal_mode=DELETE on an older filesystem."
)
"""And then: "probably DELETE mode is safe too on modern filesystems"."""
_ACID: Final = "It is also fully transactional with full ACID semantics"
_NOMETASYNC: Final = (
    "This optimization maintains database integrity, but a system crash may undo the last committed transaction. I.e. "
    "it preserves the ACI (atomicity, consistency, isolation) but not D (durability) database property."
)
_NOSYNC: Final = (
    "This optimization means a system crash can corrupt the database or lose the last transactions if buffers are not "
    "yet flushed to disk."
)
"""And then: "if the filesystem preserves write order" it is as MDB_NOMETASYNC is. ext4 does not."""


def _sqlite(journal: str, synchronous: str, holds: frozenset[str], sentence: str) -> Configuration:
    options: dict[str, str | int | bool] = {"journal": journal, "synchronous": synchronous, "checkpoint": 20}
    name = f"sqlite-{journal}-{synchronous}".lower()
    return Configuration(name, "sqlite", options, Promise(holds, sentence, _SQLITE))


def _lmdb(name: str, holds: frozenset[str], sentence: str, address: str, **options: bool) -> Configuration:
    return Configuration(name, "lmdb", dict(options), Promise(holds, sentence, address))


CONFIGURATIONS: Final = {
    each.name: each
    for each in (
        _sqlite("WAL", "EXTRA", _ALL, _WAL_FULL),
        _sqlite("WAL", "FULL", _ALL, _WAL_FULL),
        _sqlite("WAL", "NORMAL", _SOUND, _WAL_NORMAL),
        _sqlite("WAL", "OFF", _NONE, _OFF),
        _sqlite("DELETE", "EXTRA", _ALL, _DELETE_EXTRA),
        _sqlite("DELETE", "FULL", _SOUND, _DELETE_FULL),
        _sqlite("DELETE", "NORMAL", _NONE, _DELETE_NORMAL),
        _sqlite("DELETE", "OFF", _NONE, _OFF),
        _lmdb("lmdb", _ALL, _ACID, _LMDB),
        _lmdb("lmdb-nometasync", _SOUND, _NOMETASYNC, _LMDB_OPEN, metasync=False),
        _lmdb("lmdb-nosync", _NONE, _NOSYNC, _LMDB_OPEN, sync=False),
    )
}
"""By name."""
PROMISES: Final = {name: each.promise for name, each in CONFIGURATIONS.items()}
"""What the documentation says holds after a power cut, by configuration."""


def available(configuration: Configuration) -> None:
    """Raise ``EngineMissingError`` where the engine is not installed, ``HarnessError`` where strace is not."""
    if configuration.engine == "lmdb":
        try:
            import lmdb  # noqa: F401
        except ImportError as error:
            raise EngineMissingError(
                "LMDB for Python is not installed, so nothing was tried; pip install 'kvs-torture[peers]' brings it"
            ) from error
    strace.find()


def _command(configuration: Configuration, directory: Path, marks: Path, seed: int, count: int) -> list[str]:
    options = json.dumps(configuration.options)
    arguments = [configuration.engine, options, str(directory), str(marks), str(seed), str(count)]
    return [sys.executable, "-m", peer_job.__name__, *arguments]


def record(configuration: Configuration, seed: int, count: int, scratch: Path | None = None) -> Trace:
    """A run of ``count`` transactions. Raises ``TraceError``, ``HarnessError``.

    What is prepared before the run is its ``committed``. Its files are made in ``scratch`` and removed.
    """
    available(configuration)
    with tempfile.TemporaryDirectory(prefix="harness-peer-", dir=scratch) as place:
        directory, marks = _prepared(configuration, Path(place).resolve(), seed)
        done = [Begun(0, number, writes_of(seed, number)) for number in range(PREPARED)]
        return strace.record(
            _command(configuration, directory, marks, seed, count),
            directory,
            marks,
            begun=lambda number: writes_of(seed, number),
            ignored=IGNORED,
            engine=configuration.name,
            options={**configuration.options, "seed": seed},
            committed=done,
        )


def _prepared(configuration: Configuration, place: Path, seed: int) -> tuple[Path, Path]:
    """A directory with a database in it, and the file for what is said."""
    directory = place / "database"
    directory.mkdir()
    peer_job.prepare(configuration.engine, configuration.options, directory, seed)
    return directory, place / "marks"


class Recovery:
    """A process that recovers databases, each in a child of its own; leaving it as a context ends it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", peer_job.__name__, "recover"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(OSError), self._process:  # an order may be on its way
            pass

    def recover(self, configuration: Configuration, directory: Path) -> Recovered:
        """Open what is in ``directory``, check it, read it and commit once more. Raises ``HarnessError``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = Order(configuration.engine, configuration.options, str(directory))
        answer = b""
        with suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise HarnessError(f"the process that recovers databases ended; the last one was {directory}")
        return msgspec.json.decode(answer, type=Recovered)

    def recover_image(self, configuration: Configuration, image: Image, directory: Path) -> Recovered:
        """The same of an image, in ``directory``, which must not exist and is removed afterwards."""
        materialize(image, directory, locks=False)
        try:
            return self.recover(configuration, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def recover(configuration: Configuration, directory: Path) -> Recovered:
    """Recover one database. For many, a ``Recovery`` is quicker."""
    with Recovery() as recovery:
        return recovery.recover(configuration, directory)


def judge(trace: Trace, cut: int, recovered: Recovered) -> list[Finding]:
    """What is wrong with a database that was recovered after the first ``cut`` events, whatever was promised."""
    if recovered.broken:
        return [Finding(DAMAGED, recovered.broken)]
    begun = list(trace.committed)
    told = max((each.sequence for each in begun), default=-1)
    for event in trace.events[:cut]:
        if isinstance(event, Begun):
            begun.append(event)
        elif isinstance(event, Told):
            told = max(told, event.sequence)
    passed = dict(_states((each.sequence, each.writes) for each in begun))
    shown = [number for number, state in passed.items() if state == recovered.state]
    if not shown:
        return [Finding(PREFIX, _nearest(passed, recovered.state))]
    if max(shown) < told:
        return [Finding(DURABILITY, f"it shows transaction {max(shown)}, and {told} was told before the cut")]
    return []


def _states(done: Iterable[tuple[int, Writes]]) -> Iterator[tuple[int, State]]:
    """The state after each transaction, and before the first."""
    state: State = {}
    yield -1, state
    for number, writes in done:
        state = _after(state, writes)
        yield number, state


def _after(state: State, writes: Writes) -> State:
    following = dict(state)
    for key, value in writes:
        if value is None:
            following.pop(key, None)
        else:
            following[key] = value
    return following


def _nearest(passed: dict[int, State], found: State) -> str:
    """In words, where a state that is none of ``passed`` differs from the most similar of them."""

    def wrong(number: int) -> list[bytes]:
        keys = passed[number].keys() | found.keys()
        return sorted(key for key in keys if passed[number].get(key) != found.get(key))

    number = min(passed, key=lambda each: (len(wrong(each)), -each))
    key = wrong(number)[0]
    nearest = f"that after transaction {number}" if number >= 0 else "the empty one"
    return (
        f"it shows no state that ever was; the nearest is {nearest}, where {_text(key)} was "
        f"{_value(passed[number].get(key))}, and it is {_value(found.get(key))}"
    )


def _text(key: bytes) -> str:
    return key.decode("ascii", errors="backslashreplace")


def _value(value: bytes | None) -> str:
    return "absent" if value is None else f"{value[:24]!r} ({len(value)} bytes)"


class Surveyed(msgspec.Struct):
    """What was found in the images of one run. ``found`` counts by property, at every cut that leaves the image;
    ``first`` has the first of each.
    """

    configuration: str
    trace: Trace
    images: int = 0
    found: dict[str, int] = {}
    first: dict[str, tuple[int, Choice, Finding]] = {}


def survey(
    configuration: Configuration,
    *,
    seed: int,
    count: int,
    images: int,
    medium: str = "ext4",
    scratch: Path | None = None,
    show: Callable[[Surveyed], None] = lambda _: None,
) -> Surveyed:
    """Record a run of ``count`` transactions and judge up to ``images`` different states that a cut may leave of it.

    Where there are more than that, they are drawn. ``show`` is called after each. Raises ``TraceError``,
    ``HarnessError``.
    """
    trace = record(configuration, seed, count, scratch)
    tally = Surveyed(configuration.name, trace)
    states = drawn(trace, MEDIA[medium], seed, images + images // 5)  # some are the same, and are tried once
    disk = Disk(trace, MEDIA[medium])
    known: dict[int, Recovered] = {}
    with tempfile.TemporaryDirectory(prefix="harness-peer-", dir=scratch) as place, Recovery() as recovery:
        for _, cut, choice in states:
            disk.go_to(cut)
            image = disk.image(choice)
            digest = digest_of(image)
            if digest not in known:
                if len(known) == images:
                    break
                recovered = recovery.recover_image(configuration, image, Path(place, "image"))
                known[digest] = next((each for each in known.values() if each == recovered), recovered)
            # What is right before a transaction is told may be wrong after it: every cut is judged by itself.
            for finding in judge(trace, disk.at, known[digest]):
                tally.found[finding.property_name] = tally.found.get(finding.property_name, 0) + 1
                tally.first.setdefault(finding.property_name, (disk.at, choice, finding))
            tally.images = len(known)
            show(tally)
    return tally


def inject(
    configuration: Configuration,
    call: str,
    error: str,
    when: str,
    *,
    seed: int,
    count: int,
    file: str = "",
    scratch: Path | None = None,
) -> tuple[int, list[Finding]]:
    """Run the job while calls fail: ``("fdatasync", "EIO", "3")`` fails the third, ``"3+"`` all from then on.

    Only calls that concern ``file`` ("db-journal") count, if it is given: Python itself opens and reads other files.

    Returns how many calls strace failed (none: it never came so far), and what is wrong with the database afterwards,
    opened anew with no failing calls. No power is cut. Of a transaction that failed nobody knows whether it counts: it
    may show, whole, or not. Raises ``TraceError``, ``HarnessError``.
    """
    available(configuration)
    with tempfile.TemporaryDirectory(prefix="harness-peer-", dir=scratch) as place:
        directory, marks = _prepared(configuration, Path(place).resolve(), seed)
        command = _command(configuration, directory, marks, seed, count)
        only = [f"--trace-path={directory / file}"] if file else []
        lines = strace.run(command, f"--inject={call}:error={error}:when={when}", *only)
        failed = sum("(INJECTED)" in line for line in lines)
        recovered = recover(configuration, directory)
        return failed, judge_failed(marks.read_text(encoding="ascii"), recovered, seed)


def judge_failed(said: str, recovered: Recovered, seed: int) -> list[Finding]:
    """What is wrong with a database that was recovered after a job that ``said`` which transactions failed."""
    if recovered.broken:
        return [Finding(DAMAGED, recovered.broken)]
    outcomes = dict.fromkeys(range(PREPARED), "told")
    for line in said.splitlines():
        word, _, said_of = line.partition(" ")
        outcomes[int(said_of)] = word
    possible: list[State] = [{}]
    for number, word in outcomes.items():
        following = [_after(state, writes_of(seed, number)) for state in possible]
        possible = following if word == "told" else _distinct([*possible, *following])
    if recovered.state in possible:
        return []
    told = [number for number, word in outcomes.items() if word == "told"]
    failed = [number for number, word in outcomes.items() if word != "told"]
    message = f"it is not what the transactions that were told ({told[-1]} the last) and any whole ones of those that "
    message += f"failed ({', '.join(map(str, failed)) or 'none'}) leave"
    return [Finding(DURABILITY, message)]


def _distinct(found: list[State]) -> list[State]:
    return list({tuple(sorted(state.items())): state for state in found}.values())
