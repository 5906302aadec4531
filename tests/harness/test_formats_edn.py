"""EDN: what is read, what is printed, and what is said about what is no EDN."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HistoryError
from harness.formats import edn
from harness.formats.edn import Keyed, Keyword, Reader, Symbol

K = Keyword

NAMES = st.text("abcxyz-*!?/.0123456789é", min_size=1, max_size=6).map(lambda text: "k" + text)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | NAMES.map(Keyword)
    | NAMES.map(Symbol)
    | st.fractions().filter(lambda ratio: ratio.denominator != 1)
)
KEYS = (
    st.integers(2)
    | st.text('ab\n"\\', max_size=3)
    | NAMES.map(Keyword)
    | st.tuples(st.integers(), st.text("a:#"))
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.tuples(KEYS, inner).map(lambda pair: Keyed(*pair))
    ),
    max_leaves=12,
)


def kinds(value: Any) -> Any:
    """A value with the type of everything in it: keywords equal strings, and 1 equals true."""
    if isinstance(value, Keyed):
        return ("keyed", kinds(value.key), kinds(value.value))
    if isinstance(value, (list, tuple)):
        return [type(value) is tuple, *map(kinds, value)]
    if isinstance(value, dict):
        return {repr(kinds(key)): kinds(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(repr(kinds(each)) for each in value)
    return type(value), repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nil", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-17", -17),
        ("+17", 17),
        ("12345678901234567890N", 12345678901234567890),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1.", 1.0),
        ("-1e3", -1000.0),
        ("1.50M", 1.5),
        ("5M", 5),
        ("-3/4", Fraction(-3, 4)),
        ("##Inf", math.inf),
        ("##-Inf", -math.inf),
        ('""', ""),
        ('"a \\"b\\" \\\\ \\n\\t\\r ; # [ ,"', 'a "b" \\ \n\t\r ; # [ ,'),
        ('"two\nlines"', "two\nlines"),
        ('"\\u00e9\\ud83d\\ude00\\101"', "é\U0001f600A"),
        ('"\\ud83d"', "�"),
        ('"é"', "é"),
        ("\\a", "a"),
        ("\\newline", "\n"),
        ("\\space", " "),
        ("\\u00e9", "é"),
        ("\\o101", "A"),
        ('[\\[ \\] \\, \\"]', ["[", "]", ",", '"']),
        (":append", Keyword("append")),
        (":a.b/c-d!", Keyword("a.b/c-d!")),
        (":gen__1#", Keyword("gen__1#")),
        ("-", Symbol("-")),
        ("+foo", Symbol("+foo")),
        ("nilly", Symbol("nilly")),
        ("[]", []),
        ("(1 2,3)", [1, 2, 3]),
        ("[1,,,2 \t [3]]", [1, 2, [3]]),
        ("{}", {}),
        ("{:a 1, :b {2 3}}", {K("a"): 1, K("b"): {2: 3}}),
        ("{[1 [2]] 3}", {(1, (2,)): 3}),
        ("{{:a [1]} 2}", {frozenset({(K("a"), (1,))}): 2}),
        ("#{1 2 [3 4]}", frozenset({1, 2, (3, 4)})),
        ("#{#{1} #{}}", frozenset({frozenset({1}), frozenset()})),
        ("[1 ; a [ comment\n 2]", [1, 2]),
        ("[1 #_2 3 #_[4 [5]] #_ #_ 6 7]", [1, 3]),
        ("#_ #_ 1 2 3", 3),
        ("[#_ #foo 1]", []),
        ('#inst "2020-01-01"', "2020-01-01"),
        ("#jepsen.history.Op{:a 1}", {K("a"): 1}),
        ("#jepsen.history.Op {:a 1}", {K("a"): 1}),
        ("[#a #b 1 #c [#d 2]]", [1, [2]]),
        ("#jepsen.independent.Tuple[1 [2 3]]", Keyed(1, [2, 3])),
        ('#"regex"', "regex"),
        ("#_1 2 ; the end", 2),
    ],
)
def test_a_text_is_read_as_its_value(text: str, value: Any) -> None:
    found = edn.loads(text.encode())
    assert found == value
    assert kinds(found) == kinds(value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("\n]", 2, "closes nothing"),
        ("[1\n2)", 2, "[ of line 1 is closed by )"),
        ("{:a 1}}", 1, "closes nothing"),
        ("[1\n\n2", 3, "begins on line 1"),
        ("\n{:a [1]", 2, "cut short"),
        ("[\n{:a}]", 2, "a key without a value"),
        ('[\n"a\n\nb]', 2, "a string does not end"),
        ('"\\q"', 1, "escape"),
        ("[\n1x]", 2, "'1x' is not a number"),
        ("007", 1, "not a number"),
        ("1_000", 1, "not a number"),
        ("1/0", 1, "divides by zero"),
        (":", 1, "not EDN"),
        ("\\nonsense", 1, "not a character"),
        ("[\n\x00]", 2, "not EDN"),
        ("\n#_", 2, "#_ stands before nothing"),
        ("[#foo\n]", 2, "foo stands before nothing"),
        ("#foo", 1, "foo stands before nothing"),
        ("1 2", 1, "one value was expected, and there are 2"),
        ("", 1, "one value was expected, and there are 0"),
        ("[" * 100_000, 1, "nested more than 200 deep"),
        ("[\n" * 100_000, 202, "nested more than 200 deep"),
        ("{[" * 300 + "]}" * 300, 1, "nested more than 200 deep"),
        ("9" * 5000, 1, "digits"),
    ],
)
def test_what_is_no_edn_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(HistoryError, match=r"^some\.edn:") as caught:
        edn.loads(text.encode(), "some.edn")
    assert caught.value.line == line
    assert says in str(caught.value)


def test_bytes_that_are_not_utf_8_are_refused_with_their_line() -> None:
    for token in (b'"\xff"', b":\xff", b"\xff", b"#\xff 1", b"\\\xff"):
        with pytest.raises(HistoryError, match="not UTF-8") as caught:
            edn.loads(b"[1\n" + token + b"]")
        assert caught.value.line == 2


@given(VALUES)
def test_what_is_printed_is_read_as_an_equal_value(value: Any) -> None:
    found = edn.loads(edn.dumps(value).encode())
    assert found == value
    assert kinds(found) == kinds(value)


@given(st.lists(VALUES, max_size=4), st.randoms(use_true_random=False))
def test_how_the_bytes_are_cut_changes_nothing(values: list[Any], random: Any) -> None:
    text = " #_[1] ; a comment\n".join(map(edn.dumps, values)).encode()
    whole = Reader("x")
    expected = whole.feed(text, final=True) + whole.close()
    pieces, found, at = Reader("x"), [], 0
    while at < len(text):
        end = at + random.choice([1, 1, 2, 3, 7, 50])
        found += pieces.feed(text[at:end])
        at = end
    found += pieces.close()
    assert [(line, kinds(value)) for line, value in found] == [
        (line, kinds(value)) for line, value in expected
    ]
    assert [value for _, value in expected] == values


@given(st.lists(VALUES, max_size=4), st.integers(0, 300))
def test_the_elements_of_a_vector_come_one_by_one_as_the_vector_holds_them(
    values: list[Any], cut: int
) -> None:
    text = ("\n#tag\n" + edn.dumps(values) + " ; end").encode()
    reader = Reader("x", elements=True)
    found = reader.feed(text[:cut]) + reader.feed(text[cut:]) + reader.close()
    assert [kinds(value) for _, value in found] == [kinds(value) for value in values]


@given(
    st.binary(max_size=60) | st.text('[]{}()#"\\;:,_ \n19aM/.+-N', max_size=60).map(str.encode), st.booleans()
)
def test_any_bytes_are_read_or_refused(data: bytes, elements: bool) -> None:
    reader = Reader("x", elements=elements)
    line = 1
    try:
        reader.feed(data[:20])
        reader.feed(data[20:])
        reader.close()
    except HistoryError as error:
        line = error.line
    assert 1 <= line <= data.count(b"\n") + 1


def test_forms_know_the_line_that_they_begin_on() -> None:
    text = b'; one\n{:a\n 1}\n#tag {:b "x\n\ny"} {:c 3}\n\n[4]\n5 6'
    reader = Reader("x")
    assert [line for line, _ in reader.feed(text) + reader.close()] == [2, 4, 6, 8, 9, 9]


@pytest.mark.parametrize("text", ["1", "{:a 1}", "[1] 2", "[1] [2]", "1 [2]", "#{1}", '"a" [1]'])
def test_a_file_of_elements_is_one_vector_and_nothing_else(text: str) -> None:
    reader = Reader("x", elements=True)
    with pytest.raises(HistoryError, match="one vector of maps"):
        reader.feed(text.encode() + b"\n")


def test_times_do_not_fill_the_memory() -> None:
    reader = Reader("x")
    for number in range(100_000):
        reader.feed(b":k%d " % number)
    assert len(reader._memo) < 70_000
    assert reader.feed(b":a ") == [(1, "a")]
