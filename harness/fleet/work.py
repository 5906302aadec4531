"""What a worker of the fleet does with one errand. Nothing here is known to our own processes but by its result."""

from __future__ import annotations

from pathlib import Path

import msgspec
from distributed import get_worker

from harness.errand import Errand, carry_out


def perform(data: bytes, topic: str) -> bytes:
    """Carry out the errand in ``data``, in the worker's own directory; what came of it. That it was begun is told to
    whoever listens to ``topic``: if the worker dies, it will be begun again.
    """
    errand = msgspec.msgpack.decode(data, type=Errand)
    worker = get_worker()
    worker.log_event(topic, [errand.kind, errand.number])
    return msgspec.msgpack.encode(carry_out(errand, parent=Path(worker.local_directory)))
