"""Making a loss smaller: fewer things that did not reach the medium, and said in words.

Every step is one recovery, in a process of its own crew, because a recovery may crash.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness import planted
from harness.crew import Crew, Death, Note
from harness.powerloss import peers
from harness.powerloss.choices import describe
from harness.powerloss.job import CRASH
from harness.powerloss.judge import Expected, judge, seen_by_readers
from harness.powerloss.loss import Loss
from harness.powerloss.medium import ALL, MEDIA, Choice, Disk, Torn
from harness.powerloss.trace import Begun, Stood, Told
from harness.powerloss.twice import cut_again
from harness.verdict import Finding

LIMIT_S: Final = 60.0
TIMES: Final = 10


def show_again(loss: Loss, directory: Path) -> list[Finding]:
    """Make the image of ``loss``, recover it in ``directory``, which must not exist, and judge it."""
    disk = loss.disk()
    if loss.trace.engine in peers.CONFIGURATIONS:
        configuration = peers.CONFIGURATIONS[loss.trace.engine]
        with peers.Recovery() as recovery:
            recovered = recovery.recover_image(configuration, disk.image(loss.choice), directory)
        return peers.judge(loss.trace, loss.cut, recovered)
    expected = Expected.at(loss.trace, loss.cut, seen_by_readers(disk.image(ALL)))
    image = disk.image(loss.choice)
    if loss.again is None:
        return judge(loss.trace, expected, image, directory)
    medium, found = MEDIA[loss.medium], list[Finding]()
    for _, _, findings in cut_again(loss.trace, expected, image, directory, medium, 0, only=loss.again):
        found += findings
    return found


class Bench:
    """Where losses are tried: one process that has the bug planted, and is started again when a recovery ends it."""

    def __init__(self, bug: str, directory: Path) -> None:
        self._bug = bug
        self._directory = directory
        self.tried = 0

    def _enter(self) -> None:
        if self._bug:
            planted.BUGS[self._bug].plant()

    def _perform(self, order: bytes, note: Note) -> bytes:
        loss = msgspec.msgpack.decode(order, type=Loss)
        note.write(b".")
        with tempfile.TemporaryDirectory(prefix="loss-", dir=self._directory) as scratch:
            return msgspec.msgpack.encode(show_again(loss, Path(scratch) / "store"))

    def findings(self, losses: Iterator[Loss]) -> Iterator[list[Finding]]:
        """What each of ``losses`` shows, in their order. One is asked for when the one before was answered."""
        orders = (msgspec.msgpack.encode(loss) for loss in losses)
        crew = Crew(self._perform, orders, jobs=1, enter=self._enter)
        for told in crew.run():
            if told is None:
                continue
            self.tried += 1
            if isinstance(told[1], Death):
                yield [Finding(CRASH, f"recovering it {told[1].how}")]
            else:
                yield msgspec.msgpack.decode(told[1], type=list[Finding])

    def shows(self, loss: Loss) -> list[Finding]:
        """What ``loss`` shows."""
        return next(self.findings(iter([loss])))


def shrink(
    loss: Loss, bench: Bench, *, limit_s: float = LIMIT_S, show: Callable[[str], None] = lambda _: None
) -> Loss:
    """The smallest loss that was found in time and violates the same property; its ``words`` and ``shrunk`` are set.
    Ctrl-C ends it early, with the smallest so far.
    """
    before = loss.size
    until = time.monotonic() + limit_s
    best = loss
    try:
        if best.again is None:
            best = _earlier(best, bench)
        smaller = True
        while smaller and time.monotonic() < until:
            smaller = False
            candidates = list(_smaller(best))
            found = bench.findings(iter(candidates))
            for candidate, findings in zip(candidates, found, strict=False):
                show(f"{best.size} left, {bench.tried} tried")
                same = [each for each in findings if each.property_name == loss.property_name]
                if same:
                    best = msgspec.structs.replace(candidate, message=same[0].message)
                    smaller = True
                    break
                if time.monotonic() >= until:
                    break
            found.close()  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        pass
    best = _trimmed(best)
    sizes = {"omitted": [before, best.size], "events": [len(loss.trace.events), len(best.trace.events)]}
    return msgspec.structs.replace(best, shrunk=sizes, words=tuple(words(best)))


def _trimmed(loss: Loss) -> Loss:
    """Without the events that came after the cut: they never happened."""
    return msgspec.structs.replace(
        loss, trace=msgspec.structs.replace(loss.trace, events=loss.trace.events[: loss.cut])
    )


def _earlier(loss: Loss, bench: Bench) -> Loss:
    """If the same goes wrong where nothing at all is missing after a cut, that is the smallest loss there is."""
    whole = msgspec.structs.replace(loss, choice=ALL)
    same = [each for each in bench.shows(whole) if each.property_name == loss.property_name]
    return msgspec.structs.replace(whole, message=same[0].message) if same else loss


def _smaller(loss: Loss) -> Iterator[Loss]:
    """Losses that are a little smaller than ``loss``, those that are much smaller first."""
    disk = loss.disk()
    if loss.again is None:
        for choice in _lesser(loss.choice, disk):
            yield msgspec.structs.replace(loss, choice=choice)
        return
    for choice in _lesser(loss.choice, disk):
        yield msgspec.structs.replace(loss, choice=choice)
    cut, own = loss.again
    for choice in _lesser(own, None):
        yield msgspec.structs.replace(loss, again=(cut, choice))


def _lesser(choice: Choice, disk: Disk | None) -> Iterator[Choice]:
    """With half of what is missing, with one thing less, and with a torn page that is whole."""
    things: list[Torn | int | tuple[int]] = [
        *choice.pages,
        *choice.omitted,
        *((index,) for index in choice.both),
    ]
    seen = {choice}
    half = len(things) // 2
    candidates = [things[:half], things[half:]] if half > 1 else []
    candidates += [[*things[:i], *things[i + 1 :]] for i in range(len(things))]
    for left in candidates:
        smaller = _chosen(left)
        closed = disk.closed(smaller) if disk else smaller
        if closed.size < choice.size and closed not in seen:
            seen.add(closed)
            yield closed
    for number, one in enumerate(choice.pages):
        if one.low != one.high and one.mask:  # a page that is only older is simpler than one that is torn
            whole = Torn(one.file, one.page, one.low, one.low)
            pages = (*choice.pages[:number], whole, *choice.pages[number + 1 :])
            yield Choice(pages, choice.omitted, choice.both)


def _chosen(things: Sequence[Torn | int | tuple[int]]) -> Choice:
    return Choice(
        tuple(each for each in things if isinstance(each, Torn)),
        tuple(each for each in things if isinstance(each, int)),
        tuple(each[0] for each in things if isinstance(each, tuple)),
    )


def words(loss: Loss) -> list[str]:
    """The cut and what did not reach the disk, in words."""
    said = describe(loss.trace, loss.choice)
    what = "; ".join(said) if said else "nothing: all that had happened was there"
    lines = [f"the power was cut after event {loss.cut} of the run ({_moment(loss)})", f"missing: {what}"]
    if loss.again is not None:
        cut, choice = loss.again
        lines.append(
            f"and cut again after event {cut} of the recovery, with {choice.size} of its writes missing"
        )
    return lines


def _moment(loss: Loss) -> str:
    """What had just happened."""
    for event in reversed(loss.trace.events[: loss.cut]):
        if isinstance(event, Stood):
            return f"process {event.process} had come to {event.point}"
        if isinstance(event, Told):
            return f"transaction {event.sequence} had been told"
        if isinstance(event, Begun):
            return f"transaction {event.sequence} had been begun"
    return "before anything else"


def replay(loss: Loss, bench: Bench, times: int = TIMES) -> tuple[int, list[Finding]]:
    """How often of ``times`` the same property is violated, and all that was found in the last one."""
    same = 0
    findings: list[Finding] = []
    for findings in bench.findings(iter([loss] * times)):
        same += any(each.property_name == loss.property_name for each in findings)
    return same, findings
