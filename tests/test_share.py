"""One pool in many processes: handles on their way, attaching, who ends what, what is refused."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import pytest
from share_workers import work, work_and_put

import bufpool

PAGE = 4096
HUGE = 2 << 20
PoolMaker = Callable[..., bufpool.Pool]
METHODS = ["spawn", "fork", "forkserver"]
SHARED = bufpool.capabilities().of("shared", "uffd")
needs_uffd = pytest.mark.skipif(not SHARED.available, reason=f"shared-uffd: {SHARED.reason}")


@pytest.fixture(params=["shared-uffd", "hugetlb-uffd", "path-uffd"])
def shared_pool(request: pytest.FixtureRequest, make_pool: PoolMaker) -> bufpool.Pool:
    """8 granules, of every memory and trap that can be shared. A forked child has it only by attaching."""
    memory, trap = request.param.split("-")
    if memory == "shared":
        entry = bufpool.capabilities().of(memory, trap)
        if not entry.available:
            pytest.skip(f"{request.param}: {entry.reason}")
        return make_pool(8 * PAGE, memory=memory, trap=trap, name="buffers", fork="exclude")
    request.getfixturevalue("huge_pages")
    if memory == "path":
        place = request.getfixturevalue("hugetlbfs") / "shared"
        place.unlink(missing_ok=True)
        memory = str(place)
    try:
        return make_pool(8 * HUGE, page_size=None, memory=memory, trap=trap, name="buffers", fork="exclude")
    except bufpool.UnsupportedError as error:
        pytest.skip(f"{request.param}: {error.strerror}")


@pytest.fixture
def small_pool(make_pool: PoolMaker) -> bufpool.Pool:
    """For what does not depend on the memory."""
    if not SHARED.available:
        pytest.skip(f"shared-uffd: {SHARED.reason}")
    return make_pool(64 * PAGE, memory="shared", trap="uffd", name="buffers", fork="exclude")


# ---- What a process that attaches sees and does ----------------------------------------------------------------------


def check_work(pool: bufpool.Pool, run: Callable[[int, int], dict[str, Any]]) -> None:
    """What work() did in another process, seen from there and from here."""
    page, freed = pool.allocate(b"a row"), pool.allocate()
    freed.free()
    seen = run(page.number, freed.number)
    assert seen["pid"] != os.getpid()
    assert seen["facts"] == (pool.capacity, pool.page_size, pool.page_count, "buffers", pool.trap)
    assert seen["read"] == b"a row"
    assert page[:10] == b"a row seen"
    assert seen["strays"] == [
        ("freed", freed.number, 3, seen["pid"], False),
        ("unallocated", 7, 3, seen["pid"], False),
    ]
    assert seen["view"] == [(7, "write")]
    assert seen["inheritable"] == []
    assert seen["stats"] == (2, 3, 3)
    assert pool.page(seen["mine"])[:13] == b"from a worker"
    assert not pool.faults
    for number in (freed.number, 7):  # none of it has filled a hole for us
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(number)[3]
        assert caught.value.report.pid == os.getpid()
    stats = pool.stats()
    assert (stats.members, stats.faults, stats.faults_all) == (1, 2, 5)
    assert (stats.allocations, stats.allocated) == (3, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_attaches(shared_pool: bufpool.Pool, method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as workers, shared_pool.handle() as handle:
        check_work(shared_pool, lambda *pages: dict(workers.apply(work, (handle, *pages))))


@pytest.mark.parametrize("method", METHODS)
def test_a_handle_is_an_argument_of_a_process(shared_pool: bufpool.Pool, method: str) -> None:
    context = multiprocessing.get_context(method)

    def run(page: int, freed: int) -> dict[str, Any]:
        queue: Any = context.SimpleQueue()
        with shared_pool.handle() as handle:
            process = context.Process(target=work_and_put, args=(queue, handle, page, freed))
            process.start()
        seen = dict(queue.get())
        process.join()
        assert process.exitcode == 0
        return seen

    check_work(shared_pool, run)
