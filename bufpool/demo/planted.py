"""The planted bug, in a process of its own: a pointer into a page is kept, and used after the page was evicted.

`python -m bufpool.demo.planted`, see _child.
"""

from __future__ import annotations

import ctypes
import random
import sqlite3
from pathlib import Path
from typing import Any, Protocol

import bufpool
from bufpool import _child
from bufpool.errors import BufpoolError

MARK = b"SCRIBBLE"
_READ = 16  # bytes through the kept pointer
_TOUCHED = 100
_STEPS = 5000  # at most, until a page was evicted or used again
_SCAN = "SELECT text FROM line"
_WORD = b"import"
_LEAF = 10  # the first byte of a leaf, in SQLite's file format, of a table WITHOUT ROWID


class Engine(Protocol):
    """Something that keeps a database file's pages in a pool."""

    pool: bufpool.Pool

    def planted(self) -> int:
        """The number of a page that holds data."""

    def work(self) -> None:
        """Goes on for a moment: pages are evicted, and their addresses used again later."""


class SQLiteEngine:
    """SQLite itself, on a page cache of the default size."""

    def __init__(self, path: str, trap: str) -> None:
        bufpool.sqlite.install(trap=trap)
        self.database = sqlite3.connect(path)
        self.database.execute("SELECT text FROM line WHERE file = 0").fetchall()
        self.pool = bufpool.sqlite.pools()[0]
        self.rows = self.database.execute(_SCAN)

    def planted(self) -> int:
        """A page of the lines that were just read."""
        for number in self.pool.pages("allocated"):
            content = bytes(self.pool.page(int(number)))
            # Inner pages of the tree are in use all the time, and stay.
            if content[0] == _LEAF and _WORD in content:
                return int(number)
        raise BufpoolError("no page of SQLite's cache holds the lines that were just read")

    def work(self) -> None:
        """Some pages more of a scan over the whole table."""
        if not self.rows.fetchmany(1000):
            self.rows = self.database.execute(_SCAN)


class PlainEngine:
    """Where SQLite takes no page cache: the same file's pages, read into a pool by hand."""

    def __init__(self, path: str, trap: str) -> None:
        self.pool = bufpool.Pool("4 MiB", trap=trap, name="demo")
        with Path(path).open("rb") as file:
            self.content = [file.read(self.pool.page_size) for _ in range(2 * _TOUCHED)]
        self.numbers = [self.pool.allocate(data).number for data in self.content]

    def planted(self) -> int:
        """The database's first page."""
        return self.numbers[0]

    def work(self) -> None:
        """Evicts every page, or brings every page back."""
        if self.pool.state(self.numbers[0]) == "evicted":
            self.pool.populate_many(self.numbers, b"".join(self.content))
        else:
            self.pool.evict_many(self.numbers)


def answer(*, path: str, trap: str, sqlite: bool) -> dict[str, Any]:
    """Keeps a pointer, lets the page be evicted, reads and writes through it; then touches evicted pages at random.

    trap is "auto" or "none"; with sqlite the pages are those of SQLite's own cache.
    """
    engine: Engine = SQLiteEngine(path, trap) if sqlite else PlainEngine(path, trap)
    pool = engine.pool
    number = engine.planted()
    # Into the middle of the page's lines, as an engine's cursor has it.
    offset = min(max(bytes(pool.page(number)).find(_WORD), 0), pool.page_size - _READ)
    address = pool.page(number).address + offset
    before = ctypes.string_at(address, _READ)
    _until(engine, number, "evicted")
    with bufpool.catch_faults() as read:
        seen = ctypes.string_at(address, _READ)
    with bufpool.catch_faults() as written:
        ctypes.memmove(address, MARK, len(MARK))
    reports = [*read.reports, *written.reports]
    result = {
        "trap": pool.trap,
        "address": address,
        "before": before.decode("latin-1"),
        "seen": seen.decode("latin-1"),
        "reports": [_summary(report) for report in reports],
        "text": str(reports[0]) if reports else None,
    }
    if not reports:
        # The write seems to have worked, until the page is used again.
        result["seems"] = ctypes.string_at(address, len(MARK)) == MARK
        _until(engine, number, "allocated")
        result["kept"] = ctypes.string_at(address, len(MARK)) == MARK
    return {**result, **_touch_at_random(engine)}


def _until(engine: Engine, number: int, state: str) -> None:
    for _ in range(_STEPS):
        if engine.pool.state(number) == state:
            return
        engine.work()
    raise BufpoolError(f"page {number} is {engine.pool.state(number)}, not {state}, after {_STEPS} steps of a scan")


def _touch_at_random(engine: Engine) -> dict[str, Any]:
    """Reads and writes one byte of evicted pages in turn. Each must be reported once, with its very address."""
    pool = engine.pool
    for _ in range(_STEPS):
        evicted = pool.pages("evicted").tolist()
        if len(evicted) >= _TOUCHED:
            break
        engine.work()
    numbers = random.sample(evicted, min(_TOUCHED, len(evicted)))
    missed = []
    for turn, number in enumerate(numbers):
        access = ("read", "write")[turn % 2]
        address = pool.page(number).address + random.randrange(pool.page_size)
        with bufpool.catch_faults() as caught:
            byte = ctypes.c_ubyte.from_address(address)
            if access == "read":
                _ = byte.value
            else:
                byte.value = 1
        expected = {"address": address, "access": access, "page": number, "state": "evicted"}
        if [_summary(report) for report in caught.reports] != [expected]:
            missed.append(expected)
    return {"touched": len(numbers), "missed": missed}


def _summary(report: bufpool.FaultReport) -> dict[str, Any]:
    return {"address": report.address, "access": report.access, "page": report.page, "state": report.state}


if __name__ == "__main__":
    _child.serve(answer)
