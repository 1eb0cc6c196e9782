"""Pages of 2 MiB: transparent huge pages and hugetlbfs, filled and freed.

The pages of a round are the next ones of a larger set, so their frames are not in the cache: a buffer pool's victims
are cold. The content comes from memory (as after I/O), or from one page that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

HUGE = 2 << 20
RESIDENT = 64  # pages in use on each side, 128 MiB
WINDOW = 16  # pages freed and allocated again in a round
GROWTH = 128
ROUNDS = 100


class Sides:
    """A pool and a plain mapping of the same memory, RESIDENT pages in use on each, and the data to fill them with."""

    def __init__(self, loops: Any, memory: str, plain_on: Any) -> None:
        self.c = loops.c
        self.pool = loops.pool_on(memory, "uffd", 4 * RESIDENT, HUGE)
        self.numbers = loops.numbers(RESIDENT)
        self.plain = plain_on(loops, memory, RESIDENT, HUGE)
        self.source = plain_on(loops, "thp", RESIDENT, HUGE)
        data = loops.data(HUGE // 4096)
        self.c.plain_copy(self.source.base, RESIDENT, HUGE, data, 1)
        self.c.plain_copy(self.plain.base, RESIDENT, HUGE, self.source.base, RESIDENT)
        self.c.pool_copy(self.pool, RESIDENT, HUGE, self.source.base, RESIDENT, self.numbers)
        self.at = 0
        self.started = False

    def close(self) -> None:
        small = self.c.pool_small_fills(self.pool)
        self.c.pool_close(self.pool)
        self.plain.close()
        self.source.close()
        assert small == 0, f"{small} fills of the pool were not huge pages"

    def next(self) -> None:
        self.at = (self.at + WINDOW) % RESIDENT

    def _source(self, cached: bool, ahead: int) -> tuple[Any, int]:
        if cached:
            return self.source.base, 1
        # Each side has another part of the source, so that neither finds it in the cache.
        return self.source.base + (self.at + ahead) % RESIDENT * HUGE, WINDOW

    def plain_copy(self, cached: bool = False) -> None:
        self.c.plain_copy(self.plain.base + self.at * HUGE, WINDOW, HUGE, *self._source(cached, 0))

    def plain_release(self) -> None:
        self.c.plain_release(self.plain.base, self.plain.fd, self.at, WINDOW, HUGE)

    def pool_copy(self, cached: bool = False) -> None:
        source, batch = self._source(cached, RESIDENT // 2)
        self.c.pool_copy(self.pool, WINDOW, HUGE, source, batch, self.numbers + self.at)

    def pool_free(self) -> None:
        self.c.pool_free_single(self.pool, WINDOW, self.numbers + self.at)


@pytest.fixture
def thp(loops: Any, plain_on: Any) -> Iterator[Sides]:
    both = Sides(loops, "thp", plain_on)
    yield both
    both.close()


@pytest.fixture
def hugetlb(request: pytest.FixtureRequest, loops: Any, plain_on: Any) -> Iterator[Sides]:
    request.getfixturevalue("huge_pages")
    both = Sides(loops, "hugetlb", plain_on)
    yield both
    both.close()


def _fill_resident(row: Any, sides: Sides, cached: bool) -> None:
    def plain_before() -> None:
        sides.next()

    row(
        lambda: sides.pool_copy(cached),
        lambda: sides.plain_copy(cached),
        per=WINDOW,
        goal=1.10,
        before=sides.pool_free,
        plain_before=plain_before,
        rounds=ROUNDS,
        against="resident memory",
    )


def _fill_first_touch(row: Any, sides: Sides) -> None:
    def plain_before() -> None:
        sides.next()
        sides.plain_release()

    row(
        sides.pool_copy,
        sides.plain_copy,
        per=WINDOW,
        goal=None,
        before=sides.pool_free,
        plain_before=plain_before,
        rounds=ROUNDS,
    )


def _free(row: Any, sides: Sides) -> None:
    """Each round fills again what the last one has freed, and then frees the next pages."""

    def plain_before() -> None:
        if sides.started:
            sides.plain_copy()
            sides.pool_copy()
        sides.started = True
        sides.next()

    row(sides.pool_free, sides.plain_release, per=WINDOW, goal=None, plain_before=plain_before, rounds=ROUNDS)
    sides.pool_copy()


def test_thp_fill(row: Any, thp: Sides) -> None:
    """thp, allocate + fill 2 MiB, steady state, data from memory : memcpy into resident memory."""
    _fill_resident(row, thp, cached=False)


def test_thp_fill_cached(row: Any, thp: Sides) -> None:
    """thp, allocate + fill 2 MiB, steady state, data from the cache : memcpy into resident memory."""
    _fill_resident(row, thp, cached=True)


def test_thp_publish(row: Any, loops: Any, thp: Sides) -> None:
    """thp, publish a filled 2 MiB page: allocate + fill, and the memcpy within it."""
    times = loops.ffi.new("uint64_t[]", 2 * WINDOW)

    def before() -> None:
        thp.next()
        thp.pool_free()

    def pairs() -> list[tuple[int, int]]:
        source = thp.source.base + thp.at * HUGE
        thp.c.publish(thp.pool, WINDOW, HUGE, source, thp.numbers + thp.at, times)
        return [(times[2 * i], times[2 * i + 1]) for i in range(WINDOW)]

    row.difference(pairs, before=before, goal=5000, rounds=ROUNDS, against="its memcpy")


def test_thp_fill_touch(row: Any, thp: Sides) -> None:
    """thp, allocate + fill 2 MiB, steady state : first touch with MADV_HUGEPAGE + memcpy."""
    _fill_first_touch(row, thp)


def _grow(row: Any, loops: Any, plain_on: Any, touch: bool, against: str) -> None:
    pool = loops.pool_on("thp", "uffd", 2 * GROWTH, HUGE)
    numbers = loops.numbers(GROWTH)
    plain = plain_on(loops, "thp", GROWTH, HUGE)
    source = plain_on(loops, "thp", WINDOW, HUGE)
    loops.c.plain_copy(source.base, WINDOW, HUGE, loops.data(HUGE // 4096), 1)
    loops.c.plain_copy(plain.base, GROWTH, HUGE, source.base, WINDOW)
    full = [False]

    def grow() -> None:
        loops.c.pool_copy(pool, GROWTH, HUGE, source.base, WINDOW, numbers)
        full[0] = True

    def before() -> None:
        if full[0]:
            loops.c.pool_free_batch(pool, GROWTH, numbers, GROWTH)

    def plain_before() -> None:
        if touch:
            loops.c.plain_release(plain.base, plain.fd, 0, GROWTH, HUGE)

    row(
        grow,
        lambda: loops.c.plain_copy(plain.base, GROWTH, HUGE, source.base, WINDOW),
        per=GROWTH,
        goal=None,
        before=before,
        plain_before=plain_before,
        against=against,
    )
    small = loops.c.pool_small_fills(pool)
    loops.c.pool_close(pool)
    plain.close()
    source.close()
    assert small == 0, f"{small} fills of the pool were not huge pages"


def test_thp_grow(row: Any, loops: Any, plain_on: Any) -> None:
    """thp, allocate + fill 2 MiB, pool growing by 128 : memcpy into resident memory."""
    _grow(row, loops, plain_on, touch=False, against="resident memory")


def test_thp_grow_touch(row: Any, loops: Any, plain_on: Any) -> None:
    """thp, allocate + fill 2 MiB, pool growing by 128 : first touch with MADV_HUGEPAGE + memcpy."""
    _grow(row, loops, plain_on, touch=True, against="plain mmap")


def test_thp_free(row: Any, thp: Sides) -> None:
    """thp, free 2 MiB, steady state : madvise(DONTNEED) of 2 MiB."""
    _free(row, thp)


def test_hugetlb_fill(row: Any, hugetlb: Sides) -> None:
    """hugetlb, allocate + fill 2 MiB, data from memory : memcpy into resident memory."""
    _fill_resident(row, hugetlb, cached=False)


def test_hugetlb_fill_cached(row: Any, hugetlb: Sides) -> None:
    """hugetlb, allocate + fill 2 MiB, data from the cache : memcpy into resident memory."""
    _fill_resident(row, hugetlb, cached=True)


def test_hugetlb_fill_touch(row: Any, hugetlb: Sides) -> None:
    """hugetlb, allocate + fill 2 MiB : first touch of hugetlb + memcpy."""
    _fill_first_touch(row, hugetlb)


def test_hugetlb_free(row: Any, hugetlb: Sides) -> None:
    """hugetlb, free 2 MiB : punching 2 MiB."""
    _free(row, hugetlb)


@pytest.mark.usefixtures("huge_pages")
def test_hugetlb_ways(row: Any, loops: Any, plain_on: Any) -> None:
    """hugetlb, populate a page behind its trap: UFFDIO_COPY : fallocate + memcpy through an alias."""
    armed = plain_on(loops, "hugetlb", WINDOW, HUGE)
    alias = plain_on(loops, "hugetlb", WINDOW, HUGE)
    source = plain_on(loops, "thp", RESIDENT, HUGE)
    loops.c.plain_copy(source.base, RESIDENT, HUGE, loops.data(HUGE // 4096), 1)
    uffd = loops.c.copier_open(armed.base, armed.length)
    if uffd < 0:
        pytest.skip("userfaultfd cannot be had here")
    at = [0]

    def part() -> Any:
        at[0] = (at[0] + WINDOW) % RESIDENT
        return source.base + at[0] * HUGE

    row(
        lambda: loops.c.copier_copy(uffd, armed.base, WINDOW, HUGE, part(), WINDOW),
        lambda: loops.c.fallocate_copy(alias.base, alias.fd, WINDOW, HUGE, part(), WINDOW),
        per=WINDOW,
        goal=None,
        before=lambda: loops.c.plain_release(armed.base, armed.fd, 0, WINDOW, HUGE),
        plain_before=lambda: loops.c.plain_release(alias.base, alias.fd, 0, WINDOW, HUGE),
        rounds=ROUNDS,
        against="fallocate",
    )
    loops.c.copier_close(uffd)
    for mapping in (armed, alias, source):
        mapping.close()
