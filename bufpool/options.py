"""What a pool is opened with, and attached to: the fields of bufpool_config, checked and made ready for C."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from bufpool import sizes
from bufpool._native import ffi, lib
from bufpool.arguments import c_path, c_text, depth_argument, limit_argument, nodes_text
from bufpool.errors import ArgumentError


def sizes_of(capacity: sizes.Size, page_size: sizes.Size | None, granule: sizes.Size | None) -> dict[str, int]:
    """In bytes; 0: what the memory has for it."""
    return {
        "capacity": sizes.parse(capacity, "capacity", "from one page to 16 TiB"),
        "page_size": 0
        if page_size is None
        else sizes.parse(page_size, "page_size", "from 4 KiB to 1 GiB, or None for one granule"),
        "granule": 0 if granule is None else sizes.parse(granule, "granule", "a huge page size of this machine"),
    }


def texts(memory: str | os.PathLike[str], name: str | None, numa: str | Iterable[int] | None) -> dict[str, Any]:
    """What the pool is, for all who have it."""
    return {
        "memory": c_path(memory, "memory") if isinstance(memory, os.PathLike) else c_text(memory, "memory"),
        "name": ffi.NULL if name is None else c_text(name, "name"),
        "numa": ffi.NULL if numa is None else c_text(nodes_text(numa), "numa"),
    }


def own(
    *,
    trap: str,
    on_fault: str,
    log: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None,
    report_limit: int | None,
    provenance: str,
    provenance_depth: int | None,
    fork: str,
) -> dict[str, Any]:
    """The fields of bufpool_config that each process decides for itself."""
    return {
        "trap": c_text(trap, "trap"),
        "on_fault": c_text(on_fault, "on_fault"),
        "log": ffi.NULL if log is None else c_path(log, "log"),
        "report_limit": 0 if report_limit is None else limit_argument(report_limit),
        "provenance": c_text(provenance, "provenance"),
        "provenance_depth": depth_argument(provenance_depth),
        "fork": c_text(fork, "fork"),
    }


def flags(chosen: dict[int, bool]) -> int:
    """Those that are wanted; reports are always told to Python."""
    return sum((flag for flag, wanted in chosen.items() if wanted), lib.BUFPOOL_TELL)


def path_of_pool(pool: Any) -> str:
    """Of a pool that is attached to by name: a path with a slash, as the memory of a pool is."""
    if not isinstance(pool, (str, os.PathLike)):
        raise TypeError(f"pool must be a PoolHandle, or a path as text or path-like, not {type(pool).__name__}")
    path = os.fsdecode(pool)
    if "/" in path:
        return path
    if isinstance(pool, str):
        raise ArgumentError(f"pool {path!r} is not a path, which has a slash: other pools have no name, but a handle()")
    return f"./{path}"
