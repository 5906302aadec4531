"""The plan of a fleet and its ledger: which errands there are, and which of them are done, each of them once.

``fleet.json`` holds the plan, from which every errand follows by its number. ``ledger.jsonl`` gets a line for every
errand that has come to its end, synced before anybody is told: whatever becomes of the process that drives the fleet,
what is recorded is not done again, and what is not recorded is.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from harness import errand
from harness.errand import EXPLORE, RUN, Errand, Result
from harness.errors import HarnessError, HistoryError, UsageError
from harness.explore import read, write

PLAN: Final = "fleet.json"
LEDGER: Final = "ledger.jsonl"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What decides every errand. ``errands``: how many there are; ``None`` if only the time is limited. ``run_s``,
    ``schedules`` and ``images`` are the sizes of one. ``deaths``: so many workers may die of an errand.
    """

    seed: int
    errands: int | None = None
    kinds: tuple[str, ...] = errand.KINDS
    engine: str = "kvs"
    bug: str = ""
    scenario: str = ""
    run_s: float = 60.0
    schedules: int = 2_000
    images: int = 1_000
    deaths: int = 5
    commands: tuple[str, ...] = ()
    versions: dict[str, str] = {}

    def errand_at(self, number: int) -> Errand:
        """Errand ``number``: always the same one. A failure is left as it was found, and made smaller once."""
        kind = self.kinds[number % len(self.kinds)]
        return Errand(
            number=number,
            kind=kind,
            seed=errand.seed_of(self.seed, number),
            seconds=self.run_s if kind == RUN else None,
            count=None if kind == RUN else self.schedules if kind == EXPLORE else self.images,
            engine=self.engine,
            bug=self.bug,
            scenario=self.scenario,
            shrinks=False,
        )


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the ledger: what came of an errand. ``shrunk``: it made the failure of this signature smaller."""

    result: Result
    shrunk: str = ""


class Account(NamedTuple):
    """What the ledger on disk says: how many numbers are recorded, and which are missing below the last or the end."""

    recorded: int
    missing: tuple[int, ...]


class Ledger:
    """The ledger of a directory, for one process at a time. Use as a context manager.

    Raises:
        UsageError: another process has it.
        HistoryError: it cannot be read; path and line say where. A torn last line is dropped.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEDGER
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise UsageError(
                f"another process drives the fleet of {directory}: wait for its end, or end it; nothing was done"
            ) from error
        self.results: dict[int, Result] = {}
        self.shrunk: dict[str, Result] = {}
        try:
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, entry: Entry) -> bool:
        """Record what came of an errand, durably; whether it was not recorded yet. Raises HarnessError."""
        known = entry.shrunk in self.shrunk if entry.shrunk else entry.result.number in self.results
        if known:
            return False
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError("only a part of the line was written")
            os.fsync(self._fd)
        except OSError as error:
            raise HarnessError(
                f"{self._path} cannot be written: {error}; what was recorded before is, and --resume goes on from there"
            ) from error
        self._take(entry)
        return True

    def _take(self, entry: Entry) -> None:
        if entry.shrunk:
            self.shrunk[entry.shrunk] = entry.result
        else:
            self.results[entry.result.number] = entry.result

    def _load(self) -> None:
        whole = 0
        for entry, end in _entries(self._path):
            self._take(entry)
            whole = end
        os.ftruncate(self._fd, whole)


def _entries(path: Path) -> Iterator[tuple[Entry, int]]:
    """Every entry, and the byte behind it."""
    decoder = msgspec.json.Decoder(Entry)
    end = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return  # whoever wrote it was killed: it is not recorded
        end += len(line)
        try:
            yield decoder.decode(line), end
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HistoryError(f"not what a fleet records: {error}", str(path), number) from error


def audit(plan: Plan, directory: Path) -> Account:
    """Read the ledger from disk once more: every number at most once, each with the seed and the kind that the plan
    gives it.

    Raises:
        HarnessError: that is not so.
    """
    numbers: Counter[int] = Counter()
    for entry, _ in _entries(directory / LEDGER):
        if entry.shrunk:
            continue
        result = entry.result
        planned = plan.errand_at(result.number)
        if (result.kind, result.seed) != (planned.kind, planned.seed):
            raise HarnessError(
                f"{directory / LEDGER}: errand {result.number} is recorded as {result.kind} with seed {result.seed},"
                f" the plan has {planned.kind} with seed {planned.seed}: these two files are not of the same fleet"
            )
        numbers[result.number] += 1
    if twice := [number for number, count in numbers.items() if count > 1]:
        raise HarnessError(f"{directory / LEDGER}: recorded more than once: errands {twice}")
    end = max(numbers, default=-1) + 1 if plan.errands is None else plan.errands
    return Account(len(numbers), tuple(number for number in range(end) if number not in numbers))


def save(plan: Plan, directory: Path) -> None:
    """Write the plan. Raises HarnessError."""
    write(directory / PLAN, plan)


def load(directory: Path) -> Plan:
    """The plan of ``directory``. Raises UsageError if there is none that can be read."""
    return read(directory / PLAN, Plan)
