"""Engines by name. One file per engine; a ``module:Class`` name loads anybody's adapter."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final, cast

from harness.engines.base import Engine
from harness.errors import EngineMissingError

NAMES: Final = {
    "kvs": "harness.engines.kvs:KvsEngine",
    "sqlite": "harness.engines.sqlite:SqliteEngine",
}
"""The engines that come with the harness; each is imported only when it is asked for."""


def load(name: str) -> Engine:
    """The engine called ``name`` (a key of ``NAMES``, or ``module:Class`` for anybody's adapter).

    A module of the current directory is found too, as ``python -m`` would.

    Raises:
        EngineMissingError: no engine has that name, its module cannot be imported, or its class cannot be
            made without arguments.
    """
    target = NAMES.get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not (module_name and colon and class_name):
        known = ", ".join(sorted(NAMES))
        raise EngineMissingError(
            f"no engine is called {name!r}; name one of {known}, or your own module:Class"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return cast("Engine", getattr(importlib.import_module(module_name), class_name)())
    except ImportError as error:
        raise EngineMissingError(f"engine {name!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise EngineMissingError(f"module {module_name!r} has no class {class_name!r}") from error
    except TypeError as error:
        raise EngineMissingError(f"{target} cannot be made without arguments: {error}") from error
