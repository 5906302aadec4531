"""Engines by name: built in, by module, by file; and what is said where that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import SimpleEngine, SimpleSession, SimpleSnapshot, Value, engines
from harness.engines.base import Revision
from harness.errors import EngineMissingError

DATA = Path(__file__).parent / "data"
MINE = """
from harness import SimpleEngine


class Mine(SimpleEngine):
    def open(self, directory, *, readonly=False): ...

    class Inner(SimpleEngine):
        def open(self, directory, *, readonly=False): ...
"""


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_class_in_a_file_is_loaded_and_twice_from_the_same_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    one, other = (engines.load(f"{tmp_path / 'mine.py'}:Mine") for _ in range(2))
    assert one.name == "Mine"
    assert type(one) is type(other)


def test_a_class_in_a_class_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert engines.load(f"{tmp_path / 'mine.py'}:Mine.Inner").name == "Inner"


def test_a_file_is_found_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert engines.load("mine.py:Mine").name == "Mine"
    assert engines.load("./mine.py:Mine").name == "Mine"


def test_a_file_may_import_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_mine.py").write_text("NAME = 'beside'")
    (tmp_path / "mine.py").write_text(f"from beside_mine import NAME\n{MINE}    name = NAME\n")
    assert engines.load(f"{tmp_path / 'mine.py'}:Mine").name == "beside"


def test_a_file_in_a_package_may_import_its_neighbours_relatively(tmp_path: Path) -> None:
    package = tmp_path / "my_stores" / "adapters"
    package.mkdir(parents=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").touch()
    (package.parent / "names.py").write_text("NAME = 'neighbour'")
    (package / "mine.py").write_text(f"from ..names import NAME\n{MINE}    name = NAME\n")
    assert engines.load(f"{package / 'mine.py'}:Mine").name == "neighbour"


def test_a_file_whose_name_somebody_else_has_is_loaded_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(MINE)
    import json

    engine = engines.load(f"{tmp_path / 'json.py'}:Mine")
    assert engine.name == "Mine"
    assert type(engines.load(f"{tmp_path / 'json.py'}:Mine")) is type(engine)
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import json\n\nraise KeyError('mine')\n",
            ["KeyError: 'mine'", "bad.py:3", "the mistake is in that module"],
        ),
        ("def f(:\n", ["SyntaxError", "bad.py:1"]),
        ("import no_such_module_at_all\n", ["No module named 'no_such_module_at_all'", "bad.py:1"]),
        ("raise SystemExit(2)\n", ["SystemExit: 2", "bad.py:1"]),
        (
            "class Mine:\n    def __init__(self): self.x = 1 / 0\n",
            ["ZeroDivisionError", "bad.py:2", "cannot be made"],
        ),
        ("class Mine:\n    def __init__(self, path): ...\n", ["cannot be made without arguments", "'path'"]),
        ("", ["has no class 'Mine'"]),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(EngineMissingError) as caught:
        engines.load(f"{tmp_path / 'bad.py'}:Mine")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError, match="there is no file"):
        engines.load(f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize("name", ["", ":", "mine.py", "mine.py:", ":Mine", "nothing"])
def test_a_name_without_both_parts_is_refused(name: str) -> None:
    with pytest.raises(EngineMissingError, match="no engine is called"):
        engines.load(name)


@pytest.mark.parametrize(
    ("file", "name"), [("naive_engine.py", "NaiveEngine"), ("log_engine.py", "LogEngine")]
)
def test_the_examples_keep_what_they_are_given(file: str, name: str, tmp_path: Path) -> None:
    engine = engines.load(f"{DATA / file}:{name}")
    assert engine.name == name
    engine.create(tmp_path, 10)
    session, other = engine.open(tmp_path), engine.open(tmp_path)
    session.put_many([(b"k" * 16, b"one"), (b"l" * 16, b"two")])
    transaction = other.transaction()
    found = transaction.get(b"k" * 16)
    assert found is not None
    assert found.data == b"one"
    transaction.put(b"k" * 16, b"three")
    transaction.delete(b"l" * 16)
    seen = transaction.get(b"k" * 16), transaction.get(b"l" * 16)
    assert seen[0] is not None
    assert (seen[0].data, seen[1]) == (b"three", None)
    transaction.commit()
    transaction.abort()
    snapshot = session.snapshot()
    assert snapshot.get_many([b"k" * 16, b"l" * 16]) == [b"three", None]
    assert session.keys() == {b"k" * 16}
    assert session.revisions(b"k" * 16)[0].data == b"three"
    assert session.revisions(b"l" * 16)[0].data is None
    assert (session.verify(thorough=True), engine.left_behind(tmp_path), engine.versions()) == ([], [], {})
    session.close()
    other.close()


def test_an_engine_without_open_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from harness import SimpleEngine\nclass Mine(SimpleEngine): ...\n")
    with pytest.raises(EngineMissingError, match="open"):
        engines.load(f"{tmp_path / 'mine.py'}:Mine")


def test_only_a_bug_that_an_engine_knows_can_be_planted_in_it() -> None:
    counting = Counting()
    assert list(counting.bugs()) == ["off-by-one"]
    assert (counting.plant("off-by-one"), counting.bug, Counting.bug) == (None, "off-by-one", "")
    engine = engines.load(f"{DATA / 'log_engine.py'}:LogEngine")
    assert list(engine.bugs()) == []
    with pytest.raises(ValueError, match="LogEngine"):
        engine.plant("anything")


def test_the_examples_are_short_enough_to_be_read() -> None:
    for file in ("naive_engine.py", "log_engine.py"):
        assert len((DATA / file).read_text().splitlines()) <= 60


class Counting(SimpleEngine):
    """An engine with a sync point, and sessions that can only be looked at."""

    name = "counting"
    known_bugs: Mapping[str, str] = {"off-by-one": "it counts from 0"}
    sync_points: Mapping[str, str] = {"commit.after_lock": "the lock is held"}

    def open(self, directory: Path, *, readonly: bool = False) -> Looking:
        self.hook("commit.after_lock")
        return Looking()


class Looking(SimpleSession):
    """Holds one key, and a second one that was removed."""

    def snapshot(self) -> SimpleSnapshot:
        return SimpleSnapshot({b"here": Value(b"1", 7), b"gone": None}, 7)


def test_sync_points_that_are_listed_are_required_and_reach_the_hook(tmp_path: Path) -> None:
    engine, seen = Counting(), []
    assert (engine.name, dict(engine.points())) == ("counting", dict(Counting.sync_points))
    assert engine.required_points() == {"commit.after_lock"}
    engine.install_hook(lambda point, tear=None: seen.append(point))
    engine.create(tmp_path, 1)
    engine.install_hook(None)
    engine.open(tmp_path)
    assert seen == ["commit.after_lock"]


def test_a_session_without_a_commit_says_what_it_lacks() -> None:
    session = Looking()
    assert session.keys() == {b"here"}
    assert session.get(b"here") == Value(b"1", 7)
    assert session.revisions(b"gone") == [Revision(None, None)]
    with pytest.raises(NotImplementedError, match="Looking has neither a commit nor a transaction"):
        session.put_many([(b"here", b"2")])
