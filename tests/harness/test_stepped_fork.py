"""What a stage leaves in its process does not reach the processes that are forked there later."""

from __future__ import annotations

import contextlib
import gc
import os

from harness.scenarios import named
from harness.schedule.random_walk import RandomWalk
from harness.stepped.execution import conduct
from harness.stepped.simulated import Simulated
from kvs import syncpoints


def test_a_process_that_is_forked_after_a_simulation_keeps_every_descriptor() -> None:
    """Handles that a stage had closed the descriptors of were still known, and a forked child closed their numbers,
    which were other files' by then: now and then a nursery had lost the file for its errors before it began.
    """
    gc.collect()
    gc.disable()  # handles in circles of references stay
    try:
        with Simulated(named("default")) as stage:
            for number in range(3):
                strategy = RandomWalk(number, 160, list(syncpoints.POINTS))
                strategy.begin(stage.scenario, number)
                conduct(stage, strategy)
        mine = [os.memfd_create("mine") for _ in range(64)]
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                for fd in mine:
                    os.fstat(fd)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        for fd in mine:
            os.close(fd)
    finally:
        gc.enable()
