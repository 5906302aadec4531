"""A failing device behind the store's seam: it counts the system calls of ``kvs.files`` and lets chosen ones fail."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from harness.badstorage.faults import FAULTS, FULL, Fault
from harness.badstorage.medium import Medium
from kvs import files

_BY_PATH: Final = frozenset({"open", "listdir", "stat", "rename", "unlink", "mkdir"})
_NEED_BLOCKS: Final = frozenset({"posix_fallocate", "mkdir"})


class Call(NamedTuple):
    """One system call of a run: what it is, and of which file."""

    name: str
    file: str
    creates: bool = False

    def __str__(self) -> str:
        return f"{self.name} of {self.file}"

    @property
    def errors(self) -> tuple[str, ...]:
        """What it can be made to do."""
        errors = FAULTS[self.name]
        return tuple(error for error in errors if self.name != "open" or self.creates or error not in FULL)


class _Module:
    """A module as ``kvs.files`` sees it: some of its functions pass the device, the rest is the module's own."""

    def __init__(self, module: Any, functions: dict[str, Callable[..., Any]]) -> None:
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Map(mmap.mmap):
    """A map that tells the medium which pages were made dirty again."""

    medium: Medium
    inode: int

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        """As that of a map; only the store's own use of it is meant."""
        super().madvise(option, start, length)
        self.medium.make_dirty(self.inode, start, length)


class Device:
    """The device under everything in ``root``. Between ``with`` and its end ``kvs.files`` calls it, and it counts and
    fails while ``on`` is true. One at a time in a process, and no other thread may use a store meanwhile.
    """

    def __init__(self, root: Path, faults: Iterable[Fault] = ()) -> None:
        self.root = root
        self.faults = {fault.call: fault.error for fault in faults}
        self.calls: list[Call] = []
        self.failed: list[tuple[Call, str]] = []
        """What was made to fail so far, in order."""
        self.full = False
        """Whether nothing new fits (``full``); whoever makes room sets it back."""
        self.on = False
        self.medium = Medium()
        self._before: tuple[Any, ...] = ()

    def __enter__(self) -> Self:
        module: Any = files
        self._before = (module.os, module.mmap, module._libc, os.mkdir)
        calls: dict[str, Callable[..., Any]] = {
            name: functools.partial(self._call, name, getattr(os, name))
            for name in FAULTS
            if name not in ("mmap", "fallocate", "mkdir")
        }
        module.os = _Module(os, calls)
        module.mmap = _Module(mmap, {"mmap": functools.partial(self._call, "mmap", _Map)})
        module._libc = _Module(
            files._libc, {"fallocate": functools.partial(self._call, "fallocate", files._libc.fallocate)}
        )
        # Directories are made by pathlib, which finds it here.
        os.mkdir = functools.partial(self._call, "mkdir", os.mkdir)
        return self

    def __exit__(self, *_: object) -> None:
        module: Any = files
        module.os, module.mmap, module._libc, os.mkdir = self._before

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "mkdir" and self.root not in Path(args[0]).parents:
            return real(*args, **options)
        creates = name == "open" and bool(args[1] & os.O_CREAT) and not os.path.exists(args[0])  # noqa: PTH110
        if not self.on:
            return self._do(name, real, args, options, creates=creates)
        number = len(self.calls)
        call = Call(name, self._file(name, args), creates)
        self.calls.append(call)
        error = self.faults.get(number)
        if error is not None:
            if name in ("open", "mmap") and self.faults.keys() & {number - 1, number - 2}:
                self._forgive()
            self.failed.append((call, error))
            return self._fail(call, error, real, args, options)
        if self.full and (
            name in _NEED_BLOCKS or creates or (name == "pwritev" and self.medium.refuses(*args))
        ):
            return self._fail(call, "ENOSPC", real, args, options)
        return self._do(name, real, args, options, creates=creates)

    def _do(
        self,
        name: str,
        real: Callable[..., Any],
        args: Sequence[Any],
        options: dict[str, Any],
        *,
        creates: bool,
    ) -> Any:
        result = real(*args, **options)
        if creates:
            self.medium.make(result)
        self._done(name, args, result)
        return result

    def _file(self, name: str, args: Sequence[Any]) -> str:
        path = Path(args[0]) if name in _BY_PATH else Path(f"/proc/self/fd/{args[0]}").readlink()
        if path == self.root:
            return "the directory around the store"
        file = str(path.relative_to(self.root)) if self.root in path.parents else path.name
        return re.sub(r"\.[0-9a-f]{8}\.part", ".part", file)  # drawn anew every time

    def _forgive(self) -> None:
        """Right after a failed sync the call failed too that would have made its pages dirty again. That is the best
        that the store can do, so no more is asked of it.
        """
        if self.failed and self.failed[-1][0].name == "fdatasync":
            self.medium.forgive()

    def _fail(
        self, call: Call, error: str, real: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]
    ) -> Any:
        name = call.name
        if error in ("one-byte", "half"):
            result = self._part(name, error, real, args)
            self._done(name, args, result)
            return result
        if error == "full":
            self.full, error = True, "ENOSPC"
        if error.startswith("done-"):
            error = error.removeprefix("done-")
            result = real(*args, **options)
            self._done(name, args, result)
        elif name == "fdatasync":
            self.medium.lose(args[0])
        elif name == "posix_fallocate":
            self.medium.refuse(*args)
        number = getattr(errno, error)
        if name == "fallocate":  # a C function: it returns, and leaves the number
            ctypes.set_errno(number)
            return -1
        raise OSError(number, os.strerror(number), *(args[:1] if name in _BY_PATH else ()))

    @staticmethod
    def _part(name: str, error: str, real: Callable[..., Any], args: Sequence[Any]) -> Any:
        if name == "pread":
            fd, length, offset = args
            return real(fd, 1 if error == "one-byte" else max(1, length // 2), offset)
        fd, pieces, offset = args
        data = b"".join(pieces)
        return real(fd, [data[: 1 if error == "one-byte" else max(1, len(data) // 2)]], offset)

    def _done(self, name: str, args: Sequence[Any], result: Any) -> None:
        """Tell the medium what happened."""
        medium = self.medium
        if name == "pwritev":
            medium.write(args[0], args[2], result)
        elif name == "posix_fallocate":
            medium.give(*args)
        elif name == "fdatasync":
            medium.sync(args[0])
        elif name == "mmap":
            result.medium, result.inode = medium, os.fstat(args[0]).st_ino
            medium.map(args[0])
