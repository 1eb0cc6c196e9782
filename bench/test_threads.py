"""Threads that allocate and free at the same time."""

from __future__ import annotations

from typing import Any

import pytest

PART = 8192  # pages for each thread
COUNT = 5000  # pages that each thread frees and allocates in a round
THREADS = (1, 2, 3, 4)


@pytest.mark.parametrize("threads", THREADS, ids=lambda n: f"{n} thread{'s' * (n > 1)}")
@pytest.mark.parametrize("trap", ["auto", "none"], ids=["trapped", "trap none"])
def test_threads(row: Any, loops: Any, trap: str, threads: int) -> None:
    """Free one page, allocate + fill one, by threads at the same time : madvise + memcpy by as many threads."""
    c = loops.c
    row.title = f"Free, allocate + fill one, {threads} at a time, trap {trap} : madvise + memcpy by as many"
    pool = c.pool_open(max(THREADS) * PART, trap.encode(), 0)
    plain = c.plain_open(max(THREADS) * PART, 1)

    row(
        lambda: c.pool_by_threads(pool, threads, COUNT),
        lambda: c.plain_by_threads(plain, PART, threads, COUNT),
        per=COUNT * threads,
        goal=1.0 if trap == "auto" else None,
    )
    c.plain_close(plain, max(THREADS) * PART)
    c.pool_close(pool)
