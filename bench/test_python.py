"""What Python's own call costs add to the native work."""

from __future__ import annotations

from typing import Any

import bufpool

COUNT = 100_000
CALLS = 2_000


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
            goal=1.30,
            before=before,
            plain_before=plain_before,
            rounds=7,
            against="C",
        )
    loops.c.pool_close(native)


def test_allocate_free(row: Any, loops: Any) -> None:
    """Python allocate() and free(), one page : the same calls in C."""
    native = loops.c.pool_open(CALLS, b"auto", 0)
    with bufpool.Pool(CALLS * 4096) as pool:

        def python() -> None:
            for _ in range(CALLS):
                pool.free(pool.allocate())

        row(python, lambda: loops.c.pool_allocate_free(native, CALLS), per=CALLS, goal=None, against="C")
    loops.c.pool_close(native)


def test_view(row: Any) -> None:
    """A view of a page (page.buffer) : memoryview of a bytearray."""
    plain = bytearray(4096)
    with bufpool.Pool(4096) as pool:
        page = pool.allocate()

        def views() -> None:
            for _ in range(CALLS):
                page.buffer  # noqa: B018

        def memoryviews() -> None:
            for _ in range(CALLS):
                memoryview(plain)

        row(views, memoryviews, per=CALLS, goal=None, against="memoryview")


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
