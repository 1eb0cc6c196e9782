"""What the kernel takes for each mapping operation, without bufpool: the floor of the cost model.

All operations take their turns in each round, first alone, then while a second thread of the process runs on the other
core, so that whatever takes a page away has to reach that core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from suite.smaps import huge_bytes

BATCHES = (1, 64, 512)
ROUNDS = 60
WHOLE = 8 * (2 << 20)  # what the operation on whole huge pages moves


@contextmanager
def _alone(_loops: Any) -> Iterator[None]:
    """On one core, as beside a second thread."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@contextmanager
def _beside(loops: Any) -> Iterator[None]:
    started = loops.c.reader_start()
    yield
    loops.c.reader_stop(started)


class Found:
    """The rounds of each operation and batch, and why some have none."""

    def __init__(self, loops: Any) -> None:
        self.c, self.ffi = loops.c, loops.ffi
        self.floor = loops.c.mapping_open()
        self.rounds: dict[tuple[int, int], list[float]] = {}
        self.refused: dict[tuple[int, int], str] = {}

    def measure(self) -> None:
        for operation in range(self.c.mapping_count()):
            for batch in BATCHES:
                if self.c.mapping_takes(operation, batch):
                    ns = self.c.mapping_measure(self.floor, operation, batch)
                    if ns < 0:
                        self.refused[operation, batch] = os.strerror(int(-ns))
                    else:
                        self.rounds.setdefault((operation, batch), []).append(ns)

    def name(self, operation: int) -> str:
        return str(self.ffi.string(self.c.mapping_name(operation)).decode())


@pytest.fixture
def found(loops: Any) -> Iterator[Found]:
    floor = Found(loops)
    yield floor
    floor.c.mapping_close(floor.floor)


@pytest.mark.parametrize(("curve", "where"), [("mapping alone", _alone), ("mapping beside", _beside)])
def test_mapping(row: Any, loops: Any, found: Found, curve: str, where: Any) -> None:
    """Mapping operations, system calls alone."""
    if where is _beside and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is no other core for a second thread")
    with where(loops):
        found.measure()  # not counted
        found.rounds.clear()
        row.benchmark.pedantic(found.measure, rounds=ROUNDS, iterations=1)
    for (operation, batch), values in found.rounds.items():
        row.point(curve, found.name(operation), batch, values)
    for (operation, batch), why in found.refused.items():
        if (operation, batch) not in found.rounds:
            row.refused(f"{found.name(operation)}, {batch} in a call", why)
    whole = int(loops.ffi.cast("uintptr_t", loops.c.mapping_huge(found.floor)))
    assert huge_bytes(whole, WHOLE) == WHOLE, "what was moved are no whole huge pages"
