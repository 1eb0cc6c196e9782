"""Opening a pool: milliseconds and little memory at any size."""

from __future__ import annotations

from typing import Any

import pytest

GIB = 1 << 30
CAPACITIES = [GIB << shift for shift in range(0, 15, 2)]  # to 16 TiB
HUGE_MEMORIES = ("thp", "hugetlb")
MEMORIES = ("plain mmap", "anon", "thp", "shared", "hugetlb")
ROUNDS = 15
SPREAD = 1000  # pages at equal distances over the whole capacity


def test_open_16_tib(row: Any, loops: Any) -> None:
    """Open and close a pool of 16 TiB : mmap and munmap of 16 TiB."""
    pages = CAPACITIES[-1] // 4096
    row(
        lambda: loops.c.pool_close(loops.c.pool_open(pages, b"auto", 0)),
        lambda: loops.c.plain_close(loops.c.plain_open(pages, 1), pages),
        per=1,
        goal=5e6,
        absolute=True,
    )


def test_open_16_tib_memory(row: Any, loops: Any) -> None:
    """Private memory and page tables of an open pool of 16 TiB, no page allocated : of a mapping of 16 TiB."""
    figures = loops.ffi.new("double[4]")

    def taken(memory: bytes) -> list[float]:
        found = []
        for _ in range(5):
            assert loops.c.open_memory(memory, CAPACITIES[-1], 4096, 0, figures)
            found.append(max(0.0, figures[0] + figures[1]))
        return found

    row.benchmark.pedantic(lambda: row.memory(taken(b"anon"), taken(b"plain"), goal=2 << 20, against="plain mmap"))


def test_state(row: Any, loops: Any) -> None:
    """Page state and free list, by the page, 262144 pages allocated : an array of 8 bytes a page."""

    def measure() -> None:
        row.memory([loops.c.state_bytes(262144) for _ in range(3)], [8.0] * 3, goal=8, against="8 bytes")

    row.benchmark.pedantic(measure)


def _can_open(request: pytest.FixtureRequest, loops: Any, memory: str, size: int) -> bytes:
    """The memory's name for the loops."""
    if memory == "hugetlb":
        request.getfixturevalue("huge_pages")
    if memory == "plain mmap":
        return b"plain"
    loops.c.pool_close(loops.pool_on(memory, "auto", CAPACITIES[-1] // size, size))
    return memory.encode()


@pytest.mark.parametrize("memory", MEMORIES)
def test_open_time(request: pytest.FixtureRequest, row: Any, loops: Any, memory: str) -> None:
    """Open and close, by capacity."""
    row.title += f": {memory}"
    size = 2 << 20 if memory in HUGE_MEMORIES else 4096
    name = _can_open(request, loops, memory, size)
    found: dict[int, list[float]] = {capacity: [] for capacity in CAPACITIES}

    def measure() -> None:
        for capacity, times in found.items():
            times.append(loops.c.open_close(name, capacity, size))

    row.benchmark.pedantic(measure, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    for capacity, times in found.items():
        row.point("open time", memory, capacity, times)


@pytest.mark.parametrize("memory", MEMORIES)
def test_open_memory(request: pytest.FixtureRequest, row: Any, loops: Any, memory: str) -> None:
    """Memory of an open pool, by capacity."""
    row.title += f": {memory}"
    size = 2 << 20 if memory in HUGE_MEMORIES else 4096
    name = _can_open(request, loops, memory, size)
    spread = 0 if memory in HUGE_MEMORIES else SPREAD
    found: dict[int, list[list[float]]] = {capacity: [] for capacity in CAPACITIES}
    figures = loops.ffi.new("double[4]")

    def measure() -> None:
        for capacity, each in found.items():
            assert loops.c.open_memory(name, capacity, size, spread, figures)
            each.append(list(figures))

    row.benchmark.pedantic(measure, rounds=5, iterations=1, warmup_rounds=1)
    for capacity, each in found.items():
        private, tables, spread_private, spread_tables = zip(*each, strict=True)
        if memory != "plain mmap":
            both = [max(0.0, a + b) for a, b in zip(private, tables, strict=True)]
            row.point("open memory", f"{memory}, no page allocated", capacity, both, "bytes")
        if spread:
            both = [max(0.0, a + b) for a, b in zip(spread_private, spread_tables, strict=True)]
            row.point("open memory", f"{memory}, {SPREAD} pages spread over it", capacity, both, "bytes")
