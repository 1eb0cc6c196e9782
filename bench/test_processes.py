"""One pool in several processes: what they do together, and what it takes to attach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

PART = 8192  # pages for each process, on the plain side
COUNT = 10_000
ROUNDS = 20
TIB = (1 << 40) // 4096  # pages


class Sides:
    """A pool for others to attach to, and a file for them to map."""

    def __init__(self, loops: Any, plain_on: Any, pages: int) -> None:
        self.c = loops.c
        self.fds = loops.ffi.new("int[2]")
        self.pool = loops.c.pool_shared(pages, self.fds)
        self.plain = plain_on(loops, "shared", pages, 4096)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.c.pool_close(self.pool)
        self.plain.close()


@pytest.fixture
def sides(request: pytest.FixtureRequest, loops: Any, plain_on: Any) -> Iterator[Sides]:
    both = Sides(loops, plain_on, request.param)
    yield both
    both.close()


@pytest.mark.parametrize("sides", [8 * PART], indirect=True, ids=["two"])
def test_two(row: Any, loops: Any, sides: Sides) -> None:
    """Free one page, allocate + fill one, two processes : one process."""

    def pool(processes: int) -> float:
        return float(loops.c.pool_together(sides.fds, processes, COUNT))

    def plain(processes: int) -> float:
        return float(loops.c.plain_together(sides.plain.fd, PART, processes, COUNT))

    row.gains({"shared pool": (pool, 1.6), "plain shared mmap, punching holes": (plain, None)}, rounds=ROUNDS)


@pytest.mark.parametrize("sides", [TIB], indirect=True, ids=["1 TiB"])
def test_attach(row: Any, loops: Any, sides: Sides) -> None:
    """Attach to a pool of 1 TiB : mmap of a file of 1 TiB."""

    def pairs() -> list[tuple[float, float]]:
        return [(loops.c.attach_ns(sides.fds), loops.c.map_ns(sides.plain.fd, TIB))]

    row.difference(pairs, before=lambda: None, goal=5_000_000, rounds=50, against="plain shared mmap")
