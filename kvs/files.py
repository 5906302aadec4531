"""The only module that opens, maps, appends, syncs, allocates, renames and unlinks.

Everything that reaches the medium passes here, so that a recorder or a failing device can stand behind
this one narrow seam. Descriptors are close-on-exec; maps are shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kvs.errors import DurabilityError, StorageFullError, UnsupportedPlatformError

Buffer = bytes | memoryview
_IOV_MAX = 1024  # buffers of one pwritev(2), sysconf(_SC_IOV_MAX) on Linux
_KEEP_SIZE = 1  # linux/falloc.h
_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_MADV_POPULATE_WRITE = 23  # linux/mman.h, since Linux 5.14
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _nothing(_: int) -> None:
    """What the seam costs when nobody listens."""


opened: Callable[[int], None] = _nothing
"""Called as ``opened(fd)`` after every open; a scheduler that closes a victim's descriptors replaces it."""
closing: Callable[[int], None] = _nothing
"""Called as ``closing(fd)`` before every close."""


def _say_where(error: OSError, fd: int) -> None:
    """Give an error of a call that knows only a descriptor the path of its file, for whoever reads the message."""
    if error.filename is None:
        with contextlib.suppress(OSError):
            error.filename = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115


def open_file(path: Path, *, write: bool, create: bool = False) -> int:
    """A descriptor of ``path``; raises ``OSError`` as open(2) does."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | (os.O_CREAT if create else 0), 0o666)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(str(path), 0, error.errno) from error
        raise
    opened(fd)
    return fd


def size(fd: int) -> int:
    """Length of the file in bytes."""
    return _status(fd).st_size


def _status(fd: int) -> os.stat_result:
    try:
        return os.fstat(fd)
    except OSError as error:
        _say_where(error, fd)
        raise


def allocate(fd: int, offset: int, length: int, path: Path) -> None:
    """Give ``length`` bytes from ``offset`` real blocks (posix_fallocate(3)), so that no store through a
    map meets a full disk as SIGBUS. What was there stays; what is new is zero.

    Raises:
        StorageFullError: no room; the file may be longer, its content is as before.
    """
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(str(path), length, error.errno) from error
        _say_where(error, fd)
        raise


def names(directory: Path) -> list[str]:
    """The names in a directory now; none if it is not there."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - names only: every opening asks for them
    except FileNotFoundError:
        return []


def linked(fd: int) -> bool:
    """Whether the file still has a name."""
    return _status(fd).st_nlink > 0


def blocks_bytes(path: Path) -> int:
    """Bytes that the file takes on the medium (``st_blocks``), holes left out; 0 if it is not there."""
    try:
        return os.stat(path).st_blocks * 512  # noqa: PTH116 - every call of this seam is one of os
    except FileNotFoundError:
        return 0


def punch(fd: int, offset: int, length: int, path: Path) -> None:
    """Give the blocks of ``length`` bytes from ``offset`` back (fallocate(2), PUNCH_HOLE and KEEP_SIZE): they read as
    zeros from then on, in maps too, and the file's length stays.

    Raises:
        UnsupportedPlatformError: the file system cannot punch holes. Nothing was changed.
        OSError: it failed otherwise.
    """
    while _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:  # a signal's handler runs between two instructions, so also here
            break
    else:
        return
    if number in {errno.EOPNOTSUPP, errno.ENOSYS}:
        raise UnsupportedPlatformError(
            f"the file system of {path} cannot punch holes (fallocate(2)); nothing was given back"
        )
    raise OSError(number, os.strerror(number), str(path))


def lengthen(fd: int, length: int) -> None:
    """Make the file at least ``length`` bytes long, without blocks for what is new (ftruncate(2)). Where a limit
    forbids it the file stays as it is: the length is a convenience, the blocks are not.
    """
    with contextlib.suppress(OSError):
        if os.fstat(fd).st_size < length:
            os.ftruncate(fd, length)


def map_file(fd: int, *, write: bool, length: int = 0) -> mmap.mmap:
    """A shared map of the whole file (or its first ``length`` bytes). It is never closed, only dropped:
    a reader in another thread may still be looking at it.
    """
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    try:
        return mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=prot)
    except OSError as error:
        _say_where(error, fd)
        raise


def write_at(fd: int, offset: int, pieces: Sequence[Buffer], path: Path) -> None:
    """Write all ``pieces`` one behind the other from ``offset``, however short the system calls fall.

    Raises:
        StorageFullError: no room; any prefix may have been written.
    """
    position = offset
    for first in range(0, len(pieces), _IOV_MAX):
        window: list[Buffer] = list(pieces[first : first + _IOV_MAX])
        while window:
            try:
                written = os.pwritev(fd, window, position)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise StorageFullError(str(path), sum(map(len, window)), error.errno) from error
                _say_where(error, fd)
                raise
            position += written
            while window and written >= len(window[0]):
                written -= len(window.pop(0))
            if window and written:
                window[0] = memoryview(window[0])[written:]


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
    try:
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        missing = length - len(data)
        while missing:
            part = os.pread(fd, missing, offset + length - missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
    except OSError as error:
        _say_where(error, fd)
        raise
    return b"".join(parts)


def sync_data(fd: int, path: Path) -> None:
    """Put the file's data on the medium: fdatasync(2), which covers stores through shared maps too.

    Raises:
        DurabilityError: it failed. The kernel takes what it could not write for clean from then on, so a sync that is
            only retried says that all is well; but what can be is made dirty again.
    """
    try:
        os.fdatasync(fd)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # an empty file cannot be mapped
            _make_dirty(path)
        raise DurabilityError(str(path), os.strerror(error.errno or errno.EIO)) from error


def _make_dirty(path: Path) -> None:
    """Have the next sync, whoever's it is, write all data of the file once more. Every page is faulted in for writing,
    which marks it and changes no byte: others may be storing there. Holes stay holes. Kernels that cannot do that leave
    a close or a compaction after a failed sync to believe what the next sync says.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        view = mmap.mmap(fd, 0)
        begin = 0
        while begin < len(view):
            begin = os.lseek(fd, begin, os.SEEK_DATA)  # raises where nothing but a hole is left
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            begin -= begin % mmap.PAGESIZE
            view.madvise(_MADV_POPULATE_WRITE, begin, end - begin)
            begin = end
    finally:
        _close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises DurabilityError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise DurabilityError(str(path), os.strerror(error.errno or errno.EIO)) from error
    finally:
        _close(fd)


def publish(temporary: Path, final: Path) -> None:
    """Give a complete file its name in one step, over any older one (rename(2)).

    Raises:
        StorageFullError: the directory has no room for the name.
        OSError: it failed otherwise.
            After either a file is not at ``temporary`` any more; a directory is still the caller's to remove.
    """
    try:
        os.rename(temporary, final)  # noqa: PTH104
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - refuses a directory
        if error.errno in _NO_ROOM:
            raise StorageFullError(str(final), 0, error.errno) from error
        raise


def unlink(path: Path) -> None:
    """Remove a name; one that is not there is fine. Maps of the file stay valid."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def close(fd: int) -> None:
    """Close a descriptor. It is gone whatever the system call says, so nothing is said of a medium that failed
    meanwhile: what has to be on it was synced before.
    """
    closing(fd)
    _close(fd)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:  # somebody else closed it: a bug, and not the medium's
            raise


@functools.cache
def boot_id() -> bytes:
    """16 bytes that differ after every boot of this kernel (proc_sys_kernel(5), random/boot_id). Read once: no process
    outlives its kernel.
    """
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def process_state(pid: int) -> str:
    """What ``pid`` is doing, for messages: "running", "sleeping", "stopped", "gone" or "not visible here"."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "not visible here"
    states = {"R": "running", "T": "stopped", "t": "stopped", "Z": "gone", "D": "waiting for the disk"}
    return states.get(line.rpartition(")")[2].split()[0], "sleeping")
