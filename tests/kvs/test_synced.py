"""What is on the medium before anything relies on it, in stores of every kind: names, headers, and the clean mark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import compaction, files, generations, layout, upkeep
from kvs.index import Index


def mark(index: Index) -> bytes:
    """The words of the clean mark, as a reader of the file sees them now."""
    at = layout.H_CLEAN * layout.WORD
    return index.path.read_bytes()[at : at + 16]


def watching(monkeypatch: pytest.MonkeyPatch, name: str, look: Callable[[Path], None]) -> None:
    """Call ``look`` with the path after each call of a function of the seam."""
    real = getattr(files, name)

    def watched(*arguments: Any) -> None:
        real(*arguments)
        look(arguments[-1])

    monkeypatch.setattr(files, name, watched)


def test_the_mark_of_a_clean_close_leaves_the_medium_before_anything_else_is_stored(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that still had it was believed after a power cut, beside pages of the index that were newer."""
    with kvs.open(store_dir, "n") as store:
        store[1] = b"v"
    clean = (store_dir / "index.0").read_bytes()
    synced: list[bytes] = []
    watching(monkeypatch, "sync_data", lambda path: synced.append(path.read_bytes()))
    with kvs.open(store_dir) as store:
        assert len(synced) == 1
        header = slice(layout.H_CLEAN * layout.WORD, layout.H_CLEAN * layout.WORD + 16)
        assert synced[0][header] == bytes(16) != clean[header]
        table = slice(layout.PAGE, None)
        assert synced[0][table] == clean[table], "nobody has taken a place yet"
        assert mark(store._view.index) == layout.UNCLEAN
        with kvs.open(store_dir):
            assert len(synced) == 1, "the medium knows it"


def test_who_died_between_taking_the_mark_away_and_its_sync_leaves_that_to_the_next(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvs.open(store_dir, "n").close()
    with pytest.MonkeyPatch.context() as dying:

        def die(_fd: int, _path: Path) -> None:
            raise KeyboardInterrupt

        dying.setattr(files, "sync_data", die)
        with pytest.raises(KeyboardInterrupt):
            kvs.open(store_dir)
    index = generations.locate(store_dir, write=False)
    assert mark(index) == bytes(16)
    index.close()
    synced: list[Path] = []
    watching(monkeypatch, "sync_data", synced.append)
    with kvs.open(store_dir) as store:
        assert synced == [store_dir / "index.0"]
        assert mark(store._view.index) == layout.UNCLEAN


@pytest.mark.parametrize("durable", [False, True])
def test_every_new_smallfile_has_its_header_and_name_on_the_medium(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """After a growth nothing else told which store it was where a power cut had taken the index."""
    headed: set[str] = set()
    named: set[str] = set()

    def look(path: Path) -> None:
        if path.suffix == ".small":
            headed.add(path.name)

    watching(monkeypatch, "sync_data", look)
    watching(monkeypatch, "sync_directory", lambda path: named.update(file.name for file in path.iterdir()))
    with kvs.open(store_dir, "n", durable=durable, smallfile_bytes=1) as store:
        for number in range(3):
            store[number] = b"v"
            there = {file.name for file in store_dir.glob("*.small")}
            assert len(there) == number + 1
            assert there <= headed
            assert there <= named


def test_a_rebuild_never_leaves_a_store_without_an_index_that_has_its_name(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removed the old ones first: a power cut could leave an empty store that was none any more."""
    kvs.open(store_dir, "n", durable=True).close()
    indexes: list[set[str]] = []

    def look(_: Path) -> None:
        indexes.append({path.name for path in store_dir.glob("index.*") if path.suffix != ".new"})

    with (store_dir / "index.0").open("r+b") as file:
        file.seek(layout.H_BOOT * layout.WORD)
        file.write(bytes(16))
    for name in ("unlink", "publish", "sync_directory"):
        watching(monkeypatch, name, look)
    with kvs.open(store_dir) as store:
        assert store.stat()["durable"]
    assert {"index.0", "index.1"} in indexes
    assert indexes[-1] == {"index.1"}
    assert all(indexes)


@pytest.mark.parametrize(
    "failure",
    [
        kvs.DurabilityError("00000.small", "as told"),
        OSError(5, "as told"),
        kvs.CorruptedStoreError("as told"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_compaction_that_a_commit_starts_and_that_fails_is_not_the_commits_error(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The commit has happened, and whoever is told of an error would do it again."""
    tried = []

    def fail(*_: object, **__: object) -> None:
        tried.append(1)
        raise failure

    monkeypatch.setattr(upkeep, "_LOOK_EVERY_BYTES", 1)
    monkeypatch.setattr(compaction, "compact", fail)
    with kvs.open(store_dir, "n", compact_at=0.1) as store:
        for number in range(6):
            store[1] = b"%d" % number
        assert store[1] == b"5"
    assert tried
