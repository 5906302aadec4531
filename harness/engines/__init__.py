"""Engines by name. One file per engine; ``module:Class`` and ``path/to/file.py:Class`` load anybody's adapter."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from harness.engines.base import Engine
from harness.errors import EngineMissingError

NAMES: Final = {
    "kvs": "harness.engines.kvs:KvsEngine",
    "lmdb": "harness.engines.lmdb:LmdbEngine",
    "sqlite": "harness.engines.sqlite:SqliteEngine",
}
"""The engines that come with the harness; each is imported only when it is asked for."""


def load(name: str) -> Engine:
    """The engine called ``name``: a key of ``NAMES``, or ``module:Class`` or ``path/to/file.py:Class`` for anybody's
    adapter; a class inside a class is ``Outer.Inner``.

    A module of the current directory is found too, as ``python -m`` would; the modules beside a file are found as they
    would be if it were run.

    Raises:
        EngineMissingError: no engine has that name, its module cannot be imported, or its class cannot be
            made without arguments; the message says which line of whose file is to blame.
    """
    source, colon, class_name = NAMES.get(name, name).rpartition(":")
    if not (source and colon and class_name):
        known = ", ".join(sorted(NAMES))
        raise EngineMissingError(
            f"no engine is called {name!r}; name one of {known}, or your own module:Class or path/to/file.py:Class"
        )
    is_file = source.endswith(".py") or "/" in source
    try:
        module = _module_of(Path(source)) if is_file else _module_called(source)
    except EngineMissingError:
        raise
    except ImportError as error:
        raise EngineMissingError(f"engine {name!r} cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:
        what = f"engine {name!r} cannot be imported: {_told(error)}"
        raise EngineMissingError(f"{what}; the mistake is in that module, and nothing was run") from error
    try:
        made = operator.attrgetter(class_name)(module)
    except AttributeError as error:
        place = source if is_file else f"module {source!r}"
        raise EngineMissingError(f"{place} has no class {class_name!r}") from error
    try:
        return cast("Engine", made())
    except TypeError as error:
        raise EngineMissingError(f"{name} cannot be made without arguments: {error}") from error
    except Exception as error:
        raise EngineMissingError(f"{name} cannot be made: {_told(error)}") from error


def _module_called(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _module_of(path: Path) -> ModuleType:
    """The module in a file; one in a package is imported by its name there, so that it may import its neighbours
    relatively.
    """
    path = path.resolve()
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    names, directory = [path.stem], path.parent
    while (directory / "__init__.py").is_file():
        names.insert(0, directory.name)
        directory = directory.parent
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    name = ".".join(names)
    if len(names) > 1:
        return importlib.import_module(name)
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path:
            return known
        name = str(path)  # somebody else has the name
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _told(error: BaseException) -> str:
    """The last line of a traceback, and where it was raised."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")
    ]
    where = (
        f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and frames[-1].filename != __file__ else ""
    )
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}"
    words = str(error) if type(error) is ImportError else f"{type(error).__name__}: {error}"
    return f"{words}{where}"
