"""Access to resident pages: a trapped pool must cost nothing.

Which frames a mapping happens to get decides a few percent (cache sets, the host's own pages below a virtual machine),
so both sides are mapped and filled anew for each round, their frames drawn in turn from the same supply.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import bufpool

PAGES = 65536  # 256 MiB, far beyond the caches
RANDOM = 2_000_000
ROUNDS = 20
BATCH = 512
MONITOR = 64  # BUFPOOL_MONITOR


class Sides:
    """A pool and a plain mapping, all pages resident and written."""

    def __init__(self, loops: Any, flags: int = 0) -> None:
        self.loops = loops
        self.flags = flags
        self.data = loops.data(BATCH)
        self.numbers = loops.numbers(PAGES)
        self.rounds = 0
        self.pool: Any = None
        self.plain: Any = None

    def close(self) -> None:
        if self.pool is not None:
            self.loops.c.pool_close(self.pool)
            self.loops.c.plain_close(self.plain, PAGES)
        self.pool = None

    def open(self) -> None:
        c = self.loops.c
        self.pool = c.pool_open(PAGES, b"auto", self.flags)
        self.plain = c.plain_open(PAGES, 1)
        self.base = c.pool_base(self.pool)

    def refill(self, pool_first: bool) -> None:
        self.close()
        self.open()
        c = self.loops.c
        for at in range(0, PAGES, BATCH):
            fills: list[Callable[[], object]] = [
                partial(c.pool_fill_batch, self.pool, BATCH, self.data, BATCH, self.numbers + at),
                partial(c.plain_fill, self.plain + at * 4096, BATCH, self.data, BATCH),
            ]
            for fill in fills if pool_first else reversed(fills):
                fill()


class Attached(Sides):
    """A pool that was attached to, its pages filled by way of the pool that was opened; and a file that is mapped."""

    def __init__(self, loops: Any, plain_on: Any) -> None:
        super().__init__(loops)
        self.plain_on = plain_on
        self.fds = loops.ffi.new("int[2]")

    def open(self) -> None:
        self.pool = self.loops.c.pool_shared(PAGES, self.fds)
        self.attached = self.loops.c.pool_attach(self.fds)
        self.base = self.loops.c.pool_base(self.attached)
        self.file = self.plain_on(self.loops, "shared", PAGES, 4096)
        self.plain = self.file.base

    def close(self) -> None:
        if self.pool is not None:
            self.loops.c.pool_close(self.attached)
            self.loops.c.pool_close(self.pool)
            for fd in self.fds:
                os.close(fd)
            self.file.close()
        self.pool = None


@pytest.fixture
def attached(loops: Any, plain_on: Any) -> Iterator[Sides]:
    both = Attached(loops, plain_on)
    yield both
    both.close()


@pytest.fixture
def monitored(loops: Any) -> Iterator[Sides]:
    try:
        bufpool.Pool("64 KiB", monitor=True).close()
    except bufpool.UnsupportedError as error:
        pytest.skip(str(error))
    both = Sides(loops, MONITOR)
    yield both
    both.close()


@pytest.fixture
def sides(loops: Any) -> Iterator[Sides]:
    both = Sides(loops)
    yield both
    both.close()


def _measure(row: Any, sides: Sides, access: Callable[[Any], object], per: int) -> None:
    def before_round() -> None:
        sides.refill(pool_first=sides.rounds % 2 == 0)
        sides.rounds += 1
        # Untimed, so that each timed pass comes after a pass over the other side: the caches are in the same state.
        access(sides.plain)
        access(sides.base)

    row(
        lambda: access(sides.base),
        lambda: access(sides.plain),
        per=per,
        goal=1.02,
        plain_before=before_round,
        rounds=ROUNDS,
    )


def test_read_sequential(row: Any, loops: Any, sides: Sides) -> None:
    """Read resident pages, sequential."""
    _measure(row, sides, lambda base: loops.c.read_all(base, PAGES), PAGES)


def test_write_sequential(row: Any, loops: Any, sides: Sides) -> None:
    """Write resident pages, sequential."""
    _measure(row, sides, lambda base: loops.c.write_all(base, PAGES, 1), PAGES)


def test_read_random(row: Any, loops: Any, sides: Sides) -> None:
    """Read a word, random."""
    _measure(row, sides, lambda base: loops.c.read_random(base, PAGES, RANDOM, 1), RANDOM)


def test_write_random(row: Any, loops: Any, sides: Sides) -> None:
    """Write a word, random."""
    _measure(row, sides, lambda base: loops.c.write_random(base, PAGES, RANDOM, 1), RANDOM)


def test_read_random_monitored(row: Any, loops: Any, monitored: Sides) -> None:
    """Read a word, random, pool with monitor=True."""
    _measure(row, monitored, lambda base: loops.c.read_random(base, PAGES, RANDOM, 1), RANDOM)


def test_write_random_monitored(row: Any, loops: Any, monitored: Sides) -> None:
    """Write a word, random, pool with monitor=True."""
    _measure(row, monitored, lambda base: loops.c.write_random(base, PAGES, RANDOM, 1), RANDOM)


def test_read_random_attached(row: Any, loops: Any, attached: Sides) -> None:
    """Read a word, random, pool attached to : plain shared mmap."""
    _measure(row, attached, lambda base: loops.c.read_random(base, PAGES, RANDOM, 1), RANDOM)


def test_write_random_attached(row: Any, loops: Any, attached: Sides) -> None:
    """Write a word, random, pool attached to : plain shared mmap."""
    _measure(row, attached, lambda base: loops.c.write_random(base, PAGES, RANDOM, 1), RANDOM)
