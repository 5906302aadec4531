"""What the store makes of system calls that fail, one test for each mistake that was found, and of real limits."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import durability, files, layout
from tests.kvs.processes import Child

ROOT = Path(__file__).parent.parent.parent


def fail(number: int) -> Callable[..., Any]:
    """A system call that only fails."""

    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def descriptors() -> set[str]:
    """The numbers of this process's open descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize(
    ("module", "name", "use"),
    [
        ("os", "pread", lambda fd, path: files.read_at(fd, 0, 7)),
        ("os", "fstat", lambda fd, path: files.size(fd)),
        ("os", "fstat", lambda fd, path: files.linked(fd)),
        ("os", "pwritev", lambda fd, path: files.write_at(fd, 0, [b"x"], path)),
        ("os", "posix_fallocate", lambda fd, path: files.allocate(fd, 0, 4096, path)),
        ("mmap", "mmap", lambda fd, path: files.map_file(fd, write=False)),
    ],
)
def test_an_error_of_a_call_that_knows_only_a_descriptor_names_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, use: Callable[[int, Path], Any]
) -> None:
    fd = files.open_file(file, write=True)
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[module], name, fail(errno.EIO))
        with pytest.raises(OSError, match=str(file)) as caught:
            use(fd, file)
    assert caught.value.errno == errno.EIO
    files.close(fd)


def test_a_hole_that_is_interrupted_by_a_signal_is_punched_after_all(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [errno.EINTR, errno.EINTR, 0]

    class Interrupted:
        def fallocate(self, *_: object) -> int:
            number = answers.pop(0)
            ctypes.set_errno(number)
            return -1 if number else 0

    monkeypatch.setattr(files, "_libc", Interrupted())
    files.punch(0, 0, 4096, file)
    assert answers == []


def test_what_closing_says_of_the_medium_stops_nobody_and_a_descriptor_closed_twice_does(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = files.open_file(file, write=False)
    close = os.close

    def close_and_fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close_and_fail)
        files.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.close(fd)


def test_a_name_that_could_not_be_given_leaves_no_temporary_file_and_says_where_there_is_no_room(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", fail(errno.ENOSPC))
    with pytest.raises(kvs.StorageFullError, match="final"):
        files.publish(file, file.with_name("final"))
    assert not file.exists()


def test_a_backup_that_has_its_name_although_renaming_failed_is_one(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def rename_and_fail(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name == "backup":
            raise OSError(errno.EIO, "Input/output error")

    with kvs.open(store_dir, index_capacity=40) as store:
        store[1] = b"v"
        monkeypatch.setattr(os, "rename", rename_and_fail)
        assert store.backup(store_dir.with_name("backup")) == 1
    with kvs.open(store_dir.with_name("backup"), "r") as copy:
        assert copy[1] == b"v"


def test_a_smallfile_that_cannot_be_read_when_it_is_opened_is_closed_again(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kvs.open(store_dir, index_capacity=40) as store:
        store[1] = b"v"
    with kvs.open(store_dir, "r") as store:
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", fail(errno.EIO))
            with pytest.raises(OSError, match="small"):
                store.get(1)
        assert descriptors() == before
        assert store[1] == b"v"


def test_a_map_that_cannot_be_made_longer_stops_one_commit_and_not_the_next(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kvs.open(store_dir, index_capacity=40) as store:
        store[1] = b"small"
        with monkeypatch.context() as patched:
            patched.setattr("mmap.mmap", fail(errno.ENOMEM))
            with pytest.raises(OSError, match="Cannot allocate memory"):
                store[1] = bytes(2 << 20)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                store[2] = bytes(2 << 20)
        store.put_many({2: bytes(2 << 20), 3: b"beside it"})
        assert (store[1], store[2], store[3], store.verify()) == (b"small", bytes(2 << 20), b"beside it", [])


def test_a_laggard_for_which_there_is_no_room_is_no_refusal_of_what_was_committed(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kvs.open(store_dir, durable=True, index_capacity=40, lock_timeout_s=1) as other:
        other[1] = b"first"
        with kvs.open(store_dir, "w") as store:
            store[2] = b"first"
            with monkeypatch.context() as patched:
                patched.setattr(os, "fdatasync", fail(errno.EIO))
                with pytest.raises(kvs.DurabilityError):
                    store[2] = b"in doubt"
        index = other._view.index
        slot = next(slot for slot, time in enumerate(index.lagging.tolist()) if time)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwritev", fail(errno.ENOSPC))
            with pytest.raises(kvs.DurabilityError, match="No space left"):
                durability.sync_for(index, other._smallfiles, slot)
        other[1] = b"second"
        assert other.get_many([1, 2]) == [b"second", b"in doubt"]
        assert other.verify() == []


def written_bytes() -> int:
    """What this process has made dirty on real file systems so far."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.partition("write_bytes: ")[2].split()[0])


def test_what_a_failed_sync_could_not_write_is_written_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    fd = files.open_file(path, write=True, create=True)
    before = written_bytes()
    files.write_at(fd, 0, [bytes(8 * layout.PAGE)], path)
    if written_bytes() - before < 8 * layout.PAGE:
        files.close(fd)
        pytest.skip("a file system in memory counts nothing")
    files.lengthen(fd, 1 << 20)
    files.sync_data(fd, path)  # so everything is clean, as it is for the kernel after a failed sync
    before, blocks = written_bytes(), files.blocks_bytes(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail(errno.EIO))
        with pytest.raises(kvs.DurabilityError):
            files.sync_data(fd, path)
    assert written_bytes() - before == 8 * layout.PAGE
    files.sync_data(fd, path)
    assert files.blocks_bytes(path) == blocks, "no hole was filled"
    files.close(fd)


def test_a_failed_sync_of_an_empty_file_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = files.open_file(tmp_path / "file", write=True, create=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail(errno.EDQUOT))
        with pytest.raises(kvs.DurabilityError, match="quota"):
            files.sync_data(fd, tmp_path / "file")
    files.close(fd)


# -- real limits, in processes of their own -----------------------------------------------------------------


@pytest.mark.parametrize(("io", "durable"), [("mmap", False), ("mmap", True), ("append", True)])
def test_several_processes_fill_a_file_system_to_its_last_page_and_go_on_when_there_is_room(
    tmp_path: Path, io: str, durable: bool
) -> None:
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip(f"user name spaces are not allowed here: {allowed.stderr.decode().strip()}")
    command = ["unshare", "-rm", sys.executable, "-m", "tests.kvs.full_disk", str(tmp_path), io, str(durable)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


def grow_within(connection: Connection, path: Path, limit: int) -> None:
    """Write keys until the index may not grow, for the limit of a file's length; then go on without one."""
    with kvs.open(path, index_capacity=40, smallfile_bytes=30_000) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        count = 0
        try:
            while True:
                store[count] = b"v"
                count += 1
        except kvs.StorageFullError as error:
            connection.send((count, error.path, error.errno))
        store[0] = b"a key that is there needs no larger index"
        assert (len(store), store.verify()) == (count, [])
        connection.send(sorted(each.name for each in path.iterdir() if each.name.startswith("index.")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store[count] = b"v"
        connection.send((len(store) - count, store.verify()))


def test_an_index_that_may_not_grow_for_a_limit_of_files_is_a_clear_error_and_the_store_goes_on(
    store_dir: Path,
) -> None:
    with Child(grow_within, store_dir, 120_000) as child:
        assert child.receive() == (40, str(store_dir / "index.1.new"), errno.EFBIG)
        assert child.receive() == ["index.0"]
        assert child.receive() == (1, [])


def fail_to_sync(connection: Connection, path: Path) -> None:
    """Commit while syncs fail; then be gone without having closed."""
    store = kvs.open(path, "w")
    store[1] = b"acknowledged"
    os.fdatasync = fail(errno.EIO)
    for key in (1, 2):
        try:
            store[key] = b"in doubt" if key == 1 else b"refused"
        except kvs.DurabilityError as error:
            connection.send(error.path)
    connection.recv()
    os._exit(0)


@pytest.mark.parametrize("gone", [False, True])
def test_after_a_failed_sync_in_one_process_the_others_go_on_and_make_good_what_it_left(
    store_dir: Path, gone: bool
) -> None:
    with (
        kvs.open(store_dir, durable=True, index_capacity=40) as store,
        Child(fail_to_sync, store_dir) as child,
    ):
        assert [child.receive(), child.receive()] == [str(store_dir / "00001.small")] * 2
        assert store[1] == b"acknowledged"
        if gone:
            child.send()
            child.process.join()
        store[3] = b"another's"
        assert store.get_many([1, 2, 3]) == [b"in doubt", None, b"another's"]
        assert store.verify() == []
        if not gone:
            child.send()
