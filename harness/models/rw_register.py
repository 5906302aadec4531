"""The model rw-register: transactions that read, write and delete registers, checked for isolation."""

from __future__ import annotations

from typing import Final

from harness.dependency.catalogue import ALIASES, PROPERTIES
from harness.dependency.rw_register import check
from harness.models.base import Model, Shape


def _fits(shape: Shape) -> bool:
    return bool(shape.micros & {"w", "d"}) and shape.micros <= {"r", "w", "d"}


RW_REGISTER: Final = Model(
    "rw-register",
    "transactions that read and write registers",
    tuple(PROPERTIES),
    check,
    _fits,
    ALIASES,
)
