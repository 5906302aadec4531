"""The anomalies and the properties that rule them out, as data.

Properties are Adya's levels (Adya, "Weak Consistency", 1999; Adya, Liskov and O'Neil, "Generalized Isolation Level
Definitions", ICDE 2000), snapshot isolation is that of Cerone and Gotsman ("Analysing Snapshot Isolation", 2016), which
rules out every cycle without two adjacent rw edges, and the strong-session and strong variants (Daudjee and Salem,
"Lazy Database Replication with Ordering Guarantees", 2004) also respect the order of each process, or real time.

What exactly holds for histories (the brute force of the tests follows it):

- The *external version* that a read saw is its value without what the transaction itself had written before: for a
  list, without the longest tail of elements that the transaction had appended before this read. Every read has one,
  also the second read of a key.
- ``internal``: a read contradicts what its transaction itself had read or written of the key before. It is ruled out
  from repeatable-read and snapshot-isolation upwards (axiom INT of Cerone, Bernardi and Gotsman, 2015, as in Elle):
  below, a transaction may read a key twice and see two versions, each of which must be one that may be read.
- A read of garbage (``phantom-element``, ``duplicate-elements``) or reads that no order of installation explains
  (``incompatible-order``) are excluded at all levels: there is no such history in Adya's sense.
- An info transaction has committed if a read saw something that it wrote, from read-committed upwards. At
  read-uncommitted that may as well have been a dirty read: an info transaction is then never taken as committed.
- There are no predicates, so that repeatable-read (PL-2.99) and serializable (PL-3) agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from harness.errors import UsageError

Order = Literal["none", "process", "realtime"]
ORDERS: Final[tuple[Order, ...]] = ("none", "process", "realtime")


class Anomaly(NamedTuple):
    """``meaning``: one sentence that says what must not be. ``source``: where it is defined."""

    name: str
    meaning: str
    source: str


_CYCLES: Final = (
    Anomaly(
        "G0",
        "Transactions overwrote each other's writes in a cycle: each one's write came before the next one's.",
        "Adya 1999: write cycle",
    ),
    Anomaly(
        "G1c",
        "Information flowed in a circle: each transaction read or overwrote what the next one before it had written.",
        "Adya 1999: circular information flow",
    ),
    Anomaly(
        "G-single",
        "A transaction missed a write of another one although it saw (or came after) an effect of it: a cycle with "
        "exactly one rw edge, also called read skew.",
        "Adya 1999",
    ),
    Anomaly(
        "G-nonadjacent",
        "A cycle with two rw edges or more, of which no two follow one another: no choice of snapshots explains it, as "
        "in a long fork.",
        "Cerone and Gotsman 2016; Elle",
    ),
    Anomaly(
        "G2-item",
        "Transactions each missed a write of the next one in a cycle, with two rw edges in a row, as in write skew.",
        "Adya 1999: item anti-dependency cycle",
    ),
)
CYCLES: Final = tuple(each.name for each in _CYCLES)
"""The cycles without their variants, the worst first."""

_SNAPSHOT: Final = Anomaly(
    "G-SI",
    "No choice of snapshots explains what was read: of two transactions that wrote one key, whichever committed before "
    "the other began, there is a cycle.",
    "Adya 1999: G-SIb; Cerone and Gotsman 2016",
)
_VARIANTS: Final[dict[Order, tuple[str, str, str]]] = {
    "none": ("", "", ""),
    "process": ("-process", " The cycle needs the order in which one process did things.", "; Elle"),
    "realtime": (
        "-realtime",
        " The cycle needs real time: one had completed before another began.",
        "; Elle",
    ),
}

VARIANTS: Final[dict[Order, str]] = {order: variant[0] for order, variant in _VARIANTS.items()}
"""What is added to the name of a cycle that needs an order."""

_OTHERS: Final = (
    Anomaly("duplicate-elements", "A read shows one element twice, which was appended once.", "Elle"),
    Anomaly("phantom-element", "A read shows an element that nobody appended.", "Adya 1999, section 4.2"),
    Anomaly("phantom-value", "A read shows a value that nobody wrote.", "Adya 1999, section 4.2"),
    Anomaly(
        "incompatible-order",
        "Two reads of one key show its elements in orders of which neither is the beginning of the other.",
        "Elle",
    ),
    Anomaly("G1a", "A committed transaction read a write of one that had failed.", "Adya 1999: aborted read"),
    Anomaly(
        "G1b",
        "A committed transaction read a version in the middle of another one, which went on to write the key again.",
        "Adya 1999: intermediate read",
    ),
    Anomaly(
        "future-read",
        "A transaction read what it itself wrote only later: information flowed in a circle.",
        "Elle",
    ),
    Anomaly(
        "internal",
        "A read contradicts what its own transaction had read or written of the key before.",
        "Cerone, Bernardi and Gotsman 2015: axiom INT",
    ),
    Anomaly(
        "lost-update",
        "Two committed transactions read the same version of a key and both wrote it: one did not see the other's.",
        "Berenson et al. 1995: P4",
    ),
)

ANOMALIES: Final[dict[str, Anomaly]] = {
    each.name: each
    for each in (
        *_OTHERS,
        *(
            Anomaly(each.name + suffix, each.meaning + more, each.source + source)
            for suffix, more, source in _VARIANTS.values()
            for each in (*_CYCLES, _SNAPSHOT)
        ),
    )
}
"""Every anomaly by its name. The order is that of findings: what is no history at all first, real time last."""


class Property(NamedTuple):
    """``level``: the level of isolation; ``order``: what it respects besides; ``rules_out``: names of anomalies."""

    name: str
    level: str
    order: Order
    rules_out: frozenset[str]


_GARBAGE: Final = (
    "duplicate-elements",
    "phantom-element",
    "phantom-value",
    "incompatible-order",
)
_LEVELS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    # level: the levels right below it, what it rules out more than they do, of which cycles
    "read-uncommitted": ((), _GARBAGE, ("G0",)),
    "read-committed": (("read-uncommitted",), ("G1a", "G1b", "future-read"), ("G1c",)),
    "repeatable-read": (
        ("read-committed",),
        ("internal", "lost-update"),
        ("G-single", "G-nonadjacent", "G2-item"),
    ),
    "snapshot-isolation": (
        ("read-committed",),
        ("internal", "lost-update"),
        ("G-single", "G-nonadjacent", "G-SI"),
    ),
    "serializable": (("repeatable-read", "snapshot-isolation"), (), ()),
}
LEVELS: Final = tuple(_LEVELS)
_PREFIXES: Final[dict[Order, str]] = {"none": "", "process": "strong-session-", "realtime": "strong-"}


def _at_least(level: str) -> frozenset[str]:
    """The level and all that are weaker."""
    return frozenset([level]).union(*(_at_least(below) for below in _LEVELS[level][0]))


def _property(level: str, order: Order) -> Property:
    name = (
        "strict-serializable" if (level, order) == ("serializable", "realtime") else _PREFIXES[order] + level
    )
    out: set[str] = set()
    for each in _at_least(level):
        _, others, cycles = _LEVELS[each]
        out.update(others)
        for variant in ORDERS[: ORDERS.index(order) + 1]:
            out.update(cycle + VARIANTS[variant] for cycle in cycles)
    return Property(name, level, order, frozenset(out))


PROPERTIES: Final[dict[str, Property]] = {
    each.name: each for each in (_property(level, order) for order in ORDERS for level in LEVELS)
}
"""Every property by its name; none is stronger than a later one of the same order, strict-serializable is last."""

ALIASES: Final[dict[str, str]] = {
    "PL-1": "read-uncommitted",
    "PL-2": "read-committed",
    "PL-2.99": "repeatable-read",
    "PL-3": "serializable",
    "PL-SI": "snapshot-isolation",
    "PL-SS": "strict-serializable",
    "SI": "snapshot-isolation",
    "conflict-serializable": "serializable",
    "strong-serializable": "strict-serializable",
    "strong-session-PL-1": "strong-session-read-uncommitted",
    "strong-session-PL-2": "strong-session-read-committed",
    "strong-PL-1": "strong-read-uncommitted",
    "strong-PL-2": "strong-read-committed",
}
"""Other names of properties (Adya's, Elle's)."""


def find_property(name: str) -> Property:
    """The property of this name or alias.

    Raises:
        UsageError: there is none; the message lists them.
    """
    found = PROPERTIES.get(ALIASES.get(name, name))
    if found is None:
        raise UsageError(f"{name!r} is no isolation property; there are {', '.join(PROPERTIES)}")
    return found


def implies(stronger: str, weaker: str) -> bool:
    """Whether every history with the property ``stronger`` has ``weaker`` too, by definition."""
    one, other = PROPERTIES[stronger], PROPERTIES[weaker]
    return other.level in _at_least(one.level) and ORDERS.index(other.order) <= ORDERS.index(one.order)


def ruled_out(anomalies: Iterable[str]) -> tuple[str, ...]:
    """All properties that rule out one of ``anomalies``, in the order of ``PROPERTIES``."""
    found = frozenset(anomalies)
    return tuple(each.name for each in PROPERTIES.values() if each.rules_out & found)


def weakest_ruled_out(anomalies: Iterable[str]) -> tuple[str, ...]:
    """The weakest properties that ``anomalies`` rule out: all others that they rule out imply one of these."""
    out = ruled_out(anomalies)
    return tuple(each for each in out if not any(other != each and implies(each, other) for other in out))


def cycle_name(rw_edges: int, adjacent: bool, wr_edges: int, order: Order) -> str:
    """The name of a cycle with so many rw and wr edges, of which ``adjacent`` says whether two rw edges follow one
    another (the last one and the first count), and that has edges of ``order`` (the strongest among them).
    """
    if rw_edges == 0:
        name = "G1c" if wr_edges else "G0"
    elif rw_edges == 1:
        name = "G-single"
    else:
        name = "G2-item" if adjacent else "G-nonadjacent"
    return name + VARIANTS[order]
