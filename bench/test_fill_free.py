"""What a buffer pool does all day: give pages a frame with content, and take it away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

PAGES = 8192  # 32 MiB a round
BATCH = 512
WINDOW = 256  # pages freed and allocated again in a round of the steady state


class Sides:
    """A pool and a plain mapping of PAGES pages, and the data to fill them with."""

    def __init__(self, loops: Any) -> None:
        self.c = loops.c
        self.numbers = loops.numbers(PAGES)
        self.order = loops.numbers(PAGES)
        self.data = loops.data(BATCH)
        self.pool = loops.c.pool_open(4 * PAGES, b"auto", 0)
        self.plain = loops.c.plain_open(PAGES, 1)
        self.full = False
        for i in range(PAGES):
            self.order[i] = i

    def empty_pool(self) -> None:
        if self.full:
            self.c.pool_free_batch(self.pool, PAGES, self.numbers, PAGES)
        self.full = False

    def fill_pool(self) -> None:
        if not self.full:
            self.c.pool_fill_batch(self.pool, PAGES, self.data, BATCH, self.numbers)
        self.full = True

    def empty_plain(self) -> None:
        self.c.plain_free_all(self.plain, PAGES)

    def fill_plain(self) -> None:
        self.c.plain_fill(self.plain, PAGES, self.data, BATCH)


@pytest.fixture
def sides(loops: Any) -> Iterator[Sides]:
    both = Sides(loops)
    yield both
    loops.c.pool_close(both.pool)
    loops.c.plain_close(both.plain, PAGES)


def _fill(row: Any, sides: Sides, function: Any, goal: float | None) -> None:
    def pool() -> None:
        function(sides.pool, PAGES, sides.data, BATCH, sides.numbers)
        sides.full = True

    row(pool, sides.fill_plain, per=PAGES, goal=goal, before=sides.empty_pool, plain_before=sides.empty_plain)


def test_fill_single(row: Any, loops: Any, sides: Sides) -> None:
    """Allocate + fill one page, steady state : first touch + memcpy."""
    sides.fill_pool()

    def pool_before() -> None:  # both sides have just given the pages of this round back, one by one
        loops.c.pool_free_single(sides.pool, WINDOW, sides.numbers)

    def plain_before() -> None:
        loops.c.plain_free_single(sides.plain, WINDOW, sides.order)

    row(
        lambda: loops.c.pool_fill_single(sides.pool, WINDOW, sides.data, WINDOW, sides.numbers),
        lambda: loops.c.plain_fill(sides.plain, WINDOW, sides.data, WINDOW),
        per=WINDOW,
        goal=0.90,
        before=pool_before,
        plain_before=plain_before,
        rounds=400,
    )


def test_fill_kept(row: Any, loops: Any, sides: Sides) -> None:
    """Free one page, allocate + fill one : memcpy into a frame that an untrapped engine keeps for ever."""
    sides.fill_pool()
    sides.fill_plain()

    def pool() -> None:
        loops.c.pool_free_single(sides.pool, WINDOW, sides.numbers)
        loops.c.pool_fill_single(sides.pool, WINDOW, sides.data, WINDOW, sides.numbers)

    row(
        pool,
        lambda: loops.c.plain_fill(sides.plain, WINDOW, sides.data, WINDOW),
        per=WINDOW,
        goal=None,
        against="frames kept",
        rounds=100,
    )


def test_fill_growing(row: Any, loops: Any, sides: Sides) -> None:
    """Allocate + fill one page, pool growing by 8192 : first touch + memcpy."""
    _fill(row, sides, loops.c.pool_fill_single, 0.90)


def test_fill_batch(row: Any, loops: Any, sides: Sides) -> None:
    """Allocate + fill in batches of 512 : first touch + memcpy."""
    _fill(row, sides, loops.c.pool_fill_batch, 0.55)


def test_fill_in_place(row: Any, loops: Any, sides: Sides) -> None:
    """Allocate 512 pages of zeros, fill in place : first touch + memcpy."""
    _fill(row, sides, loops.c.pool_fill_in_place, None)


def test_free_single(row: Any, loops: Any, sides: Sides) -> None:
    """Free one page, steady state : madvise(DONTNEED) one page."""
    sides.fill_pool()
    sides.fill_plain()

    def pool_before() -> None:  # both sides have just filled the pages of this round
        loops.c.pool_fill_single(sides.pool, WINDOW, sides.data, WINDOW, sides.numbers)

    def plain_before() -> None:
        loops.c.plain_fill(sides.plain, WINDOW, sides.data, WINDOW)

    loops.c.pool_free_single(sides.pool, WINDOW, sides.numbers)
    row(
        lambda: loops.c.pool_free_single(sides.pool, WINDOW, sides.numbers),
        lambda: loops.c.plain_free_single(sides.plain, WINDOW, sides.order),
        per=WINDOW,
        goal=1.05,
        before=pool_before,
        plain_before=plain_before,
        rounds=400,
    )


def test_free_shrinking(row: Any, loops: Any, sides: Sides) -> None:
    """Free one page, pool shrinking by 8192 : madvise(DONTNEED) one page."""

    def pool() -> None:
        loops.c.pool_free_single(sides.pool, PAGES, sides.numbers)
        sides.full = False

    row(
        pool,
        lambda: loops.c.plain_free_single(sides.plain, PAGES, sides.order),
        per=PAGES,
        goal=1.05,
        before=sides.fill_pool,
        plain_before=sides.fill_plain,
    )


def test_free_scattered(row: Any, loops: Any, sides: Sides) -> None:
    """Free 64 scattered pages in one call : madvise(DONTNEED) each."""

    def pool() -> None:
        loops.c.pool_free_batch(sides.pool, PAGES, sides.numbers, 64)
        sides.full = False

    def scatter() -> None:
        sides.fill_pool()
        loops.c.shuffle(sides.numbers, PAGES, 7)

    loops.c.shuffle(sides.order, PAGES, 7)
    row(
        pool,
        lambda: loops.c.plain_free_single(sides.plain, PAGES, sides.order),
        per=PAGES,
        goal=0.40,
        before=scatter,
        plain_before=sides.fill_plain,
    )


def test_free_batch(row: Any, loops: Any, sides: Sides) -> None:
    """Free 512 neighbours in one call : madvise(DONTNEED) once."""

    def pool() -> None:
        loops.c.pool_free_batch(sides.pool, PAGES, sides.numbers, BATCH)
        sides.full = False

    def plain() -> None:
        for start in range(0, PAGES, BATCH):
            loops.c.plain_free_all(sides.plain + start * 4096, BATCH)

    row(pool, plain, per=PAGES, goal=None, before=sides.fill_pool, plain_before=sides.fill_plain)
