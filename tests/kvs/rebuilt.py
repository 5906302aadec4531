"""What a rebuilt index says, and smallfiles to rebuild one from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kvs import layout, rebuild
from kvs.errors import CorruptedStoreError
from kvs.index import Index
from kvs.scanning import scan
from tests.kvs.logs import UUID, WRITERS, Changes, Logfile, key, smallfiles
from tests.kvs.model import Model

BOOT = b"boot" * 4
History = list[tuple[int, bytes | None]]
FLAGS = layout.FLAG_INTEGRITY


class Rebuilt(NamedTuple):
    """What an index says: the history of each key, newest first, and the words of its header and places."""

    histories: dict[bytes, History]
    words: dict[str, int]
    places: dict[int, tuple[int, int]]
    name: str

    @property
    def last(self) -> int:
        """C."""
        return self.words["COMMITTED"]


_WORDS = {
    "COMMITTED": layout.H_COMMITTED,
    "DURABLE": layout.H_DURABLE,
    "KEYS_LIVE": layout.H_KEYS_LIVE,
    "ENTRIES_USED": layout.H_ENTRIES_USED,
    "FLOOR": layout.H_FLOOR,
    "HORIZON": layout.H_HORIZON,
    "FORGOTTEN": layout.H_FORGOTTEN,
    "SWEPT": layout.H_SWEPT,
    "OUTPUT_FILE": layout.H_OUTPUT_FILE,
    "INTENT": layout.H_INTENT,
    "NEXT": layout.H_NEXT,
}


def rebuilt(directory: Path, *, flags: int = FLAGS) -> Rebuilt:
    """Rebuild the index of the store in ``directory``; returns what it says."""
    rebuild.rebuild(directory, boot_id=BOOT)
    return index_of(directory, flags=flags)


def index_of(directory: Path, *, flags: int = FLAGS) -> Rebuilt:
    """The only index in ``directory``, all of it, checked against itself."""
    [path] = directory.glob("index.*")
    index = Index(path, write=False)
    assert (index.store_uuid, index.flags, index.writers_max) == (UUID, flags, WRITERS)
    assert path.name == layout.index_name(index.generation)
    assert bytes(index.map[layout.H_BOOT * 8 : layout.H_BOOT * 8 + 16]) == BOOT
    assert index.words[layout.H_CLEAN] == layout.BUSY
    histories = histories_of(index, directory, flags)
    words = {name: index.words[word] for name, word in _WORDS.items()}
    assert (words["INTENT"], words["NEXT"], words["SWEPT"]) == (0, 0, 0)
    assert words["COMMITTED"] == words["DURABLE"] == words["HORIZON"] == words["FORGOTTEN"]
    assert words["ENTRIES_USED"] == len(histories)
    assert words["KEYS_LIVE"] == sum(history[0][1] is not None for history in histories.values())
    places = {}
    for i, row in enumerate(index.places.tolist()):
        if any(row):
            places[i] = (row[layout.W_FILE], row[layout.W_TAIL])
    index.close()
    return Rebuilt(histories, words, places, path.name)


def histories_of(index: Index, directory: Path, flags: int = FLAGS) -> dict[bytes, History]:
    """Every key's revisions, newest first, read back from where the index says that they are."""
    reader = smallfiles(directory, flags)
    reader.store_uuid, reader.traits = index.store_uuid, index.traits
    found: dict[bytes, History] = {}
    for slot in np.flatnonzero(index.halves[::2, layout.E_TIME]).tolist():
        name = index.halves[2 * slot, :2].tobytes()
        word = index.probe(name)
        assert word == index.first_word + slot * layout.ENTRY_WORDS
        times = index.halves[2 * slot, layout.E_TIME : layout.E_TIME + 4].tolist()
        used = sum(time != 0 for time in times)
        assert all(times[:used])  # a ring is used from its first place on
        assert len(set(times[:used])) == used
        revisions: History = []
        for time, (location, length) in zip(
            times[:used], index.halves[2 * slot + 1].reshape(4, 2).tolist(), strict=False
        ):
            value = None if length == layout.TOMBSTONE else reader.value(name, location, length)
            assert value is not None or length == layout.TOMBSTONE
            revisions.append((time, value))
        found[name] = sorted(revisions, key=lambda revision: -revision[0])
    reader.close()
    return found


def expected_of(transactions: list[Changes]) -> dict[bytes, History]:
    """What a store keeps of these transactions, of which the first has T = 1."""
    model = Model()
    for changes in transactions:
        model.write(changes)
    return {name: model.kept(name) for name in model.revisions}


def commit_all(directory: Path, transactions: list[Changes], flags: int = FLAGS) -> Logfile:
    """One smallfile with these transactions, of which the first has T = 1."""
    log = Logfile(0, flags=flags)
    for time, changes in enumerate(transactions, 1):
        log.commit(time, changes)
    log.store(directory)
    return log


FEW: list[Changes] = [{key(i): b"%d" % time for i in range(time)} for time in range(1, 7)]


def two_places(directory: Path) -> list[Logfile]:
    """T = 1, 2, 5, 6 in one smallfile and 3, 4, 7, 8 in the other."""
    logs = [Logfile(0), Logfile(1)]
    for time, place in zip(range(1, 9), [0, 0, 1, 1, 0, 0, 1, 1], strict=True):
        logs[place].commit(time, {key(1): b"%d" % time, key(place + 2): b"p"})
    for log in logs:
        log.store(directory)
    return logs


def cut(directory: Path, log: Logfile, commits: int) -> int:
    """Leave only so many transactions of a smallfile; returns where they end."""
    reader = smallfiles(directory)
    [found] = scan(reader, log.file_id, 128, log.end)
    reader.close()
    end = int(found.offsets[commits]) - 64
    path = directory / layout.smallfile_name(log.file_id)
    path.write_bytes(path.read_bytes()[:end] + bytes(4096))
    return int(found.offsets[commits - 1]) + 128 if commits else 128


def refused(directory: Path, match: str) -> CorruptedStoreError:
    """A rebuild that is refused changes nothing at all."""
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(CorruptedStoreError, match=match) as caught:
        rebuild.rebuild(directory, boot_id=BOOT)
    assert "kvs recover" in str(caught.value)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    return caught.value
