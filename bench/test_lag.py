"""Frames that go from page to page: what free_lag saves, and what is left above an engine that keeps its frames."""

from __future__ import annotations

from typing import Any

BATCH = 256  # pages that both sides hold: 1 MiB, so the frames are warm
COUNT = 4 * BATCH
LAG = 64


def _filled(loops: Any, lag: int) -> tuple[Any, Any, Any]:
    pool, numbers, data = loops.c.lag_open(4 * BATCH, lag), loops.numbers(BATCH), loops.data(BATCH)
    loops.c.pool_fill_single(pool, BATCH, data, BATCH, numbers)
    return pool, numbers, data


def test_recycled(row: Any, loops: Any) -> None:
    """Free one page, allocate + fill one, free_lag : memcpy into a frame that an untrapped engine keeps for ever."""
    pool, numbers, data = _filled(loops, LAG)
    plain = loops.c.plain_open(BATCH, 1)
    loops.c.lag_plain(plain, COUNT, data, BATCH)
    row(
        lambda: loops.c.lag_recycle(pool, COUNT, data, BATCH, numbers),
        lambda: loops.c.lag_plain(plain, COUNT, data, BATCH),
        per=COUNT,
        goal=None,
        against="frames kept",
        note=f"free_lag={LAG}: up to so many freed pages do not trap yet",
        rounds=100,
    )
    loops.c.pool_close(pool)
    loops.c.plain_close(plain, BATCH)


def test_recycled_against_trapping(row: Any, loops: Any) -> None:
    """Free one page, allocate + fill one, free_lag : the same without it, where each free traps at once."""
    lagging, lagging_numbers, data = _filled(loops, LAG)
    trapping, trapping_numbers, _ = _filled(loops, 0)
    row(
        lambda: loops.c.lag_recycle(lagging, COUNT, data, BATCH, lagging_numbers),
        lambda: loops.c.lag_recycle(trapping, COUNT, data, BATCH, trapping_numbers),
        per=COUNT,
        goal=None,
        against="free_lag=0",
        note=f"free_lag={LAG}: up to so many freed pages do not trap yet",
        rounds=100,
    )
    loops.c.pool_close(lagging)
    loops.c.pool_close(trapping)
