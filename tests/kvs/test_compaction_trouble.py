"""Compaction where something goes wrong: a full disk, damage, a power cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import compaction, files, layout, moving, syncpoints
from kvs.locks import COMPACT, RangeLocks
from kvs.rebuild import rebuild
from tests.kvs.compacting import (
    KEYS,
    MIB,
    check_everything,
    filled,
    smallfile_blocks,
    used,
    write,
)

# -- what can go wrong ------------------------------------------------------------------------------------


def test_one_compacts_at_a_time(store_dir: Path) -> None:
    with kvs.open(store_dir, "n", lock_timeout_s=0.05) as store:
        locks = RangeLocks(store_dir / "ranges.lock", lambda _: 0)
        store._view.index.words[layout.H_COMPACT_PID] = os.getpid()
        proof = locks.acquire(COMPACT, 1.0)
        with pytest.raises(kvs.LockTimeoutError, match=f"COMPACT held by pid {os.getpid()}") as caught:
            store.compact()
        assert caught.value.lock == "COMPACT"
        locks.release(proof)
        locks.close()
        store.compact()


@pytest.mark.parametrize("moment", ["making the output", "copying"])
def test_a_full_disk_stops_a_pass_and_loses_nothing(
    store_dir: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = filled(store_dir, smallfile_bytes=MIB // 2)
    with store:
        write(store, model, {KEYS[1]: bytes(3 * MIB)})
        allocate = files.allocate
        allowed = 0 if moment == "making the output" else 1

        def full(fd: int, offset: int, length: int, path: Path) -> None:
            nonlocal allowed
            if allowed == 0:
                raise kvs.StorageFullError(str(path), length, 28)
            allowed -= 1
            allocate(fd, offset, length, path)

        monkeypatch.setattr(files, "allocate", full)
        with pytest.raises(kvs.StorageFullError):
            store.compact()
        monkeypatch.undo()
        check_everything(store, model)
        write(store, model, {KEYS[2]: b"goes on"})
        assert store.compact().moved_records > 0
        smallfiles = store._smallfiles
        stray = [name for name in smallfiles.ids() if not smallfiles.bound(name, layout.B_END)]
        assert len(stray) <= 1, "what was begun is gone"
        check_everything(store, model)


def test_a_file_system_without_holes_is_said_before_anything_is_moved(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = filled(store_dir)

    def refuse(fd: int, offset: int, length: int, path: Path) -> None:
        raise kvs.UnsupportedPlatformError("no holes here; nothing was given back")

    with store:
        before = used(store)
        monkeypatch.setattr(files, "punch", refuse)
        with pytest.raises(kvs.UnsupportedPlatformError, match="no holes"):
            store.compact()
        assert used(store).live_bytes <= before.live_bytes
        check_everything(store, model)


@pytest.mark.parametrize("damage", ["a live record", "a dead record", "a commit record"])
def test_nothing_is_given_back_of_a_file_that_is_damaged(store_dir: Path, damage: str) -> None:
    with kvs.open(store_dir, "n", smallfile_bytes=2 * MIB) as store:
        for number in range(6):
            store.put_many(dict.fromkeys(range(250), b"%d" % number * 1000))
        store.put_many({i: bytes(1000) for i in range(1000, 2500)})  # so the first file is sealed
        path = store_dir / layout.smallfile_name(0)
        word = store._view.index.find((7).to_bytes(16, "big"), 3 if damage == "a live record" else 6)
        assert word is not None
        places = {
            "a live record": word.location + 60,
            "a dead record": layout.SMALLFILE_BEGIN + 100,
            "a commit record": layout.SMALLFILE_BEGIN + 250 * layout.record_bytes(1000) + 70,
        }
        before = {key: store.get(key) for key in (*range(250), *range(1000, 2500))}
        with path.open("r+b") as file:
            file.seek(places[damage])
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        blocks = files.blocks_bytes(path)
        with pytest.raises(
            kvs.CorruptedStoreError, match=r"damaged before its published end.*00000\.small"
        ) as caught:
            store.compact()
        assert "kvs recover" in str(caught.value)
        assert files.blocks_bytes(path) == blocks
        assert {key: store.get(key) for key in before} == before
        store[1] = b"goes on"
        RangeLocks(store_dir / "ranges.lock", lambda _: 0).acquire(COMPACT, 0.0)


@pytest.mark.parametrize("size", [100, 5 * MIB])
def test_a_record_that_is_damaged_after_it_was_scanned_is_not_moved(
    store_dir: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kvs.open(store_dir, "n") as store:
        store.put_many({i: bytes(size) for i in range(3)})
        location = store._view.index.find((2).to_bytes(16, "big"), 1).location  # type: ignore[union-attr]
        locate = compaction._locate

        def damage(*arguments: Any) -> Any:
            with (store_dir / layout.smallfile_name(0)).open("r+b") as file:
                file.seek(location + 60)
                file.write(b"x")
            return locate(*arguments)

        monkeypatch.setattr(compaction, "_locate", damage)
        with pytest.raises(kvs.CorruptedStoreError, match="was not moved") as caught:
            store.compact()
        assert caught.value.offset_bytes == location
        assert store.get_many([0, 1]) == [bytes(size)] * 2


def test_a_reference_to_what_is_no_record_is_not_punched(store_dir: Path) -> None:
    with kvs.open(store_dir, "n") as store:
        store.put_many({i: bytes(5000) for i in range(500)})
        revision = store._view.index.find((7).to_bytes(16, "big"), 1)
        assert revision is not None
        store._view.index.words[revision.place_word] += 64
        blocks = smallfile_blocks(store_dir)
        with pytest.raises(kvs.CorruptedStoreError, match="no record begins"):
            store.compact()
        assert smallfile_blocks(store_dir) >= blocks


# -- a power cut ------------------------------------------------------------------------------------------


class Medium:
    """What is on the medium: a file as it was when it was synced last, holes and removals at once.

    Headers may be written back at any time, without the rest: ``image`` with ``early`` has those of this moment.
    """

    def __init__(self, path: Path, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.where = path, where
        self.about_to_sync: Callable[[], object] = lambda: None
        where.mkdir()
        sync, punch, unlink = files.sync_data, files.punch, files.unlink

        def synced(fd: int, file: Path) -> None:
            self.about_to_sync()
            sync(fd, file)
            if file.suffix == ".small" and files.linked(fd):
                shutil.copyfile(file, where / file.name)

        def punched(fd: int, offset: int, length: int, file: Path) -> None:
            punch(fd, offset, length, file)
            if (where / file.name).exists():
                with (where / file.name).open("r+b") as copy:
                    copy.seek(offset)
                    copy.write(bytes(max(0, min(length, os.fstat(copy.fileno()).st_size - offset))))

        def unlinked(file: Path) -> None:
            unlink(file)
            unlink(where / file.name)

        for name, function in (("sync_data", synced), ("punch", punched), ("unlink", unlinked)):
            monkeypatch.setattr(files, name, function)

    def image(self, target: Path, *, early: bool) -> None:
        """The files after a power cut now."""
        shutil.copytree(self.where, target)
        for name in ("store.lock", "ranges.lock"):
            (target / name).touch()
        for file in target.glob("*.small") if early else ():
            with (self.path / file.name).open("rb") as live, file.open("r+b") as copy:
                copy.write(live.read(layout.SMALLFILE_BEGIN))


@pytest.mark.parametrize("early", [False, True], ids=["headers late", "headers early"])
def test_a_power_cut_anywhere_in_a_pass_loses_nothing_that_was_synced(
    store_dir: Path, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    medium = Medium(store_dir, store_dir.with_name("medium"), monkeypatch)
    store, model = filled(store_dir, rounds=12, keys=200, smallfile_bytes=MIB // 8)
    hits: dict[str, int] = {}
    checking = synced = False

    def cut(name: str, *_: object) -> None:
        nonlocal checking, synced
        synced |= name == "compact.after_output"  # the store is not durable: nothing is promised before
        if checking or not synced or hits.get(name, 0) >= (8 if name == "a sync" else 2):
            return
        hits[name] = hits.get(name, 0) + 1
        checking = True
        image = store_dir.with_name("image")
        medium.image(image, early=early)
        rebuild(image, boot_id=files.boot_id())
        with kvs.open(image, "r") as after:
            assert dict(after.items()) == model.live(), name
            assert after.verify() == []
        shutil.rmtree(image)
        checking = False

    monkeypatch.setattr(moving, "BATCH_RECORDS", 64)
    with store:
        syncpoints.install(lambda name, *_: cut(name) if name.startswith("compact.") else None)
        medium.about_to_sync = lambda: cut("a sync")
        for _ in range(3):
            store.compact()
            hits.clear()
        syncpoints.install(None)
        medium.about_to_sync = lambda: None
        check_everything(store, model)
