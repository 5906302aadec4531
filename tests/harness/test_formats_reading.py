"""Recorded histories: every format is told apart, streamed, and refused with its line where it is broken."""

from __future__ import annotations

import gzip
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import HistoryError, UsageError
from harness.formats import jepsen_edn, jepsen_json
from harness.formats.edn import Keyword
from harness.formats.reading import FORMATS, open_history, sniff
from harness.recorded import Event, pair

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "histories"

EDN = """[{:type :invoke, :f :read, :value nil, :process 0, :time 5, :index 0}
 {:type :ok, :f :read, :value [1 :a "b"], :process 0, :time 6, :index 1, :error [:x 1]}]
"""
JSON = """[{"type":"invoke","f":"read","process":0,"time":5,"index":0},
{"type":"ok","f":"read","value":[1,"a","b"],"process":0,"time":6,"index":1,"error":["x",1]}]
"""
LOG = """starting up
2015-06-02 INFO  jepsen.core - Worker 0 starting
INFO  jepsen.util - 0\t:invoke\t:cas\t[1 2]
INFO  jepsen.util - :nemesis\t:info\t:start\t#<Partition {"n1" oops>
INFO  jepsen.util - 0\t:info\t:cas\t:timed-out
INFO  jepsen.util - 1\t:invoke\t:read\tnil
WARN  jepsen.util - something else
INFO  jepsen.util - 1\t:fail\t:read\tnil\tjava.net.SocketException: gone
"""
BY_FORMAT = {
    "jepsen-edn": EDN,
    "edn-lines": EDN[1:].replace("]}]", "]}"),
    "jepsen-json": JSON,
    "json-lines": JSON[1:].replace("},\n", "}\n").replace("]}]", "]}"),
    "etcd-log": LOG,
}


def read(tmp_path: Path, text: str | bytes, name: str | None = None) -> list[Event]:
    path = tmp_path / "history"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(open_history(path, name))


def refused(tmp_path: Path, text: str | bytes, name: str | None = None) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        read(tmp_path, text, name)
    assert str(caught.value).startswith(f"{tmp_path / 'history'}:{caught.value.line}: ")
    return caught.value


@pytest.mark.parametrize("name", ["jepsen-edn", "edn-lines", "jepsen-json", "json-lines"])
def test_every_format_holds_the_same_events(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, BY_FORMAT[name]) == [
        Event(0, 1, 0, "invoke", "read", None, {"time": 5, "index": 0}),
        Event(1, 2, 0, "ok", "read", [1, "a", "b"], {"time": 6, "index": 1, "error": ["x", 1]}),
    ]


def test_a_log_of_etcd_holds_events_among_other_lines(tmp_path: Path) -> None:
    assert read(tmp_path, LOG) == [
        Event(0, 3, 0, "invoke", "cas", [1, 2], {}),
        Event(1, 4, "nemesis", "info", "start", '#<Partition {"n1" oops>', {}),
        Event(2, 5, 0, "info", "cas", "timed-out", {}),
        Event(3, 6, 1, "invoke", "read", None, {}),
        Event(4, 8, 1, "fail", "read", None, {"error": "java.net.SocketException: gone"}),
    ]


@pytest.mark.parametrize(
    "before",
    [
        "2015-08-20 10:11:12,123 INFO  jepsen.util - ",
        "2021-09-13 19:54:00,123{GMT}\tINFO\t[jepsen worker 2] jepsen.util: ",
        "INFO [2018-01-01 10:00:00,001] jepsen worker 0 - jepsen.util ",
    ],
)
def test_logs_of_newer_versions_are_read_too(tmp_path: Path, before: str) -> None:
    text = f"{before}3\t:ok\t:cas\t[1 2]\r\n{before}Done\tindeed\n"
    assert read(tmp_path, text) == [Event(0, 1, 3, "ok", "cas", [1, 2], {})]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_told_by_how_the_file_begins(tmp_path: Path, name: str) -> None:
    path = tmp_path / "of-no-name"
    for before in ("", "\n  \n", "\ufeff"):
        path.write_text(before + BY_FORMAT[name], encoding="utf-8")
        assert sniff(path) == name
        assert len(list(open_history(path))) == len(list(open_history(path, name))) > 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_gzip_made_is_read_as_what_is_in_it(tmp_path: Path, name: str) -> None:
    plain = read(tmp_path, BY_FORMAT[name])
    assert read(tmp_path, gzip.compress(BY_FORMAT[name].encode())) == plain


def test_a_history_may_come_through_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(JSON,))
    writer.start()
    assert len(list(open_history(path))) == 2
    writer.join()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("; a comment\n[ ; another\n#jepsen.history.Op{:type :ok}]", "jepsen-edn"),
        ("({:type :ok})", "jepsen-edn"),
        ('[{"type" "ok"}]', "jepsen-edn"),
        ("[]", "jepsen-json"),
        ('{"a\\"": 1}', "json-lines"),
        ('{\n "type" : "ok"}', "json-lines"),
        ("#jepsen.history.Op {:type :ok}", "edn-lines"),
    ],
)
def test_the_forms_of_a_beginning_are_known(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "history.txt"
    path.write_text(text)
    assert sniff(path) == name


@pytest.mark.parametrize("text", ["hello", "[1, 2]", '"a"', "{}", "\x00\x01", "<xml/>", "a,b\n1,2"])
def test_a_file_of_no_format_is_a_usage_error_that_lists_them(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="jepsen-edn, edn-lines, jepsen-json, json-lines, etcd-log"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_opened_is_a_usage_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_history(tmp_path / "nothing")
    with pytest.raises(UsageError, match="does not exist"):
        sniff(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is a directory"):
        open_history(tmp_path)
    with pytest.raises(UsageError, match="no format 'csv'; there are jepsen-edn"):
        open_history(tmp_path, "csv")
    with pytest.raises(UsageError, match="cannot be read"):
        open_history(Path("a\0b"))


@pytest.mark.parametrize("text", ["", "\n \n", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    assert "empty" in str(refused(tmp_path, text))


def test_a_damaged_gzip_file_is_an_error(tmp_path: Path) -> None:
    packed = gzip.compress(os.urandom(300_000).hex().encode())
    with pytest.raises(HistoryError, match="cannot be read on"):
        read(tmp_path, gzip.compress((BY_FORMAT["json-lines"] * 40_000).encode())[:-20])
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path, packed[:5])
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path, packed[:20] + b"\xff" * 100)


def test_fields_may_come_in_any_order_and_over_many_lines(tmp_path: Path) -> None:
    events = [
        Event(0, 2, 1, "ok", "read", {"a": 1}, {"note": "two\nlines"}),
        Event(1, 7, 2, "info", "w", None, {}),
    ]
    edn = '[\n {:note "two\nlines"\n :value\n {:a 1} :f :read\n :process 1 :type :ok}\n\n {:process 2, :f :w '
    edn += ":type :info}]"
    assert read(tmp_path, edn) == [events[0], Event(1, 8, 2, "info", "w", None, {})]
    json = '[\n{"note": "two\\nlines",\n "value":\n {"a": 1},"f":"read",\n"process": 1,\n"type":"ok"}\n,{"process":2,'
    assert read(tmp_path, json + '"f":"w",\n"type":"info"} ]\n\n') == events


def test_a_transaction_needs_no_f(tmp_path: Path) -> None:
    (event,) = read(tmp_path, '[{"process":1,"type":"ok","value":[["append",5,1],["r",5,[1]]]}]')
    assert event.f == "txn"
    (event,) = read(tmp_path, "{:process 1, :type :ok, :value [[:append 5 1] [:r 5 nil]]}")
    assert (event.f, event.value) == ("txn", [["append", 5, 1], ["r", 5, None]])


def test_an_independent_key_is_taken_out_of_the_value(tmp_path: Path) -> None:
    text = "{:process 1, :type :ok, :f :cas, :value #jepsen.independent.Tuple[[7] [1 2]]}"
    (event,) = read(tmp_path, text)
    assert (event.value, event.extra) == ([1, 2], {"key": (7,)})


def test_who_is_no_client_has_a_name_and_clients_have_numbers(tmp_path: Path) -> None:
    text = '{"process":%s,"type":":info","f":":start"}\n'
    names = '"nemesis"', '":nemesis"', '"12"', "12"
    events = read(tmp_path, "".join(text % name for name in names))
    assert [event.process for event in events] == ["nemesis", "nemesis", 12, 12]
    assert {(event.type, event.f) for event in events} == {("info", "start")}
    (event,) = read(tmp_path, "{:process :nemesis, :type :info, :f :start}")
    assert (event.process, type(event.process), type(event.f)) == ("nemesis", str, str)


def test_what_was_a_keyword_is_known_for_an_export(tmp_path: Path) -> None:
    event = read(tmp_path, EDN)[1]
    assert [type(each) for each in (event.value[1], event.value[2], event.extra["error"][0])] == [
        Keyword,
        str,
        Keyword,
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ('"process":0,"f":"read"', "has no type"),
        ('"process":0,"f":"read","type":"done"', "has no type, or one that nobody knows"),
        ('"process":0,"f":"read","type":[1]', "has no type"),
        ('"type":"ok","f":"read","process":null', "the process of an event is None"),
        ('"type":"ok","f":"read","process":true', "the process of an event is True"),
        ('"type":"ok","f":"read","process":1.5', "the process of an event is 1.5"),
        ('"type":"ok","f":"read","process":""', "the process of an event is ''"),
        ('"type":"ok","process":0,"value":[[1,2]]', "has no f"),
        ('"type":"ok","process":0,"value":5', "has no f"),
        ('"type":"ok","process":0,"f":5', "the f of an event is 5"),
    ],
)
@pytest.mark.parametrize("name", ["jepsen-edn", "edn-lines", "jepsen-json", "json-lines"])
def test_an_event_without_its_fields_is_refused_with_its_line(
    tmp_path: Path, name: str, fields: str, says: str
) -> None:
    good = '{"type":"ok","f":"read","process":0}'
    text = "{" + fields + "}"
    if "edn" in name:
        good, text = (each.replace('":', '" ').replace("null", "nil") for each in (good, text))
    text = f"{good}\n{good}\n{text}\n{good}\n" if "lines" in name else f"[{good},\n{good},\n{text},\n{good}]"
    error = refused(tmp_path, text, name)
    assert (error.line, says in str(error)) == (3, True), error


def test_events_without_a_process_are_of_one_client_and_never_of_a_named_one(tmp_path: Path) -> None:
    """As in the example of a long fork that comes with other checkers; mixed with named ones they do not pair."""
    alone = "{:type :invoke, :f :read}\n{:type :ok, :f :read, :value 1}\n"
    path = tmp_path / "history.edn"
    path.write_text(alone * 2)
    assert [(op.process, op.value) for op in pair(open_history(path))] == [(-1, 1), (-1, 1)]
    path.write_text(alone + "{:type :invoke, :f :read, :process 0}\n{:type :ok, :f :read, :value 1}\n")
    with pytest.raises(HistoryError, match=r"history:4: .*without having invoked it"):
        list(pair(open_history(path)))


@pytest.mark.parametrize(
    ("text", "name", "line", "says"),
    [
        (EDN[:-3], "jepsen-edn", 2, "cut short"),
        (EDN[:-10], "jepsen-edn", 2, "cut short"),
        (EDN.replace(":time 6", ":time 6x"), "jepsen-edn", 2, "'6x' is not a number"),
        (EDN.replace(":index 0", ":index"), "jepsen-edn", 1, "a key without a value"),
        (EDN + "5", "jepsen-edn", 3, "outside of it"),
        (EDN + "{:type :ok, :f :read, :process 0}\n", "jepsen-edn", 3, "outside of it"),
        ("{:type :ok}\n[{:type :ok}]", "jepsen-edn", 1, "one vector of maps"),
        ("[1\n 2]", "jepsen-edn", 1, "an event is a map"),
        (EDN, "edn-lines", 1, "an event is a map"),
        (JSON[:-2], "jepsen-json", 2, "cut short"),
        (JSON[:-12], "jepsen-json", 2, "cut short"),
        (JSON[:40], "jepsen-json", 1, "cut short"),
        (JSON.replace('"time":6', '"time":6x'), "jepsen-json", 2, "not JSON"),
        (JSON.replace("},\n", "}\n"), "jepsen-json", 2, "not JSON"),
        (JSON + "\n5", "jepsen-json", 4, "not JSON"),
        (JSON + ",\n" + JSON, "jepsen-json", 3, "not JSON: trailing"),
        (JSON.replace('"b"', '"\xff"').encode("latin-1"), "jepsen-json", 2, "not JSON: 'utf-8'"),
        ("{}", "jepsen-json", 1, "one array of objects"),
        ("[1,\n2]", "jepsen-json", 1, "an event is a map"),
        ("\n[" + "[" * 5000 + "]" * 5001, "jepsen-json", 2, "nested too deep"),
        (JSON, "json-lines", 1, "the line ends before its JSON does"),
        ('{"type":"ok","f":"r","process":1}\n\n{"type":"o', "json-lines", 3, "cut short"),
        ('{"type":"ok","f":"r","process":1}\n5\n', "json-lines", 2, "an event is a map"),
        (LOG[: LOG.rindex("\t:read")], "etcd-log", 8, "cut short"),
        (LOG.replace("[1 2]", "[1 2"), "etcd-log", 3, "cut short"),
        (LOG.replace(":info\t:cas", ":done\t:cas"), "etcd-log", 5, "has no type"),
        ("INFO  jepsen.util - nothing\nelse", "etcd-log", 2, "holds no event"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, name: str, line: int, says: str
) -> None:
    error = refused(tmp_path, text, name)
    assert (error.line, says in str(error)) == (line, True), error


def test_what_follows_an_array_is_found_long_before_the_end_of_a_file(tmp_path: Path) -> None:
    for text in (JSON + ",\n" + JSON, JSON + "}"):
        error = refused(tmp_path, text + (",\n" + JSON) * 10_000, "jepsen-json")
        assert (error.line, "after the end of the array" in str(error)) == (2, True)


def test_a_quote_too_many_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jepsen_json, "EVENT_BYTES_MAX", 1 << 20)
    error = refused(tmp_path, JSON[:-3] + ',"a":"' + "x" * (3 << 20))
    assert "no event ends within 1 MiB" in str(error)


@pytest.mark.parametrize("name", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_events_or_an_error_with_a_line_of_the_file(
    tmp_path: Path, name: str, data: Any
) -> None:
    good = BY_FORMAT[name].encode()
    begin = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(begin, len(good)))
    noise = data.draw(
        st.binary(max_size=12) | st.sampled_from([b'"', b"{", b"}]", b",", b"\t", b"#_", b"\\", b"\n"])
    )
    text = good[:begin] + noise + good[end:]
    for given_name in (name, None):
        line = 1
        try:
            read(tmp_path, text, given_name)
        except UsageError:
            assert given_name is None
        except HistoryError as error:
            line = error.line
        assert 1 <= line <= text.count(b"\n") + 1


@pytest.mark.parametrize("name", ["jepsen-edn", "edn-lines", "jepsen-json", "json-lines"])
def test_a_file_that_is_cut_anywhere_is_never_read_as_whole(tmp_path: Path, name: str) -> None:
    text = BY_FORMAT[name].rstrip().encode()
    first = text.index(b"\n")
    for end in range(1, len(text)):
        if "lines" in name and first <= end <= first + 2:
            continue
        with pytest.raises((HistoryError, UsageError)):
            read(tmp_path, text[:end])


@pytest.mark.parametrize("block", [1, 2, 3, 5, 17, 64, 1 << 18])
def test_how_much_is_read_at_once_changes_nothing(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = '{"type":"ok","f":"txn","process":1,"value":[{"a":"},{"},\n{"b":[{},{}]} , {"c\\"{":1}]}'
    json = f"[{nested},{nested}\n,\n{nested} ]"
    whole = {name: read(tmp_path, text, name) for name, text in BY_FORMAT.items()}
    expected = read(tmp_path, json)
    monkeypatch.setattr(jepsen_json, "BLOCK_BYTES", block)
    monkeypatch.setattr(jepsen_edn, "BLOCK_BYTES", block)
    assert {name: read(tmp_path, text, name) for name, text in BY_FORMAT.items()} == whole
    assert read(tmp_path, json) == expected
    assert [event.line for event in expected] == [1, 2, 5]


def test_a_history_is_streamed_whatever_its_layout(tmp_path: Path) -> None:
    event = '{"type":"ok","f":"read","process":1,"value":"' + "x" * 900 + '"}'
    separators = {"jepsen-json": (",\n", ",", ",\n\n"), "json-lines": ("\n",), "edn-lines": ("\n", " ")}
    for name, each in separators.items():
        for separator in each:
            text = separator.join([event if "json" in name else event.replace('":', '" ')] * 6000)
            path = tmp_path / "history"
            path.write_text(f"[{text}]" if name == "jepsen-json" else text)
            tracemalloc.start()
            count = sum(1 for _ in open_history(path))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert (count, peak < path.stat().st_size // 2) == (6000, True), (name, separator, peak)


@pytest.mark.skipif(not SAMPLES.exists(), reason=f"no recorded histories in {SAMPLES.name}")
def test_the_sample_histories_are_told_apart_and_read_whole() -> None:
    for row in (SAMPLES / "EXPECTED.tsv").read_text().splitlines()[1:]:
        file, name = row.split("\t")[:2]
        path = SAMPLES / file
        assert sniff(path) == name, file
        events = list(open_history(path))
        text = path.read_text()
        assert len(events) == max(
            text.count(":process"), text.count('"process":'), text.count("jepsen.util -")
        )
        assert [event.position for event in events] == list(range(len(events)))
        lines = text.splitlines()
        assert all(str(event.type) in "".join(lines[event.line - 1 : event.line + 2]) for event in events)
        assert sum(1 for _ in pair(events)) == sum(
            event.type == "invoke" for event in events if type(event.process) is int
        )
