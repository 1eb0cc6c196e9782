"""1,000 random stray accesses, each reported once and exactly; and millions of legal ones, none reported."""

from __future__ import annotations

import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bufpool

PAGE = 4096
PAGES = 64
STRAYS = 1000
STATES = ("unallocated", "freed", "evicted", "closed")


def guarded(page: bufpool.Page, offset: int, write: bool) -> None:
    if write:
        page[offset] = 1
    else:
        assert page[offset] == bufpool.POISON


def memory_view(view: memoryview, offset: int, write: bool) -> None:
    if write:
        view[offset] = 1
    else:
        assert view[offset] == bufpool.POISON


def numpy_array(view: memoryview, offset: int, write: bool) -> None:
    array = np.frombuffer(view, np.uint8)
    if write:
        array[offset] = 1
    else:
        assert array[offset] == bufpool.POISON


def c_function(view: memoryview, offset: int, write: bool) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(view)) + offset
    byte = ctypes.create_string_buffer(1)
    if write:
        ctypes.memmove(address, byte, 1)
    else:
        ctypes.memmove(byte, address, 1)
        assert byte[0] == bytes([bufpool.POISON])


WAYS: list[Callable[[Any, int, bool], None]] = [guarded, memory_view, numpy_array, c_function]


@pytest.fixture
def pools() -> Iterator[dict[tuple[str, str, str], bufpool.Pool]]:
    """A pool for each memory of small pages, trap and state that works here; all of its pages are in that state."""
    found = {}
    for memory, trap in bufpool.capabilities().available():
        if trap == "none" or memory not in ("anon", "shared"):
            continue
        for state in STATES:
            pool = bufpool.Pool(PAGES * PAGE, memory=memory, trap=trap, name=f"{memory} {trap} {state}")
            found[memory, trap, state] = pool
            if state != "unallocated":
                numbers = pool.allocate_many(PAGES)
                if state == "freed":
                    pool.free_many(numbers)
                elif state == "evicted":
                    pool.evict_many(numbers)
    yield found
    for pool in found.values():
        pool.close()


def test_a_thousand_strays_are_a_thousand_reports(pools: dict[tuple[str, str, str], bufpool.Pool]) -> None:
    dice = random.Random(20240229)
    kinds = list(pools)
    views = {kind: [pools[kind].page(number).buffer for number in range(PAGES)] for kind in kinds}
    for kind, pool in pools.items():
        if kind[2] == "closed":
            pool.close()

    def stray() -> tuple[bufpool.FaultReport, ...]:
        way, write, offset, number = dice.choice(WAYS), dice.random() < 0.5, dice.randrange(PAGE), dice.randrange(PAGES)
        kind = dice.choice(kinds)
        pool = pools[kind]
        target = pool.page(number) if way is guarded else views[kind][number]
        with bufpool.catch_faults() as caught:
            way(target, offset, write)
        for report in caught.reports:
            assert (report.page, report.offset, report.pool) == (number, offset, pool.name)
            assert (report.address, report.state) == (pool.page(number).address + offset, kind[2])
            assert (report.access, report.raced) == ("write" if write else "read", False)
            assert report.thread_id == threading.get_native_id()
        return caught.reports

    with ThreadPoolExecutor(1) as executor:
        in_a_thread = [dice.random() < 0.3 for _ in range(STRAYS)]
        found = [executor.submit(stray).result(60) if other else stray() for other in in_a_thread]
    assert [len(reports) for reports in found] == [1] * STRAYS
    assert len({reports[0].sequence for reports in found}) == STRAYS
    assert len({reports[0].thread_id for reports in found}) == 2
    assert sum(pool.stats().faults for pool in pools.values()) == STRAYS
    assert sum(pool.stats().reports_lost for pool in pools.values()) == 0


def test_a_thousand_guarded_strays_raise_a_thousand_times(pool: bufpool.Pool) -> None:
    raised = 0
    for turn in range(STRAYS):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            pool.page(turn % PAGES)[turn]
        raised += caught.value.report.offset == turn
        bufpool.check()
    assert raised == STRAYS == pool.stats().faults


def test_a_thousand_strays_through_a_view_are_collected_a_thousand_times(pool: bufpool.Pool) -> None:
    collected = 0
    for turn in range(STRAYS):
        view = pool.page(turn % PAGES).buffer
        with bufpool.catch_faults() as caught:
            assert view[turn] == bufpool.POISON
        assert len(caught.reports) == 1
        collected += caught.reports[0].offset == turn
    assert collected == STRAYS == pool.stats().faults


def test_ten_million_legal_accesses_are_no_stray(make_pool: Any, kind: bufpool.Capability) -> None:
    pool = make_pool(1024 * PAGE, memory=kind.memory, trap=kind.trap)
    mine = [pool.page(int(number)) for number in pool.allocate_many(256)]
    stop = threading.Event()

    def disturb() -> int:
        turns = 0
        while not stop.is_set():
            numbers = pool.allocate_many(16)
            pool.evict_many(numbers[:8])
            single = pool.allocate(b"x")
            pool.populate_many(numbers[:8])
            pool.free_many(numbers)
            single.free()
            turns += 1
        return turns

    accesses = 0
    with ThreadPoolExecutor(2) as executor:
        workers = [executor.submit(disturb) for _ in range(2)]
        try:
            arrays = [page.array(np.uint64) for page in mine]
            turn = 0
            while accesses < 10_000_000:
                turn += 1
                for array in arrays:
                    np.add(array, turn, out=array)
                    accesses += 2 * len(array)
                for page in mine[::16]:
                    assert page[8] == np.uint8(page.array(np.uint64)[1])
        finally:
            stop.set()
        assert min(worker.result(60) for worker in workers) > 0
    assert all((array == turn * (turn + 1) // 2).all() for array in arrays)
    assert pool.stats().faults == 0
    assert pool.faults == ()
