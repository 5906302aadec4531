"""The isolation levels by enumeration of orders, without graphs, on tiny histories: what checkers are compared with.

A history satisfies a level if, for some subset of the indeterminate transactions taken as committed (what those read is
unknown), there is a serial order of the committed transactions such that

* read-uncommitted (PL-1 of Adya): the versions of every key are installed in that order: what was read of a list, less
  what did not commit, begins like what was installed. Here an indeterminate transaction is never taken as committed,
  since what was read of it may have been dirty;
* read-committed (PL-2): every read returns a version that a transaction earlier in the order finally installed, or the
  initial one, apart from what its own transaction had written before it;
* repeatable-read (PL-2.99) and serializable (PL-3): every transaction, run at its place, reads what it read. Without
  predicates the two agree;
* snapshot-isolation: there is an order of the 2n moments at which transactions start and commit, every transaction run
  on the commits before its start reads what it read, and of two that write the same key one commits before the other
  starts.

No history at all, at any level, has a read of what nobody wrote, of one element twice, or reads of one list of which
neither begins like the other (apart from what their own transactions had appended).

The strong-session variants demand that the order respects that of every process, the strong variants real time: a
transaction that completed before another was invoked precedes it. An indeterminate one never completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

from harness.evidence import NEVER
from harness.recorded import Op

Micro = list[Any]
LEVELS = ("read-uncommitted", "read-committed", "repeatable-read", "snapshot-isolation", "serializable")
ORDERS = ("", "strong-session-", "strong-")


def named(order: str, level: str) -> str:
    """The property's name: "strong-" and "serializable" are strict-serializable together."""
    return "strict-serializable" if (order, level) == ("strong-", "serializable") else order + level


PROPERTIES = tuple(named(order, level) for order in ORDERS for level in LEVELS)


class Committed(NamedTuple):
    """One transaction of an order: its micro-operations (reads only if it is known what they returned)."""

    micros: tuple[Micro, ...]
    writes: frozenset[Any]


class Rules(NamedTuple):
    """What a model does to a key's value."""

    empty: Any
    write: Callable[[Any, Micro], Any]


REGISTER = Rules(None, lambda _old, micro: None if micro[0] == "d" else micro[2])
LIST = Rules((), lambda old, micro: (*old, micro[2]))


def returned(rules: Rules, micro: Micro) -> Any:
    """What a read returned, as a state: null is the empty list."""
    return micro[2] if rules is REGISTER else tuple(micro[2] or ())


def satisfied(model: str, ops: list[Op], implied: bool = True) -> dict[str, bool]:
    """For every property, whether the history satisfies it. ``model``: "list-append" or "rw-register". Unless
    ``implied`` no property is taken as satisfied because a stronger one is.
    """
    rules = LIST if model == "list-append" else REGISTER
    found = dict.fromkeys(PROPERTIES, False)
    if _garbage(rules, ops):
        return found
    sure = [op for op in ops if op.outcome == "ok"]
    maybe = [op for op in ops if op.outcome == "info"]
    for count in range(len(maybe) + 1):
        for chosen in combinations(maybe, count):
            _judge(rules, [*sure, *chosen], found, implied)
    return found


def _garbage(rules: Rules, ops: list[Op]) -> bool:
    writes = [micro for op in ops for micro in op.value if micro[0] == "w" or micro[0] == "append"]
    written = {(micro[1], micro[2]) for micro in writes}
    seen: dict[Any, list[Any]] = {}
    for op in ops:
        transaction = _committed(op)
        for micro in transaction.micros:
            value = returned(rules, micro) if micro[0] == "r" else ()
            if rules is LIST and (
                len(set(value)) < len(value) or not {(micro[1], e) for e in value} <= written
            ):
                return True
        for key, value in _external(rules, transaction):
            seen.setdefault(key, []).append(value)
            if rules is REGISTER and value is not None and (key, value) not in written:
                return True
    return rules is LIST and any(
        one[: len(other)] != other[: len(one)]
        for values in seen.values()
        for one, other in combinations(values, 2)
    )


def _external(rules: Rules, transaction: Committed) -> Iterator[tuple[Any, Any]]:
    """Key and value of what each read saw of others: nothing where a register shows a write of its own transaction."""
    own: list[tuple[Any, Any]] = []
    for micro in transaction.micros:
        key = micro[1]
        if micro[0] != "r":
            own.append((key, micro[2] if len(micro) > 2 else None))
            continue
        value = returned(rules, micro)
        if rules is LIST:
            while value and (key, value[-1]) in own:
                value = value[:-1]
            yield key, value
        elif (key, value) not in own:
            yield key, value


def _judge(rules: Rules, ops: list[Op], found: dict[str, bool], implied: bool) -> None:
    """Set what these committed transactions satisfy. What a stronger level has shown is not looked for again."""
    committed = [_committed(op) for op in ops]
    for i in (2, 1, 0):
        preceding = _preceding(ops, ORDERS[i])
        for level, holds in (
            ("serializable", _serializable),
            ("snapshot-isolation", _snapshot),
            ("read-committed", _read_committed),
            ("read-uncommitted", _read_uncommitted),
        ):
            if found[named(ORDERS[i], level)]:
                continue
            if level == "read-uncommitted" and any(op.outcome == "info" for op in ops):
                continue
            if holds(rules, committed, preceding):
                for order in ORDERS[: i + 1] if implied else ORDERS[i : i + 1]:
                    for weaker in _implied(level) if implied else _same(level):
                        found[named(order, weaker)] = True


def _same(level: str) -> tuple[str, ...]:
    return ("serializable", "repeatable-read") if level == "serializable" else (level,)


def _implied(level: str) -> tuple[str, ...]:
    if level == "serializable":
        return LEVELS
    return {
        "snapshot-isolation": ("snapshot-isolation", "read-committed", "read-uncommitted"),
        "read-committed": ("read-committed", "read-uncommitted"),
        "read-uncommitted": ("read-uncommitted",),
    }[level]


def _committed(op: Op) -> Committed:
    micros = tuple(micro for micro in op.value if micro[0] != "r" or op.outcome == "ok")
    return Committed(micros, frozenset(micro[1] for micro in micros if micro[0] != "r"))


def _preceding(ops: list[Op], order: str) -> list[int]:
    """For every transaction the set (bits) of those that the order demands before it."""
    sets = []
    for b in ops:
        bits = 0
        for i, a in enumerate(ops):
            if a.completed == NEVER or a.completed >= b.invoked or a is b:
                continue
            if order == "strong-" or (order == "strong-session-" and a.process == b.process):
                bits |= 1 << i
        sets.append(bits)
    return sets


def _run(rules: Rules, state: dict[Any, Any], transaction: Committed) -> dict[Any, Any] | None:
    """The state after the transaction ran alone, or None if it would have read something else."""
    after = dict(state)
    for micro in transaction.micros:
        old = after.get(micro[1], rules.empty)
        if micro[0] != "r":
            after[micro[1]] = rules.write(old, micro)
        elif returned(rules, micro) != old:
            return None
    return after


def _orders(preceding: list[int], placed: int) -> Iterator[int]:
    """Who may come next after those in ``placed`` (bits)."""
    for i, before in enumerate(preceding):
        if not placed >> i & 1 and before & ~placed == 0:
            yield i


def _serializable(rules: Rules, committed: list[Committed], preceding: list[int]) -> bool:
    def search(placed: int, state: dict[Any, Any]) -> bool:
        if placed == (1 << len(committed)) - 1:
            return True
        for i in _orders(preceding, placed):
            after = _run(rules, state, committed[i])
            if after is not None and search(placed | 1 << i, after):
                return True
        return False

    return search(0, {})


def _read_committed(rules: Rules, committed: list[Committed], preceding: list[int]) -> bool:
    """``versions``: per key all values that it has had between transactions so far, the present one last."""

    def search(placed: int, versions: dict[Any, tuple[Any, ...]]) -> bool:
        if placed == (1 << len(committed)) - 1:
            return True
        for i in _orders(preceding, placed):
            if all(
                value in versions.get(key, (rules.empty,)) for key, value in _external(rules, committed[i])
            ):
                after = dict(versions)
                latest: dict[Any, Any] = {}
                for micro in committed[i].micros:
                    if micro[0] != "r":
                        key = micro[1]
                        old = latest.get(key, versions.get(key, (rules.empty,))[-1])
                        latest[key] = rules.write(old, micro)
                for key, value in latest.items():
                    after[key] = (*after.get(key, (rules.empty,)), value)
                if search(placed | 1 << i, after):
                    return True
        return False

    return search(0, {})


def _read_uncommitted(rules: Rules, committed: list[Committed], preceding: list[int]) -> bool:
    def search(placed: int, state: dict[Any, Any]) -> bool:
        if placed == (1 << len(committed)) - 1:
            return rules is REGISTER or _shows(rules, committed, state)
        for i in _orders(preceding, placed):
            after = dict(state)
            for micro in committed[i].micros:
                if micro[0] != "r":
                    after[micro[1]] = rules.write(after.get(micro[1], rules.empty), micro)
            if search(placed | 1 << i, after):
                return True
        return False

    return search(0, {})


def _shows(rules: Rules, committed: list[Committed], state: dict[Any, Any]) -> bool:
    for transaction in committed:
        for key, value in _external(rules, transaction):
            installed = state.get(key, rules.empty)
            seen = tuple(each for each in value if each in installed)
            if seen != installed[: len(seen)]:
                return False
    return True


def _snapshot(rules: Rules, committed: list[Committed], preceding: list[int]) -> bool:
    """``running``: by number, the keys that others committed since it started."""
    everybody = (1 << len(committed)) - 1

    def search(started: int, placed: int, state: dict[Any, Any], running: dict[int, frozenset[Any]]) -> bool:
        if placed == everybody:
            return True
        for i, dirtied in running.items():
            transaction = committed[i]
            if dirtied & transaction.writes:
                continue
            after = _run(rules, state, Committed(_writes(transaction), transaction.writes)) or state
            others = {j: keys | transaction.writes for j, keys in running.items() if j != i}
            if search(started, placed | 1 << i, after, others):
                return True
        for i, before in enumerate(preceding):
            if started >> i & 1 or before & ~placed or _run(rules, state, committed[i]) is None:
                continue
            if search(started | 1 << i, placed, state, {**running, i: frozenset()}):
                return True
        return False

    return search(0, 0, {}, {})


def _writes(transaction: Committed) -> tuple[Micro, ...]:
    return tuple(micro for micro in transaction.micros if micro[0] != "r")
