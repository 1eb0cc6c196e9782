"""monitor=True: a stray buffer in a system call is raised as any other stray access."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

import bufpool


@pytest.fixture
def pool() -> Iterator[bufpool.Pool]:
    try:
        pool = bufpool.Pool("1 MiB", monitor=True, provenance="stacks")
    except bufpool.UnsupportedError as error:
        pytest.skip(f"no monitor here: {error.strerror}")
    with pool:
        yield pool


def test_a_write_is_raised_with_its_name(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"a row")
    page.free()
    read_end, write_end = os.pipe()
    try:
        for _ in range(20):
            with pytest.raises(OSError, match="Bad address"):
                os.write(write_end, page.buffer)
            with pytest.raises(bufpool.StrayAccessError) as caught:
                bufpool.check()
            report = caught.value.report
            assert (report.in_syscall, report.access, report.state) == ("write", "read", "freed")
            assert (report.page, report.offset) == (page.number, 0)
            assert report.freed is not None
            assert __file__ in report.freed.python_stack[-1]
            assert "READ by system call write at address" in str(report)
            assert '"in_syscall":"write"' in report.to_json()
            assert len(report.native_stack) > 1
    finally:
        os.close(read_end)
        os.close(write_end)


def test_what_is_received_is_collected(pool: bufpool.Pool) -> None:
    page = pool.allocate()
    view = page.buffer
    page.evict()
    left, right = socket.socketpair()
    with left, right, bufpool.catch_faults() as caught:
        left.send(b"0123456789")
        with pytest.raises(OSError, match="Bad address"):
            right.recv_into(view[32:64])
    assert [(report.in_syscall, report.access, report.offset) for report in caught.reports] == [
        ("recvfrom", "write", 32)
    ]


def test_guarded_access_and_views_are_as_ever(pool: bufpool.Pool) -> None:
    page = pool.allocate(b"a row")
    assert page[0:5] == b"a row"
    page.free()
    with pytest.raises(bufpool.StrayAccessError) as caught:
        page[3]
    assert caught.value.report.in_syscall is None
    with bufpool.catch_faults() as collected:
        assert page.array()[7] == bufpool.POISON
    assert [report.offset for report in collected.reports] == [7]
    assert pool.allocate_at(page.number, b"again")[0:5] == b"again"


def test_a_trap_that_cannot() -> None:
    with pytest.raises(bufpool.UnsupportedError, match="only uffd tells of system calls"):
        bufpool.Pool("1 MiB", monitor=True, trap="guard")
