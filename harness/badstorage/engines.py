"""Failing calls under other engines, unmodified: strace lets them fail, and the database is opened anew afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.powerloss import outage, peers
from harness.powerloss.peers import Configuration
from harness.powerloss.table import configurations
from harness.verdict import Finding

CALLS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "sqlite": (
        ("pwrite64", "ENOSPC"),
        ("pwrite64", "EIO"),
        ("fdatasync", "EIO"),
        ("ftruncate", "EIO"),
        ("unlink", "EIO"),
    ),
    "lmdb": (("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("writev", "ENOSPC"), ("fdatasync", "EIO")),
}
"""By engine: which calls fail, and with what."""
WHEN: Final = ("1", "2", "3", "5", "8", "2..4", "4+")
"""Which of the calls: one, several in a row, or all from then on."""
_COUNT: Final = 10


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """One run: so many ``failed`` calls (strace says so of each), and what was wrong with the database afterwards."""

    configuration: str
    call: str
    error: str
    when: str
    failed: int
    findings: tuple[Finding, ...]


def fail(
    engines: Sequence[str],
    *,
    seed: int,
    calls: Sequence[str] = (),
    limit: int | None = None,
    show: Callable[[str, float], None] = lambda *_: None,
) -> Iterator[Failed]:
    """Run transactions on every configuration that ``engines`` name while calls fail, and yield what came of each run
    in which one did. Everything that was told must be there, whole. Only these ``calls`` fail (or all that can), in at
    most ``limit`` runs. ``show`` is told of each, and which share was done before it.

    Raises:
        UsageError: there is no such engine.
        HarnessError: strace, or an engine, is not installed, or a trace cannot be understood.
    """
    wanted: dict[str, Configuration] = {
        each.name: each for engine in engines for each in configurations(engine)
    }
    for each in wanted.values():
        peers.available(each)
    runs = [
        (each, call, error, when)
        for each in wanted.values()
        for call, error in CALLS[each.engine]
        for when in WHEN
        if not calls or call in calls
    ]
    with outage.scratch() as scratch:
        for number, (each, call, error, when) in enumerate(runs[:limit]):
            show(f"{each.name}  {call} {error} {when}", number / len(runs[:limit]))
            found = _run(each, call, error, when, seed, scratch)
            if found.failed:
                yield found


def _run(each: Configuration, call: str, error: str, when: str, seed: int, scratch: Path) -> Failed:
    failed, findings = peers.inject(each, call, error, when, seed=seed, count=_COUNT, scratch=scratch)
    return Failed(
        configuration=each.name, call=call, error=error, when=when, failed=failed, findings=tuple(findings)
    )
