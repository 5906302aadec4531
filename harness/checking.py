"""Check a history that anybody recorded: a file, a model, a property, and the verdict with its evidence.

from harness import check_history

verdict = check_history("history.edn", model="list-append", property="serializable")
print(verdict.outcome, *(finding.message for finding in verdict.findings))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.budget import Budget, uncollected
from harness.errors import HistoryError
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness.models.base import Model
    from harness.recorded import Event, Op


def check_history(
    path: str | Path,
    *,
    model: str | None = None,
    property: str | None = None,  # noqa: A002 - the field's word, and the command's option
    format: str | None = None,  # noqa: A002
    limit_s: float | None = None,
    limit_mb: float | None = None,
) -> Verdict:
    """Check the recorded history in the file ``path``.

    ``model`` and ``property`` may be left out where only one is possible, ``format`` where the file shows it. Past
    ``limit_s`` seconds, or ``limit_mb`` MiB of this process's memory, the verdict is UNKNOWN and says what was decided
    so far. Every finding of a violation has an ``Evidence`` in ``finding.details["evidence"]``. Nothing is written.

    Raises:
        UsageError: the file, the model, the property or the format is not there, or cannot be guessed.
        HistoryError: the file cannot be read in that format, or an operation makes no sense in the model;
            with its line.
    """
    chosen, name = choose(path, model=model, property=property, format=format)
    return check_with(path, chosen, name, format=format, budget=Budget(limit_s, limit_mb))


def choose(
    path: str | Path,
    *,
    model: str | None = None,
    property: str | None = None,  # noqa: A002
    format: str | None = None,  # noqa: A002
) -> tuple[Model, str]:
    """The model and the property to check the history in ``path`` for. Without ``model`` the file is read once for it.

    Raises:
        UsageError: as ``check_history``.
        HistoryError: as ``check_history``.
    """
    from harness.formats.reading import open_history
    from harness.models import registry

    if model is not None:
        found = registry.find(model)
    else:
        found = registry.guess(registry.shape_of(open_history(Path(path), format)))
    return found, registry.property_of(found, property)


def check_with(
    path: str | Path,
    model: Model,
    property_name: str,
    *,
    format: str | None = None,  # noqa: A002
    budget: Budget | None = None,
    show: Callable[[str], None] | None = None,
) -> Verdict:
    """Check the history in ``path`` as one of ``model``; ``show`` is told now and then how far it is. Errors as
    ``check_history``.
    """
    from harness.formats.reading import open_history
    from harness.recorded import pair

    events = open_history(Path(path), format)
    operations = pair(events if show is None else _told(events, show), str(path))
    return check_operations(operations, model, property_name, path=str(path), budget=budget)


def _told(events: Iterable[Event], show: Callable[[str], None]) -> Iterator[Event]:
    """The same events; every 65,536th is told, and the end."""
    for count, event in enumerate(events, 1):
        if not count & 0xFFFF:
            show(f"{count:,} events read")
        yield event
    show("all events read, checking")


def check_operations(
    operations: Iterable[Op],
    model: Model,
    property_name: str,
    *,
    path: str = "history",
    budget: Budget | None = None,
) -> Verdict:
    """Check operations that are already there, in the order of their completion. ``path`` names them in errors."""
    try:
        with uncollected():
            return model.check(operations, property_name, budget or Budget())
    except HistoryError as error:
        if error.path:
            raise
        raise HistoryError(error.reason, path, error.line) from error
