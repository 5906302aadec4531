"""A campaign of damage: so many trials, what came of them, and every finding as a file that can be played again."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.damage import crew, subjects
from harness.damage.asking import OUTCOMES, PHASES, Problem
from harness.damage.crew import Crew
from harness.damage.damages import Damage
from harness.damage.place import Place
from harness.damage.subjects import Subject
from harness.damage.trials import Trials
from harness.errors import UsageError
from harness.verdict import EXIT_CODES, Outcome

TRIALS_MIN: Final = 1_000
"""Fewer trials than this say nothing."""
COUNT_MAX: Final = 1 << 40
_FILES_MAX: Final = 40


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that ended as none may: everything that is needed to do it again, the store's files as well."""

    kind: str
    message: str
    words: str
    seed: int
    number: int
    phase: str
    io: str
    damage: Damage
    subject: Subject


class Row(msgspec.Struct, frozen=True):
    """How the trials of one subject, phase or kind of damage ended."""

    name: str
    trials: int
    right: int
    refused: int
    said: int
    violations: int


class Report(msgspec.Struct, kw_only=True):
    """What a campaign came to. ``kinds`` counts the findings; ``files`` are some of each kind, for ``replay``."""

    outcome: Outcome
    command: str
    started: str
    seconds: float
    seed: int
    workers: int
    trials: int
    systematic: int
    systematic_of: int
    interrupted: bool
    subjects: list[Row]
    phases: list[Row]
    total: Row
    kinds: dict[str, int]
    files: list[str]
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}

    @property
    def exit_code(self) -> int:
        """0 OK, 1 violation, 3 unknown."""
        return EXIT_CODES[self.outcome]


class Status(msgspec.Struct, frozen=True):
    """How far a campaign is."""

    trials: int
    count: int | None
    seconds: float
    findings: int


def campaign(
    *,
    seed: int,
    count: int | None = None,
    seconds: float | None = None,
    workers: int = 2,
    out: Path | None = None,
    names: Sequence[str] = tuple(subjects.RECIPES),
    show: Callable[[Status], None] = lambda _: None,
) -> Report:
    """Damage stores ``count`` times, or for ``seconds``, or until either. Findings become files in ``out``.

    Ctrl-C ends it early, and what was found is kept.
    """
    if unknown := [name for name in names if name not in subjects.RECIPES]:
        raise UsageError(f"no subject is called {unknown[0]!r}; there are {', '.join(subjects.RECIPES)}")
    started, clock = datetime.now(UTC), time.monotonic()
    stores = [subjects.make(name) for name in names]
    trials = Trials(stores, seed)
    interrupted = False
    memory = subjects.MEMORY if subjects.MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="harness-damage-", dir=memory) as scratch:
        working = Crew(stores, trials, Path(scratch), workers)
        try:
            working.work(
                COUNT_MAX if count is None else count,
                seconds,
                lambda: show(
                    Status(
                        working.done, count, time.monotonic() - clock, int(working.counts()[:, :, 3].sum())
                    )
                ),
            )
        except KeyboardInterrupt:
            interrupted = True
        counts, seen = working.counts(), working.seen()
    found = [_finding(each, stores, trials, seed) for each in seen]
    done = int(counts.sum())
    return Report(
        outcome=Outcome.VIOLATION if found else Outcome.OK if done >= TRIALS_MIN else Outcome.UNKNOWN,
        command=shlex.join(["harness", *sys.argv[1:]]),
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock,
        seed=seed,
        workers=workers,
        trials=done,
        systematic=trials.systematic_within(done),
        systematic_of=trials.systematic,
        interrupted=interrupted,
        subjects=[_row(store.name, counts[i]) for i, store in enumerate(stores)],
        phases=[_row(name, counts[:, i]) for i, name in enumerate(PHASES)],
        total=_row("all", counts),
        kinds=_kinds(seen),
        files=_write(found, out),
    )


def _row(name: str, counts: Any) -> Row:
    return Row(name, int(counts.sum()), *counts.reshape(-1, len(OUTCOMES)).sum(axis=0).tolist())


def _kinds(seen: Sequence[crew.Seen]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for each in seen:
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
    return kinds


def _finding(seen: crew.Seen, stores: Sequence[Subject], trials: Trials, seed: int) -> Finding:
    trial = trials[seen.number]
    return Finding(
        kind=seen.kind,
        message=seen.message,
        words=trial.damage.words(),
        seed=seed,
        number=seen.number,
        phase=trial.phase,
        io=trial.io,
        damage=trial.damage,
        subject=stores[trial.subject],
    )


def _write(found: Sequence[Finding], out: Path | None) -> list[str]:
    """The first findings of each kind, then others, as files."""
    if out is None or not found:
        return []
    out.mkdir(parents=True, exist_ok=True)
    ranks: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    for i, finding in enumerate(found):
        ranks[finding.kind] = ranks.get(finding.kind, 0) + 1
        ranked.append((ranks[finding.kind], i))
    files: list[str] = []
    for _, i in sorted(ranked)[:_FILES_MAX]:
        path = out / f"damage-{found[i].number}-{len(files) + 1}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(found[i]), indent=1))
        files.append(str(path))
    return files


def load(path: Path) -> Finding:
    """A finding from its file. Raises UsageError if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Finding)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{path} is no finding of `harness damage`: {error}") from error


def replay(finding: Finding) -> list[Problem]:
    """Do the trial of a finding again, in a process of its own; what was wrong this time."""
    memory = subjects.MEMORY if subjects.MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="harness-damage-", dir=memory) as scratch:
        answer = Path(scratch) / "answer"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                crew.confined()
                place = Place(finding.subject, Path(scratch))
                _, problems = crew.limited(place, finding.damage, finding.phase, finding.io)
                answer.write_bytes(msgspec.json.encode(problems))
                status = 0
            finally:
                os._exit(status)
        _, ended = os.waitpid(pid, 0)
        if os.WIFSIGNALED(ended):
            name = signal.Signals(os.WTERMSIG(ended)).name
            hang = name in ("SIGPROF", "SIGALRM")
            return [Problem("hang" if hang else name, f"the process died of {name}")]
        return msgspec.json.decode(answer.read_bytes(), type=list[Problem])
