"""What a shell offers for the options that take names: engines, workloads, faults, bugs, scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click
from click.shell_completion import CompletionItem

from harness.errors import HarnessError

Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""What click's ``shell_complete`` takes."""


def one_of(names: Callable[[click.Context], Iterable[str]]) -> Completing:
    """Completes one of the names; a mapping says what each of them means, too. It is asked when a shell asks."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = names(context)
        meanings = found if isinstance(found, Mapping) else {}
        return [
            CompletionItem(name, help=meanings.get(name)) for name in found if name.startswith(incomplete)
        ]

    return complete


def several_of(names: Callable[[click.Context], Iterable[str]]) -> Completing:
    """Completes the last one of several names, separated by commas; none is offered twice."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            CompletionItem(f"{before}{comma}{name}")
            for name in names(context)
            if name.startswith(last) and name not in given
        ]

    return complete


def _engine(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A name, or else the file of somebody's own engine."""
    return one_of(_engines)(context, parameter, incomplete) or [CompletionItem(incomplete, type="file")]


def _engines(_: click.Context) -> Iterable[str]:
    from harness.engines import NAMES

    return NAMES


def _configurations(_: click.Context) -> Iterable[str]:
    from harness.powerloss.peers import CONFIGURATIONS

    return ["kvs", *dict.fromkeys(each.engine for each in CONFIGURATIONS.values()), *CONFIGURATIONS]


def _workloads(_: click.Context) -> Iterable[str]:
    from harness.plan import WORKLOADS

    return WORKLOADS


def _faults(_: click.Context) -> Iterable[str]:
    from harness.plan import FAULTS

    return (*FAULTS, "none")


def _bugs(context: click.Context) -> Iterable[str]:
    """Those of the engine that was named before."""
    from harness import engines

    try:
        return engines.load(context.params.get("engine") or "kvs").bugs()
    except HarnessError:
        return ()


def _planted(_: click.Context) -> Mapping[str, str]:
    from harness.planted import BUGS

    return {name: bug.meaning for name, bug in BUGS.items()}


def _trials(_: click.Context) -> Iterable[str]:
    from harness.selftest import names

    return names()


def _scenarios(_: click.Context) -> Iterable[str]:
    from harness.scenarios import SCENARIOS

    return SCENARIOS


def _scenarios_and_life(context: click.Context) -> Iterable[str]:
    return [*_scenarios(context), "life"]


def _bad_workloads(_: click.Context) -> Iterable[str]:
    from harness.badstorage.workloads import WORKLOADS

    return WORKLOADS


def _variants(_: click.Context) -> Iterable[str]:
    from harness.badstorage.faults import VARIANTS

    return VARIANTS


def _calls(_: click.Context) -> Iterable[str]:
    from harness.badstorage.faults import FAULTS

    return FAULTS


def _kinds(_: click.Context) -> Iterable[str]:
    from harness.errand import KINDS

    return KINDS


def _subjects(_: click.Context) -> Iterable[str]:
    from harness.damage.subjects import RECIPES

    return RECIPES


def _models(_: click.Context) -> Iterable[str]:
    from harness.models.registry import MODELS

    return MODELS


def _recorded(_: click.Context) -> Iterable[str]:
    from harness.checkers.recorded import MODELS

    return MODELS


def _properties(context: click.Context) -> Iterable[str]:
    """Those of the model that was named before, or of all."""
    from harness.models.registry import MODELS

    named = [MODELS[name] for name in [context.params.get("model")] if name in MODELS]
    return dict.fromkeys(name for model in named or MODELS.values() for name in model.properties)


def _formats(_: click.Context) -> Iterable[str]:
    from harness.formats.reading import FORMATS

    return FORMATS


ENGINE: Final = _engine
engine_option: Final = click.option(
    "--engine",
    default="kvs",
    show_default=True,
    shell_complete=ENGINE,
    help="kvs, sqlite, lmdb, or your own module:Class or path/to/file.py:Class.",
)
CONFIGURATIONS: Final = several_of(_configurations)
WORKLOADS: Final = several_of(_workloads)
FAULTS: Final = several_of(_faults)
BUG: Final = one_of(_bugs)
PLANTED: Final = one_of(_planted)
TRIALS: Final = several_of(_trials)
SCENARIOS: Final = several_of(_scenarios)
SCENARIOS_AND_LIFE: Final = several_of(_scenarios_and_life)
BAD_WORKLOADS: Final = several_of(_bad_workloads)
VARIANTS: Final = several_of(_variants)
CALLS: Final = several_of(_calls)
KINDS: Final = several_of(_kinds)
SUBJECTS: Final = several_of(_subjects)
MODEL: Final = one_of(_models)
RECORDED: Final = one_of(_recorded)
PROPERTY: Final = one_of(_properties)
FORMAT: Final = one_of(_formats)
