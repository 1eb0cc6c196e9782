"""What Python's own call costs add to the native work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bufpool
from bufpool._native import ffi, lib

COUNT = 100_000
CALLS = 2_000
BATCH = 512
ROUNDS = 20


def test_allocate_many(row: Any, loops: Any) -> None:
    """Python allocate_many(100_000) : the same call in C."""
    numbers = loops.numbers(COUNT)
    native = loops.c.pool_open(2 * COUNT, b"auto", 0)
    used: list[Any] = []
    full = [False]

    def plain() -> None:
        loops.c.pool_allocate_many(native, COUNT, numbers)
        full[0] = True

    def plain_before() -> None:
        if full[0]:
            loops.c.pool_free_batch(native, COUNT, numbers, COUNT)

    with bufpool.Pool(2 * COUNT * 4096) as pool:

        def before() -> None:
            while used:
                pool.free_many(used.pop())

        row(
            lambda: used.append(pool.allocate_many(COUNT)),
            plain,
            per=COUNT,
            goal=1.15,
            before=before,
            plain_before=plain_before,
            rounds=7,
            against="C",
        )
    loops.c.pool_close(native)


@pytest.mark.parametrize("beyond", ["native calls made from Python", "the same loop in C"])
def test_allocate_free(row: Any, loops: Any, beyond: str) -> None:
    """Python allocate() and free(), one page: the time beyond."""
    # Between two system calls even an empty loop of Python takes its time: the first row is about the package alone.
    row.title += f" {beyond}"
    native = loops.c.pool_open(CALLS, b"auto", 0)
    number = ffi.new("uint64_t *")
    with bufpool.Pool(CALLS * 4096) as pool, bufpool.Pool(CALLS * 4096) as other:

        def python() -> None:
            for _ in range(CALLS):
                pool.free(pool.allocate())

        def calls() -> None:
            handle, allocate, free, null = other.native, lib.bufpool_allocate, lib.bufpool_free, ffi.NULL
            for _ in range(CALLS):
                allocate(handle, null, 0, number)
                free(handle, number[0])

        def loop() -> None:
            loops.c.pool_allocate_free(native, CALLS)

        alone, against = (calls, "native calls") if beyond.startswith("native") else (loop, "C")

        def pairs() -> list[tuple[float, float]]:
            return [(_each(python), _each(alone))]

        pairs()
        goal = 2000 if alone is calls else None
        row.difference(pairs, before=lambda: None, goal=goal, rounds=ROUNDS, against=against)
    loops.c.pool_close(native)


def _each(work: Callable[[], object]) -> float:
    """The nanoseconds of one of its CALLS calls."""
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / CALLS


@pytest.mark.parametrize("what", ["page.buffer", "page.array('u8')", "pool.page(n)"])
def test_view(row: Any, what: str) -> None:
    """Python, a view of a page : memoryview of a bytearray."""
    row.title = row.title.replace("a view of a page", what)
    plain = bytearray(4096)
    with bufpool.Pool(64 * 4096) as pool:
        page = pool.allocate_at(17)

        def buffers() -> None:
            for _ in range(CALLS):
                page.buffer  # noqa: B018

        def arrays() -> None:
            for _ in range(CALLS):
                page.array("u8")

        def pages() -> None:
            for _ in range(CALLS):
                pool.page(17)

        def memoryviews() -> None:
            for _ in range(CALLS):
                memoryview(plain)

        work = {"page.buffer": buffers, "page.array('u8')": arrays, "pool.page(n)": pages}[what]
        row(work, memoryviews, per=CALLS, goal=500, absolute=True, against="memoryview")


def test_guarded_read(row: Any) -> None:
    """Guarded read of 16 bytes (page[0:16]) : slice of a memoryview."""
    with bufpool.Pool(4096) as pool:
        page = pool.allocate(b"x" * 4096)
        view = memoryview(bytearray(4096))

        def guarded() -> None:
            for _ in range(CALLS):
                page[0:16]

        def sliced() -> None:
            for _ in range(CALLS):
                bytes(view[0:16])

        row(guarded, sliced, per=CALLS, goal=None, against="memoryview")


def test_read_many(row: Any) -> None:
    """Guarded read of 512 scattered pages (pool.read_many()) : numpy's copy of as many rows."""
    count = 8 * BATCH
    chosen = np.random.default_rng(1).permutation(count)[:BATCH].astype(np.uint64)
    plain = np.ones((count, 4096), np.uint8)
    ours, others = np.ones((2, BATCH, 4096), np.uint8)
    with bufpool.Pool(count * 4096) as pool:
        pool.allocate_many(count, plain)
        row(
            lambda: pool.read_many(chosen, ours),
            lambda: np.take(plain, chosen, axis=0, out=others, mode="clip"),
            per=BATCH,
            goal=1.15,
            against="numpy.take",
        )


def test_evict_populate_many(row: Any) -> None:
    """Python evict_many() and populate_many(), 512 scattered pages : the same native calls."""
    count = 8 * BATCH
    chosen = np.random.default_rng(1).permutation(count)[:BATCH].astype(np.uint64)
    data = np.ones((BATCH, 4096), np.uint8)
    with bufpool.Pool(count * 4096) as pool, bufpool.Pool(count * 4096) as other:
        for each in (pool, other):
            each.allocate_many(count)
        pages, source = ffi.from_buffer("uint64_t[]", chosen), ffi.from_buffer(data)

        def python() -> None:
            pool.evict_many(chosen)
            pool.populate_many(chosen, data)

        def native() -> None:
            if lib.bufpool_evict_many(other.native, BATCH, pages):
                raise AssertionError("evict")
            if lib.bufpool_populate_many(other.native, BATCH, pages, source):
                raise AssertionError("populate")

        row(python, native, per=BATCH, goal=1.15, against="native calls")
