"""SQLite's page cache in pools: the database pages of Python's own sqlite3 module, whose evicted pages trap."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
from typing import NoReturn

import attrs

from bufpool import sizes
from bufpool._native import ffi, lib
from bufpool.arguments import c_path, c_text, depth_argument, limit_argument, sample_arguments
from bufpool.borrowed import pool_of
from bufpool.errors import SQLiteStateError, UnsupportedError, failure
from bufpool.options import configurable, quarantine_argument
from bufpool.pool import Pool
from bufpool.stats import from_native


@attrs.frozen(kw_only=True)
class SQLiteStats:
    """Counters since install(), over all connections. Sizes are bytes."""

    capacity: int  # the limit
    resident: int  # frames now
    resident_peak: int  # the most there were at once
    pages: int  # SQLite pages in the caches, now
    unpinned: int  # of those, not in use by SQLite at this moment
    caches: int  # now: one for each open database file, and one for each temporary database
    caches_opened: int
    groups: int  # SQLite page sizes in use so far, each with a pool
    hits: int  # fetches that found the page
    misses: int  # fetches that made a new page
    absent: int  # fetches that only asked, and found nothing
    refused: int  # fetches that SQLite has to answer by spilling
    exhausted: int  # fetches that became SQLITE_NOMEM
    recycles: int  # pages that left because their own cache was full (PRAGMA cache_size)
    steals: int  # pages that left because capacity was used up
    evictions: int  # pool pages zapped: their address traps
    populates: int  # pool pages given a frame
    evict_failures: int  # pool pages that left the cache but could not be zapped: these do not trap
    replaced: int  # of the evictions, those whose frame became the new page's in one step
    pins: int  # times a page was pinned, each with its unpin later; 0 with pins "off" and no sample
    left_open: int  # unpins after which the system did not close the page
    sqlite_version: int  # 3040001 is 3.40.1
    library: str  # the file that SQLite came from


@attrs.frozen(kw_only=True)
class SQLiteGroup:
    """The pool of one SQLite page size. Where slots_per_granule is above 1, a page that left may stay accessible."""

    pool: Pool
    sqlite_page_size: int  # bytes, 512 to 65536
    page_size: int  # bytes, of the pool
    slots_per_granule: int
    caches: int  # now
    resident: int  # pool pages with data, now
    resting: int  # pool pages evicted and not given out again, now: their addresses trap
    cushions: int  # pool pages that follow a data page for SQLite's overreads
    address_limit: int  # data pages that the pool has addresses for
    evictions: int
    populates: int
    evict_failures: int
    replaced: int  # of the evictions
    evict: str  # how pages leave a full cache now: "batch" or "replace"
    memory: str
    trap: str


@configurable
def install(
    *,
    capacity: sizes.Size | None = None,
    memory: str = "anon",
    trap: str = "auto",
    on_fault: str = "raise",
    name: str = "sqlite",
    log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
    report_limit: int | None = None,
    provenance: str = "off",
    provenance_depth: int | None = None,
    monitor: bool = False,
    pins: str = "off",
    quarantine: sizes.Size = 0,
    fill: str = "zeros",
    scrub: bool = False,
    sample: int = 0,
    seed: int | None = None,
    evict: str = "auto",
    **refused: NoReturn,
) -> None:
    """Makes the libsqlite3 that the sqlite3 module uses keep its pages in pools, for connections opened from now on.

    capacity is the limit of all connections together, in bytes or text; by default half of the machine's memory. The
    others are as for Pool (of provenance only the native stack: the calls are SQLite's own); the pools are called
    NAME-PAGESIZE. With pins="all" every page that SQLite has unpinned is closed, with "write" read-only; with sample
    one in so many of those that enter a cache is closed. quarantine: bytes of evicted pages that rest at least, beyond
    what rests anyway; fill="pattern": pages hold bufpool.FRESH bytes until SQLite fills them. evict: how pages leave a
    full cache (PRAGMA cache_size), "batch" for several at once, "replace" for the new page to take the old one's frame
    in one step, "auto" for the cheaper one, measured; the old address traps either way. red_zones are refused:
    SQLite reads a little past its pages, on purpose, where a file is damaged. SQLite is shut down and initialised
    again, so that no connection may be open; install before threads start.

    Raises SQLiteStateError (connections are open, installed already), UnsupportedError (SQLite is linked in statically
    or too old; trap or monitor is not to be had), ArgumentError.
    """
    for option in refused:
        raise _refusal(option)
    _refuse_open_connections("install")
    texts = {
        "memory": c_text(memory, "memory"),
        "trap": c_text(trap, "trap"),
        "on_fault": c_text(on_fault, "on_fault"),
        "name": c_text(name, "name"),
        "log": ffi.NULL if log is None else c_path(log, "log"),
        "library": c_text(_extension_file(), "library"),
        "provenance": c_text(provenance, "provenance"),
        "pins": c_text(pins, "pins"),
        "fill": c_text(fill, "fill"),
        "evict": c_text(evict, "evict"),
    }
    values = {
        "size": ffi.sizeof("bufpool_sqlite_config"),
        "capacity": 0 if capacity is None else sizes.parse(capacity, "capacity"),
        "report_limit": 0 if report_limit is None else limit_argument(report_limit),
        "provenance_depth": depth_argument(provenance_depth),
        "monitor": monitor,
        "quarantine": quarantine_argument(quarantine),
        "scrub": scrub,
        **sample_arguments(sample, seed),
    }
    config = ffi.new("bufpool_sqlite_config *", {**values, **texts})
    _check(lib.bufpool_sqlite_install(config))
    lib.bufpool_py_outlive()


def _refusal(option: str) -> Exception:
    if option == "red_zones":
        return UnsupportedError(
            errno.EOPNOTSUPP,
            "red_zones do not go with SQLite: where a file is damaged it reads a little past its pages, on purpose; "
            'an overrun that writes is trapped by pins="write" or pins="all"',
        )
    return TypeError(f"install() got an unexpected keyword argument {option!r}")


def uninstall() -> None:
    """Gives SQLite its own page cache back and closes the pools: late accesses trap as "closed".

    Raises SQLiteStateError (connections are open, not installed).
    """
    if installed():
        _refuse_open_connections("uninstall")
    _check(lib.bufpool_sqlite_uninstall())


def installed() -> bool:
    """Whether SQLite's pages are in pools."""
    return bool(lib.bufpool_sqlite_installed())


def pools() -> tuple[Pool, ...]:
    """The pools, one for each SQLite page size in use, which only SQLite may change; none when not installed."""
    handles = ffi.new("bufpool_pool *[16]")
    return tuple(pool_of(handles[i]) for i in range(lib.bufpool_sqlite_pools(handles, 16)))


def stats() -> SQLiteStats:
    """The counters. Raises SQLiteStateError when not installed."""
    statistics = ffi.new("bufpool_sqlite_statistics *", {"size": ffi.sizeof("bufpool_sqlite_statistics")})
    _check(lib.bufpool_sqlite_stats(statistics))
    return from_native(SQLiteStats, statistics)


def groups() -> tuple[SQLiteGroup, ...]:
    """Each pool with its counters, in the order of pools(). Raises SQLiteStateError when not installed."""
    group = ffi.new("bufpool_sqlite_group *", {"size": ffi.sizeof("bufpool_sqlite_group")})
    found = []
    for index in range(stats().groups):
        _check(lib.bufpool_sqlite_group_stats(index, group))
        found.append(from_native(SQLiteGroup, group, pool=pool_of(group.pool)))
    return tuple(found)


def _extension_file() -> str:
    """The file of Python's own extension module, through which C finds the very libsqlite3 that it is linked to."""
    import _sqlite3

    path: str | None = getattr(_sqlite3, "__file__", None)
    if path is None:
        raise UnsupportedError(
            errno.EOPNOTSUPP,
            "this Python has its sqlite3 module built in, and SQLite with it; "
            "install() needs a Python whose _sqlite3 is a file of its own, linked to libsqlite3.so",
        )
    return path


def _refuse_open_connections(what: str) -> None:
    """SQLite itself does not count its connections. C asks for its memory in use; this sentence helps more."""
    connections = sum(_is_open(item) for item in gc.get_objects() if issubclass(type(item), sqlite3.Connection))
    if connections:
        plural = "connection is" if connections == 1 else "connections are"
        raise SQLiteStateError(
            f"{connections} sqlite3 {plural} open in this process; close() before {what}(), "
            "since SQLite takes a page cache only while it is shut down"
        )


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.in_transaction  # noqa: B018 (unlike other members it may be asked from any thread)
    except sqlite3.ProgrammingError:
        return False
    return True


def _check(code: int) -> None:
    if code == 0:
        return
    buffer = ffi.new("char[]", 1024)
    lib.bufpool_sqlite_last_error(buffer, 1024)
    sentence = ffi.string(buffer).decode("utf-8", "replace")
    raise SQLiteStateError(sentence) if code == lib.BUFPOOL_ESTATE else failure(code, sentence)
