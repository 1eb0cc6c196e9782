"""What test_share.py's other processes run: a module of its own, for spawned workers to import."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import bufpool


def fds() -> dict[int, str]:
    """This process's descriptors, and what they lead to; but for those of pools that nobody has any more.

    A closed pool's log goes when its addresses do, whenever that is: so there may be fewer later.
    """
    gc.collect()
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
        seen["mine"] = pool.allocate_at(2, b"from a worker").number  # what is freed stays a hole
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


def address_of(handle: bufpool.PoolHandle) -> int:
    """Where the pool is in this process, when that has to be where its opener has it."""
    with bufpool.Pool.attach(handle, fixed_address=True) as pool:
        return pool.address


def stray_and_log(handle: bufpool.PoolHandle, log: str) -> int:
    """Strays once; returns this process's id."""
    with bufpool.Pool.attach(handle, log=log) as pool:
        stray(pool, 5)
    return os.getpid()


def attach_as_nobody(handle: bufpool.PoolHandle) -> tuple[int | None, str]:
    """Becomes another user for good; returns the error of attaching then."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        bufpool.Pool.attach(handle).close()
    except bufpool.SystemCallError as error:
        return error.errno, str(error)
    return None, "attached"


def allocate_and_mark(handle: bufpool.PoolHandle) -> list[int]:
    """Allocates and frees for a while; six pages, marked as this process's own, stay allocated."""
    mark = str(os.getpid()).encode()
    with bufpool.Pool.attach(handle) as pool:
        for _ in range(200):
            page = pool.allocate(mark)
            assert page[: len(mark)] == mark
            page.free()
        kept = [pool.allocate(mark) for _ in range(6)]
        assert all(page[: len(mark)] == mark for page in kept)
        return [page.number for page in kept]


def print_pickle() -> None:
    """Pickles a handle as multiprocessing does, and ends."""
    with bufpool.Pool("1 MiB", memory="shared") as pool, pool.handle() as handle:
        sys.stdout.buffer.write(ForkingPickler.dumps(handle))
