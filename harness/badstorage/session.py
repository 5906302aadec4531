"""A store on a device that fails: what is done with it, what may be in it then, and whether it said what happened."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import kvs
from harness.badstorage.device import Device
from harness.badstorage.faults import FULL, VARIANTS
from kvs import archive, files

Changes = Mapping[int, bytes | None]
State = dict[bytes, bytes]

SAID: Final = "said"
KEPT: Final = "kept"
USABLE: Final = "usable"
SOUND: Final = "sound"
CLEAN: Final = "clean"
BLOCKS: Final = "blocks"
PROPERTIES: Final = {
    SAID: "a failure is an error that says what happened and where, and no other one",
    KEPT: "everything acknowledged is there, and nothing that was refused",
    USABLE: "the store can be read meanwhile, and written when the fault is gone",
    SOUND: "verify finds nothing",
    CLEAN: "no descriptor, lock or half-made file is left behind",
    BLOCKS: "nothing is stored through a map where no block was given",
}
"""What must hold, whatever fails."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HALF_MADE: Final = (".new", ".part")


def _change(changes: Changes, txn: kvs.Transaction) -> None:
    for key, value in changes.items():
        if value is None:
            txn.fetch(key)
            txn.remove(key)
        else:
            txn.update_unsafe(key, value)


class Session:
    """One run of a workload. Its steps call the methods below; every finding goes to ``findings``, and the run goes on.

    ``states``: every content that the store may have now. There is more than one where an error left open whether a
    transaction happened.
    """

    def __init__(self, root: Path, device: Device, variant: str) -> None:
        assert variant in VARIANTS
        self.path = root / "store"
        self.device = device
        self.durable = variant.endswith("-durable")
        self.options: dict[str, Any] = {
            "io": variant.removesuffix("-durable"),
            "durable": self.durable,
            "index_capacity": 40,
            "smallfile_bytes": 40_000,
            "lock_timeout_s": 2.0,
        }
        self.states: list[State] = [{}]
        self.findings: list[tuple[str, str]] = []
        self._stores: dict[str, kvs.Store] = {}
        self._poisoned: set[str] = set()

    # -- what the steps do ----------------------------------------------------------------------------------

    def store(self, name: str = "a") -> kvs.Store:
        """The handle of that name, opened if it is not (or was closed)."""
        store = self._stores.get(name)
        if store is None:
            store = self._stores[name] = kvs.open(self.path, **self.options)
        return store

    def put(self, changes: Changes, name: str = "a") -> None:
        """Write ``changes`` (``None`` removes) in one transaction."""
        store = self.store(name)
        try:
            if None in changes.values():
                # Tried again where it comes before a commit of this handle's own whose outcome a failed call left open.
                store.transact(partial(_change, changes))
            else:
                store.put_many({key: value for key, value in changes.items() if value is not None})
        except kvs.StorageFullError:
            raise
        except (kvs.Error, OSError) as error:
            self._extend(self._changed(changes))
            if isinstance(error, kvs.DurabilityError):
                self._poisoned.add(name)
            raise
        self.states = self._changed(changes)

    def close(self, name: str = "a") -> None:
        """Close the handle, which is closed then whatever happens."""
        store = self._stores.pop(name, None)
        self._poisoned.discard(name)
        if store is not None:
            store.close()

    def lose_index(self) -> None:
        """Remove the index of the closed store: the next opening makes a new one."""
        for path in self.path.glob("index.*"):
            path.unlink()

    def backup(self) -> None:
        """Make a backup: whole, or nothing is there."""
        target = self.path.with_name("backup")
        try:
            self.store().backup(target)
        except (kvs.Error, OSError):
            if target.exists() and self._whole(target):
                shutil.rmtree(target)  # it has its name, and only the directory was not synced
            if target.exists():
                self.find(KEPT, "a backup that failed has left something half made at its path")
                shutil.rmtree(target)
            raise
        if not self._whole(target):
            self.find(KEPT, "the backup does not hold what the store holds")
        shutil.rmtree(target)

    def dump(self) -> None:
        """Dump a snapshot, and look at what it is."""
        store, out = self.store(), io.BytesIO()
        with store.snapshot() as snapshot:
            archive.write_dump(snapshot, store.stat(), out)
        out.seek(0)
        if dict(archive.read_dump(out).items()) not in self.states:
            self.find(KEPT, "the dump does not hold what the store holds")

    def look(self, name: str = "a") -> None:
        """Everything can be read and is what it must be, by each way of reading."""
        store = self.store(name)
        with store.snapshot() as snapshot:
            self.judge_content(dict(snapshot.items()), f"handle {name}")
        keys = sorted({key for state in self.states for key in state})
        values = store.get_many(keys)
        self.judge_content(
            {key: value for key, value in zip(keys, values, strict=True) if value is not None},
            f"handle {name}",
        )
        for key in keys[:3]:
            store.get(key)

    # -- how they are judged --------------------------------------------------------------------------------

    def step(self, name: str, work: Callable[[], object]) -> None:
        """Do ``work`` while the device counts and fails; judge the error, if it is one."""
        for poisoned in tuple(self._poisoned):
            self.let_go_if_poisoned(poisoned)
        before = len(self.device.failed)
        self.device.on = True
        try:
            work()
        except (kvs.Error, OSError) as error:
            self.device.on = False
            self._judge_error(name, error, [error for _, error in self.device.failed[before:]])
        except Exception as error:  # noqa: BLE001 - that there is none of another kind is what is tested
            self.device.on = False
            self.find(SAID, f"{name} ended in {type(error).__name__}: {error}")
        else:
            self.device.on = False
            if self.durable and any(call.name in ("fdatasync", "fsync") for call, _ in self.device.failed):
                self.cut_power(f"after {name} and a power cut")
        finally:
            self.device.on = False
        half = half_made(self.path.parent)
        if not any(call.name == "rename" for call, _ in self.device.failed[before:]):
            # An index that could not be made is removed by whoever makes or opens one next.
            half = [path for path in half if not path.startswith(f"{self.path.name}/")]
        if half:
            self.find(CLEAN, f"{', '.join(half)} is left after {name}")

    def quietly(self, name: str, work: Callable[[], object], property_name: str = USABLE) -> bool:
        """Do ``work`` with a device that is well; whether it could be done."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is: it must not be
            self.find(
                property_name, f"{name}, with a device that is well again: {type(error).__name__}: {error}"
            )
            return False
        return True

    def find(self, property_name: str, message: str) -> None:
        """Note a finding."""
        self.findings.append((property_name, message.replace(str(self.path.parent), "")))

    def collapse(self) -> None:
        """What is visible now is what happened: nobody is left who could still make it otherwise."""
        with self.store().snapshot() as snapshot:
            content = dict(snapshot.items())
        self.judge_content(content, "the store after all")
        self.states = [content]

    def cut_power(self, when: str, *, index: bool = False) -> None:
        """What the medium has is everything acknowledged, whatever the syncs that failed have left out of it. The index
        is believed after a clean close only.
        """
        if not self.path.exists():
            return
        image = self.path.with_name("image")
        self.device.medium.image(self.path, image, index=index)
        boot_id, files.boot_id = files.boot_id, lambda: bytes(16)  # type: ignore[assignment]
        try:
            with kvs.open(image) as store, store.snapshot() as snapshot:
                content = dict(snapshot.items())
                found = store.verify()
        except (kvs.Error, OSError) as error:
            self.find(KEPT, f"{when} the store does not open: {error}")
        else:
            self.judge_content(content, f"{when} the store")
            if found:
                self.find(SOUND, f"verify, {when}: {'; '.join(map(str, found[:3]))}")
        finally:
            files.boot_id = boot_id
            shutil.rmtree(image)

    def close_all(self) -> None:
        """Close what is open, with a device that is well."""
        for name in tuple(self._stores):
            self.quietly("closing", lambda name=name: self.close(name))  # type: ignore[misc]

    def abandon(self) -> None:
        """Close what is open, whatever comes of it."""
        for name in tuple(self._stores):
            with contextlib.suppress(Exception):
                self.close(name)

    @property
    def open_names(self) -> Iterator[str]:
        """The names of the handles that are open."""
        return iter(tuple(self._stores))

    def let_go_if_poisoned(self, name: str) -> bool:
        """A handle whose sync failed can read, and either refuses to write or has lost nothing. Then it is closed.
        False where the handle is none of those.
        """
        if name not in self._poisoned:
            return False
        self.quietly("reading by a handle whose sync failed", lambda: self.look(name))
        before = self.states
        try:
            self.put({1: b"by a handle whose sync failed"}, name)
        except kvs.DurabilityError:
            self.states = before  # it refuses, and does nothing
        except (kvs.Error, OSError) as error:
            self.find(USABLE, f"a handle whose sync failed ends a commit in {type(error).__name__}: {error}")
        self.quietly("closing a handle whose sync failed", lambda: self.close(name))
        return True

    def _judge_error(self, name: str, error: Exception, injected: list[str]) -> None:
        text = f"{name} ended in {type(error).__name__}: {error}"
        if not injected and not (self.device.full and isinstance(error, kvs.StorageFullError)):
            self.find(USABLE, f"{text}, although no call failed in it")
        elif str(self.path.parent) not in str(error):
            self.find(SAID, f"{text}, which says nothing of where")
        elif isinstance(error, kvs.StorageFullError):
            if not self.device.full and not FULL & set(injected):
                self.find(SAID, f"{text}, although there was room")
        elif isinstance(error, OSError):
            if error.errno in _NO_ROOM and self.device.failed[-1][0].name not in ("mkdir", "fallocate"):
                self.find(SAID, f"{text}, and not StorageFullError")
        elif not isinstance(error, kvs.DurabilityError | kvs.UnsupportedPlatformError) and not (
            isinstance(error, kvs.CorruptedStoreError) and "may not be rebuilt by this user" in str(error)
        ):
            self.find(SAID, f"{text}, which is not what happened")

    def judge_content(self, content: State, whose: str) -> None:
        """Find fault with a content that is none of those that there may be."""
        if content in self.states:
            return
        state = min(self.states, key=lambda state: len(state.items() ^ content.items()))
        gone = sorted(key.hex() for key in state.keys() - content.keys())
        more = sorted(key.hex() for key in content.keys() - state.keys())
        other = sorted(key.hex() for key in state.keys() & content.keys() if state[key] != content[key])
        words = ", ".join(
            f"{what} {len(keys)} ({keys[0].lstrip('0') or '0'} ...)"
            for what, keys in (("lost", gone), ("too many", more), ("another value", other))
            if keys
        )
        self.find(KEPT, f"{whose} does not show what was acknowledged: keys {words}")

    def _changed(self, changes: Changes) -> list[State]:
        states = []
        for state in self.states:
            content = dict(state)
            for key, value in changes.items():
                name = key.to_bytes(16, "big")
                content.pop(name, None)
                if value is not None:
                    content[name] = value
            states.append(content)
        return states

    def _extend(self, states: list[State]) -> None:
        self.states += [state for state in states if state not in self.states]

    def _whole(self, target: Path) -> bool:
        on, self.device.on = self.device.on, False
        try:
            with kvs.open(target, "r") as copy, copy.snapshot() as snapshot:
                return dict(snapshot.items()) in self.states
        except (kvs.Error, OSError):
            return False
        finally:
            self.device.on = on


def half_made(root: Path) -> list[str]:
    """The names of files and directories below ``root`` that somebody should have finished or removed."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name.endswith(_HALF_MADE))
