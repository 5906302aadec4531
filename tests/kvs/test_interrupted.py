"""Ctrl-C before any line of a commit, rollover, growth, snapshot, opening or close: nothing is lost or held."""

from __future__ import annotations

import contextlib
import gc
import linecache
import shutil
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import layout
from tests.kvs.processes import held

_LIMIT = 1 << 16
PACKAGE = str(Path(kvs.__file__).parent)


class Interruption:
    """Raises KeyboardInterrupt before the ``number``-th line of the package that is executed within. The ways into and
    out of a ``with`` are one instruction each, and no signal's handler runs before it, nor at a ``try``.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self.where = ""

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: types.FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if event == "line" else ""
        if line and self.left > 0 and not line.lstrip().startswith(("with ", "try:")):
            self.left -= 1
            if not self.left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("keys", [1, 40], ids=["one key", "many keys"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_commit_interrupted_at_any_line_leaves_a_sound_store_and_no_lock(
    store_dir: Path, durable: bool, keys: int
) -> None:
    """A signal's handler runs between any two steps of Python, not only where there is a sync point."""
    with kvs.open(store_dir, "n", durable=durable, lock_timeout_s=0.0) as other:
        last, finished, number = b"0", False, 0
        other.put_many(dict.fromkeys(range(keys), last))
        store = kvs.open(store_dir, "w", lock_timeout_s=0.0)
        while not finished:
            number += 1
            text = b"%d" % number
            interruption = Interruption(number if keys == 1 else 4 * number)
            try:
                with interruption:
                    store.put_many(dict.fromkeys(range(keys), text))
                finished = not interruption.where
            except KeyboardInterrupt:
                pass
            assert held(store_dir) == {"WRITER[0]"}, interruption.where
            other[1000] = text
            found = other.get_many(range(keys))
            assert set(found) in ({text}, {last}), interruption.where
            store[1001] = text
            assert store.get_many([1000, 1001]) == [text, text], interruption.where
            last = found[0] or b""
        store.close()
        assert number > 50
        assert other.verify() == []


def _nearly_full(path: Path, what: str, *, durable: bool) -> None:
    """A store whose next commit of 40 new keys begins another smallfile, or another generation of the index."""
    size = _LIMIT if what == "rollover" else layout.SMALLFILE_BYTES
    with kvs.open(path, "n", durable=durable, smallfile_bytes=size) as store:
        if what == "rollover":
            store[1000] = bytes(_LIMIT - 4096)
        else:
            store.put_many(dict.fromkeys(range(2000, 2000 + store.stat()["index_capacity"] - 1), b"v"))
        store.put_many(dict.fromkeys(range(40), b"before"))


@pytest.mark.share(2)
@pytest.mark.parametrize("what", ["rollover", "growth"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_rollover_or_a_growth_interrupted_at_any_line_leaves_a_sound_store_and_no_lock(
    tmp_path: Path, durable: bool, what: str
) -> None:
    _nearly_full(tmp_path / "prepared", what, durable=durable)
    finished, number, changed = False, 0, 0
    while not finished:
        number += 1 if what == "rollover" and not durable else 3
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "prepared", path)
        options: dict[str, Any] = {"lock_timeout_s": 0.0, "smallfile_bytes": _LIMIT}
        with kvs.open(path, **options) as store, kvs.open(path, **options) as other:
            before = _generations_and_files(path)
            interruption = Interruption(number)
            with contextlib.suppress(KeyboardInterrupt), interruption:
                store.put_many(dict.fromkeys(range(100, 140), b"during"))
            finished = not interruption.where
            assert held(path) <= {"WRITER[0]"}, interruption.where
            changed += _generations_and_files(path) != before
            found = set(other.get_many(range(100, 140)))
            assert found in ({None}, {b"during"}), interruption.where
            assert found == {b"during"} or not finished
            store[3000] = other[3001] = b"after"
            assert set(store.get_many(range(40))) == {b"before"}, interruption.where
            assert other.get_many([3000, 3001]) == [b"after"] * 2, interruption.where
            assert other.verify() == [], interruption.where
            store.close()
        shutil.rmtree(path)
    assert number > 150
    assert changed > 10, "in the middle of it, not only before"


def _generations_and_files(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_snapshot_interrupted_at_any_line_pins_nothing_in_the_end(store_dir: Path) -> None:
    kvs.open(store_dir, "n").close()
    gc.freeze()  # or every collection looks at all of pytest
    finished, number = False, 0
    with kvs.open(store_dir) as store:
        store.put_many(dict.fromkeys(range(5), b"v"))
        while not finished:
            number += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                interruption = Interruption(number)
                with contextlib.suppress(KeyboardInterrupt), interruption, store.snapshot() as snapshot:
                    assert snapshot[1] == b"v"
                finished = not interruption.where
                snapshot = None  # type: ignore[assignment] # or it is not collected
                gc.collect()
            with kvs.open(store_dir, "r") as other:
                assert other.stat()["pins"] == [], interruption.where
        with store.snapshot(), kvs.open(store_dir, "r") as other:
            assert other.stat()["pins"] == [1]
    assert number > 50


def test_an_opening_interrupted_at_any_line_holds_nothing(store_dir: Path) -> None:
    kvs.open(store_dir, "n").close()
    gc.freeze()  # or every collection looks at all of pytest
    finished, number = False, 0
    while not finished:
        number += 2
        interruption = Interruption(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            with contextlib.suppress(KeyboardInterrupt), interruption:
                kvs.open(store_dir).close()
            gc.collect()
        finished = not interruption.where
        assert held(store_dir) == set(), interruption.where
        with kvs.open(store_dir, lock_timeout_s=0.0) as store:
            store[number] = b"v"
    assert number > 100
    gc.unfreeze()
    with kvs.open(store_dir) as store:
        assert store.verify() == []


@pytest.mark.parametrize("durable", [False, True])
def test_a_close_interrupted_at_any_line_can_be_done_again(store_dir: Path, durable: bool) -> None:
    finished, number = False, 0
    with kvs.open(store_dir, "n", durable=durable) as other:
        while not finished:
            number += 1
            store = kvs.open(store_dir, lock_timeout_s=0.0)
            store[number] = b"v"
            interruption = Interruption(number)
            with contextlib.suppress(KeyboardInterrupt), interruption:
                store.close()
            finished = not interruption.where
            store.close()
            with pytest.raises(kvs.ClosedStoreError):
                store.get(1)
            assert held(store_dir) == {"WRITER[0]"}, interruption.where
            with kvs.open(store_dir) as again:
                assert len(again.stat()["writers"]) == 2, interruption.where
            other[number] = b"w"
        assert other.verify() == []
    assert number > 50
    assert held(store_dir) == set()
