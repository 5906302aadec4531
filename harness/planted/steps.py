"""The steps of a commit as they stand in its source, for mistakes about their order."""

from __future__ import annotations

from typing import Final

BEFORE_LOCK: Final = 'reach("commit.before_lock")'
VALIDATED: Final = 'reach("commit.after_validate", self._place(index, offset))'
INTEND: Final = "self._intend(held, index, time, offset)  # 4"
RECORD: Final = "self._record(held, index, appender, time, offset, record)  # 5"
PUBLISH: Final = "self._publish(held, index, time, tail, keys, extent, located)  # 6"
MARK: Final = "durability.mark(held, index, self.slot, time, self.file_id, offset)"
SHOW: Final = "repair.show(held, index, time)  # 7"
ACCOUNT: Final = "repair.account("


def bare(step: str) -> str:
    """The step without its number, so that another one can stand behind it."""
    return step.partition("  #")[0]
