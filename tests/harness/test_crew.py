"""A crew does its work in processes of its own, and what ends them is an answer too."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness.crew import Crew, Death, Note
from harness.errors import HarnessError


def work(order: bytes, note: Note) -> bytes:
    note.write(b"at " + order)
    if order == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == b"hang":
        threading.Event().wait()
    if order == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == b"wrong":
        raise ValueError("of its own")
    return order.upper()


def answers(*orders: bytes, jobs: int = 1, hang_s: float = 30.0) -> list[tuple[bytes, bytes | Death]]:
    return [told for told in Crew(work, iter(orders), jobs=jobs, hang_s=hang_s).run() if told is not None]


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_order_is_answered_once(jobs: int) -> None:
    orders = [b"%d a" % number for number in range(7)]
    assert sorted(answers(*orders, jobs=jobs)) == [(order, order.upper()) for order in orders]


def test_who_dies_has_said_of_what_and_somebody_else_goes_on() -> None:
    assert answers(b"a", b"crash", b"b") == [
        (b"a", b"A"),
        (b"crash", Death(b"at crash", "died of SIGSEGV")),
        (b"b", b"B"),
    ]


def test_who_does_not_go_on_is_ended() -> None:
    assert answers(b"hang", b"b", hang_s=0.3) == [(b"hang", Death(b"at hang", "hung")), (b"b", b"B")]


def test_who_is_killed_from_outside_proves_nothing() -> None:
    with pytest.raises(HarnessError, match="ended from outside by SIGKILL"):
        answers(b"killed")


def test_an_error_of_the_work_itself_is_the_harnesss(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HarnessError, match="ValueError: of its own"):
        answers(b"wrong")
    assert "Traceback" in capfd.readouterr().err


def test_what_is_put_in_front_comes_before_the_rest() -> None:
    crew = Crew(work, iter([b"a", b"b", b"c"]), jobs=1)
    seen = []
    for told in crew.run():
        if told is not None:
            seen.append(told[0])
            if told[0] == b"a":
                crew.again.append(b"first")
    assert seen == [b"a", b"b", b"first", b"c"]


def test_a_crew_that_is_stopped_hands_nothing_out_any_more() -> None:
    crew = Crew(work, iter([b"%d" % number for number in range(100)]), jobs=1)
    seen = 0
    for told in crew.run():
        if told is not None:
            seen += 1
            crew.stop()
    assert seen in (1, 2)
