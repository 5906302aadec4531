"""Valid histories of every model, of any length: those of databases in memory that do one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypedDict, Unpack

from harness.recorded import Event
from harness.synthetic.clients import REFUSED, Chance, record

Micros = list[list[Any]]


class Clients(TypedDict, total=False):
    """How many clients there are (``processes``; 10, of registers 5), and the shares of their operations that end
    indeterminate (``info``) and that fail; see ``clients.record``.
    """

    processes: int
    info: float
    fail: float


def list_append(
    transactions: int,
    seed: int = 0,
    *,
    longest: int = 5,
    active: int = 100,
    appends: int = 100,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """Transactions of 1 to ``longest`` micro-operations, half of them reads, on ``active`` keys at any time; a key is
    left for a new one after ``appends`` appends. The defaults are the workload of Elle's measurements (Kingsbury and
    Alvaro, VLDB 2020, section 7.5). Each list read is a new object. Strictly serializable.

    Measured: 350,000 transactions a second on one core as events, 280,000 as operations (``recorded.pair``).
    """
    make = partial(_Lists, longest=longest, active=active, appends=appends)
    return record(make, transactions, seed, **clients)


def rw_register(
    transactions: int,
    seed: int = 0,
    *,
    longest: int = 5,
    active: int = 100,
    writes: int = 100,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """As ``list_append``, with writes of new values to registers instead of appends. Strictly serializable."""
    make = partial(_Registers, longest=longest, active=active, writes=writes)
    return record(make, transactions, seed, **clients)


def register(
    operations: int,
    seed: int = 0,
    *,
    values: int = 5,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """Reads and writes of one register, null at first, with ``values`` different values. Linearizable."""
    clients.setdefault("processes", 5)
    make = partial(_Register, values=values, functions=("read", "write"))
    return record(make, operations, seed, **clients)


def cas_register(
    operations: int,
    seed: int = 0,
    *,
    values: int = 5,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """As ``register``, with compare-and-set of ``[old, new]``, which fails if the value is not ``old``."""
    clients.setdefault("processes", 5)
    make = partial(_Register, values=values, functions=("read", "write", "cas"))
    return record(make, operations, seed, **clients)


def kv_append(
    operations: int,
    seed: int = 0,
    *,
    keys: int = 10,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """``get``, ``put`` and ``append`` of strings, each to a key in the field "key"; "" at first. Linearizable."""
    make = partial(_Strings, keys=keys)
    return record(make, operations, seed, **clients, key=lambda plan: plan[1])


def mutex(operations: int, seed: int = 0, *, processes: int = 5, fail: float = 0.0) -> Iterator[Event]:
    """``acquire``, which fails while the mutex is held, and ``release`` by the process that holds it. Linearizable."""
    return record(_Mutex, operations, seed, processes=processes, fail=fail)


def set_(operations: int, seed: int = 0, **clients: Unpack[Clients]) -> Iterator[Event]:
    """Adds of new elements to a set, and one last read of it."""
    make = partial(_Set, reads=0.0)
    return record(make, operations, seed, **clients, last="read")


def set_full(
    operations: int,
    seed: int = 0,
    *,
    reads: float = 0.1,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """As ``set_``, with a share ``reads`` of reads on the way. Linearizable."""
    make = partial(_Set, reads=reads)
    return record(make, operations, seed, **clients, last="read")


def counter(
    operations: int,
    seed: int = 0,
    *,
    negative: bool = False,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """Adds of 1 to 5 (``negative``: or -5 to -1) to a counter, and reads. Linearizable."""
    make = partial(_Counter, negative=negative)
    return record(make, operations, seed, **clients)


def bank(
    operations: int,
    seed: int = 0,
    *,
    accounts: int = 8,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """Transfers between accounts, of which the first has 100 at first, and reads of all. Linearizable; never negative:
    a transfer of more than there is fails.
    """
    make = partial(_Bank, accounts=accounts)
    return record(make, operations, seed, **clients)


def long_fork(
    operations: int,
    seed: int = 0,
    *,
    group: int = 3,
    **clients: Unpack[Clients],
) -> Iterator[Event]:
    """Writes of one new key each, and reads of a whole ``group`` of keys that are written at the time. Linearizable."""
    make = partial(_Groups, group=group)
    return record(make, operations, seed, **clients)


class _Lists:
    """Lists by key. A key's list lives as long as it is active, or a transaction on it is under way."""

    def __init__(self, chance: Chance, longest: int, active: int, appends: int) -> None:
        self._chance = chance
        self._longest = longest
        self._most = appends
        self._keys = list(range(active))
        self._next = active
        self._lists: list[list[int]] = [[] for _ in range(active)]
        self._tried = [0] * active

    def call(self, _process: int, /) -> tuple[str, Micros, tuple[Micros, list[list[int]]]]:
        chance, keys, lists, active = self._chance, self._keys, self._lists, len(self._keys)
        micros: Micros = []
        touched = []
        for _ in range(1 + int(chance() * self._longest)):
            slot = int(chance() * 2 * active)
            if slot < active:
                micros.append(["r", keys[slot], None])
                touched.append(lists[slot])
                continue
            slot -= active
            value = self._tried[slot] = self._tried[slot] + 1
            micros.append(["append", keys[slot], value])
            touched.append(lists[slot])
            if value == self._most:
                keys[slot], lists[slot], self._tried[slot] = self._next, [], 0
                self._next += 1
        return "txn", micros, (micros, touched)

    def apply(self, plan: tuple[Micros, list[list[int]]], /) -> Micros:
        result = []
        for micro, elements in zip(*plan, strict=True):
            if micro[2] is None:
                result.append(["r", micro[1], elements[:] or None])
            else:
                elements.append(micro[2])
                result.append(micro)
        return result


class _Registers:
    """Values by key, each in a list of one element."""

    def __init__(self, chance: Chance, longest: int, active: int, writes: int) -> None:
        self._chance = chance
        self._longest = longest
        self._most = writes
        self._keys = list(range(active))
        self._next = active
        self._cells: list[list[int | None]] = [[None] for _ in range(active)]
        self._tried = [0] * active

    def call(self, _process: int, /) -> tuple[str, Micros, tuple[Micros, list[list[int | None]]]]:
        chance, keys, cells, active = self._chance, self._keys, self._cells, len(self._keys)
        micros: Micros = []
        touched = []
        for _ in range(1 + int(chance() * self._longest)):
            slot = int(chance() * 2 * active)
            if slot < active:
                micros.append(["r", keys[slot], None])
                touched.append(cells[slot])
                continue
            slot -= active
            value = self._tried[slot] = self._tried[slot] + 1
            micros.append(["w", keys[slot], value])
            touched.append(cells[slot])
            if value == self._most:
                keys[slot], cells[slot], self._tried[slot] = self._next, [None], 0
                self._next += 1
        return "txn", micros, (micros, touched)

    def apply(self, plan: tuple[Micros, list[list[int | None]]], /) -> Micros:
        result = []
        for micro, cell in zip(*plan, strict=True):
            if micro[0] == "r":
                result.append(["r", micro[1], cell[0]])
            else:
                cell[0] = micro[2]
                result.append(micro)
        return result


class _Register:
    def __init__(self, chance: Chance, values: int, functions: tuple[str, ...]) -> None:
        self._chance = chance
        self._values = values
        self._functions = functions
        self._value: int | None = None

    def _any(self) -> int:
        return int(self._chance() * self._values)

    def call(self, _process: int, /) -> tuple[str, Any, tuple[str, Any]]:
        f = self._functions[int(self._chance() * len(self._functions))]
        value = {"read": None, "write": self._any(), "cas": [self._any(), self._any()]}[f]
        return f, value, (f, value)

    def apply(self, plan: tuple[str, Any], /) -> Any:
        f, value = plan
        if f == "read":
            return self._value
        if f == "cas" and self._value != value[0]:
            return REFUSED
        self._value = value if f == "write" else value[1]
        return value


class _Strings:
    """Strings by key. One operation in ten is a put, so that strings stay short."""

    def __init__(self, chance: Chance, keys: int) -> None:
        self._chance = chance
        self._strings = [""] * keys
        self._pieces = 0

    def call(self, _process: int, /) -> tuple[str, str | None, tuple[str, str, str]]:
        chance = self._chance()
        key = str(int(self._chance() * len(self._strings)))
        if chance < 0.5:
            return "get", None, ("get", key, "")
        self._pieces += 1
        f, piece = "put" if chance < 0.6 else "append", f"x {self._pieces} y"
        return f, piece, (f, key, piece)

    def apply(self, plan: tuple[str, str, str], /) -> str:
        f, key, piece = plan
        if f == "get":
            return self._strings[int(key)]
        self._strings[int(key)] = piece if f == "put" else self._strings[int(key)] + piece
        return piece


class _Mutex:
    def __init__(self, _chance: Chance) -> None:
        self._holder: int | None = None

    def call(self, process: int, /) -> tuple[str, None, tuple[str, int]]:
        f = "release" if self._holder == process else "acquire"
        return f, None, (f, process)

    def apply(self, plan: tuple[str, int], /) -> Any:
        f, process = plan
        if f == "acquire" and self._holder is not None:
            return REFUSED
        self._holder = process if f == "acquire" else None
        return None


class _Set:
    def __init__(self, chance: Chance, reads: float) -> None:
        self._chance = chance
        self._reads = reads
        self._elements: list[int] = []
        self._next = 0

    def call(self, _process: int, /) -> tuple[str, int | None, int | None]:
        if self._chance() < self._reads:
            return "read", None, None
        self._next += 1
        return "add", self._next - 1, self._next - 1

    def apply(self, element: int | None, /) -> list[int] | int:
        if element is None:
            return sorted(self._elements)
        self._elements.append(element)
        return element


class _Counter:
    def __init__(self, chance: Chance, negative: bool) -> None:
        self._chance = chance
        self._negative = negative
        self._sum = 0

    def call(self, _process: int, /) -> tuple[str, int | None, int | None]:
        if self._chance() < 0.5:
            return "read", None, None
        amount = 1 + int(self._chance() * 5)
        if self._negative and self._chance() < 0.5:
            amount = -amount
        return "add", amount, amount

    def apply(self, amount: int | None, /) -> int:
        if amount is None:
            return self._sum
        self._sum += amount
        return amount


class _Bank:
    def __init__(self, chance: Chance, accounts: int) -> None:
        self._chance = chance
        self._balances = dict.fromkeys(range(accounts), 0)
        self._balances[0] = 100

    def call(self, _process: int, /) -> tuple[str, Any, Any]:
        if self._chance() < 0.5:
            return "read", None, None
        accounts = len(self._balances)
        source = int(self._chance() * accounts)
        target = (source + 1 + int(self._chance() * (accounts - 1))) % accounts
        transfer = {"from": source, "to": target, "amount": 1 + int(self._chance() * 5)}
        return "transfer", transfer, transfer

    def apply(self, transfer: dict[str, int] | None, /) -> Any:
        if transfer is None:
            return dict(self._balances)
        if self._balances[transfer["from"]] < transfer["amount"]:
            return REFUSED
        self._balances[transfer["from"]] -= transfer["amount"]
        self._balances[transfer["to"]] += transfer["amount"]
        return transfer


class _Groups:
    """Groups of keys; each client reads the group of a key that was written lately."""

    def __init__(self, chance: Chance, group: int) -> None:
        self._chance = chance
        self._group = group
        self._next = 0
        self._recent: list[dict[int, int | None]] = []

    def call(self, _process: int, /) -> tuple[str, Micros, tuple[Micros, dict[int, int | None]]]:
        if self._recent and self._chance() < 0.5:
            values = self._recent[int(self._chance() * len(self._recent))]
            micros = [["r", key, None] for key in sorted(values, key=lambda _: self._chance())]
            return "txn", micros, (micros, values)
        key = self._next
        self._next += 1
        if key % self._group == 0:
            self._recent = [*self._recent[-2:], dict.fromkeys(range(key, key + self._group))]
        micros = [["w", key, 1]]
        return "txn", micros, (micros, self._recent[-1])

    def apply(self, plan: tuple[Micros, dict[int, int | None]], /) -> Micros:
        micros, values = plan
        if micros[0][0] == "w":
            values[micros[0][1]] = 1
            return micros
        return [["r", key, values[key]] for _, key, _ in micros]


HISTORIES: Final[dict[str, Callable[..., Iterator[Event]]]] = {
    "list-append": list_append,
    "rw-register": rw_register,
    "register": register,
    "cas-register": cas_register,
    "kv-append": kv_append,
    "mutex": mutex,
    "bank": bank,
    "set": set_,
    "set-full": set_full,
    "counter": counter,
    "long-fork": long_fork,
}
"""A generator of valid histories for each model, called with the number of operations and a seed."""
