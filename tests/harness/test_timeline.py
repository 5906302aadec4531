"""The picture of an evidence: what must stand in it, and that nothing in a history can break it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from random import Random

from harness import timeline
from harness.evidence import NEVER, Edge, Evidence, Shown

SVG = "{http://www.w3.org/2000/svg}"

SKEW = Evidence(
    "G-single",
    "One transaction saw a part of what another did, and so it must come both before and after it.",
    (
        Shown("T7", "2", "ok", "append 253 2, append 255 5", 5, 12, 7, 13),
        Shown("T9", "0", "ok", "read 253 -> [1 3], read 255 -> [2 3 5]", 10, 40, 12, 19),
    ),
    ("T9 read 5 of key 255, which T7 appended, but not its 2 of key 253.",),
    (
        Edge("T7", "T9", "wr", "T9 read what T7 appended."),
        Edge("T9", "T7", "rw", "T7 overwrote what T9 read."),
    ),
)


def texts(picture: str) -> list[str]:
    """What can be read in a picture; that it can be parsed is tested on the way."""
    return [(each.text or "").strip() for each in ET.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314 - our own


def wide(operations: int, processes: int, seed: int = 1) -> Evidence:
    """One cycle through many operations, all kinds of edges, long texts."""
    random = Random(seed)
    free = dict.fromkeys(range(processes), 0)
    shown = []
    for number in range(operations):
        process = number % processes
        invoked = max(free[process] + 1, 100 * number + random.randrange(150))
        completed = free[process] = invoked + random.randrange(1, 900)
        text = ", ".join(f"read {random.randrange(99)} -> [{' '.join('123456789')}]" for _ in range(8))
        shown.append(
            Shown(f"T{number}", str(process), "ok", text, invoked, completed, number + 1, number + 2)
        )
    names = [each.name for each in shown]
    random.shuffle(names)
    kinds = itertools.cycle([*timeline.KINDS, "of another model"])
    edges = [Edge(a, b, next(kinds), "") for a, b in zip(names, [*names[1:], names[0]], strict=True)]
    return Evidence("G2-item", "A cycle.", tuple(shown), ("It is long.",), tuple(edges))


def test_names_texts_lines_kinds_and_title_can_be_read() -> None:
    found = texts(timeline.svg(SKEW))
    assert {"G-single", "T7", "T9", "line 7-13", "line 12-19", "process 2", "process 0"} <= set(found)
    assert {"append 253 2,", "append 255 5", "read 253 -> [1 3],", "read 255 -> [2 3 5]"} <= set(found)
    assert found.count("wr") == 2, "on the arrow and in the legend"
    assert found.count("rw") == 2
    assert "the first read what the second then overwrote" in found
    assert not {"ww", "process", "realtime", "open end"} & set(found), (
        "the legend tells of what is there only"
    )


def test_there_is_an_arrow_head_of_its_colour_for_each_edge() -> None:
    for kind in timeline.KINDS:
        edges = (Edge("T7", "T9", kind, ""), Edge("T9", "T7", kind, ""))
        picture = timeline.svg(Evidence("G0", "A cycle.", SKEW.operations, (), edges))
        assert picture.count(f'style="fill: {timeline.KINDS[kind].colour}"') == 2


def test_operation_that_never_ended_has_an_open_end() -> None:
    ended, _ = SKEW.operations
    endless = Shown("T9", "0", "info", "write 3", 10, NEVER, 12)
    found = texts(timeline.svg(Evidence("nonlinearizable", "", (ended, endless), ())))
    assert "open end" in found
    assert "line 12" in found
    assert "open end" not in texts(timeline.svg(Evidence("nonlinearizable", "", (ended,), ())))


def test_roles_are_shown_where_there_is_no_cycle() -> None:
    operations = (
        Shown("T1", "0", "ok", "write 1", 0, 3, role="linearised"),
        Shown("T2", "1", "ok", "read -> 2", 4, 5, role="could not come next"),
    )
    found = texts(timeline.svg(Evidence("nonlinearizable", "No order explains it.", operations, ())))
    assert found.count("linearised") == found.count("could not come next") == 2


def test_same_evidence_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path; import test_timeline as t;"
        "t.timeline.draw(t.wide(14, 12), Path(sys.argv[1]))"
    )
    out = tmp_path / "other.svg"
    where = [str(Path(__file__).parent), str(Path(timeline.__file__).parents[1])]
    subprocess.run([sys.executable, "-c", program, str(out), *where], check=True)
    here = timeline.svg(wide(14, 12))
    assert here == timeline.svg(wide(14, 12))
    assert here == out.read_text(encoding="utf-8")


def test_nothing_in_a_history_breaks_the_picture() -> None:
    hostile = "$\\frac{x}$ <b>&amp; ]]> \"q\" 'p' \x00\x1b[31m \ud800 \u202e \U0001f600 {[( \n\t end"
    operations = (
        Shown(f"T1{hostile}", hostile, "ok", hostile, 1, 5, role=hostile),
        Shown("T2", "nemesis", "fail", "x" * 10_000, 2, 3),
        Shown("T3", "nemesis", "no such outcome", "", 7, 7),
    )
    edges = (
        Edge("T2", "T3", hostile, hostile),
        Edge("T2", "T2", "ww", "to itself"),
        Edge("T2", "T99", "ww", "to nowhere"),
    )
    picture = timeline.svg(Evidence(hostile, hostile * 20, operations, (hostile,), edges))
    found = texts(picture)
    assert any("$\\frac{x}$ <b>&amp; ]]>" in text for text in found), "as it is, and no mathematics"
    assert all(len(text) < 200 for text in found), "shortened"
    assert "ww" not in found


def test_empty_evidence_is_a_picture_too() -> None:
    assert "nothing" in texts(timeline.svg(Evidence("nothing", "", (), ())))


def test_process_that_goes_on_after_an_open_end_gets_a_second_lane() -> None:
    operations = (
        Shown("T1", "3", "info", "write 1", 0, NEVER),
        Shown("T2", "3", "ok", "write 2", 5, 6),
    )
    bars = _bars(Evidence("G0", "", operations, ()))
    assert bars["T1"][3] <= bars["T2"][1], "below the other"


def _bars(evidence: Evidence) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each bar, as it was drawn."""
    from matplotlib.patches import Polygon, Rectangle

    axes = timeline.figure(evidence).axes[0]
    polygons = [
        each for each in axes.patches if isinstance(each, Polygon) and not isinstance(each, Rectangle)
    ]
    names = [shown.name for shown in evidence.operations]
    corners = [each.get_xy() for each in polygons]
    boxes = [(*xy.min(axis=0).tolist(), *xy.max(axis=0).tolist()) for xy in corners]
    return dict(zip(names, boxes, strict=True))


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_nothing_that_is_to_be_read_lies_on_anything_else() -> None:
    for operations, processes in ((2, 2), (3, 1), (6, 3), (14, 12), (14, 5)):
        for seed in range(4):
            evidence = wide(operations, processes, seed)
            boxes = list(_bars(evidence).values())
            assert not any(_meet(*pair) for pair in itertools.combinations(boxes, 2))
            axes = timeline.figure(evidence).axes[0]
            right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
            assert all(box[0] > 0 and box[2] < right and box[3] < bottom for box in boxes)
            labels = [text for text in axes.texts if text.get_bbox_patch() is not None]
            assert len(labels) == len(evidence.edges)
            if operations <= 6:
                half = [(len(each.get_text()) * 0.034 + 0.05, 0.08) for each in labels]
                places = [each.get_position() for each in labels]
                spots = [(x - w, y - h, x + w, y + h) for (x, y), (w, h) in zip(places, half, strict=True)]
                assert not any(_meet(spot, box) for spot in spots for box in boxes), (operations, seed)
                assert not any(_meet(*pair) for pair in itertools.combinations(spots, 2)), (operations, seed)


def test_words_stay_in_their_bars() -> None:
    for seed in range(6):
        evidence = wide(8, 4, seed)
        boxes = _bars(evidence).values()
        inside = 0
        for text in timeline.figure(evidence).axes[0].texts:
            x, y = text.get_position()
            holding = [box for box in boxes if box[0] < x < box[2] and box[1] < y < box[3]]
            if holding and text.get_bbox_patch() is None:
                inside += 1
                assert x + len(text.get_text()) * 0.067 < holding[0][2], text.get_text()
        assert inside >= 8 * 3


def test_later_is_further_right() -> None:
    evidence = wide(14, 12)
    bars = _bars(evidence)
    moments = [(each.invoked, bars[each.name][0]) for each in evidence.operations]
    moments += [(each.completed, bars[each.name][2]) for each in evidence.operations]
    lefts = [left for _, left in sorted(moments)]
    assert lefts == sorted(lefts)
