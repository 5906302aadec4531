"""A store in one process's memory, for tests that need a session and no processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.engines.base import BEFORE_ALL, Revision, Value
from harness.errors import ConflictError


class DictSession:
    """Everything takes effect at once. ``refuse`` says whether the next transaction is refused."""

    def __init__(self, refuse: Callable[[], bool] = lambda: False) -> None:
        self.data: dict[bytes, Value] = {}
        self.history: dict[bytes, list[tuple[bytes | None, int | None]]] = {}
        self.sequence: int | None = 0
        self.refuse = refuse
        self.closed = 0

    def transaction(self) -> DictTransaction:
        return DictTransaction(self)

    def snapshot(self) -> DictSnapshot:
        return DictSnapshot(self)

    def get(self, key: bytes) -> Value | None:
        return self.data.get(key)

    def put_many(self, pairs: Sequence[tuple[bytes, bytes]]) -> int | None:
        transaction = DictTransaction(self)
        for key, value in pairs:
            transaction.put(key, value)
        return transaction.commit()

    def settle(self) -> None:
        pass

    def revisions(self, key: bytes) -> list[Revision]:
        return [Revision(*value) for value in reversed(self.history.get(key, []))] + [BEFORE_ALL]

    def keys(self) -> set[bytes]:
        return set(self.data)

    def verify(self, *, thorough: bool) -> list[str]:
        return []

    def close(self) -> None:
        self.closed += 1


class DictSnapshot:
    def __init__(self, session: DictSession) -> None:
        self.data = dict(session.data)
        self.sequence = session.sequence

    def get(self, key: bytes) -> Value | None:
        return self.data.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.data[key].data if key in self.data else None for key in keys]

    def close(self) -> None:
        pass


class DictTransaction:
    def __init__(self, session: DictSession) -> None:
        self.session = session
        self.writes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> Value | None:
        return self.session.data.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        self.writes[key] = None

    def commit(self) -> int | None:
        if self.session.refuse():
            raise ConflictError("refused on purpose")
        assert self.session.sequence is not None
        self.session.sequence += 1
        for key, value in self.writes.items():
            self.session.history.setdefault(key, []).append((value, self.session.sequence))
            if value is None:
                self.session.data.pop(key, None)
            else:
                self.session.data[key] = Value(value, self.session.sequence)
        return self.session.sequence

    def abort(self) -> None:
        pass
