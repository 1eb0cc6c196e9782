"""Pages that SQLite's own page cache holds and reads, by its C functions: Python's module does not show them."""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Callable
from pathlib import Path

# From sqlite3.h; these numbers never change.
_PAGECACHE_OVERFLOW = 2
_PAGECACHE_SIZE = 7
_CACHE_MISS = 8


class Counters:
    """The counters of one connection and of its process's page cache."""

    def __init__(self, path: Path) -> None:
        """Opens database. Raises AttributeError or OSError where SQLite's C functions cannot be reached."""
        import _sqlite3

        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._handle = 0
        # SQLite hands each new connection to its automatic extensions: the way to the handle behind Python's object.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        entry = kind(self._remember)
        self._library.sqlite3_auto_extension(entry)
        try:
            self.database = sqlite3.connect(path)
        finally:
            self._library.sqlite3_cancel_auto_extension(entry)

    def _remember(self, handle: int, _message: int, _functions: int) -> int:
        self._handle = handle
        return 0

    def misses(self) -> int:
        """Pages that were not in the cache when they were wanted."""
        handle = ctypes.c_void_p(self._handle)
        return _ask(lambda now, peak: self._library.sqlite3_db_status(handle, _CACHE_MISS, now, peak, 0))[0]

    def pages(self) -> tuple[int, int]:
        """Pages held now, and at most so far."""
        now, peak = self._status(_PAGECACHE_OVERFLOW)
        size = self._status(_PAGECACHE_SIZE)[1]  # bytes of the largest page with its header
        return (now // size + self._block(), peak // size + self._block()) if size else (0, 0)

    def _block(self) -> int:
        """Pages that a cache allocates in one block beforehand, and does not count."""
        name = "DEFAULT_PCACHE_INITSZ="
        options = [option for (option,) in self.database.execute("PRAGMA compile_options")]
        return next((int(option.removeprefix(name)) for option in options if option.startswith(name)), 0)

    def _status(self, what: int) -> tuple[int, int]:
        return _ask(lambda now, peak: self._library.sqlite3_status(what, now, peak, 0))


def _ask(function: Callable[..., int]) -> tuple[int, int]:
    now, peak = ctypes.c_int(), ctypes.c_int()
    function(ctypes.byref(now), ctypes.byref(peak))
    return now.value, peak.value
