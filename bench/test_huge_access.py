"""Random access over 1 GiB: a pool of huge pages against plain mmap without them, and with them.

Both sides are mapped and filled anew for each round, see test_resident.py. The pool's side has to be huge in fact:
counted by the pool, and shown by /proc/self/smaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from suite.smaps import huge_bytes

HUGE = 2 << 20
PAGES = 512
LENGTH = PAGES * HUGE
CHUNK = 32  # huge pages that each side takes in turn
RANDOM = 4_000_000
ROUNDS = 24


class Sides:
    """A pool on one memory of huge pages and a plain anonymous mapping, all pages resident and written."""

    def __init__(self, loops: Any, plain_on: Any, memory: str, plain: str) -> None:
        self.loops = loops
        self.plain_on = plain_on
        self.memory, self.plain_memory = memory, plain
        self.data = loops.data(HUGE // 4096)
        self.numbers = loops.numbers(PAGES)
        self.rounds = 0
        self.pool: Any = None
        self.plain: Any = None

    def close(self) -> None:
        if self.pool is not None:
            self.loops.c.pool_close(self.pool)
            self.plain.close()
        self.pool = None

    def refill(self) -> None:
        self.close()
        c = self.loops.c
        self.pool = self.loops.pool_on(self.memory, "uffd", PAGES, HUGE)
        self.plain = self.plain_on(self.loops, self.plain_memory, PAGES, HUGE)
        self.base = c.pool_base(self.pool)
        for at in range(0, PAGES, CHUNK):
            fills: list[Callable[[], object]] = [
                partial(c.pool_copy, self.pool, CHUNK, HUGE, self.data, 1, self.numbers + at),
                partial(c.plain_copy, self.plain.base + at * HUGE, CHUNK, HUGE, self.data, 1),
            ]
            for fill in fills if self.rounds % 2 == 0 else reversed(fills):
                fill()
        self.rounds += 1
        self.check()

    def check(self) -> None:
        assert self.loops.c.pool_huge_fills(self.pool) == PAGES
        assert self.loops.c.pool_small_fills(self.pool) == 0
        address = int(self.loops.ffi.cast("uintptr_t", self.base))
        assert huge_bytes(address, LENGTH) == LENGTH, "smaps does not show the whole pool in huge pages"
        plain = int(self.loops.ffi.cast("uintptr_t", self.plain.base))
        assert huge_bytes(plain, LENGTH) == (LENGTH if self.plain_memory == "thp" else 0), (
            "the plain side is not as named"
        )


@pytest.fixture
def sides(request: pytest.FixtureRequest, loops: Any, plain_on: Any) -> Iterator[Callable[[str, str], Sides]]:
    opened: list[Sides] = []

    def make(memory: str, plain: str) -> Sides:
        if memory == "hugetlb":
            request.getfixturevalue("huge_pages")
        opened.append(Sides(loops, plain_on, memory, plain))
        return opened[-1]

    yield make
    for both in opened:
        both.close()


def _measure(row: Any, sides: Sides, goal: float) -> None:
    read = sides.loops.c.read_random
    pages = LENGTH // 4096  # of 4 KiB, as read_random counts

    def before_round() -> None:
        sides.refill()
        # Untimed, so that each timed pass comes after a pass over the other side: the caches are in the same state.
        read(sides.plain.base, pages, RANDOM, 1)
        read(sides.base, pages, RANDOM, 1)

    row(
        lambda: read(sides.base, pages, RANDOM, 1),
        lambda: read(sides.plain.base, pages, RANDOM, 1),
        per=RANDOM,
        goal=goal,
        plain_before=before_round,
        rounds=ROUNDS,
        against="MADV_HUGEPAGE" if sides.plain_memory == "thp" else "MADV_NOHUGEPAGE",
    )


def test_thp_small(row: Any, sides: Callable[[str, str], Sides]) -> None:
    """thp, read a word, random over 1 GiB : plain mmap without huge pages."""
    _measure(row, sides("thp", "anon"), 0.90)


def test_thp_huge(row: Any, sides: Callable[[str, str], Sides]) -> None:
    """thp, read a word, random over 1 GiB : plain mmap with huge pages."""
    _measure(row, sides("thp", "thp"), 1.02)


def test_hugetlb_small(row: Any, sides: Callable[[str, str], Sides]) -> None:
    """hugetlb, read a word, random over 1 GiB : plain mmap without huge pages."""
    _measure(row, sides("hugetlb", "anon"), 0.90)


def test_hugetlb_huge(row: Any, sides: Callable[[str, str], Sides]) -> None:
    """hugetlb, read a word, random over 1 GiB : plain mmap with huge pages."""
    _measure(row, sides("hugetlb", "thp"), 1.02)
