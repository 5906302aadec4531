"""A failure of power-loss testing as a file: the trace of the run, the cut, and what did not reach the medium."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from harness.errors import UsageError
from harness.powerloss.medium import MEDIA, Choice, Disk
from harness.powerloss.trace import Trace

FORMAT: Final = "powerloss-1"


class Loss(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """``cut``: after how many events of ``trace``; ``choice``: what was not there then, under the model ``medium``.
    ``again``: the same of a second cut, while the store was being recovered from the first; its trace is recorded anew.
    ``words`` say both for people; ``story``, where it is kept as a test, what it caught.
    """

    trace: Trace
    medium: str
    cut: int
    choice: Choice
    property_name: str = msgspec.field(name="property", default="")
    message: str = ""
    words: tuple[str, ...] = ()
    again: tuple[int, Choice] | None = None
    bug: str = ""
    found: dict[str, Any] = {}
    shrunk: dict[str, Any] = {}
    reproduced: str = ""
    versions: dict[str, str] = {}
    page: str = ""
    story: str = ""

    @property
    def size(self) -> int:
        """How many writes, pages and names did not (wholly) reach the medium, both cuts together."""
        return self.choice.size + (self.again[1].size if self.again else 0)

    def disk(self) -> Disk:
        """The disk at the (first) cut."""
        return Disk(self.trace, MEDIA[self.medium]).go_to(self.cut)


def save(loss: Loss, path: Path) -> None:
    """Write ``loss`` to ``path`` (JSON), in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(loss), indent=1) + b"\n")
    temporary.rename(path)


def is_loss(path: Path) -> bool:
    """Whether the file says that it holds a ``Loss``. Raises nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Head).format.startswith("powerloss-")
    except (OSError, msgspec.MsgspecError):
        return False


class _Head(msgspec.Struct):
    format: str


def load(path: Path) -> Loss:
    """The loss in ``path``.

    Raises:
        UsageError: there is no such file, or what is in it cannot be made again.
    """
    try:
        loss = msgspec.json.decode(path.read_bytes(), type=Loss)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is not a failure that powerloss wrote: {error}") from error
    if loss.medium not in MEDIA:
        raise UsageError(f"{path}: no medium is called {loss.medium!r}; there are {', '.join(MEDIA)}")
    if not 0 <= loss.cut <= len(loss.trace.events):
        raise UsageError(f"{path}: a cut after event {loss.cut} of {len(loss.trace.events)}")
    try:
        loss.disk().image(loss.choice)
    except (LookupError, AttributeError) as error:
        raise UsageError(f"{path}: the trace and the cut do not fit together: {error!r}") from error
    return loss
