"""What the processes of the benchmark do: time what they are told, find what they wrote, end with their parent."""

from __future__ import annotations

import os
import signal
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import bench_busy, bench_children, bench_durable, bench_engines, bench_large_job
from harness.bench_busy import Window
from harness.bench_large_job import Job
from harness.errors import HarnessError


def test_a_window_has_the_calls_that_overlap_it_and_not_the_look_at_the_pipe_between() -> None:
    calls = bench_busy._CALLS
    first = [number * 10 for number in range(calls + 1)]
    second = [100_000 + number * 20 for number in range(calls + 1)]
    stamps = array("q", [*first, *second])
    whole, inside, between, none = bench_busy.spans(
        stamps, [Window(0, 200_000), Window(105, 115), Window(5_000, 99_000), Window(200_000, 300_000)]
    )
    assert whole.calls == 2 * calls
    assert whole.longest_s == pytest.approx(20e-9)
    assert inside.calls == 2
    assert inside.median_s == pytest.approx(10e-9)
    assert (between.calls, none.calls) == (0, 0)


def test_an_unwritten_value_is_a_failure_and_no_measurement(tmp_path: Path) -> None:
    job = Job("", tmp_path / "store", 2048, 1)
    bench_large_job.load(job)
    told = msgspec.structs.replace(job, keys=4096)
    for step in (bench_large_job.get, bench_large_job.verify, bench_large_job.reopen):
        with pytest.raises(HarnessError, match="nothing here means anything"):
            step(told)


class Forgetful(bench_durable.Disk):
    """It says that everything is written, and keeps half."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [
            None if key[0] % 2 else value for key, value in zip(keys, super().get_many(keys), strict=True)
        ]


class Pipe:
    """A pipe whose other end has said everything already."""

    def __init__(self, *told: object) -> None:
        self.told = list(told)
        self.answers: list[object] = []

    def recv(self) -> object:
        return self.told.pop(0)

    def send(self, answer: object) -> None:
        self.answers.append(answer)


@pytest.mark.parametrize("name", bench_durable.CONTENDERS)
def test_a_process_puts_for_as_long_as_it_is_told_and_finds_what_it_put(name: str, tmp_path: Path) -> None:
    engine = bench_durable.CONTENDERS[name]
    if name in bench_engines.installed()[1]:
        pytest.skip(f"{name} is not installed")
    engine(tmp_path / "store", keys=1024, value_bytes=16, create=True).close()
    now = time.monotonic()
    pipe = Pipe((now, now + 0.01), (now, now + 0.5), None)
    bench_durable._put(pipe, name, tmp_path / "store", 1024, 16, 1, 0)
    ready, *rates, found = pipe.answers
    assert (ready, found) == (None, None)
    assert all(isinstance(rate, float) and rate > 0 for rate in rates)
    assert len(rates) == 2


def test_an_engine_that_forgets_a_durable_put_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_durable.CONTENDERS, "forgetful", Forgetful)
    now = time.monotonic()
    with pytest.raises(HarnessError, match="it does not find what it was told is written"):
        bench_durable._put(Pipe((now, now + 0.01), None), "forgetful", tmp_path / "store", 1024, 16, 1, 0)


def test_a_child_that_fails_is_named_and_the_others_are_ended() -> None:
    with bench_children.Crew() as crew:
        other, reader = crew.add("the other", wait_for_ever), crew.add("the reader", fail)
        with pytest.raises(HarnessError, match="the reader failed: ValueError: planted"):
            reader.answer()
    assert other.end() == -signal.SIGKILL


def test_a_child_that_is_gone_is_an_error_and_no_answer() -> None:
    with bench_children.Crew() as crew:
        child = crew.add("the writer", die)
        with pytest.raises(HarnessError, match="the writer ended, or says nothing any more"):
            child.answer()
        assert child.end() == -signal.SIGKILL


def test_the_memory_of_a_child_is_what_it_had_at_most() -> None:
    with bench_children.Crew() as crew:
        child = crew.add("the hoarder", hoard)
        child.answer(sample_s=0.001)
    assert child.anonymous_bytes > 64 << 20


def fail(pipe: Any) -> None:
    raise ValueError("planted")


def wait_for_ever(pipe: Any) -> None:
    pipe.recv()


def die(pipe: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hoard(pipe: Any) -> None:
    held = b"x" * (64 << 20)
    pipe.send(len(held))
    pipe.recv()
