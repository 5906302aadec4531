"""The rules of the house: imports go one way, files and functions stay readable, everything is explained."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS: dict[str, list[str]] = {
    "kvs": [
        "errors",
        "syncpoints",
        "layout",
        "keys",
        "files",
        "locks",
        "records",
        "smallfile",
        "index",
        "generations",
        "scanning",
        "placing",
        "reading",
        "snapshot",
        "durability",
        "repair",
        "growth",
        "writer",
        "transaction",
        "check",
        "usage",
        "moving",
        "forgetting",
        "compaction",
        "upkeep",
        "rebuild",
        "opening",
        "inspection",
        "backup",
        "store",
        "fragments",
        "wreckage",
        "choosing",
        "salvage",
        "archive",
        "cli_base",
        "cli_transfer",
        "cli_completion",
        "cli",
        "__main__",
    ],
    "harness": [
        "guard",
        "errors",
        "history",
        "verdict",
        "torture",
        "budget",
        "evidence",
        "recorded",
        "formats",
        "linear",
        "dependency",
        "models",
        "synthetic",
        "timeline",
        "checking",
        "plan",
        "planted",
        "engines",
        "checkers",
        "workloads",
        "scenario",
        "scenarios",
        "schedule",
        "board",
        "holding",
        "faults",
        "worker",
        "crew",
        "doctor",
        "status",
        "supervisor",
        "judge",
        "stepped",
        "oracle",
        "failure",
        "coverage",
        "shrink_passes",
        "shrink",
        "replay",
        "page",
        "explore_job",
        "explore_jobs",
        "explore_finish",
        "explore",
        "powerloss",
        "corpus",
        "badstorage",
        "damage",
        "survey",
        "report",
        "viewer",
        "campaign",
        "replay_campaign",
        "selftest",
        "errand",
        "harvest",
        "ci",
        "fleet",
        "bench_engines",
        "bench_report",
        "bench_children",
        "bench_busy",
        "bench_handoff",
        "bench_peer",
        "bench_schedules",
        "bench_checkers_job",
        "bench_checkers",
        "bench",
        "bench_durable",
        "bench_housekeeping",
        "bench_large_job",
        "bench_large",
        "bench_page",
        "cli_base",
        "live",
        "cli_completion",
        "cli_ci",
        "cli_fleet",
        "cli_report",
        "cli_bench",
        "cli_powerloss",
        "cli_badstorage",
        "cli_damage",
        "cli_doctor",
        "cli_explore",
        "cli_replay",
        "cli_corpus",
        "cli_check",
        "cli",
        "__main__",
        "pytest_plugin",
    ],
}
"""Who may import whom: a room imports from rooms above it in its list only."""

LINES_MAX = 500
FUNCTION_LINES_MAX = 70
SOURCES = sorted(path for package in ROOMS for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """The room of a file: the module, or the sub-package, right below its package."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """``(package, room)`` of everything of ours that a file imports; the room is empty for the package."""
    for node in ast.walk(tree(path)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: a relative import"
            modules = [node.module or ""]
            if node.module in ROOMS:  # from kvs import files
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            package, _, rest = module.partition(".")
            if package in ROOMS:
                found = rest.partition(".")[0]
                yield package, found if found in ROOMS[package] else ""


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_file_has_a_room(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert room(path) in {*ROOMS[package], "__init__"}, "give it a place in the order"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    package, own = path.relative_to(ROOT).parts[0], room(path)
    order = [*ROOMS[package], "__init__"]
    for other, found in imported(path):
        if other != package:
            assert package == "harness", "kvs never imports harness"
        elif found == "":
            assert own in {"cli", "__main__", "__init__"} or own == found, (
                "only commands use the package's front"
            )
        else:
            assert order.index(found) < order.index(own) or (found == own and path.parent.name == own), (
                f"{own} imports {found}, which is not above it"
            )


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_functions_stay_short(path: Path) -> None:
    lengths = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {found: length for found, length in lengths.items() if length > FUNCTION_LINES_MAX} == {}


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_every_file_begins_by_saying_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""')
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_public_names_are_explained(path: Path) -> None:
    silent = [
        f"{scope}{node.name}"
        for scope, node in public(tree(path))
        if not ast.get_docstring(node) and not is_stub(node)
    ]
    assert silent == []


def public(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes and methods whose names do not begin with an underscore. A method that a base
    class of ours or Python itself defines is explained there.
    """
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield "", node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not node.bases:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.", inner


def is_stub(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """A setter or an overload, whose getter or implementation has the docstring."""
    return any("setter" in ast.dump(each) or "overload" in ast.dump(each) for each in node.decorator_list)


@pytest.mark.parametrize("package", ROOMS)
def test_packages_are_typed_and_say_what_they_export(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    names = [
        element.value
        for node in tree(ROOT / package / "__init__.py").body
        if isinstance(node, ast.Assign) and any(getattr(each, "id", "") == "__all__" for each in node.targets)
        for element in getattr(node.value, "elts", [])
    ]
    assert names == sorted(names, key=lambda each: (each.islower(), each))


def test_only_the_files_room_touches_the_disk() -> None:
    """One narrow seam, behind which a recorder or a failing device can stand."""
    calls = {"open", "pwrite", "pwritev", "write", "fsync", "fdatasync", "rename", "unlink", "ftruncate"}
    for path in (ROOT / "kvs").glob("*.py"):
        if path.stem in {"files", "cli"}:
            continue
        used = {
            node.func.attr
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in {"os", "mmap"}
        }
        assert used & calls == set(), name(path)


def test_ruff_and_the_tests_agree_on_how_wide_a_line_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["ruff"]["line-length"] == 110
    assert project["tool"]["mypy"]["strict"] is True
    assert "error" in project["tool"]["pytest"]["ini_options"]["filterwarnings"]
