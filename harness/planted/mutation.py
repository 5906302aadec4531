"""Planting: a piece of one function's source is replaced and the function compiled again in its module."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

from harness.errors import HarnessError
from harness.plan import WORKLOADS

_sources: dict[tuple[Any, str], str] = {}
"""The originals, read once before any fork: a file that is edited during a campaign must not matter."""

_mutated: dict[tuple[Any, str], str] = {}
"""What was mutated already in this process, as text: a second mutation builds on the first."""


class Mutation(NamedTuple):
    """Replace ``old``, which stands exactly once in the source of ``name`` in ``owner``, by ``new``."""

    owner: ModuleType | type
    name: str
    old: str
    new: str

    def apply(self) -> None:
        """Compile the mutated function and put it in the original's place.

        Raises:
            HarnessError: the text does not stand there exactly once.
        """
        original = inspect.getattr_static(self.owner, self.name)
        source = _mutated.get((self.owner, self.name)) or _sources[self.owner, self.name]
        if source.count(self.old) != 1:
            raise HarnessError(
                f"planted bug: {self.old!r} stands {source.count(self.old)} times in {self.name}, not once; the"
                " store's source has changed, so the bug must be written anew"
            )
        module = self.owner if isinstance(self.owner, ModuleType) else sys.modules[self.owner.__module__]
        scope: dict[str, Any] = {}
        mutated = source.replace(self.old, self.new)
        _mutated[self.owner, self.name] = mutated
        code = compile(
            "from __future__ import annotations\n" + mutated,
            f"<planted {self.name}>",
            "exec",
        )
        exec(code, vars(module) | {"__name__": module.__name__}, scope)  # noqa: S102 - our own source
        mutant: Callable[..., Any] = scope[self.name]
        _replace_everywhere(self.owner, self.name, original, _rebound(mutant, module))


def _rebound(mutant: Any, module: ModuleType) -> Any:
    """The same function with the module's live namespace as its globals, so that it sees other mutations."""
    if isinstance(mutant, staticmethod):
        return staticmethod(_rebound(mutant.__func__, module))
    function = type(mutant)(
        mutant.__code__, vars(module), mutant.__name__, mutant.__defaults__, mutant.__closure__
    )
    function.__kwdefaults__ = mutant.__kwdefaults__
    return function


def _replace_everywhere(owner: ModuleType | type, name: str, original: Any, mutant: Any) -> None:
    """Rebind the name in its owner, and in every module of kvs that imported the function by name."""
    setattr(owner, name, mutant)
    for key, module in list(sys.modules.items()):
        if key.startswith("kvs.") and getattr(module, name, None) is original:
            setattr(module, name, mutant)


class Bug(NamedTuple):
    """One planted bug: what the mistake is, the mutations that make it, and where the default campaign is not the
    quickest to find it, another share of the work. ``campaign``: whether the selftest's campaigns of free-running
    processes are expected to find it. ``explored``: whether exploring is; it is not where the mistake is about what the
    kernel does between processes, or about a power cut, which is what ``powerloss`` means: whether cuts are expected to
    find it.
    """

    meaning: str
    mutations: tuple[Mutation, ...]
    workloads: tuple[str, ...] = WORKLOADS
    readers: int = 2
    writers: int = 4
    campaign: bool = True
    explored: bool = True
    powerloss: bool = False

    def plant(self) -> None:
        """Put the bug into this process, which must not have opened a store yet."""
        for mutation in self.mutations:
            mutation.apply()


def remember(bugs: Iterable[Bug]) -> None:
    """Read the source of everything that ``bugs`` mutate."""
    for bug in bugs:
        for owner, name, _, _ in bug.mutations:
            _sources[owner, name] = textwrap.dedent(inspect.getsource(inspect.getattr_static(owner, name)))
