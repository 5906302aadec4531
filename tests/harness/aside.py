"""Work that must not touch this process, such as planting a bug, done in a forked one."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def aside(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, from a process of its own. Raises AssertionError with the traceback if it raised."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = pickle.dumps((True, work()))
        except BaseException:  # noqa: BLE001 - whatever it is, the test is told
            answer = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(here, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(here)
    with os.fdopen(there, "rb") as pipe:
        data = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert data, f"the process died, wait status {status}"
    fine, result = pickle.loads(data)  # noqa: S301 - from our own child
    assert fine, result
    return result  # type: ignore[no-any-return]
