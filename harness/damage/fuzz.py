"""Damage that somebody else thinks of: any bytes are some damage of some subject, so that what covers more is kept.

hypothesis (in the tests) and atheris (where it is installed) find such bytes by what the store does with them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from harness.damage import asking, crew, subjects
from harness.damage.asking import PHASES, Problem
from harness.damage.campaign import Finding
from harness.damage.damages import Damage, Edit
from harness.damage.place import Place
from harness.errors import UsageError

FOUND: Final = "fuzzed.json"
_EDITS_MAX: Final = 4
_STATUS_FOUND: Final = 77  # what libFuzzer ends with after an exception


class Fuzzed(NamedTuple):
    """What came of one piece of bytes."""

    outcome: str
    problems: list[Problem]


class Entry:
    """Places of some subjects, and a call that takes any bytes."""

    def __init__(self, directory: Path, names: tuple[str, ...]) -> None:
        self._places = [Place(subjects.make(name), directory) for name in names]

    def damage(self, data: bytes) -> tuple[Place, Damage, str, str]:
        """The trial that these bytes are: a subject, a phase, and up to four writes of up to 64 bytes."""
        head, rest = data[:2].ljust(2, b"\0"), data[2:]
        place = self._places[head[0] % len(self._places)]
        phase, io = PHASES[head[1] % len(PHASES)], ("mmap", "append")[head[1] >> 7]
        names = [name for name, image in place.subject.images.items() if image.data]
        edits: list[Edit] = []
        while rest and len(edits) < _EDITS_MAX:
            first, rest = rest[:4].ljust(4, b"\0"), rest[4:]
            name, size = names[first[0] % len(names)], 1 + first[1] % 64
            offset = int.from_bytes(first[2:], "little") % len(place.subject.images[name].data)
            edits.append(Edit("write", name, offset, rest[:size] or b"\0"))
            rest = rest[size:]
        return place, Damage("fuzz", tuple(edits)), phase, io

    def __call__(self, data: bytes) -> Fuzzed:
        """Do the trial."""
        place, damage, phase, io = self.damage(data)
        with asking.booted(place.subject.boot):
            outcome, problems = asking.run(place, damage, phase, io)
        return Fuzzed(outcome, problems)


class WrongAnswerError(Exception):
    """What ends the fuzzing: a store gave an answer that must never be."""


def fuzz(seconds: float, seed: int, corpus: Path, names: tuple[str, ...] = tuple(subjects.RECIPES)) -> bool:
    """Fuzz with atheris for so long, in a process of its own; whether nothing was found. What covers more is kept in
    ``corpus``; and what was found, as ``FOUND`` for a replay, or where the process died of it, as crash- or timeout-.

    Raises:
        UsageError: atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise UsageError("fuzzing needs atheris, which is not installed: pip install 'kvs-torture[fuzz]'")
    corpus.mkdir(parents=True, exist_ok=True)
    memory = subjects.MEMORY if subjects.MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="harness-damage-", dir=memory) as scratch:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                _fuzz(Path(scratch), seconds, seed, corpus, names)
            os._exit(_STATUS_FOUND)
        try:
            _, status = os.waitpid(pid, 0)
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
    return status == 0


def _fuzz(scratch: Path, seconds: float, seed: int, corpus: Path, names: tuple[str, ...]) -> None:
    atheris = importlib.import_module("atheris")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    crew.confined()
    entry = Entry(scratch, names)

    def one(data: bytes) -> None:
        found = entry(data)
        if found.problems:
            place, damage, phase, io = entry.damage(data)
            problem = found.problems[0]
            finding = Finding(
                kind=f"{problem.kind} ({phase})",
                message=problem.message,
                words=damage.words(),
                seed=seed,
                number=-1,
                phase=phase,
                io=io,
                damage=damage,
                subject=place.subject,
            )
            (corpus / FOUND).write_bytes(msgspec.json.format(msgspec.json.encode(finding), indent=1))
            raise WrongAnswerError(f"{place.subject.name}, {phase}: {finding.words}: {problem}")

    os.dup2(2, 1)
    for function in _functions():
        with contextlib.suppress(Exception):
            atheris.instrument_func(function)
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-timeout=10", "-rss_limit_mb=0"]
    atheris.Setup(
        ["harness", *options, f"-artifact_prefix={corpus}/", "-print_final_stats=1", str(corpus)], one
    )
    atheris.Fuzz()


def _functions() -> list[Callable[..., Any]]:
    """Every function and method of the store."""
    found: list[Callable[..., Any]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("kvs.") and name != "kvs.syncpoints":
            members = list(vars(module).values())
            members += [inner for each in members if isinstance(each, type) for inner in vars(each).values()]
            found += [each for each in members if hasattr(each, "__code__") and each.__module__ == name]
    return found
