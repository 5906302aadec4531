"""An engine that kills the worker of a fleet which has it tried."""

from __future__ import annotations

import os
import signal

from errands import command_of, parent_of

from harness.engines.sqlite import SqliteEngine


class KillingEngine(SqliteEngine):
    """Kills whoever asked for the command that makes it, if that has a guard: the guard is between the two."""

    def __init__(self) -> None:
        guard = os.getppid()
        if any(word.endswith("guard.py") for word in command_of(guard)):
            os.kill(parent_of(guard), signal.SIGKILL)
            signal.pause()  # until the guard ends this
        super().__init__()
