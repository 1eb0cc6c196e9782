"""A test suite for `pytest --bufpool`: each of the first two strays, and fails; the third expects to."""

import contextlib
import os

import bufpool


def test_swallowed(bufpool_pool):  # the fixture: a pool of the test's own
    page = bufpool_pool.allocate(b"a row")
    page.free()
    with contextlib.suppress(Exception):  # as code does that goes on at any price
        assert page[0] == 97


def test_child(bufpool_pool):
    page = bufpool_pool.allocate(b"a row")
    page.evict()
    if os.fork() == 0:
        print(page.buffer[0])
        os._exit(0)
    os.wait()


def test_expected(bufpool_pool, bufpool_faults):
    page = bufpool_pool.page(7)
    with bufpool.catch_faults() as caught:
        assert page[0] == bufpool.POISON
    assert len(caught.reports) == 1  # what a block has collected does not count
    assert page.buffer[0] == bufpool.POISON
    (report,) = bufpool_faults.take()  # nor what a test takes
    assert report.state == "unallocated"
