"""Exploring: play schedules until the time is up or a violation is found, then make that small and certain.

Everything is kept in one directory: ``explore.json`` with the options and the position, from which exploring can go
on, and for each kind of violation ``failure-N.json`` (to replay) and ``failure-N.txt`` (to read).
"""

from __future__ import annotations

import datetime
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from harness import planted
from harness.coverage import Coverage, Meeting
from harness.engines.kvs import KvsEngine
from harness.errors import HarnessError, UsageError
from harness.explore_finish import Workshop, finish, memory
from harness.explore_job import Found, Options
from harness.explore_jobs import Exploration, Record, Show, Status, covered, mortal_points
from harness.scenarios import EXHAUSTIVE, GENERAL, named
from harness.verdict import EXIT_CODES, Outcome

RECORD: Final = "explore.json"
_MAY_CHANGE: Final = ("seconds", "schedules", "jobs", "until_coverage", "shrink", "keep_going")


class Explored(msgspec.Struct, kw_only=True):
    """What exploring came to. ``reasons``: what an ``UNKNOWN`` lacks. ``failures``: the pages' paths, by kind."""

    outcome: Outcome
    reasons: list[str]
    directory: str
    interrupted: bool
    record: Record
    coverage: float
    never_killed_at: list[str]
    failures: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violation, 3 unknown."""
        return EXIT_CODES[self.outcome]


def checked(options: Options) -> Options:
    """``options`` with the scenarios filled in.

    Raises:
        UsageError: they make no sense.
    """
    if options.bug and options.bug not in planted.BUGS:
        raise UsageError(f"no bug {options.bug!r} can be planted; there are {', '.join(planted.BUGS)}")
    if options.jobs < 1:
        raise UsageError("--jobs: exploring needs at least one")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise UsageError("--seconds: a time that is greater than zero and ends")
    if options.schedules is not None and options.schedules < 1:
        raise UsageError("--schedules: at least one")
    if options.until_coverage is not None and not 0 < options.until_coverage <= 1:
        raise UsageError("--until-coverage: a share greater than 0 and at most 1")
    if options.until_coverage is not None and options.strategy == "exhaustive":
        raise UsageError("--until-coverage: an exhaustive search ends when it has seen everything")
    if options.preemptions is not None and options.strategy != "exhaustive":
        raise UsageError("--preemptions bounds an exhaustive search; the other strategies have no bound")
    if options.strategy == "exhaustive" and options.jobs > 1:
        raise UsageError("--strategy exhaustive runs one job: its next schedule depends on the last")
    names = options.scenarios or (EXHAUSTIVE if options.strategy == "exhaustive" else GENERAL)
    for name in names:
        named(name)
    return msgspec.structs.replace(options, scenarios=tuple(names))


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def explore(options: Options, *, out: Path, command: str = "", show: Show = lambda _: None) -> Explored:
    """Explore from the beginning, in a new directory under ``out``. Afterwards no process and nothing in memory-backed
    storage is left. Ctrl-C ends it early, with a verdict over what there is.

    Raises:
        UsageError: the options make no sense.
        HarnessError: the harness could not do its work; what was done until then is kept in the directory.
    """
    options = checked(options)
    return _carry_on(Record(options), new_directory(out, "explore"), command, show)


def resume(
    directory: Path, changes: dict[str, Any], *, command: str = "", show: Show = lambda _: None
) -> Explored:
    """Go on where exploring in ``directory`` ended, with ``changes`` of its options; counts add up.

    Raises:
        UsageError: nothing was explored there, or a change would mean other schedules.
        HarnessError: as ``explore``.
    """
    record = load(directory)
    for name, value in changes.items():
        if name not in _MAY_CHANGE and value != getattr(record.options, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: what was begun with another one cannot be resumed with this"
            )
    record.options = checked(msgspec.structs.replace(record.options, **changes))
    return _carry_on(record, directory, command, show)


def load(directory: Path) -> Record:
    """The record of ``directory``. Raises UsageError if there is none that can be read."""
    return read(directory / RECORD, Record)


def _carry_on(record: Record, directory: Path, command: str, show: Show) -> Explored:
    record.commands.append(command)
    record.versions = versions()
    told = {found.kind for found in record.found if found.file}
    with _errors_kept(directory) as stderr_fd, memory() as stages:
        if _must_know_what_is_reachable(record):
            record.reachable = _reachable(record.options, stages, stderr_fd, show)
        exploration = Exploration(record, stages, stderr_fd, show)
        try:
            exploration.run(lambda: write(directory / RECORD, record))
        finally:
            write(directory / RECORD, record)
        new = [found for found in record.found if found.kind not in told]
        for found in new:
            number = len(told) + 1
            told.add(found.kind)
            file = directory / f"failure-{number}.json"
            finish(found, record, file, Workshop(stages, stderr_fd, _telling(found, record, show)))
            found.file = file.name
            write(directory / RECORD, record)
    return judged(record, directory, interrupted=exploration.interrupted)


def _must_know_what_is_reachable(record: Record) -> bool:
    options = record.options
    return (
        options.until_coverage is not None
        and not record.reachable
        and set(options.scenarios) <= set(EXHAUSTIVE)
    )


def _reachable(options: Options, stages: Path, stderr_fd: int, show: Show) -> list[Meeting]:
    """Every meeting that the scenarios can show, if their searches come to an end: so many that a share means
    something. Otherwise none.
    """
    search = msgspec.structs.replace(
        options, strategy="exhaustive", jobs=1, schedules=None, until_coverage=None, keep_going=True
    )
    record = Record(search)
    Exploration(record, stages, stderr_fd, show).run(lambda: None)
    return record.reachable if record.complete else []


def _telling(found: Found, record: Record, show: Show) -> Callable[[str, str], None]:
    """Whoever watches is told what is done about ``found``."""
    began = time.monotonic()

    def tell(phase: str, text: str) -> None:
        show(
            Status(
                phase, time.monotonic() - began, record.counts, found.scenario, 0.0, len(record.found), text
            )
        )

    return tell


def judged(record: Record, directory: Path, *, interrupted: bool = False) -> Explored:
    """The verdict over what was done: too little is no success."""
    coverage = Coverage.from_data(record.coverage) if record.coverage else Coverage()
    share = covered(record, coverage)
    reasons = list(_lacking(record, share))
    outcome = Outcome.UNKNOWN if reasons else Outcome.OK
    if record.found:
        outcome, reasons = Outcome.VIOLATION, []
    return Explored(
        outcome=outcome,
        reasons=reasons,
        directory=str(directory),
        interrupted=interrupted,
        record=record,
        coverage=share,
        never_killed_at=coverage.never(mortal_points(record)),
        failures={found.kind: str(directory / found.file) for found in record.found if found.file},
    )


def _lacking(record: Record, share: float) -> Iterator[str]:
    """What there is too little of."""
    counts, options = record.counts, record.options
    if not counts.schedules:
        yield "no schedule was played"
    elif not counts.kills and any(named(name).kills for name in counts.by_scenario):
        yield "nobody was killed"
    if counts.undecided:
        yield f"{counts.undecided} times durability or resolution could not be decided"
    if options.until_coverage is not None and share < options.until_coverage:
        yield f"coverage is {share:.2%}, not {options.until_coverage:.2%}"
    if options.strategy == "exhaustive" and not record.complete:
        open_ = [name for name in options.scenarios if not record.searches.get(name, {}).get("complete")]
        yield f"the search of {', '.join(open_)} is not complete"


def versions() -> dict[str, str]:
    """What the schedules are played with."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
        **KvsEngine().versions(),
    }


def write(path: Path, record: msgspec.Struct) -> None:
    """Write ``record`` to ``path`` as JSON, in one step. Raises HarnessError."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
        temporary.rename(path)
    except OSError as error:
        raise HarnessError(f"{path} cannot be written: {error.strerror}") from error


def read(path: Path, kind: type[_Kind]) -> _Kind:
    """What ``write`` has written, to go on with it. Raises UsageError if there is nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UsageError(
            f"{path.parent} cannot be resumed: {path.name} cannot be read ({error.strerror})"
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path.parent} cannot be resumed: {path.name} makes no sense ({error})") from error


def new_directory(out: Path, what: str) -> Path:
    """A new directory under ``out``, named for now and for ``what`` is done. Raises UsageError."""
    now = datetime.datetime.now(datetime.UTC)
    directory = out / f"{now:%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(2)}-{what}"
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"--out: no directory can be made in {out}: {error.strerror}") from error
    return directory


@contextmanager
def _errors_kept(directory: Path) -> Iterator[int]:
    """A descriptor for what jobs say on standard error; an empty file is removed."""
    path = directory / "stderr"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)
        if not path.stat().st_size:
            path.unlink()
