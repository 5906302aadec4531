"""Torture from a test: each campaign, exploration, power cut and replay is a ``harness`` command, a process of its own.

A test process has threads, and a campaign forks; so nothing is tortured in it, and nothing heavy is imported. What a
command ends in becomes a ``TortureResult``. A command does not outlive the test process, however that dies.
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from harness import guard
from harness.errors import HarnessError, UsageError
from harness.verdict import EXIT_CODES, Finding, Outcome

TIME_FACTOR: Final = 10.0
GRACE_S: Final = 600.0
"""A command may take so many times its seconds, and so much more: it judges what it saw, and shrinks what it found."""
_ERRORS_MAX: Final = 2_000
"""Characters of what a failed adapter said that are told."""


@dataclass(frozen=True)
class TortureResult:
    """What one command ended in. It is true if the outcome is ``OK``.

    ``findings`` are the violations, or (where the outcome is ``UNKNOWN``) what could not be decided. ``unknown`` are
    the properties of which nothing could be said. ``run_dir`` holds everything that was seen, ``page`` is for people,
    and ``replay`` is a command that shows it again. ``counts`` says how much was done; ``text`` explains the outcome.
    """

    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    unknown: tuple[str, ...] = ()
    run_dir: Path | None = None
    page: Path | None = None
    replay: str = ""
    seed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    text: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        """Whether everything was checked and held."""
        return self.outcome is Outcome.OK

    @property
    def properties(self) -> tuple[str, ...]:
        """The properties that the findings are about, each once."""
        return tuple(dict.fromkeys(finding.property_name for finding in self.findings))


class Done(NamedTuple):
    """A command that has ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def reference(engine: Any, here: Path) -> str:
    """The name under which a ``harness`` command finds ``engine``: a class becomes ``file.py:Class``, as seen from the
    directory ``here``; a name stays what it is.

    Raises:
        UsageError: it is neither, or a class that no other process could import.
    """
    if isinstance(engine, str):
        return engine
    if not inspect.isclass(engine):
        raise UsageError(
            f"{engine!r} is no engine: give its class (not an object of it), or a name such as 'kvs' or 'module:Class'"
        )
    if "<locals>" in engine.__qualname__:
        raise UsageError(
            f"the engine {engine.__qualname__} is defined inside a function, where the processes of a campaign cannot"
            " find it: define it at the top of its module"
        )
    try:
        path = Path(inspect.getfile(engine)).resolve()
    except (TypeError, OSError) as error:
        raise UsageError(f"the engine {engine.__qualname__} has no file: {error}") from error
    return f"{seen_from(here, path)}:{engine.__qualname__}"


def seen_from(here: Path, path: Path) -> Path:
    """``path`` as one would write it in the directory ``here``: relative if it lies below, absolute otherwise."""
    path, here = path.resolve(), here.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def options(given: Mapping[str, Any]) -> list[str]:
    """The options of a command from Python: ``stall_s=3`` is ``--stall-s 3``, a list is comma separated, ``True`` is a
    flag, and what is ``None`` or ``False`` is left out.
    """
    found = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        found.append(f"--{name.replace('_', '-')}")
        if value is not True:
            listed = isinstance(value, Iterable) and not isinstance(value, str)
            found.append((",".join(map(str, value)) or "none") if listed else str(value))
    return found


def command(arguments: list[str], *, here: Path, limit_s: float, python_path: Sequence[str] = ()) -> Done:
    """Run ``harness`` with ``arguments`` in the directory ``here`` to its end. A Ctrl-C here is passed on, waited for
    and raised again: what was seen until then is kept. Afterwards no process of it is left.

    Raises:
        HarnessError: it took longer than ``limit_s`` and was ended.
    """
    line = [sys.executable, "-P", "-m", "harness", *arguments]
    read_fd, write_fd = os.pipe()  # the guard ends the command when nobody holds the other end any more
    try:
        with subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", guard.__file__, "", str(limit_s), *line],
            cwd=here,
            env=_environment(python_path),
            stdin=read_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate()
            except BaseException:
                os.write(write_fd, b"\n")
                process.communicate()
                raise
    finally:
        os.close(read_fd)
        os.close(write_fd)
    if process.returncode == guard.LATE:
        raise HarnessError(
            f"it did not end within {limit_s:.0f} s and was killed, which says nothing about the store:"
            f" {shlex.join(['harness', *arguments])}"
        )
    return Done(process.returncode, out, err)


def _environment(python_path: Sequence[str]) -> dict[str, str]:
    known = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([*python_path, *([known] if known else [])])
    return {**os.environ, **({"PYTHONPATH": path} if path else {})}


def read(
    kind: str,
    done: Done,
    run_dir: Path | None = None,
    *,
    here: Path,
    seed: int | None = None,
    again: Path | None = None,
) -> TortureResult:
    """What the command ``kind`` ended in, which was given ``--json``; ``run_dir`` is the directory that it made, if it
    did, and ``again`` what was replayed, if something was. The replay line is one for the directory ``here``.

    Raises:
        UsageError: it was used wrongly.
        HarnessError: the harness, or the adapter, failed by itself.
    """
    said = done.err.strip().removeprefix("harness: ")
    if done.code == UsageError.exit_code:
        raise UsageError(said)
    outcome = next((outcome for outcome, code in EXIT_CODES.items() if code == done.code), None)
    if outcome is None:
        raise HarnessError("\n".join(filter(None, (said, _last_words(run_dir)))) or f"exit code {done.code}")
    try:
        result, found = _READERS[kind](json.loads(done.out), outcome, run_dir)
    except (ValueError, LookupError, TypeError) as error:
        raise HarnessError(f"what the command printed makes no sense: {error!r}; {said}") from error
    again = again or found
    page = run_dir / "report.html" if run_dir is not None else None
    return replace(
        result,
        run_dir=run_dir,
        page=page if page is not None and page.is_file() else None,
        replay=f"harness replay {shlex.quote(str(seen_from(here, again)))}" if again is not None else "",
        seed=seed,
    )


_Read = tuple[TortureResult, Path | None]
"""A result, and what shows it again."""


def _campaign(printed: Any, outcome: Outcome, run_dir: Path | None) -> _Read:
    verdicts = printed["judgement"]["verdicts"]
    traffic: dict[str, Any] = next(
        (each["checked"] for each in verdicts if each["property"] == "traffic"), {}
    )
    result = TortureResult(
        outcome,
        _findings(printed["judgement"]["overall"]["findings"]),
        tuple(each["property"] for each in verdicts if each["outcome"] == Outcome.UNKNOWN),
        counts=traffic,
        text="\n\n".join(printed["pages"]),
    )
    return result, run_dir if outcome is Outcome.VIOLATION else None


def _explored(printed: Any, outcome: Outcome, run_dir: Path | None) -> _Read:
    return _found(printed["record"], printed["reasons"], ("schedules", "steps", "kills"), outcome, run_dir)


def _cut(printed: Any, outcome: Outcome, run_dir: Path | None) -> _Read:
    return _found(printed, printed["reasons"], ("images", "runs", "twice"), outcome, run_dir)


def _found(
    record: Any, reasons: list[str], counted: tuple[str, ...], outcome: Outcome, run_dir: Path | None
) -> _Read:
    """The result of a command that keeps each failure in a file of its own, with a page of text beside it."""
    findings = [Finding(each["property_name"], each["message"]) for each in record["found"]]
    files = [run_dir / each["file"] for each in record["found"]] if run_dir is not None else []
    pages = [path.with_suffix(".txt").read_text(encoding="utf-8").rstrip() for path in files]
    lacking = [Finding("traffic", reason) for reason in reasons]
    unknown = outcome is Outcome.UNKNOWN
    result = TortureResult(
        outcome,
        tuple(lacking if unknown else findings),
        ("traffic",) if unknown else (),
        counts={name: record["counts"][name] for name in counted},
        text="\n\n".join(pages or [f"UNKNOWN    {reason}" for reason in reasons]),
    )
    return result, files[0] if files else None


def _replayed(printed: Any, outcome: Outcome, __: Path | None) -> _Read:
    """A replay tells nothing where it left its recording, or not everything could be decided."""
    runs = [run for run in printed.get("runs", ()) if not run.get("findings")]
    reasons = {
        "divergence": any(run.get("divergences") for run in runs),
        "undecided": any(run.get("undecided") for run in runs),
    }
    unknown = [name for name, applies in reasons.items() if applies] or ["replay"]
    same, _, times = printed["reproduced"].partition("/")
    result = TortureResult(
        outcome,
        _findings(printed["findings"]),
        tuple(unknown) if outcome is Outcome.UNKNOWN else (),
        counts={"reproduced": int(same), "runs": int(times)},
        text="\n".join(f"  {line}" for line in printed["lines"]),
    )
    return result, None


def _findings(printed: list[Any]) -> tuple[Finding, ...]:
    return tuple(msgspec.convert(each, Finding) for each in printed)


_READERS: Final[dict[str, Callable[[Any, Outcome, Path | None], _Read]]] = {
    "run": _campaign,
    "explore": _explored,
    "powerloss": _cut,
    "replay": _replayed,
}


def _last_words(run_dir: Path | None) -> str:
    """The end of what the processes of a campaign said on standard error: the traceback of an adapter that failed."""
    if run_dir is None:
        return ""
    said = sorted((run_dir / "stderr").glob("*.txt"), key=lambda path: path.stat().st_mtime)
    return "".join(f"{path}:\n{path.read_text(errors='replace')[-_ERRORS_MAX:]}" for path in said[:1])
