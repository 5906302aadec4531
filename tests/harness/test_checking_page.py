"""harness/CHECKING.md, the page for people who only want the checker, says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from campaigns import harness

import harness as package
from harness.cli_check import EXPORTS
from harness.dependency.catalogue import ALIASES, ANOMALIES, PROPERTIES
from harness.formats.reading import FORMATS
from harness.models.registry import MODELS
from harness.verdict import EXIT_CODES

PAGE = (Path(package.__file__).parent / "CHECKING.md").read_text(encoding="utf-8")


def table(heading: str, number: int = 0) -> dict[str, list[str]]:
    """A table below ``heading``: the cells after the first by the first, without backticks around that."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    blocks = re.findall(r"(?:^\|.*\n)+", found[1], re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in blocks[number].splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_formats_are_all_that_there_are() -> None:
    assert list(table("Formats")) == list(FORMATS)
    assert set(EXPORTS) <= set(FORMATS)


def test_the_models_are_all_that_there_are() -> None:
    rows = table("Models and properties")
    assert list(rows) == list(MODELS)
    for name, (summary, properties) in rows.items():
        assert summary == MODELS[name].summary
        expected = list(PROPERTIES) if properties == "isolation: see below" else names(properties)
        assert expected == list(MODELS[name].properties)


def test_the_properties_of_isolation_are_all_that_there_are() -> None:
    rows = table("Models and properties", 1)
    plain = [name for name, each in PROPERTIES.items() if each.order == "none"]
    assert list(rows) == [*plain, "strict-serializable"]
    for name, (others, rules_out) in rows.items():
        assert names(others) == [alias for alias, meant in ALIASES.items() if meant == name]
        said: set[str] = set()
        for each in names(rules_out):
            said |= PROPERTIES[each].rules_out if each in PROPERTIES else {each} & ANOMALIES.keys()
        if name == "strict-serializable":
            said |= {each for each in ANOMALIES if each.endswith(("-process", "-realtime"))}
        assert said == PROPERTIES[name].rules_out, name


def test_the_anomalies_are_all_that_there_are() -> None:
    rows = table("Anomalies")
    plain = {name: each for name, each in ANOMALIES.items() if not name.endswith(("-process", "-realtime"))}
    assert list(rows)[: len(plain)] == list(plain)
    for name, anomaly in plain.items():
        assert rows[name] == [anomaly.meaning, anomaly.source]


def test_the_exit_codes_are_those_of_verdicts() -> None:
    rows = {int(code): cells[0].strip("`") for code, cells in table("What a verdict means").items()}
    assert rows == {**{code: str(outcome) for outcome, code in EXIT_CODES.items()}, 2: ""}


@pytest.mark.parametrize("wanted", ["command", "python"])
def test_the_example_gives_what_the_page_shows(wanted: str, tmp_path: Path) -> None:
    (history,) = (block for block in blocks("text") if block.startswith("{:process"))
    (shown,) = blocks("console")
    prompt, expected = shown.split("\n", 1)
    if wanted == "command":
        (tmp_path / "half.edn").write_text(history)
        done = harness(*prompt.removeprefix("$ harness ").split(), cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert done.stdout == expected
    else:
        (tmp_path / "history.edn").write_text(history)
        (code,) = blocks("python")
        printed: list[str] = []
        source = code.replace('"history.edn"', repr(str(tmp_path / "history.edn")))
        exec(source, {"print": lambda *words, sep: printed.append(sep.join(map(str, words)))})  # noqa: S102
        assert printed[0].startswith("VIOLATION\nG-single: ")


def test_the_three_lines_are_the_ones_that_install_and_check() -> None:
    (lines,) = (block.splitlines() for block in blocks("text") if "venv" in block)
    assert len(lines) == 3
    assert lines[2].startswith(".venv/bin/harness check ")
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) == 3
