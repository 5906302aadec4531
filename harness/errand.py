"""One errand: a ``harness`` command with a kind and a seed, carried out as a process of its own, and what it brought.

It is the unit of work of ``harness ci`` and ``harness fleet``. Its directory is made for it and is gone afterwards:
what a failure leaves behind comes back as bytes, because whoever sent the errand may be on another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import engines, explore, explore_job, guard, planted
from harness.engines.kvs import KvsEngine
from harness.errors import HarnessError, UsageError
from harness.oracle import kind_of
from harness.powerloss import job, outage
from harness.verdict import EXIT_CODES, Finding, Outcome

RUN, EXPLORE, POWERLOSS, SHRINK = "run", "explore", "powerloss", "shrink"
KINDS: Final = (RUN, EXPLORE, POWERLOSS)
"""What an errand can be of. ``shrink`` is one, too, that follows from a failure and not from a seed."""
SHRUNK: Final = "failure.json"
FAILED: Final = HarnessError.exit_code
_OF_KVS: Final = (EXPLORE, POWERLOSS)
_ROUND: Final = 3
"""How many scenarios one errand of power losses has, where no scenario is asked for: all of them take long."""
_STEP: Final = 0x9E3779B1
"""An odd number, so that 2**32 seeds are different from each other; these bits look random (Weyl's sequence)."""
_GRACE_S: Final = 300.0
"""How much longer than twice its time an errand may take (of one without, than two seconds for each schedule or image):
the verdict, a smaller failure, a slow machine."""
_LOOK_EVERY_S: Final = 0.1
_PLACES: Final = "harness-campaign"
_PROCESSORS: Final = 2
"""For each campaign. Two on two processors were blamed on the store: 1.1 s without a commit."""
_STORE: Final = "store"
_STORE_BYTES_MAX: Final = 64 << 20
_SAID: Final = ("stdout", "stderr")
_SAID_MAX: Final = 2_000
_PATHS: Final = re.compile(r"(?:/[^\s/()']+){2,}/?")
_LISTS: Final = re.compile(r"#(?: \(\w+=#\))?(?:, (?:and )?#(?: \(\w+=#\))?)+")
"""However many values a message lists."""
_TEXTS: Final = frozenset({".json", ".jsonl", ".txt", ".md", ".html", ".svg"})


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done. ``number`` is its place in the plan; ``seconds`` and ``count`` (schedules, or images) are its
    size: where both are given, whatever comes first ends it. ``scenario``: the names, comma separated. ``options`` are
    further ones of the command. ``files`` are there, in the errand's directory, before it begins.
    """

    number: int
    kind: str
    seed: int
    seconds: float | None = None
    count: int | None = None
    engine: str = "kvs"
    bug: str = ""
    scenario: str = ""
    shrinks: bool = True
    options: tuple[str, ...] = ()
    files: dict[str, bytes] = {}

    @property
    def line(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["harness", *self.arguments()])

    def arguments(self) -> list[str]:
        """The arguments of ``harness``."""
        if self.kind == SHRINK:
            return [SHRINK, *self.files, *self.options]
        given: list[str] = [self.kind, "--seed", str(self.seed)]
        if self.kind != EXPLORE:
            given += ["--engine", self.engine]
        if self.seconds is not None:
            given += ["--seconds", f"{self.seconds:g}"]
        if self.count is not None:
            given += ["--schedules" if self.kind == EXPLORE else "--images", str(self.count)]
        if self.bug:
            given += ["--bug", self.bug]
        if scenario := self.scenario or self._share():
            given += ["--scenario", scenario]
        if self.kind in _OF_KVS and not self.shrinks:
            given += ["--no-shrink"]
        return [*given, *self.options]

    def _share(self) -> str:
        """The scenarios whose turn it is."""
        if self.kind != POWERLOSS:
            return ""
        names = outage.SCENARIOS
        first = self.number * _ROUND
        return ",".join(dict.fromkeys(names[(first + i) % len(names)] for i in range(_ROUND)))


class Shown(msgspec.Struct, frozen=True):
    """A violation that an errand met; ``file`` is the failure's own file in the run's directory, if it has one."""

    signature: str
    property_name: str = msgspec.field(name="property")
    message: str = ""
    file: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an errand. ``exit_code`` is the command's; ``reasons`` tell why nothing is known, or why it could
    not be carried out. ``directory`` is where its run was and is no more; ``files`` are what was in there, compressed.
    ``attempts``: how often it was begun.
    """

    number: int
    kind: str
    seed: int
    line: str
    exit_code: int
    outcome: Outcome
    shown: tuple[Shown, ...] = ()
    reasons: tuple[str, ...] = ()
    counts: dict[str, float] = {}
    seconds: float = 0.0
    machine: str = ""
    attempts: int = 1
    directory: str = ""
    files: dict[str, bytes] = {}


def check(kinds: tuple[str, ...], engine: str, bug: str, scenario: str) -> None:
    """Refuse what no errand could be made of. Raises UsageError."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kinds: no errand is called {kind!r}; there are {', '.join(KINDS)}")
        if kind in _OF_KVS and engine != KvsEngine.name:
            raise UsageError(f"--kinds: {kind} is for kvs only; of {engine} there is {RUN}")
    if not kinds:
        raise UsageError(f"--kinds: name at least one of {', '.join(KINDS)}")
    known = engines.load(engine).bugs()
    if bug and bug not in known:
        raise UsageError(f"no bug {bug!r} can be planted in {engine}; it knows {', '.join(known) or 'none'}")
    if bug and set(kinds) & set(_OF_KVS) and bug not in planted.BUGS:
        raise UsageError(f"no bug {bug!r} can be planted; there are {', '.join(planted.BUGS)}")
    names = tuple(name.strip() for name in scenario.split(",") if name.strip())
    if names and EXPLORE in kinds:
        explore.checked(explore_job.Options(scenarios=names))
    elif names:
        outage.checked(job.Options(scenarios=names))


def kinds_of(engine: str) -> tuple[str, ...]:
    """The kinds that there are for an engine."""
    return KINDS if engine == KvsEngine.name else (RUN,)


def seed_of(seed: int, number: int) -> int:
    """The seed of errand ``number`` of a plan: 32 bits, another one for every number."""
    return (seed + number * _STEP) % (1 << 32)


def signature(property_name: str, message: str) -> str:
    """What two violations have in common that are the same: the property, and the words without names and numbers."""
    return _LISTS.sub("#", kind_of(Finding(property_name, _PATHS.sub("#", message))))


def carry_out(errand: Errand, *, parent: Path | None = None, stop: Callable[[], int] = lambda: 0) -> Result:
    """Carry ``errand`` out in a new directory under ``parent``. Afterwards no process and no file of it is left; if
    this process dies meanwhile, the errand is ended and its directory removed all the same. May be called in a thread.

    ``stop`` says how often it was asked to come to an early end: the first time with a verdict over what there is, the
    second time without. Nothing is raised: what goes wrong is a result. A campaign waits first for its place among
    those of this machine.
    """
    with _place(errand, stop):
        return _carry_out(errand, parent, stop)


def _carry_out(errand: Errand, parent: Path | None, stop: Callable[[], int]) -> Result:
    began = time.monotonic()
    try:
        directory = Path(tempfile.mkdtemp(prefix="harness-errand-", dir=parent)).resolve()
    except OSError as error:
        return _failed(errand, began, f"no directory can be made for it: {error}")
    try:
        for name, data in errand.files.items():
            (directory / name).write_bytes(data)
        code = _conduct(errand, directory, stop)
        return _read(errand, directory, code, began)
    except OSError as error:
        return _failed(errand, began, str(error))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def campaigns_at_once() -> int:
    """So many campaigns may run on this machine at the same time: one has ten processes, and promises about time."""
    return max(len(os.sched_getaffinity(0)) // _PROCESSORS, 1)


@contextlib.contextmanager
def _place(errand: Errand, stop: Callable[[], int]) -> Iterator[None]:
    """Wait with a campaign until there are not too many of them. A place is the name of a socket without a file
    (unix(7)), which nobody else on this machine can have until the socket is closed, by a death too.
    """
    with socket.socket(socket.AF_UNIX) as held:
        names = [f"\0{_PLACES}-{os.getuid()}-{place}" for place in range(campaigns_at_once())]
        while errand.kind == RUN and not stop() and not any(_is_free(held, name) for name in names):
            time.sleep(_LOOK_EVERY_S)
        yield


def _is_free(held: socket.socket, name: str) -> bool:
    """Whether nobody had ``name``; then ``held`` has it."""
    try:
        held.bind(name)
    except OSError:
        return False
    return True


def unpack(result: Result, directory: Path) -> None:
    """Lay what the errand left behind into ``directory``, anew; its paths are made to name it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    there, here = result.directory.encode(), str(directory).encode()
    for name, data in result.files.items():
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise HarnessError(f"errand {result.number} names a file outside of its directory: {name!r}")
        content = zlib.decompress(data)
        if path.suffix in _TEXTS and _STORE not in Path(name).parts[:1]:
            content = content.replace(there, here)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _conduct(errand: Errand, directory: Path, stop: Callable[[], int]) -> int:
    """The exit code of the command."""
    arguments = errand.arguments()
    if errand.kind == SHRINK:
        arguments = [SHRINK, *(str(directory / name) for name in errand.files), *errand.options]
    else:
        arguments += ["--out", str(directory / "runs")]
    limit_s = _GRACE_S + 2 * (errand.count or 0 if errand.seconds is None else errand.seconds)
    command = [sys.executable, "-m", "harness", *arguments, "--json"]
    guarded = [sys.executable, "-P", guard.__file__, str(directory), str(limit_s), *command]
    with (directory / _SAID[0]).open("wb") as stdout, (directory / _SAID[1]).open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - this very program
            guarded, bufsize=0, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, start_new_session=True
        )
    asked = 0
    try:
        while True:
            try:
                return process.wait(_LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                if (now := stop()) > asked and process.stdin is not None:
                    asked = now
                    with contextlib.suppress(BrokenPipeError):  # it has just come to its end
                        process.stdin.write(b"\n")
    finally:
        if process.stdin is not None:
            process.stdin.close()  # whatever happens here: the guard ends it then
        process.wait()


def _read(errand: Errand, directory: Path, code: int, began: float) -> Result:
    said = _tail(directory / _SAID[1])
    if code not in EXIT_CODES.values() and code != FAILED:
        words = "it took too long and was ended" if code == guard.LATE else f"it ended with exit code {code}"
        return _failed(errand, began, words, said, code=2 if code == UsageError.exit_code else FAILED)
    try:
        printed = json.loads((directory / _SAID[0]).read_bytes())
        shown, reasons, counts = _READERS[errand.kind](printed)
    except (ValueError, LookupError, TypeError) as error:
        words = "" if code == FAILED else f"what it printed makes no sense: {error!r}"
        return _failed(errand, began, words, said)
    outcome = Outcome.VIOLATION if shown else Outcome.OK if code == 0 else Outcome.UNKNOWN
    run_dir, files = directory, dict[str, bytes]()
    if shown or code == FAILED:
        run_dir = next((directory / "runs").iterdir(), directory) if errand.kind != SHRINK else directory
        files = dict(_files(run_dir))
    return Result(
        number=errand.number,
        kind=errand.kind,
        seed=errand.seed,
        line=errand.line,
        exit_code=code,
        outcome=outcome,
        shown=tuple(shown),
        reasons=(*reasons, *([said] if said and code == FAILED else [])),
        counts=counts,
        seconds=round(time.monotonic() - began, 3),
        machine=socket.gethostname(),
        directory=str(run_dir),
        files=files,
    )


def _failed(errand: Errand, began: float, *reasons: str, code: int = FAILED) -> Result:
    return Result(
        number=errand.number,
        kind=errand.kind,
        seed=errand.seed,
        line=errand.line,
        exit_code=code,
        outcome=Outcome.UNKNOWN,
        reasons=tuple(filter(None, reasons)),
        seconds=round(time.monotonic() - began, 3),
        machine=socket.gethostname(),
    )


def lost(errand: Errand, reason: str, attempts: int) -> Result:
    """The result of an errand that nobody could bring to an end."""
    return msgspec.structs.replace(
        _failed(errand, time.monotonic(), reason), attempts=attempts, exit_code=EXIT_CODES[Outcome.UNKNOWN]
    )


def _tail(path: Path) -> str:
    return path.read_bytes()[-_SAID_MAX:].decode(errors="replace").strip()


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Name and compressed content of every file below ``directory``; a large store stays behind."""
    store = sum(path.stat().st_size for path in (directory / _STORE).rglob("*") if path.is_file())
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if not path.is_file() or path.is_symlink() or str(name) in _SAID:
            continue
        if name.parts[0] == _STORE and store > _STORE_BYTES_MAX:
            continue
        yield str(name), zlib.compress(path.read_bytes(), 1)


_Read = tuple[list[Shown], list[str], dict[str, float]]


def _read_run(printed: Any) -> _Read:
    """A campaign is one failure, the most telling finding of which comes first: the others follow from the same."""
    judgement = printed["judgement"]
    findings = judgement["overall"].get("findings", [])
    traffic = [each.get("checked", {}) for each in judgement["verdicts"] if each["property"] == "traffic"]
    counts = {name: each[name] for each in traffic for name in ("operations", "kills") if name in each}
    messages = [f"{each['property']}: {each.get('message', '')}" for each in findings]
    if judgement["overall"]["outcome"] != Outcome.VIOLATION:
        return [], messages, counts
    name, message = findings[0]["property"], findings[0].get("message", "")
    return [Shown(signature(name, message), name, message)], [], counts


def _read_explore(printed: Any) -> _Read:
    record = printed["record"]
    counts = {name: record["counts"][name] for name in ("schedules", "steps", "kills")}
    return _found(record["found"]), printed["reasons"], counts


def _read_powerloss(printed: Any) -> _Read:
    counts = {name: printed["counts"][name] for name in ("runs", "images", "twice")}
    return _found(printed["found"]), printed["reasons"], counts


def _found(found: list[Any]) -> list[Shown]:
    return [
        Shown(
            signature(each["property_name"], each["message"]),
            each["property_name"],
            each["message"],
            each["file"],
        )
        for each in found
    ]


def _read_shrunk(printed: Any) -> _Read:
    name, message = printed.get("property", ""), printed.get("message", "")
    return [Shown(signature(name, message), name, message, SHRUNK)], [], {}


_READERS: Final = {RUN: _read_run, EXPLORE: _read_explore, POWERLOSS: _read_powerloss, SHRINK: _read_shrunk}
