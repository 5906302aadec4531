"""The corpus: failures that are kept as tests, each with the story of what it caught.

A kept failure is an exact one: a schedule that ``harness explore`` found, or a cut that ``harness powerloss`` found.
What it caught was mended since, so the store must be clean on it. One of a planted bug must show that bug whenever it
is planted again: so it is known to play what it played.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from harness import failure, torture
from harness.errors import HarnessError, UsageError
from harness.failure import Failure
from harness.powerloss import loss
from harness.powerloss.loss import Loss
from harness.verdict import EXIT_CODES, Outcome

DIRECTORY: Final = Path("tests") / "schedules"
TIMES: Final = 2
LIMIT_S: Final = 300.0
"""One replay takes seconds."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_REPLAY_LINE: Final = re.compile(r"harness replay \S+( +\(\d+/\d+\))?")


class Entry(NamedTuple):
    """One kept failure. ``bug`` is the planted bug that it shows, "" if it was a mistake that has been mended."""

    path: Path
    kept: Failure | Loss

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """What is replayed."""
        return "schedule" if isinstance(self.kept, Failure) else "power cut"


class Played(NamedTuple):
    """What became of a kept failure: ``OK`` if it is clean without its bug and shows its property with it;
    ``VIOLATION`` if the store breaks a promise on it (again); ``UNKNOWN`` if it does not show its bug any more, or
    nothing can be said. ``words`` tell both.
    """

    entry: Entry
    outcome: Outcome
    words: str


def read(path: Path) -> Entry:
    """The failure in a file.

    Raises:
        UsageError: there is none; the message says what is wrong, and of a campaign what can be kept of it.
    """
    if path.is_dir():
        if (path / "plan.json").is_file():
            raise UsageError(
                f"{path} is a campaign: its processes ran freely, so there is no schedule that would show it again"
                " exactly. `harness replay` runs its plan again; its seed can be kept in a test, as"
                " torture(..., seed=...); `harness explore` and `harness powerloss` find failures that can be kept"
            )
        names = ", ".join(sorted(each.name for each in path.glob("failure-*.json"))) or "there is none in it"
        raise UsageError(f"{path} is a directory: name the file of a failure ({names})")
    if loss.is_loss(path):
        return Entry(path, loss.load(path))
    return Entry(path, failure.load(path)[0])


def entries(directory: Path) -> list[Entry]:
    """All that is kept in ``directory``, by name.

    Raises:
        UsageError: there is no such directory, or a file in it is no failure.
    """
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}; --dir names another one")
    return [read(path) for path in sorted(directory.glob("*.json"))]


def add(
    source: Path,
    directory: Path,
    *,
    name: str = "",
    story: str = "",
    proven: bool = True,
    show: Callable[[str], None] = lambda _: None,
) -> Entry:
    """Keep the failure in ``source`` in ``directory``, with its ``story``; it must show its violation now, every time
    (unless not ``proven``).

    Raises:
        UsageError: it is none, it has no story, its name is taken, or it does not show its violation.
        HarnessError: it could not be written, or replayed.
    """
    entry = read(source)
    kept = entry.kept
    story = " ".join((story or kept.story).split())
    if not story:
        raise UsageError("say what it caught with --story: whoever meets it in a year has nothing else")
    path = directory / f"{_checked(name or _name_of(kept))}.json"
    if path.exists() and path.resolve() != source.resolve():
        raise UsageError(f"{path} is there already; --name gives this one another name")
    if proven:
        show("replaying")
        printed = _replay(source)
        if printed["reproduced"] != f"{TIMES}/{TIMES}":
            raise UsageError(
                f"{source} does not show its violation now (reproduced {printed['reproduced']}), so it would test"
                " nothing. If it was mended meanwhile, keep it all the same with --unproven"
            )
        if kept.bug and _replay(source, "--clean")["outcome"] == Outcome.VIOLATION:
            raise UsageError(
                f"{source} shows a violation without its bug {kept.bug}, too: the run was recorded with it, so what it"
                " wrote is wrong whatever the store does now. Of power cuts, only what recovery does wrong can be kept"
            )
    page = _REPLAY_LINE.sub(lambda found: f"harness replay {path}{found[1] or ''}", kept.page)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(kept, Failure):
            kept = msgspec.structs.replace(kept, story=story, page=page)
            failure.save(kept, path)
        else:
            kept = msgspec.structs.replace(kept, story=story, page=page)
            loss.save(kept, path)
    except OSError as error:
        raise HarnessError(f"{path} cannot be written: {error}") from error
    return Entry(path, kept)


def play(entry: Entry) -> Played:
    """Replay a kept failure without its planted bug, and then, if it has one, with it.

    Raises:
        HarnessError: it could not be replayed; nothing can be said about the store.
    """
    clean = _replay(entry.path, "--clean")
    if clean["outcome"] == Outcome.VIOLATION:
        found = clean["findings"][0]
        without = " without its bug" if entry.kept.bug else ""
        words = f"the store breaks a promise on it{without}: {found['property']}: {found.get('message', '')}"
        return Played(entry, Outcome.VIOLATION, words)
    if any(run["undecided"] for run in clean.get("runs", [])):
        return Played(entry, Outcome.UNKNOWN, "not all of it could be decided")
    if not entry.kept.bug:
        return Played(entry, Outcome.OK, "clean")
    printed = _replay(entry.path)
    if printed["reproduced"] != f"{TIMES}/{TIMES}":
        words = f"it does not show its bug {entry.kept.bug} any more: reproduced {printed['reproduced']}"
        return Played(entry, Outcome.UNKNOWN, words)
    return Played(
        entry, Outcome.OK, f"clean; with its bug {entry.kept.property_name} {printed['reproduced']}"
    )


def _replay(path: Path, *options: str) -> dict[str, Any]:
    """What ``harness replay`` says of it, in a process of its own: a bug is planted for good."""
    line = ["replay", str(path.resolve()), "--times", str(TIMES), *options, "--json"]
    done = torture.command(line, here=Path.cwd(), limit_s=LIMIT_S)
    if done.code not in EXIT_CODES.values():
        raise HarnessError(f"{path} cannot be replayed: {done.err.strip().removeprefix('harness: ')}")
    printed: dict[str, Any] = json.loads(done.out)
    return printed


def _name_of(kept: Failure | Loss) -> str:
    if kept.bug:
        return kept.bug
    words = kept.kind if isinstance(kept, Failure) else kept.message
    return f"{kept.property_name}-{blake2b(words.encode(), digest_size=3).hexdigest()}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name: {name!r}: small letters, digits and hyphens")
    return name
