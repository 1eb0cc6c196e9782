"""Enforced pins beside mprotect: a page is opened, touched and closed again; and the calls of pools without pins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import bufpool

HUGE_MEMORIES = ("hugetlb", "path")
CELLS = [
    (entry.memory, entry.trap)
    for entry in bufpool.capabilities().entries
    if entry.valid and entry.trap not in ("none", "noautofill") and entry.memory != "thp"
]
ROUNDS = 40
MODES = ("all", "write")


class Sides:
    """A pool with pins, and a plain mapping of the same memory; all pages are filled, and closed."""

    def __init__(self, loops: Any, plain_on: Any, cell: tuple[str, str, str], huge: bool) -> None:
        memory, trap, pins = cell
        self.c = loops.c
        self.write = int(pins == "write")
        self.size, self.count = (2 << 20, 8) if huge else (4096, 256)
        self.cycles = (2 if huge else 8) * self.count
        self.pool = loops.pool_on(memory, trap, self.count, self.size, pins)
        self.plain = plain_on(loops, memory, self.count, self.size)
        source, numbers = loops.data(self.size // 4096), loops.numbers(self.count)
        self.c.plain_copy(self.plain.base, self.count, self.size, source, 1)
        self.c.pool_copy(self.pool, self.count, self.size, source, 1, numbers)

    def close(self) -> None:
        self.c.pool_close(self.pool)
        self.plain.close()

    def pin(self) -> None:
        self.c.pin_cycles(self.pool, self.count, self.size, self.cycles, self.write)

    def mprotect(self) -> None:
        self.c.mprotect_cycles(self.plain.base, self.count, self.size, self.cycles, self.write)

    def measure(self, row: Any, **more: Any) -> None:
        row(self.pin, self.mprotect, per=self.cycles, rounds=ROUNDS, against="mprotect on + off", **more)


@pytest.fixture
def sides(request: pytest.FixtureRequest, loops: Any, plain_on: Any) -> Iterator[Sides]:
    memory, trap, pins = request.param
    if memory == "hugetlb":
        request.getfixturevalue("huge_pages")
    where = request.getfixturevalue("huge_directory") if memory == "path" else memory
    both = Sides(loops, plain_on, (where, trap, pins), huge=memory in HUGE_MEMORIES)
    yield both
    both.close()


@pytest.fixture
def reader(loops: Any) -> Iterator[None]:
    started = loops.c.reader_start()
    if started == loops.ffi.NULL:
        pytest.skip("there is no other core for a reader")
    yield
    loops.c.reader_stop(started)


@pytest.mark.parametrize("sides", [("anon", "auto", "all")], indirect=True)
def test_all(row: Any, sides: Sides) -> None:
    """pins="all", pin + unpin one page for reading : mprotect on + off."""
    sides.measure(row, goal=0.5)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("sides", [("anon", "auto", "all")], indirect=True)
def test_all_beside_reader(row: Any, sides: Sides) -> None:
    """pins="all", pin + unpin one page for reading, beside a reader : mprotect on + off."""
    sides.measure(row, goal=0.9)


@pytest.mark.parametrize("sides", [("anon", "auto", "write")], indirect=True)
def test_write(row: Any, sides: Sides) -> None:
    """pins="write", pin + unpin one page for writing : mprotect on + off."""
    sides.measure(row, goal=0.5)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("sides", [("anon", "auto", "write")], indirect=True)
def test_write_beside_reader(row: Any, sides: Sides) -> None:
    """pins="write", pin + unpin one page for writing, beside a reader : mprotect on + off."""
    sides.measure(row, goal=0.9)


@pytest.mark.parametrize("sides", [("hugetlb", "auto", "all")], indirect=True)
def test_huge(row: Any, sides: Sides) -> None:
    """pins="all", pin + unpin one page of 2 MiB for reading."""
    sides.measure(row, goal=5000, absolute=True)


@pytest.mark.parametrize("sides", [(*cell, pins) for cell in CELLS for pins in MODES], ids="-".join, indirect=True)
def test_cell(row: Any, sides: Sides, request: pytest.FixtureRequest) -> None:
    """Pin + unpin one page : mprotect on + off."""
    memory, trap, pins = request.node.callspec.params["sides"]
    sides.measure(row, goal=None, cell=(memory, trap, pins))


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("sides", [(*cell, pins) for cell in CELLS for pins in MODES], ids="-".join, indirect=True)
def test_cell_beside_reader(row: Any, sides: Sides, request: pytest.FixtureRequest) -> None:
    """The same, with a reader on the other core."""
    memory, trap, pins = request.node.callspec.params["sides"]
    sides.measure(row, goal=None, cell=(memory, trap, f"{pins}, reader"))


@pytest.mark.parametrize("words", [1, 512], ids=["word", "page"])
def test_off(row: Any, loops: Any, words: int) -> None:
    """pins="off", pin and unpin around reading."""
    row.title += f" {'one word' if words == 1 else 'a page'} : the reading"
    pool = loops.pool_on("anon", "auto", 1, 4096, "off")
    loops.c.pool_allocate_many(pool, 1, loops.numbers(1))
    count = 100_000

    def timed(function: Any) -> float:
        start = time.perf_counter_ns()
        function(pool, words, count)
        return (time.perf_counter_ns() - start) / count

    def pairs() -> list[tuple[float, float]]:
        return [(timed(loops.c.sum_pinned), timed(loops.c.sum_plainly))]

    row.difference(pairs, before=lambda: None, goal=5, rounds=50, against="the reading alone")
    loops.c.pool_close(pool)


def test_sampled(row: Any, loops: Any) -> None:
    """sample=1000, a look-up in a page of sorted keys that is pinned for it : without sampling"""
    pages, count = 4096, 200_000
    data = loops.ffi.from_buffer("char[]", b"".join(key.to_bytes(8, "little") for key in range(512)))
    pools = [loops.c.pool_sampled(one_in, pages) for one_in in (1000, 0)]
    sides = []
    for pool in pools:
        loops.c.pool_copy(pool, pages, 4096, data, 1, loops.numbers(pages))
        sides.append(lambda pool=pool: loops.c.search_pinned(pool, pages, count))
    for _ in range(10):  # a guarded page is guarded at each of its first uses, and seldom later
        sides[0]()
    row(*sides, per=count, rounds=ROUNDS, goal=1.02, against="the same without sampling")
    for pool in pools:
        loops.c.pool_close(pool)
