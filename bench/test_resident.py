"""Access to resident pages: a trapped pool must cost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

PAGES = 32768  # 128 MiB, beyond every cache
RANDOM = 2_000_000


@pytest.fixture(scope="module")
def sides(loops: Any) -> Iterator[tuple[Any, Any]]:
    """(pool's base, plain base), all pages resident and written."""
    pool = loops.c.pool_open(PAGES, b"auto", 0)
    plain = loops.c.plain_open(PAGES, 1)
    data = loops.data(512)
    loops.c.plain_fill(plain, PAGES, data, 512)
    loops.c.pool_fill_batch(pool, PAGES, data, 512, loops.numbers(PAGES))
    yield loops.c.pool_base(pool), plain
    loops.c.pool_close(pool)
    loops.c.plain_close(plain, PAGES)


def test_read_sequential(row: Any, loops: Any, sides: tuple[Any, Any]) -> None:
    """Read resident pages, sequential."""
    pool, plain = sides
    row(lambda: loops.c.read_all(pool, PAGES), lambda: loops.c.read_all(plain, PAGES), per=PAGES, goal=1.02)


def test_write_sequential(row: Any, loops: Any, sides: tuple[Any, Any]) -> None:
    """Write resident pages, sequential."""
    pool, plain = sides
    row(lambda: loops.c.write_all(pool, PAGES, 1), lambda: loops.c.write_all(plain, PAGES, 1), per=PAGES, goal=1.02)


def test_read_random(row: Any, loops: Any, sides: tuple[Any, Any]) -> None:
    """Read a word, random."""
    pool, plain = sides
    read = loops.c.read_random
    row(lambda: read(pool, PAGES, RANDOM, 1), lambda: read(plain, PAGES, RANDOM, 1), per=RANDOM, goal=1.02)


def test_write_random(row: Any, loops: Any, sides: tuple[Any, Any]) -> None:
    """Write a word, random."""
    pool, plain = sides
    write = loops.c.write_random
    row(lambda: write(pool, PAGES, RANDOM, 1), lambda: write(plain, PAGES, RANDOM, 1), per=RANDOM, goal=1.02)
