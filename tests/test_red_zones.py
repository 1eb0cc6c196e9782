"""Red zones: an access that leaves its page traps beside an allocated neighbour, in whatever way Python makes it."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import pytest

import bufpool
from bufpool import report_log, report_text

PAGE = 4096


def test_an_overrun_is_named(kind: bufpool.Capability) -> None:
    with bufpool.Pool(4 * PAGE, memory=kind.memory, trap=kind.trap, red_zones=True, provenance="last") as pool:
        pages = [pool.page(int(number)) for number in pool.allocate_many(4)]
        assert pool.red_zone == pool.granule
        assert [page.address - pool.address for page in pages] == [n * (PAGE + pool.red_zone) for n in range(4)]
        for page in pages:
            page[:] = bytes([page.number + 1]) * PAGE
        with bufpool.catch_faults() as caught:
            ctypes.memset(pages[1].address + PAGE - 2, 0x55, 3)
            assert ctypes.string_at(pages[3].address - 1, 1)[0] == bufpool.POISON
        after, before = caught.reports
        assert (after.state, after.access, after.page, after.offset) == ("red-zone", "write", 1, PAGE)
        assert (after.below, after.above) == (1, 2)
        assert (before.state, before.access, before.page, before.offset) == ("red-zone", "read", 3, -1)
        assert "stray write of a red zone" in str(after)
        assert "red zone, 1 bytes past the last one of page 1 of pool" in str(after)
        assert "neighbours: 0 bytes past the end of page 1; 4096 bytes before page 2, which are" in str(after)
        assert "red zone, 1 bytes before page 3 of pool" in str(before)
        assert json.loads(before.to_json())["offset"] == -1
        for report in caught.reports:
            (logged,) = report_log.parse(report.to_json().encode(), 1)
            assert isinstance(logged, report_log.LoggedReport)
            lines = list(report_text.lines(logged))
            assert all(
                line in str(report) for line in lines if line.startswith(("==", "  red zone", "  pool", "  neigh"))
            )
        assert bytes(pages[2]) == b"\3" * PAGE
        assert bytes(pages[1]) == b"\2" * (PAGE - 2) + b"\x55\x55"


def test_locations_and_views() -> None:
    with bufpool.Pool(4 * PAGE, red_zones=True) as pool:
        pages = [pool.page(int(number)) for number in pool.allocate_many(4)]
        for page in pages:
            page.array(np.uint32)[:] = page.number
            assert pool.locate(page.address + PAGE - 1) == bufpool.Location(page, PAGE - 1)
            assert pool.locate(page.address - 1) == bufpool.Location(page, -1)
            assert pool.locate(page.address + PAGE) == bufpool.Location(page, PAGE)
        assert [int(page.array(np.uint32).sum()) for page in pages] == [n * PAGE // 4 for n in range(4)]
        assert pool.locate(pages[0].address - PAGE) == bufpool.Location(pages[0], -PAGE)
        assert pool.locate(pages[0].address - PAGE - 1) is None
        assert pool.locate(pages[3].address + 2 * PAGE) is None
        assert pool.locate(-1) is None


def test_a_buffer_over_zones_is_explained() -> None:
    with bufpool.Pool(4 * PAGE, red_zones=True, name="zoned") as pool:
        pages = [pool.page(int(number)) for number in pool.allocate_many(4)]
        pages[2].free()
        assert pool.explain(pages[0].buffer) is None
        found = pool.explain(pages[0].address - 1, 6 * PAGE)
        assert found is not None
        assert [(page.page, page.offset, page.state) for page in found.pages] == [
            (0, -1, "red-zone"),
            (0, PAGE, "red-zone"),
            (1, PAGE, "red-zone"),
            (2, 0, "freed"),
            (2, PAGE, "red-zone"),
        ]
        assert 'red zone beside page 0 of pool "zoned"; offset -1' in str(found)


def test_reports_reach_the_listener() -> None:
    told: list[bufpool.FaultReport] = []
    with bufpool.Pool(4 * PAGE, red_zones=True, on_fault="resume", on_report=told.append) as pool:
        page = pool.allocate()
        ctypes.string_at(page.address + PAGE, 1)
        bufpool.check()
        assert [report.state for report in told] == ["red-zone"]


def test_a_report_of_a_number_used_again_says_so() -> None:
    with bufpool.Pool(PAGE, red_zones=True, provenance="last") as pool:
        pool.allocate().free()
        page = pool.allocate()
        with bufpool.catch_faults() as caught:
            ctypes.string_at(page.address - 1, 1)
        text = str(caught.reports[0])
        assert "  freed by thread " in text
        assert "  allocated again by thread " in text
        assert "note: the page's number has been used again" in text


def test_monitored_calls() -> None:
    try:
        pool = bufpool.Pool(4 * PAGE, red_zones=True, monitor=True)
    except bufpool.UnsupportedError as error:
        pytest.skip(str(error))
    import os

    with pool:
        page = pool.page(int(pool.allocate_many(2)[0]))
        ends = os.pipe()
        try:
            with bufpool.catch_faults() as caught:
                libc = ctypes.CDLL(None, use_errno=True)
                for _ in range(2):
                    assert libc.write(ends[1], ctypes.c_void_p(page.address + PAGE), 8) == -1
            assert [(report.in_syscall, report.state, report.page) for report in caught.reports] == [
                ("write", "red-zone", page.number)
            ] * 2
        finally:
            os.close(ends[0])
            os.close(ends[1])
