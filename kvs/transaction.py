"""Optimistic transactions."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Final, Literal, NoReturn

from kvs import reading
from kvs.errors import BadUpdateError, ClosedStoreError, SnapshotTooOldError, TransactionAbortedError
from kvs.generations import Generations
from kvs.smallfile import Smallfiles
from kvs.writer import Writer

Isolation = Literal["serializable", "snapshot"]
_ISOLATIONS: Final = ("serializable", "snapshot")


class Transaction:
    """Fetches from one snapshot, then writes that take effect together at ``commit``, or not at all.

    As a context manager it commits on leaving and aborts on an exception. ``transaction_counter`` is the T
    of the commit afterwards (``None`` where nothing was written). Not to be shared between threads.
    """

    def __init__(
        self,
        view: Generations,
        smallfiles: Smallfiles,
        writer: Callable[[], Writer],
        check_usable: Callable[[], None],
        check_value: Callable[[bytes, bytes], None],
        normalise: Callable[[object], bytes],
        isolation: Isolation,
    ) -> None:
        if isolation not in _ISOLATIONS:
            raise ValueError(f"isolation {isolation!r}: one of {', '.join(_ISOLATIONS)}")
        self._view = view
        self._smallfiles = smallfiles
        self._writer = writer
        self._check_usable = check_usable
        self._check_value = check_value
        self._normalise = normalise
        self._isolation = isolation
        self._bases: dict[bytes, int] = {}
        self._changes: dict[bytes, bytes | None] = {}
        self._open = True
        self.snapshot: int = view.visible()
        """The newest transaction that fetches see."""
        self.transaction_counter: int | None = None

    def fetch(self, key: object) -> bytes | None:
        """The value of ``key`` (this transaction's own write, if it made one), ``None`` if absent.

        Raises:
            TransactionAbortedError: it was overwritten four times since the transaction began.
        """
        return self.fetch_item(key)[1]

    def fetch_item(self, key: object) -> tuple[int, bytes | None]:
        """``(T, value)`` of ``key``; T is 0 where it was never written. Errors as ``fetch``."""
        name = self._key(key)
        if name in self._changes:
            return self._bases.get(name, 0), self._changes[name]
        try:
            time, value = reading.read(self._view, self._smallfiles, name, self.snapshot)
        except SnapshotTooOldError:
            index = self._view.current()
            word = index.probe(name)
            found = index.newest(word)[0] if word >= 0 else 0
            raise TransactionAbortedError(name, self.snapshot, found) from None
        self._bases[name] = time
        return time, value

    def update(self, key: object, value: bytes | bytearray | memoryview) -> None:
        """Write ``key`` at commit, if it is still as it was fetched. Raises BadUpdateError without a fetch, unless
        this transaction wrote the key before."""
        name = self._key(key)
        if name not in self._bases and name not in self._changes:
            raise BadUpdateError(name, "update")
        self._write(name, value)

    def remove(self, key: object) -> None:
        """Remove ``key`` at commit, if it is still as it was fetched. Raises BadUpdateError as ``update``.
        A key that is absent stays absent.
        """
        name = self._key(key)
        if name not in self._bases and name not in self._changes:
            raise BadUpdateError(name, "remove")
        self._changes[name] = None

    def update_unsafe(self, key: object, value: bytes | bytearray | memoryview) -> None:
        """Write ``key`` at commit whatever it holds then: the last writer wins."""
        self._write(self._key(key), value)

    def remove_unsafe(self, key: object) -> None:
        """Remove ``key`` at commit whatever it holds then."""
        self._changes[self._key(key)] = None

    def commit(self) -> int | None:
        """Make the writes take effect; returns their T, or ``None`` if there were none. The transaction is
        over, also when this raises.

        Raises:
            TransactionAbortedError: something that was fetched has changed (``serializable``), or something
                that was fetched and written has (``snapshot``). Nothing was written.
            TransactionLimitError, IndexFullError, StorageFullError, LockTimeoutError: nothing was written (but see
                ``LockTimeoutError.committed``).
            DurabilityError: not acknowledged; whether it happened is not known.
        """
        self._check_open()
        self._open = False
        if not self._changes:
            return None
        if self._isolation == "serializable":
            expected = self._bases
        else:
            expected = {key: base for key, base in self._bases.items() if key in self._changes}
        writer = self._writer()
        try:
            self.transaction_counter = writer.commit(
                list(self._changes), list(self._changes.values()), expected
            )
        except TransactionAbortedError as aborted:
            if (
                writer.durable
            ):  # what came first must be seen by those who try again, and its writer may be dead
                writer.await_durable(aborted.found)
            raise
        return self.transaction_counter

    def abort(self) -> None:
        """Forget the writes. Harmless when the transaction is over."""
        self._open = False
        self._changes.clear()

    def __enter__(self) -> Transaction:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._open:
            self.commit()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a kvs.Transaction cannot be pickled or copied: it belongs to one handle. Begin another one"
        )

    def _write(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        data = value if type(value) is bytes else bytes(value)
        self._check_value(key, data)
        self._changes[key] = data

    def _key(self, key: object) -> bytes:
        self._check_open()
        return self._normalise(key)

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedStoreError("the transaction")
        self._check_usable()


__all__ = ["Isolation", "Transaction"]
