"""A program that changes files in most of the ways there are; recorded under strace by the tests of the parser.

``python tests/harness/strace_program.py DIRECTORY MARKS``; the directory holds one file, ``old``, of 10,000 bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

_KEEP_SIZE_AND_PUNCH = 3


def main(directory: Path, marks: Path) -> None:
    """Change the files, in this order."""
    libc = ctypes.CDLL(None, use_errno=True)
    said = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(said, b"begin 1\n")

    old = os.open(directory / "old", os.O_RDWR)
    os.read(old, 100)
    os.write(old, b"after what was read")
    again = os.dup(old)
    os.write(again, b", and on")
    os.lseek(again, -5, os.SEEK_END)
    os.writev(old, [b"behind", b"", b" the end"])
    os.posix_fallocate(old, 0, 12_000)
    punched = libc.fallocate(old, _KEEP_SIZE_AND_PUNCH, ctypes.c_long(4096), ctypes.c_long(4096))
    assert punched == 0
    os.ftruncate(old, 11_000)
    os.fsync(old)

    new = os.open(directory / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.pwritev(new, [b"at ", b"three"], 3)
    os.pwrite(new, b"at zero", 0)
    os.fdatasync(new)
    synced = os.open(directory / "new", os.O_WRONLY | os.O_DSYNC)
    os.pwrite(synced, b"ZERO", 3)
    appended = os.open(directory / "new", os.O_WRONLY | os.O_APPEND)
    os.write(appended, b" appended")
    os.write(said, b"told 1\nbeg")
    os.write(said, b"in 2\n")

    thread = threading.Thread(target=os.pwrite, args=(new, b"from a thread", 40))
    thread.start()
    thread.join()
    child = os.fork()
    if child == 0:
        os.write(appended, b" and from a child")
        os._exit(0)
    os.waitpid(child, 0)

    (directory / "renamed").write_bytes(b"over it goes")
    (directory / "new").rename(directory / "renamed")
    (directory / "short").write_bytes(b"lives shortly")
    os.truncate(directory / "short", 5)
    (directory / "short").write_bytes(b"anew")
    (directory / "short").unlink()
    (directory / "index-shm").write_bytes(b"of no interest")
    os.pwrite(new, b"it has another name now", 100)
    names = os.open(directory, os.O_RDONLY)
    os.fsync(names)
    os.write(said, b"failed 2\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
