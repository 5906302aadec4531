"""The page as a file: it holds everything, escapes everything, and asks nobody for anything."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plotly import graph_objects as go

from harness import bench_page
from harness.errors import HarnessError
from harness.history import operation_id
from harness.judge import Judgement
from harness.verdict import Finding, Outcome, Verdict, combine
from harness.viewer.facts import Checked, Facts, Failed, Picture, Sheet
from harness.viewer.lanes import Timeline
from harness.viewer.of_campaign import PAGE, again, facts_of_campaign, write_campaign_page
from harness.viewer.page import Chart, page, write_page

HOSTILE = '</script><script>alert(1)</script><!-- {{ x }} & "quoted" \u2028'


class Read(HTMLParser):
    """What a browser would see of a page: its elements, the text in them, and the addresses it would ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def named(self, tag: str, **attributes: str) -> list[str]:
        """The texts right behind the start of every such element."""
        return [
            text
            for (name, held), text in zip(self.elements, self.texts, strict=True)
            if name == tag and attributes.items() <= held.items()
        ]

    @property
    def addresses(self) -> list[str]:
        """Everything that could be loaded."""
        found = [
            held.get(name)
            for tag, held in self.elements
            for name in ("src", "href", "data", "action", "poster")
        ]
        return [address for address in found if address]


def facts(**fields: Any) -> Facts:
    known: dict[str, Any] = {
        "what": "run",
        "engine": "kvs",
        "outcome": Outcome.VIOLATION,
        "sentence": "bank: 3 commits, 1 kills",
        "directory": "results/runs/x",
        "seconds": 1.5,
    }
    return Facts(**{**known, **fields})


def hostile() -> Facts:
    """Facts that hold in every text what would break a careless page."""
    failed = Failed(
        property_name=HOSTILE,
        message=f"{HOSTILE} process 3 operation 17 {HOSTILE}",
        words=((HOSTILE, HOSTILE),),
        replay=f"harness replay '{HOSTILE}'",
        reproduced=HOSTILE,
        operations=((3, 17),),
        pictures=(Picture(HOSTILE, "none.svg"),),
        file=HOSTILE,
        page=HOSTILE,
        trace=HOSTILE,
        signature=HOSTILE,
    )
    pairs = ((HOSTILE, HOSTILE),)
    return facts(
        engine=HOSTILE,
        sentence=HOSTILE,
        directory=HOSTILE,
        failures=(failed,),
        checked=(Checked(HOSTILE, Outcome.OK, HOSTILE),),
        figures=pairs,
        sheets=(Sheet(title=HOSTILE, headings=(HOSTILE,), rows=((HOSTILE,),), numbers=(HOSTILE,)),),
        settings=pairs,
        environment=pairs,
        again=HOSTILE,
    )


def test_no_value_can_break_the_page() -> None:
    chart = Chart(HOSTILE, go.Figure(go.Scatter(x=[1], y=[2], name=HOSTILE, text=[HOSTILE])), HOSTILE)
    nothing = Timeline("", {}, "", "", "")
    plain = Read(page(facts(), charts=(Chart("a", go.Figure()),), timeline=nothing))
    timeline = Timeline(HOSTILE, {"workloads": [HOSTILE]}, "", "", "")
    seen = Read(page(hostile(), charts=(chart,), timeline=timeline))
    assert len(seen.named("script")) == len(plain.named("script"))
    held = json.loads(seen.named("script", id="data")[0])
    assert held["charts"][0]["data"][0]["name"] == HOSTILE
    assert held["timeline"]["workloads"] == [HOSTILE]
    assert seen.named("code").count(HOSTILE) == 1
    assert [text for text in seen.named("script") if text.startswith("alert")] == []


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    run, judgement = bench_page.made_up(2_000, 3)
    write_campaign_page(tmp_path / PAGE, tmp_path, run, judgement)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert {address[:1] for address in Read(text).addresses} <= {"#", "d"}
    assert [
        address for address in Read(text).addresses if address.startswith("d") and address != "data:,"
    ] == []
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_without_charts_the_page_is_small_and_has_no_plotly() -> None:
    text = page(facts())
    assert len(text) < 40_000
    assert "plotly.js" not in text
    assert "VIOLATION" in text


def test_pictures_become_part_of_the_page_and_missing_ones_leave_no_gap(tmp_path: Path) -> None:
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    (tmp_path / "bank-1.svg").write_bytes(drawing)
    pictures = (Picture("here", "bank-1.svg"), Picture("gone", "bank-2.svg"))
    failed = Failed(property_name="bank", message="15 vanished", pictures=pictures)
    seen = Read(page(facts(directory=str(tmp_path), failures=(failed,))))
    images = [held for tag, held in seen.elements if tag == "img"]
    assert len(images) == 1
    assert base64.b64decode(str(images[0]["src"]).partition("base64,")[2]) == drawing
    assert str(images[0]["alt"]).startswith("here")


def test_the_first_failure_is_unfolded_and_the_others_can_be() -> None:
    failures = tuple(Failed(property_name="bank", message=f"number {number}") for number in range(4))
    seen = Read(page(facts(failures=failures, more_failures=1234)))
    found = [held for tag, held in seen.elements if tag == "details" and held.get("class") == "failure"]
    assert ["open" in held for held in found] == [True, False, False, False]
    assert [held["id"] for held in found] == ["failure-1", "failure-2", "failure-3", "failure-4"]
    assert any("and 1,234 more" in text for text in seen.texts)


def test_a_page_that_cannot_be_written_leaves_the_old_one_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_page(target, facts(sentence="the old one"))
    before = target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "directory.html").mkdir()
    with pytest.raises(HarnessError, match=r"directory\.html"):
        write_page(tmp_path / "directory.html", facts())
    with pytest.raises(HarnessError, match="No such file"):
        write_page(tmp_path / "missing" / "report.html", facts())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory.html", "report.html"]
    assert target.read_text(encoding="utf-8") == before


def test_a_campaign_says_the_same_in_facts_as_in_its_report() -> None:
    run, judgement = bench_page.made_up(2_000, 3)
    told = facts_of_campaign(Path("results/runs/x"), run, judgement)
    (failed,) = told.failures
    assert told.outcome is Outcome.VIOLATION
    assert failed.replay == "harness replay results/runs/x"
    assert len(failed.operations) == 2
    assert ("expected", "4,800 together") in failed.words
    assert [row.property_name for row in told.checked] == ["bank", "traffic"]


def test_who_saw_a_violation_comes_first_of_the_operations_it_names() -> None:
    run, _ = bench_page.made_up(2_000, 3)
    finding = Finding("bank", "what process 9 operation 1 wrote is gone", {"operation": operation_id(3, 17)})
    verdicts = [Verdict("bank", Outcome.VIOLATION, (finding,))]
    (failed,) = facts_of_campaign(Path("x"), run, Judgement(combine("run", verdicts), verdicts)).failures
    assert failed.operations == ((3, 17), (9, 1))


def test_the_command_that_runs_it_again_names_what_is_not_usual() -> None:
    run, _ = bench_page.made_up(2_000, 3)
    assert again(run.plan).startswith("harness run --seed 3 --seconds ")
    plan = msgspec.structs.replace(
        run.plan, seconds=30.0, faults=(), bug="no-commit-lock", workloads=("bank", "append")
    )
    assert again(plan) == "harness run --seed 3 --workloads bank,append --faults none --bug no-commit-lock"
