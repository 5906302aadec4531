"""What the tests of compaction share: stores to compact, and a look at all of one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvs
from kvs import files, syncpoints, usage
from kvs.rebuild import rebuild
from tests.kvs.model import Model

MIB = 1 << 20
KEYS = [kvs.key_for(f"key {i}") for i in range(12)]


def smallfile_blocks(path: Path) -> int:
    """Bytes that the smallfiles take on the file system."""
    return sum(files.blocks_bytes(file) for file in path.glob("*.small"))


def used(store: kvs.Store) -> usage.Usage:
    """Live and dead bytes of a store."""
    return usage.usage(store._view.current(), store._smallfiles)


def lose_index(path: Path) -> None:
    """Remove the index of a store that nobody has open, and make it anew."""
    for file in path.glob("index.*"):
        file.unlink()
    rebuild(path, boot_id=files.boot_id())


def check_everything(store: kvs.Store, model: Model) -> None:
    """Every key, every way to read it; histories are what they were, or cut where a removal made the rest unwanted."""
    live = model.live()
    assert dict(store.items()) == live
    assert len(store) == len(live)
    names = list(model.revisions)
    assert store.get_many(names) == [store.get(name) for name in names] == [live.get(name) for name in names]
    for name in names:
        every, kept = model.revisions[name][::-1], model.kept(name)
        history = store.history(name)
        if history and history[-1] == (0, None):
            assert history[:-1] == every
            continue
        assert history == kept[: len(history)]
        if len(history) < len(kept):
            ends = [kept[len(history)], *history[-1:]]
            assert any(value is None for _, value in ends), "cut where nothing was removed"
    assert store.verify() == []


def filled(path: Path, rounds: int = 30, keys: int = 600, **options: Any) -> tuple[kvs.Store, Model]:
    """A store in which keys were overwritten again and again, and some removed."""
    rng = random.Random(5)
    store = kvs.open(path, "n", **options)
    model = Model()
    names = [kvs.key_for(f"filled {i}") for i in range(keys)]
    for number in range(rounds):
        changes: dict[bytes, bytes | None] = {
            name: rng.randbytes(rng.randrange(300)) for name in rng.sample(names, keys // 2)
        }
        if number > rounds // 2:
            changes.update(dict.fromkeys(rng.sample(names, keys // 20)))
        write(store, model, changes)
    return store, model


def write(store: kvs.Store, model: Model, changes: dict[bytes, bytes | None]) -> None:
    """The same transaction in both."""
    with store.transaction() as txn:
        for name, value in changes.items():
            txn.remove_unsafe(name) if value is None else txn.update_unsafe(name, value)
    assert txn.transaction_counter == model.write(changes)


def interrupt(point: str, act: Callable[[], object], hits: int = 1) -> list[str]:
    """Have ``act`` done at the first ``hits`` hits of a sync point; returns the list that the hits go to."""
    reached: list[str] = []
    busy = False

    def hook(name: str, *_: object) -> None:
        nonlocal busy
        if name == point and not busy and len(reached) < hits:
            reached.append(name)
            busy = True
            act()
            busy = False

    syncpoints.install(hook)
    return reached
