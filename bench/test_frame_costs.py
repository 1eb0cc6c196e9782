"""How a page leaves the pool and comes back: publish, withdraw, evict, replace; each step timed for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

PAGES = 512  # 2 MiB a round
ROUNDS = 100
OUT, IN = 0, 1


class Sides:
    """A pool and a plain mapping, PAGES pages resident, and what a step of a round took."""

    def __init__(self, loops: Any) -> None:
        self.c = loops.c
        self.pool = loops.c.frames_open(2 * PAGES)
        self.plain = loops.c.plain_open(PAGES, 1)
        self.data = loops.data(PAGES)
        self.taken = loops.ffi.new("double[2]")
        self.sorted, self.scattered = loops.numbers(PAGES), loops.numbers(PAGES)
        for i in range(PAGES):
            self.sorted[i], self.scattered[i] = i, i * 37 % PAGES  # each once, no two neighbours
        self.first = 0
        loops.c.plain_fill(self.plain, PAGES, self.data, PAGES)

    def close(self) -> None:
        self.c.pool_close(self.pool)
        self.c.plain_close(self.plain, PAGES)

    def plain_taken(self, order: Any, batch: int, whole: bool = True) -> tuple[float, float]:
        self.c.frames_plain(self.plain, PAGES, order, batch, self.data, whole, self.taken)
        return self.taken[OUT], self.taken[IN]

    def frames(self, step: int, order: Any, batch: int, plain_batch: int) -> Callable[[], tuple[float, float]]:
        """The pool's and the plain side's ns a page, of a step."""

        def pairs() -> tuple[float, float]:
            self.c.frames_withdraw_publish(self.pool, PAGES, order, batch, self.data, self.taken)
            ours = self.taken[step]
            return ours, self.plain_taken(order, plain_batch, whole=False)[step]

        return pairs

    def evict(self, batch: int) -> tuple[float, float]:
        self.c.frames_evict(self.pool, PAGES, self.scattered, batch, self.data, self.taken)
        ours = self.taken[OUT]
        return ours, self.plain_taken(self.scattered, 1)[OUT]

    def replace(self) -> tuple[float, float]:
        self.c.frames_replace(self.pool, PAGES, self.first, self.taken)
        self.first = PAGES - self.first
        ours = self.taken[OUT]
        return ours, sum(self.plain_taken(self.scattered, 1, whole=False))


@pytest.fixture
def sides(loops: Any) -> Iterator[Sides]:
    both = Sides(loops)
    yield both
    both.close()


def test_publish_single(row: Any, sides: Sides) -> None:
    """Publish a frame that is filled, one page : first touch of a page that is to be filled."""
    row.ratios(sides.frames(IN, sides.scattered, 1, 1), goal=None, rounds=ROUNDS, against="plain mmap")


def test_publish(row: Any, sides: Sides) -> None:
    """Publish frames that are filled, 64 neighbours in a call : first touch of pages that are to be filled."""
    row.ratios(sides.frames(IN, sides.sorted, 64, 64), goal=None, rounds=ROUNDS, against="plain mmap")


def test_withdraw(row: Any, sides: Sides) -> None:
    """Withdraw one page with its content : madvise(DONTNEED) one page, its content lost."""
    row.ratios(sides.frames(OUT, sides.scattered, 1, 1), goal=None, rounds=ROUNDS, against="plain mmap")


def test_withdraw_batch(row: Any, sides: Sides) -> None:
    """Withdraw 64 neighbours in a call with their content : madvise(DONTNEED) once, their content lost."""
    row.ratios(sides.frames(OUT, sides.sorted, 64, 64), goal=None, rounds=ROUNDS, against="plain mmap")


def test_evict(row: Any, sides: Sides) -> None:
    """Evict one page : madvise(DONTNEED) one page."""
    row.ratios(lambda: sides.evict(1), goal=1.05, rounds=ROUNDS, against="plain mmap")


def test_evict_scattered(row: Any, sides: Sides) -> None:
    """Evict 64 scattered pages in one call : madvise(DONTNEED) each."""
    row.ratios(lambda: sides.evict(64), goal=0.40, rounds=ROUNDS, against="plain mmap")


def test_replace(row: Any, sides: Sides) -> None:
    """Replace a victim by a page, to be filled in place : madvise(DONTNEED) one page + first touch of another."""
    row.ratios(sides.replace, goal=None, rounds=ROUNDS, against="plain mmap")


@pytest.fixture
def reader(loops: Any) -> Iterator[None]:
    """A second thread of the process runs on the other core, so that what takes a page away has to reach it."""
    started = loops.c.reader_start()
    if started == loops.ffi.NULL:
        pytest.skip("there is no other core for a reader")
    yield
    loops.c.reader_stop(started)


@pytest.mark.usefixtures("reader")
def test_publish_beside(row: Any, sides: Sides) -> None:
    """Publish, 64 neighbours in a call, beside a second thread : first touch of pages that are to be filled."""
    row.ratios(sides.frames(IN, sides.sorted, 64, 64), goal=None, rounds=ROUNDS, against="plain mmap")


@pytest.mark.usefixtures("reader")
def test_evict_scattered_beside(row: Any, sides: Sides) -> None:
    """Evict 64 scattered pages in one call, beside a second thread : madvise(DONTNEED) each."""
    row.ratios(lambda: sides.evict(64), goal=0.40, rounds=ROUNDS // 2, against="plain mmap")


@pytest.mark.usefixtures("reader")
def test_replace_beside(row: Any, sides: Sides) -> None:
    """Replace a victim by a page, beside a second thread : madvise(DONTNEED) one page + first touch of another."""
    row.ratios(sides.replace, goal=None, rounds=ROUNDS // 2, against="plain mmap")
