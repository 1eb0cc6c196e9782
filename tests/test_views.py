"""Views that outlive their page or their pool: they trap, and their address is never anybody else's."""

from __future__ import annotations

import gc
import mmap
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bufpool

PAGE = 4096


def test_a_view_of_a_page_that_leaves_traps_and_is_good_when_it_is_back(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"first")
    view = page.buffer
    page.evict()
    with bufpool.catch_faults() as caught:
        assert bytes(view[:2]) == bytes([bufpool.POISON] * 2)
        view[1] = 0
    assert {(report.page, report.state) for report in caught.reports} == {(page.number, "evicted")}
    pool.populate(page, b"second")
    assert bytes(view[:6]) == b"second"


def test_a_view_of_a_closed_pool_traps(pool: bufpool.Pool) -> None:
    view = pool.allocate(b"secret").array()
    pool.close()
    with bufpool.catch_faults() as caught:
        assert view[7] == bufpool.POISON
    [report] = caught.reports
    assert (report.page, report.offset, report.state, report.access) == (0, 7, "closed", "read")


def test_views_keep_the_addresses_when_the_pool_is_gone(kind: bufpool.Capability) -> None:
    lost = bufpool.Pool("1 MiB", memory=kind.memory, trap=kind.trap, name="lost")
    page = lost.allocate(b"secret")
    views = [page.buffer, page.buffer[10:20], page.array(np.uint64)[3:]]
    start, end = lost.address, lost.address + lost.capacity
    gone = weakref.ref(lost)
    with pytest.warns(ResourceWarning, match="unclosed <Pool 'lost'"):  # noqa: PT031
        del lost, page
        gc.collect()
    assert gone() is None
    others = [bufpool.Pool("1 MiB") for _ in range(100)]
    for pool in others:
        pool.close()
    others += [bufpool.Pool("1 MiB") for _ in range(20)]
    maps = [mmap.mmap(-1, 1 << 20) for _ in range(20)]
    assert not any(start <= pool.address < end for pool in others)
    for view in views:
        with bufpool.catch_faults() as caught:
            view[0]
        [report] = caught.reports
        assert (report.state, report.pool) == ("closed", "lost")
    for item in others + maps:
        item.close()


def test_locate_finds_a_closed_pool_that_views_keep() -> None:
    lost = bufpool.Pool("1 MiB", name="lost")
    page = lost.allocate()
    address, view = page.address, page.buffer
    lost.close()
    del lost, page
    gc.collect()
    location = bufpool.locate(address + 5)
    assert location is not None
    assert (location.page.pool.name, location.page.number, location.offset) == ("lost", 0, 5)
    assert location.page.state == "closed"
    assert len(view) == PAGE


def test_views_hold_neither_page_nor_pool() -> None:
    pool = bufpool.Pool("1 MiB")
    view = pool.page(0).buffer
    pool.close()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert view.nbytes == PAGE


def test_views_of_pages_are_cut_at_their_edges(pool: bufpool.Pool) -> None:
    last = pool.page_count - 1
    pages = [pool.allocate_at(number, bytes([number]) * PAGE) for number in (0, 1, last)]
    for page in pages:
        for view in (page.buffer, page.array(), page.array(np.uint64).view(np.uint8)):
            assert (view.nbytes, bytes(view)) == (PAGE, bytes([page.number]) * PAGE)


def test_views_with_red_zones_between_the_pages() -> None:
    size = 3 * PAGE
    triple = np.dtype([("key", "u4"), ("value", "u8")])
    with bufpool.Pool(10 * size, page_size=size, red_zones=True) as pool:
        for number in (0, 4, 9):
            page = pool.allocate_at(number, bytes([number]) * size)
            assert bytes(page.buffer) == bytes(page.array()) == bytes(page.array(triple)) == bytes(page)
            assert page.array().__array_interface__["data"][0] == page.address


def test_arrays_have_the_very_type_that_was_asked_for(any_pool: bufpool.Pool) -> None:
    page = any_pool.allocate(bytes(range(256)) * 16)
    plain, told = np.dtype("u8"), np.dtype("u8", metadata={"unit": "bytes"})
    for kind in (plain, told, plain, told):
        assert page.array(kind).dtype is kind
    rows = np.dtype((np.uint16, (4, 2)))
    for kind, shape in (
        (np.uint32, (1024,)),
        ("<u8", (512,)),
        (float, (512,)),
        ([("a", "u1"), ("b", "u1", (15,))], (256,)),
        (rows, (256, 4, 2)),
        (f"V{PAGE}", (1,)),
        (None, (512,)),
    ):
        for _ in range(2):  # made, then kept
            array = page.array(kind)
            assert (array.shape, array.dtype.base) == (shape, np.dtype(kind).base)
            assert array.tobytes() == bytes(page)


def test_arrays_of_ever_new_types(any_pool: bufpool.Pool) -> None:
    page = any_pool.allocate(b"abc")
    for step in range(500):
        kind = np.dtype([(f"field{step}", "u8")])
        assert page.array(kind).dtype == kind
    assert len(any_pool._views._arrays) < 100  # type: ignore[union-attr]


def test_many_views_leave_nothing_behind() -> None:
    for _ in range(200):  # more pools than closed ranges are kept
        with bufpool.Pool("1 MiB") as pool:
            views = [pool.allocate().array() for _ in range(10)]
            assert all(view[0] == 0 for view in views)
            del views
    assert len(Path("/proc/self/maps").read_text().splitlines()) < 2000


def test_a_program_may_end_with_pools_and_views_left(child: Any) -> None:
    done = child(
        """
        pool = bufpool.Pool("1 MiB", name="left")
        views = [pool.allocate().buffer, pool.allocate().array(), memoryview(pool.page(5).array())[3:]]
        gone = bufpool.Pool("1 MiB").allocate().buffer
        cycle = [views]
        cycle.append(cycle)
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_pool_left_at_the_end_of_a_program_warns_when_asked_to(child: Any) -> None:
    done = child("pool = bufpool.Pool('1 MiB', name='left')", "-W", "always::ResourceWarning")
    assert (done.returncode, done.stdout) == (0, "")
    assert "ResourceWarning: unclosed <Pool 'left', 1 MiB of 4 KiB pages" in done.stderr
