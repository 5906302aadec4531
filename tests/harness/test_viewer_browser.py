"""The page of a run as a person meets it: opened in Chromium, read, clicked, driven by keys, copied from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import browser
import pytest
from campaigns import harness, only_run

from harness import bench_page, judge
from harness.history import PROCESS_SHIFT, Ok, operation_id, read_events
from harness.viewer import lanes
from harness.viewer.browser import opened
from harness.viewer.facts import Facts
from harness.viewer.of_campaign import PAGE, facts_of_campaign, write_campaign_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = browser.needed

BUG = "base-not-validated"
CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(colour[i] / 255), 0);
  const under = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("script, style, #legend, .heatmaplayer")) continue;
    const style = getComputedStyle(node), ink = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(parts(ink)), light(under(node))].sort((x, y) => y - x);
    const ratio = ((a + 0.05) / (b + 0.05)).toFixed(2);
    if (ratio < 4.5) low.push(`${node.tagName} ${node.className} ${ratio} ${node.textContent.slice(0, 40)}`);
  }
  return low;
}"""
"""The texts whose contrast with what is under them is below 4.5, which is what WCAG asks for."""


class Planted(NamedTuple):
    """The page of a real run with a planted bug, and what is said in it."""

    page: Path
    facts: Facts
    operation: str


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A second of torture in which a commit does not look whether what it fetched has changed."""
    for seed in (7, 8, 9):  # a campaign runs freely: what it meets first may be about no operation (a stall)
        parent = tmp_path_factory.mktemp("planted")
        done = harness("run", "--bug", BUG, "--seconds", 10, "--seed", seed, "--out", "runs", cwd=parent)
        assert done.returncode == 1, done.stdout + done.stderr
        run_dir = only_run(parent / "runs")
        assert f"page    runs/{run_dir.name}/{PAGE}" in done.stdout
        run = judge.load(run_dir)
        facts = facts_of_campaign(run_dir.relative_to(parent), run, judge.judge(run))
        for process, index in facts.failures[0].operations[:1]:
            return Planted(run_dir / PAGE, facts, f"{process}.{index}")
    raise AssertionError(f"three times the first failure named no operation: {facts.failures}")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 50,000 operations that were made up."""
    directory = tmp_path_factory.mktemp("large")
    run, judgement = bench_page.made_up(50_000, 1)
    write_campaign_page(directory / PAGE, directory, run, judgement)
    return directory / PAGE


def test_the_violation_is_seen_without_scrolling_and_the_page_is_silent(
    chromium: Browser, planted: Planted
) -> None:
    with browser.page_of(chromium) as at:
        page = at.go(planted.page)
        for selector in ("h1 .outcome", "#failure-1 .property", "#failure-1 .message", "#failure-1 .replay"):
            box = page.locator(selector).first.bounding_box()
            assert box is not None
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 800, selector
        assert page.locator("h1 .outcome").inner_text() == "VIOLATION"
        assert page.locator("#failure-1 .message").inner_text() == planted.facts.failures[0].message
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        for place in page.locator("[data-chart]").all():
            place.scroll_into_view_if_needed()
            place.locator(".main-svg").first.wait_for()
        assert at.said == []
        assert [address for address in at.asked if not address.startswith(("file:", "data:", "blob:"))] == []
        assert len([address for address in at.asked if address.startswith("file:")]) == 1


def test_a_click_on_the_violating_operation_shows_its_details(chromium: Browser, planted: Planted) -> None:
    with browser.page_of(chromium) as at:
        page = at.go(planted.page)
        at.press("n")
        chosen = page.evaluate("location.hash")
        page.evaluate(
            "history.replaceState(null, '', '#'); document.getElementById('details').replaceChildren()"
        )
        mark = page.locator("#plot .scatterlayer .trace").last.locator(".point")
        places = at.trace("violating")["customdata"]
        number = places.index(
            page.evaluate("name => window.timeline.find(name)", chosen.removeprefix("#op="))
        )
        box = mark.nth(number).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#details h3")
        process, index = chosen.removeprefix("#op=").split(".")
        assert page.locator("#details h3").inner_text().startswith(f"process {process} operation {index}: ")
        assert page.evaluate("location.hash") == chosen
        assert page.locator("#details[data-bad]").count() == 1


def test_a_deep_link_leads_to_the_operation_and_its_place_in_the_history(
    chromium: Browser, planted: Planted
) -> None:
    process, index = map(int, planted.operation.split("."))
    with browser.page_of(chromium) as at:
        page = at.go(planted.page, f"#op={planted.operation}")
        text = page.locator("#details").inner_text()
        assert f"process {process} operation {index}: " in text
        place = page.locator("#details code").first.inner_text()
        box = page.locator("#plot").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 800
        link = page.locator("#failure-1 a.op").last
        link.click()
        assert page.evaluate("location.hash") == link.get_attribute("href")
        assert at.said == []
    file, _, line = place.partition(":")
    numbered = dict(read_events(planted.page.parent / file))
    assert numbered[int(line)].index == index  # type: ignore[union-attr]


def test_who_held_the_lock_and_when_is_drawn_and_told(chromium: Browser, planted: Planted) -> None:
    """The same as the histories say: the bars' strips, the details of a commit, the legend."""
    ended = {
        (event.process, event.index): event
        for path in (planted.page.parent / "history").glob("*.jsonl")
        for _, event in read_events(path)
        if isinstance(event, Ok)
    }
    commits = [key for key, event in sorted(ended.items()) if [span.what for span in event.spans] == ["lock"]]
    assert len(commits) > 20
    run = judge.load(planted.page.parent)
    zero = lanes.zero_ns(run)
    begun = {op.id: (op.invoked - zero) // 1000 for op in run.operations}
    with browser.page_of(chromium) as at:
        page = at.go(planted.page)
        assert "lock held" in page.locator("#legend").inner_text()
        for process, index in commits[1 :: len(commits) // 5]:
            page.evaluate("async (name) => timeline.choose(timeline.find(name))", f"{process}.{index}")
            (span,) = ended[process, index].spans
            if (span.begin - zero) // 1000 < begun[operation_id(process, index)]:
                continue  # it was held before, on opening
            told = page.evaluate("name => timeline.held(timeline.find(name))", f"{process}.{index}")
            expected = {"what": "lock", "process": process, "start": (span.begin - zero) // 1000}
            assert [{name: one[name] for name in expected} for one in told] == [expected]
            page.evaluate("at => timeline.show(at - 200, at + 200)", expected["start"])
            assert at.trace("bars") is not None
            assert expected["start"] in [round(base * 1e6) for base in at.trace("held")["base"]]
            assert "held the lock for" in page.locator("#details").inner_text()
        assert at.said == []


@pytest.mark.parametrize("refused", [False, True], ids=["clipboard", "clipboard refused"])
def test_the_copy_button_yields_the_replay_line(chromium: Browser, planted: Planted, refused: bool) -> None:
    with browser.page_of(chromium, permissions=["clipboard-read", "clipboard-write"]) as at:
        if refused:
            at.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { get: () => undefined })")
            at.page.add_init_script(
                "addEventListener('copy', () => (window.copied = getSelection().toString()))"
            )
        page = at.go(planted.page)
        button = page.locator("#failure-1 .replay button")
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
        copied = page.evaluate("window.copied" if refused else "navigator.clipboard.readText()")
    assert copied == planted.facts.failures[0].replay
    if not refused:
        replayed = subprocess.run(  # noqa: S602 - as a person would
            copied,
            shell=True,
            check=False,
            cwd=planted.page.parents[2],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert replayed.returncode == 1, replayed.stdout + replayed.stderr
        assert "VIOLATION" in replayed.stdout.splitlines()[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(chromium: Browser, planted: Planted, scheme: str) -> None:
    other = {"light": "dark", "dark": "light"}[scheme]
    with browser.page_of(chromium, color_scheme=other) as at:
        page = at.go(planted.page, f"#op={planted.operation}")
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        before = at.drawn
        page.locator("#theme").click()
        page.wait_for_function("n => Number(document.getElementById('plot').dataset.drawn) > n", arg=before)
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
        for place in page.locator("[data-chart]").all():
            place.scroll_into_view_if_needed()
            place.locator(".main-svg").first.wait_for()
        assert page.evaluate(CONTRAST) == []


def test_everything_can_be_reached_and_done_by_keys(chromium: Browser, planted: Planted) -> None:
    with browser.page_of(chromium) as at:
        page = at.go(planted.page)
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    """() => [document.activeElement.id || document.activeElement.textContent.trim(),
                      getComputedStyle(document.activeElement).outlineStyle]"""
                )
            )
            if reached[-1][0] == "plot":
                break
        names = [name for name, _ in reached]
        assert names[:3] == ["Skip to the verdict", "Skip to the timeline", "theme"]
        assert "Copy" in names
        assert names[-1] == "plot"
        assert {outline for _, outline in reached} == {"solid"}
        page.keyboard.press("n")
        page.wait_for_selector("#details h3")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "details"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.id") == "plot"
        first = page.evaluate("location.hash")
        at.press("]")
        assert page.evaluate("location.hash") != first
        at.press("[")
        assert page.evaluate("location.hash") == first
        at.press("+", "+")
        low, high = at.shown
        at.press("-")
        assert at.shown[1] - at.shown[0] > (high - low) * 1.5
        at.press("+", "ArrowRight")
        assert at.shown[0] > low
        at.press("0")
        assert at.shown[0] <= 0
        assert at.said == []


def test_fifty_thousand_operations_are_cells_and_then_bars(chromium: Browser, large: Path) -> None:
    with browser.page_of(chromium) as at:
        page = at.go(large)
        cells = at.trace("cells")
        assert (at.trace("bars"), at.trace("held")) == (None, None)
        lanes = page.evaluate("data.timeline.lanes")
        assert [len(cells["z"]), len(cells["z"][0]) > 100] == [len(lanes), True]
        worst = len(page.evaluate("data.timeline.kinds")) + 2
        at_fault = [value for row in cells["z"] for value in row if value is not None and value // 4 == worst]
        assert at_fault, "a violating operation is never hidden in a cell"
        assert len(at.trace("violating")["x"]) == len(page.evaluate("data.timeline.violating"))
        at.press("n")
        bars = at.trace("bars")
        assert at.trace("cells") is None
        assert 0 < len(bars["x"]) <= 2500
        assert at.trace("held")["x"]
        chosen = page.evaluate("name => window.timeline.find(name)", page.evaluate("location.hash.slice(4)"))
        assert chosen in bars["customdata"]
        at.press("0")
        assert at.trace("bars") is None
        assert page.locator("#plot .heatmaplayer image").count() == 1
        assert at.said == []


def test_the_name_of_every_operation_is_what_its_process_called_it(
    chromium: Browser, planted: Planted
) -> None:
    run = judge.load(planted.page.parent)
    names = [f"{op.process}.{op.id & (1 << PROCESS_SHIFT) - 1}" for op in run.operations]
    with browser.page_of(chromium) as at:
        at.page.add_init_script("delete Uint8Array.fromBase64")  # which older browsers do not have
        page = at.go(planted.page)
        found = page.evaluate(
            "names => names.map((name) => window.timeline.told(window.timeline.find(name)))", names
        )
    zero = next(event.time for event in run.events if getattr(event, "what", "") == "start")
    assert [(one["name"], one["kind"], one["outcome"], one["start"]) for one in found] == [
        (name, op.f, op.outcome, (op.invoked - zero) // 1000)
        for name, op in zip(names, run.operations, strict=True)
    ]
