"""What a trace comes to, for the tests of whatever records one."""

from __future__ import annotations

from pathlib import Path

from harness.powerloss.recorder import LOCK_FILES
from harness.powerloss.trace import (
    Allocate,
    Begun,
    Died,
    Event,
    Length,
    Make,
    Punch,
    Rename,
    Sync,
    SyncNames,
    Told,
    Trace,
    Unlink,
    Write,
)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a store as it is."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in LOCK_FILES}


def replayed(trace: Trace, without: type | None = None) -> dict[str, bytes]:
    """The files that a trace ends with; every event of one kind may be left out."""
    content = {start.file: bytearray(start.data.ljust(start.length, b"\0")) for start in trace.starts}
    names = {start.name: start.file for start in trace.starts}
    for event in trace.events:
        if type(event) is not without:
            apply(event, content, names)
    return {name: bytes(content[file]) for name, file in names.items() if file in content}


def apply(event: Event, content: dict[int, bytearray], names: dict[str, int]) -> None:
    """Do what happened."""
    match event:
        case Make(name=name, file=file):
            names[name], content[file] = file, bytearray()
        case Rename(old=old, new=new):
            names[new] = names.pop(old, 0)
        case Unlink(name=name):
            names.pop(name, None)
        case Write(file=file, offset=offset, data=data):
            image = content.setdefault(file, bytearray())
            image.extend(bytes(max(0, offset + len(data) - len(image))))
            image[offset : offset + len(data)] = data
        case Length(file=file, length=length):
            image = content.setdefault(file, bytearray())
            del image[length:]
            image.extend(bytes(length - len(image)))
        case Allocate(file=file, offset=offset, length=length):
            image = content.setdefault(file, bytearray())
            image.extend(bytes(max(0, offset + length - len(image))))
        case Punch(file=file, offset=offset, length=length):
            image = content.setdefault(file, bytearray())
            end = min(offset + length, len(image))
            image[offset:end] = bytes(max(0, end - offset))


def check_words(trace: Trace) -> None:
    """Whatever was acknowledged or seen was begun before, nobody acts after its death, and syncs look back."""
    begun: dict[int, Begun] = {}
    dead: set[int] = set()
    for each in trace.committed:
        begun[each.sequence] = each
    assert list(begun) == list(range(1, len(begun) + 1))
    image = b"".join(start.data for start in trace.starts)
    assert all(value in image for each in begun.values() for _, value in each.writes if value is not None)
    content = {start.file: bytearray(start.data.ljust(start.length, b"\0")) for start in trace.starts}
    names = {start.name: start.file for start in trace.starts}
    for position, event in enumerate(trace.events):
        assert event.process not in dead
        apply(event, content, names)
        match event:
            case Died(process=process):
                dead.add(process)
            case Begun(process=process, sequence=sequence, writes=writes):
                assert writes
                assert process
                assert all(len(key) == 16 for key, _ in writes)
                begun[sequence] = event
            case Told(process=process, sequence=sequence, how="commit"):
                assert begun[sequence].process == process
                for _, value in begun[sequence].writes:
                    assert value is None or any(value in bytes(image) for image in content.values())
            case Told(sequence=sequence):
                assert sequence in begun
            case Sync(since=since) | SyncNames(since=since):
                assert since <= position
            case _:
                pass
