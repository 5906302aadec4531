"""Errors of the harness itself, and the exit code that each one ends a command with."""

from __future__ import annotations


class HarnessError(Exception):
    """The harness could not do its work: nobody's store is to blame (exit code 4)."""

    exit_code = 4


class UsageError(HarnessError):
    """The caller asked for something that does not exist or makes no sense (exit code 2)."""

    exit_code = 2


class HistoryError(HarnessError):
    """A saved history cannot be read: ``path`` and ``line`` say where.

    A torn last line is not an error: a process that is killed may leave one.
    """

    def __init__(self, message: str, path: str, line: int) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.reason = message
        self.path = path
        self.line = line


class EngineMissingError(UsageError):
    """An optional engine is not installed, or no engine has that name."""


class ConflictError(Exception):
    """Raised by an engine's adapter: the transaction was refused and had no effect; it may be retried."""


class EngineDamagedError(Exception):
    """Raised by an engine's adapter: the engine reported damage. Always a violation, never a retry."""
