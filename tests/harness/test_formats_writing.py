"""What is written for others is what was read; and lines that take the short way are read as by the long way."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.formats import edn, jepsen_edn
from harness.formats.edn import Keyed, Keyword, Symbol
from harness.formats.reading import FORMATS, open_history, sniff
from harness.formats.writing import write
from harness.recorded import Event
from tests.harness.test_formats_edn import VALUES, kinds

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "histories"
WRITTEN = ["jepsen-edn", "edn-lines", "jepsen-json", "json-lines"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
TRANSACTIONS = st.lists(
    st.tuples(st.sampled_from(["append", "r", "w", "a b", ""]), st.integers() | TEXTS, JSON_VALUES).map(list),
    max_size=3,
)
NAMES = st.text("abc -/", min_size=1, max_size=5) | st.sampled_from(["read", "txn", "nil", "true", "é"])
FIELDS = NAMES.filter(lambda name: name not in {"type", "f", "process", "value", "index"})


def events(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Event]]:
    """Histories as they are read from files: every event has its index and stands on a line of its own."""
    each = st.builds(
        lambda process, kind, f, value, extra: Event(0, 0, process, kind, f, value, extra),
        st.integers(0, 5) | st.sampled_from(["nemesis", "a b"]),
        st.sampled_from(["invoke", "ok", "fail", "info"]),
        NAMES,
        values,
        st.dictionaries(FIELDS, values, max_size=3),
    )
    transactions = st.builds(
        lambda kind, value, time: Event(0, 0, 1, kind, "txn", value, {"time": time}),
        st.sampled_from(["invoke", "ok"]),
        TRANSACTIONS,
        st.integers(0),
    )
    return st.lists(each | transactions, max_size=6).map(numbered)


def numbered(history: list[Event]) -> list[Event]:
    for position, event in enumerate(history):
        event.position = position
        event.line = position + 1
        event.extra = {**event.extra, "index": position}
    return history


def written(history: list[Event], name: str) -> bytes:
    file = io.BytesIO()
    assert write(history, file, name) == len(history)
    return file.getvalue()


def back(history: list[Event], name: str) -> list[Event]:
    return list(FORMATS[name](io.BytesIO(written(history, name)), "written"))


@pytest.mark.parametrize("name", WRITTEN)
@settings(deadline=None)
@given(events(JSON_VALUES))
@example([Event(0, 1, 0, "ok", "txn", "no transaction", {"index": 0})])
@example([Event(0, 1, 0, "ok", "txn", [["r"], ["\n", 1]], {"index": 0})])
def test_what_is_written_is_read_as_equal_events(name: str, history: list[Event]) -> None:
    assert back(history, name) == history


@pytest.mark.parametrize("name", ["jepsen-edn", "edn-lines"])
@settings(deadline=None)
@given(events(VALUES.filter(lambda value: not isinstance(value, Keyed))))
@example([Event(0, 1, 0, "ok", "txn", [Keyed("", None)], {"index": 0})])  # was written as a micro-operation
def test_edn_keeps_keywords_sets_and_keys_of_every_kind(name: str, history: list[Event]) -> None:
    found = back(history, name)
    assert found == history
    for event, other in zip(found, history, strict=True):
        if other.f != "txn":
            assert kinds(event.value) == kinds(other.value)
        assert {str(key): kinds(value) for key, value in event.extra.items()} == {
            key: kinds(value) for key, value in other.extra.items()
        }


HISTORY = [
    Event(0, 0, 3, "invoke", "txn", [["append", 5, 1], ["r", "x", None]], {"time": 17}),
    Event(1, 0, "nemesis", "info", "start", {"a": [1.5, True]}, {"index": 7, "error": Keyword("timeout")}),
]


def test_edn_is_what_jepsen_prints() -> None:
    lines = [
        '{:index 0, :type :invoke, :process 3, :f :txn, :value [[:append 5 1] [:r "x" nil]], :time 17}',
        '{:index 7, :type :info, :process :nemesis, :f :start, :value {"a" [1.5 true]}, :error :timeout}',
    ]
    assert written(HISTORY, "edn-lines").decode() == "\n".join([*lines, ""])
    assert written(HISTORY, "jepsen-edn").decode() == f"[{lines[0]}\n {lines[1]}]\n"


def test_only_the_names_of_micro_operations_become_keywords() -> None:
    history = [Event(0, 0, 1, "ok", f, [["r", "x", ["y"]]], {}) for f in ("txn", "read")]
    values = [line.split(":value ")[1] for line in written(history, "edn-lines").decode().splitlines()]
    assert values == ['[[:r "x" ["y"]]]}', '[["r" "x" ["y"]]]}']


def test_json_is_what_jepsen_prints() -> None:
    lines = [
        '{"index":0,"type":"invoke","process":3,"f":"txn","value":[["append",5,1],["r","x",null]],"time":17}',
        '{"index":7,"type":"info","process":"nemesis","f":"start","value":{"a":[1.5,true]},"error":"timeout"}',
    ]
    assert written(HISTORY, "json-lines").decode() == "\n".join([*lines, ""])
    assert written(HISTORY, "jepsen-json").decode() == f"[{lines[0]},\n{lines[1]}]\n"


def test_json_gets_as_much_as_it_can_hold() -> None:
    value = {
        (1, "a"): frozenset({3, 1, 2}),
        Keyword("k"): Fraction(1, 2),
        5: (Symbol("s"), Keyed(1, 2)),
        None: [{True: Keyword("deep")}],
    }
    line = written([Event(0, 0, 0, "ok", "f", value, {})], "json-lines")
    assert msgspec.json.decode(line)["value"] == {
        '[1 "a"]': [1, 2, 3],
        "k": "1/2",
        "5": ["s", [1, 2]],
        "nil": [{"true": "deep"}],
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_a_value_of_pythons_own_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match="has no object"):
        written([Event(0, 0, 0, "ok", "f", [object()], {})], name)


@pytest.mark.parametrize(("name", "text"), [*zip(WRITTEN, [b"[]\n", b""] * 2, strict=True)])
def test_no_events_are_an_empty_history(name: str, text: bytes) -> None:
    assert written([], name) == text
    assert back([], name) == []


def test_a_format_that_is_not_written_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not written as 'etcd-log'; name one of jepsen-edn, edn-lines"):
        write([], io.BytesIO(), "etcd-log")


@pytest.mark.skipif(not SAMPLES.exists(), reason=f"no recorded histories in {SAMPLES.name}")
def test_the_sample_histories_survive_every_format(tmp_path: Path) -> None:
    for row in (SAMPLES / "EXPECTED.tsv").read_text().splitlines()[1:]:
        history = list(open_history(SAMPLES / row.split("\t")[0]))
        for name in WRITTEN:
            path = tmp_path / "written"
            with path.open("wb") as file:
                write(history, file, name)
            assert sniff(path) == name
            for event, other in zip(open_history(path), history, strict=True):
                assert (event.process, event.type, event.f, event.value) == (
                    other.process,
                    other.type,
                    other.f,
                    other.value,
                )
                assert {**event.extra, "index": 0} == {**other.extra, "index": 0}


PIECES = st.sampled_from(
    [
        *(
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
            '"',
            ":",
            ",",
            " ",
            ", ",
            "\n",
            "\r",
            ";",
            "#",
            "#_",
            "\\",
            "#{",
            "\t",
            "'",
        ),
        *(
            "0",
            "-0",
            "7",
            "1.5",
            "1.",
            "1e5",
            "5N",
            "1/2",
            "00",
            "99999999999999999999",
            "nil",
            "null",
            "true",
            "foo",
        ),
        *(
            ":type :ok",
            ":type :okay",
            ":type :invoke, ",
            ":f :txn",
            ":f :txn-2, ",
            ":value nil, ",
            ":value [1 2]",
        ),
        *(
            ":value [[:r 5 [1 2]] [:append 6 1]], ",
            "[:r 5 nil]",
            "[:w x 1]",
            ":process 1, ",
            ":process :nemesis, ",
        ),
        *(
            ":time 5",
            ":index 7}",
            ":key 5, ",
            ":error :x",
            '"null"',
            "\0",
            "é",
            "{}",
            ":a",
            '":type :ok, "',
            "[:r,5",
        ),
    ]
)
LINE = "{:type :ok, :f :txn, :value [[:append 1 2] [:r 3 [4 5]]], :time 6, :process 7, :index 8}"


PLAIN = {"type", "f", "value", "process", "time", "index", "invoke", "ok", "fail", "info", "append", "r", "w"}
PLAIN |= {"txn", "read", "write", "cas"}
"""What the short way may return as plain strings: an export prints these as keywords where they belong."""


def keywords(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {name for each in value.items() for name in keywords(list(each))}
    if isinstance(value, list):
        return {name for each in value for name in keywords(each)}
    return {str(value)} if isinstance(value, Keyword) else set()


@st.composite
def almost_lines(draw: st.DrawFn) -> str:
    """A line as Jepsen prints it, with up to three pieces put in or written over what was there."""
    line = LINE
    for piece in draw(st.lists(PIECES, max_size=3)):
        begin = draw(st.integers(0, len(line)))
        line = line[:begin] + piece + line[min(len(line), begin + draw(st.integers(0, 12))) :]
    return line


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(almost_lines(), min_size=1, max_size=3))
def test_the_short_way_for_lines_reads_nothing_else_than_the_long_way(lines: list[str]) -> None:
    for line in lines:
        fields = None if "\n" in line else jepsen_edn._quick(jepsen_edn._translated(line.encode()))
        if fields is None:
            continue
        found = edn.loads(line.encode())
        assert found == fields
        assert repr(found) == repr(fields)
        assert keywords(found) <= PLAIN


ATOMS = "null nil nilly true -0 0 007 1. 1.5 1e5 1E5 1e999 5N 5M 1/2 0x1F foo :a :ok :r :null \\a \\( ##NaN - + -5 +5"
NESTED = '{} "null" "," "a b" [] [nil] [[null]] [:r,1] [:x,1] () (1) #{1} {1,2} {:ok,1} #_[1],2 #a[1] ;x 1,2 1:2 "}'


@pytest.mark.parametrize("value", [*ATOMS.split(" "), *NESTED.split(" "), '"a b"', "1 2", "#inst[1]"])
def test_whatever_a_value_is_the_short_way_reads_it_as_the_long_way_or_not_at_all(value: str) -> None:
    for line in (
        LINE.replace("[[:append 1 2] [:r 3 [4 5]]]", value),
        LINE.replace("[4 5]", value),
        LINE.replace("4 5", value),
        LINE.replace(" 6", " " + value),
        LINE.replace(":time", value),
        LINE.replace("}", value + "}"),
    ):
        fields = jepsen_edn._quick(jepsen_edn._translated(line.encode()))
        if fields is not None:
            found = edn.loads(line.encode())
            assert (found, repr(found)) == (fields, repr(fields))
            assert keywords(found) <= PLAIN


def test_a_line_as_jepsen_prints_it_takes_the_short_way() -> None:
    for line in (LINE, " " + LINE, " #jepsen.history.Op" + LINE):
        assert jepsen_edn._quick(jepsen_edn._translated(line.encode())) == edn.loads(LINE.encode())


def test_lines_of_both_ways_keep_their_order_and_their_numbers() -> None:
    other = LINE.replace("}", ", :error :timeout}")
    broken = LINE.replace(":value", ":value\n")
    text = f"[{LINE}\n {LINE}\n {other}\n {LINE}\n {broken}\n\n {LINE}\n ; comment\n {LINE}\n#_{LINE} "
    text += f"{LINE}\n {LINE}]\n"
    found = list(FORMATS["jepsen-edn"](io.BytesIO(text.encode()), "x"))
    assert [event.line for event in found] == [1, 2, 3, 4, 5, 8, 10, 11, 12]
    assert [event.position for event in found] == list(range(9))
    assert [event.extra.get("error") for event in found] == [None, None, "timeout", *[None] * 6]
    assert {repr(event.value) for event in found} == {"[['append', 1, 2], ['r', 3, [4, 5]]]"}


def test_a_line_inside_of_an_event_is_no_event() -> None:
    text = f"{LINE}\n{{:type :ok, :f :x, :process 1, :value\n{LINE}\n}}\n{LINE}\n"
    found = list(FORMATS["edn-lines"](io.BytesIO(text.encode()), "x"))
    assert [(event.line, event.f) for event in found] == [(1, "txn"), (2, "x"), (5, "txn")]
