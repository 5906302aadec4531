"""Two power cuts: the recovery of an image is recorded and cut, too, and its own images are recovered and judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from harness.powerloss import choices
from harness.powerloss.judge import Expected, Watch, judge
from harness.powerloss.medium import Choice, Disk, Image, Medium
from harness.powerloss.recorder import Recorder, starts
from harness.powerloss.trace import Begun, Event, Start, Stood, Told, Trace
from harness.verdict import Finding
from kvs import syncpoints

_STATES: Final = 40
"""Of the states of a recovery these many are drawn, evenly."""


class _Recording(Watch):
    """Records what the recovery does to the files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._recorder: Recorder
        self.starts: list[Start] = []
        self.events: list[Event] = []

    def begun(self, sequence: int, key: bytes, value: bytes) -> None:
        self._recorder.note(Begun(1, sequence, ((key, value),)))

    def told(self, sequence: int) -> None:
        self._recorder.note(Told(1, sequence, "commit"))

    def _reached(self, point: str, _write: Any = None) -> None:
        self._recorder.note(Stood(1, point))

    def __enter__(self) -> Self:
        self.starts = starts(self._directory)
        self._recorder = Recorder(self._directory, who=lambda: 1)
        self._recorder.attach()
        syncpoints.install(self._reached)
        return self

    def __exit__(self, *_: object) -> None:
        syncpoints.install(None)
        self._recorder.note_stores()
        self.events = self._recorder.events
        self._recorder.detach()


class Again(NamedTuple):
    """A second cut: after how many events of the recovery, what was not there then, and what was found."""

    cut: int
    choice: Choice
    findings: list[Finding]


def cut_again(
    trace: Trace,
    expected: Expected,
    image: Image,
    directory: Path,
    medium: Medium,
    seed: int,
    *,
    only: tuple[int, Choice] | None = None,
) -> Iterator[Again]:
    """Recover ``image`` in ``directory``, which must not exist, and judge what cuts of that recovery leave: some of
    them, or the ``only`` one. What the first recovery came to must stand: all of the image was on the medium.
    """
    recording = _Recording(directory)
    if judge(trace, expected, image, directory, thorough=False, watch=recording):
        return
    options = trace.options | {"lock_files": False}  # the recovery has made them
    again = Trace(trace.engine, options, recording.starts, recording.events)
    settled = next(event.sequence for event in recording.events if isinstance(event, Told))
    states = [choices.Drawn(0, *only)] if only else choices.drawn(again, medium, seed, _STATES)
    disk = Disk(again, medium)
    for _, cut, choice in states:
        disk.go_to(cut)
        wanted = Expected.at(again, disk.at)
        begun = {n: each for n, each in expected.begun.items() if n <= settled} | dict(wanted.begun)
        told = max(settled, wanted.told)
        found = judge(again, Expected(begun, told), disk.image(choice), directory)
        yield Again(disk.at, choice, found)
