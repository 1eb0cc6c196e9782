"""One run of the queries, in a process of its own: `python -m bufpool.demo.worker`, see _child."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import attrs

from bufpool import _child, sqlite
from bufpool.demo.counters import Counters
from bufpool.demo.queries import ask


def answer(
    *, path: str, trapped: bool, cache_pages: int | None, pins: str = "off", evict: str = "auto"
) -> dict[str, Any]:
    """Asks all queries, with the trapped pool or with SQLite's own page cache.

    cache_pages is the cache's size; None: SQLite's default.
    """
    if trapped:
        # The cache's size is the limit here, as for SQLite's own; the pool has room for more.
        sqlite.install(capacity=max(Path(path).stat().st_size * 2, 1 << 26), pins=pins, evict=evict)
    try:
        counters = Counters(Path(path))
        database = counters.database
    except (AttributeError, OSError):  # SQLite's C functions cannot be reached
        counters, database = None, sqlite3.connect(path)
    if cache_pages is not None:
        database.execute(f"PRAGMA cache_size = {cache_pages}")
    start = time.perf_counter()
    answers = ask(database)
    seconds = time.perf_counter() - start
    counted = _pool_counts() if trapped else _stock_counts(counters)
    return {"seconds": seconds, "answers": {name: attrs.asdict(value) for name, value in answers.items()}, **counted}


def _pool_counts() -> dict[str, Any]:
    stats, group = sqlite.stats(), sqlite.groups()[0]
    return {"pages": stats.resident_peak // group.page_size, "evictions": stats.evictions, "trap": group.trap}


def _stock_counts(counters: Counters | None) -> dict[str, Any]:
    if counters is None:
        return {"pages": None, "evictions": None, "trap": None}
    held, peak = counters.pages()
    # SQLite does not count evictions: they are the pages that it has read and no longer holds.
    return {"pages": peak, "evictions": max(counters.misses() - held, 0), "trap": None}


if __name__ == "__main__":
    _child.serve(answer)
