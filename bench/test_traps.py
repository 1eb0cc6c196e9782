"""Every trap on every memory, beside plain mmap of the same memory: one page filled and freed, in the steady state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import bufpool

HUGE_MEMORIES = ("thp", "hugetlb", "path")
CELLS = [(entry.memory, entry.trap) for entry in bufpool.capabilities().entries if entry.valid]
ROUNDS = 60


class Sides:
    """A pool and a plain mapping, COUNT pages of one granule each."""

    def __init__(self, loops: Any, plain_on: Any, memory: str, trap: str, huge: bool) -> None:
        self.c = loops.c
        self.size, self.count = (2 << 20, 16) if huge else (4096, 256)
        self.pool = loops.pool_on(memory, trap, 4 * self.count, self.size)
        self.numbers = loops.numbers(self.count)
        self.plain = plain_on(loops, memory, self.count, self.size)
        self.source = plain_on(loops, "thp", self.count, self.size)
        self.c.plain_copy(self.source.base, self.count, self.size, loops.data(self.size // 4096), 1)

    def close(self) -> None:
        self.c.pool_close(self.pool)
        self.plain.close()
        self.source.close()

    def pool_copy(self) -> None:
        self.c.pool_copy(self.pool, self.count, self.size, self.source.base, self.count, self.numbers)

    def pool_free(self) -> None:
        self.c.pool_free_single(self.pool, self.count, self.numbers)

    def plain_copy(self) -> None:
        self.c.plain_copy(self.plain.base, self.count, self.size, self.source.base, self.count)

    def plain_release(self) -> None:
        self.c.plain_release(self.plain.base, self.plain.fd, 0, self.count, self.size)


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def sides(request: pytest.FixtureRequest, loops: Any, plain_on: Any, cell: tuple[str, str]) -> Iterator[Sides]:
    memory, trap = cell
    if memory == "hugetlb":
        request.getfixturevalue("huge_pages")
    where = request.getfixturevalue("huge_directory") if memory == "path" else memory
    both = Sides(loops, plain_on, where, trap, huge=memory in HUGE_MEMORIES)
    yield both
    both.close()


def test_fill(row: Any, sides: Sides, cell: tuple[str, str]) -> None:
    """Allocate + fill : first touch + memcpy."""
    sides.plain_copy()
    sides.pool_copy()
    row(
        sides.pool_copy,
        sides.plain_copy,
        per=sides.count,
        goal=None,
        before=sides.pool_free,
        plain_before=sides.plain_release,
        rounds=ROUNDS,
        cell=(*cell, "fill"),
    )


def test_free(row: Any, sides: Sides, cell: tuple[str, str]) -> None:
    """Free : giving the frames back."""
    row(
        sides.pool_free,
        sides.plain_release,
        per=sides.count,
        goal=None,
        before=sides.pool_copy,
        plain_before=sides.plain_copy,
        rounds=ROUNDS,
        cell=(*cell, "free"),
    )
