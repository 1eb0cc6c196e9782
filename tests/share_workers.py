"""What test_share.py's other processes run: a module of its own, for spawned workers to import."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import bufpool


def fds() -> dict[int, str]:
    """This process's descriptors, and what they lead to."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the directory itself
            found[int(link.name)] = str(link.readlink())
    return found


def stray(pool: bufpool.Pool, number: int) -> bufpool.FaultReport:
    """Reads a page that is not allocated."""
    try:
        pool.page(number)[3]
    except bufpool.StrayAccessError as error:
        return error.report
    raise AssertionError(f"page {number} has not trapped")


def work(source: bufpool.PoolHandle | str, page: int, freed: int) -> dict[str, Any]:
    """Reads and writes what the other process has allocated, allocates, frees, and strays at two holes."""
    seen: dict[str, Any] = {"pid": os.getpid()}
    with bufpool.Pool.attach(source, trap="auto") as pool:
        seen["facts"] = (pool.capacity, pool.page_size, pool.page_count, pool.name, pool.trap)
        seen["read"] = bytes(pool.page(page)[:5])
        pool.page(page)[5:10] = b" seen"
        seen["mine"] = pool.allocate(b"from a worker").number
        seen["strays"] = []
        for number in (freed, 7):
            report = stray(pool, number)
            seen["strays"].append((report.state, report.page, report.offset, report.pid, report.inherited))
        view = pool.page(7).buffer
        with bufpool.catch_faults() as collected:
            view[9] = 1  # completes on a pattern of this process, not in the hole
        seen["view"] = [(report.page, report.access) for report in collected.reports]
        seen["inheritable"] = [to for fd, to in fds().items() if "memfd" in to and os.get_inheritable(fd)]
        seen["stats"] = (pool.stats().members, pool.stats().faults, pool.stats().faults_all)
    return seen


def work_and_put(queue: Any, *arguments: Any) -> None:
    queue.put(work(*arguments))
