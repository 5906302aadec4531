"""Anomalies of list-append histories that single reads show, without any cycle; and what transactions and edges say."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np

from harness.dependency.catalogue import ANOMALIES
from harness.dependency.explain import SHOWN_MAX, listed
from harness.dependency.graph import RW, UPDATE, WW
from harness.dependency.list_append import NOBODY, Appends, Reads
from harness.dependency.transactions import FAIL, Flags
from harness.dependency.versions import APART, APPEND, READ, STRANGE, Lists
from harness.dependency.walks import Step
from harness.evidence import Evidence

ASSUMED: Final = -2
"""``Step.at`` of a ww step that is one of two ways in which it may have been, both of which fail."""
_CONTRADICTIONS: Final = 3
_APART_MAX: Final = 1000
"""How many reads ``APART`` are looked into: their being there is a violation already."""


class ListDescriber:
    """Says what the transactions and edges of a list-append history are (``explain.Describer``)."""

    def __init__(self, lists: Lists, appends: Appends) -> None:
        self.lists = lists
        self.appends = appends

    def name(self, transaction: int) -> str:
        """Such as "T7"."""
        return self.lists.transactions.name(transaction)

    def text(self, transaction: int, keys: Collection[int]) -> str:
        """Its micro-operations, those on ``keys`` first, a dozen at most."""
        micros = sorted(self.lists.micros(transaction), key=lambda micro: micro[1] not in keys)
        said = [
            f"append {self.lists.keys[key]} {value}"
            if tag == APPEND
            else f"read {self.lists.keys[key]} -> {listed(value)}"
            for tag, key, value in micros[:SHOWN_MAX]
        ]
        if len(micros) > SHOWN_MAX:
            said.append(f"{len(micros) - SHOWN_MAX} more")
        return ", ".join(said)

    def appended(self, transaction: int, key: int) -> list[tuple[int, Any]]:
        """What it appended to a key: the place in the key's longest list (-1: not there) and the element."""
        lists = self.lists
        return [
            (self.place(micro), lists.names.element(int(lists.value[micro])))
            for micro in range(lists.begin[transaction], lists.end[transaction])
            if lists.tag[micro] == APPEND and lists.key[micro] == key
        ]

    def place(self, micro: int) -> int:
        """Where the element of an append stands in its key's longest list, or -1."""
        place = int(self.appends.place[micro])
        return place if place < 0 else place - int(self.lists.start[self.lists.key[micro]])

    def because(self, step: Step) -> str:
        """Why ``step.source`` came before ``step.target``, for ww, wr and rw."""
        key, at = step.key, step.at
        name, longest = self.lists.keys[key], self.lists.longest[key]
        one, other = self.name(step.source), self.name(step.target)
        if step.at == ASSUMED:
            return (
                f"{one} and {other} both appended to key {name}, so that one of them committed before the other began "
                f"if each saw a snapshot: suppose that {one} did, as it fails the other way round too."
            )
        if step.kind in (RW, UPDATE):
            later = [each for each in self.appended(step.target, key) if each[0] >= at or each[0] < 0]
            place, element = min(later, key=lambda each: (each[0] < 0, each[0]))
            shown = (
                f"{one} read {listed(longest[:at])} of key {name} without {element}, which {other} appended"
            )
            if step.kind == UPDATE:
                shown += f", and itself appended {self.appended(step.source, key)[0][1]} to it"
            return f"{shown}: {self._read_by(key, place + 1)}." if place >= 0 else f"{shown}."
        last = [element for place, element in self.appended(step.source, key) if 0 <= place < at][-1]
        if step.kind != WW:
            return f"{other} read {listed(longest[:at])} of key {name}, of which {one} had appended {last}."
        if at < len(longest):
            return (
                f"{other} appended {longest[at]} to key {name} after {one} had appended {last} to it: "
                f"{self._read_by(key, at + 1)}."
            )
        unread = next(element for place, element in self.appended(step.target, key) if place < 0)
        return (
            f"{other} appended {unread} to key {name} after {one} had appended {last} to it, as all that was read of "
            f"the key is without {unread}: {self._read_by(key, at)}."
        )

    def _read_by(self, key: int, length: int) -> str:
        reader = int(self.lists.reader[key])
        return f"{self.name(reader)} read {listed(self.lists.longest[key][:length])}" + (
            " and more" if length < len(self.lists.longest[key]) else ""
        )

    def evidence(self, anomaly: str, rows: Collection[int], key: int, *sentences: str) -> Evidence:
        """Evidence that is no cycle: transactions, the key that it is about, and the sentences."""
        shown = tuple(
            self.lists.transactions.shown(row, self.text(row, (key,)))
            for row in sorted(set(rows))
            if row >= 0
        )
        return Evidence(anomaly, ANOMALIES[anomaly].meaning, shown, sentences)


def read_anomalies(lists: Lists, appends: Appends, reads: Reads, committed: Flags) -> list[Evidence]:
    """One clear piece of evidence for each anomaly that single reads show: ``duplicate-elements``,
    ``phantom-element``, ``incompatible-order``, ``G1a``, ``G1b``, ``future-read``, ``internal`` and ``lost-update``.

    Complete: an anomaly that is in the history is named, except that of reads ``APART`` only a thousand are looked
    into. O(n log n).
    """
    describe = ListDescriber(lists, appends)
    found: dict[str, Evidence] = {}
    for evidence in (
        *_elements(describe),
        *_apart(describe),
        *_misplaced(describe, reads, committed),
        *_intermediate(describe, reads),
        *_contradictions(describe, reads),
        *_lost_updates(describe, reads),
    ):
        known = found.get(evidence.anomaly)
        if known is None or len(evidence.operations) < len(known.operations):
            found[evidence.anomaly] = evidence
    return list(found.values())


def _shortest_read(lists: Lists, key: int, length: int) -> int:
    """The transaction whose read of ``key`` shows ``length`` elements or little more."""
    rows = np.flatnonzero(
        ((lists.tag == READ) | (lists.tag == STRANGE)) & (lists.key == key) & (lists.value >= length)
    )
    return int(lists.of[rows[np.argmin(lists.value[rows])]])


def _elements(describe: ListDescriber) -> Iterator[Evidence]:
    """What is wrong with elements of the longest lists."""
    lists, writer = describe.lists, describe.appends.writer
    known = np.flatnonzero(writer != NOBODY)
    author = lists.of[writer[known]]
    for bad, anomaly in (
        (known[lists.transactions.outcome[author] == FAIL], "G1a"),
        (np.flatnonzero(writer == NOBODY), "phantom-element"),
        (known[describe.appends.place[writer[known]] != known], "duplicate-elements"),
    ):
        if len(bad):
            place = bad - lists.start[np.searchsorted(lists.start, bad, side="right") - 1]
            first = int(bad[np.argmin(place)])
            key = int(np.searchsorted(lists.start, first, side="right")) - 1
            length = first - int(lists.start[key]) + 1
            reader = _shortest_read(lists, key, length)
            shown = next(
                value
                for tag, of, value in lists.micros(reader)
                if tag == READ and of == key and len(value) >= length
            )
            yield _element(describe, anomaly, reader, key, shown, shown[length - 1], int(writer[first]))


def _element(
    describe: ListDescriber, anomaly: str, reader: int, key: int, shown: list[Any], element: Any, writer: int
) -> Evidence:
    name = describe.lists.keys[key]
    said = f"{describe.name(reader)} read {listed(shown)} of key {name}"
    author = int(describe.lists.of[writer]) if writer >= 0 else NOBODY
    rows = (reader, author)
    if anomaly == "phantom-element":
        return describe.evidence(anomaly, rows, key, f"{said}, but nobody appended {element} to it.")
    if anomaly == "G1a":
        return describe.evidence(
            anomaly,
            rows,
            key,
            f"{said}, in which {element} is from {describe.name(author)}, but {describe.name(author)} failed.",
            "What failed had no effect, so that nobody can have seen it.",
        )
    by = f", by {describe.name(author)}" if author >= 0 else ""
    return describe.evidence(
        anomaly, rows, key, f"{said}, which has {element} twice: it was appended once{by}."
    )


def _apart(describe: ListDescriber) -> Iterator[Evidence]:
    """Reads that are no beginning of the longest list of their key."""
    lists = describe.lists
    rows = np.flatnonzero(lists.tag == APART)
    if not len(rows):
        return
    rows = np.array(sorted(rows.tolist(), key=lambda row: int(lists.value[row]))[:_APART_MAX])
    touched = describe.appends.rows[np.isin(lists.key[describe.appends.rows], lists.key[rows])]
    pairs = zip(lists.key[touched].tolist(), lists.value[touched].tolist(), strict=True)
    writers = dict(zip(pairs, touched.tolist(), strict=True))
    for row in rows.tolist():
        key, of = int(lists.key[row]), int(lists.of[row])
        whole = lists.apart[row]
        shown = whole[: lists.value[row]]
        longest, other = lists.longest[key], int(lists.reader[key])
        name = lists.keys[key]
        place = next(
            (i for i, (a, b) in enumerate(zip(shown, longest, strict=False)) if a != b), len(longest)
        )
        until = place + 1 if max(len(shown), len(longest)) > SHOWN_MAX else SHOWN_MAX
        yield describe.evidence(
            "incompatible-order",
            (of, other),
            key,
            f"{describe.name(of)} read {listed(shown[:until])} of key {name}, but {describe.name(other)} read "
            f"{listed(longest[:until])}{' and more' if len(longest) > until else ''}.",
            f"A list only grows, so that one of the two would be the beginning of the other; they differ at element "
            f"{place + 1}.",
        )
        seen: set[Any] = set()
        for element in whole:
            code = lists.names.code(element)
            writer = writers.get((key, code), NOBODY)
            if code in seen:
                yield _element(describe, "duplicate-elements", of, key, whole, element, writer)
            elif writer == NOBODY:
                yield _element(describe, "phantom-element", of, key, whole, element, writer)
            elif lists.transactions.outcome[lists.of[writer]] == FAIL:
                yield _element(describe, "G1a", of, key, whole, element, writer)
            seen.add(code)


def _misplaced(describe: ListDescriber, reads: Reads, committed: Flags) -> Iterator[Evidence]:
    """A committed transaction's element without another one before it that it had appended to the key first."""
    lists, place = describe.lists, describe.appends.place
    rows = reads.order[lists.tag[reads.order] == APPEND]
    one, other = rows[:-1], rows[1:]
    bad = (lists.of[one] == lists.of[other]) & (lists.key[one] == lists.key[other]) & committed[lists.of[one]]
    bad &= (place[other] >= 0) & ((place[one] < 0) | (place[one] > place[other]))
    if bad.any():
        each = int(np.flatnonzero(bad)[0])
        key, author = int(lists.key[one[each]]), int(lists.of[one[each]])
        first, second = (lists.names.element(int(lists.value[rows[each + i]])) for i in (0, 1))
        length = describe.place(int(other[each])) + 1
        reader = _shortest_read(lists, key, length)
        yield describe.evidence(
            "incompatible-order",
            (author, reader),
            key,
            f"{describe.name(reader)} read {listed(lists.longest[key][:length])} of key {lists.keys[key]}, where "
            f"{second} is from {describe.name(author)}, but {describe.name(author)} had appended {first} before it.",
        )


def _intermediate(describe: ListDescriber, reads: Reads) -> Iterator[Evidence]:
    """G1b: a read of what another transaction had appended before it appended more."""
    lists, appends = describe.lists, describe.appends
    some = np.flatnonzero(reads.base > 0)
    rows = reads.rows[some]
    last = appends.writer[lists.start[lists.key[rows]] + reads.base[some] - 1]
    bad = np.flatnonzero((last != NOBODY) & ~reads.final[last] & (lists.of[last] != lists.of[rows]))
    if len(bad):
        each = bad[np.argmin(reads.base[some][bad])]
        row, writer = int(rows[each]), int(last[each])
        key, reader, author = int(lists.key[row]), int(lists.of[row]), int(lists.of[writer])
        element = lists.names.element(int(lists.value[writer]))
        mine = [micro for micro in range(writer + 1, int(lists.end[author])) if lists.key[micro] == key]
        more = next(
            lists.names.element(int(lists.value[micro])) for micro in mine if lists.tag[micro] == APPEND
        )
        shown = listed(lists.longest[key][: int(reads.base[some][each])])
        yield describe.evidence(
            "G1b",
            (reader, author),
            key,
            f"{describe.name(reader)} read {shown} of key {lists.keys[key]}, where {element} is from "
            f"{describe.name(author)}, but {describe.name(author)} went on to append {more} to it.",
            "What a transaction writes is seen all at once, or not at all.",
        )


def _contradictions(describe: ListDescriber, reads: Reads) -> Iterator[Evidence]:
    """``internal``, ``future-read`` and ``duplicate-elements`` among the suspects, the first of each."""
    lists = describe.lists
    found: dict[str, Evidence] = {}
    for begin, end in reads.suspects:
        micros = reads.order[begin:end].tolist()
        key, of = int(lists.key[micros[0]]), int(lists.of[micros[0]])
        history = [micro for micro in lists.micros(of) if micro[1] == key]
        name, who = lists.keys[key], describe.name(of)
        state: list[Any] | None = None
        own: list[Any] = []
        for place, (tag, _, value) in enumerate(history):
            if tag == APPEND:
                own.append(value)
                continue
            later = [element for kind, _, element in history[place:] if kind == APPEND and element in value]
            if later and "future-read" not in found:
                found["future-read"] = describe.evidence(
                    "future-read",
                    (of,),
                    key,
                    f"{who} read {listed(value)} of key {name}, and appended {later[0]} to it only after that.",
                )
            wrong = ""
            if state is not None and value != state + own:
                wrong = f"where its own steps before left {listed(state + own)}"
            elif state is None and _tail(value, own) != own:
                wrong = f"where it had just appended {listed(own)} itself"
            if wrong and "internal" not in found:
                said = f"{who} read {listed(value)} of key {name}, {wrong}."
                found["internal"] = describe.evidence("internal", (of,), key, said)
            if len(set(map(lists.names.code, value))) < len(value) and "duplicate-elements" not in found:
                said = f"{who} read {listed(value)} of key {name}, which has an element twice."
                found["duplicate-elements"] = describe.evidence("duplicate-elements", (of,), key, said)
            state, own = value, []
        if len(found) == _CONTRADICTIONS:
            break
    yield from found.values()


def _tail(value: list[Any], own: list[Any]) -> list[Any]:
    base = len(value)
    while base and value[base - 1] in own:
        base -= 1
    return value[base:]


def _lost_updates(describe: ListDescriber, reads: Reads) -> Iterator[Evidence]:
    """Transactions that read the same version of a key and append to it."""
    lists = describe.lists
    rows = reads.rows[reads.updates]
    key, base, of = lists.key[rows].astype(np.int64), reads.base[reads.updates], lists.of[rows]
    order = np.lexsort((of, base, key))
    key, base, of = key[order], base[order], of[order]
    same = np.flatnonzero((key[1:] == key[:-1]) & (base[1:] == base[:-1]) & (of[1:] != of[:-1]))
    if len(same):
        first = same[np.argmin(base[same])]
        code, one, other = int(key[first]), int(of[first]), int(of[first + 1])
        added = [describe.appended(each, code)[0][1] for each in (one, other)]
        yield describe.evidence(
            "lost-update",
            (one, other),
            code,
            f"{describe.name(one)} and {describe.name(other)} both read "
            f"{listed(lists.longest[code][: base[first]])} of key {lists.keys[code]}, and then the one appended "
            f"{added[0]} to it and the other {added[1]}.",
            "Whichever of them came second should have read what the first one had appended.",
        )
